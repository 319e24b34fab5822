"""A container without a mount namespace of its own: its mounts are the host's (here: this test's), and delete takes them away."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from bundles import Config, Container, drop_namespace, mounts

Make = Callable[..., Container]


def share_mounts(config: Config) -> None:
    drop_namespace(config, "mount")
    config["linux"].pop("maskedPaths")
    config["linux"].pop("readonlyPaths")
    config["root"]["readonly"] = False
    config["mounts"] = [{"destination": "/data", "type": "tmpfs", "source": "tmpfs"}]


def mounted_below(path: Path) -> list[str]:
    return [mount["point"] for mount in mounts() if mount["point"].startswith(str(path))]


def test_delete_unmounts_what_create_mounted_for_a_container_without_a_mount_namespace(container: Make) -> None:
    box = container("/bin/sleep", "300", mutate=share_mounts)
    box.create()
    box.start()
    assert mounted_below(box.bundle.rootfs) == [str(box.bundle.rootfs / "data")]
    box.delete("--force")
    assert mounted_below(box.bundle.rootfs) == []


def test_a_link_that_the_container_put_in_the_way_does_not_lead_delete_to_the_mounts_of_the_host(
    container: Make, tmp_path: Path
) -> None:
    def nested(config: Config) -> None:
        share_mounts(config)
        config["mounts"][0]["destination"] = "/a/data"

    victim = tmp_path / "victim/data"
    victim.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(victim)], check=True)
    box = container("/bin/sleep", "300", mutate=nested)
    rootfs = box.bundle.rootfs
    (rootfs / "a/data").mkdir(parents=True)
    box.create()
    box.start()
    try:
        (rootfs / "a").rename(rootfs / "b")
        (rootfs / "a").symlink_to(victim.parent)
        box.delete("--force")
        assert set(mounted_below(tmp_path)) == {str(victim), str(rootfs / "b/data")}
    finally:
        subprocess.run(["umount", str(victim), str(rootfs / "b/data")], check=True)
