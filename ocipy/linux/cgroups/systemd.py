"""The systemd driver: the cgroup of a container is a scope (or a slice) that systemd makes. Names, paths and steps; no effects.

What systemd has properties for, it is told, so that it does not set it back when it is reloaded. All is written into the files of
the cgroup besides, as without systemd: exact, complete, and refused by the kernel when it is wrong.
"""

from __future__ import annotations

import os

from ocipy.errors import CgroupError, ConfigError
from ocipy.linux.cgroups.plan import CgroupPlan
from ocipy.linux.cgroups.unit_properties import annotated, device_properties, properties_of
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Resources
    from ocipy.linux.cgroups.host import CgroupHost
    from ocipy.linux.cgroups.unit_properties import Property

POINTER = "/linux/cgroupsPath"
PREFIX = "ocipy"
BOOTED = "/run/systemd/system"  # sd_booted(3)
VALID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-@\\")
# systemd puts "_" before a cgroup's name that could be taken for one of the kernel's files.
RESERVED = ("cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids")
# v1: in these hierarchies systemd makes and removes the cgroups of slices; in the others nobody else does.
MANAGED = ("cpu", "cpuacct", "io", "blkio", "memory", "devices", "pids", "name=systemd", "")
FEW = 8  # a limit of tasks that the stage and init could not share for a moment


def plan_unit(config: Config, host: CgroupHost, container_id: str, *, rootless: bool) -> CgroupPlan:
    """As plan_cgroup. The unit is started when the stage is there, with the stage in it: init is born in it.

    Not with init: that one may have a uid by then with which systemd lets nobody into a cgroup of the user. cgroup v1: the
    directories are made before, as without systemd, which leaves out half of the hierarchies; and mounts of them are opened early.
    """
    linux = config.get("linux") or {}
    resources: Resources = linux.get("resources") or {}
    text = linux.get("cgroupsPath") or ""
    pointer = POINTER if text else ""
    user = rootless and _has_user_manager()
    slice_name, unit = parse_path(text, container_id, user=user)
    if host.mode != "v2" and user:
        raise CgroupError(0, "make a systemd scope", detail="without root that takes cgroup v2, and this host has v1")
    if host.unit_root is None:
        host.unit_root = read_unit_root(user=user)
    path = "/".join(("", *(part for part in (host.unit_root.strip("/"), expand_slice(slice_name)) if part), escape_cgroup(unit)))
    properties = _properties(config, container_id, slice_name, unit, v2=host.mode == "v2")
    start = Step(ops.START_UNIT, pointer, name=unit, user=user)
    plan = (_plan_v2 if host.mode == "v2" else _plan_v1)(host, path, pointer, config, start)
    plan.unit = {"name": unit, "user": user}
    limits = [step for step in (*plan.make, *plan.stage, *plan.after) if step.op is ops.SET_CGROUP]
    found = properties_of(limits, {})
    few = [each for each in found if each[0] == "TasksMax" and each[2] < FEW]
    if few and few[0][2]:  # none at all is beyond systemd; the kernel has it
        plan.after.insert(0, Step(ops.SET_UNIT, "/linux/resources/pids/limit", name=unit, user=user, properties=few))
    devices = device_properties(resources.get("devices") or [])
    start.values["properties"] = _merge(properties, [each for each in found if each not in few], devices, annotated(config))
    start.values["paths"] = plan.paths
    return plan


def _plan_v2(host: CgroupHost, path: str, pointer: str, config: Config, start: Step) -> CgroupPlan:
    import ocipy.linux.cgroups.v2 as v2  # noqa: PLR0402  a name of the package itself would be looked up lazily

    plan = CgroupPlan({"": host.seen("", path)}, pointer)
    v2.plan_create(plan, (config.get("linux") or {}).get("resources") or {}, config)
    made = [step for step in plan.make if step.op is ops.MAKE_CGROUP]
    start.values["controllers"] = made[0].get("controllers")
    enter = [Step(ops.ENTER_CGROUP, pointer, paths=plan.paths)] if start.get("name").endswith(".slice") else []
    plan.stage = [start, *enter, *(step for step in plan.make if step not in made)]
    # systemd takes a directory that is there. Without controllers: it hands down those that the unit needs.
    early = [Step(ops.MAKE_CGROUP, pointer, path=plan.paths[""], controllers={})] if _binds_its_cgroup(config, host) else []
    plan.make, plan.open, plan.enter = early, [], []
    return plan


def _binds_its_cgroup(config: Config, host: CgroupHost) -> bool:
    """Is the cgroup's directory opened before there is a stage? For a mount without a cgroup namespace, with privilege."""
    namespaces = [item["type"] for item in (config.get("linux") or {}).get("namespaces") or ()]
    mounted = any(mount.get("type") == "cgroup" for mount in config.get("mounts") or ())
    return mounted and "cgroup" not in namespaces and not host.denied


