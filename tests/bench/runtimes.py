"""A runtime to measure: each command is a fresh process, started and timed by a small static program (timed.c)."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bundles import PREFIX, REPOSITORY, Bundle, cgroup_of, hierarchies, made, make_bundle, probe_program
from scenes import SCENES, Scene

VERBS = ("create", "start", "state", "exec", "kill", "delete", "delete --force", "run")
IDLE = 0.06
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Sample(NamedTuple):
    """One run of one verb: milliseconds, exit status, peak resident KiB, page faults."""

    ms: float
    status: int
    peak: int
    faults: int


class Failed(Exception):
    pass


class Subject:
    """A runtime with its state directory, its root filesystem and its bundles."""

    def __init__(self, name: str, path: str, directory: Path) -> None:
        self.name, self.path = name, path
        self.directory = directory / name
        self.rootfs = make_bundle(self.directory / "first").rootfs
        shutil.copy(probe_program(), self.rootfs / "bin/probe")
        (self.rootfs / "bin/true").unlink()
        shutil.copy(programs() / "true", self.rootfs / "bin/true")
        (self.directory / "state").mkdir()
        # As /run is; it goes with the mount namespace of the benchmark.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", self.directory / "state"], check=True)
        self.numbers = itertools.count()
        self.samples: dict[tuple[str, str, str], list[Sample]] = {}  # by scene, phase and verb
        self.charged: dict[str, list[int]] = {}  # bytes by scene

    def bundle(self, name: str, args: list[str], scene: Scene = SCENES[0]) -> Bundle:
        """A bundle with a cgroup of its own, on the root filesystem that all bundles of this runtime share."""
        return make_bundle(self.directory / name, self.rootfs, args, scene.change, copy_it=False)

    def new_id(self) -> str:
        return f"{PREFIX}-{self.name}-{next(self.numbers)}"

    def argv(self, *arguments: str | Path) -> list[str]:
        return [self.path, "--root", str(self.directory / "state"), *(str(a) for a in arguments)]

    def call(self, *arguments: str | Path, warm: str = "-", check: bool = True) -> Sample:
        """Run the runtime once. Raises Failed, with what it said."""
        log, result = self.directory / "log", self.directory / "result"
        os.waitpid(spawn([str(programs() / "timed"), "30", warm, *self.argv(*arguments)], log, result), 0)
        if not (fields := result.read_text().split()):
            raise Failed(f"{self.name} {' '.join(str(a) for a in arguments)}: no result")
        sample = Sample(int(fields[0]) / 1e6, os.waitstatus_to_exitcode(int(fields[1])), int(fields[2]), int(fields[5]))
        if check and sample.status:
            raise Failed(f"{self.name} {' '.join(str(a) for a in arguments)}: status {sample.status}: {log.read_text().strip()}")
        return sample

    def version(self) -> str:
        lines = subprocess.run([self.path, "--version"], capture_output=True, text=True).stdout.splitlines()
        commit = next((line.split()[-1][:12] for line in lines if line.startswith("commit")), "")
        name = (lines or [self.name])[0].replace(" version", "")
        return f"{name} ({commit})" if commit and self.name == "ocipy" else name


class Lives:
    """Containers of one runtime in one scene and phase, from create to delete."""

    def __init__(self, runtime: Subject, scene: Scene, phase: str) -> None:
        self.runtime, self.scene, self.phase = runtime, scene, phase
        where = f"{scene.name}-{phase}"
        self.sleeper = runtime.bundle(f"{where}-sleeper", ["/bin/probe", "sleep"], scene)
        self.true = runtime.bundle(f"{where}-true", ["/bin/true"], scene)

    def measure(self, verb: str, *arguments: str | Path) -> None:
        """A sample of ``verb``, in its phase."""
        if self.phase == "cold":
            time.sleep(IDLE)
        warm = own_procs() if self.phase == "warm" else "-"
        sample = self.runtime.call(*arguments, warm=warm)
        self.runtime.samples.setdefault((self.scene.name, self.phase, verb), []).append(sample)

    def life(self) -> Iterator[None]:
        """One round, with a stop after each verb for the other runtimes to do the same."""
        id, pid_file = self.runtime.new_id(), self.runtime.directory / "pid"
        try:
            self.measure("create", "create", "--bundle", self.sleeper.path, "--pid-file", pid_file, id)
            yield
            self.measure("start", "start", id)
            yield
            self.measure("state", "state", id)
            yield
            self.measure("exec", "exec", id, "/bin/true")
            yield
            self.charge(int(pid_file.read_text()))
            self.measure("kill", "kill", id, "KILL")
            wait_end(int(pid_file.read_text()))
            yield
            self.measure("delete", "delete", id)
            yield
            self.runtime.call("run", "--detach", "--bundle", self.sleeper.path, "--pid-file", pid_file, id)
            self.measure("delete --force", "delete", "--force", id)
            wait_end(int(pid_file.read_text()))
            yield
            self.measure("run", "run", "--bundle", self.true.path, self.runtime.new_id())
            yield
        except BaseException:
            self.runtime.call("delete", "--force", id, check=False)
            raise

    def charge(self, pid: int) -> None:
        """Note the most memory that the kernel ever charged to the container of ``pid``, its start and an exec included."""
        cgroup = cgroup_of(pid, "memory")
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if (cgroup / name).exists():
                self.runtime.charged.setdefault(self.scene.name, []).append(int((cgroup / name).read_text()))


# ---- processes -------------------------------------------------------------------------------------------------------------


def programs() -> Path:
    return made("bench.sh", sources=["../bench/timed.c"])


def spawn(argv: list[str], log: Path, result: Path | None = None) -> int:
    """Start a program whose output goes to the file ``log``, and what it writes to descriptor 3 to ``result``; its pid."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    if result:
        actions.append((os.POSIX_SPAWN_OPEN, 3, str(result), write, 0o600))
    return os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=actions)


