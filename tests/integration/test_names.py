"""hostname and domainname (config.md, Hostname, Domainname)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from bundles import Config, Container, drop_namespace, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]

FROM = 100000


def names(**values: str) -> Callable[[Config], None]:
    return lambda config: config.update(values)


@pytest.mark.spec("/hostname", "/domainname")
@pytest.mark.parametrize("name", ["box", "a.b-c.example", "h" * 64, "ü" * 32, "with blank", "-"])
def test_the_names_are_those_of_the_config_and_the_host_keeps_its_own(probe: Probe, name: str) -> None:
    before = os.uname().nodename, socket.getfqdn()
    seen = probe(names(hostname=name, domainname=name))
    assert (seen["hostname"], seen["domainname"]) == (name, name)
    assert (os.uname().nodename, socket.getfqdn()) == before


def test_without_names_a_new_namespace_has_the_hosts(probe: Probe) -> None:
    assert probe(lambda config: config.pop("hostname"))["hostname"] == os.uname().nodename


def test_an_empty_name_is_none(probe: Probe) -> None:
    assert probe(names(hostname="", domainname=""))["hostname"] == os.uname().nodename


def test_a_program_that_exec_starts_sees_the_names(container: Make) -> None:
    box = container("/bin/probe", "trap", mutate=names(hostname="one", domainname="two"))
    box.run("--detach")
    box.wait_output("ready")
    seen = box.exec("/bin/probe").json
    assert (seen["hostname"], seen["domainname"]) == ("one", "two")
    box.delete("--force")


@pytest.mark.spec("/hostname", "/domainname")
def test_names_in_a_user_namespace(container: Make) -> None:
    def change(config: Config) -> None:
        names(hostname="one", domainname="two")(config)
        set_namespace(config, "user")
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [{"containerID": 0, "hostID": FROM, "size": 65536}]

    box = container(mutate=change)
    subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", box.bundle.rootfs], check=True)
    seen = box.run().json
    assert (seen["hostname"], seen["domainname"]) == ("one", "two")


def test_names_of_a_joined_namespace_are_kept_or_changed_for_all_in_it(container: Make) -> None:
    first = container("/bin/probe", "sleep", mutate=names(hostname="first"))
    first.create()
    path = f"/proc/{first.pid}/ns/uts"

    def join(config: Config) -> None:
        set_namespace(config, "uts", path)
        config.pop("hostname")

    def rename(config: Config) -> None:
        set_namespace(config, "uts", path)
        config["hostname"] = "second"

    assert container(mutate=join).run().json["hostname"] == "first"
    assert container(mutate=rename).run().json["hostname"] == "second"
    assert container(mutate=join).run().json["hostname"] == "second"
    first.delete("--force")


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_a_name_without_a_uts_namespace_is_refused_for_it_would_be_the_hosts(container: Make, name: str) -> None:
    def change(config: Config) -> None:
        drop_namespace(config, "uts")
        config.pop("hostname")
        config[name] = "box"

    box = container("/bin/true", mutate=change)
    before = os.uname().nodename
    assert box.create(check=False).status == 1
    assert f"/{name}" in box.errors.read_text()
    assert os.uname().nodename == before


@pytest.mark.parametrize("name", ["hostname", "domainname"])
@pytest.mark.parametrize("value", ["h" * 65, "ü" * 33])
def test_a_name_that_is_too_long_is_refused(container: Make, name: str, value: str) -> None:
    box = container("/bin/true", mutate=names(**{name: value}))
    assert box.create(check=False).status == 1
    assert f"/{name}" in box.errors.read_text()
    assert "64 bytes" in box.errors.read_text()
