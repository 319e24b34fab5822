"""What ocipy needs of the module os, made of posix; boot.py gives it that name as long as Python is not whole.

The real one takes a millisecond, most of it for abstract base classes that no command uses. What else is asked for comes from it.
"""

# ruff: noqa: F403
from __future__ import annotations

import posix
import sys
from posix import *

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    path: Any  # set by boot.py, since it asks for os itself

name, sep, curdir, pardir, extsep, pathsep, linesep, devnull = "posix", "/", ".", "..", ".", ":", "\n", "/dev/null"
altsep, defpath = None, "/bin:/usr/bin"
SEEK_SET, SEEK_CUR, SEEK_END = 0, 1, 2
error = OSError  # type: ignore[misc]
_exit = posix._exit


def fsencode(filename: Any) -> bytes:
    """As os.fsencode with UTF-8."""
    filename = posix.fspath(filename)
    return filename.encode("utf-8", "surrogateescape") if isinstance(filename, str) else filename


def fsdecode(filename: Any) -> str:
    """As os.fsdecode with UTF-8."""
    filename = posix.fspath(filename)
    return filename.decode("utf-8", "surrogateescape") if isinstance(filename, bytes) else filename


environ = {fsdecode(key): fsdecode(value) for key, value in posix.environ.items()}  # type: ignore[misc]


def __getattr__(name: str) -> Any:
    return getattr(become_real(), name)


def become_real() -> Any:
    """Put the real module in the place of this one."""
    if sys.modules.get("os") is sys.modules[__name__]:
        del sys.modules["os"]
        import os

        globals().update({key: value for key, value in vars(os).items() if not key.startswith("__")})
    return sys.modules["os"]
