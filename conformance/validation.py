"""Run the programs of the validation suite one at a time, and compare with expected.toml. Started by validation.sh.

Each program gets a private mount namespace, a temporary directory, a state directory of the runtime and a time limit of its own;
what it leaves (processes, containers, cgroups with the suite's names) is removed before the next. Never run two at once: the
suite has fixed cgroup names.

Exit status: 0, or 1 if a program failed that expected.toml says this runtime passes.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
FIXED_CGROUPS = ("cgrouptest", "testdir")
TEST_LINE = re.compile(r"(not )?ok\b(?: (\d+))?(?: - )?([^#]*)(?:# *(\w+))?(.*)")
ATTEMPTS = 3  # for a program that should pass: several of them race with the runtime


class Outcome(NamedTuple):
    """What one program said. ``why`` is empty if it passed."""

    program: str
    passed: bool
    why: str
    seconds: float
    attempts: int
    output: str


# ---- one program -----------------------------------------------------------------------------------------------------------


def verdict(output: str, status: int | None, *, silent: bool = False) -> str:
    """Why the program did not pass, or "". Its lines are at the first column; what a container printed is quoted deeper.

    ``silent``: the program expects a refusal and prints nothing then. Of any other, silence means that its container never ran.
    """
    if status is None:
        return "took too long"
    # A program may print several streams. One without tests tells of a failure as a structure with an error; after a test such a
    # structure explains an error that was expected.
    plans, count, failed = [], 0, []
    for line in output.splitlines():
        if found := re.fullmatch(r"1\.\.(\d+).*", line):
            plans.append(int(found[1]))
        elif (found := re.fullmatch(r' {4}"error": "(.*)",?', line)) and count == 0:
            failed.append(found[1])
        elif (found := TEST_LINE.fullmatch(line)) and line.startswith(("ok ", "not ok ")):
            count += 1
            if found[1] and (found[4] or "").upper() != "TODO":
                failed.append(f"#{found[2]} {found[3].strip()}".strip())
    if failed:
        return "; ".join(failed)
    if status:
        last = [line for line in output.splitlines() if line.strip()]
        return f"exit status {status}" + (f": {last[-1].strip()}" if last else "")
    if not plans and not silent:
        return "no plan of tests"
    return "" if sum(plans) == count else f"{count} tests of {sum(plans)}"


def run_program(suite: Path, program: str, runtime: str, seconds: int) -> Outcome:
    start = time.monotonic()
    before = cgroups()
    with tempfile.TemporaryDirectory(prefix="ocipy-validation-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)  # users of a user namespace go through it
        wrapper = wrap(Path(directory), runtime)
        scratch = Path(directory, "tmp")
        scratch.mkdir()
        output = Path(directory, "output")
        private = f"{own_null(Path(directory, 'null'))}; exec {suite}/programs/{program} </dev/null"
        if os.path.basename(runtime) == "crun":  # it refuses a unified hierarchy with controllers beside those of v1
            private = f"umount -R /sys/fs/cgroup/unified 2>/dev/null; {private}"
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", private]
        env = os.environ | {"RUNTIME": str(wrapper), "TMPDIR": str(scratch)}
        with open(output, "wb") as out:
            process = subprocess.Popen(argv, cwd=suite, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            try:
                status: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
        end_descendants()
        text = output.read_text(errors="replace")
        delete_containers(Path(directory), runtime)
        calls = (Path(directory) / "calls").read_text() if (Path(directory) / "calls").exists() else ""
    end_descendants()
    remove_cgroups([path for path in cgroups() - before if ours(path, calls)])
    why = verdict(text, status, silent=program.endswith("_fail"))
    return Outcome(program, not why, why, round(time.monotonic() - start, 1), 1, text)


def own_null(directory: Path) -> str:
    """Commands that put another /dev/null into this mount namespace: crun gives its standard streams to the container's root."""
    directory.mkdir()
    mount = f"mount -t tmpfs -o mode=755 tmpfs {directory} && mknod -m 666 {directory}/null c 1 3"
    return f"{mount} && mount --bind {directory}/null /dev/null && umount --lazy {directory} || exit 125"


