"""events."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import PREFIX, TIME_SCALE, Container, Runtime, cgroup_of, hierarchies, make_bundle, wait_until
from ocipy.linux.cgroups.host import read_cgroup_host
from ocipy.linux.cgroups.oom import OomWatch
from ocipy.linux.cgroups.stats import read_stats

Make = Callable[..., Container]
MIB = 1 << 20
V1 = pytest.mark.skipif(read_cgroup_host().mode not in ("v1", "hybrid"), reason="this host has no cgroup v1")


class Follower:
    """events at work, and what it has told."""

    def __init__(self, box: Container, interval: str) -> None:
        self.output = box.runtime.directory / "events"
        with open(self.output, "wb") as out:
            argv = [box.runtime.path, "--root", str(box.runtime.root), "events", "--interval", interval, box.id]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.told()]

    def wait(self) -> int:
        return self.process.wait(10 * TIME_SCALE)


@pytest.fixture
def follow() -> Any:
    followers = []

    def start(box: Container, interval: str) -> Follower:
        followers.append(Follower(box, interval))
        return followers[-1]

    yield start
    for follower in followers:
        follower.process.kill()
        follower.process.wait()


def test_stats_are_told_again_and_again_until_the_container_ends(container: Make, follow: Callable[..., Follower]) -> None:
    box = container("/bin/sleep", "300")
    box.create()
    follower = follow(box, "20ms")
    wait_until(lambda: len(follower.told()) > 2, 10, "stats")
    box.start()
    event = follower.told()[0]
    assert (list(event), event["type"], event["id"]) == (["type", "id", "data"], "stats", box.id)
    pid = box.pid
    box.kill("KILL")
    box.wait_exit(pid)
    assert follower.wait() == 0
    assert set(follower.kinds()) == {"stats"}


def test_want_of_memory_is_told(container: Make, follow: Callable[..., Follower]) -> None:
    """While the container lives: the kernel waits 10 ms with the news, and systemd removes a cgroup when it has nobody."""

    def limit(config: Any) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}

    box = container("/bin/sh", "-c", "tail /dev/zero; echo survived; exec sleep 300", mutate=limit)
    box.create()
    follower = follow(box, "20ms")
    wait_until(lambda: bool(follower.told()), 10, "the first stats")
    box.start()
    wait_until(lambda: {"type": "oom", "id": box.id} in follower.told(), 30, "the news")
    box.wait_output("survived")
    box.kill("KILL")
    assert follower.wait() == 0


@V1
def test_a_container_that_is_deleted_ends_the_command(container: Make, follow: Callable[..., Follower]) -> None:
    box = container("/bin/sleep", "300")
    box.create()
    follower = follow(box, "1h")
    wait_until(lambda: "eventfd" in str(fds(follower)), 10, "the eventfd")
    box.delete("--force")
    assert (follower.wait(), follower.told()) == (0, [])


@V1
def test_the_end_of_a_cgroup_is_no_want_of_memory() -> None:
    path = hierarchies()["memory"] / f"{PREFIX}-oom"
    path.mkdir()
    try:
        watch = OomWatch({"memory": str(path)})
    finally:
        path.rmdir()
    poll = select.poll()
    poll.register(watch.fd, watch.mask)
    assert poll.poll(10_000)
    assert not watch.happened()
    os.close(watch.fd)


def fds(follower: Follower) -> list[str]:
    found = []
    for link in Path(f"/proc/{follower.process.pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def test_stats_once(container: Make, runtime: Runtime) -> None:
    box = container("/bin/sleep", "300", mutate=lambda config: config["linux"]["resources"].update(pids={"limit": 9}))
    box.run("--detach")
    for state in ("running", "paused"):
        if state == "paused":
            runtime("pause", box.id)
        answer = runtime("events", "--stats", box.id, env={})
        assert (answer.stderr, answer.stdout.count("\n")) == ("", 1)
        assert answer.json["data"]["pids"] == {"current": 1, "limit": 9}
        assert answer.json["data"]["cpu"]["usage"]["total"] > 0


def test_what_is_wrong_is_one_line(container: Make, runtime: Runtime) -> None:
    box = container("/bin/true")
    box.create()

    def refused(*flags: str) -> str:
        answer = runtime("events", *flags, box.id, check=False)
        assert (answer.status, answer.stdout) == (1, "")
        return answer.stderr

    assert refused("--interval", "0s") == "ocipy: duration interval must be greater than 0\n"
    assert refused("--interval=5") == 'ocipy: invalid value "5" for flag -interval: not a duration such as 5s\n'
    pid = box.pid
    box.start()
    box.wait_exit(pid)
    for flags in ((), ("--stats",)):
        assert refused(*flags) == f'ocipy: cannot tell its events: container not running: "{box.id}"\n'


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value)


def known_to(theirs: Any, ours: Any) -> Any:
    """Ours without what their version of runc does not tell: pressure, peaks."""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return ours
    return {name: known_to(theirs[name], value) for name, value in ours.items() if name in theirs}


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed: nothing to compare with")
def test_of_one_container_we_tell_what_runc_tells(no_leaks: None, tmp_path: Path) -> None:
    theirs = Runtime(tmp_path / "runc", shutil.which("runc"))

    def limit(config: Any) -> None:
        config["linux"]["resources"] |= {"memory": {"limit": 64 * MIB}, "pids": {"limit": 9}}
        config["linux"]["resources"]["cpu"] = {"quota": 5000, "period": 10000}

    box = theirs.container(make_bundle(tmp_path / "other", args=("/bin/sleep", "300"), mutate=limit))
    try:
        box.run("--detach")
        theirs("pause", box.id)
        paths = {name: str(cgroup_of(box.pid, name)) for name in hierarchies()}

        def both() -> list[dict[str, Any]]:
            event = theirs("events", "--stats", box.id).json
            return [event, known_to(event, {"type": "stats", "id": box.id, "data": read_stats(paths)})]

        runcs, ours = (event["data"]["memory"] for event in both())  # whose numbers nobody can make stand still
        assert shape(runcs) == shape(ours)
        assert all(runcs[name]["limit"] == ours[name]["limit"] for name in ("usage", "swap", "kernel"))

        def equal() -> bool:
            events = both()
            for event in events:
                del event["data"]["memory"]
            return events[0] == events[1]

        wait_until(equal, 5, "the same numbers, but for a last tick of the scheduler")
    finally:
        assert theirs.close() == []
