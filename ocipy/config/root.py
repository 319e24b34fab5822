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
