"""kill CONTAINER [SIGNAL]."""

from __future__ import annotations

from ocipy.container.kill import kill
from ocipy.container.signals import parse_signal
from ocipy.container.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.options import Invocation


def run(invocation: Invocation) -> int:
    """Send the signal, SIGTERM when none is named."""
    name = invocation.args[1] if len(invocation.args) > 1 else "TERM"
    kill(Store(invocation["root"]).open(invocation.args[0]), parse_signal(name), everyone=invocation["all"])
    return 0
