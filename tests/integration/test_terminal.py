"""Terminals: by console socket, proxied in the foreground, passed through (config.md, process.terminal, consoleSize)."""

from __future__ import annotations

import array
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bundles import TIME_SCALE, Config, Container

Make = Callable[..., Container]


def with_terminal(config: Config) -> None:
    config["process"]["terminal"] = True


@contextmanager
def console_socket(directory: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A listening socket at a path of any length."""
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(directory)
        listener.bind("console")
        os.chdir("/")
        listener.listen()
        listener.settimeout(10 * TIME_SCALE)
        yield directory / "console", listener


def receive(listener: socket.socket) -> tuple[int, bytes]:
    """(ptmx, the name that came with it)."""
    connection, _ = listener.accept()
    with connection:
        data, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    fds = array.array("i")
    fds.frombytes(control[0][2][:4])
    return fds[0], data


def read_all(fd: int, until: bytes = b"", timeout: float = 10) -> bytes:
    """What a terminal's other side writes, up to ``until`` or its end."""
    text = b""
    end = time.monotonic() + timeout * TIME_SCALE
    while time.monotonic() < end:
        if not select.select([fd], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:
            return text
        text += data
        if not data or (until and until in text):
            return text
    raise AssertionError(f"no end of {text!r}")


def test_the_console_socket_gets_the_terminal_with_a_name(container: Make, tmp_path: Path) -> None:
    box = container(mutate=with_terminal)
    with console_socket(tmp_path) as (path, listener):
        box.create("--console-socket", path)
        ptmx, name = receive(listener)
    assert name != b""
    pid = box.pid
    box.start()
    seen = json.loads(read_all(ptmx))
    box.wait_exit(pid)
    os.close(ptmx)
    assert [seen["fds"][fd]["tty"] for fd in ("0", "1", "2")] == [True] * 3
    assert seen["fds"]["0"]["major"] == 136
    assert seen["controlling_terminal"]
    assert seen["dev"]["/dev/console"]["major"] == 136


@pytest.mark.spec("/process/consoleSize/*", "/process/terminal")
def test_the_size_of_the_console_is_the_configs(container: Make, tmp_path: Path) -> None:
    def change(config: Config) -> None:
        with_terminal(config)
        config["process"]["consoleSize"] = {"height": 33, "width": 77}

    box = container("/bin/stty", "size", mutate=change)
    with console_socket(tmp_path) as (path, listener):
        box.create("--console-socket", path)
        ptmx, _ = receive(listener)
    box.start()
    assert read_all(ptmx).split() == [b"33", b"77"]
    os.close(ptmx)


def test_the_terminal_belongs_to_the_user(container: Make, tmp_path: Path) -> None:
    def change(config: Config) -> None:
        with_terminal(config)
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    box = container("/bin/sh", "-c", "echo again >/dev/tty; tty", mutate=change)
    with console_socket(tmp_path) as (path, listener):
        box.create("--console-socket", path)
        ptmx, _ = receive(listener)
    box.start()
    text = read_all(ptmx)
    os.close(ptmx)
    assert b"again" in text and b"/dev/pts/0" in text


def test_a_detached_terminal_without_a_socket_is_an_error(container: Make) -> None:
    box = container("/bin/true", mutate=with_terminal)
    for answer in (box.create(check=False), box.run("--detach", check=False)):
        assert answer.status == 1
        assert "cannot allocate tty if ocipy will detach without setting console socket" in box.errors.read_text()
    assert not box.runtime.root.exists() or not list(box.runtime.root.iterdir())


@pytest.mark.parametrize(
    ("verb", "terminal"),
    [("create", False), ("run --detach", False), ("run", False), ("run", True)],
    ids=["create", "run --detach", "run", "run with a terminal"],
)
def test_a_console_socket_that_would_get_nothing_is_refused(container: Make, tmp_path: Path, verb: str, terminal: bool) -> None:
    box = container("/bin/true", mutate=with_terminal if terminal else None)
    with console_socket(tmp_path) as (path, _):
        answer = box.runtime(*verb.split(), "--bundle", box.bundle.path, "--console-socket", path, box.id, check=False)
    assert answer.status == 1
    assert answer.stderr.startswith("ocipy: cannot use console socket if ocipy will not detach or allocate tty: ")
    assert not box.runtime.root.exists() or not list(box.runtime.root.iterdir())


@pytest.mark.parametrize("flags", [["--detach"], ["--tty"], []], ids=["detached without tty", "tty in the foreground", "neither"])
def test_a_console_socket_that_would_get_nothing_from_exec_is_refused(container: Make, tmp_path: Path, flags: list[str]) -> None:
    box = container("/bin/sleep", "100")
    box.run("--detach")
    with console_socket(tmp_path) as (path, _):
        answer = box.exec("/bin/true", flags=[*flags, "--console-socket", path], check=False)
    assert answer.status == 255
    assert answer.stderr.startswith("ocipy: cannot use console socket if ocipy will not detach or allocate tty: ")


def test_a_console_socket_that_nobody_listens_on_undoes_create(container: Make, tmp_path: Path) -> None:
    box = container("/bin/true", mutate=with_terminal)
    assert box.create("--console-socket", tmp_path / "nobody", check=False).status == 1
    assert "no such file or directory" in box.errors.read_text()


def test_a_terminal_needs_a_devpts(container: Make, tmp_path: Path) -> None:
    """CVE-2025-52565: /dev/pts of the image is no devpts, whatever its ptmx is."""

    def change(config: Config) -> None:
        with_terminal(config)
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/dev/pts"]

    box = container("/bin/true", mutate=change)
    with console_socket(tmp_path) as (path, _):
        assert box.create("--console-socket", path, check=False).status == 1
    assert "devpts" in box.errors.read_text()


class Terminal:
    """A command with a terminal of its own, as a person has it."""

    def __init__(self, *argv: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(argv[0], argv)

    def resize(self, height: int, width: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def finish(self) -> tuple[bytes, int]:
        text = read_all(self.fd)
        os.close(self.fd)
        return text, os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run_in_terminal(box: Container, *arguments: str) -> Terminal:
    return Terminal(box.runtime.path, "--root", str(box.runtime.root), *arguments)


@pytest.mark.spec("/process/terminal")
def test_run_in_the_foreground_proxies_the_terminal(container: Make) -> None:
    box = container("/bin/sh", "-c", "tty; read line; echo got $line; exit 5", mutate=with_terminal)
    terminal = run_in_terminal(box, "run", "--bundle", str(box.bundle.path), box.id)
    text = read_all(terminal.fd, until=b"pts/0")
    os.write(terminal.fd, b"hello\n")
    rest, status = terminal.finish()
    assert b"got hello" in rest, text + rest
    assert status == 5


def test_ctrl_c_reaches_the_program_and_not_the_runtime(container: Make) -> None:
    box = container("/bin/probe", "trap", mutate=with_terminal)
    terminal = run_in_terminal(box, "run", "--bundle", str(box.bundle.path), box.id)
    text = read_all(terminal.fd, until=b"ready")
    os.write(terminal.fd, b"\x03")
    text += read_all(terminal.fd, until=b"2")
    box.kill("TERM")
    _, status = terminal.finish()
    assert status == 42


def test_a_resize_reaches_the_container(container: Make) -> None:
    box = container("/bin/sh", "-c", "echo up; read x; stty size", mutate=with_terminal)
    terminal = run_in_terminal(box, "run", "--bundle", str(box.bundle.path), box.id)
    read_all(terminal.fd, until=b"up")
    terminal.resize(44, 99)
    os.kill(terminal.pid, signal.SIGWINCH)
    time.sleep(0.1)
    os.write(terminal.fd, b"\n")
    text, _ = terminal.finish()
    assert b"44 99" in text


def test_a_terminal_is_passed_through_when_the_config_wants_none(container: Make) -> None:
    box = container("/bin/sh", "-c", "test -t 0 && test -t 1 && echo yes")
    terminal = run_in_terminal(box, "run", "--bundle", str(box.bundle.path), box.id)
    text, status = terminal.finish()
    assert b"yes" in text
    assert status == 0


@pytest.mark.parametrize("flags", [["--tty"], ["-t"]], ids=" ".join)
def test_exec_with_a_terminal(container: Make, flags: list[str]) -> None:
    box = container("/bin/probe", "trap")
    box.run("--detach")
    box.wait_output("ready")
    terminal = run_in_terminal(box, "exec", *flags, box.id, "/bin/sh", "-c", "tty; exit 9")
    text, status = terminal.finish()
    assert b"/dev/pts/" in text
    assert status == 9


def test_exec_with_a_console_socket(container: Make, tmp_path: Path) -> None:
    box = container("/bin/probe", "trap")
    box.run("--detach")
    box.wait_output("ready")
    process: dict[str, Any] = {"args": ["/bin/tty"], "cwd": "/", "terminal": True, "user": {"uid": 0, "gid": 0}}
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process))
    with console_socket(tmp_path) as (path, listener):
        flags = ["--process", str(file), "--console-socket", str(path), "--detach", "--pid-file", str(tmp_path / "pid")]
        box.runtime("exec", *flags, box.id)
        ptmx, name = receive(listener)
    assert name
    assert b"/dev/pts/" in read_all(ptmx)
    os.close(ptmx)
    box.wait_exit(int((tmp_path / "pid").read_text()))


def test_signals_to_run_reach_the_program(container: Make) -> None:
    box = container("/bin/probe", "trap")
    argv = [box.runtime.path, "--root", str(box.runtime.root), "run", "--bundle", str(box.bundle.path), box.id]
    with box.output.open("wb") as out:
        runtime = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out)
    box.wait_output("ready")
    runtime.send_signal(signal.SIGUSR1)
    box.wait_output("10")
    runtime.send_signal(signal.SIGTERM)
    assert runtime.wait(10 * TIME_SCALE) == 42
