"""Bundles of real parts for tests, and the runtime that runs them.

Root filesystems are made on demand by the scripts in tests/lab, kept in ``$OCIPY_LAB`` (default: .lab in this repository), and made
anew when their script changes. A container's stdio is always a file: what outlives a command must hold no pipe of ours.

Who makes cgroups, and as whom, is ``$OCIPY_TEST_MODE``: "cgroupfs" (default), "systemd" (the runtime gets --systemd-cgroup),
"rootless" (a user, in a cgroup that is delegated to it) or "rootless-systemd"; see tests/vm/suite.

The runtime under test is ``$RUNTIME`` (a path or a name), else the built .venv/bin/ocipy.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Config = dict[str, Any]
Mutate = Callable[[Config], object]

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
PREFIX = f"ocipy-test-{os.getpid()}"  # of container ids, and of the cgroup that all containers of this session are in
MODE = os.environ.get("OCIPY_TEST_MODE", "cgroupfs")
ROOTLESS, SYSTEMD = MODE.startswith("rootless"), MODE.endswith("systemd")
TIME_SCALE = float(os.environ.get("OCIPY_TIME_SCALE", "1"))  # an emulated machine needs more time

_numbers = itertools.count(1)


# ---- the lab: what is made once ------------------------------------------------------------------------------------------


def lab() -> Path:
    """The directory of everything that tests make and keep."""
    path = Path(os.environ.get("OCIPY_LAB") or REPOSITORY / ".lab")
    path.mkdir(parents=True, exist_ok=True)
    return path


def made(script: str, *arguments: str | Path, sources: Sequence[str] = ()) -> Path:
    """The directory that ``tests/lab/script DIRECTORY arguments`` fills; made once for each text of the script and its sources."""
    digest = hashlib.sha256("\0".join(str(a) for a in arguments).encode())
    for source in (script, *sources):
        digest.update((TESTS / "lab" / source).read_bytes())
    stem = Path(script).stem
    target = lab() / f"{stem}-{digest.hexdigest()[:12]}"
    with open(lab() / f"{stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _make(script, target, arguments)
    return target


def _make(script: str, target: Path, arguments: Sequence[str | Path]) -> None:
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    log = target.with_name(target.name + ".log")
    with open(log, "wb") as out:
        argv = [str(TESTS / "lab" / script), str(unfinished), *(str(a) for a in arguments)]
        if subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode:
            raise RuntimeError(f"tests/lab/{script} failed; the end of {log}:\n" + log.read_text(errors="replace")[-2000:])
    unfinished.rename(target)


def probe_program() -> Path:
    """A static executable that reports as JSON what it sees, and tries things: see tests/lab/probe.c."""
    sources = sorted(p.name for p in (TESTS / "lab").glob("probe*.[ch]"))
    return made("probe.sh", sources=sources) / "probe"


def busybox_rootfs() -> Path:
    """A root filesystem of static busybox, shared: copy it to change it (``make_bundle`` does)."""
    return made("busybox.sh")


def image() -> Path:
    """image/ (an OCI layout), bundle/ (umoci's of it) and export/ (a root filesystem as docker export gives it); shared."""
    return made("image.sh", busybox_rootfs(), probe_program())


def debian_rootfs() -> Path:
    """A root filesystem of Debian or Ubuntu packages with apt and Python, shared; minutes to make."""
    return made("debian.sh") / "rootfs"


# ---- bundles -------------------------------------------------------------------------------------------------------------

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source} | ({"options": list(options)} if options else {})


def default_config(args: Sequence[str] = ("/bin/probe",)) -> Config:
    """What ``spec`` of a runtime gives, without a terminal and without ambient capabilities (they need inheritable ones)."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "box",
        "mounts": [
            _mount("/proc", "proc", "proc"),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def delegated() -> str:
    """The cgroup that this session may do with as it likes: the one that the tests started in; "" for root."""
    return os.environ.get("OCIPY_TEST_CGROUP", "") if ROOTLESS else ""


def cgroups_path(name: str) -> str:
    """linux.cgroupsPath for a container of this session, as the session's cgroup manager reads it."""
    return f":{PREFIX}:{name}" if SYSTEMD else f"{delegated()}/{PREFIX}/{name}"