def wrap(directory: Path, runtime: str) -> Path:
    """A script that gives the runtime its own state directory, and notes how it is called."""
    wrapper = directory / os.path.basename(runtime)
    wrapper.write_text(f'#!/bin/sh\necho "$@" >>{directory}/calls\nexec {runtime} --root {directory}/state "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


# ---- what a program leaves ---------------------------------------------------------------------------------------------------


def children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", pid, "stat").read_text()
        except OSError:
            continue
        found.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(int(pid))
    return found


def end_descendants() -> None:
    """Kill and collect whatever came from this process: it is the parent of orphans."""
    for _ in range(500):
        table, wanted = children(), [os.getpid()]
        for pid in wanted:
            wanted += table.get(pid, [])
        if len(wanted) == 1:
            return
        for pid in wanted[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


def delete_containers(directory: Path, runtime: str) -> None:
    state = directory / "state"
    for name in os.listdir(state) if state.is_dir() else []:
        argv = [str(directory / os.path.basename(runtime)), "delete", "--force", name]
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


def cgroups() -> set[str]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    points = [point for _, point, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]
    return {os.path.join(directory, name) for point in points for directory, names, _ in os.walk(point) for name in names}


def ours(path: str, calls: str) -> bool:
    """Whether the suite made this cgroup: it has one of its fixed names, or the id of a container that it asked for."""
    parts = path.split("/")
    return any(name in parts for name in FIXED_CGROUPS) or any(len(part) == 36 and part in calls for part in parts)


def remove_cgroups(paths: list[str]) -> None:
    for path in sorted(paths, key=len, reverse=True):
        for _ in range(100):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
            else:
                break
        else:
            print(f"validation: cannot remove {path}", file=sys.stderr)


# ---- all programs ------------------------------------------------------------------------------------------------------------


def expectations() -> dict[str, dict[str, Any]]:
    with open(HERE / "expected.toml", "rb") as file:
        expected: dict[str, dict[str, Any]] = tomllib.load(file)["programs"]
    return expected


def options() -> Any:
    parser = argparse.ArgumentParser(prog="validation.sh run")
    parser.add_argument("--suite", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--runtime", default=str(HERE.parent / ".venv/bin/ocipy"), help="path or name (default: .venv/bin/ocipy)")
    parser.add_argument("--json", type=Path, help="file to write (default: validation-RUNTIME.json in the lab)")
    parser.add_argument("--timeout", type=int, default=120, help="seconds for a program")
    parser.add_argument("--show", action="store_true", help="print what failing programs printed")
    parser.add_argument("program", nargs="*", help="default: all")
    return parser.parse_args()


def alone(suite: Path) -> Any:
    """The lock that lets one run wait for another."""
    lock = open(suite / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("validation: waits for another run to end: the suite's cgroup names are fixed", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def run_all(chosen: Any, runtime: str, name: str) -> list[Outcome]:
    expected = expectations()
    outcomes = []
    for program in chosen.program or sorted(os.listdir(chosen.suite / "programs")):
        should = expected.get(program, {}).get(name) is True
        outcome = run_program(chosen.suite, program, runtime, chosen.timeout)
        while should and not outcome.passed and outcome.attempts < ATTEMPTS:
            outcome = run_program(chosen.suite, program, runtime, chosen.timeout)._replace(attempts=outcome.attempts + 1)
        outcomes.append(outcome)
        mark = "ok  " if outcome.passed else "fail"
        again = f" (attempt {outcome.attempts})" if outcome.attempts > 1 else ""
        print(f"{mark}  {program:34} {outcome.seconds:5.1f} s{again}  {outcome.why[:150]}", flush=True)
        if chosen.show and not outcome.passed:
            print("      " + outcome.output.replace("\n", "\n      "))
    return outcomes


def summarise(outcomes: list[Outcome], name: str) -> int:
    """Print counts and surprises; the exit status."""
    expected = expectations()
    passed = [o.program for o in outcomes if o.passed]
    print(f"\n{len(passed)} of {len(outcomes)} programs pass with {name}")
    worse = [o for o in outcomes if not o.passed and expected.get(o.program, {}).get(name) is True]
    better = [program for program in passed if expected.get(program, {}).get(name) is False]
    new = [o.program for o in outcomes if name not in expected.get(o.program, {})]
    if better:
        print("pass, and expected.toml says they do not: " + " ".join(better))
    if new:
        print(f"not in expected.toml for {name}: " + " ".join(new))
    for outcome in worse:
        print(f"REGRESSION {outcome.program}: {outcome.why}")
    return 1 if worse else 0


def main() -> int:
    chosen = options()
    runtime = shutil.which(chosen.runtime)
    if not runtime or os.geteuid() != 0:
        sys.exit("validation: needs root" if runtime else f"validation: no runtime {chosen.runtime}")
    runtime, name = os.path.abspath(runtime), os.path.basename(runtime)
    lock = alone(chosen.suite)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans are ours to end
    outcomes = run_all(chosen, runtime, name)
    target = chosen.json or chosen.suite.parent / f"validation-{name}.json"
    target.write_text(json.dumps({"runtime": name, "programs": [o._asdict() for o in outcomes]}, indent=1))
    lock.close()
    return summarise(outcomes, name)


if __name__ == "__main__":
    sys.exit(main())
