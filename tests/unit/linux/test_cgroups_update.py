"""What an update remembers and puts back, on files made by hand: a file takes what the test lets it take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ocipy.errors import CgroupError
from ocipy.linux.cgroups import update
from ocipy.linux.cgroups.update import apply_update, complete
from ocipy.plan import ops
from ocipy.plan.step import Step


def steps(directory: Path, *settings: tuple[Any, str]) -> list[Step]:
    return [Step(ops.SET_CGROUP, "/linux/resources/x", path=str(directory), file=file, value=value) for file, value in settings]


@pytest.mark.parametrize(
    ("file", "has", "value", "back"),
    [
        ("blkio.throttle.read_bps_device", "8:16 5\n8:0 99\n", "8:0 1000", "8:0 99"),
        ("blkio.throttle.read_bps_device", "8:16 5\n", "8:0 1000", "8:0 0"),
        ("net_prio.ifpriomap", "lo 0\neth0 3\n", "eth0 5", "eth0 3"),
        ("rdma.max", "", "mlx5_0 hca_handle=1", "mlx5_0 hca_handle=max hca_object=max"),
        ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max\n", "8:0 rbps=2", "8:0 rbps=1 wbps=max riops=max wiops=max"),
        ("io.max", "", "8:0 rbps=2", "8:0 rbps=max wbps=max riops=max wiops=max"),
        ("io.bfq.weight", "default 100\n8:0 200\n", "300", "default 100"),
        ("cpu.max", "max 100000\n", "5000 10000", "max 100000"),
        (["blkio.weight", "blkio.bfq.weight"], "100\n", "300", "100"),
    ],
)
def test_what_is_written_back_is_what_the_file_takes(tmp_path: Path, file: Any, has: str, value: str, back: str) -> None:
    name = file if isinstance(file, str) else file[-1]
    (tmp_path / name).write_text(has)
    wrong = steps(tmp_path, (file, value), ("cpu.nosuch", "1"))
    with pytest.raises(CgroupError, match=r"cpu\.nosuch") as caught:
        apply_update(wrong)
    # The last write stands at the file's begin; what is behind it is of longer ones before.
    assert (tmp_path / name).read_text().startswith(back)
    assert "could not be written back" not in str(caught.value)


def test_an_update_that_works_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pids.max").write_text("max")
    apply_update(steps(tmp_path, ("pids.max", "123"), (["pids.nosuch", None], "1")))
    assert (tmp_path / "pids.max").read_text() == "123"


def test_what_cannot_be_put_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pids.max").write_text("100")
    monkeypatch.setattr(update, "_restore", lambda *_: False)
    with pytest.raises(CgroupError, match=rf"could not be written back: {tmp_path}/pids\.max$"):
        apply_update(steps(tmp_path, ("pids.max", "200"), ("cpu.nosuch", "1")))


@pytest.mark.spec("/linux/resources/memory/checkBeforeUpdate", needs="cgroup v2: a fake tree of files; v1 checks by itself")
def test_on_v2_a_memory_limit_below_the_usage_is_refused_when_asked_to_check(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("500\n")
    memory: Any = {"memory": {"limit": 499, "checkBeforeUpdate": True}}
    with pytest.raises(CgroupError, match="its processes use 500 bytes now") as caught:
        complete(memory, {"": str(tmp_path)})
    assert caught.value.pointer == "/linux/resources/memory/limit"
    for fine in ({"limit": 500, "checkBeforeUpdate": True}, {"limit": -1, "checkBeforeUpdate": True}, {"limit": 1}):
        assert complete({"memory": fine}, {"": str(tmp_path)}) == {"memory": fine}  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ({"cpu": {"quota": 5}}, {"cpu": {"quota": 5, "period": 20000}}),
        ({"cpu": {"period": 7}}, {"cpu": {"quota": -1, "period": 7}}),
        ({"cpu": {"period": 7, "quota": 9}}, {"cpu": {"period": 7, "quota": 9}}),
        ({"memory": {"swap": 300}}, {"memory": {"swap": 300, "limit": 200}}),
        ({"memory": {"swap": -1}}, {"memory": {"swap": -1}}),
        ({"memory": {"limit": 5}}, {"memory": {"limit": 5}}),
    ],
)
def test_on_v2_the_other_half_of_a_file_is_what_it_has(tmp_path: Path, given: Any, completed: Any) -> None:
    (tmp_path / "cpu.max").write_text("max 20000\n")
    (tmp_path / "memory.max").write_text("200\n")
    assert complete(given, {"": str(tmp_path)}) == completed
    assert complete(given, {"": str(tmp_path), "cpu": "/cg"}) == given
