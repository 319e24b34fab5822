from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import ROOTLESS, Config, Container, drop_namespace, freeze, wait_until

Make = Callable[..., Container]
pytestmark = pytest.mark.rootless


@pytest.mark.parametrize(
    ("name", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("15", 15), ("HUP", 1), ("USR1", 10), ("SIGRTMIN+3", 37), ("64", 64)],
)
def test_a_signal_by_name_or_number_reaches_the_process(container: Make, name: str, number: int) -> None:
    box = container("/bin/sh", "-c", f"trap 'exit 42' {number}; echo ready; while :; do sleep 0.01; done")
    box.create()
    box.start()
    box.wait_output("ready")
    pid = box.pid
    box.kill(name)
    assert box.wait_exit(pid) == 42


def test_the_default_signal_is_sigterm_and_ends_a_created_container(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    box.runtime("kill", box.id)
    assert box.wait_exit(pid) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert box.status == "stopped"
    box.delete()


def test_a_stopped_container_is_not_running_and_with_all_nobody_is_left_to_signal(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    box.start()
    box.wait_exit(pid)
    assert box.kill("KILL", "--all").stderr == ""  # as runc
    answer = box.kill("KILL", check=False)
    assert (answer.status, answer.stderr) == (1, f'ocipy: container not running: "{box.id}"\n')


def test_an_unknown_signal_and_an_unknown_container_are_refused(container: Make) -> None:
    box = container("/bin/sleep", "300")
    assert "does not exist" in box.kill("KILL", check=False).stderr
    box.create()
    answer = box.kill("NOPE", check=False)
    assert (answer.status, answer.stderr) == (1, 'ocipy: unknown signal "NOPE"\n')
    assert box.status == "created"


def test_sigkill_ends_a_paused_container(container: Make) -> None:
    box = container("/bin/sleep", "300")
    box.create()
    box.start()
    pid = box.pid
    freeze(box)
    assert box.status == "paused"
    box.kill("KILL")
    assert box.wait_exit(pid) == -signal.SIGKILL


def share_pids(config: Config) -> None:
    drop_namespace(config, "pid")


def test_kill_all_reaches_every_process(container: Make) -> None:
    child = "(trap 'echo child; exit' TERM; echo ready; while :; do sleep 0.01; done)"
    box = container("/bin/sh", "-c", f"trap '' TERM; {child} & wait; wait")
    box.create()
    box.start()
    box.wait_output("ready")
    pid = box.pid
    box.kill("TERM", "--all")
    box.wait_output("child")
    box.wait_exit(pid)


def members(cgroup: Path) -> list[str]:
    """None of a cgroup that is gone: systemd takes an empty one away."""
    try:
        return (cgroup / "cgroup.procs").read_text().split()
    except OSError:
        return []


@pytest.mark.skipif(ROOTLESS, reason="proc of pids that the host shares can be mounted by root only")
def test_sigkill_leaves_no_process_in_a_shared_pid_namespace(container: Make) -> None:
    box = container("/bin/sh", "-c", "sleep 4711 & sleep 4711 & echo ready; wait", mutate=share_pids)
    box.create()
    box.start()
    box.wait_output("ready")
    pid, cgroup = box.pid, box.cgroup("pids")
    assert len((cgroup / "cgroup.procs").read_text().split()) == 3
    box.kill("KILL")
    box.wait_exit(pid)
    wait_until(lambda: not members(cgroup), 10, "the cgroup to be empty")


@pytest.mark.skipif(ROOTLESS, reason="proc of pids that the host shares can be mounted by root only")
def test_what_init_left_in_a_shared_pid_namespace_ends_with_kill_all(container: Make) -> None:
    box = container("/bin/sh", "-c", "setsid sleep 4711 & echo $! ; exit 0", mutate=share_pids)
    box.create()
    pid, cgroup = box.pid, box.cgroup("pids")
    box.start()
    box.wait_exit(pid)
    assert box.status == "stopped"
    left = Path(cgroup, "cgroup.procs").read_text().split()
    assert len(left) == 1
    box.kill("KILL", "--all")
    assert box.wait_exit(int(left[0])) == -signal.SIGKILL
    box.delete()
    assert not os.path.exists(cgroup)
