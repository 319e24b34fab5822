"""Run the suite of clauses against runtimes, and print what each does, clause by clause, and what is not covered and why.

``--runtime PATH`` (again for each; default: ocipy as it is built here, and runc and crun where they are installed). TAP, JUnit and
JSON of each run are kept in ``$OCIPY_LAB/conformance`` (default: .lab). What else is given goes to pytest.

Exit status: 0, or 1 if the first runtime fails a test, other than where spec/clauses.toml says that it deviates.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from clauses import ROOT, Clause, read_clauses

LAB = Path(os.environ.get("OCIPY_LAB") or ROOT / ".lab") / "conformance"
PEERS = ("runc", "crun")
WORST_FIRST = ("failed", "deviates", "passed", "skipped")


class Runtime(NamedTuple):
    name: str
    version: str
    path: str


class Finding(NamedTuple):
    """What the tests of one clause found with one runtime: failed, deviates, passed or skipped; ``why``: of the first of these."""

    outcome: str
    why: str = ""


Findings = dict[str, Finding]


def find_runtime(path: str) -> Runtime:
    found = shutil.which(path)
    if not found:
        sys.exit(f"conformance: no runtime {path}")
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    version = re.search(r"version (\S+)", answer)
    return Runtime(os.path.basename(found), version[1] if version else "", os.path.abspath(found))


def run_suite(runtime: Runtime, traceback: str, more: list[str]) -> dict[str, Any]:
    """The outcome of each test, as conformance/suite/conftest.py writes it; of a part of the tests in files of its own."""
    LAB.mkdir(parents=True, exist_ok=True)
    kept = LAB / (f"part-{runtime.name}" if more else runtime.name)
    results = Path(f"{kept}.json")
    results.unlink(missing_ok=True)
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "conformance")])
    environment = os.environ | {"RUNTIME": runtime.path, "PYTHONPATH": path}
    argv = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "conftest", str(ROOT / "conformance/suite")]
    argv += [f"--tb={traceback}", f"--results={results}", f"--tap={kept}.tap", f"--junitxml={kept}.xml", *more]
    print(f"\n{runtime.name} {runtime.version}", flush=True)
    status = subprocess.run(argv, env=environment, cwd=ROOT, check=False).returncode
    if status not in (0, 1) or not results.exists():
        sys.exit(f"conformance: the suite ended with status {status}")
    tests: dict[str, Any] = json.loads(results.read_text())["tests"]
    results.write_text(json.dumps({"version": runtime.version, "tests": tests}, indent=1) + "\n")
    return tests


def sum_up(tests: dict[str, Any]) -> Findings:
    """What was found for each clause that a test names."""
    findings: Findings = {}
    for name, test in tests.items():
        why = name.rpartition("::")[2] if test["outcome"] == "failed" else test["why"]
        for id in test["clauses"]:
            before = findings.get(id)
            if not before or WORST_FIRST.index(test["outcome"]) < WORST_FIRST.index(before.outcome):
                findings[id] = Finding(test["outcome"], why)
    return findings


# ---- what is covered --------------------------------------------------------------------------------------------------------


def uncovered(clauses: Iterable[Clause], tested: Iterable[str]) -> dict[str, str]:
    """Why no test of the suite checks a clause, for each of them; those that are proven elsewhere are covered."""
    ids = set(tested)
    return {c.id: c.untestable or "no test yet" for c in clauses if c.id not in ids and not c.proven}


def coverage(clauses: Iterable[Clause], findings: Findings) -> str:
    """How many of the clauses with MUST are covered, by the findings with one runtime; what is skipped is covered, and said."""
    binding = [clause for clause in clauses if clause.binding]
    covered = len(binding) - len(uncovered(binding, findings))
    testable = sum(1 for clause in binding if not clause.untestable)
    skipped = sum(1 for clause in binding if clause.id in findings and findings[clause.id].outcome == "skipped")
    return (
        f"Of {len(binding)} clauses with MUST or MUST NOT {covered} are covered by a test ({100 * covered / len(binding):.1f} %).\n"
        f"{len(binding) - testable} cannot be tested: of those that can it is {100 * covered / testable:.1f} %.\n"
        f"{skipped} of the covered are skipped on this machine, for what it lacks."
    )


def cell(clause: Clause, findings: Findings, runtime: str) -> str:
    """What is known of a clause with a runtime, in one word."""
    if clause.id in findings:
        return findings[clause.id].outcome
    return "proven" if clause.proven and runtime == "ocipy" else "-"


def print_matrix(clauses: dict[str, Clause], found: dict[Runtime, Findings]) -> None:
    width = max(map(len, clauses)) + 2
    heads = [f"{runtime.name} {runtime.version}".strip() for runtime in found]
    columns = [max(len(head), 8) + 2 for head in heads]
    print(f"\n{'clause':{width}}{'level':12}" + "".join(f"{head:{n}}" for head, n in zip(heads, columns, strict=True)))
    for id, clause in clauses.items():
        cells = [cell(clause, findings, runtime.name) for runtime, findings in found.items()]
        print(f"{id:{width}}{clause.level:12}" + "".join(f"{cell:{n}}" for cell, n in zip(cells, columns, strict=True)).rstrip())


def print_summary(clauses: dict[str, Clause], found: dict[Runtime, Findings]) -> None:
    for runtime, findings in found.items():
        for outcome in ("failed", "deviates", "skipped"):
            whys = {id: finding.why for id, finding in findings.items() if finding.outcome == outcome}
            if whys:
                print(f"\n{runtime.name}: {outcome}\n" + "\n".join(f"  {id}: {why}" for id, why in whys.items()))
        idle = [id for id, finding in findings.items() if runtime.name in clauses[id].deviation and finding.outcome == "passed"]
        if idle:
            print(f"\n{runtime.name}: said to deviate, and passes\n  " + "\n  ".join(idle))
    tested = {id for findings in found.values() for id in findings}
    print("\nnot covered\n" + "\n".join(f"  {id}: {why}" for id, why in uncovered(clauses.values(), tested).items()))
    for runtime, findings in found.items():
        outcomes = [finding.outcome for finding in findings.values()]
        print(f"\n{runtime.name}: " + ", ".join(f"{outcomes.count(o)} {o}" for o in WORST_FIRST if o in outcomes), end="")
    print("\n" + coverage(clauses.values(), next(iter(found.values()))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", metavar="PATH")
    chosen, more = parser.parse_known_args()
    if os.geteuid() != 0:
        sys.exit("conformance: needs root")
    paths = chosen.runtime or [str(Path(sys.executable).with_name("ocipy")), *filter(shutil.which, PEERS)]
    runtimes = [find_runtime(path) for path in paths]
    found = {each: sum_up(run_suite(each, "short" if each == runtimes[0] else "no", more)) for each in runtimes}
    clauses = read_clauses()
    print_matrix(clauses, found)
    print_summary(clauses, found)
    return int(any(finding.outcome == "failed" for finding in found[runtimes[0]].values()))


if __name__ == "__main__":
    sys.exit(main())
