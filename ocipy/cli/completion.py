"""completion SHELL: a script for bash, zsh or fish, made from the table of options. Cold.

What an argument may be is read off the usage line of its verb (CONTAINER, SIGNAL, FILE …), what a flag's value may be off KINDS.
"""

from __future__ import annotations

from ocipy.cli.main import write
from ocipy.cli.options import BOOL, GLOBAL, VERBS, Flag, Verb
from ocipy.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation

FILE, DIRECTORY, CONTAINER, SIGNAL = "file", "directory", "container", "signal"
# What a flag's value is: one of the kinds, or words to choose from. What is not here is free text.
KINDS: dict[str, str] = {
    **dict.fromkeys(("root", "bundle"), DIRECTORY),
    **dict.fromkeys(("log", "trace", "console-socket", "pidfd-socket", "pid-file", "process", "resources"), FILE),
    "log-format": "text json",
    "log-level": "error warning info debug",
    "cgroup-manager": "cgroupfs systemd disabled",
    "rootless": "true false auto",
}
FORMATS = {"list": "table json", "ps": "table json", "plan": "text json"}
ARGUMENTS = {"CONTAINER": CONTAINER, "SIGNAL": SIGNAL, "FILE": FILE, "BUNDLE": DIRECTORY}
SIGNALS = "HUP INT QUIT ABRT KILL USR1 USR2 TERM CONT STOP WINCH"


def run(invocation: Invocation) -> int:
    """Print the script."""
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    shell = invocation.args[0]
    if shell not in shells:
        raise UsageError(f"no completion for {shell}: only for {', '.join(shells)}")
    write(shells[shell]())
    return 0


def kind_of(verb: str, flag: Flag) -> str:
    """A kind, words to choose from, or "" for free text; of a flag that takes a value."""
    return FORMATS[verb] if flag[0] == "format" else KINDS.get(flag[0], "")


def argument_kinds(name: str, verb: Verb) -> list[str]:
    """The same for the arguments, by their place; free text ends the list, since what follows is not ours."""
    if name in ("create", "run"):
        return []  # the name of a container that there is not yet
    found = []
    for word in verb.arguments.replace("[", " ").replace("]", " ").split():
        kind = word.replace("|", " ") if "|" in word else ARGUMENTS.get(word, "")
        if not kind:
            break
        found.append(kind)
    return found


def names_of(flag: Flag) -> list[str]:
    """As it is written: --name, -n."""
    return ["--" + flag[0]] + ["-" + flag[1]] * bool(flag[1])


# ---- bash -----------------------------------------------------------------------------------------------------------

_BASH = """\
# Completion of ocipy for bash: source <(ocipy completion bash)

_ocipy() {
    local cur=${COMP_WORDS[COMP_CWORD]} word flag= verb= root= kind= flags i count=0 ended=
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == = ]]; then
            continue
        elif [[ -n $flag ]]; then
            [[ $flag == --root ]] && root=$word
            flag=
        elif [[ $word == -- && -n $verb ]]; then
            ended=1
        elif [[ $word == -?* && -z $ended ]]; then
            _ocipy_takes_value "$verb" "$word" && flag=$word
            [[ -z $flag && ${COMP_WORDS[i + 1]} == = ]] && ((i += 2))
        elif [[ -z $verb ]]; then
            verb=$word
        else
            ((++count))
            case $verb in @UNMIXED@) ended=1 ;; esac
        fi
    done
    [[ $cur == = ]] && cur=
    if [[ -n $flag ]]; then
        _ocipy_value_kind "$verb" "$flag"
    elif [[ $cur == -* && -z $ended ]]; then
        _ocipy_flags "$verb"
        kind=$flags
    elif [[ -z $verb ]]; then
        kind="@VERBS@"
    else
        _ocipy_argument_kind "$verb" "$count"
    fi
    COMPREPLY=()
    case $kind in
        '') ;;
        file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        directory) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        container)
            kind=$("${COMP_WORDS[0]}" ${root:+--root "$root"} list --quiet 2>/dev/null)
            mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$cur") ;;
        signal) mapfile -t COMPREPLY < <(compgen -W "@SIGNALS@" -- "$cur") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$cur") ;;
    esac
}

_ocipy_takes_value() {
    case "$1 $2" in
@VALUED@        *) return 1 ;;
    esac
}

_ocipy_value_kind() {
    case "$1 $2" in
@VALUES@    esac
}

_ocipy_flags() {
    case $1 in
@FLAGS@    esac
}

_ocipy_argument_kind() {
    case "$1 $2" in
@ARGUMENTS@    esac
}

complete -F _ocipy ocipy
"""


