"""ocipy beside runc and crun: time and peak memory of each verb, and the smallest memory limit that a container starts under.

    python tests/bench [--quick] [--rounds N] [--cold-rounds N] [--output FILE]

The runtimes are $OCIPY (default: .venv/bin/ocipy), $RUNC and $CRUN (default: found in PATH); what is missing is left out.

Every measurement is a fresh process, started and timed by a small static program (timed.c). Within a round each runtime does
the same verb once, in an order that changes from round to round, so that what disturbs the machine disturbs all. Everything
happens in one private mount namespace; on cgroup v1 without the unified hierarchy, which crun refuses beside v1 ones that have
controllers.

Joining a cgroup of v1 waits for the kernel's RCU when nobody joined one for some 20 ms. So the phase is fixed: *warm*, a join that
changes nothing just before; *cold*, 60 ms of idleness before.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from bundles import PREFIX, Bundle, cgroup_of, hierarchies, made, make_bundle, probe_program, use_own_null  # noqa: E402

VERBS = ("create", "start", "state", "exec", "kill", "delete", "delete --force", "run")
IDLE = 0.06
LIMITS = [n << m for m in range(12, 25) for n in (4, 6)]  # bytes: 16 KiB, 24, 32, 48 ... 96 MiB
MEMORY_TRIES = 5


class Sample(NamedTuple):
    """One run of one verb: milliseconds, exit status, peak resident KiB."""

    ms: float
    status: int
    peak: int


class Failed(Exception):
    pass


class Subject:
    """A runtime to measure, with its state directory and its bundles."""

    def __init__(self, name: str, path: str, directory: Path, stopwatch: str) -> None:
        self.name, self.path, self.stopwatch = name, path, stopwatch
        self.directory = directory / name
        self.directory.mkdir()
        self.sleeper = self._bundle("sleeper", ["/bin/probe", "sleep"])
        self.true = self._bundle("true", ["/bin/true"])
        self.counter = itertools.count()
        self.samples: dict[tuple[str, str], list[Sample]] = {}

    def _bundle(self, name: str, args: list[str]) -> Bundle:
        bundle = make_bundle(self.directory / name, args=args)
        shutil.copy(probe_program(), bundle.rootfs / "bin/probe")
        (bundle.rootfs / "bin/true").unlink()
        shutil.copy(made("bench.sh", sources=["../bench/timed.c"]) / "true", bundle.rootfs / "bin/true")
        return bundle

    def new_id(self) -> str:
        return f"{PREFIX}-{self.name}-{next(self.counter)}"

    def call(self, *arguments: str | Path, warm: str = "-", check: bool = True) -> Sample:
        """Run the runtime once. Raises Failed, with what it said."""
        log, result = self.directory / "log", self.directory / "result"
        argv = [self.stopwatch, "30", warm, self.path, "--root", str(self.directory / "state"), *(str(a) for a in arguments)]
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_OPEN, 3, str(result), write, 0o600),
        ]
        os.waitpid(os.posix_spawn(argv[0], argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, file_actions=actions), 0)
        if not (fields := result.read_text().split()):
            raise Failed(f"{' '.join(argv)}: no result")
        sample = Sample(int(fields[0]) / 1e6, os.waitstatus_to_exitcode(int(fields[1])), int(fields[2]))
        if check and sample.status:
            raise Failed(f"{self.name} {' '.join(str(a) for a in arguments)}: status {sample.status}: {log.read_text().strip()}")
        return sample

    def measure(self, phase: str, verb: str, *arguments: str | Path) -> None:
        """A sample of ``verb``, in its phase."""
        if phase == "cold":
            time.sleep(IDLE)
        warm = own_procs() if phase == "warm" else "-"
        self.samples.setdefault((phase, verb), []).append(self.call(*arguments, warm=warm))

    def life(self, phase: str) -> Iterator[None]:
        """One round: a container from create to delete, with a stop after each verb for the others to do the same."""
        id, pid_file = self.new_id(), self.directory / "pid"
        try:
            self.measure(phase, "create", "create", "--bundle", self.sleeper.path, "--pid-file", pid_file, id)
            yield
            self.measure(phase, "start", "start", id)
            yield
            self.measure(phase, "state", "state", id)
            yield
            self.measure(phase, "exec", "exec", id, "/bin/true")
            yield
            self.measure(phase, "kill", "kill", id, "KILL")
            wait_end(int(pid_file.read_text()))
            yield
            self.measure(phase, "delete", "delete", id)
            yield
            self.call("run", "--detach", "--bundle", self.sleeper.path, "--pid-file", pid_file, id)
            self.measure(phase, "delete --force", "delete", "--force", id)
            wait_end(int(pid_file.read_text()))
            yield
            self.measure(phase, "run", "run", "--bundle", self.true.path, self.new_id())
            yield
        except BaseException:
            self.call("delete", "--force", id, check=False)
            raise

    def starts_under(self, limit: int) -> int:
        """How many of MEMORY_TRIES runs of a program that does nothing succeed under ``limit`` bytes."""
        self.true.config["linux"]["resources"]["memory"] = {"limit": limit}
        self.true.write()
        good = 0
        for _ in range(MEMORY_TRIES):
            id = self.new_id()
            good += self.call("run", "--bundle", self.true.path, id, check=False).status == 0
            self.call("delete", "--force", id, check=False)
            reap()
        return good

    def smallest_limit(self) -> int | None:
        """By bisection of LIMITS; None if even the largest is too small."""
        low, high = 0, len(LIMITS)
        while low < high:
            middle = (low + high) // 2
            if self.starts_under(LIMITS[middle]) == MEMORY_TRIES:
                high = middle
            else:
                low = middle + 1
        return LIMITS[low] if low < len(LIMITS) else None

    def version(self) -> str:
        lines = subprocess.run([self.path, "--version"], capture_output=True, text=True).stdout.splitlines()
        commit = next((line.split()[-1][:12] for line in lines if line.startswith("commit")), "")
        name = (lines or [self.name])[0].replace(" version", "")
        return f"{name} ({commit})" if commit and self.name == "ocipy" else name


# ---- the machine -----------------------------------------------------------------------------------------------------------


def own_procs() -> str:
    """The cgroup.procs of our own cgroup, on v1 of the pids controller: to join it changes nothing."""
    return str(cgroup_of(os.getpid(), "pids" if "pids" in hierarchies() else "") / "cgroup.procs")


def isolate() -> None:
    """Go on in a private mount namespace; adopt orphans."""
    if os.environ.get("OCIPY_BENCH") != "isolated":
        if os.geteuid() != 0:
            sys.exit("the benchmark needs root: it makes containers")
        os.environ["OCIPY_BENCH"] = "isolated"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    use_own_null()
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers") and os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "--recursive", "/sys/fs/cgroup/unified"], check=True)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def wait_end(pid: int) -> None:
    """Until this orphan ended. It may be gone, and need not be ours where a runtime's parent keeps it."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def remove_cgroups() -> None:
    for point in set(hierarchies().values()):
        for directory, _, _ in os.walk(point / PREFIX, topdown=False):
            os.rmdir(directory)


