"""linux.intelRdt (config-linux.md, IntelRdt)."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import IntelRdt


def check(rdt: IntelRdt, pointer: str = "/linux/intelRdt") -> None:
    """Raises ConfigError. closID is a directory of resctrl, and "/" its root; a newline would end a line of schemata."""
    group = rdt.get("closID")
    if group is not None and group != "/" and (group in ("", ".", "..") or "/" in group or len(group.encode()) > 255):
        raise ConfigError(pointer + "/closID", f'"{printable(group)}" cannot be the name of a class of service')
    lines = [("l3CacheSchema", rdt.get("l3CacheSchema", "")), ("memBwSchema", rdt.get("memBwSchema", ""))]
    lines += [(f"schemata/{index}", line) for index, line in enumerate(rdt.get("schemata") or ())]
    for name, line in lines:
        if "\n" in line:
            raise ConfigError(f"{pointer}/{name}", "must not contain a newline")
