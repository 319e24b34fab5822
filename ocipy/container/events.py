"""events: what a container uses, told once or again and again, and when it runs out of memory."""

from __future__ import annotations

import os
import time

from ocipy.container.state import liveness
from ocipy.errors import NotRunningError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.container.record import Record
    from ocipy.container.store import Entry

    Event = dict[str, Any]

HOUR = 3_600_000  # milliseconds: poll takes no more than an int


def events(entry: Entry, tell: Callable[[Event], None], interval: float) -> None:
    """Tell every OOM, and the stats each ``interval`` seconds, until the container ends; with an interval of 0 once, now.

    Raises NotRunningError, StateError, CgroupError.
    """
    record = entry.read()
    pidfd = liveness(record)
    if pidfd is None:
        raise NotRunningError(entry.id, "cannot tell its events")
    if not record.cgroup_paths:
        raise StateError(f'cannot tell the events of container "{entry.id}": it was made without a cgroup')
    if not interval:
        tell(stats_of(record))
    else:
        _follow(record, pidfd, tell, interval)
    os.close(pidfd)


def stats_of(record: Record) -> Event:
    """One event of type stats."""
    from ocipy.linux.cgroups.stats import read_stats

    return {"type": "stats", "id": record.id, "data": read_stats(record.cgroup_paths)}


def _follow(record: Record, pidfd: int, tell: Callable[[Event], None], interval: float) -> None:
    import gc
    import select

    from ocipy.linux.cgroups.oom import OomWatch

    gc.enable()  # this may take days
    watch, poll = OomWatch(record.cgroup_paths), select.poll()
    poll.register(pidfd, select.POLLIN)
    if watch.fd >= 0:
        poll.register(watch.fd, watch.mask)
    due = time.monotonic() + interval
    while True:
        left = max(due - time.monotonic(), 0)
        ready = [fd for fd, _ in poll.poll(min(left * 1000, HOUR))]
        if watch.fd in ready and watch.happened():
            tell({"type": "oom", "id": record.id})
        if pidfd in ready:
            return
        if time.monotonic() >= due:
            tell(stats_of(record))
            due = max(due + interval, time.monotonic())
