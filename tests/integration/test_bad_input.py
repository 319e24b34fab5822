"""Input that is wrong in every way: one line that says what and where, exit status 1, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Bundle, Config, Container, Result, Runtime, busybox_rootfs, copy_rootfs, default_config, hierarchies

GONE = object()
LONG = "x" * 70_000
GOOD = json.dumps(default_config(["/bin/true"])).encode()

MakeContainer = Callable[..., Container]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox, shared by the containers of this module: none of them gets to write to it."""
    rootfs = copy_rootfs(busybox_rootfs(), tmp_path_factory.mktemp("bad") / "rootfs")
    (rootfs / "directory").mkdir()
    (rootfs / "text").write_text("not a program\n")
    (rootfs / "script").write_text("#!/bin/nothing\n")
    (rootfs / "script").chmod(0o755)
    return rootfs


@pytest.fixture
def box(container: MakeContainer, rootfs: Path) -> MakeContainer:
    def make(mutate: Callable[[Config], object] | None = None, *args: str) -> Container:
        return container(*(args or ("/bin/true",)), mutate=mutate, rootfs=rootfs, copy_it=False)

    return make


def is_refused(result: Result, *words: str, status: int = 1) -> None:
    assert result.status == status, str(result)
    assert result.stdout == "", str(result)
    line = result.stderr.removesuffix("\n")
    assert line.startswith("ocipy: "), str(result)
    assert line.isprintable(), str(result)  # one line, and no play with the terminal
    assert len(line) < 6000
    assert "Traceback" not in line
    assert "unexpected" not in line  # what no layer foresaw
    for word in words:
        assert word in line, str(result)


def leaves_nothing(runtime: Runtime, bundle: Bundle | None = None) -> None:
    assert not runtime.root.is_dir() or not os.listdir(runtime.root)
    path = bundle.config.get("linux", {}).get("cgroupsPath", "") if bundle and isinstance(bundle.config.get("linux"), dict) else ""
    if isinstance(path, str) and path.count("/") == 2 and len(path) < 255 and "\0" not in path:
        assert [point for point in hierarchies().values() if os.path.lexists(f"{point}{path}")] == []


def set_(path: str, value: Any) -> Callable[[Config], None]:
    """A change of one property; "+" appends to a list, GONE removes."""

    def change(config: Any) -> None:
        *parents, last = path.split("/")
        for name in parents:
            config = config[int(name)] if isinstance(config, list) else config.setdefault(name, {})
        if last == "+":
            config.append(value)
        elif value is GONE:
            del config[last]
        else:
            config[int(last) if isinstance(config, list) else last] = value

    return change


# ---- what is not a config -----------------------------------------------------------------------------------------------------

TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ":1:1: not JSON"),
    "blank": (b" \n", ":2:1: not JSON"),
    "unfinished": (b'{"a": ', "not JSON"),
    "an array": (b"[]", "[] is not an object"),
    "a string": (b'"x"', "is not an object"),
    "null": (b"null", "null is not an object"),
    "text after the end": (GOOD + b"x", "more text after the end"),
    "two objects": (GOOD * 2, "more text after the end"),
    "trailing comma": (b'{"a": 1,}', "not JSON"),
    "single quotes": (b"{'a': 1}", "not JSON"),
    "comment": (b"// hello\n" + GOOD, "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "not UTF-8"),
    "not UTF-8": (GOOD.replace(b"box", b"b\xffx"), "not UTF-8"),
    "half a surrogate": (GOOD.replace(b"box", rb"b\ud800x"), "/hostname"),
    "NUL bytes": (b"\0" * 100, "not JSON"),
    "NUL in a string": (b'{"a": "\0"}', "invalid control character"),
    "ELF": (b"\x7fELF\x02\x01\x01" + bytes(range(256)), "not UTF-8"),
    "deep arrays": (b"[" * 100_000, "nested more than 64 deep"),
    "deep objects": (b'{"a":' * 1000 + b"1" + b"}" * 1000, "nested more than 64 deep"),
    "infinite": (GOOD.replace(b'"uid": 0', b'"uid": 1e999'), "(/process/user/uid): Infinity is not an integer"),
    "NaN": (GOOD.replace(b'"uid": 0', b'"uid": NaN'), "NaN is not JSON"),
    "a fraction": (GOOD.replace(b'"uid": 0', b'"uid": 0.5'), "0.5 is not an integer"),
    "5000 digits": (GOOD.replace(b'"uid": 0', b'"uid": ' + b"9" * 5000), "a number is too large"),
    "5 MiB": (b" " * (5 << 20), "larger than 4 MiB"),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_config_is_refused_with_its_place(tmp_path: Path, runtime: Runtime, text: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    log = tmp_path / "log"
    result = runtime("--log", log, "--log-format", "json", "create", "--bundle", tmp_path, "a", check=False)
    is_refused(result, f"{tmp_path}/config.json", words)
    (entry,) = log.read_text().splitlines()  # one object: some callers read the file as one
    assert json.loads(entry)["level"] == "error"
    assert f"ocipy: {json.loads(entry)['msg']}\n" == result.stderr
    assert runtime("plan", tmp_path, check=False).stderr == result.stderr  # without a log, more faults would be more lines
    leaves_nothing(runtime)


# ---- properties ------------------------------------------------------------------------------------------------------------------

TMPFS = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
BIND = {"destination": "/tmp", "options": ["bind"]}
DEVICE = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}

PROPERTIES: dict[str, tuple[str, Any, str]] = {
    "no version": ("ociVersion", GONE, "ociVersion is missing"),
    "version 2": ("ociVersion", "2.0.0", "(/ociVersion)"),
    "version of another type": ("ociVersion", 1, "1 is not a string"),
    "no root": ("root", GONE, "root is missing"),
    "root of another type": ("root", "rootfs", "(/root)"),
    "empty root path": ("root/path", "", "(/root/path)"),
    "missing rootfs": ("root/path", "nowhere", 'nowhere" does not exist'),
    "rootfs is a file": ("root/path", "config.json", "is not a directory"),
    "NUL in the rootfs": ("root/path", "a\0b", "(/root/path): has \\u0000"),
    "long rootfs": ("root/path", LONG, "(/root/path): a path of 70000 bytes"),
    "no process": ("process", GONE, "process property must not be empty"),
    "no args": ("process/args", GONE, "args must not be empty"),
    "empty args": ("process/args", [], "args must not be empty"),
    "args as a string": ("process/args", "sh", '(/process/args): "sh" is not an array'),
    "a number among args": ("process/args", ["sh", 1], "(/process/args/1)"),
    "NUL in args": ("process/args", ["a\0b"], "(/process/args/0): has \\u0000"),
    "300 KB argument": ("process/args", ["/bin/true", "x" * 300_000], "(/process/args/1): longer than 131071 bytes"),
    "missing program": ("process/args", ["nothing"], '"nothing": executable file not found in $PATH'),
    "missing program by its path": ("process/args", ["/nothing"], "/nothing: no such file or directory"),
    "program with a long name": ("process/args", [LONG], "executable file not found"),
    "program with an escape sequence": ("process/args", ["a\nb\x1b[31m"], "a\\nb\\x1b[31m"),
    "program is a directory": ("process/args", ["/directory"], "is a directory"),
    "program is text": ("process/args", ["/text"], "permission denied"),
    "relative cwd": ("process/cwd", "tmp", "(/process/cwd)"),
    "cwd is a file": ("process/cwd", "/text", "(/process/cwd): openat2: not a directory"),
    "long cwd": ("process/cwd", "/" + LONG, "(/process/cwd)"),
    "NUL in env": ("process/env", ["A=\0"], "(/process/env/0)"),
    "user by name": ("process/user", "root", "(/process/user)"),
    "uid -1": ("process/user/uid", -1, "-1 is out of range"),
    "uid of the kernel's -1": ("process/user/uid", 2**32 - 1, "is out of range"),
    "capabilities as a string": ("process/capabilities/bounding", "CAP_KILL", "is not an array"),
    "unknown limit": ("process/rlimits/0/type", "RLIMIT_X", "(/process/rlimits/0/type)"),
    "soft above hard": ("process/rlimits/0/soft", 2000, "above the hard limit"),
    "more files than the kernel has": ("process/rlimits/0/hard", 2**40, "nr_open is the most"),
    "terminal without a socket": ("process/terminal", True, "--console-socket"),
    "hostname of 65 letters": ("hostname", "x" * 65, "(/hostname)"),
    "hostname of 70 KB": ("hostname", LONG, "(/hostname)"),
    "mounts as an object": ("mounts", {}, "(/mounts)"),
    "mount without a destination": ("mounts/+", {"type": "tmpfs"}, "(/mounts/7): destination is missing"),
    "mount on the root": ("mounts/+", {**TMPFS, "destination": "/"}, "nothing can be mounted on the root"),
    "mount over a process": ("mounts/+", {**TMPFS, "destination": "/proc/1"}, "below /proc"),
    "long destination": ("mounts/+", {**TMPFS, "destination": "/" + LONG}, "(/mounts/7/destination)"),
    "unknown filesystem": ("mounts/+", {**TMPFS, "type": "nofs"}, "no filesystem nofs"),
    "unknown option": ("mounts/+", {**TMPFS, "options": ["x=1"]}, 'refuses the option "x=1"'),
    "long option": ("mounts/+", {**TMPFS, "options": [LONG]}, "(/mounts/7)"),
    "missing disk": ("mounts/+", {**TMPFS, "type": "ext4", "source": "/dev/none"}, "mount ext4 of /dev/none on /tmp (/mounts/7)"),
    "bind of nothing": ("mounts/+", {**BIND, "source": "/nowhere"}, 'source "/nowhere" does not exist'),
    "bind without a source": ("mounts/+", BIND, "needs a source"),
    "bind of a file on a directory": ("mounts/+", {**BIND, "source": "/etc/passwd"}, "attach /etc/passwd on /tmp (/mounts/7)"),
    "relative hook": ("hooks", {"poststart": [{"path": "x"}]}, "(/hooks/poststart/0/path)"),
    "missing hook": ("hooks", {"createRuntime": [{"path": "/nothing"}]}, "(/hooks/createRuntime/0): execve: no such file"),
    "hook that fails": ("hooks", {"createRuntime": [{"path": "/bin/false"}]}, "exit status 1"),
    "second pid namespace": ("linux/namespaces/+", {"type": "pid"}, "a second pid namespace"),
    "unknown namespace": ("linux/namespaces/+", {"type": "x"}, "(/linux/namespaces/5/type)"),
    "missing namespace": ("linux/namespaces/0/path", "/nothing", "(/linux/namespaces/0/path)"),
    "namespace of another type": ("linux/namespaces/0/path", "/proc/self/ns/net", "not a pid namespace but a network one"),
    "file for a namespace": ("linux/namespaces/0/path", "/etc/passwd", "is not a pid namespace"),
    "user namespace without maps": ("linux/namespaces/+", {"type": "user"}, "linux.uidMappings"),
    "maps without user namespace": ("linux/uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "need a user namespace"),
    "relative masked path": ("linux/maskedPaths", ["proc"], "(/linux/maskedPaths/0)"),
    "sysctl of the host": ("linux/sysctl", {"kernel.pid_max": "9"}, "no namespace has its own"),
    "missing sysctl": ("linux/sysctl", {"net.nothing": "1"}, "(/linux/sysctl/net.nothing)"),
    "value that a sysctl refuses": ("linux/sysctl", {"net.ipv4.ip_forward": "x"}, "(/linux/sysctl/net.ipv4.ip_forward)"),
    "device without numbers": ("linux/devices", [{"path": "/dev/x", "type": "c"}], "(/linux/devices/0): major is missing"),
    "device of no type": ("linux/devices", [{**DEVICE, "type": "z"}], "(/linux/devices/0/type)"),
    "device in the place of a directory": ("linux/devices", [{**DEVICE, "path": "/dev/shm"}], "something else is there"),
    "cgroup above": ("linux/cgroupsPath", "/a/../../b", "(/linux/cgroupsPath)"),
    "cgroup of all": ("linux/cgroupsPath", "/", "(/linux/cgroupsPath)"),
    "long cgroup": ("linux/cgroupsPath", "/" + LONG, "(/linux/cgroupsPath)"),
    "memory as text": ("linux/resources/memory", {"limit": "1G"}, '"1G" is not an integer'),
    "memory for nobody": ("linux/resources/memory", {"limit": 1}, "memory ran out: is linux.resources.memory.limit too small?"),
    "CPUs that are not there": ("linux/resources/cpu", {"cpus": "900"}, "(/linux/resources/cpu/cpus)"),
    "unknown access": ("linux/resources/devices/+", {"allow": True, "access": "q"}, "(/linux/resources/devices/1/access)"),
    "unknown seccomp action": ("linux/seccomp", {"defaultAction": "X"}, "(/linux/seccomp/defaultAction)"),
    "linux as a string": ("linux", "x", "(/linux)"),
}


@pytest.mark.parametrize(("path", "value", "words"), PROPERTIES.values(), ids=PROPERTIES)
def test_property_that_cannot_be_is_refused_with_its_pointer(
    runtime: Runtime, box: MakeContainer, path: str, value: Any, words: str
) -> None:
    container = box(set_(path, value))
    result = runtime("create", "--bundle", container.bundle.path, container.id, check=False)
    is_refused(result, words)
    plan = runtime("plan", container.bundle.path, check=False)
    assert plan.status == 0 or plan.stderr == result.stderr, str(plan)
    leaves_nothing(runtime, container.bundle)


def test_all_faults_are_told_a_line_each(runtime: Runtime, box: MakeContainer) -> None:
    container = box(set_("process/user/uid", "0"))
    container.bundle.config["root"] = 3
    container.bundle.write()
    result = container.create(check=False)
    assert result.status == 1
    assert len(container.errors.read_text().splitlines()) == 2
    leaves_nothing(runtime, container.bundle)


# ---- bundles ---------------------------------------------------------------------------------------------------------------------


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unreadable(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = os.getcwd()
        os.chdir(path.parent)
        end.bind(path.name)
        os.chdir(here)


def absent(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (absent, "config.json not found"),
        (directory, "is a directory"),
        (fifo, "not a regular file"),
        (loop, "too many levels of symbolic links"),
        (endless, "not a regular file"),
        (unreadable, "input/output error"),
        (bound_socket, "config.json"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_config_that_is_no_file_is_refused_at_once(
    tmp_path: Path, runtime: Runtime, make: Callable[[Path], None], words: str
) -> None:
    bundle = tmp_path / "odd"
    bundle.mkdir()
    make(bundle / "config.json")
    for verb in ("create", "run", "plan"):
        line = [bundle] if verb == "plan" else ["--bundle", bundle, "a"]
        is_refused(runtime(verb, *line, check=False, timeout=10), words)
    leaves_nothing(runtime)


@pytest.mark.parametrize("bundle", ["/nowhere", "/etc/passwd", "y" * 300, LONG[:5000], "/tmp/a\x1b[31mb\nc"], ids=range(5))
def test_bundle_that_is_none_is_refused(runtime: Runtime, bundle: str) -> None:
    is_refused(runtime("create", "--bundle", bundle, "a", check=False))
    leaves_nothing(runtime)


# ---- the command line ------------------------------------------------------------------------------------------------------------

LINES: dict[str, str] = {
    "nope": 'unknown command "nope"',
    "help nope": 'unknown command "nope"',
    "--nope list": "flag provided but not defined: -nope",
    "create --nope a": "flag provided but not defined: -nope",
    "create": "requires exactly 1 argument(s), 0 given",
    "create a b": "requires exactly 1 argument(s), 2 given",
    "create --bundle": "flag needs an argument: -bundle",
    "create --preserve-fds x a": "not a number",
    "create --preserve-fds=-1 a": "not a number",
    "create --no-pivot=maybe a": "invalid boolean value",
    "--log-format yaml list": "invalid log-format",
    "--cgroup-manager x list": "invalid cgroup-manager",
    "list a": "requires exactly 0 argument(s)",
    "list --format yaml": "invalid format",
    "plan --format yaml": "invalid format",
    "start": "requires exactly 1 argument(s)",
    "state a b": "requires exactly 1 argument(s)",
    "kill a b c": "requires at most 2 argument(s)",
    "exec": "requires at least 1 argument(s)",
    "spec --bundle /nowhere": "/nowhere",
    "start a": 'container "a" does not exist',
    "state a": 'container "a" does not exist',
    "kill a": 'container "a" does not exist',
    "delete a": 'container "a" does not exist',
    "pause a": 'container "a" does not exist',
}


@pytest.mark.parametrize(("line", "words"), LINES.items(), ids=LINES)
def test_command_line_that_is_wrong_is_refused(tmp_path: Path, runtime: Runtime, line: str, words: str) -> None:
    is_refused(runtime(*line.split(), check=False, cwd=tmp_path), words)
    leaves_nothing(runtime)


@pytest.mark.parametrize("verb", ["create", "delete", "exec"])
@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a b", "a\nb\x1b[31m", "ä", LONG[:300]], ids=range(9))
def test_id_that_is_no_name_is_refused(runtime: Runtime, box: MakeContainer, verb: str, name: str) -> None:
    bundle = box().bundle
    lines: dict[str, list[str]] = {
        "create": ["--bundle", str(bundle.path), name],
        "delete": ["--force", name],
        "exec": [name, "true"],
    }
    line = lines[verb]
    is_refused(runtime(verb, *line, check=False), "container", status=255 if verb == "exec" else 1)
    assert sorted(path.name for path in runtime.directory.iterdir() if path.is_dir()) in ([], ["state"])
    leaves_nothing(runtime, bundle)


@pytest.mark.parametrize("root", ["file", "file/below", "/proc/nowhere", "/dev/null", LONG[:5000]], ids=range(5))
def test_state_directory_that_cannot_be_is_refused(tmp_path: Path, runtime: Runtime, box: MakeContainer, root: str) -> None:
    (tmp_path / "file").touch()
    bundle = box().bundle
    result = runtime("--root", root, "create", "--bundle", bundle.path, "a", check=False, cwd=tmp_path)
    is_refused(result, "state directory", "(--root)")
    leaves_nothing(runtime, bundle)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pid-file", "/nowhere/pid"], "/nowhere/pid: no such file or directory"),
        (["--pid-file", "/"], "pid file /: "),
        (["--preserve-fds", "5"], "not open: 3"),
        (["--pidfd-socket", "/nowhere"], "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flag_that_cannot_be_met_undoes_create(runtime: Runtime, box: MakeContainer, flags: list[str], words: str) -> None:
    container = box()
    is_refused(runtime("create", "--bundle", container.bundle.path, *flags, container.id, check=False), words)
    leaves_nothing(runtime, container.bundle)


# ---- what joins or signals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(box: MakeContainer) -> Container:
    container = box(None, "/bin/sleep", "100")
    container.run("--detach")
    return container


EXECS: dict[str, tuple[list[str], str]] = {
    "no command": ([], "exec needs a command"),
    "missing program": (["nothing"], "executable file not found in $PATH"),
    "empty program": ([""], "must not be an empty string"),
    "directory": (["/directory"], "is a directory"),
    "script without its interpreter": (["/script"], "no such file or directory"),
    "user by name": (["--user", "root", "ID", "true"], 'bad uid "root"'),
    "negative user": (["--user", "-1", "ID", "true"], 'bad uid "-1"'),
    "unknown capability": (["--cap", "CAP_X", "ID", "true"], 'unknown capability "CAP_X"'),
    "relative cwd": (["--cwd", "x", "ID", "true"], "(/cwd)"),
    "missing cwd": (["--cwd", "/nowhere", "ID", "true"], "enter the working directory /nowhere"),
    "missing process file": (["--process", "/nowhere", "ID"], "/nowhere: open: no such file"),
    "process file that is no JSON": (["--process", "/etc/passwd", "ID"], "/etc/passwd:1:1: not JSON"),
    "directory for a process file": (["--process", "/", "ID"], "is a directory"),
    "group by name": (["--additional-gids", "x", "ID", "true"], 'bad gid "x"'),
    "cgroup outside": (["--cgroup", "../x", "ID", "true"], '".." is not allowed'),
    "closed descriptor": (["--preserve-fds", "4", "ID", "true"], "not open: 3"),
    "detached terminal": (["--tty", "--detach", "ID", "true"], "cannot allocate tty if ocipy will detach without setting"),
    "variable without a value": (["-e", "NAME", "ID", "true"], 'invalid value "NAME" for flag -env: write NAME=VALUE'),
    "variable without a name": (["--env==x", "ID", "true"], 'invalid value "=x" for flag -env: write NAME=VALUE'),
    "missing pid file": (["--pid-file", "/nowhere/x", "ID", "true"], "/nowhere/x"),
}


@pytest.mark.parametrize(("argv", "words"), EXECS.values(), ids=EXECS)
def test_exec_that_cannot_be_is_refused_and_the_container_goes_on(
    runtime: Runtime, running: Container, argv: list[str], words: str
) -> None:
    argv = argv if "ID" in argv else ["ID", *argv]
    result = runtime("exec", *(running.id if word == "ID" else word for word in argv), check=False)
    is_refused(result, words, status=1 if "--preserve-fds" in argv else 255)  # the launcher, which knows no verbs, refuses that
    assert (running.cgroup("pids") / "cgroup.procs").read_text().split() == [str(running.pid)]


@pytest.mark.parametrize("signal", ["NOPE", "65", "99999999999", "", "SIG", "KILL ", LONG], ids=range(7))
def test_signal_that_is_none_is_refused(running: Container, signal: str) -> None:
    is_refused(running.kill(signal, check=False), "unknown signal")
    assert running.status == "running"


def test_verb_that_does_not_fit_the_state_is_refused(box: MakeContainer, running: Container) -> None:
    runtime = running.runtime
    is_refused(running.start(check=False), "it is running, not created")
    is_refused(running.delete(check=False), "is not stopped")
    twin = runtime("create", "--bundle", running.bundle.path, running.id, check=False)
    is_refused(twin, f'container with given ID already exists: "{running.id}"')
    neighbour = runtime("create", "--bundle", running.bundle.path, running.id + "x", check=False)
    is_refused(neighbour, "choose another cgroupsPath")
    running.kill("KILL")
    running.wait_for("stopped")
    is_refused(running.kill(check=False), "container not running")
    is_refused(running.start(check=False), "it is stopped, not created")
    is_refused(running.exec("true", check=False), "container not running", status=255)
    running.delete()
    is_refused(running.delete(check=False), "does not exist")
    leaves_nothing(runtime, running.bundle)


def test_state_that_others_damaged_is_told(runtime: Runtime, running: Container) -> None:
    entry = runtime.root / running.id
    shutil.copy(entry / "state", entry / "saved")
    (entry / "state").write_bytes(b"\xff\0" * 1000)
    for verb in ("state", "start", "kill", "delete"):
        is_refused(runtime(verb, running.id, check=False), running.id)
    (entry / "saved").rename(entry / "state")
    assert running.status == "running"
