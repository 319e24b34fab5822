"""start (runtime.md, Lifecycle, steps 6 to 9): GO to init, and what became of its execve. Loads no more than that takes."""

from __future__ import annotations

import os

from ocipy import warning
from ocipy.container.record import CREATED
from ocipy.container.reports import ERROR, EXECUTING, GO, REPORT, message
from ocipy.errors import HookError, StateError
from ocipy.linux import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.container.record import Record
    from ocipy.container.store import Entry
    from ocipy.errors import OcipyError
    from ocipy.plan.step import Step


def start(entry: Entry) -> None:
    """Steps 6 to 9: GO to init; a failed execve comes back with its errno. The entry is locked by the caller."""
    from ocipy.container.state import status

    record = entry.read()
    found = status(entry, record)
    if found != CREATED:
        what = "is paused" if found == "paused" else f"is {found}"
        raise StateError(f'cannot start container "{entry.id}": it {what}, not created')
    _go(entry)
    if warning.tell:
        warning.tell("info", f"container {entry.id}: its program runs, pid {record.pid}")
    if record.hooks_after:
        _poststart(entry, record)


def _go(entry: Entry) -> None:
    try:
        sock = sys.connect_unix(entry.dirfd, "start")
        sys.sendmsg_fd(sock, message(GO), [])
    except OSError as error:
        raise StateError(f'cannot start container "{entry.id}": its init does not answer ({error.strerror})') from None
    executing = False
    while True:
        try:
            data, _ = sys.recvmsg_fds(sock, REPORT.size)
        except ConnectionResetError:
            data = b""
        if not data:
            break
        kind = REPORT.unpack(data)[0]
        if kind == EXECUTING:
            executing = True
        elif kind == ERROR:
            raise start_error(entry, data)
    os.close(sock)
    if not executing:
        raise _ended(entry)


def _ended(entry: Entry) -> OcipyError:
    return StateError(f'cannot start container "{entry.id}": its init ended')


def start_error(entry: Entry, data: bytes) -> OcipyError:
    """The exception for a report of init: the plan is made again from the frozen config, to say in words which step failed.

    The launcher, which serves start when all goes well, hands the report over; it is no ERROR when init just ended.
    """
    from ocipy.container.explain import explain
    from ocipy.plan import ops

    kind, index, call, errno, value = REPORT.unpack(data)
    if kind != ERROR:
        return _ended(entry)
    return explain(plan_of(entry), index, ops.CALLS[call], errno, value)


def plan_of(entry: Entry) -> list[Step]:
    """The plan that create made the container by, made again. Raises OcipyError."""
    from ocipy.config.load import parse_config
    from ocipy.linux.assemble import assemble
    from ocipy.linux.host import read_host
    from ocipy.linux.options import Options

    record = entry.read()
    options = Options(entry.id, record.bundle)
    for name, kept in record.extra.get("options", {}).items():
        setattr(options, name, kept)
    return assemble(parse_config(entry.read_config(), "config.json", semantics=False), read_host(), options).steps


def _poststart(entry: Entry, record: Record) -> None:
    """Step 9: after execve; a hook that fails stops the container."""
    from ocipy.config.load import parse_config
    from ocipy.container.hooks import run_hook
    from ocipy.container.state import state_json

    config = parse_config(entry.read_config(), "config.json", semantics=False)
    state = state_json(record, "running", record.pid)
    try:
        for index, hook in enumerate((config.get("hooks") or {}).get("poststart") or ()):
            run_hook(hook, state, f"/hooks/poststart/{index}", "poststart", record.bundle)
    except HookError:
        from ocipy.container.delete import stop

        stop(record)
        raise
