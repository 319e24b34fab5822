"""Containers as units of systemd: of the host's, as root, and of a user's own. Where systemd runs: `make vm-test MODES=systemd`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import PREFIX, Config, Container, cgroup_of, hierarchies, set_namespace, wait_until

pytestmark = pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="systemd is not the init of this host")
Make = Callable[..., Container]
UNIFIED = set(hierarchies()) == {""}
SLICE = f"{PREFIX.replace('-', '')}.slice"
MIB = 1 << 20
FLAG = "--systemd-cgroup"


def as_user(uid: int) -> list[str]:
    """Before a command: in the host's mounts, of which the tests have a copy from before the user had a runtime directory."""
    return ["nsenter", "--target=1", "--mount", "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


class Units:
    """What systemd says of units: the host's, or with ``user`` those of a user."""

    def __init__(self, user: str = "") -> None:
        self.user = user

    def __call__(self, *arguments: str, check: bool = True) -> str:
        argv = ["systemctl", *arguments]
        if self.user:
            argv = [*as_user(int(self.user)), "systemctl", "--user", *arguments]
        environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": f"/run/user/{self.user}"}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        lines = self("show", unit, *(f"--property={name}" for name in names)).splitlines()
        found: dict[str, str] = {}
        for name, _, value in (line.partition("=") for line in lines):
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    def left(self) -> list[str]:
        """Scopes of this session that systemd still knows."""
        lines = self("list-units", "--all", "--full", "--plain", "--no-legend", "--type=scope").splitlines()
        return [line for line in lines if PREFIX in line]


@pytest.fixture
def units() -> Iterator[Units]:
    """systemd, which has nothing of the test any more when that is over."""
    found = Units()
    yield found
    wait_until(lambda: not found.left(), 5, f"systemd to forget {found.left()}")
    found("stop", SLICE, check=False)


def name_of(box: Container) -> str:
    return f"ocipy-{box.id}.scope"


def as_unit(box: Container, **resources: Any) -> Container:
    """``box`` in a slice of this session."""
    linux = box.bundle.config["linux"]
    linux["cgroupsPath"] = f"{SLICE}:ocipy:{box.id}"
    linux.setdefault("resources", {}).update(resources)
    box.bundle.write()
    return box


def create(box: Container, *flags: str) -> Container:
    box.runtime(FLAG, "create", "--bundle", box.bundle.path, *flags, box.id)
    return box


def start(box: Container) -> Container:
    create(box)
    box.start()
    return box


def own(box: Container) -> Path:
    """The container's cgroup (of memory, on v1)."""
    return cgroup_of(box.pid, "" if UNIFIED else "memory")


def text(path: Path) -> str:
    return path.read_text().strip()


# ---- a scope ---------------------------------------------------------------------------------------------------------


def test_container_is_a_scope_that_systemd_shows(units: Units, container: Make) -> None:
    box = start(as_unit(container("sleep", "1000")))
    shown = units.show(name_of(box), "Description", "Slice", "Delegate", "ActiveState", "ControlGroup", "CollectMode")
    assert shown["Description"] == f"ocipy container {box.id}"
    assert (shown["Slice"], shown["Delegate"], shown["ActiveState"]) == (SLICE, "yes", "active")
    assert shown["ControlGroup"] == f"/{SLICE}/{name_of(box)}"
    assert own(box).as_posix().endswith(shown["ControlGroup"])
    assert shown["CollectMode"] == "inactive-or-failed"
    assert str(box.pid) in text(own(box) / "cgroup.procs").split()


def test_later_commands_need_no_flag_and_nothing_is_left(units: Units, container: Make) -> None:
    box = start(as_unit(container("sleep", "1000")))
    directory = own(box)
    box.runtime("pause", box.id)
    assert box.status == "paused"
    box.runtime("resume", box.id)
    assert box.exec("sh", "-c", "echo hello").stdout == "hello\n"
    assert box.runtime("ps", box.id).stdout.count("sleep") == 1
    box.kill("KILL")
    box.wait_for("stopped")
    box.delete()
    assert not directory.exists()
    assert units.left() == []


def test_a_running_container_is_deleted_by_force_with_its_unit(units: Units, container: Make) -> None:
    box = start(as_unit(container("sh", "-c", "sleep 1000 & sleep 1000")))
    box.delete("--force")
    assert units.left() == []


def test_a_scope_that_memory_ended_is_forgotten(units: Units, container: Make) -> None:
    limit = {"limit": 32 * MIB, "swap": 32 * MIB}
    box = start(as_unit(container("sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done"), memory=limit))
    box.wait_for("stopped", 60)
    box.delete()
    assert units.left() == []


def test_default_slice_is_systems(units: Units, container: Make) -> None:
    box = container("sleep", "1000")
    del box.bundle.config["linux"]["cgroupsPath"]
    box.bundle.write()
    start(box)
    assert units.show(name_of(box), "Slice") == {"Slice": "system.slice"}
    box.delete("--force")


def test_nested_slices_are_made(units: Units, container: Make) -> None:
    box = as_unit(container("sleep", "1000"))
    stem = SLICE.removesuffix(".slice")
    box.bundle.config["linux"]["cgroupsPath"] = f"{stem}-a-b.slice:ocipy:{box.id}"
    box.bundle.write()
    start(box)
    assert own(box).as_posix().endswith(f"/{SLICE}/{stem}-a.slice/{stem}-a-b.slice/{name_of(box)}")
    box.delete("--force")
    for name in (f"{stem}-a-b.slice", f"{stem}-a.slice"):
        units("stop", name)


def test_a_container_can_be_a_slice(units: Units, container: Make) -> None:
    box = as_unit(container("sleep", "1000"))
    unit = f"{SLICE.removesuffix('.slice')}-x.slice"
    box.bundle.config["linux"]["cgroupsPath"] = f"{SLICE}:ocipy:{unit}"
    box.bundle.write()
    start(box)
    assert own(box).as_posix().endswith(f"/{SLICE}/{unit}")
    assert units.show(unit, "ActiveState") == {"ActiveState": "active"}
    box.delete("--force")
    assert units.show(unit, "ActiveState") == {"ActiveState": "inactive"}


def test_a_unit_that_exists_is_refused_and_stays(units: Units, container: Make) -> None:
    one = start(as_unit(container("sleep", "1000")))
    two = as_unit(container("sleep", "1000"))
    two.bundle.config["linux"]["cgroupsPath"] = one.bundle.config["linux"]["cgroupsPath"]
    two.bundle.write()
    failed = two.runtime(FLAG, "create", "--bundle", two.bundle.path, two.id, check=False)
    assert failed.status == 1
    assert "already exists" in failed.stderr or "processes already" in failed.stderr
    assert units.show(name_of(one), "ActiveState") == {"ActiveState": "active"}
    assert one.status == "running"


def test_a_create_that_fails_leaves_no_unit(units: Units, container: Make) -> None:
    box = as_unit(container("/no/such/program"))
    assert box.runtime(FLAG, "create", "--bundle", box.bundle.path, box.id, check=False).status != 0
    assert units.left() == []


# ---- limits ----------------------------------------------------------------------------------------------------------

LIMITS: list[tuple[str, dict[str, Any], dict[str, str], dict[str, str]]] = [
    ("memory", {"memory": {"limit": 64 * MIB}}, {"MemoryMax": str(64 * MIB)}, {"memory.max": str(64 * MIB)}),
    ("memory low", {"memory": {"limit": 64 * MIB, "reservation": 16 * MIB}}, {"MemoryLow": str(16 * MIB)},
     {"memory.low": str(16 * MIB)}),
    ("swap", {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}}, {"MemorySwapMax": str(32 * MIB)},
     {"memory.swap.max": str(32 * MIB)}),
    ("weight", {"cpu": {"shares": 1024}}, {"CPUWeight": "100"}, {"cpu.weight": "100"}),
    ("idle", {"cpu": {"idle": 1}}, {"CPUWeight": "idle"}, {"cpu.idle": "1"}),
    ("quota", {"cpu": {"quota": 25000, "period": 50000}}, {"CPUQuotaPerSecUSec": "500ms", "CPUQuotaPeriodUSec": "50ms"},
     {"cpu.max": "25000 50000"}),
    ("burst", {"cpu": {"quota": 25000, "period": 50000, "burst": 1000}}, {}, {"cpu.max.burst": "1000"}),
    ("cpuset", {"cpu": {"cpus": "0", "mems": "0"}}, {"AllowedCPUs": "0", "AllowedMemoryNodes": "0"},
     {"cpuset.cpus": "0", "cpuset.mems": "0"}),
    ("tasks", {"pids": {"limit": 50}}, {"TasksMax": "50"}, {"pids.max": "50"}),
    ("two tasks", {"pids": {"limit": 2}}, {"TasksMax": "2"}, {"pids.max": "2"}),
    ("unified", {"unified": {"memory.high": str(64 * MIB), "memory.min": "4096"}},
     {"MemoryHigh": str(64 * MIB), "MemoryMin": "4096"}, {"memory.high": str(64 * MIB), "memory.min": "4096"}),
    ("huge pages", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}, {}, {"hugetlb.2MB.max": str(4 * MIB)}),
]  # fmt: skip


