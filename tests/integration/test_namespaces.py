"""linux.namespaces: made, joined by path, inherited (config-linux.md, Namespaces)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, drop_namespace, mount_at, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
Holder = Callable[..., Callable[[str], str]]

# The spec's name of each type -> its file in /proc/PID/ns.
FILES = {
    "pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time",
}  # fmt: skip
FROM = 100000
MAP = [{"containerID": 0, "hostID": FROM, "size": 65536}]
DEFAULT = ("pid", "network", "ipc", "uts", "mount")


def namespaces(pid: int | str) -> dict[str, str]:
    """Identities of the namespaces of a process by type, as the kernel says from outside."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{file}") for kind, file in FILES.items()}


def unlike_ours(pid: int) -> set[str]:
    ours, theirs = namespaces("self"), namespaces(pid)
    return {kind for kind in FILES if ours[kind] != theirs[kind]}


def inside(report: dict[str, Any]) -> dict[str, str]:
    return {kind: report["namespaces"][file] for kind, file in FILES.items()}


def wanted(*kinds: str) -> Callable[[Config], None]:
    """New namespaces of these types and of no other, and nothing in the config that would need another."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
        if "uts" not in kinds:
            config.pop("hostname")
        if "user" in kinds:
            config["linux"].update(uidMappings=MAP, gidMappings=MAP)

    return change


def give_rootfs(box: Container, owner: int = FROM) -> Container:
    """Let the root filesystem belong to the root of a user namespace."""
    subprocess.run(["chown", "-R", "-h", f"{owner}:{owner}", box.bundle.rootfs], check=True)
    return box


@pytest.fixture
def holder() -> Iterator[Holder]:
    """``holder("network", "user")``: a process in new namespaces of these types; gives their paths by type."""
    processes = []

    def start(*kinds: str) -> Callable[[str], str]:
        flags = [f"--{FILES[kind].replace('mnt', 'mount')}" for kind in kinds]
        argv = ["unshare", *flags, "--fork", "--kill-child", "sh", "-c", "echo ready; exec sleep 1000"]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        if "user" in kinds:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{process.pid}/{name}").write_text(f"0 {FROM} 65536")
        late = {"pid": "pid_for_children", "time": "time_for_children"}  # of those who unshared them only children are members
        return lambda kind: f"/proc/{process.pid}/ns/{late.get(kind, FILES[kind])}"

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


# ---- made -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/namespaces/*/type=*")
@pytest.mark.parametrize(
    "kinds",
    [
        *[DEFAULT, tuple(FILES), *[(*DEFAULT, kind) for kind in FILES if kind not in DEFAULT]],
        *[("mount",), ("mount", "pid"), ("mount", "uts"), ("mount", "user"), ("mount", "ipc", "time")],
    ],
    ids="+".join,
)
def test_exactly_the_namespaces_of_the_config_are_new(container: Make, kinds: tuple[str, ...]) -> None:
    def change(config: Config) -> None:
        wanted(*kinds)(config)
        if "user" in kinds and "network" not in kinds:
            config["mounts"] = []
            config["linux"].pop("readonlyPaths")

    box = give_rootfs(container(mutate=change), FROM if "user" in kinds else 0)
    box.create()
    assert unlike_ours(box.pid) == set(kinds)
    seen = namespaces(box.pid)
    pid = box.pid
    box.start()
    assert box.wait_exit(pid) == 0
    if "/proc" in {mount["destination"] for mount in box.bundle.config["mounts"]}:
        report = json.loads(box.output.read_text())
        assert inside(report) == seen
        assert report["namespaces"]["pid_for_children"] == seen["pid"]
        assert report["namespaces"]["time_for_children"] == seen["time"]
    box.delete()


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts"])
def test_an_absent_namespace_is_the_runtimes_own(probe: Probe, kind: str) -> None:
    def change(config: Config) -> None:
        drop_namespace(config, kind)
        if kind == "uts":
            config.pop("hostname")

    seen = inside(probe(change))
    ours = namespaces("self")
    assert {kind for kind in FILES if seen[kind] == ours[kind]} == {kind, "user", "time", "cgroup"}


def test_a_config_without_any_namespace_runs_in_all_of_ours(container: Make) -> None:
    def change(config: Config) -> None:
        del config["linux"]["namespaces"], config["linux"]["maskedPaths"], config["linux"]["readonlyPaths"], config["hostname"]
        config["mounts"] = []
        config["root"]["readonly"] = False

    box = container("/bin/probe", "sleep", mutate=change)
    box.create()
    assert unlike_ours(box.pid) == set()
    box.delete("--force")


def test_the_process_is_pid_1_only_in_a_pid_namespace(probe: Probe) -> None:
    assert probe()["pid"] == 1
    assert probe(lambda config: drop_namespace(config, "pid"))["pid"] > 1


def test_a_cgroup_namespace_is_rooted_in_the_containers_cgroup(probe: Probe) -> None:
    inherited = probe()["cgroup"]
    assert any(not line.endswith(":/") for line in inherited)
    own = probe(lambda config: set_namespace(config, "cgroup"))["cgroup"]
    made = {line.split(":")[1] for line in inherited if "/ocipy-test-" in line}
    assert made
    assert all(line.endswith(":/") for line in own if line.split(":")[1] in made)


def test_exec_is_in_the_same_namespaces(container: Make) -> None:
    box = give_rootfs(container("/bin/probe", "trap", mutate=wanted(*FILES)))
    box.run("--detach")
    box.wait_output("ready")
    assert inside(box.exec("/bin/probe").json) == namespaces(box.pid)
    box.delete("--force")


# ---- the loopback device --------------------------------------------------------------------------------------------------------


def test_the_loopback_device_of_a_new_network_namespace_is_up(probe: Probe) -> None:
    assert probe()["interfaces"]["lo"] == "up"


def test_the_loopback_device_of_a_joined_network_namespace_is_left_as_it_is(probe: Probe, holder: Holder) -> None:
    path = holder("network")("network")
    assert probe(lambda config: set_namespace(config, "network", path))["interfaces"]["lo"] == "down"


def test_the_loopback_device_of_the_runtimes_network_namespace_is_left_as_it_is(container: Make) -> None:
    box = container(mutate=lambda config: drop_namespace(config, "network"))
    argv: list[str | Path] = [box.runtime.path, "--root", box.runtime.root, "run", "--bundle", box.bundle.path, box.id]
    with box.output.open("wb") as out:
        subprocess.run(["unshare", "--net", *argv], stdin=subprocess.DEVNULL, stdout=out, check=True)
    assert json.loads(box.output.read_text())["interfaces"]["lo"] == "down"


# ---- joined ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/namespaces/*/path")
@pytest.mark.parametrize("kind", FILES)
def test_a_namespace_is_joined_by_its_path(container: Make, holder: Holder, kind: str) -> None:
    path = holder(kind)(kind)
    box = container(mutate=lambda config: set_namespace(config, kind, path))
    report = give_rootfs(box, FROM if kind == "user" else 0).run().json
    assert inside(report)[kind] == os.readlink(path)
    assert set(report["root"]) >= {"bin", "proc", "dev"}
    ours = namespaces("self")
    new = {kind for kind, identity in inside(report).items() if identity != ours[kind]}
    assert new == {*DEFAULT, kind}


@pytest.mark.parametrize(
    "kinds",
    [("user", "network"), ("user", "network", "ipc", "uts"), ("user", "pid", "mount"), ("network", "ipc", "pid"), tuple(FILES)],
    ids="+".join,
)
def test_namespaces_are_joined_together(container: Make, holder: Holder, kinds: tuple[str, ...]) -> None:
    paths = holder(*kinds)

    def change(config: Config) -> None:
        for kind in kinds:
            set_namespace(config, kind, paths(kind))
        config.pop("hostname")

    report = give_rootfs(container(mutate=change), FROM if "user" in kinds else 0).run().json
    seen = inside(report)
    assert {kind: seen[kind] for kind in kinds} == {kind: os.readlink(paths(kind)) for kind in kinds}
    assert report["uids"] == [0, 0, 0]


@pytest.mark.parametrize("order", [("user", "network"), ("network", "user")], ids=" before ".join)
def test_a_network_namespace_of_the_host_is_joined_along_with_a_user_namespace(
    container: Make, holder: Holder, order: tuple[str, str]
) -> None:
    """Only the host's privilege lets us into the one, and it is gone in the other."""
    paths = {"user": holder("user"), "network": holder("network")}

    def change(config: Config) -> None:
        drop_namespace(config, "network")
        for kind in reversed(order):
            config["linux"]["namespaces"].insert(0, {"type": kind, "path": paths[kind](kind)})
        config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/sys")]

    seen = inside(give_rootfs(container(mutate=change)).run().json)
    assert {kind: seen[kind] for kind in order} == {kind: os.readlink(paths[kind](kind)) for kind in order}


