"""--trace: the timeline of one command as Chrome's trace JSON, which Perfetto, speedscope and chrome://tracing open.

Imported only when it is asked for, and nothing else knows of it: what is timed is wrapped from here as soon as its module is
loaded, by the table TIMED. Init's part comes through memory that it shares with the runtime (init.c, map_marks), or, of `start`, as
messages.
All times are CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

import _frozen_importlib
import os
import sys
from time import monotonic_ns as now

from ocipy import __version__
from ocipy.errors import OcipyError, strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.cli.options import Invocation
    from ocipy.container.session import Session
    from ocipy.container.store import Entry
    from ocipy.plan.step import Step

# module -> function or method of it -> what its event is called
TIMED: dict[str, dict[str, str]] = {
    "ocipy.cli.options": {"parse": "parse the command line"},
    "ocipy.config._compiled": dict.fromkeys(("config", "process", "resources"), "validate against the schema"),
    "ocipy.config.load": {
        "load_config": "load", "read_file": "read the file", "parse_json": "parse JSON", "_checked": "check",
    },
    "ocipy.container.delete": {"_end_init": "end what runs", "_remove_resources": "remove what was made", "undo": "undo"},
    "ocipy.container.foreground": {"wait": "the program runs"},
    "ocipy.container.lifecycle": {"_journal": "write the journal", "_announce": "announce the process", "_undo": "undo create"},
    "ocipy.container.session": {"Session._send": "answer init"},
    "ocipy.container.start": {"_poststart": "poststart"},
    "ocipy.container.state": {"status": "find the status"},
    "ocipy.container.store": {
        "Store.create": "make the state directory", "Entry.lock": "lock the state", "Entry.read": "read the state",
        "Entry.write": "write the state", "Entry.remove": "remove the state",
    },
    "ocipy.linux.assemble": dict.fromkeys(("assemble", "assemble_mounts", "assemble_unmounts"), "assemble"),
    "ocipy.linux.assemble_exec": {"assemble_exec": "assemble"},
    "ocipy.linux.cgroups.freezer": {"freeze": "freeze", "thaw": "thaw"},
    "ocipy.linux.cgroups.members": {"kill_all": "kill what is in the cgroups"},
    "ocipy.linux.cgroups.removal": {"remove": "remove the cgroups"},
    "ocipy.linux.cgroups.unit": {"stop_unit": "stop the systemd unit"},
    "ocipy.linux.host": {"read_host": "read the host"},
    "ocipy.linux.sys": {"check_plan": "check the plan", "init_elf": "put init into sealed memory"},
    "ocipy.plan.encode": {"encode": "encode"},
}  # fmt: skip


class Span:
    """``began`` to ``ended`` in the row ``pid``; ``kind`` is what viewers colour and filter by."""

    __slots__ = ("args", "began", "ended", "kind", "name", "pid")

    def __init__(self, name: str, kind: str, began: int, ended: int, pid: int, **args: Any) -> None:
        self.name, self.kind, self.began, self.ended, self.pid, self.args = name, kind, began, ended, pid, args


def render(spans: list[Span], rows: dict[int, str]) -> bytes:
    """The file, in the JSON Object Format: an event for each span, the outer before the inner, and a name for each row.

    Microseconds, counted from the first event: of a clock's own numbers a viewer's double would lose the nanoseconds.
    """
    import json

    zero = min([span.began for span in spans], default=0)
    events: list[dict[str, Any]] = []
    for order, (pid, name) in enumerate(rows.items()):
        for kind, args in (("process_name", {"name": name}), ("process_sort_index", {"sort_index": order})):
            events.append({"name": kind, "ph": "M", "pid": pid, "tid": pid, "args": args})
    for span in sorted(spans, key=lambda span: (span.began, -span.ended)):
        event = {"name": span.name, "cat": span.kind, "ph": "X", "pid": span.pid, "tid": span.pid, "args": span.args}
        events.append(event | {"ts": (span.began - zero) / 1000, "dur": (span.ended - span.began) / 1000})
    lines = ",\n".join(json.dumps(event) for event in events)
    about = json.dumps({"version": f"ocipy {__version__}", "clock": "CLOCK_MONOTONIC", "began_ns": zero})
    return f'{{"displayTimeUnit": "ns", "otherData": {about}, "traceEvents": [\n{lines}\n]}}\n'.encode()


class Timeline:
    """What is known of the command under way. ``heard``: when which message last came or went; ``steps``: STEP messages."""

    def __init__(self) -> None:
        self.began = self.main_began = now()
        self.pid = os.getpid()
        self.spans: list[Span] = []
        self.heard: dict[str, int] = {}
        self.steps: dict[int, int] = {}
        self.session: Session | None = None
        self.places: dict[int, int] = {}
        self.started: Entry | None = None
        self.stage, self.cloned, self.marks = 0, 0, -1

    def add(self, name: str, kind: str, began: int, ended: int, **args: Any) -> None:
        """Something that the runtime did."""
        self.spans.append(Span(name, kind, began, ended, self.pid, **args))


timeline: Timeline | None = None


# ---- the runtime's part: functions in wrappers ---------------------------------------------------------------------------------


def start(launched: bytes = b"", interpreter: int = 0, booted: int = 0) -> None:
    """From now on all is timed; once. ``launched``: of the launcher, its begin and the execve of Python; ``interpreter``: its
    main(); ``booted``: boot(); 0 where there was none.
    """
    global timeline
    if timeline is not None:
        return
    line = timeline = Timeline()
    if launched:
        line.began, executed = map(int, launched.split())
        line.add("launcher", "start", line.began, executed)
        if interpreter:
            line.add("execve, link the interpreter", "start", executed, interpreter)
        line.add("start Python", "start", interpreter or executed, booted)
        line.add("boot", "start", booted, now())
    _time_imports(line)
    for name in list(sys.modules):
        wrap(line, name)
    line.main_began = now()


def _time_imports(line: Timeline) -> None:
    """Those of import statements, and those that boot.py does at once."""
    importer: Any = _frozen_importlib
    boot: Any = sys.modules.get("ocipy.cli.boot")
    load = importer._find_and_load  # what every import of what is not yet loaded comes to
    loading: set[str] = set()

    def done(name: str, began: int) -> None:
        line.add(f"import {name}", "import", began, now())
        if name in sys.modules:
            wrap(line, name)

    def timed_load(name: str, import_: Any) -> Any:
        if name in sys.modules:
            return load(name, import_)
        loading.add(name)
        began = now()
        try:
            return load(name, import_)
        finally:
            done(name, began)

    def timed_exec(code: Any, names: dict[str, Any]) -> None:
        began, name = now(), names["__name__"]
        exec(code, names)
        if name not in loading:
            done(name, began)

    importer._find_and_load = timed_load
    if boot is not None:
        boot.exec = timed_exec  # which it finds before the one of Python


def wrap(line: Timeline, name: str) -> None:
    """Put wrappers around the functions of a module that has just been loaded: who imports them gets the wrappers."""
    module: Any = sys.modules.get(name)
    if name.startswith("ocipy.cli.") and "run" in vars(module):
        _replace(line, module, "run", timed, name.rpartition(".")[2], "verb")
    for path, title in TIMED.get(name, {}).items():
        _replace(line, module, path, timed, title, "work")
    for path, make in SPECIAL.get(name, {}).items():
        _replace(line, module, path, make)


def _replace(line: Timeline, module: Any, path: str, make: Callable[..., Callable[..., Any]], *more: str) -> None:
    """What is not there is not timed: a test tells of it."""
    owner, _, name = path.rpartition(".")
    place = getattr(module, owner, None) if owner else module
    if (function := getattr(place, name, None)) is not None:
        setattr(place, name, make(line, function, *more))


def timed(line: Timeline, function: Callable[..., Any], name: str, kind: str, **args: Any) -> Callable[..., Any]:
    """``function``, with an event for each call, which also says how it failed."""

    def call(*arguments: Any, **named: Any) -> Any:
        began, failed = now(), {}
        try:
            return function(*arguments, **named)
        except BaseException as error:
            failed = {"error": f"{type(error).__name__}: {error}"}
            raise
        finally:
            line.add(name, kind, began, now(), **args, **failed)

    return call


def _import_at_once(line: Timeline, load: Callable[..., Any]) -> Callable[..., Any]:
    def call(bundle: Any, verb: str) -> Any:
        known = "all of " + verb in bundle.index
        return known and timed(line, load, f"import all of {verb}", "import")(bundle, verb)

    return call


def _step(line: Timeline, apply: Callable[..., Any]) -> Callable[..., Any]:
    def call(session: Session, step: Step) -> Any:
        return timed(line, apply, step.op.name, "step", index=line.places[id(step)])(session, step)

    return call


def _run(line: Timeline, run: Callable[..., Any]) -> Callable[..., Any]:
    def call(session: Session) -> Any:
        line.session, line.places = session, {id(step): place for place, step in enumerate(session.plan)}
        return timed(line, run, "carry out the plan", "work")(session)

    return call


def _receive(line: Timeline, receive: Callable[..., Any]) -> Callable[..., Any]:
    def call(session: Session) -> Any:
        began, name = now(), "wait for init"
        try:
            report = receive(session)
            name += ": " + _kind(report[0])
            return report
        finally:
            line.add(name, "protocol", began, now())

    return call


def _run_hook(line: Timeline, run: Callable[..., Any]) -> Callable[..., Any]:
    def call(hook: Any, state: bytes, pointer: str, kind: str, bundle: str) -> Any:
        name = f"{kind} hook {hook['path']}"
        return timed(line, run, name, "hook", pointer=pointer)(hook, state, pointer, kind, bundle)

    return call


def _go(line: Timeline, go: Callable[..., Any]) -> Callable[..., Any]:
    def call(entry: Entry) -> Any:
        line.started = entry
        return timed(line, go, "init goes on, until its execve", "protocol")(entry)

    return call


def _message(line: Timeline, message: Callable[..., Any]) -> Callable[..., Any]:
    """GO with a value asks an init that was made without us to tell its steps."""

    def call(kind: int) -> Any:
        from ocipy.container.reports import GO, REPORT

        line.heard[_kind(kind)] = now()
        return REPORT.pack(GO, 0, 0, 0, 1) if kind == GO and line.marks < 0 else message(kind)

    return call


def _heard(line: Timeline, receive: Callable[..., Any]) -> Callable[..., Any]:
    def call(sock: int, size: int) -> Any:
        from ocipy.container.reports import REPORT, STEP

        data, fds = receive(sock, size)
        if len(data) == REPORT.size == size:
            kind, step, _, _, value = REPORT.unpack(data)
            if kind == STEP:
                line.steps[step] = value
            line.heard[_kind(kind)] = now()
        elif not data:
            line.heard["end"] = now()
        return data, fds

    return call


def _kind(number: int) -> str:
    from ocipy.plan.reports import REPORTS

    return REPORTS[number - 1] if 0 < number <= len(REPORTS) else str(number)


def _clone_stage(line: Timeline, clone: Callable[..., Any]) -> Callable[..., Any]:
    """Init gets memory for its marks, an u64 for each step and one for its begin; made here, it counts for us."""

    def call(elf: int, argv: list[bytes], keep: list[int], **named: Any) -> Any:
        from ocipy.container.hooks import memory_file

        if line.marks < 0 and line.session is not None:
            line.marks = memory_file("ocipy-trace")
            os.write(line.marks, bytes(8 * (len(line.session.plan) + 1)))
        argv, keep, line.cloned = [*argv, b"%d" % line.marks], [*keep, line.marks], now()
        pid, pidfd = timed(line, clone, "clone and execute the stage", "work")(elf, argv, keep, **named)
        line.stage = pid
        return pid, pidfd

    return call


SPECIAL: dict[str, dict[str, Callable[[Timeline, Callable[..., Any]], Callable[..., Any]]]] = {
    "ocipy.cli.boot": {"Bundle.import_at_once": _import_at_once},
    "ocipy.container.hooks": {"run_hook": _run_hook},
    "ocipy.container.session": {"apply": _step, "Session.run": _run, "Session._receive": _receive},
    "ocipy.container.start": {"_go": _go, "message": _message},
    "ocipy.linux.sys": {"clone_stage": _clone_stage, "recvmsg_fds": _heard},
}


# ---- init's part ---------------------------------------------------------------------------------------------------------------


def step_name(step: Step) -> str:
    """The op, and of hooks which one."""
    return f"HOOK {step.get('path')}" if step.op.name == "HOOK" else step.op.name


def step_args(index: int, step: Step, plan: list[Step]) -> dict[str, Any]:
    """Its place in the plan, the JSON pointer of what asked for it, and words; no arguments of programs: there may be secrets."""
    args: dict[str, Any] = {"index": index, "op": step.op.name, "pointer": step.origin}
    if step.op.name not in ("EXEC", "HOOK", "RUN_HOOK"):
        from ocipy.plan.render import describe

        args["text"] = describe(step, plan)
    return args


def follow(
    plan: list[Step], stream: list[tuple[int, Step]], marks: dict[int, int], heard: dict[str, int], pids: tuple[int, int],
    began: int, end: int,
) -> list[Span]:
    """What stage and init did: ``marks`` says when the step of each index was done, ``began`` when the first of ``stream`` was,
    ``heard`` when the runtime had which message, ``pids`` who they are, ``end`` when this is.

    In another time namespace clocks are set differently: a mark that cannot be is taken for the earliest moment that can.
    """  # fmt: skip
    spans: list[Span] = []
    last, shift, (pid, init), unmeasured = began, 0, pids, False
    for place, (index, step) in enumerate(stream):
        name, mark = step.op.name, marks.get(index, 0)
        if mark:
            if not last <= mark + shift <= end:
                shift = max(last, heard.get("PID", 0) if name == "CLONE_INIT" else 0) - mark
            done, unmeasured = mark + shift, False
        else:
            found = _known(stream[place:], heard)
            done, unmeasured = max(last, found or end), True
        if unmeasured and not found and "ERROR" in heard:
            break
        args = step_args(index, step, plan)
        if unmeasured and (not found or name != "EXEC"):
            args["measured" if found else "finished"] = False
        if name == "SYNC":
            spans.append(Span("wait for the runtime", "protocol", last, done, pid))
        elif name == "CLONE_INIT" and "PID" in heard:
            middle = min(max(last, heard["PID"]), done)
            spans.append(Span(name, "step", last, middle, pid, **args))
            spans.append(Span("wait for the runtime", "protocol", middle, done, init))
            pid = init
        else:
            spans.append(Span(step_name(step), "step", last, done, pid, **args))
        last = done
        if unmeasured and not found:
            break  # it is under way, or nobody lives to end it
    if "ERROR" in heard and spans:
        spans[-1].args["failed"] = True
    return spans


def _known(rest: list[tuple[int, Step]], heard: dict[str, int]) -> int:
    """When the first of ``rest`` was done at the latest, from what the runtime heard; 0: perhaps never.

    Nothing else tells of what comes after the seccomp filter, which may kill who asks for the time.
    """
    for place, (_, step) in enumerate(rest):
        name = step.op.name
        if name == "EXEC" and "EXECUTING" in heard:
            return heard["EXECUTING"] if place else heard.get("end", 0)
        answer = {"READY": "READY", "WAIT_START": "GO"}.get(name, "")
        if answer in heard:
            return heard[answer]
    return 0


def _of_session(line: Timeline, session: Session, rows: dict[int, str], end: int) -> list[Span]:
    """Of init that this command has made; and what the runtime's own steps are, which was not worth any time before."""
    from ocipy.plan.encode import with_syncs

    for span in line.spans:
        if span.kind == "step":
            index = span.args["index"]
            span.args = step_args(index, session.plan[index], session.plan) | span.args
    if line.marks < 0:
        return []
    count = len(session.plan)
    data = os.pread(line.marks, 8 * (count + 1), 0)
    marks = {at: mark for at in range(count + 1) if (mark := int.from_bytes(data[8 * at : 8 * at + 8], sys.byteorder))}
    if count not in marks:
        return []
    rows[line.stage] = "stage"
    init = session.pid or line.stage
    if init != line.stage:
        rows[init] = "init"
    execute = Span("execve", "start", line.cloned, marks[count], line.stage)
    return [execute, *follow(session.plan, with_syncs(session.plan), marks, line.heard, (line.stage, init), marks[count], end)]


