"""A container that has no mount namespace of its own: chrooted, its mounts in the runtime's (here: the tests') namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, drop_namespace, mounts, set_namespace

Make = Callable[..., Container]
Change = Callable[[Config], None]


def shares_mounts(*more: dict[str, Any]) -> Change:
    def change(config: Config) -> None:
        drop_namespace(config, "mount")
        config["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}, *more]
        config["linux"].pop("maskedPaths")
        config["linux"].pop("readonlyPaths")
        config["root"]["readonly"] = False

    return change


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def below(path: Path) -> list[str]:
    return sorted(os.path.relpath(mount["point"], path) for mount in mounts() if mount["point"].startswith(f"{path}/"))


@pytest.fixture(autouse=True)
def _nothing_else_is_mounted() -> Iterator[None]:
    before = Path("/proc/self/mountinfo").read_text()
    yield
    assert Path("/proc/self/mountinfo").read_text() == before


def test_it_runs_chrooted_in_our_mount_namespace(container: Make) -> None:
    box = container("/bin/probe", "trap", mutate=shares_mounts())
    box.run("--detach")
    box.wait_output("ready")
    assert os.readlink(f"/proc/{box.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert os.path.samefile(f"/proc/{box.pid}/root/", box.bundle.rootfs)
    assert os.readlink(f"/proc/{box.pid}/cwd") == str(box.bundle.rootfs)
    box.delete("--force")


def test_exec_lands_in_its_root(container: Make) -> None:
    box = container("/bin/probe", "trap", mutate=shares_mounts())
    (box.bundle.rootfs / "only-here").touch()
    box.run("--detach")
    box.wait_output("ready")
    assert "only-here" in box.exec("/bin/ls", "/").stdout
    assert "only-here" in box.exec("/bin/ls", "../..", flags=["--cwd", "/bin"]).stdout
    report = box.exec("/bin/probe").json
    assert set(report["root"]) == set(os.listdir(box.bundle.rootfs))
    assert report["cwd"] == "/"
    box.delete("--force")


def test_mounts_are_seen_by_us_while_it_lives_and_go_with_delete(container: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    more = [tmpfs("/a"), tmpfs("/a/b"), bind(tmp_path / "data", "/a/b/c", "ro"), tmpfs("/a")]
    box = container("/bin/probe", "trap", mutate=shares_mounts(*more))
    box.run("--detach")
    box.wait_output("ready")
    assert below(box.bundle.rootfs) == ["a", "a", "a/b", "a/b/c", "proc"]
    box.delete("--force")
    assert below(box.bundle.rootfs) == []


@pytest.mark.parametrize("how", ["run", "start and delete"])
def test_mounts_go_when_it_ends_by_itself(container: Make, how: str) -> None:
    box = container("/bin/true", mutate=shares_mounts(tmpfs("/a")))
    if how == "run":
        box.run()
    else:
        box.create()
        pid = box.pid
        box.start()
        box.wait_exit(pid)
        box.delete()
    assert below(box.bundle.rootfs) == []


@pytest.mark.parametrize(
    "broken",
    [{"destination": "/x", "type": "nofs", "source": "x"}, tmpfs("/x", "nonsense"), tmpfs("/etc/passwd/x")],
    ids=["filesystem", "option", "destination"],
)
def test_mounts_go_when_create_fails_half_way(container: Make, broken: dict[str, Any]) -> None:
    box = container("/bin/true", mutate=shares_mounts(tmpfs("/a"), tmpfs("/a/b"), broken))
    assert box.create(check=False).status == 1
    assert below(box.bundle.rootfs) == []


def test_mounts_go_when_the_program_is_missing(container: Make) -> None:
    box = container("/bin/missing", mutate=shares_mounts(tmpfs("/a")))
    assert box.create(check=False).status == 1
    assert below(box.bundle.rootfs) == []


def test_what_was_mounted_in_the_root_before_stays(container: Make) -> None:
    box = container("/bin/true", mutate=shares_mounts(tmpfs("/a")))
    ours = box.bundle.rootfs / "ours"
    ours.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", ours], check=True)
    try:
        box.run()
        assert below(box.bundle.rootfs) == ["ours"]
    finally:
        subprocess.run(["umount", ours], check=True)


def test_what_a_bound_source_has_mounted_stays(container: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "sub"], check=True)
    subprocess.run(["mount", "--make-shared", source / "sub"], check=True)
    try:
        box = container("/bin/ls", "/here/sub", mutate=shares_mounts(bind(source, "/here")))
        (source / "sub/inner").touch()
        assert box.run().stdout == "inner\n"
        assert below(box.bundle.rootfs) == []
        assert os.listdir(source / "sub") == ["inner"]
    finally:
        subprocess.run(["umount", source / "sub"], check=True)


def test_our_own_mounts_keep_their_propagation(container: Make, tmp_path: Path) -> None:
    """What init does to "/" in a namespace of its own would be done to ours."""
    point = tmp_path / "shared"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    subprocess.run(["mount", "--make-shared", point], check=True)
    try:
        container("/bin/true", mutate=shares_mounts(tmpfs("/a"))).run()
        assert next(mount for mount in mounts() if mount["point"] == str(point))["optional"].startswith("shared:")
    finally:
        subprocess.run(["umount", point], check=True)


def test_on_a_host_where_everything_is_shared_its_mounts_go_too(container: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    try:
        box = container("/bin/ls", "/", mutate=shares_mounts(tmpfs("/a"), tmpfs("/a/b"), bind(tmp_path / "data", "/a/c")))
        box.run()
        assert below(box.bundle.rootfs) == []
    finally:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def test_links_of_the_image_lead_nowhere_else(container: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    box = container("/bin/probe", "trap", mutate=shares_mounts(tmpfs("/link"), tmpfs("/up/x")))
    (box.bundle.rootfs / "link").symlink_to(outside)
    (box.bundle.rootfs / "up").symlink_to("../../../../../../../../.." + str(outside))
    box.run("--detach")
    box.wait_output("ready")
    assert os.listdir(outside) == []
    assert not [mount for mount in mounts() if mount["point"].startswith(str(outside))]
    box.delete("--force")
    assert below(box.bundle.rootfs) == []


def test_devices_are_made_in_the_root_of_the_bundle(container: Make) -> None:
    box = container("/bin/true", mutate=shares_mounts())
    before = sorted(os.listdir("/dev"))
    box.run()
    assert (box.bundle.rootfs / "dev/null").is_char_device()
    assert sorted(os.listdir("/dev")) == before


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        (lambda config: config["linux"].update(maskedPaths=["/proc/kcore"]), "/linux/maskedPaths"),
        (lambda config: config["linux"].update(readonlyPaths=["/proc/sys"]), "/linux/readonlyPaths"),
        (lambda config: config["root"].update(readonly=True), "/root/readonly"),
        (lambda config: config["linux"].update(rootfsPropagation="rslave"), "/linux/rootfsPropagation"),
    ],
    ids=["maskedPaths", "readonlyPaths", "readonly", "rootfsPropagation"],
)
def test_what_would_change_the_hosts_mounts_is_refused(container: Make, change: Change, pointer: str) -> None:
    def mutate(config: Config) -> None:
        shares_mounts()(config)
        change(config)

    box = container("/bin/true", mutate=mutate)
    assert box.create(check=False).status == 1
    assert pointer in box.errors.read_text()
    assert "mount namespace" in box.errors.read_text()


def test_a_user_namespace_needs_a_mount_namespace(container: Make) -> None:
    """Root inside has no say over our mounts, and devices can only be mounted there."""

    def change(config: Config) -> None:
        shares_mounts()(config)
        config["mounts"] = []
        set_namespace(config, "user")
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]

    box = container("/bin/true", mutate=change)
    assert box.create(check=False).status == 1
    assert "a user namespace needs a mount namespace too" in box.errors.read_text()
