"""Signals for a container, through pidfds: a pid that was reused is never hit."""

from __future__ import annotations

import errno
import os
from _signal import pidfd_send_signal  # type: ignore[import-not-found]

from ocipy.container.record import CREATING
from ocipy.container.signals import SIGKILL
from ocipy.container.state import is_frozen, liveness
from ocipy.errors import NotRunningError, StateError, strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.container.record import Record
    from ocipy.container.store import Entry


def kill(entry: Entry, signal: int, *, everyone: bool = False) -> None:
    """Send ``signal`` to init, or to ``everyone`` in the container's cgroup (runtime.md, kill).

    SIGKILL reaches a paused container too, and all of a container that shares its pid namespace: without a namespace of its
    own nothing else would end the processes that init leaves. Raises NotRunningError, StateError.
    """
    record = entry.read()
    if record.status == CREATING:
        raise NotRunningError(record.id, "it is being created")
    pidfd = liveness(record)
    if everyone or (signal == SIGKILL and not record.own_pid_namespace):
        reached = signal_all(record, signal)
        if pidfd is None and not reached:
            raise NotRunningError(record.id)
    if pidfd is None:
        if not everyone:
            raise NotRunningError(record.id)
        return
    if not everyone or not record.cgroup_paths or signal == SIGKILL:
        send(pidfd, signal, record.id)
    if signal == SIGKILL and is_frozen(record):
        thaw(record)


def send(pidfd: int, signal: int, container_id: str) -> None:
    """Signal one process. Raises NotRunningError, StateError."""
    try:
        pidfd_send_signal(pidfd, signal)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise NotRunningError(container_id) from None
        raise StateError(f'cannot signal container "{container_id}" with {signal}: {strerror(error.errno or 0)}') from None


def thaw(record: Record) -> None:
    """Let a frozen container run: it cannot die otherwise."""
    from ocipy.linux import cgroups

    cgroups.thaw(record.cgroup_paths)


def signal_all(record: Record, signal: int) -> int:
    """Signal every process in the container's cgroup; returns how many.

    What a process forks meanwhile is found by looking again, until a look finds nobody new.
    """
    if not record.cgroup_paths:
        return 0
    from ocipy.linux import cgroups

    reached: set[int] = set()
    while True:
        new = [pid for pid in cgroups.processes(record.cgroup_paths) if pid not in reached]
        if not new:
            return len(reached)
        pidfds = {pid: pidfd for pid in new if (pidfd := _open(pid)) is not None}
        # Who is still a member now that its pidfd is open is the one we mean.
        members = set(cgroups.processes(record.cgroup_paths))
        for pid, pidfd in pidfds.items():
            if pid in members:
                try:
                    pidfd_send_signal(pidfd, signal)
                except ProcessLookupError:
                    pass
            os.close(pidfd)
        reached.update(new)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
