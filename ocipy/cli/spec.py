"""spec: a config.json to begin with."""

from __future__ import annotations

from ocipy import SPEC_VERSION
from ocipy.errors import OcipyError, strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cli.options import Invocation

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_QUIET = ["nosuid", "noexec", "nodev"]
# What tells about, or reaches, the host through proc and sysfs.
_MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
]  # fmt: skip
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def run(invocation: Invocation) -> int:
    """Write config.json into the bundle; one that exists is left alone."""
    import json
    import os

    path = os.path.join(invocation["bundle"] or ".", "config.json")
    config = default_config(rootless=invocation["rootless"], unified=os.path.exists("/sys/fs/cgroup/cgroup.controllers"))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise OcipyError(f"File {path} exists. Remove it first") from None
    except OSError as error:
        raise OcipyError(f"cannot write {path}: {strerror(error.errno or 0)}") from None
    with open(fd, "w", encoding="utf-8") as file:
        file.write(json.dumps(config, indent="\t") + "\n")
    return 0


def default_config(*, rootless: bool, unified: bool) -> dict[str, Any]:
    """A shell in ``rootfs`` on a terminal. With ``unified`` the host has cgroup v2 alone: a namespace makes it safe to show."""
    import os

    kinds = ["pid", *([] if rootless else ["network"]), "ipc", "uts", "mount", *(["cgroup"] if unified else [])]
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds]}
    if rootless:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": SPEC_VERSION,
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "ocipy",
        "mounts": _mounts(rootless=rootless),
        "linux": linux | {"maskedPaths": _MASKED, "readonlyPaths": _READONLY},
    }


def _process() -> dict[str, Any]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mounts(*, rootless: bool) -> list[dict[str, Any]]:
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    rows: list[tuple[str, str, str, list[str]]] = [
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", devpts if rootless else [*devpts, "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", [*_QUIET, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", _QUIET),
        # A new sysfs takes a network namespace of one's own.
        ("/sys", "none", "/sys", ["rbind", *_QUIET, "ro"]) if rootless else ("/sys", "sysfs", "sysfs", [*_QUIET, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*_QUIET, "relatime", "ro"]),
    ]
    return [
        {"destination": destination, "type": kind, "source": source} | ({"options": options} if options else {})
        for destination, kind, source, options in rows
    ]
