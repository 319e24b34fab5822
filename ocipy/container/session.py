"""One plan under way: the runtime's half of the sync protocol (drawn in _native/init.c), and reports turned into exceptions.

The runtime's own steps are executed here by two tables; a step that opens something puts its fd into a slot, and init inherits
what the plan names.
"""

from __future__ import annotations

import os
from errno import EACCES, EPERM

from ocipy import warning
from ocipy.container.reports import ACK, CONSOLE, ERROR, EXECUTING, LISTENER, PID, READY, REPORT, SYNC, WARNING, message
from ocipy.errors import CgroupError, OcipyError, StepError, UsageError
from ocipy.linux import sys
from ocipy.plan import ops
from ocipy.plan.encode import blocks, encode
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.container.record import Record
    from ocipy.container.store import Entry
    from ocipy.linux.net_devices import Moved


class Session:
    """A plan and what it has so far: slots, the stage, init.

    ``pid`` and ``pidfd`` are init's once it is cloned. ``on_console`` gets the ptmx, ``on_pid`` is called before init goes on,
    ``on_ready`` when all is made, before init is told. ``meanwhile``: modules to import where there is nothing to do but wait.
    """

    __slots__ = (
        "entry", "follow", "hook_state", "listener_state", "meanwhile", "moved", "on_console", "on_pid", "on_ready", "paths", "pid",
        "pidfd", "plan", "record", "slots", "sock", "stage", "stage_pidfd", "staying", "target_pidfd", "unborn",
    )  # fmt: skip

    def __init__(self, plan: list[Step], record: Record, entry: Entry) -> None:
        self.plan, self.record, self.entry = plan, record, entry
        self.slots: dict[str, int] = {}
        self.moved: list[Moved] = []
        self.staying: list[str] = []
        self.pid = self.stage = 0
        self.pidfd = self.stage_pidfd = self.sock = self.target_pidfd = -1
        self.meanwhile: list[str] = []
        self.follow = 0  # whose cgroup v2 an exec enters where the container's own takes nobody
        self.unborn = ""  # slot of the cgroup that the kernel let nobody be born in
        self.paths: dict[str, str] = record.cgroup_paths
        self.on_console: Callable[[int], None] = os.close
        self.on_pid: Callable[[], None] = _nothing
        self.on_ready: Callable[[], None] = _nothing
        self.hook_state: Callable[[str], bytes] = str.encode  # of the kind of hook
        self.listener_state: Callable[[int], None] = os.close

    def run(self) -> None:
        """Executes the plan up to READY, or for exec up to a successful execve. Raises OcipyError; abort() is the caller's."""
        work = blocks(self.plan)
        self._apply_all(work[0])
        while True:
            kind, step, call, errno, value, fds = self._receive()
            if kind == SYNC:
                self._apply_all(work[value])
                self._send(ACK)
            elif kind == PID:
                self.pid, self.pidfd = value, fds.pop()
                if warning.tell:
                    warning.tell("debug", f"init is pid {self.pid}, cloned by the stage {self.stage}, which has ended")
                self._reap_stage()
                if errno:
                    self.unborn = self.plan[step].get("cgroup")
                if self.unborn:
                    self._move(self.unborn)
                self.on_pid()
                self._send(ACK)
            elif kind == CONSOLE:
                self.on_console(fds.pop())
            elif kind == LISTENER:
                self.listener_state(fds.pop())
                self._send(ACK)
            elif kind == WARNING:
                _warn_capabilities(value)
                warning.check()
            elif kind == READY:
                self.on_ready()
                self._send(ACK)
                if warning.tell:
                    warning.tell("debug", "init has done all of its steps and waits for start")
                os.close(self.sock)
                self.sock = -1
                return
            elif kind == EXECUTING:
                self._await_exec()
                if warning.tell:
                    warning.tell("debug", f"pid {self.pid} executes the program")
                return
            elif kind == ERROR:
                raise self.error(step, call, errno, value)

    def _await_exec(self) -> None:
        """End of file is success, since EXECUTING came before it."""
        data, _ = sys.recvmsg_fds(self.sock, REPORT.size)
        os.close(self.sock)
        self.sock = -1
        if data:
            _, step, call, errno, value = REPORT.unpack(data)
            raise self.error(step, call, errno, value)

    def _receive(self) -> tuple[int, int, int, int, int, list[int]]:
        ready: dict[int, int] = {}
        while self.meanwhile and not sys.poll([(self.sock, sys.POLLIN)], 0):
            __import__(self.meanwhile.pop())
        while self.stage and not ready:
            # A stage that ends without a word may have left an init, which has the socket open and waits for us.
            ready = dict(sys.poll([(self.sock, sys.POLLIN), (self.stage_pidfd, sys.POLLIN)], -1))
        # It may have spoken and ended while poll looked from one to the other: then its word is there by now.
        if self.stage and self.sock not in ready and not sys.poll([(self.sock, sys.POLLIN)], 0):
            raise self._died()
        data, fds = sys.recvmsg_fds(self.sock, REPORT.size)
        if len(data) != REPORT.size:
            raise self._died()
        return (*REPORT.unpack(data), fds)

    def _send(self, kind: int) -> None:
        try:
            sys.sendmsg_fd(self.sock, message(kind), [])
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        except OSError as error:  # it lives, and waits
            raise StepError(error.errno or 0, "answer the container's init", "sendmsg") from None

    def _died(self) -> OcipyError:
        """Init ended without a word: the kernel killed it."""
        pid = self.pid or self.stage
        _, status = os.waitpid(pid, 0) if pid else (0, 0)
        self.pid = self.stage = 0
        reason = f"was killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended"
        reason += " before it was ready"
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9 and ("memory" in self.paths or list(self.paths) == [""]):
            reason += ", probably as memory ran out: is linux.resources.memory.limit too small?"
        return StepError(0, "container init", detail=reason)

    def _move(self, slot: str) -> None:
        """Init could not be born in its cgroup v2. An exec into the container's goes where its first process is, if it must."""
        from ocipy.linux.cgroups import apply_enter

        opened = next(step for step in self.plan if step.values.get("slot") == slot)
        path = opened.get("path")
        try:
            apply_enter(Step(ops.ENTER_CGROUP, opened.origin, paths={"": path}, init=self.follow), self.pid)
        except CgroupError as error:
            unit = self.record.extra.get("unit")
            if not unit or error.errno not in (EACCES, EPERM):
                raise
            # We are somewhere that the user may take nobody out of, but systemd may.
            from ocipy.linux.cgroups.unit import attach

            attach(unit, self.pid, path.removeprefix(self.paths[""]))

    def _reap_stage(self) -> None:
        if self.stage:
            os.waitpid(self.stage, 0)
            os.close(self.stage_pidfd)
            self.stage, self.stage_pidfd = 0, -1

    def _apply_all(self, steps: list[Step]) -> None:
        for step in steps:
            if warning.tell:
                from ocipy.plan.render import describe

                warning.tell("debug", f"step {step.origin or '/'}: {describe(step, self.plan)}")
            slot = step.values.get("slot")
            opened = apply(self, step)
            if slot is not None and opened is not None:
                self.slots[slot] = opened

    def error(self, index: int, call: int, errno: int, value: int) -> OcipyError:
        """The exception of an ERROR report."""
        from ocipy.container.explain import explain

        output = self.slots.get("hook output", -1)
        error = explain(self.plan, index, ops.CALLS[call], errno, value, output)
        error.index = index
        return error

    def spawn(self, step: Step) -> None:
        """SPAWN: encode with the slots that are filled by now, check, clone, execute; then nothing of it stays open here."""
        self.sock, theirs = sys.socketpair_seqpacket()
        buffer = encode(self.plan, self.slots)
        sys.check_plan(buffer)
        plan_fd = sys.sealed_memfd("ocipy-plan", buffer)
        first = 3 + step.get("preserve_fds")
        for fd in range(3, first):
            if not os.get_inheritable(fd):  # all that we have opened ourselves
                raise UsageError(f"--preserve-fds: descriptor {fd} is not the caller's")
        argv = [b"ocipy:init", b"%d" % theirs, b"%d" % plan_fd, b"%d" % first]
        slot = step.get("cgroup")
        unified = self.slots[slot] if slot else -1
        keep = [theirs, plan_fd, *(fd for fd in self.slots.values() if fd != unified), *range(3, first)]
        elf = sys.init_elf()
        try:
            mask = _mask(step.get("affinity"))
            try:
                self.stage, self.stage_pidfd = sys.clone_stage(elf, argv, keep, cgroup=unified, affinity=mask)
            except sys.CallError as error:
                if unified < 0 or error.call != "clone3":
                    raise
                self.unborn = slot
                self.stage, self.stage_pidfd = sys.clone_stage(elf, argv, keep, affinity=mask)
        finally:
            output = self.slots.get("hook output", -1)
            for fd in (theirs, plan_fd, elf, *(fd for fd in self.slots.values() if fd != output)):
                os.close(fd)
            self.slots = {"hook output": output}

    def keep(self) -> None:
        """Nothing is to be undone any more."""
        for device in self.moved:
            device.close()

    def abort(self) -> None:
        """Nothing that this session started stays: init and stage end, and are reaped. Network devices come back."""
        if self.sock >= 0:
            os.close(self.sock)
            self.sock = -1
        for pid, pidfd in ((self.pid, self.pidfd), (self.stage, self.stage_pidfd)):
            if pid:
                try:
                    sys.pidfd_send_signal(pidfd, 9)
                except ProcessLookupError:
                    pass
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass
        self.pid = self.stage = 0
        for device in reversed(self.moved):
            device.give_back()
        self.record.made_resctrl = self.staying + self.record.made_resctrl

    @property
    def target(self) -> int:
        """The pid that a runtime step acts on: init, or the stage before there is one."""
        return self.pid or self.stage


