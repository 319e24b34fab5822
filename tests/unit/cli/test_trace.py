"""cli/trace.py: the file's format, what became of init's marks, and that everything that it wraps is there."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from ocipy.cli.trace import SPECIAL, TIMED, Span, follow, render
from ocipy.plan import ops
from ocipy.plan.step import Step

STAGE, INIT = 10, 11
PLAN = [Step(ops.SPAWN), Step(ops.UNSHARE, flags=0x20000), Step(ops.CLONE_INIT), Step(ops.SETSID), Step(ops.SECCOMP, filter=b"")]
PLAN += [Step(ops.READY), Step(ops.WAIT_START), Step(ops.EXEC, "/process/args", args=["secret"], env=[])]
STREAM = list(enumerate(PLAN))[1:]


def events(spans: list[Span]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(render(spans, {1: "one"}))["traceEvents"]
    return events


def told(marks: dict[int, int], heard: dict[str, int], *, end: int = 1000) -> list[tuple[str, int, int, int, bool]]:
    """(name, row, begin, end, is the time the truth?) of each span."""
    spans = follow(PLAN, STREAM, marks, heard, (STAGE, INIT), 100, end)
    return [(s.name, s.pid, s.began, s.ended, not {"measured", "finished"} & s.args.keys()) for s in spans]


def test_the_file_is_json_that_names_its_rows_and_counts_microseconds_from_the_first_event() -> None:
    outer, inner = Span("outer", "work", 10**15, 10**15 + 2001, 1), Span("inner", "step", 10**15, 10**15 + 1001, 1, pointer="/a")
    later = Span("later", "work", 10**15 + 500_000_001, 10**15 + 500_000_002, 1)
    name, order, *found = events([later, inner, outer])
    assert (name["ph"], name["name"], name["args"], name["pid"]) == ("M", "process_name", {"name": "one"}, 1)
    assert order["args"] == {"sort_index": 0}
    assert [(e["name"], e["cat"], e["ts"], e["dur"]) for e in found] == [
        ("outer", "work", 0, 2.001), ("inner", "step", 0, 1.001), ("later", "work", 500_000.001, 0.001),
    ]  # fmt: skip
    assert {(e["ph"], e["pid"], e["tid"]) for e in found} == {("X", 1, 1)}
    assert found[1]["args"] == {"pointer": "/a"}


def test_a_file_without_an_event_is_one_all_the_same() -> None:
    assert len(events([])) == 2


def test_a_step_lasts_from_the_mark_of_the_one_before_to_its_own() -> None:
    assert told({1: 110, 2: 150, 3: 160, 4: 170, 5: 180, 6: 300}, {"PID": 120, "EXECUTING": 310, "end": 320}) == [
        ("UNSHARE", STAGE, 100, 110, True),
        ("CLONE_INIT", STAGE, 110, 120, True),
        ("wait for the runtime", INIT, 120, 150, True),
        ("SETSID", INIT, 150, 160, True),
        ("SECCOMP", INIT, 160, 170, True),
        ("READY", INIT, 170, 180, True),
        ("WAIT_START", INIT, 180, 300, True),
        ("EXEC", INIT, 300, 320, True),
    ]


def test_what_comes_after_the_filter_is_known_by_what_the_runtime_heard() -> None:
    assert told({1: 110, 2: 150, 3: 160}, {"PID": 120, "READY": 200, "GO": 300, "EXECUTING": 400, "end": 500})[4:] == [
        ("SECCOMP", INIT, 160, 200, False),
        ("READY", INIT, 200, 200, False),
        ("WAIT_START", INIT, 200, 300, False),
        ("EXEC", INIT, 300, 500, True),
    ]


def test_the_step_under_way_lasts_to_the_end_and_is_the_last() -> None:
    assert told({1: 110, 2: 150}, {"PID": 120, "end": 400})[-2:] == [
        ("wait for the runtime", INIT, 120, 150, True), ("SETSID", INIT, 150, 1000, False),
    ]  # fmt: skip


def test_a_step_that_failed_is_the_last_and_says_so() -> None:
    spans = follow(PLAN, STREAM, {1: 110, 2: 150, 3: 160}, {"PID": 120, "ERROR": 170, "end": 180}, (STAGE, INIT), 100, 1000)
    assert [(span.name, span.args.get("failed")) for span in spans][-2:] == [("wait for the runtime", None), ("SETSID", True)]


def test_the_clock_of_another_time_namespace_is_set_right() -> None:
    far = 10**12
    assert told({1: 110, 2: far + 150, 3: far + 160, 4: far + 170, 5: far + 180}, {"PID": 140, "READY": 190})[2:5] == [
        ("wait for the runtime", INIT, 140, 140, True),
        ("SETSID", INIT, 140, 150, True),
        ("SECCOMP", INIT, 150, 160, True),
    ]


def test_arguments_of_the_program_are_not_in_the_file() -> None:
    spans = follow(PLAN, STREAM, dict.fromkeys(range(7), 100), {"EXECUTING": 100, "end": 100}, (STAGE, INIT), 100, 1000)
    assert spans[-1].args == {"index": 7, "op": "EXEC", "pointer": "/process/args"}
    assert b"secret" not in render(spans, {})


@pytest.mark.parametrize(("module", "path"), [(m, p) for table in (TIMED, SPECIAL) for m, names in table.items() for p in names])
def test_everything_that_is_wrapped_is_there(module: str, path: str) -> None:
    owner: Any = importlib.import_module(module)
    for name in path.split("."):
        owner = vars(owner)[name]
    assert callable(owner)
