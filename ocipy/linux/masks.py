"""linux.maskedPaths and linux.readonlyPaths (config-linux.md, Masked Paths, Readonly Paths)."""

from __future__ import annotations

from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config
    from ocipy.linux.host import Host

NULL = "mask"


def plan_open(config: Config, host: Host) -> list[Step]:
    """The host's /dev/null, verified: what the container calls so may be anything (CVE-2025-31133)."""
    if not config.get("linux", {}).get("maskedPaths") or host.uid != 0:
        return []
    return [Step(ops.OPEN_DEVICE, "/linux/maskedPaths", slot=NULL, path="/dev/null", type="c", major=1, minor=3)]


def plan(config: Config, host: Host) -> list[Step]:
    """Read-only paths first: a mask may lie inside one."""
    linux = config.get("linux", {})
    null = NULL if host.uid == 0 else None
    readonly = linux.get("readonlyPaths") or ()
    masked = linux.get("maskedPaths") or ()
    return [
        *[Step(ops.READONLY_PATH, f"/linux/readonlyPaths/{index}", path=path) for index, path in enumerate(readonly)],
        *[Step(ops.MASK_PATH, f"/linux/maskedPaths/{index}", path=path, null=null) for index, path in enumerate(masked)],
    ]
