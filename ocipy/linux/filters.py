"""Compiled seccomp filters, kept by what they were compiled from: a profile of an engine takes milliseconds each time.

A file holds the profile, with all else that the compiler goes by, and the program; what is found is compared whole. It is only for
speed: whatever is wrong with it, the filter is compiled.
"""

from __future__ import annotations

import os

from ocipy.linux import libseccomp, seccomp_bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.config.types import Seccomp

MOST = 64  # files; then all go
HEAD = 8  # bytes of the two lengths in front


def find_or_compile(directory: str, seccomp: Seccomp, compile_filter: Callable[[Seccomp], bytes], compiler: str) -> bytes:
    """``compile_filter(seccomp)``, from ``directory`` if this ``compiler`` (a file) has done it before. Raises what that does."""
    stamps = [_stamp(path) for path in (compiler, seccomp_bpf.__file__)]
    key = repr((os.uname().machine, libseccomp.version(), stamps, seccomp)).encode("utf-8", "surrogateescape")
    path = f"{directory}/{_name(key)}"
    program = _read(path, key)
    if program is None:
        program = compile_filter(seccomp)
        _write(directory, path, _head(key, program) + key + program)
    return program


def _head(key: bytes, program: bytes) -> bytes:
    return len(key).to_bytes(4, "little") + len(program).to_bytes(4, "little")


def _stamp(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _name(key: bytes) -> str:
    import _imp

    return _imp.source_hash(0, key).hex()


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _read(path: str, key: bytes) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        data = os.read(fd, found.st_size) if _is_ours(found) else b""
    except OSError:
        data = b""
    finally:
        os.close(fd)
    program = data[HEAD + len(key) :]
    whole = program and data[:HEAD] == _head(key, program) and data[HEAD : HEAD + len(key)] == key
    return program if whole else None


def _write(directory: str, path: str, data: bytes) -> None:
    temporary = f"{directory}/.{os.getpid()}"
    try:
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
        if not _is_ours(os.lstat(directory)):
            return None
        if len(names := os.listdir(directory)) >= MOST:
            for name in names:
                os.unlink(f"{directory}/{name}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        if os.write(fd, data) == len(data):
            return os.rename(temporary, path)
    except OSError:
        pass  # no room, or a directory in its place
    finally:
        os.close(fd)
    try:
        os.unlink(temporary)
    except OSError:
        pass  # somebody has removed them all
