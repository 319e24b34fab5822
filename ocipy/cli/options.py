"""The command line as a table, and the parser of Go-style flags that reads it.

``--name value``, ``--name=value``, ``-n value``, ``-n=value``, one dash or two before either name, booleans alone or as
``--name=false``; flags and arguments may be mixed up to ``--``, except for ``exec`` and ``ps``, where the first argument ends them.
Callers read some of the messages: "flag needs an argument" and "flag provided but not defined".
"""

from __future__ import annotations

from ocipy.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOOL, TEXT, NUMBER, LIST = "bool", "text", "number", "list"

Flag = tuple[str, str, str, "str | None", str]  # name, short name, kind, default (None: of the kind), help

GLOBAL: tuple[Flag, ...] = (
    ("root", "", TEXT, None, "directory of the containers' state (default: /run/ocipy, or $XDG_RUNTIME_DIR/ocipy)"),
    ("log", "", TEXT, None, "file that errors and warnings are appended to, instead of standard error"),
    ("log-format", "", TEXT, "text", "text or json"),
    ("log-level", "", TEXT, None, "error, warning, info or debug: what is told besides errors (default: warning)"),
    ("debug", "", BOOL, None, "the same as --log-level debug; also the origin of unexpected errors"),
    ("trace", "", TEXT, None, "file that gets the timeline of the command, as Chrome's trace JSON (Perfetto, speedscope)"),
    ("systemd-cgroup", "", BOOL, None, "cgroups through systemd: cgroupsPath is slice:prefix:name"),
    ("cgroup-manager", "", TEXT, None, "cgroupfs, systemd or disabled"),
    ("rootless", "", TEXT, "auto", "ignore cgroup permission errors: true, false or auto"),
    ("strict", "", BOOL, None, "refuse what would otherwise be ignored with a warning"),
    ("help", "h", BOOL, None, "show this text"),
    ("version", "v", BOOL, None, "show the version"),
)
_HELP: Flag = ("help", "h", BOOL, None, "show this text")
_BUNDLE: Flag = ("bundle", "b", TEXT, None, "directory with config.json and the root filesystem (default: here)")
_PRESERVE: Flag = ("preserve-fds", "", NUMBER, None, "number of extra file descriptors to pass, after stdio and LISTEN_FDS")
_REGEX: Flag = ("regex", "r", BOOL, None, "CONTAINER is a regular expression: all whose id it is found in")
_PID_FILE: Flag = ("pid-file", "", TEXT, None, "file that gets the process id, in digits")
_TERMINAL: tuple[Flag, ...] = (
    ("console-socket", "", TEXT, None, "unix socket that receives the terminal's file descriptor"),
    ("pidfd-socket", "", TEXT, None, "unix socket that receives a pidfd of the process"),
)
_MAKE: tuple[Flag, ...] = (
    ("no-pivot", "", BOOL, None, "move the root mount instead of pivot_root: for a root filesystem on a ramdisk"),
    ("no-new-keyring", "", BOOL, None, "keep the caller's session keyring"),
)


class Verb:
    """One command: its arguments for the usage line, how many (``most`` None: no limit), its flags, one line of help."""

    __slots__ = ("arguments", "flags", "least", "mixed", "most", "summary")

    def __init__(
        self, arguments: str, least: int, most: int | None, summary: str, flags: tuple[Flag, ...] = (), *, mixed: bool = True
    ) -> None:
        self.arguments, self.least, self.most, self.summary = arguments, least, most, summary
        self.flags, self.mixed = (*flags, _HELP), mixed


