"""update: other limits for a container that lives. What the kernel has now is what an update starts from."""

from __future__ import annotations

from ocipy import warning
from ocipy.container.state import status
from ocipy.errors import ConfigError, NotRunningError, StateError
from ocipy.linux import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.config.types import IntelRdt, Resources
    from ocipy.container.record import Record
    from ocipy.container.store import Entry
    from ocipy.plan.step import Step


def update(entry: Entry, resources: Resources, rdt: IntelRdt | None = None) -> None:
    """Change the limits that ``resources`` names, and the schemata that ``rdt`` has, all or none.

    Raises NotRunningError unless it is created, running or paused; ConfigError, StepError, CgroupError.
    """
    # One at a time, for what it may have to put back. Not the lock of commands: a poststart hook may update.
    sys.flock(entry.dirfd)
    record = entry.read()
    found = status(entry, record)
    if found not in ("created", "running", "paused"):
        raise NotRunningError(entry.id, f"cannot update a {found} container")
    take_back = _update_rdt(entry, rdt) if rdt else None
    if not any(resources.values()):
        return
    try:
        _update_cgroups(entry, record, resources)
    except BaseException:
        if take_back is not None:
            take_back()
        raise


def _update_rdt(entry: Entry, changes: IntelRdt) -> Callable[[], None]:
    """Gives what takes it back. Raises StateError, ConfigError, StepError."""
    from ocipy.config.load import parse_config
    from ocipy.linux.intel_rdt import apply_update, read_mount

    config = parse_config(entry.read_config(), "config.json", semantics=False)
    rdt = config.get("linux", {}).get("intelRdt")
    if rdt is None:
        raise StateError(f'cannot update container "{entry.id}": it was made without linux.intelRdt')
    return apply_update(rdt, changes, entry.id, read_mount())


def _update_cgroups(entry: Entry, record: Record, resources: Resources) -> None:
    if not record.cgroup_paths:
        raise StateError(f'cannot update container "{entry.id}": it was made without a cgroup')
    rules = _plan_devices(entry, resources, record.cgroup_paths) if resources.get("devices") else []
    from ocipy.linux.cgroups.plan import plan_update
    from ocipy.linux.cgroups.update import apply_update, complete

    warnings: list[str] = []
    steps = plan_update(complete(resources, record.cgroup_paths), record.cgroup_paths, warnings)
    for text in warnings:
        warning.warn(text)
    warning.check()
    unit = record.extra.get("unit")
    if unit:
        from ocipy.linux.cgroups.unit import update_unit

        tell = update_unit(unit, steps, resources["devices"] if rules else None, record.cgroup_paths)
    apply_update(steps, then=tell if unit else None)
    for step in rules:
        from ocipy.linux.cgroups import apply_devices

        apply_devices(step)
    if warning.tell:
        places = ", ".join(dict.fromkeys(record.cgroup_paths.values()))
        warning.tell("info", f"container {entry.id}: limits of {', '.join(resources)} are set in {places}")


def _plan_devices(entry: Entry, resources: Resources, paths: dict[str, str]) -> list[Step]:
    """Engines send all resources, so the rules that the container has are left alone: a hook may have allowed more.

    On cgroup v2 others take their place at once; v1 could only take what it was told and told again, one by one.
    """
    from ocipy.config.load import parse_config
    from ocipy.linux.cgroups.device_rules import all_rules

    config = parse_config(entry.read_config(), "config.json", semantics=False)
    has = ((config.get("linux") or {}).get("resources") or {}).get("devices") or []
    lists = [[(rule.allow, str(rule)) for rule in all_rules(devices)] for devices in (has, resources["devices"])]
    if list(paths) == [""]:
        from ocipy.linux.cgroups.device_bpf import UPDATED, is_updated
        from ocipy.linux.cgroups.v2 import plan_devices

        same = lists[0] == lists[1] and not is_updated(paths[""])
        return [] if same else plan_devices(resources["devices"], paths[""], UPDATED)
    if lists[0] != lists[1]:
        text = "on cgroup v1 the device rules of a container cannot be changed: leave them away"
        raise ConfigError("/linux/resources/devices", text)
    return []
