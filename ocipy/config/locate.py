"""From a JSON pointer to line and column in the file. Cold: only for errors."""

from __future__ import annotations

from json import JSONDecoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE = " \t\n\r"
decode = JSONDecoder().raw_decode


def line_and_column(text: str, index: int) -> tuple[int, int]:
    """1-based; a column counts characters."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def locate(text: str, pointer: str) -> tuple[int, int]:
    """Line and column of the value at ``pointer``, or of the deepest value on the way to it that exists. ``text`` is valid."""
    index = _skip(text, 0)
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = -1
        for key, start in _members(text, index):
            if key == name:
                found = start  # of a duplicate key the last counts
        if found < 0:
            break
        index = found
    return line_and_column(text, index)


def _skip(text: str, index: int) -> int:
    while index < len(text) and text[index] in SPACE:
        index += 1
    return index


def _members(text: str, index: int) -> Iterator[tuple[str, int]]:
    """(name or number, index of the value) of each member of the object or array that begins at ``index``."""
    if text[index] not in "{[":
        return
    is_object, number = text[index] == "{", 0
    index = _skip(text, index + 1)
    while text[index] not in "}]":
        key = str(number)
        if is_object:
            key, index = decode(text, index)
            index = _skip(text, _skip(text, index) + 1)
        yield key, index
        number += 1
        index = _skip(text, decode(text, index)[1])
        if text[index] == ",":
            index = _skip(text, index + 1)
