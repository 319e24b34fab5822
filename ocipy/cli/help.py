"""--help, rendered from the table of options. Cold."""

from __future__ import annotations

from ocipy.cli.options import BOOL, GLOBAL, NUMBER, VERBS, Flag


def text(verb: str) -> str:
    """The help of one command, or of all of them for ""."""
    if verb:
        entry = VERBS[verb]
        lines = [f"ocipy {verb}: {entry.summary}", ""]
        lines += [f"Usage: ocipy [GLOBAL OPTIONS] {verb} [OPTIONS] {entry.arguments}".rstrip(), "", "Options:"]
        lines += _flags(entry.flags)
    else:
        lines = ["ocipy: an OCI container runtime", ""]
        lines += ["Usage: ocipy [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]", "", "Commands:"]
        lines += [f"  {name:<12}{entry.summary}" for name, entry in VERBS.items()]
        lines += ["", "Global options:", *_flags(GLOBAL)]
    return "\n".join(lines) + "\n"


def _flags(flags: tuple[Flag, ...]) -> list[str]:
    names = [
        f"--{name}{', -' + short if short else ''}{'' if kind == BOOL else ' N' if kind == NUMBER else ' VALUE'}"
        for name, short, kind, _, _ in flags
    ]
    width = max(map(len, names)) + 2
    notes = [f" (default: {default})" if default else "" for _, _, _, default, _ in flags]
    return [f"  {name:<{width}}{flag[4]}{note}" for name, flag, note in zip(names, flags, notes, strict=True)]