def _plan_v1(host: CgroupHost, path: str, pointer: str, config: Config, start: Step) -> CgroupPlan:
    import ocipy.linux.cgroups.v1 as v1  # noqa: PLR0402

    plan = CgroupPlan(v1.controller_paths(host, path, explicit=True), pointer)
    v1.plan_create(plan, (config.get("linux") or {}).get("resources") or {}, host)
    plan.stage = [start]
    return plan


def made_cgroups(plan: CgroupPlan, absent: list[str]) -> list[str]:
    """Of the directories that are not there yet, those that are ours to remove: slices are systemd's, which remembers them."""
    own = set(plan.paths.values())
    theirs = [plan.paths[name] for name in MANAGED if name in plan.paths]
    return [path for path in absent if path in own or not any(leaf.startswith(path + "/") for leaf in theirs)]


def parse_path(text: str, container_id: str, *, user: bool) -> tuple[str, str]:
    """(slice, unit) of a cgroupsPath "slice:prefix:name". Raises ConfigError.

    Empty parts have defaults: system.slice (user.slice without root), no prefix. Without cgroupsPath: ocipy-ID.scope.
    """
    parts = text.split(":") if text else ["", PREFIX, container_id]
    if len(parts) != 3:
        raise ConfigError(POINTER, f'"{text}" is not of the form slice:prefix:name, as systemd needs it (system.slice:ocipy:name)')
    slice_name, prefix, name = parts
    slice_name = slice_name or ("user.slice" if user else "system.slice")
    if not name:
        raise ConfigError(POINTER, f'"{text}" has no name after the second colon')
    expand_slice(slice_name)
    unit = name if name.endswith(".slice") else f"{prefix + '-' if prefix else ''}{name}.scope"
    if name.endswith(".slice"):
        expand_slice(name)
        nested = name.rpartition("-")[0]
        if slice_name not in ("-.slice", f"{nested}.slice" if nested else "-.slice"):
            # The name of a slice says where it is.
            slice_name = f"{nested}.slice" if nested else "-.slice"
    unit = "".join(letter if letter in VALID else "".join(f"\\x{byte:02x}" for byte in letter.encode()) for letter in unit)
    if len(unit) > 255:
        raise ConfigError(POINTER if text else "", f"the name of the unit would be {len(unit)} bytes long and systemd takes 255")
    return slice_name, unit


def expand_slice(name: str) -> str:
    """Where systemd puts a slice: "a-b.slice" -> "a.slice/a-b.slice", "-.slice" -> "". Raises ConfigError."""
    stem = name.removesuffix(".slice")
    if name == "-.slice":
        return ""
    if stem == name or not stem or set(name) - VALID or "" in stem.split("-"):
        raise ConfigError(POINTER, f'"{name}" is not the name of a slice: it ends in .slice, and a-b.slice is in a.slice')
    parts = stem.split("-")
    return "/".join("-".join(parts[: count + 1]) + ".slice" for count in range(len(parts)))


def escape_cgroup(unit: str) -> str:
    """The name of a unit as that of a directory."""
    if unit[0] in "_." or unit.startswith("cgroup.") or unit.rpartition(".")[0] in RESERVED:
        return "_" + unit
    return unit


def read_unit_root(*, user: bool) -> str:
    """The cgroup below which systemd puts its units. Raises CgroupError."""
    if user:
        from ocipy.linux.cgroups.bus import Bus

        bus = Bus(user=True, what="find the cgroup of the user's systemd")
        try:
            return str(bus.property("ControlGroup"))
        finally:
            bus.close()
    if not os.path.isdir(BOOTED):
        detail = f"systemd is not the init of this host (there is no {BOOTED}): leave --systemd-cgroup away"
        raise CgroupError(0, "make a systemd scope", detail=detail)
    try:
        with open("/proc/1/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return ""
    paths = {names: path for _, names, path in lines}
    return str(paths.get("name=systemd") or paths.get("") or "").removesuffix("/init.scope")


def _has_user_manager() -> bool:
    """Root of a user namespace without a systemd of its user may be root of a container that has one."""
    return os.geteuid() != 0 or bool(os.environ.get("DBUS_SESSION_BUS_ADDRESS") or os.environ.get("XDG_RUNTIME_DIR"))


def _properties(config: Config, container_id: str, slice_name: str, unit: str, *, v2: bool) -> list[Property]:
    found: list[Property] = [("Description", "s", f"ocipy container {container_id}")]
    if unit.endswith(".slice"):
        if slice_name != "-.slice":
            found.append(("Wants", "as", [slice_name]))
    else:
        found += [("Slice", "s", slice_name), ("Delegate", "b", True)]
    for name in ("CPUAccounting", "MemoryAccounting", "IOAccounting" if v2 else "BlockIOAccounting", "TasksAccounting"):
        found.append((name, "b", True))
    # Without: systemd would end it early at shutdown, and keep a unit of a container that was killed for its memory.
    return [*found, ("DefaultDependencies", "b", False), ("CollectMode", "s", "inactive-or-failed")]


def _merge(*lists: list[Property]) -> list[Property]:
    """Later ones win: what the annotations say comes last."""
    merged: dict[str, Property] = {}
    for properties in lists:
        merged.update((each[0], each) for each in properties)
    return list(merged.values())
