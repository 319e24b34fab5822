"""hooks (config.md, POSIX-platform Hooks)."""

from __future__ import annotations

from ocipy.config.paths import check_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def check(config: Config) -> None:
    """Raises ConfigError for a path that is not absolute; the schema has seen to the rest."""
    hooks = config.get("hooks") or {}
    for kind in KINDS:
        for index, hook in enumerate(hooks.get(kind) or ()):  # type: ignore[var-annotated,arg-type]
            check_path(hook["path"], f"/hooks/{kind}/{index}/path")
