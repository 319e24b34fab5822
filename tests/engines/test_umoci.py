"""No engine at all: skopeo copies an image, umoci unpacks it, and the runtime runs the bundle as umoci made it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import PREFIX
from engines import engine
from engines.engine import Engine

pytestmark = pytest.mark.skipif(not (shutil.which("skopeo") and shutil.which("umoci")), reason="needs skopeo and umoci")


@pytest.fixture
def direct(tmp_path: Path, no_leaks: None) -> Iterator[Engine]:
    """The runtime's own command line, in a directory with umoci's bundle of the image."""
    layout = tmp_path / "image:box"
    source = f"docker-archive:{engine.archive()}"
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", source, f"oci:{layout}"], check=True)
    subprocess.run(["umoci", "unpack", "--image", layout, tmp_path / "bundle"], check=True)
    (directory := tmp_path / "runtime").mkdir()
    yield Engine(directory, [engine.runtime_path(), "--root", str(directory / "state")])
    assert not list((directory / "state").glob("*"))


def test_a_bundle_of_umoci_runs_as_it_is(direct: Engine, tmp_path: Path) -> None:
    name = f"{PREFIX}-shell"
    status, shown = direct.terminal("run", "--bundle", str(tmp_path / "bundle"), name, typed="tty; id -u; exit 3\n")
    assert status == 3
    assert "/dev/pts/0" in shown


def test_a_bundle_of_umoci_runs_detached_without_a_terminal(direct: Engine, tmp_path: Path) -> None:
    bundle, name = tmp_path / "bundle", f"{PREFIX}-sleeper"
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["sleep", "1000"])
    (bundle / "config.json").write_text(json.dumps(config))
    direct("run", "--detach", "--bundle", bundle, name)
    assert direct("exec", name, "cat", "/proc/1/comm").stdout == "sleep\n"
    direct("delete", "--force", name)
    assert direct("state", name, check=False).status != 0
