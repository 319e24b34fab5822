"""``ocipy plan`` on the bundle that ``ocipy spec`` describes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ocipy
from ocipy.plan import ops

PACKAGE = str(Path(ocipy.__file__).parents[1])
PROGRAM = f"import sys; sys.path.insert(0, {PACKAGE!r}); from ocipy.cli.main import main; sys.exit(main(sys.argv[1:]))"
# Nobody, who may do nothing but read: the interpreter may lie where only root looks.
READ = "dac_read_search"
NOBODY = f"setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all,+{READ} --ambient-caps +{READ}".split()


def run(*argv: str | os.PathLike[str], prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*(prefix or []), sys.executable, "-I", "-c", PROGRAM, *argv]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    assert run("spec", "--bundle", tmp_path).returncode == 0
    return tmp_path


def resolve(config: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        config = config[int(part)] if isinstance(config, list) else config[part.replace("~1", "/").replace("~0", "~")]
    return config


def test_every_step_is_printed_with_a_pointer_that_the_config_has(bundle: Path) -> None:
    done = run("plan", "--format", "json", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    steps = json.loads(done.stdout)
    config = json.loads((bundle / "config.json").read_text())
    assert [step["index"] for step in steps] == list(range(len(steps)))
    for step in steps:
        assert step["op"] in ops.ALL
        assert step["where"] in ("init", "runtime")
        assert step["text"]
    pointers = {step["origin"] for step in steps if step["origin"]}
    # A default has the pointer of the property that would replace it.
    absent = [pointer for pointer in pointers if not pointer.startswith(("/process/user/umask", "/linux/cgroupsPath"))]
    for pointer in absent:
        resolve(config, pointer)
    for name in ("mounts", "hostname", "root", "process"):
        assert any(pointer.startswith("/" + name) for pointer in pointers)
    assert {f"/mounts/{index}" for index in range(len(config["mounts"]))} <= pointers


def test_text_and_json_tell_the_same_steps(bundle: Path) -> None:
    steps = json.loads(run("plan", "-f", "json", "--bundle", bundle).stdout)
    lines = [line for line in run("plan", bundle).stdout.splitlines() if line.startswith("  ")]
    assert len(lines) == len(steps)
    for line, step in zip(lines, steps, strict=True):
        assert line.split()[0] == str(step["index"])
        assert line.endswith(step["text"])
        assert f" {step['origin']} " in line


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="is without root already")
def test_it_works_without_root_and_makes_nothing(bundle: Path) -> None:
    assert run("spec", "--rootless", "--bundle", bundle / "rootfs").returncode == 0
    before = sorted(os.listdir(bundle)), Path("/proc/self/mounts").read_text()
    for directory in (bundle, bundle / "rootfs"):
        done = run("plan", directory, prefix=NOBODY)
        assert done.returncode == 0
        assert all(line.startswith("ocipy: warning: ") for line in done.stderr.splitlines())  # of what only root can do
        assert "execve ['sh']" in done.stdout
    assert (sorted(os.listdir(bundle)), Path("/proc/self/mounts").read_text()) == before


@pytest.mark.spec("/ociVersion")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.json"),
        ("{", "config.json"),
        ('{"ociVersion": "1.3.0", "root": {"path": 3}}', "/root/path"),
        ('{"ociVersion": "7.0.0"}', "/ociVersion"),
    ],
    ids=["empty", "not JSON", "wrong type", "future version"],
)
def test_a_bad_config_is_told_as_create_would(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    done = run("plan", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ocipy: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_that_is_none_is_one_line(tmp_path: Path) -> None:
    done = run("plan", tmp_path / "nope")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = run("plan", tmp_path, "--bundle", tmp_path)
    assert (done.returncode, done.stderr) == (1, "ocipy: the bundle is given twice: as an argument and with --bundle\n")
    done = run("plan", tmp_path, "--format", "yaml")
    assert (done.returncode, done.stderr) == (1, "ocipy: invalid format option: yaml (text or json)\n")


def test_it_is_the_plan_of_the_cgroup_manager_that_create_would_have(bundle: Path) -> None:
    done = run("--cgroup-manager", "disabled", "plan", bundle)
    assert done.returncode == 0
    assert "make the cgroup" not in done.stdout
    assert "linux.resources is ignored" in done.stderr
