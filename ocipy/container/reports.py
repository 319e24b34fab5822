"""The messages of the sync protocol, which is drawn at the top of _native/init.c."""

from __future__ import annotations

from ocipy.plan.reports import REPORTS

SYNC, ERROR, WARNING, PID, CONSOLE, LISTENER, READY, EXECUTING, ACK, GO, STEP = range(1, len(REPORTS) + 1)


class REPORT:
    """kind, step, call and errno of 32 bits, a value of 64. Without the module struct: for many a Python that is a file to load."""

    size = 24

    @staticmethod
    def pack(kind: int, step: int, call: int, errno: int, value: int) -> bytes:
        """The bytes."""
        return (kind | step << 32 | call << 64 | errno << 96 | value << 128).to_bytes(24, "little")

    @staticmethod
    def unpack(data: bytes) -> tuple[int, int, int, int, int]:
        """Of 24 bytes, the numbers."""
        number, low = int.from_bytes(data, "little"), 0xFFFFFFFF
        return number & low, number >> 32 & low, number >> 64 & low, number >> 96 & low, number >> 128


def message(kind: int) -> bytes:
    """A report that carries nothing but its kind."""
    return REPORT.pack(kind, 0, 0, 0, 0)
