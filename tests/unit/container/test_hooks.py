from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ocipy.container.hooks import run_hook, run_hooks
from ocipy.container.record import Record
from ocipy.container.state import state_json
from ocipy.errors import HookError

STATE = b'{"id":"a"}'


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def run(hook: dict[str, Any], bundle: Path, state: bytes = STATE) -> None:
    run_hook(hook, state, "/hooks/createRuntime/2", "createRuntime", str(bundle))


def test_a_hook_gets_the_state_its_environment_its_arguments_and_the_bundle(tmp_path: Path) -> None:
    hook = shell('cat > out; echo >> out; echo "$0 $1" >> out; pwd >> out; env >> out', env=["A=b=c"])
    hook["args"] += ["zero", "one"]
    run(hook, tmp_path)
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:3] == ['{"id":"a"}', "zero one", str(tmp_path)]
    assert {"A=b=c"} <= set(lines[3:]) <= {"A=b=c", f"PWD={tmp_path}", "OLDPWD=", "_=/usr/bin/env", "SHLVL=0"}


def test_args_default_to_the_path(tmp_path: Path) -> None:
    run({"path": "/bin/true"}, tmp_path)


def test_the_directory_of_the_runtime_stays(tmp_path: Path) -> None:
    before = os.getcwd()
    run({"path": "/bin/true"}, tmp_path)
    run({"path": "/bin/true"}, tmp_path / "gone")
    assert os.getcwd() == before


def test_a_hook_has_default_signals_and_an_empty_mask(tmp_path: Path) -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        run(shell("grep -E 'Sig(Blk|Ign)' /proc/self/status > out"), tmp_path)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        signal.signal(signal.SIGUSR2, ignored)
    blocked, ignored_now = (int(line.split()[1], 16) for line in (tmp_path / "out").read_text().splitlines())
    internal = 3 << 31  # the C library's own two, which its posix_spawn itself ignores and its threads set up again
    assert (blocked, ignored_now & ~internal) == (0, 0)


def test_a_hook_has_nothing_of_ours_open_but_its_stdio_and_its_own_process_group(tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w"):
        run(shell("ls -l /proc/$$/fd | sed 's/.* \\([0-9]* ->\\)/\\1/' > out; ps -o pgid= -p $$ >> out; echo $$ >> out"), tmp_path)
    *lines, group, pid = (tmp_path / "out").read_text().splitlines()
    fds = dict(line.split(" -> ") for line in lines if "->" in line)
    assert fds["0"].startswith("/memfd:state")
    assert fds["1"] == fds["2"]
    assert fds["2"].startswith("/memfd:output")
    rest = [target for fd, target in fds.items() if int(fd) > 2]
    assert not [target for target in rest if "memfd" in target or "secret" in target]
    assert group.strip() == pid


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "exit status 3, no output"),
        ("echo out; echo err >&2; exit 1", "exit status 1, output: out | err"),
        ("kill -9 $$", "ended by SIGKILL, no output"),
        ("kill -USR1 $$", "ended by SIGUSR1, no output"),
    ],
)
def test_a_failure_names_the_hook_and_shows_its_output(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(HookError) as caught:
        run(shell(script), tmp_path)
    assert str(caught.value) == f"createRuntime hook 2 /bin/sh (/hooks/createRuntime/2): {message}"


def test_only_the_end_of_much_output_is_shown(tmp_path: Path) -> None:
    with pytest.raises(HookError) as caught:
        run(shell("head -c 1000000 /dev/zero | tr '\\0' x; echo end; exit 1"), tmp_path)
    assert 4000 < len(str(caught.value)) < 4300
    assert "output: …x" in str(caught.value)
    assert str(caught.value).endswith("xend")


@pytest.mark.parametrize(
    ("path", "words"),
    [("/nope", "no such file or directory"), ("/etc/passwd", "permission denied"), ("/bin/\0true", "invalid argument")],
)
def test_a_hook_that_cannot_be_executed_says_why(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(HookError, match=words):
        run({"path": path}, tmp_path)


def test_a_hook_that_does_not_read_a_large_state_does_not_block(tmp_path: Path) -> None:
    run({"path": "/bin/true"}, tmp_path, b"x" * 1_000_000)


def test_a_timeout_kills_the_whole_process_group(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(HookError, match=r"killed after its timeout of 1 s, output: begun"):
        run(shell("echo begun; sleep 4711 & echo $! > child; sleep 300", timeout=1), tmp_path)
    assert time.monotonic() - start < 100
    child = (tmp_path / "child").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout
    assert state.strip()[:1] in ("", "Z")


def test_a_hook_in_time_is_no_failure(tmp_path: Path) -> None:
    run(shell("exit 0", timeout=30), tmp_path)


def test_hooks_of_a_kind_run_in_order_until_one_fails(tmp_path: Path) -> None:
    scripts = ("echo 1 >> out", "echo 2 >> out; exit 1", "echo 3 >> out")
    config = {"hooks": {"poststart": [shell(script) for script in scripts]}}
    with pytest.raises(HookError, match="poststart hook 1 /bin/sh"):
        run_hooks(config, "poststart", STATE, str(tmp_path))
    assert (tmp_path / "out").read_text() == "1\n2\n"
    run_hooks({}, "poststart", STATE, str(tmp_path))


def test_the_state_for_hooks_has_the_members_of_the_specification() -> None:
    record = Record("a")
    record.bundle, record.annotations = "/b", {"k": "v"}
    assert state_json(record, "created", 7) == (
        b'{"ociVersion":"1.3.0","id":"a","status":"created","pid":7,"bundle":"/b","annotations":{"k":"v"}}'
    )
    record.annotations = {}
    assert state_json(record, "stopped", 0) == b'{"ociVersion":"1.3.0","id":"a","status":"stopped","bundle":"/b"}'
