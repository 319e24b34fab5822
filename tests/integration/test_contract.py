"""What engines send, match on and parse, a row of the contract for each test; what a verb does besides is in the file of the verb.

The expressions are those by which engines recognise a message: they must go on matching, whatever else a message says.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, Runtime
from ocipy.cli.options import VERBS

Make = Callable[..., Container]

# Podman: exit status 126, 127, or an error of its own.
DENIED = "(?i).*permission denied.*|.*operation not permitted.*"
NOT_FOUND = "(?i).*executable file not found in.*|.*no such file or directory.*"
SECURITY = "`/proc/[a-z0-9-].+/attr.*/exec`"


def program(path: str) -> Callable[[Config], object]:
    return lambda config: config["process"].update(args=[path])


def mounted(source: str, destination: str) -> Callable[[Config], object]:
    mount = {"destination": destination, "source": source, "type": "bind", "options": ["bind"]}
    return lambda config: config["mounts"].append(mount)


def labelled(**label: str) -> Callable[[Config], object]:
    return lambda config: config["process"].update(label)


REFUSED: dict[str, tuple[Callable[[Config], object], str]] = {
    "missing program": (program("nothing-like-it"), NOT_FOUND),
    "missing program by path": (program("/nothing/like/it"), NOT_FOUND),
    "file that is no program": (program("/etc/passwd"), DENIED),
    "directory": (program("/etc"), "is a directory"),
    "directory, for old Docker": (program("/etc"), DENIED),
    "file on a directory": (mounted("/etc/passwd", "/tmp"), "not a directory"),
    "directory on a file": (mounted("/etc", "/etc/passwd"), "not a directory"),
    "missing source of a mount": (mounted("/nothing/like/it", "/mnt"), "does not exist|no such file or directory"),
    "label of SELinux": (labelled(selinuxLabel="no_u:no_r:no_t:s0"), SECURITY),
    "profile of AppArmor": (labelled(apparmorProfile="nothing-like-it"), SECURITY),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_create_fails_in_words_that_engines_know_and_with_status_1(
    container: Make, tmp_path: Path, change: Callable[[Config], object], words: str
) -> None:
    if words == SECURITY and Path("/sys/kernel/security/apparmor").exists() + Path("/sys/fs/selinux").exists():
        pytest.skip("labels may be accepted here: the kernel has a security module")
    box, log = container(mutate=change), tmp_path / "log"
    flags = ("--log", log, "--log-format", "json")
    answer = box.runtime(*flags, "create", "--bundle", box.bundle.path, box.id, check=False)
    assert answer.status == 1
    line = log.read_text()
    assert line.endswith("}\n") and line.count("\n") == 1
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert re.search(words, entry["msg"]), entry["msg"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", entry["time"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["nothing-like-it"], NOT_FOUND), (["/nothing/like/it"], NOT_FOUND), (["/etc/passwd"], DENIED), (["/etc"], "is a directory")],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_exec_fails_with_255_and_without_a_pid_file(container: Make, tmp_path: Path, argv: list[str], words: str) -> None:
    """conmon takes the pid file, not the status, for success."""
    box = container("/bin/sleep", "100")
    box.run("--detach")
    for flags in ([], ["--detach"]):
        answer = box.exec(*argv, flags=[*flags, "--pid-file", tmp_path / "pid"], check=False)
        assert answer.status == 255
        assert re.search(words, answer.stderr)
        assert list(tmp_path.glob("*pid*")) == []


def test_a_pid_file_holds_digits_and_appears_whole(container: Make, tmp_path: Path) -> None:
    box = container("/bin/sleep", "100")
    box.run("--detach", "--pid-file", tmp_path / "init")
    box.exec("/bin/sleep", "100", flags=["--detach", "--pid-file", tmp_path / "exec"])
    assert (tmp_path / "init").read_bytes() == b"%d" % box.pid
    assert re.fullmatch(rb"\d+", (tmp_path / "exec").read_bytes())
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"init", "exec"}
    box.kill("KILL")
    box.wait_exit(int((tmp_path / "exec").read_text()))


@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete", "pause", "resume", "ps", "update", "events", "exec"])
def test_an_unknown_container_does_not_exist(runtime: Runtime, verb: str) -> None:
    answer = runtime(verb, "nothing-like-it", *(["/bin/true"] if verb == "exec" else []), check=False)
    assert "does not exist" in answer.stderr
    assert answer.status == (255 if verb == "exec" else 1)


@pytest.mark.parametrize("verb", ["kill", "exec", "pause", "update", "events"])
def test_a_stopped_container_is_not_running(container: Make, verb: str) -> None:
    box = container("/bin/true")
    box.run("--detach")
    box.wait_for("stopped")
    answer = box.runtime(verb, box.id, *(["/bin/true"] if verb == "exec" else []), check=False)
    assert "container not running" in answer.stderr
    assert answer.status == (255 if verb == "exec" else 1)


def test_the_status_of_a_program_in_the_foreground(container: Make) -> None:
    for words, status in ((["exit", "0"], 0), (["exit", "7"], 7), (["exit", "255"], 255)):
        assert container("/bin/sh", "-c", " ".join(words)).run(check=False).status == status
    box = container("/bin/sleep", "100")
    box.run("--detach")
    assert box.exec("/bin/sh", "-c", "kill -TERM $$", check=False).status == 128 + 15
    box.kill("KILL")


def combined(runtime: Runtime, *arguments: str) -> str:
    """Standard output and error in one pipe, which everybody who has it must let go."""
    argv = [runtime.path, "--root", str(runtime.root), *arguments]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_output_and_errors_in_one_pipe_are_the_output_alone(container: Make) -> None:
    """go-runc and CRI-O parse both together, and wait for the end of the pipe."""
    box = container("/bin/sleep", "100")
    box.create()
    runtime = box.runtime
    assert json.loads(combined(runtime, "state", box.id))["status"] == "created"
    assert combined(runtime, "start", box.id) == ""
    assert json.loads(combined(runtime, "ps", "--format", "json", box.id)) == [box.pid]
    assert [item["id"] for item in json.loads(combined(runtime, "list", "--format=json"))] == [box.id]
    assert json.loads(combined(runtime, "events", "--stats", box.id))["type"] == "stats"
    assert json.loads(combined(runtime, "features"))["ociVersionMax"] == "1.3.0"
    assert combined(runtime, "--version").startswith("ocipy version ")
    for verb in ("pause", "resume", "kill", "delete --force"):
        assert combined(runtime, *verb.split(), box.id) == ""


def test_verbs_need_no_environment(container: Make) -> None:
    """Podman gives kill, delete, pause and resume XDG_RUNTIME_DIR and nothing else."""
    box = container("/bin/sleep", "100")
    bare: dict[str, Any] = {"env": {"XDG_RUNTIME_DIR": "/nowhere"}, "cwd": box.bundle.path}
    box.create(**bare)
    for verb in ("start", "state", "pause", "resume", "kill"):
        assert box.runtime(verb, box.id, **bare).stderr == ""
    assert box.runtime("delete", "--force", box.id, **bare).stderr == ""


def test_features_have_what_engines_ask_for(runtime: Runtime) -> None:
    answer = runtime("features")
    assert answer.stderr == ""
    found = answer.json
    assert "rro" in found["mountOptions"]  # Docker, CRI
    assert "user" in found["linux"]["namespaces"]  # Kubernetes: user namespaces
    assert found["linux"]["mountExtensions"]["idmap"]["enabled"] is True
    assert (found["ociVersionMin"], found["ociVersionMax"]) == ("1.0.0", "1.3.0")  # CRI-O


def test_the_version_is_in_the_shape_that_docker_parses(runtime: Runtime) -> None:
    answer = runtime("--version")
    assert re.search(r"^\w+ version \d+\.\d+\.\d+", answer.stdout)
    assert re.search(r"^commit: \S+$", answer.stdout, re.MULTILINE)
    assert answer.stderr == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_is_a_success(runtime: Runtime, verb: str) -> None:
    for argv in ((verb, "--help"), (verb, "-h"), ("help", verb)):
        answer = runtime(*argv)
        assert answer.stdout.startswith(f"ocipy {verb}: ")
        assert answer.stderr == ""


ACCEPTED = [
    "--cgroup-manager=disabled", "--cgroup-manager cgroupfs", "--cgroup-manager=systemd", "--systemd-cgroup", "--rootless true",
    "--rootless=false", "--rootless auto", "--rootless=1", "--log-format=json", "--log-format text", "--debug", "--debug=false",
    "-debug=false",
    "--log-level error", "--log-level=warning",
]  # fmt: skip


@pytest.mark.parametrize("flags", ACCEPTED)
def test_global_flags_are_taken(runtime: Runtime, flags: str) -> None:
    answer = runtime(*flags.split(), "list", "--quiet")
    assert answer.stdout == ""
    assert answer.stderr == "" or "--debug" in flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--cgroup-manager=none", "invalid cgroup-manager: none (cgroupfs, systemd or disabled)"),
        ("--rootless maybe", "invalid rootless: maybe (true, false or auto)"),
        ("--log-format xml", "invalid log-format: xml (text or json)"),
        ("--debug=maybe", 'invalid boolean value "maybe" for -debug'),
        ("--criu /usr/sbin/criu", "flag provided but not defined: -criu (see ocipy --help)"),
    ],
)
def test_global_flags_with_other_values_are_refused(runtime: Runtime, flags: str, words: str) -> None:
    answer = runtime(*flags.split(), "list", check=False)
    assert (answer.status, answer.stderr) == (1, f"ocipy: {words}\n")


# Verb by verb, the flags that runc has: short names too.
FLAGS = {
    "create": "bundle b console-socket pidfd-socket pid-file no-pivot no-new-keyring preserve-fds",
    "run": "bundle b console-socket pidfd-socket detach d keep pid-file no-subreaper no-pivot no-new-keyring preserve-fds",
    "exec": "console-socket pidfd-socket cwd env e tty t user u additional-gids g process p detach d pid-file process-label "
    "apparmor no-new-privs cap c preserve-fds cgroup ignore-paused",
    "kill": "all a regex",
    "delete": "force f regex",
    "list": "format f quiet q",
    "ps": "format f",
    "update": "resources r blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period cpu-rt-runtime cpu-idle cpuset-cpus "
    "cpuset-mems kernel-memory kernel-memory-tcp memory memory-reservation memory-swap pids-limit l3-cache-schema mem-bw-schema",
    "events": "interval stats",
    "spec": "bundle b rootless",
}


@pytest.mark.parametrize("verb", FLAGS)
def test_every_flag_of_runc_is_there(verb: str) -> None:
    names = {name for flag in VERBS[verb].flags for name in flag[:2]}
    assert set(FLAGS[verb].split()) <= names


@pytest.mark.parametrize("length", [1, 255])
def test_an_id_is_made_of_these_letters(container: Make, length: int) -> None:
    name = ("aZ0_+.-" * 40)[:length]
    box = container("/bin/true", id=name)
    box.output = box.errors = box.bundle.path / "output"  # the container's name would be too long for a file's
    box.create()
    assert box.state()["id"] == name
    box.delete()
