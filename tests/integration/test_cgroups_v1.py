"""The real v1 hierarchies of this host, in cgroups that each test makes and removes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ocipy.errors import CgroupError
from ocipy.linux.cgroups import (
    absent,
    apply_enter,
    apply_make,
    apply_open,
    apply_set,
    apply_sets,
    freeze,
    is_frozen,
    kill_all,
    pids,
    plan_cgroup,
    plan_update,
    remove,
    thaw,
)
from ocipy.linux.cgroups.host import read_cgroup_host
from ocipy.plan import ops
from ocipy.plan.step import Step

HOST = read_cgroup_host()
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="cgroups are made by root"),
    pytest.mark.skipif(HOST.mode not in ("v1", "hybrid"), reason="this host has no cgroup v1"),
]
NAME = f"ocipy-test-{os.getpid()}"
FORK_BOMB = "import os\nwhile True:\n try: os.fork()\n except OSError: pass\n"


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in HOST.mounts, reason=f"the {name} controller is not mounted here")


class Box:
    """A container's cgroups without a container."""

    def __init__(self, resources: dict[str, Any], path: str) -> None:
        config: Any = {"linux": {"cgroupsPath": path, "resources": resources}}
        self.plan = plan_cgroup(config, HOST, "unused")
        self.paths = self.plan.paths
        self.journal = absent(self.paths.values())
        self.made: list[str] = []
        self.children: list[subprocess.Popen[bytes]] = []

    def make(self) -> Box:
        for step in self.plan.make:
            if step.op.name == "MAKE_CGROUP":
                self.made += apply_make(step)
            else:
                apply_set(step)
        return self

    def start(self, program: str = "import time\ntime.sleep(300)") -> int:
        """A process that enters before its program runs."""
        code = f"import sys\nsys.stdin.read(1)\n{program}"
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE)
        self.children.append(child)
        apply_enter(Step(ops.ENTER_CGROUP, paths=self.paths), child.pid)
        for step in self.plan.after:
            apply_set(step)
        assert child.stdin
        child.stdin.close()
        return child.pid

    def read(self, controller: str, file: str) -> str:
        with open(f"{self.paths[controller]}/{file}", encoding="ascii") as source:
            return source.read().strip()

    def end(self) -> None:
        for child in self.children:
            child.kill()
        kill_all(self.paths, 9)
        # Whatever is broken: nothing that a test froze may stay.
        for directory, _, _ in os.walk(self.paths.get("freezer", "")):
            with open(directory + "/freezer.state", "w", encoding="ascii") as file:
                file.write("THAWED")
        for child in self.children:
            child.wait(10)
            assert child.stdin
            child.stdin.close()
        remove(self.journal)
        assert [path for path in self.journal if os.path.exists(path)] == []


@pytest.fixture
def box() -> Iterator[Callable[..., Box]]:
    boxes: list[Box] = []

    def make(resources: dict[str, Any] | None = None, path: str = f"/{NAME}/box") -> Box:
        boxes.append(Box(resources or {}, path))
        return boxes[-1].make()

    yield make
    for each in reversed(boxes):
        each.end()


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


# ---- made, entered, removed ------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/cgroupsPath")
def test_process_is_in_every_hierarchy(box: Callable[..., Box]) -> None:
    made = box()
    pid = made.start()
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        where = {line.split(":", 2)[1]: line.strip().split(":", 2)[2] for line in file}
    for name in made.paths:
        assert next(path for names, path in where.items() if name in names.split(",")) == f"/{NAME}/box"


def test_journal_names_exactly_what_is_made_and_removal_takes_it_away(box: Callable[..., Box]) -> None:
    made = box(path=f"/{NAME}/a/b/c")
    assert sorted(made.made) == sorted(made.journal)
    assert len(made.journal) == 4 * len(set(made.paths.values()))
    remove(made.journal)
    assert not any(os.path.exists(f"{mount}/{NAME}") for mount in HOST.mounts.values())


