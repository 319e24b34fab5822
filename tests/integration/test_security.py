"""What a hostile image, config or container could do to the host; docstrings name the holes that have a number."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import (
    TIME_SCALE,
    Config,
    ConsoleSocket,
    Container,
    Mutate,
    Result,
    made,
    mounts,
    probe_program,
    set_namespace,
    wait_until,
)

Make = Callable[..., Container]
SEALED = 0xF  # F_SEAL_SEAL, SHRINK, GROW, WRITE
TRACER = ("CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE", "CAP_KILL")


def attack_program() -> Path:
    """See tests/lab/attack.c."""
    return made("attack.sh", sources=["attack.c"]) / "attack"


def together(*changes: Mutate) -> Mutate:
    return lambda config: [change(config) for change in changes]


def capable(*names: str) -> Mutate:
    def change(config: Config) -> None:
        config["process"]["capabilities"] = {kind: list(names) for kind in ("bounding", "effective", "permitted")}
        config["process"]["noNewPrivileges"] = False

    return change


def mapped(config: Config) -> None:
    """A user namespace of its own."""
    set_namespace(config, "user")
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def writable(config: Config) -> None:
    config["root"]["readonly"] = False


def mount(destination: str, kind: str, source: str | Path, *options: str) -> Mutate:
    entry = {"destination": destination, "type": kind, "source": str(source), "options": list(options)}
    return lambda config: config["mounts"].append(entry)


def no_mount(destination: str) -> Mutate:
    def change(config: Config) -> None:
        config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith(destination)]

    return change


def replace(path: Path, target: str | Path) -> None:
    """Put a symlink where a file or an empty directory is."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def snapshot(directory: Path) -> list[tuple[object, ...]]:
    """All that can be changed of a tree, but times of access."""
    found: list[tuple[object, ...]] = []
    for path in sorted([directory, *directory.rglob("*")]):
        info = path.lstat()
        text = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found.append((str(path), info.st_mode, info.st_uid, info.st_gid, info.st_ino, info.st_rdev, info.st_mtime_ns, text))
    return found


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host, which must be the same when the test ends."""
    directory = tmp_path / "victim"
    for name in ("marker", "ptmx", "null", "console", "etc/passwd", "1/uid_map", "sys/kernel/hostname", "self/attr/exec"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("marker")
    before = snapshot(directory)
    yield directory
    assert snapshot(directory) == before


@contextlib.contextmanager
def swapping(one: Path, other: Path, count: int = 1) -> Iterator[None]:
    """The two names are exchanged all the time."""
    argv = [str(attack_program()), "swap", str(one), str(other)]
    running = [subprocess.Popen(argv, stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


# ---- what can be reached through /proc ------------------------------------------------------------------------------------------


class Watcher:
    """A container whose program tries to open, and to trace, all that it sees in /proc until ``ended``."""

    def __init__(self, container: Make, mutate: Mutate) -> None:
        self.box = container("/bin/attack", "watch", mutate=mutate)
        shutil.copy(attack_program(), self.box.bundle.rootfs / "bin/attack")
        reader, self.input = os.pipe()
        self.box.run("--detach", stdin=reader)
        os.close(reader)
        self.box.wait_output("ready")

    def seen(self) -> list[tuple[str, int, int, str]]:
        """(kind, device, inode, name of the process), without the program's own repetitions."""
        lines = [line.split(" ", 3) for line in self.box.output.read_text().splitlines()]
        return [(kind, int(device), int(inode), name) for kind, device, inode, name in lines]

    def saw(self, name: str) -> bool:
        return any(kind == "process" and name in seen for kind, _, _, seen in self.seen())

    def ended(self) -> list[tuple[str, int, int, str]]:
        pid = self.box.pid
        os.close(self.input)
        self.box.wait_exit(pid)
        return self.seen()


def test_nothing_of_an_exec_can_be_reached_before_its_program_runs(container: Make) -> None:
    """CVE-2016-9962."""
    watcher = Watcher(container, capable("CAP_KILL"))
    for _ in range(20):
        watcher.box.exec("/bin/true")
    seen = watcher.ended()
    assert {kind for kind, _, _, name in seen if name.startswith("ocipy")} <= {"process"}
    assert any(kind == "exe" for kind, *_ in seen), "the watcher is too slow to see anything"


