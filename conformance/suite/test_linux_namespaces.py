"""config-linux.md: namespaces, mappings of ids, and what is set for the process in them, looked at from outside in /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, Runtime, drop_namespace, make_bundle, runtime_path, set_namespace

clauses = pytest.mark.clauses
Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]

# The specification's name of each type -> its file in /proc/PID/ns.
FILES = {
    "pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time",
}  # fmt: skip
SAME = [{"containerID": 0, "hostID": 0, "size": 65536}]
FROM = 100000
SLEEP = ("/bin/sleep", "1000")


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{FILES[kind]}")


def with_namespace(kind: str, path: str | None = None) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        set_namespace(config, kind, path)
        if kind == "user" and not path:
            config["linux"].update(uidMappings=SAME, gidMappings=SAME)
        if path and kind == "uts":
            del config["hostname"]

    return change


@pytest.fixture
def holder() -> Iterator[Callable[[str], str]]:
    """``holder("network")``: the path of a new namespace of this type, kept by a process."""
    processes = []

    def start(kind: str) -> str:
        flag = "--" + {"network": "net"}.get(kind, kind)
        late = {"pid": "pid_for_children", "time": "time_for_children"}  # of those who unshared them only children are members
        fork = ["--fork", "--kill-child"] if kind in late else []
        argv = ["unshare", flag, *fork, "sh", "-c", "echo ready; exec sleep 1000"]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        if kind == "user":
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536")
        return f"/proc/{process.pid}/ns/{late.get(kind, FILES[kind])}"

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def created(box: Container, kind: str) -> Container:
    """The test is skipped if the runtime does not support the type: it should, and another test says so."""
    if box.create(check=False).status != 0:
        pytest.skip(f"this runtime does not support {kind} namespaces")
    return box


# ---- new, joined, inherited -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=clauses(f"config-linux.namespaces.{kind}")) for kind in FILES])
def test_a_type_is_supported(container: Make, kind: str) -> None:
    box = container(*SLEEP, mutate=with_namespace(kind))
    box.create()
    assert namespace(box.pid, kind) != namespace("self", kind)


@clauses("config-linux.namespaces.new")
@pytest.mark.parametrize("kind", FILES)
def test_a_namespace_without_a_path_is_new(container: Make, kind: str) -> None:
    one, other = (created(container(*SLEEP, mutate=with_namespace(kind)), kind) for _ in range(2))
    assert len({namespace(one.pid, kind), namespace(other.pid, kind), namespace("self", kind)}) == 3


@clauses("config-linux.namespaces.path.join")
@pytest.mark.parametrize("kind", FILES)
def test_a_namespace_with_a_path_is_joined(container: Make, holder: Callable[[str], str], kind: str) -> None:
    path = holder(kind)
    created(container(*SLEEP, mutate=with_namespace(kind)), kind).delete("--force")
    box = container(*SLEEP, mutate=with_namespace(kind, path))
    box.create()
    assert namespace(box.pid, kind) == os.readlink(path)


@clauses("config-linux.namespaces.path.type")
@pytest.mark.parametrize("kind", FILES)
def test_a_path_of_another_type_is_an_error(container: Make, holder: Callable[[str], str], kind: str) -> None:
    other = "ipc" if kind != "ipc" else "uts"
    box = container(*SLEEP, mutate=with_namespace(kind, holder(other)))
    assert box.create(check=False).status != 0


@clauses("config-linux.namespaces.path.type")
@pytest.mark.parametrize("path", ["/etc/passwd", "/nowhere/at/all", "/tmp"])
def test_a_path_of_no_namespace_is_an_error(container: Make, path: str) -> None:
    assert container(*SLEEP, mutate=with_namespace("network", path)).create(check=False).status != 0


@clauses("config-linux.namespaces.path.absolute")
@pytest.mark.parametrize("where", ["root", "bundle"])
def test_a_relative_path_is_an_error_from_wherever_it_would_lead(container: Make, holder: Callable[[str], str], where: str) -> None:
    path = holder("ipc")
    box = container(*SLEEP, mutate=with_namespace("ipc", path[1:] if where == "root" else "joined"))
    (box.bundle.path / "joined").symlink_to(path)
    assert box.create(check=False, cwd=Path("/") if where == "root" else box.bundle.path).status != 0


@pytest.fixture
def aside(tmp_path: Path, no_leaks: None) -> Iterator[Runtime]:
    """A runtime in a mount namespace of its own, which it may change."""
    wrapper = tmp_path / os.path.basename(runtime_path())
    wrapper.write_text(f'#!/bin/sh\nreadlink /proc/self/ns/mnt >{tmp_path}/mnt\nexec {runtime_path()} "$@"\n')
    outer = tmp_path / "aside"
    outer.write_text(f'#!/bin/sh\nexec unshare --mount sh {wrapper} "$@"\n')
    outer.chmod(0o755)
    runtime = Runtime(tmp_path / "runtime", str(outer))
    yield runtime
    assert not runtime.close()


@clauses("config-linux.namespaces.inherit")
@pytest.mark.parametrize("kind", FILES)
def test_a_type_that_is_not_named_is_the_runtimes_own(
    aside: Runtime, bundle: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    def change(config: Config) -> None:
        drop_namespace(config, kind)
        if kind == "uts":
            del config["hostname"]
        if kind == "mount":
            config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] == "/proc"]
            config["root"]["readonly"] = False
            del config["linux"]["maskedPaths"], config["linux"]["readonlyPaths"]

    box = aside.container(bundle(*SLEEP, mutate=change))
    box.create()
    ours = (tmp_path / "mnt").read_text().strip() if kind == "mount" else namespace("self", kind)
    seen = namespace(box.pid, kind)
    box.delete("--force")
    assert seen == ours


# ---- ids ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that a container whose root is nobody on the host can reach."""
    path = Path(tempfile.mkdtemp(prefix="clauses-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def mapped(reachable: Path, runtime: Runtime) -> Container:
    """A container whose root is user FROM of the host, with a root filesystem of that user's, but for one file."""

    def change(config: Config) -> None:
        set_namespace(config, "user")
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [
                {"containerID": 0, "hostID": FROM, "size": 1000},
                {"containerID": 1000, "hostID": FROM + 5000, "size": 10},
            ]
        config["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(reachable / "data"), "options": ["bind"]})

    bundle = make_bundle(reachable / "bundle", args=SLEEP, mutate=change)
    (bundle.rootfs / "mnt").mkdir(exist_ok=True)
    subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", bundle.rootfs], check=True)
    (reachable / "data").mkdir()
    for number, file in enumerate((bundle.rootfs / "etc/foreign", reachable / "data/file")):
        file.write_text("")
        os.chown(file, number, number)
    return runtime.container(bundle)


@clauses("runtime.create.properties")
def test_ids_are_mapped_as_configured(mapped: Container) -> None:
    mapped.create()
    for name in ("uid_map", "gid_map"):
        lines = Path(f"/proc/{mapped.pid}/{name}").read_text().splitlines()
        assert [line.split() for line in lines] == [["0", str(FROM), "1000"], ["1000", str(FROM + 5000), "10"]]


@clauses("config-linux.mappings.ownership")
def test_no_file_gets_another_owner(mapped: Container, reachable: Path) -> None:
    def owners() -> dict[str, tuple[int, int]]:
        paths = [Path(top, name) for top, below, files in os.walk(reachable) for name in ("", *below, *files)]
        return {str(path): (path.lstat().st_uid, path.lstat().st_gid) for path in paths if mapped.id not in path.name}

    before = owners()
    mapped.create()
    mapped.start()
    mapped.kill()
    mapped.wait_for("stopped")
    mapped.delete()
    after = owners()
    assert {path: owner for path, owner in after.items() if path in before} == before


# ---- what is set in them --------------------------------------------------------------------------------------------------------


@clauses("runtime.create.properties")
def test_clocks_of_a_time_namespace_are_shifted(container: Make) -> None:
    offsets = {"monotonic": {"secs": 864000}, "boottime": {"secs": 1728000, "nanosecs": 500}}

    def change(config: Config) -> None:
        set_namespace(config, "time")
        config["linux"]["timeOffsets"] = offsets

    created(container(*SLEEP, mutate=lambda config: set_namespace(config, "time")), "time").delete("--force")
    box = container(*SLEEP, mutate=change)
    box.create()
    lines = [line.split() for line in Path(f"/proc/{box.pid}/timens_offsets").read_text().splitlines()]
    found = {name: (int(seconds), int(rest)) for name, seconds, rest in lines}
    assert found == {"monotonic": (864000, 0), "boottime": (1728000, 500)}


@clauses("runtime.create.properties")
@pytest.mark.parametrize(
    ("name", "value"),
    [("net.ipv4.ip_default_ttl", "77"), ("net.core.somaxconn", "256"), ("kernel.shmmax", "65536"), ("kernel.msgmax", "4096")],
)
def test_a_parameter_of_a_namespace_is_set(container: Make, name: str, value: str) -> None:
    file = "/proc/sys/" + name.replace(".", "/")
    box = container("/bin/cat", file, mutate=lambda config: config["linux"].update(sysctl={name: value}))
    assert Path(file).read_text().strip() != value
    assert box.run().stdout.strip() == value


@clauses("runtime.create.properties")
@pytest.mark.parametrize(("domain", "machine"), [("LINUX", os.uname().machine), ("LINUX32", "i686")])
def test_the_personality_is_set(probe: Probe, domain: str, machine: str) -> None:
    if os.uname().machine != "x86_64" and domain == "LINUX32":
        pytest.skip("the name of the 32-bit machine is known for x86_64 alone")
    seen = probe(lambda config: config["linux"].update(personality={"domain": domain}))
    assert (seen["personality"] & 0xFF, seen["machine"]) == ({"LINUX": 0, "LINUX32": 8}[domain], machine)


BIND, INTERLEAVE, PREFERRED, LOCAL, STATIC, RELATIVE = 2, 3, 1, 4, 1 << 15, 1 << 14


@clauses("runtime.create.properties")
@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        ({"mode": "MPOL_BIND", "nodes": "0"}, BIND),
        ({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, INTERLEAVE | STATIC),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}, BIND | RELATIVE),
        ({"mode": "MPOL_PREFERRED", "nodes": "0"}, PREFERRED),
        ({"mode": "MPOL_LOCAL"}, LOCAL),
    ],
    ids=["bind", "interleave", "relative", "preferred", "local"],
)
def test_the_memory_policy_is_set(probe: Probe, policy: dict[str, Any], mode: int) -> None:
    if not Path("/sys/devices/system/node").is_dir():
        pytest.skip("this kernel has no NUMA")
    assert probe(lambda config: config["linux"].update(memoryPolicy=policy))["mempolicy"] == mode
