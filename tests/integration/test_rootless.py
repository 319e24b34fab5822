"""A runtime without root, in a cgroup that its user was given: limits, ids, the state directory, and what cannot be.

The tests are that user: OCIPY_TEST_MODE=rootless or rootless-systemd.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import ROOTLESS, SYSTEMD, Config, Container, Runtime, copy_rootfs, hierarchies, set_namespace

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.skipif(not ROOTLESS, reason="needs a user who has a cgroup: `make vm-test MODES=rootless` has one"),
]
Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
MIB = 1 << 20


def limited(**resources: Any) -> Callable[[Config], None]:
    return lambda config: config["linux"]["resources"].update(resources)


def read(box: Container, file: str) -> str:
    return (box.cgroup("") / file).read_text().strip()


def running(container: Make, mutate: Callable[[Config], None] | None = None) -> Container:
    box = container("/bin/sleep", "1000", mutate=mutate)
    box.run("--detach")
    return box


def test_limits_are_in_the_kernels_files(container: Make) -> None:
    limits = {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "cpu": {"quota": 50000, "period": 100000}, "pids": {"limit": 50}}
    box = running(container, limited(**limits))
    assert read(box, "memory.max") == str(64 * MIB)
    assert read(box, "memory.swap.max") == "0"
    assert read(box, "cpu.max") == "50000 100000"
    assert read(box, "pids.max") == "50"
    assert read(box, "cgroup.procs").split() == [str(box.pid)]


def test_a_limit_holds(container: Make) -> None:
    box = container("/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done", mutate=limited(pids={"limit": 4}))
    assert box.run(check=False).status != 0
    assert "can't fork" in box.errors.read_text()


def test_update_changes_limits(container: Make, runtime: Runtime) -> None:
    box = running(container, limited(memory={"limit": 64 * MIB}))
    runtime("update", "--memory", "128m", "--pids-limit", "77", box.id)
    assert (read(box, "memory.max"), read(box, "pids.max")) == (str(128 * MIB), "77")


def test_a_container_is_paused_and_resumed(container: Make, runtime: Runtime) -> None:
    box = running(container)
    runtime("pause", box.id)
    assert "frozen 1" in read(box, "cgroup.events")
    assert box.status == "paused"
    runtime("resume", box.id)
    assert box.status == "running"


def test_processes_and_use_are_told(container: Make, runtime: Runtime) -> None:
    box = running(container)
    assert runtime("ps", "--format", "json", box.id).json == [box.pid]
    assert runtime("events", "--stats", box.id).json["data"]["memory"]["usage"]["usage"] > 0


def test_delete_takes_the_cgroup_away(container: Make) -> None:
    box = running(container)
    cgroup = box.cgroup("")
    box.delete("--force")
    assert not cgroup.exists()


def test_a_controller_that_was_not_given_is_an_error_at_the_limit(container: Make) -> None:
    """systemd gives users cpu, memory and pids."""
    answer = container("/bin/true", mutate=limited(cpu={"cpus": "0"})).create(check=False)
    assert answer.status == 1
    assert "/linux/resources/cpu/cpus" in answer.stderr
    assert "Delegate=" in answer.stderr


def test_all_of_the_users_ids_are_mapped(probe: Probe) -> None:
    report = probe(lambda config: config["process"].update(user={"uid": 1000, "gid": 1000, "additionalGids": [5]}))
    assert (report["uid"], report["gid"], report["groups"]) == (1000, 1000, [5])
    assert report["uid_map"].split()[:3] == ["0", str(os.getuid()), "1"]


def one_id(config: Config) -> None:
    """As for a user without subordinate ids: nothing of newuidmap, no other group."""
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": os.getuid(), "size": 1}]
    config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": os.getgid(), "size": 1}]
    (devpts,) = [mount for mount in config["mounts"] if mount["type"] == "devpts"]
    devpts["options"].remove("gid=5")


def test_one_id_is_enough(probe: Probe) -> None:
    report = probe(one_id)
    assert report["uid_map"].split() == ["0", str(os.getuid()), "1"]
    assert report["uid"] == 0


def test_the_example_of_spec_runs(runtime: Runtime, bundle: Callable[..., Any], tmp_path: Path) -> None:
    """What a stranger does first, without any cgroupsPath."""
    directory = tmp_path / "first"
    directory.mkdir()
    copy_rootfs(bundle().rootfs, directory / "rootfs")
    runtime("spec", "--rootless", cwd=directory)
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(args=["/bin/sh", "-c", "id -u; cat /proc/self/cgroup"], terminal=False)
    (directory / "config.json").write_text(json.dumps(config))
    answer = runtime("run", "first", cwd=directory)
    assert answer.stdout.splitlines() == ["0", "0::/"]


def test_the_state_is_in_the_users_runtime_directory(runtime: Runtime, bundle: Callable[..., Any]) -> None:
    box = bundle("/bin/true")
    name = f"{runtime.directory.parent.name}-run"
    runtime("create", "--bundle", box.path, name, root=False, stdout=box.path / "out", stderr=box.path / "err")
    try:
        assert (Path(os.environ["XDG_RUNTIME_DIR"]) / "ocipy" / name).is_dir()
        assert [each["id"] for each in runtime("list", "--format", "json", root=False).json] == [name]
    finally:
        runtime("delete", "--force", name, root=False)


@pytest.mark.skipif(SYSTEMD, reason="it is systemd that makes cgroups")
class TestWithoutCgroups:
    """In a place where the user may not make any."""

    def test_a_container_that_needs_none_runs(self, container: Make) -> None:
        box = container("/bin/cat", "/proc/self/cgroup", mutate=lambda config: config["linux"].pop("cgroupsPath"))
        assert box.run("--keep").status == 0

    def test_a_cgroup_that_may_not_be_made_is_an_error(self, container: Make) -> None:
        box = container("/bin/true", mutate=lambda config: config["linux"].update(cgroupsPath="/not-ours/box"))
        answer = box.create(check=False)
        assert answer.status == 1
        assert "/linux/cgroupsPath" in answer.stderr
        assert "delegated to its user" in answer.stderr
        assert not (hierarchies()[""] / "not-ours").exists()


def test_device_rules_are_not_in_force_and_this_is_said(container: Make) -> None:
    """Only where there are more than what every container has."""
    deny, fuse = {"allow": False, "access": "rwm"}, {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    quiet = container("/bin/true", mutate=limited(devices=[deny]))
    assert quiet.run().stderr == ""
    told = container("/bin/true", mutate=limited(devices=[deny, fuse]))
    assert told.run().stderr == "ocipy: warning: linux.resources.devices is ignored: the runtime has not the privilege for it\n"
    strict = container("/bin/true", mutate=limited(devices=[deny, fuse]))
    assert strict.runtime("--strict", "run", "--bundle", strict.bundle.path, strict.id, check=False).status == 1


def test_a_device_that_a_rule_forbids_is_out_of_reach_by_the_kernels_own_rules(container: Make) -> None:
    """A user may load no device program: what keeps devices away is that the container has no nodes of them and cannot make any."""

    def may_make(config: Config) -> None:
        set_namespace(config, "user")
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind].append("CAP_MKNOD")

    box = running(container, may_make)
    answer = box.exec("/bin/sh", "-c", "mknod /dev/disk b 8 0", check=False)
    assert "Operation not permitted" in answer.stderr
