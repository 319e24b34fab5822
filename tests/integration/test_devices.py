"""linux.devices and what is in /dev (config-linux.md, Devices, Default Devices). Plain cases: test_filesystem.py."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mount_at, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
Change = Callable[[Config], None]

FROM = 100000
DEFAULTS = ("null", "zero", "full", "random", "urandom", "tty")


def device(path: str, kind: str, major: int | None = None, minor: int | None = None, **more: Any) -> dict[str, Any]:
    numbers = {} if major is None else {"major": major, "minor": minor}
    return {"path": path, "type": kind, **numbers, **more}


def devices(*wanted: dict[str, Any]) -> Change:
    def change(config: Config) -> None:
        config["linux"]["devices"] = list(wanted)
        config["root"]["readonly"] = False

    return change


def without_dev(config: Config) -> None:
    """/dev is a directory of the image."""
    config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/dev")]
    config["root"]["readonly"] = False


def user_namespace(config: Config) -> None:
    set_namespace(config, "user")
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": FROM, "size": 65536}]


def give_rootfs(box: Container) -> Container:
    subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", box.bundle.rootfs], check=True)
    return box


# ---- nodes ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/devices/*/fileMode")
@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_the_mode_is_the_configs_whatever_the_umask(container: Make, umask: int) -> None:
    box = container(mutate=devices(device("/dev/full", "c", 1, 7, fileMode=0o622), device("/dev/fifo", "p", fileMode=0o606)))
    old = os.umask(umask)
    try:
        box.create()
    finally:
        os.umask(old)
    seen = {name: os.lstat(f"/proc/{box.pid}/root/dev/{name}").st_mode & 0o7777 for name in ("full", "fifo", "null", "tty")}
    assert seen == {"full": 0o622, "fifo": 0o606, "null": 0o666, "tty": 0o666}
    box.delete("--force")


@pytest.mark.spec("/linux/devices/*/fileMode")
@pytest.mark.parametrize(
    ("mode", "shown"), [(0, 0), (0o666, 0o666), (0o1640, 0o1640), (0o20640, 0o640), (0o60600, 0o600)],
    ids=["none", "plain", "sticky", "with the type", "with another type"],
)  # fmt: skip
def test_of_file_mode_the_permissions_count(probe: Probe, mode: int, shown: int) -> None:
    node = probe(devices(device("/dev/x", "c", 1, 7, fileMode=mode)))["dev"]["/dev/x"]
    assert (node["type"], node["mode"]) == ("c", shown)


@pytest.mark.spec(
    "/linux/devices/*/major", "/linux/devices/*/minor", "/linux/devices/*/path", "/linux/devices/*/type=c",
    "/linux/devices/*/type=b", "/linux/devices/*/type=u",
)  # fmt: skip
@pytest.mark.parametrize(("kind", "type_"), [("c", "c"), ("u", "c"), ("b", "b")])
@pytest.mark.parametrize(("major", "minor"), [(0, 0), (7, 255), (7, 256), (511, 1048575), (259, 65536)])
def test_all_numbers_that_a_device_can_have(probe: Probe, kind: str, type_: str, major: int, minor: int) -> None:
    node = probe(devices(device("/dev/x", kind, major, minor)))["dev"]["/dev/x"]
    assert (node["type"], node["major"], node["minor"]) == (type_, major, minor)


@pytest.mark.spec("/linux/devices/*/?id", "/linux/devices/*/type=p", "/linux/devices/*/path")
def test_a_device_outside_of_dev_and_its_missing_directories(container: Make) -> None:
    box = container(mutate=devices(device("/srv/new/zero", "c", 1, 5), device("/etc/fifo", "p", uid=3, gid=4)))
    box.create()
    assert os.lstat(f"/proc/{box.pid}/root/srv/new/zero").st_rdev == os.makedev(1, 5)
    fifo = os.lstat(f"/proc/{box.pid}/root/etc/fifo")
    assert (stat.S_ISFIFO(fifo.st_mode), fifo.st_uid, fifo.st_gid) == (True, 3, 4)
    box.delete("--force")


def test_a_default_device_that_the_config_has_itself_is_the_configs(probe: Probe) -> None:
    node = probe(devices(device("/dev/null", "c", 1, 3, fileMode=0o600, uid=7)))["dev"]["/dev/null"]
    assert (node["mode"], node["uid"]) == (0o600, 7)


def test_a_default_device_that_the_config_gives_other_numbers(probe: Probe) -> None:
    assert probe(devices(device("/dev/random", "c", 1, 9)))["dev"]["/dev/random"]["minor"] == 9


def test_links_in_the_path_of_a_device_stay_inside_the_root(container: Make, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    wanted = [device("/lib/link/zero", "c", 1, 5), device(f"/absolute{tmp_path}/outside/zero", "c", 1, 5, fileMode=0o600)]
    box = container("/bin/true", mutate=devices(*wanted))
    (box.bundle.rootfs / "lib").mkdir(exist_ok=True)
    (box.bundle.rootfs / "lib/link").symlink_to("../../../../../" + str(tmp_path / "outside"))
    (box.bundle.rootfs / "absolute").symlink_to("/")
    box.run()
    assert os.listdir(tmp_path / "outside") == []
    assert (box.bundle.rootfs / str(tmp_path)[1:] / "outside/zero").is_char_device()


@pytest.mark.parametrize(
    "there",
    [
        lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)),
        lambda path: os.mknod(path, 0o60666, os.makedev(1, 3)),
        os.mkfifo,
        lambda path: path.touch(),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("zero"),
        lambda path: path.symlink_to("/dev/null"),
    ],
    ids=["other numbers", "a block device", "a FIFO", "a file", "a directory", "a link", "a link to the host's"],
)
def test_anything_else_in_the_place_of_a_device_is_an_error(container: Make, there: Callable[[Path], None]) -> None:
    box = container("/bin/true", mutate=without_dev)
    there(box.bundle.rootfs / "dev/null")
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert "/dev/null" in said
    assert "something else is there already" in said


def test_a_device_that_is_there_already_is_taken(container: Make) -> None:
    """Also from the first run of the same bundle."""
    box = container("/bin/true", mutate=without_dev)
    node = box.bundle.rootfs / "dev/null"
    os.mknod(node, 0o20600, os.makedev(1, 3))
    for _ in range(2):
        box.run()
    assert node.is_char_device()
    assert sorted(set(DEFAULTS) - set(os.listdir(node.parent))) == []


# ---- links ----------------------------------------------------------------------------------------------------------------------


def test_links_lead_to_what_the_process_has_open(probe: Probe) -> None:
    dev = probe()["dev"]
    targets = {name: dev[f"/dev/{name}"]["target"] for name in ("fd", "stdin", "stdout", "stderr", "ptmx")}
    stdio = {name: f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))}
    assert targets == stdio | {"fd": "/proc/self/fd", "ptmx": "pts/ptmx"}


@pytest.mark.parametrize(
    "there",
    [
        lambda path: os.mknod(path, 0o20666, os.makedev(5, 2)),
        lambda path: path.symlink_to("/proc/1/root/dev/ptmx"),
        lambda path: path.write_text("of the image"),
    ],
    ids=["a node", "a link", "a file"],
)
def test_ptmx_of_the_image_gives_way_to_that_of_the_container(container: Make, there: Callable[[Path], None]) -> None:
    """The multiplexer of the host's devpts would give terminals of the host."""
    box = container("/bin/true", mutate=without_dev)
    there(box.bundle.rootfs / "dev/ptmx")
    box.run()
    assert os.readlink(box.bundle.rootfs / "dev/ptmx") == "pts/ptmx"


