"""runtime.md: the state, the operations and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import Container

clauses = pytest.mark.clauses
SLEEP = ("/bin/sleep", "1000")


@pytest.fixture
def box(container: Callable[..., Container]) -> Container:
    """A container that does not exist yet."""
    return container(*SLEEP)


@clauses("runtime.operations", "runtime.scope", "runtime.create.new", "runtime.state.status", "bundle.config.place")
def test_a_container_goes_from_created_over_running_to_stopped_and_away(box: Container) -> None:
    box.create()
    assert box.status == "created"
    box.start()
    assert box.status == "running"
    box.kill()
    box.wait_for("stopped")
    box.delete()
    assert box.runtime("state", box.id, check=False).status != 0


@clauses("runtime.state.ociVersion", "runtime.state.id", "runtime.state.pid", "runtime.state.bundle", "runtime.state.op.output")
def test_the_state_tells_version_id_pid_and_bundle(box: Container) -> None:
    box.create()
    state = box.state()
    assert isinstance(state["ociVersion"], str)
    assert state["id"] == box.id
    assert Path(f"/proc/{state['pid']}").is_dir()
    assert state["bundle"] == str(box.bundle.path)


@clauses("runtime.create.id.error", "runtime.create.id.nothing", "runtime.state.id.unique")
@pytest.mark.parametrize("status", ["created", "running", "stopped"])
def test_an_id_that_is_taken_is_refused(container: Callable[..., Container], status: str) -> None:
    box = container(*SLEEP)
    box.create()
    if status != "created":
        box.start()
    if status == "stopped":
        box.kill()
        box.wait_for("stopped")
    before = box.state()
    other = container("/bin/true", id=box.id)
    assert other.create(check=False).status != 0
    assert box.state() == before


@clauses("runtime.create.id.error", "runtime.create.id.nothing")
@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "../up", "/abs"], ids=repr)
def test_an_id_that_is_no_name_is_refused(box: Container, id: str) -> None:
    said = box.runtime("create", "--bundle", box.bundle.path, id, check=False, stdout=box.output, stderr=box.errors)
    known = box.runtime("state", id, check=False).status == 0
    outside = (box.runtime.directory / "up").exists()
    if said.status == 0:
        box.runtime("delete", "--force", Path(id).name, check=False)
    assert said.status != 0
    assert not known
    assert not outside


@clauses("runtime.create.bundle")
def test_create_without_a_bundle_is_an_error(box: Container) -> None:
    assert box.runtime("create", box.id, check=False, cwd=box.bundle.path, stdout=box.output, stderr=box.errors).status != 0


WITHOUT_ID = {"state": "state.op.id", "create": "create.arguments", "start": "start.id", "kill": "kill.id", "delete": "delete.id"}


@pytest.mark.parametrize("verb", [pytest.param(verb, marks=clauses(f"runtime.{id}")) for verb, id in WITHOUT_ID.items()])
def test_an_operation_without_an_id_is_an_error(box: Container, verb: str) -> None:
    assert box.runtime(verb, check=False, cwd=box.bundle.path).status != 0


@clauses("runtime.create.arguments")
def test_create_with_a_bundle_and_no_id_is_an_error(box: Container) -> None:
    said = box.runtime("create", "--bundle", box.bundle.path, check=False, stdout=box.output, stderr=box.errors)
    assert said.status != 0


@clauses("runtime.state.op.absent")
def test_the_state_of_what_is_not_there_is_an_error(box: Container) -> None:
    assert box.runtime("state", box.id, check=False).status != 0


@clauses("runtime.start.status.error", "runtime.start.status.effect")
def test_a_running_container_is_not_started(box: Container) -> None:
    box.create()
    box.start()
    pid = box.pid
    assert box.start(check=False).status != 0
    assert (box.status, box.pid) == ("running", pid)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param("running", marks=clauses("runtime.delete.status.error", "runtime.delete.status.effect")),
        pytest.param("created", marks=clauses("runtime.delete.status.created")),
    ],
)
def test_a_container_that_is_not_stopped_is_not_deleted(box: Container, status: str) -> None:
    box.create()
    if status == "running":
        box.start()
    pid = box.pid
    assert box.delete(check=False).status != 0
    assert (box.status, box.pid) == (status, pid)


@clauses("runtime.start.status.error", "runtime.start.status.effect")
def test_a_stopped_container_is_not_started(box: Container) -> None:
    box.create()
    box.start()
    box.kill()
    box.wait_for("stopped")
    before = box.state()
    assert box.start(check=False).status != 0
    assert box.state() == before


@clauses("runtime.kill.signal")
def test_a_created_container_gets_the_signal(box: Container) -> None:
    box.create()
    pid = box.pid
    box.kill("KILL")
    assert box.wait_exit(pid) == -9


@clauses("runtime.kill.status.error", "runtime.kill.status.effect")
def test_a_stopped_container_takes_no_signal(box: Container) -> None:
    box.create()
    box.start()
    box.kill()
    box.wait_for("stopped")
    assert box.kill("TERM", check=False).status != 0
    assert box.status == "stopped"


@clauses("runtime.lifecycle.config.frozen", "runtime.lifecycle.program.waits", "runtime.create.args", "runtime.start.program")
def test_the_program_of_the_configuration_at_create_runs_at_start(box: Container) -> None:
    box.bundle.config["process"]["args"] = ["/bin/echo", "first"]
    box.bundle.write()
    box.create()
    assert box.output.read_text() == ""
    box.bundle.config["process"]["args"] = ["/bin/echo", "second"]
    (box.bundle.path / "config.json").write_text(json.dumps(box.bundle.config))
    box.start()
    box.wait_output("first\n")
    box.wait_for("stopped")
    assert box.output.read_text() == "first\n"


@clauses("runtime.lifecycle.program", "runtime.kill.signal")
def test_the_process_gets_the_signal_that_was_asked_for(box: Container) -> None:
    box.bundle.config["process"]["args"] = ["/bin/sh", "-c", "trap 'echo got; exit' USR1; echo ready; while :; do sleep 0.1; done"]
    box.bundle.write()
    box.create()
    box.start()
    box.wait_output("ready\n")
    box.kill("USR1")
    box.wait_output("got\n")


@clauses("runtime-linux.dev.symlinks")
def test_dev_links_to_the_descriptors_of_the_process(box: Container) -> None:
    links = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
    box.bundle.config["process"]["args"] = ["/bin/sh", "-c", "for n in fd stdin stdout stderr; do readlink /dev/$n; done; echo end"]
    box.bundle.write()
    box.create()
    box.start()
    assert box.wait_output("end\n").split() == [*(f"/proc/self/fd{tail}" for tail in links.values()), "end"]


@clauses("runtime.start.no-process")
def test_start_without_a_process_is_an_error(box: Container) -> None:
    del box.bundle.config["process"]
    box.bundle.write()
    box.create(check=False)
    assert box.start(check=False).status != 0
