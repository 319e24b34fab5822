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
    signal = parse_signal(invocation.args[1] if len(invocation.args) > 1 else "TERM")
    store, everyone = Store(invocation["root"]), invocation["all"]
    if invocation["regex"]:
        from ocipy.cli.matching import for_each

        for_each(store, invocation.args[0], lambda entry: kill(entry, signal, everyone=everyone))
    else:
        kill(store.open(invocation.args[0]), signal, everyone=everyone)
    return 0
