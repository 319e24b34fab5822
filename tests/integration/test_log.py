"""--debug and --log-level: what a command tells of itself while it works, and that it tells nothing unasked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container

Make = Callable[..., Container]


def with_hooks(config: Config) -> None:
    config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 0"]}] for kind in ("createRuntime", "poststart", "poststop")
    }


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def told(log: Path) -> str:
    return "".join(f"{entry['level']}: {entry['msg']}\n" for entry in entries(log))


@pytest.fixture
def life(container: Make, tmp_path: Path) -> Callable[..., Path]:
    """``life(*global flags)``: a container's life from create to delete, and the log of it."""

    def live(*flags: str) -> Path:
        box, log = container("/bin/sleep", "100", mutate=with_hooks), tmp_path / "log"
        flags = ("--log", str(log), "--log-format", "json", *flags)
        box.runtime(*flags, "create", "--bundle", box.bundle.path, box.id, stdout=box.output, stderr=box.errors)
        pid = box.pid
        for verb in (["start", box.id], ["exec", box.id, "/bin/true"], ["pause", box.id], ["resume", box.id]):
            assert box.runtime(*flags, *verb, stderr=tmp_path / "stderr").stderr == ""
        assert box.runtime(*flags, "state", box.id).stderr == ""
        box.runtime(*flags, "update", "--pids-limit", "50", box.id)
        box.runtime(*flags, "kill", box.id, "KILL")
        box.wait_exit(pid)
        box.runtime(*flags, "delete", box.id)
        assert box.errors.read_text() == ""
        return log

    return live


@pytest.mark.parametrize("flags", [("--debug",), ("--log-level", "debug"), ("--log-level=error", "--debug")], ids=" ".join)
def test_debug_tells_of_every_phase(life: Callable[..., Path], flags: tuple[str, ...]) -> None:
    text = told(life(*flags))
    for words in (
        r"debug: ocipy \S+, pid \d+, kernel \S+: create \['ocipy-test-[-\d]+'\]",
        r"debug: read /\S+/config.json: \d+ bytes, ociVersion 1.0.2",
        r"debug: a plan of \d+ steps, \d+ of them inside the container",
        r"debug: cgroup pids: /sys/fs/cgroup/pids/ocipy-test-\S+",
        r"debug: state directory /\S+",
        r"debug: step /linux/cgroupsPath: make the cgroup",
        r"debug: init is pid \d+",
        r"debug: createRuntime hook 0 /bin/sh: succeeded, after \d+\.\d ms",
        r"debug: init has done all of its steps and waits for start",
        r"info: container \S+: created, pid \d+",
        r"info: container \S+: its program runs, pid \d+",
        r"debug: poststart hook 0 /bin/sh: succeeded, after",
        r"debug: a plan of \d+ steps to join the namespaces",
        r"debug: pid \d+ executes the program",
        r"debug: pid \d+ has ended, wait status 0x0",
        r"info: container \S+: paused",
        r"info: container \S+: resumed",
        r"info: container \S+: limits of pids are set in /",
        r"info: container \S+: signal 9 to its init, pid \d+",
        r"debug: container \S+: nothing of it runs; to remove: /",
        r"debug: poststop hook 0 /bin/sh: succeeded, after",
        r"info: container \S+: deleted",
        r"debug: exit status 0",
    ):
        assert re.search(words, text), words + "\n" + text


def test_info_tells_what_became_of_a_container_and_no_more(life: Callable[..., Path]) -> None:
    found = entries(life("--log-level", "info"))
    assert {entry["level"] for entry in found} == {"info"}
    ends = ["created", "program runs", "process runs", "paused", "resumed", "set", "signal", "deleted"]
    assert [word for entry in found for word in ends if word in entry["msg"]] == ends
    assert all(set(entry) == {"level", "msg", "time"} for entry in found)


@pytest.mark.parametrize("flags", [(), ("--log-level", "warning"), ("--log-level", "error")], ids=repr)
def test_unasked_nothing_is_told(life: Callable[..., Path], tmp_path: Path, flags: tuple[str, ...]) -> None:
    life_log = tmp_path / "log"
    life_log.touch()
    assert life(*flags).read_text() == ""


@pytest.mark.parametrize("flags", [(), ("--log-level", "warning"), ("--log-level", "error")], ids=repr)
def test_a_failure_is_one_entry(container: Make, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """With a warning before it, which is a part of that entry."""

    def change(config: Config) -> None:
        config["process"]["capabilities"]["bounding"].append("CAP_OF_TOMORROW")
        config["process"]["args"] = ["/nowhere"]

    box, log = container(mutate=change), tmp_path / "log"
    box.runtime("--log", log, "--log-format", "json", *flags, "create", "--bundle", box.bundle.path, box.id, check=False)
    (entry,) = entries(log)
    assert entry["level"] == "error"
    assert ("CAP_OF_TOMORROW" in entry.get("warnings", "")) == (flags != ("--log-level", "error"))


def test_the_error_is_the_last_entry_of_a_debug_log(container: Make, tmp_path: Path) -> None:
    box, log = container("/nowhere"), tmp_path / "log"
    box.runtime("--debug", "--log", log, "--log-format", "json", "create", "--bundle", box.bundle.path, box.id, check=False)
    found = entries(log)
    assert [entry["level"] for entry in found].index("error") == len(found) - 1
    assert "no such file or directory" in found[-1]["msg"]


def test_without_a_log_debug_goes_to_standard_error_as_text(container: Make) -> None:
    box = container("/bin/true")
    box.runtime("--debug", "run", "--bundle", box.bundle.path, box.id, stderr=box.errors)
    lines = box.errors.read_text().splitlines()
    assert lines
    assert all(re.match(r"ocipy: (debug|info): ", line) for line in lines)


def test_debug_does_not_tell_what_exec_was_given(container: Make, tmp_path: Path) -> None:
    box, log = container("/bin/sleep", "100"), tmp_path / "log"
    box.run("--detach")
    box.runtime("--debug", "--log", log, "exec", "-e", "PASSWORD=secret-1", box.id, "/bin/echo", "secret-2")
    assert "secret" not in log.read_text()


@pytest.mark.parametrize("level", ["loud", "Debug", "trace"])
def test_a_level_that_is_none_is_refused(container: Make, level: str) -> None:
    box = container()
    answer = box.runtime("--log-level", level, "list", check=False)
    assert (answer.status, answer.stderr) == (1, f"ocipy: invalid log-level: {level} (error, warning, info or debug)\n")
