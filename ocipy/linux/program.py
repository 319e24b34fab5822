"""The part of a plan that create and exec have in common: what the program gets, and it."""

from __future__ import annotations

from ocipy.linux import namespaces, process
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocipy.config.types import Box, Config, Linux, Process
    from ocipy.linux.host import Host
    from ocipy.linux.options import Options


def plan_program(
    config: Config, host: Host, options: Options, origin: str, spec_process: Process, *, waits: bool, inside: Sequence[Step] = ()
) -> list[Step]:
    """From the labels to execve; ``waits`` for start, after which the hooks ``inside`` the container run.

    The filter goes last, so that it need allow no more than the program does. Without noNewPrivileges that takes CAP_SYS_ADMIN,
    which init keeps until then; the bounding set is without it already. Two things come after the filter: "created" where there is
    a listener, and hooks of the container where init would hold more than they may have: they could trace it.
    """
    filter_step = _plan_seccomp(config, options)
    new_privileges = not spec_process.get("noNewPrivileges")
    listens = filter_step is not None and bool(filter_step.get("listener"))
    keep = process.CAP_SYS_ADMIN if filter_step is not None and new_privileges else 0
    set_groups = not namespaces.denies_setgroups(config, host)
    kept = {"listener": "listener", "lock": "lock"} if waits else {}
    steps = process.plan_labels(spec_process, host, origin)
    steps += process.plan_home(spec_process, origin)
    # Before the limits: a small RLIMIT_NOFILE is for the program, and would stop an init that has files open.
    steps.append(Step(ops.CLOSE_FDS, first=3 + options.preserve_fds, **kept))
    # Before the change of user: prlimit of another user's process takes CAP_SYS_RESOURCE.
    steps += process.plan_runtime(spec_process, origin)
    final = (spec_process.get("execCPUAffinity") or {}).get("final")
    if final and not waits:
        steps.append(Step(ops.CPU_AFFINITY, origin + "/execCPUAffinity/final", cpus=final))
    steps += process.plan_user(spec_process, origin, keep=keep, set_groups=set_groups)
    filters = [filter_step] if filter_step is not None else []
    if keep:
        filters.append(process.final_capabilities(spec_process, origin))
    if listens:
        steps += filters
    if waits:
        # The lock first: without it, a record that says "created" would read as running.
        steps += [Step(ops.LOCK, lock="lock"), Step(ops.WRITE_STATE, status="created"), Step(ops.READY)]
        steps.append(Step(ops.WAIT_START, listener="listener"))
    if listens:
        steps += inside
    else:
        steps += [*filters, *inside] if keep else [*inside, *filters]
    return steps + process.plan_exec(spec_process, origin, options.extra_env)


def _plan_seccomp(config: Config, options: Options) -> Step | None:
    if not config.get("linux", {}).get("seccomp"):
        return None
    from ocipy.linux import seccomp  # the compiler is not small

    return seccomp.plan(config, options.filters)


def plan_keyring(config: Config, options: Options, *, join: bool = False) -> list[Step]:
    if options.no_new_keyring:
        return []
    label = config.get("process", {}).get("selinuxLabel") or None
    return [Step(ops.SESSION_KEYRING, name=f"_ses.{options.id}", label=None if join else label)]


def plan_rdt(config: Config, host: Host, options: Options) -> tuple[list[Step], list[Step]]:
    """What makes the groups, and what enters them."""
    rdt = config.get("linux", {}).get("intelRdt")
    if rdt is None:
        return [], []
    from ocipy.linux import intel_rdt  # few have any

    mount = host.resctrl_mount()
    return intel_rdt.plan(rdt, options.id, mount), [intel_rdt.plan_enter(rdt, options.id, mount)]


def plan_stdio(spec_process: Process, found: namespaces.Namespaces, *, mount: bool = True) -> list[Step]:
    user = process.user_of(spec_process)
    ids = {"uid": user.get("uid", 0)}
    if not spec_process.get("terminal"):
        return [Step(ops.STDIO_OWNER, "/process/user", **ids)]
    size: Box = spec_process.get("consoleSize") or {"height": 0, "width": 0}
    values = {"height": size["height"], "width": size["width"]}
    mount = mount and found.has("mount")
    return [Step(ops.CONSOLE, "/process/terminal", **values, **ids, gid=user.get("gid", 0), mount=mount)]


def plan_attributes(spec_process: Process, linux: Linux, *, origin: str) -> list[Step]:
    steps = []
    if spec_process.get("noNewPrivileges"):
        steps.append(Step(ops.NO_NEW_PRIVILEGES, origin + "/noNewPrivileges"))
    if linux.get("personality"):
        steps.append(process.personality_step(linux["personality"]))
    if linux.get("memoryPolicy"):
        steps.append(process.memory_policy_step(linux["memoryPolicy"]))
    return steps
