"""The command as a process: what reaches standard output, standard error, the log and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ocipy
from ocipy.container.store import CREATED, Record, Store, boot_id, now, start_time

PACKAGE = str(Path(ocipy.__file__).parents[1])
PROGRAM = f"import sys; sys.path.insert(0, {PACKAGE!r}); from ocipy.cli.main import main; sys.exit(main(sys.argv[1:]))"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


def run(*argv: str | os.PathLike[str], cwd: Path | None = None, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", program, *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={}, stdin=subprocess.DEVNULL)


def container(root: Path, name: str = "a") -> Record:
    record = Record(name)
    record.status, record.bundle, record.rootfs, record.created = CREATED, "/b", "/b/rootfs", now()
    entry = Store(str(root)).create(name)
    entry.write(record)
    entry.close()
    return record


def test_a_failure_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = run("--root", tmp_path, "state", "nope")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", 'ocipy: container "nope" does not exist\n')


def test_the_log_gets_one_json_line_that_engines_can_parse(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text("before\n")
    done = run("--root", tmp_path, "--log", log, "--log-format", "json", "state", "nope")
    assert (done.returncode, done.stderr) == (1, 'ocipy: container "nope" does not exist\n')
    first, line = log.read_text().splitlines()
    entry = json.loads(line)
    assert first == "before"
    assert re.fullmatch(TIME, entry.pop("time"))
    assert entry == {"level": "error", "msg": 'container "nope" does not exist'}


def test_the_log_in_text_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run("--root", tmp_path, "--log", log, "state", "nope")
    assert re.fullmatch(rf'time="{TIME}" level=error msg="container \\"nope\\" does not exist"\n', log.read_text())


def test_json_without_a_log_goes_to_standard_error(tmp_path: Path) -> None:
    done = run("--root", tmp_path, "--log-format=json", "state", "nope")
    assert json.loads(done.stderr)["msg"] == 'container "nope" does not exist'


def test_a_log_that_cannot_be_written_is_told_without_losing_the_error(tmp_path: Path) -> None:
    done = run("--root", tmp_path, "--log", tmp_path / "no/log", "state", "nope")
    assert done.returncode == 1
    assert re.fullmatch(r'ocipy: container "nope" does not exist \(and the log \S+ could not be written: .*\)\n', done.stderr)


def test_a_wrong_log_format_is_told_as_text(tmp_path: Path) -> None:
    done = run("--log-format", "xml", "state", "nope")
    assert (done.returncode, done.stderr) == (1, "ocipy: invalid log-format: xml (text or json)\n")


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", "", "a\nb", "ä", "a b", "x" * 256, "a\x1b[2J"], ids=repr)
@pytest.mark.parametrize("verb", ["state", "kill", "delete"])
def test_an_id_that_is_none_is_one_printable_line(tmp_path: Path, verb: str, name: str) -> None:
    done = run("--root", tmp_path, verb, name)
    assert done.returncode == 1
    assert re.fullmatch(r"ocipy: (invalid container ID format|container id cannot be empty).*\n", done.stderr)
    assert done.stderr[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_error_is_one_line_and_debug_puts_its_origin_into_the_log(tmp_path: Path) -> None:
    broken = PROGRAM.replace("from ocipy.cli.main", "from ocipy.cli import state; state.run = lambda i: 1 / 0; from ocipy.cli.main")
    done = run("state", "a", program=broken)
    assert (done.returncode, done.stderr) == (1, "ocipy: unexpected ZeroDivisionError: division by zero (--debug tells where)\n")
    log = tmp_path / "log"
    done = run("--debug", "--log", log, "--log-format", "json", "state", "a", program=broken)
    assert done.stderr.count("\n") == 1
    assert "Traceback" in json.loads(log.read_text().splitlines()[-1])["trace"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("KeyboardInterrupt", "interrupted"),
        ("MemoryError", "out of memory: the memory limit of ocipy's own cgroup may be too small"),
        ("FileNotFoundError(2, 'x', '/nope')", "/nope: no such file or directory"),
        ("RecursionError('deep')", "unexpected RecursionError: deep (--debug tells where)"),
    ],
)
def test_no_exception_is_ever_a_traceback(error: str, line: str) -> None:
    raising = f"def raising(i): raise {error}\nfrom ocipy.cli import state; state.run = raising\n"
    program = PROGRAM.replace("from ocipy", f"\n{raising}from ocipy", 1)
    done = run("state", "a", program=program)
    assert (done.returncode, done.stderr) == (1, f"ocipy: {line}\n")


def test_failures_of_exec_are_255_but_a_wrong_command_line_is_1(tmp_path: Path) -> None:
    raising = (
        "import types; m = types.ModuleType('m'); sys.modules['ocipy.cli.exec'] = m\n"
        "def raising(i): raise OSError(2, 'x')\n"
        "m.run = raising\n"
    )
    program = PROGRAM.replace("from ocipy", f"\n{raising}from ocipy", 1)
    assert run("exec", "a", "true", program=program).returncode == 255
    assert run("exec", "--nope", program=program).returncode == 1


def test_warnings_of_a_success_and_of_a_failure(tmp_path: Path) -> None:
    log = tmp_path / "log"
    warn = (
        "def f(i):\n from ocipy.warning import warn; warn('mind the gap'); return int(i.args[0])\n"
        "from ocipy.cli import state; state.run = f\n"
    )
    program = PROGRAM.replace("from ocipy", f"\n{warn}from ocipy", 1)
    done = run("state", "0", program=program)
    assert (done.returncode, done.stderr) == (0, "ocipy: warning: mind the gap\n")
    done = run("--log", log, "--log-format", "json", "state", "0", program=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(log.read_text())["level"] == "warning"
    log.unlink()
    done = run("--log", log, "--log-format", "json", "state", "x", program=program)
    assert done.returncode == 1
    assert json.loads(log.read_text())["warnings"] == "mind the gap"


def test_version_has_the_shape_that_engines_parse() -> None:
    lines = run("--version").stdout.splitlines()
    assert re.fullmatch(r"ocipy version \d+\.\d+\.\d+\S*", lines[0])
    assert re.fullmatch(r"commit: \S+", lines[1])
    assert lines[2] == "spec: 1.3.0"
    assert lines[3].startswith("python: 3.")
    assert run("-v").stdout.splitlines() == lines


def test_help_is_on_standard_output_with_exit_code_0() -> None:
    for argv in (["--help"], ["state", "-h"], []):
        done = run(*argv)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: ocipy" in done.stdout


def test_state_is_what_runc_prints(tmp_path: Path) -> None:
    record = container(tmp_path)
    done = run("--root", tmp_path, "state", "a")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        '{\n  "ociVersion": "1.3.0",\n  "id": "a",\n  "pid": 0,\n  "status": "stopped",\n  "bundle": "/b",\n'
        f'  "rootfs": "/b/rootfs",\n  "created": "{record.created}",\n  "owner": ""\n}}'
    )


def test_state_of_a_live_container_has_its_pid_and_annotations(tmp_path: Path) -> None:
    record = container(tmp_path)
    record.pid, record.start_time, record.boot_id = os.getpid(), start_time(os.getpid()), boot_id()
    record.annotations = {"a.b": 'c "q" <x> ü\n'}
    Store(str(tmp_path)).open("a").write(record)
    found = json.loads(run("--root", tmp_path, "state", "a").stdout)
    assert (found["pid"], found["status"], found["annotations"]) == (os.getpid(), "running", record.annotations)
    assert list(found) == ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]


def test_list_as_table_json_and_ids(tmp_path: Path) -> None:
    records = [container(tmp_path, name) for name in ("b", "a-longer-name")]
    done = run("--root", tmp_path, "list")
    assert done.stdout.splitlines()[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert done.stdout.splitlines()[2] == f"b               0           stopped     /b          {records[0].created}   root"
    found = json.loads(run("--root", tmp_path, "list", "--format", "json").stdout)
    assert [item["id"] for item in found] == ["a-longer-name", "b"]
    assert found[0]["owner"] == "root"
    assert run("--root", tmp_path, "list", "-q").stdout == "a-longer-name\nb\n"
    assert run("--root", tmp_path / "none", "list", "-f=json").stdout == "[]\n"
    assert run("--root", tmp_path, "list", "-f", "yaml").returncode == 1


def test_list_goes_on_after_a_damaged_record(tmp_path: Path) -> None:
    container(tmp_path, "good")
    container(tmp_path, "bad")
    (tmp_path / "bad/state").write_text("null\n")
    done = run("--root", tmp_path, "list", "-f", "json")
    assert [item["id"] for item in json.loads(done.stdout)] == ["good"]
    assert re.fullmatch(r'ocipy: warning: state of container "bad" is corrupt: .*\n', done.stderr)


def test_delete_of_an_absent_container(tmp_path: Path) -> None:
    done = run("--root", tmp_path, "delete", "nope")
    assert (done.returncode, done.stderr) == (1, 'ocipy: container "nope" does not exist\n')
    done = run("--root", tmp_path, "delete", "--force", "nope")
    assert (done.returncode, done.stderr) == (0, "")


def test_kill_of_a_stopped_container_says_so(tmp_path: Path) -> None:
    container(tmp_path)
    done = run("--root", tmp_path, "kill", "a", "KILL")
    assert (done.returncode, done.stderr) == (1, 'ocipy: container not running: "a"\n')
    done = run("--root", tmp_path, "kill", "a", "NOPE")
    assert (done.returncode, done.stderr) == (1, 'ocipy: unknown signal "NOPE"\n')


def test_standard_output_that_is_closed_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    container(tmp_path)
    command = [sys.executable, "-I", "-c", PROGRAM, "--root", str(tmp_path), "state", "a"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "ocipy: no space left on device\n")


def test_a_host_without_ps_is_one_line(tmp_path: Path) -> None:
    record = container(tmp_path)
    record.cgroup_paths = {"freezer": str(tmp_path / "cgroup")}
    Store(str(tmp_path)).open("a").write(record)
    program = "import os; os.environ['PATH'] = '/nowhere'; " + PROGRAM
    done = run("--root", tmp_path, "ps", "a", program=program)
    line = "ocipy: cannot execute ps: no such file or directory; install it (procps), or use --format json\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


# Start-up is the performance problem: every module that a verb loads is named here, and one more is a decision.
BARE = "import sys, os, errno, time, __future__; print(*sys.modules)"  # what every interpreter, and every module of ours, has
OURS = {
    "", ".cli", ".cli.main", ".cli.options", ".config", ".config.json_text", ".container", ".container.record", ".container.store",
    ".errors", ".warning",
}  # fmt: skip
STATE = OURS | {".container.state"}
CGROUPS = STATE | {".linux", ".linux.cgroups", ".linux.cgroups.freezer"}
PLAN = {
    ".config", ".config._compiled", ".config.cgroups", ".config.check", ".config.load", ".config.paths", ".config.root",
    ".config.version", ".linux.cgroups.apply", ".linux.cgroups.device_rules", ".linux.cgroups.plan", ".linux.cgroups.v1", ".plan",
    ".plan.ops", ".plan.reports", ".plan.step",
}  # fmt: skip
PAUSE = CGROUPS | {".container.kill", ".container.pause", ".container.signals"}
SHIM = {".linux", ".linux.sys", "._native", "._native._shim", "._native._shim.lib"}
KILL = STATE | SHIM | {".cli.kill", ".container.kill", ".container.signals"}
ALLOWED = {
    ("state",): STATE | SHIM | {".cli.state"},
    ("list",): STATE | SHIM | {".cli.list"},
    ("kill",): KILL,
    ("delete", "--force"): STATE | SHIM | {".cli.delete", ".container.delete", ".container.kill", ".container.signals"},
    ("pause",): PAUSE | SHIM | {".cli.pause"},
    ("resume",): PAUSE | {".cli.resume"},
    ("events", "--stats"): STATE
    | {".cli.events", ".container.events", ".linux", ".linux.cgroups", ".linux.cgroups.stats"}
    | {".config", ".config.id_list", ".config.paths"},
    ("update", "--pids-limit", "5"): CGROUPS | PLAN | SHIM | {".cli.update", ".container.update", ".linux.cgroups.update"},
    ("ps", "--format", "json"): CGROUPS - {".container.state"} | {".cli.ps", ".linux.cgroups.members", ".linux.cgroups.tree"},
}  # fmt: skip
STANDARD = {
    ("state",): {"_json", "_cffi_backend"},
    ("list",): {"_json", "_cffi_backend", "pwd"},
    ("kill",): {"_json", "_cffi_backend"},
    ("delete", "--force"): {"_json", "select", "_cffi_backend"},
    ("pause",): {"_json", "_cffi_backend"},
    ("resume",): {"_json"},
    ("ps", "--format", "json"): {"_json"},
    ("update", "--pids-limit", "5"): {"_json", "_cffi_backend"},
    ("events", "--stats"): {"_json"},
}
# Files of a cgroup, where the verb takes one.
FILES: dict[tuple[str, ...], dict[str, str]] = {
    ("pause",): {"freezer.self_freezing": "0", "freezer.state": "THAWED"},
    ("resume",): {"freezer.self_freezing": "1", "freezer.state": "FROZEN"},
    ("ps", "--format", "json"): {"cgroup.procs": "7\n"},
    ("update", "--pids-limit", "5"): {"freezer.self_freezing": "0", "pids.max": "max"},
    ("events", "--stats"): {"pids.max": "max"},
}


@pytest.mark.parametrize("verb", ALLOWED, ids=" ".join)
def test_a_verb_loads_these_modules_and_no_other(tmp_path: Path, verb: tuple[str, ...]) -> None:
    with subprocess.Popen(["sleep", "300"]) as init:
        record = container(tmp_path)
        record.pid, record.start_time, record.boot_id = init.pid, start_time(init.pid), boot_id()
        if verb in FILES:
            record.cgroup_paths = dict.fromkeys(("freezer", "pids"), str(tmp_path / "cgroup"))
            (tmp_path / "cgroup").mkdir()
            for name, text in FILES[verb].items():
                (tmp_path / "cgroup" / name).write_text(text)
        entry = Store(str(tmp_path)).open("a")
        entry.write(record)
        (tmp_path / "a/init.lock").touch()
        program = (
            f"import sys; sys.path.insert(0, {PACKAGE!r})\nfrom ocipy.cli.main import main\n"
            "code = main(sys.argv[1:])\nsys.stderr.write(' '.join(sorted(sys.modules)))\nsys.exit(code)"
        )
        names = [] if verb == ("list",) else ["a"]
        command = [sys.executable, "-I", "-S", "-c", program, "--root", str(tmp_path), *verb, *names]
        done = subprocess.run(command, capture_output=True, text=True)
        init.kill()
    assert done.returncode == 0
    core = set(subprocess.run([sys.executable, "-I", "-S", "-c", BARE], capture_output=True, text=True).stdout.split())
    loaded = set(done.stderr.split())
    assert loaded - core - STANDARD[verb] - {"ocipy" + name for name in ALLOWED[verb]} == set()