def test_root_of_a_user_namespace_with_all_capabilities_cannot_reach_an_exec_either(container: Make) -> None:
    """CVE-2016-9962: mm->user_ns is the host's, because the ELF was executed before the namespace was joined."""
    watcher = Watcher(container, together(capable(*TRACER), mapped))
    for count in range(200):
        watcher.box.exec("/bin/true")
        if count > 20 and watcher.saw("ocipy"):
            break
    seen = watcher.ended()
    assert {kind for kind, _, _, name in seen if name.startswith("ocipy")} == {"process"}


def host_inodes() -> dict[tuple[int, int], Path]:
    """Files of ocipy, of its Python and of the libraries of both."""
    maps = Path("/proc/self/maps").read_text().split()
    found = [Path(word) for word in maps if word.startswith("/")]
    prefix = Path(os.environ.get("RUNTIME") or Path(__file__).parents[2] / ".venv/bin/ocipy").resolve().parents[1]
    found += [path for path in prefix.rglob("*") if path.suffix == ".so" or path.name in ("init", "ocipy", "runc", "crun")]
    return {(path.stat().st_dev, path.stat().st_ino): path for path in found if path.is_file()}


def test_a_tracer_in_a_container_sees_no_file_of_the_host_in_an_exec(container: Make) -> None:
    """CVE-2019-5736: what it sees is sealed memory. runc and crun show their executables."""
    watcher = Watcher(container, capable(*TRACER))
    for _ in range(20):
        watcher.box.exec("/bin/true")
    seen, files = watcher.ended(), host_inodes()
    assert any(kind == "exe" and name == "ocipy:init" for kind, _, _, name in seen), "the watcher is too slow to see anything"
    assert [(kind, files[device, inode]) for kind, device, inode, _ in seen if (device, inode) in files] == []
    assert not [kind for kind, _, _, _ in seen if kind == "write-exe"]


@pytest.mark.parametrize("privilege", [capable("CAP_KILL"), together(capable(*TRACER), mapped)], ids=["root", "user namespace"])
def test_a_neighbour_in_the_pid_namespace_can_signal_a_created_init_and_no_more(container: Make, privilege: Mutate) -> None:
    watcher = Watcher(container, privilege)
    pid = watcher.box.pid

    def joins(config: Config) -> None:
        privilege(config)
        for kind in ("pid", "user") if "uidMappings" in config["linux"] else ("pid",):
            set_namespace(config, kind, f"/proc/{pid}/ns/{kind}")
        for kind in ("uidMappings", "gidMappings"):
            config["linux"].pop(kind, None)

    box = container("/bin/sleep", "100", mutate=joins)
    box.create()
    wait_until(lambda: watcher.saw("ocipy"), 10, "the neighbour to be seen")
    time.sleep(0.2)
    assert {kind for kind, _, _, name in watcher.seen() if name.startswith("ocipy")} == {"process"}
    waiting = box.pid
    box.kill("TERM")
    box.wait_exit(waiting)  # what dies with the first process of the namespace must be reaped, or that does not end
    watcher.ended()


def test_the_waiting_init_is_sealed_memory_with_nothing_of_the_host_open(container: Make) -> None:
    box = container("/bin/true")
    leaks = [os.open("/", os.O_RDONLY) for _ in range(5)]
    box.create(pass_fds=leaks)
    for fd in leaks:
        os.close(fd)
    process = Path("/proc", str(box.pid))
    with open(process / "exe", "rb") as exe:
        assert fcntl.fcntl(exe, fcntl.F_GET_SEALS) & SEALED == SEALED
    with pytest.raises(OSError, match="busy"):
        os.open(process / "exe", os.O_WRONLY)
    files = {line.split(maxsplit=5)[5] for line in (process / "maps").read_text().splitlines() if " /" in line}
    assert {name for name in files if not name.startswith("/memfd:ocipy-")} == set()
    targets = {int(fd.name): os.readlink(fd) for fd in (process / "fd").iterdir()}
    others = [re.sub(r"\d+", "N", os.path.basename(target)) for number, target in targets.items() if number > 2]
    assert sorted(others) == ["", "init.lock", "socket:[N]"]
    assert os.readlink(process / "cwd") == "/"


