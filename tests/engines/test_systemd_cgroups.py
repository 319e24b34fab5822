"""Engines that let systemd make the cgroups: the runtime gets slice:prefix:name, and each container is a scope."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import SYSTEMD, cgroup_of, wait_until
from engines.cri import Cri, Pod
from engines.engine import IMAGE, Engine, check_limits

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="needs systemd: `make vm-test MODES=engines-systemd` has it")
LIMITS = ("--memory", "32m", "--pids-limit", "50", "--cpu-shares", "512")


def shown(unit: str, name: str) -> str:
    argv = ["systemctl", "show", unit, "--property", name, "--value"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def check_unit(pid: int, scope: str, parent: str) -> Path:
    """The container's cgroup is that of a scope; it is given back."""
    cgroup = cgroup_of(pid, "")
    assert (cgroup.name, cgroup.parent.name) == (scope, parent)
    assert shown(scope, "ActiveState") == "active"
    assert shown(scope, "Delegate") == "yes"
    return cgroup


def check_gone(cgroup: Path) -> None:
    wait_until(lambda: not cgroup.exists() and shown(cgroup.name, "LoadState") == "not-found", 10, f"{cgroup.name} to go")


@pytest.fixture
def cleaned() -> Iterator[Callable[[Engine, str], None]]:
    """Containers to remove by force, if the test failed before it did."""
    left: list[tuple[Engine, str]] = []
    yield lambda engine, name: left.append((engine, name))
    for engine, name in left:
        engine("rm", "--force", name, check=False)


def test_podman(podman_engine: Engine, cleaned: Callable[[Engine, str], None]) -> None:
    def podman(*words: str) -> str:
        return podman_engine("--cgroup-manager", "systemd", *words).stdout.strip()

    cleaned(podman_engine, "scoped")
    name = podman("run", "--detach", "--name", "scoped", *LIMITS, IMAGE, "sleep", "1000")
    pid = int(podman("inspect", "--format", "{{.State.Pid}}", "scoped"))
    cgroup = check_unit(pid, f"libpod-{name}.scope", "machine.slice")
    check_limits(pid, {"memory.limit_in_bytes": str(32 << 20), "pids.max": "50", "cpu.shares": "512"})
    assert (shown(cgroup.name, "MemoryMax"), shown(cgroup.name, "TasksMax")) == (str(32 << 20), "50")
    assert podman("exec", "scoped", "echo", "in") == "in"
    podman("pause", "scoped")
    assert "frozen 1" in (cgroup / "cgroup.events").read_text()
    podman("unpause", "scoped")
    podman("rm", "--force", "--time", "0", "scoped")
    check_gone(cgroup)


def test_docker(docker_engine: Engine, cleaned: Callable[[Engine, str], None]) -> None:
    assert docker_engine("info", "--format", "{{.CgroupDriver}} {{.CgroupVersion}}").stdout == "systemd 2\n"
    cleaned(docker_engine, "scoped")
    flags = "--network", "none", "--detach", "--name", "scoped", *LIMITS
    name = docker_engine("run", *flags, IMAGE, "sleep", "1000").stdout.strip()
    pid = int(docker_engine("inspect", "--format", "{{.State.Pid}}", "scoped").stdout)
    cgroup = check_unit(pid, f"docker-{name}.scope", "system.slice")
    check_limits(pid, {"memory.limit_in_bytes": str(32 << 20), "pids.max": "50", "cpu.shares": "512"})
    docker_engine("update", "--memory", "64m", "--memory-swap", "-1", "scoped")
    check_limits(pid, {"memory.limit_in_bytes": str(64 << 20)})
    assert shown(cgroup.name, "MemoryMax") == str(64 << 20)
    assert docker_engine("exec", "scoped", "echo", "in").stdout == "in\n"
    docker_engine("rm", "--force", "scoped")
    check_gone(cgroup)


def test_a_pod_of_the_cri(cri_engine: Cri) -> None:
    pod = Pod(cri_engine, {})
    try:
        box = pod.start("sleep", "1000", linux={"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_shares": 512}})
        both = (box.pid(), box.id), (pod.pid(), pod.id)
        cgroups = [check_unit(pid, f"cri-containerd-{name}.scope", "system.slice") for pid, name in both]
        check_limits(box.pid(), {"memory.limit_in_bytes": str(64 << 20), "cpu.shares": "512"})
        assert shown(cgroups[0].name, "MemoryMax") == str(64 << 20)
        assert box.sh("echo in") == "in\n"
    finally:
        pod.close()
    for cgroup in cgroups:
        check_gone(cgroup)
