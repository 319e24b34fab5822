"""Containers on cgroup v2 alone. On a host with v1 and v2 beside it, in a mount namespace that has only the latter: then with the
controllers that v1 leaves over, if any, but devices, freezing, killing, entering and owning are all there."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import (
    PREFIX,
    SYSTEMD,
    Config,
    Container,
    Runtime,
    drop_namespace,
    hierarchies,
    make_bundle,
    runtime_path,
    set_namespace,
    show_only_v2,
    wait_until,
)

CLONE_NEWNS = 0x20000
pytestmark = pytest.mark.skipif("" not in hierarchies(), reason="no cgroup v2 is mounted on this host")
Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def only_v2() -> Iterator[Path]:
    """The test process in a mount namespace with cgroup v2, and nothing else, on /sys/fs/cgroup."""
    if set(hierarchies()) == {""}:
        yield hierarchies()[""]
        return
    libc = ctypes.CDLL(None, use_errno=True)
    directory = os.getcwd()
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNS) == 0
    try:
        show_only_v2()
        yield hierarchies()[""]
    finally:
        assert libc.setns(before, CLONE_NEWNS) == 0
        os.close(before)
        os.chdir(directory)


def controllers() -> list[str]:
    return (hierarchies()[""] / "cgroup.controllers").read_text().split()


def needs(*names: str) -> None:
    missing = [name for name in names if name not in controllers()]
    if missing:
        pytest.skip(f"cgroup v2 has no {' and '.join(missing)} controller here (v1 has it, or the kernel has not)")


def with_cgroup(config: Config, *, writable: bool = False) -> None:
    set_namespace(config, "cgroup")
    if writable:
        (mount,) = [mount for mount in config["mounts"] if mount["type"] == "cgroup"]
        mount["options"].remove("ro")


def start(box: Container) -> Container:
    box.create()
    box.start()
    return box


def own(box: Container) -> Path:
    path = box.bundle.config["linux"]["cgroupsPath"]
    if SYSTEMD:
        _, prefix, name = path.split(":")
        path = f"/system.slice/{prefix}-{name}.scope"
    return Path(f"{hierarchies()['']}{path}")


def text(path: Path) -> str:
    return path.read_text().strip()


# ---- entering --------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/cgroupsPath")
def test_container_is_in_its_cgroup_from_its_birth_and_delete_takes_it_away(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    assert box.cgroup("") == own(box)
    assert text(own(box) / "cgroup.procs").split() == [str(box.pid)]
    box.delete("--force")
    assert not own(box).exists()


def mapped(config: Config) -> None:
    set_namespace(config, "user")
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)


def start_mapped(box: Container) -> Container:
    subprocess.run(["chown", "-R", "100000:100000", box.bundle.rootfs], check=True)
    return start(box)


def test_container_in_a_user_namespace_is_in_its_cgroup(container: Make) -> None:
    """As a user of the container the stage could not put init there: the stage itself is born in it."""
    box = start_mapped(container("/bin/sleep", "100", mutate=mapped))
    assert box.cgroup("") == own(box)
    assert box.exec("/bin/cat", "/proc/self/cgroup").stdout.splitlines()[-1] == f"0::/{own(box).relative_to(hierarchies()[''])}"


def test_hooks_of_the_container_hold_no_descriptor_of_its_cgroup(container: Make) -> None:
    def look(config: Config) -> None:
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f"ls -l /proc/self/fd >{box_log}"]}
        config["hooks"] = {"createContainer": [hook]}

    box_log = f"/tmp/{PREFIX}-fds"
    try:
        box = start(container("/bin/sleep", "100", mutate=look))
        assert "cgroup" not in Path(box_log).read_text()
        inside = box.exec("/bin/ls", "-l", "/proc/1/fd").stdout
        assert "cgroup" not in inside
    finally:
        Path(box_log).unlink(missing_ok=True)


def test_exec_is_in_the_containers_cgroup(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    assert box.exec("/bin/cat", "/proc/self/cgroup").stdout.splitlines()[-1] == f"0::/{own(box).relative_to(hierarchies()[''])}"


def test_exec_sees_its_cgroup_as_the_root_of_the_containers_namespace(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=with_cgroup))
    assert box.exec("/bin/cat", "/proc/self/cgroup").stdout.splitlines()[-1] == "0::/"


def test_exec_enters_a_cgroup_below_that_is_named(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    (own(box) / "below").mkdir()
    answer = box.exec("/bin/cat", "/proc/self/cgroup", flags=["--cgroup", "below"])
    assert answer.stdout.splitlines()[-1].endswith("/below")
    refused = box.exec("/bin/true", flags=["--cgroup", "memory:below"], check=False)
    assert "no cgroup of the controller memory" in refused.stderr


def give_controllers_below(box: Container) -> Path:
    """As a service manager in a container does: its processes in a cgroup of their own, so that others can have controllers."""
    available = text(own(box) / "cgroup.controllers").split()
    domain = [name for name in available if name not in ("cpu", "perf_event", "pids", "cpuset")]
    if not domain:
        pytest.skip("cgroup v2 has no controller here that counts whole processes")
    leaf = own(box) / "init.scope"
    leaf.mkdir()
    for pid in text(own(box) / "cgroup.procs").split():
        (leaf / "cgroup.procs").write_text(pid)
    (own(box) / "cgroup.subtree_control").write_text(f"+{domain[0]}")
    return leaf


def test_exec_goes_where_the_containers_processes_are_when_they_have_given_controllers_away(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    leaf = give_controllers_below(box)
    with pytest.raises(OSError, match="busy"):
        (own(box) / "cgroup.procs").write_text(str(os.getpid()))
    answer = box.exec("/bin/cat", "/proc/self/cgroup")
    assert answer.stdout.splitlines()[-1].endswith("/init.scope")
    assert leaf.exists()
    asked = box.exec("/bin/true", flags=["--cgroup", "/"], check=False)
    assert f"enter the cgroup {own(box)} with pid" in asked.stderr


def test_exec_into_a_user_namespace_goes_there_too(container: Make) -> None:
    def mapped_with_cgroup(config: Config) -> None:
        mapped(config)
        with_cgroup(config, writable=True)

    box = start_mapped(container("/bin/sleep", "100", mutate=mapped_with_cgroup))
    assert own(box).stat().st_uid == 100000
    give_controllers_below(box)
    assert box.exec("/bin/cat", "/proc/self/cgroup").stdout.splitlines()[-1] == "0::/init.scope"


def test_exec_into_a_named_cgroup_that_takes_no_processes_says_so(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    leaf = give_controllers_below(box)
    domain = text(own(box) / "cgroup.subtree_control").split()[0]
    (own(box) / "busy").mkdir()
    (own(box) / "busy/below").mkdir()
    (own(box) / "busy/cgroup.subtree_control").write_text(f"+{domain}")
    answer = box.exec("/bin/true", flags=["--cgroup", "busy"], check=False)
    assert f"enter the cgroup {own(box)}/busy" in answer.stderr
    assert "cgroup v2 allows processes only in the last" in answer.stderr
    assert leaf.exists()


# ---- places where no container can be --------------------------------------------------------------------------------


@pytest.fixture
def parent() -> Iterator[Path]:
    path = hierarchies()[""] / f"{PREFIX}-parent"
    path.mkdir()
    yield path
    for directory, _, _ in os.walk(path, topdown=False):
        os.rmdir(directory)


def in_cgroup(path: str) -> Callable[[Config], None]:
    if SYSTEMD:
        pytest.skip("systemd decides where cgroups are")

    def mutate(config: Config) -> None:
        config["linux"]["cgroupsPath"] = path

    return mutate


def test_cgroup_below_threads_is_refused_with_the_reason(container: Make, parent: Path) -> None:
    (parent / "threads").mkdir()
    (parent / "threads/cgroup.type").write_text("threaded")
    box = container("/bin/true", mutate=in_cgroup(f"/{parent.name}/threads/box"))
    answer = box.create(check=False)
    assert answer.status == 1
    message = box.errors.read_text()
    assert "(/linux/cgroupsPath)" in message
    assert 'cgroup.type is "domain invalid"' in message
    assert not (parent / "threads/box").exists()


def test_cgroup_below_one_with_processes_gets_no_controllers_and_says_why(container: Make, parent: Path) -> None:
    (controller,) = [name for name in controllers() if name in ("memory", "hugetlb")][:1] or pytest.skip("no controller here")
    limits = {"memory": {"memory": {"limit": 1 << 26}}, "hugetlb": {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}}
    sleeper = subprocess.Popen(["sleep", "100"])
    try:
        (parent / "cgroup.procs").write_text(str(sleeper.pid))

        def limit(config: Config) -> None:
            in_cgroup(f"/{parent.name}/box")(config)
            config["linux"]["resources"] |= limits[controller]

        box = container("/bin/true", mutate=limit)
        assert box.create(check=False).status == 1
        message = box.errors.read_text()
        assert f"enable the {controller} controller below {parent}" in message
        assert "it has 1 processes in it" in message
        assert "(/linux/resources/" in message
    finally:
        sleeper.kill()
        sleeper.wait()
        wait_until(lambda: not text(parent / "cgroup.procs"), 5, "the cgroup to be empty")


def test_cgroup_below_one_with_processes_holds_a_container_without_limits(container: Make, parent: Path) -> None:
    """Had it taken the controllers that count threads, nobody could be below it."""
    sleeper = subprocess.Popen(["sleep", "100"])
    try:
        (parent / "cgroup.procs").write_text(str(sleeper.pid))
        box = start(container("/bin/sleep", "100", mutate=in_cgroup(f"/{parent.name}/box")))
        assert box.cgroup("") == parent / "box"
        assert text(parent / "cgroup.subtree_control") == ""
        box.delete("--force")
    finally:
        sleeper.kill()
        sleeper.wait()
        wait_until(lambda: not text(parent / "cgroup.procs"), 5, "the cgroup to be empty")


def test_limit_without_its_controller_is_an_error_at_the_limit(container: Make) -> None:
    missing = [name for name in ("rdma", "memory") if name not in controllers()]
    if not missing:
        pytest.skip("all controllers are here")
    limits = {"rdma": {"rdma": {"mlx5": {"hcaHandles": 1}}}, "memory": {"memory": {"limit": 1 << 26}}}
    pointers = {"rdma": "/linux/resources/rdma/mlx5", "memory": "/linux/resources/memory/limit"}
    box = container("/bin/true", mutate=lambda config: config["linux"]["resources"].update(limits[missing[0]]))
    assert box.create(check=False).status == 1
    message = box.errors.read_text()
    assert f"({pointers[missing[0]]})" in message
    assert "cgroup.controllers does not have it" in message


# ---- devices ---------------------------------------------------------------------------------------------------------

KVM = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}
OPEN_IT = 'for way in "<" ">"; do eval "true $way/dev/fuse" 2>/dev/null && echo "$way yes" || echo "$way no"; done; sleep 100'


def fuse(*rules: dict[str, Any]) -> Callable[[Config], None]:
    def mutate(config: Config) -> None:
        config["linux"]["devices"] = [KVM]
        config["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}, *rules]

    return mutate


def may(access: str, *, allow: bool = True) -> dict[str, Any]:
    return {"allow": allow, "type": "c", "major": 10, "minor": 229, "access": access}


def opens(box: Container) -> str:
    """Which of r and w the container may open the device for. EPERM is the filter's; other errors come after it."""
    code = "for f in r w; do case $f in r) e=$( (: </dev/fuse) 2>&1 );; w) e=$( (: >/dev/fuse) 2>&1 );; esac; "
    code += 'case "$e" in *"not permitted"*) ;; *) printf $f;; esac; done'
    return box.exec("/bin/sh", "-c", code).stdout


