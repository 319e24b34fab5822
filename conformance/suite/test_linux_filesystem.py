"""config-linux.md: default filesystems, devices, propagation, masked and read-only paths, looked at through /proc/PID/root."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, ConsoleSocket, Container, mounts

clauses = pytest.mark.clauses
Make = Callable[..., Container]
SLEEP = ("/bin/sleep", "1000")


def inside(box: Container, path: str) -> Path:
    return Path(f"/proc/{box.pid}/root{path}")


def mounted(box: Container) -> list[dict[str, str]]:
    return mounts(Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines())


# ---- default filesystems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        pytest.param("/proc", "proc", marks=clauses("config-linux.filesystems.proc")),
        pytest.param("/sys", "sysfs", marks=clauses("config-linux.filesystems.sys")),
        pytest.param("/dev/pts", "devpts", marks=clauses("config-linux.filesystems.pts")),
        pytest.param("/dev/shm", "tmpfs", marks=clauses("config-linux.filesystems.shm")),
    ],
)
def test_a_default_filesystem_is_there_without_being_named(container: Make, path: str, kind: str) -> None:
    def change(config: Config) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] in ("/proc", "/dev") and path != "/proc"]
        config["root"]["readonly"] = False
        del config["linux"]["maskedPaths"], config["linux"]["readonlyPaths"]

    box = container(*SLEEP, mutate=change)
    box.create()
    assert (path, kind) in [(mount["point"], mount["type"]) for mount in mounted(box)]


# ---- devices --------------------------------------------------------------------------------------------------------------------

DEVICES = {
    "c": ({"type": "c", "path": "/dev/x", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 3, "gid": 4}, stat.S_IFCHR),
    "u": ({"type": "u", "path": "/dev/x", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 0, "gid": 4}, stat.S_IFCHR),
    "b": ({"type": "b", "path": "/dev/x", "major": 7, "minor": 300, "fileMode": 0o660, "uid": 3, "gid": 0}, stat.S_IFBLK),
    "p": ({"type": "p", "path": "/dev/x", "fileMode": 0o606, "uid": 3, "gid": 4}, stat.S_IFIFO),
    "elsewhere": ({"type": "c", "path": "/srv/new/x", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 0, "gid": 0}, stat.S_IFCHR),
}


@clauses("config-linux.devices.available")
@pytest.mark.parametrize(("device", "kind"), DEVICES.values(), ids=DEVICES)
def test_a_device_is_there_as_configured(container: Make, device: dict[str, Any], kind: int) -> None:
    def change(config: Config) -> None:
        config["linux"]["devices"] = [device]
        config["root"]["readonly"] = False

    box = container(*SLEEP, mutate=change)
    box.create()
    seen = inside(box, device["path"]).lstat()
    assert stat.S_IFMT(seen.st_mode) == kind
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (device["fileMode"], device["uid"], device["gid"])
    if "major" in device:
        assert seen.st_rdev == os.makedev(device["major"], device["minor"])


@clauses("config-linux.devices.path.other")
@pytest.mark.parametrize("there", ["a file", "a directory", "a FIFO", "other numbers", "a block device"])
def test_another_file_in_the_place_of_a_device_is_an_error(container: Make, there: str) -> None:
    def change(config: Config) -> None:
        config["linux"]["devices"] = [
            {"type": "c", "path": "/srv/x", "major": 1, "minor": 7, "fileMode": 0o666, "uid": 0, "gid": 0}
        ]
        config["root"]["readonly"] = False

    box = container(*SLEEP, mutate=change)
    path = box.bundle.rootfs / "srv/x"
    path.parent.mkdir(exist_ok=True)
    if there == "a file":
        path.write_text("")
    elif there == "a directory":
        path.mkdir()
    elif there == "a FIFO":
        os.mkfifo(path)
    else:
        os.mknod(path, (stat.S_IFBLK if "block" in there else stat.S_IFCHR) | 0o666, os.makedev(1, 7 if "block" in there else 5))
    assert box.create(check=False).status != 0


NUMBERS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


@pytest.mark.parametrize("name", [pytest.param(name, marks=clauses(f"config-linux.devices.default.{name}")) for name in NUMBERS])
def test_a_default_device_is_there(container: Make, name: str) -> None:
    box = container(*SLEEP)
    box.create()
    seen = inside(box, f"/dev/{name}").stat()
    assert stat.S_ISCHR(seen.st_mode)
    assert seen.st_rdev == os.makedev(*NUMBERS[name])


@clauses("config-linux.devices.default.ptmx")
def test_the_multiplexer_is_that_of_the_containers_pts(container: Make) -> None:
    script = "stat -L -c %d:%i /dev/ptmx; stat -c %d:%i /dev/pts/ptmx; exec 3<>/dev/ptmx; ls /dev/pts; exec 3>&-"
    seen = container("/bin/sh", "-c", script).run().stdout.split()
    assert seen[0] == seen[1]
    assert "0" in seen[2:]


@clauses("config-linux.devices.default.console")
def test_the_terminal_is_the_console(container: Make) -> None:
    box = container(*SLEEP, mutate=lambda config: config["process"].update(terminal=True))
    with ConsoleSocket() as console:
        box.create("--console-socket", console.path)
        terminal = console.receive()
    try:
        seen = inside(box, "/dev/console").stat()
        assert stat.S_ISCHR(seen.st_mode)
        assert seen.st_rdev == os.stat(f"/proc/{box.pid}/fd/0").st_rdev
        assert "/dev/console" in [mount["point"] for mount in mounted(box)]
    finally:
        os.close(terminal)


# ---- propagation ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Callable[[Container], Path]]:
    """``shared(box)``: make the root filesystem of a container to be a shared mount; gives a directory in it to mount at."""
    points: list[Path] = []

    def make(box: Container) -> Path:
        point = box.bundle.rootfs
        (point / "mnt").mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", point, point], check=True)
        points.append(point)
        subprocess.run(["mount", "--make-shared", point], check=True)
        return point / "mnt"

    yield make
    for point in points:
        subprocess.run(["umount", "--recursive", "--lazy", point], check=True)


@clauses("runtime.create.properties")
@pytest.mark.parametrize("name", ["shared", "slave", "private", "unbindable"])
def test_the_root_has_the_propagation_of_the_configuration(container: Make, shared: Callable[[Container], Path], name: str) -> None:
    """On a host where the root filesystem of the container is on a shared mount, as under systemd."""
    box = container(*SLEEP, mutate=lambda config: config["linux"].update(rootfsPropagation=name))
    directory = shared(box)
    box.create()
    optional = next(mount for mount in mounted(box) if mount["point"] == "/")["optional"]
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    arrived = "/mnt" in [mount["point"] for mount in mounted(box)]
    # A shared root may have a master besides.
    assert ("shared:" in optional, "unbindable" in optional) == (name == "shared", name == "unbindable")
    assert arrived == ("master:" in optional)
    assert arrived == (name == "slave") or name == "shared"


# ---- masked and read-only -------------------------------------------------------------------------------------------------------


def with_data(container: Make, script: str, **linux: list[str]) -> Container:
    def change(config: Config) -> None:
        config["linux"] |= linux
        config["root"]["readonly"] = False

    box = container("/bin/sh", "-c", script, mutate=change)
    (box.bundle.rootfs / "data/dir").mkdir(parents=True)
    for name in ("file", "dir/inner"):
        (box.bundle.rootfs / "data" / name).write_text("secret")
    return box


@clauses("runtime.create.properties")
def test_what_is_masked_cannot_be_read(container: Make) -> None:
    script = "cat /data/file; ls -A /data/dir; cat /data/dir/inner /proc/version; echo end"
    box = with_data(container, script, maskedPaths=["/data/file", "/data/dir", "/proc/version", "/not/there"])
    assert box.run(check=False).stdout == "end\n"


@clauses("runtime.create.properties")
def test_what_is_read_only_can_be_read_and_not_written(container: Make) -> None:
    script = "cat /data/file; for f in /data/file /data/dir/inner /data/dir/new; do (echo x > $f) 2>&1; done; true"
    box = with_data(container, script, readonlyPaths=["/data/file", "/data/dir", "/not/there"])
    said = box.run().stdout
    assert said.startswith("secret")
    assert said.count("Read-only file system") == 3


# ---- labels ---------------------------------------------------------------------------------------------------------------------


@clauses("config-linux.mountLabel")
def test_a_label_that_no_mount_can_have_is_an_error(container: Make) -> None:
    if Path("/sys/fs/selinux/enforce").exists() or any(mount["type"] == "selinuxfs" for mount in mounts()):
        pytest.skip("SELinux is enabled here")
    box = container(*SLEEP, mutate=lambda config: config["linux"].update(mountLabel="system_u:object_r:container_file_t:s0:c1,c2"))
    assert box.create(check=False).status != 0
