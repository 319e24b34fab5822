"""The process: what it is, may and gets (config.md, Linux Process, User; runtime.md, Lifecycle 8)."""

from __future__ import annotations

import errno

from ocipy.config.capabilities import capability_mask
from ocipy.config.rlimits import RESOURCES
from ocipy.errors import CapabilityError, ConfigError, StepError
from ocipy.linux import sys
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import MemoryPolicy, Personality, Process, User
    from ocipy.linux.host import Host

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_UMASK = 0o022
CAP_SYS_ADMIN = 1 << 21


def plan_runtime(process: Process, origin: str) -> list[Step]:
    """What takes the host's privilege and a pid: limits come last, since they bind the runtime's helper too."""
    steps: list[Step] = []
    scheduler, priority = process.get("scheduler"), process.get("ioPriority")
    if scheduler:
        values = {name: scheduler.get(name) for name in ("policy", "nice", "priority", "flags", "runtime", "deadline", "period")}
        steps.append(Step(ops.SCHEDULER, origin + "/scheduler", **values))
    if priority:
        level = priority.get("priority", 0)
        steps.append(Step(ops.IO_PRIORITY, origin + "/ioPriority", level=priority["class"], data=level))
    for index, limit in enumerate(process.get("rlimits") or ()):
        pointer = f"{origin}/rlimits/{index}"
        steps.append(Step(ops.RLIMIT, pointer, resource=limit["type"], soft=limit["soft"], hard=limit["hard"]))
    return steps


def plan_score(process: Process, origin: str) -> list[Step]:
    """oom_score_adj, by the runtime: a process that is not dumpable cannot write its own."""
    score = process.get("oomScoreAdj")
    return [] if score is None else [Step(ops.OOM_SCORE_ADJ, origin + "/oomScoreAdj", value=score)]


def plan_labels(process: Process, host: Host, origin: str) -> list[Step]:
    """The labels of the next execve."""
    steps: list[Step] = []
    profile, label = process.get("apparmorProfile"), process.get("selinuxLabel")
    if profile:
        attribute = "thread-self/attr/apparmor/exec"
        steps.append(Step(ops.EXEC_LABEL, origin + "/apparmorProfile", attribute=attribute, value=f"exec {profile}"))
    if label:
        attribute = "thread-self/attr/exec"
        steps.append(Step(ops.EXEC_LABEL, origin + "/selinuxLabel", attribute=attribute, value=label))
    return steps


def plan_user(process: Process, origin: str, *, keep: int, set_groups: bool) -> list[Step]:
    """Bounding set, ids, directory, the other sets, umask, and the program as this user would find it.

    ``keep``: capabilities that init still needs after this (see assemble). Looking up and entering the directory once as
    root and once as the user is for directories that only one of the two may enter.
    """
    user = user_of(process)
    sets = capability_masks(process)
    groups = b"".join(gid.to_bytes(4, sys.BYTE_ORDER) for gid in user.get("additionalGids") or ())
    if groups and not set_groups:
        raise ConfigError(origin + "/user/additionalGids", "no groups can be set where the user namespace denies setgroups")
    cwd = process.get("cwd") or "/"
    steps = [
        Step(ops.CWD, origin + "/cwd", path=cwd, final=0, create=1),
        Step(ops.BOUNDING_SET, origin + "/capabilities/bounding", keep=sets["bounding"]),
        Step(
            ops.USER, origin + "/user", uid=user.get("uid", 0), gid=user.get("gid", 0), groups=groups, set_groups=set_groups
        ),
        Step(ops.CWD, origin + "/cwd", path=cwd, final=1, create=0),
        capabilities_step(sets, origin, keep),
        Step(ops.UMASK, origin + "/user/umask", mask=user.get("umask", DEFAULT_UMASK)),
    ]
    args = process.get("args") or [""]
    steps.append(Step(ops.LOOKUP, origin + "/args/0", program=args[0], search=search_path(process)))
    return steps


def capability_masks(process: Process) -> dict[str, int]:
    """Set -> bit mask; a set that the config leaves away is empty."""
    sets = process.get("capabilities") or {}
    return {
        "bounding": capability_mask(sets.get("bounding") or ()),
        "effective": capability_mask(sets.get("effective") or ()),
        "permitted": capability_mask(sets.get("permitted") or ()),
        "inheritable": capability_mask(sets.get("inheritable") or ()),
        "ambient": capability_mask(sets.get("ambient") or ()),
    }


def capabilities_step(sets: dict[str, int], origin: str, keep: int = 0) -> Step:
    """The four sets of a thread; the kernel wants effective within permitted."""
    return Step(
        ops.CAPABILITIES,
        origin + "/capabilities",
        effective=sets["effective"],
        permitted=sets["permitted"],
        inheritable=sets["inheritable"],
        ambient=sets["ambient"],
        keep=keep,
    )


def user_of(process: Process) -> User:
    """process.user, root where the config has none."""
    return process.get("user") or {"uid": 0, "gid": 0}


