"""The first and the last thing that Python does in every command."""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def boot(arguments: list[str]) -> NoReturn:
    """Run ``main`` and leave with its status, by os._exit: tearing the interpreter down costs 2 ms and frees nothing."""
    try:
        from ocipy.cli.main import main

        status = main(arguments)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as request:
        status = request.code if isinstance(request.code, int) else int(request.code is not None)
    except BaseException as error:  # a broken installation, or a bug: one line all the same
        status = 1
        text = " ".join(f"{type(error).__name__}: {error}".split())
        posix.write(2, f"ocipy: internal error: {text}\n".encode("utf-8", "backslashreplace"))
    leave(status)


def leave(status: int) -> NoReturn:
    """Flush and exit; output that cannot be written (a full disk, a closed pipe) is a failure of the command."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            status = status or 1
    posix._exit(status)
