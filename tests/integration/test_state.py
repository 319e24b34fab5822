from __future__ import annotations

import json
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, Runtime, freeze

Make = Callable[..., Container]
pytestmark = pytest.mark.rootless


def test_state_follows_the_container_from_created_to_gone(container: Make, runtime: Runtime) -> None:
    box = container("/bin/sleep", "300")
    box.create()
    state = box.state()
    pid = state["pid"]
    assert state["status"] == "created"
    assert Path(f"/proc/{pid}").exists()
    box.start()
    assert (box.status, box.pid) == ("running", pid)
    freeze(box)
    assert (box.status, box.pid) == ("paused", pid)
    freeze(box, frozen=False)
    box.kill("KILL")
    box.wait_exit(pid)
    assert (box.status, box.pid) == ("stopped", 0)
    box.delete()
    gone = runtime("state", box.id, check=False)
    assert (gone.status, gone.stdout, gone.stderr) == (1, "", f'ocipy: container "{box.id}" does not exist\n')


def test_a_paused_container_that_was_not_started_is_paused(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    freeze(box)
    assert box.status == "paused"
    freeze(box, frozen=False)
    assert box.status == "created"


def test_state_needs_no_standard_error_no_home_and_no_path(container: Make, runtime: Runtime) -> None:
    def annotate(config: Config) -> None:
        config["annotations"] = {"org.example.a/b": 'x "y" <z> ü\n'}

    box = container("/bin/true", mutate=annotate)
    box.create()
    answer = runtime("state", box.id, env={})
    assert answer.stderr == ""
    state = answer.json
    assert state["ociVersion"] == "1.3.0"
    assert state["id"] == box.id
    assert state["bundle"] == str(box.bundle.path)
    assert state["rootfs"] == str(box.bundle.rootfs)
    assert state["annotations"] == {"org.example.a/b": 'x "y" <z> ü\n'}


@pytest.mark.spec("/annotations")
@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed: nothing to compare with")
def test_state_and_list_have_the_members_and_types_of_runc(container: Make, runtime: Runtime, tmp_path: Path) -> None:
    box = container("/bin/true", mutate=lambda config: config.update(annotations={"a": "b"}))
    box.create()
    theirs = Runtime(tmp_path / "runc", shutil.which("runc"))
    other = theirs.container(box.bundle)
    other.create()
    try:

        def shape(value: dict[str, Any]) -> list[tuple[str, type]]:
            return [(name, type(item)) for name, item in value.items()]

        assert shape(box.state()) == shape(other.state())
        [ours_listed], [theirs_listed] = (each("list", "--format", "json").json for each in (runtime, theirs))
        assert shape(ours_listed) == shape(theirs_listed)
        assert ours_listed["owner"] == theirs_listed["owner"] == pwd.getpwuid(os.geteuid()).pw_name
        tables = [each("list").stdout.splitlines() for each in (runtime, theirs)]
        assert [line.split()[2] for line in tables[0]] == [line.split()[2] for line in tables[1]] == ["STATUS", "created"]
        assert tables[0][0].split() == tables[1][0].split()
    finally:
        assert theirs.close() == []


def test_list_shows_every_container_of_its_root(container: Make, runtime: Runtime) -> None:
    boxes = [container("/bin/sleep", "300") for _ in range(3)]
    for box in boxes:
        box.create()
    boxes[1].start()
    listed = {item["id"]: item for item in runtime("list", "-f", "json").json}
    assert [listed[box.id]["status"] for box in boxes] == ["created", "running", "created"]
    assert runtime("list", "--quiet").stdout.split() == sorted(box.id for box in boxes)
    rows = runtime("list").stdout.splitlines()
    assert len(rows) == 4
    assert len({row.index(row.split()[2]) for row in rows}) == 1  # aligned


def test_a_rebooted_or_recycled_pid_is_stopped(container: Make, runtime: Runtime) -> None:
    box = container("/bin/sleep", "300")
    box.create()
    pid = box.pid
    path = runtime.root / box.id / "state"
    text = path.read_text()
    for key, value in (("boot_id", '"another"'), ("start_time", "1")):
        lines = [f"{key} {value}" if line.startswith(key + " ") else line for line in text.splitlines()]
        path.write_text("\n".join(lines) + "\n")
        assert (box.status, box.state()["pid"]) == ("stopped", 0)
    path.write_text(text)
    assert box.pid == pid


def test_state_of_a_damaged_record_is_one_line(container: Make, runtime: Runtime, tmp_path: Path) -> None:
    box = container("/bin/sleep", "300")
    box.create()
    (runtime.root / box.id / "state").write_text("null\n")
    log = tmp_path / "log"
    answer = runtime("--log", log, "--log-format", "json", "state", box.id, check=False)
    assert (answer.status, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)
    assert json.loads(log.read_text())["msg"].endswith("use delete --force")
    box.delete("--force")  # which finds init all the same: nothing may be left
