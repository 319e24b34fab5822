"""Compiled filters that are kept: found again, never by mistake, and no harm where they cannot be kept."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from ocipy.linux import filters

PROFILE: Any = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
OTHER: Any = PROFILE | {"defaultErrnoRet": 2}


class Compiler:
    """Counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.file = __file__

    def __call__(self, seccomp: Any) -> bytes:
        self.calls += 1
        return (b"%08d" % len(repr(seccomp))) * 3

    def get(self, directory: Path, seccomp: Any) -> int:
        """How often it was called for this."""
        before = self.calls
        assert filters.find_or_compile(str(directory), seccomp, self, self.file) == (b"%08d" % len(repr(seccomp))) * 3
        return self.calls - before


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


def test_a_profile_is_compiled_once(tmp_path: Path, compiler: Compiler) -> None:
    kept = tmp_path / "kept"
    assert [compiler.get(kept, profile) for profile in (PROFILE, OTHER, PROFILE, OTHER)] == [1, 1, 0, 0]
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}


def test_another_compiler_compiles_again(tmp_path: Path, compiler: Compiler) -> None:
    compiler.file = str(tmp_path / "compiler.py")
    counts = []
    for time in (1, 2, 2):
        Path(compiler.file).touch()
        os.utime(compiler.file, (time, time))
        counts.append(compiler.get(tmp_path / "kept", PROFILE))
    assert counts == [1, 1, 0]


def test_a_name_that_two_profiles_share_is_no_mistake(
    tmp_path: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "_name", lambda _: "same")
    assert [compiler.get(tmp_path / "kept", profile) for profile in (PROFILE, OTHER, PROFILE, PROFILE)] == [1, 1, 1, 0]


@pytest.mark.parametrize("how", ["empty", "cut off", "less", "longer", "another's", "readable", "link", "directory", "fifo"])
def test_what_is_not_as_it_was_written_is_compiled_again(tmp_path: Path, compiler: Compiler, how: str) -> None:
    kept = tmp_path / "kept"
    compiler.get(kept, PROFILE)
    (file,) = kept.iterdir()
    data = file.read_bytes()
    contents = {"empty": b"", "cut off": data[:-1], "less": data[:-8], "longer": data + b"x"}
    if how in contents:
        file.write_bytes(contents[how])
    elif how == "another's":
        if os.geteuid() != 0:
            pytest.skip("needs root")
        os.chown(file, 12345, -1)
    elif how == "readable":
        file.chmod(0o644)
    else:
        file.unlink()
        if how == "link":
            (tmp_path / "target").write_bytes(data)
            (tmp_path / "target").chmod(0o600)
            file.symlink_to(tmp_path / "target")
        elif how == "fifo":
            os.mkfifo(file, 0o600)
        else:
            file.mkdir()
    assert compiler.get(kept, PROFILE) == 1
    assert [path.name for path in kept.iterdir()] == [file.name]


@pytest.mark.parametrize("room", [0, 9], ids=["none", "too little"])
def test_nothing_is_left_of_what_there_is_no_room_for(tmp_path: Path, compiler: Compiler, room: int) -> None:
    kept = tmp_path / "kept"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        assert compiler.get(kept, PROFILE) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(kept.iterdir())


@pytest.mark.parametrize("what", ["a file", "everybody's", "below nothing"])
def test_where_nothing_can_be_kept_it_is_compiled_each_time(tmp_path: Path, compiler: Compiler, what: str) -> None:
    kept = tmp_path / "kept"
    if what == "a file":
        kept.touch()
    elif what == "everybody's":
        kept.mkdir()
        kept.chmod(0o777)
    else:
        kept = tmp_path / "no/kept"
    assert [compiler.get(kept, PROFILE) for _ in range(2)] == [1, 1]


def test_there_are_never_many(tmp_path: Path, compiler: Compiler) -> None:
    for number in range(filters.MOST * 2):
        compiler.get(tmp_path, PROFILE | {"defaultErrnoRet": number})
        assert len(list(tmp_path.iterdir())) <= filters.MOST