# ---- in a user namespace --------------------------------------------------------------------------------------------------------


def test_in_a_user_namespace_nodes_are_the_hosts(container: Make) -> None:
    box = give_rootfs(container("/bin/sh", "-c", "echo x >/dev/null; head -c 3 /dev/zero; echo", mutate=user_namespace))
    box.create()
    for name in DEFAULTS:
        seen, ours = os.stat(f"/proc/{box.pid}/root/dev/{name}"), os.stat(f"/dev/{name}")
        assert (seen.st_dev, seen.st_ino, seen.st_rdev) == (ours.st_dev, ours.st_ino, ours.st_rdev)
    pid = box.pid
    box.start()
    assert box.wait_exit(pid) == 0
    assert box.output.read_text() == "\0\0\0\n"
    box.delete()


@pytest.mark.spec("/linux/devices/*")
def test_in_a_user_namespace_configured_devices_are_bound_and_fifos_made(container: Make) -> None:
    def change(config: Config) -> None:
        user_namespace(config)
        config["linux"]["devices"] = [device("/dev/kmsg", "c", 1, 11), device("/dev/fifo", "p", fileMode=0o640, uid=7, gid=8)]

    if not Path("/dev/kmsg").is_char_device():
        pytest.skip("the host has no /dev/kmsg")
    report = give_rootfs(container(mutate=change)).run().json
    assert mount_at(report, "/dev/kmsg")["root"] == "/kmsg"
    fifo = report["dev"]["/dev/fifo"]
    assert (fifo["type"], fifo["mode"], fifo["uid"], fifo["gid"]) == ("p", 0o640, 7, 8)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (device("/dev/not-there", "c", 1, 3), "no such file"),
        (device("/dev/null", "c", 1, 5), "must have the same node"),
        (device("/dev/null", "b", 1, 3), "must have the same node"),
    ],
    ids=["missing", "other numbers", "another type"],
)
def test_in_a_user_namespace_a_device_that_the_host_does_not_have_so_is_an_error(
    container: Make, wanted: dict[str, Any], words: str
) -> None:
    def change(config: Config) -> None:
        user_namespace(config)
        config["linux"]["devices"] = [wanted]

    box = give_rootfs(container("/bin/true", mutate=change))
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert wanted["path"] in said
    assert "(/linux/devices/0)" in said
    assert words in said