def without_root(config: Config) -> None:
    """What a user needs besides: a user namespace with all ids that the user may map, and a cgroup namespace to show cgroups.

    Device rules take privilege: as in what ``spec --rootless`` writes, there are none.
    """
    del config["linux"]["resources"]["devices"]
    set_namespace(config, "user")
    set_namespace(config, "cgroup")
    for key, own, path in (("uidMappings", os.getuid(), "/etc/subuid"), ("gidMappings", os.getgid(), "/etc/subgid")):
        config["linux"][key] = [{"containerID": 0, "hostID": own, "size": 1}, *_subordinate(path)]


def _subordinate(path: str) -> list[dict[str, int]]:
    """Ids that are the user's own to map, beginning at 1 in the container."""
    name = pwd.getpwuid(os.getuid()).pw_name
    for line in Path(path).read_text().splitlines():
        owner, first, size = line.split(":")
        if owner in (name, str(os.getuid())):
            return [{"containerID": 1, "hostID": int(first), "size": int(size)}]
    return []


def set_namespace(config: Config, kind: str, path: str | None = None) -> None:
    """Let the container have a new namespace of ``kind``, or join the one at ``path``."""
    drop_namespace(config, kind)
    config["linux"]["namespaces"].append({"type": kind} | ({"path": path} if path else {}))


def drop_namespace(config: Config, kind: str) -> None:
    """Let the container stay in the runtime's namespace of ``kind``."""
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != kind]


@dataclass
class Bundle:
    """A directory with config.json and a root filesystem. After a change of ``config``, call ``write``."""

    path: Path
    rootfs: Path
    config: Config

    def write(self) -> Bundle:
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))
        return self


def copy_rootfs(source: Path, target: Path) -> Path:
    """A private copy with owners, modes, links, extended attributes and hard links."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
    return target


def make_bundle(
    path: Path,
    rootfs: Path | None = None,
    args: Sequence[str] = ("/bin/probe",),
    mutate: Mutate | None = None,
    *,
    copy_it: bool = True,
) -> Bundle:
    """A bundle in the new directory ``path``: a copy of ``rootfs`` (busybox) with /bin/probe, default config changed by ``mutate``.

    With ``copy_it=False`` the bundle uses ``rootfs`` as it is, by its absolute path, and must not change it.
    """
    path.mkdir(parents=True)
    config = default_config(args)
    config["linux"]["cgroupsPath"] = cgroups_path(f"{path.name}-{next(_numbers)}")
    if ROOTLESS:
        without_root(config)
    source = rootfs or busybox_rootfs()
    if copy_it:
        source = copy_rootfs(source, path / "rootfs")
        if not os.path.lexists(source / "bin/probe"):
            shutil.copy(probe_program(), source / "bin/probe")
    else:
        config["root"]["path"] = str(source)
    if mutate:
        mutate(config)
    return Bundle(path, source, config).write()


def umoci_bundle(path: Path, mutate: Mutate | None = None) -> Bundle:
    """A copy of umoci's bundle, with its config: a terminal, user 1000, ambient capabilities, no cgroupsPath."""
    copy_rootfs(image() / "bundle", path)
    config: Config = json.loads((path / "config.json").read_text())
    bundle = Bundle(path, path / "rootfs", config)
    if mutate:
        mutate(config)
        bundle.write()
    return bundle


def use_own_null() -> None:
    """Another node /dev/null for this mount namespace: crun gives its standard streams to the container's root, whatever they are,
    and the node of the host would be that user's from then on."""
    with tempfile.TemporaryDirectory(prefix="ocipy-null-") as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,noexec,mode=755", "tmpfs", directory], check=True)
        node = Path(directory, "null")
        os.mknod(node, 0o020666, os.makedev(1, 3))
        node.chmod(0o666)
        subprocess.run(["mount", "--bind", node, "/dev/null"], check=True)
        subprocess.run(["umount", "--lazy", directory], check=True)


# ---- a runtime and its containers ------------------------------------------------------------------------------------------


def runtime_path() -> str:
    """Absolute path of the runtime under test."""
    named = os.environ.get("RUNTIME")
    found = shutil.which(named) if named else str(REPOSITORY / ".venv/bin/ocipy")
    if not found or not os.access(found, os.X_OK):
        raise RuntimeError(f"no runtime at {named or found}: run `make build`, or name one with RUNTIME=")
    return os.path.abspath(found)


