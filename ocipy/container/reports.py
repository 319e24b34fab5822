"""The messages of the sync protocol, which is drawn at the top of _native/init.c."""

from __future__ import annotations

from _struct import Struct

from ocipy.plan.reports import REPORTS

REPORT = Struct("<IIIIQ")  # kind, step, call, errno, value
SYNC, ERROR, WARNING, PID, CONSOLE, LISTENER, READY, EXECUTING, ACK, GO, STEP = range(1, len(REPORTS) + 1)


def message(kind: int) -> bytes:
    """A report that carries nothing but its kind."""
    return REPORT.pack(kind, 0, 0, 0, 0)
