"""cgroup v2: linux.resources as files of one directory (config-linux.md, Control groups, Unified)."""

from __future__ import annotations

import errno
import os

from ocipy.errors import CgroupError, ConfigError
from ocipy.linux.cgroups.plan import plan_entry
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from ocipy.config.types import CPU, BlockIO, Memory, Resources
    from ocipy.linux.cgroups.host import CgroupHost
    from ocipy.linux.cgroups.plan import CgroupPlan

    ThrottleName = Literal["throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice"]
    Setting = tuple[str, str | list[str | None], str]  # JSON pointer below /linux/resources, file, value

THROTTLE: tuple[tuple[ThrottleName, str], ...] = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)
MAX_PERIOD = 100000  # what the kernel starts with, in microseconds


def controller_paths(host: CgroupHost, path: str) -> dict[str, str]:
    """One directory, of all controllers: {"": …}.

    A relative path starts beside our own cgroup, not below it: ours has processes in it, and v2 allows no controllers below such
    a cgroup. runc does the same.
    """
    if path.startswith("/"):
        return {"": host.directory("", path)}
    own = host.directory("", "")
    mount = host.mounts[""].rstrip("/")
    return {"": f"{mount if own == mount else os.path.dirname(own)}/{path}"}


def plan_create(plan: CgroupPlan, resources: Resources) -> None:
    """Fills a plan whose path is known."""
    path = plan.paths[""]
    limits = plan_limits(resources, path, plan.warnings)
    needed = {file.split(".")[0] for step in limits for file in [_first(step)] if not file.startswith("cgroup.")}
    plan.make.append(Step(ops.MAKE_CGROUP, plan.pointer, path=path, controllers=["cgroup2", *sorted(needed)]))
    # pids.max waits for init, or a limit of 1 would keep it from being born.
    plan.make += [step for step in limits if step.get("file") != "pids.max"]
    plan.open, plan.enter = plan_entry(plan.paths, plan.pointer)
    plan.after += [step for step in limits if step.get("file") == "pids.max"]
    check_devices()


def check_devices() -> None:
    """A container without device rules could open every disk of the host, so it is not made at all."""
    detail = "on cgroup v2 that takes an eBPF filter, which is not supported yet"
    raise CgroupError(0, "restrict devices", pointer="/linux/resources/devices", detail=detail)


def plan_limits(resources: Resources, path: str, warnings: list[str]) -> list[Step]:
    """All limits but devices, of create and of update. Raises ConfigError for v1 properties that v2 cannot express."""
    found: list[Setting] = []
    found += _memory(resources.get("memory") or {}, warnings)
    found += _cpu(resources.get("cpu") or {})
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        found.append(("pids/limit", "pids.max", "max" if limit < 0 else str(limit)))
    found += _block_io(resources.get("blockIO") or {})
    found += _others(resources)
    # Last, so that what is said in v2's own words wins.
    for file, value in (resources.get("unified") or {}).items():
        if "/" in file or "." not in file or file in ("cgroup.procs", "cgroup.threads", "cgroup.kill"):
            raise ConfigError(f"/linux/resources/unified/{_escape(file)}", f'"{file}" is not a setting of a cgroup')
        found += [(f"unified/{_escape(file)}", file, line) for line in value.split("\n") if line]
    return [Step(ops.SET_CGROUP, "/linux/resources/" + origin, path=path, file=file, value=value) for origin, file, value in found]


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _first(step: Step) -> str:
    file = step.get("file")
    return str(file if isinstance(file, str) else file[0])


def _impossible(pointer: str, instead: str) -> ConfigError:
    return ConfigError("/linux/resources/" + pointer, f"cgroup v2 has nothing like it: {instead}")


def _bytes(value: int) -> str:
    return "max" if value < 0 else str(value)


def _memory(memory: Memory, warnings: list[str]) -> list[Setting]:
    if (memory.get("kernel") or -1) > 0 or (memory.get("kernelTCP") or -1) > 0:
        warnings.append("linux.resources.memory.kernel and kernelTCP are ignored: cgroup v2 counts them with all other memory")
    if memory.get("disableOOMKiller"):
        raise _impossible("memory/disableOOMKiller", "leave it away")
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != 2**64 - 1:
        raise _impossible("memory/swappiness", "leave it away")
    found: list[Setting] = []
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if swap:
        if swap > 0 and (limit <= 0 or swap < limit):
            raise ConfigError("/linux/resources/memory/swap", "swap is memory and swap together: give a limit that is not more")
        # v2 limits swap by itself. Before the memory: what is pushed out must have a place.
        found.append(("memory/swap", "memory.swap.max", _bytes(swap if swap < 0 else swap - limit)))
    elif limit < 0:
        found.append(("memory/limit", ["memory.swap.max", None], "max"))
    if limit:
        found.append(("memory/limit", "memory.max", _bytes(limit)))
    if memory.get("reservation"):
        found.append(("memory/reservation", "memory.low", _bytes(memory["reservation"])))
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


