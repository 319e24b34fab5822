"""completion: what each shell offers, asked of the shell itself."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles import TIME_SCALE, Container, Runtime, wait_until
from ocipy.cli.completion import argument_kinds
from ocipy.cli.options import GLOBAL, VERBS

Make = Callable[..., Container]
Offer = Callable[..., list[str]]

# Word by word what stands on the line, the last one begun; what is offered (a part of it, where more is).
LINES: list[tuple[list[str], set[str]]] = [
    (["sta"], {"start", "state"}),
    (["--log-f"], {"--log-format"}),
    (["--log-format", ""], {"text", "json"}),
    (["--log-level", "de"], {"debug"}),
    (["--cgroup-manager", ""], {"cgroupfs", "systemd", "disabled"}),
    (["--debug", "--log", "x", "del"], {"delete"}),
    (["delete", "--f"], {"--force"}),
    (["kill", "--re"], {"--regex"}),
    (["--root", "ROOT", "state", ""], {"box-1", "box-2", "other"}),
    (["--root", "ROOT", "state", "box-"], {"box-1", "box-2"}),
    (["--root", "ROOT", "kill", "--all", "o"], {"other"}),
    (["--root", "ROOT", "kill", "other", "US"], {"USR1", "USR2"}),
    (["--root", "ROOT", "exec", "-e", "A=1", "--cwd", "/", "o"], {"other"}),
    (["list", "--format", ""], {"table", "json"}),
    (["list", "-f", "j"], {"json"}),
    (["plan", "--format", ""], {"text", "json"}),
    (["completion", "z"], {"zsh"}),
    (["mounts", ""], {"add", "remove"}),
    (["--root", "ROOT", "mounts", "add", "o"], {"other"}),
]
IDS = [" ".join(words) for words, _ in LINES]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A state directory with containers box-1, box-2 and other: list --quiet needs no more than their names."""
    for name in ("box-1", "box-2", "other"):
        (tmp_path / "root" / name).mkdir(parents=True)
    return tmp_path / "root"


def script(runtime: Runtime, shell: str) -> Path:
    path = runtime.directory / f"completion.{shell}"
    path.write_text(runtime("completion", shell).stdout)
    return path


