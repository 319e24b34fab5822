"""linux.maskedPaths and linux.readonlyPaths (config-linux.md, Masked Paths, Readonly Paths)."""

from __future__ import annotations

from ocipy.config.paths import check_path
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config


def check(config: Config) -> None:
    """Raises ConfigError."""
    linux = config.get("linux", {})
    mounts = any(item["type"] == "mount" for item in linux.get("namespaces") or ())
    for name, paths in (("maskedPaths", linux.get("maskedPaths")), ("readonlyPaths", linux.get("readonlyPaths"))):
        if paths and not mounts:
            raise ConfigError(f"/linux/{name}", "needs a mount namespace among linux.namespaces, or it would be the host's paths")
        for index, path in enumerate(paths or ()):
            check_path(path, f"/linux/{name}/{index}")