def _cpu(cpu: CPU) -> list[Setting]:
    found: list[Setting] = []
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise _impossible("cpu/realtimeRuntime" if cpu.get("realtimeRuntime") else "cpu/realtimePeriod", "use process.scheduler")
    if cpu.get("shares"):
        found.append(("cpu/shares", "cpu.weight", str(cpu_weight(cpu["shares"]))))
    if cpu.get("idle") is not None:
        found.append(("cpu/idle", "cpu.idle", str(cpu["idle"])))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        value = f"{quota if quota > 0 else 'max'} {period or MAX_PERIOD}"
        found.append(("cpu/quota" if quota else "cpu/period", "cpu.max", value))
    if cpu.get("burst") is not None:
        found.append(("cpu/burst", "cpu.max.burst", str(cpu["burst"])))
    if cpu.get("cpus"):
        found.append(("cpu/cpus", "cpuset.cpus", cpu["cpus"]))
    if cpu.get("mems"):
        found.append(("cpu/mems", "cpuset.mems", cpu["mems"]))
    return found


def _block_io(io: BlockIO) -> list[Setting]:
    found: list[Setting] = []
    if io.get("leafWeight"):
        raise _impossible("blockIO/leafWeight", "leave it away")
    if io.get("weight"):
        found.append(("blockIO/weight", "io.bfq.weight", str(io["weight"])))
    for index, device in enumerate(io.get("weightDevice") or ()):
        pointer = f"blockIO/weightDevice/{index}"
        if device.get("leafWeight"):
            raise _impossible(pointer + "/leafWeight", "leave it away")
        found.append((pointer + "/weight", "io.bfq.weight", f"{device['major']}:{device['minor']} {device['weight']}"))
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
    network = resources.get("network") or {}
    if network.get("classID") or network.get("priorities"):
        raise _impossible("network", "mark packets with eBPF or nftables on the host")
    for device, limit in (resources.get("rdma") or {}).items():
        words = [device]
        words += [f"hca_handle={limit['hcaHandles']}"] if limit.get("hcaHandles") is not None else []
        words += [f"hca_object={limit['hcaObjects']}"] if limit.get("hcaObjects") is not None else []
        found.append(("rdma/" + _escape(device), "rdma.max", " ".join(words)))
    return found


def enable_controllers(step: Step) -> None:
    """Enables for a new cgroup all controllers that its ancestors have; those that its limits need must be among them.

    From the top downwards: a cgroup can give on only what it has.
    """
    needed = set(step.get("controllers")) - {"cgroup2"}
    ancestors, path = [], os.path.dirname(step.get("path"))
    while os.path.exists(path + "/cgroup.subtree_control"):
        ancestors.append(path)
        path = os.path.dirname(path)
    for ancestor in reversed(ancestors):
        has = set(_read(ancestor + "/cgroup.controllers").split())
        if needed - has:
            name = min(needed - has)
            raise CgroupError(
                0, f"enable the {name} controller", pointer=step.origin,
                detail=f"{ancestor}/cgroup.controllers does not have it: mount or delegate it, or leave its limits away",
            )  # fmt: skip
        for name in sorted(has - set(_read(ancestor + "/cgroup.subtree_control").split())):
            _enable(step, ancestor, name, needed=name in needed)


def _enable(step: Step, path: str, name: str, *, needed: bool) -> None:
    fd = os.open(path + "/cgroup.subtree_control", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, f"+{name}".encode())
    except OSError as error:
        if needed:
            detail = "the cgroup has processes in it, and v2 gives controllers only to cgroups below an empty one"
            raise CgroupError(
                error.errno or 0, f"enable the {name} controller below {path}", "write", step.origin,
                detail if error.errno == errno.EBUSY else "",
            ) from None  # fmt: skip
    finally:
        os.close(fd)


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)
