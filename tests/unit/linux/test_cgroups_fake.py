"""Limits of controllers that few machines have, written into directories with the kernel's file names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocipy.errors import CgroupError
from ocipy.linux.cgroups import apply_make, apply_set, plan_cgroup
from ocipy.linux.cgroups.host import CgroupHost

Write = Callable[..., dict[str, str]]
DISK = {"major": 8, "minor": 0}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(resources, "net_cls", "net_cls.classid")``: what is in these files once a container with these limits is made."""

    def run(resources: dict[str, Any], controller: str, *files: str) -> dict[str, str]:
        box = tmp_path / controller / "box"
        box.mkdir(parents=True)
        for file in files:
            (box / file).touch()
        (tmp_path / "devices").mkdir()
        host = CgroupHost("v1", {name: str(tmp_path / name) for name in (controller, "devices")})
        config: Any = {"linux": {"cgroupsPath": "/box", "resources": resources}}
        for step in plan_cgroup(config, host, "unused").make:
            if "/devices/" in step.get("path"):
                continue
            if step.op.name == "MAKE_CGROUP":
                apply_make(step)
            else:
                apply_set(step)
        return {file: (box / file).read_text() for file in files}

    return run


@pytest.mark.spec("/linux/resources/network/classID", needs="net_cls: a fake tree of files")
def test_the_class_of_packets(write: Write) -> None:
    assert write({"network": {"classID": 0x100001}}, "net_cls", "net_cls.classid") == {"net_cls.classid": "1048577"}


@pytest.mark.spec("/linux/resources/network/priorities/*", needs="net_prio: a fake tree of files")
def test_the_priority_of_a_network_device(write: Write) -> None:
    priorities = [{"name": "eth1", "priority": 1000}]
    assert write({"network": {"priorities": priorities}}, "net_prio", "net_prio.ifpriomap") == {"net_prio.ifpriomap": "eth1 1000"}


@pytest.mark.spec("/linux/resources/rdma/*", needs="rdma: a fake tree of files")
def test_handles_and_objects_of_an_rdma_device(write: Write) -> None:
    limits = {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}}
    assert write({"rdma": limits}, "rdma", "rdma.max") == {"rdma.max": "mlx5_1 hca_handle=3 hca_object=10000"}


@pytest.mark.spec("/linux/resources/hugepageLimits/*", needs="hugetlb: a fake tree of files for v1, a guest for v2")
def test_pages_and_those_that_are_reserved(write: Write) -> None:
    files = ("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes")
    limits = [{"pageSize": "2MB", "limit": 4 << 20}]
    assert write({"hugepageLimits": limits}, "hugetlb", *files) == dict.fromkeys(files, str(4 << 20))


@pytest.mark.spec(
    "/linux/resources/blockIO/leafWeight", "/linux/resources/blockIO/weightDevice/*",
    needs="CFQ or BFQ for a disk: a fake tree of files",
)  # fmt: skip
@pytest.mark.parametrize("bfq", ["", "bfq."], ids=["CFQ", "BFQ"])
def test_weights_of_a_disk(write: Write, bfq: str) -> None:
    limits: dict[str, Any] = {"weight": 500, "weightDevice": [DISK | {"weight": 300}]}
    wanted = {f"blkio.{bfq}weight": "500", f"blkio.{bfq}weight_device": "8:0 300"}
    if not bfq:
        limits["leafWeight"] = 200
        limits["weightDevice"] = [DISK | {"weight": 300, "leafWeight": 100}]
        wanted |= {"blkio.leaf_weight": "200", "blkio.leaf_weight_device": "8:0 100"}
    assert write({"blockIO": limits}, "blkio", *wanted) == wanted


def test_a_file_that_is_not_there_is_an_error(write: Write) -> None:
    with pytest.raises(CgroupError) as caught:
        write({"network": {"classID": 7}}, "net_cls")
    assert caught.value.pointer == "/linux/resources/network/classID"
