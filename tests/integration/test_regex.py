"""kill --regex and delete --regex: what matches, and what becomes of the rest when one fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import Container, Runtime, make_bundle

Make = Callable[..., Container]


@pytest.fixture
def boxes(runtime: Runtime, tmp_path: Path) -> dict[str, Container]:
    """Containers web-1, web-2 and db-1, running."""
    found = {}
    for name in ("web-1", "web-2", "db-1"):
        box = runtime.container(make_bundle(tmp_path / name, args=("/bin/sleep", "100")), name)
        box.run("--detach")
        found[name] = box
    return found


def ids(runtime: Runtime) -> list[str]:
    return runtime("list", "--quiet").stdout.split()


@pytest.mark.parametrize(
    ("pattern", "hit"),
    [
        ("web", ["web-1", "web-2"]), ("1$", ["db-1", "web-1"]), ("^(db|web)-1$", ["db-1", "web-1"]),
        (".", ["db-1", "web-1", "web-2"]),
        ("eb", ["web-1", "web-2"]), ("^eb", []), ("web-[^1]", ["web-2"]),
    ],
    ids=repr,
)  # fmt: skip
def test_kill_reaches_every_container_whose_id_the_expression_is_found_in(
    runtime: Runtime, boxes: dict[str, Container], pattern: str, hit: list[str]
) -> None:
    pids = {name: box.pid for name, box in boxes.items()}
    assert runtime("kill", "--regex", pattern, "KILL").stderr == ""
    for name in hit:
        boxes[name].wait_exit(pids[name])
    assert sorted(name for name, box in boxes.items() if box.status == "stopped") == hit


def test_without_the_flag_an_expression_is_no_id(runtime: Runtime, boxes: dict[str, Container]) -> None:
    answer = runtime("kill", "^web", "KILL", check=False)
    assert (answer.status, "invalid container ID format" in answer.stderr) == (1, True)
    assert all(box.status == "running" for box in boxes.values())


def test_delete_force_takes_those_that_match_and_no_other(runtime: Runtime, boxes: dict[str, Container]) -> None:
    assert runtime("delete", "--regex", "--force", "^web-").stderr == ""
    assert ids(runtime) == ["db-1"]
    assert boxes["db-1"].status == "running"


def test_delete_goes_on_after_one_that_runs(runtime: Runtime, boxes: dict[str, Container], tmp_path: Path) -> None:
    boxes["web-1"].kill("KILL")
    boxes["web-1"].wait_for("stopped")
    answer = runtime("delete", "-r", "-", check=False)
    assert answer.status == 1
    refusal = 'ocipy: cannot delete container "%s" that is not stopped: running'
    assert answer.stderr == f"{refusal % 'db-1'} (and 1 more)\n{refusal % 'web-2'}\n"
    assert ids(runtime) == ["db-1", "web-2"]


def test_several_failures_are_one_entry_of_the_log(runtime: Runtime, boxes: dict[str, Container], tmp_path: Path) -> None:
    log = tmp_path / "log"
    runtime("--log", log, "--log-format", "json", "delete", "--regex", ".", check=False)
    entry = json.loads(log.read_text())
    assert entry["msg"].endswith("(and 2 more)")
    assert entry["more"].count("\n") == 1


def test_kill_goes_on_after_one_that_is_stopped(runtime: Runtime, boxes: dict[str, Container]) -> None:
    boxes["db-1"].kill("KILL")
    boxes["db-1"].wait_for("stopped")
    pids = {name: boxes[name].pid for name in ("web-1", "web-2")}
    answer = runtime("kill", "--regex", "-", "KILL", check=False)
    assert (answer.status, answer.stderr) == (1, 'ocipy: container not running: "db-1"\n')
    for name, pid in pids.items():
        boxes[name].wait_exit(pid)


def test_a_damaged_record_is_an_error_unless_forced(runtime: Runtime, boxes: dict[str, Container]) -> None:
    (runtime.root / "db-1" / "state").write_text("nothing of use")
    answer = runtime("delete", "--regex", "db", check=False)
    assert (answer.status, "is corrupt" in answer.stderr) == (1, True)
    runtime("delete", "--regex", "--force", ".")
    assert ids(runtime) == []


@pytest.mark.parametrize("flags", [("kill",), ("delete",), ("delete", "--force")], ids=" ".join)
def test_no_match_is_no_error(runtime: Runtime, flags: tuple[str, ...]) -> None:
    answer = runtime(*flags, "--regex", "nothing")
    assert (answer.stdout, answer.stderr) == ("", "")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "an empty regular expression matches every container"),
        ("[", 'ocipy: "[" is not a regular expression: unterminated character set at position 0'),
        ("a**", "is not a regular expression"),
        ("(" * 10000, "is not a regular expression"),
    ],
    ids=["empty", "[", "a**", "deep"],
)
@pytest.mark.parametrize("verb", ["kill", "delete"])
def test_what_is_no_expression_is_refused(runtime: Runtime, verb: str, pattern: str, words: str) -> None:
    flags = ["--force"] if verb == "delete" else []
    answer = runtime(verb, *flags, "--regex", pattern, check=False)
    assert answer.status == 1
    assert words in answer.stderr
    assert answer.stderr.count("\n") == 1
