"""The processes of a container's cgroup, and signals for all of them."""

from __future__ import annotations

import errno
import os

from ocipy.linux.cgroups.freezer import freeze, is_frozen, thaw
from ocipy.linux.cgroups.tree import descend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SIGKILL = 9
# Whoever is frozen is listed by the freezer; the others hold the same processes unless somebody moved one.
LISTS = ("freezer", "pids", "devices", "memory", "name=systemd", "")
ROUNDS = 100


def pids(paths: dict[str, str], *, recursive: bool = True) -> list[int]:
    """Ids in our pid namespace; with ``recursive`` those of nested cgroups too. Empty when the cgroup is gone."""
    path = next((paths[name] for name in LISTS if name in paths), None) or next(iter(paths.values()), None)
    if path is None:
        return []
    return list(_members(path, recursive=recursive))


def processes(paths: dict[str, str]) -> list[int]:
    """All processes of the container."""
    return pids(paths)


def _members(path: str, *, recursive: bool) -> Iterator[int]:
    for parent, name in descend(path) if recursive else [(None, path)]:
        for word in _read_all(name + "/cgroup.procs", parent).split():
            if word != b"0":  # of a pid namespace that we do not see into
                yield int(word)


def kill_all(paths: dict[str, str], signal: int) -> int:
    """Signals every process of the container, also those that are born meanwhile; returns how many there were.

    SIGKILL thaws what is frozen, or it would not die. Other signals leave a paused container paused. They may still be on their
    way to death when this returns.
    """
    reached: set[int] = set()
    paused = is_frozen(paths)
    if signal == SIGKILL and "" in paths:
        reached.update(_members(paths[""], recursive=True))
        _kill_by_kernel(paths[""])
    for _ in range(ROUNDS):
        if all(pid in reached for pid in pids(paths)) or _round(paths, signal, reached, paused=paused):
            break
    if signal == SIGKILL:
        thaw(paths, nested=True)
    return len(reached)


def _round(paths: dict[str, str], signal: int, reached: set[int], *, paused: bool) -> bool:
    """Did the signal reach all? Yes if nothing ran, and so nothing forked, meanwhile."""
    from ocipy.errors import CgroupError

    frozen = paused
    if not paused:
        try:
            freeze(paths, patience=0.05)
            frozen = True
        except CgroupError:
            pass  # no freezer, or something sleeps too deeply: the next round finds what was born in this one
    try:
        _signal(paths, signal, reached)
    finally:
        if not paused:
            thaw(paths)
    return frozen


def _signal(paths: dict[str, str], signal: int, reached: set[int]) -> None:
    from ocipy.linux.sys import pidfd_send_signal

    opened = {pid: pidfd for pid in pids(paths) if pid not in reached and (pidfd := _open(pid)) is not None}
    # Who is a member now that its pidfd holds its pid is the one that we mean.
    members = set(pids(paths)) if opened else set()
    for pid, pidfd in opened.items():
        if pid in members:
            try:
                pidfd_send_signal(pidfd, signal)
            except ProcessLookupError:
                pass
        reached.add(pid)
        os.close(pidfd)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise


def _kill_by_kernel(path: str) -> None:
    """cgroup.kill (Linux 5.14) leaves no way out, in v2 and in what v1 hosts have of it."""
    try:
        fd = os.open(path + "/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"1")
    except OSError:
        pass
    finally:
        os.close(fd)


def _read_all(path: str, parent: int | None) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return b""
    chunks = []
    try:
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    except OSError:
        pass  # ENODEV: removed meanwhile
    finally:
        os.close(fd)
    return b"".join(chunks)