@pytest.mark.spec("/linux/resources/devices/*")
@pytest.mark.parametrize(
    ("rules", "allowed"),
    [([], ""), ([may("rwm")], "rw"), ([may("r")], "r"), ([may("w")], "w"), ([may("rwm"), may("w", allow=False)], "r")],
    ids=["denied", "allowed", "read", "write", "a hole"],
)
def test_device_rules_are_in_force(container: Make, rules: list[dict[str, Any]], allowed: str) -> None:
    box = start(container("/bin/sleep", "100", mutate=fuse(*rules)))
    assert opens(box) == allowed
    assert box.exec("/bin/sh", "-c", "echo x >/dev/null && head -c 1 /dev/zero | wc -c").stdout.strip() == "1"


def test_device_nodes_can_be_made_but_not_opened(container: Make) -> None:
    def with_mknod(config: Config) -> None:
        config["process"]["capabilities"]["bounding"].append("CAP_MKNOD")
        config["process"]["capabilities"]["effective"].append("CAP_MKNOD")
        config["process"]["capabilities"]["permitted"].append("CAP_MKNOD")

    box = start(container("/bin/sleep", "100", mutate=with_mknod))
    answer = box.exec("/bin/sh", "-c", "mknod /dev/disk b 8 0 && head -c 1 /dev/disk", check=False)
    assert "not permitted" in answer.stderr
    assert "mknod" not in answer.stderr


