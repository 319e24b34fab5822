"""cgroup v1: linux.resources as files of one directory per hierarchy (config-linux.md, Control groups)."""

from __future__ import annotations

from ocipy.errors import ConfigError
from ocipy.linux.cgroups.device_rules import plan_rules
from ocipy.linux.cgroups.plan import plan_entry
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from ocipy.config.types import CPU, BlockIO, Memory, Resources
    from ocipy.linux.cgroups.host import CgroupHost
    from ocipy.linux.cgroups.plan import CgroupPlan

    ThrottleName = Literal["throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice"]

UNLIMITED = 2**64 - 1  # how a caller that has no word for "unset" writes -1 into an unsigned property

# property -> file. 0, false and "" are what callers send for "unset": then nothing is written. Order matters within a table.
MEMORY_FILES = (
    ("limit", "memory.limit_in_bytes"),  # before swap: what is raised from a new cgroup's unlimited cannot be too high
    ("swap", "memory.memsw.limit_in_bytes"),
    ("reservation", "memory.soft_limit_in_bytes"),
    ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
    ("swappiness", "memory.swappiness"),
    ("disableOOMKiller", "memory.oom_control"),
)
CPU_FILES = (
    ("shares", "cpu.shares"),  # before idle: an idle group has no shares
    ("idle", "cpu.idle"),
    ("period", "cpu.cfs_period_us"),
    ("quota", "cpu.cfs_quota_us"),
    ("burst", "cpu.cfs_burst_us"),  # after quota: it may not be more
    ("realtimePeriod", "cpu.rt_period_us"),
    ("realtimeRuntime", "cpu.rt_runtime_us"),
)
THROTTLE: tuple[tuple[ThrottleName, str], ...] = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
)
# Linux 5.0 took CFQ away; BFQ has its own names, and no leaf weights.
WEIGHT = ["blkio.weight", "blkio.bfq.weight"]
WEIGHT_DEVICE = ["blkio.weight_device", "blkio.bfq.weight_device"]
RDMA: tuple[tuple[Literal["hcaHandles", "hcaObjects"], str], ...] = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
# Written although they are 0: 0 means something there and is not the default of a cgroup that was there before.
ZERO_COUNTS = ("swappiness", "idle", "burst", "disableOOMKiller")


class _Limits:
    """Collects SET_CGROUP steps; knows where each controller is, and says so when it is nowhere.

    A ``file`` that is a list has several names: the first that exists is written; None at its end: it need not exist.
    """

    __slots__ = ("paths", "steps")

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths
        self.steps: list[Step] = []

    def set(self, controller: str, file: str | list[str | None], value: object, pointer: str) -> None:
        path = self.paths.get(controller)
        if path is None:
            raise ConfigError(
                "/linux/resources/" + pointer,
                f"the {controller} controller is not mounted on this host, or not for us: mount it, or leave the property away",
            )
        text = str(int(value)) if isinstance(value, bool) else str(value)
        self.steps.append(Step(ops.SET_CGROUP, "/linux/resources/" + pointer, path=path, file=file, value=text))

    def set_table(self, controller: str, table: tuple[tuple[str, str], ...], values: Any, section: str) -> None:
        for name, file in table:
            value = values.get(name)
            if value is None or value == UNLIMITED:
                continue
            if value or (name in ZERO_COUNTS and controller in self.paths):
                self.set(controller, file, value, f"{section}/{name}")


def controller_paths(host: CgroupHost, path: str, *, explicit: bool) -> dict[str, str]:
    """Name -> directory for all that a container joins: every controller, systemd's hierarchy, and cgroup v2 beside them.

    Other named hierarchies belong to somebody else. A runtime without privilege leaves out what it may not write, unless an
    ``explicit`` cgroupsPath says that it must be there.
    """
    names = [name for name in host.mounts if not name.startswith("name=") or name == "name=systemd"]
    return {name: host.directory(name, path) for name in names if explicit or name not in host.denied}


def plan_create(plan: CgroupPlan, resources: Resources, host: CgroupHost) -> None:
    """Fills a plan whose paths are known. Limits are set before the container enters, except what would hinder its making."""
    joined: dict[str, list[str]] = {}
    for name, path in plan.paths.items():
        joined.setdefault(path, []).append(name)
    plan.make += [Step(ops.MAKE_CGROUP, plan.pointer, path=path, controllers=names) for path, names in joined.items()]
    plan.make += plan_limits(resources, plan.paths, plan.warnings, new=True)
    plan.open, plan.enter = plan_entry(plan.paths, plan.pointer)
    plan.after += plan_pids(resources, plan.paths)
    if "devices" in plan.paths or "devices" not in host.denied:
        plan.after += plan_devices(resources, plan.paths)
    elif resources.get("devices"):
        plan.warnings.append("linux.resources.devices is ignored: the runtime may not make cgroups here (it has no privilege)")


def plan_limits(
    resources: Resources, paths: dict[str, str], warnings: list[str], *, new: bool = False
) -> list[Step]:
    """All limits but pids and devices, of create (``new``) and of update."""
    if resources.get("unified"):
        name = next(iter(resources["unified"]))
        raise ConfigError(
            f"/linux/resources/unified/{name}", "unified is for cgroup v2 and this host has v1: say it with the v1 properties"
        )
    limits = _Limits(paths)
    _plan_cpuset(limits, resources.get("cpu") or {}, new)
    _plan_memory(limits, resources.get("memory") or {}, warnings, new=new)
    _plan_cpu(limits, resources.get("cpu") or {})
    _plan_block_io(limits, resources.get("blockIO") or {})
    _plan_others(limits, resources)
    return limits.steps