@pytest.mark.skipif(not UNIFIED, reason="the files are those of cgroup v2")
@pytest.mark.parametrize(("resources", "properties", "files"), [row[1:] for row in LIMITS], ids=[row[0] for row in LIMITS])
def test_limits_are_told_to_systemd_and_are_in_force(
    units: Units, container: Make, resources: dict[str, Any], properties: dict[str, str], files: dict[str, str]
) -> None:
    box = start(as_unit(container("sleep", "1000"), **resources))
    directory = own(box)
    assert {name: text(directory / name) for name in files} == files
    assert not properties or units.show(name_of(box), *properties) == properties
    units("daemon-reload")
    assert {name: text(directory / name) for name in files} == files
    box.delete("--force")


@pytest.mark.skipif(UNIFIED, reason="the files are those of cgroup v1")
def test_limits_of_v1_are_told_to_systemd_and_are_in_force(units: Units, container: Make) -> None:
    cpu = {"shares": 512, "quota": 25000, "period": 50000, "cpus": "0"}
    box = start(as_unit(container("sleep", "1000"), memory={"limit": 64 * MIB}, cpu=cpu, pids={"limit": 50}))
    shown = units.show(name_of(box), "MemoryLimit", "CPUShares", "CPUQuotaPerSecUSec", "TasksMax")
    assert shown == {"MemoryLimit": str(64 * MIB), "CPUShares": "512", "CPUQuotaPerSecUSec": "500ms", "TasksMax": "50"}
    for controller, file, value in [
        ("memory", "memory.limit_in_bytes", str(64 * MIB)), ("cpu", "cpu.shares", "512"), ("cpu", "cpu.cfs_quota_us", "25000"),
        ("cpuset", "cpuset.cpus", "0"), ("pids", "pids.max", "50"),
    ]:  # fmt: skip
        directory = cgroup_of(box.pid, controller)
        assert directory.name == name_of(box)
        assert text(directory / file) == value
    assert {cgroup_of(box.pid, name).name for name in hierarchies() if name} == {name_of(box)}
    box.delete("--force")
    assert not [path for path in map(str, hierarchies().values()) if os.path.isdir(f"{path}/{SLICE}/{name_of(box)}")]


