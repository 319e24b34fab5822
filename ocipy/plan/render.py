"""A plan in words and as JSON: what ``ocipy plan`` prints, and what an error calls the step that failed. Cold."""

from __future__ import annotations

import sys

from ocipy.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ocipy.plan.step import Step

# ---- numbers of the kernel as words --------------------------------------------------------------------------------

MS = {
    "MS_RDONLY": 1, "MS_NOSUID": 2, "MS_NODEV": 4, "MS_NOEXEC": 8, "MS_SYNCHRONOUS": 0x10, "MS_REMOUNT": 0x20, "MS_MANDLOCK": 0x40,
    "MS_DIRSYNC": 0x80, "MS_NOSYMFOLLOW": 0x100, "MS_NOATIME": 0x400, "MS_NODIRATIME": 0x800, "MS_BIND": 0x1000, "MS_MOVE": 0x2000,
    "MS_REC": 0x4000, "MS_SILENT": 0x8000, "MS_POSIXACL": 0x10000, "MS_UNBINDABLE": 0x20000, "MS_PRIVATE": 0x40000,
    "MS_SLAVE": 0x80000, "MS_SHARED": 0x100000, "MS_RELATIME": 0x200000, "MS_I_VERSION": 0x800000, "MS_STRICTATIME": 0x1000000,
    "MS_LAZYTIME": 0x2000000,
}  # fmt: skip
MOUNT_ATTR = {
    "MOUNT_ATTR_RDONLY": 1, "MOUNT_ATTR_NOSUID": 2, "MOUNT_ATTR_NODEV": 4, "MOUNT_ATTR_NOEXEC": 8, "MOUNT_ATTR__ATIME": 0x70,
    "MOUNT_ATTR_NOATIME": 0x10, "MOUNT_ATTR_STRICTATIME": 0x20, "MOUNT_ATTR_NODIRATIME": 0x80, "MOUNT_ATTR_IDMAP": 0x100000,
    "MOUNT_ATTR_NOSYMFOLLOW": 0x200000,
}  # fmt: skip
CLONE = {
    "CLONE_NEWTIME": 0x80, "CLONE_NEWNS": 0x20000, "CLONE_NEWCGROUP": 0x2000000, "CLONE_NEWUTS": 0x4000000,
    "CLONE_NEWIPC": 0x8000000, "CLONE_NEWUSER": 0x10000000, "CLONE_NEWPID": 0x20000000, "CLONE_NEWNET": 0x40000000,
}  # fmt: skip
SECCOMP_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": 8, "SECCOMP_FILTER_FLAG_TSYNC_ESRCH": 16, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}  # fmt: skip
MPOL_FLAGS = {"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15}
MPOL_MODES = (
    "MPOL_DEFAULT", "MPOL_PREFERRED", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
)  # fmt: skip
PERSONALITIES = {0: "LINUX", 8: "LINUX32"}
CAPABILITIES = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
        "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
        "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
TEXT_MAX = 512
FILE_TYPES = {0o020000: "character device", 0o060000: "block device", 0o010000: "fifo"}


def names(value: int, table: dict[str, int], nothing: str = "none") -> str:
    """Bits as "A|B|0x…", the widest fields first so that each bit is told once."""
    found = []
    for name, bits in sorted(table.items(), key=lambda item: -item[1].bit_count()):
        if value & bits == bits:
            found.append(name)
            value &= ~bits
    return "|".join(found + [hex(value)] * bool(value)) or nothing


def capability_names(mask: int) -> str:
    """A capability set as names, "all" for those that we know, "none" for an empty one."""
    every = (1 << len(CAPABILITIES)) - 1
    if mask & every == every:
        return "all"
    return " ".join(name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1) or "none"


def bit_list(mask: bytes) -> str:
    """A bit mask in the kernel's byte order as "0-3,7"."""
    value = int.from_bytes(mask, sys.byteorder)
    ranges: list[list[int]] = []
    for bit in range(value.bit_length()):
        if value >> bit & 1:
            if ranges and ranges[-1][1] == bit - 1:
                ranges[-1][1] = bit
            else:
                ranges.append([bit, bit])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


# ---- steps in words ------------------------------------------------------------------------------------------------


def describe(step: Step, plan: Iterable[Step] = ()) -> str:
    """One line, as an instruction: "mount proc on /proc". ``plan``: where the step's slots are opened."""
    words = _WORDS.get(step.op.name)
    if step.op is ops.ATTACH:
        source = next((other.get("source") for other in plan if other.get("slot") == step.get("tree")), None)
        return words(_Fields(step.values | {"source": source})) if words else ""
    return words(_Fields(step.values)) if words else repr(step)


class _Fields:
    """The values of a step as attributes, None for what was not given."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Any:
        return self.values.get(name)


def _short(text: str | None) -> str:
    """A program or an option can be as long as a page; nobody reads that."""
    return (text or "") if len(text or "") <= TEXT_MAX else (text or "")[:TEXT_MAX] + "..."


def _options(*groups: str) -> str:
    text = ", ".join(_short(group) for group in groups if group)
    return f" ({text})" if text else ""


def _place(source: str | None) -> str:
    """Most sources of filesystems are only a name."""
    return f" of {source}" if source and source.startswith("/") else ""


def _attrs(value: int | None, before: str = "") -> str:
    return before + names(value, MOUNT_ATTR) if value else ""


def _propagation(value: int | None) -> str:
    return names(value, MS) if value else ""


def _flags(value: int | None) -> str:
    return names(value, ops.MOUNT_FLAGS).lower().replace("_", " ").replace("|", ", ") if value else ""


def _bind_options(f: _Fields, *before: str) -> str:
    return _options(
        *before,
        "recursive" if f.recursive else "",
        _attrs(f.attr_set, "set "),
        _attrs(f.attr_clr, "clear "),
        _attrs(f.rec_set, "set in the whole tree "),
        _attrs(f.rec_clr, "clear in the whole tree "),
        _propagation(f.propagation),
        _flags(f.flags),
    )


def _join(f: _Fields) -> str:
    kinds = [name for name, kind in ops.JOIN.fields if kind == "f" and f.values.get(name) is not None]
    become = "" if f.uid is None or f.uid < 0 else f", and become uid {f.uid}, gid {f.gid} of the joined user namespace"
    return f"join the {' and '.join(kinds)} namespace{'s' if len(kinds) > 1 else ''}{become}"


def _id_maps(f: _Fields) -> str:
    def lines(mappings: Any) -> str:
        return " ".join(f"{item['containerID']}:{item['hostID']}:{item['size']}" for item in mappings or ()) or "none"

    deny = "" if f.setgroups or f.setgroups is None else ", and deny setgroups"
    return f"map uids {lines(f.uid)} and gids {lines(f.gid)} (container:host:size){deny}"


def _device(f: _Fields) -> str:
    mode, rdev = f.mode or 0, f.rdev or 0
    kind = FILE_TYPES.get(mode & 0o170000, "node")
    number = "" if kind == "fifo" else f" {rdev >> 32}:{rdev & 0xFFFFFFFF}"
    return f"make {kind}{number} {f.path} (mode {mode & 0o7777:04o}, owner {f.uid or 0}:{f.gid or 0})"


def _groups(groups: bytes) -> str:
    numbers = [int.from_bytes(groups[at : at + 4], sys.byteorder) for at in range(0, len(groups), 4)]
    return " ".join(map(str, numbers)) or "none"


def _capabilities(f: _Fields) -> str:
    sets = ("effective", "permitted", "inheritable", "ambient")
    text = "; ".join(f"{name} {capability_names(f.values.get(name) or 0)}" for name in sets)
    return f"set capabilities: {text}" + (f"; until execve also {capability_names(f.keep)}" if f.keep else "")


def _hook(f: _Fields, kind: str) -> str:
    limit = f" within {f.timeout} s" if f.timeout else ""
    extra = f" with arguments {f.args[1:]}" if f.args and len(f.args) > 1 else ""
    return f"run the {kind}hook {f.path}{extra}{limit}"


def _set_cgroup(f: _Fields) -> str:
    if f.value is None:
        return f"copy {f.path}/{f.file} from the parent cgroup"
    return f"write {str(f.value).strip()!r} to {f.path}/{f.file}"


def _unit_properties(f: _Fields) -> str:
    return _options("of the user's systemd" if f.user else "", *(f"{name}={value}" for name, _, value in f.properties or ()))


def _paths(paths: Any) -> str:
    return ", ".join(paths.values() if isinstance(paths, dict) else paths or ())


def _scheduler(f: _Fields) -> str:
    settings = ("nice", "priority", "flags", "runtime", "deadline", "period")
    rest = [f"{name} {f.values[name]}" for name in settings if f.values.get(name)]
    return f"set the scheduler {f.policy}" + _options(*rest)


def _seccomp(f: _Fields) -> str:
    flags = names(f.flags, SECCOMP_FLAGS, "") if f.flags else ""
    size = len(f.filter) // 8 if isinstance(f.filter, bytes) else 0
    return f"load a seccomp filter of {size} instructions{_options(flags, 'with a listener' if f.listener else '')}"


def _memory_policy(f: _Fields) -> str:
    mode = (f.mode or 0) & 0x1FFF
    name = MPOL_MODES[mode] if mode < len(MPOL_MODES) else str(mode)
    flags = names(f.mode & ~0x1FFF, MPOL_FLAGS) if (f.mode or 0) & ~0x1FFF else ""
    return f"set the memory policy {name}{_options(flags)}" + (f" on nodes {bit_list(f.nodes)}" if f.nodes else "")


def _preserve(f: _Fields) -> str:
    fds = f", passing {f.preserve_fds} extra file descriptors" if f.preserve_fds else ""
    cpus = f", on CPUs {f.affinity}" if f.affinity else ""
    cgroup = f", in the cgroup {f.cgroup.removeprefix('enter:')}" if f.cgroup else ""
    return f"start the stage from the sealed init{fds}{cpus}{cgroup}"


def _cwd(f: _Fields) -> str:
    if f.final:
        return f"enter the working directory {f.path} as the user, and make sure that it lies in the container"
    return f"enter the working directory {f.path}{_options('made if it is missing' if f.create else '')}"


def _lookup(f: _Fields) -> str:
    searched = f" in {f.search}" if f.search and "/" not in (f.program or "") else ""
    return f"find the program {_short(f.program)}{searched}"


_WORDS: dict[str, Callable[[_Fields], str]] = {
    "SYNC": lambda f: f"wait for the runtime ({f.number})",
    "SET_DUMPABLE": lambda f: "let the runtime write our id maps" if f.value else "be unreadable for the container",
    "JOIN": _join,
    "JOIN_CONTAINER": lambda f: f"join the container's namespaces: {names(f.flags or 0, CLONE)}",
    "UNSHARE": lambda f: f"make new namespaces: {names(f.flags or 0, CLONE)}",
    "BECOME": lambda f: f"become uid {f.uid}, gid {f.gid} of the user namespace",
    "CLONE_INIT": lambda f: "clone init, the container process, into the new namespaces"
    + (f" and the cgroup {f.cgroup.removeprefix('enter:')}" if f.cgroup else ""),
    "ENTER_TASKS": lambda f: f"enter the cgroup {(f.tasks or '').removeprefix('tasks:')}",
    "SETSID": lambda f: "start a session",
    "SESSION_KEYRING": lambda f: f"make the session keyring {f.name}" + _options(f"label {f.label}" if f.label else ""),
    "LOOPBACK_UP": lambda f: "bring the network interface lo up",
    "PROPAGATION": lambda f: f"set the propagation of {f.path} to {names(f.flags or 0, MS)}",
    "ROOTFS": lambda f: "attach the root filesystem" if f.attach else "use the root filesystem where it is",
    "MOUNT": lambda f: f"mount {f.fstype}{_place(f.source)} on {f.dest}"
    + _options(" ".join(f.options or ()), _attrs(f.attrs), _propagation(f.propagation), _flags(f.flags)),
    "MOUNT_OLD": lambda f: f"mount {f.fstype} from {f.source} on {f.dest} with mount(2)"
    + _options(f.data or "", names(f.ms_flags, MS) if f.ms_flags else "", _propagation(f.propagation), _flags(f.flags)),
    "ATTACH": lambda f: f"attach {f.source or 'what was opened as ' + repr(f.tree)} on {f.dest}"
    + _options(_propagation(f.propagation), _flags(f.flags)),
    "BIND": lambda f: f"bind {f.source} on {f.dest}" + _bind_options(f),
    "REMOUNT": lambda f: f"change the mount on {f.dest}" + _bind_options(f),
    "MAKE_DIRECTORY": lambda f: f"make the directory {f.path} (mode {f.mode or 0:04o})",
    "DEVICE": _device,
    "SYMLINK": lambda f: f"link {f.path} to {f.target}" + (", in place of what is there" if f.replace else ""),
    "HOOK": lambda f: _hook(f, "") + " in the container's namespaces",
    "PIVOT_ROOT": lambda f: "make it the root with pivot_root, and let go of the old one",
    "MOVE_ROOT": lambda f: "make it the root by moving its mount over /, and let go of the old one",
    "CHROOT": lambda f: "make it the root with chroot",
    "CONSOLE": lambda f: "open a terminal, send it to the runtime and make it the controlling one"
    + _options(f"{f.width}x{f.height}" if f.width or f.height else "", "also as /dev/console" if f.mount else ""),
    "STDIO_OWNER": lambda f: f"give standard input, output and error to uid {f.uid or 0}",
    "HOSTNAME": lambda f: f"set the hostname {f.name}",
    "DOMAINNAME": lambda f: f"set the domain name {f.name}",
    "SYSCTL": lambda f: f"write {f.value!r} to /proc/{f.path}",
    "UNMOUNT": lambda f: f"unmount {(f.parent or '').rstrip('/')}/{f.name}",
    "READONLY_PATH": lambda f: f"make {f.path} read-only",
    "MASK_PATH": lambda f: f"mask {f.path}",
    "READONLY_ROOT": lambda f: "make the root filesystem read-only",
    "NO_NEW_PRIVILEGES": lambda f: "set no_new_privs",
    "PERSONALITY": lambda f: f"set the personality {PERSONALITIES.get(f.persona, f.persona)}",
    "MEMORY_POLICY": _memory_policy,
    "EXEC_LABEL": lambda f: f"write {f.value!r} to `/proc/{f.attribute}`: the label after execve",
    "HOME": lambda f: f"set HOME from the container's /etc/passwd for uid {f.uid or 0}",
    "CWD": _cwd,
    "SECCOMP": _seccomp,
    "BOUNDING_SET": lambda f: f"drop all from the bounding set but: {capability_names(f.keep or 0)}",
    "USER": lambda f: f"become uid {f.uid or 0}, gid {f.gid or 0}"
    + (f", groups {_groups(f.groups or b'')}" if f.set_groups or f.set_groups is None else ", keeping the groups"),
    "CAPABILITIES": _capabilities,
    "UMASK": lambda f: f"set the umask {f.mask or 0:04o}",
    "LOOKUP": _lookup,
    "CLOSE_FDS": lambda f: f"close all file descriptors from {f.first or 0} on",
    "LOCK": lambda f: "take the lock that execve frees",
    "READY": lambda f: "report that all is made",
    "WAIT_START": lambda f: "wait for start",
    "EXEC": lambda f: f"execve {f.args}" + _options(f"{len(f.env or ())} environment variables"),
    "MAKE_CGROUP": lambda f: f"make the cgroup {f.path}" + _options(" ".join(f.controllers or ())),
    "SET_CGROUP": _set_cgroup,
    "OWN_CGROUP": lambda f: f"give the cgroup {f.path} to uid {f.uid}",
    "RESTRICT_DEVICES": lambda f: f"restrict devices of the cgroup {f.path}: {', '.join(f.rules or ())}",
    "START_UNIT": lambda f: f"start the systemd unit {f.name} with the stage in it" + _unit_properties(f),
    "SET_UNIT": lambda f: f"change the systemd unit {f.name}" + _unit_properties(f),
    "ENTER_CGROUP": lambda f: f"enter the cgroups {_paths(f.paths)}",
    "OPEN_CGROUP": lambda f: f"open the cgroup {(f.path or '').removesuffix('/tasks')}",
    "OPEN_TREE": lambda f: f"open {f.source}" + (f" for {f.dest}" if f.dest else "")
    + _bind_options(f, "slave" if f.slave else "", "idmapped" if f.idmap else ""),
    "OPEN_DEVICE": lambda f: f"open the device {f.path} as {f.slot!r}, sure that it is {f.type} {f.major}:{f.minor}",
    "OPEN_NAMESPACE": lambda f: f"open the {f.type} namespace {f.path}",
    "OPEN_ROOTFS": lambda f: f"open the root filesystem {f.path}",
    "OPEN_PIDFD": lambda f: "open the container's process" + (f" {f.pid}" if f.pid else ""),
    "LISTEN": lambda f: "listen on the socket for start",
    "OPEN_LOCK": lambda f: "open the lock of init",
    "OPEN_HOOK_OUTPUT": lambda f: "open a file for what hooks print",
    "SPAWN": _preserve,
    "OOM_SCORE_ADJ": lambda f: f"set oom_score_adj {f.value}",
    "ID_MAPS": _id_maps,
    "TIME_OFFSETS": lambda f: "set the clocks: "
    + ", ".join(f"{clock} {item.get('secs', 0)} s {item.get('nanosecs', 0)} ns" for clock, item in (f.offsets or {}).items()),
    "MAKE_RESCTRL": lambda f: ("use the group " if f.how == "use" else "make the group ")
    + f"{f.path} of resctrl"
    + (" unless it is there" if f.how in ("share", "own") else "")
    + "".join(f", write {text!r} to its schemata" for text in f.schemata or ()),
    "ENTER_RESCTRL": lambda f: f"enter the groups {_paths(f.paths)} of resctrl",
    "MOVE_NET_DEVICE": lambda f: f"move the network device {f.name} into the container"
    + (f", as {f.new}," if f.new != f.name else "")
    + " with its addresses, and set it up",
    "RUN_HOOK": lambda f: _hook(f, f"{f.kind} ") + " in the runtime's namespaces",
    "RLIMIT": lambda f: f"set {f.resource} to {f.soft}, at most {f.hard}",
    "SCHEDULER": _scheduler,
    "IO_PRIORITY": lambda f: f"set the I/O priority {f.level} {f.data}",
    "CPU_AFFINITY": lambda f: f"run on CPUs {f.cpus}",
    "WRITE_STATE": lambda f: f"record that the container is {f.status}",
}  # fmt: skip

# ---- whole plans ---------------------------------------------------------------------------------------------------


def phases(plan: list[Step]) -> list[str]:
    """For each step who does it when, in words."""
    found = []
    phase, spawned = "init", False
    for step in plan:
        if step.op.where == ops.RUNTIME:
            found.append("the runtime, while init waits" if spawned else "the runtime, before there is a process")
            if step.op is ops.SPAWN:
                spawned, phase = True, "the stage, still executed in the host's user namespace"
            continue
        found.append(phase)
        if step.op is ops.CLONE_INIT:
            phase = "init, in the container's namespaces"
        elif step.op in (ops.PIVOT_ROOT, ops.MOVE_ROOT, ops.CHROOT):
            phase = "init, in the container's root"
        elif step.op is ops.WAIT_START:
            phase = "init, after start"
    return found


def as_text(plan: list[Step]) -> str:
    """A line per step: number, JSON pointer of what asked for it, what it does; a heading where someone else goes on."""
    width = min(44, max([len(step.origin) for step in plan], default=0))
    lines: list[str] = []
    last = ""
    for number, (step, phase) in enumerate(zip(plan, phases(plan), strict=True)):
        if phase != last:
            lines += [""] * bool(lines) + [f"{phase}:"]
            last = phase
        lines.append(f"{number:5}  {step.origin:<{width}}  {describe(step, plan)}".replace("\n", "\\n"))
    return "\n".join(lines) + "\n"


def as_objects(plan: list[Step]) -> list[dict[str, Any]]:
    """For JSON: index, op, where, origin, text, then the fields; bytes are {"bytes": length}."""
    return [
        {"index": number, "op": step.op.name, "where": step.op.where, "origin": step.origin, "text": describe(step, plan)}
        | {name: {"bytes": len(value)} if isinstance(value, bytes) else value for name, value in step.values.items()}
        for number, step in enumerate(plan)
    ]
