"""Calls of libseccomp, which is loaded only where a filter must be compiled: the only importer of ``_native._seccomp``."""

from __future__ import annotations

from ocipy._native._seccomp import ffi, lib
from ocipy.linux.sys import CallError

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class FilterError(CallError):
    """libseccomp refused a part of a profile: ``name``, its index, -1 for the architecture, None for all of it."""

    name: int | None = None


def arch(name: str) -> int:
    """libseccomp's token of an architecture ("x86_64"; "": this machine), 0 when it knows none."""
    token: int = lib.filter_arch(_name(name))
    return token


def number(arch: int, name: str) -> int:
    """The number of a system call, negative when this architecture has none."""
    found: int = lib.filter_number(arch, _name(name))
    return found


def _name(name: str) -> bytes:
    """For libseccomp, which does not know it when it has a character of no C name."""
    return name.encode("utf-8", "replace").replace(b"\0", b"?")


def compile_names(arch: int, default_action: int, names: list[str], actions: list[int]) -> tuple[bytes, int]:
    """The BPF program for one architecture, ``actions[i]`` for ``names[i]``, and the largest number among the names (-1: none).

    Raises FilterError.
    """
    texts = b"".join([_name(name) + b"\0" for name in names])
    place, program = ffi.new("int[2]"), ffi.new("char[]", 8 * (MAX_INSTRUCTIONS + 1))
    size = lib.filter_compile(arch, default_action, texts, actions, len(names), program, len(program), place)
    if size >= 0:
        return ffi.unpack(program, size), place[0]
    error = FilterError(ffi.errno, "libseccomp")
    error.name = place[1] if place[1] < len(names) else None
    raise error


def version() -> str:
    """ "2.5.4"."""
    numbers = lib.filter_version()
    return f"{numbers >> 16}.{numbers >> 8 & 255}.{numbers & 255}"