def _nothing() -> None:
    pass


def _mask(cpus: str | None) -> bytes:
    if not cpus:
        return b""
    from ocipy.linux.process import cpu_mask

    return cpu_mask(cpus)


def _warn_capabilities(mask: int) -> None:
    from ocipy.config.capabilities import capability_names

    warning.warn(f"process.capabilities: this host cannot grant {', '.join(capability_names(mask))}")


# ---- the runtime's steps ----------------------------------------------------------------------------------------------

# op -> module of ocipy.linux, function, does it act on a process? Imported by the step that needs it: most bundles need few.
SECTIONS = {
    "MAKE_CGROUP": ("cgroups", "apply_make", False),
    "SET_CGROUP": ("cgroups", "apply_set", False),
    "OWN_CGROUP": ("cgroups", "apply_owner", False),
    "RESTRICT_DEVICES": ("cgroups", "apply_devices", False),
    "START_UNIT": ("cgroups", "apply_start_unit", True),
    "SET_UNIT": ("cgroups", "apply_set_unit", False),
    "ENTER_CGROUP": ("cgroups", "apply_enter", True),
    "OPEN_CGROUP": ("cgroups", "apply_open", False),
    "OPEN_TREE": ("mounts", "apply_open", False),
    "OPEN_DEVICE": ("devices", "apply_open", False),
    "OPEN_NAMESPACE": ("namespaces", "apply_open", False),
    "OPEN_ROOTFS": ("root", "apply_open", False),
    "ENTER_RESCTRL": ("intel_rdt", "apply_enter", True),
    "OOM_SCORE_ADJ": ("process", "apply_oom_score_adj", True),
    "ID_MAPS": ("namespaces", "apply_id_maps", True),
    "TIME_OFFSETS": ("namespaces", "apply_time_offsets", True),
    "RLIMIT": ("process", "apply_rlimit", True),
    "SCHEDULER": ("process", "apply_scheduler", True),
    "IO_PRIORITY": ("process", "apply_io_priority", True),
    "CPU_AFFINITY": ("process", "apply_cpu_affinity", True),
}