@pytest.mark.skipif(not UNIFIED, reason="the files are those of cgroup v2")
def test_update_changes_the_files_and_what_systemd_knows(units: Units, container: Make) -> None:
    box = start(as_unit(container("sleep", "1000"), memory={"limit": 64 * MIB}, pids={"limit": 50}))
    box.runtime("update", "--memory", "128M", "--pids-limit", "60", "--cpu-quota", "20000", "--cpu-share", "2", box.id)
    wanted = {"memory.max": str(128 * MIB), "pids.max": "60", "cpu.max": "20000 100000", "cpu.weight": "1"}
    directory = own(box)
    assert {name: text(directory / name) for name in wanted} == wanted
    properties = {"MemoryMax": str(128 * MIB), "TasksMax": "60", "CPUQuotaPerSecUSec": "200ms", "CPUWeight": "1"}
    assert units.show(name_of(box), *properties) == properties
    units("daemon-reload")
    assert {name: text(directory / name) for name in wanted} == wanted


def disks() -> list[tuple[int, int]]:
    """Numbers of block devices, that of the root filesystem first."""
    root = os.stat("/").st_dev
    names = [text(path) for path in sorted(Path("/sys/class/block").glob("*/dev"))]
    numbers = [tuple(map(int, name.split(":"))) for name in names]
    return sorted(((major, minor) for major, minor in numbers), key=lambda each: each != (os.major(root), os.minor(root)))


