"""create, start, kill, delete as runtime.md has them, and the answers when they come at the wrong time or fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import ROOTLESS, TIME_SCALE, Config, Container, Runtime, wait_until

Make = Callable[..., Container]
pytestmark = pytest.mark.rootless


def hang_in_a_hook(config: Config) -> None:
    config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]}


def begin_create(box: Container) -> subprocess.Popen[bytes]:
    """A create that goes on while the test looks."""
    argv = [box.runtime.path, "--root", str(box.runtime.root), "create", "--bundle", str(box.bundle.path), box.id]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_the_program_does_not_run_before_start(container: Make) -> None:
    box = container("/bin/probe")
    box.create()
    time.sleep(0.05)
    assert box.output.read_text() == ""
    pid = box.pid
    box.start()
    box.wait_exit(pid)
    assert json.loads(box.output.read_text())["pid"] == 1


def test_an_edit_of_config_json_after_create_changes_nothing(container: Make) -> None:
    box = container("/bin/probe")
    box.create()
    box.bundle.config["process"]["args"] = ["/bin/false"]
    box.bundle.config["hostname"] = "edited"
    box.bundle.write()
    pid = box.pid
    box.start()
    assert box.wait_exit(pid) == 0
    assert json.loads(box.output.read_text())["hostname"] == "box"


def test_start_of_a_running_container_is_an_error_without_effect(container: Make) -> None:
    box = container("/bin/probe", "trap")
    box.run("--detach")
    box.wait_output("ready")
    answer = box.start(check=False)
    assert answer.status == 1
    assert "it is running, not created" in answer.stderr
    assert box.status == "running"


def test_start_of_a_stopped_container_is_an_error(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    box.start()
    box.wait_exit(pid)
    assert "it is stopped, not created" in box.start(check=False).stderr


@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete"])
def test_an_unknown_container_does_not_exist(runtime: Runtime, verb: str) -> None:
    answer = runtime(verb, "nobody", check=False)
    assert answer.status == 1
    assert answer.stderr == 'ocipy: container "nobody" does not exist\n'


def test_delete_force_of_an_unknown_container_succeeds_silently(runtime: Runtime) -> None:
    answer = runtime("delete", "--force", "nobody")
    assert answer.stdout + answer.stderr == ""


def test_an_id_can_be_used_once_and_again_after_delete(container: Make, runtime: Runtime) -> None:
    box = container("/bin/sleep", "100")
    box.create()
    again = box.create(check=False)
    assert again.status == 1
    assert "already exists" in again.stderr
    assert box.status == "created"
    box.delete("--force")
    box.create()


def test_delete_of_a_running_container_is_refused_and_has_no_effect(container: Make) -> None:
    box = container("/bin/probe", "trap")
    box.run("--detach")
    box.wait_output("ready")
    answer = box.delete(check=False)
    assert answer.status == 1
    assert "not stopped" in answer.stderr
    assert box.status == "running"


def test_kill_of_a_stopped_container_says_not_running(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    box.start()
    box.wait_exit(pid)
    answer = box.kill("TERM", check=False)
    assert answer.status == 1
    assert "container not running" in answer.stderr


@pytest.mark.parametrize("name", ["TERM", "SIGINT", "1", "KILL"])
def test_a_signal_to_a_created_container_ends_it(container: Make, name: str) -> None:
    box = container("/bin/sleep", "100")
    box.create()
    pid = box.pid
    box.kill(name)
    code = box.wait_exit(pid)
    number = {"TERM": 15, "SIGINT": 2, "1": 1, "KILL": 9}[name]
    assert code in (-number, 128 + number)
    assert box.status == "stopped"
    box.delete()


def test_a_failed_execve_is_reported_by_start_with_its_errno(container: Make) -> None:
    def no_program(config: Config) -> None:
        config["process"]["args"] = ["/bin/garbage"]

    box = container(mutate=no_program)
    garbage = box.bundle.rootfs / "bin/garbage"
    garbage.write_bytes(b"\x7fELF" + b"\0" * 100)
    garbage.chmod(0o755)
    box.create()
    answer = box.start(check=False)
    assert answer.status == 1
    assert answer.stderr == "ocipy: unable to start container process: exec /bin/garbage: exec format error\n"


def test_a_missing_interpreter_is_reported_by_start(container: Make) -> None:
    box = container("/bin/script")
    script = box.bundle.rootfs / "bin/script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    box.create()
    answer = box.start(check=False)
    assert answer.status == 1
    assert "no such file or directory" in answer.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nosuch"], 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (["/etc"], 'exec: "/etc": is a directory: permission denied'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        (["/etc/passwd/x"], 'exec: "/etc/passwd/x": not a directory'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_program_that_is_not_there_is_an_error_of_create(container: Make, args: list[str], words: str) -> None:
    box = container(*args)
    answer = box.create(check=False)
    assert answer.status == 1
    assert box.errors.read_text() == f"ocipy: unable to start container process: {words}\n"
    assert not list(box.runtime.root.iterdir())


def test_start_and_delete_beside_a_create_that_hangs_give_an_answer(container: Make) -> None:
    box = container("/bin/true", mutate=hang_in_a_hook)
    creating = begin_create(box)
    try:
        wait_until(lambda: box.runtime("state", box.id, check=False).stdout.find('"creating"') > 0, 10, "creating")
        start = box.start(check=False, timeout=5)
        assert start.status == 1
        assert "in use by another command" in start.stderr
        delete = box.delete(check=False, timeout=5)
        assert delete.status == 1
        assert "is being created" in delete.stderr
        assert creating.poll() is None
        box.delete("--force", timeout=5)
        assert creating.wait(5 * TIME_SCALE) == -signal.SIGKILL
    finally:
        creating.kill()
        creating.wait()
    assert "does not exist" in box.runtime("state", box.id, check=False).stderr


def test_init_does_not_outlive_a_killed_create(container: Make) -> None:
    box = container("/bin/sleep", "1000", mutate=hang_in_a_hook)
    creating = begin_create(box)
    record = box.runtime.root / box.id / "state"
    wait_until(lambda: record.exists() and b"\npid 0" not in b"\n" + record.read_bytes(), 10, "a pid in the record")
    pid = int(record.read_text().split("\npid ")[1].split()[0])
    creating.kill()
    creating.wait()
    box.wait_exit(pid)
    assert box.status == "stopped"
    box.delete("--force")


def test_sixteen_creates_of_one_id_have_one_winner(container: Make) -> None:
    box = container("/bin/sleep", "100")
    creating = [begin_create(box) for _ in range(16)]
    assert sorted(each.wait(30 * TIME_SCALE) for each in creating) == [0] + [1] * 15
    assert box.status == "created"


def test_two_starts_at_once_have_one_winner(container: Make) -> None:
    box = container("/bin/probe", "trap")
    box.create()
    argv = [box.runtime.path, "--root", str(box.runtime.root), "start", box.id]
    starts = [subprocess.Popen(argv, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert sorted(each.wait(10 * TIME_SCALE) for each in starts) == [0, 1, 1, 1]
    box.wait_output("ready")


def test_a_start_that_dies_before_go_leaves_the_container_created(container: Make) -> None:
    import socket

    box = container("/bin/probe", "trap")
    box.create()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        os.chdir(box.runtime.root / box.id)  # the path may be longer than a socket's name can be
        try:
            connection.connect("start")
        finally:
            os.chdir("/")
    assert box.status == "created"
    box.start()
    box.wait_output("ready")


def test_delete_force_waits_on_a_pidfd(container: Make, tmp_path: Path) -> None:
    box = container("/bin/sleep", "1000")
    box.run("--detach")
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-o", str(trace), box.runtime.path, "--root", str(box.runtime.root), "delete", "--force", box.id]
    subprocess.run(argv, check=True)
    text = trace.read_text()
    killed = text.index("pidfd_send_signal(")
    assert "poll(" in text[killed:]
    assert "nanosleep(" not in text[killed:].split("rmdir(")[0]


def test_the_pid_file_holds_digits_and_nothing_else(container: Make, tmp_path: Path) -> None:
    box = container("/bin/sleep", "100")
    box.create("--pid-file", tmp_path / "pid")
    assert (tmp_path / "pid").read_bytes() == str(box.pid).encode()


def test_success_prints_nothing(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    said = [box.start(), box.runtime("state", box.id)]
    box.wait_exit(pid)
    said.append(box.delete())
    assert box.errors.read_text() == ""
    assert [answer.stderr for answer in said] == ["", "", ""]
    assert said[0].stdout + said[2].stdout == ""


def test_errors_go_to_the_log_as_one_line_of_json(container: Make, tmp_path: Path) -> None:
    box = container("/nosuch")
    log = tmp_path / "log.json"
    answer = box.runtime(
        "--log", log, "--log-format", "json", "create", "--bundle", box.bundle.path, box.id, check=False
    )
    assert answer.status == 1
    lines = log.read_text().splitlines()
    assert len(lines) == 1
    entry: dict[str, Any] = json.loads(lines[0])
    assert entry["level"] == "error"
    assert "no such file or directory" in entry["msg"]
    time.strptime(entry["time"][:19], "%Y-%m-%dT%H:%M:%S")


def test_a_long_state_path_does_not_matter(container: Make, tmp_path: Path) -> None:
    box = container("/bin/probe")
    deep = tmp_path / ("x" * 120)
    box.runtime.root = deep / "state"
    box.create()
    pid = box.pid
    box.start()
    assert box.wait_exit(pid) == 0


def test_run_deletes_and_gives_the_exit_code(container: Make) -> None:
    box = container("/bin/sh", "-c", "exit 7")
    assert box.run(check=False).status == 7
    assert not list(box.runtime.root.iterdir())


def test_run_keep_leaves_the_stopped_container(container: Make) -> None:
    box = container("/bin/sh", "-c", "exit 3")
    assert box.run("--keep", check=False).status == 3
    assert box.status == "stopped"


@pytest.mark.skipif(ROOTLESS, reason="proc of pids that the host shares can be mounted by root only")
def test_run_gives_128_and_the_signal(container: Make) -> None:
    box = container("/bin/sh", "-c", "sleep 0.1; kill -KILL -1; sleep 5", mutate=lambda c: c["linux"]["namespaces"].pop(0))
    box.bundle.config["process"]["args"] = ["/bin/sh", "-c", "kill -KILL $$"]
    box.bundle.write()
    assert box.run(check=False).status == 128 + 9


def test_an_interrupted_create_leaves_nothing(container: Make, tmp_path: Path) -> None:
    def slow(config: Config) -> None:
        script = f"touch {tmp_path}/there; exec sleep 100"
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]}

    box = container("/bin/true", mutate=slow)
    argv = [box.runtime.path, "--root", str(box.runtime.root), "create", "--bundle", str(box.bundle.path), box.id]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as create:
        wait_until((tmp_path / "there").exists, 10, "the hook")
        create.send_signal(signal.SIGINT)
        assert create.wait(10 * TIME_SCALE) == 1
    assert not (box.runtime.root / box.id).exists()