def own_procs() -> str:
    """The cgroup.procs of our own cgroup, on v1 of the pids controller: to join it changes nothing."""
    return str(cgroup_of(os.getpid(), "pids" if "pids" in hierarchies() else "") / "cgroup.procs")


def wait_end(pid: int) -> None:
    """Until this orphan ended. It may be gone, and need not be ours where a runtime's parent keeps it."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)


def reap() -> None:
    """Of all orphans, those that ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def subjects(directory: Path) -> list[Subject]:
    """ocipy first. What is missing is left out, with a word."""
    paths = {
        "ocipy": os.environ.get("OCIPY") or str(REPOSITORY / ".venv/bin/ocipy"),
        "runc": os.environ.get("RUNC") or shutil.which("runc"),
        "crun": os.environ.get("CRUN") or shutil.which("crun"),
    }
    found = []
    for name, path in paths.items():
        if path and os.access(path, os.X_OK):
            found.append(Subject(name, os.path.abspath(path), directory))
        else:
            print(f"{name} is not here: left out", file=sys.stderr)
    return found


def rounds(runtimes: list[Subject], scene: Scene, phase: str, count: int) -> None:
    """``count`` rounds, after one that is thrown away; a runtime that fails is left out of what follows."""
    lives = [Lives(runtime, scene, phase) for runtime in runtimes]
    for number in range(count + 1):
        shift = number % max(len(lives), 1)
        turn = {each: each.life() for each in lives[shift:] + lives[:shift]}
        for _ in VERBS:
            for each, life in list(turn.items()):
                try:
                    next(life)
                except Failed as failure:
                    print(f"{scene.name}, {phase}: left out from here: {failure}", file=sys.stderr)
                    lives.remove(each)
                    del turn[each]
        reap()
        if number == 0:
            for runtime in runtimes:
                runtime.samples = {key: value for key, value in runtime.samples.items() if key[:2] != (scene.name, phase)}
