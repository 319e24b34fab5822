"""config.mounts as steps: filesystems made by init, trees that the runtime clones and init attaches (config.md, Mounts)."""

from __future__ import annotations

import os

from ocipy.config.mounts import PROC_FILES, destination, fs_data_needs_mount2, is_bind, mount2_data, parse_options
from ocipy.errors import ConfigError, MountError, label_of
from ocipy.linux import sys
from ocipy.linux.cgroups import plan_cgroup_mount
from ocipy.linux.namespaces import map_text
from ocipy.linux.root import PROPAGATION, keeps_shared, open_advice
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.mounts import MountOptions
    from ocipy.config.types import Config, Mount
    from ocipy.linux.options import Options
    from ocipy.linux.host import Host
    from ocipy.linux.namespaces import Namespaces

NO_SYMLINKS, ON_PROC, COPY_UP, KEEP_MODE, KEEP_OWNER = (
    ops.MOUNT_FLAGS[name] for name in ("NO_SYMLINKS", "ON_PROC", "COPY_UP", "KEEP_MODE", "KEEP_OWNER")
)
MOUNT_ATTR_RDONLY = 1
# Their superblock is shared or in memory: "ro" is for the mount alone, so that it does not seal what others use.
NO_DEVICE = frozenset(("proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"))
MS_BITS = {"sync": 1 << 4, "mand": 1 << 6, "dirsync": 1 << 7, "silent": 1 << 15, "iversion": 1 << 23, "lazytime": 1 << 25}
# Filesystems whose files have labels of their own.
UNLABELLED = frozenset(("proc", "sysfs", "mqueue", "cgroup", "cgroup2"))
# mount_setattr's bits as mount(2) has them; the atime field is a number, not bits.
MS_OF_ATTR = ((1, 1), (2, 2), (4, 4), (8, 8), (0x80, 1 << 11), (0x200000, 1 << 8))
MS_ATIME = {0x00: 1 << 21, 0x10: 1 << 10, 0x20: 1 << 24}


def all_mounts(config: Config, options: Options) -> list[tuple[str, Mount]]:
    """(JSON pointer, mount): the config's, then what the runtime adds for the protocols of systemd."""
    own = [(f"/mounts/{index}", mount) for index, mount in enumerate(config.get("mounts") or ())]
    return own + [("", mount) for mount in options.extra_mounts]


def plan_open(config: Config, options: Options, host: Host, cgroup_paths: dict[str, str], found: Namespaces) -> list[Step]:
    """What the runtime clones before init exists: sources as the host sees them, slaved, with their attributes on."""
    steps = []
    slave = not keeps_shared(config)
    for origin, mount in all_mounts(config, options):
        parsed = parse_options(mount.get("options") or [])
        if mount.get("type") == "cgroup":
            made = plan_cgroup_mount(mount, origin, config, host.cgroup, cgroup_paths)
            steps += [step for step in made if step.op.where == ops.RUNTIME]
        elif is_bind(mount, parsed) and not parsed.remount and host.uid == 0:
            steps.append(_open_tree(config, options, origin, mount, parsed, slave=slave))
    return steps


def _open_tree(config: Config, options: Options, origin: str, mount: Mount, parsed: MountOptions, *, slave: bool) -> Step:
    idmap = None
    if parsed.idmap or mount.get("uidMappings"):
        linux = config.get("linux", {})
        uid = mount.get("uidMappings") or linux.get("uidMappings") or []
        gid = mount.get("gidMappings") or linux.get("gidMappings") or []
        if not uid or not gid:
            raise ConfigError(origin, "an idmapped mount needs uidMappings and gidMappings, its own or the user namespace's")
        idmap = {"uid": map_text(uid).decode(), "gid": map_text(gid).decode(), "recursive": parsed.idmap == "ridmap"}
    return Step(
        ops.OPEN_TREE, origin, slot=f"tree:{origin or mount['destination']}", source=source(mount, options, origin),
        dest=destination(mount), recursive=parsed.recursive, attr_set=parsed.attr_set, attr_clr=parsed.attr_clr,
        rec_set=parsed.rec_set, rec_clr=parsed.rec_clr, slave=slave, idmap=idmap,
    )  # fmt: skip


