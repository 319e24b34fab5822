"""A time namespace and its offsets (config-linux.md, Offset for Time Namespace)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
Offsets = dict[str, dict[str, int]]

FROM = 100000
NANOSECONDS = 10**9
SLACK = 3600 * NANOSECONDS  # far more than a test takes, far less than the offsets


def shifted(offsets: Offsets | None, *, mapped: bool = False) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        set_namespace(config, "time")
        if offsets is not None:
            config["linux"]["timeOffsets"] = offsets
        if mapped:
            set_namespace(config, "user")
            for name in ("uidMappings", "gidMappings"):
                config["linux"][name] = [{"containerID": 0, "hostID": FROM, "size": 65536}]

    return change


def nanoseconds(offset: dict[str, int]) -> int:
    return offset.get("secs", 0) * NANOSECONDS + offset.get("nanosecs", 0)


def check_clocks(seen: dict[str, Any], offsets: Offsets) -> None:
    for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME)):
        shown = seen[name] - time.clock_gettime_ns(clock)
        assert abs(shown - nanoseconds(offsets.get(name, {}))) < SLACK, name


def kernel_offsets(pid: int) -> Offsets:
    lines = [line.split() for line in Path(f"/proc/{pid}/timens_offsets").read_text().splitlines()]
    return {name: {"secs": int(seconds), "nanosecs": int(rest)} for name, seconds, rest in lines}


OFFSETS: dict[str, Offsets] = {
    "both": {"monotonic": {"secs": 864000}, "boottime": {"secs": 1728000, "nanosecs": 500}},
    "one": {"boottime": {"secs": 864000}},
    "nanoseconds alone": {"monotonic": {"nanosecs": 999999999}},
    "none": {},
}


@pytest.mark.spec("/linux/timeOffsets/*")
@pytest.mark.parametrize("mapped", [False, True], ids=["", "in a user namespace"])
@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS.keys())
def test_clocks_are_shifted(container: Make, offsets: Offsets, mapped: bool) -> None:
    box = container("/bin/probe", "trap", mutate=shifted(offsets, mapped=mapped))
    if mapped:
        subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", box.bundle.rootfs], check=True)
    box.run("--detach")
    box.wait_output("ready")
    found = kernel_offsets(box.pid)
    for name in ("monotonic", "boottime"):
        assert found[name] == {"secs": 0, "nanosecs": 0} | offsets.get(name, {})
    check_clocks(box.exec("/bin/probe").json, offsets)
    box.delete("--force")


def test_the_first_process_sees_the_shifted_clocks(probe: Probe) -> None:
    check_clocks(probe(shifted(OFFSETS["both"])), OFFSETS["both"])


@pytest.mark.spec("/linux/timeOffsets/*")
def test_a_clock_may_go_back(probe: Probe) -> None:
    back = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // NANOSECONDS // 2
    offsets = {"monotonic": {"secs": -back}}
    seen = probe(shifted(offsets))
    assert seen["monotonic"] < time.clock_gettime_ns(time.CLOCK_MONOTONIC) - back * NANOSECONDS + SLACK
    assert seen["timens_offsets"].split()[:3] == ["monotonic", str(-back), "0"]


def test_a_namespace_without_offsets_has_the_hosts_clocks(probe: Probe) -> None:
    check_clocks(probe(shifted(None)), {})


@pytest.fixture
def foreign() -> Iterator[str]:
    """A time namespace ten days ahead, of another process."""
    argv = ["unshare", "--time", "--monotonic", "864000", "--fork", "--kill-child", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield f"/proc/{process.pid}/ns/time_for_children"
        process.kill()


def test_a_joined_namespace_has_its_own_offsets(probe: Probe, foreign: str) -> None:
    seen = probe(lambda config: set_namespace(config, "time", foreign))
    assert seen["namespaces"]["time"] == os.readlink(foreign)
    check_clocks(seen, {"monotonic": {"secs": 864000}})


def test_offsets_of_a_joined_namespace_are_an_error(container: Make, foreign: str) -> None:
    def change(config: Config) -> None:
        set_namespace(config, "time", foreign)
        config["linux"]["timeOffsets"] = OFFSETS["one"]

    answer = container(mutate=change).create(check=False)
    assert answer.status == 1
    assert "timeOffsets" in answer.stderr


@pytest.mark.parametrize(
    "offsets",
    [
        *[{"monotonic": {"secs": -(10**15)}}, {"boottime": {"nanosecs": NANOSECONDS}}],
        *[{"monotonic": {"secs": 2**62}}, {"realtime": {"secs": 1}}],
    ],
    ids=["before the start", "a second in nanoseconds", "beyond the end of time", "of the wall clock"],
)
def test_offsets_that_no_clock_can_have_are_an_error(container: Make, offsets: Offsets) -> None:
    answer = container(mutate=shifted(offsets)).create(check=False)
    assert answer.status == 1
    assert "timeOffsets" in answer.stderr
    assert answer.stderr.count("\n") == 1
