"""linux.maskedPaths and linux.readonlyPaths (config-linux.md, Masked Paths, Readonly Paths). Plain cases: test_filesystem.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mount_at, mounts, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
Change = Callable[[Config], None]

FROM = 100000


def paths(masked: list[str] | None = None, readonly: list[str] | None = None, *more: dict[str, Any]) -> Change:
    def change(config: Config) -> None:
        config["linux"].update(maskedPaths=masked or [], readonlyPaths=readonly or [])
        config["root"]["readonly"] = False
        config["mounts"] += more

    return change


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def filled(box: Container) -> Path:
    """/data with a file, directories, links and one more file in each directory."""
    data = box.bundle.rootfs / "data"
    for name in ("dir", "other"):
        (data / name).mkdir(parents=True)
        (data / name / "inner").write_text(f"inner of {name}")
    (data / "file").write_text("secret")
    (data / "to-file").symlink_to("file")
    (data / "to-dir").symlink_to("/data/dir")
    (data / "out").symlink_to("../../../../../../etc/hostname")
    (data / "dangling").symlink_to("nowhere")
    return data


# ---- masked ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/maskedPaths")
def test_a_masked_file_is_empty_and_swallows_what_is_written(container: Make) -> None:
    box = container("/bin/sh", "-c", "cat /data/file; echo lost >/data/file; cat /data/file", mutate=paths(["/data/file"]))
    data = filled(box)
    assert box.run().stdout == ""
    assert (data / "file").read_text() == "secret"


@pytest.mark.spec("/linux/maskedPaths")
def test_a_masked_directory_is_empty_and_read_only(container: Make) -> None:
    box = container("/bin/sh", "-c", "ls -A /data/dir; touch /data/dir/new; cat /data/dir/inner", mutate=paths(["/data/dir"]))
    filled(box)
    assert box.run(check=False).stdout == ""
    assert "Read-only file system" in box.errors.read_text()
    assert "No such file" in box.errors.read_text()


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/data/to-file", "/data/file"),
        ("/data/to-dir", "/data/dir/inner"),
        ("/data/dir/../file", "/data/file"),
        ("/data//dir/", "/data/dir/inner"),
    ],
    ids=["a link to a file", "a link to a directory", "dots", "slashes"],
)
def test_a_mask_hides_what_its_path_leads_to(container: Make, path: str, hidden: str) -> None:
    box = container("/bin/cat", hidden, mutate=paths([path]))
    filled(box)
    assert box.run(check=False).stdout == ""


@pytest.mark.parametrize("path", ["/nowhere", "/data/nowhere/deep", "/data/file/below", "/data/dangling", "/data/file/"])
def test_what_is_not_there_needs_no_mask(container: Make, path: str) -> None:
    box = container("/bin/cat", "/data/file", mutate=paths([path], [path]))
    filled(box)
    assert box.run().stdout == "secret"


def test_a_link_to_the_host_masks_nothing_there(container: Make) -> None:
    box = container("/bin/cat", "/etc/hostname", mutate=paths(["/data/out"]))
    filled(box)
    (box.bundle.rootfs / "etc/hostname").write_text("of the image")
    assert box.run().stdout == ""
    assert not [mount for mount in mounts() if mount["point"] == "/etc/hostname"]


def test_many_masks_share_one_filesystem_each(container: Make) -> None:
    names = [f"/data/{kind}{number}" for kind in ("file", "dir") for number in range(50)]
    box = container(mutate=paths(names))
    data = filled(box)
    for number in range(50):
        (data / f"file{number}").touch()
        (data / f"dir{number}").mkdir()
    lines = [line.split() for line in box.run().json["mountinfo"]]
    devices = {line[4]: line[2] for line in lines if line[4] in names}
    assert sorted(devices) == sorted(names)
    assert len({device for name, device in devices.items() if "/dir" in name}) == 1
    assert len({device for name, device in devices.items() if "/file" in name}) == 1


def test_a_mask_on_a_mask_and_below_one(container: Make) -> None:
    masked = ["/data/dir", "/data/dir", "/data/dir/inner", "/data/file", "/data/file"]
    box = container("/bin/ls", "-A", "/data/dir", mutate=paths(masked))
    filled(box)
    assert box.run().stdout == ""


def test_masks_hide_what_is_mounted(container: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret")
    box = container("/bin/sh", "-c", "cat /here/file; ls /here", mutate=paths(["/here/file"], [], bind(tmp_path, "/here")))
    assert "secret" not in box.run().stdout
    assert (tmp_path / "file").read_text() == "secret"


@pytest.mark.parametrize("mapped", [False, True], ids=["", "in a user namespace"])
def test_masks_of_proc_and_sys(container: Make, mapped: bool) -> None:
    def change(config: Config) -> None:
        paths(["/proc/version", "/proc/tty", "/sys/kernel"])(config)
        if mapped:
            set_namespace(config, "user")
            for name in ("uidMappings", "gidMappings"):
                config["linux"][name] = [{"containerID": 0, "hostID": FROM, "size": 65536}]

    box = container("/bin/sh", "-c", "cat /proc/version; ls -A /proc/tty /sys/kernel", mutate=change)
    if mapped:
        subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", box.bundle.rootfs], check=True)
    assert box.run().stdout.split() == ["/proc/tty:", "/sys/kernel:"]


@pytest.mark.parametrize("null", ["a file", "a link", "another device", "a directory", "missing"])
def test_a_mask_needs_no_dev_null_of_the_image(container: Make, null: str) -> None:
    """CVE-2025-31133: what is called so may be a link to what is then writable."""

    def change(config: Config) -> None:
        paths(["/data/file"])(config)
        config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/dev")]
        config["mounts"].append(bind(dev, "/dev"))

    box = container("/bin/sh", "-c", "stat -c %t:%T /data/file; cat /data/file")
    dev = box.bundle.path / "dev"
    dev.mkdir()
    if null == "a file":
        (dev / "null").write_text("wrong")
    elif null == "a link":
        (dev / "null").symlink_to("/proc/sys/kernel/core_pattern")
    elif null == "another device":
        os.mknod(dev / "null", 0o20666, os.makedev(1, 5))
    elif null == "a directory":
        (dev / "null").mkdir()
    change(box.bundle.config)
    filled(box)
    box.bundle.write()
    assert box.run().stdout.split() == ["1:3"]


# ---- read-only ------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/readonlyPaths")
@pytest.mark.parametrize("path", ["/data/file", "/data/to-file"])
def test_a_read_only_file_can_be_read_but_not_written(container: Make, path: str) -> None:
    box = container("/bin/sh", "-c", "cat /data/file; echo x >/data/file", mutate=paths([], [path]))
    data = filled(box)
    assert box.run(check=False).status == 1
    assert box.output.read_text() == "secret"
    assert "Read-only file system" in box.errors.read_text()
    assert (data / "file").read_text() == "secret"


@pytest.mark.spec("/linux/readonlyPaths")
def test_a_read_only_directory_takes_what_is_mounted_below_along(container: Make, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "sub"], check=True)
    more = [bind(tmp_path, "/here"), {"destination": "/here/own", "type": "tmpfs", "source": "tmpfs"}]
    (tmp_path / "own").mkdir()
    (tmp_path / "sub/seen").touch()
    script = "ls /here/sub; touch /here/x /here/sub/x /here/own/x; exit 0"
    box = container("/bin/sh", "-c", script, mutate=paths([], ["/here"], *more))
    try:
        assert box.run().stderr.count("Read-only file system") == 3
        assert box.output.read_text() == "seen\n"
        (tmp_path / "sub/of-the-host").touch()
    finally:
        subprocess.run(["umount", tmp_path / "sub"], check=True)


@pytest.mark.parametrize("option", ["nosuid", "nodev", "noexec", "noatime"])
def test_a_read_only_path_keeps_the_other_options(probe: Probe, tmp_path: Path, option: str) -> None:
    seen = probe(paths([], ["/here"], bind(tmp_path, "/here", option)))
    assert {"ro", option} <= set(mount_at(seen, "/here")["options"].split(","))


def test_a_mask_in_a_read_only_path_and_a_read_only_path_in_a_mask(container: Make) -> None:
    mutate = paths(["/data/dir/inner", "/data/other"], ["/data", "/data/other"])
    box = container("/bin/sh", "-c", "cat /data/dir/inner; ls -A /data/other; cat /data/file; touch /data/new", mutate=mutate)
    filled(box)
    assert box.run(check=False).stdout == "secret"
    assert "Read-only" in box.errors.read_text()


def test_sysctls_cannot_be_written_below_a_read_only_proc_sys(container: Make) -> None:
    def change(config: Config) -> None:
        paths([], ["/proc/sys"])(config)
        sets = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), sets)

    box = container("/bin/sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward", mutate=change)
    assert box.run(check=False).status == 1
    assert "Read-only" in box.errors.read_text()


# ---- refused --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maskedPaths", "readonlyPaths"])
def test_a_relative_path_is_an_error(container: Make, name: str) -> None:
    box = container("/bin/true", mutate=lambda config: config["linux"].update({name: ["/proc/kcore", "relative"]}))
    assert box.create(check=False).status == 1
    assert f"/linux/{name}/1" in box.errors.read_text()


@pytest.mark.parametrize("name", ["maskedPaths", "readonlyPaths"])
def test_links_that_go_round_are_an_error_that_names_the_path(container: Make, name: str) -> None:
    box = container("/bin/true", mutate=lambda config: config["linux"].update({name: ["/round"]}))
    (box.bundle.rootfs / "round").symlink_to("round")
    assert box.create(check=False).status == 1
    assert f"/linux/{name}/0" in box.errors.read_text()
