"""System calls as functions, one each and named after it: the only importer of ``_native``.

Paths are str; text that reaches C must not have a NUL inside (EINVAL). Descriptors are close-on-exec. What the kernel refuses
raises CallError, which is also the subclass of OSError that Python has for the errno (FileNotFoundError …).
"""

from __future__ import annotations

import os
import sys

from ocipy._native import _shim
from ocipy._native._shim import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BYTE_ORDER = sys.byteorder  # of masks and groups
AT_FDCWD = -100
EINTR = 4  # C leaves it to loops here, in which Python hears of Ctrl-C
AT_EMPTY_PATH: int = lib.AT_EMPTY_PATH
AT_RECURSIVE: int = lib.AT_RECURSIVE
AT_SYMLINK_NOFOLLOW: int = lib.AT_SYMLINK_NOFOLLOW
MOUNT_ATTR_IDMAP: int = lib.MOUNT_ATTR_IDMAP
MOUNT_ATTR_NODEV: int = lib.MOUNT_ATTR_NODEV
MOUNT_ATTR_NOEXEC: int = lib.MOUNT_ATTR_NOEXEC
MOUNT_ATTR_NOSUID: int = lib.MOUNT_ATTR_NOSUID
MOUNT_ATTR_RDONLY: int = lib.MOUNT_ATTR_RDONLY
MOVE_MOUNT_F_EMPTY_PATH: int = lib.MOVE_MOUNT_F_EMPTY_PATH
MOVE_MOUNT_T_EMPTY_PATH: int = lib.MOVE_MOUNT_T_EMPTY_PATH
OPEN_TREE_CLOEXEC: int = lib.OPEN_TREE_CLOEXEC
OPEN_TREE_CLONE: int = lib.OPEN_TREE_CLONE
RESOLVE_BENEATH: int = lib.RESOLVE_BENEATH
RESOLVE_IN_ROOT: int = lib.RESOLVE_IN_ROOT
RESOLVE_NO_MAGICLINKS: int = lib.RESOLVE_NO_MAGICLINKS
RESOLVE_NO_SYMLINKS: int = lib.RESOLVE_NO_SYMLINKS
RESOLVE_NO_XDEV: int = lib.RESOLVE_NO_XDEV
POLLIN = 1
POLLHUP = 16
MSG_DONTWAIT = 0x40
LOCK_EX, LOCK_NB = 2, 4
SOCK_STREAM = 1
SOCK_SEQPACKET = 5
MAX_FDS = 16  # in one message


