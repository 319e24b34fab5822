"""What a container nests in its cgroup must not keep us from finding and removing it. Plain directories stand for cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocipy.linux.cgroups import pids, remove
from ocipy.linux.cgroups.tree import descend

DEEP = 1500  # more than recursion takes, and more than a path can name


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory with a chain of others in it; the lowest has a list of processes."""
    top = tmp_path / "box"
    top.mkdir()
    back = os.open(".", os.O_RDONLY)
    try:
        os.chdir(top)
        for _ in range(DEEP):
            os.mkdir("xyz")
            os.chdir("xyz")
        Path("cgroup.procs").write_text("7\n8\n")
        yield top
        os.fchdir(back)
        for parent, name in descend(str(top)):
            if os.path.lexists(f"/proc/self/fd/{parent}/{name}/cgroup.procs"):
                os.unlink(f"{name}/cgroup.procs", dir_fd=parent)
            os.rmdir(name, dir_fd=parent)
    finally:
        os.fchdir(back)
        os.close(back)


def test_each_directory_comes_once_and_after_what_is_in_it(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / "box" / name).mkdir(parents=True)
    (tmp_path / "box/link").symlink_to(tmp_path)
    names = [name for _, name in descend(str(tmp_path / "box"))]
    assert sorted(names) == ["a", "b", "box", "c", "d", "e"]
    for first, second in (("c", "b"), ("b", "a"), ("d", "a"), ("a", "box"), ("e", "box")):
        assert names.index(first) < names.index(second)


def test_what_is_not_there_has_nothing_in_it(tmp_path: Path) -> None:
    assert list(descend(str(tmp_path / "absent/box"))) == []
    assert list(descend(str(tmp_path / "absent"))) == []


def test_what_goes_meanwhile_is_left_out_and_the_rest_found(tmp_path: Path) -> None:
    for name in ("a/b/c/d", "e", "f"):
        (tmp_path / "box" / name).mkdir(parents=True)
    found = []
    for parent, name in descend(str(tmp_path / "box")):
        found.append(name)
        if name == "d":
            for gone in ("a/b/c/d", "a/b/c", "a/b", "a"):
                (tmp_path / "box" / gone).rmdir()
        assert os.fstat(parent)
    assert {"e", "f", "box"} <= set(found)


def test_descriptors_are_closed_also_by_who_stops_early(deep: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in descend(str(deep)):
        break
    assert os.listdir("/proc/self/fd") == before


def test_processes_far_down_are_found(deep: Path) -> None:
    assert pids({"": str(deep)}) == [7, 8]


def test_a_cgroup_of_any_depth_is_removed(deep: Path) -> None:
    os.unlink("cgroup.procs")
    remove([str(deep)], deadline_s=0)
    assert not deep.exists()
