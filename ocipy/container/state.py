"""What a container is doing now, asked of the kernel: the record only says which process to ask about."""

from __future__ import annotations

import errno
import os

from ocipy import SPEC_VERSION
from ocipy.config.json_text import json_text
from ocipy.container.record import CREATING
from ocipy.container.store import boot_id, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.container.record import Record
    from ocipy.container.store import Entry


def liveness(record: Record) -> int | None:
    """A pidfd of the container's init, which the caller closes; None when init is gone, a zombie, or of another boot."""
    return open_process(record.pid, record.start_time, record.boot_id)


def runtime_liveness(record: Record) -> int | None:
    """The same for the process that creates, or created, the container."""
    return open_process(record.runtime_pid, record.runtime_start_time, record.boot_id)


def open_process(pid: int, started: int, boot: str) -> int | None:
    """A pidfd of ``pid`` if it is the process that began at ``started`` in boot ``boot`` and has not ended."""
    if not pid or not started or boot != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    # The pidfd holds the pid: what the pid names now is what the pidfd names, or it has ended.
    if start_time(pid) != started:
        os.close(pidfd)
        return None
    return pidfd


def status(entry: Entry, record: Record) -> str:
    """creating, created, running, paused or stopped (runtime.md, State)."""
    pidfd = runtime_liveness(record) if record.status == CREATING else liveness(record)
    if pidfd is None:
        return "stopped"  # a create that died is stopped too: its init dies with it, and delete clears up
    os.close(pidfd)
    return CREATING if record.status == CREATING else status_alive(entry, record)


def status_alive(entry: Entry, record: Record) -> str:
    """created, running or paused, of a container whose init is alive."""
    if is_frozen(record):
        return "paused"
    return "created" if waits_for_start(entry) else "running"


def is_frozen(record: Record) -> bool:
    """Whether the container's cgroup is frozen."""
    if not record.cgroup_paths:
        return False
    from ocipy.linux import cgroups

    return cgroups.is_frozen(record.cgroup_paths)


def waits_for_start(entry: Entry) -> bool:
    """Whether init holds its lock, which execve frees."""
    from ocipy.linux import sys

    try:
        fd = os.open("init.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=entry.dirfd)
    except FileNotFoundError:
        return False
    try:
        return sys.ofd_lock_test(fd)
    finally:
        os.close(fd)


def state_json(record: Record, state: str, pid: int) -> bytes:
    """The state of the specification (runtime.md), for hooks and the seccomp listener; pid 0 leaves it out."""
    members: dict[str, object] = {"ociVersion": SPEC_VERSION, "id": record.id, "status": state}
    if pid:
        members["pid"] = pid
    members["bundle"] = record.bundle
    if record.annotations:
        members["annotations"] = record.annotations
    return json_text(members).encode("ascii")


def report(entry: Entry, record: Record, owner: str = "") -> dict[str, object]:
    """What ``state`` and ``list`` tell, in the order and with the names that engines know from runc."""
    now = status(entry, record)
    members: dict[str, object] = {"ociVersion": SPEC_VERSION, "id": record.id}
    members["pid"] = 0 if now in ("stopped", CREATING) else record.pid
    members.update(status=now, bundle=record.bundle, rootfs=record.rootfs, created=record.created)
    if record.annotations:
        members["annotations"] = record.annotations
    members["owner"] = owner
    return members
