"""conformance/suite/conftest.py: what stops the suite of clauses, and what it writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from clauses import read_clauses

from bundles import REPOSITORY

UNTESTABLE = next(clause.id for clause in read_clauses().values() if clause.untestable)
TESTS = """
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2
def test_skips(): pytest.skip("no such controller")
"""


def run(directory: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The suite with these tests in the place of its own."""
    shutil.copy(REPOSITORY / "conformance/suite/conftest.py", directory)
    (directory / "test_it.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(directory), *arguments]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}/conformance:{directory}", "RUNTIME": "ocipy"}
    return subprocess.run([*argv, str(directory)], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize(
    ("decorator", "words"),
    [
        ("@pytest.mark.clauses('no.such.clause')", "no clause no.such.clause"),
        (f"@pytest.mark.clauses('{UNTESTABLE}')", f"{UNTESTABLE} is untestable"),
        ("", "names no clause"),
    ],
    ids=["unknown", "untestable", "none"],
)
def test_a_mark_that_cannot_be_stops_the_collection(tmp_path: Path, decorator: str, words: str) -> None:
    answer = run(tmp_path, f"import pytest\n{decorator}\ndef test_it(): pass\n")
    assert answer.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"test_it.py::test_it: {words}" in answer.stderr


def test_outcomes_are_written_in_three_formats_with_the_clauses(tmp_path: Path) -> None:
    text = TESTS.replace("def ", "@pytest.mark.clauses('runtime.state.id')\ndef ")
    tap, results, junit = tmp_path / "tap", tmp_path / "results", tmp_path / "junit"
    answer = run(tmp_path, text, f"--tap={tap}", f"--results={results}", f"--junitxml={junit}")
    assert answer.returncode == pytest.ExitCode.TESTS_FAILED
    lines = tap.read_text().splitlines()
    assert lines[:2] == ["TAP version 14", "1..3"]
    assert [line for line in lines if "ok" in line] == [
        "ok 1 - test_it.py::test_passes",
        "not ok 2 - test_it.py::test_fails",
        "ok 3 - test_it.py::test_skips # SKIP no such controller",
    ]
    assert lines.count('  clauses: ["runtime.state.id"]') == 3
    tests = json.loads(results.read_text())["tests"]
    assert [(test["outcome"], test["why"]) for test in tests.values()] == [
        ("failed", "assert 1 == 2"), ("passed", ""), ("skipped", "no such controller"),
    ]  # fmt: skip
    properties = ET.parse(junit).findall(".//property[@name='clauses']")
    assert [node.get("value") for node in properties] == ["runtime.state.id"] * 3


PLUGIN = """
import clauses

changed = clauses.read_clauses()
changed["runtime.state.id"] = changed["runtime.state.id"]._replace(deviation={"ocipy": "engines need it"})
clauses.read_clauses = lambda: changed
"""


def test_what_fails_where_the_runtime_is_known_to_deviate_is_no_failure(tmp_path: Path) -> None:
    text = TESTS.replace("def ", "@pytest.mark.clauses('runtime.state.id')\ndef ")
    (tmp_path / "change.py").write_text(PLUGIN)
    answer = run(tmp_path, text, "-p", "change", f"--results={tmp_path / 'results'}")
    assert answer.returncode == 0, answer.stdout
    tests = json.loads((tmp_path / "results").read_text())["tests"]
    outcomes = {name.rpartition("::")[2]: (test["outcome"], test["why"]) for name, test in tests.items()}
    assert outcomes["test_fails"] == ("deviates", "engines need it")
    assert outcomes["test_passes"] == ("passed", "")
