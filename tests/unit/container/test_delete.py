"""delete and kill on entries whose "init" is an ordinary process: no namespaces are needed to test the rules of the record."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocipy import warning
from ocipy.container.delete import delete
from ocipy.container.kill import kill
from ocipy.container.state import status
from ocipy.container.store import CREATED, CREATING, Entry, Record, Store, boot_id, start_time
from ocipy.errors import NotFoundError, NotRunningError, StateError

LOCK_INIT = """
import fcntl, os, struct, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", 1, 0, 0, 0, 0))
print("locked", flush=True)
time.sleep(300)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    warning.pending.clear()
    return Store(str(tmp_path / "root"))


@pytest.fixture
def init() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


def record_of(container_id: str, pid: int, state: str = CREATED) -> Record:
    record = Record(container_id)
    record.status, record.pid, record.start_time, record.boot_id = state, pid, start_time(pid), boot_id()
    return record


def entry_of(store: Store, record: Record) -> Entry:
    entry = store.create(record.id)
    entry.write(record)
    entry.close()
    return store.open(record.id)


def lock_holder(path: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-P", "-c", LOCK_INIT, path], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"locked\n"
    return process


def test_a_process_that_runs_is_running_and_its_zombie_is_stopped(store: Store, init: subprocess.Popen[bytes]) -> None:
    record = record_of("a", init.pid)
    entry = entry_of(store, record)
    assert status(entry, record) == "running"
    init.kill()
    os.waitid(os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)
    assert status(entry, record) == "stopped"


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot_id": "another"}], ids=["reused pid", "another boot"])
def test_another_process_with_the_same_pid_is_not_the_container(
    store: Store, init: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    record = record_of("a", init.pid)
    for name, value in change.items():
        setattr(record, name, value)
    entry = entry_of(store, record)
    assert status(entry, record) == "stopped"
    with pytest.raises(NotRunningError, match="container not running"):
        kill(entry, signal.SIGKILL)
    delete(entry)
    assert init.poll() is None
    assert store.ids() == []


def test_init_that_holds_its_lock_is_created_and_may_be_deleted_without_force(store: Store) -> None:
    entry = store.create("a")
    with lock_holder(entry.path + "/init.lock") as process:
        record = record_of("a", process.pid)
        entry.write(record)
        entry.close()
        entry = store.open("a")
        assert status(entry, record) == "created"
        delete(entry)
        assert process.wait(5) == -signal.SIGKILL
    assert store.ids() == []


def test_a_running_container_is_deleted_with_force_only(store: Store, init: subprocess.Popen[bytes]) -> None:
    entry = entry_of(store, record_of("a", init.pid))
    with pytest.raises(StateError, match='cannot delete container "a" that is not stopped: running'):
        delete(entry)
    assert init.poll() is None
    entry.close()
    delete(store.open("a"), force=True)
    assert init.wait(5) == -signal.SIGKILL
    assert not os.path.exists(store.root + "/a")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGRTMIN + 2])
def test_a_signal_reaches_init(store: Store, init: subprocess.Popen[bytes], number: int) -> None:
    kill(entry_of(store, record_of("a", init.pid)), number)
    assert init.wait(5) == -number


def test_kill_of_a_container_that_is_being_created_is_refused(store: Store) -> None:
    with pytest.raises(NotRunningError, match="container not running"):
        kill(entry_of(store, record_of("a", 0, CREATING)), signal.SIGTERM)


