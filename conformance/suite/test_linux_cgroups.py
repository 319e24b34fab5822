"""config-linux.md: control groups, looked at in the kernel's files, on whatever this machine has mounted: v1, v2 or both."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import PREFIX, SYSTEMD, Config, Container, hierarchies, set_namespace, wait_until

clauses = pytest.mark.clauses
Make = Callable[..., Container]
SLEEP = ("/bin/sleep", "1000")
CONTROLLERS = ("memory", "cpu", "pids", "devices")
MIB = 1 << 20


def is_v2() -> bool:
    return set(hierarchies()) == {""}


def controllers() -> set[str]:
    """Those that a cgroup can have."""
    if is_v2():
        return set((hierarchies()[""] / "cgroup.controllers").read_text().split())
    return set(hierarchies())


def with_resources(resources: dict[str, Any]) -> Callable[[Config], None]:
    return lambda config: config["linux"]["resources"].update(resources)


def places(pid: int) -> dict[str, str]:
    """Controller -> path from the root of its hierarchy, as the kernel says."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        found.update(dict.fromkeys(names.split(","), path))
    return found


# ---- where it is ----------------------------------------------------------------------------------------------------------------


@clauses("config-linux.cgroupsPath.absolute")
@pytest.mark.skipif(SYSTEMD, reason="systemd has its own form of cgroupsPath")
def test_an_absolute_path_begins_at_the_mount_point(container: Make) -> None:
    wanted = f"/{PREFIX}/somewhere/else"
    box = container(*SLEEP, mutate=lambda config: config["linux"].update(cgroupsPath=wanted))
    box.create()
    seen = places(box.pid)
    known = [name for name in ("", *CONTROLLERS) if name in seen and (name or is_v2())]
    assert known
    assert {name: seen[name] for name in known} == dict.fromkeys(known, wanted)


@clauses("config-linux.cgroupsPath.consistent")
@pytest.mark.skipif(SYSTEMD, reason="systemd has its own form of cgroupsPath")
@pytest.mark.parametrize("path", [f"/{PREFIX}/same", f"{PREFIX}/same"], ids=["absolute", "relative"])
def test_the_same_path_is_the_same_place(container: Make, tmp_path: Path, path: str) -> None:
    seen = []
    for directory in (Path("/"), tmp_path):
        box = container(*SLEEP, mutate=lambda config: config["linux"].update(cgroupsPath=path))
        box.create(cwd=directory)
        found = places(box.pid)
        seen.append({name: found[name] for name in ("", *CONTROLLERS) if name in found and (name or is_v2())})
        box.delete("--force")
    assert seen[0] == seen[1]
    assert all(place.endswith(f"/{PREFIX}/same") for place in seen[0].values())


@clauses("config-linux.cgroupsPath.invalid")
@pytest.mark.parametrize(
    "path", [f"/{PREFIX}/../../{PREFIX}-out", f"../../{PREFIX}-out", "/..", "x" * 5000], ids=["up", "out", "dots", "long"]
)
def test_a_path_that_is_not_taken_is_an_error(container: Make, path: str) -> None:
    """A runtime may take it, but then it is where the container is: below the top, and not where the runtime is."""
    box = container(*SLEEP, mutate=lambda config: config["linux"].update(cgroupsPath=path))
    if box.create(check=False).status == 0:
        ours, seen = places(os.getpid()), places(box.pid)
        assert all(seen[name] not in ("/", ours[name]) and ".." not in seen[name] for name in CONTROLLERS if name in seen)
    else:
        assert box.runtime("state", box.id, check=False).status != 0


@pytest.fixture
def occupied() -> Iterator[Callable[[str], None]]:
    """``occupied("/path")``: a process is in the cgroup of this path, in every hierarchy."""
    sleeper = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
    made: list[Path] = []

    def occupy(path: str) -> None:
        for point in sorted(set(hierarchies().values())):
            directory = Path(f"{point}{path}")
            directory.mkdir(parents=True)
            made.append(directory)
            if (point / "cpuset.cpus").exists():
                for at in (directory.parent, directory):
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        (at / name).write_text((point / name).read_text())
            (directory / "cgroup.procs").write_text(str(sleeper.pid))

    yield occupy
    sleeper.kill()
    sleeper.wait()
    for directory in made:
        if directory.exists():
            wait_until(lambda: not (directory / "cgroup.procs").read_text(), 5, "the process to leave")  # noqa: B023
            directory.rmdir()


