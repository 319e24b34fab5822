"""runtime.md: what exists after create and after delete, and what errors leave."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bundles import REPOSITORY, Config, Container, hierarchies, mounts

clauses = pytest.mark.clauses
Make = Callable[..., Container]
Look = Callable[[], dict[str, set[str]]]
SLEEP = ("/bin/sleep", "1000")
SPECIFIED = {"creating", "created", "running", "stopped"}


def hook(script: str) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", f"cat >/dev/null; {script}"]}


def cgroups_of(pid: int) -> list[Path]:
    """Where a process is, in every hierarchy that is mounted here."""
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        point = hierarchies().get(names.split(",")[0])
        if point and path != "/":
            found.append(point / path.lstrip("/"))
    return found


# ---- the state -------------------------------------------------------------------------------------------------------


@clauses("runtime.state.schema")
def test_the_state_is_valid_against_its_schema(container: Make) -> None:
    box = container(*SLEEP)
    box.bundle.config["annotations"] = {"org.example.key": "value"}
    box.bundle.write()
    schema = json.loads((REPOSITORY / "spec/state.schema.json").read_text())
    box.create()
    jsonschema.validate(box.state(), schema)
    box.start()
    jsonschema.validate(box.state(), schema)
    box.kill()
    box.wait_for("stopped")
    jsonschema.validate(box.state(), schema)


@clauses("runtime.state.status.extra")
def test_a_status_of_the_runtimes_own_is_for_what_the_specification_does_not_name(container: Make) -> None:
    box = container(*SLEEP)
    box.create()
    seen = [box.status]
    box.start()
    seen.append(box.status)
    if box.runtime("pause", box.id, check=False).status == 0:
        assert box.status not in SPECIFIED - {"running"}
        box.runtime("resume", box.id)
        seen.append(box.status)
    assert set(seen) <= SPECIFIED
    box.kill()
    box.wait_for("stopped")


# ---- create ----------------------------------------------------------------------------------------------------------


@clauses("runtime.lifecycle.environment", "runtime.lifecycle.resources", "runtime.create.properties")
def test_namespaces_mounts_names_and_cgroups_are_there_before_start(container: Make) -> None:
    def change(config: Config) -> None:
        config["hostname"] = "conformance"
        config["mounts"].append({"destination": "/here", "type": "tmpfs", "source": "tmpfs", "options": ["nodev"]})
        config["root"]["readonly"] = False

    box = container(*SLEEP, mutate=change)
    box.create()
    for kind in ("pid", "net", "ipc", "uts", "mnt"):
        assert os.readlink(f"/proc/{box.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    points = {mount["point"] for mount in mounts(Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines())}
    inside = {os.path.normpath("/" + point.rpartition("rootfs")[2].lstrip("/")) for point in points}
    assert {"/proc", "/dev", "/sys", "/here"} <= inside
    named = subprocess.run(["nsenter", "--uts", f"--target={box.pid}", "hostname"], capture_output=True, text=True, check=True)
    assert named.stdout == "conformance\n"
    name = os.path.basename(box.bundle.config["linux"]["cgroupsPath"])
    assert any(path.name == name for path in cgroups_of(box.pid))


CANNOT = {
    "mounts": lambda config: config["mounts"].append({"destination": "/x", "source": "/no/such/source", "options": ["bind"]}),
    "process.rlimits": lambda config: config["process"].update(rlimits=[{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]),
    "linux.namespaces": lambda config: config["linux"]["namespaces"].append({"type": "user", "path": "/no/such/namespace"}),
    "linux.sysctl": lambda config: config["linux"].update(sysctl={"net.no.such.parameter": "1"}),
    "linux.resources": lambda config: config["linux"]["resources"].update(cpu={"cpus": "100000"}),
    "root": lambda config: config["root"].update(path="no/such/root"),
}


@clauses("runtime.create.property.error", "runtime.create.property.nothing", "runtime.lifecycle.environment.error")
@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_be_applied_is_an_error_and_makes_no_container(container: Make, name: str) -> None:
    box = container(*SLEEP, mutate=CANNOT[name])
    assert box.create(check=False).status != 0
    assert box.runtime("state", box.id, check=False).status != 0


@clauses("runtime.errors.clean")
@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_be_applied_leaves_nothing(container: Make, look: Look, name: str) -> None:
    before = look()
    container(*SLEEP, mutate=CANNOT[name]).create(check=False)
    left = {kind: things - before[kind] for kind, things in look().items()}
    assert not any(left[kind] for kind in ("mount", "process", "cgroup"))


@clauses("runtime.errors.clean")
def test_a_create_that_fails_late_leaves_nothing(container: Make, look: Look) -> None:
    before = look()
    box = container(*SLEEP)
    box.bundle.config["hooks"] = {"createRuntime": [hook("exit 3")]}
    box.bundle.write()
    assert box.create(check=False).status != 0
    left = {kind: things - before[kind] for kind, things in look().items()}
    assert not any(left[kind] for kind in ("mount", "process", "cgroup"))


# ---- start -----------------------------------------------------------------------------------------------------------


def assert_stopped(box: Container, pid: int) -> None:
    box.wait_exit(pid)
    answer = box.runtime("state", box.id, check=False)
    assert answer.status != 0 or answer.json["status"] == "stopped"


@clauses("runtime.lifecycle.startContainer.failure")
def test_a_failing_start_container_hook_is_an_error_and_stops_the_container(container: Make) -> None:
    box = container("/bin/touch", "/ran")
    box.bundle.config["root"]["readonly"] = False
    box.bundle.config["hooks"] = {"startContainer": [hook("exit 3")]}
    box.bundle.write()
    box.create()
    pid = box.pid
    assert box.start(check=False).status != 0
    assert_stopped(box, pid)
    assert not (box.bundle.rootfs / "ran").exists()


@clauses("runtime.lifecycle.poststart.failure")
def test_a_failing_poststart_hook_is_an_error_and_stops_the_container(container: Make) -> None:
    box = container(*SLEEP)
    box.bundle.config["hooks"] = {"poststart": [hook("exit 3")]}
    box.bundle.write()
    box.create()
    pid = box.pid
    assert box.start(check=False).status != 0
    assert_stopped(box, pid)


# ---- delete ----------------------------------------------------------------------------------------------------------


@clauses("runtime.lifecycle.destroy", "runtime.delete.resources")
def test_delete_takes_away_what_create_made(container: Make, look: Look) -> None:
    before = look()
    box = container(*SLEEP)
    box.create()
    made = [path for path in cgroups_of(box.pid) if path.name == os.path.basename(box.bundle.config["linux"]["cgroupsPath"])]
    assert made
    box.start()
    pid = box.pid
    box.kill()
    box.wait_exit(pid)
    box.delete()
    assert not [path for path in made if path.exists()]
    assert not look()["mount"] - before["mount"]
    assert box.runtime("state", box.id, check=False).status != 0


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    """A network namespace that a file keeps, as CNI makes them."""
    file = tmp_path / "netns"
    file.touch()
    subprocess.run(["unshare", f"--net={file}", "true"], check=True)
    yield file
    subprocess.run(["umount", file], check=True)


@clauses("runtime.delete.others")
def test_delete_leaves_what_others_made(container: Make, network: Path, tmp_path: Path) -> None:
    def change(config: Config) -> None:
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = str(network)
        config["mounts"].append({"destination": "/data", "source": str(tmp_path / "data"), "options": ["bind"]})
        config["root"]["readonly"] = False

    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("kept")
    number = os.stat(network).st_ino
    box = container("/bin/true", mutate=change)
    box.create()
    box.start()
    box.wait_for("stopped")
    box.delete()
    assert os.stat(network).st_ino == number
    subprocess.run(["nsenter", f"--net={network}", "true"], check=True)
    assert (tmp_path / "data/file").read_text() == "kept"
    assert box.bundle.rootfs.is_dir()