def test_delete_answers_beside_a_create_that_hangs_and_force_ends_it(store: Store, tmp_path: Path) -> None:
    program = (
        "import os, time\n"
        "from ocipy.container.store import *\n"
        f"entry = Store({store.root!r}).create('a')\n"
        "record = Record('a')\n"
        "record.runtime_pid, record.runtime_start_time, record.boot_id = os.getpid(), start_time(os.getpid()), boot_id()\n"
        "entry.write(record)\n"
        "print('hangs', flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE) as runtime:
        assert runtime.stdout
        assert runtime.stdout.readline() == b"hangs\n"
        entry = store.open("a")
        assert status(entry, entry.read()) == "creating"
        with pytest.raises(StateError, match=f"it is being created by pid {runtime.pid}"):
            delete(entry)
        delete(entry, force=True)
        assert runtime.wait(5) == -signal.SIGKILL
    assert store.ids() == []


def test_force_ends_a_create_that_has_not_written_its_record_yet(store: Store) -> None:
    program = (
        "import time\n"
        "from ocipy.container.store import Store\n"
        f"Store({store.root!r}).create('a')\n"
        "print('hangs', flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE) as runtime:
        assert runtime.stdout
        assert runtime.stdout.readline() == b"hangs\n"
        with pytest.raises(StateError, match="nothing was written yet"):
            delete(store.open("a"))
        delete(store.open("a"), force=True)
        assert runtime.wait(5) == -signal.SIGKILL
    assert store.ids() == []


def test_what_a_create_left_when_it_was_killed_is_stopped_and_deletable(store: Store) -> None:
    record = record_of("a", 0, CREATING)
    record.runtime_pid, record.runtime_start_time = 2, 1
    entry = entry_of(store, record)
    assert status(entry, record) == "stopped"
    delete(entry)
    assert store.ids() == []


def test_force_waits_for_the_other_command_after_killing_init(store: Store, init: subprocess.Popen[bytes]) -> None:
    entry_of(store, record_of("a", init.pid)).close()
    program = (
        "import os\n"
        "from ocipy.container.store import Store\n"
        f"entry = Store({store.root!r}).open('a'); entry.lock(wait=True)\n"
        "print('locked', flush=True)\n"
        f"import select; select.select([os.pidfd_open({init.pid})], [], [])\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(StateError, match=f"in use by another command .pid {other.pid}."):
            delete(store.open("a"))
        delete(store.open("a"), force=True)
        assert other.wait(5) == 0
    assert init.wait(5) == -signal.SIGKILL
    assert store.ids() == []


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "cut in a line": lambda text: text[: len(text) // 2],
    "cut after a line": lambda text: text[: text.index(b"\n") + 1],
    "last byte missing": lambda text: text[:-1],
    "null": lambda text: b"null\n",
    "array": lambda text: b"[]\n",
    "object": lambda text: b"{}\n",
    "zeros": lambda text: bytes(100),
    "no utf-8": lambda text: b"\xff\xfe\n",
    "deep": lambda text: b"id " + b"[" * 100_000 + b"\n",
    "wrong type": lambda text: text.replace(b"owner_uid 0", b"owner_uid null"),
    "negative": lambda text: text.replace(b"pid ", b"pid -"),
    "huge": lambda text: text.replace(b"pid ", b"pid 9999999999999999999999"),
    "another status": lambda text: text.replace(b"created", b"cremated"),
    "another id": lambda text: text.replace(b'"a"', b'"b"'),
    "list for object": lambda text: text.replace(b"{}", b"[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_one_error_and_goes_with_force(
    store: Store, init: subprocess.Popen[bytes], damage: str
) -> None:
    entry = store.create("a")
    Path(entry.path, "state").write_bytes(DAMAGES[damage](record_of("a", init.pid).text().encode()))
    entry.close()
    with pytest.raises(StateError, match=r'^state of container "a" is corrupt: .{3,90}; use delete --force$'):
        store.open("a").read()
    with pytest.raises(StateError, match="is corrupt"):
        delete(store.open("a"))
    delete(store.open("a"), force=True)
    assert store.ids() == []
    named = damage in ("cut in a line", "last byte missing", "wrong type", "another status", "list for object")
    assert init.poll() == (-signal.SIGKILL if named else None)


def test_a_damaged_record_has_a_copy_that_still_names_init(store: Store, init: subprocess.Popen[bytes]) -> None:
    entry = entry_of(store, record_of("a", init.pid))
    Path(entry.path, "state").write_bytes(b"id")
    delete(entry, force=True)
    assert init.wait(5) == -signal.SIGKILL
    assert store.ids() == []


def test_an_init_that_no_record_names_is_found_by_its_lock(store: Store) -> None:
    entry = store.create("a")
    with lock_holder(entry.path + "/init.lock") as process, open(entry.path + "/init.lock", "rb"):
        entry.close()
        delete(store.open("a"), force=True)
        assert process.wait(5) == -signal.SIGKILL
    assert store.ids() == []


def test_poststop_hooks_run_in_order_with_the_state_and_a_failure_is_a_warning(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = record_of("a", 0)
    record.hooks_after, record.bundle = True, str(tmp_path)
    entry = entry_of(store, record)
    entry.write_config(
        (
            '{"hooks": {"poststop": ['
            '{"path": "/bin/sh", "args": ["sh", "-c", "echo no; exit 3"]},'
            f'{{"path": "/bin/sh", "args": ["sh", "-c", "cat > {out}; pwd >> {out}"]}}]}}}}'
        ).encode()
    )
    delete(entry)
    text = out.read_text()
    assert text.startswith('{"ociVersion":"1.3.0","id":"a","status":"stopped","bundle":')
    assert text.endswith(f"{tmp_path}\n")
    assert warning.pending == ["poststop hook 0 /bin/sh (/hooks/poststop/0): exit status 3, output: no"]
    assert store.ids() == []


def test_deleting_what_another_delete_removed_says_that_it_does_not_exist(store: Store) -> None:
    entry = entry_of(store, record_of("a", 0))
    second = store.open("a")
    delete(entry)
    for force in (False, True):
        with pytest.raises(NotFoundError, match="does not exist"):
            delete(second, force=force)


def test_the_lock_of_another_file_does_not_make_a_container_created(store: Store, init: subprocess.Popen[bytes]) -> None:
    record = record_of("a", init.pid)
    entry = entry_of(store, record)
    with open(entry.path + "/init.lock", "wb") as file:
        assert status(entry, record) == "running"
        fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        assert status(entry, record) == "created"
    assert status(entry, record) == "running"
