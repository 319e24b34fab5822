"""What a caller hands a container, and is handed: descriptors, the terminal, the pid."""

from __future__ import annotations

import os

from ocipy.errors import OcipyError, UsageError
from ocipy.linux import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.linux.options import Options


def console_taker(
    foreground: Callable[[int], None] | None, socket: str, *, terminal: bool | None
) -> Callable[[int], None] | None:
    """Who gets the ptmx: ``foreground``, None when detached, or --console-socket. Raises UsageError, before anything is made."""
    if terminal and not foreground and not socket:
        raise UsageError(
            "cannot allocate tty if ocipy will detach without setting console socket: process.terminal is set, so give "
            "--console-socket, which receives the terminal (or stay in the foreground)"
        )
    if socket and (foreground or not terminal):
        why = "the terminal is proxied in the foreground" if terminal else "process.terminal is not set"
        raise UsageError(f"cannot use console socket if ocipy will not detach or allocate tty: {why}")
    return send_console(socket) if socket else foreground


def write_pid_file(path: str, pid: int) -> None:
    """Raises OcipyError."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        if os.path.lexists(temporary):
            os.unlink(temporary)  # of a killed command with our pid, or somebody's link to a file of ours
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, b"%d" % pid)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        raise OcipyError(f"pid file {path}: {os.strerror(error.errno or 0).lower()}") from None


def send_fd_to(path: str, fd: int, name: bytes) -> None:
    """Sends an fd with a name to whoever listens on a unix socket. Raises OcipyError."""
    try:
        sock = sys.connect_unix_stream(path)
        try:
            sys.sendmsg_fd(sock, name, [fd])
        finally:
            os.close(sock)
    except OSError as error:
        raise OcipyError(f"socket {path}: {os.strerror(error.errno or 0).lower()}") from None


def send_console(path: str) -> Callable[[int], None]:
    """A taker of the ptmx for --console-socket; callers want a non-empty name with it."""

    def send(ptmx: int) -> None:
        try:
            send_fd_to(path, ptmx, b"/dev/ptmx")
        finally:
            os.close(ptmx)

    return send


def set_plan_environment(options: Options) -> None:
    """LISTEN_FDS as systemd's protocol has it: the container's program is pid 1 of what it sees."""
    count = os.environ.get("LISTEN_FDS", "")
    if count.isdecimal() and int(count) > 0:
        options.preserve_fds += int(count)
        options.extra_env += [f"LISTEN_FDS={count}", "LISTEN_PID=1"]
        names = os.environ.get("LISTEN_FDNAMES")
        if names:
            options.extra_env.append(f"LISTEN_FDNAMES={names}")
