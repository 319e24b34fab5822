"""linux.netDevices (config-linux.md, Network Devices)."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Linux

NAME_MAX = 15


def check(linux: Linux) -> None:
    """Raises ConfigError for a name that the kernel refuses, one that is given twice, or a container in the host's network."""
    if not any(item["type"] == "network" for item in linux.get("namespaces") or ()):
        raise ConfigError("/linux/netDevices", "to move network devices takes a network namespace among linux.namespaces")
    names = set()
    for name, device in linux["netDevices"].items():
        pointer = "/linux/netDevices/" + name.replace("~", "~0").replace("/", "~1")
        new = device.get("name") or name
        for text, place in ((name, pointer), (new, pointer + "/name")):
            if not _is_name(text):
                raise ConfigError(place, f'"{printable(text)}" cannot be the name of a network device')
        if "%" in new and (new.count("%") > 1 or "%d" not in new):
            raise ConfigError(pointer + "/name", f'"{new}": the only template is %d, once')
        if new in names and "%d" not in new:
            raise ConfigError(pointer + "/name", f'a second device would be "{new}" in the container')
        names.add(new)


def _is_name(text: str) -> bool:
    size = len(text.encode("utf-8", "surrogateescape"))
    return 0 < size <= NAME_MAX and text not in (".", "..") and not set("/:") & set(text) and text.split() == [text]