@pytest.mark.parametrize("kind", ["network", "ipc", "uts"])
def test_a_namespace_of_the_host_is_joined_by_a_container_with_a_new_user_namespace(
    container: Make, holder: Holder, kind: str
) -> None:
    path = holder(kind)(kind)

    def change(config: Config) -> None:
        wanted(*DEFAULT, "user")(config)
        set_namespace(config, kind, path)
        config.pop("hostname")
        config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith(("/sys", "/dev/mqueue"))]

    report = give_rootfs(container(mutate=change)).run().json
    assert inside(report)[kind] == os.readlink(path)
    assert report["uid_map"].split() == ["0", str(FROM), "65536"]


def test_containers_of_a_pod_share_what_the_first_has(container: Make) -> None:
    first = container("/bin/probe", "trap", mutate=lambda config: config.update(hostname="pod"))
    first.run("--detach")
    first.wait_output("ready")
    shared = ("network", "ipc", "uts", "pid")

    def change(config: Config) -> None:
        config.pop("hostname")
        for kind in shared:
            set_namespace(config, kind, f"/proc/{first.pid}/ns/{FILES[kind]}")

    report = container(mutate=change).run().json
    theirs = namespaces(first.pid)
    assert {kind for kind, identity in inside(report).items() if identity == theirs[kind]} == {*shared, "user", "time", "cgroup"}
    assert report["hostname"] == "pod"
    assert report["pid"] > 1
    first.delete("--force")


