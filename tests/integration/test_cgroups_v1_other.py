"""Controllers of cgroup v1 that machines seldom mount: each test mounts the one it needs, in the mount namespace of the tests."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import PREFIX, SYSTEMD, Config, Container, hierarchies
from conftest import reap, remove_cgroups

Make = Callable[..., Container]
Mount = Callable[[str, str], Path]
pytestmark = [
    pytest.mark.skipif(SYSTEMD, reason="systemd makes no cgroups in hierarchies that it did not mount"),
    pytest.mark.skipif("devices" not in hierarchies(), reason="on cgroup v2 alone what somebody mounts besides is left alone"),
]


@pytest.fixture
def hierarchy(tmp_path: Path, no_leaks: None) -> Iterator[Mount]:
    """``hierarchy("net_cls")``: where that controller's hierarchy is mounted."""
    mounted: list[Path] = []

    def mount(name: str, option: str) -> Path:
        if name in hierarchies():
            return hierarchies()[name]
        if name not in numbers():
            pytest.skip(f"this kernel has no controller {name} (CONFIG_{option})")
        (point := tmp_path / name).mkdir()
        answer = subprocess.run(["mount", "-t", "cgroup", "-o", name, "cgroup", point], capture_output=True, text=True, check=False)
        if answer.returncode:
            pytest.skip(f"cgroup v2 has the controller {name} in use: {answer.stderr.strip()}")
        mounted.append(point)
        return point

    yield mount
    remove_cgroups()
    reap()  # what ended and was not waited for keeps its cgroup
    for point in mounted:
        subprocess.run(["umount", point], check=True)
        see_off(point)


def numbers() -> dict[str, int]:
    """The hierarchy of each controller that the kernel has; 0: none of v1."""
    lines = (line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:])
    return {name: int(number) for name, number, *_ in lines}


def see_off(point: Path) -> None:
    """A hierarchy whose last cgroup is still on its way out stays when it is unmounted, and engines stumble over it in
    /proc/PID/cgroup. Unmounted once more, a while later, it goes."""
    for _ in range(20):
        time.sleep(0.2)
        if not numbers()[point.name]:
            return
        subprocess.run(["mount", "-t", "cgroup", "-o", point.name, "cgroup", point], check=True)
        time.sleep(0.2)
        subprocess.run(["umount", point], check=True)
    pytest.fail(f"the hierarchy of {point.name} stays")


def created(container: Make, resources: dict[str, Any], path: str = "") -> Container:
    def mutate(config: Config) -> None:
        config["linux"]["resources"].update(resources)
        config["linux"]["cgroupsPath"] = path or config["linux"]["cgroupsPath"]

    box = container("/bin/sleep", "100", mutate=mutate)
    box.create()
    return box


def text(box: Container, point: Path, file: str) -> str:
    path: Path = point / box.bundle.config["linux"]["cgroupsPath"].lstrip("/")
    assert str(box.pid) in (path / "cgroup.procs").read_text().split()
    return (path / file).read_text().strip()


@pytest.mark.spec("/linux/resources/network/classID")
def test_the_class_of_packets(hierarchy: Mount, container: Make) -> None:
    point = hierarchy("net_cls", "CGROUP_NET_CLASSID")
    box = created(container, {"network": {"classID": 0x100001}})
    assert text(box, point, "net_cls.classid") == "1048577"


@pytest.mark.spec("/linux/resources/network/priorities/*")
def test_the_priorities_of_interfaces(hierarchy: Mount, container: Make) -> None:
    point = hierarchy("net_prio", "CGROUP_NET_PRIO")
    box = created(container, {"network": {"priorities": [{"name": "lo", "priority": 5}]}})
    assert "lo 5" in text(box, point, "net_prio.ifpriomap").splitlines()


def test_a_priority_of_no_interface_is_an_error(hierarchy: Mount, container: Make) -> None:
    hierarchy("net_prio", "CGROUP_NET_PRIO")
    resources = {"network": {"priorities": [{"name": "nowhere0", "priority": 5}]}}
    box = container("/bin/true", mutate=lambda config: config["linux"]["resources"].update(resources))
    assert box.create(check=False).status == 1
    assert "(/linux/resources/network/priorities/0)" in box.errors.read_text()
    assert "nowhere0" in box.errors.read_text()


@pytest.mark.spec("/linux/resources/hugepageLimits/*")
def test_a_limit_of_huge_pages_and_of_their_reservation(hierarchy: Mount, container: Make) -> None:
    sizes = sorted(path.name for path in Path("/sys/kernel/mm/hugepages").glob("hugepages-2048kB"))
    if not sizes:
        pytest.skip("this kernel has no huge pages of 2 MB")
    point = hierarchy("hugetlb", "CGROUP_HUGETLB")
    box = created(container, {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]})
    assert text(box, point, "hugetlb.2MB.limit_in_bytes") == str(4 << 20)
    assert text(box, point, "hugetlb.2MB.rsvd.limit_in_bytes") == str(4 << 20)


@pytest.mark.spec("/linux/resources/cpu/realtimeRuntime", "/linux/resources/cpu/realtimePeriod")
def test_the_share_of_realtime_processes(hierarchy: Mount, container: Make) -> None:
    """Directly below the root, whose time is not yet given away."""
    point = hierarchy("cpu", "CGROUP_SCHED")
    if not (point / "cpu.rt_runtime_us").exists():
        pytest.skip("this kernel has no groups of realtime processes (CONFIG_RT_GROUP_SCHED)")
    box = created(container, {"cpu": {"realtimeRuntime": 5000, "realtimePeriod": 500000}}, f"/{PREFIX}-realtime")
    assert text(box, point, "cpu.rt_runtime_us") == "5000"
    assert text(box, point, "cpu.rt_period_us") == "500000"


@pytest.mark.spec("/linux/resources/rdma/*")
def test_handles_and_objects_of_an_rdma_device(hierarchy: Mount, container: Make) -> None:
    limit = {"hcaHandles": 3, "hcaObjects": 10000}
    unified = hierarchies().get("")
    if unified and "rdma" in (unified / "cgroup.controllers").read_text().split():
        point = unified
    else:
        point = hierarchy("rdma", "CGROUP_RDMA")
    devices = os.listdir("/sys/class/infiniband") if os.path.isdir("/sys/class/infiniband") else []
    if devices:
        box = created(container, {"rdma": {devices[0]: limit}})
        assert text(box, point, "rdma.max").splitlines()[0] == f"{devices[0]} hca_handle=3 hca_object=10000"
        return
    box = container("/bin/true", mutate=lambda config: config["linux"]["resources"].update(rdma={"mlx5_9": limit}))
    assert box.create(check=False).status == 1, "no device here (CONFIG_RDMA_RXE makes one): the kernel refuses the line"
    assert "(/linux/resources/rdma/mlx5_9)" in box.errors.read_text()
    assert "no such device" in box.errors.read_text()
