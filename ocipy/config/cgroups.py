"""linux.cgroupsPath and linux.resources (config-linux.md, Control groups): what holds for every version of cgroups."""

from __future__ import annotations

from ocipy.config.paths import check_path, printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Resources


def check(config: Config) -> None:
    """Raises ConfigError."""
    linux = config.get("linux", {})
    path = linux.get("cgroupsPath", "")
    check_path(path, "/linux/cgroupsPath", absolute=False)
    if ".." in path.split("/"):
        raise ConfigError("/linux/cgroupsPath", '".." could lead out of the hierarchy')
    if linux.get("resources"):
        check_resources(linux["resources"], "/linux/resources")


def check_resources(resources: Resources, pointer: str) -> None:
    """Raises ConfigError. ``pointer`` is "" for the resources of ``update``, which stand alone."""
    cpu = resources.get("cpu") or {}
    for name, text in (("cpus", cpu.get("cpus")), ("mems", cpu.get("mems"))):
        if text:
            from ocipy.config.id_list import parse_id_list

            parse_id_list(text, f"{pointer}/cpu/{name}")
    if 0 < cpu.get("quota", 0) < cpu.get("burst", 0):
        raise ConfigError(pointer + "/cpu/burst", f"{cpu['burst']} is more than the quota, {cpu['quota']}")
    if cpu.get("idle", 0) not in (0, 1):
        raise ConfigError(pointer + "/cpu/idle", f"{cpu['idle']}: 0 is the default behaviour and 1 is SCHED_IDLE")
    for index, weight in enumerate((resources.get("blockIO") or {}).get("weightDevice") or ()):
        if "weight" not in weight and "leafWeight" not in weight:
            raise ConfigError(f"{pointer}/blockIO/weightDevice/{index}", "neither weight nor leafWeight: one is needed")
    for device, limits in (resources.get("rdma") or {}).items():
        if "hcaHandles" not in limits and "hcaObjects" not in limits:
            raise ConfigError(_member(pointer + "/rdma", device), "neither hcaHandles nor hcaObjects: one is needed")
        if not device or device.split() != [device] or len(device) > 64:
            raise ConfigError(pointer + "/rdma", f'"{printable(device)}" cannot be the name of a device')
    for name in resources.get("unified") or ():
        if not name or "/" in name or name.startswith(".") or len(name) > 255:
            raise ConfigError(pointer + "/unified", f'"{printable(name)}" is not the name of a file of a cgroup')
    for index, rule in enumerate(resources.get("devices") or ()):
        for name, number in (("major", rule.get("major", 0)), ("minor", rule.get("minor", 0))):
            if not -1 <= number < 1 << 32:
                raise ConfigError(f"{pointer}/devices/{index}/{name}", f"{number} is not a {name} number")


def _member(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
