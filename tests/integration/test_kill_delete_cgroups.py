"""kill and delete where the processes of a container are known by its cgroups only. The cgroups are v1 ones of this test."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundles import PREFIX
from ocipy.container.delete import delete
from ocipy.container.kill import kill
from ocipy.container.state import status
from ocipy.container.store import CREATED, Entry, Record, Store, boot_id, start_time
from ocipy.errors import NotRunningError, StateError

FREEZER = Path("/sys/fs/cgroup/freezer")
PIDS = Path("/sys/fs/cgroup/pids")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not os.access(FREEZER, os.W_OK), reason="needs root and a writable cgroup v1 freezer"),
]


class Container:
    """Processes in cgroups of their own, and an entry that says so."""

    def __init__(self, store: Store) -> None:
        self.name = f"{PREFIX}-kill"
        self.paths = {"freezer": str(FREEZER / self.name), "pids": str(PIDS / self.name)}
        for path in self.paths.values():
            os.mkdir(path)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.record = Record("a")
        self.record.status, self.record.boot_id = CREATED, boot_id()
        self.record.cgroup_paths, self.record.made_cgroups = self.paths, list(self.paths.values())
        self.store = store

    def start(self, nested: str = "") -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "300"])
        for path in self.paths.values():
            Path(path, nested, "cgroup.procs").write_text(str(process.pid))
        self.processes.append(process)
        return process

    def entry(self, init: subprocess.Popen[bytes]) -> Entry:
        self.record.pid, self.record.start_time = init.pid, start_time(init.pid)
        entry = self.store.create("a")
        entry.write(self.record)
        entry.close()
        return self.store.open("a")

    def freeze(self, nested: str = "") -> None:
        Path(self.paths["freezer"], nested, "freezer.state").write_text("FROZEN")

    def clean(self) -> None:
        for directory, _, _ in os.walk(self.paths["freezer"], topdown=False):
            Path(directory, "freezer.state").write_text("THAWED")
        for process in self.processes:
            process.kill()
            process.wait(10)
        for path in self.paths.values():
            for directory, _, _ in os.walk(path, topdown=False):
                os.rmdir(directory)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(Store(str(tmp_path)))
    try:
        yield made
    finally:
        made.clean()


def test_a_frozen_container_is_paused_and_sigkill_still_ends_it(container: Container) -> None:
    init = container.start()
    entry = container.entry(init)
    container.freeze()
    assert status(entry, container.record) == "paused"
    kill(entry, signal.SIGKILL)
    assert init.wait(5) == -signal.SIGKILL


def test_a_frozen_container_stays_frozen_after_another_signal(container: Container) -> None:
    init = container.start()
    entry = container.entry(init)
    container.freeze()
    kill(entry, signal.SIGTERM)
    assert status(entry, container.record) == "paused"
    assert init.poll() is None


def test_kill_all_reaches_every_process_also_when_init_is_gone(container: Container) -> None:
    init, other = container.start(), container.start()
    entry = container.entry(init)
    kill(entry, signal.SIGTERM, everyone=True)
    assert init.wait(5) == other.wait(5) == -signal.SIGTERM
    third = container.start()
    kill(entry, signal.SIGKILL, everyone=True)
    assert third.wait(5) == -signal.SIGKILL
    kill(entry, signal.SIGKILL, everyone=True)  # nobody is left
    with pytest.raises(NotRunningError, match="container not running"):
        kill(entry, signal.SIGKILL)


def test_sigkill_of_a_container_in_a_shared_pid_namespace_ends_all_of_it(container: Container) -> None:
    init, other = container.start(), container.start()
    container.record.own_pid_namespace = False
    entry = container.entry(init)
    kill(entry, signal.SIGKILL)
    assert init.wait(5) == other.wait(5) == -signal.SIGKILL


def test_all_of_a_cgroup_that_holds_ourselves_is_never_signalled(container: Container) -> None:
    init = container.start()
    entry = container.entry(init)
    own = os.getpid()
    before = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":freezer:" in line).split(":")[2]
    Path(container.paths["freezer"], "cgroup.procs").write_text(str(own))
    try:
        with pytest.raises(StateError, match="the host's own processes are in it"):
            kill(entry, signal.SIGKILL, everyone=True)
    finally:
        Path(str(FREEZER) + before, "cgroup.procs").write_text(str(own))
    assert init.poll() is None


@pytest.mark.parametrize("own_pid_namespace", [True, False], ids=["private pids", "shared pids"])
def test_delete_force_removes_the_cgroups_of_a_paused_container(container: Container, own_pid_namespace: bool) -> None:
    init = container.start()
    others = [] if own_pid_namespace else [container.start()]
    container.record.own_pid_namespace = own_pid_namespace
    entry = container.entry(init)
    container.freeze()
    delete(entry, force=True)
    assert [process.wait(5) for process in [init, *others]] == [-signal.SIGKILL] * (1 + len(others))
    assert not any(os.path.exists(path) for path in container.paths.values())
    assert container.store.ids() == []


def test_delete_force_thaws_what_the_container_froze_below_its_own_cgroup(container: Container) -> None:
    for path in container.paths.values():
        os.mkdir(path + "/nested")
    init = container.start("nested")
    entry = container.entry(init)
    container.freeze("nested")
    delete(entry, force=True)
    assert init.wait(5) == -signal.SIGKILL
    assert not any(os.path.exists(path) for path in container.paths.values())


def test_delete_leaves_cgroups_that_were_there_before(container: Container) -> None:
    init, foreign = container.start(), container.start()
    container.record.made_cgroups = [container.paths["pids"]]
    container.record.own_pid_namespace = False
    Path(PIDS, "cgroup.procs").write_text(str(foreign.pid))
    entry = container.entry(init)
    delete(entry, force=True)
    assert init.wait(5) == -signal.SIGKILL
    assert foreign.poll() is None
    assert os.path.exists(container.paths["freezer"])
    assert not os.path.exists(container.paths["pids"])


def test_a_create_that_was_killed_leaves_nothing_after_delete(container: Container) -> None:
    stray = container.start()
    container.record.status, container.record.runtime_pid, container.record.runtime_start_time = "creating", 2, 1
    entry = container.store.create("a")
    entry.write(container.record)
    entry.close()
    delete(container.store.open("a"))
    assert stray.wait(5) == -signal.SIGKILL
    assert not any(os.path.exists(path) for path in container.paths.values())
    assert container.store.ids() == []