@dataclass
class Result:
    """What a command gave: its exit status (negative: the signal), its output as text."""

    argv: list[str]
    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"{' '.join(self.argv)}\nstatus {self.status}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class Runtime:
    """A runtime with a state directory of its own. Call it with the arguments after ``--root``; its output goes through files."""

    def __init__(self, directory: Path, path: str | None = None) -> None:
        self.path = path or runtime_path()
        self.name = os.path.basename(self.path)
        self.directory = directory
        self.root = directory / "state"
        self.containers: list[Container] = []
        directory.mkdir(parents=True, exist_ok=True)

    def __call__(
        self,
        *arguments: str | Path,
        check: bool = True,
        timeout: float = 30,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: Path | None = None,
        stderr: Path | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        root: bool = True,
    ) -> Result:
        """Run to its end. ``check``: the test fails unless it succeeds. ``root=False``: without --root."""
        number = next(_numbers)
        stdout = stdout or self.directory / f"{number}.stdout"
        stderr = stderr or self.directory / f"{number}.stderr"
        flags = [*(["--root", str(self.root)] if root else []), *(["--systemd-cgroup"] if SYSTEMD else [])]
        argv = [self.path, *flags, *(str(a) for a in arguments)]
        with open(stdout, "wb") as out, open(stderr, "wb") as err:
            status = subprocess.run(
                argv, stdin=stdin, stdout=out, stderr=err, env=env, cwd=cwd, pass_fds=pass_fds, timeout=timeout * TIME_SCALE
            ).returncode
        result = Result(argv, status, _text(stdout), _text(stderr))
        if check:
            assert status == 0, str(result)
        return result

    def container(self, bundle: Bundle, id: str | None = None) -> Container:
        """A container of ``bundle`` that does not exist yet; whatever is left of it goes when the test ends."""
        container = Container(self, bundle, id or f"{PREFIX}-{next(_numbers)}")
        self.containers.append(container)
        return container

    def close(self) -> list[str]:
        """Delete what is left of this runtime's containers by force; complaints of what then remains."""
        said = [self("delete", "--force", container.id, check=False).stderr for container in self.containers]
        left = os.listdir(self.root) if self.root.is_dir() else []
        return [f"state of container {name} in {self.root} ({' '.join(said).strip()})" for name in left]


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="surrogateescape")


@dataclass
class Container:
    """One container. ``output`` and ``errors`` are the files that its process has as standard output and error."""

    runtime: Runtime
    bundle: Bundle
    id: str
    output: Path = field(init=False)
    errors: Path = field(init=False)

    def __post_init__(self) -> None:
        self.output = self.bundle.path / f"{self.id}.stdout"
        self.errors = self.bundle.path / f"{self.id}.stderr"

    def _make(self, verb: str, flags: Sequence[str | Path], **how: Any) -> Result:
        return self.runtime(verb, "--bundle", self.bundle.path, *flags, self.id, stdout=self.output, stderr=self.errors, **how)

    def create(self, *flags: str | Path, **how: Any) -> Result:
        return self._make("create", flags, **how)

    def run(self, *flags: str | Path, **how: Any) -> Result:
        """In the foreground, or with ``--detach``."""
        return self._make("run", flags, **how)

    def start(self, **how: Any) -> Result:
        return self.runtime("start", self.id, **how)

    def kill(self, signal: str = "KILL", *flags: str, **how: Any) -> Result:
        return self.runtime("kill", *flags, self.id, signal, **how)

    def delete(self, *flags: str, **how: Any) -> Result:
        return self.runtime("delete", *flags, self.id, **how)

    def exec(self, *argv: str, flags: Sequence[str | Path] = (), **how: Any) -> Result:
        return self.runtime("exec", *flags, self.id, *argv, **how)

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.runtime("state", self.id).json
        return answer

    @property
    def status(self) -> str:
        return str(self.state()["status"])

    @property
    def pid(self) -> int:
        return int(self.state()["pid"])

    def wait_for(self, status: str, timeout: float = 10) -> None:
        """Until the container has this status."""
        wait_until(lambda: self.status == status, timeout, f"{self.id} to be {status}")

    def wait_output(self, wanted: str, timeout: float = 10) -> str:
        """All output, once ``wanted`` is in it."""
        wait_until(lambda: wanted in _text(self.output), timeout, f"{wanted!r} in the output of {self.id}")
        return _text(self.output)

    def wait_exit(self, pid: int, timeout: float = 10) -> int:
        """The exit status of the container's process (negative: the signal): orphans are children of the test process."""
        statuses: list[int] = []

        def gone() -> bool:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                statuses.append(os.waitstatus_to_exitcode(status))
            return bool(found)

        wait_until(gone, timeout, f"process {pid} of {self.id} to end")
        return statuses[0]

    def cgroup(self, controller: str) -> Path:
        """The directory of the first process in the hierarchy of ``controller`` ("" on cgroup v2), as the kernel says."""
        return cgroup_of(self.pid, controller)


