"""Makes, sets and enters cgroups. A cgroup filesystem holds no symbolic links and its files come with the directory, so a
path below a mount point of /proc/self/mountinfo leads where it says."""

from __future__ import annotations

import errno
import os
import time

from ocipy.errors import CgroupError
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TRIES = 10
WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def absent(paths: Iterable[str]) -> list[str]:
    """The directories that apply_make is about to make, parents first: what ``remove`` takes away again.

    Parents that are not there yet are among them. They go with the last of their children.
    """
    missing: dict[str, None] = {}
    for leaf in paths:
        chain, path = [], leaf
        while path and path not in missing and not os.path.isdir(path):
            chain.append(path)
            path = os.path.dirname(path)
        missing.update(dict.fromkeys(reversed(chain)))
    return list(missing)


def apply_make(step: Step) -> list[str]:
    """Makes a cgroup and its parents; returns the directories made, parents first.

    Raises CgroupError when it was there before and is not fit for a new container: frozen, or with processes in it.
    """
    path = step.get("path")
    made: list[str] = []
    try:
        _make(path, made)
    except OSError as error:
        raise CgroupError(error.errno or 0, f"make the cgroup {path}", "mkdir", step.origin, _advice_mkdir(error)) from None
    if path not in made:
        _check_fit(step, path)
    if "cgroup2" in step.get("controllers"):
        from ocipy.linux.cgroups.controllers import check_type, enable_controllers

        check_type(step)
        enable_controllers(step)
    return made


def _make(path: str, made: list[str]) -> None:
    """Makes a directory, and parents that are missing; again when others, who make and remove theirs below the same, remove one."""
    for _ in range(TRIES):
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return
        except FileNotFoundError:
            _make(os.path.dirname(path), made)
        else:
            made.append(path)
            return
    raise FileNotFoundError(errno.ENOENT, "")


def _check_fit(step: Step, path: str) -> None:
    for file in ("freezer.state", "cgroup.freeze"):
        if _read(path, file).strip() not in ("", "THAWED", "0"):
            detail = "thaw it, or choose another cgroupsPath: a container in it could not start"
            raise CgroupError(0, f"use the cgroup {path}", pointer=step.origin, detail=f"it exists and is frozen; {detail}")
    from ocipy.linux.cgroups.tree import descend

    count = sum(len(_read(name, "cgroup.procs", parent).split()) for parent, name in descend(path))
    if count:
        detail = "its limits and its end would be theirs too: choose another cgroupsPath"
        raise CgroupError(0, f"use the cgroup {path}", pointer=step.origin, detail=f"it has {count} processes already; {detail}")


def _advice_mkdir(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "somebody else removes its parents"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the runtime may not write there: run it as root, or in a cgroup that was delegated to its user"
    return ""


def apply_set(step: Step) -> None:
    """Writes one file of a cgroup: of a list the first that is there, with its own value where these are a list too; None at the
    list's end: none need be there. Value None: a copy of the parent's, where there is none yet (v1 cpusets)."""
    path, files, value = step.get("path"), step.get("file"), step.get("value")
    if files in ("cpuset.cpus", "cpuset.mems") and not os.path.exists(path + "/cgroup.controllers"):
        parent = path if value is None else os.path.dirname(path)
        try:
            _inherit(parent, files)
        except OSError as error:
            raise _explain_set(step, files, error) from None
        if value is None:
            return
    names = [files] if isinstance(files, str) else files
    for index, name in enumerate(names):
        if name is None:
            return
        try:
            _write(path, name, value[index] if isinstance(value, list) else value)
            return
        except FileNotFoundError as error:
            missing = error
        except OSError as error:
            raise _explain_set(step, name, error) from None
    raise _explain_set(step, names[0], missing) from None


def apply_sets(steps: Iterable[Step]) -> None:
    """Writes many files, of which some may be refused until another is written.

    A quota must not be below the burst, a memory limit not above that of memory and swap, and so on, at every moment: what is
    invalid is tried again after the others. For containers that have limits already (update).
    """
    left = list(steps)
    while left:
        refused, first = [], None
        for step in left:
            try:
                apply_set(step)
            except CgroupError as error:
                if error.errno != errno.EINVAL:
                    raise
                refused.append(step)
                first = first or error
        if first is not None and len(refused) == len(left):
            raise first
        left = refused


def _inherit(path: str, file: str) -> str:
    """The value of a v1 cpuset file, copied from the nearest parent that has one into all below it."""
    value = _read_or_raise(path, file).strip()
    if not value and os.path.exists(os.path.dirname(path) + "/" + file):
        value = _inherit(os.path.dirname(path), file)
        if value:
            _write(path, file, value)
    return value


def apply_enter(step: Step, pid: int) -> None:
    """Moves a process, with all its threads, into the cgroups of ``paths`` (name -> directory).

    ``init``: a container's first process, or 0. On v2 a container may have given controllers to cgroups below its own and moved
    there, and then nobody can enter the one above: whoever comes later joins init.
    """
    for path in dict.fromkeys(step.get("paths").values()):
        for attempt in range(TRIES):
            try:
                _write(path, "cgroup.procs", str(pid))
            except OSError as error:
                if error.errno == errno.EINVAL and attempt < TRIES - 1:
                    time.sleep(0.001)  # a process that is not quite born yet
                    continue
                if error.errno == errno.EBUSY and step.get("init"):
                    from ocipy.linux.cgroups.host import cgroup_of

                    there = cgroup_of(step.get("init"), "")
                    return apply_enter(Step(step.op, step.origin, paths={"": there}), pid) if there else None
                raise _explain_enter(step, path, error, pid) from None
            break


def apply_open(step: Step) -> int:
    """The descriptor of a v1 ``tasks`` file, for writing, or of the directory of a cgroup v2."""
    path = step.get("path")
    flags = WRITE if path.endswith("/tasks") else os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError as error:
        raise _explain_enter(step, path.removesuffix("/tasks"), error, 0) from None


def _read(path: str, file: str, parent: int | None = None) -> str:
    try:
        return _read_or_raise(path, file, parent)
    except OSError:
        return ""


def _read_or_raise(path: str, file: str, parent: int | None = None) -> str:
    fd = os.open(f"{path}/{file}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def _write(path: str, file: str, value: str) -> None:
    fd = os.open(f"{path}/{file}", WRITE)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _explain_enter(step: Step, path: str, error: OSError, pid: int) -> CgroupError:
    from ocipy.linux.cgroups.explain import ADVICE_ENTER

    what = f"enter the cgroup {path}" + (f" with pid {pid}" if pid else "")
    return CgroupError(error.errno or 0, what, "write" if pid else "open", step.origin, ADVICE_ENTER.get(error.errno or 0, ""))


def _explain_set(step: Step, file: str, error: OSError) -> CgroupError:
    from ocipy.linux.cgroups.explain import advice_set

    path, value = step.get("path"), step.get("value")
    if isinstance(value, list):
        value = value[step.get("file").index(file)]
    what = f'write "{value}" to {path}/{file}' if value is not None else f"copy the parent's value to {path}/{file}"
    return CgroupError(error.errno or 0, what, "write", step.origin, advice_set(path, file, value, error.errno or 0))
