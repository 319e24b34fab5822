"""What the kernel counts for a container, in the shape in which runc tells it: callers have that in their types.

Of optional members, those that are 0 are left away.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TICK = 10_000_000  # nanoseconds of the clock that cpuacct.stat counts in: USER_HZ is 100 on every architecture but alpha
CPUSET_FLAGS = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
    "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip
# member -> what it is called in files; each has one with all below the cgroup
BLOCK_IO = {
    "ioServiceBytesRecursive": "io_service_bytes", "ioServicedRecursive": "io_serviced", "ioQueueRecursive": "io_queued",
    "ioServiceTimeRecursive": "io_service_time", "ioWaitTimeRecursive": "io_wait_time", "ioMergedRecursive": "io_merged",
    "ioTimeRecursive": "time", "sectorsRecursive": "sectors",
}  # fmt: skip
BLOCK_IO_PREFIXES = ("blkio.bfq.", "blkio.", "blkio.throttle.")  # of whoever schedules; throttle counts for all
IO_STAT = {
    "rbytes": ("ioServiceBytesRecursive", "Read"), "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"), "wios": ("ioServicedRecursive", "Write"),
}  # fmt: skip


def read_stats(paths: dict[str, str]) -> dict[str, Any]:
    """cpu (nanoseconds), cpuset, memory (bytes), pids, blkio, hugetlb, and two that are always empty: readers expect them."""
    found = _v2(paths[""]) if list(paths) == [""] else _v1(paths)
    return {**found, "intel_rdt": {}, "network_interfaces": None}


def _v1(paths: dict[str, str]) -> dict[str, Any]:
    def of(name: str) -> str:
        return paths.get(name, "/nonexistent")

    return {
        "cpu": {"usage": _cpu_usage(of("cpuacct")), "throttling": _throttling(of("cpu"), "throttled_time", 1)},
        "cpuset": _cpuset(of("cpuset") + "/cpuset."),
        "memory": _memory(of("memory") + "/memory."),
        "pids": _pids(of("pids")),
        "blkio": _block_io(of("blkio")),
        "hugetlb": _huge_pages(of("hugetlb")),
    }


def _cpu_usage(path: str) -> dict[str, Any]:
    rows = [line.split() for line in _text(path + "/cpuacct.usage_all").splitlines()[1:]]  # cpu, user, system
    clock = _table(path + "/cpuacct.stat")
    found: dict[str, Any] = _given(
        total=_number(path + "/cpuacct.usage"),
        percpu=[int(word) for word in _text(path + "/cpuacct.usage_percpu").split()],
        percpu_kernel=[int(row[2]) for row in rows],
        percpu_user=[int(row[1]) for row in rows],
    )
    return found | {"kernel": clock.get("system", 0) * TICK, "user": clock.get("user", 0) * TICK}


def _throttling(path: str, time: str, unit: int) -> dict[str, Any]:
    stat = _table(path + "/cpu.stat")
    return _given(
        periods=stat.get("nr_periods"), throttledPeriods=stat.get("nr_throttled"), throttledTime=stat.get(time, 0) * unit
    )


def _cpuset(prefix: str) -> dict[str, Any]:
    found = _given(cpus=_ids(prefix + "cpus"), mems=_ids(prefix + "mems"))
    return found | {name: _number(prefix + name) for name in CPUSET_FLAGS}


def _ids(path: str) -> list[int]:
    from ocipy.config.id_list import parse_id_list

    return parse_id_list(_text(path).strip(), "")


def _memory(prefix: str) -> dict[str, Any]:
    raw = _table(prefix + "stat")
    kinds = (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp."))
    return (
        _given(cache=raw.get("cache"))
        | {
            name: _limited(
                _number(f"{prefix}{infix}limit_in_bytes"),
                _number(f"{prefix}{infix}usage_in_bytes"),
                _number(f"{prefix}{infix}max_usage_in_bytes"),
                _number(f"{prefix}{infix}failcnt"),
            )
            for name, infix in kinds
        }
        | _given(raw=raw)
    )


def _limited(limit: int, usage: int, most: int, failures: int) -> dict[str, Any]:
    return {"limit": limit, **_given(usage=usage, max=most), "failcnt": failures}


def _pids(path: str) -> dict[str, Any]:
    return _given(current=_number(path + "/pids.current"), limit=_number(path + "/pids.max"))


def _block_io(path: str) -> dict[str, Any]:
    for prefix in BLOCK_IO_PREFIXES:
        found = {member: _devices(f"{path}/{prefix}{name}_recursive") for member, name in BLOCK_IO.items()}
        if found["ioServicedRecursive"]:
            return _given(**found)
    return {}


def _devices(path: str) -> list[dict[str, Any]]:
    """Lines "8:0 Read 4096"; of "8:0 4096" the operation is "". Totals of all devices do not count."""
    found = []
    for words in map(str.split, _text(path).splitlines()):
        major, colon, minor = words[0].partition(":")
        if colon:
            operation = words[1] if len(words) > 2 else ""
            found.append(_given(major=int(major), minor=int(minor), op=operation, value=int(words[-1])))
    return found


def _huge_pages(path: str) -> dict[str, Any]:
    found = {}
    for size in _between(path, "hugetlb.", ".usage_in_bytes"):
        if not size.endswith(".rsvd"):
            prefix = f"{path}/hugetlb.{size}."
            usage, most = _number(prefix + "usage_in_bytes"), _number(prefix + "max_usage_in_bytes")
            found[size] = _given(usage=usage, max=most) | {"failcnt": _number(prefix + "failcnt")}
    return found


def _between(path: str, prefix: str, suffix: str) -> list[str]:
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return []
    return [name[len(prefix) : -len(suffix)] for name in names if name.startswith(prefix) and name.endswith(suffix)]


# ---- v2 --------------------------------------------------------------------------------------------------------------


def _v2(path: str) -> dict[str, Any]:
    cpu = _table(path + "/cpu.stat")
    usage = _given(total=cpu.get("usage_usec", 0) * 1000)
    usage |= {"kernel": cpu.get("system_usec", 0) * 1000, "user": cpu.get("user_usec", 0) * 1000}
    cpus = _given(cpus=_ids(path + "/cpuset.cpus"), mems=_ids(path + "/cpuset.mems"))
    return {
        "cpu": {"usage": usage, "throttling": _throttling(path, "throttled_usec", 1000), **_pressure(path, "cpu")},
        "cpuset": cpus | dict.fromkeys(CPUSET_FLAGS, 0),
        "memory": _memory_v2(path) | _pressure(path, "memory"),
        "pids": _pids(path),
        "blkio": _io_v2(path) | _pressure(path, "io"),
        "hugetlb": {
            size: _given(usage=_number(f"{path}/hugetlb.{size}.current"))
            | {"failcnt": _table(f"{path}/hugetlb.{size}.events").get("max", 0)}
            for size in _between(path, "hugetlb.", ".current")
            if not size.endswith(".rsvd")
        },
    }


def _memory_v2(path: str) -> dict[str, Any]:
    raw, none = _table(path + "/memory.stat"), _limited(0, 0, 0, 0)
    memory, swap = (_number(f"{path}/memory.{name}current") for name in ("", "swap."))
    limits = [_number(f"{path}/memory.{name}max", 2**64 - 1) for name in ("", "swap.")]
    failures = _table(path + "/memory.events").get("max", 0)
    most = _number(path + "/memory.peak")
    return (
        _given(cache=raw.get("file"))
        | {"usage": _limited(limits[0], memory, most, failures)}
        | {"swap": _limited(min(sum(limits), 2**64 - 1), memory + swap, 0, 0), "kernel": none, "kernelTCP": none}
        | _given(raw=raw)
    )


def _pressure(path: str, resource: str) -> dict[str, Any]:
    """psi: how long some of the processes, and all of them at once, have stalled: in percent of the last 10, 60 and 300
    seconds, and microseconds in all. Nothing where the kernel does not count it."""
    found: dict[str, dict[str, Any]] = {}
    for kind, *pairs in map(str.split, _text(f"{path}/{resource}.pressure").splitlines()):
        values = dict(pair.partition("=")[::2] for pair in pairs)
        found[kind] = {name: int(text) if name == "total" else float(text) for name, text in values.items()}
    return _given(psi=found)


def _io_v2(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for device, *pairs in map(str.split, _text(path + "/io.stat").splitlines()):
        major, _, minor = device.partition(":")
        for name, _, value in (pair.partition("=") for pair in pairs):
            if name in IO_STAT:
                member, operation = IO_STAT[name]
                entry = _given(major=int(major), minor=int(minor), op=operation, value=int(value))
                found.setdefault(member, []).append(entry)
    return found


# ---- files -----------------------------------------------------------------------------------------------------------


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _number(path: str, unlimited: int = 0) -> int:
    """``unlimited`` stands for "max"; 0 for what the kernel does not have, or has no more."""
    text = _text(path).strip()
    return unlimited if text == "max" else int(text or 0)


def _table(path: str) -> dict[str, int]:
    pairs = [line.split() for line in _text(path).splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