def test_parent_that_others_use_stays(box: Callable[..., Box]) -> None:
    first, second = box(path=f"/{NAME}/p/one"), box(path=f"/{NAME}/p/two")
    remove(first.journal)
    assert os.path.isdir(second.paths["memory"])
    assert not os.path.exists(first.paths["memory"])


def test_cgroup_that_was_there_before_is_not_in_the_journal(box: Callable[..., Box]) -> None:
    first = box()
    again = box()
    assert again.journal == again.made == []
    assert first.paths == again.paths


def test_cgroup_with_processes_is_refused(box: Callable[..., Box]) -> None:
    box().start()
    with pytest.raises(CgroupError, match=r"has 1 processes already; its limits and its end would be theirs too"):
        box()


@needs("freezer")
def test_frozen_cgroup_is_refused(box: Callable[..., Box]) -> None:
    first = box()
    freeze(first.paths)
    with pytest.raises(CgroupError, match="exists and is frozen"):
        box()


def test_process_that_enters_by_itself_is_in_every_v1_hierarchy(box: Callable[..., Box]) -> None:
    made = box()
    fds = [apply_open(step) for step in made.plan.open if step.get("slot").startswith("tasks:")]
    assert [f"tasks:{path}" for path in dict.fromkeys(path for name, path in made.paths.items() if name)] == [
        step.get("tasks") for step in made.plan.enter
    ]
    child = os.fork()
    if child == 0:
        try:
            for fd in fds:
                os.write(fd, b"0")
            signal.pause()
        finally:
            os._exit(1)
    for fd in fds:
        os.close(fd)
    try:
        assert len(fds) == len({path for name, path in made.paths.items() if name})
        assert eventually(lambda: all(pids({name: path}) == [child] for name, path in made.paths.items() if name))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_entering_a_cgroup_that_is_gone_says_so(box: Callable[..., Box]) -> None:
    made = box()
    remove(made.journal)
    with pytest.raises(CgroupError, match="the cgroup is gone"):
        apply_open(made.plan.open[0])
    with pytest.raises(CgroupError, match="the cgroup is gone"):
        made.start()


# ---- limits, read back from the kernel -------------------------------------------------------------------------------

MIB = 1 << 20
READ_BACK = [
    ("memory", "memory.limit_in_bytes", {"memory": {"limit": 64 * MIB}}, str(64 * MIB)),
    ("memory", "memory.soft_limit_in_bytes", {"memory": {"reservation": 32 * MIB}}, str(32 * MIB)),
    ("memory", "memory.memsw.limit_in_bytes", {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}}, str(96 * MIB)),
    ("memory", "memory.kmem.tcp.limit_in_bytes", {"memory": {"kernelTCP": 16 * MIB}}, str(16 * MIB)),
    ("memory", "memory.swappiness", {"memory": {"swappiness": 0}}, "0"),
    ("memory", "memory.oom_control", {"memory": {"disableOOMKiller": True}}, "oom_kill_disable 1\nunder_oom 0\noom_kill 0"),
    ("cpu", "cpu.shares", {"cpu": {"shares": 512}}, "512"),
    ("cpu", "cpu.cfs_quota_us", {"cpu": {"quota": 20000}}, "20000"),
    ("cpu", "cpu.cfs_period_us", {"cpu": {"period": 50000}}, "50000"),
    ("cpu", "cpu.cfs_burst_us", {"cpu": {"quota": 20000, "burst": 10000}}, "10000"),
    ("cpu", "cpu.idle", {"cpu": {"idle": 1}}, "1"),
    ("cpuset", "cpuset.cpus", {"cpu": {"cpus": "0"}}, "0"),
    ("cpuset", "cpuset.mems", {"cpu": {"mems": "0"}}, "0"),
    ("blkio", "blkio.bfq.weight", {"blockIO": {"weight": 500}}, "500"),
]