VERBS: dict[str, Verb] = {
    "create": Verb(
        "CONTAINER", 1, 1, "make a container from a bundle; its program waits for start",
        (_BUNDLE, *_TERMINAL, _PID_FILE, *_MAKE, _PRESERVE),
    ),
    "start": Verb("CONTAINER", 1, 1, "execute the program of a created container"),
    "run": Verb(
        "CONTAINER", 1, 1, "create, start, wait and delete in one command",
        (
            _BUNDLE, *_TERMINAL, _PID_FILE, *_MAKE, _PRESERVE,
            ("detach", "d", BOOL, None, "return once the program runs"),
            ("keep", "", BOOL, None, "leave the stopped container for delete"),
            ("no-subreaper", "", BOOL, None, "do not adopt the orphans of the container"),
        ),
    ),
    "exec": Verb(
        "CONTAINER [COMMAND [ARGUMENT...]]", 1, None, "execute another process in a running container",
        (
            *_TERMINAL, _PID_FILE, _PRESERVE,
            ("cwd", "", TEXT, None, "working directory in the container"),
            ("env", "e", LIST, None, "NAME=VALUE to add to the environment (repeatable)"),
            ("tty", "t", BOOL, None, "allocate a terminal"),
            ("user", "u", TEXT, None, "UID[:GID]"),
            ("additional-gids", "g", LIST, None, "supplementary group id (repeatable)"),
            ("process", "p", TEXT, None, "file with the process object, instead of a command"),
            ("detach", "d", BOOL, None, "return once the process runs"),
            ("process-label", "", TEXT, None, "SELinux label of the process"),
            ("apparmor", "", TEXT, None, "AppArmor profile of the process"),
            ("no-new-privs", "", BOOL, None, "set no_new_privs"),
            ("cap", "c", LIST, None, "capability to add (repeatable)"),
            ("cgroup", "", LIST, None, "[CONTROLLER:]PATH of a cgroup below the container's (repeatable)"),
            ("ignore-paused", "", BOOL, None, "also in a paused container"),
        ),
        mixed=False,
    ),
    "state": Verb("CONTAINER", 1, 1, "print the state of a container as JSON"),
    "kill": Verb(
        "CONTAINER [SIGNAL]", 1, 2, "send a signal, SIGTERM by default, to the container's first process",
        (("all", "a", BOOL, None, "to every process of the container"), _REGEX),
    ),
    "delete": Verb(
        "CONTAINER", 1, 1, "remove what is left of a stopped or never started container",
        (("force", "f", BOOL, None, "kill it first if it runs; an absent container is no error"), _REGEX),
    ),
    "pause": Verb("CONTAINER", 1, 1, "freeze every process of a container"),
    "resume": Verb("CONTAINER", 1, 1, "let the processes of a paused container run again"),
    "mounts": Verb(
        "add|remove CONTAINER FILE", 3, 3, "make or take away mounts in a running container; FILE: a list as in config.json"
    ),
    "list": Verb(
        "", 0, 0, "list the containers",
        (
            ("format", "f", TEXT, "table", "table or json"),
            ("quiet", "q", BOOL, None, "only the ids"),
        ),
    ),
    "ps": Verb(
        "CONTAINER [OPTION...]", 1, None, "list the processes of a container; options are those of the program ps (default: -ef)",
        (("format", "f", TEXT, "table", "table or json"),),
        mixed=False,
    ),
    "update": Verb(
        "CONTAINER", 1, 1, "change the limits of a container: all that are named, or none",
        (
            ("resources", "r", TEXT, None, "file with the resources object of the specification, - for standard input"),
            ("blkio-weight", "", TEXT, None, "relative weight of block I/O, 10 to 1000"),
            ("cpu-period", "", TEXT, None, "CPU period in microseconds"),
            ("cpu-quota", "", TEXT, None, "CPU time in each period in microseconds, -1 for no limit"),
            ("cpu-burst", "", TEXT, None, "CPU time that may be saved up in microseconds"),
            ("cpu-share", "", TEXT, None, "relative weight of the CPU, 2 to 262144"),
            ("cpu-rt-period", "", TEXT, None, "realtime CPU period in microseconds"),
            ("cpu-rt-runtime", "", TEXT, None, "realtime CPU time in each period in microseconds"),
            ("cpu-idle", "", TEXT, None, "1 to run only when nothing else wants to, 0 otherwise"),
            ("cpuset-cpus", "", TEXT, None, "CPUs to use, such as 0-3,7"),
            ("cpuset-mems", "", TEXT, None, "memory nodes to use"),
            ("memory", "", TEXT, None, "memory limit in bytes or with a unit (k, m, g, t), -1 for no limit"),
            ("memory-reservation", "", TEXT, None, "memory that is left when the host needs some, a size"),
            ("memory-swap", "", TEXT, None, "limit of memory and swap together, a size, -1 for no limit"),
            ("pids-limit", "", TEXT, None, "number of processes and threads, -1 for no limit"),
            ("kernel-memory", "", TEXT, None, "obsolete and ignored: kernels do not have it any more"),
            ("kernel-memory-tcp", "", TEXT, None, "obsolete and ignored"),
            ("l3-cache-schema", "", TEXT, None, "share of the L3 cache (L3:0=ff;1=ff), for linux.intelRdt"),
            ("mem-bw-schema", "", TEXT, None, "share of the memory bandwidth (MB:0=50;1=50), for linux.intelRdt"),
        ),
    ),
    "events": Verb(
        "CONTAINER", 1, 1, "print what a container uses, and when it runs out of memory, as lines of JSON until it ends",
        (
            ("interval", "", TEXT, "5s", "how often the use is told, such as 500ms or 1m"),
            ("stats", "", BOOL, None, "tell the use once and return"),
        ),
    ),
    "spec": Verb(
        "", 0, 0, "write a config.json to begin with",
        (_BUNDLE, ("rootless", "", BOOL, None, "for a container made without root")),
    ),
    "features": Verb("", 0, 0, "print what this runtime supports as JSON"),
    "plan": Verb(
        "[BUNDLE]", 0, 1, "print every step that create would do, and do none",
        (_BUNDLE, ("format", "f", TEXT, "text", "text or json"), *_MAKE, _PRESERVE),
    ),
    "completion": Verb("bash|zsh|fish", 1, 1, "print a script that completes the command line of ocipy in a shell"),
}  # fmt: skip