class ConsoleSocket:
    """A socket for ``--console-socket``; ``receive`` gives the terminal's descriptor, which the caller closes."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ocipy-test-"))  # a socket's path must be short
        self.path = self.directory / "console"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.socket.listen(1)
        self.socket.settimeout(10 * TIME_SCALE)

    def __enter__(self) -> ConsoleSocket:
        return self

    def receive(self) -> int:
        connection, _ = self.socket.accept()
        with connection:
            payload, fds, _, _ = socket.recv_fds(connection, 4096, 4)
        assert payload, "the terminal came without a name"
        assert len(fds) == 1
        return fds[0]

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        shutil.rmtree(self.directory)


def read_terminal(fd: int) -> str:
    """All that comes until the other side closes; closes ``fd``."""
    with open(fd, "rb", buffering=0) as terminal:
        parts = []
        try:
            while part := terminal.read(65536):
                parts.append(part)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
    return b"".join(parts).decode(errors="surrogateescape")


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll; the test fails after ``timeout`` seconds."""
    end = time.monotonic() + timeout * TIME_SCALE
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.005)


# ---- looking from outside ----------------------------------------------------------------------------------------------------


def hierarchies() -> dict[str, Path]:
    """Mount points of the cgroup hierarchies by controller ("" is v2, "name=systemd" a named one)."""
    found: dict[str, Path] = {}
    for mount in mounts():
        if mount["type"] == "cgroup2":
            found[""] = Path(mount["point"])
        elif mount["type"] == "cgroup":
            names = [o for o in mount["super"].split(",") if o not in ("rw", "ro", "xattr", "noprefix", "clone_children")]
            found |= {name: Path(mount["point"]) for name in names if not name.startswith("release_agent")}
    return found


def show_only_v2() -> None:
    """cgroup v2 on /sys/fs/cgroup and no other hierarchy, in this mount namespace."""
    if set(hierarchies()) != {""}:
        subprocess.run(["umount", "--recursive", "--lazy", "/sys/fs/cgroup"], check=True)
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
    assert set(hierarchies()) == {""}


def cgroup_of(pid: int, controller: str) -> Path:
    """Of a process, in the hierarchy of a controller; on cgroup v2 alone there is one for all."""
    if set(hierarchies()) == {""}:
        controller = ""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return hierarchies()[controller] / path.lstrip("/")
    raise AssertionError(f"no hierarchy of {controller!r} on this machine")


def freeze(box: Container, *, frozen: bool = True) -> None:
    """Stop or continue the processes of a container by its cgroup, behind the runtime's back."""
    cgroup = box.cgroup("freezer")
    if (cgroup / "cgroup.freeze").exists():
        (cgroup / "cgroup.freeze").write_text(str(int(frozen)))
        wait_until(lambda: f"frozen {int(frozen)}" in (cgroup / "cgroup.events").read_text(), 10, "the cgroup to be so")
    else:
        value = "FROZEN" if frozen else "THAWED"
        (cgroup / "freezer.state").write_text(value)
        wait_until(lambda: (cgroup / "freezer.state").read_text().strip() == value, 10, f"the cgroup to be {value}")


def mounts(lines: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Mounts of ``lines`` of mountinfo (default: our own): root, point, options, optional, type, source, super."""
    if lines is None:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    found = []
    for line in lines:
        left, _, right = line.partition(" - ")
        first, last = left.split(" "), right.split(" ")
        found.append({
            "root": _unescape(first[3]), "point": _unescape(first[4]), "options": first[5], "optional": " ".join(first[6:]),
            "type": last[0], "source": _unescape(last[1]), "super": last[2],
        })  # fmt: skip
    return found


def mount_at(report: dict[str, Any], point: str) -> dict[str, str]:
    """The uppermost mount at ``point`` in a report of the probe."""
    found = [mount for mount in mounts(report["mountinfo"]) if mount["point"] == point]
    assert found, f"nothing is mounted at {point}; mounts: " + "\n".join(report["mountinfo"])
    return found[-1]


def _unescape(field: str) -> str:
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field
