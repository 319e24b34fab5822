"""ocipy run: create and start; in the foreground also wait and delete."""

from __future__ import annotations

import os

from ocipy.cli.create import make_request
from ocipy.container import foreground
from ocipy.container.lifecycle import Created, create
from ocipy.container.start import start
from ocipy.errors import NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


# Those that start and delete take, the first needed last.
LATER = ("ocipy.linux.cgroups.removal", "ocipy.container.delete", "ocipy.container.state")


def run(invocation: Invocation) -> int:
    """With --detach 0 once the program runs, else its exit code or 128 + signal."""
    request = make_request(invocation)
    request.meanwhile = list(LATER)
    ptmx: list[int] = []
    if not invocation["detach"]:
        request.on_console = ptmx.append
    if not invocation["detach"] and not invocation["no-subreaper"]:
        foreground.become_subreaper()
    created = create(request)
    from ocipy.container.delete import undo

    # Before the program runs: whoever hears of it may signal us.
    forwarder = foreground.Forwarder().to(created.pidfd) if not invocation["detach"] else None
    notify = None
    try:
        if os.environ.get("NOTIFY_SOCKET"):
            from ocipy.container.notify import open_notify

            notify = open_notify(created.entry)
        start(created.entry)
    except BaseException:
        undo(created.entry, created.record)
        raise
    created.entry.unlock()
    if forwarder is None:
        if notify is not None:
            notify.wait_ready(created.record.pid, created.pidfd)
        return 0
    if notify is not None:
        notify.follow()
    code = foreground.wait(forwarder, created.record.pid, *ptmx)
    if notify is not None:
        notify.drain()
    if not invocation["keep"]:
        _delete(created)
    return code


def _delete(created: Created) -> None:
    from ocipy.container.delete import undo

    try:
        created.entry.lock(wait=True)
    except NotFoundError:
        return  # somebody was faster
    undo(created.entry, created.record)