class CallError(OSError):
    """A system call failed. ``call`` is its name; str() is ``call(arguments): reason``, as strace has it."""

    def __init__(self, errno: int, call: str, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__(errno, os.strerror(errno))
        self.call, self.arguments = call, arguments

    def __str__(self) -> str:
        shown = ", ".join([os.fsdecode(item) if isinstance(item, bytes) else repr(item) for item in self.arguments])
        return f"{self.call}({shown}): {self.strerror}"


def _failure(call: str, *arguments: Any, errno: int = 0) -> CallError:
    """The exception for errno: a CallError, and what ``except FileNotFoundError`` and its like look for."""
    errno = errno or ffi.errno
    builtin = type(OSError(errno, ""))
    kind: type[CallError] = CallError if builtin is OSError else type("CallError", (CallError, builtin), {})
    return kind(errno, call, arguments)


def _bytes(text: str, call: str) -> bytes:
    """For C; surrogates stand for bytes of the file system (PEP 383)."""
    data = text.encode("utf-8", "surrogateescape")
    if 0 in data:
        raise _failure(call, text, errno=22)
    return data


# ---- processes -------------------------------------------------------------------------------------------------------

STAGE_CALLS = ("clone3", "fcntl", "sched_setaffinity", "execveat")
NETLINK_CALLS = ("clone", "setns", "socket")
SIGNALFD_SIGINFO = 128  # size of a struct signalfd_siginfo, which begins with the number
USERNS_CALLS = ("clone", "write(uid_map)", "write(gid_map)", "open(ns/user)")


def clone_stage(
    elf: int, argv: list[bytes], keep: list[int], *, cgroup: int = -1, affinity: bytes = b""
) -> tuple[int, int]:
    """Execute ``elf`` in a new process without environment: (pid, pidfd).

    ``keep``: descriptors that it inherits under their numbers; ``cgroup``: directory of a cgroup v2 to be born in;
    ``affinity``: a mask of CPUs in the machine's byte order. All signals are blocked in it. The error's ``call`` is one of
    STAGE_CALLS.
    """
    result = ffi.new("int[2]")
    texts = b"".join([text + b"\0" for text in argv])
    pid: int = lib.shim_clone_stage(elf, texts, len(argv), keep, len(keep), cgroup, affinity, len(affinity), result)
    if pid < 0:
        raise _failure(STAGE_CALLS[result[1]], *((elf, *argv) if result[1] == 3 else keep if result[1] == 1 else ()))
    return pid, result[0]


def spawn_hook(path: str, args: list[str], environment: list[str], *, directory: int, stdin: int, output: int) -> int:
    """The pid of a hook, in a process group of its own, with default signals; it dies with this process."""
    argv = b"".join([_bytes(text, "execve") + b"\0" for text in args])
    env = b"".join([_bytes(text, "execve") + b"\0" for text in environment])
    pid: int = lib.shim_spawn_hook(_bytes(path, "execve"), argv, len(args), env, len(environment), directory, stdin, output)
    if pid < 0:
        raise _failure("execve", path)
    return pid


def userns_with_maps(uid_map: bytes, gid_map: bytes) -> int:
    """A user namespace with these maps (as in /proc/PID/uid_map) that no process is in: for idmapped mounts."""
    call = ffi.new("int *")
    proc = detached_proc(subset_pid=True)
    try:
        fd: int = lib.shim_userns(proc, uid_map, gid_map, call)
    finally:
        os.close(proc)
    if fd < 0:
        raise _failure(USERNS_CALLS[call[0]], uid_map, gid_map)
    return fd


def netlink_socket(namespace: int) -> int:
    """An rtnetlink socket in another network namespace; this process stays in its own."""
    call = ffi.new("int *")
    fd: int = lib.shim_netlink(namespace, call)
    if fd < 0:
        raise _failure(NETLINK_CALLS[call[0]], namespace)
    return fd


def setns(fd: int, flags: int) -> None:
    if lib.setns(fd, flags) < 0:
        raise _failure("setns", fd, flags)


def unshare(flags: int) -> None:
    if lib.unshare(flags) < 0:
        raise _failure("unshare", flags)


def namespace_type(fd: int) -> int:
    """CLONE_NEW… of an open namespace."""
    kind: int = lib.shim_namespace_type(fd)
    if kind < 0:
        raise _failure("ioctl", fd, "NS_GET_NSTYPE")
    return kind


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Limits are 64 bits wide, RLIM_INFINITY is 2^64 - 1."""
    if lib.shim_prlimit(pid, resource, soft, hard) < 0:
        raise _failure("prlimit", pid, resource, soft, hard)


def sched_setattr(
    pid: int, policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int
) -> None:
    if lib.shim_sched_setattr(pid, policy, flags, nice, priority, runtime, deadline, period) < 0:
        raise _failure("sched_setattr", pid, policy, flags, nice, priority, runtime, deadline, period)


def sched_setaffinity(pid: int, cpus: bytes) -> None:
    """``cpus``: one bit per CPU, in words of the machine."""
    if lib.shim_sched_setaffinity(pid, cpus, len(cpus)) < 0:
        raise _failure("sched_setaffinity", pid, cpus.hex())


def ioprio_set(which: int, who: int, value: int) -> None:
    if lib.shim_ioprio_set(which, who, value) < 0:
        raise _failure("ioprio_set", which, who, value)


def pidfd_open(pid: int) -> int:
    fd: int = lib.shim_pidfd_open(pid, 0)
    if fd < 0:
        raise _failure("pidfd_open", pid)
    return fd


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    if lib.shim_pidfd_send_signal(pidfd, signal) < 0:
        raise _failure("pidfd_send_signal", pidfd, signal)


def note_interrupts() -> None:
    """From now on Ctrl-C and SIGTERM are KeyboardInterrupt where we wait, and nowhere else: between two lines of Python it could
    come between what is done and what remembers it. Once: what it ends cleans up."""
    lib.shim_note_interrupts()


def _check_interrupt() -> None:
    if lib.shim_was_interrupted():
        raise KeyboardInterrupt


def poll(fds: list[tuple[int, int]], timeout_ms: int) -> list[tuple[int, int]]:
    """[(fd, events)] -> [(fd, what happened)]; empty when the time is over (-1: never) or a signal came."""
    array = ffi.new("struct pollfd[]", [(fd, events, 0) for fd, events in fds])
    _check_interrupt()
    if lib.poll(array, len(fds), timeout_ms) < 0:
        if ffi.errno == EINTR:
            return []
        raise _failure("poll", fds, timeout_ms)
    return [(item.fd, item.revents) for item in array if item.revents]


def signalfd(numbers: tuple[int, ...]) -> int:
    """Blocks these signals; they wait in the descriptor."""
    fd: int = lib.shim_signalfd(ffi.new("int[]", numbers), len(numbers))
    if fd < 0:
        raise _failure("signalfd", len(numbers))
    return fd


def read_signals(fd: int) -> list[int]:
    """The signals that wait in a descriptor of signalfd(): perhaps none."""
    try:
        data = os.read(fd, SIGNALFD_SIGINFO * 64)
    except BlockingIOError:
        return []
    return [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, len(data), SIGNALFD_SIGINFO)]


# ---- descriptors -----------------------------------------------------------------------------------------------------


def close_range(first: int, last: int, flags: int = 0) -> None:
    if lib.shim_close_range(first, last, flags) < 0:
        raise _failure("close_range", first, last, flags)


def sealed_memfd(name: str, data: bytes, *, executable: bool = False) -> int:
    """Memory with this content that nobody can change any more."""
    fd: int = lib.shim_sealed_memfd(_bytes(name, "memfd_create"), data, len(data), executable)
    if fd < 0:
        raise _failure("memfd_create", name)
    return fd


def init_elf() -> int:
    """The static init, where a container cannot reach the file that it came from: sealed memory, or where vm.memfd_noexec
    forbids that (EACCES) a read-only mount of the file, which takes CAP_SYS_ADMIN."""
    path = os.path.dirname(_shim.__file__) + "/init"
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fd: int = lib.shim_sealed_copy(b"ocipy-init", source)
        if fd >= 0:
            return fd
        error = _failure("memfd_create", "ocipy-init")
        if error.errno != 13:
            raise error
        tree = open_tree(source, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
        mount_setattr(tree, "", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        return tree
    finally:
        os.close(source)


def flock(fd: int, *, wait: bool = True) -> None:
    """Takes the exclusive lock of an open file description."""
    if lib.flock(fd, LOCK_EX | (0 if wait else LOCK_NB)) < 0:
        raise _failure("flock", fd)


def ofd_lock_test(fd: int) -> bool:
    """Does another open file description hold a lock on the file?"""
    held = lib.shim_lock_is_held(fd)
    if held < 0:
        raise _failure("fcntl", fd, "F_OFD_GETLK")
    return bool(held)


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    fd: int = lib.shim_openat2(dirfd, _bytes(path, "openat2"), flags | os.O_CLOEXEC, mode, resolve)
    if fd < 0:
        raise _failure("openat2", dirfd, path, flags, resolve)
    return fd


# ---- mounts ----------------------------------------------------------------------------------------------------------


def open_tree(dirfd: int, path: str, flags: int) -> int:
    fd: int = lib.shim_open_tree(dirfd, _bytes(path, "open_tree"), flags | OPEN_TREE_CLOEXEC)
    if fd < 0:
        raise _failure("open_tree", dirfd, path, flags)
    return fd


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    source, target = _bytes(from_path, "move_mount"), _bytes(to_path, "move_mount")
    if lib.shim_move_mount(from_fd, source, to_fd, target, flags) < 0:
        raise _failure("move_mount", from_fd, from_path, to_fd, to_path, flags)


def mount_setattr(
    fd: int, path: str, flags: int, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, userns_fd: int = -1
) -> None:
    """``propagation``: an MS_ flag or 0 to leave it; ``userns_fd`` goes with MOUNT_ATTR_IDMAP."""
    text = _bytes(path, "mount_setattr")
    if lib.shim_mount_setattr(fd, text, flags, attr_set, attr_clr, propagation, userns_fd) < 0:
        raise _failure("mount_setattr", fd, path, flags, attr_set, attr_clr, propagation, userns_fd)


def fsopen(fstype: str) -> int:
    fd: int = lib.shim_fsopen(_bytes(fstype, "fsopen"), lib.FSOPEN_CLOEXEC)
    if fd < 0:
        raise _failure("fsopen", fstype)
    return fd


def fsconfig(fd: int, key: str | None = None, value: str | None = None) -> None:
    """Set a key to a text, a flag (no value), or create the file system (no key)."""
    data = [ffi.NULL if text is None else _bytes(text, "fsconfig") for text in (key, value)]
    command = lib.FSCONFIG_CMD_CREATE if key is None else lib.FSCONFIG_SET_FLAG if value is None else lib.FSCONFIG_SET_STRING
    if lib.shim_fsconfig(fd, command, *data, 0) < 0:
        raise _failure("fsconfig", fd, key, value)


def fsmount(fd: int, attrs: int) -> int:
    tree: int = lib.shim_fsmount(fd, lib.FSMOUNT_CLOEXEC, attrs)
    if tree < 0:
        raise _failure("fsmount", fd, attrs)
    return tree


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    texts = [ffi.NULL if text is None else _bytes(text, "mount") for text in (source, target, fstype, data)]
    if lib.shim_mount(*texts[:3], flags, texts[3]) < 0:
        raise _failure("mount", source, target, fstype, flags, data)


def umount2(target: str, flags: int = 0) -> None:
    if lib.shim_umount2(_bytes(target, "umount2"), flags) < 0:
        raise _failure("umount2", target, flags)


def detached_proc(*, subset_pid: bool = False) -> int:
    """A procfs that nothing can be mounted over: one of our own, else a clone of /proc without what is mounted below, else /proc.

    ``subset_pid``: only the process directories. Raises CallError of the first try when /proc is no procfs.
    """
    try:
        return _own_proc(subset_pid)
    except CallError as error:
        first = error
    for make in (_cloned_proc, _host_proc):
        try:
            return _checked_proc(make())
        except OSError:
            continue
    raise first


def _own_proc(subset_pid: bool) -> int:
    context = fsopen("proc")
    try:
        fsconfig(context, "hidepid", "ptraceable")
        if subset_pid:
            fsconfig(context, "subset", "pid")
        fsconfig(context)
        return _checked_proc(fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC))
    finally:
        os.close(context)


def _cloned_proc() -> int:
    return open_tree(AT_FDCWD, "/proc", OPEN_TREE_CLONE)


def _host_proc() -> int:
    return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def write_proc(path: str, data: bytes) -> None:
    """Write a file of /proc ("1/uid_map"), which must be a procfs; what is mounted on the file and magic links are not followed."""
    proc = _checked_proc(_host_proc())
    try:
        fd = openat2(proc, path, os.O_WRONLY, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(proc)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _checked_proc(fd: int) -> int:
    if lib.shim_is_procfs_root(fd) == 1:
        return fd
    os.close(fd)
    raise _failure("fstatfs", "/proc", errno=2)


S_IFMT = {"c": 0o020000, "u": 0o020000, "b": 0o060000}


def open_device_tree(path: str, type: str, major: int, minor: int) -> int:
    """A detached mount of a device node of the host, after making sure that it is this device (else ENODEV)."""
    tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE)
    info = os.fstat(tree)
    if info.st_mode & 0o170000 == S_IFMT[type] and info.st_rdev == os.makedev(major, minor):
        return tree
    os.close(tree)
    raise _failure("verify", path, type, major, minor, errno=19)


# ---- device programs of cgroup v2 ------------------------------------------------------------------------------------

BPF_LOG = 65536
MAX_PROGRAMS = 64  # of one cgroup: the most that the kernel takes


def bpf_load(instructions: bytes, name: str) -> int:
    """A program of type BPF_PROG_TYPE_CGROUP_DEVICE; ``name``: 15 characters at most. The error's second argument is what the
    kernel's verifier said last."""
    text, count = _bytes(name, "bpf"), len(instructions) // 8
    fd: int = lib.shim_bpf_load(instructions, count, text, ffi.NULL, 0)
    if fd >= 0:
        return fd
    first = _failure("bpf", "BPF_PROG_LOAD")
    log = ffi.new("char[]", BPF_LOG)
    fd = lib.shim_bpf_load(instructions, count, text, log, BPF_LOG)
    if fd >= 0:
        return fd
    said = ffi.string(log).decode(errors="replace").strip().splitlines()
    raise _failure("bpf", "BPF_PROG_LOAD", *said[-1:], errno=first.errno or 0)


def bpf_attach(cgroup: int, program: int, replaced: int = -1) -> None:
    if lib.shim_bpf_attach(cgroup, program, replaced) < 0:
        raise _failure("bpf", "BPF_PROG_ATTACH", cgroup, program, replaced)


def bpf_detach(cgroup: int, program: int) -> None:
    if lib.shim_bpf_detach(cgroup, program) < 0:
        raise _failure("bpf", "BPF_PROG_DETACH", cgroup, program)


def bpf_programs(cgroup: int) -> list[tuple[int, str]]:
    """Device programs that are attached to this cgroup itself, as (descriptor, name), oldest first. The caller closes them."""
    ids = ffi.new("uint32_t[]", MAX_PROGRAMS)
    count = lib.shim_bpf_query(cgroup, ids, MAX_PROGRAMS)
    if count < 0:
        raise _failure("bpf", "BPF_PROG_QUERY", cgroup)
    found: list[tuple[int, str]] = []
    for index in range(count):
        name = ffi.new("char[17]")
        fd: int = lib.shim_bpf_open(ids[index], name)
        if fd >= 0:
            found.append((fd, ffi.string(name).decode()))
        elif ffi.errno != 2:  # taken away meanwhile
            error = _failure("bpf", "BPF_PROG_GET_FD_BY_ID", ids[index])
            for opened, _ in found:
                os.close(opened)
            raise error
    return found


# ---- sockets ---------------------------------------------------------------------------------------------------------


def socketpair_seqpacket() -> tuple[int, int]:
    pair = ffi.new("int[2]")
    if lib.shim_socketpair(pair) < 0:
        raise _failure("socketpair")
    return pair[0], pair[1]


def listen_unix(dirfd: int, name: str) -> int:
    """A SOCK_SEQPACKET socket bound to a name in a directory, at any depth: an address has but 108 bytes."""
    path = f"/proc/self/fd/{dirfd}/{name}"
    fd: int = lib.shim_bind_unix(SOCK_SEQPACKET, _bytes(path, "bind"))
    if fd < 0:
        raise _failure("bind", path)
    return fd


def connect_unix(dirfd: int, name: str) -> int:
    return _connect(SOCK_SEQPACKET, f"/proc/self/fd/{dirfd}/{name}")


def connect_unix_stream(path: str) -> int:
    """A stream socket connected to a path of any length."""
    if len(path) < 100:
        return _connect(SOCK_STREAM, path)
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return _connect(SOCK_STREAM, f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _connect(kind: int, path: str) -> int:
    fd, address = -1, _bytes(path, "connect")
    while fd < 0:
        _check_interrupt()
        fd = lib.shim_connect_unix(kind, address)
        if fd < 0 and ffi.errno != EINTR:
            raise _failure("connect", path)
    return fd


def sendmsg_fd(sock: int, data: bytes, fds: list[int]) -> None:
    """One message with descriptors (16 at most); BrokenPipeError when the peer is gone, never SIGPIPE."""
    if lib.shim_sendmsg(sock, data, len(data), fds, len(fds)) < 0:
        raise _failure("sendmsg", sock)


def recvmsg_fds(sock: int, size: int) -> tuple[bytes, list[int]]:
    """One message; b"" at the end of file, also when the peer ended without reading all. Descriptors are close-on-exec."""
    data, fds = ffi.new("char[]", size), ffi.new("int[]", 1 + MAX_FDS)
    got = -1
    while got < 0:
        _check_interrupt()
        got = lib.shim_recvmsg(sock, data, size, fds)
        if got < 0 and ffi.errno != EINTR:
            raise _failure("recvmsg", sock, size)
    return ffi.unpack(data, got), list(fds[1 : 1 + fds[0]])


# ---- terminals -------------------------------------------------------------------------------------------------------


def set_raw(fd: int) -> bytes:
    """No echo, no line editing, no signals from keys; returns what restore_termios wants."""
    saved = ffi.new("struct termios *")
    if lib.shim_set_raw(fd, saved) < 0:
        raise _failure("tcsetattr", fd)
    return bytes(ffi.buffer(saved))


def restore_termios(fd: int, saved: bytes) -> None:
    if lib.shim_restore_termios(fd, ffi.from_buffer("struct termios *", saved)) < 0:
        raise _failure("tcsetattr", fd)


def get_winsize(fd: int) -> tuple[int, int, int, int]:
    """(rows, columns, width, height), the last two in pixels."""
    size = ffi.new("struct winsize *")
    if lib.shim_get_winsize(fd, size) < 0:
        raise _failure("ioctl", fd, "TIOCGWINSZ")
    return size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel


def set_winsize(fd: int, size: tuple[int, int, int, int]) -> None:
    if lib.shim_set_winsize(fd, ffi.new("struct winsize *", size)) < 0:
        raise _failure("ioctl", fd, "TIOCSWINSZ")


# ---- plans -----------------------------------------------------------------------------------------------------------

PLAN_ERRORS = (
    "", "is shorter than its header", "has no magic number", "is of another version", "has another size than it says",
    "has no room for its steps", "has an unknown op", "is out of order", "has a text that does not lie in it",
    "has a list that does not lie in it", "has bytes that do not lie in it", "has no descriptor where one is due",
    "has a value behind its last field",
)  # fmt: skip


def check_plan(buffer: bytes) -> None:
    """Raises ValueError when init could not execute this buffer without looking (format: plan/encode.py)."""
    place = ffi.new("uint64_t[2]")
    error = lib.check_plan(buffer, len(buffer), place, place + 1)
    if error:
        where = f" step {place[0]} field {place[1]}" if error > 5 else ""
        raise ValueError(f"plan{where} {PLAN_ERRORS[error]}")
