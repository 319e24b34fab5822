"""Undo create (runtime.md, delete, steps 11 to 13): processes, cgroups, mounts, poststop hooks, and the state directory last.

What to undo is what the record names, never what is found there, and a delete that is killed can be run again.
"""

from __future__ import annotations

import errno
import os
import time

from ocipy import warning
from ocipy.container.kill import send, signal_all, thaw
from ocipy.container.record import CREATING, Record
from ocipy.container.signals import SIGKILL, SIGSTOP
from ocipy.container.state import is_frozen, liveness, open_process, runtime_liveness, status_alive, waits_for_start
from ocipy.container.store import boot_id
from ocipy.errors import CgroupError, MountError, NotFoundError, NotRunningError, StateError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.container.store import Entry

MNT_DETACH = 2
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
ROUNDS = 100  # other commands that may come before us
PATIENCE = 10_000  # milliseconds that a killed process may take to die
SOON = 200  # milliseconds after which a killed process may be in a frozen cgroup of its own making


def delete(entry: Entry, *, force: bool = False) -> None:
    """Delete a stopped or created container; with ``force`` a running one, a damaged one, and one that is being created.

    Raises StateError when it runs, is in use, or does not die; NotFoundError when it is gone meanwhile; errors of cgroups. Then the
    record stays for another try.
    """
    record = _read(entry, force=force)
    if not force and record.status == CREATING:
        _refuse_live_create(record)
    _lock(entry, record, force=force)
    record = _read(entry, force=force)  # it may have changed while we waited for the lock
    _end_init(entry, record, force=force)
    _remove(entry, record)


def undo(entry: Entry, record: Record) -> None:
    """Everything that ``record`` names goes, whatever runs: for a create that failed and a run that ended. The lock is ours."""
    _end_init(entry, record, force=True)
    _remove(entry, record)


def stop(record: Record) -> None:
    """End a container's init and keep the rest, after a poststart hook that failed. Raises StateError when it does not die."""
    pidfd = liveness(record)
    if pidfd is not None:
        _kill_init(record, pidfd)
        os.close(pidfd)


def _remove(entry: Entry, record: Record) -> None:
    if warning.tell:
        left = [*record.made_cgroups, *record.mounts]
        warning.tell("debug", f"container {record.id}: nothing of it runs; to remove: {', '.join(left) or 'its state'}")
    _remove_resources(record)
    if record.hooks_after:
        _run_poststop(entry, record)
    entry.remove()
    if warning.tell:
        warning.tell("info", f"container {record.id}: deleted")


def _read(entry: Entry, *, force: bool) -> Record:
    try:
        return entry.read()
    except NotFoundError:
        raise
    except StateError:
        if not force:
            raise
        return entry.remains()


def _refuse_live_create(record: Record) -> None:
    pidfd = runtime_liveness(record)
    if pidfd is not None:
        os.close(pidfd)
        raise StateError(
            f'cannot delete container "{record.id}": it is being created by pid {record.runtime_pid}; wait, or use delete --force'
        )


def _lock(entry: Entry, record: Record, *, force: bool) -> None:
    """The lock of commands. With ``force`` a creating runtime is killed for it; for another command to end, init is."""
    for _ in range(ROUNDS):
        try:
            return entry.lock(wait=False)
        except NotFoundError:
            raise
        except StateError:
            if not force:
                raise
        pid, started, creating = entry.holder()
        holder = open_process(pid, started, boot_id())
        if holder is None:
            time.sleep(0.001)  # it has just ended, or is about to write its pid
            continue
        if creating:
            _kill_runtime(pid, holder, entry.id)
        elif (init := liveness(record)) is not None:
            send_kill(init, entry.id)
            os.close(init)
        gone = wait_for_exit(holder, PATIENCE)
        os.close(holder)
        if not gone:
            raise StateError(f'container "{entry.id}" is in use by another command (pid {pid}), which does not end')
    entry.lock(wait=False)


def _kill_runtime(pid: int, pidfd: int, container_id: str) -> None:
    """SIGKILL for a creating runtime and what it has started: a hook would outlive it."""
    try:
        send(pidfd, SIGSTOP, container_id)  # stopped, it neither starts nor reaps children: their pids stay theirs
    except NotRunningError:
        return
    for child in _children(pid):
        try:
            if os.getpgid(child) == child:
                os.killpg(child, SIGKILL)
            else:
                os.kill(child, SIGKILL)
        except ProcessLookupError:
            continue
    send_kill(pidfd, container_id)


