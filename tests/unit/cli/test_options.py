from __future__ import annotations

import pytest

from ocipy.cli.help import text
from ocipy.cli.options import BOOL, GLOBAL, VERBS, Invocation, parse
from ocipy.errors import UsageError


def parsed(*argv: str) -> Invocation:
    invocation = Invocation()
    parse(list(argv), invocation)
    return invocation


@pytest.mark.parametrize(
    "argv",
    [
        ("kill", "--all", "a", "9"),
        ("kill", "-a", "a", "9"),
        ("kill", "-all", "a", "9"),
        ("kill", "--all=true", "a", "9"),
        ("kill", "-a=1", "a", "9"),
        ("kill", "a", "9", "--all"),
        ("kill", "a", "--all", "9"),
        ("kill", "--all=false", "--all", "--", "a", "9"),
    ],
    ids=" ".join,
)
def test_every_way_to_write_a_boolean(argv: tuple[str, ...]) -> None:
    found = parsed(*argv)
    assert (found.verb, found.args, found["all"]) == ("kill", ["a", "9"], True)


@pytest.mark.parametrize("words", ["--bundle /b", "--bundle=/b", "-bundle /b", "-b /b", "-b=/b", "--b /b"])
def test_every_way_to_write_a_value(words: str) -> None:
    assert parsed("create", *words.split(), "a")["bundle"] == "/b"
    assert parsed("create", "a", *words.split())["bundle"] == "/b"


def test_a_value_may_look_like_a_flag_and_hold_equals_signs() -> None:
    found = parsed("exec", "-e", "A=--b", "--env=B=1=2", "--cwd", "-x", "a", "sh")
    assert found["env"] == ["A=--b", "B=1=2"]
    assert found["cwd"] == "-x"


def test_flags_after_the_container_of_exec_belong_to_its_command() -> None:
    found = parsed("exec", "-t", "a", "ls", "-l", "--env", "--", "x")
    assert found.args == ["a", "ls", "-l", "--env", "--", "x"]
    assert found["tty"]
    assert found["env"] == []


def test_global_flags_come_before_the_command() -> None:
    found = parsed("--root", "/r", "--log=/l", "--log-format", "json", "--systemd-cgroup", "delete", "--force", "a")
    assert (found["root"], found["log"], found["log-format"], found["systemd-cgroup"]) == ("/r", "/l", "json", True)
    assert (found.verb, found.args, found["force"]) == ("delete", ["a"], True)


# What engines really send (docs/architecture.md, the contract with callers).
@pytest.mark.parametrize(
    "line",
    [
        "--root /r --debug --log /b/log.json --log-format json --systemd-cgroup create --bundle /b --pid-file /p --no-pivot ID",
        "create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot --no-new-keyring ID",
        "--log /b/log.json --log-format json exec --process /tmp/p --console-socket /s --detach --pid-file /b/x.pid ID",
        "--root=/r kill --all ID 9",
        "--log-format=json --log /l --cgroup-manager disabled create --bundle /b --pid-file /p --preserve-fds 2 ID",
        "exec --pid-file /p --process /f --detach --preserve-fds 1 ID",
        "--root=/r --systemd-cgroup create --bundle /b --pid-file /p --console-socket=/s ID",
        "exec -d --console-socket=/s --tty --pid-file=/p ID CMD -x",
        "--log /f --log-format json run --bundle /b --no-pivot --keep ID",
        "--log /f --log-format json exec --process /f --pid-file /p ID",
        "list --format=json",
        "create -bundle /b ID",
        "run --no-subreaper -d ID",
        "kill ID SIGKILL",
        "kill -a ID 15",
        "delete --force ID",
        "--root /r --log /b/log.json --log-format json pause ID",
        "resume ID",
        "events --stats ID",
        "events --interval=5s ID",
        "--root /r --log-format json update --resources=- ID",
        "--root /r update --resources - ID",
        "update --resources=/f ID",
        "update --cpu-quota -1 --memory=64m ID",
        "--root /r --log-format json ps --format json ID",
        "ps --format table ID -o pid,comm",
        "features",
        "--rootless true state ID",
        "create --pidfd-socket /s ID",
    ],
)
def test_what_engines_send_is_understood(line: str) -> None:
    found = parsed(*line.split())
    assert found.verb in line.split()
    assert found.args[:1] == (["ID"] if "ID" in line else [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--foo", "flag provided but not defined: -foo (see ocipy --help)"),
        ("kill -x a", "flag provided but not defined: -x (see ocipy kill --help)"),
        ("kill a -9", "flag provided but not defined: -9 (see ocipy kill --help)"),
        ("kill --=1 a", "flag provided but not defined: - (see ocipy kill --help)"),
        ("--root", "flag needs an argument: -root (see ocipy --help)"),
        ("create a --bundle", "flag needs an argument: -bundle (see ocipy create --help)"),
        ("delete --force=maybe a", 'invalid boolean value "maybe" for -force'),
        ("create --preserve-fds -1 a", 'invalid value "-1" for flag -preserve-fds: not a number'),
        ("create --preserve-fds=99999999999 a", 'invalid value "99999999999" for flag -preserve-fds: not a number'),
        ("nosuch", 'unknown command "nosuch" (ocipy --help lists the commands)'),
        ("state", '"state" requires exactly 1 argument(s), 0 given: ocipy state CONTAINER'),
        ("state a b", '"state" requires exactly 1 argument(s), 2 given: ocipy state CONTAINER'),
        ("kill", '"kill" requires at least 1 argument(s), 0 given: ocipy kill CONTAINER [SIGNAL]'),
        ("kill a b c", '"kill" requires at most 2 argument(s), 3 given: ocipy kill CONTAINER [SIGNAL]'),
        ("list a", '"list" requires exactly 0 argument(s), 1 given: ocipy list'),
    ],
)
def test_a_wrong_command_line_is_refused_in_words(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(*line.split())
    assert str(caught.value) == message


def test_global_flags_are_known_even_when_the_rest_is_wrong() -> None:
    invocation = Invocation()
    with pytest.raises(UsageError):
        parse(["--log", "/l", "state"], invocation)
    assert invocation["log"] == "/l"


@pytest.mark.parametrize("line", ["--help", "-h", "help", "", "state --help", "help state", "state a -h"])
def test_help_needs_nothing_else(line: str) -> None:
    found = parsed(*line.split())
    assert found["help"]
    assert found.verb == ("state" if "state" in line else "")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_names_every_flag(verb: str) -> None:
    lines = {line.split()[0].strip(","): line for line in text(verb).splitlines() if line.startswith("  --")}
    for name, short, kind, _, help_text in VERBS[verb].flags if verb else GLOBAL:
        line = lines[f"--{name}"]
        assert help_text in line
        assert (f"-{short}" in line) or not short
        assert (" VALUE" in line or " N " in line) == (kind != BOOL)


@pytest.mark.parametrize("verb", VERBS)
def test_no_flag_of_a_verb_hides_another(verb: str) -> None:
    names = [name for flag in (*GLOBAL, *VERBS[verb].flags) for name in flag[:2] if name and flag[0] != "help"]
    if verb == "spec":
        names.remove("rootless")  # as in runc: a mode before the command, a boolean after it
        assert not parsed("--rootless", "true", "spec")["rootless"]
        assert parsed("spec", "--rootless")["rootless"] is True
    assert len(names) == len(set(names))
