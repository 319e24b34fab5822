"""--strict: what would be ignored with a warning is refused, and nothing is left of the attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import Config, Container, Runtime

Make = Callable[..., Container]


def ungrantable(config: Config) -> None:
    for name in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][name].append("CAP_OF_TOMORROW")


def relative(config: Config) -> None:
    config["mounts"].append({"destination": "relative", "type": "tmpfs", "source": "tmpfs"})


def option_without_effect(config: Config) -> None:
    config["mounts"].append({"destination": "/etc", "type": "bind", "source": "/etc", "options": ["bind", "mode=755"]})


def kernel_memory(config: Config) -> None:
    config["linux"]["resources"]["memory"] = {"kernel": 1 << 26}


CASES = {
    "capability": (ungrantable, "CAP_OF_TOMORROW"),
    "relative destination": (relative, "/mounts/7/destination"),
    "option of a bind": (option_without_effect, "/mounts/7/options"),
    "limit": (kernel_memory, "linux.resources.memory.kernel"),
}


@pytest.mark.spec("/linux/resources/memory/kernel", needs="no kernel has it: a warning, an error with --strict")
@pytest.mark.parametrize("name", CASES)
def test_a_warning_of_create_is_an_error(container: Make, name: str) -> None:
    mutate, words = CASES[name]
    box = container("/bin/true", mutate=lambda config: (config["root"].update(readonly=False), mutate(config)))
    refused = box.runtime("--strict", "create", "--bundle", box.bundle.path, box.id, check=False)
    assert refused.status == 1
    assert words in refused.stderr and refused.stderr.endswith(" (with --strict this is an error)\n")
    assert refused.stderr.count("\n") == 1
    assert not (box.runtime.root / box.id).exists()
    assert words in box.create().stderr


def test_a_warning_of_update_is_an_error_and_changes_nothing(container: Make, tmp_path: Path) -> None:
    box = container("/bin/sleep", "1000")
    box.run("--detach")
    limit = box.cgroup("pids") / "pids.max"
    before = limit.read_text()
    resources = tmp_path / "resources.json"
    resources.write_text('{"memory": {"kernel": 100000000}, "pids": {"limit": 77}}')
    refused = box.runtime("--strict", "update", "--resources", resources, box.id, check=False)
    assert (refused.status, "memory.kernel" in refused.stderr) == (1, True)
    assert limit.read_text() == before
    box.runtime("update", "--resources", resources, box.id)
    assert limit.read_text() == "77\n"


def test_nothing_to_warn_of_is_no_error(container: Make, runtime: Runtime) -> None:
    box = container("/bin/true")
    runtime("--strict", "create", "--bundle", box.bundle.path, box.id, stdout=box.output, stderr=box.errors)
    assert box.errors.read_text() == ""
