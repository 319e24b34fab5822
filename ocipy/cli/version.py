"""--version, in the shape that engines parse: "NAME version X", then "commit: …"."""

from __future__ import annotations

import sys

from ocipy import SPEC_VERSION, __version__


def version() -> str:
    """Five lines: version, commit, spec, python, libseccomp."""
    lines = [f"ocipy version {__version__}", f"commit: {commit()}", f"spec: {SPEC_VERSION}"]
    lines += ["python: " + ".".join(map(str, sys.version_info[:3]))]
    libseccomp = libseccomp_version()
    return "\n".join(lines + [f"libseccomp: {libseccomp}"] * bool(libseccomp)) + "\n"


def commit() -> str:
    """The commit that was built, "unknown" where the build did not know it."""
    try:
        from ocipy._commit import COMMIT  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return "unknown"
    return str(COMMIT)


def libseccomp_version() -> str:
    """ "2.5.4", or "" when the native part is not built."""
    try:
        from ocipy.linux.libseccomp import version as linked
    except ImportError:
        return ""
    return linked()
