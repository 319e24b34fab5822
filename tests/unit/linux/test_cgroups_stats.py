"""Stats from files made by hand; tests/integration/test_events.py compares those of this machine with runc's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ocipy.linux.cgroups.oom import OomWatch
from ocipy.linux.cgroups.stats import read_stats


def files(directory: Path, texts: dict[str, str]) -> str:
    directory.mkdir()
    for name, text in texts.items():
        (directory / name).write_text(text)
    return str(directory)


def part(value: Any, *names: str) -> dict[str, Any]:
    return {name: value[name] for name in names}


def test_a_cgroup_that_is_gone_counts_nothing_but_has_the_shape(tmp_path: Path) -> None:
    none: dict[str, Any] = {"limit": 0, "failcnt": 0}
    found = read_stats({"memory": str(tmp_path / "gone")})
    assert found["cpu"] == {"usage": {"kernel": 0, "user": 0}, "throttling": {}}
    assert found["memory"] == {"usage": none, "swap": none, "kernel": none, "kernelTCP": none}
    assert part(found, "pids", "blkio", "hugetlb", "intel_rdt") == {"pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {}}
    assert found["network_interfaces"] is None


def test_what_this_machine_may_not_have_on_v1(tmp_path: Path) -> None:
    blkio = {
        "blkio.throttle.io_serviced_recursive": "8:0 Read 9\nTotal 9\n",
        "blkio.bfq.io_serviced_recursive": "8:16 Read 1\n8:16 Total 1\nTotal 1\n",
        "blkio.bfq.io_service_bytes_recursive": "8:16 Read 4096\n8:16 Write 0\n8:16 Total 4096\nTotal 4096\n",
        "blkio.bfq.sectors_recursive": "8:16 8\n",
    }
    huge = {f"hugetlb.{size}.{name}": "3" for size in ("2MB", "2MB.rsvd") for name in ("usage_in_bytes", "failcnt")}
    found = read_stats({
        "blkio": files(tmp_path / "blkio", blkio),
        "hugetlb": files(tmp_path / "hugetlb", huge),
        "pids": files(tmp_path / "pids", {"pids.current": "2\n", "pids.max": "9\n"}),
        "cpu": files(tmp_path / "cpu", {"cpu.stat": "nr_periods 5\nnr_throttled 3\nthrottled_time 70\n"}),
        "": "/nowhere",
    })  # fmt: skip
    disk = {"major": 8, "minor": 16}
    assert found["blkio"] == {
        "ioServiceBytesRecursive": [
            {**disk, "op": "Read", "value": 4096}, {**disk, "op": "Write"}, {**disk, "op": "Total", "value": 4096},
        ],
        "ioServicedRecursive": [{**disk, "op": "Read", "value": 1}, {**disk, "op": "Total", "value": 1}],
        "sectorsRecursive": [{**disk, "value": 8}],
    }  # fmt: skip
    assert found["hugetlb"] == {"2MB": {"usage": 3, "failcnt": 3}}
    assert found["pids"] == {"current": 2, "limit": 9}
    assert found["cpu"]["throttling"] == {"periods": 5, "throttledPeriods": 3, "throttledTime": 70}


def test_v2_tells_the_same_of_its_own_files(tmp_path: Path) -> None:
    texts = {
        "cpu.stat": "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_periods 2\nnr_throttled 1\nthrottled_usec 3\n",
        "cpuset.cpus": "0-1\n", "memory.current": "100\n", "memory.max": "max\n", "memory.peak": "150\n",
        "memory.swap.current": "7\n",
        "memory.swap.max": "50\n", "memory.stat": "anon 1\nfile 2\n", "memory.events": "max 6\n", "pids.current": "3\n",
        "pids.max": "max\n", "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n", "hugetlb.2MB.current": "5\n",
        "hugetlb.2MB.rsvd.current": "5\n", "hugetlb.2MB.events": "max 8\n",
    }  # fmt: skip
    found = read_stats({"": files(tmp_path / "box", texts)})
    assert found["cpu"] == {
        "usage": {"total": 9000, "kernel": 5000, "user": 4000},
        "throttling": {"periods": 2, "throttledPeriods": 1, "throttledTime": 3000},
    }
    assert found["cpuset"]["cpus"] == [0, 1]
    memory = found["memory"]
    assert memory["usage"] == {"limit": 2**64 - 1, "usage": 100, "max": 150, "failcnt": 6}
    assert memory["swap"] == {"limit": 2**64 - 1, "usage": 107, "failcnt": 0}
    assert (memory["cache"], memory["raw"]) == (2, {"anon": 1, "file": 2})
    assert (found["pids"], found["hugetlb"]) == ({"current": 3}, {"2MB": {"usage": 5, "failcnt": 8}})
    disk = {"major": 8, "op": "Read"}
    assert [found["blkio"][name][0] for name in ("ioServiceBytesRecursive", "ioServicedRecursive")] == [
        {**disk, "value": 1}, {**disk, "value": 3},
    ]  # fmt: skip


def test_v2_counts_what_was_killed_for_want_of_memory(tmp_path: Path) -> None:
    box = files(tmp_path / "box", {"memory.events": "oom 1\noom_kill 1\noom_group_kill 0\n"})
    watch = OomWatch({"": box})
    found = []
    for oom, kills in ((2, 1), (2, 2), (2, 2)):
        (tmp_path / "box/memory.events").write_text(f"oom {oom}\noom_kill {kills}\noom_group_kill 9\n")
        found.append(watch.happened())
    assert found == [False, True, False]
    os.close(watch.fd)


def test_without_a_memory_controller_there_is_nothing_to_watch(tmp_path: Path) -> None:
    assert OomWatch({"": str(tmp_path)}).fd == OomWatch({"cpu": str(tmp_path), "": str(tmp_path)}).fd == -1


def test_v2_tells_how_long_processes_stalled(tmp_path: Path) -> None:
    text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1692\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    path = files(tmp_path / "box", {"cpu.pressure": text, "memory.pressure": text, "io.pressure": text})
    found = read_stats({"": path})
    wanted = {
        "some": {"avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 1692},
        "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 7},
    }
    assert [found[name]["psi"] for name in ("cpu", "memory", "blkio")] == [wanted] * 3
    assert "psi" not in read_stats({"": files(tmp_path / "without", {"cpu.stat": ""})})["cpu"]
