"""The user of a command line, ``exec --user`` (config.md, POSIX-platform User: names are left to upper levels)."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import UsageError

ID_MAX = (1 << 32) - 2  # the next one is -1 to the kernel: leave as it is


def parse_user(text: str) -> tuple[int, int | None]:
    """(uid, gid or None) of ``uid[:gid]``. Raises UsageError for all that is not strictly decimal and in range."""
    uid, colon, gid = text.partition(":")
    return parse_id(uid, "uid"), parse_id(gid, "gid") if colon else None


def parse_id(text: str, what: str = "gid") -> int:
    """A uid or gid. Names, signs, spaces and digits that are not ASCII are refused, never looked up."""
    if not text or not text.isascii() or not text.isdecimal() or len(text) > 10 or int(text) > ID_MAX:
        raise UsageError(f'bad {what} "{printable(text)}": a decimal number from 0 to {ID_MAX}; names are not looked up')
    return int(text)
