"""pause and resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import PREFIX, Container, Runtime, make_bundle, wait_until

Make = Callable[..., Container]


def cpu_time(box: Container) -> int:
    """In the units of the hierarchy: nanoseconds on v1, microseconds on v2."""
    cgroup = box.cgroup("cpuacct")
    v1 = cgroup / "cpuacct.usage"
    return int(v1.read_text() if v1.exists() else (cgroup / "cpu.stat").read_text().split()[1])


def test_a_paused_container_stands_still_until_it_is_resumed(container: Make, runtime: Runtime) -> None:
    box = container("/bin/sh", "-c", "while :; do echo x; done")
    box.run("--detach")
    box.wait_output("x")
    answer = runtime("pause", box.id)
    assert (answer.stdout, answer.stderr) == ("", "")
    assert box.status == "paused"
    used, size = cpu_time(box), box.output.stat().st_size
    assert (cpu_time(box), box.output.stat().st_size) == (used, size)
    answer = runtime("resume", box.id)
    assert (answer.stdout, answer.stderr, box.status) == ("", "", "running")
    wait_until(lambda: cpu_time(box) > used, 10, "the container to run")


def test_a_container_that_waits_for_start_can_be_paused_and_resumed(container: Make, runtime: Runtime) -> None:
    box = container("/bin/true")
    box.create()
    runtime("pause", box.id)
    assert box.status == "paused"
    refused = box.start(check=False)
    assert (refused.status, refused.stderr) == (1, f'ocipy: cannot start container "{box.id}": it is paused, not created\n')
    runtime("resume", box.id)
    assert box.status == "created"
    box.start()


def test_what_is_not_in_the_right_state_is_neither_paused_nor_resumed(container: Make, runtime: Runtime, tmp_path: Path) -> None:
    box = container("/bin/sleep", "300")
    box.run("--detach")

    def refused(verb: str) -> str:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        answer = runtime("--log", log, "--log-format", "json", verb, box.id, check=False)
        assert (answer.status, answer.stdout) == (1, "")
        message = json.loads(log.read_text())["msg"]
        assert answer.stderr == f"ocipy: {message}\n"
        return str(message)

    assert refused("resume") == f'cannot resume a running container: container not paused: "{box.id}"'
    runtime("pause", box.id)
    assert refused("pause") == f'cannot pause a paused container: container not running: "{box.id}"'
    pid = box.pid
    box.kill("KILL")  # which a paused container does not outlive
    box.wait_exit(pid)
    assert refused("pause") == f'cannot pause a stopped container: container not running: "{box.id}"'
    assert refused("resume") == f'cannot resume a stopped container: container not paused: "{box.id}"'
    box.delete()
    assert refused("pause") == refused("resume") == f'container "{box.id}" does not exist'


def test_podmans_environment_is_enough(container: Make, runtime: Runtime) -> None:
    box = container("/bin/sleep", "300")
    box.run("--detach")
    for verb, then in (("pause", "paused"), ("resume", "running")):
        runtime(verb, box.id, env={"XDG_RUNTIME_DIR": "/run"})
        assert box.status == then


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed: nothing to compare with")
def test_the_words_of_refusals_are_those_of_runc(container: Make, runtime: Runtime, tmp_path: Path) -> None:
    theirs = Runtime(tmp_path / "runc", shutil.which("runc"))
    other = theirs.container(make_bundle(tmp_path / "other", args=["/bin/sleep", "300"]), f"{PREFIX}-other")
    box = container("/bin/sleep", "300")
    try:
        for each in (box, other):
            each.run("--detach")

        def words(verb: str) -> tuple[str, str]:
            ours, runcs = (each.runtime(verb, each.id, check=False).stderr for each in (box, other))
            return ours, runcs.split('msg="')[1].rstrip('"\n')

        ours, runcs = words("resume")
        assert runcs in ours
        for each in (box, other):
            each.runtime("pause", each.id)
        ours, runcs = words("pause")
        assert runcs in ours
    finally:
        assert theirs.close() == []
