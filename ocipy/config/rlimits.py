"""process.rlimits (config.md, POSIX process; getrlimit(2))."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Process

# The kernel's numbers, the same on every architecture that ocipy runs on.
RESOURCES = {
    "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}  # fmt: skip


def check(process: Process, pointer: str) -> None:
    """Raises ConfigError for a type that the kernel does not know, a type given twice, or soft above hard."""
    seen = set()
    for index, limit in enumerate(process.get("rlimits") or ()):
        place, name = f"{pointer}/rlimits/{index}", limit["type"]
        if name not in RESOURCES:
            known = ", ".join(sorted(RESOURCES))
            raise ConfigError(place + "/type", f"{printable(name)} is not a limit of this kernel; known are {known}")
        if name in seen:
            raise ConfigError(place + "/type", f"{name} is here for the second time")
        if limit["soft"] > limit["hard"]:
            raise ConfigError(place + "/soft", f"the soft limit {limit['soft']} is above the hard limit {limit['hard']}")
        seen.add(name)
