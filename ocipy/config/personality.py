"""linux.personality (config-linux.md, Personality)."""

from __future__ import annotations

from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Personality


def check(personality: Personality, pointer: str = "/linux/personality") -> None:
    """Raises ConfigError: the spec has the property, and no value for it yet."""
    if personality.get("flags"):
        raise ConfigError(pointer + "/flags", "no flags are supported by the specification: leave them out")
