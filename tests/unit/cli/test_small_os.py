"""The stand-in for os says what os says."""

from __future__ import annotations

import os
import types

import pytest

from ocipy.cli import small_os


def test_what_it_has_is_what_os_has() -> None:
    ours = {name: value for name, value in vars(small_os).items() if name in vars(os) and not name.startswith("__")}
    assert len(ours) > 200
    plain = {name for name, value in ours.items() if not callable(value) and not isinstance(value, types.ModuleType)}
    assert {name for name in plain - {"environ"} if ours[name] != getattr(os, name)} == set()
    assert {name for name, value in ours["environ"].items() if os.environ.get(name, value) != value} <= {"PYTEST_CURRENT_TEST"}


@pytest.mark.parametrize("name", ["a", b"a", "\u00e9", b"\xc3\xa9", b"\xff", "\udcff", ""])
def test_names_of_files_are_coded_alike(name: str | bytes) -> None:
    assert small_os.fsencode(name) == os.fsencode(name)
    assert small_os.fsdecode(name) == os.fsdecode(name)


def test_the_rest_is_taken_from_os() -> None:
    assert small_os.walk is os.walk
    with pytest.raises(AttributeError, match="nonsense"):
        _ = small_os.nonsense
