"""Each system call against the real kernel. What mounts does so in a mount namespace of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import termios
import traceback
from sys import executable
from typing import TYPE_CHECKING

import pytest

import ocipy
from ocipy.linux import sys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs_root = pytest.mark.root
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS = 0x20000, 0x10000000, 0x4000000
MS_PRIVATE, MS_REC, MS_BIND = 1 << 18, 1 << 14, 1 << 12
MNT_DETACH = 2
SEAL, SHRINK, GROW, WRITE, EXEC = 1, 2, 4, 8, 32
POLLIN, POLLHUP = 1, 16


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def children() -> set[str]:
    """Of this process; as parent of all orphans it may have got some from other tests."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                text = file.read()
        except OSError:
            continue
        if int(text[text.rindex(")") + 2 :].split()[1]) == os.getpid():
            found.add(f"{pid} {text[:40]}")
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """No descriptor, no child, no change of the signal mask."""
    before, mask, family = open_fds(), signal.pthread_sigmask(signal.SIG_BLOCK, ()), children()
    yield
    assert open_fds() == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert children() <= family


def in_mount_namespace(work: Callable[[], None], flags: int = CLONE_NEWNS) -> None:
    """Run in a forked child whose mounts are private; its traceback is the failure."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.unshare(flags)
            if flags & CLONE_NEWNS:
                sys.mount(None, "/", None, MS_REC | MS_PRIVATE)
            work()
            code = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60000:])
        os._exit(code)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        pytest.fail(text or f"status {status}", pytrace=False)


def opened(path: str | Path, flags: int = os.O_RDONLY) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


@pytest.fixture
def shell() -> Iterator[int]:
    fd = opened("/bin/sh")
    yield fd
    os.close(fd)


def run_stage(elf: int, script: str, keep: list[int], **more: bytes | int) -> int:
    """The exit code of a shell that clone_stage started."""
    pid, pidfd = sys.clone_stage(elf, [b"sh", b"-c", script.encode()], keep, **more)  # type: ignore[arg-type]
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_names_the_call_with_its_arguments_and_is_what_python_calls_it() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        sys.open_tree(sys.AT_FDCWD, "/does/not/exist", 0)
    assert isinstance(caught.value, sys.CallError)
    assert (caught.value.errno, caught.value.call) == (errno.ENOENT, "open_tree")
    assert str(caught.value) == "open_tree(-100, '/does/not/exist', 0): No such file or directory"


def test_an_errno_that_python_has_no_class_for_is_a_call_error() -> None:
    with pytest.raises(sys.CallError) as caught:
        sys.setns(-1, 0)
    assert (type(caught.value), caught.value.errno, caught.value.call) == (sys.CallError, errno.EBADF, "setns")


def test_a_nul_in_a_path_is_refused_and_not_cut_off(tmp_path: Path) -> None:
    with pytest.raises(sys.CallError) as caught:
        sys.openat2(sys.AT_FDCWD, f"{tmp_path}\0/x", os.O_PATH, 0)
    assert (caught.value.errno, caught.value.call) == (errno.EINVAL, "openat2")


# ---- clone_stage -------------------------------------------------------------------------------------------------------


def test_a_stage_gets_its_arguments_and_no_environment(shell: int, tmp_path: Path) -> None:
    script = f"""echo "$0" "$#" "$1" > {tmp_path}/args; /bin/cat /proc/$$/environ > {tmp_path}/environ"""
    pid, pidfd = sys.clone_stage(shell, [b"sh", b"-c", script.encode(), b"zero", b"one"], [])
    os.waitpid(pid, 0)
    os.close(pidfd)
    assert (tmp_path / "args").read_text() == "zero 1 one\n"
    assert (tmp_path / "environ").read_bytes() == b""


def test_a_stage_inherits_the_kept_descriptors_alone(shell: int, tmp_path: Path) -> None:
    kept, lost = (fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, number) for number in (100, 200))
    assert run_stage(shell, f"/bin/ls /proc/$$/fd > {tmp_path}/out", [kept]) == 0
    descriptors = {int(name) for name in (tmp_path / "out").read_text().split()}
    assert kept in descriptors
    assert lost not in descriptors
    assert fcntl.fcntl(kept, fcntl.F_GETFD) == fcntl.FD_CLOEXEC  # it was cleared in the child only
    os.close(kept)
    os.close(lost)


def test_all_signals_stay_blocked_in_a_stage(tmp_path: Path) -> None:
    cat = opened("/bin/cat")
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    saved = os.dup(1)
    os.dup2(out, 1)
    try:
        pid, pidfd = sys.clone_stage(cat, [b"cat", b"/proc/self/status"], [1])
    finally:
        os.dup2(saved, 1)
    os.waitpid(pid, 0)
    lines = dict(line.split(":\t", 1) for line in (tmp_path / "out").read_text().splitlines() if ":\t" in line)
    unblockable = 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1
    assert int(lines["SigBlk"], 16) == (1 << 64) - 1 & ~unblockable
    for fd in (cat, out, saved, pidfd):
        os.close(fd)


def test_the_pidfd_of_a_stage_is_its_own(shell: int) -> None:
    pid, pidfd = sys.clone_stage(shell, [b"sh", b"-c", b"exec sleep 100"], [])
    assert fcntl.fcntl(pidfd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        assert f"Pid:\t{pid}\n" in info.read()
    sys.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        sys.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)


def test_a_stage_is_bound_to_the_processors_of_its_mask(shell: int, tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    mask = (1 << cpu).to_bytes(128, sys.BYTE_ORDER)
    assert run_stage(shell, f"/bin/grep Cpus_allowed_list /proc/self/status > {tmp_path}/out", [], affinity=mask) == 0
    assert (tmp_path / "out").read_text().split() == ["Cpus_allowed_list:", str(cpu)]


@pytest.mark.parametrize(
    ("argv", "keep", "affinity", "call", "number"),
    [
        ([b"sh"], [999], b"", "fcntl", errno.EBADF),
        ([b"sh"], [], bytes(8), "sched_setaffinity", errno.EINVAL),
        ([b"sh"] * 17, [], b"", "clone3", errno.E2BIG),
    ],
    ids=["descriptor that is not open", "no processor", "too many arguments"],
)
def test_what_fails_in_a_stage_before_execve_is_raised(
    shell: int, argv: list[bytes], keep: list[int], affinity: bytes, call: str, number: int
) -> None:
    with pytest.raises(sys.CallError) as caught:
        sys.clone_stage(shell, argv, keep, affinity=affinity)
    assert (caught.value.call, caught.value.errno) == (call, number)


def test_what_cannot_be_executed_is_raised(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no ELF")
    (tmp_path / "text").chmod(0o755)
    fd = opened(tmp_path / "text")
    with pytest.raises(sys.CallError) as caught:
        sys.clone_stage(fd, [b"x"], [])
    os.close(fd)
    assert (caught.value.call, caught.value.errno) == ("execveat", errno.ENOEXEC)


def test_a_handler_of_the_parent_never_runs_in_a_stage(shell: int) -> None:
    pids = []
    old = signal.signal(signal.SIGALRM, lambda *_: pids.append(os.getpid()))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
    try:
        for _ in range(50):
            assert run_stage(shell, "exit 0", []) == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert set(pids) == {os.getpid()}


def cgroup2() -> str | None:
    with open("/proc/self/mounts") as mounts:
        return next((line.split()[1] for line in mounts if line.split()[2] == "cgroup2"), None)


@needs_root
@pytest.mark.skipif(not cgroup2(), reason="needs a mounted cgroup2 hierarchy")
def test_a_stage_is_born_in_its_cgroup(shell: int, tmp_path: Path) -> None:
    path = f"{cgroup2()}/ocipy-test-{os.getpid()}-stage"
    os.mkdir(path)
    try:
        directory = opened(path, os.O_PATH | os.O_DIRECTORY)
        assert run_stage(shell, f"/bin/cat /proc/self/cgroup > {tmp_path}/out", [], cgroup=directory) == 0
        os.close(directory)
    finally:
        os.rmdir(path)
    assert f"0::/ocipy-test-{os.getpid()}-stage\n" in (tmp_path / "out").read_text()


def test_a_directory_that_is_no_cgroup_is_refused(shell: int, tmp_path: Path) -> None:
    directory = opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(sys.CallError) as caught:
        sys.clone_stage(shell, [b"sh"], [], cgroup=directory)
    os.close(directory)
    assert (caught.value.call, caught.value.errno) == ("clone3", errno.EBADF)


# ---- sealed memory -------------------------------------------------------------------------------------------------------


def seals(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS)


@pytest.mark.parametrize("data", [b"", b"plan", os.urandom(300_000)], ids=["nothing", "short", "long"])
@pytest.mark.parametrize("executable", [False, True])
def test_sealed_memory_has_its_content_for_ever(data: bytes, executable: bool) -> None:
    fd = sys.sealed_memfd("test", data, executable=executable)
    assert os.pread(fd, len(data) + 1, 0) == data
    assert seals(fd) & (SEAL | SHRINK | GROW | WRITE) == SEAL | SHRINK | GROW | WRITE
    for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, len(data) + 1)):
        with pytest.raises(PermissionError):
            change()
    if seals(fd) & EXEC:  # Linux 6.3
        assert bool(os.fstat(fd).st_mode & 0o111) == executable
        with pytest.raises(PermissionError):
            os.fchmod(fd, 0o777 if not executable else 0o666)
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    os.close(fd)


def test_init_is_sealed_and_can_be_executed() -> None:
    fd = sys.init_elf()
    assert seals(fd) & (SEAL | SHRINK | GROW | WRITE) == SEAL | SHRINK | GROW | WRITE
    assert os.pread(fd, 4, 0) == b"\x7fELF"
    pid, pidfd = sys.clone_stage(fd, [b"too few arguments"], [])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    os.close(pidfd)
    os.close(fd)


@needs_root
@pytest.mark.skipif(not os.path.exists("/proc/sys/vm/memfd_noexec"), reason="needs vm.memfd_noexec (Linux 6.3)")
def test_where_executable_memory_is_forbidden_init_is_a_read_only_mount() -> None:
    script = (
        "import os\nfrom ocipy.linux import sys\n"
        "open('/proc/sys/vm/memfd_noexec', 'w').write('2')\n"
        "fd = sys.init_elf()\n"
        "os.close(sys.sealed_memfd('plan', b'data'))\n"
        "flags = os.fstatvfs(fd).f_flag\n"
        "assert flags & os.ST_RDONLY and flags & os.ST_NOSUID, flags\n"
        "try: os.open(f'/proc/self/fd/{fd}', os.O_WRONLY)\n"
        "except OSError as error: assert error.errno == 30, error\n"
        "else: raise AssertionError\n"
        "pid, _ = sys.clone_stage(fd, [b'too few arguments'], [])\n"
        "assert os.waitpid(pid, 0)[1] >> 8 == 2\n"
    )
    command = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", executable, "-P", "-c", script]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(ocipy.__file__))}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")


# ---- descriptors ---------------------------------------------------------------------------------------------------------


def test_a_lock_is_seen_while_another_description_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    ours, theirs = opened(path, os.O_RDWR), opened(path, os.O_RDWR)
    assert sys.ofd_lock_test(ours) is False
    whole = b"\1\0" + bytes(30)  # struct flock: F_WRLCK from 0 to the end
    fcntl.fcntl(theirs, 37, whole)  # F_OFD_SETLK
    assert sys.ofd_lock_test(ours) is True
    assert sys.ofd_lock_test(theirs) is False
    os.close(theirs)
    assert sys.ofd_lock_test(ours) is False
    os.close(ours)


def test_the_type_of_a_namespace_is_its_clone_flag() -> None:
    for name, flag in (("mnt", CLONE_NEWNS), ("user", CLONE_NEWUSER), ("uts", CLONE_NEWUTS)):
        fd = opened(f"/proc/self/ns/{name}")
        assert sys.namespace_type(fd) == flag
        os.close(fd)


def test_a_file_is_not_a_namespace() -> None:
    fd = opened("/dev/null")
    with pytest.raises(sys.CallError) as caught:
        sys.namespace_type(fd)
    os.close(fd)
    assert caught.value.errno == errno.ENOTTY


def test_poll_tells_what_happened_and_when_nothing_did() -> None:
    reader, writer = os.pipe()
    assert sys.poll([(reader, POLLIN)], 0) == []
    os.write(writer, b"x")
    assert sys.poll([(reader, POLLIN), (writer, 0)], -1) == [(reader, POLLIN)]
    os.close(writer)
    assert sys.poll([(reader, POLLIN)], -1) == [(reader, POLLIN | POLLHUP)]
    os.close(reader)


def test_poll_ends_when_a_signal_came() -> None:
    reader, writer = os.pipe()
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    assert sys.poll([(reader, POLLIN)], 60_000) == []
    signal.signal(signal.SIGALRM, old)
    os.close(reader)
    os.close(writer)


def test_a_range_of_descriptors_is_closed() -> None:
    def work() -> None:
        for number in (200, 201, 202):
            os.dup2(1, number)
        sys.close_range(201, 202)
        os.fstat(200)
        for number in (201, 202):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)

    in_mount_namespace(work, 0)


def test_openat2_does_not_leave_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("inside")
    (tmp_path / "link").symlink_to("/etc/passwd")
    root = opened(tmp_path, os.O_PATH)
    fd = sys.openat2(root, "../../link", os.O_RDONLY, sys.RESOLVE_IN_ROOT)
    assert os.read(fd, 99) == b"inside"
    os.close(fd)
    with pytest.raises(OSError, match="symbolic links") as caught:
        sys.openat2(root, "link", os.O_RDONLY, sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == errno.ELOOP
    fd = sys.openat2(root, "new", os.O_WRONLY | os.O_CREAT, sys.RESOLVE_BENEATH, 0o600)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)
    os.close(root)


# ---- settings of another process ---------------------------------------------------------------------------------------


@pytest.fixture
def sleeper(shell: int) -> Iterator[tuple[int, int]]:
    pid, pidfd = sys.clone_stage(shell, [b"sh", b"-c", b"exec /bin/sleep 100"], [])
    yield pid, pidfd
    sys.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(pidfd)


@pytest.mark.parametrize(("soft", "hard"), [(10, 20), (10, (1 << 64) - 1)], ids=["numbers", "infinite"])
def test_limits_of_a_process_are_set(sleeper: tuple[int, int], soft: int, hard: int) -> None:
    import resource

    sys.prlimit(sleeper[0], resource.RLIMIT_CPU, soft, hard)
    assert resource.prlimit(sleeper[0], resource.RLIMIT_CPU) == (soft, hard if hard < 1 << 63 else resource.RLIM_INFINITY)


@needs_root
def test_a_scheduler_is_set(sleeper: tuple[int, int]) -> None:
    sys.sched_setattr(sleeper[0], os.SCHED_FIFO, 1, 0, 7, 0, 0, 0)
    assert os.sched_getscheduler(sleeper[0]) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    assert os.sched_getparam(sleeper[0]).sched_priority == 7
    sys.sched_setattr(sleeper[0], os.SCHED_BATCH, 0, 5, 0, 0, 0, 0)
    assert os.sched_getscheduler(sleeper[0]) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, sleeper[0]) == 5
    with pytest.raises(sys.CallError) as caught:
        sys.sched_setattr(sleeper[0], os.SCHED_FIFO, 0, 0, 0, 0, 0, 0)
    assert (caught.value.call, caught.value.errno) == ("sched_setattr", errno.EINVAL)


@needs_root
def test_a_deadline_is_set(sleeper: tuple[int, int]) -> None:
    try:
        sys.sched_setattr(sleeper[0], 6, 0, 0, 0, 1_000_000, 20_000_000, 20_000_000)
    except sys.CallError as error:
        assert error.errno == errno.EBUSY  # noqa: PT017 - the machine has no bandwidth left to promise
    else:
        assert os.sched_getscheduler(sleeper[0]) == 6


def test_processors_of_a_process_are_set(sleeper: tuple[int, int]) -> None:
    cpu = max(os.sched_getaffinity(0))
    sys.sched_setaffinity(sleeper[0], (1 << cpu).to_bytes(16, sys.BYTE_ORDER))
    assert os.sched_getaffinity(sleeper[0]) == {cpu}


def test_an_io_priority_is_set(sleeper: tuple[int, int]) -> None:
    sys.ioprio_set(1, sleeper[0], 2 << 13 | 6)
    shown = subprocess.run(["ionice", "-p", str(sleeper[0])], check=True, capture_output=True, text=True).stdout
    assert shown == "best-effort: prio 6\n"


def test_a_pidfd_becomes_readable_when_the_process_ends(shell: int) -> None:
    pid, own = sys.clone_stage(shell, [b"sh", b"-c", b"read x"], [])
    pidfd = sys.pidfd_open(pid)
    sys.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert sys.poll([(pidfd, POLLIN)], 10_000) == [(pidfd, POLLIN)]
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        sys.pidfd_open(pid)
    os.close(own)
    os.close(pidfd)


# ---- mounts --------------------------------------------------------------------------------------------------------------


@needs_root
def test_a_detached_tree_is_made_read_only_and_attached(tmp_path: Path) -> None:
    def work() -> None:
        for name in ("from", "to"):
            (tmp_path / name).mkdir()
        tree = sys.open_tree(sys.AT_FDCWD, str(tmp_path / "from"), sys.OPEN_TREE_CLONE | sys.AT_RECURSIVE)
        flags = sys.AT_EMPTY_PATH | sys.AT_RECURSIVE
        sys.mount_setattr(tree, "", flags, sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID, propagation=MS_PRIVATE)
        sys.mount_setattr(tree, "", flags, 0, sys.MOUNT_ATTR_NOSUID)
        target = opened(tmp_path / "to", os.O_PATH)
        sys.move_mount(tree, "", target, "", sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_EMPTY_PATH)
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "to" / "x").touch()
        assert not os.statvfs(tmp_path / "to").f_flag & os.ST_NOSUID
        sys.umount2(str(tmp_path / "to"), MNT_DETACH)
        (tmp_path / "to" / "x").touch()

    in_mount_namespace(work)


@needs_root
def test_a_file_system_is_made_from_options(tmp_path: Path) -> None:
    def work() -> None:
        context = sys.fsopen("tmpfs")
        sys.fsconfig(context, "size", "64k")
        sys.fsconfig(context, "mode", "711")
        sys.fsconfig(context, "ro")
        sys.fsconfig(context)
        tree = sys.fsmount(context, sys.MOUNT_ATTR_NODEV)
        assert stat.S_IMODE(os.fstat(tree).st_mode) == 0o711
        assert os.fstatvfs(tree).f_blocks * os.fstatvfs(tree).f_frsize == 65536
        with pytest.raises(sys.CallError) as caught:
            sys.fsconfig(context, "no such option", "1")
        assert caught.value.call == "fsconfig"
        with pytest.raises(sys.CallError) as caught:
            sys.fsopen("no such file system")
        assert caught.value.errno == errno.ENODEV

    in_mount_namespace(work)


@needs_root
def test_the_old_mount_works_too(tmp_path: Path) -> None:
    def work() -> None:
        sys.mount("none", str(tmp_path), "tmpfs", 0, "size=64k")
        assert os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize == 65536
        sys.umount2(str(tmp_path))
        with pytest.raises(sys.CallError) as caught:
            sys.umount2(str(tmp_path))
        assert (caught.value.call, caught.value.errno) == ("umount2", errno.EINVAL)

    in_mount_namespace(work)


@needs_root
def test_a_procfs_of_our_own_has_what_was_asked_for_and_nothing_over_it() -> None:
    def work() -> None:
        sys.mount("none", "/proc/sys", "tmpfs", 0)
        for subset_pid in (False, True):
            proc = sys.detached_proc(subset_pid=subset_pid)
            assert os.readlink("self", dir_fd=proc) == str(os.getpid())
            assert os.path.exists(f"/proc/self/fd/{proc}/sys/kernel/hostname") is not subset_pid
            os.close(proc)

    in_mount_namespace(work)


@needs_root
def test_a_procfs_that_somebody_put_in_place_is_not_believed() -> None:
    def work() -> None:
        sys.mount("none", "/proc", "tmpfs", 0)
        proc = sys.detached_proc()  # of our own: what is mounted on /proc does not matter
        assert os.readlink("self", dir_fd=proc) == str(os.getpid())
        sys._own_proc = denied
        with pytest.raises(PermissionError):
            sys.detached_proc()
        sys.mount("/bin", "/proc", None, MS_BIND)
        with pytest.raises(PermissionError):
            sys.detached_proc()

    in_mount_namespace(work)


def denied(subset_pid: bool) -> int:
    raise sys._failure("fsopen", "proc", errno=errno.EPERM)


@needs_root
def test_without_a_procfs_of_our_own_it_is_a_clone_without_what_was_mounted_below() -> None:
    def work() -> None:
        sys.mount("none", "/proc/sys", "tmpfs", 0)
        sys._own_proc = denied
        proc = sys.detached_proc()
        assert os.path.exists(f"/proc/self/fd/{proc}/sys/kernel/hostname")

    in_mount_namespace(work)


@needs_root
def test_in_a_user_namespace_without_a_pid_namespace_procfs_is_still_found() -> None:
    def work() -> None:
        sys.mount("none", "/proc/sys", "tmpfs", 0)
        sys.unshare(CLONE_NEWUSER)
        proc = sys.detached_proc()
        assert os.readlink("self", dir_fd=proc) == str(os.getpid())

    in_mount_namespace(work)


def test_a_directory_below_procfs_is_not_its_root() -> None:
    fd = opened("/proc/sys", os.O_PATH)
    with pytest.raises(FileNotFoundError):
        sys._checked_proc(fd)


@needs_root
def test_a_device_is_opened_only_as_what_it_is(tmp_path: Path) -> None:
    def work() -> None:
        tree = sys.open_device_tree("/dev/null", "c", 1, 3)
        (tmp_path / "null").touch()
        target = opened(tmp_path / "null", os.O_PATH)
        sys.move_mount(tree, "", target, "", sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_EMPTY_PATH)
        assert os.stat(tmp_path / "null").st_rdev == os.makedev(1, 3)
        for kind, major, minor in (("c", 1, 5), ("b", 1, 3)):
            with pytest.raises(sys.CallError) as caught:
                sys.open_device_tree("/dev/null", kind, major, minor)
            assert (caught.value.call, caught.value.errno) == ("verify", errno.ENODEV)
        with pytest.raises(sys.CallError):
            sys.open_device_tree("/proc/version", "c", 1, 3)

    before = open_fds()
    in_mount_namespace(work)
    assert open_fds() == before


@needs_root
def test_an_idmapped_mount_shows_the_ids_of_the_maps(tmp_path: Path) -> None:
    def work() -> None:
        sys.mount("none", str(tmp_path), "tmpfs", 0)
        (tmp_path / "file").touch()
        userns = sys.userns_with_maps(b"0 1000 10\n", b"0 2000 10\n")
        assert sys.namespace_type(userns) == CLONE_NEWUSER
        tree = sys.open_tree(sys.AT_FDCWD, str(tmp_path), sys.OPEN_TREE_CLONE)
        sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH, sys.MOUNT_ATTR_IDMAP, userns_fd=userns)
        info = os.stat("file", dir_fd=tree)
        assert (info.st_uid, info.st_gid) == (1000, 2000)

    in_mount_namespace(work)


@needs_root
@pytest.mark.parametrize(
    ("uid", "gid", "call"),
    [(b"nonsense", b"0 0 1", "write(uid_map)"), (b"0 0 1", b"", "write(gid_map)")],
    ids=["uid_map", "gid_map"],
)
def test_maps_that_the_kernel_refuses_are_raised_and_no_process_stays(uid: bytes, gid: bytes, call: str) -> None:
    with pytest.raises(sys.CallError) as caught:
        sys.userns_with_maps(uid, gid)
    assert (caught.value.call, caught.value.errno) == (call, errno.EINVAL)


def test_a_namespace_is_left_and_joined_again() -> None:
    def work() -> None:
        before = os.readlink("/proc/self/ns/uts")
        fd = opened("/proc/self/ns/uts")
        sys.unshare(CLONE_NEWUTS)
        assert os.readlink("/proc/self/ns/uts") != before
        sys.setns(fd, CLONE_NEWUTS)
        assert os.readlink("/proc/self/ns/uts") == before

    if os.geteuid():
        pytest.skip("needs root to make a UTS namespace")
    in_mount_namespace(work, 0)


# ---- sockets ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    fds = sys.socketpair_seqpacket()
    yield fds
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


def test_messages_keep_their_bounds_and_carry_descriptors(pair: tuple[int, int], tmp_path: Path) -> None:
    files = [opened(tmp_path, os.O_PATH) for _ in range(16)]
    for fds in ([], files[:1], files):
        sys.sendmsg_fd(pair[0], b"message", fds)
        data, got = sys.recvmsg_fds(pair[1], 100)
        assert (data, len(got)) == (b"message", len(fds))
        for fd in got:
            assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path)
            assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
            os.close(fd)
    with pytest.raises(sys.CallError) as caught:
        sys.sendmsg_fd(pair[0], b"message", [files[0]] * 17)
    assert caught.value.errno == errno.EINVAL
    for fd in files:
        os.close(fd)


def test_a_message_that_does_not_fit_is_an_error_and_its_descriptors_are_closed(pair: tuple[int, int]) -> None:
    sys.sendmsg_fd(pair[0], b"too long", [0])
    with pytest.raises(sys.CallError) as caught:
        sys.recvmsg_fds(pair[1], 3)
    assert (caught.value.call, caught.value.errno) == ("recvmsg", errno.EMSGSIZE)


def test_more_descriptors_than_fit_are_an_error_and_are_closed(pair: tuple[int, int]) -> None:
    with socket.socket(fileno=os.dup(pair[0])) as sock:
        socket.send_fds(sock, [b"x"], [0] * 40)
    with pytest.raises(sys.CallError) as caught:
        sys.recvmsg_fds(pair[1], 3)
    assert caught.value.errno == errno.EMSGSIZE


def test_the_end_of_the_peer_is_no_data(pair: tuple[int, int]) -> None:
    os.close(pair[0])
    assert sys.recvmsg_fds(pair[1], 10) == (b"", [])
    with pytest.raises(BrokenPipeError):
        sys.sendmsg_fd(pair[1], b"x", [])


def test_a_peer_that_is_gone_does_not_end_us_with_a_signal() -> None:
    def work() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.close()
        with pytest.raises(BrokenPipeError):
            sys.sendmsg_fd(ours.fileno(), b"x", [])

    in_mount_namespace(work, 0)


def test_what_the_peer_said_comes_before_its_end_though_it_did_not_listen(pair: tuple[int, int]) -> None:
    sys.sendmsg_fd(pair[1], b"never read", [])
    sys.sendmsg_fd(pair[0], b"last words", [])
    os.close(pair[0])
    assert sys.recvmsg_fds(pair[1], 10) == (b"last words", [])
    assert sys.recvmsg_fds(pair[1], 10) == (b"", [])


def test_a_socket_deeper_than_108_bytes_is_bound_and_found(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    directory = opened(deep, os.O_PATH | os.O_DIRECTORY)
    server = sys.listen_unix(directory, "start")
    client = sys.connect_unix(directory, "start")
    with socket.socket(fileno=server) as sock, socket.socket(fileno=client) as end:
        accepted, _ = sock.accept()
        assert end.type == socket.SOCK_SEQPACKET
        end.send(b"GO")
        assert accepted.recv(10) == b"GO"
        accepted.close()
    with pytest.raises(OSError, match="in use"):
        sys.listen_unix(directory, "start")
    with pytest.raises(ConnectionRefusedError):
        sys.connect_unix(directory, "start")
    with pytest.raises(FileNotFoundError):
        sys.connect_unix(directory, "other")
    os.close(directory)


@pytest.mark.parametrize("length", [1, 150], ids=["short", "longer than an address"])
def test_a_console_socket_of_any_length_is_found(tmp_path: Path, length: int) -> None:
    directory = tmp_path / ("x" * length)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        here = os.getcwd()
        os.chdir(directory)
        server.bind("s")
        os.chdir(here)
        server.listen()
        fd = sys.connect_unix_stream(str(directory / "s"))
        with socket.socket(fileno=fd) as client:
            accepted, _ = server.accept()
            sys.sendmsg_fd(client.fileno(), b"name", [0])
            assert accepted.recv(10) == b"name"
            accepted.close()
    with pytest.raises(FileNotFoundError):
        sys.connect_unix_stream(str(directory / "none"))


# ---- terminals -----------------------------------------------------------------------------------------------------------


def test_a_terminal_is_made_raw_and_restored() -> None:
    master, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    saved = sys.set_raw(terminal)
    raw = termios.tcgetattr(terminal)
    assert before[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    assert not raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    assert not raw[1] & termios.OPOST
    sys.restore_termios(terminal, saved)
    assert termios.tcgetattr(terminal) == before
    os.close(master)
    os.close(terminal)


def test_the_size_of_a_terminal_is_copied() -> None:
    master, terminal = os.openpty()
    sys.set_winsize(master, (40, 120, 1, 2))
    assert sys.get_winsize(terminal) == (40, 120, 1, 2)
    os.close(master)
    os.close(terminal)


def test_a_file_is_no_terminal() -> None:
    fd = opened("/dev/null")
    for work in (lambda: sys.set_raw(fd), lambda: sys.get_winsize(fd)):
        with pytest.raises(sys.CallError) as caught:
            work()
        assert caught.value.errno == errno.ENOTTY
    os.close(fd)
