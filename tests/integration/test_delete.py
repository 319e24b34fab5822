"""delete, and that nothing is left whatever happened before: the fixture ``runtime`` checks mounts, cgroups, processes, files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import (
    PREFIX, SYSTEMD, TIME_SCALE, Config, Container, Mutate, Runtime, cgroup_of,
    drop_namespace, freeze, hierarchies, wait_until,
)  # fmt: skip

Make = Callable[..., Container]


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], **more}


def with_hooks(**hooks: list[dict[str, Any]]) -> Mutate:
    return lambda config: config.update(hooks=hooks)


def running(container: Make, **more: Any) -> Container:
    box = container("/bin/sleep", "300", **more)
    box.create()
    box.start()
    return box


def test_a_running_container_is_not_deleted_without_force(container: Make) -> None:
    box = running(container)
    answer = box.delete(check=False)
    assert answer.status == 1
    assert answer.stderr == f'ocipy: cannot delete container "{box.id}" that is not stopped: running\n'
    assert box.status == "running"
    box.delete("--force")
    assert "does not exist" in box.runtime("state", box.id, check=False).stderr


def test_force_waits_for_the_end_on_a_pidfd_not_by_asking_again_and_again(container: Make, tmp_path: Path) -> None:
    box = running(container)
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-o", str(trace), "-e"]
    command += ["trace=poll,ppoll,nanosleep,clock_nanosleep,pidfd_send_signal,select,connect"]
    if subprocess.run(["strace", "-V"], capture_output=True, check=False).returncode:
        pytest.skip("needs strace")
    subprocess.run([*command, box.runtime.path, "--root", str(box.runtime.root), "delete", "-f", box.id], check=True)
    calls = trace.read_text().partition("connect(")[0]  # after it, systemd's answers are waited for
    assert "pidfd_send_signal" in calls
    assert len(re.findall(r"\bp?poll\(", calls)) == 1


def test_force_deletes_a_paused_container(container: Make) -> None:
    box = running(container)
    freeze(box)
    assert box.status == "paused"
    assert "paused" in box.delete(check=False).stderr
    box.delete("--force")


@pytest.mark.parametrize("force", [False, True], ids=["plain", "force"])
def test_a_created_container_may_be_deleted(container: Make, force: bool) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    box.delete(*["--force"] * force)
    assert box.wait_exit(pid) == -signal.SIGKILL


@pytest.mark.parametrize("force", [False, True], ids=["plain", "force"])
def test_a_stopped_container_is_deleted_before_its_parent_reaped_it(container: Make, force: bool) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    box.start()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    box.delete(*["--force"] * force)
    assert box.wait_exit(pid) == 0


def test_an_absent_container_is_an_error_but_not_with_force(runtime: Runtime) -> None:
    answer = runtime("delete", "nope", check=False)
    assert (answer.status, answer.stderr) == (1, 'ocipy: container "nope" does not exist\n')
    answer = runtime("delete", "--force", "nope")
    assert (answer.stdout, answer.stderr) == ("", "")


def test_an_id_can_be_used_again(container: Make, runtime: Runtime) -> None:
    first = running(container)
    again = runtime.container(first.bundle, first.id)
    answer = again.create(check=False)
    assert answer.status == 1
    first.delete("--force")
    again.create()
    assert again.status == "created"


def test_force_ends_what_is_left_in_a_shared_pid_namespace(container: Make) -> None:
    box = container("/bin/sh", "-c", "sleep 4711 & echo ready; wait", mutate=lambda config: drop_namespace(config, "pid"))
    box.create()
    box.start()
    box.wait_output("ready")
    box.delete("--force")


def test_poststop_hooks_run_in_order_after_the_cgroups_are_gone(container: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hooks = [hook(f"echo 1 >> {out}; exit 1"), hook(f"cat >> {out}; echo >> {out}; env >> {out}; pwd >> {out}", env=["A=b"])]
    box = running(container, mutate=with_hooks(poststop=hooks))
    cgroup = box.cgroup("memory")
    answer = box.delete("--force")
    assert answer.stderr == "ocipy: warning: poststop hook 0 /bin/sh (/hooks/poststop/0): exit status 1, no output\n"
    lines = out.read_text().splitlines()
    assert lines[0] == "1"
    state = json.loads(lines[1])
    assert (state["id"], state["status"], state["bundle"]) == (box.id, "stopped", str(box.bundle.path))
    assert "A=b" in lines
    assert lines[-1] == str(box.bundle.path)
    assert not cgroup.exists()


def test_poststop_hooks_of_the_config_at_creation_count(container: Make, tmp_path: Path) -> None:
    box = running(container, mutate=with_hooks(poststop=[hook(f"touch {tmp_path}/old")]))
    box.bundle.config["hooks"] = {"poststop": [hook(f"touch {tmp_path}/new")]}
    box.bundle.write()
    box.delete("--force")
    assert (tmp_path / "old").exists()
    assert not (tmp_path / "new").exists()


def create_in_background(box: Container) -> subprocess.Popen[bytes]:
    command = [box.runtime.path, "--root", str(box.runtime.root), "create", "--bundle", str(box.bundle.path), box.id]
    with open(box.output, "wb") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_create_that_hangs_in_a_hook_is_told_at_once_and_force_ends_it(container: Make, tmp_path: Path, kind: str) -> None:
    begun = tmp_path / "begun"
    box = container("/bin/true", mutate=with_hooks(**{kind: [hook(f"echo > {begun}; sleep 4711")]}))
    with create_in_background(box) as creating:
        wait_until(begun.exists, 10, "the hook to run")
        assert box.status == "creating"
        answer = box.delete(check=False)
        assert (answer.status, answer.stderr.count("\n")) == (1, 1)
        assert f"it is being created by pid {creating.pid}" in answer.stderr
        assert box.start(check=False).status == 1
        assert "not running" in box.kill("TERM", check=False).stderr
        box.delete("--force")
        assert creating.wait(10 * TIME_SCALE) == -signal.SIGKILL


def heavy(config: Config) -> None:
    config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 32}, "cpu": {"shares": 512}}
    config["hooks"] = {"createRuntime": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]}


@pytest.mark.parametrize("delay", [0.004, 0.008, 0.012, 0.015, 0.018, 0.021, 0.024, 0.027, 0.03, 0.04])
def test_a_create_killed_at_any_time_leaves_nothing_after_force(container: Make, delay: float) -> None:
    box = container("/bin/true", mutate=heavy)
    with create_in_background(box) as creating:
        time.sleep(delay)
        creating.kill()
        creating.wait()
    box.delete("--force")


def cut(text: bytes) -> bytes:
    return text[: len(text) // 3]


@pytest.mark.parametrize("started", [False, True], ids=["created", "running"])
@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"null\n", cut], ids=["empty", "null", "cut"])
def test_force_deletes_a_container_with_a_damaged_record(
    container: Make, runtime: Runtime, started: bool, damage: Callable[[bytes], bytes]
) -> None:
    box = container("/bin/sleep", "300", mutate=heavy)
    box.create()
    if started:
        box.start()
    path = runtime.root / box.id / "state"
    path.write_bytes(damage(path.read_bytes()))
    answer = box.delete(check=False)
    assert (answer.status, answer.stderr.count("\n")) == (1, 1)
    assert "use delete --force" in answer.stderr
    box.delete("--force")


@pytest.mark.skipif(SYSTEMD, reason="it is systemd that takes its cgroup away")
def test_an_init_whose_record_is_lost_altogether_is_found_while_it_waits(container: Make, runtime: Runtime) -> None:
    box = container("/bin/true", mutate=lambda config: config["linux"].pop("resources"))
    box.create()
    pid = box.pid
    for name in ("state", "state.copy"):
        (runtime.root / box.id / name).write_bytes(b"")
    cgroups = {path for name in hierarchies() if PREFIX in str(path := cgroup_of(pid, name))}
    assert cgroups
    box.delete("--force")
    for path in cgroups:
        os.rmdir(path)  # what no record names is not ours to remove: only the process is known by its lock


def test_two_deletes_at_once_both_end_well(container: Make) -> None:
    box = running(container)
    command = [box.runtime.path, "--root", str(box.runtime.root), "delete", "--force", box.id]
    deletes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    answers = [each.communicate() for each in deletes]
    assert [(each.returncode, *answer) for each, answer in zip(deletes, answers, strict=True)] == [(0, b"", b"")] * 4