def test_devices_that_are_not_allowed_cannot_be_opened(units: Units, container: Make) -> None:
    if len(disks()) < 2:
        pytest.skip("it takes two block devices")

    def add(config: Config) -> None:
        config["linux"]["devices"] = [
            {"path": f"/dev/{name}", "type": "b", "major": major, "minor": minor, "fileMode": 0o666}
            for name, (major, minor) in zip("ab", disks(), strict=False)
        ]

    major, minor = disks()[0]
    allowed = {"allow": True, "type": "b", "major": major, "minor": minor, "access": "r"}
    box = start(as_unit(container("sleep", "1000", mutate=add), devices=[{"allow": False, "access": "rwm"}, allowed]))
    assert units.show(name_of(box), "DevicePolicy") == {"DevicePolicy": "strict"}
    assert f"/dev/block/{major}:{minor} r" in units.show(name_of(box), "DeviceAllow")["DeviceAllow"]
    script = "head -c1 /dev/a >/dev/null && ! head -c1 /dev/b && ! dd if=/dev/null of=/dev/a && echo as said"
    assert box.exec("sh", "-c", script).stdout == "as said\n"


# ---- annotations -----------------------------------------------------------------------------------------------------


def test_annotations_set_properties_of_the_unit(units: Units, container: Make) -> None:
    box = as_unit(container("sleep", "1000"))
    box.bundle.config["annotations"] = {
        "org.systemd.property.TimeoutStopUSec": "uint64 5000000", "org.systemd.property.RuntimeMaxSec": "3600",
        "org.systemd.property.Description": "'a box'", "org.systemd.property.After": "['dbus.service']",
    }  # fmt: skip
    box.bundle.write()
    start(box)
    shown = units.show(name_of(box), "TimeoutStopUSec", "RuntimeMaxUSec", "Description", "After")
    assert (shown["TimeoutStopUSec"], shown["RuntimeMaxUSec"], shown["Description"]) == ("5s", "1h", "a box")
    assert "dbus.service" in shown["After"]


# ---- a user's own ----------------------------------------------------------------------------------------------------


class Rootless:
    """ocipy as a user with a systemd of its own, whose processes start elsewhere."""

    def __init__(self, uid: int, directory: Path) -> None:
        self.uid, self.directory = uid, directory

    def __call__(self, *arguments: str | Path, check: bool = True, inside: bool = False) -> subprocess.CompletedProcess[str]:
        """``inside``: from a unit of the user's systemd."""
        environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": f"/run/user/{self.uid}"}
        argv = as_user(self.uid)
        argv += ["systemd-run", "--user", "--quiet", "--scope", "--"] if inside else []
        argv += [os.environ.get("RUNTIME", "ocipy"), "--root", str(self.directory / "state"), *map(str, arguments)]
        with open(self.directory / "output", "w+") as output:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True, env=environment)
            output.seek(0)
            done.stdout = output.read()
        assert not check or done.returncode == 0, done.stdout
        return done


