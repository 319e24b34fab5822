"""linux.resources.devices as rules that a devices cgroup understands (config-linux.md, Allowed Device list)."""

from __future__ import annotations

from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import DeviceCgroup

# What every container may do, last of all, so that the default devices and a terminal work whatever the config denies.
# mknod of anything is harmless: opening the node is what takes a rule. /dev/net/tun is there because runc has it.
DEFAULTS = (
    "c *:* m", "b *:* m",
    "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm",  # null zero full random urandom
    "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm",  # tty console ptmx pts
    "c 10:200 rwm",  # net/tun
)  # fmt: skip


class DeviceRule:
    """``allow``; ``kind``: "a" (everything, whatever else is said), "c" or "b"; ``major``, ``minor``: -1 for any; ``access``."""

    __slots__ = ("access", "allow", "kind", "major", "minor", "pointer")

    def __init__(self, allow: bool, kind: str, major: int, minor: int, access: str, pointer: str) -> None:
        self.allow, self.kind, self.major, self.minor, self.access = allow, kind, major, minor, access
        self.pointer = pointer

    def __str__(self) -> str:
        if self.kind == "a":
            return "a"
        major, minor = ("*" if number < 0 else number for number in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {self.access}"

    def overlaps(self, other: DeviceRule) -> bool:
        """Do both say something of one device, but not of the same set of devices?"""
        if self.kind != other.kind or (self.major, self.minor) == (other.major, other.minor):
            return False
        majors = self.major == other.major or self.major < 0 or other.major < 0
        minors = self.minor == other.minor or self.minor < 0 or other.minor < 0
        return majors and minors and bool(set(self.access) & set(other.access))


def all_rules(devices: list[DeviceCgroup]) -> list[DeviceRule]:
    """In the order in which they hold, the last that speaks of a device and an access deciding: deny all (what a container starts
    with), the config's, the defaults. Raises ConfigError for what is no rule."""
    wanted = [rule for index, device in enumerate(devices) for rule in _parse(device, f"/linux/resources/devices/{index}")]
    # A config whose first rule denies everything says it itself; devices.list then starts with the config's own rules.
    rules = [] if wanted and wanted[0].kind == "a" else [DeviceRule(False, "a", -1, -1, "rwm", "")]
    return rules + wanted + [parse_rule("allow " + text) for text in DEFAULTS]


def plan_rules(devices: list[DeviceCgroup]) -> list[DeviceRule]:
    """``all_rules`` for cgroup v1.

    Raises ConfigError for a rule that a devices cgroup cannot hold: it keeps one default and a list of exceptions, and takes
    away an exception only as it was written, so it cannot, say, deny "c 1:3" of an allowed "c 1:*".
    """
    rules = all_rules(devices)
    default = False
    exceptions: list[DeviceRule] = []
    for rule in rules[: -len(DEFAULTS)]:
        if rule.kind == "a":
            default, exceptions = rule.allow, []
        elif rule.allow == default:
            exceptions = _take_away(rule, exceptions)
        else:
            exceptions.append(rule)
    return rules


def _take_away(rule: DeviceRule, exceptions: list[DeviceRule]) -> list[DeviceRule]:
    left = []
    for other in exceptions:
        if rule.overlaps(other):
            verbs = ("allow", "deny") if rule.allow else ("deny", "allow")
            raise ConfigError(
                rule.pointer,
                f'cgroup v1 cannot {verbs[0]} "{rule}" after it was told to {verbs[1]} "{other}": '
                "give both rules the same device numbers, or change their order",
            )
        access = other.access
        if (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor):
            access = "".join(letter for letter in access if letter not in rule.access)
        if access:
            left.append(DeviceRule(other.allow, other.kind, other.major, other.minor, access, other.pointer))
    return left


def parse_rule(text: str) -> DeviceRule:
    """"allow c 1:3 rwm", "deny a": the text of a rule behind what it does."""
    verb, _, rest = text.partition(" ")
    kind, numbers, access = rest.split() if rest != "a" else ("a", "*:*", "rwm")
    major, minor = (-1 if number == "*" else int(number) for number in numbers.split(":"))
    return DeviceRule(verb == "allow", kind, major, minor, access, "")


def _parse(device: DeviceCgroup, pointer: str) -> list[DeviceRule]:
    kind, access = device.get("type") or "a", device.get("access") or ""
    if kind not in ("a", "b", "c"):
        raise ConfigError(pointer + "/type", f'"{kind}" is not a type of device: use a, b or c')
    if not access or set(access) - set("rwm"):
        raise ConfigError(pointer + "/access", f'access is "{access}": it must be made of r, w and m')
    major, minor = (-1 if device.get(name) is None else int(device[name]) for name in ("major", "minor"))
    for name, number in (("major", major), ("minor", minor)):
        if number > 0xFFFFFFFF:
            raise ConfigError(f"{pointer}/{name}", f"{number} is no {name} number of a device")
    if kind != "a":
        return [DeviceRule(device["allow"], kind, major, minor, access, pointer)]
    if major < 0 and minor < 0 and set(access) == set("rwm"):
        return [DeviceRule(device["allow"], "a", -1, -1, "rwm", pointer)]
    # The kernel takes "a" for everything, without looking at numbers and access: say what is meant for both types.
    return [DeviceRule(device["allow"], each, major, minor, access, pointer) for each in ("c", "b")]
