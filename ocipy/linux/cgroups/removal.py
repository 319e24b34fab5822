"""Takes away the cgroups that a container made, once its processes are gone."""

from __future__ import annotations

import errno
import os
import time

from ocipy.errors import CgroupError
from ocipy.linux.cgroups.tree import descend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEADLINE = 10.0
# A parent that was made for the container stays while others use it, and so do cgroups that are not there any more.
STAYS = (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY, errno.ENODEV)


def remove(paths: Iterable[str], deadline_s: float = DEADLINE) -> None:
    """Removes directories that ``absent`` named: cgroups with all that is nested in them, and their parents if nobody uses these.

    The last exit of a process and an empty cgroup are not one event, so this waits, up to the deadline. Raises CgroupError that
    names the processes left. Nested cgroups that the container froze are thawed, so that killed processes in them can die.
    """
    ordered = sorted(set(paths), key=len, reverse=True)
    parents = {os.path.dirname(path) for path in ordered}
    while parents - {"", "/"} and (more := {os.path.dirname(path) for path in parents} - parents):
        parents |= more
    left = [path for path in ordered if path not in parents and not _removed(path)]
    end, pause = time.monotonic() + deadline_s, 0.0002
    while left:
        left = [path for path in left if not _remove_tree(path)]
        if not left:
            break
        if time.monotonic() > end:
            raise _explain(left[0])
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
    for path in ordered:
        if path in parents:
            _remove_parent(path)


def _removed(path: str, parent: int | None = None) -> bool:
    try:
        os.rmdir(path, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in STAYS:
            return False
        raise CgroupError(error.errno or 0, f"remove the cgroup {path}", "rmdir") from None
    return True


def _remove_tree(path: str) -> bool:
    for parent, name in descend(path):
        if not _removed(name, parent):
            _thaw(name, parent)
    return not os.path.isdir(path)


def _remove_parent(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in STAYS:
            raise CgroupError(error.errno or 0, f"remove the cgroup {path}", "rmdir") from None


def _thaw(path: str, parent: int) -> None:
    for file, value in (("freezer.state", b"THAWED"), ("cgroup.freeze", b"0")):
        try:
            fd = os.open(f"{path}/{file}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=parent)
        except OSError:
            continue
        try:
            os.write(fd, value)
        except OSError:
            pass
        finally:
            os.close(fd)


def _explain(path: str) -> CgroupError:
    from ocipy.linux.cgroups.members import pids

    found = pids({"": path})
    names = ", ".join(_describe(pid) for pid in found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    detail = f"these processes are still in it: {names}" if found else "no process that we see is in it"
    detail += "; delete the container again when they are gone"
    return CgroupError(errno.EBUSY, f"remove the cgroup {path}", "rmdir", detail=detail)


def _describe(pid: int) -> str:
    """'312 (sleep, state D)'."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return str(pid)
    name, _, rest = text.partition("(")[2].rpartition(")")
    return f"{pid} ({name}, state {rest.split()[0]})"
