"""Real engines with the runtime under test, each in a directory of its own: nothing of this machine's own engines is used.

An engine is called with its command line's arguments. All its containers are in the cgroup of this test session (bundles.PREFIX).
"""

from __future__ import annotations

import json
import math
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from bundles import (
    PREFIX,
    REPOSITORY,
    SYSTEMD,
    TIME_SCALE,
    Result,
    busybox_rootfs,
    cgroup_of,
    hierarchies,
    made,
    mounts,
    read_terminal,
    runtime_path,
    wait_until,
)

IMAGE = "localhost/box:latest"
PAUSE = "localhost/pause:latest"  # what holds a pod's namespaces
# Podman's store, mounted now and then; Docker's name of the host's network namespace.
MADE_BY_ENGINES = ("/graph/overlay", "/netns/default")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def archive() -> Path:
    """IMAGE in a file: the busybox of the other tests."""
    return made("archive.sh", busybox_rootfs(), IMAGE) / "archive.tar"


def pause_archive() -> Path:
    return made("archive.sh", busybox_rootfs(), PAUSE, "/bin/pause") / "archive.tar"


def readme(language: str, heading: str) -> str:
    """The block under the README's heading, naming the runtime under test: engines are given what users are told to give them."""
    section = (REPOSITORY / "README.md").read_text().split(f"\n### {heading}\n")[1].split("\n### ")[0]
    return section.split(f"```{language}\n")[1].split("```")[0].replace("/usr/local/bin/ocipy", runtime_path())


ON_V2 = {"memory.limit_in_bytes": "memory.max", "cpu.shares": "cpu.weight", "cpu.cfs_quota_us": "cpu.max"}


def check_limits(pid: int, wanted: dict[str, str]) -> None:
    """The kernel holds a process to what ``wanted`` says in files of cgroup v1; on v2 to what that becomes."""
    unified = set(hierarchies()) == {""}
    for file, value in wanted.items():
        if not unified:
            assert (cgroup_of(pid, file.partition(".")[0]) / file).read_text() == value + "\n"
        else:
            path = cgroup_of(pid, "") / ON_V2.get(file, file)
            assert path.read_text().split()[0] == (weight_of(int(value)) if file == "cpu.shares" else value)


def weight_of(shares: int) -> str:
    """On the curve through 2, 1024 and 262144 that docs/cgroups.md tells of."""
    power = math.log2(shares)
    return str(math.ceil(10 ** ((power**2 + 125 * power) / 612 - 7 / 34)))