@pytest.mark.spec(
    "/linux/resources/memory/limit", "/linux/resources/memory/reservation", "/linux/resources/memory/swap",
    "/linux/resources/memory/kernelTCP", "/linux/resources/memory/swappiness", "/linux/resources/memory/disableOOMKiller",
    "/linux/resources/cpu/shares", "/linux/resources/cpu/quota", "/linux/resources/cpu/period", "/linux/resources/cpu/burst",
    "/linux/resources/cpu/idle", "/linux/resources/cpu/cpus", "/linux/resources/cpu/mems", "/linux/resources/blockIO/weight",
)  # fmt: skip
@pytest.mark.parametrize(("controller", "file", "resources", "value"), READ_BACK, ids=[item[1] for item in READ_BACK])
def test_limit_is_what_the_kernel_says(box: Callable[..., Box], controller: str, file: str, resources: Any, value: str) -> None:
    mount = HOST.mounts.get(controller)
    if mount is None:
        pytest.skip(f"the {controller} controller is not mounted here")
    probe = f"{mount}/{NAME}-probe"
    os.mkdir(probe)
    exists = os.path.exists(f"{probe}/{file}")
    os.rmdir(probe)
    if not exists:
        pytest.skip(f"this kernel has no {file}")
    assert box(resources).read(controller, file) == value


