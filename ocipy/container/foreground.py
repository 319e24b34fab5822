"""run and exec in the foreground: signals are passed on, a terminal is proxied, orphans are reaped, the exit code comes back."""

from __future__ import annotations

import gc
import os

from ocipy import warning
from ocipy.linux import sys

# Not SIGURG, which is about ourselves; not those that a program in trouble sends itself; not job control.
FORWARDED = (1, 2, 3, 10, 12, 14, 15, 18, *range(34, 65))
SIGCHLD, SIGWINCH = 17, 28
POLLIN, POLLOUT = 1, 4


def become_subreaper() -> None:
    """Orphans of the container become our children, so that none is left to somebody who does not know them."""
    import _prctl  # of python-prctl, whose other half would load regular expressions

    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)


class Forwarder:
    """Passes on our signals. Once it is made they wait in its descriptor: none is lost before there is a target, and none ends us
    before the container is cleaned up.
    """

    __slots__ = ("fd", "pidfd")

    def __init__(self) -> None:
        self.pidfd = -1
        self.fd = sys.signalfd((*FORWARDED, SIGCHLD, SIGWINCH))

    def to(self, pidfd: int) -> Forwarder:
        """The process that gets them."""
        self.pidfd = pidfd
        return self

    def work(self) -> list[int]:
        """Pass on what came; what has come."""
        came = sys.read_signals(self.fd)
        for number in came:
            if number in FORWARDED:
                try:
                    sys.pidfd_send_signal(self.pidfd, number)
                except OSError:
                    pass  # it has ended
        return came


def wait(forwarder: Forwarder, pid: int, ptmx: int = -1) -> int:
    """The exit code of ``pid``, or 128 + signal. ``ptmx``: its terminal, connected to ours until it ends."""
    gc.freeze()
    gc.enable()  # this may take days; but what there is stays
    terminal = Terminal(ptmx) if ptmx >= 0 else None
    status = -1
    try:
        while True:
            if status < 0:
                fds = terminal.wanted() if terminal is not None else []
                # SIGCHLD is among the signals: orphans are to be reaped.
                ready = dict(sys.poll([*fds, (forwarder.fd, POLLIN), (forwarder.pidfd, POLLIN)], -1))
                came = forwarder.work() if forwarder.fd in ready else ()
                if terminal is not None and SIGWINCH in came:
                    terminal.resize()
                status = _reap(pid)
            else:
                ready = dict(sys.poll([(terminal.ptmx, POLLIN)], 0)) if terminal is not None else {}
            if terminal is not None:
                terminal.work(ready)
            if status >= 0 and (terminal is None or terminal.ptmx not in ready):
                break  # and all that it printed was passed on
    finally:
        if terminal is not None:
            terminal.restore()
    if warning.tell:
        warning.tell("debug", f"pid {pid} has ended, wait status {status:#x}")
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _reap(pid: int) -> int:
    """Takes every child that has ended; gives the status of ``pid``, -1 while it lives."""
    found = -1
    try:
        while found < 0:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if not ended:
                break
            found = status if ended == pid else -1
    except ChildProcessError:
        pass
    return found


class Terminal:
    """The container's terminal, ours in raw mode, and the bytes in between. Without a terminal of ours it is only copied."""

    __slots__ = ("keys", "ours", "ptmx", "saved", "stdin", "stdout")

    def __init__(self, ptmx: int) -> None:
        self.ptmx, self.stdin, self.stdout = ptmx, True, True
        self.keys = b""  # typed, and not yet taken by the container
        os.set_blocking(ptmx, False)
        self.ours = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
        self.resize()
        self.saved = sys.set_raw(0) if os.isatty(0) else b""

    def resize(self) -> None:
        """The size of our terminal is its size."""
        if self.ours >= 0 and self.ptmx >= 0:
            try:
                sys.set_winsize(self.ptmx, sys.get_winsize(self.ours))
            except OSError:
                pass  # it was closed

    def wanted(self) -> list[tuple[int, int]]:
        """What to poll for."""
        if self.ptmx < 0:
            return []
        found = [(self.ptmx, POLLIN | POLLOUT if self.keys else POLLIN)]
        return [*found, (0, POLLIN)] if self.stdin and not self.keys else found

    def work(self, ready: dict[int, int]) -> None:
        """Pass on what poll found. A terminal of ours that was closed is no reason to end the program: it is read, and dropped."""
        if 0 in ready:
            self.keys = _read(0)
            self.stdin = bool(self.keys)
        if self.keys:
            self._type()
        if ready.get(self.ptmx, 0) & ~POLLOUT:
            data = _read(self.ptmx)
            if not data:
                os.close(self.ptmx)
                self.ptmx = -1
            elif self.stdout:
                self.stdout = _write(1, data)

    def _type(self) -> None:
        try:
            self.keys = self.keys[os.write(self.ptmx, self.keys) :]
        except BlockingIOError:
            pass  # the program does not read now
        except OSError:
            self.keys = b""

    def restore(self) -> None:
        """Our terminal as it was."""
        if self.ptmx >= 0:
            os.close(self.ptmx)
        if self.saved:
            try:
                sys.restore_termios(0, self.saved)
            except OSError:
                pass  # it was closed


def _read(fd: int) -> bytes:
    """b"" at the end: of a terminal that is EIO."""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


def _write(fd: int, data: bytes) -> bool:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            sys.poll([(fd, POLLOUT)], -1)  # whoever gave it to us does not want to wait; nothing is to be lost
        except OSError:
            return False
    return True
