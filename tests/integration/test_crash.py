"""A runtime that is killed at some system call leaves nothing that delete --force does not remove."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from bundles import TIME_SCALE, Container

from conftest import cgroups, reap

Make = Callable[..., Container]
STRIDE = {"create": 23, "start": 1, "kill": 1, "delete": 1}  # strace counts each system call by its name


def kill_at(box: Container, number: int, *arguments: str) -> int:
    """Runs a command that gets SIGKILL at its Nth system call; its status, 0 when it ended before."""
    argv = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject=all:signal=KILL:when={number}", box.runtime.path]
    argv += ["--root", str(box.runtime.root), *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=quiet, timeout=30 * TIME_SCALE, check=False).returncode


@pytest.mark.parametrize("verb", ["create", "start", "kill", "delete"])
def test_delete_force_removes_what_a_killed_command_left(container: Make, verb: str) -> None:
    box = container("/bin/sleep", "1000")
    arguments = {"create": ["create", "--bundle", str(box.bundle.path), box.id], "kill": ["kill", box.id, "KILL"]}
    number, status = 1, 1
    while status:
        if verb != "create":
            box.create()
        if verb == "delete":
            box.kill("KILL")
        status = kill_at(box, number, *arguments.get(verb, [verb, box.id]))
        answer = box.runtime("state", box.id, check=False)
        if verb == "start" and answer.status == 0 and status:
            assert '"created"' in answer.stdout or '"running"' in answer.stdout, f"killed at call {number}: {answer}"
        deleted = box.delete("--force")
        assert deleted.stderr == "", f"killed at call {number}: {deleted}"
        reap()
        assert not cgroups(), f"killed at call {number}"
        assert not list(box.runtime.root.glob("*")), f"killed at call {number}"
        number += STRIDE[verb]
    assert number > 8