class Engine:
    """An engine's command ``argv``; ``states`` are the directories in which the runtime keeps its containers."""

    started: ClassVar[list[Engine]] = []

    def __init__(self, directory: Path, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.argv = argv
        self.env = {"PATH": PATH, "HOME": str(directory), **(env or {})}
        self.runtime = runtime_path()
        self.states: list[Path] = []
        self.daemon: subprocess.Popen[bytes] | None = None
        self._count = 0
        self.started.append(self)

    def __call__(self, *arguments: str | Path, check: bool = True, timeout: float = 30, input: str = "") -> Result:
        """Run to its end; the output goes through files, for what outlives a command may keep it."""
        self._count += 1
        out, err = (self.directory / f"{self._count}.{name}" for name in ("stdout", "stderr"))
        (given := self.directory / "stdin").write_text(input)
        argv = self._argv(arguments)
        with open(given, "rb") as stdin, open(out, "wb") as stdout, open(err, "wb") as stderr:
            status = subprocess.run(
                argv, stdin=stdin, stdout=stdout, stderr=stderr, env=self.env, timeout=timeout * TIME_SCALE, cwd=self.directory
            ).returncode
        result = Result(argv, status, out.read_text(errors="replace"), err.read_text(errors="replace"))
        if check:
            assert status == 0, f"{result}\n{self.said()}"
        return result

    def terminal(self, *arguments: str, typed: str = "", timeout: float = 30) -> tuple[int, str]:
        """Run on a terminal, type, and read until it ends: its status and all that the terminal showed."""
        ours, theirs = pty.openpty()
        command = subprocess.Popen(
            self._argv(arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=self.env, start_new_session=True
        )
        os.close(theirs)
        try:
            os.write(ours, typed.encode())
            shown = read_terminal(ours)
            return command.wait(timeout * TIME_SCALE), shown
        finally:
            command.kill()
            command.wait()

    def _argv(self, arguments: tuple[str | Path, ...]) -> list[str]:
        return [*self.argv, *(str(a) for a in arguments)]

    # ---- the daemon ---------------------------------------------------------------------------------------------------

    def _start(self, *argv: str | Path) -> None:
        with open(self.directory / "daemon.log", "wb") as log:
            self.daemon = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", *(str(a) for a in argv)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=self.directory,
            )  # fmt: skip

    def stay(self, *subids: str) -> None:
        """An engine without a daemon: a process keeps a mount namespace for all its commands. ``subids`` are replaced."""
        prepare = "".join(f"mount --bind subids {file} && " for file in subids)
        self._start("sh", "-c", prepare + "touch ready && exec sleep 100000")
        wait_until((self.directory / "ready").exists, 10, "the mount namespace")
        assert self.daemon
        self.argv = ["nsenter", f"--mount=/proc/{self.daemon.pid}/ns/mnt", f"--wdns={self.directory}", *self.argv]

    def start(self, *argv: str | Path) -> None:
        """Start the daemon in a mount namespace of its own, and wait until the engine's ``version`` answers."""
        self._start(*argv)
        assert self.daemon
        end = time.monotonic() + 30 * TIME_SCALE
        while (answer := self("version", check=False)).status:
            assert self.daemon.poll() is None and time.monotonic() < end, f"{answer}\n{self.said()}"
            time.sleep(0.1)

    def stop(self) -> None:
        if self.daemon:
            self.daemon.terminate()
            try:
                self.daemon.wait(20 * TIME_SCALE)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()

    def said(self) -> str:
        """The end of the daemon's log."""
        log = self.directory / "daemon.log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""

    def traces(self) -> dict[str, set[str]]:
        """What a container may leave of itself: mounts where the daemon is, states of the runtime."""
        lines = Path(f"/proc/{self.daemon.pid if self.daemon else 'self'}/mountinfo").read_text().splitlines()
        return {
            "mount": {f"{m['point']} ({m['type']} of {m['source']})" for m in mounts(lines)
                      if not m["point"].endswith(MADE_BY_ENGINES)},
            "state": {str(path) for state in self.states for path in state.glob("*")},
        }


def containerd(directory: Path) -> Engine:
    address = directory / "grpc.sock"
    (directory / "bin").mkdir()
    (directory / "bin/runc").symlink_to(runtime_path())  # ctr forgets --runc-binary when there are id maps
    engine = Engine(directory, ["ctr", "--address", str(address), "--namespace", PREFIX], {"PATH": f"{directory}/bin:{PATH}"})
    engine.states = [directory / "containers" / PREFIX]
    (directory / "config.toml").write_text(f"""
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{address}"
[ttrpc]
address = "{directory}/ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
""")
    engine.start("containerd", "--config", directory / "config.toml")
    engine("images", "import", archive())
    return engine


def docker(directory: Path) -> Engine:
    address = f"unix://{directory}/docker.sock"
    (directory / "bin").mkdir()
    (directory / "bin/runc").symlink_to(runtime_path())  # BuildKit runs what it finds under this name, not the default runtime
    engine = Engine(directory, ["docker", "--host", address], {"PATH": f"{directory}/bin:{PATH}"})
    told = json.loads(readme("json", "Docker"))
    engine.states = [directory / "exec/runtime-runc/moby"]  # whatever the runtime is called
    (directory / "daemon.json").write_text(json.dumps(told | {
        "data-root": str(directory / "data"), "exec-root": str(directory / "exec"), "pidfile": str(directory / "pid"),
        "hosts": [address], "default-runtime": "ocipy",
        **({"exec-opts": ["native.cgroupdriver=systemd"]} if SYSTEMD else {"cgroup-parent": f"/{PREFIX}"}),
        "iptables": False, "ip6tables": False, "bridge": "none", "storage-driver": "overlay2", "experimental": True,
    }))  # fmt: skip
    engine.start("dockerd", "--config-file", directory / "daemon.json")
    engine("load", "--input", archive())
    engine.env["DOCKER_BUILDKIT"] = "1"
    # Makes what BuildKit leaves: a cgroup of all builds.
    engine("build", "--network", "none", "--tag", "made", "-", input=f"FROM {IMAGE}\nRUN true\n")
    return engine


def _containers_conf(directory: Path) -> dict[str, str]:
    """Configure Podman and Buildah; returns the environment that says where it is."""
    (directory / "containers.conf").write_text(f"""
[containers]
log_driver = "k8s-file"
netns = "none"
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
events_logger = "file"
infra_image = "{PAUSE}"
runtime = "ocipy"
{readme("toml", "Podman").removeprefix("[engine]")}""")
    (directory / "storage.conf").write_text(f"""
[storage]
driver = "overlay"
graphroot = "{directory}/graph"
runroot = "{directory}/run"
""")
    places = {f"CONTAINERS_{kind.upper()}": str(directory / f"{file}.conf")
              for kind, file in (("conf", "containers"), ("storage_conf", "storage"))}  # fmt: skip
    return places | {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}


def _default_state() -> Path:
    """Podman and Buildah give no --root; /run is a new one in this session."""
    return Path("/run", os.path.basename(runtime_path()))


def podman(directory: Path) -> Engine:
    engine = Engine(directory, ["podman"], _containers_conf(directory))
    engine.states = [_default_state()]
    (directory / "subids").write_text("containers:200000:655360\n")  # for --userns auto
    engine.stay("/etc/subuid", "/etc/subgid")
    for file in archive(), pause_archive():
        engine("load", "--input", file, timeout=120)
    return engine


def buildah(directory: Path) -> Engine:
    told = dict(word.split("=") for word in readme("sh", "Buildah").split()[1:])
    engine = Engine(directory, ["buildah"], _containers_conf(directory) | told | {"TMPDIR": str(directory)})
    engine.states = [_default_state()]
    engine.stay()
    engine("pull", f"docker-archive:{archive()}", timeout=120)
    return engine
