"""ocipy exec: another process in a running container."""

from __future__ import annotations

from ocipy.cli.options import cgroup_manager
from ocipy.container.exec import ExecRequest, execute
from ocipy.container.handover import set_plan_environment
from ocipy.container.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """With --detach 0 once the program runs, else its exit code or 128 + signal; 255 when it could not run at all."""
    container_id, *args = invocation.args
    request = ExecRequest(container_id)
    for name in ("cwd", "env", "user", "apparmor", "tty"):
        setattr(request, name, invocation[name])
    request.args, request.process_file, request.caps = args, invocation["process"], invocation["cap"]
    request.cgroups = invocation["cgroup"]
    request.additional_gids, request.process_label = invocation["additional-gids"], invocation["process-label"]
    request.no_new_privs, request.ignore_paused = invocation["no-new-privs"], invocation["ignore-paused"]
    request.pid_file, request.pidfd_socket = invocation["pid-file"], invocation["pidfd-socket"]
    request.console_socket = invocation["console-socket"]
    request.options.preserve_fds = invocation["preserve-fds"]
    request.options.cgroup_manager = cgroup_manager(invocation)
    set_plan_environment(request.options)
    ptmx: list[int] = []
    if not invocation["detach"]:
        request.on_console = ptmx.append
    entry = Store(invocation["root"]).open(container_id)
    if invocation["detach"]:
        execute(entry, request)
        return 0
    from ocipy.container import foreground

    forwarder = foreground.Forwarder()
    pid, pidfd = execute(entry, request)
    return foreground.wait(forwarder.to(pidfd), pid, *ptmx)
