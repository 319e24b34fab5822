"""Changes the limits of a container that has some: all that is asked for, or nothing."""

from __future__ import annotations

import errno
import os

from ocipy.errors import CgroupError
from ocipy.linux.cgroups.apply import WRITE, apply_sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.config.types import Resources
    from ocipy.plan.step import Step

    Before = tuple[str, str, str]  # path, what was to be written there, what stood there

# A line of these is of one device, and a write changes one line. What is written to have none:
NO_LINE = {
    "blkio.": "0", "net_prio.": "0", "io.max": "rbps=max wbps=max riops=max wiops=max", "io.": "default",
    "rdma.": "hca_handle=max hca_object=max",
}  # fmt: skip


def apply_update(steps: list[Step], then: Callable[[], None] | None = None) -> None:
    """As apply_sets, but when one is refused, what stood in the files before is written back, and then the refusal is raised.

    ``then`` is done last, and its refusal counts as well.
    """
    before = [found for step in steps for found in _before(step)]
    try:
        apply_sets(steps)
        if then is not None:
            then()
    except BaseException as error:
        left = _put_back(before)
        if left and isinstance(error, CgroupError):
            names = ", ".join(dict.fromkeys(path for path, _, _ in left))
            error.detail += f"{'; ' if error.detail else ''}and what other files had before could not be written back: {names}"
        raise


def complete(resources: Resources, paths: dict[str, str]) -> Resources:
    """On cgroup v2, where one file holds two properties, with the other of the two as the kernel has it now.

    Raises CgroupError for a memory limit below the usage, if ``checkBeforeUpdate`` asks for it: v1 refuses by itself, v2 kills.
    """
    if list(paths) != [""]:
        return resources
    resources = {**resources}
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    usage = int(_read(paths[""] + "/memory.current") or 0) if memory.get("checkBeforeUpdate") else 0
    if 0 < (memory.get("limit") or 0) < usage:
        raise CgroupError(
            errno.EBUSY, f"set the memory limit of {paths['']} to {memory['limit']}", pointer="/linux/resources/memory/limit",
            detail=f"its processes use {usage} bytes now",
        )  # fmt: skip
    if bool(cpu.get("quota")) != bool(cpu.get("period")):
        quota, _, period = _read(paths[""] + "/cpu.max").partition(" ")
        if period:
            resources["cpu"] = {"quota": -1 if quota == "max" else int(quota), "period": int(period)} | cpu
    if (memory.get("swap") or 0) > 0 and not memory.get("limit"):
        limit = _read(paths[""] + "/memory.max")
        if limit.isdecimal():
            resources["memory"] = {**memory, "limit": int(limit)}
    return resources


def _before(step: Step) -> list[Before]:
    """Of the file that apply_set will write, if there is one, and of those that the kernel changes with it."""
    files, values = step.get("file"), step.get("value")
    for index, name in enumerate([files] if isinstance(files, str) else files):
        path, value = f"{step.get('path')}/{name}", str(values[index] if isinstance(values, list) else values)
        if name is not None and os.path.exists(path):
            names = [name, "cpu.shares", "cpu.weight"] if name == "cpu.idle" else [name]  # which makes a new weight of its own
            paths = [f"{step.get('path')}/{each}" for each in names]
            return [(path, value, _now(path, value)) for path in paths if os.path.exists(path)]
    return []


def _now(path: str, value: str) -> str:
    """What to write to ``path`` to have what it has now, if ``value`` is about to be written."""
    text, name = _read(path), os.path.basename(path)
    if name == "memory.oom_control":
        return text.split()[1] if text else ""
    key, space, _ = value.partition(" ")
    none = next((word for prefix, word in NO_LINE.items() if name.startswith(prefix)), "")
    if space and none:
        return next((line for line in text.split("\n") if line.split(" ")[0] == key), f"{key} {none}")
    return text.partition("\n")[0]


def _put_back(before: list[Before]) -> list[Before]:
    """One may be refused until another is written; returns what could not be written at all."""
    left = before
    while left:
        refused = [each for each in left if not _restore(*each)]
        if len(refused) == len(left):
            break
        left = refused
    return left


def _restore(path: str, value: str, old: str) -> bool:
    if _now(path, value) == old:
        return True
    try:
        fd = os.open(path, WRITE)
        try:
            os.write(fd, old.encode())
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.read(fd, 65536).decode().strip()
        finally:
            os.close(fd)
    except OSError:
        return ""