def _plan_cpuset(limits: _Limits, cpu: CPU, new: bool) -> None:
    for name, file, value in (("cpus", "cpuset.cpus", cpu.get("cpus")), ("mems", "cpuset.mems", cpu.get("mems"))):
        if value:
            limits.set("cpuset", file, value, f"cpu/{name}")
        elif new and "cpuset" in limits.paths:
            # No process can enter a cpuset without CPUs and nodes: value None copies the parent's where there are none.
            limits.steps.append(Step(ops.SET_CGROUP, path=limits.paths["cpuset"], file=file, value=None))


def _plan_memory(limits: _Limits, memory: Memory, warnings: list[str], *, new: bool) -> None:
    if (memory.get("kernel") or -1) > 0:
        warnings.append("linux.resources.memory.kernel is ignored: Linux has no limit of kernel memory by itself since 5.16")
    if memory.get("useHierarchy") is False:
        warnings.append("linux.resources.memory.useHierarchy: false is ignored: Linux has always counted by hierarchy since 5.11")
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != UNLIMITED and swappiness > 100:
        raise ConfigError("/linux/resources/memory/swappiness", f"{swappiness} is not in the range 0 to 100")
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if 0 < swap < limit:
        raise ConfigError(
            "/linux/resources/memory/swap", f"swap ({swap}) is memory and swap together: it must not be less than limit ({limit})"
        )
    # checkBeforeUpdate needs nothing: v1 refuses a limit below the usage with EBUSY.
    limits.set_table("memory", MEMORY_FILES, memory, "memory")
    if limit < 0 and not swap and not new:  # or an old limit of both together would stay
        file: list[str | None] = ["memory.memsw.limit_in_bytes", None]
        limits.set("memory", file, -1, "memory/limit")


def _plan_cpu(limits: _Limits, cpu: CPU) -> None:
    shares = cpu.get("shares") or 0
    if shares and not 2 <= shares <= 262144:  # the kernel would take the nearest without a word
        raise ConfigError("/linux/resources/cpu/shares", f"{shares} is not in the range 2 to 262144")
    limits.set_table("cpu", CPU_FILES, cpu, "cpu")


def _plan_block_io(limits: _Limits, io: BlockIO) -> None:
    if io.get("weight"):
        limits.set("blkio", [*WEIGHT], io["weight"], "blockIO/weight")
    if io.get("leafWeight"):
        limits.set("blkio", "blkio.leaf_weight", io["leafWeight"], "blockIO/leafWeight")
    for index, device in enumerate(io.get("weightDevice") or ()):
        number, pointer = f"{device['major']}:{device['minor']}", f"blockIO/weightDevice/{index}"
        if device.get("weight"):
            limits.set("blkio", [*WEIGHT_DEVICE], f"{number} {device['weight']}", pointer + "/weight")
        if device.get("leafWeight"):
            limits.set("blkio", "blkio.leaf_weight_device", f"{number} {device['leafWeight']}", pointer + "/leafWeight")
    for name, file in THROTTLE:
        for index, limit in enumerate(io.get(name) or ()):
            value = f"{limit['major']}:{limit['minor']} {limit['rate']}"
            limits.set("blkio", file, value, f"blockIO/{name}/{index}/rate")


def _plan_others(limits: _Limits, resources: Resources) -> None:
    for index, page in enumerate(resources.get("hugepageLimits") or ()):
        size, pointer = page["pageSize"], f"hugepageLimits/{index}"
        if not size.isalnum():
            raise ConfigError(f"/linux/resources/{pointer}/pageSize", f'"{size}" is not a size like 2MB or 1GB')
        limits.set("hugetlb", f"hugetlb.{size}.limit_in_bytes", page["limit"], pointer + "/limit")
        # Reservations are limited too where the kernel can (5.7).
        limits.set("hugetlb", [f"hugetlb.{size}.rsvd.limit_in_bytes", None], page["limit"], pointer + "/limit")
    network = resources.get("network") or {}
    if network.get("classID"):
        limits.set("net_cls", "net_cls.classid", network["classID"], "network/classID")
    for index, item in enumerate(network.get("priorities") or ()):
        limits.set("net_prio", "net_prio.ifpriomap", f"{item['name']} {item['priority']}", f"network/priorities/{index}")
    for device, limit in (resources.get("rdma") or {}).items():
        words = [device]
        words += [f"{word}={limit[name]}" for name, word in RDMA if limit.get(name) is not None]
        limits.set("rdma", "rdma.max", " ".join(words), "rdma/" + device.replace("~", "~0").replace("/", "~1"))


def plan_pids(resources: Resources, paths: dict[str, str]) -> list[Step]:
    """0 is a limit: no further process. It comes after init is born, or none could be."""
    limit = (resources.get("pids") or {}).get("limit")
    limits = _Limits(paths)
    if limit is not None and (limit >= 0 or "pids" in paths):
        limits.set("pids", "pids.max", "max" if limit < 0 else limit, "pids/limit")
    return limits.steps


def plan_devices(resources: Resources, paths: dict[str, str]) -> list[Step]:
    """A container without any rules gets the defaults and nothing else, as from runc."""
    path = paths.get("devices")
    if path is None:
        raise ConfigError(
            "/linux/resources/devices", "the devices controller is not mounted on this host: a container could open every device"
        )
    return [
        Step(ops.SET_CGROUP, rule.pointer, path=path, file="devices.allow" if rule.allow else "devices.deny", value=str(rule))
        for rule in plan_rules(resources.get("devices") or [])
    ]