def _children(pid: int) -> list[int]:
    """Not by /proc/PID/task/PID/children, which few kernels have."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        if parent == str(pid):
            found.append(int(name))
    return found


def _end_init(entry: Entry, record: Record, *, force: bool) -> None:
    """Nothing of the container runs afterwards. Raises StateError when something does."""
    pidfd = liveness(record)
    if pidfd is not None:
        if not force and record.status != CREATING:
            state = status_alive(entry, record)
            if state != "created":
                raise StateError(f'cannot delete container "{record.id}" that is not stopped: {state}')
        _kill_init(record, pidfd)
        os.close(pidfd)
    if not record.pid and waits_for_start(entry):
        _kill_nameless_init(entry)
    if not (record.pid and record.own_pid_namespace and record.status != CREATING):
        signal_all(_made(record), SIGKILL)


def _kill_init(record: Record, pidfd: int) -> None:
    if warning.tell:
        warning.tell("debug", f"container {record.id}: SIGKILL to its init, pid {record.pid}")
    send_kill(pidfd, record.id)
    if is_frozen(record):
        thaw(record)
    if wait_for_exit(pidfd, SOON):
        return
    signal_all(_made(record), SIGKILL)  # which also thaws what the container froze itself, below its own cgroup
    if not wait_for_exit(pidfd, PATIENCE - SOON):
        raise StateError(
            f'process {record.pid} of container "{record.id}" does not die {PATIENCE // 1000} s after SIGKILL '
            f"({_doing(record.pid)}); its record is kept, delete it again when the process is gone"
        )


def _kill_nameless_init(entry: Entry) -> None:
    """Kill the init that holds its lock although no record names it. Raises StateError when that is not to be found."""
    want = os.stat("init.lock", dir_fd=entry.dirfd)
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid() and _holds(name, want):
            pidfd = os.pidfd_open(int(name))
            if _holds(name, want):  # still, now that the pidfd holds the pid
                send_kill(pidfd, entry.id)
                wait_for_exit(pidfd, PATIENCE)
            os.close(pidfd)
    if waits_for_start(entry):
        raise StateError(f'container "{entry.id}" has a live init that its damaged state does not name: find and kill it')


def _holds(pid: str, want: os.stat_result) -> bool:
    """Whether a process holds a lock on the file; one that only has it open does not."""
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for fd in fds:
        try:
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), want):
                with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
                    if "OFDLCK" in file.read():
                        return True
        except OSError:
            continue
    return False


def _made(record: Record) -> dict[str, str]:
    """The container's cgroups that we made: in others there may be processes that are not ours."""
    return {name: path for name, path in record.cgroup_paths.items() if path in record.made_cgroups}


def send_kill(pidfd: int, container_id: str) -> None:
    """SIGKILL; who is dead already is no error."""
    try:
        send(pidfd, SIGKILL, container_id)
    except NotRunningError:
        pass


def wait_for_exit(pidfd: int, milliseconds: int) -> bool:
    """Whether the process ends within the time."""
    from select import POLLIN, poll  # one C function; the shim would cost ten times the import

    poller = poll()
    poller.register(pidfd, POLLIN)
    return bool(poller.poll(milliseconds))


def _doing(pid: int) -> str:
    """What a process that will not die is waiting in, as far as /proc tells."""
    words = []
    for name in ("stat", "wchan"):
        try:
            with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
                words.append(file.read(4096))
        except OSError:
            return "nothing more is known"
    state = words[0].rpartition(")")[2].split()[0]
    return f"state {state}, in {words[1] or 'user space'}"


def _remove_resources(record: Record) -> None:
    if record.made_cgroups:
        from ocipy.linux import cgroups

        _stop_unit(record)
        cgroups.remove(record.made_cgroups)
    for path in reversed(record.mounts):
        _unmount(record.rootfs, path)
    for path in reversed(record.made_resctrl):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StepError(error.errno or 0, f"remove the group {path}", "rmdir", "/linux/intelRdt") from None


def _stop_unit(record: Record) -> None:
    """systemd forgets the unit, if it was not there before us. One that is not to be reached is no reason to keep the rest."""
    unit, made = record.extra.get("unit"), _made(record).values()
    if not isinstance(unit, dict) or not made:
        return
    from ocipy.linux import cgroups

    try:
        cgroups.stop_unit(unit)
    except CgroupError as error:
        if any(os.path.isdir(path) for path in made):
            warning.warn(str(error))


def _unmount(rootfs: str, path: str) -> None:
    """Take a mount below ``rootfs`` off. The path is resolved in there: the container may have put links in its way."""
    from ocipy.linux import sys as kernel

    inside = path[len(rootfs) :].strip("/") if path.startswith(rootfs + "/") else ""
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            point = kernel.openat2(root, inside or ".", os.O_PATH | os.O_CLOEXEC, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        finally:
            os.close(root)
        try:
            kernel.umount2(f"/proc/self/fd/{point}", MNT_DETACH)
        finally:
            os.close(point)
    except OSError as error:
        # Never made, gone with its parent, or hidden by the container: then what is there is not ours to unmount.
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise MountError(error.errno or 0, f"unmount {path}", "umount2") from None


def _run_poststop(entry: Entry, record: Record) -> None:
    """Each poststop hook; a failure is a warning and the next one runs (runtime.md, step 13)."""
    from ocipy.container.hooks import run_hook
    from ocipy.container.record import parse_json
    from ocipy.container.state import state_json
    from ocipy.errors import HookError

    try:
        config = parse_json(entry.read_config().decode("utf-8"))
        hooks = (config.get("hooks") or {}).get("poststop") or []
    except (StateError, ValueError, AttributeError) as error:
        return warning.warn(f"poststop hooks of container {record.id} cannot be read: {error}")
    state = state_json(record, "stopped", 0)
    for index, hook in enumerate(hooks):
        try:
            run_hook(hook, state, f"/hooks/poststop/{index}", "poststop", record.bundle)
        except HookError as error:
            warning.warn(str(error))