def source(mount: Mount, options: Options, origin: str) -> str:
    """Relative sources of bind mounts start at the bundle."""
    path = mount.get("source") or ""
    if not path:
        raise ConfigError(origin + "/source", "a bind mount needs a source")
    return path if path.startswith("/") else f"{options.bundle}/{path}"


def plan_make(config: Config, options: Options, host: Host, cgroup_paths: dict[str, str], found: Namespaces) -> list[Step]:
    """The mounts in the order of the config. Raises ConfigError for a label that no mount can have here."""
    steps: list[Step] = []
    labels = label(config, host)
    for origin, mount in all_mounts(config, options):
        parsed = parse_options(mount.get("options") or [])
        path = destination(mount)
        if mount.get("type") == "cgroup":
            made = plan_cgroup_mount(mount, origin, config, host.cgroup, cgroup_paths)
            steps += [step for step in made if step.op.where == ops.INIT]
        elif parsed.remount:
            steps.append(_remount(origin, path, parsed))
        elif is_bind(mount, parsed):
            steps.append(_bind(mount, options, origin, path, parsed, host))
        else:
            parsed.data += labels if mount.get("type") not in UNLABELLED else []
            steps += _filesystem(mount, origin, path, parsed)
        if not is_bind(mount, parsed) and not parsed.remount and (parsed.rec_set or parsed.rec_clr):
            flags = ops.MOUNT_FLAGS["RECURSIVE"]
            values = {"attr_set": parsed.rec_set, "attr_clr": parsed.rec_clr, "flags": flags}
            steps.append(Step(ops.REMOUNT, origin + "/options", dest=path, **values))
    return steps


def plan_seal(config: Config, options: Options) -> list[Step]:
    """A read-only tmpfs stays writable until mount points, devices and the console are made in it."""
    steps = []
    for origin, mount in all_mounts(config, options):
        if mount.get("type") == "tmpfs":
            parsed = parse_options(mount.get("options") or [])
            if parsed.attr_set & MOUNT_ATTR_RDONLY and not parsed.bind and not parsed.remount:
                steps.append(Step(ops.REMOUNT, origin + "/options", dest=destination(mount), attr_set=MOUNT_ATTR_RDONLY))
    return steps


def plan_unmount(config: Config) -> list[Step]:
    """The opposite of plan_make."""
    steps = []
    for index, mount in enumerate(config.get("mounts") or ()):
        parent, _, name = destination(mount).rpartition("/")
        steps.append(Step(ops.UNMOUNT, f"/mounts/{index}", parent=parent or "/", name=name))
    return steps


def label(config: Config, host: Host) -> list[str]:
    """linux.mountLabel as an option of SELinux; the kernel knows it only where that is enabled: ConfigError elsewhere."""
    name = config.get("linux", {}).get("mountLabel")
    if name and not host.selinux:
        raise ConfigError("/linux/mountLabel", "SELinux is not enabled on this host: enable it, or leave the property away")
    return [f"context={name}"] if name else []


def _flags(path: str) -> int:
    return ON_PROC if path in PROC_FILES else 0


def _remount(origin: str, path: str, parsed: MountOptions) -> Step:
    values = {"attr_set": parsed.attr_set, "attr_clr": parsed.attr_clr, "propagation": parsed.propagation}
    return Step(ops.REMOUNT, origin, dest=path, **values, flags=0)


def _bind(mount: Mount, options: Options, origin: str, path: str, parsed: MountOptions, host: Host) -> Step:
    flags = _flags(path) or (ON_PROC if path == "/proc" else 0)
    if host.uid == 0:
        slot = f"tree:{origin or mount['destination']}"
        return Step(ops.ATTACH, origin, dest=path, tree=slot, propagation=parsed.propagation, flags=flags)
    return Step(
        ops.BIND, origin, dest=path, source=source(mount, options, origin), recursive=parsed.recursive, attr_set=parsed.attr_set,
        attr_clr=parsed.attr_clr, rec_set=parsed.rec_set, rec_clr=parsed.rec_clr, propagation=parsed.propagation, flags=flags,
    )  # fmt: skip


