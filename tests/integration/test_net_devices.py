"""Network devices that are moved into the container (config-linux.md, Network Devices).

The runtime is in a network namespace of the test's own: no device of this machine is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Bundle, Config, Container, Runtime, runtime_path, set_namespace, wait_until

Devices = dict[str, dict[str, str]]
MAC = "02:00:00:12:34:56"


class Network:
    """A network namespace, kept by a process that sleeps in it."""

    def __init__(self, sleeper: subprocess.Popen[bytes]) -> None:
        self.sleeper = sleeper
        self.path = f"/proc/{sleeper.pid}/ns/net"

    def ip(self, *arguments: str) -> None:
        ip(self.path, *arguments)

    def devices(self) -> dict[str, dict[str, Any]]:
        return devices(self.path)


def ip(path: str, *arguments: str) -> str:
    argv = ["nsenter", f"--net={path}", "ip", *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout


def devices(path: str) -> dict[str, dict[str, Any]]:
    """Name -> what `ip address` says; addresses as text with their flags, without those of the link itself."""
    found = {}
    for link in json.loads(ip(path, "-j", "-d", "address", "show")):
        link["addresses"] = [address for address in link["addr_info"] if address["scope"] == "global"]
        found[link["ifname"]] = link
    return found


def addresses(device: dict[str, Any]) -> list[str]:
    return [f"{address['local']}/{address['prefixlen']}" for address in device["addresses"]]


@pytest.fixture
def network(no_leaks: None) -> Iterator[Callable[[], Network]]:
    """``network()``: a new network namespace, which ends with the test."""
    sleepers = []

    def make() -> Network:
        sleeper = subprocess.Popen(["unshare", "--net", "sleep", "1000"], stdin=subprocess.DEVNULL)
        sleepers.append(sleeper)
        ours = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{sleeper.pid}/ns/net") != ours, 10, "a network namespace")
        return Network(sleeper)

    yield make
    for sleeper in sleepers:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()


@pytest.fixture
def host(network: Callable[[], Network]) -> Network:
    """What the runtime has for a host: eth7 is one end of a veth, with addresses, up; peer7 is the other."""
    made = network()
    made.ip("link", "add", "eth7", "address", MAC, "mtu", "1400", "type", "veth", "peer", "name", "peer7")
    made.ip("link", "set", "peer7", "up")
    made.ip("link", "set", "eth7", "up")
    made.ip("address", "add", "10.7.0.1/24", "dev", "eth7")
    made.ip("address", "add", "fd07::1/64", "dev", "eth7", "nodad")
    return made


@pytest.fixture
def box(host: Network, tmp_path: Path, bundle: Callable[..., Bundle]) -> Iterator[Callable[..., Container]]:
    """``box({"eth7": {}}, change)``: a container of a runtime that runs in the network namespace of ``host``."""
    wrapper = tmp_path / "runtime-in-network"
    wrapper.write_text(f'#!/bin/sh\nexec nsenter --net={host.path} {runtime_path()} "$@"\n')
    wrapper.chmod(0o755)
    runtime = Runtime(tmp_path / "runtime", str(wrapper))

    def make(wanted: Devices, change: Callable[[Config], object] = lambda config: None, *args: str) -> Container:
        def mutate(config: Config) -> None:
            config["linux"]["netDevices"] = wanted
            change(config)

        return runtime.container(bundle(*(args or ("/bin/sleep", "1000")), mutate=mutate))

    yield make
    assert not runtime.close()


def inside(box: Container) -> dict[str, dict[str, Any]]:
    return devices(f"/proc/{box.pid}/ns/net")


# ---- moved ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/netDevices/*/name")
def test_a_device_is_moved_with_its_attributes_and_addresses_and_is_up(box: Callable[..., Container], host: Network) -> None:
    container = box({"eth7": {"name": "ctr0"}})
    container.create()
    assert set(host.devices()) == {"lo", "peer7"}
    seen = inside(container)
    assert set(seen) == {"lo", "ctr0"}
    device = seen["ctr0"]
    assert (device["address"], device["mtu"]) == (MAC, 1400)
    assert "UP" in device["flags"]
    assert addresses(device) == ["10.7.0.1/24", "fd07::1/64"]
    assert all(address["valid_life_time"] == 2**32 - 1 for address in device["addresses"])
    path = f"/proc/{container.pid}/ns/net"
    assert "10.7.0.0/24 dev ctr0" in ip(path, "route")
    assert "fd07::/64 dev ctr0" in ip(path, "-6", "route")


def test_without_a_name_it_keeps_its_own(box: Callable[..., Container]) -> None:
    container = box({"eth7": {}})
    container.create()
    assert set(inside(container)) == {"lo", "eth7"}


@pytest.mark.spec("/linux/netDevices/*/name")
def test_many_are_moved_and_may_swap_their_names(box: Callable[..., Container], host: Network) -> None:
    host.ip("link", "add", "eth8", "type", "ifb")
    container = box({"eth7": {"name": "eth8"}, "eth8": {"name": "eth7"}})
    container.create()
    assert set(host.devices()) == {"lo", "peer7"}
    seen = inside(container)
    assert {name: device["linkinfo"]["info_kind"] for name, device in seen.items() if name != "lo"} == {
        "eth7": "ifb",
        "eth8": "veth",
    }
    assert all("UP" in device["flags"] for device in seen.values())


def test_the_kernel_fills_in_a_template(box: Callable[..., Container], host: Network) -> None:
    host.ip("link", "add", "eth8", "type", "ifb")
    host.ip("address", "add", "10.8.0.1/24", "dev", "eth7", "label", "eth7:one")
    container = box({"eth7": {"name": "pod%d"}, "eth8": {"name": "pod%d"}})
    container.create()
    seen = inside(container)
    assert set(seen) == {"lo", "pod0", "pod1"}
    assert [address["label"] for address in seen["pod0"]["addresses"] if address["family"] == "inet"] == ["pod0", "pod0:one"]


def test_addresses_keep_what_was_asked_for_and_their_order(box: Callable[..., Container], host: Network) -> None:
    host.ip("address", "flush", "dev", "eth7")
    host.ip("address", "add", "10.1.0.2/24", "dev", "eth7", "noprefixroute", "broadcast", "10.1.0.99", "metric", "7")
    host.ip("address", "add", "10.1.0.1/24", "dev", "eth7")
    host.ip("address", "add", "10.2.0.1", "peer", "10.3.0.1/30", "dev", "eth7")
    host.ip("address", "add", "fd08::1/64", "dev", "eth7", "nodad", "noprefixroute", "home")
    host.ip("address", "add", "fd09::1/64", "dev", "eth7", "nodad", "preferred_lft", "0")
    before = host.devices()["eth7"]["addr_info"]
    container = box({"eth7": {}})
    container.create()
    after = inside(container)["eth7"]["addr_info"]
    for address in (*before, *after):
        address.pop("protocol", None)
    wanted = [address for address in before if address["scope"] == "global"]
    assert [address for address in after if address["scope"] == "global"] == wanted
    assert {"noprefixroute", "secondary", "deprecated", "home", "metric", "broadcast"} <= {key for item in wanted for key in item}


def test_only_addresses_for_the_outside_and_for_ever_are_moved(box: Callable[..., Container], host: Network) -> None:
    host.ip("address", "add", "169.254.7.7/16", "dev", "eth7", "scope", "link")
    host.ip("address", "add", "10.9.0.1/24", "dev", "eth7", "valid_lft", "1000", "preferred_lft", "1000")
    host.ip("address", "add", "fd09::1/64", "dev", "eth7", "nodad", "valid_lft", "1000", "preferred_lft", "1000")
    container = box({"eth7": {}})
    container.create()
    found = [address["local"] for address in inside(container)["eth7"]["addr_info"]]
    assert [text for text in found if not text.startswith("fe80:")] == ["10.7.0.1", "fd07::1"]


def test_the_program_can_use_it(box: Callable[..., Container]) -> None:
    container = box({"eth7": {"name": "ctr0"}}, lambda config: None, "/bin/ping", "-c", "1", "-W", "5", "fd07::1")
    container.bundle.config["process"]["capabilities"]["effective"].append("CAP_NET_RAW")
    container.bundle.config["process"]["capabilities"]["permitted"].append("CAP_NET_RAW")
    container.bundle.config["process"]["capabilities"]["bounding"].append("CAP_NET_RAW")
    container.bundle.write()
    assert "1 packets received" in container.run().stdout


def test_it_goes_into_a_network_namespace_of_a_user_namespace(box: Callable[..., Container]) -> None:
    def change(config: Config) -> None:
        set_namespace(config, "user")
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    container = box({"eth7": {"name": "ctr0"}}, change)
    for directory, _, files in os.walk(container.bundle.rootfs):
        for name in ("", *files):
            os.lchown(os.path.join(directory, name), 100000, 100000)
    container.create()
    assert addresses(inside(container)["ctr0"]) == ["10.7.0.1/24", "fd07::1/64"]


def test_it_goes_into_a_namespace_that_is_joined_where_its_index_is_taken(
    box: Callable[..., Container], host: Network, network: Callable[[], Network]
) -> None:
    other = network()
    index = host.devices()["eth7"]["ifindex"]
    other.ip("link", "add", "first", "index", str(index), "type", "ifb")
    container = box({"eth7": {}}, lambda config: set_namespace(config, "network", other.path))
    container.create()
    seen = other.devices()
    assert addresses(seen["eth7"]) == ["10.7.0.1/24", "fd07::1/64"]
    assert seen["first"]["ifindex"] == index != seen["eth7"]["ifindex"]


def test_the_runtime_does_not_take_it_back(box: Callable[..., Container], host: Network, network: Callable[[], Network]) -> None:
    other = network()
    container = box({"eth7": {}}, lambda config: set_namespace(config, "network", other.path))
    container.create()
    container.delete("--force")
    assert set(other.devices()) == {"lo", "eth7"}
    assert set(host.devices()) == {"lo", "peer7"}


def test_nothing_of_the_runtime_keeps_the_namespace_alive(box: Callable[..., Container], tmp_path: Path) -> None:
    """In the foreground it is there until the end; the other end of the veth goes with the container's namespace."""
    script = f"for i in $(seq 100); do ip link show peer7 || exec touch {tmp_path}/gone; sleep 0.1; done"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"PATH={os.environ['PATH']}"]}
    box({"eth7": {}}, lambda config: config.update(hooks={"poststop": [hook]}), "/bin/true").run()
    assert (tmp_path / "gone").exists()


