"""What to do about a cgroup file that refuses its value. Loaded when that has happened."""

from __future__ import annotations

import errno
import os

# file prefix -> why the kernel may not have it
MISSING = (
    ("memory.memsw.", "the kernel counts no swap: boot it with swapaccount=1, or leave swap away"),
    ("memory.", "the kernel was built without the v1 interface of memory (CONFIG_MEMCG_V1)"),
    ("blkio.leaf_weight", "leaf weights were the CFQ scheduler's, which Linux 5.0 removed: leave them away"),
    ("blkio.", "the kernel has no I/O scheduler with weights: load bfq, or leave weights away"),
    ("cpu.rt_", "the kernel has no realtime groups (CONFIG_RT_GROUP_SCHED): leave realtimeRuntime and realtimePeriod away"),
    ("cpu.cfs_burst_us", "burst needs Linux 5.14"),
    ("cpu.idle", "idle needs Linux 5.15"),
    ("cpu.max.burst", "burst needs Linux 5.14"),
    ("cpu.cfs_", "the kernel was built without CPU bandwidth (CONFIG_CFS_BANDWIDTH)"),
    ("io.weight", "the kernel weighs I/O by bfq or io.cost, and has neither: load bfq, or leave weights away"),
    ("io.bfq.", "the kernel has no I/O scheduler with weights: load bfq, or leave weights away"),
    ("memory.swap.", "the kernel counts no swap: boot it with swapaccount=1, or leave swap away"),
    ("hugetlb.", "the kernel has no pages of this size: see /sys/kernel/mm/hugepages"),
)

ADVICE_ENTER = {
    errno.EOPNOTSUPP: "its cgroup.type says that it is for threads, or below such a cgroup: choose another cgroupsPath",
    errno.ENOENT: "the cgroup is gone: somebody removed it from below the container",
    errno.ENODEV: "the cgroup is gone: somebody removed it from below the container",
    errno.ESRCH: "the process has ended",
    errno.ENOSPC: "its cpuset has no CPUs or no memory nodes: give linux.resources.cpu.cpus and mems",
    errno.EBUSY: "the cgroup has children with controllers of their own, and cgroup v2 allows processes only in the last",
    errno.EINVAL: "a realtime process cannot enter a cgroup without realtime budget: give linux.resources.cpu.realtimeRuntime",
    errno.ENOMEM: "the memory limit is too small to hold the process",
}


def advice_set(path: str, file: str, value: str | None, number: int) -> str:
    """One clause, without a full stop; "" when nothing better is known than the errno."""
    if number == errno.ENOENT and not os.path.isdir(path):
        return "the cgroup is gone"
    name = file.partition(".")[0]
    if number == errno.ENOENT and name not in f"cgroup {_read(path, 'cgroup.controllers')}".split() and _is_v2(path):
        return f"the {name} controller was not enabled for this cgroup: see cgroup.controllers in it and above"
    if number == errno.ENOENT:
        return next((why for prefix, why in MISSING if file.startswith(prefix)), "this kernel has no such file")
    if number in (errno.EACCES, errno.EROFS):
        return "the runtime may not write there"
    if number == errno.EBUSY and file == "memory.limit_in_bytes":
        return f"its processes use {_read(path, 'memory.usage_in_bytes')} bytes now: the limit cannot be less"
    if file.startswith("cpuset."):
        return f'its parent has "{_read(os.path.dirname(path), file)}": the value must be part of that'
    if file in ("devices.allow", "devices.deny") and number == errno.EPERM:
        return f"its parent cgroup {os.path.dirname(path)} does not allow it either: see devices.list there"
    if file in ("devices.allow", "devices.deny") and number == errno.EINVAL:
        return "a cgroup with children cannot be told to allow or deny everything"
    if file.startswith(("blkio.", "io.")) and number in (errno.ENODEV, errno.ENXIO):
        return "there is no such block device on this host, or it is only a partition"
    if number == errno.ERANGE or (number == errno.EINVAL and "weight" in file):
        return "the value is out of range: bfq takes weights of 1 to 1000"
    if file == "memory.memsw.limit_in_bytes" and number == errno.EINVAL:
        return f"memory and swap together cannot be less than memory alone ({_read(path, 'memory.limit_in_bytes')})"
    if file == "memory.limit_in_bytes" and number == errno.EINVAL:
        return f"it cannot be more than memory and swap together ({_read(path, 'memory.memsw.limit_in_bytes')}): raise swap too"
    if file.startswith("cpu.rt_") and number == errno.EINVAL:
        return "the parent cgroup has not that much realtime budget: see cpu.rt_runtime_us there"
    if file.startswith("cpu.cfs_") and number == errno.EINVAL:
        return "periods are 1000 to 1000000, quotas at least 1000 and no more than the parent's, bursts no more than the quota"
    return ""


def _is_v2(path: str) -> bool:
    return os.path.exists(path + "/cgroup.controllers")


def _read(path: str, file: str) -> str:
    try:
        with open(f"{path}/{file}", encoding="ascii") as source:
            return source.read().strip()
    except OSError:
        return "?"