@pytest.mark.spec("/linux/resources/blockIO/throttle*")
@needs("blkio")
def test_block_device_is_throttled_and_an_absent_one_is_explained(box: Callable[..., Box]) -> None:
    device = os.stat("/").st_dev if os.major(os.stat("/").st_dev) else 0
    disk = _disk(device)
    if disk is None:
        pytest.skip("no block device is known here")
    limit = {"major": disk[0], "minor": disk[1], "rate": 1048576}
    names = [f"throttle{way}{unit}Device" for way in ("Read", "Write") for unit in ("Bps", "IOPS")]
    made = box({"blockIO": {name: [limit | {"rate": 1000 + number}] for number, name in enumerate(names)}})
    for number, file in enumerate(("read_bps", "read_iops", "write_bps", "write_iops")):
        assert made.read("blkio", f"blkio.throttle.{file}_device") == f"{disk[0]}:{disk[1]} {1000 + number}"
    with pytest.raises(CgroupError, match="no such block device on this host"):
        box({"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 1}]}}, f"/{NAME}/other")


def _disk(device: int) -> tuple[int, int] | None:
    for name in sorted(os.listdir("/sys/block")):
        if not os.path.exists(f"/sys/block/{name}/dev"):
            continue  # a path to a disk of several
        with open(f"/sys/block/{name}/dev", encoding="ascii") as file:
            major, minor = file.read().split(":")
        with open(f"/sys/block/{name}/size", encoding="ascii") as file:
            if int(file.read()):
                return int(major), int(minor)
    return None


@pytest.mark.spec("/linux/resources/pids/limit")
@needs("pids")
def test_pids_limit_holds_after_the_process_is_in(box: Callable[..., Box]) -> None:
    made = box({"pids": {"limit": 0}})
    made.start("import os,time\ntry: os.fork()\nexcept BlockingIOError: time.sleep(300)")
    assert made.read("pids", "pids.max") == "0"
    assert eventually(lambda: made.read("pids", "pids.events") == "max 1")
    assert made.read("pids", "pids.current") == "1"


@pytest.mark.spec("/linux/resources/memory/limit")
@needs("memory")
def test_memory_limit_is_enforced(box: Callable[..., Box]) -> None:
    made = box({"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    made.start("x = bytearray(64 << 20)")
    assert made.children[0].wait(20) == -9
    assert "oom_kill 1" in made.read("memory", "memory.oom_control")


@needs("cpuset")
def test_cpuset_is_copied_through_all_new_parents(box: Callable[..., Box]) -> None:
    made = box(path=f"/{NAME}/a/b/c")
    with open(HOST.mounts["cpuset"] + "/cpuset.cpus", encoding="ascii") as file:
        assert made.read("cpuset", "cpuset.cpus") == file.read().strip() != ""
    made.start()


@needs("cpuset")
def test_cpus_that_the_host_has_not_are_explained(box: Callable[..., Box]) -> None:
    with pytest.raises(CgroupError, match="the value must be part of that") as caught:
        box({"cpu": {"cpus": "100000"}})
    assert caught.value.pointer == "/linux/resources/cpu/cpus"
    assert f"/{NAME}/box/cpuset.cpus" in str(caught.value)


@needs("blkio")
def test_file_that_the_kernel_lacks_is_explained(box: Callable[..., Box]) -> None:
    with pytest.raises(CgroupError, match="leaf weights were the CFQ scheduler's"):
        box({"blockIO": {"leafWeight": 500}})


@pytest.mark.spec(
    "/linux/resources/devices/*", "/linux/resources/devices/*/type=a", "/linux/resources/devices/*/type=c",
    "/linux/resources/devices/*/type=b",
)  # fmt: skip
@needs("devices")
def test_device_list_starts_with_the_rules_of_the_config(box: Callable[..., Box]) -> None:
    fuse = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    disk = {"allow": True, "type": "b", "major": 8, "minor": 20, "access": "rw"}
    made = box({"devices": [{"allow": False, "type": "a", "access": "rwm"}, fuse, disk]})
    made.start()
    lines = made.read("devices", "devices.list").splitlines()
    assert lines[:4] == ["c 10:229 rwm", "b 8:20 rw", "c *:* m", "b *:* m"]
    assert "c 1:3 rwm" in lines


@needs("devices")
def test_device_that_no_rule_allows_cannot_be_opened(box: Callable[..., Box], tmp_path: Any) -> None:
    node = str(tmp_path / "kmsg")
    os.mknod(node, 0o020600, os.makedev(1, 11))
    made = box()
    made.start(f"import os,sys\nos.open('/dev/null',2)\ntry: os.open({node!r},0)\nexcept PermissionError: sys.exit(7)")
    assert made.children[0].wait(20) == 7


def test_update_writes_what_depends_on_each_other_in_any_order(box: Callable[..., Box]) -> None:
    limits = {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "cpu": {"period": 100000, "quota": 50000, "burst": 50000}}
    made = box(limits)
    raised = {"memory": {"limit": 128 * MIB, "swap": 128 * MIB}, "cpu": {"period": 100000, "quota": 80000, "burst": 80000}}
    for resources in (raised, limits):
        apply_sets(plan_update(resources, made.paths, []))  # type: ignore[arg-type]
        assert made.read("memory", "memory.memsw.limit_in_bytes") == str(resources["memory"]["swap"])
        assert made.read("memory", "memory.limit_in_bytes") == str(resources["memory"]["limit"])
        assert made.read("cpu", "cpu.cfs_burst_us") == str(resources["cpu"]["burst"])


def test_update_that_can_never_be_valid_ends_with_the_first_refusal(box: Callable[..., Box]) -> None:
    made = box({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    with pytest.raises(CgroupError, match="cannot be more than memory and swap together") as caught:
        apply_sets(plan_update({"memory": {"limit": 128 * MIB}}, made.paths, []))
    assert caught.value.pointer == "/linux/resources/memory/limit"


# ---- life ------------------------------------------------------------------------------------------------------------


@needs("freezer")
def test_frozen_process_stands_still_until_it_is_thawed(box: Callable[..., Box]) -> None:
    made = box()
    pid = made.start("while True: pass")
    freeze(made.paths)
    assert is_frozen(made.paths)
    before = _cpu_time(pid)
    time.sleep(0.1)
    assert _cpu_time(pid) == before
    thaw(made.paths)
    assert not is_frozen(made.paths)
    assert eventually(lambda: _cpu_time(pid) > before)


def _cpu_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@needs("freezer")
def test_container_below_a_frozen_cgroup_is_not_paused_by_itself(box: Callable[..., Box]) -> None:
    made = box(path=f"/{NAME}/p/one")
    parent = {"freezer": os.path.dirname(made.paths["freezer"])}
    freeze(parent)
    assert not is_frozen(made.paths)
    thaw(parent)


@needs("pids")
def test_fork_bomb_does_not_escape(box: Callable[..., Box]) -> None:
    made = box({"pids": {"limit": 60}})
    made.start(FORK_BOMB)
    assert eventually(lambda: len(pids(made.paths)) > 40)
    assert kill_all(made.paths, 9) > 40
    made.children[0].wait()
    remove(made.journal, 5)


@needs("pids")
def test_fork_bomb_does_not_escape_without_the_help_of_v2(box: Callable[..., Box]) -> None:
    made = box({"pids": {"limit": 60}})
    made.start(FORK_BOMB)
    assert eventually(lambda: len(pids(made.paths)) > 40)
    assert kill_all({name: path for name, path in made.paths.items() if name}, 9) > 40
    made.children[0].wait()
    remove(made.journal, 5)


def test_signal_reaches_nested_processes_and_leaves_a_paused_container_paused(box: Callable[..., Box]) -> None:
    made = box()
    outer, inner = made.start(), made.start()
    _nest(made, inner)
    freeze(made.paths)
    assert kill_all(made.paths, signal.SIGTERM) == 2
    assert is_frozen(made.paths)
    assert {child.poll() for child in made.children} == {None}
    thaw(made.paths)
    assert [child.wait(10) for child in made.children] == [-15, -15]
    assert outer != inner


def test_running_container_runs_on_after_a_signal_and_acts_on_it(box: Callable[..., Box]) -> None:
    made = box()
    made.start()
    assert kill_all(made.paths, signal.SIGTERM) == 1
    assert made.children[0].wait(10) == -15


def _nest(box: Box, pid: int, name: str = "nested") -> dict[str, str]:
    nested = {key: f"{path}/{name}" for key, path in box.paths.items() if key != "cpuset"}
    for path in set(nested.values()):
        os.mkdir(path)
        with open(path + "/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(pid))
    return nested


@needs("freezer")
def test_paused_and_nested_frozen_processes_die_and_go_within_a_second(box: Callable[..., Box]) -> None:
    made = box()
    made.start()
    freeze(_nest(made, made.start()))
    freeze(made.paths)
    started = time.monotonic()
    kill_all(made.paths, 9)
    for child in made.children:
        assert child.wait(10) == -9
    remove(made.journal)
    assert time.monotonic() - started < 1


@needs("freezer")
def test_removal_thaws_what_was_killed_while_frozen(box: Callable[..., Box]) -> None:
    made = box()
    pid = made.start()
    freeze(_nest(made, pid))
    os.kill(pid, 9)
    remove(made.journal, 5)
    assert made.children[0].wait(10) == -9


def test_removal_names_the_processes_that_are_left(box: Callable[..., Box]) -> None:
    made = box()
    pid = made.start()
    with pytest.raises(CgroupError, match=rf"these processes are still in it: {pid} \(python[^)]*, state [SR]\)"):
        remove(made.journal, 0.05)


def test_gone_cgroup_has_no_processes_and_is_removed_already(box: Callable[..., Box]) -> None:
    made = box()
    remove(made.journal)
    assert pids(made.paths) == []
    assert kill_all(made.paths, 9) == 0
    assert not is_frozen(made.paths)
    thaw(made.paths)
    remove(made.journal)


# ---- the mounts of a container ---------------------------------------------------------------------------------------


def test_named_hierarchy_mounted_in_a_new_cgroup_namespace_has_our_cgroup_as_its_root(box: Callable[..., Box]) -> None:
    """What plan_cgroup_mount relies on, asked of the kernel with the options that it gives."""
    if "name=systemd" not in HOST.mounts:
        pytest.skip("no hierarchy name=systemd is mounted here")
    made = box()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _mount_named(made)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _mount_named(made: Box) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    apply_enter(Step(ops.ENTER_CGROUP, paths=made.paths), os.getpid())
    if libc.unshare(0x02020000) or libc.mount(b"none", b"/", None, 0x44000, None):
        return 2
    if libc.mount(b"cgroup", b"/mnt", b"cgroup", 0, b"none,name=systemd"):
        return 3
    with open("/mnt/cgroup.procs", encoding="ascii") as file:
        return 0 if file.read().split() == [str(os.getpid())] else 4
