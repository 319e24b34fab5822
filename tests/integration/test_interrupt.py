"""Ctrl-C: a command that waits ends and leaves nothing, wherever it waits; one whose caller ignores it goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import TIME_SCALE, Config, Container, wait_until

from conftest import cgroups

Make = Callable[..., Container]


def begin(box: Container, *arguments: str | Path, **how: Any) -> subprocess.Popen[bytes]:
    argv = [box.runtime.path, "--root", str(box.runtime.root), *map(str, arguments)]
    how.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(argv, text=False, **how)


def interrupt(process: subprocess.Popen[bytes]) -> int:
    """The exit status."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(5 * TIME_SCALE)
    finally:
        process.kill()
        process.wait()


def sleeps(process: subprocess.Popen[bytes], in_call: str) -> bool:
    """Is it in this system call? By its number, of x86-64 or aarch64."""
    numbers = {"read": ("0", "63"), "poll": ("7", "73"), "connect": ("42", "203"), "recvmsg": ("47", "212")}[in_call]
    return Path(f"/proc/{process.pid}/syscall").read_text().split()[0] in numbers


def test_events_ends(container: Make) -> None:
    box = container("/bin/sleep", "100")
    box.create()
    process = begin(box, "events", "--interval", "1h", box.id)
    wait_until(lambda: sleeps(process, "poll"), 10, "events to wait")
    assert interrupt(process) == 1


def test_update_ends_while_somebody_types(container: Make) -> None:
    box = container("/bin/sleep", "100")
    box.create()
    keyboard, terminal = os.openpty()
    process = begin(box, "update", "--resources", "-", box.id, stdin=terminal)
    wait_until(lambda: sleeps(process, "read"), 10, "update to read")
    assert interrupt(process) == 1
    os.close(terminal)
    os.close(keyboard)


def test_create_ends_while_a_hook_runs_in_the_container(container: Make) -> None:
    def slow(config: Config) -> None:
        config["hooks"] = {"createContainer": [{"path": "/bin/sleep", "args": ["sleep", "100"]}]}

    box = container("/bin/true", mutate=slow)
    process = begin(box, "create", "--bundle", box.bundle.path, box.id)
    wait_until(lambda: (box.runtime.root / box.id / "state").exists() and sleeps(process, "recvmsg"), 10, "the hook")
    assert interrupt(process) == 1
    assert not (box.runtime.root / box.id).exists()


def test_create_ends_while_nobody_takes_the_terminal(container: Make, tmp_path: Path) -> None:
    box = container("/bin/true", mutate=lambda c: c["process"].update(terminal=True))
    path = str(tmp_path / "console")
    with socket.socket(socket.AF_UNIX) as console, socket.socket(socket.AF_UNIX) as other:
        console.bind(path)
        console.listen(0)
        other.connect(path)  # the last that there is room for
        process = begin(box, "create", "--bundle", box.bundle.path, "--console-socket", path, box.id)
        wait_until(lambda: sleeps(process, "connect"), 10, "create to connect")
        assert interrupt(process) == 1
    assert not (box.runtime.root / box.id).exists()


def test_who_ignores_it_is_not_interrupted(container: Make, tmp_path: Path) -> None:
    """A command in the background of a script."""

    def slow(config: Config) -> None:
        script = f"touch {tmp_path}/there; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]}

    box = container("/bin/true", mutate=slow)
    process = begin(
        box, "create", "--bundle", box.bundle.path, box.id, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    wait_until((tmp_path / "there").exists, 10, "the hook")
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    (tmp_path / "go").touch()
    assert process.wait(10 * TIME_SCALE) == 0


@pytest.mark.parametrize("pause", [0, 0.0001, 0.001])
def test_twice_is_as_once(container: Make, tmp_path: Path, pause: float) -> None:
    """timeout(1) signals its child and then the group that the child is in."""

    def slow(config: Config) -> None:
        script = f"/bin/touch {tmp_path}/there; exec /bin/sleep 100"
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    box = container("/bin/true", mutate=slow)
    process = begin(box, "create", "--bundle", box.bundle.path, box.id)
    wait_until((tmp_path / "there").exists, 10, "the hook")
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    assert interrupt(process) == 1
    assert not (box.runtime.root / box.id).exists()


@pytest.mark.parametrize(("name", "stride"), [("INT", 3), ("TERM", 11)])
def test_create_is_done_or_leaves_nothing_whenever_it_comes(container: Make, name: str, stride: int) -> None:
    """Before there is anything that could be left it may just end."""
    box = container("/bin/true")
    argv = [box.runtime.path, "--root", str(box.runtime.root), "create", "--bundle", str(box.bundle.path), box.id]
    number, status, quiet = 1, -1, subprocess.DEVNULL
    while status and number < 1000:
        strace = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject=all:signal={name}:when={number}"]  # of each by its name
        status = subprocess.run([*strace, *argv], stdin=quiet, stdout=quiet, stderr=quiet, timeout=30 * TIME_SCALE).returncode
        assert status == 0 or not (box.runtime.root / box.id).exists(), f"{status} at call {number}"
        assert status == 0 or not cgroups(), f"{status} at call {number}"
        number += stride
    assert number > 60 and not status
