"""docs/conformance.md is what its sources say, and the list of clauses is sound. OCIPY_GOLDEN=write writes the page anew."""

from __future__ import annotations

import json
import os

import page
import pytest
from clauses import Clause, missing_proof, read_clauses
from matrix import Finding, coverage, sum_up, uncovered


def test_the_page_is_what_the_clauses_and_the_results_say() -> None:
    wanted = page.current()
    if os.environ.get("OCIPY_GOLDEN") == "write":
        page.PAGE.write_text(wanted)
    assert page.PAGE.read_text() == wanted, "docs/conformance.md is stale: python conformance/page.py"


@pytest.mark.parametrize("clause", [clause for clause in read_clauses().values() if clause.proven], ids=lambda clause: clause.id)
def test_what_proves_a_clause_is_there(clause: Clause) -> None:
    assert not missing_proof(clause)


def test_the_worst_of_a_clauses_tests_counts() -> None:
    tests = {
        "x.py::test_a": {"clauses": ["a", "b"], "outcome": "passed", "why": ""},
        "x.py::test_b": {"clauses": ["b"], "outcome": "failed", "why": "assert"},
        "x.py::test_c": {"clauses": ["a", "c"], "outcome": "skipped", "why": "no such controller"},
    }
    found = {"a": Finding("passed"), "b": Finding("failed", "test_b"), "c": Finding("skipped", "no such controller")}
    assert sum_up(tests) == found


def test_coverage_counts_what_is_binding_and_tested_or_proven() -> None:
    clauses = [
        Clause("a", "MUST", "", ""),
        Clause("b", "MUST NOT", "", "", proven=("t",)),
        Clause("c", "MUST", "", "", untestable="for authors"),
        Clause("d", "MUST", "", ""),
        Clause("e", "SHOULD", "", ""),
    ]
    assert uncovered(clauses, {"a"}) == {"c": "for authors", "d": "no test yet", "e": "no test yet"}
    said = coverage(clauses, {"a": Finding("skipped", "no controller"), "e": Finding("passed")}).splitlines()
    assert said[0] == "Of 4 clauses with MUST or MUST NOT 2 are covered by a test (50.0 %)."
    assert said[1] == "1 cannot be tested: of those that can it is 66.7 %."
    assert said[2].startswith("1 of the covered are skipped")


def test_nearly_every_must_is_covered() -> None:
    clauses = read_clauses()
    findings = page.read_findings(json.loads(page.RESULTS.read_text())["clauses"]["ocipy"], clauses)
    binding = [clause for clause in clauses.values() if clause.binding]
    assert len(uncovered(binding, findings)) <= 0.05 * len(binding)


def test_ocipy_fails_no_test() -> None:
    findings = page.read_findings(json.loads(page.RESULTS.read_text())["clauses"]["ocipy"], read_clauses())
    assert [id for id, finding in findings.items() if finding.outcome == "failed"] == []
