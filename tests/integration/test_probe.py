"""The probe reports what the config asked for: tests of the tests' own parts, and of the plainest container."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from bundles import Config, Container, mount_at

Probe = Callable[..., dict[str, Any]]


def test_default_container_is_pid_1_in_namespaces_of_its_own(probe: Probe) -> None:
    seen = probe()
    assert seen["pid"] == 1
    assert seen["hostname"] == "box"
    assert seen["namespaces"]["pid"] != os.readlink("/proc/self/ns/pid")
    assert seen["namespaces"]["user"] == os.readlink("/proc/self/ns/user")
    assert mount_at(seen, "/dev/shm")["type"] == "tmpfs"
    assert seen["root_readonly"] is True


def test_config_reaches_the_container(probe: Probe) -> None:
    def change(config: Config) -> None:
        config["process"]["args"].append('a "quoted" \n argument')
        config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [29], "umask": 0o27}
        config["hostname"] = "other"

    seen = probe(change)
    assert seen["argv"][1] == 'a "quoted" \n argument'
    assert (seen["uid"], seen["gid"], seen["groups"], seen["umask"]) == (1000, 1000, [29], 0o27)
    assert seen["hostname"] == "other"


def test_container_goes_from_created_to_stopped(container: Callable[..., Container]) -> None:
    box = container("/bin/probe", "trap")
    box.create()
    assert box.status == "created"
    box.start()
    box.wait_output("ready")
    assert box.status == "running"
    assert box.exec("/bin/hostname").stdout == "box\n"
    pid = box.pid
    box.kill("TERM")
    assert box.wait_exit(pid) == 42
    assert box.status == "stopped"
    box.delete()