# ---- refused, and undone --------------------------------------------------------------------------------------------------------


def shape(host: Network) -> dict[str, Any]:
    """What of the devices must be as it was: not the carrier, which a peer that is up has in time."""
    keys = ("ifindex", "address", "mtu", "addresses")
    return {
        name: ([device[key] for key in keys], "UP" in device["flags"], device["linkinfo"]["info_kind"] if name != "lo" else "")
        for name, device in host.devices().items()
    }


def refused(box: Container, host: Network) -> str:
    """The error of a create that fails; all devices are as they were."""
    before = shape(host)
    answer = box.create(check=False)
    assert answer.status == 1
    assert shape(host) == before
    said = box.errors.read_text()
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"none": {}}, "find the network device none (/linux/netDevices/none): netlink: no such device; "),
        ({"lo": {}}, "move the network device lo (/linux/netDevices/lo): netlink: file exists; "),
        ({"eth7": {"name": "lo"}}, "move the network device eth7 as lo (/linux/netDevices/eth7): netlink: file exists; "),
        ({"lo": {"name": "x"}}, "this kind of device cannot change its network namespace"),
        ({"eth7": {}, "none": {}}, "find the network device none"),
    ],
    ids=["missing", "lo", "taken", "local", "second"],
)
def test_what_cannot_be_moved_is_an_error_and_the_rest_comes_back(
    box: Callable[..., Container], host: Network, wanted: Devices, words: str
) -> None:
    assert words in refused(box(wanted), host)


