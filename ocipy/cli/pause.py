"""pause CONTAINER."""

from __future__ import annotations

from ocipy.container.pause import pause
from ocipy.container.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Exit code 0 once the container stands still."""
    pause(Store(invocation["root"]).open(invocation.args[0]))
    return 0