@pytest.fixture
def rootless(tmp_path: Path) -> Iterator[Rootless]:
    import pwd

    try:
        uid = pwd.getpwnam("user").pw_uid
    except KeyError:
        pytest.skip("no user named user, who could have a systemd")
    if not UNIFIED:
        pytest.skip("cgroup v1 is not delegated to users")
    Units()("start", f"user@{uid}.service")
    directory = tmp_path / "rootless"
    directory.mkdir()
    for parent in (directory, *directory.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    os.chown(directory, uid, uid)
    yield Rootless(uid, directory)
    for name in os.listdir(directory / "state") if (directory / "state").is_dir() else []:
        Rootless(uid, directory)("delete", "--force", name, check=False)


def user_bundle(rootless: Rootless, bundle: Callable[..., Any], **resources: Any) -> Path:
    def change(config: Config) -> None:
        set_namespace(config, "user")
        set_namespace(config, "cgroup")
        maps = [{"containerID": 0, "hostID": rootless.uid, "size": 1}]
        config["linux"].update(uidMappings=maps, gidMappings=maps, cgroupsPath=f"user.slice:ocipy:{PREFIX}-user")
        config["linux"]["resources"] = resources
        wanted = ("/proc", "/dev", "/sys/fs/cgroup", "/sys")
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] in wanted]

    made = bundle("sleep", "1000", mutate=change)
    subprocess.run(["chown", "-R", f"{rootless.uid}:{rootless.uid}", made.path], check=True)
    return Path(made.path)


@pytest.mark.parametrize("inside", [False, True], ids=["from elsewhere", "from a unit of the user"])
def test_a_user_has_scopes_in_a_systemd_of_their_own(rootless: Rootless, bundle: Callable[..., Any], inside: bool) -> None:
    units, name = Units(str(rootless.uid)), f"{PREFIX}-user"
    path = user_bundle(rootless, bundle, memory={"limit": 64 * MIB}, pids={"limit": 50})
    rootless(FLAG, "create", "--bundle", path, name, inside=inside)
    rootless("start", name, inside=inside)
    state = json.loads(rootless("state", name).stdout)
    unit = f"ocipy-{name}.scope"
    shown = units.show(unit, "ActiveState", "MemoryMax", "TasksMax", "Slice", "ControlGroup")
    assert (shown["ActiveState"], shown["MemoryMax"], shown["TasksMax"]) == ("active", str(64 * MIB), "50")
    directory = cgroup_of(state["pid"], "")
    assert directory.as_posix().endswith(f"user@{rootless.uid}.service/user.slice/{unit}")
    assert (text(directory / "memory.max"), text(directory / "pids.max")) == (str(64 * MIB), "50")
    assert rootless("exec", name, "sh", "-c", "echo hello", inside=inside).stdout == "hello\n"
    rootless("update", "--pids-limit", "60", name, inside=inside)
    assert (text(directory / "pids.max"), units.show(unit, "TasksMax")) == ("60", {"TasksMax": "60"})
    rootless("delete", "--force", name, inside=inside)
    assert not directory.exists()
    assert units.left() == []


def test_a_user_without_a_systemd_is_told_so(rootless: Rootless, bundle: Callable[..., Any]) -> None:
    path = user_bundle(rootless, bundle)
    argv = [*as_user(rootless.uid), os.environ.get("RUNTIME", "ocipy")]
    argv += ["--root", str(rootless.directory / "state"), FLAG, "create", "--bundle", str(path), "x"]
    failed = subprocess.run(argv, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert failed.returncode == 1
    assert "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set" in failed.stderr
