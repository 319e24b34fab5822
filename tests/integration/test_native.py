"""state, start, kill and delete are served by the launcher when all is usual: then as by Python, which does the rest."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Bundle, Config, Container, Result, Runtime, drop_namespace, runtime_path, wait_until
from ocipy.container.record import _TYPES

Make = Callable[..., Container]
ROOT = Path(__file__).resolve().parents[2]
BOOT = "import sys;a=sys.argv;i=a.index('--');sys.path+=a[1:i];del a[:i+1];from ocipy.cli.boot import boot;boot(a[1:])"
pytestmark = pytest.mark.skipif(bool(os.environ.get("RUNTIME")), reason="it is about ocipy's own launcher")


class Alone(Runtime):
    """The launcher without the package: what it cannot serve by itself fails."""


class Python(Runtime):
    """The same commands without the launcher."""


@pytest.fixture
def ways(runtime: Runtime, tmp_path: Path) -> tuple[Runtime, Runtime]:
    """(the launcher alone, Python alone), on the state directory of ``runtime``."""
    (tmp_path / "bin").mkdir()
    alone, python = tmp_path / "bin/ocipy", tmp_path / "bin/python-ocipy"
    shutil.copy2(runtime_path(), alone)
    site = next((ROOT / ".venv/lib").glob("python*/site-packages"))
    python.write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -S -B -X utf8 -c "{BOOT}" {site} -- ocipy "$@"\n'.replace(
            sys.executable, str(ROOT / ".venv/bin/python")
        )
    )
    python.chmod(0o755)
    made = (Alone(tmp_path / "alone", str(alone)), Python(tmp_path / "python", str(python)))
    for one in made:
        one.root = runtime.root
    return made


def answer(result: Result) -> tuple[int, str, str]:
    return result.status, result.stdout, result.stderr


def served(result: Result) -> bool:
    """Did the launcher do it by itself?"""
    return "reinstall ocipy" not in result.stderr


def annotated(config: Config) -> None:
    config["annotations"] = {"a": "b", 'quote " \\ , : {}': "é\n"}


def test_state_is_the_same_in_every_status(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    alone, _ = ways
    box = container("/bin/sleep", "1000", mutate=annotated)

    def same(status: str) -> None:
        ours, theirs = (way("state", box.id, check=False) for way in ways)
        assert answer(ours) == answer(theirs)
        assert ours.json["status"] == status and ours.json["annotations"]["a"] == "b"

    box.create()
    same("created")
    alone("start", box.id)
    same("running")
    box.runtime("pause", box.id)
    same("paused")
    box.runtime("resume", box.id)
    alone("kill", box.id, "KILL")
    box.wait_for("stopped")
    same("stopped")
    alone("delete", box.id)
    assert not (box.runtime.root / box.id).exists()


def test_without_annotations_too(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.create()
    assert answer(ways[0]("state", box.id)) == answer(ways[1]("state", box.id))


@pytest.mark.parametrize(
    "options",
    [
        [], ["--log", "LOG", "--log-format", "json"], ["--log=LOG", "--log-format=json"], ["-log", "LOG"], ["--systemd-cgroup"],
        ["--cgroup-manager", "disabled"], ["--rootless=auto"], ["--log-level", "warning"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_options_of_engines_are_understood(
    container: Make, ways: tuple[Runtime, Runtime], tmp_path: Path, options: list[str]
) -> None:
    box = container("/bin/sleep", "1000")
    box.create()
    words = [word.replace("LOG", str(tmp_path / "log")) for word in options]
    assert ways[0](*words, "state", box.id).json["status"] == "created"
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--debug", "state", "ID"], ["--log-format", "xml", "state", "ID"], ["state", "--help"], ["state", "ID", "more"],
        ["kill", "--all", "ID"], ["kill", "ID", "NOSUCH"], ["kill", "ID", "65"], ["--strict", "state", "ID"], ["state"],
        ["state", "../ID"], ["state", "nosuch"], ["delete", "nosuch"], ["delete", "--regex", "ID"], ["start", "nosuch"],
        ["--root", "relative", "state", "ID"], ["state", ""], ["--root"], ["list"], ["kill", "ID", "RTMIN+1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_unusual_is_left_to_python(container: Make, ways: tuple[Runtime, Runtime], words: list[str]) -> None:
    box = container("/bin/sleep", "1000")
    box.create()
    result = ways[0](*(word.replace("ID", box.id) for word in words), check=False)
    assert not served(result)
    assert box.status == "created"


@pytest.mark.parametrize("signal", ["TERM", "SIGTERM", "15", None])
def test_a_signal_arrives_by_name_and_number(container: Make, ways: tuple[Runtime, Runtime], signal: str | None) -> None:
    box = container("/bin/probe", "trap")
    box.run("--detach")
    pid = box.pid
    box.wait_output("ready")
    ways[0]("kill", box.id, *([signal] if signal else []))
    assert box.wait_exit(pid) == 42


def test_kill_of_what_is_stopped_is_pythons_error(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/true")
    box.create()
    pid = box.pid
    ways[0]("start", box.id)
    box.wait_exit(pid)
    assert not served(ways[0]("kill", box.id, check=False))
    result = box.runtime("kill", box.id, check=False)
    assert result.stderr == ways[1]("kill", box.id, check=False).stderr
    assert "container not running" in result.stderr


def test_a_paused_or_shared_container_is_killed_by_python(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.run("--detach")
    box.runtime("pause", box.id)
    assert not served(ways[0]("kill", box.id, "KILL", check=False))
    box.runtime("resume", box.id)
    shared = container("/bin/sleep", "1000", mutate=lambda config: drop_namespace(config, "pid"))
    shared.run("--detach")
    assert not served(ways[0]("kill", shared.id, "KILL", check=False))
    assert not served(ways[0]("delete", "--force", shared.id, check=False))
    assert (box.status, shared.status) == ("running", "running")


def test_an_execve_that_fails_is_told_with_its_step(container: Make) -> None:
    def change(config: Config) -> None:
        config["process"]["args"] = ["/bin/broken"]

    box = container(mutate=change)
    broken = box.bundle.rootfs / "bin/broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    box.create()
    result = box.start(check=False)
    assert (result.status, result.stdout) == (1, "")
    assert "exec /bin/broken: no such file or directory" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "OCIPY_START_REPORT" not in result.stderr


def test_start_of_what_is_not_created_is_pythons_error(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.run("--detach")
    assert not served(ways[0]("start", box.id, check=False))
    assert "cannot start" in box.start(check=False).stderr


def test_hooks_that_are_due_are_pythons(container: Make, ways: tuple[Runtime, Runtime], tmp_path: Path) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {
            "poststart": [{"path": "/bin/touch", "args": ["touch", str(tmp_path / "started")]}],
            "poststop": [{"path": "/bin/touch", "args": ["touch", str(tmp_path / "stopped")]}],
        }

    box = container("/bin/true", mutate=change)
    box.create()
    pid = box.pid
    assert not served(ways[0]("start", box.id, check=False))
    box.start()
    box.wait_exit(pid)
    assert not served(ways[0]("delete", box.id, check=False))
    box.delete()
    assert (tmp_path / "started").exists() and (tmp_path / "stopped").exists()


def test_delete_takes_away_what_was_created_and_never_started(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.create()
    pid, cgroup = box.pid, box.cgroup("pids")
    assert cgroup.is_dir()
    ways[0]("delete", box.id)
    assert box.wait_exit(pid) is not None
    assert not (box.runtime.root / box.id).exists()


@pytest.mark.parametrize("status", ["running", "created", "stopped"])
def test_delete_by_force_leaves_nothing(container: Make, ways: tuple[Runtime, Runtime], status: str) -> None:
    box = container("/bin/sleep", "1000")
    box.create()
    if status != "created":
        ways[0]("start", box.id)
    pid, cgroups = box.pid, [box.cgroup(name) for name in ("pids", "freezer")]
    if status == "stopped":
        ways[0]("kill", box.id, "KILL")
        box.wait_for("stopped")
        box.wait_exit(pid)
    # Whoever made the container has to reap it before its cgroups can go.
    result = ways[0]("delete", "--force", box.id, check=False)
    if not served(result):
        box.wait_exit(pid)
        ways[0]("delete", "--force", box.id)
    assert not any(path.exists() for path in cgroups)
    assert not (box.runtime.root / box.id).exists()


def test_deleting_by_force_what_is_gone_says_nothing(ways: tuple[Runtime, Runtime]) -> None:
    assert answer(ways[0]("delete", "--force", "nosuch")) == answer(ways[1]("delete", "--force", "nosuch")) == (0, "", "")


def test_a_running_container_is_not_deleted_without_force(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.run("--detach")
    assert not served(ways[0]("delete", box.id, check=False))
    result = box.delete(check=False)
    assert "that is not stopped: running" in result.stderr
    assert box.status == "running"


def test_a_busy_container_is_left_to_python(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    import fcntl

    box = container("/bin/sleep", "1000")
    box.create()
    with open(box.runtime.root / box.id / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not served(ways[0]("start", box.id, check=False))
        assert not served(ways[0]("delete", box.id, check=False))
        assert "is in use by another command" in box.start(check=False).stderr


def damages(text: str) -> Iterator[tuple[str, str]]:
    """Ways in which the text of a record can be broken."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        key = line.split()[0]
        others = lines[:number], lines[number + 1 :]
        yield f"{key} lost", "".join([*others[0], *others[1]])
        if key not in _TYPES:
            continue
        for value in ("null", "-1", "1.5", '"', '[["x"]]', '{"a":1}', "", " 1", "tru", "[", '{"a"}', '["x",]', "01"):
            yield f"{key} {value}", "".join([*others[0], f"{key} {value}\n", *others[1]])
    yield "empty", ""
    yield "cut off", text[:-1]
    yield "half", text[: len(text) // 2]
    yield "NUL", text.replace("pid", "p\0d", 1)
    yield "no key", "1x 2\n" + text
    yield "control character", text.replace('"created"', '"cre\x01ted"', 1)
    yield "other id", re.sub('^id "', 'id "x', text)
    yield "bad escape", text.replace('"created"', '"cre\\xated"', 1)
    yield "pid of all", re.sub("^pid .*", "pid 1", text, flags=re.MULTILINE)
    yield "large pid", re.sub("^pid .*", "pid 4194304", text, flags=re.MULTILINE)
    yield "leading zero", re.sub("^pid ", "pid 0", text, flags=re.MULTILINE)
    yield "two values", re.sub("^pid (.*)", r"pid \1 2", text, flags=re.MULTILINE)


def test_a_damaged_record_is_left_to_python_whatever_is_wrong(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000", mutate=annotated)
    box.create()
    record = box.runtime.root / box.id / "state"
    text = record.read_text()
    alone, python = ways
    for name, damaged in damages(text):
        record.write_text(damaged)
        sound = python("state", box.id, check=False)
        ours = alone("state", box.id, check=False)
        if sound.status == 0:
            assert not served(ours) or answer(ours) == answer(sound), name
        else:
            assert not served(ours), name
    record.write_text(text)
    assert served(alone("state", box.id))


def test_a_process_that_took_the_pid_is_not_the_container(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.run("--detach")
    record = box.runtime.root / box.id / "state"
    text = record.read_text()
    for line in ("start_time 5", 'boot_id "x"'):
        changed = re.sub(f"^{line.split()[0]} .*", line, text, flags=re.MULTILINE)
        record.write_text(changed)
        assert ways[0]("state", box.id).json["status"] == ways[1]("state", box.id).json["status"] == "stopped"
        assert not served(ways[0]("kill", box.id, check=False))
    record.write_text(text)


def test_the_launcher_knows_every_key_of_the_record_with_its_type() -> None:
    source = (ROOT / "ocipy/_native/launch_record.c").read_text()
    known = dict(re.findall(r'\{"(\w+)", ([A-Z]+), -?\d\}', source))
    kinds: dict[type[Any], str] = {str: "TEXT", int: "NUMBER", bool: "TRUTH", list: "TEXTS", dict: "TABLE"}
    assert known == {key: kinds[kind] for key, kind in _TYPES.items()}


def test_many_at_once_see_one_another(container: Make, ways: tuple[Runtime, Runtime], bundle: Callable[..., Bundle]) -> None:
    """A start and a delete of the same container at the same time: one of the two wins, and nothing is left half done."""
    import subprocess

    for _ in range(10):
        box = container("/bin/sleep", "1000")
        box.create()
        argv = [box.runtime.path, "--root", str(box.runtime.root)]
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = subprocess.Popen([*argv, "start", box.id], **how)
        time.sleep(0.0005)
        deleted = subprocess.Popen([*argv, "delete", "--force", box.id], **how)
        started.wait()
        assert deleted.wait() == 0
        wait_until(lambda box=box: not (box.runtime.root / box.id).exists(), 5, "the container to be gone")  # type: ignore[misc]


def with_files(count: int, *argv: str) -> Any:
    """A command that may have no descriptor from ``count`` on."""
    import subprocess

    limited = ["/bin/sh", "-c", f'ulimit -n {count}; exec "$@"', "sh", *argv]
    return subprocess.run(limited, check=False, capture_output=True, text=True, timeout=60)


def test_a_container_that_cannot_be_looked_at_is_not_taken_for_stopped(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.run("--detach")
    record = box.runtime.root / box.id / "state"
    text = record.read_text()
    record.write_text(re.sub("^made_cgroups .*", "made_cgroups []", text, flags=re.MULTILINE))
    argv = [ways[0].path, "--root", str(box.runtime.root)]
    for count in range(3, 9):
        told = with_files(count, *argv, "state", box.id)
        assert told.returncode or '"status": "running"' in told.stdout, f"{count}: {told.stdout}"
        assert with_files(count, *argv, "delete", box.id).returncode, count
        assert record.exists(), count
    record.write_text(text)
    assert box.status == "running"


def test_python_does_not_take_it_for_stopped_either(container: Make) -> None:
    import resource

    from ocipy.container.store import start_time

    box = container("/bin/sleep", "1000")
    box.run("--detach")
    pid, limits = box.pid, resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            start_time(pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_directory_in_the_way_does_not_make_delete_spin(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    box = container("/bin/sleep", "1000")
    box.create()
    copy = box.runtime.root / box.id / "state.copy"
    copy.unlink()
    copy.mkdir()
    assert not served(ways[0]("delete", "--force", box.id, check=False, timeout=10))
    box.delete("--force")
    assert not copy.parent.exists()


def test_delete_leaves_no_lock_in_a_directory_that_is_no_container(ways: tuple[Runtime, Runtime]) -> None:
    stranger = ways[0].root / "stranger"
    stranger.mkdir(parents=True)
    for verb in ("delete", "start"):
        assert not served(ways[0](verb, "stranger", check=False))
        assert list(stranger.iterdir()) == []
    stranger.rmdir()


@pytest.mark.parametrize("length", [4080, 4096, 5000])
def test_a_root_that_is_too_long_is_pythons_error(ways: tuple[Runtime, Runtime], length: int) -> None:
    root = "/" + "/".join(["a" * 100] * 60)[: length - 1]
    for verb in (["delete", "--force"], ["state"]):
        ours, theirs = (way("--root", root, *verb, "x" * 50, check=False) for way in ways)
        assert not served(ours)
        assert theirs.status == 1
        assert "name too long" in theirs.stderr


def test_a_reader_that_is_gone_is_an_error_in_words(container: Make) -> None:
    import subprocess

    box = container("/bin/sleep", "1000")
    box.create()
    reader, writer = os.pipe()
    os.close(reader)
    argv = [box.runtime.path, "--root", str(box.runtime.root), "state", box.id]
    done = subprocess.run(argv, check=False, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "broken pipe" in done.stderr


def test_who_is_frozen_while_it_is_killed_is_killed_all_the_same(
    container: Make, ways: tuple[Runtime, Runtime], tmp_path: Path
) -> None:
    """Python looks for a frozen cgroup after the signal: so must the launcher, whose first look was before it."""
    import threading

    box = container("/bin/sleep", "1000")
    box.run("--detach")
    pid = box.pid
    record, freezer = box.runtime.root / box.id / "state", tmp_path / "freezer"
    text = record.read_text()
    freezer.mkdir()
    os.mkfifo(freezer / "freezer.self_freezing")
    record.write_text(re.sub("^cgroup_paths .*", f'cgroup_paths {{"freezer":"{freezer}"}}', text, flags=re.MULTILINE))

    def answer_twice() -> None:
        for answer in ("0\n", "1\n"):
            with open(freezer / "freezer.self_freezing", "w", encoding="ascii") as file:
                file.write(answer)
            time.sleep(0.2)  # so that the reader sees the end of the first

    thread = threading.Thread(target=answer_twice, daemon=True)
    thread.start()
    assert not served(ways[0]("kill", box.id, "KILL", check=False))
    assert box.wait_exit(pid) is not None
    record.write_text(text)


@pytest.mark.parametrize("number", ["01", "-01", "1.50x", "-"])
def test_a_key_of_another_version_with_a_broken_number_is_left_to_python(
    container: Make, ways: tuple[Runtime, Runtime], number: str
) -> None:
    box = container("/bin/sleep", "1000")
    box.create()
    record = box.runtime.root / box.id / "state"
    text = record.read_text()
    record.write_text(f"{text}later {number}\n")
    assert ways[1]("state", box.id, check=False).status == 1
    assert not served(ways[0]("state", box.id, check=False))
    record.write_text(text)


def test_a_limit_on_the_size_of_files_kills_no_command(container: Make, tmp_path: Path) -> None:
    """The text of the lock and the output are files that the kernel would answer with SIGXFSZ."""
    import subprocess

    box = container("/bin/sleep", "1000")
    box.create()

    def limited(*words: str) -> Any:
        argv = ["/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", box.runtime.path, "--root", str(box.runtime.root), *words]
        with open(tmp_path / "output", "wb") as output:
            return subprocess.run(argv, check=False, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60)

    state = limited("state", box.id)
    assert (state.returncode, "file too large" in state.stderr) == (1, True)
    for words in (["start", box.id], ["delete", "--force", box.id]):
        done = limited(*words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert not (box.runtime.root / box.id).exists()


def test_without_proc_nothing_is_told(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    import subprocess

    box = container("/bin/sleep", "1000")
    box.run("--detach")
    for words in (["state", box.id], ["kill", box.id, "TERM"], ["delete", box.id], ["delete", "--force", box.id]):
        script = 'mount --make-rprivate / && umount -l /proc && exec "$@"'
        argv = ["unshare", "-m", "sh", "-c", script, "sh", ways[0].path, "--root", str(box.runtime.root), *words]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert "is /proc mounted?" in done.stderr
    assert box.status == "running"


def test_output_to_a_full_disk_is_an_error_in_words(container: Make) -> None:
    import subprocess

    box = container("/bin/sleep", "1000")
    box.create()
    argv = [box.runtime.path, "--root", str(box.runtime.root), "state", box.id]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(argv, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no space left" in done.stderr


def test_more_annotations_than_the_launcher_holds_are_told_all_the_same(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    for count in (1200, 1800, 4000):  # the output is too long, then the record

        def change(config: Config, count: int = count) -> None:
            config["annotations"] = {f"{number:x}": "" for number in range(count)}

        box = container("/bin/sleep", "1000", mutate=change)
        box.create()
        assert len(box.runtime("state", box.id).json["annotations"]) == count
        assert answer(box.runtime("state", box.id)) == answer(ways[1]("state", box.id))


def test_delete_waits_for_a_created_container_that_dies_slowly(container: Make, ways: tuple[Runtime, Runtime]) -> None:
    """Half dead, with its lock free already, it would look as if it ran: Python would refuse to delete it."""
    import threading

    from ocipy.container.store import start_time

    box = container("/bin/sleep", "1000")
    box.create()
    pid, slow = box.pid, box.cgroup("freezer") / "slow"
    if not (box.cgroup("freezer") / "freezer.state").exists():
        pytest.skip("in cgroup v2 nothing that is simple to make keeps a killed process from dying")
    slow.mkdir()
    (slow / "cgroup.procs").write_text(str(pid))
    (slow / "freezer.state").write_text("FROZEN")
    thread = threading.Timer(1, (slow / "freezer.state").write_text, ["THAWED"])
    thread.start()
    ways[0]("delete", box.id, check=False)
    assert start_time(pid) == 0
    thread.join()
    box.wait_exit(pid)
    slow.rmdir()
