"""Freezes, thaws and asks. ``paths`` is what the state remembers: name of hierarchy -> directory."""

from __future__ import annotations

import errno
import os
import time

from ocipy.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE = 10.0  # seconds that a freeze may take: a process in an uninterruptible sleep does not freeze until it wakes


def is_frozen(paths: dict[str, str]) -> bool:
    """Was this cgroup itself frozen? One that a parent's freeze holds is not paused by us. False when it is gone."""
    path = paths.get("freezer")
    if path is not None:
        return _read(path, "freezer.self_freezing") == "1"
    path = paths.get("")
    return path is not None and _read(path, "cgroup.freeze") == "1"


def freeze(paths: dict[str, str], patience: float = PATIENCE) -> None:
    """Returns when nothing in the cgroup runs. Raises CgroupError, with the cgroup thawed again, when that takes too long."""
    path = paths.get("freezer") or paths.get("")
    if path is None:
        raise CgroupError(0, "freeze the container", detail="it has no freezer cgroup")
    v1 = "freezer" in paths
    file, value, asks = ("freezer.state", "FROZEN", "freezer.state") if v1 else ("cgroup.freeze", "1", "cgroup.events")
    end, pause = time.monotonic() + patience, 0.0001
    try:
        while True:
            # v1 misses a process that is being born while it freezes: asking again catches it.
            _write(path, file, value)
            state = _read(path, asks)
            if state == "FROZEN" or "frozen 1" in state:
                return
            if time.monotonic() > end:
                break
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
    except OSError as error:
        raise CgroupError(error.errno or 0, f"freeze the cgroup {path}", "write") from None
    thaw(paths, nested=False)
    raise CgroupError(
        errno.EBUSY, f"freeze the cgroup {path}", detail=f"something in it did not stop within {patience:g} s; it runs again"
    )


def thaw(paths: dict[str, str], *, nested: bool = False) -> None:
    """Lets everything run; with ``nested`` also what the container froze in cgroups below its own. No error when it is gone."""
    path = paths.get("freezer") or paths.get("")
    if path is None:
        return
    file, value = ("freezer.state", "THAWED") if "freezer" in paths else ("cgroup.freeze", "0")
    directories: Iterable[tuple[int | None, str]] = [(None, path)]
    if nested:
        from ocipy.linux.cgroups.tree import descend

        directories = descend(path)
    for parent, name in directories:
        try:
            _write(name, file, value, parent)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise CgroupError(error.errno or 0, f"thaw the cgroup {name} in {path}", "write") from None


def _read(path: str, file: str) -> str:
    try:
        fd = os.open(f"{path}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 4096).decode().strip()
    except OSError:
        return ""  # removed between the two
    finally:
        os.close(fd)


def _write(path: str, file: str, value: str, parent: int | None = None) -> None:
    fd = os.open(f"{path}/{file}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
