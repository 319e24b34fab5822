"""pause and resume: the container's cgroup is frozen and thawed."""

from __future__ import annotations

from ocipy import warning
from ocipy.container.kill import thaw
from ocipy.container.state import status
from ocipy.errors import NotRunningError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.container.store import Entry


def pause(entry: Entry) -> None:
    """Returns when nothing in the container runs. Raises NotRunningError unless it is created or running; CgroupError."""
    record = entry.read()
    found = status(entry, record)
    if found not in ("created", "running"):
        raise NotRunningError(entry.id, f"cannot pause a {found} container")
    from ocipy.linux import cgroups

    cgroups.freeze(record.cgroup_paths)
    if warning.tell:
        warning.tell("info", f"container {entry.id}: paused")


def resume(entry: Entry) -> None:
    """Let it run again. Raises StateError unless it is paused (callers match on "container not paused"); CgroupError."""
    record = entry.read()
    found = status(entry, record)
    if found != "paused":
        raise StateError(f'cannot resume a {found} container: container not paused: "{entry.id}"')
    thaw(record)
    if warning.tell:
        warning.tell("info", f"container {entry.id}: resumed")