def _open_pidfd(session: Session, step: Step) -> int:
    return os.dup(session.target_pidfd)


def _listen(session: Session, step: Step) -> int:
    return sys.listen_unix(session.entry.dirfd, "start")


def _open_lock(session: Session, step: Step) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open("init.lock", flags, 0o600, dir_fd=session.entry.dirfd)


def _open_hook_output(session: Session, step: Step) -> int:
    return os.memfd_create("hook-output", os.MFD_CLOEXEC)


def _run_hook(session: Session, step: Step) -> None:
    from ocipy.container.hooks import run_hook

    kind = step.get("kind")
    run_hook(step.values, session.hook_state(kind), step.origin, kind, session.record.bundle)


def _move_net_device(session: Session, step: Step) -> None:
    from ocipy.linux.net_devices import apply_move

    session.moved.append(apply_move(step, session.target))


def _make_resctrl(session: Session, step: Step) -> None:
    """Written down before it is made; what others have made meanwhile is theirs."""
    from ocipy.linux.intel_rdt import apply_make, apply_schemata

    path, record = step.get("path"), session.record
    if not os.path.isdir(path):
        record.made_resctrl.append(path)
        session.entry.write(record)
    made = apply_make(step)
    if not made and path in record.made_resctrl:
        record.made_resctrl.remove(path)
    apply_schemata(step, made=made)


def _keep_resctrl(session: Session) -> None:
    """From now on a class that the config names is not ours to remove, unless create fails after all."""
    shared = [step.get("path") for step in session.plan if step.op is ops.MAKE_RESCTRL and step.get("how") == "share"]
    made = session.record.made_resctrl
    session.staying = [path for path in made if path in shared]
    session.record.made_resctrl = [path for path in made if path not in shared]


def _write_state(session: Session, step: Step) -> None:
    session.record.status = step.get("status")
    if session.record.made_resctrl:
        _keep_resctrl(session)
    session.entry.write(session.record)


# What needs the session itself.
OWN: dict[str, Callable[[Session, Step], int | None]] = {
    "OPEN_PIDFD": _open_pidfd,
    "LISTEN": _listen,
    "OPEN_LOCK": _open_lock,
    "OPEN_HOOK_OUTPUT": _open_hook_output,
    "SPAWN": Session.spawn,
    "MAKE_RESCTRL": _make_resctrl,
    "MOVE_NET_DEVICE": _move_net_device,
    "RUN_HOOK": _run_hook,
    "WRITE_STATE": _write_state,
}


def apply(session: Session, step: Step) -> int | None:
    """Executes one step of the runtime; gives the fd that it opened for its slot. Raises OcipyError."""
    own = OWN.get(step.op.name)
    if own is not None:
        return own(session, step)
    module, function, acts = SECTIONS[step.op.name]
    applied: Callable[..., int | None] = getattr(__import__("ocipy.linux." + module, fromlist=(function,)), function)
    return applied(step, session.target) if acts else applied(step)
