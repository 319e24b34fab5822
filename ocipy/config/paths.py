"""The rules of every property that is a path, and how a text of the config is shown in a message."""

from __future__ import annotations

from ocipy.errors import ConfigError

PATH_MAX, NAME_MAX = 4096, 255  # limits.h, with the NUL for PATH_MAX


def printable(text: str, most: int = 64) -> str:
    """``text`` as part of a message: not long, and on one line."""
    text = text if len(text) <= most else text[: most - 3] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def check_path(path: str, pointer: str, *, absolute: bool = True) -> None:
    """Raises ConfigError unless the kernel could take ``path``, and it is absolute where it has to be. Empty passes as relative."""
    if absolute and not path.startswith("/"):
        raise ConfigError(pointer, f'"{printable(path)}" must be an absolute path')
    if len(path) <= NAME_MAX // 4:  # four bytes a letter at most: neither limit can be met
        return
    raw = path.encode()
    if len(raw) >= PATH_MAX:
        raise ConfigError(pointer, f"a path of {len(raw)} bytes: {PATH_MAX - 1} is the most")
    if len(raw) > NAME_MAX and max(map(len, raw.split(b"/"))) > NAME_MAX:
        raise ConfigError(pointer, f"a name in this path is longer than {NAME_MAX} bytes")
