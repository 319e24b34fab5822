"""events CONTAINER: one line of JSON for each."""

from __future__ import annotations

from ocipy.cli.main import write
from ocipy.container.events import events
from ocipy.config.json_text import json_text
from ocipy.container.store import Store
from ocipy.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def run(invocation: Invocation) -> int:
    """Exit code 0 when the container has ended, or, with --stats, once its stats are told."""
    interval = parse_duration(invocation["interval"])
    if interval <= 0:
        raise UsageError("duration interval must be greater than 0")
    entry = Store(invocation["root"]).open(invocation.args[0])
    events(entry, lambda event: write(json_text(event) + "\n"), 0 if invocation["stats"] else interval)
    return 0


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 1m30s or 1.5s. Raises UsageError."""
    total, rest = 0.0, "" if text == "0" else text or "?"
    while rest:
        unit_and_rest = rest.lstrip("0123456789.")
        number = rest[: len(rest) - len(unit_and_rest)]
        rest = unit_and_rest.lstrip("nuµmsh")
        unit = unit_and_rest[: len(unit_and_rest) - len(rest)]
        if unit not in UNITS or not number.replace(".", "", 1).isdecimal() or len(number) > 18:
            raise UsageError(f'invalid value "{text}" for flag -interval: not a duration such as 5s')
        total += float(number) * UNITS[unit]
    return total
