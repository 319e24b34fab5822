"""What a create that failed takes away, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocipy.container.lifecycle import _undo
from ocipy.container.record import Record
from ocipy.container.store import Store
from ocipy.errors import CgroupError, OcipyError
from ocipy.linux.cgroups.bus import SERVICE, BusError


@pytest.mark.parametrize(
    ("error", "goes"),
    [(CgroupError(5, "make it"), True), (BusError("start it", SERVICE + ".UnitExists", ""), False)],
    ids=["ours", "another's"],
)
def test_a_unit_that_somebody_else_has_made_meanwhile_is_not_taken_away(tmp_path: Path, error: OcipyError, goes: bool) -> None:
    entry = Store(str(tmp_path / "state")).create("a")
    (cgroup := tmp_path / "cgroup").mkdir()
    record = Record("a")
    record.cgroup_paths, record.made_cgroups = {"": str(cgroup)}, [str(cgroup)]
    _undo(None, entry, record, {"ociVersion": "1.0.0"}, error)
    assert cgroup.exists() is not goes
    assert not (tmp_path / "state/a").exists()
