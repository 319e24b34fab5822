"""The runtime's half of the sync protocol, with a peer that is a test."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ocipy.container.record import Record
from ocipy.container.reports import REPORT, WARNING
from ocipy.container.session import Session
from ocipy.errors import OcipyError
from ocipy.linux import sys


def ended_stage(session: Session) -> None:
    """A stage that has ended, and is not reaped yet."""
    session.stage = os.fork()
    if not session.stage:
        os._exit(0)
    session.stage_pidfd = os.pidfd_open(session.stage)
    sys.poll([(session.stage_pidfd, sys.POLLIN)], -1)


@pytest.fixture
def session() -> Any:
    made = Session([], Record("box"), None)  # type: ignore[arg-type]
    made.sock, theirs = sys.socketpair_seqpacket()
    ended_stage(made)
    yield made, theirs
    for fd in (made.sock, theirs, made.stage_pidfd):
        os.close(fd)
    if made.stage:
        os.waitpid(made.stage, 0)


def test_what_a_stage_said_just_before_its_end_is_heard(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """poll looks at one descriptor after the other: the socket may be looked at before the word, the pidfd after the end."""
    made, theirs = session
    real, calls = sys.poll, []

    def poll(fds: list[tuple[int, int]], timeout: int) -> list[tuple[int, int]]:
        calls.append(fds)
        if len(calls) == 1:
            sys.sendmsg_fd(theirs, REPORT.pack(WARNING, 1, 2, 3, 4), [])
            return [(made.stage_pidfd, sys.POLLIN)]
        return real(fds, timeout)

    monkeypatch.setattr(sys, "poll", poll)
    assert made._receive() == (WARNING, 1, 2, 3, 4, [])


def test_a_stage_that_ends_without_a_word_is_an_error(session: Any) -> None:
    made, _ = session
    with pytest.raises(OcipyError, match="ended before it was ready"):
        made._receive()
