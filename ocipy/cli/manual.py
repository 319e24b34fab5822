"""Manual pages, at build time: docs/man/ocipy-VERB.8.in, written by hand, with what the table of options knows put in.

A source is roff with the macros of man(7), from DESCRIPTION on. @OPTIONS@ and @COMMANDS@ are lines of their own; flags are written
plainly, and get the backslashes that keep their dashes dashes.
"""

from __future__ import annotations

import os
import re

from ocipy.cli.options import BOOL, GLOBAL, NUMBER, VERBS, Flag

SUFFIX = ".8.in"
_FLAG = re.compile(r"(?<![\w\\-])--?[a-z][\w-]*")


def generate(sources: str, target: str, version: str, date: str) -> list[str]:
    """Write a page into ``target`` for each file of ``sources``; their paths. Raises OSError, KeyError for a page of no verb."""
    os.makedirs(target, exist_ok=True)
    pages = []
    for name in sorted(os.listdir(sources)):
        if not name.endswith(SUFFIX):
            continue
        stem = name.removesuffix(SUFFIX)
        with open(f"{sources}/{name}", encoding="utf-8") as file:
            text = page(stem.partition("-")[2], file.read(), version, date)
        pages.append(f"{target}/{stem}.8")
        with open(pages[-1], "w", encoding="utf-8") as file:
            file.write(text)
    return pages


def page(verb: str, body: str, version: str, date: str) -> str:
    """The page of a verb, or of ocipy for ""; ``body`` is its source."""
    stem = f"ocipy-{verb}" if verb else "ocipy"
    summary = VERBS[verb].summary if verb else "make and run OCI containers"
    lines = [
        '.\\" Made from the table of options; what is written by hand is in docs/man.',
        f'.TH {stem.upper()} 8 {date} "ocipy {version}" "System Administration"',
        ".SH NAME",
        f"{_plain(stem)} \\- {_plain(summary)}",
        ".SH SYNOPSIS",
        _synopsis(verb),
    ]
    example = False
    for line in body.splitlines():
        example = line == ".EX" or (example and line != ".EE")
        if line == "@OPTIONS@":
            lines += ['.SH "OPTIONS"'] * bool(verb) + _options(VERBS[verb].flags if verb else GLOBAL)
        elif line == "@COMMANDS@":
            lines += [line for name, entry in VERBS.items() for line in (".TP", f".BR ocipy\\-{name} (8)", _plain(entry.summary))]
        else:
            lines.append(_plain(line) if example and line[0] != "." else _FLAG.sub(lambda flag: flag[0].replace("-", "\\-"), line))
    also = ["ocipy"] if verb else [f"ocipy-{name}" for name in VERBS]
    lines += ['.SH "SEE ALSO"', ",\n".join(f"\\fB{_plain(name)}\\fR(8)" for name in also)]
    return "\n".join(lines) + "\n"


def _synopsis(verb: str) -> str:
    if not verb:
        return ".B ocipy\n.RI [ GLOBAL\\~OPTIONS ]\n.I COMMAND\n.RI [ OPTIONS ]\n.RI [ ARGUMENTS ]"
    words = VERBS[verb].arguments.replace("|", "\\~|\\~")
    return f".B ocipy\n.RI [ GLOBAL\\~OPTIONS ]\n.B {verb}\n.RI [ OPTIONS ]" + f"\n{words}" * bool(words)


def _options(flags: tuple[Flag, ...]) -> list[str]:
    lines = []
    for name, short, kind, default, text in flags:
        value = "" if kind == BOOL else " \\fIN\\fR" if kind == NUMBER else " \\fIVALUE\\fR"
        names = f"\\fB\\-\\-{_plain(name)}\\fR" + f", \\fB\\-{short}\\fR" * bool(short)
        lines += [".TP", names + value, _plain(text[0].upper() + text[1:] + f" (default: {default})" * bool(default)) + "."]
    return lines


def _plain(text: str) -> str:
    """Text in which nothing is markup, and a dash is a dash."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