@clauses("config-linux.cgroup.fit")
@pytest.mark.skipif(SYSTEMD, reason="systemd makes the cgroup itself")
def test_a_cgroup_that_is_not_empty_is_an_error_for_who_looks(container: Make, occupied: Callable[[str], None]) -> None:
    path = f"/{PREFIX}/occupied"
    occupied(path)
    box = container(*SLEEP, mutate=lambda config: config["linux"].update(cgroupsPath=path))
    if box.create(check=False).status == 0:
        box.delete("--force")
        pytest.skip("this runtime does not look whether the cgroup is empty, as it may")
    assert box.runtime("state", box.id, check=False).status != 0


# ---- what is written ------------------------------------------------------------------------------------------------------------

Files = dict[str, str]
NONE: tuple[str, Files] = ("", {})
# Name -> resources, controller and files on v1, controller and files on v2.
LIMITS: dict[str, tuple[dict[str, Any], tuple[str, Files], tuple[str, Files]]] = {
    "memory.limit": (
        {"memory": {"limit": 64 * MIB}},
        ("memory", {"memory.limit_in_bytes": str(64 * MIB)}), ("memory", {"memory.max": str(64 * MIB)}),
    ),
    "memory.reservation": (
        {"memory": {"reservation": 32 * MIB}},
        ("memory", {"memory.soft_limit_in_bytes": str(32 * MIB)}), ("memory", {"memory.low": str(32 * MIB)}),
    ),
    "memory.swap": (
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        ("memory", {"memory.memsw.limit_in_bytes": str(96 * MIB)}), ("memory", {"memory.swap.max": str(32 * MIB)}),
    ),
    "memory.kernelTCP": (
        {"memory": {"kernelTCP": 16 * MIB}}, ("memory", {"memory.kmem.tcp.limit_in_bytes": str(16 * MIB)}), NONE,
    ),
    "memory.swappiness": ({"memory": {"swappiness": 7}}, ("memory", {"memory.swappiness": "7"}), NONE),
    "memory.disableOOMKiller": (
        {"memory": {"disableOOMKiller": True}}, ("memory", {"memory.oom_control": "oom_kill_disable 1"}), NONE,
    ),
    "cpu.shares": ({"cpu": {"shares": 512}}, ("cpu", {"cpu.shares": "512"}), NONE),
    "cpu.quota": (
        {"cpu": {"quota": 20000, "period": 50000}},
        ("cpu", {"cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "50000"}), ("cpu", {"cpu.max": "20000 50000"}),
    ),
    "cpu.burst": (
        {"cpu": {"quota": 20000, "burst": 10000}},
        ("cpu", {"cpu.cfs_burst_us": "10000"}), ("cpu", {"cpu.max.burst": "10000"}),
    ),
    "cpu.idle": ({"cpu": {"idle": 1}}, ("cpu", {"cpu.idle": "1"}), ("cpu", {"cpu.idle": "1"})),
    "cpu.realtime": ({"cpu": {"realtimeRuntime": 0, "realtimePeriod": 500000}}, ("cpu", {"cpu.rt_period_us": "500000"}), NONE),
    "cpu.cpus": ({"cpu": {"cpus": "0"}}, ("cpuset", {"cpuset.cpus": "0"}), ("cpuset", {"cpuset.cpus": "0"})),
    "cpu.mems": ({"cpu": {"mems": "0"}}, ("cpuset", {"cpuset.mems": "0"}), ("cpuset", {"cpuset.mems": "0"})),
    "pids": ({"pids": {"limit": 77}}, ("pids", {"pids.max": "77"}), ("pids", {"pids.max": "77"})),
    "blockIO.weight": ({"blockIO": {"weight": 500}}, ("blkio", {"blkio.bfq.weight": "500"}), NONE),
    "hugepageLimits": (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]},
        ("hugetlb", {"hugetlb.2MB.limit_in_bytes": str(4 * MIB)}), ("hugetlb", {"hugetlb.2MB.max": str(4 * MIB)}),
    ),
    "network.classID": ({"network": {"classID": 1048577}}, ("net_cls", {"net_cls.classid": "1048577"}), NONE),
    "network.priorities": (
        {"network": {"priorities": [{"name": "lo", "priority": 5}]}}, ("net_prio", {"net_prio.ifpriomap": "lo 5"}), NONE,
    ),
}  # fmt: skip


