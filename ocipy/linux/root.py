"""The root filesystem: root.path, root.readonly, linux.rootfsPropagation (config.md, Root; config-linux.md, Rootfs Mount
Propagation)."""

from __future__ import annotations

import os

from ocipy.errors import ConfigError, MountError
from ocipy.linux import sys
from ocipy.linux.hooks import runs_before_pivot
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config
    from ocipy.linux.options import Options
    from ocipy.linux.host import Host
    from ocipy.linux.namespaces import Namespaces

MS_REC = 0x4000
NOT_ATTACHED, OVER_ALL, IN_PLACE = range(3)  # where init attaches the tree
PROPAGATION = {"unbindable": 1 << 17, "private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20}


def propagation_flags(name: str) -> int:
    """MS_ flags of "rslave", "private" …; the spec's values are recursive or not by their first letter."""
    return PROPAGATION[name[1:]] | MS_REC if name[0] == "r" else PROPAGATION[name]


def keeps_shared(config: Config) -> bool:
    """Do mounts below the root stay peers of the host's, so that what is mounted inside shows outside?"""
    return (config.get("linux", {}).get("rootfsPropagation") or "") in ("shared", "rshared")


def _is_slave(config: Config) -> bool:
    """Does what the host mounts in the root filesystem later show in the container?"""
    return (config.get("linux", {}).get("rootfsPropagation") or "") in ("slave", "rslave")


def plan_open(config: Config, options: Options, found: Namespaces, host: Host) -> list[Step]:
    """The runtime takes the tree of root.path, before the container's namespaces exist."""
    attach = found.has("mount")
    if attach and host.uid != 0:
        return []
    path = options.rootfs(config)
    slave = {"slave": True} if attach and _is_slave(config) else {}
    return [Step(ops.OPEN_ROOTFS, "/root/path", slot="rootfs", path=path, attach=attach, **slave)]


def plan_enter(config: Config, options: Options, found: Namespaces, host: Host) -> list[Step]:
    """Init takes the tree in: first the propagation of all that it has inherited, then the root itself."""
    if not found.has("mount"):
        return [Step(ops.ROOTFS, "/root/path", tree="rootfs", attach=NOT_ATTACHED)]
    name = config.get("linux", {}).get("rootfsPropagation") or "rslave"
    origin = "/linux/rootfsPropagation" if config.get("linux", {}).get("rootfsPropagation") else "/linux/namespaces"
    steps = [Step(ops.PROPAGATION, origin, path="/", flags=propagation_flags(name))]
    tree = None if host.uid != 0 else "rootfs"
    attach = IN_PLACE if runs_before_pivot(config) and not options.no_pivot else OVER_ALL
    steps.append(Step(ops.ROOTFS, "/root/path", tree=tree, attach=attach, path=options.rootfs(config)))
    return steps


def plan_pivot(options: Options, found: Namespaces) -> list[Step]:
    """The root becomes "/"."""
    if not found.has("mount"):
        return [Step(ops.CHROOT, "/root/path")]
    return [Step(ops.MOVE_ROOT if options.no_pivot else ops.PIVOT_ROOT, "/root/path")]


def plan_propagation(config: Config, found: Namespaces) -> list[Step]:
    """The propagation that the config wants of the root; the kernel made it private to pivot."""
    name = config.get("linux", {}).get("rootfsPropagation")
    if not name or not found.has("mount"):
        return []
    return [Step(ops.PROPAGATION, "/linux/rootfsPropagation", path="/", flags=propagation_flags(name))]


def plan_readonly(config: Config, found: Namespaces) -> list[Step]:
    """Last of all mounts: what is made below the root needs it writable."""
    readonly = config.get("root", {}).get("readonly") and found.has("mount")
    return [Step(ops.READONLY_ROOT, "/root/readonly")] if readonly else []


def open_advice(error: OSError) -> str:
    """open_tree(2) tells too little of what it cannot clone."""
    return "is it on an unbindable mount?" if error.errno == 22 else ""


def apply_open(step: Step) -> int:
    """An O_PATH fd of the root: a slaved clone of its tree, its top private unless it is to be a slave too; or the directory itself
    where nothing is attached."""
    path = step.get("path")
    if not os.path.isdir(path):
        what = "is not a directory" if os.path.exists(path) else "does not exist"
        raise ConfigError("/root/path", f'"{path}" {what}')
    try:
        if not step.get("attach"):
            return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        tree = sys.open_tree(sys.AT_FDCWD, path, sys.OPEN_TREE_CLONE | sys.AT_RECURSIVE)
        # What is mounted and unmounted in the container must not reach the host's mounts below the root, and pivot_root takes
        # no shared top.
        sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH | sys.AT_RECURSIVE, propagation=PROPAGATION["slave"])
        if not step.get("slave"):
            sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH, propagation=PROPAGATION["private"])
    except OSError as error:
        call = getattr(error, "call", "")
        raise MountError(error.errno or 0, f"open the root {path}", call, step.origin, open_advice(error)) from None
    return tree
