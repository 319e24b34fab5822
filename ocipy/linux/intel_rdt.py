"""linux.intelRdt: a class of service, and a group to monitor, in the resctrl filesystem (config-linux.md, IntelRdt).

Whoever is in a group's ``tasks`` has its share of cache and memory bandwidth, and so have their children. A group that the config
names (closID) stays when the container goes; one of the container's own name goes with it.
"""

from __future__ import annotations

import errno
import os

from ocipy.errors import ConfigError, StepError
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.config.types import IntelRdt

POINTER = "/linux/intelRdt"
FILESYSTEM = b"resctrl"
# What becomes of a group's directory.
USE = "use"  # it is there
SHARE = "share"  # made unless it is there, and stays
OWN = "own"  # made unless it is there; if made, it goes with the container
NEW = "new"  # must be made; goes with the container


def read_mount() -> str:
    """Where resctrl is mounted, "" where it is not."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mount(file.read())


def parse_mount(mountinfo: bytes) -> str:
    """The first mount of the whole filesystem, in the text of /proc/self/mountinfo (proc(5))."""
    for line in mountinfo.split(b"\n"):
        before, _, after = line.partition(b" - ")
        if after.startswith(FILESYSTEM + b" "):
            root, point = before.split(b" ")[3:5]
            if root == b"/":
                return os.fsdecode(point.decode("unicode_escape").encode("latin-1"))
    return ""


def plan(rdt: IntelRdt, container_id: str, mount: str) -> list[Step]:
    """Make the groups. Raises ConfigError when no resctrl is mounted."""
    group, monitored = groups(rdt, container_id, mount)
    name = rdt.get("closID")
    lines = [rdt[key] for key in ("l3CacheSchema", "memBwSchema") if rdt.get(key)]
    writes = [*lines, "\n".join(rdt.get("schemata") or ())]
    schemata = [text for text in writes if text]
    how = OWN if name is None else SHARE if schemata and name != "/" else USE
    origin = POINTER + ("" if name is None else "/closID")
    compare = lines if name is not None else []
    steps = [Step(ops.MAKE_RESCTRL, origin, path=group, how=how, compare=compare, schemata=schemata)]
    if monitored:
        steps.append(Step(ops.MAKE_RESCTRL, POINTER + "/enableMonitoring", path=monitored, how=NEW, compare=[], schemata=[]))
    return steps


def plan_enter(rdt: IntelRdt, container_id: str, mount: str) -> Step:
    """The process enters; the monitored group second: its members are members of the group that it is in."""
    return Step(ops.ENTER_RESCTRL, POINTER, paths=[path for path in groups(rdt, container_id, mount) if path])


def groups(rdt: IntelRdt, container_id: str, mount: str) -> tuple[str, str]:
    """The directories of the class and of the monitored group, "" for none. Raises ConfigError when no resctrl is mounted."""
    if not mount:
        reason = "no resctrl filesystem is mounted: mount -t resctrl resctrl /sys/fs/resctrl (takes a CPU that has RDT)"
        raise ConfigError(POINTER, reason)
    name = rdt.get("closID", container_id)
    group = mount if name == "/" else f"{mount}/{name}"
    return group, f"{group}/mon_groups/{container_id}" if rdt.get("enableMonitoring") else ""


def apply_make(step: Step) -> bool:
    """Whether it made the directory. Raises StepError when it could not, or when it is there or not against the rule."""
    path, how = step.get("path"), step.get("how")
    if how == USE:
        if not os.path.isdir(path):
            detail = "it must exist already, as neither schemata nor l3CacheSchema nor memBwSchema is given to make one"
            raise StepError(errno.ENOENT, f"use the class of service {path}", "stat", step.origin, detail)
        return False
    try:
        os.mkdir(path, 0o755)
    except FileExistsError as error:
        if how == NEW:
            raise _failure(step, f"make the group {path}", "mkdir", error) from None
        return False
    except OSError as error:
        raise _failure(step, f"make the group {path}", "mkdir", error) from None
    return True


def apply_schemata(step: Step, *, made: bool) -> None:
    """Of a group that was there before, l3CacheSchema and memBwSchema must be what it has: others use it."""
    path = step.get("path")
    if not made and step.get("compare"):
        has = read_schemata(step, path)
        for line in step.get("compare"):
            if not matches(line, has):
                found = next((text.strip() for text in has.splitlines() if _resource(text) == _resource(line)), "")
                detail = f'it is asked for "{line}" and has "{found}"; others may use it: ask for what it has, or name another'
                raise StepError(0, f"use the class of service {path}", pointer=step.origin, detail=detail)
    write_schemata(step, path, step.get("schemata"))


def apply_enter(step: Step, pid: int) -> None:
    """Moves a process into the groups. Raises StepError."""
    for path in step.get("paths"):
        try:
            _write(path + "/tasks", str(pid))
        except OSError as error:
            raise _failure(step, f"enter {path} with pid {pid}", "write", error) from None


def read_schemata(step: Step, path: str) -> str:
    """Raises StepError."""
    try:
        with open(path + "/schemata", encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise _failure(step, f"read {path}/schemata", "open", error) from None


def write_schemata(step: Step, path: str, texts: list[str]) -> None:
    """One write for each text: in one write the kernel takes no resource twice. Raises StepError."""
    for text in texts:
        try:
            _write(path + "/schemata", text + "\n")
        except OSError as error:
            shown = text.replace("\n", ", ")
            raise _failure(step, f'write "{shown}" to {path}/schemata', "write", error) from None


def apply_update(rdt: IntelRdt, changes: IntelRdt, container_id: str, mount: str) -> Callable[[], None]:
    """Writes l3CacheSchema and memBwSchema of ``changes`` to the group of a container, both or none; gives what takes it back.

    Raises ConfigError, StepError.
    """
    path, _ = groups(rdt, container_id, mount)
    step = Step(ops.MAKE_RESCTRL, POINTER, path=path, how=USE)
    before = read_schemata(step, path).strip("\n")
    lines = [changes[key] for key in ("l3CacheSchema", "memBwSchema") if changes.get(key)]
    write_schemata(step, path, ["\n".join(lines)])
    return lambda: write_schemata(step, path, [before])


def matches(line: str, schemata: str) -> bool:
    """Whether a group whose file is ``schemata`` has all that ``line`` ("L3:0=ff;1=f") asks for."""
    wanted = _domains(line)
    return any(wanted.items() <= _domains(has).items() for has in schemata.splitlines() if _resource(has) == _resource(line))


def _resource(line: str) -> str:
    return line.partition(":")[0].strip()


def _domains(line: str) -> dict[str, str]:
    """Cache id -> value, without what says nothing: space, leading zeros, the case of hexadecimal digits."""
    found = {}
    for part in line.partition(":")[2].split(";"):
        name, _, value = part.partition("=")
        if part.strip():
            found[name.strip().lstrip("0")] = value.strip().lower().lstrip("0")
    return found


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


_ADVICE = {
    ("mkdir", errno.ENOSPC): "the CPU has no more of them: remove groups that nobody needs",
    ("mkdir", errno.EEXIST): "something of this name is left there: remove it, or choose another container id",
    ("write", errno.ENOENT): "is it a group of resctrl?",
    ("write", errno.ESRCH): "the process has ended",
    ("write", errno.EINVAL): "see schemata and info in the resctrl filesystem for what this CPU takes",
}


def _failure(step: Step, what: str, call: str, error: OSError) -> StepError:
    number = error.errno or 0
    words = [_status(step.get("path") or step.get("paths")[0]), _ADVICE.get((call, number), "")]
    return StepError(number, what, call, step.origin, "; ".join(word for word in words if word))


def _status(path: str) -> str:
    """The kernel's own words about the last command that it refused."""
    while len(path) > 1:
        try:
            with open(path + "/info/last_cmd_status", encoding="utf-8", errors="replace") as file:
                text = file.read(1000).strip().replace("\n", ", ")
        except OSError:
            path = os.path.dirname(path)
            continue
        return "" if text == "ok" else text
    return ""
