"""The built executables, read as ELF: static, nothing to resolve, no page both writable and executable, small."""

from __future__ import annotations

import struct
import sysconfig
from pathlib import Path

import pytest

import ocipy._native

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_GNU_STACK = 1, 2, 3, 0x6474E551
PF_X, PF_W = 1, 2
EXECUTABLES = {
    "init": Path(ocipy._native.__file__).with_name("init"),
    "launcher": Path(sysconfig.get_path("scripts")) / "ocipy",
}


class Segment:
    def __init__(self, data: bytes) -> None:
        self.kind, self.flags, _, _, _, self.file_size, self.size, _ = struct.unpack("<IIQQQQQQ", data)


@pytest.fixture(params=EXECUTABLES)
def elf(request: pytest.FixtureRequest) -> bytes:
    path = EXECUTABLES[request.param]
    assert path.stat().st_mode & 0o6777 == 0o755
    return path.read_bytes()


def segments(elf: bytes) -> list[Segment]:
    offset, size, count = (*struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54))
    return [Segment(elf[offset + i * size : offset + (i + 1) * size]) for i in range(count)]


def sections(elf: bytes) -> list[str]:
    offset, size, count, names = (*struct.unpack_from("<Q", elf, 40), *struct.unpack_from("<HHH", elf, 58))
    headers = [struct.unpack_from("<IIQQQQ", elf, offset + i * size) for i in range(count)]
    table = elf[headers[names][4] :]
    return [table[header[0] : table.index(b"\0", header[0])].decode() for header in headers]


def test_is_an_executable_for_this_kind_of_machine(elf: bytes) -> None:
    assert elf[:7] == b"\x7fELF\x02\x01\x01"
    assert struct.unpack_from("<HH", elf, 16) == (2, {"x86_64": 62, "aarch64": 183}[sysconfig.get_platform().rpartition("-")[2]])


def test_needs_no_interpreter_and_no_library(elf: bytes) -> None:
    assert not {segment.kind for segment in segments(elf)} & {PT_INTERP, PT_DYNAMIC}


def test_has_no_symbol_left_to_resolve(elf: bytes) -> None:
    # Stripped, and linked by a linker that was told of no library: what is left is code and data alone.
    assert not [name for name in sections(elf) if name in (".symtab", ".dynsym", ".got.plt", ".plt") or ".rel" in name]


def test_no_page_is_writable_and_executable(elf: bytes) -> None:
    assert not [s for s in segments(elf) if s.flags & PF_W and s.flags & PF_X]
    assert [s for s in segments(elf) if s.kind == PT_GNU_STACK and not s.flags & PF_X]


def test_is_small(elf: bytes) -> None:
    # A container starts under a memory limit of 256 KiB, and init is part of it; the launcher has room for a record.
    assert len(elf) < 100_000
    assert sum(s.size for s in segments(elf) if s.kind == PT_LOAD) < (200_000 if b"OCIPY_START_REPORT" in elf else 100_000)


def test_the_shim_loads_with_every_symbol_resolved() -> None:
    from ocipy._native import _seccomp, _shim

    assert [name for name in dir(_shim.lib) if name.startswith("shim_")]
    assert [name for name in dir(_seccomp.lib) if name.startswith("filter_")]
