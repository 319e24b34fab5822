from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ocipy.cli import features, spec
from ocipy.cli.options import Invocation, parse
from ocipy.errors import OcipyError


def written(bundle: Path, *flags: str) -> dict[str, Any]:
    invocation = Invocation()
    parse(["spec", "--bundle", str(bundle), *flags], invocation)
    assert spec.run(invocation) == 0
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return config


def test_spec_does_not_overwrite_a_config(tmp_path: Path) -> None:
    written(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(OcipyError, match=r"config.json exists\. Remove it first"):
        written(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_spec_into_what_is_no_directory_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(OcipyError, match="no such file or directory"):
        written(tmp_path / "nope")


@pytest.mark.parametrize("flags", [(), ("--rootless",)], ids=["root", "rootless"])
@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed: nothing to compare with")
def test_spec_describes_the_container_that_runc_describes(tmp_path: Path, flags: tuple[str, ...]) -> None:
    theirs_dir = tmp_path / "theirs"
    theirs_dir.mkdir()
    subprocess.run(["runc", "spec", "--bundle", str(theirs_dir), *flags], check=True)
    theirs = json.loads((theirs_dir / "config.json").read_text())
    ours = written(tmp_path, *flags)
    assert ours.pop("ociVersion") == "1.3.0"
    assert ours.pop("hostname") == "ocipy"
    del theirs["ociVersion"], theirs["hostname"]
    # Ambient capabilities survive execve of any program: newer versions of runc leave them out too, and mask more.
    theirs["process"]["capabilities"].pop("ambient", None)
    theirs["process"]["capabilities"].pop("inheritable", None)
    for name in ("maskedPaths", "readonlyPaths"):
        assert set(theirs["linux"].pop(name)) <= set(ours["linux"].pop(name))
    assert ours == theirs


def test_features_hold_no_property_that_the_specification_does_not_define() -> None:
    found = features.features()
    assert set(found) == {"ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "linux", "annotations"}
    assert found["ociVersionMax"] == "1.3.0"
    assert set(found["linux"]) == {
        "namespaces", "capabilities", "cgroup", "seccomp", "apparmor", "selinux", "intelRdt", "memoryPolicy", "mountExtensions",
        "netDevices",
    }  # fmt: skip
    assert all(isinstance(value, str) and value for value in found["annotations"].values())
    assert {"rro", "rbind", "tmpcopyup", "ridmap"} <= set(found["mountOptions"])  # engines ask for rro
    assert {"ALLOW", "NOTIFY", "KILL_PROCESS"} <= {name.removeprefix("SCMP_ACT_") for name in found["linux"]["seccomp"]["actions"]}
    for values in (found["mountOptions"], found["linux"]["capabilities"], found["linux"]["seccomp"]["archs"]):
        assert len(values) == len(set(values))
    assert found["mountOptions"] == sorted(found["mountOptions"])


def test_features_are_json_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert features.run(Invocation()) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == features.features()
    assert err == ""


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed: nothing to compare with")
def test_every_feature_of_the_installed_runc_that_is_not_cgroup_v2_is_ours_too() -> None:
    theirs = json.loads(subprocess.run(["runc", "features"], check=True, capture_output=True).stdout)
    ours = features.features()
    for path in (("hooks",), ("mountOptions",), *[("linux", name) for name in ("namespaces", "capabilities")]):
        mine, other = ours, theirs
        for name in path:
            mine, other = mine[name], other[name]
        assert set(other) <= set(mine) | {"acl", "noacl"}
    for name in ("actions", "operators", "archs"):
        assert set(theirs["linux"]["seccomp"][name]) <= set(ours["linux"]["seccomp"][name])