def test_a_namespace_is_joined_by_a_file_that_it_is_bound_to(probe: Probe, holder: Holder, tmp_path: Path) -> None:
    """As ip-netns(8) and engines keep them."""
    file = tmp_path / "netns"
    file.touch()
    path = holder("network")("network")
    subprocess.run(["mount", "--bind", path, file], check=True)
    try:
        assert inside(probe(lambda config: set_namespace(config, "network", str(file))))["network"] == os.readlink(path)
    finally:
        subprocess.run(["umount", file], check=True)


def test_a_joined_mount_namespace_gets_the_root_of_the_container(probe: Probe, holder: Holder) -> None:
    path = holder("mount")("mount")
    report = probe(lambda config: set_namespace(config, "mount", path))
    assert mount_at(report, "/proc")["type"] == "proc"
    assert not [line for line in report["mountinfo"] if "/tmp/" in line.split()[4]]


# ---- refused --------------------------------------------------------------------------------------------------------------------


def refused(container: Make, kind: str, path: str) -> str:
    box = container(mutate=lambda config: set_namespace(config, kind, path))
    index = len(box.bundle.config["linux"]["namespaces"]) - 1
    answer = box.create(check=False)
    assert answer.status == 1
    assert f"/linux/namespaces/{index}/path" in answer.stderr or f"linux.namespaces[{index}].path" in answer.stderr, answer.stderr
    assert answer.stderr.count("\n") == 1
    return answer.stderr


@pytest.mark.spec("/linux/namespaces/*/path")
@pytest.mark.parametrize(
    ("kind", "file"), [("ipc", "net"), ("network", "mnt"), ("pid", "user"), ("user", "uts"), ("time", "cgroup"), ("mount", "time")]
)
def test_a_path_of_another_type_is_an_error_that_names_both(container: Make, kind: str, file: str) -> None:
    other = next(name for name, known in FILES.items() if known == file)
    said = refused(container, kind, f"/proc/{os.getpid()}/ns/{file}")
    assert kind in said
    assert other in said


@pytest.mark.parametrize("path", ["/nowhere", "/proc/4194305/ns/net", "/etc/passwd", "/tmp", "/dev/null"])
def test_a_path_that_is_no_namespace_is_an_error_that_names_it(container: Make, path: str) -> None:
    assert path in refused(container, "network", path)


def test_a_fifo_is_no_namespace_and_does_not_stop_us(container: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "is not a network namespace" in refused(container, "network", str(tmp_path / "fifo"))


def test_a_relative_path_is_an_error(container: Make) -> None:
    refused(container, "network", "ns/net")


def test_a_second_namespace_of_a_type_is_an_error(container: Make) -> None:
    box = container(mutate=lambda config: config["linux"]["namespaces"].append({"type": "ipc"}))
    answer = box.create(check=False)
    assert answer.status == 1
    assert "a second ipc namespace" in answer.stderr


def test_a_user_namespace_that_is_ours_already_is_an_error_of_its_own(container: Make) -> None:
    """setns(2): EINVAL; mappings and privilege would be the host's."""
    box = container(mutate=lambda config: set_namespace(config, "user", f"/proc/{os.getpid()}/ns/user"))
    answer = box.create(check=False)
    assert answer.status == 1
    assert "user namespace" in answer.stderr


def test_the_runtimes_own_mount_namespace_is_not_pivoted(container: Make) -> None:
    root = os.stat("/")
    assert "leave the entry out" in refused(container, "mount", f"/proc/{os.getpid()}/ns/mnt")
    assert os.path.samestat(os.stat("/"), root)