def _filesystem(mount: Mount, origin: str, path: str, parsed: MountOptions) -> list[Step]:
    kind = mount.get("type") or "none"
    flags = _flags(path)
    if kind in ("proc", "sysfs"):
        flags |= NO_SYMLINKS | (ON_PROC if kind == "proc" else 0)
    attrs = parsed.attr_set
    if kind == "tmpfs":
        flags |= _below(parsed)
        attrs &= ~MOUNT_ATTR_RDONLY  # see plan_seal
    common = {"dest": path, "fstype": kind, "source": mount.get("source") or kind, "flags": flags}
    if fs_data_needs_mount2(parsed):
        ms_flags = sum(MS_BITS[name] for name in parsed.sb_flags if name in MS_BITS) | _ms_flags(attrs)
        values = {"data": mount2_data(parsed) or None, "ms_flags": ms_flags, "propagation": parsed.propagation}
        return [Step(ops.MOUNT_OLD, origin, **common, **values)]
    data = [*parsed.data, *(name for name in parsed.sb_flags if name in MS_BITS)]
    if attrs & MOUNT_ATTR_RDONLY and kind not in NO_DEVICE:
        data.append("ro")
    return [Step(ops.MOUNT, origin, **common, options=data, attrs=attrs, propagation=parsed.propagation)]


def _below(parsed: MountOptions) -> int:
    """What a tmpfs takes over from the directory under it: its mode, as under runc, and for tmpcopyup its owner and content."""
    named = {option.partition("=")[0] for option in parsed.data}
    flags = 0 if "mode" in named else KEEP_MODE
    if parsed.tmpcopyup:
        flags |= COPY_UP if named & {"uid", "gid"} else COPY_UP | KEEP_OWNER
    return flags


def _ms_flags(attrs: int) -> int:
    return sum(ms for attr, ms in MS_OF_ATTR if attrs & attr) | MS_ATIME.get(attrs & 0x70, 0)


def apply_open(step: Step) -> int:
    """A detached clone of the source, slaved so that nothing done to it in the container reaches the host's mounts."""
    path = step.get("source")
    recursive = sys.AT_RECURSIVE if step.get("recursive") else 0
    try:
        tree = sys.open_tree(sys.AT_FDCWD, path, sys.OPEN_TREE_CLONE | recursive)
        everywhere, here = sys.AT_EMPTY_PATH | sys.AT_RECURSIVE, sys.AT_EMPTY_PATH
        if step.get("slave"):
            sys.mount_setattr(tree, "", everywhere, propagation=PROPAGATION["slave"])
        if step.get("rec_set") or step.get("rec_clr"):
            sys.mount_setattr(tree, "", everywhere, step.get("rec_set"), step.get("rec_clr"))
        if step.get("attr_set") or step.get("attr_clr"):
            sys.mount_setattr(tree, "", here, step.get("attr_set"), step.get("attr_clr"))
        if step.get("idmap"):
            _apply_idmap(tree, step.get("idmap"))
    except OSError as error:
        raise _explain_open(step, path, error) from None
    return tree


def _apply_idmap(tree: int, idmap: dict[str, str]) -> None:
    namespace = sys.userns_with_maps(idmap["uid"].encode(), idmap["gid"].encode())
    try:
        flags = sys.AT_EMPTY_PATH | (sys.AT_RECURSIVE if idmap["recursive"] else 0)
        sys.mount_setattr(tree, "", flags, attr_set=sys.MOUNT_ATTR_IDMAP, userns_fd=namespace)
    finally:
        os.close(namespace)


def _explain_open(step: Step, path: str, error: OSError) -> Exception:
    if not os.path.exists(path):
        label = f"{label_of(step.origin)} {step.get('dest')}"
        return ConfigError(step.origin, f'bind: source "{path}" does not exist', label=label)
    detail = "does the filesystem of the source support idmapped mounts?" if step.get("idmap") else open_advice(error)
    return MountError(error.errno or 0, f"bind {path}", getattr(error, "call", "open_tree"), step.origin, detail)
