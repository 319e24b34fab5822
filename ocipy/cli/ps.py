"""ps CONTAINER [OPTION...]: the processes of a container, as JSON or through the host's ps program."""

from __future__ import annotations

from ocipy.cli.main import write
from ocipy.config.json_text import json_text
from ocipy.container.store import Store
from ocipy.errors import OcipyError, StateError, UsageError, strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Print the ids of all processes in the container's cgroup (null for none, as runc), or the lines that ps has for them."""
    container_id, *options = invocation.args
    style = invocation["format"]
    if style not in ("table", "json"):
        raise UsageError(f"invalid format option: {style} (table or json)")
    record = Store(invocation["root"]).open(container_id).read()
    if not record.cgroup_paths:
        raise StateError(f'cannot tell the processes of container "{container_id}": it was made without a cgroup')
    from ocipy.linux import cgroups

    pids = cgroups.pids(record.cgroup_paths)
    if style == "json":
        write(json_text(pids or None) + "\n")
    else:
        write(lines_of(ps_output(options or ["-ef"]), pids))
    return 0


def ps_output(options: list[str]) -> str:
    """What the ps program of the host prints. Raises OcipyError when there is none, or when it fails."""
    import subprocess

    try:
        done = subprocess.run(["ps", *options], check=False, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        advice = "install it (procps), or use --format json"
        raise OcipyError(f"cannot execute ps: {strerror(error.errno or 0)}; {advice}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise OcipyError(f"ps {' '.join(options)}: " + (said or f"failed with status {done.returncode}"))
    return done.stdout.decode(errors="surrogateescape")


def lines_of(table: str, pids: list[int]) -> str:
    """The header of ``table``, which ps printed, and its lines for ``pids``. Raises OcipyError when it has no column PID."""
    header, *lines = table.split("\n")
    titles = header.split()
    if "PID" not in titles:
        raise OcipyError("the output of ps has no column PID to find the container's processes by: give other options")
    at, wanted = titles.index("PID"), {str(pid) for pid in pids}
    found = [line for line in lines if line.split()[at : at + 1] and line.split()[at] in wanted]
    return "".join(line + "\n" for line in [header, *found])
