"""linux.intelRdt (config-linux.md, IntelRdt)."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import IntelRdt


# Directories that resctrl itself has in its root.
RESERVED = ("", ".", "..", "info", "mon_groups", "mon_data")
# Before 1.3.0, and no runtime had them.
REPLACED = ("enableCMT", "enableMBM")


def check(rdt: IntelRdt, pointer: str = "/linux/intelRdt") -> list[str]:
    """Raises ConfigError; gives warnings. closID is a directory of resctrl, and "/" its root; a newline ends a line of schemata."""
    group = rdt.get("closID")
    if group is not None and group != "/" and (group in RESERVED or "/" in group or len(group.encode()) > 255):
        raise ConfigError(pointer + "/closID", f'"{printable(group)}" cannot be the name of a class of service')
    lines = [("l3CacheSchema", rdt.get("l3CacheSchema", "")), ("memBwSchema", rdt.get("memBwSchema", ""))]
    lines += [(f"schemata/{index}", line) for index, line in enumerate(rdt.get("schemata") or ())]
    for name, line in lines:
        if "\n" in line:
            raise ConfigError(f"{pointer}/{name}", "must not contain a newline")
    return [f"{pointer}/{name} is ignored: since 1.3.0 it is enableMonitoring" for name in REPLACED if name in rdt]
