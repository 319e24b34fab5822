"""ps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import Container, Runtime, make_bundle

Make = Callable[..., Container]
PS = pytest.mark.skipif(shutil.which("ps") is None, reason="ps is not installed")
TWO = ("/bin/sh", "-c", "sleep 300 & echo ready; wait")


@pytest.fixture
def box(container: Make) -> Container:
    made = container(*TWO)
    made.run("--detach")
    made.wait_output("ready")
    return made


def names(pids: list[int]) -> list[str]:
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


def test_json_is_every_process_also_of_nested_cgroups(box: Container, runtime: Runtime) -> None:
    answer = runtime("ps", "--format", "json", box.id)
    assert answer.stderr == ""
    assert answer.json[0] == box.pid
    assert names(answer.json) == ["sh", "sleep"]
    nested = box.cgroup("freezer") / "nested"
    nested.mkdir()
    (nested / "cgroup.procs").write_text(str(answer.json[1]))
    assert sorted(runtime("ps", "-f=json", box.id, env={}).json) == sorted(answer.json)
    runtime("pause", box.id)
    assert sorted(runtime("ps", "-f", "json", box.id).json) == sorted(answer.json)


@PS
def test_the_table_is_that_of_ps_for_these_processes(box: Container, runtime: Runtime) -> None:
    pids = runtime("ps", "--format", "json", box.id).json
    header, *lines = runtime("ps", box.id).stdout.splitlines()
    assert header.split()[:3] == ["UID", "PID", "PPID"]
    assert [int(line.split()[1]) for line in lines] == pids
    words = runtime("ps", box.id, "-e", "-o", "comm,pid").stdout.split()
    assert words == ["COMMAND", "PID", "sh", str(pids[0]), "sleep", str(pids[1])]
    assert runtime("ps", "--format", "table", box.id, "axu", env={}).stdout.count("\n") == 3


def test_a_stopped_container_has_none(box: Container, runtime: Runtime) -> None:
    pid = box.pid
    box.kill("KILL")
    box.wait_exit(pid)
    assert runtime("ps", "--format", "json", box.id).stdout == "null\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-f", "xml", "ID"), "invalid format option: xml (table or json)"),
        pytest.param(
            ("ID", "-e", "-o", "comm"),
            "the output of ps has no column PID to find the container's processes by: give other options",
            marks=PS,
        ),
        pytest.param(("ID", "--nosuch"), "ps --nosuch: error: unknown gnu long option", marks=PS),
    ],
    ids=["format", "column", "options"],
)
def test_what_is_wrong_is_one_line(box: Container, runtime: Runtime, words: tuple[str, ...], message: str) -> None:
    answer = runtime("ps", *(box.id if word == "ID" else word for word in words), check=False)
    assert (answer.status, answer.stdout, answer.stderr) == (1, "", f"ocipy: {message}\n")


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed: nothing to compare with")
def test_both_formats_are_those_of_runc(box: Container, runtime: Runtime, tmp_path: Path) -> None:
    theirs = Runtime(tmp_path / "runc", shutil.which("runc"))
    other = theirs.container(make_bundle(tmp_path / "other", args=TWO))
    try:
        other.run("--detach")
        other.wait_output("ready")
        shown = []
        for each in (box, other):
            pids = each.runtime("ps", "-f", "json", each.id)
            assert pids.stdout == "[" + ",".join(map(str, pids.json)) + "]\n"
            text = each.runtime("ps", each.id, "-e", "-o", "pid:20,comm,args").stdout
            for pid in pids.json:
                text = text.replace(f"{pid:20}", "PID".rjust(20))
            shown.append(text)
            pid = each.pid
            each.kill("KILL")
            each.wait_exit(pid)
            shown.append(each.runtime("ps", "-f", "json", each.id).stdout)
        assert shown[:2] == shown[2:]
    finally:
        assert theirs.close() == []
