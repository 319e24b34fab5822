"""exec: another process in a running container, by a plan that joins instead of makes."""

from __future__ import annotations

import os

from ocipy import warning
from ocipy.config.capabilities import capability_mask
from ocipy.config.load import parse_config, parse_process, read_file
from ocipy.config.process import check as check_process
from ocipy.container.handover import console_taker, send_fd_to, write_pid_file
from ocipy.container.session import Session
from ocipy.container.state import liveness, status
from ocipy.container.store import filters_directory
from ocipy.errors import NotRunningError, StateError, UsageError
from ocipy.linux.assemble_exec import assemble_exec
from ocipy.linux.host import read_host
from ocipy.linux.namespaces import CLONE_FLAGS, PROC_NAMES
from ocipy.linux.options import Options
from ocipy.linux.process import user_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.config.types import Capabilities, Config, Process, User
    from ocipy.container.record import Record
    from ocipy.container.store import Entry


class ExecRequest:
    """``process_file``: path of a process object ("" for none); the rest changes a copy of the container's own process."""

    __slots__ = (
        "additional_gids", "apparmor", "args", "caps", "cgroups", "console_socket", "cwd", "env", "ignore_paused", "no_new_privs",
        "on_console", "options", "pid_file", "pidfd_socket", "process_file", "process_label", "tty", "user",
    )  # fmt: skip

    def __init__(self, container_id: str) -> None:
        self.options = Options(container_id, "")
        self.process_file = self.cwd = self.user = self.apparmor = self.process_label = self.pid_file = ""
        self.pidfd_socket = self.console_socket = ""
        self.args: list[str] = []
        self.env: list[str] = []
        self.caps: list[str] = []
        self.additional_gids: list[str] = []
        self.cgroups: list[str] = []
        self.tty = self.no_new_privs = self.ignore_paused = False
        self.on_console: Callable[[int], None] | None = None


def execute(entry: Entry, request: ExecRequest) -> tuple[int, int]:
    """(pid, pidfd) of the process once its execve has succeeded. Raises OcipyError, nothing being left then."""
    record = entry.read()
    _check_status(entry, record, request)
    target = liveness(record)
    if target is None:
        raise NotRunningError(entry.id, "cannot exec")
    config = parse_config(entry.read_config(), "config.json", semantics=False)
    process = _process(config, request)
    on_console = console_taker(request.on_console, request.console_socket, terminal=process.get("terminal"))
    warning.check()
    options = request.options
    options.bundle, options.filters = record.bundle, filters_directory()
    flags = namespace_flags(record.pid)
    plan = assemble_exec(
        config, process, read_host(), options, pid=record.pid, flags=flags, cgroup_paths=_cgroup_paths(record, request)
    )
    if warning.tell:
        warning.tell("debug", f"a plan of {len(plan)} steps to join the namespaces (CLONE_NEW* {flags:#x}) of pid {record.pid}")
    session = Session(plan, record, entry)
    session.target_pidfd = target
    session.follow = 0 if request.cgroups else record.pid
    if on_console is not None:
        session.on_console = on_console

    def send_to_agent(listener: int) -> None:
        from ocipy.container.listener import send_listener

        send_listener(config["linux"]["seccomp"], record, session.pid, listener, status="running")

    session.listener_state = send_to_agent
    try:
        session.run()
        if request.pidfd_socket:
            send_fd_to(request.pidfd_socket, session.pidfd, b"pidfd")
        if request.pid_file:
            write_pid_file(request.pid_file, session.pid)
    except BaseException:
        session.abort()
        raise
    finally:
        os.close(target)
    if warning.tell:
        warning.tell("info", f"container {entry.id}: a process runs, pid {session.pid}")
    return session.pid, session.pidfd


def _check_status(entry: Entry, record: Record, request: ExecRequest) -> None:
    found = status(entry, record)
    if found == "paused" and not request.ignore_paused:
        raise StateError("cannot exec in a paused container (use --ignore-paused to override)")
    if found in ("stopped", "creating"):
        raise NotRunningError(entry.id, f"cannot exec in a {found} container")


def _cgroup_paths(record: Record, request: ExecRequest) -> dict[str, str]:
    """The container's cgroups, or what --cgroup [CONTROLLER[,CONTROLLER]:]PATH names below them."""
    paths = dict(record.cgroup_paths)
    for text in request.cgroups:
        names, colon, path = text.rpartition(":")
        if ".." in path.split("/"):
            raise UsageError(f'--cgroup {text}: ".." is not allowed, the path is below the cgroup of the container')
        for name in names.split(",") if colon else list(paths):
            if name not in paths:
                raise UsageError(f"--cgroup {text}: the container has no cgroup of the controller {name}")
            paths[name] = f"{record.cgroup_paths[name]}/{path.strip('/')}".rstrip("/")
    for path in paths.values():
        if not os.path.isdir(path):
            raise StateError(f"cannot exec: the cgroup {path} does not exist")
    return paths


def _process(config: Config, request: ExecRequest) -> Process:
    if request.process_file:
        return parse_process(read_file(request.process_file), request.process_file)
    if not request.args:
        raise UsageError("exec needs a command, or --process with a file")
    process: Process = {**config["process"], "args": request.args, "terminal": request.tty}
    process.pop("consoleSize", None)
    _apply_flags(process, request)
    return process


def _apply_flags(process: Process, request: ExecRequest) -> None:
    """The flags of the argv form on top of the container's own process."""
    if request.cwd:
        process["cwd"] = request.cwd
    for item in request.env:
        if not item.partition("=")[0] or "=" not in item:
            raise UsageError(f'invalid value "{item}" for flag -env: write NAME=VALUE (ocipy\'s own environment has no part in it)')
    if request.env:
        process["env"] = [*(process.get("env") or []), *request.env]
    if request.user or request.additional_gids:
        from ocipy.config.user import parse_id, parse_user

        user: User = {**user_of(process)}
        if request.user:
            uid, gid = parse_user(request.user)
            user["uid"] = uid
            if gid is not None:
                user["gid"] = gid
        if request.additional_gids:
            user["additionalGids"] = [parse_id(text) for text in request.additional_gids]
        process["user"] = user
    if request.no_new_privs:
        process["noNewPrivileges"] = True
    if request.apparmor:
        process["apparmorProfile"] = request.apparmor
    if request.process_label:
        process["selinuxLabel"] = request.process_label
    if request.caps:
        for name in request.caps:
            if not capability_mask([name]):
                raise UsageError(f'unknown capability "{name}": it is one such as CAP_NET_RAW')
        # Never inheritable, never ambient (CVE-2022-29162): only what the process itself may use.
        sets: Capabilities = {**(process.get("capabilities") or {})}
        sets["bounding"] = [*(sets.get("bounding") or ()), *request.caps]
        sets["effective"] = [*(sets.get("effective") or ()), *request.caps]
        sets["permitted"] = [*(sets.get("permitted") or ()), *request.caps]
        process["capabilities"] = sets
    check_process(process, "")


def namespace_flags(pid: int) -> int:
    """CLONE_NEW* of the namespaces that the container does not share with us: setns refuses our own user namespace."""
    flags = 0
    for kind, flag in CLONE_FLAGS.items():
        name = PROC_NAMES.get(kind, kind)
        try:
            theirs, ours = os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
        except FileNotFoundError:
            continue
        except PermissionError:
            raise StateError("cannot enter a container that is not started without root: its init lets nobody look") from None
        if theirs.st_ino != ours.st_ino:
            flags |= flag
    return flags
