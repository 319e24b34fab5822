"""config.md, hooks: in which order, when, where and with what on their standard input they run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Container, hierarchies

clauses = pytest.mark.clauses
Make = Callable[..., Container]
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
OF_CREATE, OF_START, OF_DELETE = KINDS[:3], KINDS[3:5], KINDS[5:]
NAMESPACES = ("mnt", "pid", "net", "uts", "ipc")
SLEEP = ("/bin/sleep", "1000")
READY = ("/bin/sh", "-c", "echo ready; exec sleep 1000")


def hook(script: str) -> dict[str, Any]:
    """A shell with the state in $state."""
    return {"path": "/bin/sh", "args": ["sh", "-c", f"state=$(cat); {script}"], "env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]}


PID = r"""pid=$(echo "$state" | tr -d ' \n' | sed 's/.*"pid":\([0-9]*\).*/\1/'); """


class Hooked:
    """A container with hooks of one kind, and the file in which they write, ``$trace`` to them."""

    def __init__(self, container: Make, kind: str, *scripts: str, args: tuple[str, ...] = READY) -> None:
        self.box = container(*args)
        inside = kind == "startContainer"
        self.trace = (self.box.bundle.rootfs if inside else self.box.bundle.path) / "trace"
        self.name = "/trace" if inside else str(self.trace)
        self.box.bundle.config["root"]["readonly"] = False
        self.set(kind, *scripts)

    def set(self, kind: str, *scripts: str) -> None:
        hooks = self.box.bundle.config.setdefault("hooks", {})
        hooks[kind] = [hook(f"trace={self.name}; {script}") for script in scripts]
        self.box.bundle.write()

    @property
    def lines(self) -> list[str]:
        return self.trace.read_text().splitlines() if self.trace.exists() else []

    def finish(self, until: str = "delete") -> list[str]:
        """What was written by the time that an operation has returned; the operations before it have passed."""
        self.box.create()
        if until == "create":
            return self.lines
        pid = self.box.pid
        self.box.start()
        if until == "start":
            return self.lines
        self.box.wait_output("ready\n")  # start may return before: that is for tests of when hooks run
        self.box.kill()
        self.box.wait_exit(pid)
        self.box.delete()
        return self.lines


def of_kinds(*kinds: str, clause: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [pytest.param(kind, marks=clauses(f"config.hooks.{kind}.{clause}")) for kind in kinds])


# ---- order and state -----------------------------------------------------------------------------------------------------------


@clauses("config.hooks.order")
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_called_in_the_order_of_the_list(container: Make, kind: str) -> None:
    first = "sleep 0.1; echo 1 >>$trace"
    assert Hooked(container, kind, first, *(f"echo {number} >>$trace" for number in range(2, 7))).finish() == list("123456")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        pytest.param("prestart", "createRuntime", marks=clauses("config.hooks.prestart.before")),
        pytest.param("createRuntime", "createContainer", marks=clauses("config.hooks.createContainer.after")),
    ],
)
def test_hooks_of_one_kind_are_called_before_those_of_another(container: Make, earlier: str, later: str) -> None:
    hooked = Hooked(container, later, "echo later >>$trace", "echo later >>$trace")
    hooked.set(earlier, "sleep 0.1; echo earlier >>$trace", "sleep 0.1; echo earlier >>$trace")
    assert hooked.finish("create") == ["earlier", "earlier", "later", "later"]


@clauses("config.hooks.state")
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_get_the_state_on_standard_input(container: Make, kind: str) -> None:
    hooked = Hooked(container, kind, 'echo "$state" >$trace')
    hooked.box.bundle.config["annotations"] = {"org.example.key": "a value"}
    hooked.box.bundle.write()
    hooked.finish()
    state = json.loads(hooked.trace.read_text())
    assert isinstance(state["ociVersion"], str)
    assert (state["id"], state["bundle"]) == (hooked.box.id, str(hooked.box.bundle.path))
    assert state["annotations"] == {"org.example.key": "a value"}
    assert state["status"] in {"poststop": ("stopped",), "poststart": ("running",), "startContainer": ("created",)}.get(
        kind, ("creating", "created")
    )


# ---- when ----------------------------------------------------------------------------------------------------------------------


@of_kinds(*OF_CREATE, clause="time")
def test_hooks_of_create_find_the_environment_and_the_root_as_it_was(container: Make, kind: str) -> None:
    """Before the root is changed the process sees the bundle; what the configuration mounts is there already."""
    root, info = ("", "self") if kind == "createContainer" else ("/proc/$pid/root", "$pid")
    script = f"""{PID} test -e {root}$bundle/config.json && echo early >>$trace
        grep -q ' - tmpfs conformance ' /proc/{info}/mountinfo && echo mounted >>$trace; true"""
    hooked = Hooked(container, kind, "true")
    hooked.set(kind, f"bundle={hooked.box.bundle.path}; {script}")
    hooked.box.bundle.config["mounts"].append({"destination": "/here", "type": "tmpfs", "source": "conformance"})
    hooked.box.bundle.write()
    assert hooked.finish("create") == ["early", "mounted"]
    hooked.box.start()
    assert hooked.lines == ["early", "mounted"]


@of_kinds("startContainer", clause="time")
def test_start_container_hooks_run_in_start_before_the_program(container: Make, kind: str) -> None:
    args = ("/bin/sh", "-c", "echo program >>/trace; echo ready; exec sleep 1000")
    hooked = Hooked(container, kind, "sleep 0.2; echo hook >>$trace", args=args)
    assert hooked.finish("create") == []
    hooked.box.start()
    hooked.box.wait_output("ready\n")
    assert hooked.lines == ["hook", "program"]


@of_kinds("poststart", clause="time")
def test_poststart_hooks_run_in_start_after_the_program_has_begun(container: Make, kind: str) -> None:
    hooked = Hooked(container, kind, PID + "sleep 0.2; tr '\\0' ' ' </proc/$pid/cmdline >>$trace", args=SLEEP)
    assert hooked.finish("create") == []
    hooked.box.start()
    assert hooked.lines == ["/bin/sleep 1000 "]


@of_kinds("poststop", clause="time")
def test_poststop_hooks_run_in_delete_after_the_container_is_gone(container: Make, kind: str) -> None:
    hooked = Hooked(container, kind, "true")
    hooked.box.create()
    paths = [point / hooked.box.bundle.config["linux"]["cgroupsPath"].lstrip("/") for point in set(hierarchies().values())]
    assert any(path.exists() for path in paths)
    hooked.box.delete("--force")
    gone = " ".join(f"-a ! -e {path}" for path in paths)
    hooked.set(kind, f"test -n x {gone} && echo gone >>$trace || echo there >>$trace")
    hooked.trace.unlink(missing_ok=True)
    assert hooked.finish("start") == []
    pid = hooked.box.pid
    hooked.box.kill()
    hooked.box.wait_exit(pid)
    assert hooked.lines == []
    hooked.box.delete()
    assert hooked.lines == ["gone"]


# ---- where ---------------------------------------------------------------------------------------------------------------------


@of_kinds(*KINDS, clause="path")
def test_the_path_of_a_hook_is_of_its_filesystem(container: Make, tmp_path: Path, kind: str) -> None:
    """The same path leads to a program that says where it is."""
    hooked = Hooked(container, kind)
    program = tmp_path / "program"
    for root, side in (("", "runtime"), (str(hooked.box.bundle.rootfs), "container")):
        place = Path(f"{root}{program}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"#!/bin/sh\ncat >/dev/null\necho {side} >>{hooked.name}\n")
        place.chmod(0o755)
    hooked.box.bundle.config["hooks"] = {kind: [{"path": str(program)}]}
    hooked.box.bundle.write()
    assert hooked.finish() == ["container" if kind == "startContainer" else "runtime"]


@of_kinds(*KINDS, clause="namespace")
def test_hooks_run_in_their_namespaces(container: Make, kind: str) -> None:
    hooked = Hooked(container, kind, f"for kind in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$kind >>$trace; done")
    box = hooked.box
    box.create()
    theirs = [os.readlink(f"/proc/{box.pid}/ns/{name}") for name in NAMESPACES]
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert not set(ours) & set(theirs)
    pid = box.pid
    box.start()
    box.wait_output("ready\n")
    box.kill()
    box.wait_exit(pid)
    box.delete()
    assert hooked.lines == (theirs if kind in ("createContainer", "startContainer") else ours)
