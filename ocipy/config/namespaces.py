"""linux.namespaces and what only makes sense with one: id mappings, time offsets, names of the host.

config-linux.md, Namespaces, User namespace mappings, Offset for Time Namespace; config.md, Hostname, Domainname.
"""

from __future__ import annotations

from ocipy.config.paths import check_path, printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, IDMapping, Linux

HOST_NAME_MAX = 64
MAPPINGS_MAX = 340  # user_namespaces(7)
CLOCKS = ("monotonic", "boottime")


def check(config: Config) -> list[str]:
    """Raises ConfigError; gives warnings."""
    linux = config.get("linux", {})
    paths: dict[str, str] = {}
    for index, item in enumerate(linux.get("namespaces") or ()):
        pointer, kind, path = f"/linux/namespaces/{index}", item["type"], item.get("path", "")
        if kind in paths:
            raise ConfigError(pointer + "/type", f"a second {kind} namespace: a container has one of each type")
        if path:
            check_path(path, pointer + "/path")
        paths[kind] = path
    _check_names(config, paths)
    if linux.get("timeOffsets"):
        _check_time(linux, paths)
    return _check_user(linux, paths)


def _check_names(config: Config, paths: dict[str, str]) -> None:
    for name in ("hostname", "domainname"):
        text: str = config.get(name, "")  # type: ignore[assignment]
        if text and "uts" not in paths:
            raise ConfigError(f"/{name}", f"a {name} needs a uts namespace, or it would be the host's that changes")
        if len(text) > HOST_NAME_MAX // 4 and len(text.encode()) > HOST_NAME_MAX:
            raise ConfigError(f"/{name}", f"longer than {HOST_NAME_MAX} bytes, the most that the kernel takes")


def _check_user(linux: Linux, paths: dict[str, str]) -> list[str]:
    uids, gids = linux.get("uidMappings"), linux.get("gidMappings")
    where = "/linux/uidMappings" if uids else "/linux/gidMappings"
    if "user" not in paths:
        if uids or gids:
            raise ConfigError(where, "mappings need a user namespace among linux.namespaces")
        return []
    if "mount" not in paths:
        raise ConfigError("/linux/namespaces", "a user namespace needs a mount namespace too: its root may not mount in the host's")
    check_mappings(uids or [], "/linux/uidMappings")
    check_mappings(gids or [], "/linux/gidMappings")
    if not paths["user"] and (not uids or not gids):
        missing = "gidMappings" if uids else "uidMappings"
        raise ConfigError("/linux/namespaces", f"a new user namespace needs linux.{missing}: without it nobody exists in it")
    if paths["user"] and (uids or gids):
        return [f"{where}: the user namespace that is joined has mappings already; these are not used"]
    return []


def check_mappings(mappings: list[IDMapping], pointer: str) -> None:
    """Raises ConfigError where the kernel would refuse the map: too many ranges, out of 32 bits, or overlapping."""
    if len(mappings) > MAPPINGS_MAX:
        raise ConfigError(pointer, f"{len(mappings)} mappings: {MAPPINGS_MAX} are the most")
    for side in ("containerID", "hostID"):
        end, last = 0, -1
        for index in sorted(range(len(mappings)), key=lambda index: int(mappings[index][side])):
            start, size = mappings[index][side], mappings[index]["size"]
            if start < end:
                raise ConfigError(f"{pointer}/{index}/{side}", f"{start} is in the range of {pointer}/{last} as well")
            end, last = start + size, index
            if end > 1 << 32:
                raise ConfigError(f"{pointer}/{index}/size", f"{size} ids from {start} on are more than 32 bits hold")


def _check_time(linux: Linux, paths: dict[str, str]) -> None:
    if "time" not in paths:
        raise ConfigError("/linux/timeOffsets", "time offsets need a time namespace among linux.namespaces")
    if paths["time"]:
        raise ConfigError("/linux/timeOffsets", "the time namespace is joined, and has its offsets already: give one of the two")
    for clock in linux["timeOffsets"]:
        if clock not in CLOCKS:
            raise ConfigError("/linux/timeOffsets", f'no clock "{printable(clock)}" has an offset: {" and ".join(CLOCKS)} have')
