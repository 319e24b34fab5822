"""Values as JSON, without the module json, which takes as long as half a command."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _quoter() -> Callable[[str], str]:
    try:
        from _json import encode_basestring_ascii
    except ImportError:  # it is private
        from json import dumps

        return dumps
    return encode_basestring_ascii


quote = _quoter()


def json_text(value: Any, indent: str = "") -> str:
    """``value`` as JSON in ASCII: compact, or, with ``indent`` "\\n" and the first line's indentation, two more spaces a level."""
    if isinstance(value, str):
        return str(quote(value))
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    inner = indent + "  " if indent else ""
    between = "," + inner
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        body = between.join([quote(key) + colon + json_text(item, inner) for key, item in value.items()])
        return f"{{{inner}{body}{indent}}}" if body else "{}"
    body = between.join([json_text(item, inner) for item in value])
    return f"[{inner}{body}{indent}]" if body else "[]"
