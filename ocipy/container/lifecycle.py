"""create (runtime.md, Lifecycle, steps 1 to 5)."""

from __future__ import annotations

import os

from ocipy import warning
from ocipy.config.load import load_config
from ocipy.container.handover import console_taker, send_fd_to, write_pid_file
from ocipy.container.record import Record, now
from ocipy.container.session import Session
from ocipy.container.store import Entry, Store, boot_id, filters_directory, start_time
from ocipy.errors import HookError
from ocipy.linux import sys
from ocipy.linux.assemble import Assembled, assemble
from ocipy.linux.host import read_host
from ocipy.linux.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.config.types import Config


# What the plan depends on besides the config: kept, so that `start` can say which step of it failed.
PLAN_OPTIONS = ("no_pivot", "no_new_keyring", "preserve_fds", "extra_env", "extra_mounts", "cgroup_manager")


class Request:
    """What create and run are asked for. ``options``: what changes the plan; ``on_console`` takes the ptmx of a terminal;
    ``notify``: a directory in the state directory for the socket that the container tells of itself; ``meanwhile``: modules that
    will be needed afterwards.
    """

    __slots__ = (
        "bundle", "console_socket", "id", "meanwhile", "notify", "on_console", "options", "pid_file", "pidfd_socket", "store",
    )  # fmt: skip

    def __init__(self, store: Store, container_id: str, bundle: str) -> None:
        self.store, self.id = store, container_id
        self.bundle = os.path.abspath(bundle or ".")
        self.options = Options(container_id, self.bundle)
        self.pid_file = self.pidfd_socket = self.console_socket = self.notify = ""
        self.on_console: Callable[[int], None] | None = None
        self.meanwhile: list[str] = []


class Created:
    """A container that waits for start: ``pidfd`` is ours to close, ``entry`` holds the lock."""

    __slots__ = ("config", "entry", "pidfd", "record")

    def __init__(self, entry: Entry, record: Record, config: Config, pidfd: int) -> None:
        self.entry, self.record, self.config, self.pidfd = entry, record, config, pidfd


def create(request: Request) -> Created:
    """Steps 1 to 5: all that the config asks for exists, the program has not begun. On any error nothing is left."""
    config, raw = load_config(request.bundle)
    request.on_console = console_taker(request.on_console, request.console_socket, terminal=config["process"].get("terminal"))
    request.options.filters = filters_directory()
    assembled = assemble(config, read_host(), request.options)
    for text in assembled.warnings:
        warning.warn(text)
    warning.check()
    if warning.tell:
        _tell_plan(request, config, raw, assembled)
    sys.note_interrupts()
    entry = request.store.create(request.id)
    session = None
    record = Record(request.id)
    try:
        record = _journal(request, config, assembled, entry, raw)
        session = _session(request, config, assembled, record, entry)
        session.run()
        _announce(request, record, session.pidfd)
    except BaseException as error:
        _undo(session, entry, record, config, error)
        raise
    session.keep()
    if warning.tell:
        warning.tell("info", f"container {request.id}: created, pid {record.pid}")
    return Created(entry, record, config, session.pidfd)


def _tell_plan(request: Request, config: Config, raw: bytes, assembled: Assembled) -> None:
    tell = warning.tell or _nobody
    tell("debug", f"read {request.bundle}/config.json: {len(raw)} bytes, ociVersion {config['ociVersion']}")
    inside = sum(step.op.where == "init" for step in assembled.steps)
    tell("debug", f"a plan of {len(assembled.steps)} steps, {inside} of them inside the container (ocipy plan prints it)")
    for name, path in assembled.cgroup.paths.items():
        tell("debug", f"cgroup {name}: {path}")
    tell("debug", f"state directory {request.store.root}/{request.id}")


def _nobody(level: str, text: str) -> None:
    pass


