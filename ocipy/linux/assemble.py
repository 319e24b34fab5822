"""The one ordering of create and of exec. Every line that could not stand elsewhere says why.

A plan is read from top to bottom. What the runtime does and what init does are in one list; where the runtime has work between
two steps of init, the encoder puts a SYNC.
"""

from __future__ import annotations

from ocipy.config.sysctl import sysctl_path
from ocipy.linux import devices, hooks, masks, mounts, namespaces, process, root
from ocipy.linux.cgroups import plan_birth, plan_cgroup, plan_entry
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Box, Config, Linux, Mount, Process
    from ocipy.linux.cgroups import CgroupPlan
    from ocipy.linux.host import Host


class Options:
    """What the command line and the caller's environment add to the config.

    ``bundle``: absolute path; ``id``: container id; ``preserve_fds``: number of fds from 3 on that the program gets; ``extra_env``:
    NAME=value that the runtime itself adds (LISTEN_PID …); ``cgroup_manager``: "cgroupfs", "systemd" or "disabled"; ``filters``:
    the directory of compiled seccomp filters, "" to compile each time.
    """

    __slots__ = (
        "bundle", "cgroup_manager", "extra_env", "extra_mounts", "filters", "id", "no_new_keyring", "no_pivot", "preserve_fds",
    )  # fmt: skip

    def __init__(self, container_id: str, bundle: str) -> None:
        self.id, self.bundle = container_id, bundle
        self.no_pivot = self.no_new_keyring = False
        self.preserve_fds = 0
        self.extra_env: list[str] = []
        self.extra_mounts: list[Mount] = []
        self.cgroup_manager = "cgroupfs"
        self.filters = ""

    def rootfs(self, config: Config) -> str:
        """root.path; relative ones start at the bundle (config.md, Root)."""
        path = config["root"]["path"]
        return path if path.startswith("/") else f"{self.bundle}/{path}"


class Assembled:
    """``steps``: the plan; ``cgroup``: its cgroups, for the journal and the state; ``warnings``: for the log."""

    __slots__ = ("cgroup", "steps", "warnings")

    def __init__(self, steps: list[Step], cgroup: CgroupPlan) -> None:
        self.steps, self.cgroup, self.warnings = steps, cgroup, cgroup.warnings


def assemble(config: Config, host: Host, options: Options) -> Assembled:
    """The plan of create."""
    found = namespaces.Namespaces(config)
    linux, spec_process = config.get("linux", {}), config["process"]
    rootless = host.uid != 0 or not host.whole_user_namespace
    cgroup = plan_cgroup(config, host.cgroup, options.id, manager=options.cgroup_manager, rootless=rootless)
    stage_birth, init_birth = plan_birth(cgroup.open, mapped=found.has("user"))
    rdt_make, rdt_enter = _plan_rdt(config, host, options)
    steps = [
        *cgroup.make,
        *cgroup.open,
        *rdt_make,
        *namespaces.plan_open(config, found),
        Step(ops.LISTEN, slot="listener"),
        Step(ops.OPEN_LOCK, slot="lock"),
        # All that needs the host's view is opened here and inherited; init gets no path of the host.
        *root.plan_open(config, options, found, host),
        *mounts.plan_open(config, options, host, cgroup.paths, found),
        *devices.plan_open(config, found, host),
        *masks.plan_open(config, host),
        *hooks.plan_open(config),
        Step(ops.SPAWN, "/process", preserve_fds=options.preserve_fds, **stage_birth),
        # systemd wants a process, and lets in none of another uid: init may become one.
        *cgroup.stage,
        *namespaces.plan_enter(config, found, host),
        Step(ops.CLONE_INIT, **init_birth),
        # Not earlier: what the kernel takes for a network namespace (some 100 KiB), for the stage and for the clone (50 KiB)
        # would count against a limit that is meant for the program. Not later: init waits here, nothing of it can escape, and
        # its mounts count.
        *cgroup.enter,
        *process.plan_score(spec_process, "/process"),
        *rdt_enter,
        Step(ops.SETSID),
        *namespaces.plan_cgroup(found),
        *_plan_keyring(config, options),
        *_plan_network(found),
        *_plan_net_devices(config),
        *root.plan_enter(config, options, found, host),
        *mounts.plan_make(config, options, host, cgroup.paths, found),
        *devices.plan_make(config, found, host),
        # The limits are in force when hooks run, but device nodes are made by now.
        *cgroup.after,
        *hooks.plan(config, options, "prestart"),
        *hooks.plan(config, options, "createRuntime"),
        *hooks.plan(config, options, "createContainer"),
        *root.plan_pivot(options, found),
        *_plan_stdio(spec_process, found),
        *mounts.plan_seal(config, options),
        *_plan_names(config),
        *[_plan_sysctl(name, value) for name, value in (linux.get("sysctl") or {}).items()],
        *masks.plan(config, host),
        *root.plan_readonly(config, found),
        # After the masks: of an unbindable root nothing could be cloned.
        *root.plan_propagation(config, found),
        *_plan_attributes(spec_process, linux, origin="/process"),
        *_plan_program(config, host, options, "/process", spec_process, waits=True),
    ]
    return Assembled(steps, cgroup)


