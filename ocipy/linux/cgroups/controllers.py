"""cgroup v2's rules of the tree: which controllers a cgroup has, and which cgroups can hold processes (cgroups(7))."""

from __future__ import annotations

import errno
import os

from ocipy.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.plan.step import Step


def check_type(step: Step) -> None:
    """Can a container be in the new cgroup of ``step``? Raises CgroupError: not below a cgroup of threads."""
    path = step.get("path")
    kind = _read(path + "/cgroup.type")
    if kind in ("", "domain", "domain threaded"):
        return
    parent = os.path.dirname(path)
    above = _read(parent + "/cgroup.type") or "the root"
    detail = f'its cgroup.type is "{kind}", as its parent {parent} is "{above}"; '
    detail += "below threads, or below processes and controllers, v2 has no place for a container: choose another cgroupsPath"
    raise CgroupError(errno.EOPNOTSUPP, f"use the cgroup {path}", pointer=step.origin, detail=detail)


def enable_controllers(step: Step) -> None:
    """Enables for a new cgroup all controllers that its ancestors have; those that its limits need must be among them.

    ``controllers``: name -> pointer of the limit that needs it. From the top downwards: a cgroup can give on only what it has.
    Raises CgroupError that names the limit.
    """
    needed = {name: pointer for name, pointer in step.get("controllers").items() if name != "cgroup2"}
    ancestors, path = [], os.path.dirname(step.get("path"))
    while os.path.exists(path + "/cgroup.subtree_control"):
        ancestors.append(path)
        path = os.path.dirname(path)
    for ancestor in reversed(ancestors):
        has = set(_read(ancestor + "/cgroup.controllers").split())
        missing = sorted(needed.keys() - has)
        if missing:
            raise _missing(missing[0], needed[missing[0]], ancestor)
        wanted = has - set(_read(ancestor + "/cgroup.subtree_control").split())
        # With processes in it, it would take those controllers that count threads, and no container could be below it any more.
        if wanted and _is_occupied(ancestor):
            wanted &= needed.keys()
            if wanted:
                name = min(wanted)
                raise CgroupError(errno.EBUSY, _what(name, ancestor), "", needed[name], _advice(errno.EBUSY, ancestor))
        for name in sorted(wanted):
            _enable(ancestor, name, needed.get(name))


def _is_occupied(path: str) -> bool:
    """Has it processes of its own? The root of the tree (without a type) may."""
    return bool(_read(path + "/cgroup.type") and _read(path + "/cgroup.procs"))


def _missing(name: str, pointer: str, path: str) -> CgroupError:
    detail = f"{path}/cgroup.controllers does not have it: "
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        v1 = any(name in line.split(":")[1].split(",") for line in file)
    if v1:
        detail += "a hierarchy of cgroup v1 has it; boot with cgroup_no_v1=all, or leave the limit away"
    else:
        detail += "delegate it from above (systemd: Delegate=), or leave the limit away"
    return CgroupError(0, f"enable the {name} controller", pointer=pointer, detail=detail)


def _enable(path: str, name: str, pointer: str | None) -> None:
    """``pointer`` None: nobody asks for it, so it may fail."""
    try:
        fd = os.open(path + "/cgroup.subtree_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"+{name}".encode())
        finally:
            os.close(fd)
    except OSError as error:
        if pointer is not None:
            raise CgroupError(error.errno or 0, _what(name, path), "write", pointer, _advice(error.errno or 0, path)) from None


def _what(name: str, path: str) -> str:
    return f"enable the {name} controller below {path}"


def _advice(number: int, path: str) -> str:
    if number == errno.EBUSY:
        count = len(_read(path + "/cgroup.procs").split())
        detail = "and v2 gives controllers only to what is below an empty cgroup: choose another cgroupsPath"
        return f"it has {count} processes in it, {detail}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the runtime may not write there: run it in a cgroup that was delegated to its user (systemd: Delegate=)"
    if number == errno.EOPNOTSUPP:
        return f'the cgroup is "{_read(path + "/cgroup.type")}", and this controller does not count threads one by one'
    if number == errno.EINVAL:
        return "for the cpu controller: the kernel refuses while a realtime process is in a cgroup other than the root"
    return ""


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536).decode().strip()
        finally:
            os.close(fd)
    except OSError:
        return ""
