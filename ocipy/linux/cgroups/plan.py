"""Which cgroups a container gets, and in what order they are made, limited and entered (config-linux.md, Control groups)."""

from __future__ import annotations

from ocipy.errors import CgroupError, ConfigError
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.types import Config, Resources
    from ocipy.linux.cgroups.host import CgroupHost


class CgroupPlan:
    """``make``: steps before the container enters; ``open`` and ``enter``: how it does (plan_entry); ``stage``: steps as soon as
    there is a stage; ``after``: steps that wait for init and its device nodes, but not for hooks (some add device rules).
    ``paths``: name of hierarchy -> directory, for the journal and the state; ``unit``: systemd's, for the same. ``warnings``: what
    the config asks for and this host cannot, one line each."""

    __slots__ = ("after", "enter", "make", "open", "paths", "pointer", "stage", "unit", "warnings")

    def __init__(self, paths: dict[str, str], pointer: str) -> None:
        self.paths, self.pointer = paths, pointer
        self.make: list[Step] = []
        self.open: list[Step] = []
        self.stage: list[Step] = []
        self.enter: list[Step] = []
        self.unit: dict[str, Any] | None = None
        self.after: list[Step] = []
        self.warnings: list[str] = []


def plan_cgroup(
    config: Config, host: CgroupHost, container_id: str, *, manager: str = "cgroupfs", rootless: bool = False
) -> CgroupPlan:
    """The cgroups of ``container_id``.

    cgroupsPath absolute: below each hierarchy's mount point; relative: below the runtime's own cgroup; absent: the container's id
    there, as with runc; for systemd: see plan_unit. Raises ConfigError for what cannot be expressed here.
    """
    linux = config.get("linux") or {}
    resources: Resources = linux.get("resources") or {}
    if manager == "disabled":
        plan = CgroupPlan({}, "")
        if any(resources.values()):
            plan.warnings.append("linux.resources is ignored: cgroups are disabled on the command line")
        return plan
    if host.mode == "none":
        raise CgroupError(0, "find the cgroups", detail="no cgroup filesystem is mounted on this host: mount one at /sys/fs/cgroup")
    if manager == "systemd":
        from ocipy.linux.cgroups.systemd import plan_unit

        return plan_unit(config, host, container_id, rootless=rootless)
    path = check_path(linux.get("cgroupsPath") or "") or container_id
    pointer = "/linux/cgroupsPath" if linux.get("cgroupsPath") else ""
    if host.mode == "v2":
        import ocipy.linux.cgroups.v2 as v2  # noqa: PLR0402  a name of the package itself would be looked up lazily

        plan = CgroupPlan(v2.controller_paths(host, path, explicit=bool(pointer)), pointer)
        v2.plan_create(plan, resources, config)
    else:
        import ocipy.linux.cgroups.v1 as v1  # noqa: PLR0402

        plan = CgroupPlan(v1.controller_paths(host, path, explicit=bool(pointer)), pointer)
        v1.plan_create(plan, resources, host)
    return plan


def check_path(path: str) -> str:
    """cgroupsPath without its superfluous slashes. Raises ConfigError for paths that lead elsewhere.

    The root of a hierarchy, and the runtime's own cgroup, cannot be a container's: its limits and its end would be those
    of the host.
    """
    if not path:
        return ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ConfigError("/linux/cgroupsPath", f'"{path}" must not contain ".."')
    if not parts:
        raise ConfigError("/linux/cgroupsPath", f'"{path}" is no cgroup of the container\'s own: name one')
    if any(ord(letter) < 32 for letter in path):  # the kernel refuses a newline in a cgroup's name
        raise ConfigError("/linux/cgroupsPath", "it must not contain control characters")
    return ("/" if path[0] == "/" else "") + "/".join(parts)


def plan_entry(paths: dict[str, str], pointer: str = "") -> tuple[list[Step], list[Step]]:
    """How a process enters the cgroups ``paths``: steps before SPAWN, and steps after CLONE_INIT.

    On v1 init moves itself, through files that the runtime opens: no kernel-wide wait, as there is for a process that is moved by
    its pid. Into v2 one is born (plan_birth).
    """
    opened, enter = [], []
    for path in dict.fromkeys(path for name, path in paths.items() if name):
        opened.append(Step(ops.OPEN_CGROUP, pointer, slot=f"tasks:{path}", path=path + "/tasks"))
        enter.append(Step(ops.ENTER_TASKS, pointer, tasks=f"tasks:{path}"))
    if "" in paths:
        opened.append(Step(ops.OPEN_CGROUP, pointer, slot=f"enter:{paths['']}", path=paths[""]))
    return opened, enter


def plan_birth(opened: list[Step], *, mapped: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Who is born in the cgroup v2 that plan_entry opens, if any: that field of SPAWN, and of CLONE_INIT.

    Init, so that the memory of the stage does not count. But the stage where it will be in a user namespace (``mapped``), as it may
    not put init there then, and beside v1, where nothing is counted.
    """
    slots = [step.get("slot") for step in opened]
    unified = [slot for slot in slots if slot.startswith("enter:")]
    field = {"cgroup": unified[0]} if unified else {}
    return (field, {}) if mapped or len(slots) > 1 else ({}, field)


def plan_update(resources: Resources, paths: dict[str, str], warnings: list[str]) -> list[Step]:
    """SET_CGROUP steps that change a container's limits; for apply_sets. Device rules stay as they are."""
    if "" in paths and len(paths) == 1:
        import ocipy.linux.cgroups.v2 as v2  # noqa: PLR0402

        return v2.plan_limits(resources, paths[""], warnings)
    import ocipy.linux.cgroups.v1 as v1  # noqa: PLR0402

    return v1.plan_limits(resources, paths, warnings) + v1.plan_pids(resources, paths)