def assemble_exec(
    config: Config, spec_process: Process, host: Host, options: Options, *, pid: int, flags: int, cgroup_paths: dict[str, str]
) -> list[Step]:
    """The plan of exec: the container's namespaces are joined by its pidfd, its cgroups by what the state remembers.

    ``pid``: the container's init; ``flags``: CLONE_NEW* of the namespaces that the container does not share with us; origins
    point into process.json.
    """
    found = namespaces.Namespaces(config)
    affinity = spec_process.get("execCPUAffinity") or {}
    cgroup_open, cgroup_enter = plan_entry(cgroup_paths)
    stage_birth, init_birth = plan_birth(cgroup_open, mapped=found.has("user"))
    steps = [Step(ops.OPEN_PIDFD, slot="container"), *cgroup_open]
    join: list[Step] = []
    if flags & namespaces.CLONE_FLAGS["cgroup"]:
        # Once init is in its cgroup: whoever is in the namespace may bring nobody in from outside (nsdelegate).
        flags -= namespaces.CLONE_FLAGS["cgroup"]
        origin, slot = "/linux/namespaces", "namespace:cgroup"
        steps.append(Step(ops.OPEN_NAMESPACE, origin, slot=slot, path=f"/proc/{pid}/ns/cgroup", type="cgroup"))
        join.append(Step(ops.JOIN, origin, cgroup=slot, uid=-1, gid=-1))
    if not found.has("mount"):
        steps.append(Step(ops.OPEN_ROOTFS, slot="rootfs", path=f"/proc/{pid}/root", attach=False))
    steps += [
        Step(ops.SPAWN, "/", preserve_fds=options.preserve_fds, affinity=affinity.get("initial"), **stage_birth),
        Step(ops.JOIN_CONTAINER, "/linux/namespaces", pidfd="container", flags=flags),
    ]
    if not found.has("mount"):
        steps += [Step(ops.ROOTFS, tree="rootfs", attach=0), Step(ops.CHROOT)]
    if found.has("user"):
        steps.append(namespaces.become(config, found))
    steps += [Step(ops.CLONE_INIT, **init_birth), *cgroup_enter, *join, *process.plan_score(spec_process, "")]
    steps += _plan_rdt(config, host, options)[1]
    steps += [Step(ops.SETSID), *_plan_keyring(config, options, join=True)]
    steps += _plan_stdio(spec_process, found, mount=False)
    steps += _plan_attributes(spec_process, config.get("linux", {}), origin="")
    return steps + _plan_program(config, host, options, "", spec_process, waits=False)


def assemble_mounts(config: Config, host: Host, options: Options, *, flags: int, cgroup_paths: dict[str, str]) -> list[Step]:
    """The plan that makes the mounts of ``config`` in a container that runs; its pid namespace is what a procfs shows."""
    found = namespaces.Namespaces(config)
    return [
        *mounts.plan_open(config, options, host, cgroup_paths, found),
        *_plan_visit(found, config, flags),
        *mounts.plan_make(config, options, host, cgroup_paths, found),
        *mounts.plan_seal(config, options),
        Step(ops.READY),
    ]


def assemble_unmounts(config: Config, *, flags: int) -> list[Step]:
    """The plan that takes the mounts of ``config`` away again, the last one first."""
    steps = _plan_visit(namespaces.Namespaces(config), config, flags)
    return [*steps, *reversed(mounts.plan_unmount(config)), Step(ops.READY)]