def bash() -> str:
    """One function that reads the line so far, and four tables."""
    valued, values, flags, arguments = [], [], [], []
    for verb, table in [("", GLOBAL), *((name, entry.flags) for name, entry in VERBS.items())]:
        taking = [flag for flag in table if flag[2] != BOOL]
        if taking:
            valued.append("|".join(f"'{verb} {name}'" for flag in taking for name in names_of(flag)) + ") return 0")
        known = [(flag, kind_of(verb, flag)) for flag in taking]
        values += ["|".join(f"'{verb} {name}'" for name in names_of(flag)) + f") kind='{kind}'" for flag, kind in known if kind]
        flags.append(f"'{verb}') flags='{' '.join(name for flag in table for name in names_of(flag))}'")
    for verb, entry in VERBS.items():
        arguments += [f"'{verb} {place}') kind='{kind}'" for place, kind in enumerate(argument_kinds(verb, entry))]
    replacements = {
        "UNMIXED": "|".join(name for name, entry in VERBS.items() if not entry.mixed),
        "VERBS": " ".join([*VERBS, "help"]),
        "SIGNALS": SIGNALS,
        "VALUED": _cases(valued),
        "VALUES": _cases(values),
        "FLAGS": _cases(flags),
        "ARGUMENTS": _cases(arguments),
    }
    return _filled(_BASH, replacements)


def _cases(lines: list[str]) -> str:
    return "".join(f"        {line} ;;\n" for line in lines)


def _filled(template: str, replacements: dict[str, str]) -> str:
    for name, text in replacements.items():
        template = template.replace(f"@{name}@", text)
    return template


# ---- zsh ------------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef ocipy
# Completion of ocipy for zsh: source <(ocipy completion zsh), or a file _ocipy in a directory of $fpath

_ocipy_containers() {
    local -a ids
    ids=(${(f)"$(_call_program containers $service ${_ocipy_root:+--root} $_ocipy_root list --quiet 2>/dev/null)"})
    compadd -a ids
}

_ocipy() {
    local context state line curcontext="$curcontext" _ocipy_root
    typeset -A opt_args
    _arguments -C \\
@GLOBAL@        '1:command:->verb' '*::argument:->rest' && return
    _ocipy_root=$opt_args[--root]
    case $state in
        verb)
            local -a verbs
            verbs=(
@VERBS@            )
            _describe command verbs
            ;;
        rest)
            case $words[1] in
@CASES@            esac
            ;;
    esac
}

if [[ $funcstack[1] == _ocipy ]]; then
    _ocipy "$@"
else
    compdef _ocipy ocipy
