"""run in the foreground: what it does besides passing on bytes, codes and signals (those: test_terminal.py, test_lifecycle.py)."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundles import TIME_SCALE, Config, Container, drop_namespace, wait_until

Make = Callable[..., Container]


def with_terminal(config: Config) -> None:
    config["process"]["terminal"] = True


class Person:
    """Someone at a terminal, who started ``run`` there."""

    def __init__(self, box: Container) -> None:
        self.fd, self.theirs = pty.openpty()
        argv = [box.runtime.path, "--root", str(box.runtime.root), "run", "--bundle", str(box.bundle.path), box.id]
        self.process = subprocess.Popen(["setsid", "--ctty", *argv], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs)
        self.keys, self.text = b"", b""

    def sees(self, wanted: bytes) -> None:
        """Reads, and types ``keys`` as far as the terminal takes them."""
        os.set_blocking(self.fd, False)

        def there() -> bool:
            while select.select([self.fd], [], [], 0)[0]:
                self.text += os.read(self.fd, 65536)
            if self.keys and select.select([], [self.fd], [], 0)[1]:
                self.keys = self.keys[os.write(self.fd, self.keys[:4096]) :]
            return wanted in self.text

        wait_until(there, 10, repr(wanted))

    def leave(self) -> None:
        os.close(self.theirs)
        self.theirs = -1
        os.close(self.fd)
        self.fd = -1

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for fd in (self.fd, self.theirs):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def at_terminal() -> Iterator[Callable[[Container], Person]]:
    people: list[Person] = []

    def make(box: Container) -> Person:
        people.append(Person(box))
        return people[-1]

    yield make
    for person in people:
        person.end()


def test_the_terminal_is_as_it_was_when_the_program_has_ended(container: Make, at_terminal: Callable[[Container], Person]) -> None:
    box = container("/bin/sh", "-c", "echo up; read line; exit 3", mutate=with_terminal)
    person = at_terminal(box)
    before = termios.tcgetattr(person.theirs)
    person.sees(b"up")
    assert termios.tcgetattr(person.theirs)[3] != before[3], "it is raw while the program runs"
    os.write(person.fd, b"\n")
    assert person.process.wait(10 * TIME_SCALE) == 3
    assert termios.tcgetattr(person.theirs) == before


def test_a_terminal_that_is_closed_does_not_end_the_program(container: Make, at_terminal: Callable[[Container], Person]) -> None:
    script = "trap 'echo hup >/tmp/said' HUP; echo up; while :; do sleep 0.05; echo more; done"

    def mutate(config: Config) -> None:
        with_terminal(config)
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})

    box = container("/bin/sh", "-c", script, mutate=mutate)
    person = at_terminal(box)
    person.sees(b"up")
    person.leave()
    wait_until(lambda: box.exec("cat", "/tmp/said", check=False).stdout == "hup\n", 10, "the signal to be passed on")
    assert box.status == "running"
    box.kill()
    assert person.process.wait(10 * TIME_SCALE) == 137
    assert not (box.runtime.root / box.id).exists()


def test_what_is_typed_too_fast_waits_and_nothing_blocks(container: Make, at_terminal: Callable[[Container], Person]) -> None:
    script = "stty raw -echo; echo up; sleep 0.5; head -c 2000000 /dev/zero; echo; head -c 100000 | wc -c"
    person = at_terminal(container("/bin/sh", "-c", script, mutate=with_terminal))
    person.sees(b"up")
    person.keys = b"x" * 100000
    person.sees(b"100000")
    assert person.text.count(b"\0") == 2000000


def test_nothing_is_lost_when_standard_output_does_not_block(container: Make) -> None:
    box = container("/bin/sh", "-c", "seq 1 30000; echo end", mutate=with_terminal)
    argv = [box.runtime.path, "--root", str(box.runtime.root), "run", "--bundle", str(box.bundle.path), box.id]
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        wait_until(lambda: select.select([ours], [], [], 0)[0] != [], 10, "output")
        time.sleep(0.3)  # the pipe is full
        with open(ours, "rb") as pipe:
            text = pipe.read()
    assert process.returncode == 0
    assert text.split() == [b"%d" % number for number in range(1, 30001)] + [b"end"]


@pytest.mark.parametrize("terminal", [False, True], ids=["files", "terminal"])
def test_orphans_are_reaped_while_the_program_runs(
    container: Make, at_terminal: Callable[[Container], Person], terminal: bool
) -> None:
    def mutate(config: Config) -> None:
        config["process"]["terminal"] = terminal
        drop_namespace(config, "pid")

    box = container("/bin/sh", "-c", "(sleep 0.05 & sleep 0.1 &); echo up; exec sleep 1000", mutate=mutate)
    person = at_terminal(box)
    person.sees(b"up")
    orphans = Path(f"/proc/{person.process.pid}/task/{person.process.pid}/children")
    wait_until(lambda: orphans.read_text().split() == [str(box.pid)], 10, "orphans to be reaped")
    box.kill()
    assert person.process.wait(10 * TIME_SCALE) == 137