def need(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


@pytest.fixture
def bash(runtime: Runtime, root: Path) -> Offer:
    """``bash(word, …)``: what the function answers to a line of these words, as bash divides it."""
    shell, path = need("bash"), script(runtime, "bash")

    def offer(*words: str, cwd: Path | None = None) -> list[str]:
        words = tuple(word.replace("ROOT", str(root)) for word in words)
        program = (
            f'source "$1"; shift; COMP_WORDS=({runtime.path} "$@"); COMP_CWORD=$#; _ocipy; '
            'for word in "${COMPREPLY[@]}"; do echo "$word"; done; complete -p ocipy'
        )
        command = [shell, "-c", program, "bash", str(path), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
        assert (done.returncode, done.stderr) == (0, "")
        *offered, last = done.stdout.splitlines()
        assert last == "complete -F _ocipy ocipy"
        return offered

    return offer


@pytest.mark.parametrize(("words", "expected"), LINES, ids=IDS)
def test_bash_offers(bash: Offer, words: list[str], expected: set[str]) -> None:
    assert set(bash(*words)) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list", "--format", "="], {"table", "json"}),
        (["list", "--format", "=", "j"], {"json"}),
        (["--root", "=", "ROOT", "state", "b"], {"box-1", "box-2"}),
        (["--root", "ROOT", "kill", "--all", "=", "true", "o"], {"other"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_divides_words_at_equals_signs(bash: Offer, words: list[str], expected: set[str]) -> None:
    assert set(bash(*words)) == expected


@pytest.mark.parametrize("verb", VERBS)
def test_bash_offers_every_flag_of_every_verb(bash: Offer, verb: str) -> None:
    names = {"--" + flag[0] for flag in VERBS[verb].flags}
    assert names <= set(bash(verb, "-"))
    assert {"--" + flag[0] for flag in GLOBAL} <= set(bash("-"))
    assert set(VERBS) <= set(bash(""))


def test_bash_offers_files_where_there_are_files_and_directories_where_there_are_directories(bash: Offer, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "a directory").mkdir(parents=True)
    (here / "a file").touch()
    assert bash("create", "--bundle", "a", cwd=here) == ["a directory"]
    assert bash("plan", "a", cwd=here) == ["a directory"]
    assert sorted(bash("update", "--resources", "a", cwd=here)) == ["a directory", "a file"]


@pytest.mark.parametrize("line", ["exec a -", "exec a ", "ps a -", "create ", "create --preserve-fds ", "list "])
def test_bash_offers_nothing_where_nothing_is_known(bash: Offer, line: str) -> None:
    assert bash(*line.split(" ")) == []


@pytest.mark.parametrize(("words", "expected"), LINES, ids=IDS)
def test_fish_offers(runtime: Runtime, root: Path, words: list[str], expected: set[str]) -> None:
    shell, path = need("fish"), script(runtime, "fish")
    line = " ".join(["ocipy", *words]).replace("ROOT", str(root))
    environment = {"PATH": f"{os.path.dirname(runtime.path)}:{os.environ['PATH']}", "HOME": str(runtime.directory)}
    command = [shell, "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"', str(path), line]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert {row.split("\t")[0] for row in done.stdout.splitlines()} == expected


class Zsh:
    """An interactive zsh on a terminal."""

    def __init__(self, shell: str, runtime: Runtime) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(
                PATH=f"{os.path.dirname(runtime.path)}:{os.environ['PATH']}", TERM="dumb", ZDOTDIR=str(runtime.directory), PS1="> "
            )
            os.execv(shell, [shell, "-f", "-i"])

    def type(self, text: str, until: str) -> str:
        os.write(self.fd, text.encode())
        found, end = "", time.monotonic() + 20 * TIME_SCALE
        while not re.search(until, found):
            assert time.monotonic() < end, f"no {until!r} in {found!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                found += os.read(self.fd, 65536).decode(errors="replace")
        return found

    def close(self) -> None:
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def answers(offered: Path) -> set[str]:
    return {word.rstrip("= ") for word in re.findall("<(.*)>", offered.read_text())}


def test_zsh_offers(runtime: Runtime, root: Path) -> None:
    zsh = Zsh(need("zsh"), runtime)
    try:
        zsh.type(f"autoload -Uz compinit && compinit -u -D && source {script(runtime, 'zsh')} && echo rea''dy\n", "ready\r")
        # compadd tells what it would add: the shell's own list, without its layout.
        zsh.type(
            "compadd() { local -a offered; builtin compadd -O offered \"$@\"; print -rl -- '<'$^offered'>' >>$OFFERED; "
            'builtin compadd "$@" }; echo rea\'\'dy\n', "ready\r",
        )  # fmt: skip
        for number, (words, expected) in enumerate(LINES):
            offered = runtime.directory / f"offered-{number}"
            offered.touch()
            line = " ".join(["ocipy", *words]).replace("ROOT", str(root))
            zsh.type(f"OFFERED={offered}; echo rea''dy\n", "ready\r")
            zsh.type(line + "\t", ".")
            wait_until(lambda: expected <= answers(offered), 10, f"zsh to offer {expected} for: {line}")  # noqa: B023
            zsh.type(f"\x15echo en''d{number}\n", f"end{number}\r")
    finally:
        zsh.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_free_of_errors_of_syntax(runtime: Runtime, shell: str) -> None:
    done = subprocess.run([need(shell), "-n", script(runtime, shell)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_shells_are_refused(runtime: Runtime) -> None:
    answer = runtime("completion", "ksh", check=False)
    assert (answer.status, answer.stderr) == (1, "ocipy: no completion for ksh: only for bash, zsh, fish\n")


def test_arguments_are_read_off_the_usage_line() -> None:
    assert argument_kinds("kill", VERBS["kill"]) == ["container", "signal"]
    assert argument_kinds("exec", VERBS["exec"]) == ["container"]
    assert argument_kinds("mounts", VERBS["mounts"]) == ["add remove", "container", "file"]
    assert argument_kinds("create", VERBS["create"]) == argument_kinds("list", VERBS["list"]) == []
