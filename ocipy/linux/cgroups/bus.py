"""A connection to systemd: its methods by D-Bus, jobs that are waited for, and errors in words. The only user of jeepney."""

from __future__ import annotations

import errno
import os
import time

from ocipy.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PATH = "/org/freedesktop/systemd1"
SERVICE = "org.freedesktop.systemd1"
MANAGER = SERVICE + ".Manager"
TIMEOUT = 30.0  # seconds for a job and for an answer
BUS_DAEMON = ("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
JOBS = f"type='signal',sender='{SERVICE}',path='{PATH}',interface='{MANAGER}',member='JobRemoved'"

# What errors of D-Bus mean here; others speak for themselves.
WORDS = {
    SERVICE + ".UnitExists": "a unit of this name exists: choose another id, or stop it (systemctl stop)",
    SERVICE + ".NoSuchUnit": "systemd has no such unit",
    "org.freedesktop.DBus.Error.ServiceUnknown": "systemd is not on this bus: is it the init of this host?",
    "org.freedesktop.DBus.Error.NameHasNoOwner": "systemd is not on this bus: is it the init of this host?",
    "org.freedesktop.DBus.Error.Spawn.ChildExited": "systemd is not on this bus: is it the init of this host?",
    "org.freedesktop.DBus.Error.UnixProcessIdUnknown": "systemd does not find the process: it has ended, or it is in another "
    "pid namespace",
    "org.freedesktop.DBus.Error.NoReply": "systemd does not answer",
}
DENIED = ("AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed", "Failed.PermissionDenied")
DENIED_WORDS = "this user may not: run as root, or as a user with a systemd of its own (loginctl enable-linger)"
RESULTS = {
    "canceled": "the job was cancelled by another one",
    "timeout": "the job took longer than systemd allows",
    "failed": "the job failed (systemctl status and journalctl tell more)",
    "dependency": "a unit that it depends on failed",
    "skipped": "it does not apply to the state of the unit",
}


class BusError(CgroupError):
    """An error reply; ``name`` is the last part of the error's name (UnitExists, AccessDenied …)."""

    def __init__(self, what: str, name: str, text: str) -> None:
        self.name = name.removeprefix(SERVICE + ".").removeprefix("org.freedesktop.DBus.Error.")
        words = WORDS.get(name) or (DENIED_WORDS if self.name in DENIED else "")
        super().__init__(0, what, detail=f"{text or self.name}{f' ({words})' if words else ''}")


class Bus:
    """Connected on construction: to the user's systemd, or to that of the host. Raises CgroupError; ``close`` it."""

    __slots__ = ("_jobs", "_owner", "_parser", "_serial", "_sock", "_what", "address", "direct")

    def __init__(self, *, user: bool, what: str) -> None:
        """``what`` is being done, for errors."""
        self._what, self._serial = what, 0
        self._owner: str | None = None  # who answered last; None where there is no bus
        self._jobs: list[tuple[str | None, tuple[Any, ...]]] = []  # JobRemoved, and who sent it
        _need_jeepney(what)
        from jeepney.low_level import Parser

        self._parser = Parser()
        self._sock, self.address, self.direct = _connect(user, what)
        if not self.direct:
            try:
                self._greet()
            except BaseException:
                self.close()
                raise

    def _greet(self) -> None:
        self._check_pids(self._ask(BUS_DAEMON, "Hello")[0])
        self._ask(BUS_DAEMON, "AddMatch", "s", (JOBS,))

    def close(self) -> None:
        self._sock.close()

    def call(self, method: str, signature: str = "", body: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """A method of systemd's manager. Raises BusError, CgroupError."""
        return self._ask((PATH, SERVICE, MANAGER), method, signature, body)

    def property(self, name: str) -> Any:
        """A property of the manager."""
        return self._ask((PATH, SERVICE, "org.freedesktop.DBus.Properties"), "Get", "ss", (MANAGER, name))[0][1]

    def run_job(self, method: str, signature: str, body: tuple[Any, ...]) -> None:
        """A method that queues a job, and the end of the job. Raises BusError, CgroupError unless it is done."""
        job = self.call(method, signature, body)[0]
        systemd = self._owner  # anybody on the bus may send us a signal
        deadline = time.monotonic() + TIMEOUT
        while True:
            for sender, (_, path, _, result) in self._jobs:
                if path == job and (self.direct or sender == systemd):
                    if result != "done":
                        raise CgroupError(0, self._what, detail=f"{RESULTS.get(result, '')} (systemd says: {result})".lstrip())
                    return
            self._jobs.clear()
            self._receive(deadline)

    def _check_pids(self, own: str) -> None:
        """Does systemd mean by a pid what we mean? Raises CgroupError."""
        if self._ask(BUS_DAEMON, "GetConnectionUnixProcessID", "s", (own,))[0] != os.getpid():
            raise CgroupError(0, self._what, detail=f"systemd at {self.address} is in another pid namespace: run ocipy in its own")

    def _ask(self, address: tuple[str, str, str], method: str, signature: str = "", body: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        path, service, interface = address
        message = new_method_call(DBusAddress(path, service, interface), method, signature or None, body)
        self._serial += 1
        try:
            self._sock.sendall(message.serialise(serial=self._serial))
        except OSError as error:
            raise CgroupError(error.errno or 0, self._what, "send", detail=f"D-Bus at {self.address}") from None
        deadline = time.monotonic() + TIMEOUT
        while True:
            reply = self._receive(deadline)
            if reply.header.fields.get(HeaderFields.reply_serial) != self._serial:
                continue
            if reply.header.message_type is MessageType.error:
                text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
                raise BusError(self._what, reply.header.fields.get(HeaderFields.error_name, ""), text)
            self._owner = reply.header.fields.get(HeaderFields.sender)
            return tuple(reply.body)

    def _receive(self, deadline: float) -> Any:
        """The next message. JobRemoved is kept besides: a job may be over before the reply that names it is read."""
        from jeepney import HeaderFields

        while (message := self._parser.get_next_message()) is None:
            try:
                self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
                data = self._sock.recv(65536)
            except TimeoutError:
                raise CgroupError(
                    errno.ETIMEDOUT, self._what, detail=f"systemd did not do it within {TIMEOUT:g} s (systemctl list-jobs)"
                ) from None
            except OSError as error:
                raise CgroupError(error.errno or 0, self._what, "recv", detail=f"D-Bus at {self.address}") from None
            if not data:
                raise CgroupError(0, self._what, detail=f"D-Bus at {self.address} closed the connection")
            self._parser.add_data(data)
        fields = message.header.fields
        if fields.get(HeaderFields.member) == "JobRemoved" and len(message.body) == 4:
            self._jobs.append((fields.get(HeaderFields.sender), message.body))
        return message


def _need_jeepney(what: str) -> None:
    try:
        import jeepney  # noqa: F401
    except ImportError:
        detail = "the Python package jeepney is missing: install it (pip install jeepney), or use cgroups without systemd"
        raise CgroupError(0, what, detail=detail) from None


def _connect(user: bool, what: str) -> tuple[Any, str, bool]:
    """(socket, where, whether it is systemd itself and no bus) of the first address that somebody answers at."""
    import socket

    errors = []
    for address, direct in addresses(user):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        name = address.replace("\0", "@")
        try:
            sock.settimeout(TIMEOUT)
            sock.connect(address)
            _authenticate(sock)
        except OSError as error:
            sock.close()
            errors.append(f"{name}: {(error.strerror or str(error)).lower()}")
            continue
        return sock, name, direct
    if user:
        errors = errors or ["neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"]
        advice = "log in with a session of systemd (loginctl enable-linger), or use cgroups without systemd"
    else:
        advice = "is systemd the init of this host? If not, leave --systemd-cgroup away"
    raise CgroupError(0, what, detail=f"systemd cannot be reached: {advice} ({'; '.join(errors)})")


def addresses(user: bool) -> Iterator[tuple[str, bool]]:
    """Where to look for systemd, as (path or abstract name of a socket, whether systemd itself listens there)."""
    if not user:
        yield from _parse(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket")
        yield "/run/systemd/private", True  # hosts without a bus have this
        return
    yield from _parse(os.environ.get("DBUS_SESSION_BUS_ADDRESS") or "")
    directory = os.environ.get("XDG_RUNTIME_DIR")
    if directory:
        yield directory + "/bus", False
        yield directory + "/systemd/private", True


def _parse(text: str) -> Iterator[tuple[str, bool]]:
    """unix:path=/a,guid=…;unix:abstract=b (D-Bus specification, Server Addresses); other transports are passed over."""
    for part in text.split(";"):
        kind, _, rest = part.partition(":")
        for item in rest.split(",") if kind == "unix" else ():
            key, _, value = item.partition("=")
            if key in ("path", "abstract"):
                pieces = value.split("%")
                try:
                    value = pieces[0] + "".join(chr(int(piece[:2], 16)) + piece[2:] for piece in pieces[1:])
                except ValueError:
                    continue  # no address
                yield ("\0" if key == "abstract" else "") + value, False


def _authenticate(sock: Any) -> None:
    """As whom the kernel says: without a uid of our own, which in a user namespace is not what the other side sees."""
    sock.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\n")
    data = b""
    while not data.endswith(b"\r\n") or b"OK " not in data:
        if b"REJECTED" in data or b"ERROR" in data:
            raise PermissionError(errno.EACCES, "it refuses this user")
        more = sock.recv(4096)
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
        data += more
    sock.sendall(b"BEGIN\r\n")
