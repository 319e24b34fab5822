"""The flags of exec that callers rarely give, each seen from inside or at the other end."""

from __future__ import annotations

import array
import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import TIME_SCALE, Config, Container, wait_until

Make = Callable[..., Container]


def privileged(config: Config) -> None:
    config["process"]["noNewPrivileges"] = False


@pytest.fixture
def box(container: Make) -> Container:
    made = container("/bin/sleep", "1000", mutate=privileged)
    made.run("--detach")
    return made


def look(box: Container, *flags: str, **how: Any) -> dict[str, Any]:
    report: dict[str, Any] = box.exec("/bin/probe", flags=flags, **how).json
    return report


def members(box: Container) -> list[str]:
    return (box.cgroup("freezer") / "cgroup.procs").read_text().split()


def test_no_new_privs_is_set_when_asked_for(box: Container) -> None:
    assert look(box)["no_new_privs"] == 0
    assert look(box, "--no-new-privs")["no_new_privs"] == 1


def test_descriptors_are_preserved_as_many_as_asked_for(box: Container) -> None:
    argv = [box.runtime.path, "--root", str(box.runtime.root), "exec", "--preserve-fds", "1", box.id, "/bin/probe"]
    wrapper = ["bash", "-c", 'exec 3</etc/passwd 4</etc/group; exec "$@"', "bash"]
    with box.output.open("wb") as out:
        subprocess.run([*wrapper, *argv], stdin=subprocess.DEVNULL, stdout=out, check=True)
    seen = json.loads(box.output.read_text())
    assert sorted(seen["fds"]) == ["0", "1", "2", "3"]
    assert seen["fds"]["3"]["target"] == "/etc/passwd"


def test_the_pidfd_socket_gets_a_pidfd_of_the_process(box: Container, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path)
        listener.bind("pidfd")
        os.chdir("/")
        listener.listen()
        listener.settimeout(10 * TIME_SCALE)
        flags: list[str | Path] = ["--detach", "--pidfd-socket", tmp_path / "pidfd", "--pid-file", tmp_path / "pid"]
        box.exec("/bin/sleep", "1000", flags=flags)
        connection, _ = listener.accept()
    with connection:
        name, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    assert name
    fds = array.array("i", control[0][2][:4])
    info = Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
    os.close(fds[0])
    pid = int((tmp_path / "pid").read_text())
    assert f"Pid:\t{pid}\n" in info
    box.kill()
    box.wait_exit(pid)


def test_a_paused_container_is_entered_only_when_asked_for(box: Container) -> None:
    box.runtime("pause", box.id)
    refused = box.exec("/bin/true", check=False)
    assert (refused.status, "paused" in refused.stderr) == (255, True)
    argv = [box.runtime.path, "--root", str(box.runtime.root), "exec", "--ignore-paused", box.id, "/bin/probe", "exit", "4"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as waits:
        wait_until(lambda: len(members(box)) == 2, 10, "the process to be in the container's frozen cgroup")
        assert waits.poll() is None
        box.runtime("resume", box.id)
        assert waits.wait(10 * TIME_SCALE) == 4


@pytest.mark.parametrize(
    ("flag", "lsm"), [("--apparmor=nosuch", "apparmor"), ("--process-label=a:b:c:s0", "selinux")], ids=["apparmor", "selinux"]
)
def test_a_label_that_cannot_be_had_is_an_error(box: Container, flag: str, lsm: str) -> None:
    active = Path("/sys/kernel/security/lsm")
    if lsm == "selinux" and active.exists() and lsm in active.read_text():
        pytest.skip("SELinux is enabled here: this label may be one that it knows")
    answer = box.exec("/bin/true", flags=[flag], check=False)
    assert answer.status == 255
    assert "is the LSM enabled, and the profile loaded?" in answer.stderr


def test_a_terminal_is_made_although_the_caller_has_none(box: Container) -> None:
    answer = box.exec("/bin/sh", "-c", "test -t 0 && test -t 1 && tty; exit 6", flags=["--tty"], check=False)
    assert (answer.status, answer.stdout) == (6, "/dev/pts/0\r\n")


def test_so_does_a_process_file_with_a_terminal(box: Container, tmp_path: Path) -> None:
    process = {"args": ["/bin/stty", "size"], "cwd": "/", "terminal": True, "consoleSize": {"height": 31, "width": 97}}
    (tmp_path / "process.json").write_text(json.dumps(process))
    answer = box.runtime("exec", "--process", tmp_path / "process.json", "--pid-file", tmp_path / "pid", box.id)
    assert answer.stdout == "31 97\r\n"
    assert (tmp_path / "pid").read_text().isdecimal()


def test_the_terminal_is_the_users(box: Container) -> None:
    answer = box.exec("/bin/sh", "-c", "stat -c %u $(tty)", flags=["--tty", "--user", "1000:1000"])
    assert answer.stdout == "1000\r\n"


def test_standard_input_and_output_are_the_callers_without_a_terminal(box: Container, tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.write_text("typed\n")
    with source.open() as stdin:
        assert box.exec("cat", stdin=stdin).stdout == "typed\n"
    assert stat.S_IMODE(source.stat().st_mode) == 0o644
