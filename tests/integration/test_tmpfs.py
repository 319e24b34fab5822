"""Mounts of type tmpfs: their options are enforced, and what tmpcopyup copies (config.md, Mounts, tmpcopyup)."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mount_at, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
Change = Callable[[Config], None]

FROM = 100000


def tmpfs(destination: str, *options: str) -> Change:
    def change(config: Config) -> None:
        config["mounts"].append({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)})
        config["root"]["readonly"] = False

    return change


def user_namespace(config: Config) -> None:
    set_namespace(config, "user")
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": FROM, "size": 65536}]


def give_rootfs(box: Container) -> Container:
    subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", box.bundle.rootfs], check=True)
    return box


# ---- options --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "written"), [(("size=1m",), 1 << 20), (("size=8k",), 8 << 10), (("nr_blocks=3",), 12 << 10)])
def test_no_more_is_written_than_the_size(container: Make, options: tuple[str, ...], written: int) -> None:
    script = "dd if=/dev/zero of=/t/file bs=4k count=1000 2>/dev/null; stat -c %s /t/file"
    box = container("/bin/sh", "-c", script, mutate=tmpfs("/t", *options))
    assert int(box.run().stdout) == written


def test_no_more_files_are_made_than_there_are_inodes(container: Make) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do touch /t/$i 2>/dev/null; done; ls /t | wc -l"
    assert int(container("/bin/sh", "-c", script, mutate=tmpfs("/t", "nr_inodes=5")).run().stdout) == 4


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), "1777 0:0"),
        (("mode=711",), "711 0:0"),
        (("mode=0700", "uid=1000", "gid=2000"), "700 1000:2000"),
        (("mode=700,uid=7,gid=8",), "700 7:8"),
    ],
    ids=["by default", "mode", "mode, uid and gid", "in one string"],
)
def test_mode_and_owner_of_the_top(container: Make, options: tuple[str, ...], shown: str) -> None:
    assert container("/bin/stat", "-c", "%a %u:%g", "/t", mutate=tmpfs("/t", *options)).run().stdout.strip() == shown


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), "2750 0:0"),
        (("mode=711",), "711 0:0"),
        (("silent",), "2750 0:0"),
        (("tmpcopyup",), "2750 5:6"),
        (("tmpcopyup", "silent"), "2750 5:6"),
        (("tmpcopyup", "mode=700", "uid=7"), "700 7:0"),
    ],
)
def test_the_mode_of_the_directory_below_is_kept_unless_there_is_an_option(
    container: Make, options: tuple[str, ...], shown: str
) -> None:
    """As under runc; an image may have made the directory private."""
    box = container("/bin/stat", "-c", "%a %u:%g", "/t", mutate=tmpfs("/t", *options))
    below = box.bundle.rootfs / "t"
    below.mkdir()
    os.chown(below, 5, 6)
    below.chmod(0o2750)
    assert box.run().stdout.strip() == shown


def test_owners_are_ids_of_the_user_namespace(container: Make) -> None:
    def change(config: Config) -> None:
        user_namespace(config)
        tmpfs("/t", "uid=1000", "gid=2000", "mode=750")(config)

    assert give_rootfs(container("/bin/stat", "-c", "%u:%g", "/t", mutate=change)).run().stdout.strip() == "1000:2000"


@pytest.mark.parametrize(
    ("option", "named"),
    [("size=lots", "size=lots"), ("mode=9", "mode=9"), ("uid=-1", "uid=-1"), ("nonsense", "nonsense"), ("nr_inodes", "nr_inodes")],
)
def test_an_option_that_the_filesystem_refuses_is_named(container: Make, option: str, named: str) -> None:
    box = container("/bin/true", mutate=tmpfs("/t", "nosuid", option))
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert "(/mounts/7)" in said
    assert f'refuses the option "{named}"' in said


def test_a_policy_with_commas_is_one_option(probe: Probe) -> None:
    assert "mpol=bind:0" in mount_at(probe(tmpfs("/t", "mpol=bind:0,size=1m")), "/t")["super"]


# ---- read-only ------------------------------------------------------------------------------------------------------------------


def test_a_read_only_tmpfs_cannot_be_written(container: Make) -> None:
    box = container("/bin/touch", "/t/file", mutate=tmpfs("/t", "ro"))
    assert box.run(check=False).status == 1
    assert "Read-only" in box.errors.read_text()


def test_mount_points_are_made_in_a_tmpfs_that_is_read_only_in_the_end(container: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")

    def change(config: Config) -> None:
        tmpfs("/t", "ro", "mode=755")(config)
        for source, destination in ((tmp_path / "file", "/t/deep/file"), (tmp_path, "/t/dir")):
            config["mounts"].append({"destination": destination, "type": "bind", "source": str(source), "options": ["rbind"]})
        tmpfs("/t/writable")(config)

    box = container("/bin/sh", "-c", "cat /t/deep/file; echo; touch /t/writable/x && ! touch /t/x && ls /t", mutate=change)
    assert box.run().stdout.split() == ["here", "deep", "dir", "writable"]


@pytest.mark.parametrize("terminal", [False, True], ids=["files", "a terminal"])
def test_dev_may_be_read_only(container: Make, terminal: bool) -> None:
    """Devices, links, and the console's mount point are made before."""

    def change(config: Config) -> None:
        next(mount for mount in config["mounts"] if mount["destination"] == "/dev")["options"].append("ro")
        config["process"]["terminal"] = terminal

    box = container("/bin/sh", "-c", "ls /dev/null /dev/fd /dev/ptmx && echo >/dev/null && ! touch /dev/x", mutate=change)
    if not terminal:
        assert box.run().status == 0
        return
    from bundles import ConsoleSocket, read_terminal

    with ConsoleSocket() as console:
        box.create("--console-socket", console.path)
        master = console.receive()
    pid = box.pid
    box.start()
    said = read_terminal(master)
    assert box.wait_exit(pid) == 0, said
    box.delete()


