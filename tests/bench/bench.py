"""ocipy beside runc and crun: time and memory of each verb, in several kinds of containers, alone and in a crowd.

    python tests/bench [--quick] [--rounds N] [--cold-rounds N] [--output FILE]

The runtimes are $OCIPY (default: .venv/bin/ocipy), $RUNC and $CRUN (default: found in PATH); what is missing is left out.

Every measurement is a fresh process. Within a round each runtime does the same verb once, in an order that changes from round to
round, so that what disturbs the machine disturbs all. Everything happens in one private mount namespace; on cgroup v1 without the
unified hierarchy, which crun refuses beside v1 ones that have controllers.

Joining a cgroup of v1 waits for the kernel's RCU when nobody joined one for some 20 ms. So the phase is fixed: *warm*, a join that
changes nothing just before; *cold*, 60 ms of idleness before.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from crowd import AT_ONCE, Crowd, one_core, system_calls  # noqa: E402
from report import Found, draw, report  # noqa: E402
from runtimes import Failed, Subject, reap, rounds, subjects  # noqa: E402
from scenes import PROFILE, SCENES, end_sandbox  # noqa: E402

from bundles import PREFIX, hierarchies, use_own_null  # noqa: E402

LIMITS = [n << m for m in range(12, 25) for n in (4, 6)]  # bytes: 16 KiB, 24, 32, 48 ... 96 MiB
MEMORY_TRIES = 5


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


def remove_cgroups() -> None:
    for point in set(hierarchies().values()):
        for directory, _, _ in os.walk(point / PREFIX, topdown=False):
            os.rmdir(directory)


# ---- what is measured beside the verbs ------------------------------------------------------------------------------------


def smallest_limit(runtime: Subject) -> int | None:
    """The least memory limit, in bytes, under which a program that does nothing always runs, by bisection of LIMITS; None: none."""
    bundle = runtime.bundle("limited", ["/bin/true"])

    def starts(limit: int) -> bool:
        bundle.config["linux"]["resources"]["memory"] = {"limit": limit}
        bundle.write()
        for _ in range(MEMORY_TRIES):
            id = runtime.new_id()
            status = runtime.call("run", "--bundle", bundle.path, id, check=False).status
            runtime.call("delete", "--force", id, check=False)
            reap()
            if status:
                return False
        return True

    low, high = 0, len(LIMITS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if starts(LIMITS[middle]) else (middle + 1, high)
    return LIMITS[low] if low < len(LIMITS) else None


def calls(runtime: Subject) -> dict[str, int]:
    """System calls by verb."""
    bundle = runtime.bundle("counted", ["/bin/true"])
    sleeper = runtime.bundle("counted-sleeper", ["/bin/probe", "sleep"])
    id, pid_file = runtime.new_id(), sleeper.path / "pid"
    runtime.call("run", "--detach", "--bundle", sleeper.path, "--pid-file", pid_file, id)
    try:
        found = {"run": system_calls(runtime, "run", "--bundle", bundle.path, runtime.new_id())}
        found |= {"exec": system_calls(runtime, "exec", id, "/bin/true"), "state": system_calls(runtime, "state", id)}
        return found | {"delete --force": system_calls(runtime, "delete", "--force", id)}
    finally:
        runtime.call("delete", "--force", id, check=False)
        reap()


def in_turn(runtimes: list[Subject], what: str, measure: Callable[[Subject], Any]) -> dict[str, Any]:
    """What ``measure`` gives by runtime; one that fails is left out."""
    found = {}
    for runtime in runtimes:
        try:
            found[runtime.name] = measure(runtime)
        except (AssertionError, Failed, OSError, subprocess.SubprocessError) as failure:
            print(f"{what}: {runtime.name} is left out: {failure}", file=sys.stderr)
    return found


def crowds(runtimes: list[Subject], quick: bool) -> Found:
    """All that Found has besides the samples, which the runtimes have."""
    found = Found()
    crowd = {runtime.name: Crowd(runtime) for runtime in runtimes}
    for count in AT_ONCE:
        for _ in range((3 if quick else 10) if count < 100 else (1 if quick else 4)):
            for name, taken in in_turn(runtimes, "at once", lambda r, count=count: crowd[r.name].at_once(count)).items():
                found.at_once.setdefault((name, count), []).append(taken)
    with one_core():
        probing = {runtime.name: crowd[runtime.name].probes(1.0) for runtime in runtimes}
        for _ in range(2 if quick else 5):
            for name, rate in in_turn(runtimes, "probes", lambda r: next(probing[r.name])).items():
                found.probes.setdefault(name, []).append(rate)
        for each in probing.values():
            each.close()
    found.alive = 100 if quick else 1000
    found.beside = in_turn(runtimes, "beside", lambda r: crowd[r.name].create_beside(found.alive, 10 if quick else 30))
    found.calls = in_turn(runtimes, "system calls", calls)
    found.limits = in_turn(runtimes, "limits", smallest_limit)
    return found


def options() -> Any:
    parser = argparse.ArgumentParser(description="Measure ocipy beside runc and crun.")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer rounds")
    parser.add_argument("--rounds", type=int, help="warm rounds of the first scene (50, quick: 10)")
    parser.add_argument("--cold-rounds", type=int, help="cold rounds (25, quick: 4)")
    parser.add_argument("--output", default=str(REPOSITORY / "docs/performance.md"), help="file to write; - for none")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    isolate()
    warm, cold = chosen.rounds or (10 if chosen.quick else 50), chosen.cold_rounds or (4 if chosen.quick else 25)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ocipy-bench-") as directory:
        os.chmod(directory, 0o755)  # for containers in user namespaces
        try:
            runtimes = subjects(Path(directory))
            for scene in SCENES:
                if scene.name == "engine" and not PROFILE.exists():
                    print(f"there is no {PROFILE}: the scene of an engine is left out", file=sys.stderr)
                    continue
                rounds(runtimes, scene, "warm", warm if scene is SCENES[0] else warm // 2)
            rounds(runtimes, SCENES[0], "cold", cold)
            found = crowds(runtimes, chosen.quick)
            text = report(runtimes, found, load)
        finally:
            end_sandbox()
            reap()
            remove_cgroups()
            for mount in Path(directory).glob("*/state"):
                subprocess.run(["umount", mount], check=True)
    print(text)
    if chosen.output != "-":
        Path(chosen.output).write_text(text)
        draw(runtimes, found, Path(chosen.output).with_suffix(".svg"))


if __name__ == "__main__":
    main()
