"""Marks of the suite: ``@pytest.mark.clauses("runtime.state.id", …)`` names what a test checks, by the ids of spec/clauses.toml.

``--tap FILE`` and ``--results FILE`` (JSON) say what each test found; the runtime is $RUNTIME, as for all tests. A test that
fails, and names a clause from which its runtime is known to deviate, is a deviation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from clauses import Clause, read_clauses

CLAUSES = read_clauses()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tap", type=Path, help="write the outcomes as TAP 14")
    parser.addoption("--results", type=Path, help="write the outcomes as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clauses(*ids): what the test checks")
    config.pluginmanager.register(Recorder(config.getoption("--tap"), config.getoption("--results")))


def ids_of(item: pytest.Item) -> list[str]:
    return list(dict.fromkeys(str(id) for mark in item.iter_markers("clauses") for id in mark.args))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raises UsageError for a test without clauses, or with one that is not in spec/clauses.toml, or is untestable there."""
    for item in items:
        ids = ids_of(item)
        wrong = [f"no clause {id}" for id in ids if id not in CLAUSES]
        wrong += [f"{id} is untestable" for id in ids if id in CLAUSES and CLAUSES[id].untestable]
        if wrong or not ids:
            raise pytest.UsageError(f"{item.nodeid}: {', '.join(wrong) or 'names no clause'}")
        item.add_marker("root")
        item.user_properties.append(("clauses", " ".join(ids)))


def runtime_name() -> str:
    return os.path.basename(os.environ.get("RUNTIME") or "ocipy")


def deviation(clauses: list[Clause]) -> str:
    """Why the runtime does otherwise than the clauses say, "" if that is not known."""
    return "; ".join(clause.deviation[runtime_name()] for clause in clauses if runtime_name() in clause.deviation)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (why := deviation([CLAUSES[id] for id in ids_of(item)])):
        report.outcome, report.wasxfail = "skipped", why
    return report


CLEANLINESS = {"runtime.errors.clean", "runtime.lifecycle.destroy", "runtime.delete.resources"}


@pytest.fixture
def may_leak(request: pytest.FixtureRequest) -> bool:
    """What a runtime leaves is a fault by clauses of its own, and by no other. Our own runtime leaves nothing in any test."""
    return runtime_name() != "ocipy" and not CLEANLINESS & set(ids_of(request.node))


class Recorder:
    """One outcome a test: passed, failed, deviates or skipped; the worst of its set-up, its run and its end."""

    ORDER = ("passed", "skipped", "deviates", "failed")

    def __init__(self, tap: Path | None, results: Path | None) -> None:
        self.tap, self.results = tap, results
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome, why = _outcome(report)
        clauses = str(dict(report.user_properties)["clauses"]).split()
        test = self.tests.setdefault(report.nodeid, {"clauses": clauses, "outcome": "passed", "why": ""})
        if self.ORDER.index(outcome) > self.ORDER.index(test["outcome"]):
            test["outcome"], test["why"] = outcome, why

    def pytest_sessionfinish(self) -> None:
        if self.results:
            self.results.write_text(json.dumps({"runtime": runtime_name(), "tests": self.tests}, indent=1, sort_keys=True) + "\n")
        if self.tap:
            self.tap.write_text("".join(_tap(list(self.tests.items()))))


def _outcome(report: pytest.TestReport) -> tuple[str, str]:
    if hasattr(report, "wasxfail"):
        return "deviates", report.wasxfail
    if report.skipped and isinstance(report.longrepr, tuple):
        return "skipped", report.longrepr[2].removeprefix("Skipped: ")
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = str(crash.message if crash else report.longrepr).splitlines()
        return "failed", (message or [""])[0]
    return "passed", ""


def _tap(tests: list[tuple[str, dict[str, Any]]]) -> Generator[str]:
    yield f"TAP version 14\n1..{len(tests)}\n"
    for number, (name, test) in enumerate(tests, 1):
        state = "not ok" if test["outcome"] in ("failed", "deviates") else "ok"
        directive = {"skipped": f" # SKIP {test['why']}", "deviates": f" # TODO {test['why']}"}.get(test["outcome"], "")
        yield f"{state} {number} - {name.rpartition('/')[2].replace('#', '')}{directive}\n"
        yield f"  ---\n  clauses: {json.dumps(test['clauses'])}\n"
        yield (f"  message: {json.dumps(test['why'])}\n" if test["outcome"] == "failed" else "") + "  ...\n"
