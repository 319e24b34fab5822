"""linux.sysctl (config-linux.md, Sysctl): written in the container's namespaces, refused where they would be the host's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import Config, Container, drop_namespace, set_namespace

Make = Callable[..., Container]
Change = Callable[[Config], None]

FROM = 100000


def sysctl(values: dict[str, str]) -> Change:
    return lambda config: config["linux"].update(sysctl=values)


def user_namespace(config: Config) -> None:
    set_namespace(config, "user")
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": FROM, "size": 65536}]


def seen(container: Make, file: str, mutate: Change, *, mapped: bool = False) -> str:
    """What the container reads from a file of /proc/sys; the host's is the same as before."""

    def change(config: Config) -> None:
        mutate(config)
        if mapped:
            user_namespace(config)

    host = Path("/proc/sys", file)
    before = host.read_text() if host.exists() else None
    box = container("/bin/cat", f"/proc/sys/{file}", mutate=change)
    if mapped:
        subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", box.bundle.rootfs], check=True)
    text = box.run().stdout
    assert (host.read_text() if host.exists() else None) == before
    return " ".join(text.split())


@pytest.mark.spec("/linux/sysctl")
@pytest.mark.parametrize("mapped", [False, True], ids=["", "in a user namespace"])
@pytest.mark.parametrize(
    ("name", "value", "file"),
    [
        ("net.ipv4.ip_forward", "1", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "1", "net/ipv4/ip_forward"),
        ("net.ipv4.ip_unprivileged_port_start", "0", "net/ipv4/ip_unprivileged_port_start"),
        ("net.ipv4.ping_group_range", "0 1000", "net/ipv4/ping_group_range"),
        ("net.ipv4.conf.lo.forwarding", "1", "net/ipv4/conf/lo/forwarding"),
        ("net/ipv4/conf/lo/rp_filter", "2", "net/ipv4/conf/lo/rp_filter"),
        ("net.core.somaxconn", "1234", "net/core/somaxconn"),
        ("kernel.msgmax", "65000", "kernel/msgmax"),
        ("kernel.shm_rmid_forced", "1", "kernel/shm_rmid_forced"),
        ("kernel.sem", "100 200 30 400", "kernel/sem"),
        ("kernel/shmmni", "77", "kernel/shmmni"),
        ("fs.mqueue.msg_max", "20", "fs/mqueue/msg_max"),
        ("kernel.domainname", "example.org", "kernel/domainname"),
    ],
)
def test_a_parameter_of_a_namespace_is_written(container: Make, name: str, value: str, file: str, mapped: bool) -> None:
    assert seen(container, file, sysctl({name: value}), mapped=mapped) == value


def test_a_limit_of_the_user_namespace_is_written(container: Make) -> None:
    assert seen(container, "user/max_net_namespaces", sysctl({"user.max_net_namespaces": "3"}), mapped=True) == "3"


def test_all_are_written(container: Make) -> None:
    values = {f"net.ipv4.conf.{device}.{name}": "1" for device in ("all", "default") for name in ("accept_local", "log_martians")}
    script = "cd /proc/sys/net/ipv4/conf; cat all/accept_local all/log_martians default/accept_local default/log_martians"
    assert container("/bin/sh", "-c", script, mutate=sysctl(values)).run().stdout.split() == ["1"] * 4


def test_no_proc_in_the_container_is_needed(container: Make) -> None:
    """And none that the image has is trusted."""

    def change(config: Config) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith(("/proc", "/sys"))]
        sysctl({"kernel.msgmax": "5000"})(config)
        config["linux"].update(maskedPaths=[], readonlyPaths=[])

    box = container("/bin/probe", "sleep", mutate=change)
    fake = box.bundle.rootfs / "proc/sys/kernel"
    fake.mkdir(parents=True)
    (fake / "msgmax").write_text("of the image")
    box.create()
    assert (fake / "msgmax").read_text() == "of the image"
    argv = ["nsenter", f"--ipc=/proc/{box.pid}/ns/ipc", "cat", "/proc/sys/kernel/msgmax"]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"5000\n"
    box.delete("--force")


@pytest.mark.spec("/linux/sysctl")
def test_a_joined_namespace_is_written_too(container: Make) -> None:
    first = container("/bin/probe", "sleep", mutate=sysctl({"net.ipv4.ip_forward": "1"}))
    first.create()
    path = f"/proc/{first.pid}/ns/net"
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_default_ttl"

    def change(config: Config) -> None:
        set_namespace(config, "network", path)
        sysctl({"net.ipv4.ip_default_ttl": "77"})(config)

    assert container("/bin/sh", "-c", script, mutate=change).run().stdout.split() == ["1", "77"]
    first.delete("--force")


# ---- refused --------------------------------------------------------------------------------------------------------------------


def refused(container: Make, name: str, mutate: Change) -> str:
    box = container("/bin/true", mutate=mutate)
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert "/linux/sysctl/" + name.replace("/", "~1") in said
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    "name",
    [
        *["kernel.core_pattern", "kernel/core_pattern", "vm.overcommit_memory", "kernel.hostname", "fs.file-max"],
        *["kernel.modprobe", "net", "net..ipv4", "net.ipv4.../ip_forward", "/proc/sys/net/ipv4/ip_forward", "", "kernel.msgmax.x"],
    ],
)
def test_parameters_of_the_host_and_names_of_none_are_refused(container: Make, name: str) -> None:
    refused(container, name, sysctl({name: "1"}))


@pytest.mark.parametrize(
    ("kind", "name"), [("network", "net.ipv4.ip_forward"), ("ipc", "kernel.msgmax"), ("ipc", "fs.mqueue.msg_max")]
)
def test_without_its_namespace_a_parameter_is_the_hosts(container: Make, kind: str, name: str) -> None:
    def change(config: Config) -> None:
        drop_namespace(config, kind)
        sysctl({name: "1"})(config)

    assert f"needs a {kind} namespace" in refused(container, name, change)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("net.ipv4.no_such_parameter", "1", "no such file"),
        ("net.ipv4.ip_forward", "many", "invalid argument"),
        ("kernel.msgmax", "-5", "invalid argument"),
        ("net.ipv4", "1", ""),
    ],
    ids=["unknown", "no number", "out of range", "a directory"],
)
def test_what_the_kernel_refuses_is_an_error_that_names_it(container: Make, name: str, value: str, words: str) -> None:
    assert words in refused(container, name, sysctl({name: value}))