class Invocation:
    """What the caller asked for: ``verb``, ``args``, and ``flags`` by long name, the global ones among them."""

    __slots__ = ("args", "flags", "verb")

    def __init__(self) -> None:
        self.verb = ""
        self.args: list[str] = []
        self.flags: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The value of a flag: bool, str ("" when not given), int, or list of str."""
        return self.flags[name]


TRUE = ("1", "t", "T", "true", "TRUE", "True")
FALSE = ("0", "f", "F", "false", "FALSE", "False")


def parse(argv: list[str], into: Invocation) -> None:
    """Read argv (without the program's name) into ``into``, which holds the global flags even if the rest is wrong.

    Raises UsageError. Only --help or --version leave ``into.verb`` empty, or the number of arguments unchecked.
    """
    _defaults(GLOBAL, into.flags)
    rest = _scan(argv, GLOBAL, into.flags, into.args, "", mixed=False)
    if not rest and not into.args:
        into.flags["help"] = into.flags["help"] or not into.flags["version"]
        return
    name, *words = into.args + rest
    into.args = []
    if name in ("help", "h"):
        into.flags["help"] = True
        into.verb = _known(words[0]) if words else ""
        return
    into.verb = _known(name)
    verb = VERBS[name]
    _defaults(verb.flags, into.flags)
    into.args += _scan(words, verb.flags, into.flags, into.args, name, mixed=verb.mixed)
    if not into.flags["help"]:
        _check_count(name, verb, len(into.args))


def _known(name: str) -> str:
    if name not in VERBS:
        raise UsageError(f'unknown command "{name}" (ocipy --help lists the commands)')
    return name


def _defaults(flags: tuple[Flag, ...], values: dict[str, Any]) -> None:
    for name, _, kind, default, _ in flags:
        if kind == BOOL:
            values[name] = name == "help" and values.get(name, False)
        elif kind == LIST:
            values[name] = []
        else:
            values[name] = 0 if kind == NUMBER else default or ""


def _scan(
    words: list[str], flags: tuple[Flag, ...], values: dict[str, Any], args: list[str], verb: str, *, mixed: bool
) -> list[str]:
    """Take flags off ``words`` into ``values``, arguments into ``args``; returns what follows ``--`` or the end of the flags."""
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            return words[at:]
        if word[:1] != "-" or word == "-":
            args.append(word)
            if not mixed:
                return words[at:]
            continue
        name, equals, value = word[2 if word[1] == "-" else 1 :].partition("=")
        flag = _find(name, flags, verb)
        if not equals and flag[2] != BOOL:
            if at == len(words):
                raise UsageError(f"flag needs an argument: -{name}{_see(verb)}")
            value = words[at]
            at += 1
        _set(flag, name, value if equals or flag[2] != BOOL else "true", values)
    return []


def _find(name: str, flags: tuple[Flag, ...], verb: str) -> Flag:
    for flag in flags:
        if name and name in (flag[0], flag[1]):
            return flag
    raise UsageError(f"flag provided but not defined: -{name}{_see(verb)}")


def _set(flag: Flag, name: str, value: str, values: dict[str, Any]) -> None:
    kind = flag[2]
    if kind == BOOL:
        if value not in TRUE and value not in FALSE:
            raise UsageError(f'invalid boolean value "{value}" for -{name}')
        values[flag[0]] = value in TRUE
    elif kind == NUMBER:
        if not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise UsageError(f'invalid value "{value}" for flag -{name}: not a number')
        values[flag[0]] = int(value)
    elif kind == LIST:
        values[flag[0]].append(value)
    else:
        values[flag[0]] = value


def _see(verb: str) -> str:
    return f" (see ocipy {verb} --help)" if verb else " (see ocipy --help)"


def _check_count(name: str, verb: Verb, count: int) -> None:
    if verb.least <= count and (verb.most is None or count <= verb.most):
        return
    if verb.least == verb.most:
        words = f"exactly {verb.least}"
    else:
        words = f"at least {verb.least}" if count < verb.least else f"at most {verb.most}"
    raise UsageError(f'"{name}" requires {words} argument(s), {count} given: ocipy {name} {verb.arguments}'.rstrip())


def cgroup_manager(invocation: Invocation) -> str:
    """--systemd-cgroup is the old name of --cgroup-manager=systemd."""
    return invocation["cgroup-manager"] or ("systemd" if invocation["systemd-cgroup"] else "cgroupfs")
