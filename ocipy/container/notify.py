"""sd_notify(3) through the runtime: the container writes to a socket of ours, and what it may say is passed on to NOTIFY_SOCKET.

The service manager would not know the container's processes, nor understand their pids; and what they could ask of it otherwise
(to follow another process, to keep descriptors, to believe others too) is not theirs to ask. ``start`` and ``run --detach`` wait
for READY=1, as their callers are used to, and tell which process the service is from then on; ``run`` in the foreground passes
on all until the container ends.
"""

from __future__ import annotations

# Nothing of it; but its import makes Python whole (boot.py), which threads and abstract sockets need.
import _signal  # type: ignore[import-not-found]  # noqa: F401
import os

from ocipy import warning
from ocipy.errors import strerror
from ocipy.linux import sys

TYPE_CHECKING = False
if TYPE_CHECKING:

    from ocipy.config.types import Mount
    from ocipy.container.store import Entry

DIRECTORY, SOCKET = "notify", "notify.sock"  # in the state directory
INSIDE = "/run/notify"  # where the container sees the directory
_LIMIT = 65536  # bytes of a message
_PASSED = (
    b"READY", b"RELOADING", b"STOPPING", b"STATUS", b"ERRNO", b"BUSERROR", b"WATCHDOG", b"WATCHDOG_USEC",
    b"EXTEND_TIMEOUT_USEC", b"MONOTONIC_USEC",
)  # fmt: skip


def wanted() -> bool:
    """Did our caller give a socket that we can reach?"""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address and address[0] not in "/@":
        warning.warn(f"NOTIFY_SOCKET={address} is ignored: it is no path and no abstract socket")
    return address[:1] in ("/", "@")


def mount(state_directory: str) -> Mount:
    """What the container gets: the directory, so that the socket may come later."""
    source = f"{state_directory}/{DIRECTORY}"
    return {"destination": INSIDE, "type": "bind", "source": source, "options": ["bind", "ro", "nosuid", "nodev", "noexec"]}


def environment() -> str:
    """NOTIFY_SOCKET of the container's program."""
    return f"NOTIFY_SOCKET={INSIDE}/{SOCKET}"


def open_notify(entry: Entry) -> Notify | None:
    """The socket of a container that was created with one, for start; None also when nobody waits to be told now."""
    if not wanted():
        return None
    try:
        directory = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.dirfd)
    except FileNotFoundError:
        return None
    try:
        return Notify(directory, os.environ["NOTIFY_SOCKET"])
    finally:
        os.close(directory)


def start_and_wait(entry: Entry) -> None:
    """start, then wait until the container is ready; other commands may work on it meanwhile. Raises what start raises."""
    from ocipy.container.start import start
    from ocipy.container.state import liveness

    record = entry.read()
    pidfd, notify = liveness(record), open_notify(entry)
    start(entry)
    entry.unlock()
    if notify is not None and pidfd is not None:
        notify.wait_ready(record.pid, pidfd)


class Notify:
    """Our socket in the container, and the address of the service manager."""

    __slots__ = ("inside", "lock", "outside", "target")

    def __init__(self, directory: int, address: str) -> None:
        from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket
        from _thread import allocate_lock

        self.lock = allocate_lock()
        self.inside, self.outside = (socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC) for _ in range(2))
        try:
            os.unlink(SOCKET, dir_fd=directory)  # of a start that failed
        except FileNotFoundError:
            pass
        path = f"/proc/self/fd/{directory}/{SOCKET}"  # at any depth: an address has but 108 bytes
        self.inside.bind(path)
        os.chmod(path, 0o666)  # for whatever user the program is
        self.target: bytes | str = "\0" + address[1:] if address[0] == "@" else address

    def wait_ready(self, pid: int, pidfd: int) -> None:
        """Until the container says READY=1, which is passed on with MAINPID, or its init has ended."""
        inside, ended = self.inside.fileno(), False
        while not ended:
            ready = dict(sys.poll([(inside, sys.POLLIN), (pidfd, sys.POLLIN)], -1))
            ended = pidfd in ready
            while (message := self._receive()) is not None:
                lines = passed(message)
                is_ready = b"READY=1" in lines
                self._send([*lines, b"MAINPID=%d" % pid] if is_ready else lines)
                if is_ready:
                    return

    def follow(self) -> None:
        """From now on beside everything else, as long as we live."""
        from _thread import start_new_thread

        start_new_thread(self._pass_on, ())

    def _pass_on(self) -> None:
        while True:
            sys.poll([(self.inside.fileno(), sys.POLLIN)], -1)
            self.drain()

    def drain(self) -> None:
        """What the container has said until now, in its order whoever passes it on."""
        with self.lock:
            while (message := self._receive()) is not None:
                self._send(passed(message))

    def _receive(self) -> bytes | None:
        try:
            return self.inside.recv(_LIMIT, sys.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _send(self, lines: list[bytes]) -> None:
        if not lines:
            return
        try:
            self.outside.sendto(b"\n".join(lines), self.target)
        except OSError as error:
            warning.warn(f"NOTIFY_SOCKET: {strerror(error.errno or 0)}")


def passed(message: bytes) -> list[bytes]:
    """The lines that a container may say to the service manager of the host."""
    return [line for line in message.split(b"\n") if line.partition(b"=")[0] in _PASSED]