@pytest.mark.parametrize("change", [capable("CAP_KILL"), mapped], ids=["root", "user namespace"])
def test_init_is_made_untraceable_first_and_whenever_its_user_changes(container: Make, tmp_path: Path, change: Mutate) -> None:
    """execve undoes it, and fs.suid_dumpable=1 makes the kernel do so at every change of a uid."""
    calls = traced(container("/bin/true", mutate=change), tmp_path, "setresuid,prctl,execve,execveat")
    for number, (pid, call) in enumerate(calls):
        if call.startswith(("setresuid(", "execveat(")):
            later = [call for other, call in calls[number + 1 :] if other == pid and "KEEPCAPS" not in call]
            assert later[0].startswith("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE)"), call
    assert any(call.startswith("setresuid(") for _, call in calls)


def traced(box: Container, directory: Path, calls: str) -> list[tuple[str, str]]:
    """(pid, system call) of everything that create and its children do, until the program ends."""
    log = directory / "trace"
    argv = ["strace", "-f", "-qq", "-y", "-s", "4096", "-o", str(log), "-e", f"trace={calls}", "-e", "signal=none"]
    argv += [box.runtime.path, "--root", str(box.runtime.root), "create", "--bundle", str(box.bundle.path), box.id]
    with open(directory / "strace.stderr", "wb") as errors:
        tracer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    # Strace stays as long as the container does.
    wait_until(lambda: box.start(check=False).status == 0, 20, "the container to be created")
    assert tracer.wait(30 * TIME_SCALE) == 0, (directory / "strace.stderr").read_text()
    return [(pid, call) for pid, call in (line.split(None, 1) for line in log.read_text().splitlines())]


# ---- paths in the root filesystem ---------------------------------------------------------------------------------------------

STRING = r'"((?:[^"\\]|\\.)*)"'


def test_no_path_of_the_root_filesystem_is_ever_resolved_from_outside(container: Make, tmp_path: Path) -> None:
    """The invariant behind the rest: in the root, and below mount points of it, everything is done by descriptor."""
    change = together(writable, mount("/made/for/it", "tmpfs", "tmpfs"), mount("/etc/hosts", "bind", "/etc/hosts", "bind"))
    box = container("/bin/true", mutate=together(change, lambda config: config["process"].update(cwd="/not/there")))
    calls = traced(box, tmp_path, "%file,%desc")
    rootfs = str(box.bundle.rootfs)
    init = {pid for pid, call in calls if call.startswith("execveat(")} | {
        pid for pid, call in calls if call.startswith("pivot_root(")
    }
    assert len(init) == 2
    wrong, pivoted = [], False
    for pid, call in calls:
        name, _, rest = call.partition("(")
        paths = re.findall(STRING, re.sub(r"<[^>]*>", "", rest).rpartition(" = ")[0])
        pivoted = pivoted or (name == "pivot_root" and pid in init)
        if any(path.startswith(rootfs + "/") for path in paths):
            wrong.append(call)
        if pid not in init or name in ("execveat", "execve"):
            continue
        if "O_CREAT" in rest and not rest.startswith(("AT_FDCWD", "-1")) and "O_EXCL" not in rest:
            wrong.append(call)
        by_string = "AT_FDCWD" in rest or name in ("open", "stat", "mount", "chdir", "mkdir", "readlink", "access")
        absolute = [path for path in paths if path.startswith("/") and path != "/"]
        hosts_dev = name == "statx" and absolute == ["/dev"]  # looked at, to leave it alone
        if by_string and absolute and not pivoted and name not in ("write", "sendmsg") and not hosts_dev:
            wrong.append(call)
    assert wrong == []
    assert pivoted


