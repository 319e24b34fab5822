"""update CONTAINER: other limits, from flags or as the resources object of the specification."""

from __future__ import annotations

import os

from ocipy.config.load import SIZE_MAX, parse_resources, read_file
from ocipy.config.json_text import json_text
from ocipy.container.store import Store
from ocipy.container.update import update
from ocipy.errors import ConfigError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation
    from ocipy.config.types import IntelRdt, Resources

INTEGER, SIZE, TEXT = "integer", "size", "text"
# flag -> section, property, kind
FLAGS = {
    "blkio-weight": ("blockIO", "weight", INTEGER),
    "cpu-period": ("cpu", "period", INTEGER),
    "cpu-quota": ("cpu", "quota", INTEGER),
    "cpu-burst": ("cpu", "burst", INTEGER),
    "cpu-share": ("cpu", "shares", INTEGER),
    "cpu-rt-period": ("cpu", "realtimePeriod", INTEGER),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", INTEGER),
    "cpu-idle": ("cpu", "idle", INTEGER),
    "cpuset-cpus": ("cpu", "cpus", TEXT),
    "cpuset-mems": ("cpu", "mems", TEXT),
    "memory": ("memory", "limit", SIZE),
    "memory-reservation": ("memory", "reservation", SIZE),
    "memory-swap": ("memory", "swap", SIZE),
    "pids-limit": ("pids", "limit", INTEGER),
}
OBSOLETE = ("kernel-memory", "kernel-memory-tcp")  # as runc: taken and ignored
RDT = {"l3-cache-schema": "l3CacheSchema", "mem-bw-schema": "memBwSchema"}


def run(invocation: Invocation) -> int:
    """Exit code 0 once every limit is set."""
    given = {name: invocation[name] for name in FLAGS if invocation[name]}
    path = invocation["resources"]
    if path and given:
        raise UsageError(f"--resources and --{next(iter(given))} exclude each other: put all into the resources")
    if path == "-":
        resources = parse_resources(_read_stdin(), "standard input")
    else:
        resources = parse_resources(read_file(path), path) if path else resources_of(given)
    rdt = schemata_of({name: invocation[name] for name in RDT if invocation[name]})
    update(Store(invocation["root"]).open(invocation.args[0]), resources, rdt)
    return 0


def schemata_of(flags: dict[str, str]) -> IntelRdt:
    """The part of linux.intelRdt that the flags mean. Raises UsageError."""
    found: IntelRdt = {}
    for flag, text in flags.items():
        start = "L3" if flag == "l3-cache-schema" else "MB:"
        if not text.startswith(start) or "\n" in text:
            raise UsageError(f'invalid value "{text}" for flag -{flag}: one line such as {start.rstrip(":")}:0=...')
        found[RDT[flag]] = text  # type: ignore[literal-required]
    return found


def resources_of(flags: dict[str, str]) -> Resources:
    """The resources object that the flags mean. Raises UsageError, ConfigError."""
    found: dict[str, dict[str, int | str]] = {}
    for flag, text in flags.items():
        section, name, kind = FLAGS[flag]
        value = text if kind == TEXT else parse_size(flag, text) if kind == SIZE else parse_integer(flag, text)
        found.setdefault(section, {})[name] = value
    try:
        return parse_resources(json_text(found).encode(), "")
    except ConfigError as error:
        error.line = 0  # there is no file that it could be a line of
        raise


def parse_integer(flag: str, text: str) -> int:
    """Raises UsageError."""
    digits = text.removeprefix("-")
    if not (digits.isdecimal() and digits.isascii() and len(digits) < 21):
        raise UsageError(f'invalid value "{text}" for flag -{flag}: not a number')
    return int(text)


def parse_size(flag: str, text: str) -> int:
    """Bytes, of a number with a unit of 1024 (k, m, g, t, p, also as kb or KiB) or none; -1 for unlimited. Raises UsageError."""
    if text == "-1":
        return -1
    number = text.rstrip("kmgtpibKMGTPIB ")
    unit = text[len(number) :].strip().lower()
    power = "bkmgtp".find(unit[:1])
    whole, dot, part = number.partition(".")
    digits = whole + (part if dot else "")
    units = ("", "b") if power <= 0 else (unit[0], unit[0] + "b", unit[0] + "ib")
    if unit not in units or not (digits.isdecimal() and digits.isascii() and whole and len(digits) < 21) or (dot and not part):
        raise UsageError(f'invalid value "{text}" for flag -{flag}: not a size such as 64m')
    return (int(digits) << 10 * power) // int("1" + "0" * len(part))


def _read_stdin() -> bytes:
    if os.isatty(0):
        import signal  # noqa: F401  of a whole Python (boot.py), in which Ctrl-C ends a read that waits

    raw = b""
    while len(raw) <= SIZE_MAX and (more := os.read(0, SIZE_MAX + 1 - len(raw))):
        raw += more
    if len(raw) > SIZE_MAX:
        raise ConfigError("", f"larger than {SIZE_MAX >> 20} MiB", source="standard input")
    return raw
