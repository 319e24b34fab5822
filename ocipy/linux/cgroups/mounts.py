"""Mounts of type cgroup: what a container sees of its cgroups (config.md, Mounts)."""

from __future__ import annotations

from ocipy.config.mounts import destination, parse_options
from ocipy.errors import ConfigError
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Mount
    from ocipy.linux.cgroups.host import CgroupHost

MOUNT_ATTR_RDONLY, MOUNT_ATTR_ATIME = 1, 0x70
PLAIN = 2 | 4 | 8  # MOUNT_ATTR_NOSUID, NODEV, NOEXEC


def plan_cgroup_mount(mount: Mount, origin: str, config: Config, host: CgroupHost, paths: dict[str, str]) -> list[Step]:
    """Steps of the runtime (OPEN_TREE) and of init, in order; those of the runtime run after the cgroups are made.

    v1: a tmpfs with one directory per hierarchy, as on the host; v2: the one hierarchy. In a cgroup namespace the container
    mounts the hierarchies itself and sees its own cgroup as their root; without one it gets binds of its own cgroup's directories,
    and never those of others. Beside v1, v2 is left out, as runc does.
    """
    parsed = parse_options(mount.get("options") or [])
    where = destination(mount)
    namespace = any(item["type"] == "cgroup" for item in (config.get("linux") or {}).get("namespaces") or ())
    if host.mode == "none":
        raise ConfigError(origin, "no cgroup filesystem is mounted on this host: leave the mount away")
    if host.mode == "v2" and namespace:
        values = {"options": parsed.data, "attrs": parsed.attr_set, "propagation": parsed.propagation, "flags": 0}
        return [Step(ops.MOUNT, origin, dest=where, fstype="cgroup2", source=mount.get("source") or "cgroup", **values)]
    if host.mode == "v2":
        # Without a cgroup of its own (--cgroup-manager disabled) it may look at ours, and no more.
        own, limit = ("", 0) if "" in paths else (host.directory("", ""), MOUNT_ATTR_RDONLY)
        attrs = {"attr_set": PLAIN | parsed.attr_set | limit, "attr_clr": parsed.attr_clr & MOUNT_ATTR_ATIME}
        return _bind(origin, where, own or paths[""], attrs, host, parsed.propagation)
    readonly = parsed.attr_set & MOUNT_ATTR_RDONLY
    steps = [
        Step(ops.MOUNT, origin, dest=where, fstype="tmpfs", source="tmpfs", options=["mode=755"], attrs=PLAIN,
             propagation=parsed.propagation, flags=0)
    ]  # fmt: skip
    for directory, names in _hierarchies(host, paths).items():
        base = directory.rsplit("/", 1)[-1]
        if namespace:
            steps.append(_own_mount(origin, f"{where}/{base}", names, PLAIN | parsed.attr_set))
        else:
            attrs = {"attr_set": PLAIN | parsed.attr_set, "attr_clr": parsed.attr_clr & MOUNT_ATTR_ATIME}
            steps += _bind(origin, f"{where}/{base}", paths[names[0]], attrs, host)
        # cpu -> cpu,cpuacct
        others = [name for name in names if len(names) > 1 and name != base]
        steps += [Step(ops.SYMLINK, origin, target=base, path=f"{where}/{name}") for name in others]
    if readonly:
        steps.append(Step(ops.REMOUNT, origin + "/options", dest=where, attr_set=MOUNT_ATTR_RDONLY))
    return steps


def _hierarchies(host: CgroupHost, paths: dict[str, str]) -> dict[str, list[str]]:
    """Mount point on the host -> names of what is mounted there, of the v1 hierarchies that the container is in."""
    found: dict[str, list[str]] = {}
    for name, directory in host.mounts.items():
        if name and name in paths:
            found.setdefault(directory, []).append(name)
    return found


def _own_mount(origin: str, where: str, names: list[str], attrs: int) -> Step:
    # A named hierarchy without controllers is asked for by name; "none" makes sure that no controller comes with it.
    options = ["none", names[0]] if names[0].startswith("name=") else names
    values = {"options": options, "attrs": attrs, "propagation": 0, "flags": 0}
    return Step(ops.MOUNT, origin, dest=where, fstype="cgroup", source="cgroup", **values)


def _bind(
    origin: str, where: str, directory: str, attrs: dict[str, int], host: CgroupHost, propagation: int = 0
) -> list[Step]:
    if host.denied:  # without privilege trees cannot be cloned outside; init binds in its own namespaces
        return [Step(ops.BIND, origin, dest=where, source=directory, recursive=0, **attrs, propagation=propagation, flags=0)]
    slot = f"cgroup:{where}"
    opened = Step(ops.OPEN_TREE, origin, slot=slot, source=directory, dest=where, recursive=False, **attrs, slave=True)
    return [opened, Step(ops.ATTACH, origin, dest=where, tree=slot, propagation=propagation, flags=0)]
