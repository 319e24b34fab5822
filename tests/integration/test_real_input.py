"""Root filesystems and configs as others make them: umoci, docker export, packages of Debian."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import Config, ConsoleSocket, Container, Runtime, read_terminal, umoci_bundle

MakeContainer = Callable[..., Container]


def writable(config: Config) -> None:
    config["root"]["readonly"] = False


# ---- an image of umoci -----------------------------------------------------------------------------------------------------------


def test_bundle_of_umoci_runs_as_it_is_with_its_terminal_on_a_console_socket(tmp_path: Path, runtime: Runtime, image: Path) -> None:
    box = runtime.container(umoci_bundle(tmp_path / "bundle"))
    with ConsoleSocket() as console:
        box.create("--console-socket", console.path)
        terminal = console.receive()
    pid = box.pid
    box.start()
    seen = json.loads(read_terminal(terminal))
    assert box.wait_exit(pid) == 0
    assert seen["argv"] == ["/bin/probe", "from-the-image"]
    assert (seen["uid"], seen["gid"], seen["groups"], seen["cwd"]) == (1000, 1000, [29], "/home/user")
    assert "GREETING=hello" in seen["environ"]
    assert seen["controlling_terminal"] is True
    assert seen["fds"]["0"]["uid"] == 1000
    assert seen["capabilities"]["ambient"] == ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"]
    box.delete()


def test_umoci_bundle_without_cgroups_path_gets_a_cgroup_and_gives_it_back(tmp_path: Path, runtime: Runtime, image: Path) -> None:
    def change(config: Config) -> None:
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/sleep", "100"]

    box = runtime.container(umoci_bundle(tmp_path / "bundle", change))
    box.run("--detach")
    directory = box.cgroup("pids")
    assert box.id in str(directory)
    box.delete("--force")
    assert not directory.exists()


def test_file_that_a_second_layer_removed_is_gone(tmp_path: Path, runtime: Runtime, image: Path) -> None:
    def change(config: Config) -> None:
        config["process"] |= {"terminal": False, "args": ["/bin/ls", "/etc"]}

    listed = runtime.container(umoci_bundle(tmp_path / "bundle", change)).run().stdout.split()
    assert "passwd" in listed
    assert "gone" not in listed


# ---- a root filesystem as docker export gives it ---------------------------------------------------------------------------------


def test_container_sees_hard_links_extended_attributes_and_modes_of_an_export(container: MakeContainer, image: Path) -> None:
    box = container("/bin/sleep", "100", rootfs=image / "export")
    box.run("--detach")
    assert box.exec("stat", "-c", "%h %i", "/etc/linked").stdout == box.exec("stat", "-c", "%h %i", "/etc/linked-too").stdout
    assert box.exec("stat", "-c", "%a", "/bin/setuid-probe").stdout == "4755\n"
    assert os.getxattr(f"/proc/{box.pid}/root/etc/linked", "user.note") == b"kept"


@pytest.mark.parametrize(("no_new_privileges", "uid"), [(False, 0), (True, 1000)], ids=["gains", "gains nothing"])
def test_setuid_program_of_an_export(container: MakeContainer, image: Path, no_new_privileges: bool, uid: int) -> None:
    def change(config: Config) -> None:
        config["process"] |= {"user": {"uid": 1000, "gid": 1000}, "noNewPrivileges": no_new_privileges}

    seen = container("/bin/setuid-probe", rootfs=image / "export", mutate=change).run().json
    assert seen["uids"] == [1000, uid, uid]


def test_file_capability_of_an_export_is_effective_without_no_new_privs(container: MakeContainer, image: Path) -> None:
    def change(config: Config) -> None:
        config["process"] |= {"user": {"uid": 1000, "gid": 1000}, "noNewPrivileges": False}

    seen = container("/bin/capable-probe", rootfs=image / "export", mutate=change).run().json
    assert seen["capabilities"]["effective"] == ["CAP_NET_BIND_SERVICE"]


def test_empty_dev_console_and_links_of_an_export_do_not_disturb(container: MakeContainer, image: Path) -> None:
    def change(config: Config) -> None:
        config["process"]["terminal"] = True

    box = container("/bin/probe", rootfs=image / "export", mutate=change)
    with ConsoleSocket() as console:
        box.create("--console-socket", console.path)
        terminal = console.receive()
    box.start()
    seen = json.loads(read_terminal(terminal))
    assert seen["dev"]["/dev/console"]["major"] == 136
    box.delete("--force")


# ---- Debian ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_debian(container: MakeContainer, debian: Path) -> Callable[..., str]:
    def run(*argv: str, mutate: Callable[[Config], object] = writable) -> str:
        return container(*argv, rootfs=debian, mutate=mutate).run(timeout=60).stdout

    return run


def test_shell_of_debian_with_shared_libraries(in_debian: Callable[..., str]) -> None:
    assert "debian" in in_debian("/bin/bash", "-c", ". /etc/os-release; echo $ID $ID_LIKE; ls /etc | sort | wc -l")


def test_programs_of_apt_run(in_debian: Callable[..., str]) -> None:
    def change(config: Config) -> None:
        writable(config)
        config["process"]["capabilities"] = {}

    said = in_debian("/bin/sh", "-ec", "apt-get --version; dpkg --audit; dpkg-query -W apt; apt-config dump", mutate=change)
    assert "Apt" in said or "apt" in said
    assert "\napt\t" in said


def test_threads_of_a_python_run_in_debian_and_are_counted_by_the_pids_limit(in_debian: Callable[..., str]) -> None:
    program = """
import threading
stop, started = threading.Event(), 0
try:
    for _ in range(50):
        threading.Thread(target=stop.wait).start()
        started += 1
except RuntimeError:
    pass
stop.set()
print(started)
"""

    def change(config: Config) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 20}

    assert in_debian("/usr/bin/python3", "-c", program, mutate=writable) == "50\n"
    assert in_debian("/usr/bin/python3", "-c", program, mutate=change) == "19\n"
