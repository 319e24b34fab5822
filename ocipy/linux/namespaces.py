"""Namespaces: which are made, which are joined, and the id maps and time offsets of new ones (config-linux.md, Namespaces,
User namespace mappings, Offset for Time Namespace)."""

from __future__ import annotations

import os

from ocipy.config.sysctl import namespace_of
from ocipy.errors import ConfigError, NamespaceError
from ocipy.linux import sys
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocipy.config.types import Config, IDMapping
    from ocipy.linux.host import Host

# The spec's names, in the order of the kernel's clone flags.
CLONE_FLAGS = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
UNMAPPED = 65534  # the overflow id
PROC_NAMES = {"network": "net", "mount": "mnt"}


class Namespaces:
    """``made``: types that get a new namespace; ``joined``: type -> path; ``pointers``: type -> JSON pointer of its entry."""

    __slots__ = ("joined", "made", "pointers")

    def __init__(self, config: Config) -> None:
        self.made: list[str] = []
        self.joined: dict[str, str] = {}
        self.pointers: dict[str, str] = {}
        for index, namespace in enumerate(config.get("linux", {}).get("namespaces") or ()):
            kind = namespace["type"]
            self.pointers[kind] = f"/linux/namespaces/{index}"
            if namespace.get("path"):
                self.joined[kind] = namespace["path"]
            else:
                self.made.append(kind)

    def has(self, kind: str) -> bool:
        """Is the container in a namespace of this type that is not the runtime's own?"""
        return kind in self.pointers


def plan_open(config: Config, found: Namespaces) -> list[Step]:
    """The runtime opens what is joined by path, before anything is made."""
    steps = []
    for kind, path in found.joined.items():
        values = {"slot": f"namespace:{kind}", "path": path, "type": kind}
        changed = _changed(config, kind)
        if changed:
            values["changed"] = changed
        steps.append(Step(ops.OPEN_NAMESPACE, found.pointers[kind] + "/path", **values))
    return steps


def _changed(config: Config, kind: str) -> str:
    """JSON pointer of a property that changes something in a namespace of this type: it must not be the host's. "" for none."""
    if kind == "uts":
        for name in ("hostname", "domainname"):
            if config.get(name):
                return "/" + name
    if kind == "network" and config.get("linux", {}).get("netDevices"):
        return "/linux/netDevices"
    for name in config.get("linux", {}).get("sysctl") or ():
        if namespace_of(name) == kind:
            return "/linux/sysctl/" + name.replace("~", "~0").replace("/", "~1")
    return ""


def plan_enter(config: Config, found: Namespaces, host: Host) -> list[Step]:
    """The stage: join, make the user namespace and be mapped in it, make the others."""
    steps: list[Step] = []
    linux = config.get("linux", {})
    if found.joined:
        slots = {kind: f"namespace:{kind}" for kind in found.joined}
        root = 0 if "user" in found.joined else -1
        origin = found.pointers[next(iter(found.joined))]
        steps.append(Step(ops.JOIN, origin, **slots, uid=root, gid=root))
    if "user" in found.made:
        steps += _plan_user(config, found, host)
    flags = sum(CLONE_FLAGS[kind] for kind in found.made if kind not in ("user", "cgroup"))
    if flags:
        steps.append(Step(ops.UNSHARE, "/linux/namespaces", flags=flags))
    offsets = linux.get("timeOffsets")
    if offsets and "time" in found.made:
        # Before the clone: a process that is in the namespace already may not set its clocks (EACCES).
        steps.append(Step(ops.TIME_OFFSETS, "/linux/timeOffsets", offsets=offsets))
    return steps


def plan_cgroup(found: Namespaces) -> list[Step]:
    """The cgroup namespace is rooted where the process is when it makes it: after it has entered its cgroups."""
    return [Step(ops.UNSHARE, found.pointers["cgroup"], flags=CLONE_FLAGS["cgroup"])] if "cgroup" in found.made else []


def _plan_user(config: Config, found: Namespaces, host: Host) -> list[Step]:
    linux, origin = config.get("linux", {}), found.pointers["user"]
    uid, gid = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    steps = [Step(ops.UNSHARE, origin, flags=CLONE_FLAGS["user"])]
    # A runtime without privilege, and newuidmap, may only write the maps of a dumpable process.
    rootless = host.uid != 0
    if rootless:
        steps.append(Step(ops.SET_DUMPABLE, origin, value=1))
    steps.append(Step(ops.ID_MAPS, "/linux/uidMappings", uid=uid, gid=gid, setgroups=not denies_setgroups(config, host)))
    if rootless:
        steps.append(Step(ops.SET_DUMPABLE, origin, value=0))
    return [*steps, become(config, found)]


