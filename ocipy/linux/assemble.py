"""The one ordering of create; that of exec is in assemble_exec.py. Every line that could not stand elsewhere says why.

A plan is read from top to bottom. What the runtime does and what init does are in one list; where the runtime has work between
two steps of init, the encoder puts a SYNC.
"""

from __future__ import annotations

from ocipy.config.sysctl import sysctl_path
from ocipy.linux import devices, hooks, masks, mounts, namespaces, process, program, root
from ocipy.linux.cgroups import plan_birth, plan_cgroup
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config
    from ocipy.linux.cgroups import CgroupPlan
    from ocipy.linux.host import Host
    from ocipy.linux.options import Options


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
    rdt_make, rdt_enter = program.plan_rdt(config, host, options)
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
        *program.plan_keyring(config, options),
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
        *program.plan_stdio(spec_process, found),
        *mounts.plan_seal(config, options),
        *_plan_names(config),
        *[_plan_sysctl(name, value) for name, value in (linux.get("sysctl") or {}).items()],
        *masks.plan(config, host),
        *root.plan_readonly(config, found),
        # After the masks: of an unbindable root nothing could be cloned.
        *root.plan_propagation(config, found),
        *program.plan_attributes(spec_process, linux, origin="/process"),
        *program.plan_program(
            config, host, options, "/process", spec_process, waits=True, inside=hooks.plan(config, options, "startContainer")
        ),
    ]
    return Assembled(steps, cgroup)


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


def _plan_network(found: namespaces.Namespaces) -> list[Step]:
    return [Step(ops.LOOPBACK_UP, found.pointers["network"])] if "network" in found.made else []


def _plan_net_devices(config: Config) -> list[Step]:
    if not config.get("linux", {}).get("netDevices"):
        return []
    from ocipy.linux import net_devices  # few have any

    return net_devices.plan(config)


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


def pointer_escape(name: str) -> str:
    """A property name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
