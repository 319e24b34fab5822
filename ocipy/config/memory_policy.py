"""linux.memoryPolicy (config-linux.md, Memory policy; set_mempolicy(2))."""

from __future__ import annotations

from ocipy.config.id_list import parse_id_list
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import MemoryPolicy

NEED_NODES = ("MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED_MANY")


def check(policy: MemoryPolicy, pointer: str = "/linux/memoryPolicy") -> None:
    """Raises ConfigError for what set_mempolicy refuses on every machine."""
    mode, flags = policy["mode"], policy.get("flags") or []
    nodes = parse_id_list(policy.get("nodes", ""), pointer + "/nodes")
    if mode in NEED_NODES and not nodes:
        raise ConfigError(pointer, f"{mode} needs at least one node in nodes")
    if mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if nodes:
            raise ConfigError(pointer + "/nodes", f"{mode} takes no nodes")
        if flags:
            raise ConfigError(pointer + "/flags", f"{mode} takes no flags")
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        raise ConfigError(pointer + "/flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other")
