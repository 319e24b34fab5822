"""linux.rootfsPropagation, and what of a shared host mount crosses (config-linux.md, Rootfs Mount Propagation)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mounts

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
WANTED = {"private": "", "slave": "", "shared": "shared:", "unbindable": "unbindable"}


@pytest.mark.spec("/linux/rootfsPropagation=*")
@pytest.mark.parametrize("name", [prefix + kind for kind in WANTED for prefix in ("", "r")])
def test_the_root_has_the_propagation_of_the_config(probe: Probe, name: str) -> None:
    seen = probe(lambda config: config["linux"].update(rootfsPropagation=name))
    root = next(mount for mount in mounts(seen["mountinfo"]) if mount["point"] == "/")
    wanted = WANTED[name.removeprefix("r") if name not in WANTED else name]
    assert root["optional"].startswith(wanted) if wanted else root["optional"] == ""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount with another one in it, in the tests' own mount namespace."""
    path = tmp_path / "shared"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    subprocess.run(["mount", "--make-shared", path], check=True)
    (path / "sub").mkdir()
    (path / "free").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path / "sub"], check=True)
    yield path
    subprocess.run(["umount", "-R", path], check=True)


def bind(source: Path, *options: str, propagation: str = "") -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/data", "source": str(source), "type": "bind", "options": ["rbind", *options]})
        config["process"]["capabilities"] = {name: ["CAP_SYS_ADMIN"] for name in ("bounding", "permitted", "effective")}
        if propagation:
            config["linux"]["rootfsPropagation"] = propagation

    return change


def points(path: Path) -> set[str]:
    return {mount["point"] for mount in mounts() if mount["point"].startswith(str(path))}


def test_an_unmount_in_the_container_leaves_the_hosts_mount_alone(container: Make, shared: Path) -> None:
    before = points(shared)
    box = container("/bin/sh", "-c", "umount /data/sub && mount -t tmpfs x /data/free", mutate=bind(shared))
    box.run()
    assert points(shared) == before


def test_a_shared_mount_of_a_shared_root_shows_outside(container: Make, shared: Path) -> None:
    mutate = bind(shared, "rshared", propagation="rshared")
    container("/bin/sh", "-c", "mount -t tmpfs x /data/free", mutate=mutate).run()
    assert str(shared / "free") in points(shared)


def test_a_slave_mount_sees_what_the_host_mounts_later(container: Make, shared: Path) -> None:
    box = container("/bin/probe", "trap", mutate=bind(shared, "rslave"))
    box.run("--detach")
    box.wait_output("ready")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared / "free"], check=True)
    assert " /data/free " in box.exec("/bin/cat", "/proc/self/mountinfo").stdout
    box.delete("--force")


def test_a_private_mount_does_not_see_what_the_host_mounts_later(container: Make, shared: Path) -> None:
    box = container("/bin/probe", "trap", mutate=bind(shared, "rprivate"))
    box.run("--detach")
    box.wait_output("ready")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared / "free"], check=True)
    assert " /data/free " not in box.exec("/bin/cat", "/proc/self/mountinfo").stdout
    box.delete("--force")


@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot_root", "no pivot"])
@pytest.mark.parametrize("name", ["slave", "rslave"])
def test_a_slave_root_sees_what_the_host_mounts_in_it_later(container: Make, shared: Path, name: str, flags: list[str]) -> None:
    box = container("/bin/probe", "trap", mutate=lambda config: config["linux"].update(rootfsPropagation=name))
    rootfs = shared / "rootfs"
    rootfs.mkdir()
    subprocess.run(["cp", "-a", f"{box.bundle.rootfs}/.", rootfs], check=True)
    box.bundle.config["root"]["path"] = str(rootfs)
    box.bundle.write()
    box.run("--detach", *flags)
    box.wait_output("ready")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", rootfs / "tmp"], check=True)
    assert " /tmp " in box.exec("/bin/cat", "/proc/self/mountinfo").stdout
    box.delete("--force")


# ---- on a host where everything is shared, as systemd has it --------------------------------------------------------------------


@pytest.fixture
def shared_host() -> Iterator[None]:
    """The tests' mount namespace as a host's: each mount in it is shared. Fails when a mount comes, goes, or changes."""
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    before = Path("/proc/self/mountinfo").read_text()
    yield
    after = Path("/proc/self/mountinfo").read_text()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    assert after == before


def mounts_itself(config: Config) -> None:
    config["process"]["args"] = ["/bin/sh", "-c", "mount -t tmpfs x /tmp && umount /dev/mqueue && umount /proc/sys"]
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), ("CAP_SYS_ADMIN",))


@pytest.mark.parametrize("name", [None, *[prefix + kind for kind in WANTED for prefix in ("", "r")]])
@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot_root", "no pivot"])
def test_nothing_of_a_container_shows_on_the_host(
    container: Make, shared_host: None, name: str | None, flags: list[str]
) -> None:
    def change(config: Config) -> None:
        mounts_itself(config)
        if name:
            config["linux"]["rootfsPropagation"] = name

    container(mutate=change).run(*flags)


def test_nothing_of_a_container_that_fails_half_way_shows_on_the_host(container: Make, shared_host: None) -> None:
    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/x", "type": "nofs", "source": "x"})

    assert container(mutate=change).create(check=False).status == 1


@pytest.mark.parametrize("options", [[], ["rprivate"], ["rslave"], ["rshared"]], ids=["default", "rprivate", "rslave", "rshared"])
def test_unmounting_what_was_bound_from_the_host_leaves_it_mounted(
    container: Make, shared_host: None, options: list[str]
) -> None:
    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/host", "type": "bind", "source": "/", "options": ["rbind", *options]})
        mounts_itself(config)
        config["process"]["args"] = ["/bin/sh", "-c", "umount -l /host/sys && umount -l /host/proc && mount -t tmpfs x /host/tmp"]

    container(mutate=change).run()


def test_a_user_namespace_changes_no_mount_of_the_host(container: Make, shared_host: None) -> None:
    def change(config: Config) -> None:
        mounts_itself(config)
        config["process"]["args"] = ["/bin/sh", "-c", "mount -t tmpfs x /tmp && umount /dev/mqueue"]
        config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]

    container(mutate=change).run()


def test_exec_and_delete_change_no_mount_of_the_host(container: Make, shared_host: None) -> None:
    box = container("/bin/probe", "trap", mutate=bind(Path("/"), "rslave"))
    box.run("--detach")
    box.wait_output("ready")
    box.exec("/bin/umount", "-l", "/data/proc", flags=["--cap", "CAP_SYS_ADMIN"])
    assert os.path.exists("/proc/self")
    box.delete("--force")
