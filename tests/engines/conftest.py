"""Engines for tests, started once. What they keep outside of their directories is in new filesystems of our mount namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import PREFIX, SYSTEMD, TIME_SCALE, hierarchies, runtime_path
from engines import engine
from engines.engine import IMAGE, Engine
from engines.runtimes import FAILS, LEAVES, SOMETIMES

# What engines write outside of the directories that they are told: sockets, locks, keys.
PRIVATE = ("/run", "/dev/shm", "/etc/docker", "/etc/cni", "/var/lib/cni", "/var/lib/containers", "/var/lib/docker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "engines" in item.path.parts:
            item.add_marker("root")
            for table, strict in ((FAILS, True), (SOMETIMES, False)):
                if why := table.get(_name(item), {}).get(os.path.basename(runtime_path())):
                    item.add_marker(pytest.mark.xfail(reason=why, strict=strict))


def _name(item: pytest.Item) -> str:
    return item.nodeid.rpartition("/")[2]


@pytest.fixture
def known_leak(request: pytest.FixtureRequest) -> str:
    return LEAVES.get(_name(request.node), {}).get(os.path.basename(runtime_path()), ("", ""))[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    answer = subprocess.run([runtime_path(), "--version"], capture_output=True, text=True, check=False).stdout
    terminalreporter.write_line(f"runtime under test: {runtime_path()} ({', '.join(answer.splitlines()[:2])})")


@pytest.fixture(scope="session")
def private() -> Iterator[Path]:
    """A directory for all engines, with a short path: sockets are in it. Nothing of the machine's own engines is seen."""
    directory = Path(tempfile.mkdtemp(prefix="ocipy-engines-"))
    seen = [name for name in ("systemd", "dbus") if SYSTEMD]  # of /run: engines ask systemd for cgroups
    for name in seen:
        (directory / name).mkdir()
        subprocess.run(["mount", "--bind", f"/run/{name}", directory / name], check=True)
    for place in filter(os.path.isdir, PRIVATE):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", PREFIX, place], check=True)
    for name in seen:
        Path("/run", name).mkdir()
        subprocess.run(["mount", "--move", directory / name, f"/run/{name}"], check=True)
    directory.chmod(0o711)  # root of a user namespace passes
    yield directory
    shutil.rmtree(directory)


def _session(name: str, make: Callable[[Path], Engine], private: Path) -> Iterator[Engine]:
    directory = private / name
    directory.mkdir()
    try:
        yield make(directory)
    finally:  # also if it failed half way
        for started in Engine.started:
            if started.directory == directory:
                started.stop()


@pytest.fixture(scope="session")
def containerd_engine(private: Path) -> Iterator[Engine]:
    yield from _session("containerd", engine.containerd, private)


@pytest.fixture(scope="session")
def docker_engine(private: Path) -> Iterator[Engine]:
    yield from _session("docker", engine.docker, private)


@pytest.fixture(scope="session")
def podman_engine(private: Path) -> Iterator[Engine]:
    yield from _session("podman", engine.podman, private)


@pytest.fixture(scope="session")
def buildah_engine(private: Path) -> Iterator[Engine]:
    yield from _session("buildah", engine.buildah, private)


@pytest.fixture(scope="session")
def cri_engine(private: Path) -> Iterator[Engine]:
    from engines.cri import cri  # with gRPC, which only these tests need

    yield from _session("cri", cri, private)


def _left(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[str]:
    return [f"{kind} {one}" for kind, those in after.items() for one in those - before[kind]]


def _clean(made: Engine) -> Iterator[Engine]:
    """The test fails if a mount or a state of the runtime is left; no_leaks looks for processes and cgroups."""
    before = made.traces()
    yield made
    end = time.monotonic() + 5 * TIME_SCALE
    while (left := _left(before, made.traces())) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left, "the test left: " + "; ".join(left)


# An engine is asked for before no_leaks: its daemon is no leak.
@pytest.fixture
def ctr(containerd_engine: Engine, no_leaks: None) -> Iterator[Engine]:
    yield from _clean(containerd_engine)


@pytest.fixture
def cri(cri_engine: Engine, no_leaks: None) -> Iterator[Engine]:
    yield from _clean(cri_engine)


@pytest.fixture
def docker(docker_engine: Engine, no_leaks: None) -> Iterator[Engine]:
    yield from _clean(docker_engine)


@pytest.fixture
def conmon_cgroup(podman_engine: Engine) -> None:
    """Podman makes a cgroup for conmon beside the containers, and leaves it."""
    if not any((point / PREFIX / "conmon").exists() for point in hierarchies().values()):
        podman_engine("run", "--rm", "--cgroup-parent", f"/{PREFIX}", IMAGE, "true")


@pytest.fixture
def podman(podman_engine: Engine, conmon_cgroup: None, no_leaks: None) -> Iterator[Engine]:
    yield from _clean(podman_engine)


@pytest.fixture
def buildah(buildah_engine: Engine, no_leaks: None) -> Iterator[Engine]:
    yield from _clean(buildah_engine)