def become(config: Config, found: Namespaces) -> Step:
    """To a user that there is in the user namespace. The maps of one that is joined are not ours to know."""
    linux, uid, gid = config.get("linux", {}), 0, 0
    if "user" in found.made:
        uid, gid = first_id(linux["uidMappings"]), first_id(linux["gidMappings"])
    return Step(ops.BECOME, found.pointers["user"], uid=uid, gid=gid)


def denies_setgroups(config: Config, host: Host) -> bool:
    """Without privilege a single gid may be mapped only where setgroups is given up, for ever and for all namespaces below."""
    gid = config.get("linux", {}).get("gidMappings") or []
    return not host.setgroups or (host.uid != 0 and len(gid) == 1 and gid[0]["size"] == 1)


def first_id(mappings: list[IDMapping]) -> int:
    """Root, or where none is mapped another id: whoever is not mapped can make no file. The kernel takes no capability away
    from those who change from one id to another where there is no root."""
    return 0 if any(item["containerID"] == 0 for item in mappings) else mappings[0]["containerID"]


def map_text(mappings: Iterable[IDMapping]) -> bytes:
    """The lines of /proc/PID/uid_map."""
    return "".join(f"{item['containerID']} {item['hostID']} {item['size']}\n" for item in mappings).encode()


def _map_shown(mappings: list[IDMapping]) -> str:
    """For an error: the usual short map, or what the kernel has against a long one."""
    text = map_text(mappings).decode().strip()
    return f"{len(mappings)} ranges, {len(text)} bytes: one page is the most" if len(text) > 300 else text.replace("\n", ", ")


def host_id(mappings: list[IDMapping], inside: int) -> int:
    """What an id inside the user namespace is on the host; the overflow id where it is not mapped."""
    for item in mappings:
        if 0 <= inside - item["containerID"] < item["size"]:
            return item["hostID"] + inside - item["containerID"]
    return UNMAPPED


def apply_open(step: Step) -> int:
    """Opens a namespace by path and makes sure that it is of the type that the config says."""
    path, kind = step.get("path"), step.get("type")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # it may turn out to be a FIFO
    except OSError as error:
        raise NamespaceError(error.errno or 0, f"join the {kind} namespace {path}", "open", step.origin) from None
    try:
        found = sys.namespace_type(fd)
    except OSError:
        found = 0
    if found != CLONE_FLAGS[kind]:
        os.close(fd)
        name = next((name for name, flag in CLONE_FLAGS.items() if flag == found), "")
        raise ConfigError(step.origin, f'"{path}" is not a {kind} namespace' + (f" but a {name} one" if name else ""))
    changed = "/root" if kind == "mount" else step.values.get("changed")
    if changed and os.path.samestat(os.fstat(fd), os.stat(f"/proc/self/ns/{PROC_NAMES.get(kind, kind)}")):
        os.close(fd)
        raise ConfigError(
            step.origin, f'"{path}" is the runtime\'s own: {changed} would change it; leave the entry out to share it'
        )
    return fd


def apply_id_maps(step: Step, pid: int) -> None:
    """Writes setgroups and the two maps of the stage; without privilege and for more than our own id, by newuidmap."""
    uid, gid = step.get("uid"), step.get("gid")
    try:
        if not step.get("setgroups"):
            sys.write_proc(f"{pid}/setgroups", b"deny")
        for name, mappings in (("gid_map", gid), ("uid_map", uid)):
            if os.geteuid() != 0 and (len(mappings) > 1 or mappings[0]["size"] > 1):
                _run_mapper("new" + name.replace("_", ""), pid, mappings)
            else:
                sys.write_proc(f"{pid}/{name}", map_text(mappings))
    except OSError as error:
        detail = f"uid {_map_shown(uid)}; gid {_map_shown(gid)}"
        raise NamespaceError(error.errno or 0, "map ids of the user namespace", "write", step.origin, detail) from None


def _run_mapper(program: str, pid: int, mappings: list[IDMapping]) -> None:
    args = [program, str(pid), *map_text(mappings).decode().split()]
    try:
        child = os.posix_spawnp(program, args, {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    except FileNotFoundError:
        raise NamespaceError(2, f"run {program}", "execve", detail="install it (package uidmap)") from None
    _, status = os.waitpid(child, 0)
    if status:
        detail = f"{' '.join(args)} failed: are these ids ours in /etc/subuid and /etc/subgid?"
        raise NamespaceError(0, "map ids of the user namespace", detail=detail)


def apply_time_offsets(step: Step, pid: int) -> None:
    """Writes timens_offsets of the stage: it is not dumpable and cannot open its own."""
    text = "".join(
        f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n" for clock, offset in step.get("offsets").items()
    )
    try:
        sys.write_proc(f"{pid}/timens_offsets", text.encode())
    except OSError as error:
        raise NamespaceError(error.errno or 0, f"set time offsets {text.strip()!r}", "write", step.origin) from None
