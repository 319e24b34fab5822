"""delete CONTAINER."""

from __future__ import annotations

from ocipy.container.delete import delete
from ocipy.container.store import Store
from ocipy.errors import NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Delete; with --force what is not there is deleted already."""
    store, force = Store(invocation["root"]), invocation["force"]
    if invocation["regex"]:
        from ocipy.cli.matching import for_each

        for_each(store, invocation.args[0], lambda entry: delete(entry, force=force))
        return 0
    try:
        delete(store.open(invocation.args[0]), force=force)
    except NotFoundError:
        if not force:
            raise
    return 0