def _plan_visit(found: namespaces.Namespaces, config: Config, flags: int) -> list[Step]:
    """A process of ours in the container's namespaces, but in none of its cgroups: it may be frozen."""
    steps = [Step(ops.OPEN_PIDFD, slot="container"), Step(ops.SPAWN, "/", preserve_fds=0)]
    steps.append(Step(ops.JOIN_CONTAINER, "/linux/namespaces", pidfd="container", flags=flags))
    if found.has("user"):
        steps.append(namespaces.become(config, found))
    return [*steps, Step(ops.CLONE_INIT)]


def _plan_program(
    config: Config, host: Host, options: Options, origin: str, spec_process: Process, *, waits: bool
) -> list[Step]:
    """From the labels to execve.

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
    inside = hooks.plan(config, options, "startContainer") if waits else []
    if listens:
        steps += inside
    else:
        steps += filters + inside if keep else inside + filters
    return steps + process.plan_exec(spec_process, origin, options.extra_env)


def _plan_seccomp(config: Config, options: Options) -> Step | None:
    if not config.get("linux", {}).get("seccomp"):
        return None
    from ocipy.linux import seccomp  # the compiler is not small

    return seccomp.plan(config, options.filters)


def _plan_keyring(config: Config, options: Options, *, join: bool = False) -> list[Step]:
    if options.no_new_keyring:
        return []
    label = config.get("process", {}).get("selinuxLabel") or None
    return [Step(ops.SESSION_KEYRING, name=f"_ses.{options.id}", label=None if join else label)]


def _plan_network(found: namespaces.Namespaces) -> list[Step]:
    return [Step(ops.LOOPBACK_UP, found.pointers["network"])] if "network" in found.made else []


def _plan_rdt(config: Config, host: Host, options: Options) -> tuple[list[Step], list[Step]]:
    """What makes the groups, and what enters them."""
    rdt = config.get("linux", {}).get("intelRdt")
    if rdt is None:
        return [], []
    from ocipy.linux import intel_rdt  # few have any

    mount = host.resctrl_mount()
    return intel_rdt.plan(rdt, options.id, mount), [intel_rdt.plan_enter(rdt, options.id, mount)]


def _plan_net_devices(config: Config) -> list[Step]:
    if not config.get("linux", {}).get("netDevices"):
        return []
    from ocipy.linux import net_devices  # few have any

    return net_devices.plan(config)


def _plan_stdio(spec_process: Process, found: namespaces.Namespaces, *, mount: bool = True) -> list[Step]:
    user = process.user_of(spec_process)
    ids = {"uid": user.get("uid", 0)}
    if not spec_process.get("terminal"):
        return [Step(ops.STDIO_OWNER, "/process/user", **ids)]
    size: Box = spec_process.get("consoleSize") or {"height": 0, "width": 0}
    values = {"height": size["height"], "width": size["width"]}
    mount = mount and found.has("mount")
    return [Step(ops.CONSOLE, "/process/terminal", **values, **ids, gid=user.get("gid", 0), mount=mount)]


def _plan_names(config: Config) -> list[Step]:
    steps = []
    if config.get("hostname"):
        steps.append(Step(ops.HOSTNAME, "/hostname", name=config["hostname"]))
    if config.get("domainname"):
        steps.append(Step(ops.DOMAINNAME, "/domainname", name=config["domainname"]))
    return steps


def _plan_sysctl(name: str, value: str) -> Step:
    origin, path = "/linux/sysctl/" + pointer_escape(name), sysctl_path(name)
    if path == "kernel/domainname":
        # Its file is the host's root's, in a user namespace too.
        return Step(ops.DOMAINNAME, origin, name=value)
    return Step(ops.SYSCTL, origin, path="sys/" + path, value=value)


def _plan_attributes(spec_process: Process, linux: Linux, *, origin: str) -> list[Step]:
    steps = []
    if spec_process.get("noNewPrivileges"):
        steps.append(Step(ops.NO_NEW_PRIVILEGES, origin + "/noNewPrivileges"))
    if linux.get("personality"):
        steps.append(process.personality_step(linux["personality"]))
    if linux.get("memoryPolicy"):
        steps.append(process.memory_policy_step(linux["memoryPolicy"]))
    return steps


def pointer_escape(name: str) -> str:
    """A property name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
