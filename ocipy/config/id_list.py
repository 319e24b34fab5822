"""Lists of CPUs and of memory nodes, such as "0-3,7" (cpuset(7), List format)."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import ConfigError

HIGHEST = 65535  # more than any kernel is built for; a typing error must not cost gigabytes


def parse_id_list(text: str, pointer: str) -> list[int]:
    """Sorted numbers without duplicates. Raises ConfigError; an empty list is fine."""
    numbers: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and part.isascii() and len(first) < 7 and len(last) < 7):
            raise ConfigError(pointer, f'"{printable(part)}" is neither a number nor a range, in a list such as 0-3,7')
        if int(first) > int(last) or int(last) > HIGHEST:
            raise ConfigError(pointer, f'the range "{part}" is empty' if int(first) > int(last) else f"{last} is above {HIGHEST}")
        numbers.update(range(int(first), int(last) + 1))
    return sorted(numbers)
