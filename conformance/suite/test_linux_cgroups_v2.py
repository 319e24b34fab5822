"""config-linux.md: what concerns cgroup v2 alone: unified, and the owner of the cgroup.

On a machine that has v1 too the tests are in a mount namespace that shows v2 alone, with the controllers that v1 leaves over."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, Runtime, hierarchies, set_namespace, show_only_v2

clauses = pytest.mark.clauses
pytestmark = pytest.mark.skipif("cgroup2" not in Path("/proc/filesystems").read_text(), reason="this kernel has no cgroup v2")
Make = Callable[..., Container]
SLEEP = ("/bin/sleep", "1000")
CLONE_NEWNS = 0x20000
USER = 1234
FALLBACK = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
DELEGATE = Path("/sys/kernel/cgroup/delegate")
# A file of each controller, with a value to write; and what v1 calls the same.
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "memory": ("memory.high", str(32 << 20), {"memory": {"limit": 64 << 20}}),
    "pids": ("pids.max", "77", {"pids": {"limit": 77}}),
    "cpu": ("cpu.max", "20000 50000", {"cpu": {"quota": 20000, "period": 50000}}),
    "hugetlb": ("hugetlb.2MB.max", str(4 << 20), {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}),
    "rdma": ("rdma.max", "mlx5_0 hca_handle=3 hca_object=max", {"rdma": {"mlx5_0": {"hcaHandles": 3}}}),
}


@pytest.fixture(autouse=True)
def aside() -> Iterator[None]:
    """The test process in a mount namespace of its own, with cgroup v2, and nothing else, on /sys/fs/cgroup."""
    libc = ctypes.CDLL(None, use_errno=True)
    directory = os.getcwd()
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNS) == 0
    try:
        show_only_v2()
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNS) == 0
        os.close(before)
        os.chdir(directory)


def controllers() -> list[str]:
    return (hierarchies()[""] / "cgroup.controllers").read_text().split()


def controller() -> str:
    """One that is here, and is known to these tests."""
    here = [name for name in SETTINGS if name in controllers()]
    if not here:
        pytest.skip("cgroup v2 has no controller here: v1 has them all, or the kernel has none")
    return here[0]


def missing() -> list[str]:
    absent = [name for name in SETTINGS if name not in controllers()]
    if not absent:
        pytest.skip("all controllers are here")
    return absent


def with_resources(resources: dict[str, Any]) -> Callable[[Config], None]:
    return lambda config: config["linux"]["resources"].update(resources)


def usable(container: Make) -> None:
    """The test is skipped if the runtime cannot do with cgroup v2 as it is here."""
    box = container(*SLEEP)
    if box.create(check=False).status != 0:
        pytest.skip("this runtime makes no container on cgroup v2 as it is on this machine")
    box.delete("--force")


# ---- unified --------------------------------------------------------------------------------------------------------------------


@clauses("config-linux.unified.enabled")
def test_the_controller_of_a_setting_is_enabled(container: Make) -> None:
    usable(container)
    name = controller()
    file, value, _ = SETTINGS[name]
    box = container(*SLEEP, mutate=with_resources({"unified": {file: value}}))
    box.create()
    cgroup = box.cgroup("")
    assert name in (cgroup / "cgroup.controllers").read_text().split()
    assert (cgroup / file).read_text().strip() == value


@clauses("config-linux.unified.unknown")
@pytest.mark.parametrize(("file", "value"), [("cgroup.max.descendants", "7"), ("cgroup.max.depth", "3")])
def test_what_a_runtime_may_not_know_is_written(container: Make, file: str, value: str) -> None:
    """There is no property for these files."""
    usable(container)
    box = container(*SLEEP, mutate=with_resources({"unified": {file: value}}))
    box.create()
    assert (box.cgroup("") / file).read_text().strip() == value


@clauses("config-linux.unified.absent")
def test_a_controller_that_is_not_there_is_an_error(container: Make) -> None:
    usable(container)
    absent = [SETTINGS[name][:2] for name in SETTINGS if name not in controllers()]
    for file, value in (*absent, ("nosuch.max", "1"), ("nosuch.weight", "100")):
        box = container(*SLEEP, mutate=with_resources({"unified": {file: value}}))
        assert box.create(check=False).status != 0, file


@clauses("config-linux.unified.absent")
def test_a_limit_of_v1_whose_controller_is_not_there_is_an_error(container: Make) -> None:
    usable(container)
    for name in missing():
        assert container(*SLEEP, mutate=with_resources(SETTINGS[name][2])).create(check=False).status != 0, name


# Limits of v1 that v2 has no file for, whatever its controllers.
UNLIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "swappiness": ("memory", {"memory": {"swappiness": 7}}),
    "disableOOMKiller": ("memory", {"memory": {"disableOOMKiller": True}}),
    "kernelTCP": ("memory", {"memory": {"kernelTCP": 16 << 20}}),
    "realtime": ("cpu", {"cpu": {"realtimeRuntime": 5000, "realtimePeriod": 100000}}),
    "classID": ("", {"network": {"classID": 1048577}}),
    "priorities": ("", {"network": {"priorities": [{"name": "lo", "priority": 5}]}}),
}


@clauses("config-linux.unified.conversion")
@pytest.mark.parametrize(("needed", "resources"), UNLIKE.values(), ids=UNLIKE)
def test_a_limit_that_v2_cannot_express_is_an_error(container: Make, needed: str, resources: dict[str, Any]) -> None:
    usable(container)
    assert container(*SLEEP, mutate=with_resources(resources)).create(check=False).status != 0, needed


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=clauses(f"config-linux.resources.hugepageLimits.{key}")) for key in ("pageSize", "limit")]
)
def test_a_limit_of_huge_pages_is_complete(container: Make, key: str) -> None:
    usable(container)
    if "hugetlb" not in controllers():
        pytest.skip("cgroup v2 has no hugetlb controller here")
    limit: dict[str, Any] = {"pageSize": "2MB", "limit": 4 << 20}
    box = container(*SLEEP, mutate=with_resources({"hugepageLimits": [limit]}))
    box.create()
    box.delete("--force")
    del limit[key]
    assert container(*SLEEP, mutate=with_resources({"hugepageLimits": [limit]})).create(check=False).status != 0


# ---- whose it is ----------------------------------------------------------------------------------------------------------------


def owners(container: Make, *, namespace: bool = True, writable: bool = True, mount: bool = True) -> dict[str, int]:
    """The owner of each file of the cgroup of a container whose process is USER, "" for the directory."""
    usable(container)

    def change(config: Config) -> None:
        if namespace:
            set_namespace(config, "cgroup")
        (found,) = [entry for entry in config["mounts"] if entry["type"] == "cgroup"]
        if writable:
            found["options"].remove("ro")
        if not mount:
            config["mounts"].remove(found)
        config["process"]["user"] = {"uid": USER, "gid": USER}

    box = container(*SLEEP, mutate=change)
    box.create()
    cgroup = box.cgroup("")
    return {"": cgroup.stat().st_uid} | {file.name: file.stat().st_uid for file in cgroup.iterdir()}


def given(found: dict[str, int]) -> dict[str, int]:
    if found[""] != USER:
        pytest.skip("this runtime gives a cgroup to nobody, as it may")
    return found


def listed() -> set[str]:
    return set(DELEGATE.read_text().split())


@clauses("config-linux.cgroup.owner.writable")
def test_a_writable_cgroup_is_the_users(container: Make) -> None:
    assert owners(container)[""] == USER


@clauses("config-linux.cgroup.owner.namespace")
def test_without_a_cgroup_namespace_the_cgroup_stays_roots(container: Make) -> None:
    assert set(owners(container, namespace=False).values()) == {0}


@clauses("config-linux.cgroup.owner.readonly")
@pytest.mark.parametrize("mount", [True, False], ids=["read-only", "none"])
def test_without_a_writable_mount_the_cgroup_stays_roots(container: Make, mount: bool) -> None:
    assert set(owners(container, writable=False, mount=mount).values()) == {0}


@clauses("config-linux.cgroup.owner.listed", "config-linux.cgroup.owner.others")
def test_only_what_the_kernel_lists_is_given(container: Make) -> None:
    found = given(owners(container))
    assert {name for name, owner in found.items() if owner != 0} <= {"", *listed()}


@clauses("config-linux.cgroup.owner.existing")
def test_all_that_the_kernel_lists_is_given(container: Make) -> None:
    found = given(owners(container))
    assert {name: found[name] for name in listed() if name in found} == dict.fromkeys(listed() & set(found), USER)


@pytest.fixture
def hide(runtime: Runtime) -> Iterator[Callable[..., None]]:
    """``hide(path, "--bind", file)``: mount over ``path`` until the test ends."""
    hidden: list[Path] = []

    def mount(path: Path, *arguments: str | Path) -> None:
        subprocess.run(["mount", *arguments, path], check=True)
        hidden.append(path)

    yield mount
    for path in hidden:
        subprocess.run(["umount", path], check=True)


@clauses("config-linux.cgroup.owner.missing")
def test_a_file_that_the_kernel_lists_and_is_not_there_is_no_error(
    container: Make, hide: Callable[..., None], tmp_path: Path
) -> None:
    names = [*FALLBACK, "cgroup.nosuch", "nosuch.max"]
    (tmp_path / "delegate").write_text("".join(f"{name}\n" for name in names))
    hide(DELEGATE, "--bind", tmp_path / "delegate")
    found = given(owners(container))
    assert {found[name] for name in FALLBACK} == {USER}


@clauses("config-linux.cgroup.owner.fallback")
def test_without_a_list_of_the_kernel_three_files_are_given(container: Make, hide: Callable[..., None]) -> None:
    hide(DELEGATE.parent, "-t", "tmpfs", "tmpfs")
    found = given(owners(container))
    assert {name for name, owner in found.items() if owner == USER} == {"", *FALLBACK}