fi
"""
_ZSH_ACTIONS = {FILE: "_files", DIRECTORY: "_directories", CONTAINER: "_ocipy_containers", SIGNAL: f"({SIGNALS})"}


def zsh() -> str:
    """The specifications of _arguments, for the global flags and for each verb."""
    cases = []
    for name, entry in VERBS.items():
        specs = [_zsh_flag(name, flag) for flag in entry.flags]
        kinds = argument_kinds(name, entry)
        specs += [f"'{place}:{_title(kind)}:{_zsh_action(kind)}'" for place, kind in enumerate(kinds, 1)]
        stop = " -A '-*'" if not entry.mixed else ""  # what follows the container is not ours
        cases.append(f"                {name}) _arguments{stop} {' '.join(specs)} ;;\n")
    replacements = {
        "GLOBAL": "".join(f"        {_zsh_flag('', flag)} \\\n" for flag in GLOBAL),
        "VERBS": "".join(f"                '{name}:{_zsh_text(entry.summary)}'\n" for name, entry in VERBS.items()),
        "CASES": "".join(cases),
    }
    return _filled(_ZSH, replacements)


def _zsh_flag(verb: str, flag: Flag) -> str:
    names = names_of(flag)
    several = "*" if flag[2] == "list" else ""
    value = ""
    if flag[2] != BOOL:
        kind = kind_of(verb, flag)
        value = f":{_title(kind)}:{_zsh_action(kind)}"
    text = f"[{_zsh_text(flag[4])}]{value}'"
    equals = "=" * (flag[2] != BOOL)
    if len(names) == 1:
        return f"'{several}{names[0]}{equals}{text}"
    exclude = several or f"({names[1]} {names[0]})"
    return f"'{exclude}'{{{names[1]},{names[0]}{equals}}}'{text}"


def _title(kind: str) -> str:
    return kind if kind in _ZSH_ACTIONS else "value"


def _zsh_action(kind: str) -> str:
    return _ZSH_ACTIONS.get(kind, f"({kind})" if kind else " ")


def _zsh_text(text: str) -> str:
    return text.replace("'", "'\\''").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


# ---- fish -----------------------------------------------------------------------------------------------------------

_FISH = """\
# Completion of ocipy for fish: ocipy completion fish | source

# What the line has so far: "", or the verb and then its arguments, one a line; flags and their values are left out.
function __ocipy_line
    set -l flag ''
    set -l verb ''
    for word in (commandline -opc)[2..-1]
        if test -n "$flag"
            set flag ''
            continue
        end
        switch $word
            case '-*'
                if contains -- "$verb $word" @VALUED@
                    set flag $word
                end
            case '*'
                test -n "$verb"; or set verb $word
                echo $word
        end
    end
end

# Whether the verb is $argv[1], and, if $argv[2] is given, the argument with that number is next.
function __ocipy_at
    set -l words (__ocipy_line)
    test "$words[1]" = "$argv[1]"; or return 1
    test -z "$argv[2]"; or test (count $words) -eq $argv[2]
end

function __ocipy_containers
    set -l words (commandline -opc)
    set -l root
    for i in (seq (count $words))
        switch $words[$i]
            case --root
                set root --root $words[(math $i + 1)]
            case '--root=*'
                set root $words[$i]
        end
    end
    command $words[1] $root list --quiet 2>/dev/null
end

complete -c ocipy -f
@LINES@"""


def fish() -> str:
    """One line for each verb, flag and argument."""
    lines = [_fish_flag("", "not count (__ocipy_line) >/dev/null", flag) for flag in GLOBAL]
    for name, entry in VERBS.items():
        lines.append(f"complete -c ocipy -n 'not count (__ocipy_line) >/dev/null' -a {name} -d {_fish_text(entry.summary)}")
        lines += [_fish_flag(name, f"__ocipy_at {name}", flag) for flag in entry.flags]
        for place, kind in enumerate(argument_kinds(name, entry), 1):
            lines.append(f"complete -c ocipy -n '__ocipy_at {name} {place}'{_fish_kind(kind)}")
    valued = [
        f"'{verb} {name}'"
        for verb, table in [("", GLOBAL), *((name, entry.flags) for name, entry in VERBS.items())]
        for flag in table if flag[2] != BOOL
        for name in names_of(flag)
    ]  # fmt: skip
    return _filled(_FISH, {"VALUED": " ".join(valued), "LINES": "".join(line + "\n" for line in lines)})


def _fish_flag(verb: str, condition: str, flag: Flag) -> str:
    short = f" -s {flag[1]}" if flag[1] else ""
    value = ""
    if flag[2] != BOOL:
        kind = kind_of(verb, flag)
        value = (" -r" if kind == FILE else " -x") + _fish_kind(kind)
    return f"complete -c ocipy -n '{condition}' -l {flag[0]}{short}{value} -d {_fish_text(flag[4])}"


def _fish_kind(kind: str) -> str:
    if kind == FILE:
        return " -F"
    if kind == DIRECTORY:
        return " -a '(__fish_complete_directories)'"
    if kind == CONTAINER:
        return " -a '(__ocipy_containers)'"
    words = SIGNALS if kind == SIGNAL else kind
    return f" -a '{words}'" if words else ""


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
