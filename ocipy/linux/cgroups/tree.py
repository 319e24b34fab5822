"""Walks a cgroup and all that its container has nested in it, to any depth: no recursion, and no paths that get too long."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def descend(path: str) -> Iterator[tuple[int, str]]:
    """Each directory, the deepest first and ``path`` last, as (descriptor of its parent, name); nothing if it is not there.

    The descriptor is good until the next one is asked for. What the container removes meanwhile is left out.
    """
    parent, name = os.path.split(path)
    here = _open(parent, None)
    if here < 0:
        return
    trail: list[str] = []  # from the parent to here
    left = [[name]]  # for the parent and each of the trail: what is still to be visited in it
    try:
        while True:
            if left[-1]:
                name = left[-1].pop()
                child = _open(name, here)
                if child >= 0:
                    os.close(here)
                    here = child
                    trail.append(name)
                    left.append(_directories(here))
            elif trail:
                # No cgroup can be moved to another parent, and a removed one still has its own.
                above = os.open("..", _DIRECTORY, dir_fd=here)
                os.close(here)
                here = above
                left.pop()
                yield here, trail.pop()
            else:
                return
    finally:
        os.close(here)


def _open(name: str, parent: int | None) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError:
        return -1


def _directories(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
