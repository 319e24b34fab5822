"""From the flags of update to the resources object."""

from __future__ import annotations

import pytest

from ocipy.cli.options import VERBS
from ocipy.cli.update import FLAGS, OBSOLETE, RDT, parse_size, resources_of
from ocipy.errors import ConfigError, UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("-1", -1), ("0", 0), ("1048576", 1 << 20), ("100b", 100), ("32k", 32 << 10), ("32kb", 32 << 10), ("32KiB", 32 << 10),
        ("32 M", 32 << 20), ("1.5g", 3 << 29), ("0.5kb", 512), ("1T", 1 << 40), ("2p", 2 << 50),
    ],
)  # fmt: skip
def test_sizes_are_written_as_for_runc(text: str, size: int) -> None:
    assert parse_size("memory", text) == size


@pytest.mark.parametrize("text", ["-2", "", "k", "1i", "1ib", "1bb", "1.g", ".5g", "1e3", "1x", "0x10", "1kk", "1 2", "٣"])
def test_what_is_no_size_is_refused_with_the_flag(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size("memory-swap", text)
    assert str(caught.value) == f'invalid value "{text}" for flag -memory-swap: not a size such as 64m'


def test_every_flag_becomes_the_property_that_it_names() -> None:
    flags = {
        "blkio-weight": "500", "cpu-period": "1000", "cpu-quota": "-1", "cpu-burst": "2", "cpu-share": "3", "cpu-rt-period": "4",
        "cpu-rt-runtime": "5", "cpu-idle": "1", "cpuset-cpus": "0-1", "cpuset-mems": "0", "memory": "64m",
        "memory-reservation": "1k", "memory-swap": "-1", "pids-limit": "0",
    }  # fmt: skip
    assert set(flags) == set(FLAGS)
    assert resources_of(flags) == {
        "blockIO": {"weight": 500},
        "cpu": {
            "period": 1000, "quota": -1, "burst": 2, "shares": 3, "realtimePeriod": 4, "realtimeRuntime": 5, "idle": 1,
            "cpus": "0-1", "mems": "0",
        },
        "memory": {"limit": 64 << 20, "reservation": 1024, "swap": -1},
        "pids": {"limit": 0},
    }  # fmt: skip


def test_the_table_of_options_and_the_table_of_properties_name_the_same_flags() -> None:
    assert {flag[0] for flag in VERBS["update"].flags} == {*FLAGS, *OBSOLETE, *RDT, "resources", "help"}


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("cpu-quota", "abc", 'invalid value "abc" for flag -cpu-quota: not a number'),
        ("cpu-period", "--1", 'invalid value "--1" for flag -cpu-period: not a number'),
        ("pids-limit", "9" * 21, f'invalid value "{"9" * 21}" for flag -pids-limit: not a number'),
        ("cpu-share", "-1", "cpu.shares (/cpu/shares): -1 is out of range: 0 to 18446744073709551615"),
        ("blkio-weight", "65536", "blockIO.weight (/blockIO/weight): 65536 is out of range: 0 to 65535"),
        ("memory", "9000p", "memory.limit (/memory/limit): 10133099161583616000 is out of range: -1 to 9223372036854775807"),
        ("cpu-idle", "2", "cpu.idle (/cpu/idle): 2: 0 is the default behaviour and 1 is SCHED_IDLE"),
        ("cpuset-cpus", "a", 'cpu.cpus (/cpu/cpus): "a" is neither a number nor a range, in a list such as 0-3,7'),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_in_words(flag: str, text: str, message: str) -> None:
    with pytest.raises((UsageError, ConfigError)) as caught:
        resources_of({flag: text})
    assert str(caught.value) == message
