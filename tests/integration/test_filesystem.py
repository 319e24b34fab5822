"""The root, mounts, devices and masks of ordinary bundles, and what images can put in their way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, drop_namespace, mount_at, mounts, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]


def adds(*mounts_: dict[str, Any], writable: bool = False) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["mounts"] += mounts_
        if writable:
            config["root"]["readonly"] = False

    return change


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}


# ---- root ------------------------------------------------------------------------------------------------------------


def test_nothing_of_the_host_is_left_in_the_mount_namespace(probe: Probe) -> None:
    points = {mount["point"] for mount in mounts(probe()["mountinfo"])}
    assert all(point == "/" or point.startswith(("/proc", "/dev", "/sys")) for point in points)


@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot_root", "no pivot"])
def test_the_root_is_the_bundles(container: Make, flags: list[str]) -> None:
    box = container()
    seen = box.run(*flags).json
    assert mount_at(seen, "/")["options"].startswith("ro")
    assert sorted(seen["root"]) == sorted(os.listdir(box.bundle.rootfs))


@pytest.mark.parametrize("path", ["absolute", "relative", "a symlink", "a mount"])
def test_the_root_is_found(container: Make, path: str) -> None:
    box = container()
    rootfs = box.bundle.rootfs
    if path == "a symlink":
        (box.bundle.path / "link").symlink_to("rootfs")
    if path == "a mount":
        subprocess.run(["mount", "--bind", rootfs, rootfs], check=True)
    box.bundle.config["root"]["path"] = {"absolute": str(rootfs), "a symlink": "link"}.get(path, "rootfs")
    box.bundle.write()
    try:
        assert box.run().json["pid"] == 1
    finally:
        if path == "a mount":
            subprocess.run(["umount", rootfs], check=True)


def test_without_a_mount_namespace_the_root_is_the_bundles_and_mounts_go_with_delete(container: Make) -> None:
    def change(config: Config) -> None:
        drop_namespace(config, "mount")
        config["mounts"] = [tmpfs("/scratch"), {"destination": "/proc", "type": "proc", "source": "proc"}]
        config["linux"].update(maskedPaths=[], readonlyPaths=[])
        config["root"]["readonly"] = False

    box = container("/bin/probe", "trap", mutate=change)
    box.run("--detach")
    box.wait_output("ready")
    assert [mount["point"] for mount in mounts() if str(box.bundle.rootfs) in mount["point"]]
    assert "probe" in box.exec("/bin/ls", "/bin").stdout
    box.delete("--force")
    assert not [mount["point"] for mount in mounts() if str(box.bundle.rootfs) in mount["point"]]


# ---- mounts ----------------------------------------------------------------------------------------------------------

OPTIONS = ["nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow", "ro"]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_an_option_is_on_the_mount(probe: Probe, tmp_path: Path, kind: str, option: str) -> None:
    mount = tmpfs("/here", option) if kind == "tmpfs" else bind(tmp_path, "/here", option)
    assert option in mount_at(probe(adds(mount, writable=True)), "/here")["options"].split(",")


@pytest.mark.parametrize("option", ["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnosymfollow"])
def test_a_recursive_option_is_on_what_lies_below_too(probe: Probe, tmp_path: Path, option: str) -> None:
    (tmp_path / "source/sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "source/sub"], check=True)
    try:
        mount = {**bind(tmp_path / "source", "/here", option), "options": ["rbind", option]}
        seen = probe(adds(mount, writable=True))
        plain = probe(adds({**mount, "options": ["rbind", option[1:]]}, writable=True))
    finally:
        subprocess.run(["umount", tmp_path / "source/sub"], check=True)
    for point in ("/here", "/here/sub"):
        assert option[1:] in mount_at(seen, point)["options"].split(",")
    assert option[1:] not in mount_at(plain, "/here/sub")["options"].split(",")


def test_a_file_is_bound_on_a_file_that_is_made(container: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    mutate = adds(bind(tmp_path / "file", "/new/dir/file", "ro"), writable=True)
    assert container("/bin/cat", "/new/dir/file", mutate=mutate).run().stdout == "content"


@pytest.mark.spec("/mounts/*/source")
def test_a_relative_source_starts_at_the_bundle(container: Make) -> None:
    box = container("/bin/cat", "/here/file", mutate=adds(bind("data", "/here"), writable=True))
    (box.bundle.path / "data").mkdir()
    (box.bundle.path / "data/file").write_text("content")
    assert box.run().stdout == "content"


@pytest.mark.parametrize(
    ("link", "target"),
    [("etc/conf", "/run/x/conf"), ("etc/conf", "../run/x/conf"), ("etc/conf", "../../../../run/x/conf"), ("etc/conf", "other")],
)
def test_a_dangling_link_gets_its_target_made_inside_the_root(container: Make, tmp_path: Path, link: str, target: str) -> None:
    (tmp_path / "file").write_text("content")
    box = container("/bin/cat", "/" + link, mutate=adds(bind(tmp_path / "file", "/" + link), writable=True))
    (box.bundle.rootfs / link).symlink_to(target)
    assert box.run().stdout == "content"
    assert not Path("/run/x").exists()


def test_destinations_through_links_stay_inside_the_root(container: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    box = container("/bin/true", mutate=adds(tmpfs("/way/in"), tmpfs("/direct"), writable=True))
    (box.bundle.rootfs / "way").symlink_to(outside)
    (box.bundle.rootfs / "direct").symlink_to(f"../../../../../../../../..{outside}")
    box.run()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("target", ["/elsewhere", "../../../proc"])
def test_proc_and_sys_must_be_real_directories(container: Make, name: str, target: str) -> None:
    """CVE-2019-19921."""
    box = container("/bin/true")
    os.rmdir(box.bundle.rootfs / name)
    (box.bundle.rootfs / name).symlink_to(target)
    (box.bundle.rootfs / "elsewhere").mkdir()
    assert box.create(check=False).status == 1
    assert f"/{name}" in box.errors.read_text()


@pytest.mark.parametrize(
    "mount", [tmpfs("/proc"), bind("/etc", "/proc"), tmpfs("/proc/self"), bind("/etc/passwd", "/proc/self/status")]
)
def test_only_procfs_may_be_on_proc(container: Make, mount: dict[str, Any]) -> None:
    """CVE-2019-16884."""
    box = container("/bin/true", mutate=adds(mount))
    assert box.create(check=False).status == 1
    assert "/mounts/7" in box.errors.read_text()


def test_a_link_to_proc_is_no_way_around(container: Make) -> None:
    box = container("/bin/true", mutate=adds(tmpfs("/innocent"), writable=True))
    (box.bundle.rootfs / "innocent").symlink_to("/proc")
    assert box.create(check=False).status == 1


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (bind("/no/such", "/here"), 'mounts[7] /here (/mounts/7): bind: source "/no/such" does not exist'),
        (bind("/etc/passwd", "/tmp"), "not a directory on a directory, nor a file on a file"),
        (tmpfs("/here", "sizee=1"), 'refuses the option "sizee=1"'),
        ({"destination": "/here", "type": "nofs", "source": "x"}, "this kernel has no filesystem nofs"),
    ],
    ids=["missing source", "file on directory", "bad option", "unknown filesystem"],
)
def test_what_the_kernel_refuses_is_said_in_words(container: Make, mount: dict[str, Any], words: str) -> None:
    box = container("/bin/true", mutate=adds(mount, writable=True))
    (box.bundle.rootfs / "tmp").mkdir(exist_ok=True)
    assert box.create(check=False).status == 1
    assert words in box.errors.read_text()
    assert box.errors.read_text().count("\n") == 1


def test_long_and_odd_options_take_the_other_way(probe: Probe, tmp_path: Path) -> None:
    lower = [tmp_path / (str(number) + "x" * 60) for number in range(8)]
    for directory in lower:
        directory.mkdir()
    overlay = {"destination": "/o", "type": "overlay", "source": "overlay",
               "options": ["lowerdir=" + ":".join(map(str, lower)), "nosuid"]}  # fmt: skip
    seen = probe(adds(overlay, tmpfs("/t", "iversion", "size=1m", "noexec"), writable=True))
    assert "nosuid" in mount_at(seen, "/o")["options"]
    assert "noexec" in mount_at(seen, "/t")["options"]


def test_a_read_only_tmpfs_takes_mount_points_and_devices_first(probe: Probe) -> None:
    def change(config: Config) -> None:
        next(mount for mount in config["mounts"] if mount["destination"] == "/dev")["options"].append("ro")

    seen = probe(change)
    assert "ro" in mount_at(seen, "/dev")["options"].split(",")
    assert seen["dev"]["/dev/null"]["major"] == 1


def test_tmpcopyup_copies_owners_modes_and_links(container: Make) -> None:
    box = container("/bin/sh", "-c", "cd /data; stat -c '%n %u %g %a' * sub/*; readlink link; cat sub/file | wc -c",
                    mutate=adds(tmpfs("/data", "tmpcopyup"), writable=True))  # fmt: skip
    data = box.bundle.rootfs / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub/file").write_bytes(b"x" * 100_000)
    os.chown(data / "sub/file", 7, 8)
    (data / "sub/file").chmod(0o4755)
    (data / "link").symlink_to("sub/file")
    lines = box.run().stdout.splitlines()
    assert "sub/file 7 8 4755" in lines
    assert lines[-2:] == ["sub/file", "100000"]


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_an_idmapped_mount_shows_other_owners(container: Make, tmp_path: Path, option: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 1000, 2000)
    mount = bind(source, "/here", option)
    mount["uidMappings"] = [{"containerID": 1000, "hostID": 5000, "size": 1}]
    mount["gidMappings"] = [{"containerID": 2000, "hostID": 6000, "size": 1}]
    result = container("/bin/stat", "-c", "%u %g", "/here/file", mutate=adds(mount, writable=True)).run()
    assert result.stdout.split() == ["5000", "6000"]


# ---- devices, masks --------------------------------------------------------------------------------------------------

DEFAULTS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


@pytest.mark.parametrize("mapped", [False, True], ids=["host's user namespace", "own user namespace"])
def test_the_default_devices_and_links_are_there(container: Make, mapped: bool) -> None:
    def change(config: Config) -> None:
        if mapped:
            set_namespace(config, "user")
            mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
            config["linux"].update(uidMappings=mapping, gidMappings=mapping)

    box = container(mutate=change)
    if mapped:
        subprocess.run(["chown", "-R", "100000:100000", box.bundle.rootfs], check=True)
    dev = box.run().json["dev"]
    for name, number in DEFAULTS.items():
        entry = dev[f"/dev/{name}"]
        assert (entry["major"], entry["minor"]) == number
        assert (entry["type"], entry["mode"]) == ("c", 0o666)
    assert {f"/dev/{name}" for name in ("fd", "stdin", "stdout", "stderr", "ptmx")} <= set(dev)


def test_configured_devices_have_their_mode_and_owner(probe: Probe) -> None:
    devices = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/sub/block", "type": "b", "major": 7, "minor": 300},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]
    dev = probe(lambda config: config["linux"].update(devices=devices))["dev"]
    fuse, block, pipe = dev["/dev/fuse"], dev["/dev/sub/block"], dev["/dev/pipe"]
    assert (fuse["major"], fuse["minor"], fuse["mode"] & 0o777, fuse["uid"], fuse["gid"]) == (10, 229, 0o640, 5, 6)
    assert (block["type"], block["major"], block["minor"]) == ("b", 7, 300)
    assert (pipe["type"], pipe["mode"]) == ("p", 0o600)


def test_something_else_at_the_place_of_a_device_is_an_error(container: Make) -> None:
    def change(config: Config) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/dev")]
        config["root"]["readonly"] = False

    box = container("/bin/true", mutate=change)
    (box.bundle.rootfs / "dev").mkdir(exist_ok=True)
    (box.bundle.rootfs / "dev/null").write_text("")
    assert box.create(check=False).status == 1
    assert "something else is there already" in box.errors.read_text()


@pytest.mark.parametrize("with_mount", [True, False])
def test_dev_of_the_image_that_leads_to_the_host_is_left_alone(container: Make, tmp_path: Path, with_mount: bool) -> None:
    """CVE-2026-41579, CVE-2026-47766."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "ptmx").write_text("mine")

    def change(config: Config) -> None:
        config["root"]["readonly"] = False
        if not with_mount:
            config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/dev")]

    box = container("/bin/true", mutate=change)
    subprocess.run(["rm", "-rf", box.bundle.rootfs / "dev"], check=True)
    (box.bundle.rootfs / "dev").symlink_to(victim)
    box.run(check=False)
    assert {entry.name: entry.read_text() for entry in victim.iterdir()} == {"ptmx": "mine"}


