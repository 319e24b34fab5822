"""Plans of mounts of type cgroup."""

from __future__ import annotations

from typing import Any

import pytest

from ocipy.errors import ConfigError
from ocipy.linux.cgroups import plan_cgroup_mount
from ocipy.linux.cgroups.host import CgroupHost

HOST = CgroupHost(
    "hybrid",
    {
        "cpu": "/cg/cpu,cpuacct", "cpuacct": "/cg/cpu,cpuacct", "memory": "/cg/memory", "name=systemd": "/cg/systemd",
        "": "/cg/unified",
    },
)
PATHS = {name: directory + "/box" for name, directory in HOST.mounts.items()}
PLAIN = 2 | 4 | 8


def planned(*options: str, namespace: bool, host: CgroupHost = HOST) -> list[tuple[Any, ...]]:
    mount: Any = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": list(options)}
    config: Any = {"linux": {"namespaces": [{"type": "cgroup"}] if namespace else []}}
    steps = plan_cgroup_mount(mount, "/mounts/6", config, host, PATHS)
    assert all(step.origin.startswith("/mounts/6") for step in steps)
    return [(step.op.name, _where(step.values), *_details(step.values)) for step in steps]


def _where(values: dict[str, Any]) -> Any:
    return (values.get("slot") and values["source"]) or values.get("dest") or values.get("path")


def _details(values: dict[str, Any]) -> list[Any]:
    return [values[name] for name in ("fstype", "options", "attrs", "attr_set", "target", "tree") if values.get(name) is not None]


def test_in_a_cgroup_namespace_the_container_mounts_each_hierarchy_itself() -> None:
    assert planned("nosuid", "ro", namespace=True) == [
        ("MOUNT", "/sys/fs/cgroup", "tmpfs", ["mode=755"], PLAIN),
        ("MOUNT", "/sys/fs/cgroup/cpu,cpuacct", "cgroup", ["cpu", "cpuacct"], PLAIN | 1),
        ("SYMLINK", "/sys/fs/cgroup/cpu", "cpu,cpuacct"),
        ("SYMLINK", "/sys/fs/cgroup/cpuacct", "cpu,cpuacct"),
        ("MOUNT", "/sys/fs/cgroup/memory", "cgroup", ["memory"], PLAIN | 1),
        ("MOUNT", "/sys/fs/cgroup/systemd", "cgroup", ["none", "name=systemd"], PLAIN | 1),
        ("REMOUNT", "/sys/fs/cgroup", 1),
    ]


def test_without_a_cgroup_namespace_it_gets_its_own_cgroups_and_no_others() -> None:
    steps = planned(namespace=False)
    assert [step for step in steps if step[0] in ("OPEN_TREE", "ATTACH")] == [
        ("OPEN_TREE", "/cg/cpu,cpuacct/box", PLAIN),
        ("ATTACH", "/sys/fs/cgroup/cpu,cpuacct", "cgroup:/sys/fs/cgroup/cpu,cpuacct"),
        ("OPEN_TREE", "/cg/memory/box", PLAIN),
        ("ATTACH", "/sys/fs/cgroup/memory", "cgroup:/sys/fs/cgroup/memory"),
        ("OPEN_TREE", "/cg/systemd/box", PLAIN),
        ("ATTACH", "/sys/fs/cgroup/systemd", "cgroup:/sys/fs/cgroup/systemd"),
    ]
    assert "REMOUNT" not in [step[0] for step in steps]


def test_a_runtime_without_privilege_lets_init_bind() -> None:
    host = CgroupHost("v1", HOST.mounts)
    host.denied = frozenset(("devices",))
    assert {step[0] for step in planned(namespace=False, host=host)} == {"MOUNT", "BIND", "SYMLINK"}


def test_v2_is_one_mount() -> None:
    steps = planned("ro", namespace=True, host=CgroupHost("v2", {"": "/sys/fs/cgroup"}))
    assert steps == [("MOUNT", "/sys/fs/cgroup", "cgroup2", [], 1)]


def test_v2_without_a_cgroup_namespace_is_a_bind_of_the_containers_own_cgroup() -> None:
    host = CgroupHost("v2", {"": "/sys/fs/cgroup"}, {"": "/jobs/me"})
    steps = planned("ro", namespace=False, host=host)
    assert [step[0] for step in steps] == ["OPEN_TREE", "ATTACH"]
    assert steps[0][1:3] == ("/cg/unified/box", PLAIN | 1)


def test_host_without_cgroups_cannot_show_any() -> None:
    with pytest.raises(ConfigError, match="no cgroup filesystem is mounted"):
        planned(namespace=True, host=CgroupHost("none", {}))
