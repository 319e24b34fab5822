"""Signals for a container, through pidfds: a pid that was reused is never hit."""

from __future__ import annotations

import errno
import os

from ocipy import warning
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

    With ``everyone`` it is no error that nobody is left. SIGKILL reaches a paused container too, and all of a container that
    shares its pid namespace: without a namespace of its own nothing else would end the processes that init leaves.
    Raises NotRunningError, StateError, CgroupError.
    """
    record = entry.read()
    if record.status == CREATING:
        raise NotRunningError(record.id, "it is being created")
    pidfd = liveness(record)
    try:
        reached = 0
        if everyone or (signal == SIGKILL and not record.own_pid_namespace):
            reached = signal_all(record.cgroup_paths, signal)
        if warning.tell and reached:
            warning.tell("info", f"container {record.id}: signal {signal} to {reached} processes of its cgroup")
        if reached or (everyone and pidfd is None):
            return
        if pidfd is None:
            raise NotRunningError(record.id)
        send(pidfd, signal, record.id)
        if warning.tell:
            warning.tell("info", f"container {record.id}: signal {signal} to its init, pid {record.pid}")
        if signal == SIGKILL and is_frozen(record):
            thaw(record)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def send(pidfd: int, signal: int, container_id: str) -> None:
    """Signal one process. Raises NotRunningError, StateError."""
    from ocipy.linux import sys

    try:
        sys.pidfd_send_signal(pidfd, signal)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise NotRunningError(container_id) from None
        raise StateError(f'cannot signal container "{container_id}" with {signal}: {strerror(error.errno or 0)}') from None


def thaw(record: Record) -> None:
    """Let a frozen container run: it cannot die otherwise."""
    from ocipy.linux import cgroups

    cgroups.thaw(record.cgroup_paths)


def signal_all(paths: dict[str, str], signal: int) -> int:
    """Signal every process in the container's cgroup; returns how many. Raises StateError when the cgroup is not its own."""
    if not paths:
        return 0
    from ocipy.linux import cgroups

    if not {1, os.getpid()}.isdisjoint(cgroups.pids(paths)):
        raise StateError(f"will not signal all of the cgroup {next(iter(paths.values()))}: the host's own processes are in it")
    return cgroups.kill_all(paths, signal)
