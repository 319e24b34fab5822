"""ocipy start: the program of a created container is executed."""

from __future__ import annotations

import os

from ocipy.container.start import start, start_error
from ocipy.container.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Exit code 0 once execve has succeeded and the poststart hooks have."""
    entry = Store(invocation["root"]).open(invocation.args[0])
    entry.lock(wait=False)
    if answer := os.environ.get("OCIPY_START_REPORT"):
        raise start_error(entry, bytes.fromhex(answer))
    if not os.environ.get("NOTIFY_SOCKET"):
        start(entry)
        return 0
    from ocipy.container.notify import start_and_wait

    start_and_wait(entry)
    return 0