def subjects(directory: Path) -> list[Subject]:
    stopwatch = str(made("bench.sh", sources=["../bench/timed.c"]) / "timed")
    paths = {
        "ocipy": os.environ.get("OCIPY") or str(REPOSITORY / ".venv/bin/ocipy"),
        "runc": os.environ.get("RUNC") or shutil.which("runc"),
        "crun": os.environ.get("CRUN") or shutil.which("crun"),
    }
    found = []
    for name, path in paths.items():
        if path and os.access(path, os.X_OK):
            found.append(Subject(name, path, directory, stopwatch))
        else:
            print(f"{name} is not here: left out", file=sys.stderr)
    return found


def rounds(runtimes: list[Subject], phase: str, count: int) -> None:
    """``count`` rounds, after one that is thrown away; a runtime that fails is left out of what follows."""
    for number in range(count + 1):
        shift = number % len(runtimes)
        lives = {runtime: runtime.life(phase) for runtime in runtimes[shift:] + runtimes[:shift]}
        for _ in VERBS:
            for runtime, life in list(lives.items()):
                try:
                    next(life)
                except Failed as failure:
                    print(f"left out from here: {failure}", file=sys.stderr)
                    runtimes.remove(runtime)
                    del lives[runtime]
        reap()
        if number == 0:
            for runtime in runtimes:
                runtime.samples = {key: value for key, value in runtime.samples.items() if key[0] != phase}


# ---- the report ------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, columns aligned."""
    every = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *numbers]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(every[0]), rule, *(line(row) for row in every[1:])])