def final_capabilities(process: Process, origin: str) -> Step:
    """The sets again, without what init kept for itself."""
    return capabilities_step(capability_masks(process), origin)


def search_path(process: Process) -> str:
    """PATH of process.env, the last one as execve's callers see it; a default where there is none."""
    path = DEFAULT_PATH
    for item in process.get("env") or ():
        if item.startswith("PATH="):
            path = item[5:]
    return path


def plan_exec(process: Process, origin: str, extra_env: list[str]) -> list[Step]:
    """execve of args with env, and with what the runtime adds for the protocols of systemd."""
    # The last of a name counts, as for runc: many a program would take the first that it finds.
    named = {item.partition("=")[0]: item for item in (*(process.get("env") or ()), *extra_env) if item != "HOME="}
    env = list(named.values())
    return [Step(ops.EXEC, origin + "/args", args=process.get("args") or [], env=env)]


def plan_home(process: Process, origin: str) -> list[Step]:
    """HOME from the container's passwd where process.env has none, or an empty one, as callers are used to."""
    if any(item.startswith("HOME=") and item != "HOME=" for item in process.get("env") or ()):
        return []
    return [Step(ops.HOME, origin + "/env", uid=user_of(process).get("uid", 0))]


# ---- applied by the runtime ------------------------------------------------------------------------------------------


def apply_oom_score_adj(step: Step, pid: int) -> None:
    """Writes /proc/PID/oom_score_adj; without privilege the kernel refuses a value below our own."""
    try:
        sys.write_proc(f"{pid}/oom_score_adj", str(step.get("value")).encode())
    except OSError as error:
        raise StepError(error.errno or 0, f"set oom_score_adj to {step.get('value')}", "write", step.origin) from None


def apply_rlimit(step: Step, pid: int) -> None:
    """prlimit by pid: a hard limit can only be raised with the host's privilege."""
    name = step.get("resource")
    try:
        sys.prlimit(pid, RESOURCES[name], step.get("soft"), step.get("hard"))
    except OSError as error:
        what = f"set {name} to {step.get('soft')}:{step.get('hard')}"
        detail = ""
        if error.errno == errno.EPERM:
            detail = "it takes privilege to exceed the hard limit of ocipy itself"
            detail += "; /proc/sys/fs/nr_open is the most" if name == "RLIMIT_NOFILE" else ""
        raise CapabilityError(error.errno or 0, what, "prlimit", step.origin, detail) from None


POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4, "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32, "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip


def apply_scheduler(step: Step, pid: int) -> None:
    """sched_setattr of the container process."""
    flags = sum(SCHED_FLAGS[name] for name in step.get("flags") or ())
    numbers = [step.get(name) or 0 for name in ("nice", "priority", "runtime", "deadline", "period")]
    try:
        sys.sched_setattr(pid, POLICIES[step.get("policy")], flags, *numbers)
    except OSError as error:
        raise StepError(error.errno or 0, f"set {step.get('policy')}", "sched_setattr", step.origin) from None


IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


def apply_io_priority(step: Step, pid: int) -> None:
    """ioprio_set of the process: it has no other in its group yet, and those that come inherit it."""
    name = step.get("level")
    data = 0 if name == "IOPRIO_CLASS_IDLE" else step.get("data")
    try:
        sys.ioprio_set(1, pid, IO_CLASSES[name] << 13 | data)
    except OSError as error:
        raise StepError(error.errno or 0, f"set {name} {data}", "ioprio_set", step.origin) from None


def cpu_mask(cpus: str) -> bytes:
    """"0-3,7" as the bit mask of sched_setaffinity."""
    bits = 0
    for part in cpus.split(","):
        first, _, last = part.strip().partition("-")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 63) // 64 * 8, sys.BYTE_ORDER)


def apply_cpu_affinity(step: Step, pid: int) -> None:
    """execCPUAffinity.final: before the program, after the process is in its cgroup."""
    try:
        sys.sched_setaffinity(pid, cpu_mask(step.get("cpus")))
    except OSError as error:
        raise StepError(error.errno or 0, f"run on the CPUs {step.get('cpus')}", "sched_setaffinity", step.origin) from None


def personality_step(personality: Personality) -> Step:
    """linux.personality; the specification reserves ``flags``, of which there are none."""
    persona = {"LINUX": 0, "LINUX32": 8}[personality["domain"]]
    return Step(ops.PERSONALITY, "/linux/personality", persona=persona)


MEMORY_POLICIES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4, "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_POLICY_FLAGS = {"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15}


def memory_policy_step(policy: MemoryPolicy) -> Step:
    """linux.memoryPolicy as set_mempolicy takes it."""
    mode = MEMORY_POLICIES[policy["mode"]] | sum(MEMORY_POLICY_FLAGS[name] for name in policy.get("flags") or ())
    nodes = cpu_mask(policy["nodes"]) if policy.get("nodes") else b""
    return Step(ops.MEMORY_POLICY, "/linux/memoryPolicy", mode=mode, nodes=nodes)
