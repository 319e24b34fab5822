"""root: what the container has as "/", and what of the host is left (config.md, Root). Plain cases: test_filesystem.py."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mount_at, mounts

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]

STATX_MNT_ID_UNIQUE, STATMOUNT_MNT_BASIC = 0x4000, 2
SYS_STATMOUNT, SYS_LISTMOUNT = 457, 458


def writable(config: Config) -> None:
    config["root"]["readonly"] = False


def ask(call: int, mount: int, parameter: int, answer: Any) -> int:
    """statmount(2) or listmount(2), of our own mount namespace."""
    request = struct.pack("=IIQQ", 24, 0, mount, parameter)
    size = ctypes.sizeof(answer) if call == SYS_STATMOUNT else len(answer)
    result: int = ctypes.CDLL(None).syscall(call, request, ctypes.byref(answer), size, 0)
    return result


def count_mounts() -> int:
    """In our mount namespace, whether we can reach them from our root or not; -1 where the kernel cannot tell (6.8 can)."""
    info, basic = ctypes.create_string_buffer(256), ctypes.create_string_buffer(1024)
    ctypes.CDLL(None).statx(-1, b"/", 0, STATX_MNT_ID_UNIQUE, info)
    parent, root = int(struct.unpack_from("=Q", info, 144)[0]), 0
    while parent != root:  # up to the kernel's own rootfs, which everything is mounted on
        root = parent
        if ask(SYS_STATMOUNT, root, STATMOUNT_MNT_BASIC, basic) < 0:
            return -1
        parent = int(struct.unpack_from("=Q", basic, 48)[0])
    return ask(SYS_LISTMOUNT, root, 0, (ctypes.c_uint64 * 4096)())


def mounts_in_namespace(pid: int) -> int:
    """count_mounts() for a process: by a child that joins its mount namespace."""
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).setns(fd, 0)
            os.write(writer, b"%d" % count_mounts())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    count = int(os.read(reader, 20))
    for end in (fd, reader, writer):
        os.close(end)
    if count < 0:
        pytest.skip("this kernel lists no mounts that cannot be reached (Linux 6.8 does)")
    return count


@pytest.fixture
def host_mounts() -> Iterator[None]:
    """Fails when a test changes what is mounted in this namespace."""
    before = Path("/proc/self/mountinfo").read_text()
    yield
    assert Path("/proc/self/mountinfo").read_text() == before


# ---- nothing of the host -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot_root", "no pivot"])
def test_of_the_old_root_nothing_is_left_that_can_be_reached(container: Make, flags: list[str]) -> None:
    box = container("/bin/probe", "sleep")
    box.create(*flags)
    visible = len(Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines())
    assert visible < 40
    assert (mounts_in_namespace(box.pid) == visible) == (not flags)  # without pivot_root it is there still, under the new one
    box.delete("--force")


@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot_root", "no pivot"])
def test_dots_do_not_lead_out(container: Make, flags: list[str]) -> None:
    box = container("/bin/sh", "-c", "cd ../../..; pwd; ls -d bin; stat -c %i / /.. /proc/self/root/")
    where, entry, *inodes = box.run(*flags).stdout.split()
    assert (where, entry, len(set(inodes))) == ("/", "bin", 1)


@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot_root", "no pivot"])
def test_a_second_chroot_does_not_lead_out(container: Make, flags: list[str]) -> None:
    """The classic way out of a chroot: keep a descriptor, chroot deeper, and go up. /proc/1/cwd is such a descriptor."""

    def change(config: Config) -> None:
        sets = ["CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), sets)
        writable(config)

    box = container("/bin/sh", "-c", "mkdir /in; cp /bin/busybox /in/sh; exec chroot /in /sh -c 'cd ..; ./bin/ls'", mutate=change)
    (box.bundle.rootfs / "of-the-container").touch()
    outside = set(os.listdir("/")) - set(os.listdir(box.bundle.rootfs))
    assert not outside & set(box.run(*flags, check=False).stdout.split())


@pytest.mark.spec("/root/path")
def test_the_root_directory_is_that_of_the_bundle(container: Make) -> None:
    box = container("/bin/probe", "sleep")
    box.create()
    seen, wanted = os.stat(f"/proc/{box.pid}/root/"), box.bundle.rootfs.stat()
    assert (seen.st_ino, seen.st_dev) == (wanted.st_ino, wanted.st_dev)
    box.delete("--force")


# ---- read-only -----------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/root/readonly")
@pytest.mark.parametrize("readonly", [True, False, None])
def test_the_root_is_writable_unless_it_is_to_be_read_only(container: Make, readonly: bool | None) -> None:
    def change(config: Config) -> None:
        config["root"].pop("readonly")
        if readonly is not None:
            config["root"]["readonly"] = readonly

    box = container("/bin/sh", "-c", "touch /new && rm /new; touch /etc/passwd; exit 0", mutate=change)
    assert box.run().stderr.count("Read-only file system") == (2 if readonly else 0)


def test_a_read_only_root_is_not_read_only_for_the_host(container: Make) -> None:
    box = container("/bin/probe", "sleep")
    box.create()
    (box.bundle.rootfs / "new").write_text("from the host")
    assert Path(f"/proc/{box.pid}/root/new").read_text() == "from the host"
    box.delete("--force")


def test_mounts_in_a_read_only_root_stay_as_they_are(container: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/data", "type": "bind", "source": str(tmp_path / "data"), "options": ["rbind"]})

    container("/bin/touch", "/data/new", "/dev/shm/new", mutate=change).run()
    assert (tmp_path / "data/new").exists()


# ---- kinds of roots ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rooted(container: Make, tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """``rooted("mount", "arguments" …)``: a container whose root filesystem is a mount that is made so."""
    made: list[Path] = []

    def make(*arguments: str | Path, shared: bool = False, fill: bool = False) -> Container:
        box = container(mutate=writable)
        point = tmp_path / "mounted"
        point.mkdir()
        resolved = [str(a).replace("ROOTFS", str(box.bundle.rootfs)) for a in arguments]
        subprocess.run(["mount", *resolved, point], check=True)
        made.append(point)
        if shared:
            subprocess.run(["mount", "--make-shared", point], check=True)
        if fill:
            subprocess.run(["cp", "-a", f"{box.bundle.rootfs}/.", point], check=True)
        box.bundle.config["root"]["path"] = str(point)
        box.bundle.write()
        return box

    yield make
    for point in made:
        subprocess.run(["umount", "-R", point], check=True)


def overlay(tmp_path: Path) -> list[str]:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    return ["-t", "overlay", "overlay", "-o", f"lowerdir=ROOTFS,upperdir={tmp_path}/upper,workdir={tmp_path}/work"]


def test_a_root_on_an_overlay(rooted: Callable[..., Container], tmp_path: Path) -> None:
    box = rooted(*overlay(tmp_path))
    box.bundle.config["process"]["args"] = ["/bin/sh", "-c", "echo new >/new"]
    box.bundle.write()
    box.run()
    assert (tmp_path / "upper/new").read_text() == "new\n"
    assert not (box.bundle.rootfs / "new").exists()


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_a_root_on_a_tmpfs(rooted: Callable[..., Container], shared: bool) -> None:
    assert mount_at(rooted("-t", "tmpfs", "tmpfs", shared=shared, fill=True).run().json, "/")["type"] == "tmpfs"


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev"])
def test_a_root_keeps_the_options_of_its_mount(rooted: Callable[..., Container], option: str) -> None:
    box = rooted("--bind", "-o", option, "ROOTFS")
    assert option in mount_at(box.run().json, "/")["options"].split(",")


def test_what_is_mounted_in_the_root_comes_along_and_stays_the_hosts(
    rooted: Callable[..., Container], tmp_path: Path
) -> None:
    box = rooted("-t", "tmpfs", "tmpfs", shared=True, fill=True)
    below = tmp_path / "mounted/below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    (below / "deeper").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below / "deeper"], check=True)
    (below / "deeper/file").write_text("of the host")
    script = "cat /below/deeper/file && umount /below/deeper && mount -t tmpfs x /below/deeper"
    box.bundle.config["process"]["args"] = ["/bin/sh", "-c", script]
    sets = ["CAP_SYS_ADMIN"]
    box.bundle.config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), sets)
    box.bundle.write()
    before = Path("/proc/self/mountinfo").read_text()
    assert box.run().stdout == "of the host"
    assert Path("/proc/self/mountinfo").read_text() == before
    subprocess.run(["umount", "--recursive", below], check=True)


@pytest.mark.parametrize("propagation", ["private", "slave", "shared", "unbindable"])
def test_nothing_of_the_container_shows_in_a_root_on_a_shared_mount(
    rooted: Callable[..., Container], propagation: str
) -> None:
    """Not even while it is made: its mounts are made before its root is pivoted."""
    box = rooted("-t", "tmpfs", "tmpfs", shared=True, fill=True)
    box.bundle.config["linux"]["rootfsPropagation"] = propagation
    box.bundle.write()
    before = Path("/proc/self/mountinfo").read_text()
    box.create()
    assert Path("/proc/self/mountinfo").read_text() == before
    box.delete("--force")
    assert Path("/proc/self/mountinfo").read_text() == before


def test_the_root_of_the_host_can_be_the_containers(container: Make, host_mounts: None) -> None:
    def change(config: Config) -> None:
        config["root"] = {"path": "/", "readonly": True}
        config["process"]["args"] = ["/bin/sh", "-c", "ls /dev/null /dev/pts/ptmx && ! touch /new-of-the-test"]

    container(mutate=change).run()


@pytest.mark.spec("/root/path")
def test_a_relative_bundle_and_a_root_that_goes_up(container: Make) -> None:
    box = container()
    box.bundle.config["root"]["path"] = "../" + box.bundle.path.name + "/./rootfs/"
    box.bundle.write()
    flags = ["--bundle", box.bundle.path.name, box.id]
    assert box.runtime("run", *flags, cwd=box.bundle.path.parent).json["pid"] == 1


def test_a_bundle_whose_path_has_odd_letters(container: Make, tmp_path: Path) -> None:
    box = container()
    odd = tmp_path / 'odd "\\ name,:ü\n'
    box.bundle.path.rename(odd)
    assert box.runtime("run", "--bundle", odd, box.id).json["pid"] == 1


# ---- refused -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"), [("missing", "does not exist"), ("config.json", "is not a directory"), ("dangling", "does not exist")]
)
def test_a_root_that_is_not_there_is_an_error_that_names_it(container: Make, path: str, words: str) -> None:
    box = container()
    (box.bundle.path / "dangling").symlink_to("nowhere")
    box.bundle.config["root"]["path"] = path
    box.bundle.write()
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert words in said
    assert "/root/path" in said or "root.path" in said
    assert str(box.bundle.path / path) in said


def test_an_empty_root_has_no_program(container: Make, tmp_path: Path) -> None:
    box = container(mutate=lambda config: config["root"].update(path=str(tmp_path / "empty"), readonly=False))
    (tmp_path / "empty").mkdir()
    assert box.create(check=False).status == 1
    assert "/bin/probe" in box.errors.read_text()
    assert "no such file or directory" in box.errors.read_text()


def test_a_root_on_an_unbindable_mount_is_an_error_that_says_so(rooted: Callable[..., Container], tmp_path: Path) -> None:
    box = rooted("-t", "tmpfs", "tmpfs", fill=True)
    subprocess.run(["mount", "--make-unbindable", tmp_path / "mounted"], check=True)
    answer = box.create(check=False)
    assert answer.status == 1
    assert str(tmp_path / "mounted") in answer.stderr
    assert "; is it on an unbindable mount?" in answer.stderr


def test_mounts_are_unchanged_after_a_failed_create(container: Make, host_mounts: None) -> None:
    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/x", "type": "nofs", "source": "x"})

    assert container(mutate=change).create(check=False).status == 1
    assert len(mounts()) > 1