def test_a_device_comes_back_when_a_later_step_fails(box: Callable[..., Container], host: Network) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}
    failing = box({"eth7": {"name": "ctr0"}}, lambda config: config.update(hooks={"createRuntime": [hook]}))
    assert "exit status 3" in refused(failing, host)


def test_a_device_comes_back_when_the_pid_file_cannot_be_written(box: Callable[..., Container], host: Network) -> None:
    container = box({"eth7": {"name": "ctr0"}})
    before = shape(host)
    assert container.create("--pid-file", "/nowhere/pid", check=False).status == 1
    assert shape(host) == before


def test_a_device_that_was_down_comes_back_down(box: Callable[..., Container], host: Network) -> None:
    host.ip("link", "set", "eth7", "down")
    assert "missing" in refused(box({"eth7": {"name": "ctr0"}, "missing": {}}), host)


def test_a_device_whose_addresses_cannot_be_kept_comes_back(
    box: Callable[..., Container], host: Network, network: Callable[[], Network]
) -> None:
    other = network()
    script = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
    subprocess.run(["nsenter", f"--net={other.path}", "sh", "-c", script], check=True)
    said = refused(box({"eth7": {}}, lambda config: set_namespace(config, "network", other.path)), host)
    assert "give addresses to the network device eth7" in said
    assert "IPv6 is disabled" in said
    assert set(other.devices()) == {"lo"}


def test_the_runtimes_own_network_namespace_is_refused(box: Callable[..., Container], host: Network) -> None:
    said = refused(box({"eth7": {}}, lambda config: set_namespace(config, "network", host.path)), host)
    assert "is the runtime's own: /linux/netDevices would change it" in said


def test_the_plan_says_so(box: Callable[..., Container]) -> None:
    container = box({"eth7": {"name": "ctr0"}})
    plan = container.runtime("plan", container.bundle.path).stdout
    assert "/linux/netDevices/eth7" in plan
    assert "move the network device eth7 into the container, as ctr0, with its addresses, and set it up" in plan