def times(runtime: Subject, phase: str, verb: str) -> list[float]:
    return [sample.ms for sample in runtime.samples.get((phase, verb), [])]


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median of the ratios of each round, and between which half of them lie."""
    each = sorted(a / b for a, b in zip(ours, theirs, strict=False))
    if len(each) < 2:
        return "-"
    low, middle, high = statistics.quantiles(each, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def time_table(runtimes: list[Subject], phase: str) -> str:
    others = [r for r in runtimes[1:] if runtimes[0].name == "ocipy"]
    head = ["verb", *(f"{r.name}, ms" for r in runtimes), *(f"ocipy / {r.name}" for r in others)]
    rows = []
    for verb in VERBS:
        row = [f"`{verb}`"]
        for runtime in runtimes:
            found = times(runtime, phase, verb)
            row.append(f"{statistics.median(found):.1f} (min {min(found):.1f})" if found else "-")
        row += [ratio(times(runtimes[0], phase, verb), times(r, phase, verb)) for r in others]
        rows.append(row)
    return table(head, rows)


def memory_table(runtimes: list[Subject], limits: dict[str, int | None]) -> str:
    def peak(runtime: Subject, verb: str) -> str:
        found = [s.peak for (_, v), samples in runtime.samples.items() if v == verb for s in samples]
        return f"{max(found) / 1024:.1f}" if found else "-"

    rows = [[f"`{verb}`, MiB", *(peak(r, verb) for r in runtimes)] for verb in VERBS]
    row = ["smallest limit, KiB"]
    for runtime in runtimes:
        limit = limits.get(runtime.name)
        row.append(str(limit >> 10) if limit else "-")
    return table(["", *(r.name for r in runtimes)], [*rows, row])


TEXT = """# Performance

Written by `make bench`; run it on your own machine.

Linux {kernel}, {cpus} CPUs, {cgroup}; {versions}; Python {python}; load average {load:.1f} at the start.

The container: five new namespaces, the default mounts, masks, devices and cgroups of `spec`; a root filesystem of busybox.
Each number is a fresh process. The runtimes take turns within a round ({warm} warm rounds, {cold} cold); times are medians and
minima, ratios are medians of the ratios of each round, with the range of the middle half. Below 1, ocipy is faster. The `exec`
and `run` are of a program that does nothing, and include its end.

## Warm: another process joined a cgroup just before

{warm_table}

## Cold: nothing happened for {idle:.0f} ms

On cgroup v1 the first join of a cgroup then waits for the kernel, in every runtime.

{cold_table}

## Memory

The peak of the largest process that a verb runs, as the kernel counts resident memory; and the smallest memory limit
(`linux.resources.memory.limit`) under which a program that does nothing runs {tries} times of {tries}.

{memory_table}
"""


def report(runtimes: list[Subject], limits: dict[str, int | None], counts: tuple[int, int], load: float) -> str:
    cgroup = "cgroup v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "cgroup v1"
    return TEXT.format(
        kernel=".".join(platform.release().split(".")[:2]), cpus=os.cpu_count(), cgroup=cgroup,
        versions=", ".join(r.version() for r in runtimes), python=platform.python_version(), load=load,
        warm=counts[0], cold=counts[1],
        idle=IDLE * 1000, warm_table=time_table(runtimes, "warm"), cold_table=time_table(runtimes, "cold"), tries=MEMORY_TRIES,
        memory_table=memory_table(runtimes, limits),
    )


def options() -> Any:
    parser = argparse.ArgumentParser(description="Measure ocipy beside runc and crun.")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer rounds")
    parser.add_argument("--rounds", type=int, help="warm rounds (50, quick: 15)")
    parser.add_argument("--cold-rounds", type=int, help="cold rounds (25, quick: 6)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs/performance.md", help="file to write; - for none")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    isolate()
    warm = chosen.rounds or (15 if chosen.quick else 50)
    cold = chosen.cold_rounds or (6 if chosen.quick else 25)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ocipy-bench-") as directory:
        try:
            runtimes = subjects(Path(directory))
            everyone = list(runtimes)
            rounds(runtimes, "warm", warm)
            rounds(runtimes, "cold", cold)
            limits = {runtime.name: runtime.smallest_limit() for runtime in runtimes}
            text = report(everyone, limits, (warm, cold), load)
        finally:
            reap()
            remove_cgroups()
    print(text)
    if str(chosen.output) != "-":
        chosen.output.write_text(text)


if __name__ == "__main__":
    main()
