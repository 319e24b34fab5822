"""What systemd is told of a unit: properties derived from what is written into the cgroup's files, and from annotations.

A property is (name, D-Bus signature, value), as systemd's D-Bus interface has it (org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import os

from ocipy.errors import ConfigError
from ocipy.linux.cgroups.device_rules import all_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.config.types import Config, DeviceCgroup
    from ocipy.plan.step import Step

    Property = tuple[str, str, Any]

INFINITY = 2**64 - 1
SECOND = 1_000_000  # microseconds
PERCENT = 10_000  # of a CPU, in microseconds a second: the finest that systemd keeps
PERIOD = 100_000  # the kernel's own, in microseconds

# The first version of systemd with a property; older ones leave it to the cgroup's file.
SINCE = {
    "CPUQuotaPeriodUSec": 242, "AllowedCPUs": 244, "AllowedMemoryNodes": 244, "MemoryZSwapMax": 253, "OOMPolicy": 253,
    "CollectMode": 236, "MemoryZSwapWriteback": 256,
}  # fmt: skip


def _number(text: str) -> int:
    """A limit: max and -1 mean none."""
    return INFINITY if text in ("max", "-1") else int(text)


def _bits(text: str) -> list[int]:
    """"0-2,9" as the bytes of a mask, the lowest first."""
    mask = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        mask |= (1 << int(last or first) + 1) - (1 << int(first))
    return list(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))


def _io_weight(text: str) -> int:
    from ocipy.linux.cgroups.v2 import io_weight

    return io_weight(int(text))


# file -> property, signature, value of the file's. Of a file of lines for each device: see DEVICES.
FILES: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "memory.max": ("MemoryMax", "t", _number),
    "memory.high": ("MemoryHigh", "t", _number),
    "memory.low": ("MemoryLow", "t", _number),
    "memory.min": ("MemoryMin", "t", _number),
    "memory.swap.max": ("MemorySwapMax", "t", _number),
    "memory.zswap.max": ("MemoryZSwapMax", "t", _number),
    "memory.oom.group": ("OOMPolicy", "s", lambda text: ("continue", "kill")[int(text)]),
    "cpu.weight": ("CPUWeight", "t", int),
    "cpuset.cpus": ("AllowedCPUs", "ay", _bits),
    "cpuset.mems": ("AllowedMemoryNodes", "ay", _bits),
    "pids.max": ("TasksMax", "t", _number),
    "io.weight": ("IOWeight", "t", lambda text: int(text.removeprefix("default "))),
    "io.bfq.weight": ("IOWeight", "t", _io_weight),
    # v1
    "memory.limit_in_bytes": ("MemoryLimit", "t", _number),
    "cpu.shares": ("CPUShares", "t", int),
    "blkio.weight": ("BlockIOWeight", "t", int),
}
# file -> properties of lines "8:0 value": by the value's key, or "" where it has none
DEVICES = {
    "io.max": {
        "rbps": "IOReadBandwidthMax", "wbps": "IOWriteBandwidthMax", "riops": "IOReadIOPSMax", "wiops": "IOWriteIOPSMax",
    },
    "io.weight": {"": "IODeviceWeight"},
    "io.bfq.weight": {"": "IODeviceWeight"},
    "blkio.weight_device": {"": "BlockIODeviceWeight"},
    "blkio.throttle.read_bps_device": {"": "BlockIOReadBandwidth"},
    "blkio.throttle.write_bps_device": {"": "BlockIOWriteBandwidth"},
}  # fmt: skip


def properties_of(steps: list[Step], now: dict[str, str]) -> list[Property]:
    """The properties for what SET_CGROUP steps write.

    ``now``: file -> its value, for v1's quota and period where only one of the two is written. What a value cannot be read as a
    property of is left to the file.
    """
    plain: dict[str, Property] = {}
    devices: dict[str, list[tuple[str, int]]] = {}
    files = dict(now)
    for step in steps:
        name, value = _first(step)
        files[name] = value
        try:
            if name in DEVICES and value.partition(" ")[0].count(":") == 1:
                _add_device(devices, name, value)
            elif name == "cpu.idle" and value == "1":
                plain["CPUWeight"] = ("CPUWeight", "t", 0)
            elif name in FILES and not (name == "cpu.weight" and files.get("cpu.idle") == "1"):
                key, signature, convert = FILES[name]
                plain[key] = (key, signature, convert(value))
        except (ValueError, OverflowError, IndexError):
            continue
    if any(_first(step)[0] in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us") for step in steps):
        plain.update((each[0], each) for each in _cpu_quota(files))
    return [*plain.values(), *((key, "a(st)", pairs) for key, pairs in devices.items())]


def _first(step: Step) -> tuple[str, str]:
    """The file of the first name, of several that do the same, and its value; "" for a cpuset that is copied from the parent."""
    names, values = step.get("file"), step.get("value")
    if values is None:
        return "", ""
    return (names if isinstance(names, str) else names[0]), str(values[0] if isinstance(values, list) else values)


def _add_device(devices: dict[str, list[tuple[str, int]]], file: str, value: str) -> None:
    number, *words = value.split()
    for word in words:
        key, _, text = word.rpartition("=")
        name = DEVICES[file].get(key)
        if name:
            amount = _io_weight(text) if file == "io.bfq.weight" else _number(text)
            devices.setdefault(name, []).append((f"/dev/block/{number}", amount))


def _cpu_quota(files: dict[str, str]) -> list[Property]:
    if "cpu.max" in files:
        quota, _, period = files["cpu.max"].partition(" ")
    else:
        quota, period = files.get("cpu.cfs_quota_us", "-1"), files.get("cpu.cfs_period_us", "")
    length = int(period) if period.isdecimal() else PERIOD
    share = INFINITY
    if quota.isdecimal() and length:
        # Rounded up to what systemd keeps; a thousandth of a CPU must not become none.
        share = -(int(quota) * SECOND // -length)
        share = -(share // -PERCENT) * PERCENT
    return [("CPUQuotaPerSecUSec", "t", share), ("CPUQuotaPeriodUSec", "t", length)]


def device_properties(devices: list[DeviceCgroup]) -> list[Property]:
    """Device rules as systemd can say them: never less than the config's rules allow, which are in force besides.

    It has a list of what is allowed, with all minor numbers of a driver or one. What it cannot say is allowed by type.
    """
    allowed: dict[str, set[str]] | None = {}
    for rule in all_rules(devices):
        if rule.kind == "a":
            allowed = None if rule.allow else {}
        elif rule.allow and allowed is not None:
            allowed.setdefault(_node(rule.kind, rule.major, rule.minor), set()).update(rule.access)
    if allowed is None:
        return [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]
    pairs = [(node, "".join(letter for letter in "rwm" if letter in access)) for node, access in allowed.items()]
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", pairs)]


def _node(kind: str, major: int, minor: int) -> str:
    name = "char" if kind == "c" else "block"
    if major >= 0 and minor >= 0:
        return f"/dev/{name}/{major}:{minor}"
    group = "pts" if (kind, major) == ("c", 136) else _driver(kind, major) if major >= 0 else ""
    return f"{name}-{group or '*'}"


def _driver(kind: str, major: int) -> str:
    """The name of a driver, of those that the kernel has now."""
    try:
        with open("/proc/devices", encoding="utf-8", errors="replace") as file:
            characters, _, blocks = file.read().partition("Block devices:")
    except OSError:
        return ""
    for line in (characters if kind == "c" else blocks).splitlines():
        number, _, name = line.strip().partition(" ")
        if number == str(major):
            return name
    return ""


# ---- annotations -----------------------------------------------------------------------------------------------------

ANNOTATION = "org.systemd.property."
# What an annotation may set. Not what linux.resources or cgroupsPath say, and nothing that starts a unit, runs a program, or ends
# the host.
ANNOTATIONS = {
    "Description": "s", "Documentation": "as", "CollectMode": "s", "DefaultDependencies": "b", "IgnoreOnIsolate": "b",
    "After": "as", "Before": "as", "PartOf": "as", "Conflicts": "as", "RefuseManualStop": "b", "SurviveFinalKillSignal": "b",
    "TimeoutStopUSec": "t", "RuntimeMaxUSec": "t", "RuntimeRandomizedExtraUSec": "t", "JobTimeoutUSec": "t",
    "KillMode": "s", "KillSignal": "i", "FinalKillSignal": "i", "SendSIGKILL": "b", "SendSIGHUP": "b", "OOMPolicy": "s",
    "ManagedOOMSwap": "s", "ManagedOOMMemoryPressure": "s", "ManagedOOMMemoryPressureLimit": "u", "ManagedOOMPreference": "s",
    "MemoryHigh": "t", "MemoryMin": "t", "MemoryZSwapMax": "t", "StartupCPUWeight": "t", "StartupIOWeight": "t",
    "CPUAccounting": "b", "MemoryAccounting": "b", "IOAccounting": "b", "BlockIOAccounting": "b", "TasksAccounting": "b",
    "IPAccounting": "b",
}  # fmt: skip
INSTEAD = {
    "Slice": "say it in linux.cgroupsPath", "PIDs": "ocipy says it", "Delegate": "a container's cgroup is always delegated",
    "Controller": "ocipy says it", "DeviceAllow": "say it in linux.resources.devices",
    "DevicePolicy": "say it in linux.resources.devices",
}  # fmt: skip
TYPES = {"s": "'text'", "b": "true or false", "t": "uint64 1", "u": "uint32 1", "i": "1", "as": "['a', 'b']"}
RANGES = {"t": (0, INFINITY), "u": (0, 2**32 - 1), "i": (-(2**31), 2**31 - 1)}
WORD = {"t": "uint64", "u": "uint32", "i": "int32"}


def annotated(config: Config) -> list[Property]:
    """The properties that annotations org.systemd.property.NAME set, to a value in GVariant's text format. Raises ConfigError.

    A NAME that ends in Sec is a number of seconds for the property that ends in USec.
    """
    found = []
    for key, text in (config.get("annotations") or {}).items():
        if not key.startswith(ANNOTATION):
            continue
        name, pointer = key.removeprefix(ANNOTATION), "/annotations/" + key.replace("~", "~0").replace("/", "~1")
        seconds = name.endswith("Sec") and not name.endswith("USec")
        name = name[:-3] + "USec" if seconds else name
        signature = ANNOTATIONS.get(name)
        if signature is None:
            raise ConfigError(pointer, f"{name} cannot be set by an annotation: {_instead(name)}")
        try:
            found.append((name, signature, _seconds(text) if seconds else _parse_value(text.strip(), signature)))
        except ValueError:
            like = "a number of seconds" if seconds else f"of the form {TYPES[signature]}"
            raise ConfigError(pointer, f"{text} is not a value of {name}: it is {like}") from None
    return found


def _instead(name: str) -> str:
    resources = {key for key, _, _ in FILES.values()} | {key for keys in DEVICES.values() for key in keys.values()}
    if name in resources or name.startswith("CPUQuota"):
        return "say it in linux.resources"
    return INSTEAD.get(name, "it is not among those that ocipy knows to be harmless")


def _seconds(text: str) -> int:
    kind, _, number = text.strip().rpartition(" ")
    if kind not in ("", "uint64", "uint32", "uint16", "int64", "int32", "int16", "double", "byte"):
        raise ValueError
    value = float(number) * SECOND
    if not 0 <= value <= INFINITY:
        raise ValueError
    return round(value)


def _parse_value(text: str, signature: str) -> Any:
    if signature == "b":
        return {"true": True, "false": False}[text] if text in ("true", "false") else _wrong()
    if signature == "s":
        return _parse_text(text)
    if signature == "as":
        text = text.removeprefix("@as").strip()
        if text[:1] != "[" or text[-1:] != "]":
            raise ValueError
        return [_parse_text(part.strip()) for part in _split(text[1:-1])]
    kind, _, number = text.rpartition(" ")
    least, most = RANGES[signature]
    if kind not in ("", WORD[signature]) or not least <= (value := int(number, 0)) <= most:
        raise ValueError
    return value


def _wrong() -> Any:
    raise ValueError


def _parse_text(text: str) -> str:
    quote = text[:1]
    inside = text[1:-1]
    if len(text) < 2 or quote not in "'\"" or text[-1] != quote:
        raise ValueError
    plain = inside.replace("\\" + quote, quote).replace("\\\\", "\\")
    if "\0" in plain or inside.replace("\\\\", "").replace("\\" + quote, "").count(quote):
        raise ValueError
    return plain


def _split(text: str) -> list[str]:
    """At commas that are in no quotes."""
    parts, quote = [""], ""
    for letter in text:
        if letter == "," and not quote:
            parts.append("")
            continue
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        parts[-1] += letter
    return parts if text.strip() else []


def known(properties: list[Property], version: int) -> list[Property]:
    """Without those that a systemd of this version has not; the cgroup's files have what they say."""
    return [each for each in properties if SINCE.get(each[0], 0) <= version]


def read_now(path: str) -> dict[str, str]:
    """What ``properties_of`` may need of a cgroup v1."""
    found = {}
    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"):
        try:
            fd = os.open(f"{path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                found[name] = os.read(fd, 64).decode().strip()
            finally:
                os.close(fd)
        except OSError:
            continue
    return found
