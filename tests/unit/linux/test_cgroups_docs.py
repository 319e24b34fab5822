"""The table of docs/cgroups.md is what the code does; OCIPY_GOLDEN=write writes it anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ocipy.errors import ConfigError
from ocipy.linux.cgroups.plan import plan_update
from ocipy.linux.cgroups.v1 import plan_devices as v1_devices
from ocipy.linux.cgroups.v2 import plan_devices as v2_devices
from ocipy.plan.step import Step

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs/cgroups.md"
BEGIN, END = "<!-- table: held by tests/unit/linux/test_cgroups_docs.py -->\n", "<!-- end of the table -->\n"
V1 = {name: name for name in ("blkio", "cpu", "cpuset", "devices", "hugetlb", "memory", "net_cls", "net_prio", "pids", "rdma")}
V2 = {"": "box"}
DISK = {"major": 8, "minor": 0}
SWAP = {"memory": {"limit": 1000000, "swap": 3000000}}

# Property, as in linux.resources -> what asks for it, if it is more than this property with this value.
EXAMPLES: list[tuple[str, Any, dict[str, Any] | None]] = [
    ("devices", [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}], None),
    ("memory.limit", 1000000, None),
    ("memory.swap", 3000000, SWAP),
    ("memory.reservation", 1000000, None),
    ("memory.kernel", 1000000, None),
    ("memory.kernelTCP", 1000000, None),
    ("memory.swappiness", 60, None),
    ("memory.disableOOMKiller", True, None),
    ("memory.useHierarchy", False, None),
    ("memory.checkBeforeUpdate", True, None),
    ("cpu.shares", 512, None),
    ("cpu.quota", 5000, None),
    ("cpu.period", 20000, None),
    ("cpu.burst", 1000, None),
    ("cpu.realtimeRuntime", 5000, None),
    ("cpu.realtimePeriod", 20000, None),
    ("cpu.cpus", "0-1", None),
    ("cpu.mems", "0", None),
    ("cpu.idle", 1, None),
    ("pids.limit", 100, None),
    ("blockIO.weight", 500, None),
    ("blockIO.leafWeight", 500, None),
    ("blockIO.weightDevice", [DISK | {"weight": 500}], None),
    ("blockIO.throttleReadBpsDevice", [DISK | {"rate": 5000}], None),
    ("blockIO.throttleWriteBpsDevice", [DISK | {"rate": 5000}], None),
    ("blockIO.throttleReadIOPSDevice", [DISK | {"rate": 50}], None),
    ("blockIO.throttleWriteIOPSDevice", [DISK | {"rate": 50}], None),
    ("hugepageLimits", [{"pageSize": "2MB", "limit": 4194304}], None),
    ("network.classID", 1048577, None),
    ("network.priorities", [{"name": "eth0", "priority": 5}], None),
    ("rdma", {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10000}}, None),
    ("unified", {"memory.high": "1000000"}, None),
]
SAID = {  # what no plan shows
    ("memory.checkBeforeUpdate", "v1"): "the kernel checks",
    ("memory.checkBeforeUpdate", "v2"): "`update` checks `memory.current`",
    ("devices", "v2"): "an eBPF program with all rules",
}


def resources(name: str, value: Any) -> dict[str, Any]:
    section, _, member = name.partition(".")
    return {section: {member: value} if member else value}


def setting(step: Step) -> str:
    """What is written where; for files of which the first that exists is taken, all of them."""
    file, value = step.get("file"), step.get("value")
    files = [file] if isinstance(file, str) else file
    values = value if isinstance(value, list) else [value] * len(files)
    shown = [f"`{name}` {text}" for name, text in zip(files, values, strict=False) if name is not None]
    return " or ".join(shown) + (" (where there is one)" if None in files else "")


def cell(name: str, wanted: dict[str, Any], version: str) -> str:
    if (name, version) in SAID:
        return SAID[name, version]
    warnings: list[str] = []
    try:
        steps = plan_update(wanted, V1 if version == "v1" else V2, warnings)  # type: ignore[arg-type]
        if name == "devices":
            steps = [step for step in v1_devices(wanted, V1) if step.origin]  # type: ignore[arg-type]
    except ConfigError:
        return "an error"
    assert bool(steps) != bool(warnings)
    return "a warning" if warnings else ", ".join(setting(step) for step in steps)


def table() -> str:
    rows = ["| `linux.resources` | for example | cgroup v1 | cgroup v2 |", "|---|---|---|---|"]
    for name, value, wanted in EXAMPLES:
        cells = [cell(name, wanted or resources(name, value), version) for version in ("v1", "v2")]
        rows.append(f"| `{name}` | {json.dumps(value)} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def test_the_table_of_the_documentation_is_what_the_code_does() -> None:
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    found, end, after = rest.partition(END)
    assert begin, "the table has no beginning"
    assert end, "the table has no end"
    if os.environ.get("OCIPY_GOLDEN") == "write":
        found = table()
        DOCUMENT.write_text(before + begin + found + end + after)
    assert found == table()


def test_every_property_of_resources_is_in_the_table() -> None:
    schema = json.loads((ROOT / "spec/config.schema.json").read_text())

    def of(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = schema["definitions"][node["$ref"].rpartition("/")[2]]
        properties: dict[str, Any] = node.get("properties") or {}
        return properties

    names = set()
    for name, node in of(of(schema["properties"]["linux"])["resources"]).items():
        names |= {f"{name}.{member}" for member in of(node)} or {name}
    assert names == {name for name, _, _ in EXAMPLES}


@pytest.mark.parametrize("name", [name for name, _, _ in EXAMPLES])
def test_no_property_is_ignored_in_silence(name: str) -> None:
    row = next(line for line in table().splitlines() if line.startswith(f"| `{name}` |"))
    assert "" not in [text.strip() for text in row.strip("|").split("|")]


def test_rules_of_devices_are_the_whole_of_the_program() -> None:
    (step,) = v2_devices([], "box")
    assert step.op.name == "RESTRICT_DEVICES"
