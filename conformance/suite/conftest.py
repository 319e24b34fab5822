"""Marks of the suite: ``@pytest.mark.clauses("runtime.state.id", …)`` names what a test checks, by the ids of spec/clauses.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

CLAUSES = tomllib.loads((Path(__file__).parents[2] / "spec/clauses.toml").read_text())


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clauses(*ids): what the test checks")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raises UsageError for a test without clauses, or with one that is not in spec/clauses.toml."""
    for item in items:
        ids = [str(id) for mark in item.iter_markers("clauses") for id in mark.args]
        unknown = [id for id in ids if id not in CLAUSES]
        if unknown or not ids:
            raise pytest.UsageError(f"{item.nodeid}: " + (f"no clause {', '.join(unknown)}" if unknown else "names no clause"))
        item.add_marker("root")
