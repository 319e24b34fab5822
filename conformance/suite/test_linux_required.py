"""config-linux.md: what a configuration must have, and what it must not: a runtime refuses it otherwise.

Each case begins with a configuration that the runtime takes. Where it does not, for want of the feature in machine or runtime,
what is said of the other proves nothing, and the test is skipped."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mounts

clauses = pytest.mark.clauses
Make = Callable[..., Container]
Linux = dict[str, Any]

MAP = {"containerID": 0, "hostID": 0, "size": 65536}
RULE = {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}
ARGUMENT = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}


def disk() -> tuple[int, int]:
    """Numbers of a block device of this machine."""
    for entry in sorted(Path("/sys/block").iterdir(), reverse=True):
        if int((entry / "size").read_text()):
            major, minor = (entry / "dev").read_text().split(":")
            return int(major), int(minor)
    return 7, 0


MAJOR, MINOR = disk()
RATE = {"major": MAJOR, "minor": MINOR, "rate": 1 << 30}


def mappings(uid: Any = MAP, gid: Any = MAP) -> Linux:
    return {"namespaces": [{"type": "user"}], "uidMappings": [uid], "gidMappings": [gid]}


def seccomp(*syscalls: Any, **more: Any) -> Linux:
    return {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(syscalls), **more}}


# Allows what create needs; nothing is started.
ERRNO = seccomp({"names": ["execve"], "action": "SCMP_ACT_ALLOW"}, defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=1)


def block(name: str) -> Linux:
    return {"resources": {"blockIO": {name: [RATE]}}}


# Clause, what is complete, and where in it is what must not be absent.
REQUIRED: list[tuple[str, Linux, str]] = [
    ("namespaces.type", {"namespaces": [{"type": "cgroup"}]}, "namespaces/-1/type"),
    *[(f"mappings.{key}", mappings(), f"{kind}Mappings/0/{key}") for key in MAP for kind in ("uid", "gid")],
    *[(f"devices.{key}", {"devices": [{"type": "p", "path": "/dev/fifo"}]}, f"devices/0/{key}") for key in ("type", "path")],
    *[("devices.numbers", {"devices": [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3}]}, f"devices/0/{key}")
      for key in ("major", "minor")],
    ("resources.devices.allow", {"resources": {"devices": [{"allow": False, "access": "rwm"}]}}, "resources/devices/0/allow"),
    *[("resources.blockIO.weightDevice.numbers",
       {"resources": {"blockIO": {"weightDevice": [{"major": MAJOR, "minor": MINOR, "weight": 500}]}}},
       f"resources/blockIO/weightDevice/0/{key}") for key in ("major", "minor")],
    ("resources.blockIO.weightDevice.weight",
     {"resources": {"blockIO": {"weightDevice": [{"major": MAJOR, "minor": MINOR, "weight": 500}]}}},
     "resources/blockIO/weightDevice/0/weight"),
    *[(f"resources.blockIO.throttle{kind}.{clause}", block(f"throttle{way}{kind}Device"),
       f"resources/blockIO/throttle{way}{kind}Device/0/{key}")
      for kind in ("Bps", "IOPS") for way in ("Read", "Write")
      for clause, key in (("numbers", "major"), ("numbers", "minor"), ("rate", "rate"))],
    *[(f"resources.hugepageLimits.{key}", {"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}},
       f"resources/hugepageLimits/0/{key}") for key in ("pageSize", "limit")],
    *[(f"resources.network.{key}", {"resources": {"network": {"priorities": [{"name": "lo", "priority": 5}]}}},
       f"resources/network/priorities/0/{key}") for key in ("name", "priority")],
    *[("resources.rdma.entry", {"resources": {"rdma": {device: {"hcaHandles": 3}}}}, f"resources/rdma/{device}/hcaHandles")
      for device in sorted(os.listdir("/sys/class/infiniband") if os.path.isdir("/sys/class/infiniband") else ["mlx5_0"])[:1]],
    ("memoryPolicy.mode", {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}, "memoryPolicy/mode"),
    ("personality.domain", {"personality": {"domain": "LINUX"}}, "personality/domain"),
    ("seccomp.defaultAction", seccomp(RULE), "seccomp/defaultAction"),
    ("seccomp.names", seccomp(RULE), "seccomp/syscalls/0/names"),
    ("seccomp.names.empty", seccomp(RULE), "seccomp/syscalls/0/names/0"),
    ("seccomp.action", seccomp(RULE), "seccomp/syscalls/0/action"),
    *[(f"seccomp.args.{key}", seccomp({**RULE, "args": [ARGUMENT]}), f"seccomp/syscalls/0/args/0/{key}") for key in ARGUMENT],
]  # fmt: skip

# What a machine may lack.
NEEDS = {
    "resources.blockIO.weightDevice": "a disk with the BFQ scheduler",
    "resources.blockIO": "a controller for block devices",
    "resources.hugepageLimits": "the hugetlb controller, on v1",
    "resources.network": "the net_prio controller",
    "resources.rdma": "the rdma controller, or a device that it knows",
    "memoryPolicy": "NUMA",
    "seccomp": "seccomp",
}

# Clause, what is right, and what takes its place where.
FORBIDDEN: list[tuple[str, Linux, str, Any]] = [
    ("namespaces.duplicate", {"namespaces": [{"type": "cgroup"}]}, "namespaces/-1/type", "mount"),
    ("seccomp.defaultErrnoRet", ERRNO, "seccomp/defaultAction", "SCMP_ACT_LOG"),
    ("seccomp.defaultErrnoRet", ERRNO, "seccomp/defaultAction", "SCMP_ACT_ALLOW"),
    ("seccomp.errnoRet", seccomp({**RULE, "errnoRet": 5}), "seccomp/syscalls/0/action", "SCMP_ACT_KILL"),
    ("seccomp.errnoRet", seccomp({**RULE, "errnoRet": 5}), "seccomp/syscalls/0/action", "SCMP_ACT_LOG"),
    ("seccomp.listenerMetadata", seccomp(RULE), "seccomp/listenerMetadata", "text"),
    *[(f"{name}.absolute", {name: ["/etc/hostname"]}, f"{name}/0", path)
      for name in ("maskedPaths", "readonlyPaths") for path in ("etc/hostname", "./etc")],
]  # fmt: skip


def merged(config: Config, linux: Linux) -> Config:
    """``config`` with this in its section linux."""
    found = copy.deepcopy(config)
    for key, value in linux.items():
        if key == "resources":
            found["linux"][key] |= copy.deepcopy(value)
        elif key == "namespaces":
            found["linux"][key] += copy.deepcopy(value)
        else:
            found["linux"][key] = copy.deepcopy(value)
    return found


def holder_of(linux: Linux, path: str) -> tuple[Any, str | int]:
    *way, last = path.split("/")
    found: Any = linux
    for key in way:
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found, int(last) if isinstance(found, list) else last


def check_refused(box: Container, linux: Linux, what: str, change: Callable[[Linux], None]) -> None:
    """A container is made of the default configuration with ``linux``, and none once ``change`` has spoiled it."""
    config = merged(box.bundle.config, linux)
    box.bundle.config = config
    box.bundle.write()
    if box.create(check=False).status != 0:
        lacks = next((need for name, need in NEEDS.items() if what.startswith(name)), "what it takes")
        pytest.skip(f"{what} is refused complete too: this machine, or the runtime, lacks {lacks}")
    box.delete("--force")
    change(config["linux"])
    box.bundle.write()
    assert box.create(check=False).status != 0, "the runtime has taken it"
    assert box.runtime("state", box.id, check=False).status != 0


def _parameters(cases: list[Any]) -> list[Any]:
    return [
        pytest.param(*case[1:], marks=clauses(f"config-linux.{case[0]}"), id=" ".join(str(part) for part in case[2:]))
        for case in cases
    ]


@pytest.mark.parametrize(("linux", "path"), _parameters(REQUIRED))
def test_what_is_required_may_not_be_absent(container: Make, linux: Linux, path: str) -> None:
    def remove(spoiled: Linux) -> None:
        place, key = holder_of(spoiled, path)
        del place[key]

    check_refused(container("/bin/true"), linux, ".".join(path.split("/")[:3]), remove)


@pytest.mark.parametrize(("linux", "path", "value"), _parameters(FORBIDDEN))
def test_what_is_forbidden_is_refused(container: Make, linux: Linux, path: str, value: Any) -> None:
    def put(spoiled: Linux) -> None:
        place, key = holder_of(spoiled, path)
        place[key] = value

    check_refused(container("/bin/true"), linux, ".".join(path.split("/")[:3]), put)


@clauses("config-linux.intelRdt.mounted")
@pytest.mark.parametrize("rdt", [{}, {"closID": "gold", "schemata": ["L3:0=f"]}], ids=["own", "named"])
def test_without_resctrl_intel_rdt_is_an_error(container: Make, rdt: dict[str, Any]) -> None:
    if any(mount["type"] == "resctrl" for mount in mounts()):
        pytest.skip("resctrl is mounted here")
    box = container("/bin/true", mutate=lambda config: config["linux"].update(intelRdt=rdt))
    assert box.create(check=False).status != 0
