"""update: the files of the container's cgroups, before and after."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import TIME_SCALE, Config, Container, Result, Runtime, make_bundle
from ocipy.linux.cgroups.host import read_cgroup_host

Make = Callable[..., Container]
Resources = dict[str, Any]
MIB = 1 << 20
HOST = read_cgroup_host()
pytestmark = pytest.mark.skipif(HOST.mode not in ("v1", "hybrid"), reason="this host has no cgroup v1")
LIMITS = {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "cpu": {"shares": 512, "period": 100000, "quota": 50000}}


def limited(resources: Resources) -> Callable[[Config], None]:
    return lambda config: config["linux"]["resources"].update(resources)


@pytest.fixture
def box(container: Make) -> Container:
    made = container("/bin/sleep", "300", mutate=limited(LIMITS))
    made.run("--detach")
    return made


def read(box: Container, file: str) -> str:
    return (box.cgroup(file.split(".")[0]) / file).read_text().strip()


FILES = (
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "cpu.shares", "cpu.cfs_period_us",
    "cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.idle", "cpuset.cpus", "cpuset.mems", "pids.max",
    "memory.oom_control", "memory.swappiness",
)  # fmt: skip


def all_of(box: Container) -> dict[str, str]:
    return {file: read(box, file) for file in FILES}


def send(box: Container, resources: Resources, directory: Path, **how: Any) -> Result:
    """As engines do: on standard input."""
    path = directory / "resources.json"
    path.write_text(json.dumps(resources))
    with open(path) as stdin:
        return box.runtime("update", "--resources", "-", box.id, stdin=stdin, **how)


def test_flags_change_what_they_name_and_nothing_else(box: Container, runtime: Runtime) -> None:
    before = all_of(box)
    answer = runtime(
        "update", "--memory", "128m", "--memory-swap=0.25g", "--memory-reservation", "32MiB", "--cpu-share", "256", "--cpu-quota",
        "80000", "--cpu-burst", "70000", "--cpuset-cpus", "0", "--pids-limit", "20", box.id, env={},
    )  # fmt: skip
    assert (answer.stdout, answer.stderr) == ("", "")
    assert all_of(box) == before | {
        "memory.limit_in_bytes": str(128 * MIB),
        "memory.memsw.limit_in_bytes": str(256 * MIB),
        "memory.soft_limit_in_bytes": str(32 * MIB),
        "cpu.shares": "256",
        "cpu.cfs_quota_us": "80000",
        "cpu.cfs_burst_us": "70000",
        "cpuset.cpus": "0",
        "pids.max": "20",
    }
    runtime("update", "--pids-limit", "-1", "--memory", "-1", "--cpu-quota", "-1", "--cpu-burst", "0", box.id)
    now = all_of(box)
    assert (now["pids.max"], now["cpu.cfs_quota_us"], now["cpu.cfs_burst_us"]) == ("max", "-1", "0")
    assert int(now["memory.limit_in_bytes"]) == int(now["memory.memsw.limit_in_bytes"]) > 1 << 60
    runtime("update", "--cpu-idle", "1", box.id)
    assert read(box, "cpu.idle") == "1"


def test_resources_are_read_from_standard_input_and_from_a_file(box: Container, runtime: Runtime, tmp_path: Path) -> None:
    assert send(box, {"memory": {"limit": 32 * MIB}, "pids": {"limit": 7}}, tmp_path).stderr == ""
    assert (read(box, "memory.limit_in_bytes"), read(box, "pids.max")) == (str(32 * MIB), "7")
    (tmp_path / "file").write_text('{"cpu": {"shares": 300}}')
    runtime("update", f"--resources={tmp_path / 'file'}", box.id)
    assert read(box, "cpu.shares") == "300"
    for nothing in ({}, {"memory": {}, "cpu": {"shares": 0, "cpus": ""}}):
        before = all_of(box)
        send(box, nothing, tmp_path)
        assert all_of(box) == before


@pytest.mark.parametrize("state", ["created", "paused"])
def test_a_created_and_a_paused_container_is_updated_too(container: Make, runtime: Runtime, state: str) -> None:
    made = container("/bin/sleep", "300")
    made.create()
    if state == "paused":
        made.start()
        runtime("pause", made.id)
    runtime("update", "--memory", "50m", made.id)
    assert (made.status, read(made, "memory.limit_in_bytes")) == (state, str(50 * MIB))


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (
            {"pids": {"limit": 5}, "cpu": {"shares": 300, "cpus": "0", "quota": 40000}, "memory": {"limit": 128 * MIB}},
            "(/linux/resources/memory/limit): write: invalid argument; it cannot be more than memory and swap together",
        ),
        (
            {"memory": {"limit": 128 * MIB, "swap": 128 * MIB}, "cpu": {"idle": 1, "quota": 500, "period": 50000}},
            "(/linux/resources/cpu/quota): write: invalid argument; periods are 1000 to 1000000",
        ),
        ({"memory": {"limit": 32 * MIB, "swap": 32 * MIB}, "cpu": {"cpus": "4000"}}, "(/linux/resources/cpu/cpus): write: "),
        ({"memory": {"disableOOMKiller": True, "swappiness": 5}, "pids": {"limit": 4}, "cpu": {"burst": 1 << 40}}, "/cpu/burst)"),
        ({"cpu": {"shares": 700, "realtimeRuntime": 1 << 40}}, "(/linux/resources/cpu/realtimeRuntime): write: "),
        (
            {"cpu": {"shares": 700}, "blockIO": {"throttleReadBpsDevice": [{"major": 4095, "minor": 7, "rate": 10}]}},
            "(/linux/resources/blockIO/throttleReadBpsDevice/0/rate): write: no such device; there is no such block device",
        ),
    ],
    ids=["swap", "quota", "cpus", "burst", "realtime", "device"],
)  # fmt: skip
def test_an_update_that_fails_changes_nothing(box: Container, tmp_path: Path, resources: Resources, words: str) -> None:
    before = all_of(box)
    refused = send(box, resources, tmp_path, check=False)
    assert (refused.status, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert words in refused.stderr
    assert "could not be written back" not in refused.stderr
    assert all_of(box) == before


@pytest.mark.spec("/linux/resources/memory/checkBeforeUpdate")
@pytest.mark.parametrize("check", [True, False])
def test_a_limit_below_what_is_used_is_refused_by_v1_itself(box: Container, tmp_path: Path, check: bool) -> None:
    before = all_of(box)
    refused = send(box, {"memory": {"limit": 4096, "checkBeforeUpdate": check}}, tmp_path, check=False)
    assert refused.status == 1
    assert "(/linux/resources/memory/limit): write: " in refused.stderr
    assert all_of(box) == before


def test_what_is_set_for_one_device_is_put_back_too(box: Container, tmp_path: Path) -> None:
    disks = [path for path in Path("/sys/block").iterdir() if (path / "device").exists()] or list(Path("/sys/block").glob("loop*"))
    if not disks:
        pytest.skip("this machine has no block device")
    major, minor = map(int, (disks[0] / "dev").read_text().split(":"))
    disk, none = {"major": major, "minor": minor}, {"major": 4095, "minor": 7, "rate": 10}
    file = "blkio.throttle.read_bps_device"
    for rate, lines in ((None, ""), (1000000, f"{major}:{minor} 1000000")):
        if rate:
            send(box, {"blockIO": {"throttleReadBpsDevice": [disk | {"rate": rate}]}}, tmp_path)
        assert read(box, file) == lines
        both = {"throttleReadBpsDevice": [disk | {"rate": 5000}, none]}
        assert send(box, {"blockIO": both}, tmp_path, check=False).status == 1
        assert read(box, file) == lines


def test_the_device_rules_of_the_container_are_fine_and_others_are_refused(box: Container, tmp_path: Path) -> None:
    rules = read(box, "devices.list")
    devices = box.bundle.config["linux"]["resources"]["devices"]
    send(box, {"devices": devices, "cpu": {"shares": 300}}, tmp_path)
    refused = send(box, {"devices": [*devices, {"allow": True, "access": "rwm"}], "cpu": {"shares": 400}}, tmp_path, check=False)
    assert refused.stderr == (
        "ocipy: linux.resources.devices (/linux/resources/devices): "
        "on cgroup v1 the device rules of a container cannot be changed: leave them away\n"
    )
    assert (read(box, "devices.list"), read(box, "cpu.shares")) == (rules, "300")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--l3-cache-schema", "L3:0=f"), "it was made without linux.intelRdt"),
        (("--mem-bw-schema=MB:0=50",), "it was made without linux.intelRdt"),
        (("-r", "/nowhere", "--memory", "5m"), "--resources and --memory exclude each other: put all into the resources"),
        (("-r", "/nowhere"), "/nowhere: open: no such file or directory"),
        (("-r", "-"), "standard input:1:1: not JSON: expecting value"),
    ],
    ids=["l3", "bandwidth", "both", "missing", "empty"],
)
def test_what_cannot_be_done_is_said_and_nothing_changes(
    box: Container, runtime: Runtime, flags: tuple[str, ...], words: str
) -> None:
    before = all_of(box)
    refused = runtime("update", *flags, box.id, check=False)
    assert (refused.status, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert words in refused.stderr
    assert all_of(box) == before


def test_a_stopped_container_cannot_be_updated(box: Container, runtime: Runtime) -> None:
    pid = box.pid
    box.kill("KILL")
    box.wait_exit(pid)
    refused = runtime("update", "--memory", "50m", box.id, check=False)
    assert refused.stderr == f'ocipy: cannot update a stopped container: container not running: "{box.id}"\n'


def test_updates_at_the_same_time_all_succeed(box: Container, runtime: Runtime) -> None:
    shares = [str(number) for number in range(201, 207)]
    argv = [runtime.path, "--root", str(runtime.root), "update", box.id, "--cpu-share"]
    errors = runtime.directory / "errors"
    with open(errors, "wb") as file:
        started = [subprocess.Popen([*argv, number], stdin=subprocess.DEVNULL, stdout=file, stderr=file) for number in shares]
        assert [process.wait(20 * TIME_SCALE) for process in started] == [0] * 6, errors.read_text()
    assert read(box, "cpu.shares") in shares


def test_a_poststart_hook_may_update_its_container(container: Make, runtime: Runtime) -> None:
    made = container("/bin/sleep", "300")
    args = ["ocipy", "--root", str(runtime.root), "update", "--cpu-share", "300", made.id]
    made.bundle.config["hooks"] = {"poststart": [{"path": runtime.path, "args": args, "timeout": 10}]}
    made.bundle.write()
    made.run("--detach")
    assert read(made, "cpu.shares") == "300"


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed: nothing to compare with")
@pytest.mark.parametrize(
    "flags",
    [
        "--memory 96m --memory-swap 128m --memory-reservation 10m --cpu-share 99 --pids-limit 33",
        "--cpu-period 50000 --cpu-quota 20000 --cpuset-cpus 0 --cpuset-mems 0",
        "--memory -1 --pids-limit -1 --cpu-quota -1",
        "--memory 16m --cpu-period 200000",
    ],
)
def test_the_kernel_is_told_what_runc_tells_it(box: Container, tmp_path: Path, flags: str) -> None:
    theirs = Runtime(tmp_path / "runc", shutil.which("runc"))
    other = theirs.container(make_bundle(tmp_path / "other", args=("/bin/sleep", "300"), mutate=limited(LIMITS)))
    try:
        other.run("--detach")
        for each in (box, other):
            each.runtime("update", *flags.split(), each.id)
        assert all_of(box) == all_of(other)
    finally:
        assert theirs.close() == []
