from __future__ import annotations

import signal

import pytest

from ocipy.container.signals import parse_signal, signal_name
from ocipy.errors import UsageError


@pytest.mark.parametrize("number", [item for item in signal.Signals if item < signal.SIGRTMIN], ids=lambda item: item.name)
def test_the_names_of_the_kernel_mean_their_numbers(number: signal.Signals) -> None:
    for text in (number.name, number.name.removeprefix("SIG"), number.name.lower(), str(int(number))):
        assert parse_signal(text) == number
    assert parse_signal(signal_name(number)) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("RTMAX", 64), ("0", 0), ("64", 64), ("IOT", 6), ("CLD", 17)],
)
def test_other_ways_to_name_a_signal(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "65", "-9", "+9", "9.0", "NOPE", "RTMIN-1", "RTMAX+1", "RTMIN+", "RTMINX", "RTMIN+x", "\u0669", "9 "]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown signal"):
        parse_signal(text)
