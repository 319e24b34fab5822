"""The default profiles of engines, system call by system call: what a program gets under the runtime under test and under runc."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import PREFIX, TIME_SCALE, Config, Runtime, made, make_bundle, runtime_path
from engines.engine import IMAGE, Engine


@pytest.fixture
def both(tmp_path: Path, no_leaks: None) -> Iterator[list[Runtime]]:
    """The runtime under test, and runc."""
    if not (runc := shutil.which("runc")):
        pytest.skip("runc is not installed: nothing to compare with")
    runtimes = [Runtime(tmp_path / "one"), Runtime(tmp_path / "other")]
    runtimes[1].path = runc
    yield runtimes
    for runtime in runtimes:
        assert not runtime.close()


def given(engine: Engine, *flags: str, now: tuple[str, ...] = ()) -> dict[str, Any]:
    """The config that the engine gives its runtime for a container."""
    engine("run", "--detach", "--name", "given", *flags, IMAGE, "sleep", "1000")
    try:
        (entry,) = (entry for state in engine.states if state.is_dir() for entry in state.iterdir())
        argv = [runtime_path(), "--root", str(entry.parent), "state", entry.name]
        bundle = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)["bundle"]
        config: dict[str, Any] = json.loads(Path(bundle, "config.json").read_text())
    finally:
        engine("rm", "--force", *now, "given")
    return config


def compare(config: dict[str, Any], runtimes: list[Runtime], tmp_path: Path) -> None:
    def mutate(ours: Config) -> None:
        for name in ("capabilities", "noNewPrivileges", "user"):
            if name in config["process"]:
                ours["process"][name] = config["process"][name]
        ours["linux"]["seccomp"] = config["linux"]["seccomp"]

    said = []
    for number, runtime in enumerate(runtimes):
        bundle = make_bundle(tmp_path / f"bundle{number}", None, ["/bin/syscalls", str(200000 * SLOW)], mutate)
        shutil.copy(made("syscalls.sh", sources=["syscalls.c"]) / "syscalls", bundle.rootfs / "bin")
        said.append(runtime.container(bundle).run(timeout=60).stdout.splitlines())
    assert len(said[0]) > 500
    assert sum(line.endswith("errno 1") for line in said[0]) > 20, "the filter is there"
    assert [f"{one}, under runc {other}" for one, other in zip(*said, strict=True) if one != other] == []


SLOW = 4 if TIME_SCALE > 1 else 1
FLAGS = [(), ("--cap-add", "SYS_ADMIN"), ("--cap-drop", "all")]
Privileges = pytest.mark.parametrize("flags", FLAGS, ids=["default", "more", "none"])


@Privileges
def test_every_call_under_dockers_profile(docker: Engine, both: list[Runtime], tmp_path: Path, flags: tuple[str, ...]) -> None:
    compare(given(docker, *flags), both, tmp_path)


@Privileges
def test_every_call_under_podmans_profile(podman: Engine, both: list[Runtime], tmp_path: Path, flags: tuple[str, ...]) -> None:
    compare(given(podman, "--cgroup-parent", f"/{PREFIX}", *flags, now=("--time", "0")), both, tmp_path)
