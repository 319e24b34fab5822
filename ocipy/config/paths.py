"""The rules of every property that is a path."""

from __future__ import annotations

from ocipy.errors import ConfigError

PATH_MAX, NAME_MAX = 4096, 255  # limits.h, with the NUL for PATH_MAX


def check_path(path: str, pointer: str, *, absolute: bool = True) -> None:
    """Raises ConfigError unless the kernel could take ``path``, and it is absolute where it has to be. Empty passes as relative."""
    if absolute and not path.startswith("/"):
        shown = path if len(path) < 64 else path[:60] + "..."
        raise ConfigError(pointer, f'"{shown}" must be an absolute path' if path else "must be an absolute path, and is empty")
    if len(path) <= NAME_MAX // 4:  # four bytes a letter at most: neither limit can be met
        return
    raw = path.encode()
    if len(raw) >= PATH_MAX:
        raise ConfigError(pointer, f"a path of {len(raw)} bytes: {PATH_MAX - 1} is the most")
    if len(raw) > NAME_MAX and max(map(len, raw.split(b"/"))) > NAME_MAX:
        raise ConfigError(pointer, f"a name in this path is longer than {NAME_MAX} bytes")
