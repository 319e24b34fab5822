"""state CONTAINER."""

from __future__ import annotations

from ocipy.cli.main import write
from ocipy.config.json_text import json_text
from ocipy.container.state import report
from ocipy.container.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Print the state, over several lines and without a last line end, as runc does."""
    entry = Store(invocation["root"]).open(invocation.args[0])
    write(json_text(report(entry, entry.read()), "\n"))
    return 0