def needs(controller: str, files: Files) -> None:
    """Skip the test if the kernel has no such controller here, or it has no such file."""
    if not controller:
        pytest.skip("cgroup v2 has nothing of the kind")
    if controller not in controllers():
        pytest.skip(f"no {controller} controller is here")
    probe = hierarchies()["" if is_v2() else controller] / f"{PREFIX}-probe"
    probe.mkdir()
    missing = [name for name in files if not is_v2() and not (probe / name).exists()]
    probe.rmdir()
    if missing:
        pytest.skip(f"this kernel has no {', '.join(missing)}")


@clauses("runtime.create.properties")
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_in_the_kernels_file(container: Make, name: str) -> None:
    resources, v1, v2 = LIMITS[name]
    controller, files = v2 if is_v2() else v1
    needs(controller, files)
    box = container(*SLEEP, mutate=with_resources(resources))
    if box.create(check=False).status != 0:
        pytest.skip(f"this runtime refuses {name}, as it must what it cannot apply")
    for file, value in files.items():
        assert value in (box.cgroup(controller) / file).read_text().splitlines(), file


@clauses("runtime.create.property.error", "runtime.create.property.nothing")
@pytest.mark.parametrize(
    ("controller", "resources"),
    [
        ("rdma", {"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10000}}}),
        ("net_cls", {"network": {"classID": 1048577}}),
        ("net_prio", {"network": {"priorities": [{"name": "lo", "priority": 5}]}}),
        ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}),
    ],
    ids=["rdma", "net_cls", "net_prio", "hugetlb"],
)
def test_a_limit_without_its_controller_is_an_error(container: Make, controller: str, resources: dict[str, Any]) -> None:
    if is_v2():
        pytest.skip("cgroup v2 has tests of its own")
    if controller in controllers():
        pytest.skip(f"the {controller} controller is here")
    box = container(*SLEEP, mutate=with_resources(resources))
    assert box.create(check=False).status != 0
    assert box.runtime("state", box.id, check=False).status != 0


@clauses("config-linux.resources.gone")
@pytest.mark.parametrize(
    ("memory", "file", "value"),
    [({"kernel": 64 * MIB}, "memory.kmem.limit_in_bytes", str(64 * MIB)), ({"useHierarchy": False}, "memory.use_hierarchy", "0")],
    ids=["kernel", "useHierarchy"],
)
def test_a_limit_that_the_kernel_no_longer_has_is_an_error(container: Make, memory: dict[str, Any], file: str, value: str) -> None:
    """Unless it is in force: an old kernel has it."""
    if is_v2() or "memory" not in controllers():
        pytest.skip("the memory controller of cgroup v1 is not here")
    box = container(*SLEEP, mutate=with_resources({"memory": memory}))
    if box.create(check=False).status == 0:
        found = box.cgroup("memory") / file
        assert found.exists()
        assert found.read_text().strip() == value


def _disk() -> tuple[int, int] | None:
    for entry in sorted(Path("/sys/block").iterdir(), reverse=True):
        if int((entry / "size").read_text()):
            major, minor = (entry / "dev").read_text().split(":")
            return int(major), int(minor)
    return None


