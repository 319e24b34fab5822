"""--trace: the timeline of one command as Chrome's trace JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Bundle, Config, Container, Runtime, set_namespace

Make = Callable[..., Container]
Event = dict[str, Any]
KINDS = ("createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def with_hooks(config: Config) -> None:
    config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 0"]}] for kind in KINDS}


def with_filter(config: Config) -> None:
    """One that kills whoever asks for the time by a system call."""
    rule = {"names": ["clock_gettime"], "action": "SCMP_ACT_KILL_PROCESS"}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def with_filter_and_new_privileges(config: Config) -> None:
    with_filter(config)
    config["process"]["noNewPrivileges"] = False


def with_clocks(config: Config) -> None:
    set_namespace(config, "time")
    config["linux"]["timeOffsets"] = {"monotonic": {"secs": 100_000}}


def read(path: Path) -> list[Event]:
    """The spans of a file, by time, after looking at all that every file has: rows with names, in each of them nested events."""
    everything: list[Event] = json.loads(path.read_text())["traceEvents"]
    rows = {event["pid"] for event in everything if event["name"] == "process_name" and event["args"]["name"]}
    events = [event for event in everything if event["ph"] == "X"]
    open_until: dict[int, list[int]] = {}
    last = 0
    for event in events:
        began, ended = round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)
        assert last <= began <= ended <= round(events[0]["dur"] * 1000), event
        last = began
        stack = open_until.setdefault(event["pid"], [])
        while stack and stack[-1] <= began:
            stack.pop()
        assert not stack or ended <= stack[-1], f"{event} ends after what it is in"
        stack.append(ended)
    assert rows == set(open_until)
    assert path.stat().st_mode & 0o777 == 0o600
    return events


def steps(events: list[Event]) -> list[tuple[int, str, str]]:
    """(index, op, JSON pointer) of each, in the order of the plan."""
    return sorted((e["args"]["index"], e["args"]["op"], e["args"]["pointer"]) for e in events if e["cat"] == "step")


def names(events: list[Event], kind: str) -> list[str]:
    return [event["name"] for event in events if event["cat"] == kind]


def planned(runtime: Runtime, bundle: Bundle) -> list[tuple[int, str, str]]:
    plan = runtime("plan", "--format", "json", bundle.path).json
    return [(step["index"], step["op"], step["origin"]) for step in plan]


CONFIGS = [None, with_hooks, with_filter, with_filter_and_new_privileges, with_clocks]


@pytest.mark.parametrize("mutate", CONFIGS, ids=lambda mutate: getattr(mutate, "__name__", "as it is"))
def test_run_tells_each_step_of_the_plan_once(container: Make, tmp_path: Path, mutate: Callable[[Config], None] | None) -> None:
    box, file = container("/bin/sh", "-c", "exit 7", mutate=mutate), tmp_path / "trace.json"
    result = box.runtime("--trace", file, "run", "--bundle", box.bundle.path, box.id, check=False)
    assert (result.status, result.stdout, result.stderr) == (7, "", "")
    events = read(file)
    # A plan is of the container's name: the paths are others, the steps the same.
    assert steps(events) == planned(box.runtime, box.bundle)
    assert not [event for event in events if event["args"].get("finished") is False]
    assert len({event["pid"] for event in events}) == 3
    assert {event["pid"] for event in events if event["args"].get("op") == "EXEC"} != {events[0]["pid"]}
    assert events[0]["args"] == {"containers": [box.id], "status": 7}


def test_a_timeline_has_every_phase(container: Make, tmp_path: Path) -> None:
    box, file = container("/bin/true", mutate=with_hooks), tmp_path / "trace.json"
    box.runtime("--trace", file, "run", "--bundle", box.bundle.path, box.id)
    events = read(file)
    assert names(events, "start")[:4] == ["launcher", "execve, link the interpreter", "start Python", "boot"]
    assert {"import ocipy.cli.main", "import ocipy.linux.sys", "import ocipy.container.delete"} <= set(names(events, "import"))
    work = names(events, "work")
    wanted = ["parse the command line", "load", "check", "assemble", "carry out the plan", "encode", "clone and execute the stage"]
    assert [name for name in work if name in wanted] == wanted
    assert {"the program runs", "remove the cgroups"} <= set(work)
    protocol = names(events, "protocol")
    assert {"wait for init: PID", "wait for init: SYNC", "wait for init: READY", "wait for the runtime"} <= set(protocol)
    assert names(events, "hook") == [f"{kind} hook /bin/sh" for kind in ("createRuntime", "poststart", "poststop")]
    assert names(events, "step").count("HOOK /bin/sh") == 2


def test_start_tells_what_create_could_not(container: Make, tmp_path: Path) -> None:
    box, first, second = container("/bin/sleep", "100", mutate=with_hooks), tmp_path / "create.json", tmp_path / "start.json"
    box.runtime("--trace", first, "create", "--bundle", box.bundle.path, box.id, stdout=box.output, stderr=box.errors)
    box.runtime("--trace", second, "start", box.id)
    created, started = read(first), read(second)
    everything = planned(box.runtime, box.bundle)
    place = next(index for index, op, _ in everything if op == "WAIT_START")
    assert steps(created) == everything[: place + 1]
    assert [event["name"] for event in created if event["args"].get("finished") is False] == ["WAIT_START"]
    assert steps(started) == everything[place:]
    assert not [event for event in started if "measured" in event["args"]]
    assert {event["pid"] for event in started} == {started[0]["pid"], box.pid}


def test_start_alone_is_told_too(container: Make, tmp_path: Path) -> None:
    box, file = container("/bin/sleep", "100", mutate=with_filter), tmp_path / "trace.json"
    box.create()
    box.runtime(f"--trace={file}", "start", box.id)
    assert [op for _, op, _ in steps(read(file))] == ["WAIT_START", "SECCOMP", "EXEC"]
    assert box.status == "running"


def test_an_init_that_is_filtered_while_it_waits_is_not_asked_for_the_time(container: Make, tmp_path: Path) -> None:
    def with_agent(config: Config) -> None:
        with_filter(config)
        config["linux"]["seccomp"]["syscalls"].append({"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"})
        config["linux"]["seccomp"]["listenerPath"] = str(tmp_path / "agent")

    with socket.socket(socket.AF_UNIX) as agent:
        os.chdir(tmp_path)
        agent.bind("agent")
        os.chdir("/")
        agent.listen()
        box, first, second = container("/bin/sleep", "100", mutate=with_agent), tmp_path / "create.json", tmp_path / "start.json"
        box.runtime("--trace", first, "create", "--bundle", box.bundle.path, box.id, stdout=box.output, stderr=box.errors)
    box.runtime("--trace", second, "start", box.id)
    assert box.status == "running"
    unmeasured = [event["name"] for event in read(first) if event["args"].get("measured") is False]
    assert unmeasured == ["SECCOMP", "LOCK", "READY"]
    assert [op for _, op, _ in steps(read(second))] == ["WAIT_START", "EXEC"]


def test_exec_and_every_other_verb(container: Make, tmp_path: Path) -> None:
    box, file = container("/bin/sleep", "100"), tmp_path / "trace.json"
    box.create()
    box.start()
    result = box.runtime("--trace", file, "exec", box.id, "/bin/sh", "-c", "echo hello; exit 5", check=False)
    assert (result.status, result.stdout, result.stderr) == (5, "hello\n", "")
    ops = [op for _, op, _ in steps(read(file))]
    assert {"SPAWN", "JOIN_CONTAINER", "CLONE_INIT", "EXEC"} <= set(ops)
    assert ops.index("SPAWN") < ops.index("EXEC") == len(ops) - 1
    pid = box.pid
    for verb in (["state", box.id], ["list"], ["ps", box.id], ["pause", box.id], ["resume", box.id], ["kill", box.id, "KILL"]):
        plain = box.runtime(*verb[:1], *verb[1:]).stdout if verb[0] in ("state", "list") else ""
        result = box.runtime("--trace", file, *verb)
        assert not plain or result.stdout == plain
        assert names(read(file), "verb") == verb[:1]
    box.wait_exit(pid)
    box.runtime("--trace", file, "delete", box.id)
    assert "remove the cgroups" in names(read(file), "work")


def test_a_command_that_fails_writes_it_as_well(container: Make, tmp_path: Path) -> None:
    def no_such_filesystem(config: Config) -> None:
        config["mounts"].append({"destination": "/mnt", "type": "nonsense", "source": "none"})

    box, file = container(mutate=no_such_filesystem), tmp_path / "trace.json"
    file.write_text("x" * 1_000_000)  # what was there is cut off
    file.chmod(0o600)
    plain = box.runtime("create", "--bundle", box.bundle.path, box.id, check=False)
    result = box.runtime("--trace", file, "create", "--bundle", box.bundle.path, box.id, check=False)
    assert (result.status, result.stderr) == (1, plain.stderr)
    events = read(file)
    assert [event["name"] for event in events if event["args"].get("status") == 1] == ["ocipy create", "main"]
    last = [event for event in events if event["cat"] == "step"][-1]
    assert last["args"]["failed"]
    assert (last["name"], last["args"]["pointer"]) == ("MOUNT", f"/mounts/{len(box.bundle.config['mounts']) - 1}")
    assert any("nonsense" in event["args"].get("error", "") for event in events)


@pytest.mark.parametrize("words", ["--nonsense", "nonsense", "create", "--version", "create --bundle /nonexistent x"])
def test_a_command_that_comes_to_nothing_writes_it_as_well(runtime: Runtime, tmp_path: Path, words: str) -> None:
    plain = runtime(*words.split(), check=False)
    result = runtime("--trace", tmp_path / "trace.json", *words.split(), check=False)
    assert (result.status, result.stdout, result.stderr) == (plain.status, plain.stdout, plain.stderr)
    events = read(tmp_path / "trace.json")
    assert [event["args"]["status"] for event in events if event["cat"] == "command"] == [plain.status]


def test_without_the_launcher_it_begins_later(runtime: Runtime, tmp_path: Path) -> None:
    python = Path(runtime.path).with_name("python")
    flags: list[str | Path] = ["--trace", tmp_path / "trace.json", "--root", tmp_path]
    subprocess.run([python, "-P", "-m", "ocipy", *flags, "list"], check=True, timeout=60)
    events = read(tmp_path / "trace.json")
    assert names(events, "start") == ["main"]
    assert names(events, "verb") == ["list"]


def test_the_program_sees_no_difference(container: Make, tmp_path: Path) -> None:
    def seen(*flags: str | Path) -> str:
        script = "cd /proc/$$/fd; for fd in *; do echo $fd; done; env; grep -c ocipy /proc/$$/maps; ls /proc"
        box = container("/bin/sh", "-c", script)
        box.runtime(*flags, "run", "--bundle", box.bundle.path, box.id, stdout=tmp_path / "out", stderr=tmp_path / "err")
        return (tmp_path / "out").read_text()

    plain = seen()
    assert plain.startswith("0\n1\n2\n")
    assert seen("--trace", tmp_path / "trace.json") == plain


def test_a_file_that_cannot_be_written_is_one_line_and_a_failure(container: Make, tmp_path: Path) -> None:
    box, path = container("/bin/true"), tmp_path / "missing" / "trace.json"
    result = box.runtime("--trace", path, "run", "--bundle", box.bundle.path, box.id, check=False)
    assert (result.status, result.stderr) == (1, f"ocipy: --trace {path}: no such file or directory\n")


def test_of_a_command_that_fails_the_log_has_the_one_entry_that_engines_read(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    flags = ("--log", log, "--log-format", "json", "--trace", tmp_path)
    result = runtime(*flags, "start", "nothing", check=False)
    assert result.status == 1
    assert [json.loads(line)["level"] for line in log.read_text().splitlines()] == ["error"]
    assert "is a directory" in result.stderr
