"""ocipy create: everything that the config asks for, but the program, which waits for start."""

from __future__ import annotations

from ocipy.cli.options import cgroup_manager
from ocipy.container.handover import set_plan_environment
from ocipy.container.lifecycle import Request, create, set_notify
from ocipy.container.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Exit code 0 once the container is created."""
    create(make_request(invocation))
    return 0


def make_request(invocation: Invocation) -> Request:
    """What create and run have in common."""
    request = Request(Store(invocation["root"]), invocation.args[0], invocation["bundle"])
    request.pid_file, request.pidfd_socket = invocation["pid-file"], invocation["pidfd-socket"]
    request.console_socket = invocation["console-socket"]
    options = request.options
    options.no_pivot, options.no_new_keyring = invocation["no-pivot"], invocation["no-new-keyring"]
    options.preserve_fds = invocation["preserve-fds"]
    options.cgroup_manager = cgroup_manager(invocation)
    set_plan_environment(options)
    set_notify(request)
    return request
