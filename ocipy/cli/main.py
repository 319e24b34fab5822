"""The command: parse, import the one verb, run it, turn what went wrong into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys

from ocipy import warning
from ocipy.cli.options import FALSE, TRUE, Invocation, parse
from ocipy.errors import OcipyError, StepError, UsageError

EXEC_FAILURE = 255  # of exec itself, once its command line is understood: not to be taken for the program's code
_HIDDEN = "this kernel should have it: is there a sandbox around ocipy, such as a seccomp filter, that hides it?"


def main(argv: list[str]) -> int:
    """Run ``argv`` (without the program's name); returns the exit code. Never raises, never prints a traceback."""
    invocation = Invocation()
    code = _run(argv, invocation)
    if invocation.flags.get("trace"):
        from ocipy.cli import trace

        return trace.write(invocation, code)
    return code


def _run(argv: list[str], invocation: Invocation) -> int:
    begun = False
    try:
        parse(argv, invocation)
        if _answered(invocation):
            return 0
        _check_globals(invocation)
        if invocation["debug"] or invocation["log-level"] in ("info", "debug"):
            from ocipy.cli.log import start_telling

            start_telling(invocation)
        if invocation["trace"]:
            from ocipy.cli import trace

            trace.start()  # where boot.py has not
        warning.strict = invocation["strict"]
        begun = True
        name = "ocipy.cli." + invocation.verb
        __import__(name)
        code: int = sys.modules[name].run(invocation)
        if warning.pending:
            from ocipy.cli.log import report_warnings

            report_warnings(invocation)
        if warning.tell:
            warning.tell("debug", f"exit status {code}")
        return code
    except BaseException as error:  # a command answers with a line, whatever happened
        code = _fail(error, invocation)
        return EXEC_FAILURE if begun and invocation.verb == "exec" else code


def _answered(invocation: Invocation) -> bool:
    """Whether --help or --version was all that was asked for."""
    if invocation["help"]:
        from ocipy.cli.help import text

        write(text(invocation.verb))
        return True
    if invocation["version"] and not invocation.verb:
        from ocipy.cli.version import version

        write(version())
        return True
    return False


def _check_globals(invocation: Invocation) -> None:
    if invocation["log-format"] not in ("text", "json"):
        style, invocation.flags["log-format"] = invocation["log-format"], "text"
        raise UsageError(f"invalid log-format: {style} (text or json)")
    if invocation["log-level"] not in ("", "error", "warning", "info", "debug"):
        raise UsageError(f"invalid log-level: {invocation['log-level']} (error, warning, info or debug)")
    if invocation["cgroup-manager"] not in ("", "cgroupfs", "systemd", "disabled"):
        raise UsageError(f"invalid cgroup-manager: {invocation['cgroup-manager']} (cgroupfs, systemd or disabled)")
    # spec has a boolean of the same name
    if invocation["rootless"] not in ("", "auto", *TRUE, *FALSE, True, False):
        raise UsageError(f"invalid rootless: {invocation['rootless']} (true, false or auto)")


def _fail(error: BaseException, invocation: Invocation) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    from ocipy.cli.log import report

    if getattr(error, "errno", 0) == errno.ENOSYS:
        error = _too_old(error)
    trace = ""
    if not isinstance(error, OcipyError):
        if invocation.flags.get("debug"):
            import traceback

            trace = "".join(traceback.format_exception(error))
        error = _in_words(error)
    report(error, invocation, trace)
    return error.exit_code if isinstance(error, OcipyError) else 1


def _too_old(error: BaseException) -> BaseException:
    """A system call that the kernel does not know is explained by the kernel's age, where that is why."""
    from ocipy.linux.host import check_kernel

    try:
        check_kernel()
    except OcipyError as explained:
        return explained
    if isinstance(error, StepError) and not error.detail:
        error.detail = _HIDDEN
    return error


def _in_words(error: BaseException) -> BaseException:
    """An error that no layer put into words: name what is known, so that the line can be acted on."""
    if isinstance(error, KeyboardInterrupt):
        return OcipyError("interrupted")
    if isinstance(error, MemoryError):
        return OcipyError("out of memory: the memory limit of ocipy's own cgroup may be too small")
    if isinstance(error, OSError) and error.strerror:
        from ocipy.errors import strerror

        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        call = getattr(error, "call", "")
        hidden = f"; {_HIDDEN}" if error.errno == errno.ENOSYS else ""
        return OcipyError(f"{place}{call and call + ': '}{strerror(error.errno or 0)}{hidden}")
    return OcipyError(f"unexpected {type(error).__name__}: {error} (--debug tells where)")


def write(text: str) -> None:
    """Standard output, all of it. Raises OSError (a closed pipe)."""
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(1, data) :]