# ---- tmpcopyup ------------------------------------------------------------------------------------------------------------------


def filled(box: Container) -> Path:
    """Of everything that can be in a directory."""
    data = box.bundle.rootfs / "data"
    (data / "sub/deep/er").mkdir(parents=True)
    (data / "file").write_text("content")
    (data / "empty").touch()
    (data / "big").write_bytes(os.urandom(3 << 20))
    (data / "sub/deep/er/inner").write_text("inner")
    (data / "link").symlink_to("sub/deep")
    (data / "dangling").symlink_to("/no/where")
    (data / ("long" * 60)).symlink_to("x" * 3000)
    os.mkfifo(data / "fifo", 0o640)
    os.mknod(data / "node", 0o20666, os.makedev(1, 7))
    os.link(data / "file", data / "hard")
    (data / "sub").chmod(0o2750)
    (data / "empty").chmod(0)
    (data / "big").chmod(0o4755)
    os.chown(data / "big", 1000, 2000)
    os.chown(data / "link", 5, 6, follow_symlinks=False)
    (data / "big").chmod(0o4755)
    os.utime(data / "file", ns=(10**18, 10**18 + 7))
    for number in range(300):
        (data / "sub" / f"{number:03}{'n' * 200}").touch()
    return data


def entries(directory: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for path in [Path(where, name) for where, names, files in os.walk(directory) for name in names + files]:
        info = path.lstat()
        content: object = None
        if stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        values = (info.st_mode, info.st_uid, info.st_gid, info.st_rdev, info.st_mtime_ns, content)
        found[str(path.relative_to(directory))] = values
    return found


def view(box: Container) -> Path:
    """What the container sees, from outside."""
    return Path(f"/proc/{box.pid}/root/data")


@pytest.mark.spec("/mounts/*/options=tmpcopyup")
@pytest.mark.parametrize("way", [(), ("iversion",)], ids=["fsmount", "mount"])
def test_everything_of_the_image_is_copied_up(container: Make, way: tuple[str, ...]) -> None:
    box = container("/bin/probe", "sleep", mutate=tmpfs("/data", "tmpcopyup", *way))
    data = filled(box)
    data.chmod(0o1751)
    os.chown(data, 3, 4)
    box.create()
    seen = view(box)
    assert entries(seen) == entries(data)
    assert (seen.stat().st_mode, seen.stat().st_uid, seen.stat().st_gid) == (0o41751, 3, 4)
    assert os.stat(seen).st_dev != os.stat(data).st_dev
    box.delete("--force")


def test_what_is_changed_in_the_copy_is_not_in_the_image(container: Make) -> None:
    box = container("/bin/sh", "-c", "rm -r /data/sub; echo changed >/data/file", mutate=tmpfs("/data", "tmpcopyup"))
    data = filled(box)
    before = entries(data)
    box.run()
    assert entries(data) == before


def test_an_empty_or_missing_directory_is_copied_too(container: Make) -> None:
    def change(config: Config) -> None:
        tmpfs("/new/dir", "tmpcopyup")(config)
        tmpfs("/tmp", "tmpcopyup")(config)

    assert container("/bin/ls", "/new/dir", mutate=change).run().stdout == ""


def test_what_does_not_fit_is_an_error_that_names_the_mount(container: Make) -> None:
    box = container("/bin/true", mutate=tmpfs("/data", "tmpcopyup", "size=1m"))
    filled(box)
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert "(/mounts/7)" in said
    assert "no space" in said.lower()


def test_a_copy_may_be_read_only(container: Make) -> None:
    box = container("/bin/sh", "-c", "cat /data/file; touch /data/x", mutate=tmpfs("/data", "tmpcopyup", "ro"))
    filled(box)
    assert box.run(check=False).status == 1
    assert box.output.read_text() == "content"
    assert "Read-only" in box.errors.read_text()


def test_owners_are_copied_in_a_user_namespace(container: Make) -> None:
    def change(config: Config) -> None:
        user_namespace(config)
        tmpfs("/data", "tmpcopyup")(config)

    box = container("/bin/probe", "sleep", mutate=change)
    data = box.bundle.rootfs / "data"
    data.mkdir()
    (data / "file").write_text("content")
    give_rootfs(box)
    os.chown(data / "file", FROM + 1000, FROM + 2000)
    (data / "file").chmod(0o4711)
    box.create()
    info = (view(box) / "file").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (FROM + 1000, FROM + 2000, 0o4711)
    box.delete("--force")
