"""containerd's shim runs the runtime: create, start, exec, kill, delete, each with --root, --log and --bundle."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import Result, wait_until
from engines.engine import IMAGE, Engine, check_limits

_numbers = itertools.count(1)


def runtime(ctr: Engine) -> tuple[str, ...]:
    return "--runc-binary", ctr.runtime, "--runc-root", str(ctr.directory / "containers"), "--fifo-dir", str(ctr.directory / "fifo")


def execute(ctr: Engine, name: str, *words: str) -> Result:
    return ctr("task", "exec", "--exec-id", "one", "--fifo-dir", ctr.directory / "fifo", name, *words, check=False)


@pytest.fixture
def name() -> str:
    return f"box{next(_numbers)}"


@pytest.fixture
def sleeper(ctr: Engine, name: str) -> Iterator[str]:
    """The name of a detached container."""
    ctr("run", "--detach", *runtime(ctr), IMAGE, name, "sleep", "1000")
    yield name
    ctr("task", "delete", "--force", name, check=False)
    ctr("container", "delete", name)


def test_a_program_runs_in_the_foreground(ctr: Engine, name: str) -> None:
    assert ctr("run", "--rm", *runtime(ctr), IMAGE, name, "echo", "hello").stdout == "hello\n"


def test_the_exit_code_of_the_program_is_the_one_of_ctr(ctr: Engine, name: str) -> None:
    assert ctr("run", "--rm", *runtime(ctr), IMAGE, name, "sh", "-c", "exit 7", check=False).status == 7


def test_a_program_that_does_not_exist_is_named(ctr: Engine, name: str) -> None:
    result = ctr("run", "--rm", *runtime(ctr), IMAGE, name, "/nowhere", check=False)
    assert result.status != 0
    assert "/nowhere" in result.stderr
    assert "no such file or directory" in result.stderr


def test_standard_input_reaches_the_program(ctr: Engine, name: str) -> None:
    assert ctr("run", "--rm", *runtime(ctr), IMAGE, name, "head", "-n", "1", input="typed\n").stdout == "typed\n"


def test_a_terminal_is_one_in_the_container(ctr: Engine, name: str) -> None:
    status, shown = ctr.terminal("run", "--rm", "-t", *runtime(ctr), IMAGE, name, "sh", "-c", "tty; test -t 0 && exit 3")
    assert (status, shown.strip()) == (3, "/dev/pts/0")


def test_a_detached_task_runs_until_it_is_killed(ctr: Engine, sleeper: str) -> None:
    assert "RUNNING" in ctr("task", "list").stdout
    ctr("task", "kill", "--signal", "KILL", sleeper)
    wait_until(lambda: "STOPPED" in ctr("task", "list").stdout, 10, "the task to stop")


def test_exec_runs_in_the_container_and_gives_its_code(ctr: Engine, sleeper: str) -> None:
    result = execute(ctr, sleeper, "sh", "-c", "echo $PPID; exit 5")
    assert (result.stdout, result.status) == ("0\n", 5)


def test_exec_has_a_terminal(ctr: Engine, sleeper: str) -> None:
    status, shown = ctr.terminal("task", "exec", "-t", "--exec-id", "one", "--fifo-dir", str(ctr.directory / "fifo"), sleeper,
                                 "sh", "-c", "tty; sleep 0.3")  # fmt: skip
    assert (status, shown.strip()) == (0, "/dev/pts/0"), shown


def test_an_exec_of_nothing_says_so_and_the_container_lives(ctr: Engine, sleeper: str) -> None:
    result = execute(ctr, sleeper, "nothing")
    assert result.status != 0
    assert "executable file not found in $PATH" in result.stderr
    assert "RUNNING" in ctr("task", "list").stdout


def test_kill_all_ends_what_the_program_started(ctr: Engine, name: str) -> None:
    ctr("run", "--detach", *runtime(ctr), IMAGE, name, "sh", "-c", "sleep 1001 & sleep 1000")
    ctr("task", "kill", "--all", "--signal", "KILL", name)
    wait_until(lambda: "STOPPED" in ctr("task", "list").stdout, 10, "the task to stop")
    ctr("task", "delete", name, check=False)
    ctr("container", "delete", name)


def test_the_memory_limit_is_the_cgroups(ctr: Engine, name: str) -> None:
    ctr("run", "--detach", *runtime(ctr), "--memory-limit", "33554432", IMAGE, name, "sleep", "1000")
    pid = int(ctr("task", "list").stdout.splitlines()[1].split()[1])
    check_limits(pid, {"memory.limit_in_bytes": "33554432"})
    ctr("task", "delete", "--force", name, check=False)
    ctr("container", "delete", name)


def test_a_working_directory_and_a_read_only_root_are_taken(ctr: Engine, name: str) -> None:
    result = ctr("run", "--rm", *runtime(ctr), "--cwd", "/home/user", "--read-only", IMAGE, name,
                 "sh", "-c", "pwd; touch /x 2>&1 || true")  # fmt: skip
    assert result.stdout == "/home/user\ntouch: /x: Read-only file system\n"


def test_a_paused_task_is_resumed(ctr: Engine, sleeper: str) -> None:
    ctr("task", "pause", sleeper)
    assert "PAUSED" in ctr("task", "list").stdout
    ctr("task", "resume", sleeper)
    assert "RUNNING" in ctr("task", "list").stdout


def test_the_processes_of_a_task_are_listed(ctr: Engine, sleeper: str) -> None:
    pid = ctr("task", "list").stdout.splitlines()[1].split()[1]
    assert [line.split()[0] for line in ctr("task", "ps", sleeper).stdout.splitlines()[1:]] == [pid]


def test_a_user_namespace_with_maps(ctr: Engine, name: str) -> None:
    maps = "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"
    result = ctr("run", "--rm", *maps, *runtime(ctr), IMAGE, name, "sh", "-c", "id -u; cat /proc/self/uid_map; stat -c %u /")
    assert result.stdout.split() == ["0", "0", "100000", "65536", "0"]


def test_the_default_seccomp_filter_is_loaded(ctr: Engine, name: str) -> None:
    result = ctr("run", "--rm", "--seccomp", *runtime(ctr), IMAGE, name, "grep", "Seccomp:", "/proc/self/status")
    assert result.stdout.split() == ["Seccomp:", "2"]


def test_a_container_of_the_hosts_network(ctr: Engine, name: str) -> None:
    result = ctr("run", "--rm", "--net-host", *runtime(ctr), IMAGE, name, "readlink", "/proc/self/ns/net")
    assert result.stdout.strip() == os.readlink("/proc/self/ns/net")


def test_a_privileged_container(ctr: Engine, name: str) -> None:
    result = ctr("run", "--rm", "--privileged", *runtime(ctr), IMAGE, name, "sh", "-c", "mount -t tmpfs none /mnt && echo mounted")
    assert result.stdout == "mounted\n"


def test_a_task_of_a_killed_shim_is_cleaned_up(ctr: Engine, sleeper: str) -> None:
    """containerd then deletes by force, with none of the flags of create."""
    pid = int(ctr("task", "list").stdout.splitlines()[1].split()[1])
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}/root").exists(), 10, "the container to end")