@pytest.mark.parametrize("target", ["{victim}", "../../../../../../../../../../../../{victim}", "/../{victim}/new", "{victim}/new"])
@pytest.mark.parametrize("where", ["a", "a/b", "a/b/c"])
def test_mount_points_behind_symlinks_stay_inside(container: Make, victim: Path, where: str, target: str) -> None:
    """CVE-2021-30465, CVE-2019-18837, CVE-2024-45310: final, middle and dangling links."""
    box = container(mutate=together(writable, mount("/a/b/c", "tmpfs", "tmpfs")))
    link = box.bundle.rootfs / where
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.format(victim=victim))
    points = {entry["point"] for entry in mounts(box.run().json["mountinfo"])}
    inside = os.path.normpath("/" + target.format(victim=victim).lstrip("./")) + "/a/b/c"[len("/" + where) :]
    assert inside in points


def test_a_long_path_behind_a_short_symlink_arrives_whole(container: Make) -> None:
    box = container(mutate=together(writable, mount("/a-long-name-of-a-link/some/more/directories/to/be/made", "tmpfs", "tmpfs")))
    (box.bundle.rootfs / "a-long-name-of-a-link").symlink_to("mnt")
    points = {entry["point"] for entry in mounts(box.run().json["mountinfo"])}
    assert "/mnt/some/more/directories/to/be/made" in points


def test_symlinks_that_are_swapped_meanwhile_lead_nowhere_outside(container: Make, victim: Path) -> None:
    """CVE-2021-30465, CVE-2024-45310: each create ends soon, well or with an error."""
    change = together(writable, mount("/a/link/b/point", "tmpfs", "tmpfs"), mount("/a/link/b/file", "bind", "/etc/hosts", "bind"))
    box = container("/bin/true", mutate=change)
    (box.bundle.rootfs / "a").mkdir()
    link, other = box.bundle.rootfs / "a/link", box.bundle.rootfs / "a/other"
    link.symlink_to("../../../../../../../../.." + str(victim))
    other.mkdir()
    with swapping(link, other, 2):
        for _ in range(25):
            box.run(check=False, timeout=10)


def run_with_injected(box: Container, what: str) -> tuple[int, str]:
    """Exit status and standard error of a run in which system calls fail as strace's ``inject=`` says, of ocipy and of init."""
    argv = ["timeout", "20", "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={what}", box.runtime.path]
    argv += ["--root", str(box.runtime.root), "run", "--bundle", str(box.bundle.path), box.id]
    answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return answer.returncode, answer.stderr


def test_a_path_that_never_resolves_because_others_rename_is_an_error_soon(container: Make) -> None:
    """Any rename on the machine makes the kernel give up a path with "..": EAGAIN, for as long as somebody goes on."""
    status, said = run_with_injected(container("/bin/true"), "openat2:error=EAGAIN")
    assert (status, said.count("\n")) == (1, 1)


