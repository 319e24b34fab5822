"""Names of signals, without the enums of the standard library."""

from __future__ import annotations

from ocipy.errors import UsageError

# Their place is their number, on x86_64 and aarch64 alike.
_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ "
    "VTALRM PROF WINCH IO PWR SYS"
).split()
_ALIASES = {"IOT": 6, "CLD": 17, "POLL": 29}
_RTMIN, _RTMAX = 34, 64  # the C library keeps 32 and 33
SIGKILL, SIGTERM, SIGSTOP = 9, 15, 19


def parse_signal(text: str) -> int:
    """ "KILL", "SIGKILL", "kill", "9", "RTMIN+3", "SIGRTMAX-1" -> number, 0 to 64. Raises UsageError."""
    if text.isascii() and text.isdecimal() and len(text) < 4 and int(text) <= _RTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name in _NAMES:
        return _NAMES.index(name) + 1
    number = _ALIASES.get(name) or _parse_realtime(name)
    if number is None:
        raise UsageError(f'unknown signal "{text}"')
    return number


def _parse_realtime(name: str) -> int | None:
    base, sign, offset = name[:5], name[5:6], name[6:]
    if base not in ("RTMIN", "RTMAX") or sign not in ("", "+", "-") or bool(sign) != (offset.isascii() and offset.isdecimal()):
        return None
    number = (_RTMIN if base == "RTMIN" else _RTMAX) + int(sign + offset if sign else "0")
    return number if _RTMIN <= number <= _RTMAX else None


def signal_name(number: int) -> str:
    """9 -> "SIGKILL", 35 -> "SIGRTMIN+1"."""
    if 1 <= number <= len(_NAMES):
        return "SIG" + _NAMES[number - 1]
    return f"SIGRTMIN+{number - _RTMIN}" if number >= _RTMIN else str(number)
