"""Namespaces, and what needs one: mappings, names, clocks, devices, parameters, masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ocipy.config.check import all_checks
from ocipy.config.sysctl import sysctl_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.errors import ConfigError


def mapping(container: int, host: int, size: int) -> dict[str, int]:
    return {"containerID": container, "hostID": host, "size": size}


ONE = [mapping(0, 0, 1)]
USER, TIME = {"type": "user"}, {"type": "time"}


def linux(config: Any, namespaces: list[Any], more: dict[str, Any]) -> Any:
    config["linux"]["namespaces"] += namespaces
    config["linux"] |= more
    return config


@pytest.mark.parametrize(
    ("namespaces", "more", "pointer"),
    [
        ([{"type": "pid"}], {}, "/linux/namespaces/5/type"),
        ([{"type": "user", "path": "ns/user"}], {}, "/linux/namespaces/5/path"),
        ([{"type": "user", "path": "/" + "x" * 5000}], {}, "/linux/namespaces/5/path"),
        ([], {"uidMappings": ONE}, "/linux/uidMappings"),
        ([], {"gidMappings": ONE}, "/linux/gidMappings"),
        ([USER], {}, "/linux/namespaces"),
        ([USER], {"uidMappings": ONE}, "/linux/namespaces"),
        ([USER], {"uidMappings": ONE, "gidMappings": []}, "/linux/namespaces"),
        ([USER], {"uidMappings": [mapping(0, 0, 2), mapping(1, 5, 1)], "gidMappings": ONE}, "/linux/uidMappings/1/containerID"),
        ([USER], {"uidMappings": ONE, "gidMappings": [mapping(5, 3, 5), mapping(0, 5, 1)]}, "/linux/gidMappings/1/hostID"),
        ([USER], {"uidMappings": [mapping(1, 0, 4294967295), mapping(0, 4294967294, 1)], "gidMappings": ONE},
         "/linux/uidMappings/1/hostID"),
        ([USER], {"uidMappings": [mapping(2, 0, 4294967295)], "gidMappings": ONE}, "/linux/uidMappings/0/size"),
        ([USER], {"uidMappings": [mapping(n, n, 1) for n in range(341)], "gidMappings": ONE}, "/linux/uidMappings"),
        ([], {"timeOffsets": {"monotonic": {"secs": 1}}}, "/linux/timeOffsets"),
        ([{"type": "time", "path": "/n"}], {"timeOffsets": {"monotonic": {"secs": 1}}}, "/linux/timeOffsets"),
        ([TIME], {"timeOffsets": {"realtime": {"secs": 1}}}, "/linux/timeOffsets"),
        ([], {"netDevices": {"eth0": {"name": "a/b"}}}, "/linux/netDevices/eth0/name"),
        ([], {"netDevices": {"a/b": {}}}, "/linux/netDevices/a~1b"),
        ([], {"netDevices": {"x" * 16: {}}}, "/linux/netDevices/" + "x" * 16),
        ([], {"netDevices": {"..": {}}}, "/linux/netDevices/.."),
        ([], {"netDevices": {"eth0": {"name": "a b"}}}, "/linux/netDevices/eth0/name"),
        ([], {"netDevices": {"eth0": {"name": "a%s"}}}, "/linux/netDevices/eth0/name"),
        ([], {"netDevices": {"eth0": {"name": "a%d%d"}}}, "/linux/netDevices/eth0/name"),
        ([], {"netDevices": {"eth0": {"name": "x"}, "x": {}}}, "/linux/netDevices/x/name"),
        ([], {"maskedPaths": ["/a", "b"]}, "/linux/maskedPaths/1"),
        ([], {"readonlyPaths": [""]}, "/linux/readonlyPaths/0"),
        ([], {"readonlyPaths": ["/" + "x" * 5000]}, "/linux/readonlyPaths/0"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_bad_combinations_are_refused(
    config: Any, refusal: Callable[[Any], ConfigError], namespaces: list[Any], more: dict[str, Any], pointer: str
) -> None:
    assert refusal(linux(config, namespaces, more)).pointer == pointer


@pytest.mark.parametrize(
    ("namespaces", "more"),
    [
        ([{"type": "cgroup", "path": ""}], {}),
        ([USER], {"uidMappings": ONE, "gidMappings": [mapping(0, 5, 5), mapping(5, 0, 5)]}),
        ([USER], {"uidMappings": [mapping(0, 0, 4294967295)], "gidMappings": ONE}),
        ([{"type": "user", "path": "/proc/1/ns/user"}], {}),
        ([TIME], {"timeOffsets": {"monotonic": {"secs": -1}, "boottime": {}}}),
        ([{"type": "time", "path": "/n"}], {"timeOffsets": {}}),
        ([], {"netDevices": {"eth0": {"name": "eth%d"}, "eth1": {"name": "eth%d"}, "ä": {"name": ""}}}),
        ([], {"maskedPaths": [], "readonlyPaths": ["/a"]}),
    ],
    ids=str,
)
def test_good_combinations_are_accepted(config: Any, namespaces: list[Any], more: dict[str, Any]) -> None:
    assert all_checks(linux(config, namespaces, more)) == []


def test_mappings_beside_a_joined_user_namespace_are_warned_of(config: Any) -> None:
    """Engines send both."""
    [warning] = all_checks(linux(config, [{"type": "user", "path": "/n"}], {"uidMappings": ONE, "gidMappings": ONE}))
    assert warning.startswith("/linux/uidMappings: ")


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"hostname": "a"}, "/hostname"),
        ({"domainname": "a"}, "/domainname"),
        ({"linux": {"netDevices": {"a": {}}}}, "/linux/netDevices"),
        ({"linux": {"maskedPaths": ["/a"]}}, "/linux/maskedPaths"),
        ({"linux": {"readonlyPaths": ["/a"]}}, "/linux/readonlyPaths"),
        ({"linux": {"sysctl": {"net.core.somaxconn": "1"}}}, "/linux/sysctl/net.core.somaxconn"),
        ({"linux": {"sysctl": {"kernel.sem": "1"}}}, "/linux/sysctl/kernel.sem"),
        ({"linux": {"sysctl": {"fs.mqueue.msg_max": "1"}}}, "/linux/sysctl/fs.mqueue.msg_max"),
        ({"linux": {"sysctl": {"kernel.domainname": "1"}}}, "/linux/sysctl/kernel.domainname"),
    ],
    ids=str,
)
def test_what_would_change_the_host_needs_a_namespace(
    config: Any, refusal: Callable[[Any], ConfigError], more: dict[str, Any], pointer: str
) -> None:
    config["linux"]["namespaces"] = []
    config |= {**more, "linux": {**config["linux"], **more.get("linux", {})}}
    assert refusal(config).pointer == pointer


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_names_of_65_bytes_are_refused(config: Any, refusal: Callable[[Any], ConfigError], name: str) -> None:
    config[name] = "x" * 64
    assert all_checks(config) == []
    config[name] = "ä" * 32 + "x"
    assert refusal(config).pointer == "/" + name


# ---- sysctl ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("single", "single"),
    ],
)
def test_both_separators_are_known(name: str, path: str) -> None:
    assert sysctl_path(name) == path


@pytest.mark.parametrize(
    "name",
    ["net.core.somaxconn", "net/ipv4/conf/eth0.1/forwarding", "kernel.shm_rmid_forced", "kernel/sem", "fs.mqueue.queues_max",
     "kernel.domainname"],
)  # fmt: skip
def test_parameters_of_namespaces_are_accepted(config: Any, name: str) -> None:
    config["linux"]["sysctl"] = {name: "1"}
    assert all_checks(config) == []


@pytest.mark.parametrize(
    "name",
    ["kernel.hostname", "kernel.panic", "vm.swappiness", "fs.file-max", "user.max_user_namespaces", "", "net", "net.", ".net.a",
     "net..a", "net/../kernel/panic", "net./././a", "kernel.sem.x", "kernel.shmall/x", "fs.mqueue", "/net/a", "net." + "x" * 300],
    ids=lambda name: name[:30] or "empty",
)  # fmt: skip
def test_parameters_of_the_host_are_refused(config: Any, refusal: Callable[[Any], ConfigError], name: str) -> None:
    config["linux"]["sysctl"] = {name: "1"}
    assert refusal(config).pointer.startswith("/linux/sysctl/")


def test_a_user_namespace_owns_its_limits(config: Any) -> None:
    config = linux(config, [USER], {"uidMappings": ONE, "gidMappings": ONE, "sysctl": {"user.max_user_namespaces": "1"}})
    assert all_checks(config) == []
