"""Many at once: commands side by side, containers alive beside a new one, probes one after the other; and what a command asks of
the kernel."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundles import Bundle
from runtimes import Subject, own_procs, reap, spawn, wait_end

AT_ONCE = (1, 10, 100)


class Crowd:
    """Bundles of a runtime, as many as are wanted at a time."""

    def __init__(self, runtime: Subject) -> None:
        self.runtime = runtime
        self.bundles: dict[str, list[Bundle]] = {}

    def of(self, program: str, count: int) -> list[Bundle]:
        have = self.bundles.setdefault(program, [])
        args = ["/bin/true"] if program == "true" else ["/bin/probe", "sleep"]
        while len(have) < count:
            have.append(self.runtime.bundle(f"{program}-{len(have)}", args))
        return have[:count]

    def at_once(self, count: int) -> float:
        """Milliseconds until ``count`` commands ``run`` of a program that does nothing, started together, all ended."""
        argvs = [
            self.runtime.argv("run", "--bundle", bundle.path, self.runtime.new_id()) for bundle in self.of("true", count)
        ]
        begin = time.monotonic()
        pids = [spawn(argv, self.runtime.directory / f"log-{number}") for number, argv in enumerate(argvs)]
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        taken = (time.monotonic() - begin) * 1000
        reap()
        bad = [self.runtime.directory / f"log-{number}" for number, status in enumerate(statuses) if status]
        assert not bad, f"{len(bad)} of {count} failed: {bad[0].read_text()}"
        return taken

    @contextmanager
    def alive(self, count: int) -> Iterator[list[str]]:
        """``count`` containers that sleep, as long as the context lasts; their ids."""
        there: list[tuple[str, Path]] = []
        try:
            for bundle in self.of("sleeper", count):
                id, pid_file = self.runtime.new_id(), bundle.path / "pid"
                there.append((id, pid_file))
                self.runtime.call("run", "--detach", "--bundle", bundle.path, "--pid-file", pid_file, id)
            yield [id for id, _ in there]
        finally:
            pids = [int(pid_file.read_text()) for _, pid_file in there if pid_file.exists()]
            for pid in pids:
                os.kill(pid, 9)
            for pid in pids:
                wait_end(pid)
            for id, _ in there:
                self.runtime.call("delete", "--force", id, check=False)

    def create(self, bundle: Bundle) -> float:
        """Milliseconds of one warm create of a container, which is deleted again."""
        id = self.runtime.new_id()
        pid_file = bundle.path / "pid"
        taken = self.runtime.call("create", "--bundle", bundle.path, "--pid-file", pid_file, id, warm=own_procs()).ms
        self.runtime.call("delete", "--force", id)
        wait_end(int(pid_file.read_text()))
        return taken

    def create_beside(self, count: int, samples: int) -> tuple[float, float]:
        """The median time of create alone, and with ``count`` containers alive."""
        spare = self.of("sleeper", count + 1)[count]
        alone = [self.create(spare) for _ in range(samples)]
        with self.alive(count):
            beside = [self.create(spare) for _ in range(samples)]
        return statistics.median(alone), statistics.median(beside)

    def probes(self, seconds: float) -> Iterator[float]:
        """Again and again: how many exec of a program that does nothing end in a second, one after the other."""
        with self.alive(1) as (id,):
            while True:
                begin, count = time.monotonic(), 0
                while time.monotonic() < begin + seconds:
                    os.waitpid(spawn(self.runtime.argv("exec", id, "/bin/true"), self.runtime.directory / "log"), 0)
                    count += 1
                yield count / (time.monotonic() - begin)


@contextmanager
def one_core() -> Iterator[None]:
    """This process and its children on the first of its processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def system_calls(runtime: Subject, *arguments: str | Path) -> int:
    """How many system calls a command and its children make, until the last of them ends."""
    counts = runtime.directory / "counts"
    argv = ["strace", "-f", "-c", "-U", "calls", "-o", str(counts), *runtime.argv(*arguments)]
    with open(runtime.directory / "log", "wb") as log:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60, check=True)
    return int(counts.read_text().split()[-2])