# ---- /proc and /sys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("target", ["/etc", "../../../proc", "{victim}", "/dangling"])
def test_procfs_and_sysfs_are_not_mounted_through_a_symlink(container: Make, victim: Path, name: str, target: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867."""
    box = container("/bin/true")
    replace(box.bundle.rootfs / name, target.format(victim=victim))
    answer = box.run(check=False)
    assert answer.status == 1
    assert f"/{name}" in answer.stderr and "symlink" in answer.stderr


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_nothing_but_procfs_lies_on_proc(container: Make, victim: Path, kind: str) -> None:
    """CVE-2019-16884."""
    options = ("bind",) if kind == "bind" else ()
    box = container("/bin/true", mutate=together(no_mount("/proc"), mount("/proc", kind, victim, *options)))
    assert box.run(check=False).status == 1


def test_nothing_is_mounted_on_procfs_by_a_link_that_leads_there(container: Make, victim: Path) -> None:
    """CVE-2019-16884, CVE-2025-52881: procfs is there already, the link is the image's."""
    box = container("/bin/true", mutate=mount("/sneaky", "bind", victim, "bind"))
    (box.bundle.rootfs / "sneaky").symlink_to("/proc/self/attr")
    assert box.run(check=False).status == 1


FAKE_PROC = """
import ctypes, os, sys
sys.path[:0] = {path!r}
from ocipy.errors import OcipyError
from ocipy.linux import namespaces, process
from ocipy.plan import ops
from ocipy.plan.step import Step
libc = ctypes.CDLL(None)
libc.unshare(0x20000)
libc.mount(None, b"/", None, 1 << 18 | 1 << 14, None)
pid = int(sys.argv[2])
if sys.argv[3] == "fake":
    assert libc.mount(sys.argv[1].encode(), b"/proc", None, 4096, None) == 0
else:
    for name in ("uid_map", "gid_map", "oom_score_adj", "timens_offsets"):
        assert libc.mount(f"{{sys.argv[1]}}/1/uid_map".encode(), f"/proc/{{pid}}/{{name}}".encode(), None, 4096, None) == 0
mapping = [{{"containerID": 0, "hostID": 0, "size": 1}}]
for apply, step in (
    (namespaces.apply_id_maps, Step(ops.ID_MAPS, uid=mapping, gid=mapping, setgroups=True)),
    (namespaces.apply_time_offsets, Step(ops.TIME_OFFSETS, offsets={{"boottime": {{"secs": 1}}}})),
    (process.apply_oom_score_adj, Step(ops.OOM_SCORE_ADJ, value=5)),
):
    try:
        apply(step, pid)
    except OcipyError as error:
        print(error)
"""


@pytest.mark.parametrize("how", ["fake", "files"])
def test_a_fake_proc_around_the_runtime_gets_nothing_written(victim: Path, how: str) -> None:
    """CVE-2025-52881: another filesystem on /proc, or something on its files."""
    import sys

    sleeper = subprocess.Popen(["sleep", "100"], stdin=subprocess.DEVNULL)
    shutil.copytree(victim, victim.with_name("fake") / str(sleeper.pid))
    fake = victim.with_name("fake")
    for name in ("uid_map", "gid_map", "setgroups", "oom_score_adj", "timens_offsets"):
        (fake / str(sleeper.pid) / name).write_text("marker")
    (fake / "1").mkdir()
    (fake / "1/uid_map").write_text("marker")
    before = snapshot(fake)
    try:
        script = FAKE_PROC.format(path=sys.path)
        argv = [sys.executable, "-c", script, str(fake), str(sleeper.pid), how]
        said = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    finally:
        sleeper.kill()
        sleeper.wait()
    assert len(said.splitlines()) == 3
    assert snapshot(fake) == before


@pytest.mark.parametrize(
    ("kind", "change", "pointer"),
    [
        ("network", {"linux": {"sysctl": {"net.ipv4.ip_forward": "0"}}}, "/linux/sysctl/net.ipv4.ip_forward"),
        ("ipc", {"linux": {"sysctl": {"kernel.msgmax": "8192"}}}, "/linux/sysctl/kernel.msgmax"),
        ("uts", {"hostname": "stolen"}, "/hostname"),
        ("uts", {"domainname": "stolen"}, "/domainname"),
    ],
    ids=["net", "ipc", "hostname", "domainname"],
)
def test_what_belongs_to_the_host_is_not_changed_through_a_path_to_its_namespace(
    container: Make, kind: str, change: dict[str, Any], pointer: str
) -> None:
    def joins(config: Config) -> None:
        config.pop("hostname")
        config["linux"].update(change.get("linux", {}))
        config.update({key: value for key, value in change.items() if key != "linux"})
        set_namespace(config, kind, f"/proc/self/ns/{kind[:3] if kind == 'network' else kind}")

    box = container("/bin/true", mutate=joins)
    # The "host" is made for the occasion.
    argv = ["unshare", "--uts", "--ipc", "--net", box.runtime.path, "--root", str(box.runtime.root), "run"]
    argv += ["--bundle", str(box.bundle.path), box.id]
    answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert pointer in answer.stderr


# ---- /dev, masks and consoles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mounted", [True, False])
def test_devices_are_not_made_in_a_directory_of_the_host(container: Make, victim: Path, mounted: bool) -> None:
    """CVE-2026-41579, CVE-2026-47766: runc and crun removed ptmx there, and made links and nodes."""
    change = (lambda config: None) if mounted else no_mount("/dev")
    box = container("/bin/true", mutate=together(writable, change))
    replace(box.bundle.rootfs / "dev", victim)
    box.run(check=False)


def test_a_mask_is_never_a_node_that_the_container_has(container: Make, tmp_path: Path) -> None:
    """CVE-2025-31133, CVE-2025-62161: runc 1.1.5 shows what the link leads to."""
    directory = tmp_path / "dev"
    directory.mkdir()
    (directory / "null").symlink_to("/proc/sys/kernel/hostname")
    change = together(no_mount("/dev"), mount("/dev", "bind", directory, "bind"), mount("/dev/mqueue", "mqueue", "mqueue"))
    box = container("/bin/sh", "-c", "stat -c %t:%T /proc/timer_list; cat /proc/timer_list", mutate=change)
    answer = box.run(check=False)
    assert (answer.status, answer.stdout) == (0, "1:3\n") or answer.status == 1
    assert "box" not in answer.stdout


@pytest.mark.parametrize("how", ["chmod 0666", "chown 0:0", "touch"])
def test_root_in_a_container_cannot_change_the_node_that_masks_are_made_of(container: Make, how: str) -> None:
    """It is the host's /dev/null."""
    before = os.stat("/dev/null").st_ctime_ns
    box = container("/bin/sh", "-c", f"cat /proc/timer_list; echo x >/proc/timer_list; {how} /proc/timer_list && echo changed")
    assert box.run(check=False).stdout == ""
    assert os.stat("/dev/null").st_ctime_ns == before


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_the_hosts_dev_null_does_not_come_in_as_stdio(container: Make, verb: str) -> None:
    """Who has it open may change its mode if he is root, for the whole host."""
    box = container("/bin/probe" if verb == "run" else "/bin/sleep", "100")
    if verb == "exec":
        box.run("--detach")
        report = box.exec("/bin/probe").json
    else:
        report = box.run().json
    host = os.stat("/dev/null")
    stdin = report["fds"]["0"]
    assert (stdin["major"], stdin["minor"]) == (1, 3)
    assert (stdin["dev"], stdin["ino"]) != (host.st_dev, host.st_ino)


def test_a_console_is_never_a_path_that_the_container_has(container: Make, victim: Path, tmp_path: Path) -> None:
    """CVE-2025-52565: runc 1.1.5 and crun 1.8.1 opened what the links lead to."""
    directory = tmp_path / "dev"
    (directory / "pts").mkdir(parents=True)
    for number in range(31):
        (directory / "pts" / str(number)).symlink_to(victim / "marker")
    (directory / "console").symlink_to(victim / "console")
    (directory / "ptmx").write_text("")
    bind = together(no_mount("/dev"), mount("/dev", "bind", directory, "bind"), mount("/dev/ptmx", "bind", "/dev/ptmx", "bind"))
    with ConsoleSocket() as console:
        box = container("/bin/true", mutate=together(bind, lambda config: config["process"].update(terminal=True)))
        answer = box.create("--console-socket", console.path, check=False)
    assert answer.status == 1


# ---- the image's files that init reads -------------------------------------------------------------------------------------------


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 43)


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("kind", [endless, huge, fifo, os.mkdir], ids=["zeros", "huge", "fifo", "directory"])
def test_a_passwd_without_an_end_is_not_read(container: Make, kind: Callable[[Path], None]) -> None:
    box = container()
    passwd = box.bundle.rootfs / "etc/passwd"
    passwd.unlink()
    kind(passwd)
    assert "HOME=/" in box.run(timeout=10).json["environ"]


