"""config.md, process: limits, capabilities that cannot be had, the oom score, and the console's size."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container

clauses = pytest.mark.clauses
Make = Callable[..., Container]
READY = ("/bin/sh", "-c", "echo ready; exec sleep 1000")
LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE")
LARGE = 1 << 33


def running(container: Make, **process: Any) -> Container:
    """A container whose program runs, with these properties of process."""
    box = container(*READY, mutate=lambda config: config["process"].update(process))
    box.create()
    box.start()
    box.wait_output("ready\n")
    return box


def start_through(box: Container, *commands: str) -> None:
    """Let shell commands go before the runtime, which the last of them may be part of."""
    script = box.runtime.directory / "runtime.sh"
    script.write_text("\n".join(["#!/bin/sh", *commands[:-1], f'exec {commands[-1]} {box.runtime.path} "$@"', ""]))
    script.chmod(0o755)
    box.runtime.path = str(script)


# ---- limits --------------------------------------------------------------------------------------------------------------------


@clauses("config.process.rlimits.type.getrlimit", "config.process.rlimits.soft.match", "config.process.rlimits.hard.match")
@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_of_the_process_are_those_of_the_configuration(container: Make, name: str) -> None:
    _, most = resource.getrlimit(getattr(resource, name))
    hard = (LARGE if most in (resource.RLIM_INFINITY, -1) else most) - 1
    hard, soft = max(hard, 0), max(hard // 2, 0)
    box = running(container, rlimits=[{"type": name, "soft": soft, "hard": hard}])
    assert resource.prlimit(box.pid, getattr(resource, name)) == (soft, hard)


@clauses("config.process.rlimits.soft.match", "config.process.rlimits.hard.match")
def test_every_limit_of_a_list_is_in_force(container: Make) -> None:
    wanted = {
        "RLIMIT_NOFILE": (200, 300),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (1 << 20, 1 << 21),
        "RLIMIT_STACK": (1 << 22, 1 << 23),
    }
    box = running(container, rlimits=[{"type": name, "soft": soft, "hard": hard} for name, (soft, hard) in wanted.items()])
    assert {name: resource.prlimit(box.pid, getattr(resource, name)) for name in wanted} == wanted


# ---- capabilities --------------------------------------------------------------------------------------------------------------


def set_capabilities(config: Config, *names: str) -> None:
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += names


def warnings_of_create(box: Container) -> str:
    """What the runtime says while it creates: on its standard error, and in its log."""
    log = box.bundle.path / "log"
    said = box.runtime("--log", log, "create", "--bundle", box.bundle.path, box.id, stdout=box.output, stderr=box.errors)
    return said.stderr + (log.read_text() if log.exists() else "")


@clauses("config.process.capabilities.warning")
def test_a_capability_that_nobody_knows_is_a_warning(container: Make) -> None:
    box = container(*READY, mutate=lambda config: set_capabilities(config, "CAP_OF_NO_KERNEL"))
    assert "CAP_OF_NO_KERNEL" in warnings_of_create(box)
    box.start()
    box.wait_output("ready\n")


@clauses("config.process.capabilities.fail")
def test_a_capability_that_nobody_knows_is_no_error(container: Make) -> None:
    box = container(*READY, mutate=lambda config: set_capabilities(config, "CAP_OF_NO_KERNEL"))
    box.create()
    box.start()
    box.wait_output("ready\n")


WITHOUT = "setpriv --bounding-set=-audit_control --inh-caps=-audit_control"


@clauses("config.process.capabilities.warning")
def test_a_capability_that_the_runtime_has_not_is_a_warning(container: Make) -> None:
    box = container(*READY, mutate=lambda config: set_capabilities(config, "CAP_AUDIT_CONTROL"))
    start_through(box, WITHOUT)
    assert "CAP_AUDIT_CONTROL" in warnings_of_create(box).upper()


@clauses("config.process.capabilities.fail")
def test_a_capability_that_the_runtime_has_not_is_no_error(container: Make) -> None:
    box = container(*READY, mutate=lambda config: set_capabilities(config, "CAP_AUDIT_CONTROL"))
    start_through(box, WITHOUT)
    box.create()
    box.start()
    box.wait_output("ready\n")
    status = Path(f"/proc/{box.pid}/status").read_text()
    found = re.search(r"CapEff:\s*(\w+)", status)
    assert found
    assert not int(found[1], 16) >> 30 & 1


# ---- the oom score -------------------------------------------------------------------------------------------------------------


def score(box: Container) -> int:
    return int(Path(f"/proc/{box.pid}/oom_score_adj").read_text())


@clauses("config.process.oomScoreAdj")
@pytest.mark.parametrize("value", [300, 1000])
def test_the_oom_score_is_the_one_that_is_configured(container: Make, value: int) -> None:
    assert score(running(container, oomScoreAdj=value)) == value


@clauses("config.process.oomScoreAdj")
def test_an_oom_score_of_zero_is_not_the_runtimes_own(container: Make) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    box = container(*READY, mutate=lambda config: config["process"].update(oomScoreAdj=own))
    start_through(box, "choom -n 250 --")
    if box.create(check=False).status != 0:
        pytest.skip("needs CAP_SYS_RESOURCE: what was raised cannot be lowered again")
    box.start()
    box.wait_output("ready\n")
    assert score(box) == own


@clauses("config.process.oomScoreAdj.unset")
def test_without_an_oom_score_the_process_has_the_runtimes_own(container: Make) -> None:
    box = container(*READY)
    start_through(box, "choom -n 321 --")
    box.create()
    box.start()
    box.wait_output("ready\n")
    assert score(box) == 321


# ---- the console ---------------------------------------------------------------------------------------------------------------


@clauses("config.process.consoleSize")
@pytest.mark.parametrize("terminal", [{"terminal": False}, {}], ids=["false", "unset"])
@pytest.mark.parametrize("size", [(25, 80), (0, 0), (1 << 31, 1 << 31)], ids=["usual", "none", "large"])
def test_without_a_terminal_the_size_of_the_console_does_nothing(
    container: Make, terminal: dict[str, bool], size: tuple[int, int]
) -> None:
    def change(config: Config) -> None:
        config["process"].pop("terminal")
        config["process"].update(terminal, consoleSize={"height": size[0], "width": size[1]})

    box = container("/bin/sh", "-c", "test -t 0 || test -t 1 || echo none", mutate=change)
    box.create()
    box.start()
    box.wait_output("none\n")


@clauses("config.process")
def test_start_without_a_process_is_an_error(container: Make) -> None:
    box = container(*READY)
    del box.bundle.config["process"]
    box.bundle.write()
    box.create(check=False)
    assert box.start(check=False).status != 0
