"""NOTIFY_SOCKET (sd_notify(3)): what a container says of itself reaches the service manager, and only that."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundles import TIME_SCALE, Container, wait_until

Make = Callable[..., Container]


class Manager:
    """The socket of a service manager, and the environment that names it."""

    def __init__(self, address: str | bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(10 * TIME_SCALE)
        name = address if isinstance(address, str) else "@" + address[1:].decode()
        self.env = {"NOTIFY_SOCKET": name, "PATH": os.environ["PATH"]}

    def hears(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")

    def is_silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            return self.socket.recv(65536) == b""
        except BlockingIOError:
            return True


@pytest.fixture
def manager() -> Iterator[Manager]:
    address = b"\0ocipy-test-notify-%d" % os.getpid()
    made = Manager(address)
    yield made
    made.socket.close()


def test_start_waits_until_the_container_is_ready_and_names_its_first_process(container: Make, manager: Manager) -> None:
    box = container("/bin/probe", "notify", "STATUS=so far", "READY=1\nSTATUS=there", "sleep")
    box.create(env=manager.env)
    pid = box.pid
    box.start(env=manager.env)
    assert manager.hears() == ["STATUS=so far"]
    assert manager.hears() == ["READY=1", "STATUS=there", f"MAINPID={pid}"]


def test_start_waits_no_longer_than_the_container_lives(container: Make, manager: Manager) -> None:
    box = container("/bin/probe", "notify", "STATUS=not ready")
    box.create(env=manager.env)
    box.start(env=manager.env)
    assert manager.hears() == ["STATUS=not ready"]
    assert manager.is_silent()


def test_other_commands_work_while_start_waits(container: Make, manager: Manager) -> None:
    box = container("/bin/probe", "notify", "STATUS=busy", "sleep")
    box.create(env=manager.env)
    argv = [box.runtime.path, "--root", str(box.runtime.root), "start", box.id]
    with subprocess.Popen(argv, env=manager.env, stdin=subprocess.DEVNULL) as starting:
        assert manager.hears() == ["STATUS=busy"]
        assert box.status == "running"
        assert starting.poll() is None
        box.kill()
        assert starting.wait(10 * TIME_SCALE) == 0


def test_detached_run_waits_too(container: Make, manager: Manager) -> None:
    box = container("/bin/probe", "notify", "READY=1", "sleep")
    box.run("--detach", env=manager.env)
    assert manager.hears() == ["READY=1", f"MAINPID={box.pid}"]


def test_foreground_run_passes_on_what_comes_until_the_end(container: Make, manager: Manager) -> None:
    box = container("/bin/probe", "notify", "READY=1", "WATCHDOG=1", "STOPPING=1")
    box.run(env=manager.env)
    # The service's process is the runtime's: no MAINPID.
    assert [manager.hears() for _ in range(3)] == [["READY=1"], ["WATCHDOG=1"], ["STOPPING=1"]]


@pytest.mark.parametrize("line", ["MAINPID=1", "FDSTORE=1", "NOTIFYACCESS=all", "BARRIER=1", "READY", "X_OWN=1", "=", ""])
def test_what_is_not_for_a_container_to_say_is_not_passed_on(container: Make, manager: Manager, line: str) -> None:
    box = container("/bin/probe", "notify", f"{line}\nSTATUS=a", "STATUS=b")
    box.run(env=manager.env)
    heard = ["STATUS=a"] if line != "READY" else ["READY", "STATUS=a"]
    assert manager.hears() == heard
    assert manager.hears() == ["STATUS=b"]


def test_the_socket_may_be_a_path_and_the_user_anybody(container: Make, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    manager = Manager("notify")
    os.chdir("/")
    manager.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    user = {"uid": 1000, "gid": 1000}
    box = container("/bin/probe", "notify", "READY=1", mutate=lambda config: config["process"].update(user=user, capabilities={}))
    with manager.socket:
        box.run(env=manager.env)
        assert manager.hears() == ["READY=1"]


def test_nobody_is_waited_for_without_a_socket_at_start(container: Make, manager: Manager) -> None:
    box = container("/bin/probe", "notify", "READY=1", "sleep")
    box.create(env=manager.env)
    box.start()
    wait_until(lambda: box.status in ("running", "stopped"), 10, "the program to run")
    assert manager.is_silent()


def test_a_manager_that_is_gone_is_a_warning(container: Make, manager: Manager) -> None:
    box = container("/bin/probe", "notify", "READY=1")
    manager.socket.close()
    result = box.run(env=manager.env)
    assert result.stderr == "ocipy: warning: NOTIFY_SOCKET: connection refused\n"


def test_a_container_without_notify_socket_has_none(container: Make) -> None:
    seen = container().run().json
    assert not any("NOTIFY_SOCKET" in entry or "/run/notify" in entry for entry in seen["environ"] + seen["mountinfo"])
