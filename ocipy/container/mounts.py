"""mounts add and remove: what config.json says of mounts, for a container that runs already."""

from __future__ import annotations

import os

from ocipy import SPEC_VERSION, warning
from ocipy.config.load import SPACE, parse_config, read_file
from ocipy.config.mounts import check as check_mounts
from ocipy.container.exec import namespace_flags
from ocipy.container.session import Session
from ocipy.container.state import liveness, status
from ocipy.errors import NotRunningError, OcipyError, StateError
from ocipy.linux.assemble import assemble_mounts, assemble_unmounts
from ocipy.linux.options import Options
from ocipy.linux.host import read_host
from ocipy.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Mount
    from ocipy.container.record import Record
    from ocipy.container.store import Entry
    from ocipy.plan.step import Step


def parse_mounts(path: str) -> list[Mount]:
    """A file that holds the list of config.json's ``mounts``, or an object with that list. Raises ConfigError."""
    raw = read_file(path)
    text = raw.lstrip(SPACE.encode())
    version = b'"ociVersion":"%s"' % SPEC_VERSION.encode()
    # On one line with what comes: an error names the line of the file.
    comma = b"," if text[1:].lstrip(SPACE.encode())[:1] != b"}" else b""
    whole = b"{" + version + comma + text[1:] if text[:1] == b"{" else b"{" + version + b',"mounts":' + raw + b"}"
    return parse_config(whole, path, semantics=False).get("mounts") or []


def add(entry: Entry, mounts: list[Mount]) -> None:
    """Make them in their order; when one fails, those before it go again. Raises OcipyError."""
    record, config = _container(entry, mounts)
    for text in check_mounts(config):
        warning.warn(text)
    warning.check()
    host, options = read_host(), Options(entry.id, record.bundle)
    if host.uid:
        raise StateError("mounts add takes root: the sources of mounts are those of the host")

    flags = namespace_flags(record.pid)
    plan = assemble_mounts(config, host, options, flags=flags, cgroup_paths=record.cgroup_paths)
    try:
        _visit(entry, record, plan)
    except OcipyError as error:
        done = {step.origin for step in plan[: max(0, error.index)] if step.op in (ops.MOUNT, ops.MOUNT_OLD, ops.ATTACH)}
        made = [mount for index, mount in enumerate(mounts) if f"/mounts/{index}" in done]
        if made:
            remove(entry, made)
        raise


def remove(entry: Entry, mounts: list[Mount]) -> None:
    """Unmount them, the last one first. Raises OcipyError."""
    record, config = _container(entry, mounts)
    _visit(entry, record, assemble_unmounts(config, flags=namespace_flags(record.pid)))


def _container(entry: Entry, mounts: list[Mount]) -> tuple[Record, Config]:
    record = entry.read()
    found = status(entry, record)
    if found not in ("created", "running", "paused"):
        raise NotRunningError(entry.id, f"cannot change the mounts of a {found} container")
    config: Config = {**parse_config(entry.read_config(), "config.json", semantics=False), "mounts": mounts}
    if not any(item["type"] == "mount" for item in config.get("linux", {}).get("namespaces") or ()):
        raise StateError(f'container "{entry.id}" has no mount namespace of its own: mount on the host')
    return record, config


def _visit(entry: Entry, record: Record, plan: list[Step]) -> None:
    """Execute a plan in the container's namespaces, by a process that ends with it."""
    target = liveness(record)
    if target is None:
        raise NotRunningError(entry.id)
    session = Session(plan, record, entry)
    session.target_pidfd = target
    try:
        session.run()
        os.waitpid(session.pid, 0)
    except BaseException:
        session.abort()
        raise
    finally:
        os.close(target)
