"""runtime.md, lifecycle: which hooks run, and what becomes of a container when one fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bundles import Container

clauses = pytest.mark.clauses
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def _set_hook(box: Container, kind: str, *scripts: str) -> None:
    """Hooks that read the state first: one that does not kills crun 1.8.1 by SIGPIPE, which is not tested here."""
    lines = [f"cat > /dev/null; {script}" for script in scripts]
    box.bundle.config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", line]} for line in lines]}
    box.bundle.config["root"]["readonly"] = False
    box.bundle.write()


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=clauses(f"runtime.lifecycle.{kind}")) for kind in KINDS])
def test_the_runtime_calls_hooks(container: Callable[..., Container], kind: str) -> None:
    box = container("/bin/true")
    in_container = kind == "startContainer"
    trace = (box.bundle.rootfs if in_container else box.bundle.path) / "trace"
    _set_hook(box, kind, f"echo called > {'/trace' if in_container else trace}")
    box.create()
    box.start()
    box.wait_for("stopped")
    box.delete()
    assert trace.read_text() == "called\n"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=clauses(f"runtime.lifecycle.{kind}.failure")) for kind in KINDS[:3]]
)
def test_a_failing_hook_of_create_is_an_error_and_leaves_no_container(container: Callable[..., Container], kind: str) -> None:
    box = container("/bin/true")
    _set_hook(box, kind, "exit 3")
    assert box.create(check=False).status != 0
    assert box.runtime("state", box.id, check=False).status != 0


@clauses("runtime.lifecycle.poststop.failure", "runtime.warnings.continue")
def test_after_a_failing_poststop_hook_the_others_run(container: Callable[..., Container]) -> None:
    box = container("/bin/true")
    trace = box.bundle.path / "trace"
    _set_hook(box, "poststop", "exit 3", f"echo called > {trace}")
    box.create()
    box.start()
    box.wait_for("stopped")
    box.delete(check=False)
    assert trace.read_text() == "called\n"
    assert box.runtime("state", box.id, check=False).status != 0
