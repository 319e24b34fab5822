"""process.scheduler, ioPriority, execCPUAffinity, linux.memoryPolicy and personality: all values, as the kernel has them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import PREFIX, Config, Container, hierarchies
from ocipy.linux.process import IO_CLASSES, MEMORY_POLICIES, MEMORY_POLICY_FLAGS, POLICIES, SCHED_FLAGS

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
DEADLINE = {"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000}
CPUS = sorted(os.sched_getaffinity(0))


def set_process(**values: Any) -> Callable[[Config], None]:
    return lambda config: config["process"].update(values)


def refused(box: Container, pointer: str) -> str:
    """The line of an error at this property."""
    assert box.create(check=False).status == 1
    text = box.errors.read_text()
    assert f"({pointer})" in text
    return text


# ---- scheduler -------------------------------------------------------------------------------------------------------


@pytest.mark.spec(
    "/process/scheduler/nice", "/process/scheduler/policy=SCHED_OTHER", "/process/scheduler/policy=SCHED_BATCH",
    "/process/scheduler/policy=SCHED_IDLE",
)  # fmt: skip
@pytest.mark.parametrize(("policy", "nice"), [("SCHED_OTHER", -5), ("SCHED_OTHER", 19), ("SCHED_BATCH", 7), ("SCHED_IDLE", 0)])
def test_a_policy_with_a_nice_value(probe: Probe, policy: str, nice: int) -> None:
    seen = probe(set_process(scheduler={"policy": policy, "nice": nice}))["scheduler"]
    assert (seen["policy"], seen["nice"]) == (POLICIES[policy], nice)


@pytest.fixture
def realtime() -> dict[str, Any]:
    """Resources that let a container have realtime processes: where these have groups, every cgroup above must have its share."""
    cpu = hierarchies().get("cpu")
    if not cpu or not (cpu / "cpu.rt_runtime_us").exists():
        return {}
    parent = cpu / PREFIX
    parent.mkdir(exist_ok=True)
    (parent / "cpu.rt_runtime_us").write_text("20000")
    return {"cpu": {"realtimeRuntime": 10000, "realtimePeriod": 500000}}


@pytest.mark.spec(
    "/process/scheduler/priority", "/process/scheduler/policy=SCHED_FIFO", "/process/scheduler/policy=SCHED_RR",
    "/linux/resources/cpu/realtime*",
)  # fmt: skip
@pytest.mark.parametrize("policy", ["SCHED_FIFO", "SCHED_RR"])
def test_a_realtime_policy_with_its_priority(container: Make, realtime: dict[str, Any], policy: str) -> None:
    def change(config: Config) -> None:
        config["linux"]["resources"].update(realtime)
        config["process"]["scheduler"] = {"policy": policy, "priority": 42}

    box = container(mutate=change)
    box.create()
    if realtime:
        files = ("cpu.rt_runtime_us", "cpu.rt_period_us")
        assert [(box.cgroup("cpu") / name).read_text() for name in files] == ["10000\n", "500000\n"]
    pid = box.pid
    box.start()
    assert box.wait_exit(pid) == 0
    seen = json.loads(box.output.read_text())["scheduler"]
    assert (seen["policy"], seen["priority"]) == (POLICIES[policy], 42)
    box.delete()


@pytest.mark.spec(
    "/process/scheduler/runtime", "/process/scheduler/deadline", "/process/scheduler/period",
    "/process/scheduler/policy=SCHED_DEADLINE",
)  # fmt: skip
def test_a_deadline(probe: Probe) -> None:
    seen = probe(set_process(scheduler=DEADLINE))["scheduler"]
    assert {name: seen[name] for name in DEADLINE} == DEADLINE | {"policy": POLICIES["SCHED_DEADLINE"]}


@pytest.mark.spec("/process/scheduler/policy=SCHED_ISO")
def test_a_policy_that_linux_never_had_is_an_error(container: Make) -> None:
    box = container(mutate=set_process(scheduler={"policy": "SCHED_ISO"}))
    assert "set SCHED_ISO (/process/scheduler): sched_setattr: invalid argument" in refused(box, "/process/scheduler")


@pytest.mark.spec(
    "/process/scheduler/flags=SCHED_FLAG_RESET_ON_FORK", "/process/scheduler/flags=SCHED_FLAG_RECLAIM",
    "/process/scheduler/flags=SCHED_FLAG_DL_OVERRUN",
)  # fmt: skip
@pytest.mark.parametrize(
    ("scheduler", "flag"),
    [
        ({"policy": "SCHED_OTHER", "nice": 3}, "SCHED_FLAG_RESET_ON_FORK"),
        (DEADLINE, "SCHED_FLAG_RECLAIM"),
        (DEADLINE, "SCHED_FLAG_DL_OVERRUN"),
    ],
)
def test_a_flag_of_the_scheduler(probe: Probe, scheduler: dict[str, Any], flag: str) -> None:
    seen = probe(set_process(scheduler=scheduler | {"flags": [flag]}))["scheduler"]
    assert seen["flags"] & SCHED_FLAGS[flag]


@pytest.mark.spec("/process/scheduler/flags=SCHED_FLAG_KEEP_POLICY", "/process/scheduler/flags=SCHED_FLAG_KEEP_PARAMS")
def test_policy_and_parameters_are_kept_where_a_flag_says_so(probe: Probe) -> None:
    def flagged(*flags: str) -> tuple[int, int]:
        seen = probe(set_process(scheduler={"policy": "SCHED_BATCH", "nice": 9, "flags": list(flags)}))["scheduler"]
        return seen["policy"], seen["nice"]

    plain = probe()["scheduler"]
    assert flagged("SCHED_FLAG_KEEP_POLICY") == (plain["policy"], 9)
    assert flagged("SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS") == (plain["policy"], plain["nice"])


@pytest.mark.spec("/process/scheduler/flags=SCHED_FLAG_UTIL_CLAMP_MIN", "/process/scheduler/flags=SCHED_FLAG_UTIL_CLAMP_MAX")
@pytest.mark.parametrize("flag", ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"])
def test_a_clamp_is_set_or_refused_by_the_kernel_that_has_none(container: Make, flag: str) -> None:
    """A kernel without CONFIG_UCLAMP_TASK says so, which shows that the flag came to it."""
    box = container(mutate=set_process(scheduler={"policy": "SCHED_OTHER", "flags": [flag]}))
    answer = box.create(check=False)
    if answer.status:
        assert "(/process/scheduler): sched_setattr: operation not supported" in box.errors.read_text()
    else:
        box.delete("--force")


# ---- I/O and CPUs ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("/process/ioPriority/class=*", "/process/ioPriority/priority")
@pytest.mark.parametrize(("kind", "level"), [("IOPRIO_CLASS_RT", 0), ("IOPRIO_CLASS_BE", 7), ("IOPRIO_CLASS_IDLE", 0)])
def test_a_class_and_priority_of_io(probe: Probe, kind: str, level: int) -> None:
    seen = probe(set_process(ioPriority={"class": kind, "priority": level}))
    assert seen["ioprio"] == IO_CLASSES[kind] << 13 | level


@pytest.mark.spec("/process/execCPUAffinity/initial", "/process/execCPUAffinity/final")
@pytest.mark.parametrize(
    ("affinity", "wanted"),
    [
        ({}, CPUS),
        ({"initial": str(CPUS[0])}, CPUS[:1]),
        ({"final": str(CPUS[-1])}, CPUS[-1:]),
        ({"initial": str(CPUS[0]), "final": str(CPUS[-1])}, CPUS[-1:]),
        ({"initial": str(CPUS[0]), "final": f"{CPUS[0]}-{CPUS[-1]}"}, CPUS),
    ],
    ids=["none", "initial", "final", "both", "final is wider"],
)
def test_what_exec_starts_runs_on_these_cpus_and_the_container_on_all(
    container: Make, affinity: dict[str, str], wanted: list[int]
) -> None:
    box = container("/bin/sleep", "1000", mutate=set_process(execCPUAffinity=affinity))
    box.run("--detach")
    assert sorted(os.sched_getaffinity(box.pid)) == CPUS
    assert box.exec("/bin/probe").json["affinity"] == wanted


# ---- memory ----------------------------------------------------------------------------------------------------------


def policy(mode: str, *flags: str, nodes: str | None = "0") -> Callable[[Config], None]:
    values = {"mode": mode, **({"nodes": nodes} if nodes else {}), **({"flags": list(flags)} if flags else {})}
    return lambda config: config["linux"].update(memoryPolicy=values)


@pytest.mark.spec("/linux/memoryPolicy/mode=*", "/linux/memoryPolicy/nodes")
@pytest.mark.parametrize("mode", MEMORY_POLICIES)
def test_a_mode_of_the_memory_policy(probe: Probe, mode: str) -> None:
    nodes = None if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else "0"
    seen = probe(policy(mode, nodes=nodes))
    assert (seen["mempolicy"], seen["mempolicy_nodes"]) == (MEMORY_POLICIES[mode], 1 if nodes else 0)


@pytest.mark.spec("/linux/memoryPolicy/flags=*")
@pytest.mark.parametrize("flag", MEMORY_POLICY_FLAGS)
def test_a_flag_of_the_memory_policy(probe: Probe, flag: str) -> None:
    assert probe(policy("MPOL_BIND", flag))["mempolicy"] == MEMORY_POLICIES["MPOL_BIND"] | MEMORY_POLICY_FLAGS[flag]


@pytest.mark.spec("/linux/memoryPolicy/nodes")
def test_nodes_that_the_machine_has_not_are_an_error(container: Make) -> None:
    if Path("/sys/devices/system/node/node1000").exists():
        pytest.skip("this machine has a thousand nodes")
    refused(container(mutate=policy("MPOL_BIND", nodes="1000")), "/linux/memoryPolicy")


# ---- personality -----------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/personality/domain=*")
@pytest.mark.parametrize(("domain", "number"), [("LINUX", 0), ("LINUX32", 8)])
def test_a_domain_of_execution(probe: Probe, domain: str, number: int) -> None:
    assert probe(lambda config: config["linux"].update(personality={"domain": domain}))["personality"] & 0xFF == number


@pytest.mark.spec("/linux/personality/flags")
def test_a_flag_of_execution_is_an_error_for_the_specification_has_none_yet(container: Make) -> None:
    values = {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}
    refused(container(mutate=lambda config: config["linux"].update(personality=values)), "/linux/personality/flags")
