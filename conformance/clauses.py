"""What the specification asks of a runtime: spec/clauses.toml, read and checked. Its first lines tell the format."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "spec/clauses.toml"
LEVELS = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT")
DOCUMENTS = ("bundle.md", "config.md", "config-linux.md", "runtime.md", "runtime-linux.md", "features.md", "features-linux.md")


class Clause(NamedTuple):
    id: str
    level: str
    ref: str
    text: str
    untestable: str = ""
    proven: tuple[str, ...] = ()
    deviation: dict[str, str] = {}

    @property
    def binding(self) -> bool:
        return self.level.startswith("MUST")


def read_clauses(path: Path = FILE) -> dict[str, Clause]:
    """Every clause by its id, in the order of the file. Raises ValueError, which names the clause."""
    clauses = {}
    for id, table in tomllib.loads(path.read_text()).items():
        wrong = _fault(table)
        if wrong:
            raise ValueError(f"{path.name}: [{id}]: {wrong}")
        proven = table.pop("proven", [])
        clauses[id] = Clause(id=id, proven=tuple([proven] if isinstance(proven, str) else proven), **table)
    return clauses


def _fault(table: dict[str, Any]) -> str:
    unknown = table.keys() - set(Clause._fields[1:])
    if unknown:
        return f"no such key: {', '.join(sorted(unknown))}"
    for key in ("level", "ref", "text"):
        if not isinstance(table.get(key), str) or not table[key]:
            return f"{key} is missing"
    if table["level"] not in LEVELS:
        return f"level is one of {', '.join(LEVELS)}"
    if table["ref"].partition("#")[0] not in DOCUMENTS:
        return f"ref is a heading of one of {', '.join(DOCUMENTS)}"
    if table.get("untestable") and (table.get("proven") or table.get("deviation")):
        return "untestable, and yet tested"
    if not all(re.fullmatch(r"[a-z]+", runtime) and why for runtime, why in table.get("deviation", {}).items()):
        return 'deviation is { runtime = "why" }'
    return ""


def missing_proof(clause: Clause) -> str:
    """The first of a clause's own tests that is not in the tree, "" if all are."""
    for name in clause.proven:
        file, _, test = name.partition("::")
        path = ROOT / file
        if not path.is_file() or not re.search(rf"^def {re.escape(test)}\(", path.read_text(), re.MULTILINE):
            return name
    return ""
