"""The tables of the runtime's steps."""

from __future__ import annotations

import importlib

import pytest

from ocipy.container.session import OWN, SECTIONS
from ocipy.plan import ops


def test_every_op_of_the_runtime_has_one_that_executes_it() -> None:
    wanted = {op.name for op in ops.ALL.values() if op.where == ops.RUNTIME}
    assert set(OWN) | set(SECTIONS) == wanted
    assert not set(OWN) & set(SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_the_function_that_the_table_names(name: str) -> None:
    module, function, _ = SECTIONS[name]
    assert callable(getattr(importlib.import_module("ocipy.linux." + module), function))