def update(box: Container, resources: dict[str, Any], **how: Any) -> Any:
    file = box.bundle.path / "resources.json"
    file.write_text(json.dumps(resources))
    return box.runtime("update", "--resources", file, box.id, **how)


def test_update_puts_other_device_rules_in_the_place_of_the_old_ones(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=fuse(may("rw"))))
    assert opens(box) == "rw"
    update(box, {"devices": [{"allow": False, "access": "rwm"}, may("r")]})
    assert opens(box) == "r"
    update(box, {"devices": [{"allow": False, "access": "rwm"}, may("rw")]})  # those of create again
    assert opens(box) == "rw"
    update(box, {"devices": [{"allow": False, "access": "rwm"}]})
    assert opens(box) == ""


def programs(path: Path) -> list[str]:
    """Names of our device programs of a cgroup; systemd may have its own there too."""
    code = f"""
import os
from ocipy.linux import sys
print(*[name for _, name in sys.bpf_programs(os.open({str(path)!r}, os.O_RDONLY))])"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return [name for name in answer.stdout.split() if name.startswith("ocipy")]


def test_one_program_is_attached_however_often_it_is_updated(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=fuse()))
    assert programs(own(box)) == ["ocipy_devices"]
    update(box, {"devices": [{"allow": False, "access": "rwm"}]})  # nothing new
    assert programs(own(box)) == ["ocipy_devices"]
    for access in ("r", "w", "rw"):
        update(box, {"devices": [{"allow": False, "access": "rwm"}, may(access)]})
        assert programs(own(box)) == ["ocipy_updated"]


# ---- freezing, killing, removing -------------------------------------------------------------------------------------


def test_pause_freezes_and_resume_thaws(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    box.runtime("pause", box.id)
    assert "frozen 1" in text(own(box) / "cgroup.events")
    assert box.status == "paused"
    assert "paused container" in box.exec("/bin/true", check=False).stderr
    box.runtime("resume", box.id)
    assert "frozen 0" in text(own(box) / "cgroup.events")
    assert box.status == "running"


def nest(box: Container) -> list[Path]:
    """Processes in cgroups of the container's own making, one of them frozen. They are children of the test process, which does not
    reap them in time for a pid namespace to end."""
    paths = [own(box) / "a", own(box) / "a/b", own(box) / "c"]
    for path in paths:
        path.mkdir()
    for path in paths[1:]:
        box.exec("/bin/sleep", "100", flags=["--detach", "--cgroup", str(path.relative_to(own(box)))])
    (own(box) / "c/cgroup.freeze").write_text("1")
    return paths


def test_delete_by_force_ends_all_in_nested_and_frozen_cgroups_within_a_second(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=lambda config: drop_namespace(config, "pid")))
    nest(box)
    begin = time.monotonic()
    box.delete("--force")
    assert time.monotonic() - begin < 1 * float(os.environ.get("OCIPY_TIME_SCALE", "1"))
    assert not own(box).exists()


def test_kill_all_reaches_nested_cgroups(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=lambda config: drop_namespace(config, "pid")))
    nest(box)
    box.kill("KILL", "--all")
    events = own(box) / "cgroup.events"

    def empty() -> bool:
        try:
            return "populated 0" in text(events)
        except OSError:
            return True  # systemd has taken it away

    wait_until(empty, 5, "all to be gone")


def test_ps_names_processes_of_nested_cgroups(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=lambda config: drop_namespace(config, "pid")))
    nest(box)
    listed = box.runtime("ps", "--format", "json", box.id).json
    assert len(listed) == 3
    assert box.pid in listed


def test_paused_container_is_deleted_by_force(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    box.runtime("pause", box.id)
    box.delete("--force")
    assert not own(box).exists()


def test_events_tell_what_v2_counts(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    stats = box.runtime("events", "--stats", box.id).json
    assert stats["type"] == "stats"
    assert stats["data"]["cpu"]["usage"]["total"] > 0
    if "memory" in controllers():
        assert stats["data"]["memory"]["usage"]["usage"] > 0


# ---- what the container sees -----------------------------------------------------------------------------------------


def test_in_a_cgroup_namespace_its_cgroup_is_the_root_of_the_mount(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=with_cgroup))
    (own(box) / "marker").mkdir()
    assert "marker" in box.exec("/bin/ls", "/sys/fs/cgroup").stdout.split()
    assert box.exec("/bin/mkdir", "/sys/fs/cgroup/new", check=False).stderr.strip().endswith("Read-only file system")


def test_without_a_cgroup_namespace_it_sees_its_own_cgroup_and_no_other(container: Make) -> None:
    box = start(container("/bin/sleep", "100"))
    (own(box) / "marker").mkdir()
    assert "marker" in box.exec("/bin/ls", "/sys/fs/cgroup").stdout.split()
    assert PREFIX not in box.exec("/bin/ls", "/sys/fs/cgroup").stdout
    assert box.exec("/bin/mkdir", "/sys/fs/cgroup/new", check=False).status != 0


def test_writable_mount_lets_the_container_make_cgroups(container: Make) -> None:
    box = start(container("/bin/sleep", "100", mutate=lambda config: with_cgroup(config, writable=True)))
    script = "mkdir /sys/fs/cgroup/new && echo $$ >/sys/fs/cgroup/new/cgroup.procs && cat /proc/self/cgroup"
    assert box.exec("/bin/sh", "-c", script).stdout.splitlines()[-1] == "0::/new"
    assert (own(box) / "new").is_dir()


def test_cgroup_is_given_to_the_user_of_the_process_but_not_its_limits(container: Make) -> None:
    def owned(config: Config) -> None:
        with_cgroup(config, writable=True)
        config["process"]["user"] = {"uid": 1234, "gid": 0}

    box = start(container("/bin/sleep", "100", mutate=owned))
    listed = Path("/sys/kernel/cgroup/delegate").read_text().split()
    owners = {file.name: file.stat().st_uid for file in own(box).iterdir()}
    assert own(box).stat().st_uid == 1234
    assert {name for name, uid in owners.items() if uid == 1234} == {name for name in listed if name in owners}
    assert owners["cgroup.freeze"] == 0


def test_cgroup_of_a_container_that_cannot_write_it_stays_roots(container: Make) -> None:
    def user(config: Config) -> None:
        with_cgroup(config)
        config["process"]["user"] = {"uid": 1234, "gid": 0}

    box = start(container("/bin/sleep", "100", mutate=user))
    assert own(box).stat().st_uid == 0


def test_without_cgroups_it_may_look_at_the_runtimes_own(runtime: Runtime, container: Make) -> None:
    box = container("/bin/sh", "-c", "ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/x 2>&1")
    answer = runtime(
        "--cgroup-manager", "disabled", "run", "--bundle", box.bundle.path, box.id, stdout=box.output, check=False
    )
    assert "cgroup.procs" in answer.stdout
    assert "Read-only file system" in answer.stdout


# ---- limits ----------------------------------------------------------------------------------------------------------

LIMITS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "memory": ("memory", {"memory": {"limit": 1 << 26}}, {"memory.max": "67108864"}),
    "reservation": ("memory", {"memory": {"reservation": 1 << 25}}, {"memory.low": "33554432"}),
    "swap": ("memory", {"memory": {"limit": 1 << 26, "swap": 1 << 27}}, {"memory.swap.max": "67108864"}),
    "shares": ("cpu", {"cpu": {"shares": 512}}, {"cpu.weight": "59"}),
    "quota": ("cpu", {"cpu": {"quota": 5000, "period": 20000, "burst": 1000}}, {"cpu.max": "5000 20000", "cpu.max.burst": "1000"}),
    "idle": ("cpu", {"cpu": {"idle": 1}}, {"cpu.idle": "1"}),
    "cpuset": ("cpuset", {"cpu": {"cpus": "0", "mems": "0"}}, {"cpuset.cpus": "0", "cpuset.mems": "0"}),
    "pids": ("pids", {"pids": {"limit": 7}}, {"pids.max": "7"}),
    "hugetlb": ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, {"hugetlb.2MB.max": "4194304"}),
    "unified": ("memory", {"unified": {"memory.high": "33554432"}}, {"memory.high": "33554432"}),
    "unified hugetlb": ("hugetlb", {"unified": {"hugetlb.2MB.max": "0"}}, {"hugetlb.2MB.max": "0"}),
}


@pytest.mark.spec(
    "/linux/resources/memory/limit", "/linux/resources/memory/reservation", "/linux/resources/memory/swap",
    "/linux/resources/cpu/shares", "/linux/resources/cpu/quota", "/linux/resources/cpu/period", "/linux/resources/cpu/burst",
    "/linux/resources/cpu/idle", "/linux/resources/cpu/cpus", "/linux/resources/cpu/mems", "/linux/resources/pids/limit",
    needs="cgroup v2: a guest",
)  # fmt: skip
@pytest.mark.spec("/linux/resources/unified", "/linux/resources/hugepageLimits/*")
@pytest.mark.parametrize("name", LIMITS)
def test_limit_is_in_the_kernels_file(container: Make, name: str) -> None:
    controller, resources, files = LIMITS[name]
    needs(controller)
    box = start(container("/bin/sleep", "100", mutate=lambda config: config["linux"]["resources"].update(resources)))
    assert {file: text(own(box) / file) for file in files} == files


@pytest.mark.parametrize("name", LIMITS)
def test_limit_is_updated(container: Make, name: str) -> None:
    controller, resources, files = LIMITS[name]
    needs(controller)
    box = start(container("/bin/sleep", "100"))
    update(box, resources)
    assert {file: text(own(box) / file) for file in files} == files


@pytest.mark.spec("/linux/resources/blockIO/weight", needs="cgroup v2: a guest")
def test_weight_of_io_is_that_of_the_schedulers_interface(container: Make) -> None:
    needs("io")
    box = container("/bin/sleep", "100", mutate=lambda config: config["linux"]["resources"].update(blockIO={"weight": 100}))
    created = box.create(check=False)
    if created.status:
        assert "load bfq" in box.errors.read_text()
        return
    found = {name: text(own(box) / name) for name in ("io.bfq.weight", "io.weight") if (own(box) / name).exists()}
    assert found.get("io.bfq.weight", found.get("io.weight")) in ("default 100", "100", "default 910")


def test_update_without_the_controller_says_so(container: Make) -> None:
    missing = [name for name in ("rdma", "pids") if name not in controllers()]
    if not missing:
        pytest.skip("all controllers are here")
    box = start(container("/bin/sleep", "100"))
    limits: dict[str, dict[str, Any]] = {"rdma": {"rdma": {"mlx5": {"hcaHandles": 1}}}, "pids": {"pids": {"limit": 5}}}
    answer = update(box, limits[missing[0]], check=False)
    assert f"the {missing[0]} controller was not enabled for this cgroup" in answer.stderr


def test_no_process_more_than_the_limit(container: Make) -> None:
    needs("pids")
    box = container("/bin/sh", "-c", "sleep 1 & echo forked", mutate=lambda c: c["linux"]["resources"].update(pids={"limit": 1}))
    assert "forked" not in box.run(check=False).stdout


def test_exec_into_a_container_that_has_no_process_left(container: Make) -> None:
    """The kernel lets a process be moved where none could be born."""
    needs("pids")
    box = start(container("/bin/sleep", "100"))
    update(box, {"pids": {"limit": 1}})
    assert box.exec("/bin/echo", "in").stdout == "in\n"


def test_out_of_memory_is_told_by_events(container: Make) -> None:
    needs("memory")
    limit = {"memory": {"limit": 1 << 23, "swap": 1 << 23}}
    box = start(container("/bin/sleep", "100", mutate=lambda config: config["linux"]["resources"].update(limit)))
    box.exec("/bin/sh", "-c", "x=a; while :; do x=$x$x; done", check=False)
    assert "oom_kill 0" not in text(own(box) / "memory.events").splitlines()


def test_what_v2_has_nothing_like_is_one_warning_in_the_log(container: Make, tmp_path: Path) -> None:
    box = container("/bin/true", mutate=lambda config: config["linux"]["resources"].update(memory={"swappiness": 5}))
    log = tmp_path / "log.json"
    box.runtime("--log", log, "--log-format", "json", "create", "--bundle", box.bundle.path, box.id, stdout=box.output)
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert line["level"] == "warning"
    assert "memory.swappiness is ignored" in line["msg"]


# ---- without privilege -----------------------------------------------------------------------------------------------

USER = 12345


class Rootless:
    """A runtime of a user who was given a cgroup, or not, and is in one of its own there."""

    def __init__(self, directory: Path, delegated: Path) -> None:
        self.directory, self.delegated = directory, delegated
        self.session = delegated / "session"

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = 'echo $$ >"$0" && exec setpriv --reuid "$1" --regid "$1" --clear-groups -- "${@:2}"'
        argv = ["bash", "-c", code, str(self.session / "cgroup.procs"), str(USER), runtime_path()]
        argv += ["--root", str(self.directory / "state"), *arguments]
        output = self.directory / "output"
        with open(output, "wb") as out:
            status = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode
        return subprocess.CompletedProcess(argv, status, output.read_text())

    def bundle(self, *args: str, **changes: Any) -> Path:
        """As ``spec --rootless`` makes it, without a terminal."""
        path = self.directory / f"bundle{len(os.listdir(self.directory))}"
        made = make_bundle(path, args=args, mutate=lambda config: config["linux"].pop("cgroupsPath"))
        mapping = [{"containerID": 0, "hostID": USER, "size": 1}]
        for kind in ("user", "cgroup"):
            set_namespace(made.config, kind)
        drop_namespace(made.config, "network")
        made.config["mounts"] = [m for m in made.config["mounts"] if m["type"] not in ("sysfs", "devpts", "mqueue")]
        made.config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping, **changes}
        made.write()
        subprocess.run(["chown", "-R", f"{USER}:{USER}", path], check=True)
        return path


@pytest.fixture
def rootless(no_leaks: None) -> Iterator[Rootless]:
    argv = ["setpriv", "--reuid", str(USER), "--clear-groups", runtime_path(), "--version"]
    if subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("another user cannot execute the runtime where it is")
    top = hierarchies()[""] / f"{PREFIX}-user"
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    directory.chmod(0o755)
    (directory / "state").mkdir()
    os.chown(directory / "state", USER, USER)
    (top / "session").mkdir(parents=True)
    yield Rootless(directory, top)
    remove_cgroups_below(top)
    shutil.rmtree(directory)


def remove_cgroups_below(top: Path) -> None:
    (top / "cgroup.kill").write_text("1")
    wait_until(lambda: "populated 0" in text(top / "cgroup.events"), 5, "the user's cgroup to be empty")
    for path, _, _ in os.walk(top, topdown=False):
        os.rmdir(path)


def delegate(top: Path) -> None:
    for path in (top, top / "session"):
        os.chown(path, USER, USER)
        for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(path / name, USER, USER)


def test_user_with_a_delegated_cgroup_gets_one_for_the_container(rootless: Rootless) -> None:
    delegate(rootless.delegated)
    bundle = rootless.bundle("/bin/cat", "/proc/self/cgroup")
    answer = rootless("run", "--bundle", str(bundle), "box")
    assert answer.returncode == 0, answer.stdout
    assert "0::/" in answer.stdout.splitlines()
    bundle = rootless.bundle("/bin/sleep", "100")
    assert rootless("run", "--detach", "--bundle", str(bundle), "box").returncode == 0
    assert text(rootless.delegated / "box/cgroup.procs")
    try:
        assert rootless("exec", "box", "/bin/cat", "/proc/self/cgroup").stdout.splitlines()[-1] == "0::/"
        assert rootless("pause", "box").returncode == 0
        assert "frozen 1" in text(rootless.delegated / "box/cgroup.events")
        assert rootless("resume", "box").returncode == 0
    finally:
        rootless("delete", "--force", "box")
    assert not (rootless.delegated / "box").exists()


def test_user_with_a_delegated_cgroup_limits_it(rootless: Rootless) -> None:
    usable = [name for name in ("memory", "hugetlb") if name in controllers()]
    if not usable:
        pytest.skip("cgroup v2 has no controller here")
    delegate(rootless.delegated)
    (hierarchies()[""] / "cgroup.subtree_control").write_text(f"+{usable[0]}")
    (rootless.delegated / "cgroup.subtree_control").write_text(f"+{usable[0]}")
    file, value = {"memory": ("memory.max", "67108864"), "hugetlb": ("hugetlb.2MB.max", "0")}[usable[0]]
    bundle = rootless.bundle("/bin/sleep", "100", resources={"unified": {file: value}})
    answer = rootless("run", "--detach", "--bundle", str(bundle), "box")
    assert answer.returncode == 0, answer.stdout
    try:
        assert text(rootless.delegated / "box" / file) == value
    finally:
        rootless("delete", "--force", "box")


def test_user_without_a_cgroup_runs_and_is_told_what_is_not_limited(rootless: Rootless) -> None:
    bundle = rootless.bundle("/bin/echo", "runs", resources={"devices": [{"allow": False, "access": "rwm"}]})
    answer = rootless("run", "--bundle", str(bundle), "box")
    assert answer.returncode == 0, answer.stdout
    assert "runs" in answer.stdout.splitlines()
    assert "linux.resources.devices is ignored" in answer.stdout
    bundle = rootless.bundle("/bin/echo", "runs", resources={"pids": {"limit": 5}})
    answer = rootless("run", "--bundle", str(bundle), "box")
    assert answer.returncode == 1
    assert "(/linux/resources/pids/limit): the runtime may not make cgroups here" in answer.stdout
