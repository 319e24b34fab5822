"""Warnings on their way to the caller's log. Imports nothing: every layer may warn, the command line tells.

A warning never changes the flow of a command, unless it is told to be ``strict``. It is one line, in the words of an error; the cli
writes it to ``--log`` (or standard error) when the command ends, and as an extra key of the error's log entry when it fails.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

pending: list[str] = []
strict = False  # --strict: what would only be warned of is an error, where nothing is done yet or all can be undone

# Takes ("info" or "debug", what has just been done) at once. None unless --debug or --log-level asks for it, so that telling costs
# nothing else: ``if warning.tell: warning.tell(…)``.
tell: Callable[[str, str], None] | None = None


def warn(text: str) -> None:
    """Tell the caller ``text`` when the command ends; the same text is told once."""
    if text not in pending:
        pending.append(text)


def check() -> None:
    """Where a command can still be refused: with ``strict`` the first warning is an error. Raises OcipyError."""
    if strict and pending:
        from ocipy.errors import OcipyError

        first, *others = pending
        pending.clear()
        raise OcipyError(f"{first}{f' (and {len(others)} more)' if others else ''} (with --strict this is an error)")
