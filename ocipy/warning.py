"""Warnings on their way to the caller's log. Imports nothing: every layer may warn, the command line tells.

A warning never changes the flow of a command. It is one line, in the words of an error; the cli writes it to ``--log`` (or
standard error) when the command ends, and as an extra key of the error's log entry when the command fails.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

pending: list[str] = []

# Takes ("info" or "debug", what has just been done) at once. None unless --debug or --log-level asks for it, so that telling costs
# nothing else: ``if warning.tell: warning.tell(…)``.
tell: Callable[[str, str], None] | None = None


def warn(text: str) -> None:
    """Tell the caller ``text`` when the command ends; the same text is told once."""
    if text not in pending:
        pending.append(text)
