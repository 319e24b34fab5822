"""config.mounts: options and rules (config.md, Mounts and Linux mount options)."""

from __future__ import annotations

from posixpath import normpath

from ocipy.config.paths import check_path, printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocipy.config.types import Config, Mount

MS_REC = 1 << 14
# Propagation, as mount_setattr and mount(2) have it, with MS_REC for the whole tree.
PROPAGATION = {
    "private": 1 << 18, "rprivate": 1 << 18 | MS_REC, "slave": 1 << 19, "rslave": 1 << 19 | MS_REC,
    "shared": 1 << 20, "rshared": 1 << 20 | MS_REC, "unbindable": 1 << 17, "runbindable": 1 << 17 | MS_REC,
}  # fmt: skip
# Options of a mount: name -> (bits of MOUNT_ATTR_* set, cleared). With an "r" before it, each is for the whole tree.
ATTRIBUTES = {
    "ro": (0x1, 0), "rw": (0, 0x1), "nosuid": (0x2, 0), "suid": (0, 0x2), "nodev": (0x4, 0), "dev": (0, 0x4),
    "noexec": (0x8, 0), "exec": (0, 0x8), "nodiratime": (0x80, 0), "diratime": (0, 0x80),
    "nosymfollow": (0x200000, 0), "symfollow": (0, 0x200000),
}  # fmt: skip
# Access time is one field with three values; relatime, the kernel's default, is 0. A negation takes back its own value only.
ATIME_FIELD = 0x70
ATIME = {"relatime": 0x00, "noatime": 0x10, "strictatime": 0x20}
NOT_ATIME = {"norelatime": 0x00, "atime": 0x10, "nostrictatime": 0x20}
# Options of a superblock and their negations.
SUPERBLOCK = ("sync", "dirsync", "mand", "lazytime", "iversion", "silent")
NOT_SUPERBLOCK = {"async": "sync", "nomand": "mand", "nolazytime": "lazytime", "noiversion": "iversion", "loud": "silent"}
OTHERS = ("defaults", "bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap")
# Files of procfs that something like lxcfs may replace one by one; nothing else may be mounted below /proc.
PROC_FILES = frozenset(
    "/proc/" + name
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime", "net/dev",
                 "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled")
)  # fmt: skip


class MountOptions:
    """What the options of one mount ask for.

    ``attr_set``, ``attr_clr``: MOUNT_ATTR_* of the mount for mount_setattr; ``rec_set``, ``rec_clr``: of the whole tree.
    ``sb_flags``: names of SUPERBLOCK that are on. ``propagation``: MS_SHARED … with MS_REC, 0 for none. ``recursive``: rbind.
    ``idmap``: "", "idmap" or "ridmap". ``data``: the options left for the filesystem, one each, quotes taken off.
    """

    __slots__ = ("attr_clr", "attr_set", "bind", "data", "idmap", "propagation", "rec_clr", "rec_set", "recursive", "remount",
                 "sb_flags", "tmpcopyup")  # fmt: skip

    def __init__(self) -> None:
        self.attr_set = self.attr_clr = self.rec_set = self.rec_clr = self.propagation = 0
        self.bind = self.recursive = self.remount = self.tmpcopyup = False
        self.idmap = ""
        self.sb_flags: list[str] = []
        self.data: list[str] = []


def parse_options(options: Iterable[str]) -> MountOptions:
    """Later options win over earlier ones; what is not in the table of the spec is left for the filesystem."""
    parsed = MountOptions()
    for text in options:
        for option in split_option(text) if "," in text or '"' in text else (text,):
            if option in ATTRIBUTES or option in ATIME or option in NOT_ATIME:
                parsed.attr_set, parsed.attr_clr = _attributes(option, parsed.attr_set, parsed.attr_clr)
            elif option in PROPAGATION:
                parsed.propagation = PROPAGATION[option]
            elif option[:1] == "r" and (option[1:] in ATTRIBUTES or option[1:] in ATIME or option[1:] in NOT_ATIME):
                parsed.rec_set, parsed.rec_clr = _attributes(option[1:], parsed.rec_set, parsed.rec_clr)
            elif not _other(option, parsed) and option:
                parsed.data.append(option)
    return parsed


def _attributes(option: str, on: int, off: int) -> tuple[int, int]:
    """(set, cleared) after ``option``; a value of the access time is set in a field that is cleared (mount_setattr(2))."""
    if option in ATTRIBUTES:
        add, drop = ATTRIBUTES[option]
        return on & ~drop | add, off & ~add | drop
    if option in ATIME:
        return on & ~ATIME_FIELD | ATIME[option], off | ATIME_FIELD
    if not off & ATIME_FIELD or on & ATIME_FIELD == NOT_ATIME[option]:
        return on & ~ATIME_FIELD, off | ATIME_FIELD
    return on, off


def _other(option: str, parsed: MountOptions) -> bool:
    if option in ("bind", "rbind"):
        parsed.bind, parsed.recursive = True, option == "rbind"
    elif option in SUPERBLOCK:
        if option not in parsed.sb_flags:
            parsed.sb_flags.append(option)
    elif option in NOT_SUPERBLOCK:
        if NOT_SUPERBLOCK[option] in parsed.sb_flags:
            parsed.sb_flags.remove(NOT_SUPERBLOCK[option])
    elif option in ("idmap", "ridmap"):
        parsed.idmap = option
    elif option == "remount":
        parsed.remount = True
    elif option == "tmpcopyup":
        parsed.tmpcopyup = True
    else:
        return option == "defaults"
    return True


