"""The seccomp agent's message: one ContainerProcessState per connection, with the listener (config-linux.md, Seccomp)."""

from __future__ import annotations

import os

from ocipy import SPEC_VERSION
from ocipy.config.json_text import json_text
from ocipy.container.state import state_json
from ocipy.errors import SeccompError
from ocipy.linux import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Seccomp
    from ocipy.container.record import Record


def send_listener(seccomp: Seccomp, record: Record, pid: int, listener: int, *, status: str = "creating") -> None:
    """Sends ``listener`` and the state to ``listenerPath``, and closes it here. Raises SeccompError."""
    path = seccomp.get("listenerPath") or ""
    members = {"ociVersion": SPEC_VERSION, "fds": ["seccompFd"], "pid": pid}
    if seccomp.get("listenerMetadata"):
        members["metadata"] = seccomp["listenerMetadata"]
    head = json_text(members)[:-1]
    data = head.encode() + b',"state":' + state_json(record, status, record.pid) + b"}"
    try:
        sock = sys.connect_unix_stream(path)
        try:
            sys.sendmsg_fd(sock, data, [listener])
        finally:
            os.close(sock)
            os.close(listener)
    except OSError as error:
        pointer = "/linux/seccomp/listenerPath"
        raise SeccompError(error.errno or 0, f"send the listener to {path}", "connect", pointer) from None
