"""ociVersion (config.md, Specification version)."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import ConfigError

VERSION = "1.3.0"


def check(version: str) -> list[str]:
    """Raises ConfigError for another major version; warns of a minor version later than ours."""
    major, minor = version.split(".")[:2]
    if major != "1":
        reason = f"{printable(version)}: this runtime implements {VERSION}, and only versions 1.x are compatible with it"
        raise ConfigError("/ociVersion", reason)
    if len(minor) > 4 or int(minor) > int(VERSION.split(".")[1]):
        return [f"/ociVersion: {printable(version)} is later than {VERSION}: properties that are new in it are ignored"]
    return []
