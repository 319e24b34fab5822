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
    force = invocation["force"]
    try:
        delete(Store(invocation["root"]).open(invocation.args[0]), force=force)
    except NotFoundError:
        if not force:
            raise
    return 0