def split_option(text: str) -> list[str]:
    """Several options in one string, as mount(8) writes them: commas separate, but not within double quotes, after a
    backslash (overlayfs), or before a digit (mpol=bind:0,2 of tmpfs). Quotes around a value are taken off."""
    parts, start, quoted = [], 0, False
    for index, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted and text[index - 1 : index] != "\\" and not text[index + 1 : index + 2].isdecimal():
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [_unquote(part) for part in parts]


def _unquote(option: str) -> str:
    name, equals, value = option.partition("=")
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return name + equals + value[1:-1]
    return option


def fs_data_needs_mount2(parsed: MountOptions) -> bool:
    """True where fsconfig cannot say it: strings of more than 255 bytes, and the flags iversion and silent."""
    if "iversion" in parsed.sb_flags or "silent" in parsed.sb_flags:
        return True
    return any(len(option) > 63 and len(option.partition("=")[2].encode()) > 255 for option in parsed.data)


def mount2_data(parsed: MountOptions) -> str:
    """``data`` for mount(2): security modules want a label with commas in quotes there, and only there."""
    return ",".join(
        f'{name}="{value}"' if "," in value and name.endswith("context") else name + equals + value
        for name, equals, value in (option.partition("=") for option in parsed.data)
    )


def destination(mount: Mount) -> str:
    """The absolute, lexically clean path in the container; a relative one starts at "/" (deprecated, but allowed)."""
    return normpath("/" + mount["destination"].lstrip("/"))


def is_bind(mount: Mount, parsed: MountOptions) -> bool:
    """By option, as the spec has it, or by type, as some callers write it."""
    return parsed.bind or mount.get("type") in ("bind", "rbind")


def check(config: Config) -> list[str]:
    """Raises ConfigError; gives warnings."""
    warnings = []
    mapped = any(item["type"] == "user" for item in config.get("linux", {}).get("namespaces") or ())
    for index, mount in enumerate(config.get("mounts") or ()):
        try:
            warnings += _check_mount(mount, f"/mounts/{index}", user_namespace=mapped)
        except ConfigError as error:
            error.label = f"mounts[{index}] {printable(mount['destination'])}"
            raise
        if not mount["destination"].startswith("/"):
            shown = printable(mount["destination"])
            warnings.append(f'/mounts/{index}/destination: "{shown}" is relative, which is deprecated; it is taken from "/"')
    return warnings


def _check_mount(mount: Mount, pointer: str, *, user_namespace: bool) -> list[str]:
    warnings = []
    check_path(mount["destination"], pointer + "/destination", absolute=False)
    check_path(mount.get("source", ""), pointer + "/source", absolute=False)
    parsed = parse_options(mount.get("options") or ())
    bind = is_bind(mount, parsed)
    if len(mount.get("type", "")) > 255:
        raise ConfigError(pointer + "/type", "no type of filesystem has so long a name")
    if bind and not parsed.remount:
        if not mount.get("source"):
            raise ConfigError(pointer + "/source", "a bind mount needs a source")
        for option in parsed.data:  # mount(8) ignores the like of mode=755, and is to be followed; a word is a misspelt flag
            reason = f'a bind mount has no filesystem of its own that could take "{printable(option)}"'
            if "=" not in option:
                raise ConfigError(pointer + "/options", reason)
            warnings.append(f"{pointer}/options: {reason}; it has no effect")
    if not bind and not parsed.remount and not mount.get("type"):
        raise ConfigError(pointer + "/type", "a mount needs a type, or bind or rbind among its options")
    _check_idmap(mount, parsed, pointer, user_namespace=user_namespace)
    _check_proc(mount, pointer, bind=bind, remount=parsed.remount)
    return warnings


def _check_idmap(mount: Mount, parsed: MountOptions, pointer: str, *, user_namespace: bool) -> None:
    """config.md: both mappings or none; with none, those of a user namespace."""
    from ocipy.config.namespaces import check_mappings

    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    if not uids and not gids:
        if parsed.idmap and not user_namespace:
            reason = f"{parsed.idmap} needs uidMappings and gidMappings, or a user namespace to take them from"
            raise ConfigError(pointer + "/options", reason)
    elif not uids or not gids:
        there, missing = ("uidMappings", "gidMappings") if uids else ("gidMappings", "uidMappings")
        raise ConfigError(f"{pointer}/{there}", f"{missing} must be given as well")
    else:
        check_mappings(uids, pointer + "/uidMappings")
        check_mappings(gids, pointer + "/gidMappings")
    if (parsed.idmap or uids) and not is_bind(mount, parsed):
        raise ConfigError(pointer, "only bind mounts can be idmapped")


def _check_proc(mount: Mount, pointer: str, *, bind: bool, remount: bool) -> None:
    """/proc is where labels are written: only procfs may be mounted on it, and little below it (CVE-2019-16884)."""
    path = destination(mount)
    if path == "/" and not remount:
        raise ConfigError(pointer + "/destination", "nothing can be mounted on the root: set root.path instead")
    if path == "/proc" and not remount:
        if bind and normpath(mount.get("source", "")) != "/proc":
            raise ConfigError(pointer + "/destination", "only procfs can be on /proc; bind-mount /proc, or mount type proc")
        if not bind and mount.get("type") != "proc":
            raise ConfigError(pointer + "/type", "only procfs can be mounted on /proc")
    elif path.startswith("/proc/") and path not in PROC_FILES:
        raise ConfigError(pointer + "/destination", "nothing can be mounted below /proc, except on files that lxcfs emulates")