def _of_start(line: Timeline, entry: Entry, rows: dict[int, str], end: int) -> list[Span]:
    """Of init that `create` has made: its plan is made again."""
    from ocipy.container.start import plan_of
    from ocipy.plan.encode import with_syncs

    try:
        plan, init = plan_of(entry), entry.read().pid
    except OcipyError:
        return []  # it was removed meanwhile
    stream = with_syncs(plan)
    while stream and stream[0][1].op.name != "WAIT_START":
        stream.pop(0)
    rows[init] = "init"
    return follow(plan, stream, line.steps, line.heard, (init, init), line.heard["GO"], end)


def write(invocation: Invocation, status: int) -> int:
    """Write the file; the exit code. A command that succeeded fails when it cannot be written."""
    if timeline is None:
        return status
    try:
        _write(invocation["trace"], _render(timeline, invocation, status))
    except Exception as error:  # whatever it is: the command has been carried out
        reason = strerror(error.errno or 0) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        return _complain(invocation, f"--trace {invocation['trace']}: {reason}", status)
    return status


def _render(line: Timeline, invocation: Invocation, status: int) -> bytes:
    end, name = now(), f"ocipy {invocation.verb}".strip()
    line.add("main", "start", line.main_began, end, status=status)
    line.add(name, "command", line.began, end, containers=invocation.args[:1], status=status)
    rows, spans = {line.pid: f"{name} (runtime)"}, list(line.spans)
    if line.session is not None:
        spans += _of_session(line, line.session, rows, end)
    elif line.started is not None and "GO" in line.heard:
        spans += _of_start(line, line.started, rows, end)
    return render(spans, rows)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _complain(invocation: Invocation, text: str, status: int) -> int:
    from ocipy.cli.log import report

    if status:  # the error has been told, and in a log there may be one alone
        invocation.flags["log"] = ""
    report(OcipyError(text), invocation)
    return status or 1
