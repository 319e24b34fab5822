"""Init's error reports in words. Numbers cross the socket; only a failed command pays for this module."""

from __future__ import annotations

import errno as errors
import os

from ocipy.errors import (
    CapabilityError,
    CgroupError,
    ExecError,
    HookError,
    MountError,
    NamespaceError,
    SeccompError,
    StepError,
    strerror,
)
from ocipy.plan import ops
from ocipy.plan.render import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.plan.step import Step

_CLASSES: dict[str, type[StepError]] = {
    **dict.fromkeys(
        ("ROOTFS", "MOUNT", "MOUNT_OLD", "ATTACH", "BIND", "REMOUNT", "MAKE_DIRECTORY", "DEVICE", "SYMLINK", "PIVOT_ROOT",
         "MOVE_ROOT", "CHROOT", "PROPAGATION", "UNMOUNT", "READONLY_PATH", "MASK_PATH", "READONLY_ROOT"), MountError),
    **dict.fromkeys(("JOIN", "JOIN_CONTAINER", "UNSHARE", "BECOME", "CLONE_INIT", "HOSTNAME", "DOMAINNAME"), NamespaceError),
    **dict.fromkeys(("USER", "CAPABILITIES", "BOUNDING_SET", "NO_NEW_PRIVILEGES", "EXEC_LABEL"), CapabilityError),
    "ENTER_TASKS": CgroupError,
    "SECCOMP": SeccompError,
    "HOOK": HookError,
}  # fmt: skip


def explain(plan: list[Step], index: int, call: str, errno: int, value: int, output: int = -1) -> StepError:
    """The exception for a failed step of init: what, which property, which call, which errno, and what to do."""
    step = plan[index]
    if step.op in (ops.LOOKUP, ops.EXEC):
        return _exec_error(step, errno)
    kind = _CLASSES.get(step.op.name, StepError)
    detail = _hook_detail(step, errno, value, output) if step.op is ops.HOOK else _advice(step, call, errno, value)
    if step.op is ops.HOOK:
        return HookError(0 if errno == errors.ECHILD else errno, f"hook {step.get('path')}", "", step.origin, detail)
    return kind(errno, describe(step, plan), call if call != "none" else "", step.origin, detail)


def _exec_error(step: Step, errno: int) -> ExecError:
    """Engines look for "executable file not found in $PATH", "no such file or directory", "permission denied"."""
    program = step.get("program") if step.op is ops.LOOKUP else (step.get("args") or [""])[0]
    quoted = '"' + program.replace('"', '\\"') + '"'
    if step.op is ops.EXEC:
        text = f"exec {program}: {strerror(errno)}"
        if errno == errors.ENOENT:
            text += " (the program, or the interpreter that its first line or its ELF header names)"
    elif errno == errors.ENOENT and "/" not in program:
        text = f"exec: {quoted}: executable file not found in $PATH"
    elif errno == errors.ENOENT:
        text = f"exec: {quoted}: stat {program}: no such file or directory"
    else:
        text = f"exec: {quoted}: {strerror(errno)}"
        if errno == errors.EISDIR:
            text += ": permission denied"  # so says execve; the only words of the two that Docker 20.10 knows
    return ExecError(errno, "exec", "execve", step.origin, f"unable to start container process: {text}")


def _hook_detail(step: Step, errno: int, value: int, output: int) -> str:
    text = ""
    if errno == errors.ETIMEDOUT:
        text = f"timed out after {step.get('timeout')} s"
    elif errno == errors.ECHILD:
        code, status = value >> 32, value & 0xFFFFFFFF
        text = f"exit status {status}" if code == 1 else f"killed by signal {status}"
        if code == 1 and status in (126, 127):
            text += " (is it there, and executable, in the container?)"
    said = _tail(output)
    return text + (f": {said}" if said else "")


def _tail(output: int) -> str:
    if output < 0:
        return ""
    size = os.fstat(output).st_size
    return os.pread(output, 4096, max(0, size - 4096)).decode("utf-8", "replace").strip().replace("\n", " | ")


_JOIN_KINDS = ("user", "mount", "network", "ipc", "uts", "pid", "cgroup", "time")


def _advice(step: Step, call: str, errno: int, value: int) -> str:
    if step.op is ops.ENTER_TASKS or (step.op is ops.CLONE_INIT and step.get("cgroup") and errno != errors.EAGAIN):
        from ocipy.linux.cgroups.explain import ADVICE_ENTER

        return ADVICE_ENTER.get(errno, "")
    if step.op is ops.JOIN and value < len(_JOIN_KINDS):
        return f"the {_JOIN_KINDS[value]} namespace could not be joined"
    if step.op is ops.MOUNT and call == "fsconfig" and value:
        option = (step.get("options") or [""])[value - 1]
        return f'the filesystem {step.get("fstype")} refuses the option "{option}"'
    if call == "fsopen" and errno == errors.ENODEV:
        return f"this kernel has no filesystem {step.get('fstype')}"
    if step.op in (ops.MOUNT, ops.ATTACH, ops.BIND) and call == "verify":
        return "only procfs may be mounted on /proc, and nothing below it but known files"
    if step.op in (ops.MOUNT, ops.MOUNT_OLD) and errno in (errors.ELOOP, errors.ENOTDIR) and call == "openat2":
        return "the mount point must be a directory, and no symlink"
    if call in ("mkdirat", "mknodat") and errno in (errors.EACCES, errors.EOVERFLOW) and step.op is not ops.DEVICE:
        return "does the container's root own the root filesystem, and is it a user that is mapped?"
    if step.op in (ops.MOUNT, ops.ATTACH, ops.BIND) and call == "move_mount" and errno in (errors.EINVAL, errors.ENOTDIR):
        return "not a directory on a directory, nor a file on a file: nothing else can be mounted"
    if step.op is ops.REMOUNT and errno == errors.EINVAL:
        return "nothing is mounted there"
    if step.op is ops.UNMOUNT:
        return {
            errors.EINVAL: "nothing is mounted there", errors.ELOOP: "symlinks are not followed: name the real path"
        }.get(errno, "")  # fmt: skip
    if step.op is ops.CWD and call == "verify":
        return "the directory lies outside the container's root"
    if step.op is ops.USER and errno == errors.EINVAL:
        return "is every id mapped in linux.uidMappings and linux.gidMappings?"
    if step.op is ops.CONSOLE:
        return "a terminal needs a devpts on /dev/pts"
    if step.op is ops.SESSION_KEYRING and errno == errors.EDQUOT:
        return "the kernel's quota of keys is used up: --no-new-keyring, or raise kernel.keys.maxkeys"
    if step.op is ops.EXEC_LABEL:
        return "is the LSM enabled, and the profile loaded?"
    if step.op is ops.DEVICE and errno == errors.EEXIST:
        return "something else is there already"
    return ""
