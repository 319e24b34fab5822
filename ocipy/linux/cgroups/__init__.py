"""Control groups of a container: planned from the config, made and entered by the runtime, frozen, killed and removed later.

Each name below lives in a module of its own that is loaded when the name is first used: ``delete`` needs no planning, ``create``
no removal. Names of hierarchies are those of CgroupHost.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.linux.cgroups.apply import absent, apply_enter, apply_make, apply_open, apply_set, apply_sets
    from ocipy.linux.cgroups.device_bpf import apply_devices
    from ocipy.linux.cgroups.freezer import freeze, is_frozen, thaw
    from ocipy.linux.cgroups.members import kill_all, pids, processes
    from ocipy.linux.cgroups.mounts import plan_cgroup_mount
    from ocipy.linux.cgroups.owner import apply_owner
    from ocipy.linux.cgroups.plan import CgroupPlan, plan_birth, plan_cgroup, plan_entry, plan_update
    from ocipy.linux.cgroups.removal import remove
    from ocipy.linux.cgroups.unit import apply_set_unit, apply_start_unit, stop_unit

_HOMES = {
    "apply": ("absent", "apply_enter", "apply_make", "apply_open", "apply_set", "apply_sets"),
    "device_bpf": ("apply_devices",),
    "freezer": ("freeze", "is_frozen", "thaw"),
    "members": ("kill_all", "pids", "processes"),
    "mounts": ("plan_cgroup_mount",),
    "owner": ("apply_owner",),
    "plan": ("CgroupPlan", "plan_birth", "plan_cgroup", "plan_entry", "plan_update"),
    "removal": ("remove",),
    "unit": ("apply_set_unit", "apply_start_unit", "stop_unit"),
}

__all__ = [
    "CgroupPlan", "absent", "apply_devices", "apply_enter", "apply_make", "apply_open", "apply_owner", "apply_set",
    "apply_set_unit", "apply_sets", "apply_start_unit", "freeze", "is_frozen", "kill_all", "pids", "plan_birth",
    "plan_cgroup", "plan_cgroup_mount", "plan_entry", "plan_update", "processes", "remove", "stop_unit", "thaw",
]  # fmt: skip


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