def test_a_program_that_is_proc_self_exe_is_sealed_memory(container: Make) -> None:
    """CVE-2019-5736, CVE-2024-21626: it executes init again, which has no plan and ends."""
    box = container("/proc/self/exe", "3", "4", "5")
    answer = box.run(check=False)
    assert answer.status != 0
    assert answer.stdout == ""


@pytest.mark.parametrize("number", [3, 4, 5, 6, 8, 10])
def test_exec_with_a_directory_through_a_leaked_descriptor_is_an_error(container: Make, number: int) -> None:
    """CVE-2024-21626."""
    box = container("/bin/sleep", "100")
    box.run("--detach")
    leaks = [os.open("/", os.O_RDONLY) for _ in range(10)]
    try:
        answer = box.exec("/bin/pwd", flags=("--cwd", f"/proc/self/fd/{number}"), check=False, pass_fds=leaks)
    finally:
        for fd in leaks:
            os.close(fd)
    assert answer.status != 0
    assert answer.stdout == ""


# ---- privileges ------------------------------------------------------------------------------------------------------------------


def test_exec_with_cap_adds_nothing_that_is_inherited(container: Make) -> None:
    """CVE-2022-29162, CVE-2022-27650, CVE-2025-27612."""
    box = container("/bin/sleep", "100", mutate=capable("CAP_KILL"))
    box.run("--detach")
    for user, effective in (("0", ["CAP_KILL", "CAP_NET_RAW"]), ("1000", [])):
        sets = box.exec("/bin/probe", flags=("--cap", "CAP_NET_RAW", "--user", user)).json["capabilities"]
        assert sets["inheritable"] == sets["ambient"] == []
        assert sets["effective"] == effective
        assert "CAP_NET_RAW" in sets["bounding"]


