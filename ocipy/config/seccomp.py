"""linux.seccomp (config-linux.md, Seccomp): what the schema cannot say. Names of syscalls are libseccomp's to know."""

from __future__ import annotations

from ocipy.config.paths import check_path
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Seccomp

NOTIFY = "SCMP_ACT_NOTIFY"
ERRNO_MAX = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 65535}  # MAX_ERRNO; SECCOMP_RET_DATA


def check(seccomp: Seccomp, pointer: str = "/linux/seccomp") -> None:
    """Raises ConfigError."""
    default, listener = seccomp["defaultAction"], seccomp.get("listenerPath", "")
    if default == NOTIFY:
        raise ConfigError(pointer + "/defaultAction", f"{NOTIFY} for every syscall would stop the runtime itself")
    _check_errno(seccomp.get("defaultErrnoRet"), default, pointer + "/defaultErrnoRet")
    if seccomp.get("listenerMetadata") and not listener:
        raise ConfigError(pointer + "/listenerMetadata", "must not be set without listenerPath")
    if listener:
        check_path(listener, pointer + "/listenerPath")
        if len(listener.encode()) > 107:
            raise ConfigError(pointer + "/listenerPath", "longer than 107 bytes, the most that the path of a socket can have")
    for index, rule in enumerate(seccomp.get("syscalls") or ()):
        place = f"{pointer}/syscalls/{index}"
        if rule["action"] == NOTIFY and not listener:
            raise ConfigError(place + "/action", f"{NOTIFY} needs a listenerPath: nobody would answer")
        if "errnoRet" in rule:
            _check_errno(rule["errnoRet"], rule["action"], place + "/errnoRet")
        for number, arg in enumerate(rule.get("args") or ()):
            if arg["index"] > 5:
                raise ConfigError(f"{place}/args/{number}/index", f"{arg['index']}: a syscall has arguments 0 to 5")


def _check_errno(value: int | None, action: str, pointer: str) -> None:
    if value is None:
        return
    if action not in ERRNO_MAX:
        raise ConfigError(pointer, f"{action} gives no errno; SCMP_ACT_ERRNO and SCMP_ACT_TRACE do")
    if value > ERRNO_MAX[action]:
        raise ConfigError(pointer, f"{value} is above {ERRNO_MAX[action]}, the most that {action} can give")
