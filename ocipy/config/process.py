"""process: what is run, where, and how it is scheduled (config.md, Process, POSIX process, Linux Process)."""

from __future__ import annotations

from ocipy.config.paths import check_path
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Process, Scheduler

STRING_MAX = 128 * 1024  # MAX_ARG_STRLEN of execve, with the NUL


def check(process: Process, pointer: str = "/process") -> list[str]:
    """Raises ConfigError; gives warnings. ``pointer`` is "" for a process that stands alone."""
    from ocipy.config import capabilities

    args = process.get("args")
    if not args:
        raise ConfigError(pointer + "/args" if args is not None else pointer, "args must not be empty: its first is the program")
    if not args[0]:
        raise ConfigError(pointer + "/args/0", "the program to run must not be an empty string")
    if not process["cwd"]:
        raise ConfigError(pointer + "/cwd", "cwd must not be empty")
    check_path(process["cwd"], pointer + "/cwd")
    for name, texts in (("args", args), ("env", process.get("env") or ())):
        for index, text in enumerate(texts):
            if len(text) >= STRING_MAX // 4 and len(text.encode()) >= STRING_MAX:
                raise ConfigError(f"{pointer}/{name}/{index}", f"longer than {STRING_MAX - 1} bytes, the most that execve takes")
    if process.get("terminal") and "consoleSize" in process:
        for name in ("height", "width"):
            if process["consoleSize"][name] > 65535:  # type: ignore[literal-required]
                raise ConfigError(f"{pointer}/consoleSize/{name}", "a terminal has 65535 at most")
    if process.get("rlimits"):
        from ocipy.config import rlimits

        rlimits.check(process, pointer)
    if "scheduler" in process:
        _check_scheduler(process["scheduler"], pointer + "/scheduler")
    for name, cpus in (process.get("execCPUAffinity") or {}).items():
        if name in ("initial", "final"):
            from ocipy.config.id_list import parse_id_list

            parse_id_list(str(cpus), f"{pointer}/execCPUAffinity/{name}")
    return capabilities.check(process, pointer)


def _check_scheduler(scheduler: Scheduler, pointer: str) -> None:
    """sched_setattr(2): what belongs to one policy is an error with another, not something to ignore."""
    policy, priority = scheduler["policy"], scheduler.get("priority", 0)
    realtime = policy in ("SCHED_FIFO", "SCHED_RR")
    if not -20 <= scheduler.get("nice", 0) <= 19:
        raise ConfigError(pointer + "/nice", f"{scheduler['nice']} is not a nice value: -20 to 19")
    if priority and not realtime:
        raise ConfigError(pointer + "/priority", f"{policy} has no priority; SCHED_FIFO and SCHED_RR have")
    if realtime and not 1 <= priority <= 99:
        raise ConfigError(pointer + "/priority", f"{priority} is not a priority of {policy}: 1 to 99")
    times = [scheduler.get("runtime", 0), scheduler.get("deadline", 0), scheduler.get("period", 0)]
    if policy != "SCHED_DEADLINE":
        for name, time in zip(("runtime", "deadline", "period"), times, strict=True):
            if time:
                raise ConfigError(f"{pointer}/{name}", f"only SCHED_DEADLINE has a {name}, and the policy is {policy}")
    elif not 0 < times[0] <= (times[1] or times[2]):
        raise ConfigError(pointer, "SCHED_DEADLINE needs 0 < runtime <= deadline")