def filtered(config: Config) -> None:
    rule = {"names": ["swapoff"], "action": "SCMP_ACT_ERRNO"}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def test_a_hook_of_the_image_finds_no_init_with_more_than_its_own_privilege(container: Make) -> None:
    """With CAP_SYS_PTRACE it could use what init kept to load its filter."""

    def hooked(config: Config) -> None:
        script = "grep -E '^(CapEff|CapPrm|Seccomp):' /proc/1/status >/seen"
        config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    box = container("/bin/true", mutate=together(writable, capable("CAP_KILL"), filtered, hooked))
    box.run()
    seen = dict(line.split(":\t") for line in (box.bundle.rootfs / "seen").read_text().splitlines())
    assert seen == {"CapPrm": f"{1 << 5:016x}", "CapEff": f"{1 << 5:016x}", "Seccomp": "2"}


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"])
def test_a_hook_has_stdio_open_and_nothing_else(container: Make, tmp_path: Path, kind: str) -> None:
    """Neither what leaked into the runtime nor its sockets, its state and the descriptors of init."""
    place = "/seen" if kind == "startContainer" else tmp_path / "seen"
    script = f"exec {'/bin/probe' if kind == 'startContainer' else probe_program()} >{place}"

    def hooked(config: Config) -> None:
        config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]}

    box = container("/bin/true", mutate=together(writable, hooked))
    leaks = [os.open("/", os.O_RDONLY) for _ in range(5)]
    try:
        box.run(pass_fds=leaks)
    finally:
        for fd in leaks:
            os.close(fd)
    seen = json.loads((box.bundle.rootfs / "seen" if kind == "startContainer" else tmp_path / "seen").read_text())
    assert sorted(seen["fds"]) == ["0", "1", "2"]
    assert seen["signals"]["blocked"] == seen["signals"]["ignored"] == []


def test_a_user_namespace_without_a_cgroup_namespace_cannot_write_cgroups(container: Make) -> None:
    """CVE-2023-25809."""
    script = "for d in /sys/fs/cgroup/*/; do mkdir $d/x && echo $d; echo 0 >$d/cgroup.procs && echo $d; done; true"
    assert container("/bin/sh", "-c", script, mutate=mapped).run().stdout == ""


# ---- the command line and the state ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["..", ".", "../x", "a/b", "/etc", "a\nb", "a b", "", "x" * 256, "\u00fc", "a\0b"[:1] + "\u2044"])
def test_what_is_no_id_names_no_directory(container: Make, victim: Path, id: str) -> None:
    box = container("/bin/true", id="unused")
    for verb in (("create", "--bundle", str(box.bundle.path)), ("state",), ("kill",), ("delete", "--force"), ("start",)):
        answer = box.runtime(*verb, id, check=False)
        assert answer.status == 1, verb
        assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", ["../../x", "/../x", "/a/../../x", "a/../../../x"])
def test_a_cgroup_is_never_above_its_hierarchy(container: Make, path: str) -> None:
    box = container("/bin/true", mutate=lambda config: config["linux"].update(cgroupsPath=path))
    assert box.run(check=False).status == 1


