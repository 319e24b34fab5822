"""exec: another process in a container, with its namespaces, cgroups, credentials, and an exit code that tells."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import ROOTLESS, Config, Container, drop_namespace, hierarchies, set_namespace, wait_until

Make = Callable[..., Container]
V2 = set(hierarchies()) == {""}
pytestmark = pytest.mark.rootless
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def running(container: Make, mutate: Callable[[Config], object] | None = None) -> Container:
    box = container("/bin/probe", "trap", mutate=mutate)
    box.run("--detach")
    box.wait_output("ready")
    return box


def look(box: Container, *flags: str) -> dict[str, Any]:
    report: dict[str, Any] = box.exec("/bin/probe", flags=flags).json
    return report


def map_ids(config: Config) -> None:
    set_namespace(config, "user")
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)


def all_namespaces(config: Config) -> None:
    for kind in ("cgroup", "time"):
        set_namespace(config, kind)


@pytest.mark.parametrize("mutate", [None, map_ids, all_namespaces], ids=["default", "user namespace", "all namespaces"])
def test_exec_is_in_all_namespaces_and_cgroups_of_the_container(container: Make, mutate: Any) -> None:
    if ROOTLESS and mutate is map_ids:
        pytest.skip("a user cannot give the root filesystem away")
    box = container("/bin/probe", "trap", mutate=mutate)
    if mutate is map_ids:
        os.system(f"chown -R 100000:100000 {box.bundle.rootfs}")
    box.run("--detach")
    box.wait_output("ready")
    seen = look(box)
    for kind, link in seen["namespaces"].items():
        if kind.endswith("_for_children"):
            continue
        assert link == os.readlink(f"/proc/{box.pid}/ns/{kind}"), kind
    assert seen["pid"] != 1
    assert seen["uid"] == 0
    assert seen["hostname"] == "box"
    assert seen["mountinfo"] is not None


def test_exec_enters_every_cgroup_of_the_container(container: Make, tmp_path: Path) -> None:
    box = running(container)
    box.exec("/bin/sleep", "1000", flags=["--detach", "--pid-file", tmp_path / "pid"])
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{box.pid}/cgroup").read_text()
    box.kill("KILL")
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or box.wait_exit(pid) is not None, 5, "the process to end")


def test_the_exit_code_and_signals_come_back(container: Make) -> None:
    box = running(container)
    assert box.exec("/bin/probe", "exit", "7", check=False).status == 7
    assert box.exec("/bin/sh", "-c", "kill -KILL $$", check=False).status == 128 + 9


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nosuch"], "executable file not found in $PATH"),
        (["/nosuch"], "no such file or directory"),
        (["/etc"], "is a directory: permission denied"),
        (["/etc/passwd"], "permission denied"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_what_cannot_be_executed_gives_255_and_words(container: Make, argv: list[str], words: str) -> None:
    answer = running(container).exec(*argv, check=False)
    assert answer.status == 255
    assert words in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_flags_change_the_process(container: Make) -> None:
    box = running(container)
    flags = ["--cwd", "/etc", "--env", "A=1", "-e", "B=2", "--user", "1000:2000", "--additional-gids", "5", "-g", "6"]
    seen = look(box, *flags)
    assert seen["cwd"] == "/etc"
    assert {"A=1", "B=2", "TERM=xterm"} <= set(seen["environ"])
    assert (seen["uids"], seen["gids"], seen["groups"]) == ([1000] * 3, [2000] * 3, [5, 6])


def test_an_added_variable_replaces_the_containers(container: Make) -> None:
    """Most programs take the first of a name that they find: it must be there once."""

    def change(config: Config) -> None:
        config["process"]["env"] += ["A=1", "B=1", "A=2", "HOME="]

    box = running(container, mutate=change)
    seen = look(box, "--env", "A=3", "-e", "TERM=dumb", "-e", "TERM=xterm=1", "-e", "EMPTY=")
    assert sorted(seen["environ"]) == ["A=3", "B=1", "EMPTY=", "HOME=/root", "PATH=" + PATH, "TERM=xterm=1"]


@pytest.mark.parametrize("user", ["4294967296", "-1", "", "1:", "a", "1:b", "0x1", " 1"])
def test_a_user_that_is_not_two_decimal_ids_is_refused(container: Make, user: str) -> None:
    """CVE-2016-3697, CVE-2026-30892: never looked up in passwd, never wrapped to 0."""
    box = container("/bin/probe", "trap")
    (box.bundle.rootfs / "etc/passwd").write_text("1000:x:0:0::/:/bin/sh\na:x:0:0::/:/bin/sh\n")
    box.run("--detach")
    box.wait_output("ready")
    answer = box.exec("/bin/probe", flags=[f"--user={user}"], check=False)
    if user == "":
        assert answer.status in (0, 1, 255)
        return
    assert answer.status != 0
    assert answer.stdout == ""


def test_a_numeric_user_is_not_looked_up_as_a_name(container: Make) -> None:
    box = container("/bin/probe", "trap")
    (box.bundle.rootfs / "etc/passwd").write_text("1000:x:0:0::/:/bin/sh\n")
    box.run("--detach")
    box.wait_output("ready")
    assert look(box, "--user", "1000")["uid"] == 1000


def test_added_capabilities_are_neither_inheritable_nor_ambient(container: Make) -> None:
    """CVE-2022-29162."""
    box = running(container)
    sets = look(box, "--cap", "CAP_NET_RAW")["capabilities"]
    assert "CAP_NET_RAW" in sets["effective"]
    assert sets["inheritable"] == sets["ambient"] == []
    sets = look(box, "--cap", "CAP_NET_RAW", "--user", "1000")["capabilities"]
    assert sets["effective"] == sets["inheritable"] == sets["ambient"] == []


def test_process_from_a_file(container: Make, tmp_path: Path) -> None:
    box = running(container)
    process = {"args": ["/bin/probe", "x"], "cwd": "/bin", "user": {"uid": 5, "gid": 6}, "env": ["ONLY=1"]}
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process))
    seen = box.runtime("exec", "--process", file, box.id).json
    assert (seen["argv"], seen["cwd"], seen["uid"]) == (["/bin/probe", "x"], "/bin", 5)
    assert set(seen["environ"]) == {"ONLY=1", "HOME=/"}
    assert seen["capabilities"]["bounding"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"args": []}', '{"args": ["x"], "cwd": 5}', '{"args": ["x"], "cwd": "rel"}'])
def test_a_bad_process_file_gives_one_line(container: Make, tmp_path: Path, text: str) -> None:
    box = running(container)
    file = tmp_path / "process.json"
    file.write_text(text)
    answer = box.runtime("exec", "--process", file, box.id, check=False)
    assert answer.status in (1, 255)
    assert answer.stderr.startswith("ocipy: ") and answer.stderr.count("\n") == 1


def test_stopped_containers_and_unknown_ones_are_refused(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    box.start()
    box.wait_exit(pid)
    assert "container not running" in box.exec("/bin/true", check=False).stderr


@pytest.mark.skipif(ROOTLESS, reason="a user may not see the namespaces of a process that is not the program yet")
def test_exec_into_a_created_container(container: Make) -> None:
    box = container("/bin/sleep", "100")
    box.create()
    assert look(box)["hostname"] == "box"


def test_exec_sees_nothing_of_the_caller(container: Make) -> None:
    box = running(container)
    leaks = [os.open("/", os.O_RDONLY) for _ in range(10)]
    try:
        seen = box.exec("/bin/probe", pass_fds=leaks, env={"SECRET": "1", "LD_PRELOAD": "", "PATH": "/bin"}).json
    finally:
        for fd in leaks:
            os.close(fd)
    assert sorted(seen["fds"]) == ["0", "1", "2"]
    assert not [entry for entry in seen["environ"] if entry.startswith("SECRET")]
    assert seen["signals"]["ignored"] == seen["signals"]["blocked"] == []


@pytest.mark.skipif(ROOTLESS, reason="proc of pids that the host shares can be mounted by root only")
def test_exec_in_a_container_without_a_pid_namespace(container: Make) -> None:
    box = running(container, lambda config: drop_namespace(config, "pid"))
    seen = look(box)
    assert seen["hostname"] == "box"
    box.kill("KILL")


def test_the_container_cannot_see_the_process_before_its_program(container: Make) -> None:
    """CVE-2016-9962, CVE-2019-5736: no file of the host through /proc of a process that is joining."""
    box = running(container, lambda config: config["process"]["capabilities"]["bounding"].append("CAP_SYS_PTRACE"))
    watch = "while :; do for p in /proc/[0-9]*; do readlink $p/exe; done; done 2>/dev/null"
    watcher_output = box.bundle.path / "watch"
    argv = [box.runtime.path, "--root", str(box.runtime.root), "exec", "--cap", "CAP_SYS_PTRACE", box.id, "/bin/sh", "-c", watch]
    with watcher_output.open("wb") as out:
        watcher = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out)
        for _ in range(20):
            box.exec("/bin/true")
        box.kill("KILL")
        watcher.wait()
    seen = set(watcher_output.read_text().split("\n")) - {""}
    assert "/bin/busybox" in seen
    assert seen <= {"/bin/busybox", "/bin/probe", "/memfd:ocipy-init (deleted)"}, seen


def test_cgroup_names_a_cgroup_below_the_containers(container: Make, tmp_path: Path) -> None:
    box = running(container)
    below = box.cgroup("memory") / "below"
    below.mkdir()
    try:
        flag = "/below" if V2 else "memory:/below"
        box.exec("/bin/sleep", "1000", flags=["--cgroup", flag, "--detach", "--pid-file", tmp_path / "pid"])
        pid = int((tmp_path / "pid").read_text())
        assert str(pid) in (below / "cgroup.procs").read_text().split()
        assert V2 or str(pid) in (box.cgroup("pids") / "cgroup.procs").read_text().split()
        assert box.exec("/bin/true", flags=["--cgroup", "memory:/nowhere"], check=False).status == 255
        assert box.exec("/bin/true", flags=["--cgroup", "../x"], check=False).status != 0
    finally:
        box.kill("KILL")
        box.wait_exit(pid)
        box.delete("--force")
