"""update: other limits for a container that lives. What the kernel has now is what an update starts from."""

from __future__ import annotations

import fcntl

from ocipy import warning
from ocipy.container.state import status
from ocipy.errors import ConfigError, NotRunningError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Resources
    from ocipy.container.store import Entry


def update(entry: Entry, resources: Resources) -> None:
    """Change the limits that ``resources`` names, all or none.

    Raises NotRunningError unless it is created, running or paused; ConfigError, CgroupError.
    """
    # One at a time, for what it may have to put back. Not the lock of commands: a poststart hook may update.
    fcntl.flock(entry.dirfd, fcntl.LOCK_EX)
    record = entry.read()
    found = status(entry, record)
    if found not in ("created", "running", "paused"):
        raise NotRunningError(entry.id, f"cannot update a {found} container")
    if not any(resources.values()):
        return
    if not record.cgroup_paths:
        raise StateError(f'cannot update container "{entry.id}": it was made without a cgroup')
    if resources.get("devices"):
        _check_devices(entry, resources)
    from ocipy.linux.cgroups.plan import plan_update
    from ocipy.linux.cgroups.update import apply_update, complete

    warnings: list[str] = []
    steps = plan_update(complete(resources, record.cgroup_paths), record.cgroup_paths, warnings)
    for text in warnings:
        warning.warn(text)
    warning.check()
    apply_update(steps)
    if warning.tell:
        places = ", ".join(dict.fromkeys(record.cgroup_paths.values()))
        warning.tell("info", f"container {entry.id}: limits of {', '.join(resources)} are set in {places}")


def _check_devices(entry: Entry, resources: Resources) -> None:
    """Engines send all resources, so the rules that the container has are fine; others would undo what hooks have allowed."""
    from ocipy.config.load import parse_config
    from ocipy.linux.cgroups.device_rules import plan_rules

    config = parse_config(entry.read_config(), "config.json", semantics=False)
    has = ((config.get("linux") or {}).get("resources") or {}).get("devices") or []
    lists = [[(rule.allow, str(rule)) for rule in plan_rules(devices)] for devices in (has, resources["devices"])]
    if lists[0] != lists[1]:
        raise ConfigError("/linux/resources/devices", "the device rules of a container cannot be changed: leave them away")
