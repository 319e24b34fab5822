"""cgroup v2: linux.resources as files of one directory (config-linux.md, Control groups, Unified)."""

from __future__ import annotations

from ocipy.errors import ConfigError
from ocipy.linux.cgroups.device_rules import all_rules
from ocipy.linux.cgroups.owner import plan_owner
from ocipy.linux.cgroups.plan import plan_entry
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from ocipy.config.types import CPU, BlockIO, Config, DeviceCgroup, Memory, Resources
    from ocipy.linux.cgroups.host import CgroupHost
    from ocipy.linux.cgroups.plan import CgroupPlan

    ThrottleName = Literal["throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice"]
    # JSON pointer below /linux/resources; file, or files of which the first that is there counts; value, or one for each file
    Setting = tuple[str, str | list[str | None], str | list[str]]

THROTTLE: tuple[tuple[ThrottleName, str], ...] = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)
MAX_PERIOD = 100000  # what the kernel starts with, in microseconds
UNLIMITED = 2**64 - 1  # how a caller that has no word for "unset" writes -1 into an unsigned property
WEIGHT = ("io.bfq.weight", "io.weight")


def controller_paths(host: CgroupHost, path: str, *, explicit: bool = True) -> dict[str, str]:
    """One directory, of all controllers: {"": …}.

    A relative path starts beside our own cgroup, not below it, as with runc. A runtime without privilege leaves it out, unless an
    ``explicit`` cgroupsPath says that it must be there.
    """
    if path.startswith("/"):
        return {"": host.directory("", path)}
    return {"": f"{host.beside()}/{path}"} if explicit or "" not in host.denied else {}


def plan_create(plan: CgroupPlan, resources: Resources, config: Config) -> None:
    """Fills a plan whose path is known. Raises ConfigError for limits where there is none."""
    path = plan.paths.get("", "")
    limits = plan_limits(resources, path, plan.warnings)
    if not path:
        _plan_without(plan, limits, resources)
        return
    needed = {"cgroup2": plan.pointer}
    for step in limits:
        file, controller = step.get("file"), _controller(step)
        if controller != "cgroup" and (isinstance(file, str) or file[-1] is not None):
            needed.setdefault(controller, step.origin)
    plan.make.append(Step(ops.MAKE_CGROUP, plan.pointer, path=path, controllers=needed))
    plan.make += plan_owner(config, path)
    # pids.max waits for init, or a limit of 0 would keep it from being born.
    plan.make += [step for step in limits if _controller(step) != "pids"]
    plan.open, plan.enter = plan_entry(plan.paths, plan.pointer)
    plan.after += [step for step in limits if _controller(step) == "pids"]
    plan.after += plan_devices(resources.get("devices") or [], path)


def _plan_without(plan: CgroupPlan, limits: list[Step], resources: Resources) -> None:
    if limits:
        text = "the runtime may not make cgroups here: run it as root, or in a cgroup that was delegated to its user"
        raise ConfigError(limits[0].origin, f"{text} (systemd-run --user --scope -p Delegate=yes), or leave limits away")
    if resources.get("devices"):
        plan.warnings.append("linux.resources.devices is ignored: the runtime may not make cgroups here (it has no privilege)")


def plan_devices(devices: list[DeviceCgroup], path: str, name: str | None = None) -> list[Step]:
    """A container without any rules gets the defaults and nothing else. ``name``: of the program, other than at create."""
    rules = [f"{'allow' if rule.allow else 'deny'} {rule}" for rule in all_rules(devices)]
    return [Step(ops.RESTRICT_DEVICES, "/linux/resources/devices", path=path, rules=rules, name=name)]


def plan_limits(resources: Resources, path: str, warnings: list[str]) -> list[Step]:
    """All limits but devices, of create and of update. Raises ConfigError for v1 properties that v2 cannot express."""
    found: list[Setting] = []
    found += _memory(resources.get("memory") or {}, warnings)
    found += _cpu(resources.get("cpu") or {}, warnings)
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        found.append(_most("pids/limit", "pids.max", limit))
    found += _block_io(resources.get("blockIO") or {}, warnings)
    found += _others(resources)
    _ignore(resources.get("network") or {}, ("classID", "priorities"), "network", "mark packets with nftables or eBPF", warnings)
    # Last, so that what is said in v2's own words wins.
    for file, value in (resources.get("unified") or {}).items():
        if "/" in file or "." not in file or file in ("cgroup.procs", "cgroup.threads", "cgroup.kill"):
            raise ConfigError(f"/linux/resources/unified/{_escape(file)}", f'"{file}" is not a setting of a cgroup')
        found += [(f"unified/{_escape(file)}", file, line) for line in value.split("\n") if line]
    return [Step(ops.SET_CGROUP, "/linux/resources/" + origin, path=path, file=file, value=value) for origin, file, value in found]


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _controller(step: Step) -> str:
    file = step.get("file")
    return str(file if isinstance(file, str) else file[0]).partition(".")[0]


def _ignore(values: object, names: tuple[str, ...], section: str, instead: str, warnings: list[str]) -> None:
    """What v2 has nothing like, and engines send all the same: one warning each."""
    assert isinstance(values, dict)
    text = f"is ignored: cgroup v2 has nothing like it; {instead}"
    warnings += [f"linux.resources.{section}.{name} {text}" for name in names if values.get(name)]


def _most(pointer: str, file: str, limit: int) -> Setting:
    """No limit is what there is without the controller, too: then the file need not be there."""
    return (pointer, file, str(limit)) if limit >= 0 else (pointer, [file, None], "max")


