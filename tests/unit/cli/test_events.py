from __future__ import annotations

import pytest

from ocipy.cli.events import parse_duration
from ocipy.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1.5h", 5400), ("0", 0), ("0s", 0), ("2us", 2e-6), ("2µs", 2e-6), ("1h3ns", 3600)],
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5x", "1..5s", ".s", "5 s", "5sm", "5s3", "٣s", "9" * 19 + "s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert str(caught.value) == f'invalid value "{text}" for flag -interval: not a duration such as 5s'