# ---- /dev from elsewhere --------------------------------------------------------------------------------------------------------


def listing(directory: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for entry in directory.iterdir():
        info = entry.lstat()
        found[entry.name] = (info.st_mode, info.st_rdev, os.readlink(entry) if entry.is_symlink() else "")
    return found


@pytest.fixture
def host_dev(tmp_path: Path) -> Iterator[None]:
    """A /dev in the tests' mount namespace that may be spoiled; fails when it is."""
    fake = tmp_path / "host-dev"
    fake.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "devtmpfs", fake], check=True)
    for name in (*DEFAULTS, "ptmx"):
        subprocess.run(["cp", "-a", f"/dev/{name}", fake], check=True)
    for name in ("fd", "stdin", "stdout", "stderr"):
        (fake / name).symlink_to("/proc/self/fd")  # not as a runtime makes them
    for name in ("pts", "shm", "mqueue"):
        (fake / name).mkdir()
    subprocess.run(["mount", "--rbind", "/dev/pts", fake / "pts"], check=True)
    subprocess.run(["mount", "--rbind", fake, "/dev"], check=True)
    before = listing(fake)
    yield
    after = listing(fake)
    subprocess.run(["umount", "--recursive", "--lazy", "/dev"], check=True)
    subprocess.run(["umount", "--recursive", "--lazy", fake], check=True)
    assert after == before


@pytest.mark.parametrize("options", [["rbind"], ["bind", "ro"], ["rbind", "rprivate"]], ids=" ".join)
@pytest.mark.parametrize("destination", ["/dev", "/dev/", "//dev/.", "dev", "/x/../dev"])
def test_a_dev_that_is_bound_from_the_host_is_left_alone(
    container: Make, host_dev: None, options: list[str], destination: str
) -> None:
    def change(config: Config) -> None:
        without_dev(config)
        config["mounts"].append({"destination": destination, "type": "bind", "source": "/dev", "options": options})

    container("/bin/true", mutate=change).run()


def test_a_dev_of_the_host_that_comes_in_through_a_link_is_left_alone(container: Make, host_dev: None) -> None:
    def change(config: Config) -> None:
        without_dev(config)
        config["mounts"].append({"destination": "/link", "type": "bind", "source": "/dev", "options": ["rbind"]})

    box = container("/bin/true", mutate=change)
    (box.bundle.rootfs / "link").symlink_to("dev")
    box.run()


def test_a_dev_of_the_host_that_comes_in_with_the_root_is_left_alone(container: Make, host_dev: None) -> None:
    def change(config: Config) -> None:
        without_dev(config)
        config["root"] = {"path": "/", "readonly": True}

    container("/bin/true", mutate=change).run()


def test_a_device_that_a_dev_of_the_host_does_not_have_is_an_error(container: Make, host_dev: None) -> None:
    def change(config: Config) -> None:
        without_dev(config)
        config["root"] = {"path": "/", "readonly": True}
        config["linux"]["devices"] = [device("/dev/new", "c", 1, 3)]

    box = container("/bin/true", mutate=change)
    assert box.create(check=False).status == 1
    assert "/dev/new" in box.errors.read_text()


def test_with_a_bound_dev_devices_elsewhere_are_made(container: Make, host_dev: None) -> None:
    def change(config: Config) -> None:
        without_dev(config)
        config["mounts"].append({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
        config["linux"]["devices"] = [device("/srv/zero", "c", 1, 5)]

    assert container("/bin/stat", "-c", "%t:%T", "/srv/zero", mutate=change).run().stdout.strip() == "1:5"


@pytest.mark.parametrize("target", ["{victim}", "../../../../../../..{victim}", "/proc/1/root{victim}"])
def test_a_dev_of_the_image_that_is_a_link_to_the_host(container: Make, tmp_path: Path, target: str) -> None:
    """CVE-2026-41579: the host's files were replaced by links and nodes."""
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("ptmx", "null", "fd", "console"):
        (victim / name).write_text("of the host")
    box = container("/bin/true", mutate=without_dev)
    (box.bundle.rootfs / "dev").rmdir()
    (box.bundle.rootfs / "dev").symlink_to(target.format(victim=victim))
    before = listing(victim)
    box.run(check=False)
    assert listing(victim) == before
    assert {entry.read_text() for entry in victim.iterdir()} == {"of the host"}
