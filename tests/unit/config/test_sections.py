"""The smaller sections: capabilities, devices, hooks, resources, seccomp, IntelRdt, memory policy, personality, version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ocipy.config.capabilities import NAMES, capability_mask, capability_names
from ocipy.config.check import all_checks
from ocipy.config.id_list import parse_id_list
from ocipy.config.load import parse_config
from ocipy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOW = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
NOTIFY = {"names": ["read"], "action": "SCMP_ACT_NOTIFY"}


def seccomp(**more: Any) -> dict[str, Any]:
    return {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", **more}}


def argument(index: int) -> dict[str, Any]:
    return {**ALLOW, "args": [{"index": index, "value": 0, "op": "SCMP_CMP_EQ"}]}


def device(path: str, kind: str = "c", major: int = 1, minor: int = 3) -> dict[str, Any]:
    return {"type": kind, "path": path, "major": major, "minor": minor}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"devices": [device("dev/null")]}, "/devices/0/path"),
    ({"devices": [device("/dev/a"), device("/dev//b/../a", minor=5)]}, "/devices/1/path"),
    ({"devices": [device("/")]}, "/devices/0/path"),
    ({"devices": [device("/proc/self/attr/exec")]}, "/devices/0/path"),
    ({"devices": [device("/dev/a", major=-1)]}, "/devices/0/major"),
    ({"devices": [device("/dev/a", minor=1 << 20)]}, "/devices/0/minor"),
    ({"devices": [{"type": "b", "path": "/dev/a", "major": 1}]}, "/devices/0"),
    ({"devices": [device("/dev/" + "x" * 300)]}, "/devices/0/path"),
    ({"cgroupsPath": "/a/../../b"}, "/cgroupsPath"),
    ({"cgroupsPath": "x" * 70_000}, "/cgroupsPath"),
    ({"resources": {"cpu": {"cpus": "0-x"}}}, "/resources/cpu/cpus"),
    ({"resources": {"cpu": {"mems": ",,"}}}, "/resources/cpu/mems"),
    ({"resources": {"cpu": {"quota": 5, "burst": 6}}}, "/resources/cpu/burst"),
    ({"resources": {"cpu": {"idle": 2}}}, "/resources/cpu/idle"),
    ({"resources": {"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}}, "/resources/blockIO/weightDevice/0"),
    ({"resources": {"rdma": {"mlx/5": {}}}}, "/resources/rdma/mlx~15"),
    ({"resources": {"rdma": {"a b": {"hcaObjects": 1}}}}, "/resources/rdma"),
    ({"resources": {"unified": {"../memory.max": "1"}}}, "/resources/unified"),
    ({"resources": {"unified": {"": "1"}}}, "/resources/unified"),
    ({"resources": {"unified": {"..": "1"}}}, "/resources/unified"),
    ({"resources": {"devices": [{"allow": True, "major": -2}]}}, "/resources/devices/0/major"),
    ({"intelRdt": {"closID": ".."}}, "/intelRdt/closID"),
    ({"intelRdt": {"closID": "a/b"}}, "/intelRdt/closID"),
    ({"intelRdt": {"closID": ""}}, "/intelRdt/closID"),
    ({"intelRdt": {"closID": "info"}}, "/intelRdt/closID"),
    ({"intelRdt": {"closID": "mon_groups"}}, "/intelRdt/closID"),
    ({"intelRdt": {"schemata": ["L3:0=f", "MB:0=1\nL3:0=1"]}}, "/intelRdt/schemata/1"),
    ({"intelRdt": {"l3CacheSchema": "L3:0=f\n"}}, "/intelRdt/l3CacheSchema"),
    ({"intelRdt": {"memBwSchema": "L3:0=f"}}, "/intelRdt/memBwSchema"),
    ({"intelRdt": {"memBwSchema": "MB:0=20\nMB:1=30"}}, "/intelRdt/memBwSchema"),
    ({"memoryPolicy": {"mode": "MPOL_BIND"}}, "/memoryPolicy"),
    ({"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}, "/memoryPolicy/nodes"),
    ({"memoryPolicy": {"mode": "MPOL_DEFAULT", "flags": ["MPOL_F_STATIC_NODES"]}}, "/memoryPolicy/flags"),
    ({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}},
     "/memoryPolicy/flags"),
    ({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "1-"}}, "/memoryPolicy/nodes"),
    ({"personality": {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}}, "/personality/flags"),
    ({"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/s"}}, "/seccomp/defaultAction"),
    ({"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}}, "/seccomp/defaultErrnoRet"),
    (seccomp(defaultErrnoRet=4096), "/seccomp/defaultErrnoRet"),
    (seccomp(syscalls=[ALLOW, {**ALLOW, "errnoRet": 0}]), "/seccomp/syscalls/1/errnoRet"),
    (seccomp(syscalls=[{**ALLOW, "action": "SCMP_ACT_TRACE", "errnoRet": 65536}]), "/seccomp/syscalls/0/errnoRet"),
    (seccomp(syscalls=[argument(6)]), "/seccomp/syscalls/0/args/0/index"),
    (seccomp(syscalls=[NOTIFY]), "/seccomp/syscalls/0/action"),
    (seccomp(listenerMetadata="x"), "/seccomp/listenerMetadata"),
    (seccomp(listenerPath="run/s"), "/seccomp/listenerPath"),
    (seccomp(listenerPath="/" + "x" * 107), "/seccomp/listenerPath"),
]  # fmt: skip
GOOD: list[dict[str, Any]] = [
    {"devices": [device("/dev/a"), device("/dev/b", "b"), {"type": "p", "path": "/x"}, {"type": "p", "path": "/y"}]},
    {"cgroupsPath": "system.slice:ocipy:x..y"},
    {"cgroupsPath": ""},
    {"resources": {}},
    {"resources": {"cpu": {"cpus": "", "quota": -1, "burst": 6, "idle": 1}}},
    {"resources": {"devices": [{"allow": False, "major": -1, "minor": -1}]}},
    {"intelRdt": {}},
    {"intelRdt": {"closID": "/"}},
    {"memoryPolicy": {"mode": "MPOL_PREFERRED"}},
    {"memoryPolicy": {"mode": "MPOL_DEFAULT", "nodes": "", "flags": []}},
    {"personality": {"domain": "LINUX32"}},
    {"seccomp": {"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 65535}},
    seccomp(defaultErrnoRet=4095, syscalls=[ALLOW, argument(5)], listenerMetadata=""),
    seccomp(syscalls=[NOTIFY], listenerPath="/run/s", listenerMetadata="x"),
]


@pytest.mark.parametrize(("more", "pointer"), BAD, ids=lambda value: str(value)[:70])
def test_bad_sections_are_refused(
    config: Any, refusal: Callable[[Any], ConfigError], more: dict[str, Any], pointer: str
) -> None:
    config["linux"] |= more
    error = refusal(config)
    assert error.pointer == "/linux" + pointer
    assert error.line == 1
    assert error.column > 1


RATE = {"major": 8, "minor": 0, "rate": 1}
# Complete, and what may be taken away alone.
COMPLETE: list[tuple[dict[str, Any], list[str]]] = [
    ({"resources": {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 5}]}}}, ["major", "minor", "weight"]),
    ({"resources": {"blockIO": {"throttleReadBpsDevice": [RATE]}}}, ["major", "minor", "rate"]),
    ({"resources": {"blockIO": {"throttleWriteIOPSDevice": [RATE]}}}, ["major", "minor", "rate"]),
    ({"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 5}]}}, ["pageSize", "limit"]),
    ({"resources": {"network": {"priorities": [{"name": "lo", "priority": 5}]}}}, ["name", "priority"]),
    ({"resources": {"rdma": {"mlx5_0": {"hcaHandles": 3}}}}, ["hcaHandles"]),
]


def without(value: Any, name: str) -> Any:
    """A copy that lacks this property, wherever it is."""
    if isinstance(value, list):
        return [without(item, name) for item in value]
    if isinstance(value, dict):
        return {key: without(item, name) for key, item in value.items() if key != name}
    return value


@pytest.mark.parametrize(
    ("complete", "name"), [(complete, name) for complete, names in COMPLETE for name in names], ids=lambda value: str(value)[:70]
)
def test_what_the_specification_requires_may_not_be_missing(
    config: Any, refusal: Callable[[Any], ConfigError], complete: dict[str, Any], name: str
) -> None:
    config["linux"] |= complete
    parse_config(json.dumps(config).encode(), "config.json")
    config["linux"] |= without(complete, name)
    assert refusal(config).pointer.startswith("/linux/resources/")


@pytest.mark.parametrize("more", GOOD, ids=lambda value: str(value)[:70])
def test_good_sections_are_accepted(config: Any, more: dict[str, Any]) -> None:
    config["linux"] |= more
    assert all_checks(config) == []


def test_a_device_given_twice_is_warned_of(config: Any) -> None:
    config["linux"]["devices"] = [device("/dev/a"), device("/dev/b", "u")]
    [warning] = all_checks(config)
    assert warning.startswith("/linux/devices/1: ")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"])
def test_hooks_have_absolute_paths(config: Any, refusal: Callable[[Any], ConfigError], kind: str) -> None:
    config["hooks"] = {kind: [{"path": "/bin/true"}, {"path": "bin/true"}]}
    assert refusal(config).pointer == f"/hooks/{kind}/1/path"


@pytest.mark.spec("/ociVersion")
@pytest.mark.parametrize("version", ["1.0.0", "1.0.0-rc5", "1.1.0+dev", "1.3.0", "1.3.9"])
def test_versions_of_the_first_major_are_accepted(config: Any, version: str) -> None:
    config["ociVersion"] = version
    assert all_checks(config) == []


@pytest.mark.parametrize("version", ["1.4.0", "1.99999.0", "1.4.0-rc.1"])
def test_later_minor_versions_are_warned_of(config: Any, version: str) -> None:
    config["ociVersion"] = version
    [warning] = all_checks(config)
    assert warning.startswith("/ociVersion: ")


@pytest.mark.spec("/ociVersion")
@pytest.mark.parametrize("version", ["0.2.0", "2.0.0", "10.0.0", "1", "", "1.3", "latest"])
def test_other_versions_are_refused(config: Any, refusal: Callable[[Any], ConfigError], version: str) -> None:
    config["ociVersion"] = version
    assert refusal(config).pointer == "/ociVersion"


# ---- capabilities ------------------------------------------------------------------------------------------------------


def test_bits_are_those_of_the_kernel() -> None:
    assert len(NAMES) == 41
    assert capability_mask(["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]) == 1 | 1 << 21 | 1 << 40
    assert capability_mask(["CAP_FLY", "sys_admin"]) == 0
    assert capability_names(1 | 1 << 40 | 1 << 50) == ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_50"]
    assert capability_names(0) == []


def test_what_cannot_be_granted_is_a_warning(config: Any) -> None:
    config["process"]["capabilities"] = {
        "bounding": ["CAP_KILL", "CAP_FLY"], "effective": ["CAP_KILL"], "permitted": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"],
        "inheritable": ["cap_kill"],
    }  # fmt: skip
    assert [text.partition(": ")[0] for text in all_checks(config)] == [
        "/process/capabilities/bounding/1",
        "/process/capabilities/inheritable/0",
        "/process/capabilities/effective",
        "/process/capabilities/ambient",
    ]


def test_root_misses_no_ambient_capability_that_its_programs_have_anyway(config: Any) -> None:
    config["process"]["capabilities"] = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted", "ambient")}
    config["process"]["user"] = {"uid": 0, "gid": 0}
    assert all_checks(config) == []
    config["process"]["user"]["uid"] = 1000
    assert [text.partition(": ")[0] for text in all_checks(config)] == ["/process/capabilities/ambient"]


# ---- lists of numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", []), (" ", []), ("0", [0]), ("0-3,7", [0, 1, 2, 3, 7]), ("7, 1-2 ,1", [1, 2, 7]), ("5-5", [5])],
)
def test_lists_of_numbers(text: str, numbers: list[int]) -> None:
    assert parse_id_list(text, "/x") == numbers


@pytest.mark.parametrize("text", ["-", "1-", "-1", "1,,2", ",", "1-2-3", "3-1", "a", "٣", "70000", "0-4294967295", "1" * 9])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_id_list(text, "/x")


def test_monitoring_as_it_was_before_1_3_is_warned_of(config: Any) -> None:
    config["linux"]["intelRdt"] = {"enableCMT": True}
    assert all_checks(config) == ["/linux/intelRdt/enableCMT is ignored: since 1.3.0 it is enableMonitoring"]