def test_masks_hide_files_and_directories(container: Make) -> None:
    def change(config: Config) -> None:
        hidden = ["/secret/file", "/secret/file2", "/secret/dir", "/secret/dir2"]
        config["linux"]["maskedPaths"] = [*hidden, "/no/such", "/etc/passwd/x"]
        config["linux"]["readonlyPaths"] = ["/secret/ro", "/no/such"]
        config["root"]["readonly"] = False

    script = "cat /secret/file /secret/file2; ls /secret/dir /secret/dir2; touch /secret/dir/x /secret/ro/x; true"
    box = container("/bin/sh", "-c", script, mutate=change)
    secret = box.bundle.rootfs / "secret"
    for directory in ("dir", "dir2", "ro"):
        (secret / directory).mkdir(parents=True)
        (secret / directory / "hidden").write_text("hidden")
    (secret / "file").write_text("hidden")
    (secret / "file2").write_text("hidden")
    result = box.run()
    assert "hidden" not in result.stdout
    assert result.stderr.count("Read-only file system") == 2


def test_a_mask_is_the_hosts_null_whatever_the_image_calls_so(container: Make) -> None:
    """CVE-2025-31133."""

    def change(config: Config) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/dev")]
        config["mounts"].append(bind(box_dev, "/dev"))
        config["linux"]["maskedPaths"] = ["/proc/timer_list"]

    box = container("/bin/stat", "-c", "%t:%T", "/proc/timer_list")
    box_dev = box.bundle.path / "dev"
    box_dev.mkdir()
    (box_dev / "null").symlink_to("/proc/sys/kernel/hostname")
    change(box.bundle.config)
    box.bundle.write()
    result = box.run(check=False)
    assert result.status != 0 or result.stdout.strip() == "1:3"


# ---- names, sysctls --------------------------------------------------------------------------------------------------


def test_names_and_sysctls(container: Make) -> None:
    def change(config: Config) -> None:
        config["hostname"], config["domainname"] = "h" * 64, "example.org"
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel/msgmax": "5000"}

    script = "hostname; cd /proc/sys; cat kernel/domainname net/ipv4/ip_forward kernel/msgmax"
    box = container("/bin/sh", "-c", script, mutate=change)
    assert box.run().stdout.split() == ["h" * 64, "example.org", "1", "5000"]


@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "kernel.hostname", "fs.file-max"])
def test_a_sysctl_of_the_host_is_refused(container: Make, name: str) -> None:
    box = container("/bin/true", mutate=lambda config: config["linux"].update(sysctl={name: "1"}))
    assert box.create(check=False).status == 1
    assert f"/linux/sysctl/{name}" in box.errors.read_text()
