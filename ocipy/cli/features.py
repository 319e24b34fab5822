"""features: what this runtime supports, whatever the host has (features.md, features-linux.md)."""

from __future__ import annotations

from ocipy import SPEC_VERSION, __version__
from ocipy.cli.main import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cli.options import Invocation

# Those of the specification; what libseccomp does not know of them is not supported.
_SECCOMP_ARCHITECTURES = (
    "AARCH64 ARM LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC PPC64 PPC64LE RISCV64 S390 "
    "S390X SH SHEB X32 X86 X86_64"
)


def run(invocation: Invocation) -> int:
    """Print the Features structure as JSON."""
    import json

    write(json.dumps(features(), indent=2) + "\n")
    return 0


def features() -> dict[str, Any]:
    """The Features structure, from the tables that parse config.json: what they know is what is recognized."""
    from ocipy.cli.version import commit, libseccomp_version
    from ocipy.config.hooks import KINDS

    annotations = {"io.github.ocipy.version": __version__, "io.github.ocipy.commit": commit()}
    if libseccomp := libseccomp_version():
        annotations["io.github.seccomp.libseccomp.version"] = libseccomp
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(KINDS),
        "mountOptions": _mount_options(),
        "linux": _linux(),
        "annotations": annotations,
    }


def _mount_options() -> list[str]:
    from ocipy.config import mounts

    once = {*mounts.PROPAGATION, *mounts.SUPERBLOCK, *mounts.NOT_SUPERBLOCK, *mounts.OTHERS}
    attributes = {*mounts.ATTRIBUTES, *mounts.ATIME, *mounts.NOT_ATIME}
    return sorted(once | attributes | {"r" + name for name in attributes})


def _linux() -> dict[str, Any]:
    from ocipy.config.capabilities import NAMES
    from ocipy.linux import process
    from ocipy.linux.namespaces import CLONE_FLAGS

    return {
        "namespaces": sorted(CLONE_FLAGS),
        "capabilities": list(NAMES),
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
        "seccomp": _seccomp(),
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
        "memoryPolicy": {"modes": list(process.MEMORY_POLICIES), "flags": list(process.MEMORY_POLICY_FLAGS)},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": True},
    }


def _seccomp() -> dict[str, Any]:
    from ocipy.linux import seccomp
    from ocipy.linux.libseccomp import arch

    flags = sorted(seccomp.FLAGS)
    return {
        "enabled": True,
        "actions": sorted(seccomp.ACTIONS),
        "operators": sorted(seccomp.OPERATORS),
        "archs": ["SCMP_ARCH_" + name for name in _SECCOMP_ARCHITECTURES.split() if arch(name.lower())],
        "knownFlags": flags,
        "supportedFlags": flags,
    }