def _memory(memory: Memory, warnings: list[str]) -> list[Setting]:
    for name, value in (("kernel", memory.get("kernel")), ("kernelTCP", memory.get("kernelTCP"))):
        if 0 < (value or 0) < UNLIMITED:
            warnings += [f"linux.resources.memory.{name} is ignored: cgroup v2 counts it with all other memory"]
    if memory.get("useHierarchy") is False:
        warnings.append("linux.resources.memory.useHierarchy: false is ignored: cgroup v2 always counts by hierarchy")
    _ignore(memory, ("disableOOMKiller",), "memory", "memory.high slows a container down instead", warnings)
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != UNLIMITED:
        warnings.append("linux.resources.memory.swappiness is ignored: cgroup v2 has nothing like it; limit swap instead")
    found: list[Setting] = []
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if swap > 0 and limit >= 0:
        if not limit or swap < limit:
            raise ConfigError("/linux/resources/memory/swap", "swap is memory and swap together: give a limit that is not more")
        # v2 limits swap by itself. Before the memory: what is pushed out must have a place.
        none: list[str | None] = ["memory.swap.max", None]  # no swap, on a kernel that has none
        found.append(("memory/swap", none if swap == limit else "memory.swap.max", str(swap - limit)))
    elif swap or limit < 0:
        found.append(_most("memory/swap" if swap else "memory/limit", "memory.swap.max", swap or -1))
    if limit:
        found.append(_most("memory/limit", "memory.max", limit))
    if memory.get("reservation"):
        found.append(_most("memory/reservation", "memory.low", memory["reservation"]))
    return found


def cpu_weight(shares: int) -> int:
    """cpu.shares (2 to 262144, 1024 is usual) as cpu.weight (1 to 10000, 100 is usual): a curve through the ends and the middle.

    It is the one that runc and crun use since 2025, so that a container weighs the same under each.
    """
    from math import ceil, log2

    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def _cpu(cpu: CPU, warnings: list[str]) -> list[Setting]:
    found: list[Setting] = []
    _ignore(cpu, ("realtimeRuntime", "realtimePeriod"), "cpu", "use process.scheduler", warnings)
    if cpu.get("shares"):
        found.append(("cpu/shares", "cpu.weight", str(cpu_weight(cpu["shares"]))))
    if cpu.get("idle") is not None:
        found.append(("cpu/idle", "cpu.idle", str(cpu["idle"])))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        value = f"{quota if quota > 0 else 'max'} {period or MAX_PERIOD}"
        files: str | list[str | None] = "cpu.max" if quota > 0 else ["cpu.max", None]
        found.append(("cpu/quota" if quota else "cpu/period", files, value))
    if cpu.get("burst") is not None:
        found.append(("cpu/burst", "cpu.max.burst", str(cpu["burst"])))
    if cpu.get("cpus"):
        found.append(("cpu/cpus", "cpuset.cpus", cpu["cpus"]))
    if cpu.get("mems"):
        found.append(("cpu/mems", "cpuset.mems", cpu["mems"]))
    return found


def io_weight(weight: int) -> int:
    """blkio.weight (10 to 1000) as io.weight (1 to 10000), in a straight line, as runc does."""
    return 1 + max(weight - 10, 0) * 9999 // 990


def _block_io(io: BlockIO, warnings: list[str]) -> list[Setting]:
    """Weights are BFQ's where that is the scheduler's interface, with the numbers of v1, else those of io.cost."""
    found: list[Setting] = []
    instead = "give weight"
    _ignore(io, ("leafWeight",), "blockIO", instead, warnings)
    if io.get("weight"):
        found.append(("blockIO/weight", [*WEIGHT], [str(io["weight"]), str(io_weight(io["weight"]))]))
    for index, device in enumerate(io.get("weightDevice") or ()):
        _ignore(device, ("leafWeight",), f"blockIO.weightDevice[{index}]", instead, warnings)
        if device.get("weight"):
            number, weight = f"{device['major']}:{device['minor']}", device["weight"]
            values = [f"{number} {weight}", f"{number} {io_weight(weight)}"]
            found.append((f"blockIO/weightDevice/{index}/weight", [*WEIGHT], values))
    for name, key in THROTTLE:
        for index, limit in enumerate(io.get(name) or ()):
            value = f"{limit['major']}:{limit['minor']} {key}={limit['rate'] or 'max'}"
            found.append((f"blockIO/{name}/{index}/rate", "io.max", value))
    return found


def _others(resources: Resources) -> list[Setting]:
    found: list[Setting] = []
    for index, page in enumerate(resources.get("hugepageLimits") or ()):
        size, pointer = page["pageSize"], f"hugepageLimits/{index}"
        if not size.isalnum():
            raise ConfigError(f"/linux/resources/{pointer}/pageSize", f'"{size}" is not a size like 2MB or 1GB')
        found.append((pointer + "/limit", f"hugetlb.{size}.max", str(page["limit"])))
        found.append((pointer + "/limit", [f"hugetlb.{size}.rsvd.max", None], str(page["limit"])))
    for device, limit in (resources.get("rdma") or {}).items():
        words = [device]
        words += [f"hca_handle={limit['hcaHandles']}"] if limit.get("hcaHandles") is not None else []
        words += [f"hca_object={limit['hcaObjects']}"] if limit.get("hcaObjects") is not None else []
        found.append(("rdma/" + _escape(device), "rdma.max", " ".join(words)))
    return found