@clauses("runtime.create.properties")
@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("throttleReadBpsDevice", "read_bps_device", "rbps"),
        ("throttleWriteBpsDevice", "write_bps_device", "wbps"),
        ("throttleReadIOPSDevice", "read_iops_device", "riops"),
        ("throttleWriteIOPSDevice", "write_iops_device", "wiops"),
    ],
)
def test_a_block_device_is_throttled(container: Make, name: str, file: str, key: str) -> None:
    disk = _disk()
    if not disk or not controllers() & {"blkio", "io"}:
        pytest.skip("no block device, or no controller for them, is here")
    limit = {"major": disk[0], "minor": disk[1], "rate": 1 << 30}
    box = container(*SLEEP, mutate=with_resources({"blockIO": {name: [limit]}}))
    box.create()
    number = f"{disk[0]}:{disk[1]}"
    if is_v2():
        (line,) = [line for line in (box.cgroup("io") / "io.max").read_text().splitlines() if line.startswith(number + " ")]
        assert f"{key}={1 << 30}" in line.split()
    else:
        assert f"{number} {1 << 30}" in (box.cgroup("blkio") / f"blkio.throttle.{file}").read_text().splitlines()


@pytest.mark.parametrize(
    "cpu",
    [
        pytest.param({"quota": 10000, "burst": 20000}, marks=clauses("config-linux.resources.cpu.burst")),
        pytest.param({"burst": 90000, "quota": 50000, "period": 100000}, marks=clauses("config-linux.resources.cpu.quota")),
    ],
    ids=["burst", "quota"],
)
def test_a_burst_above_the_quota_is_never_in_force(container: Make, cpu: dict[str, int]) -> None:
    file = "cpu.max.burst" if is_v2() else "cpu.cfs_burst_us"
    needs("cpu", {file: ""})
    box = container(*SLEEP, mutate=with_resources({"cpu": cpu}))
    if box.create(check=False).status == 0:
        assert int((box.cgroup("cpu") / file).read_text()) <= cpu["quota"]


@clauses("config-linux.resources.pids.zero")
def test_no_processes_are_a_limit(container: Make) -> None:
    needs("pids", {"pids.max": ""})
    box = container(*SLEEP, mutate=with_resources({"pids": {"limit": 0}}))
    box.create()
    assert (box.cgroup("pids") / "pids.max").read_text() == "0\n"


# ---- devices --------------------------------------------------------------------------------------------------------------------

# Nothing is behind it: who may open it learns that (ENXIO), who may not, does not (EPERM).
NUMBERS = {"type": "c", "major": 1, "minor": 200}
DEVICE = {"path": "/dev/x", **NUMBERS, "fileMode": 0o666, "uid": 0, "gid": 0}
DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW, DENY = ({"allow": allow, **NUMBERS, "access": "rw"} for allow in (True, False))


@clauses("config-linux.resources.devices.order")
@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ([DENY_ALL, DENY, ALLOW], "ENXIO"),
        ([DENY_ALL, ALLOW, DENY], "EPERM"),
        ([DENY_ALL, ALLOW, DENY, ALLOW], "ENXIO"),
        ([DENY_ALL, ALLOW, ALLOW, DENY], "EPERM"),
        ([DENY_ALL], "EPERM"),
        ([ALLOW, DENY_ALL], "EPERM"),
        ([ALLOW, DENY_ALL, ALLOW], "ENXIO"),
    ],
    ids=["allow", "deny", "allow again", "deny again", "nothing", "deny all", "allow after all"],
)
def test_the_last_rule_for_a_device_decides(container: Make, rules: list[dict[str, Any]], error: str) -> None:
    def change(config: Config) -> None:
        config["linux"]["resources"]["devices"] = rules
        config["linux"]["devices"] = [DEVICE]

    assert container("/bin/probe", "open", "/dev/x", "read", mutate=change).run().json["error"] == error


# ---- whose it is ----------------------------------------------------------------------------------------------------------------


@clauses("config-linux.cgroup.owner.v1")
@pytest.mark.skipif(is_v2(), reason="only cgroup v2 is here")
def test_on_v1_cgroups_stay_roots(container: Make) -> None:
    def change(config: Config) -> None:
        set_namespace(config, "cgroup")
        (mount,) = [mount for mount in config["mounts"] if mount["type"] == "cgroup"]
        mount["options"].remove("ro")
        config["process"]["user"] = {"uid": 1234, "gid": 1234}

    box = container(*SLEEP, mutate=change)
    box.create()
    for name in {*CONTROLLERS, "cpuset"} & set(hierarchies()):
        directory = box.cgroup(name)
        assert PREFIX in str(directory)
        assert {file.stat().st_uid for file in (directory, *directory.iterdir())} == {0}
