"""run and exec in the foreground: signals are passed on, a terminal is proxied, orphans are reaped, the exit code comes back."""

from __future__ import annotations

import os
from _signal import SIG_DFL, SIGWINCH, signal  # type: ignore[import-not-found]

from ocipy.linux import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Not SIGCHLD and SIGURG, which are about ourselves; not those that a program in trouble sends itself; not job control.
_FORWARDED = (1, 2, 3, 10, 12, 14, 15, 18, *range(34, 65))
POLLIN, POLLOUT, POLLHUP, POLLERR = 1, 4, 16, 8


def become_subreaper() -> None:
    """Orphans of the container become our children, so that none is left to somebody who does not know them."""
    import prctl

    prctl.set_child_subreaper(1)


class Forwarder:
    """Passes on our signals, from the moment it is made: those that come before there is a target wait for it."""

    __slots__ = ("pending", "pidfd")

    def __init__(self) -> None:
        self.pidfd = -1
        self.pending: list[int] = []
        for number in _FORWARDED:
            signal(number, self._forward)

    def _forward(self, number: int, _: Any) -> None:
        if self.pidfd < 0:
            self.pending.append(number)
            return
        try:
            sys.pidfd_send_signal(self.pidfd, number)
        except OSError:
            pass  # it has ended

    def to(self, pidfd: int) -> None:
        """The process that gets them."""
        self.pidfd = pidfd
        while self.pending:
            self._forward(self.pending.pop(0), None)


def wait(pid: int, pidfd: int, ptmx: int = -1) -> int:
    """The exit code of ``pid``, or 128 + signal. ``ptmx``: its terminal, connected to ours until it ends."""
    if ptmx >= 0:
        _proxy(pidfd, ptmx)
    while True:
        found, status = os.waitpid(-1, 0)
        if found == pid:
            break
    for number in _FORWARDED:
        signal(number, SIG_DFL)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _proxy(pidfd: int, ptmx: int) -> None:
    """Until the process has ended and all that it printed was passed on."""
    ours = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
    saved = b""
    if ours >= 0:
        _resize(ours, ptmx)
        signal(SIGWINCH, lambda *_: _resize(ours, ptmx))
    if os.isatty(0):
        saved = sys.set_raw(0)
    try:
        _copy(pidfd, ptmx)
    finally:
        if saved:
            sys.restore_termios(0, saved)
        os.close(ptmx)


def _resize(ours: int, ptmx: int) -> None:
    try:
        sys.set_winsize(ptmx, sys.get_winsize(ours))
    except OSError:
        pass


def _copy(pidfd: int, ptmx: int) -> None:
    stdin_open, ended = True, False
    while True:
        fds = [(ptmx, POLLIN)]
        if stdin_open:
            fds.append((0, POLLIN))
        if not ended:
            fds.append((pidfd, POLLIN))
        ready = dict(sys.poll(fds, 0 if ended else -1))
        ended = ended or pidfd in ready
        if ptmx in ready and not _pass(ptmx, 1):
            return
        if 0 in ready and not _pass(0, ptmx):
            stdin_open = False
        if ended and not ready:
            return


def _pass(source: int, target: int) -> bool:
    """One read, all of it written. False at the end of file: of a terminal, EIO."""
    try:
        data = os.read(source, 65536)
        while data:
            data = data[os.write(target, data) :]
            if not data:
                return True
    except OSError:
        return False
    return False