def test_the_state_is_roots_alone(container: Make) -> None:
    box = container("/bin/true")
    box.create()
    places = [box.runtime.root, box.runtime.root / box.id, *(box.runtime.root / box.id).iterdir()]
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in places if not path.is_socket()}
    assert {name: mode for name, mode in modes.items() if mode & 0o77} == {}


def test_a_pid_file_is_not_written_through_somebodys_link(container: Make, victim: Path, tmp_path: Path) -> None:
    box = container("/bin/true")
    script = f'ln -s {victim}/marker {tmp_path}/.pid.$$; exec "$@" --pid-file {tmp_path}/pid {box.id}'
    argv = ["sh", "-c", script, "sh", box.runtime.path, "--root", str(box.runtime.root), "create", "--bundle", str(box.bundle.path)]
    with open(tmp_path / "errors", "wb") as errors:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, check=True)
    assert (tmp_path / "pid").read_text() == str(box.pid)


@pytest.mark.parametrize("count", ["0000004", "0000000004", "+4", "4 ", "0x4", "\u0664"])
def test_descriptors_of_the_runtime_are_never_taken_for_the_callers(container: Make, count: str) -> None:
    """The launcher and the parser of options must read the same number, or the state directory comes in."""
    answer = container().run("--preserve-fds", count, check=False)
    assert answer.status == 1
    assert answer.stdout == ""


def test_a_huge_id_map_is_one_line_of_error(container: Make) -> None:
    """CVE-2021-43784: 70 KB of lines, where the kernel takes 340."""

    def many(config: Config) -> None:
        mapped(config)
        config["linux"]["uidMappings"] = [{"containerID": n, "hostID": 100000 + n, "size": 1} for n in range(3500)]

    answer: Result = container("/bin/true", mutate=many).run(check=False)
    assert answer.status == 1
    assert len(answer.stderr.splitlines()) == 1 and "uidMappings" in answer.stderr


CLONE3 = 435  # of every architecture


def fork_as(pid: int) -> None:
    """A child that has this pid, which must be free, and sleeps."""
    import ctypes
    import struct

    wanted = ctypes.c_int(pid)
    args = struct.pack("11Q", 0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(wanted), 1, 0)  # exit_signal, set_tid, set_tid_size
    libc = ctypes.CDLL(None, use_errno=True)
    got = libc.syscall(CLONE3, args, len(args))
    if got == 0:
        os.execv("/bin/sleep", ["sleep", "100"])
    assert got == pid, os.strerror(ctypes.get_errno())


def test_a_process_that_got_the_pid_of_a_dead_container_is_left_alone(container: Make) -> None:
    for number in range(4):
        box = container("/bin/sleep", "100")
        box.run("--detach")
        pid = box.pid
        box.kill("KILL")
        box.wait_exit(pid)
        fork_as(pid)
        try:
            assert box.status == "stopped"
            assert box.kill("KILL", check=False).status == 1
            box.kill("KILL", "--all")
            assert box.start(check=False).status == 1
            assert box.exec("/bin/true", check=False).status != 0
            box.delete(*(["--force"] if number % 2 else []))
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


FAILING = [
    *[f"sendmsg:error=ENOMEM:when={number}" for number in range(1, 6)], "flock:error=ENOLCK", "socketpair:error=EMFILE",
    "memfd_create:error=EMFILE:when=2", "mkdir:error=ENOSPC:when=3", "renameat:error=ENOSPC", "execveat:error=ENOMEM",
    "clone3:error=EAGAIN", "move_mount:error=ENOMEM:when=3", "fsconfig:error=ENOMEM:when=2", "pivot_root:error=EPERM",
    "capset:error=EPERM", "openat2:error=EMFILE:when=4", "open_tree:error=EPERM", "mknodat:error=EPERM:when=2",
]  # fmt: skip


@pytest.mark.parametrize("what", FAILING)
def test_a_system_call_that_fails_is_one_line_of_error_and_leaves_nothing(container: Make, what: str) -> None:
    """The fixtures see what is left."""
    box = container("/bin/true")
    status, said = run_with_injected(box, what)
    assert (status, said.count("\n")) == (1, 1), said
    assert not list(box.runtime.root.glob("*"))
