"""The one ordering of exec; that of create is in assemble.py."""

from __future__ import annotations

from ocipy.linux import namespaces, process, program
from ocipy.linux.cgroups import plan_birth, plan_entry
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Process
    from ocipy.linux.host import Host
    from ocipy.linux.options import Options


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
    steps += program.plan_rdt(config, host, options)[1]
    steps += [Step(ops.SETSID), *program.plan_keyring(config, options, join=True)]
    steps += program.plan_stdio(spec_process, found, mount=False)
    steps += program.plan_attributes(spec_process, config.get("linux", {}), origin="")
    return steps + program.plan_program(config, host, options, "", spec_process, waits=False)
