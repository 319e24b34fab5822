"""ocipy mounts: mounts of a running container come and go."""

from __future__ import annotations

from ocipy.container.mounts import add, parse_mounts, remove
from ocipy.container.store import Store
from ocipy.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Exit code 0 once all of the file's mounts are made, or taken away."""
    action, container_id, path = invocation.args
    if action not in ("add", "remove"):
        raise UsageError(f'mounts: "{action}" is neither add nor remove')
    entry = Store(invocation["root"]).open(container_id)
    (add if action == "add" else remove)(entry, parse_mounts(path))
    return 0
