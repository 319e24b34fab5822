"""The cffi builder of ``ocipy._native._shim`` (API mode, out of line); setup.py runs it.

``shim.cdef`` declares what Python may call, ``shim.h`` is the same for the C compiler, which checks one against the other.
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SHIM_SOURCES = ("spawn.c", "check.c", "shim*.c")
# The last two: cffi writes such code.
CFLAGS = ["-std=gnu11", "-Os", "-g0", "-Wall", "-Wextra", "-Wvla", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]


def sources() -> list[str]:
    """Paths as distutils wants them, relative to the directory of setup.py."""
    found = sorted({path for pattern in SHIM_SOURCES for path in HERE.glob(pattern)})
    return [f"ocipy/_native/{path.name}" for path in found]


ffibuilder = FFI()
ffibuilder.cdef((HERE / "shim.cdef").read_text() if (HERE / "shim.cdef").exists() else "")
ffibuilder.set_source(
    "ocipy._native._shim",
    '#include "shim.h"\n',
    sources=sources(),
    depends=sorted(f"ocipy/_native/{path.name}" for path in HERE.glob("*.h")),
    include_dirs=["ocipy/_native"],
    define_macros=[("_GNU_SOURCE", "1")],
    libraries=["seccomp"],
    extra_compile_args=CFLAGS + (["-Werror"] if os.environ.get("OCIPY_WERROR") else []),
)

if __name__ == "__main__":
    print(*CFLAGS, "-D_GNU_SOURCE=1")  # for `make cross`
