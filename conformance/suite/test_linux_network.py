"""config-linux.md: network devices. The runtime is in a network namespace of the test's own, which it takes for the host's."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Bundle, Config, Container, Runtime, runtime_path, set_namespace, wait_until

clauses = pytest.mark.clauses
Make = Callable[..., Container]
MAC = "02:00:00:12:34:56"


class Network:
    """A network namespace, kept by a process that sleeps in it, or that of a container."""

    def __init__(self, pid: int) -> None:
        self.path = f"/proc/{pid}/ns/net"

    def ip(self, *arguments: str) -> str:
        argv = ["nsenter", f"--net={self.path}", "ip", *arguments]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout

    def devices(self) -> dict[str, dict[str, Any]]:
        return {link["ifname"]: link for link in json.loads(self.ip("-j", "-d", "address", "show"))}


@pytest.fixture
def network(no_leaks: None) -> Iterator[Callable[[], Network]]:
    """``network()``: a new one, which ends with the test."""
    sleepers = []

    def make() -> Network:
        sleeper = subprocess.Popen(["unshare", "--net", "sleep", "1000"], stdin=subprocess.DEVNULL)
        sleepers.append(sleeper)
        ours = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{sleeper.pid}/ns/net") != ours, 10, "a network namespace")
        return Network(sleeper.pid)

    yield make
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()


@pytest.fixture
def host(network: Callable[[], Network]) -> Network:
    """eth7 is one end of a veth, up, with addresses; peer7 is the other."""
    made = network()
    made.ip("link", "add", "eth7", "address", MAC, "mtu", "1400", "txqueuelen", "77", "type", "veth", "peer", "name", "peer7")
    for name in ("peer7", "eth7"):
        made.ip("link", "set", name, "up")
    made.ip("address", "add", "10.7.0.1/24", "dev", "eth7")
    made.ip("address", "add", "fd07::1/64", "dev", "eth7", "nodad")
    return made


@pytest.fixture
def box(host: Network, tmp_path: Path, bundle: Callable[..., Bundle]) -> Iterator[Make]:
    """``box({"eth7": {}}, path)``: a container with these devices, in the network namespace at ``path`` or in a new one."""
    wrapper = tmp_path / "runtime-in-network"
    wrapper.write_text(f'#!/bin/sh\nexec nsenter --net={host.path} {runtime_path()} "$@"\n')
    wrapper.chmod(0o755)
    runtime = Runtime(tmp_path / "runtime", str(wrapper))

    def make(wanted: dict[str, dict[str, str]], path: str | None = None) -> Container:
        def change(config: Config) -> None:
            config["linux"]["netDevices"] = wanted
            set_namespace(config, "network", path)

        return runtime.container(bundle("/bin/sleep", "1000", mutate=change))

    yield make
    assert not runtime.close()


def inside(box: Container) -> Network:
    box.create()
    return Network(box.pid)


def moved(box: Container, host: Network) -> Network:
    """As ``inside``, where eth7 has gone somewhere: that it must is the matter of another test."""
    found = inside(box)
    if "eth7" in host.devices():
        pytest.skip("this runtime moves no network devices")
    return found


@clauses("config-linux.netDevices.available")
@pytest.mark.parametrize("name", ["", "ctr0"], ids=["its own name", "another name"])
def test_a_device_is_in_the_container(box: Make, host: Network, name: str) -> None:
    seen = inside(box({"eth7": {"name": name} if name else {}})).devices()
    assert set(seen) == {"lo", name or "eth7"}
    assert seen[name or "eth7"]["linkinfo"]["info_kind"] == "veth"
    assert set(host.devices()) == {"lo", "peer7"}


@clauses("config-linux.netDevices.attributes")
def test_a_device_keeps_its_attributes(box: Make, host: Network) -> None:
    keys = ("address", "mtu", "txqlen", "link_type", "broadcast")
    before = host.devices()["eth7"]
    after = moved(box({"eth7": {"name": "ctr0"}}), host).devices()["ctr0"]
    assert {key: after[key] for key in keys} == {key: before[key] for key in keys}


@clauses("config-linux.netDevices.addresses")
def test_a_device_keeps_its_permanent_addresses_of_global_scope(box: Make, host: Network) -> None:
    host.ip("address", "add", "10.8.0.1/16", "dev", "eth7")
    devices = moved(box({"eth7": {"name": "ctr0"}}), host).devices()
    found = {(a["local"], a["prefixlen"], a["valid_life_time"]) for a in devices["ctr0"]["addr_info"] if a["scope"] == "global"}
    ever = 2**32 - 1
    assert found == {("10.7.0.1", 24, ever), ("10.8.0.1", 16, ever), ("fd07::1", 64, ever)}


@clauses("config-linux.netDevices.up")
@pytest.mark.parametrize("before", ["up", "down"])
def test_a_device_is_up(box: Make, host: Network, before: str) -> None:
    host.ip("link", "set", "eth7", before)
    assert "UP" in moved(box({"eth7": {}}), host).devices()["eth7"]["flags"]


@clauses("config-linux.netDevices.check")
@pytest.mark.parametrize("name", ["none", "lo"])
def test_a_device_that_cannot_be_moved_is_an_error(box: Make, host: Network, name: str) -> None:
    assert box({name: {"name": "ctr0"}}).create(check=False).status != 0
    assert set(host.devices()) == {"lo", "eth7", "peer7"}


@clauses("config-linux.netDevices.taken")
@pytest.mark.parametrize("name", ["lo", "first"])
def test_a_name_that_is_taken_is_an_error(box: Make, host: Network, network: Callable[[], Network], name: str) -> None:
    other = network()
    other.ip("link", "add", "first", "type", "ifb")
    assert box({"eth7": {"name": name}}, other.path).create(check=False).status != 0
    assert set(other.devices()) == {"lo", "first"}
    assert "eth7" in host.devices()


@clauses("config-linux.netDevices.template")
def test_a_template_is_filled_in(box: Make, network: Callable[[], Network]) -> None:
    other = network()
    other.ip("link", "add", "pod0", "type", "ifb")
    box({"eth7": {"name": "pod%d"}}, other.path).create()
    assert set(other.devices()) == {"lo", "pod0", "pod1"}


@clauses("config-linux.netDevices.unmanaged")
def test_what_becomes_of_a_device_is_left_to_others(box: Make, host: Network, network: Callable[[], Network]) -> None:
    other = network()
    container = box({"eth7": {}}, other.path)
    moved(container, host)
    other.ip("link", "set", "eth7", "down", "mtu", "1300")
    other.ip("address", "add", "10.99.0.1/24", "dev", "eth7")
    before = other.devices()["eth7"]
    container.start()
    container.kill()
    container.wait_for("stopped")
    container.delete()
    after = other.devices()["eth7"]
    keys = ("flags", "mtu", "address", "ifindex")
    assert [after[key] for key in keys] == [before[key] for key in keys]
    assert [a["local"] for a in after["addr_info"]] == [a["local"] for a in before["addr_info"]]


@clauses("config-linux.netDevices.stays")
@pytest.mark.parametrize("force", [False, True], ids=["stopped", "by force"])
def test_a_device_is_not_taken_out_again(box: Make, host: Network, network: Callable[[], Network], force: bool) -> None:
    other = network()
    container = box({"eth7": {}}, other.path)
    moved(container, host)
    container.start()
    if not force:
        container.kill()
        container.wait_for("stopped")
    container.delete(*(["--force"] if force else []))
    assert set(other.devices()) == {"lo", "eth7"}
    assert set(host.devices()) == {"lo", "peer7"}