def _journal(request: Request, config: Config, assembled: Assembled, entry: Entry, raw: bytes) -> Record:
    """Written down before the first side effect: what delete must look for, should we be killed."""
    from ocipy.linux.cgroups import absent

    record = Record(request.id)
    pid = os.getpid()
    record.runtime_pid, record.runtime_start_time = pid, start_time(pid)
    record.boot_id, record.bundle, record.created = boot_id(), request.bundle, now()
    record.rootfs = os.path.normpath(request.options.rootfs(config))
    record.owner_uid = os.geteuid()
    record.annotations = config.get("annotations") or {}
    record.cgroup_manager = request.options.cgroup_manager
    record.cgroup_paths = assembled.cgroup.paths
    record.made_cgroups = absent(list(assembled.cgroup.paths.values()))
    if assembled.cgroup.unit:
        from ocipy.linux.cgroups.systemd import made_cgroups

        record.extra["unit"] = assembled.cgroup.unit
        record.made_cgroups = made_cgroups(assembled.cgroup, record.made_cgroups)
    kinds = {item["type"]: item.get("path") for item in config.get("linux", {}).get("namespaces") or ()}
    record.own_pid_namespace = "pid" in kinds and not kinds["pid"]
    if "mount" not in kinds:
        record.mounts = _host_mounts(config, record.rootfs)
    hooks = config.get("hooks") or {}
    record.hooks_after = bool(hooks.get("poststart") or hooks.get("poststop"))
    record.extra["options"] = {name: getattr(request.options, name) for name in PLAN_OPTIONS}
    if request.notify:
        os.mkdir(request.notify, 0o755, dir_fd=entry.dirfd)
    entry.write_config(raw)
    entry.write(record)
    return record


def _host_mounts(config: Config, rootfs: str) -> list[str]:
    """Without a mount namespace of its own, a container's mounts are the host's: delete takes them away again."""
    return [rootfs + "/" + item["destination"].strip("/") for item in config.get("mounts") or ()]


def _session(request: Request, config: Config, assembled: Assembled, record: Record, entry: Entry) -> Session:
    session = Session(assembled.steps, record, entry)

    def on_pid() -> None:
        record.pid, record.start_time = session.pid, start_time(session.pid)
        entry.write(record)

    def hook_state(kind: str) -> bytes:
        from ocipy.container.state import state_json

        # prestart comes from specification 1.0, where it came after create; in the lifecycle of today it is still after step 2.
        return state_json(record, "created" if kind == "prestart" else "creating", session.pid)

    session.on_pid, session.hook_state, session.meanwhile = on_pid, hook_state, request.meanwhile
    if request.on_console is not None:
        session.on_console = request.on_console
    session.listener_state = lambda fd: _send_listener(config, record, session.pid, fd)
    return session


def _send_listener(config: Config, record: Record, pid: int, fd: int) -> None:
    """The seccomp agent gets the listener and a ContainerProcessState (config-linux.md, Seccomp)."""
    from ocipy.container.listener import send_listener

    send_listener(config["linux"]["seccomp"], record, pid, fd)


def _announce(request: Request, record: Record, pidfd: int) -> None:
    """The pid file: digits without a newline, complete when it appears."""
    if request.pidfd_socket:
        send_fd_to(request.pidfd_socket, pidfd, b"pidfd")
    if request.pid_file:
        write_pid_file(request.pid_file, record.pid)


def _undo(session: Session | None, entry: Entry, record: Record, config: Config, error: BaseException) -> None:
    """As if never attempted (runtime.md, Errors); after a failed hook the lifecycle goes on with poststop (step 12)."""
    from ocipy.container.delete import undo

    if session is not None:
        session.abort()
    if getattr(error, "name", "") == "UnitExists":
        # Somebody has made it since the journal was written: neither it nor its cgroup is ours to stop.
        record.made_cgroups = []
    record.hooks_after = isinstance(error, HookError) and bool((config.get("hooks") or {}).get("poststop"))
    undo(entry, record)


def set_notify(request: Request) -> None:
    """A socket in the container, where our caller has one for us (notify.py)."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    from ocipy.container import notify

    if notify.wanted():
        request.notify = notify.DIRECTORY
        request.options.extra_mounts.append(notify.mount(f"{request.store.root}/{request.id}"))
        request.options.extra_env.append(notify.environment())
