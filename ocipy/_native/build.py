"""The cffi builders of ``ocipy._native._shim`` and ``_seccomp`` (API mode, out of line); setup.py runs them.

``shim.cdef`` declares what Python may call, ``shim.h`` is the same for the C compiler, which checks one against the other.
``_seccomp`` is filter.c alone: libseccomp is a library to load, for few commands.
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SHIM_SOURCES = ("spawn.c", "check.c", "shim*.c")
# The last two: cffi writes such code.
CFLAGS = ["-std=gnu11", "-Os", "-g0", "-Wall", "-Wextra", "-Wvla", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]


def sources(*patterns: str) -> list[str]:
    """Paths as distutils wants them, relative to the directory of setup.py."""
    found = sorted({path for pattern in patterns for path in HERE.glob(pattern)})
    return [f"ocipy/_native/{path.name}" for path in found]


def builder(name: str, cdef: str, source: str, *patterns: str, libraries: list[str]) -> FFI:
    """A module of ``cdef``, made of the C files of ``patterns``."""
    ffi = FFI()
    ffi.cdef(cdef)
    ffi.set_source(
        f"ocipy._native.{name}",
        source,
        sources=sources(*patterns),
        depends=sources("*.h", "*.cdef"),
        include_dirs=["ocipy/_native"],
        define_macros=[("_GNU_SOURCE", "1")],
        libraries=libraries,
        extra_compile_args=CFLAGS + (["-Werror"] if os.environ.get("OCIPY_WERROR") else []),
    )
    return ffi


SHIM, FILTER = ((HERE / f"{name}.cdef").read_text() for name in ("shim", "filter"))
ffibuilder = builder("_shim", SHIM, '#include "shim.h"\n', *SHIM_SOURCES, libraries=[])
seccomp_builder = builder("_seccomp", FILTER, '#include <stdint.h>\n#include "filter.cdef"\n', "filter.c", libraries=["seccomp"])

if __name__ == "__main__":
    print(*CFLAGS, "-D_GNU_SOURCE=1")  # for `make cross`
