"""--log and standard error: one line per error, in the formats that engines parse.

Podman reads the whole log of a failed command as one JSON object, so a failure is exactly one entry; pending warnings and
the JSON pointer go into extra keys of it. containerd loses an entry whose time is not RFC 3339.
"""

from __future__ import annotations

import os

from ocipy import warning
from ocipy.config.json_text import quote
from ocipy.container.record import now
from ocipy.errors import OcipyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation

_LONGEST = 5000  # letters of a message: more than the output of a hook that is told


def one_line(text: str) -> str:
    """``text`` with everything that could break the line, or play with a terminal, escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def shortened(text: str) -> str:
    """A name of 70,000 letters says no more than its ends; callers read the first words and the last."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def _entry(style: str, level: str, message: str, extra: dict[str, str]) -> str:
    pairs = {"level": level, "msg": message, "time": now(), **extra}
    if style == "json":
        return "{" + ",".join(f"{quote(key)}:{quote(value)}" for key, value in pairs.items()) + "}\n"
    rest = "".join(f" {key}={quote(value)}" for key, value in extra.items())
    return f"time={quote(pairs['time'])} level={level} msg={quote(message)}{rest}\n"


def _append(path: str, line: str) -> str:
    """Append to the log; returns why it could not be, or ""."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line.encode("ascii", "backslashreplace"))
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        return f" (and the log {path} could not be written: {error.strerror if isinstance(error, OSError) else error})"
    return ""


def _stderr(line: str) -> None:
    try:
        os.write(2, line.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody listens


def report(error: BaseException, invocation: Invocation, trace: str = "") -> None:
    """Tell ``error`` once in the log and once on standard error; never raises."""
    message = shortened(one_line(str(error) or type(error).__name__))
    extra: dict[str, str] = {}
    if isinstance(error, OcipyError) and error.pointer:
        extra["pointer"] = error.pointer
    if isinstance(error, OcipyError) and error.more:
        extra["more"] = "\n".join(error.more)
    warnings = warning.pending if _wants_warnings(invocation) else []
    if warnings:
        extra["warnings"] = "\n".join(warnings)
    if trace:
        extra["trace"] = trace
    path, style = invocation.flags.get("log", ""), invocation.flags.get("log-format", "text")
    if path:
        _stderr(f"ocipy: {message}{_append(path, _entry(style, 'error', message, extra))}\n")
    elif style == "json":
        _stderr(_entry(style, "error", message, extra))
    else:
        _stderr("".join(f"ocipy: warning: {one_line(text)}\n" for text in warnings))
        _stderr(f"ocipy: {message}\n")
        for line in error.more if isinstance(error, OcipyError) else ():
            _stderr(f"ocipy: {shortened(one_line(line))}\n")
        _stderr(trace)


def report_warnings(invocation: Invocation) -> None:
    """The warnings of a command that succeeded."""
    path, style = invocation.flags.get("log", ""), invocation.flags.get("log-format", "text")
    for text in warning.pending if _wants_warnings(invocation) else ():
        _tell(path, style, "warning", text)


def _wants_warnings(invocation: Invocation) -> bool:
    return invocation.flags.get("log-level") != "error" or bool(invocation.flags.get("debug"))


def _tell(path: str, style: str, level: str, text: str) -> None:
    """One entry that is no error; a log that cannot be written does not make the command fail."""
    message = shortened(one_line(text))
    if path:
        _append(path, _entry(style, level, message, {}))
    else:
        _stderr(_entry(style, level, message, {}) if style == "json" else f"ocipy: {level}: {message}\n")


def start_telling(invocation: Invocation) -> None:
    """From now on what the command does is told as it happens: --debug, or --log-level info or debug."""
    from ocipy import __version__

    path, style = invocation["log"], invocation["log-format"]
    debug = invocation["debug"] or invocation["log-level"] == "debug"

    def tell(level: str, text: str) -> None:
        if debug or level == "info":
            _tell(path, style, level, text)

    warning.tell = tell
    # Not the arguments of exec: there may be secrets among them.
    tell("debug", f"ocipy {__version__}, pid {os.getpid()}, kernel {os.uname().release}: {invocation.verb} {invocation.args[:1]}")
