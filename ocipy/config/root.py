"""root (config.md, Root): that the directory exists is seen when it is opened."""

from __future__ import annotations

from ocipy.config.paths import check_path
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config


def check(config: Config) -> None:
    """Raises ConfigError."""
    if "root" not in config:
        raise ConfigError("", "root is missing: on Linux a container needs a root filesystem")
    check_path(config["root"]["path"], "/root/path", absolute=False)
    linux = config.get("linux", {})
    if any(item["type"] == "mount" for item in linux.get("namespaces") or ()):
        return
    for pointer, value in (("/root/readonly", config["root"].get("readonly")),
                           ("/linux/rootfsPropagation", linux.get("rootfsPropagation"))):  # fmt: skip
        if value:
            raise ConfigError(pointer, "needs a mount namespace among linux.namespaces, or the host's mounts would change")
