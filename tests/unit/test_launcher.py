"""The real launcher, in a prefix of its own whose package only reports what it finds when Python runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

from ocipy.cli.options import BOOL, GLOBAL, VERBS

ROOT = Path(__file__).resolve().parents[2]
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
LAUNCHER = Path(sysconfig.get_path("scripts")) / "ocipy"

# Runs in place of ocipy.cli.boot. What Python itself has open while it lists /proc/self/fd is not counted.
REPORTER = """
import json, os, signal, sys
def boot(arguments):
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[int(name)] = os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass
    report = {
        "argv": [word.encode("utf-8", "surrogateescape").hex() for word in sys.argv], "arguments": len(arguments),
        "path": sys.path, "environment": dict(os.environ), "fds": fds, "executable": sys.executable,
        "utf8": sys.flags.utf8_mode, "isolated": sys.flags.isolated, "site": "site" in sys.modules,
        "modules": {name: getattr(sys.modules[name], "__file__", None) for name in ("json", "os", "ocipy")},
        "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "sigchld": int(signal.getsignal(signal.SIGCHLD)),
    }
    with open("report.json", "w") as file:
        json.dump(report, file)
    os._exit(0)
"""


class Prefix:
    """A prefix as pip lays it out; ``run`` starts its launcher in a scratch directory and returns the report."""

    def __init__(self, base: Path) -> None:
        self.path = base / "prefix"
        self.cwd = base / "cwd"
        self.site = self.path / "lib" / VERSION / "site-packages"
        self.launcher = self.path / "bin" / "ocipy"
        (self.path / "bin").mkdir(parents=True)
        self.cwd.mkdir()
        (self.site / "ocipy" / "cli").mkdir(parents=True)
        (self.site / "ocipy" / "__init__.py").touch()
        (self.site / "ocipy" / "cli" / "__init__.py").touch()
        (self.site / "ocipy" / "cli" / "boot.py").write_text(REPORTER)
        python = Path(sys.executable).resolve()
        (self.path / "bin" / VERSION).symlink_to(python)
        (self.path / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        shutil.copy2(LAUNCHER, self.launcher)

    def start(self, *command: str | bytes, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command or [self.launcher], cwd=self.cwd, env=env or {}, capture_output=True, timeout=60, **options
        )

    def report(self, *command: str | bytes, env: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        done = self.start(*command, env=env, **options)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        report: dict[str, Any] = json.loads((self.cwd / "report.json").read_text())
        return report

    def run(self, *arguments: str | bytes, **options: Any) -> dict[str, Any]:
        return self.report(str(self.launcher), *arguments, **options)

    def shell(self, script: str, *arguments: str, **options: Any) -> dict[str, Any]:
        """sh with the launcher as $0."""
        return self.report("/bin/sh", "-c", script, str(self.launcher), *arguments, **options)


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    return Prefix(tmp_path)


def inherited(report: dict[str, Any]) -> set[int]:
    return {int(fd) for fd, target in report["fds"].items() if not target.startswith("/proc/")}


def words(report: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(word) for word in report["argv"]]


def test_python_runs_isolated_without_site(prefix: Prefix) -> None:
    report = prefix.run("state", "x")
    assert (report["isolated"], report["utf8"], report["site"]) == (1, 1, False)
    assert report["executable"] == str(prefix.path / "bin" / VERSION)


def test_path_is_the_standard_library_then_the_one_site_directory(prefix: Prefix) -> None:
    path = prefix.run()["path"]
    assert path[-1] == str(prefix.site)
    stdlib = sysconfig.get_path("stdlib")
    assert all(entry.startswith(stdlib.removesuffix(f"/{VERSION}")) for entry in path[:-1])
    assert not any(entry.endswith("-packages") for entry in path[:-1])


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="none"),
        pytest.param([b"exec", b"id", b"--", b"-c", b"--", b""], id="dashes and empty words"),
        pytest.param(["käse\u2603".encode(), b"\xff\xfe"], id="unicode and bytes that are not"),
        pytest.param([b"-X", b"dev", b"-V", b"-c", b"print(1)"], id="options of python"),
    ],
)
def test_arguments_arrive_as_they_were_given(prefix: Prefix, arguments: list[bytes]) -> None:
    report = prefix.run(*arguments)
    assert words(report) == [os.fsencode(prefix.launcher), *arguments]
    assert report["arguments"] == len(arguments)


def test_launcher_is_found_through_a_symlink(prefix: Prefix, tmp_path: Path) -> None:
    link = tmp_path / "runc"
    link.symlink_to(prefix.launcher)
    assert words(prefix.report(str(link), "state"))[1:] == [b"state"]


# ---- environment ----------------------------------------------------------------------------------------------------

HOSTILE = {
    "PYTHONHOME": "/nonexistent",
    "PYTHONPATH": ".",
    "PYTHONSTARTUP": "startup.py",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "1",
    "PYTHONPROFILEIMPORTTIME": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONMALLOC": "nonsense",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "nonsense",
    "PYTHONPLATLIBDIR": "nonsense",
    "PYTHONEXECUTABLE": "/nonexistent",
    "PYTHONUSERBASE": ".",
    "PYTHONBREAKPOINT": "os.abort",
    "PYTHONHASHSEED": "nonsense",
    "PYTHONDUMPREFS": "1",
    "PYTHONTRACEMALLOC": "5",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONCASEOK": "1",
    "LD_PRELOAD": "/nonexistent/preload.so",
    "LD_LIBRARY_PATH": ".",
    "LD_AUDIT": "/nonexistent/audit.so",
    "LD_DEBUG": "all",
    "LD_BIND_NOW": "1",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "MALLOC_CHECK_": "3",
    "GCONV_PATH": ".",
    "LOCPATH": ".",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "nonsense",
    "PATH": ".",
    "HOME": ".",
    "TMPDIR": ".",
    "BASH_ENV": "x",
    "XDG_RUNTIME_DIRS": "x",
    "XDG_RUNTIME_DI": "x",
    "": "x",
}
FIXED = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@pytest.mark.parametrize("name", HOSTILE)
def test_variable_does_not_reach_python(prefix: Prefix, name: str) -> None:
    # env(1), because subprocess refuses a name that is empty
    report = prefix.report("/usr/bin/env", f"{name}={HOSTILE[name]}", str(prefix.launcher)) if name else prefix.run()
    assert report["environment"] == FIXED


def test_allowed_variables_reach_python_and_nothing_else(prefix: Prefix) -> None:
    allowed = {
        "XDG_RUNTIME_DIR": "/run/user/0",
        "NOTIFY_SOCKET": "@abstract",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/0/bus",
        "DBUS_SYSTEM_BUS_ADDRESS": "",
    }
    report = prefix.run(env={**{name: value for name, value in HOSTILE.items() if name[:3] not in ("", "LD_")}, **allowed})
    assert report["environment"] == FIXED | allowed


# ---- imports ----------------------------------------------------------------------------------------------------------

TRAP = 'import posix\nposix.close(posix.open("trapped", posix.O_CREAT | posix.O_WRONLY))\n'
STANDARD = ("json", "os", "encodings", "__future__", "posixpath", "signal", "stat", "abc", "codecs", "zipimport")


TRACED = ["--trace=f state x", "-trace f", "--root r --debug --trace f list", "--trace f exec x --trace"]


@pytest.mark.parametrize("arguments", TRACED)
def test_python_hears_when_a_traced_command_began(prefix: Prefix, arguments: str) -> None:
    before = time.monotonic_ns()
    began, executed = map(int, prefix.run(*arguments.split())["environment"]["OCIPY_TRACE"].split())
    assert before < began < executed < time.monotonic_ns()


@pytest.mark.parametrize("arguments", ["state x", "exec x --trace f", "--root --trace list", "--traces=f list", "list --trace=f"])
def test_nobody_asks_for_the_time_of_another_command(prefix: Prefix, arguments: str) -> None:
    assert "OCIPY_TRACE" not in prefix.run(*arguments.split(), env={"OCIPY_TRACE": "1 2"})["environment"]


@pytest.mark.parametrize("name", [*STANDARD, "ocipy", "site", "sitecustomize", "usercustomize"])
def test_module_in_the_current_directory_is_not_imported(prefix: Prefix, name: str) -> None:
    (prefix.cwd / f"{name}.py").write_text(TRAP)
    (prefix.cwd / f"{name}").mkdir()
    (prefix.cwd / f"{name}" / "__init__.py").write_text(TRAP)
    report = prefix.run("create", "x")
    assert report["modules"]["ocipy"].startswith(str(prefix.site))
    assert not (prefix.cwd / "trapped").exists()


@pytest.mark.parametrize("name", [*STANDARD, "site", "sitecustomize", "usercustomize"])
def test_module_in_the_site_directory_does_not_stand_in_for_a_standard_one(prefix: Prefix, name: str) -> None:
    (prefix.site / f"{name}.py").write_text(TRAP)
    prefix.run("create", "x")
    assert not (prefix.cwd / "trapped").exists()


def test_pth_file_does_not_run(prefix: Prefix) -> None:
    (prefix.site / "evil.pth").write_text('import posix; posix.mkdir("trapped")\n')
    prefix.run("create", "x")
    assert not (prefix.cwd / "trapped").exists()


# ---- descriptors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_stdio_becomes_dev_null(prefix: Prefix, closed: str) -> None:
    report = prefix.shell(f'exec "$0" state x {closed}')
    fds = {0: "<&-", 1: ">&-", 2: "2>&-"}
    for fd, mark in fds.items():
        assert (report["fds"][str(fd)] == "/dev/null") >= (mark in closed.split())
    assert inherited(report) == {0, 1, 2}


def test_leaked_descriptors_are_gone_in_python(prefix: Prefix) -> None:
    leaked = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(200)]
    try:
        report = prefix.run("state", "x", pass_fds=leaked)
    finally:
        for fd in leaked:
            os.close(fd)
    assert inherited(report) == {0, 1, 2}


OPEN_THREE = "exec 3</dev/zero 4</dev/zero 5</dev/zero; "


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ("create --preserve-fds 2 id", 2),
        ("create --preserve-fds=2 id", 2),
        ("create -preserve-fds 2 id", 2),
        ("create -preserve-fds=2 id", 2),
        ("create id --preserve-fds 2", 2),
        ("create --bundle --preserve-fds id", 0),
        ("--root /x --log=y create --preserve-fds 3 id", 3),
        ("exec --preserve-fds 2 id program", 2),
        ("exec -e A=B --user 0:0 --preserve-fds 1 id program", 1),
        ("exec id program --preserve-fds 2", 0),
        ("exec --user 0 -t id program --preserve-fds=2", 0),
        ("exec -- id --preserve-fds=2", 0),
        ("create -- --preserve-fds=2", 0),
        ("create --preserve-fds nonsense id", 0),
        ("create --preserve-fds -1 id", 0),
        ("create --preserve-fds= id", 0),
        ("create --preserve-fds", 0),
        ("create --preserve-fdsx=2 id", 0),
    ],
)
def test_preserved_descriptors_stay_and_no_other(prefix: Prefix, arguments: str, kept: int) -> None:
    report = prefix.shell(OPEN_THREE + f'exec "$0" {arguments}')
    assert inherited(report) == set(range(3 + kept))


@pytest.mark.parametrize("count", ["1", "7", "999999", "4194304"])
def test_preserved_descriptor_that_is_not_open_is_one_line(prefix: Prefix, count: str) -> None:
    done = prefix.start(str(prefix.launcher), "run", "--preserve-fds", count, "id")
    assert done.returncode == 1
    assert done.stderr == b"ocipy: --preserve-fds names a file descriptor that is not open: 3\n"
    assert done.stdout == b""


def test_listen_fds_come_before_preserved_ones(prefix: Prefix) -> None:
    script = OPEN_THREE + 'LISTEN_FDNAMES=a:b LISTEN_FDS=2 LISTEN_PID=$$ exec "$0" run --preserve-fds=1 id'
    report = prefix.shell(script)
    assert inherited(report) == {0, 1, 2, 3, 4, 5}
    assert report["environment"]["LISTEN_FDS"] == "2"
    assert report["environment"]["LISTEN_FDNAMES"] == "a:b"


def test_listen_fds_of_another_process_are_dropped(prefix: Prefix) -> None:
    report = prefix.shell(OPEN_THREE + 'LISTEN_FDS=2 LISTEN_PID=1 exec "$0" run id')
    assert inherited(report) == {0, 1, 2}
    assert report["environment"] == FIXED


def test_a_pid_of_seven_digits_is_one_too(prefix: Prefix) -> None:
    """As 64-bit machines give them; here zeros make up the digits."""
    report = prefix.shell(OPEN_THREE + 'LISTEN_FDS=1 LISTEN_PID=$(printf %07d $$) exec "$0" run id')
    assert inherited(report) == {0, 1, 2, 3}


def test_listen_fd_that_is_not_open_is_one_line(prefix: Prefix) -> None:
    done = prefix.start(str(prefix.launcher), "run", "id", env={"LISTEN_FDS": "1"})
    assert done.stderr == b"ocipy: LISTEN_FDS names a file descriptor that is not open: 3\n"


def test_options_that_take_a_value_are_those_of_the_command_line() -> None:
    source = (ROOT / "ocipy" / "_native" / "launcher.c").read_text()
    table = re.search(r"valued_options\[\] = \{(.*?)\};", source, re.DOTALL)
    assert table
    known = set(re.findall(r'"([^"]+)"', table[1]))
    flags = [flag for flag in (*GLOBAL, *VERBS["exec"].flags) if flag[2] != BOOL]
    assert {name for flag in flags for name in flag[:2] if name} <= known
    assert not known & {name for flag in (*GLOBAL, *VERBS["exec"].flags) if flag[2] == BOOL for name in flag[:2]}


# ---- signals and failures --------------------------------------------------------------------------------------------------


def test_blocked_and_ignored_signals_of_the_caller_do_not_reach_python(prefix: Prefix) -> None:
    def spoil() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    report = prefix.run("state", "x", preexec_fn=spoil)
    assert report["blocked"] == []
    assert report["sigchld"] == signal.SIG_DFL


def test_missing_package_is_one_line(prefix: Prefix) -> None:
    shutil.rmtree(prefix.site / "ocipy")
    done = prefix.start(str(prefix.launcher))
    assert done.returncode == 1
    assert done.stderr.decode() == f"ocipy: the package ocipy is not in {prefix.site}: reinstall ocipy\n"


def test_package_in_dist_packages_is_found(prefix: Prefix) -> None:
    target = prefix.path / "lib" / "python3" / "dist-packages"
    target.parent.mkdir()
    prefix.site.rename(target)
    assert prefix.run()["path"][-1] == str(target)


def test_outside_a_virtual_environment_other_site_directories_follow(prefix: Prefix) -> None:
    (prefix.path / "pyvenv.cfg").unlink()
    other = prefix.path / "lib" / "python3" / "dist-packages"
    other.mkdir(parents=True)
    path = prefix.run()["path"]
    assert path.index(str(prefix.site)) < path.index(str(other))


def test_installed_launcher_runs_the_installed_package() -> None:
    done = subprocess.run([LAUNCHER, "--version"], capture_output=True, text=True, timeout=60, env={}, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ocipy version ")
