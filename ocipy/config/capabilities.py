"""process.capabilities: names and bits (config.md, Linux Process; capabilities(7))."""

from __future__ import annotations

from ocipy.config.paths import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocipy.config.types import Process

NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
    "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
    "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
BITS = {name: 1 << number for number, name in enumerate(NAMES)}
SETS = ("effective", "bounding", "inheritable", "permitted", "ambient")


def capability_mask(names: Iterable[str]) -> int:
    """Bits of the names; those that no kernel knows have none (``check`` warns of them)."""
    mask = 0
    for name in names:
        mask |= BITS.get(name, 0)
    return mask


def capability_names(mask: int) -> list[str]:
    """The names of the bits, in the kernel's order; a bit without a name is CAP_<number>."""
    numbers = (number for number in range(mask.bit_length()) if mask >> number & 1)
    return [NAMES[number] if number < len(NAMES) else f"CAP_{number}" for number in numbers]


def check(process: Process, pointer: str) -> list[str]:
    """Warnings, never an error: what cannot be granted must not stop a container (config.md, Linux Process)."""
    warnings = []
    sets = process.get("capabilities") or {}
    masks = {}
    for name in SETS:
        names: list[str] = sets.get(name) or []  # type: ignore[assignment]
        masks[name] = capability_mask(names)
        for index, item in enumerate(names):
            if item not in BITS:
                warnings.append(f'{pointer}/capabilities/{name}/{index}: "{printable(item)}" is not a capability; it is left out')
    user = process.get("user")
    if not user or not user.get("uid"):
        # Root's programs have all that is permitted and bounding, ambient or not: nothing is lost, and Buildah always asks for it.
        masks["ambient"] &= ~(masks["permitted"] & masks["bounding"])
    for name, within in (("effective", "permitted"), ("ambient", "permitted"), ("ambient", "inheritable")):
        if outside := masks[name] & ~masks[within]:
            text = f"the kernel does not grant what is not {within}: {', '.join(capability_names(outside))}"
            warnings.append(f"{pointer}/capabilities/{name}: {text}")
    return warnings
