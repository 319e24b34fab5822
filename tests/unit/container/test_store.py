from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ocipy.container import record as record_module
from ocipy.config.json_text import json_text
from ocipy.container.record import parse_json
from ocipy.container.store import Record, Store, check_id, default_root, start_time
from ocipy.errors import NotFoundError, StateError


def test_a_record_comes_back_as_it_was_written_with_keys_of_the_future(tmp_path: Path) -> None:
    record = Record("a")
    record.annotations = {"a.b": 'quote " ü \ud800 \n'}
    record.cgroup_paths, record.made_cgroups = {"memory": "/m", "": "/u"}, ["/m"]
    record.extra = {"future": [1, {"x": None}, 1.5, True]}
    entry = Store(str(tmp_path)).create("a")
    entry.write(record)
    back = entry.read()
    assert {name: getattr(back, name) for name in Record.__slots__} == {name: getattr(record, name) for name in Record.__slots__}


def test_every_line_of_the_record_is_a_key_and_a_json_value(tmp_path: Path) -> None:
    record = Record("a")
    record.annotations = {"a": "b\nc"}
    for line in record.text().splitlines():
        key, _, value = line.partition(" ")
        assert getattr(record, key) == json.loads(value)


def test_the_directory_is_for_its_owner_only_and_the_root_is_made(tmp_path: Path) -> None:
    root = tmp_path / "some/where"
    old = os.umask(0)
    try:
        entry = Store(str(root)).create("a")
        entry.write(Record("a"))
        entry.write_config(b"{}")
    finally:
        os.umask(old)
    assert [path.stat().st_mode & 0o777 for path in (root, root / "a")] == [0o700] * 2
    assert {path.stat().st_mode & 0o777 for path in (root / "a").iterdir()} == {0o600}
    assert entry.read_config() == b"{}"


def test_an_id_is_taken_until_it_is_removed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    entry = store.create("a")
    with pytest.raises(StateError, match='container with given ID already exists: "a"'):
        store.create("a")
    entry.remove()
    entry.close()
    store.create("a").close()


def test_of_many_creators_one_wins(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom ocipy.container.store import Store\nfrom ocipy.errors import StateError\nsys.stdin.readline()\n"
        f"try: entry = Store({str(tmp_path / 'root')!r}).create('a')\n"
        "except StateError as error: print(error)\nelse: print('won')\nsys.stdout.flush(); sys.stdin.readline()"
    )
    command = [sys.executable, "-P", "-c", program]
    actors = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    for actor in actors:
        assert actor.stdin
        actor.stdin.write("go\n")
        actor.stdin.flush()
    answers = []
    for actor in actors:
        assert actor.stdout
        answers.append(actor.stdout.readline().strip())
    for actor in actors:
        actor.communicate("end\n")
    assert sorted(answers) == sorted(["won"] + ['container with given ID already exists: "a"'] * 7)


def test_the_lock_names_who_has_it_and_is_free_after_it_died(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("a").close()
    program = (
        f"from ocipy.container.store import Store\nentry = Store({str(tmp_path)!r}).open('a'); entry.lock(wait=True)\n"
        "print('x', flush=True)\ninput()"
    )
    command = [sys.executable, "-P", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"x\n"
        entry = store.open("a")
        with pytest.raises(StateError, match=rf'container "a" is in use by another command \(pid {other.pid}\)'):
            entry.lock(wait=False)
        other.kill()
        other.wait()
    entry.lock(wait=False)
    entry.unlock()
    store.open("a").lock(wait=False)


def test_the_lock_of_a_removed_container_is_not_found(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("a").close()
    first, second = store.open("a"), store.open("a")
    first.remove()
    with pytest.raises(NotFoundError):
        second.lock(wait=True)
    with pytest.raises(NotFoundError):
        second.read()


def test_ids_are_directories_only_and_a_link_is_no_container(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("b").close()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "with space").mkdir()
    assert store.ids() == ["b"]
    for name in ("file", "link"):
        with pytest.raises(NotFoundError):
            store.open(name)
        with pytest.raises(StateError, match="already exists"):
            store.create(name)


def test_a_root_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="not a directory"):
        Store(str(tmp_path / "file/root")).create("a")


@pytest.mark.parametrize("name", ["a", "A_1+2.3-4", ".a", "..a", "x" * 255, "-"])
def test_ids_of_runc_are_ids(name: str) -> None:
    check_id(name)


def test_the_default_root_follows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_root() == "/run/user/1000/ocipy"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(StateError, match="XDG_RUNTIME_DIR"):
        default_root()


def test_a_start_time_tells_processes_apart(tmp_path: Path) -> None:
    program = tmp_path / ") Z 1 ("  # the name stands in the middle of the line that is read
    shutil.copy("/bin/sleep", program)
    assert start_time(os.getpid()) > 0
    assert start_time(1 << 22) == 0
    with subprocess.Popen([program, "300"]) as process:
        assert start_time(process.pid) >= start_time(os.getpid())
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(process.pid) == 0


VALUES = [None, True, False, 0, -1, 1 << 70, 1.5, "", 'q"\\\n\0ü\U0001f600\ud800', [], {}, [1, [2]], {"a": {"b": [None]}, "": 1}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_json_is_what_the_json_module_reads_and_writes(value: object) -> None:
    assert json.loads(json_text(value)) == value
    assert parse_json(json.dumps(value)) == value
    assert json_text(value, "\n") == json.dumps(value, indent=2)


@pytest.mark.parametrize("text", ["", " ", "{", "nul", "1 2", "[1,]", '"\n"', "[" * 100_000, "NaN", "Infinity"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(StateError, match="is no JSON"):
        parse_json(text)


def test_without_the_private_parts_of_json_everything_is_the_same(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['_json'] = None\nfrom ocipy.container.record import *\n"
        f"import ocipy.container.record as r\nfor value in {VALUES!r}:\n"
        "    assert r.parse_json(r.json_text(value)) == value\n"
        "try: r.parse_json('{')\nexcept r.StateError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
    assert record_module.parse_json("1") == 1


def test_a_container_whose_record_was_just_removed_is_not_found(tmp_path: Path) -> None:
    """The directory follows the record at once; who reads in between shall not hear of damage."""
    entry = Store(str(tmp_path)).create("x")
    entry.unlock()
    thread = threading.Timer(0.005, entry.remove)
    thread.start()
    with pytest.raises(NotFoundError):
        Store(str(tmp_path)).open("x").read()
    thread.join()
    left = Store(str(tmp_path)).create("x")
    with pytest.raises(StateError, match="nothing was written yet"):
        left.read()
