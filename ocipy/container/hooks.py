"""The hooks that run in the runtime's namespaces: prestart, createRuntime, poststart, poststop (config.md, POSIX-platform Hooks).

A hook gets the state on standard input, only the environment of its own entry, default signals, a process group of its own, and the
bundle as its directory; it does not outlive the runtime. Both ends of its stdio are memory files, so that a hook that neither
reads nor stops writing blocks nobody.
"""

from __future__ import annotations

import errno
import os
import time

from ocipy import warning
from ocipy.errors import HookError
from ocipy.linux import sys as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TAIL = 4096  # bytes of a failed hook's output that its error shows
_MFD_NOEXEC_SEAL = 8


def run_hooks(config: Any, kind: str, state: bytes, bundle: str = "") -> None:
    """All hooks of one kind, in order. Raises HookError at the first that fails."""
    for index, hook in enumerate((config.get("hooks") or {}).get(kind) or ()):
        run_hook(hook, state, f"/hooks/{kind}/{index}", kind, bundle)


def run_hook(hook: Any, state: bytes, pointer: str, kind: str, bundle: str) -> None:
    """Run one hook (``path``, ``args``, ``env``, ``timeout`` in seconds) to its end.

    Raises HookError, after killing the hook's process group when its time is over.
    """
    name = f"{kind} hook {pointer.rpartition('/')[2]} {hook['path']}"
    began = time.monotonic()
    stdin, output = memory_file("state"), memory_file("output")
    try:
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        try:
            pid = _spawn(hook, bundle, stdin, output)
        except OSError as error:
            raise HookError(error.errno or 0, name, "execve", pointer) from None
        problem = _wait(pid, hook.get("timeout") or 0)
        if warning.tell:
            warning.tell("debug", f"{name}: {problem or 'succeeded'}, after {(time.monotonic() - began) * 1000:.1f} ms")
        if problem:
            raise HookError(0, name, "", pointer, problem + _tail(output))
    finally:
        os.close(stdin)
        os.close(output)


def memory_file(name: str) -> int:
    """A new file in memory."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)  # vm.memfd_noexec=2 allows no other
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, os.MFD_CLOEXEC)  # before Linux 6.3


def _spawn(hook: Any, bundle: str, stdin: int, output: int) -> int:
    try:
        here = os.open(bundle or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # a poststop hook runs even when the bundle is gone
    try:
        args, environment = hook.get("args") or [hook["path"]], hook.get("env") or []
        return kernel.spawn_hook(hook["path"], args, environment, directory=here, stdin=stdin, output=output)
    finally:
        os.close(here)


def _ends_in_time(pid: int, timeout: int) -> bool:
    """Not by waitpid(): that would not end for Ctrl-C while Python is not whole (boot.py)."""
    deadline = time.monotonic() + timeout
    left, pidfd = -1, os.pidfd_open(pid)
    try:
        while True:
            if timeout:
                left = max(0, min(int((deadline - time.monotonic()) * 1000) + 1, (1 << 31) - 1))
            if kernel.poll([(pidfd, kernel.POLLIN)], left):
                return True
            if timeout and time.monotonic() >= deadline:
                return False
    finally:
        os.close(pidfd)


def _wait(pid: int, timeout: int) -> str:
    """Why the hook failed, or ""."""
    if not _ends_in_time(pid, timeout):
        os.killpg(pid, 9)  # not reaped yet: the group is still the hook's
        os.waitpid(pid, 0)
        return f"killed after its timeout of {timeout} s"
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        from ocipy.container.signals import signal_name

        return f"ended by {signal_name(-code)}"
    return f"exit status {code}" if code else ""


def _tail(output: int) -> str:
    size = os.fstat(output).st_size
    text = os.pread(output, TAIL, max(0, size - TAIL)).decode("utf-8", "replace").strip()
    return f", output: {'…' if size > TAIL else ''}{' | '.join(text.splitlines())}" if text else ", no output"
