"""The other side of linux.seccomp.listenerPath: a socket that takes what a runtime sends of a container that it filters."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bundles import TIME_SCALE


class Message(NamedTuple):
    """All that came over one connection: ``parts`` are the payloads as received, each with the number of its descriptors."""

    parts: list[tuple[bytes, int]]
    fds: list[str]  # what the kernel calls them
    closed: bool  # by the runtime, within seconds

    @property
    def text(self) -> str:
        return b"".join(data for data, _ in self.parts).decode()

    @property
    def state(self) -> dict[str, Any]:
        """Raises ValueError unless there is exactly one."""
        state: dict[str, Any] = json.loads(self.text)
        return state


class Agent:
    """``path`` is what to give as listenerPath."""

    def __init__(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ocipy-test-"))  # a socket's path must be short
        self.path = str(self.directory / "agent")
        self.socket = socket.socket(socket.AF_UNIX, kind)
        self.socket.bind(self.path)
        if kind != socket.SOCK_DGRAM:
            self.socket.listen()
        self.socket.settimeout(10 * TIME_SCALE)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        shutil.rmtree(self.directory)

    def receive(self) -> Message:
        """The next connection, to its end. Descriptors are closed: a filtered call then fails with ENOSYS."""
        connection, _ = self.socket.accept()
        parts, names, closed = [], [], True
        with connection:
            connection.settimeout(5 * TIME_SCALE)
            while closed:
                try:
                    data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 8)
                except TimeoutError:
                    closed = False
                    break
                if not data and not fds:
                    break
                parts.append((data, len(fds)))
                for fd in fds:
                    names.append(os.readlink(f"/proc/self/fd/{fd}"))
                    os.close(fd)
        return Message(parts, names, closed)
