"""How conformance/validation.py reads what a program of the validation suite prints."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from bundles import REPOSITORY


@pytest.fixture(scope="module")
def validation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("validation", REPOSITORY / "conformance/validation.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("output", "status", "why"),
    [
        ("TAP version 13\nok 1 - fine\n1..1\n", 0, ""),
        ("ok 1 - fine\nnot ok 2 - broken\n1..2\n", 0, "#2 broken"),
        ("ok 1 - fine\nnot ok 2 - known # TODO\n1..2\n", 0, ""),
        ("ok 1 - # SKIP nothing to do\n1..1\n", 0, ""),
        ("ok 1 - fine\n1..2\n", 0, "1 tests of 2"),
        ("ok 1 - a\n1..1\nTAP version 13\n1..0\n", 0, ""),
        ("", 0, "no plan of tests"),
        ("ok 1 - fine\n", 0, "no plan of tests"),
        ("no such thing\n", 1, "exit status 1: no such thing"),
        ("ok 1 - fine\n", None, "took too long"),
        ('TAP version 13\n  ---\n  {\n    "error": "too early"\n  }\n  ...\n1..0\n', 0, "too early"),
        ('ok 1 - refused\n  ---\n  {\n    "error": "exit status 1"\n  }\n  ...\n1..1\n', 0, ""),
        ('  ---\n  {\n    "stdout": "not ok 1 - inside"\n  }\n  ...\nok 1 - outside\n1..1\n', 0, ""),
    ],
    ids=[
        "passed", "failed", "todo", "skipped", "plan not met", "two streams", "silence", "no plan", "exit status", "time limit",
        "error without tests", "error that explains a test", "lines of a container",
    ],
)  # fmt: skip
def test_verdict(validation: ModuleType, output: str, status: int | None, why: str) -> None:
    assert validation.verdict(output, status) == why


def test_a_program_that_expects_a_refusal_may_be_silent(validation: ModuleType) -> None:
    assert validation.verdict("container refused\n", 0, silent=True) == ""
    assert validation.verdict("not refused\n", 1, silent=True) == "exit status 1: not refused"
