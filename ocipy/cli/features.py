"""features: what this runtime supports, whatever the host has (features.md, features-linux.md)."""

from __future__ import annotations

from ocipy import SPEC_VERSION, __version__
from ocipy.cli.main import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cli.options import Invocation

_MOUNT_OPTIONS = """
acl async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud mand noacl noatime nodev nodiratime noexec
noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount rexec
ridmap rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared
rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable
"""
_SECCOMP_ACTIONS = "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG NOTIFY TRACE TRAP"
_SECCOMP_ARCHITECTURES = (
    "AARCH64 ARM MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC PPC64 PPC64LE RISCV64 S390 S390X X32 "
    "X86 X86_64"
)
_SECCOMP_OPERATORS = "EQ GE GT LE LT MASKED_EQ NE"
_SECCOMP_FLAGS = "LOG SPEC_ALLOW TSYNC WAIT_KILLABLE_RECV"


def run(invocation: Invocation) -> int:
    """Print the Features structure as JSON."""
    import json

    write(json.dumps(features(), indent=2) + "\n")
    return 0


def features() -> dict[str, Any]:
    """The Features structure of the specification that we implement."""
    from ocipy.cli.version import commit, libseccomp_version

    annotations = {"io.github.ocipy.version": __version__, "io.github.ocipy.commit": commit()}
    if libseccomp := libseccomp_version():
        annotations["io.github.seccomp.libseccomp.version"] = libseccomp
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": _mount_options(),
        "linux": _linux(),
        "annotations": annotations,
    }


def _mount_options() -> list[str]:
    return _MOUNT_OPTIONS.split()


def _linux() -> dict[str, Any]:
    from ocipy.plan.render import CAPABILITIES, MPOL_FLAGS, MPOL_MODES

    flags = ["SECCOMP_FILTER_FLAG_" + name for name in _SECCOMP_FLAGS.split()]
    return {
        "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
        "capabilities": list(CAPABILITIES),
        "cgroup": {"v1": True, "v2": False, "systemd": False, "systemdUser": False, "rdma": True},
        "seccomp": {
            "enabled": True,
            "actions": ["SCMP_ACT_" + name for name in _SECCOMP_ACTIONS.split()],
            "operators": ["SCMP_CMP_" + name for name in _SECCOMP_OPERATORS.split()],
            "archs": _architectures(),
            "knownFlags": flags,
            "supportedFlags": flags,
        },
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "intelRdt": {"enabled": False},
        "memoryPolicy": {"modes": list(MPOL_MODES), "flags": list(MPOL_FLAGS)},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": False},
    }


def _architectures() -> list[str]:
    return ["SCMP_ARCH_" + name for name in _SECCOMP_ARCHITECTURES.split()]
