"""process: arguments, directory, environment, scheduling; rlimits; the user of a command line."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import pytest

from ocipy.config.check import all_checks
from ocipy.config.rlimits import RESOURCES
from ocipy.config.user import parse_id, parse_user
from ocipy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.errors import ConfigError

LIMIT = {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"args": []}, "/args"),
        ({"args": [""]}, "/args/0"),
        ({"args": ["sh", "x" * (128 * 1024)]}, "/args/1"),
        ({"env": ["A=b", "B=" + "ä" * (64 * 1024)]}, "/env/1"),
        ({"cwd": ""}, "/cwd"),
        ({"cwd": "tmp"}, "/cwd"),
        ({"cwd": "/" + "x/" * 3000}, "/cwd"),
        ({"terminal": True, "consoleSize": {"height": 65536, "width": 1}}, "/consoleSize/height"),
        ({"rlimits": [LIMIT, {"type": "RLIMIT_MEMORY", "soft": 1, "hard": 2}]}, "/rlimits/1/type"),
        ({"rlimits": [LIMIT, LIMIT]}, "/rlimits/1/type"),
        ({"rlimits": [{"type": "RLIMIT_CPU", "soft": 3, "hard": 2}]}, "/rlimits/0/soft"),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, "/scheduler/nice"),
        ({"scheduler": {"policy": "SCHED_BATCH", "nice": -21}}, "/scheduler/nice"),
        ({"scheduler": {"policy": "SCHED_OTHER", "priority": 1}}, "/scheduler/priority"),
        ({"scheduler": {"policy": "SCHED_FIFO"}}, "/scheduler/priority"),
        ({"scheduler": {"policy": "SCHED_RR", "priority": 100}}, "/scheduler/priority"),
        ({"scheduler": {"policy": "SCHED_OTHER", "period": 5}}, "/scheduler/period"),
        ({"scheduler": {"policy": "SCHED_DEADLINE"}}, "/scheduler"),
        ({"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 3, "deadline": 2}}, "/scheduler"),
        ({"execCPUAffinity": {"initial": "0-"}}, "/execCPUAffinity/initial"),
        ({"execCPUAffinity": {"final": "3-1"}}, "/execCPUAffinity/final"),
        ({"execCPUAffinity": {"final": "0-99999999"}}, "/execCPUAffinity/final"),
    ],
)
def test_bad_processes_are_refused(config: Any, refusal: Callable[[Any], ConfigError], changes: Any, pointer: str) -> None:
    config["process"] |= changes
    assert refusal(config).pointer == "/process" + pointer


@pytest.mark.parametrize(
    "changes",
    [
        {"terminal": False, "consoleSize": {"height": 1 << 40, "width": 0}},
        {"rlimits": [LIMIT, {"type": "RLIMIT_RTTIME", "soft": 0, "hard": (1 << 64) - 1}]},
        {"scheduler": {"policy": "SCHED_OTHER", "nice": 19, "priority": 0, "runtime": 0}},
        {"scheduler": {"policy": "SCHED_RR", "priority": 99}},
        {"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "period": 2}},
        {"execCPUAffinity": {"initial": "", "final": "0-3, 7"}},
        {"env": [], "args": ["x" * (128 * 1024 - 1)]},
    ],
)
def test_good_processes_are_accepted(config: Any, changes: Any) -> None:
    config["process"] |= changes
    assert all_checks(config) == []


def test_there_is_no_container_without_a_process(config: Any, refusal: Callable[[Any], ConfigError]) -> None:
    del config["process"]
    assert "process property must not be empty" in str(refusal(config))


def test_there_is_no_container_without_a_root(config: Any, refusal: Callable[[Any], ConfigError]) -> None:
    del config["root"]
    assert "root is missing" in str(refusal(config))


def test_the_numbers_of_limits_are_those_of_the_c_library() -> None:
    known = {name: getattr(resource, name) for name in RESOURCES if hasattr(resource, name)}
    assert len(known) > 10
    assert known == {name: RESOURCES[name] for name in known}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", (0, None)), ("1:2", (1, 2)), ("4294967294:0", (4294967294, 0)), ("007:08", (7, 8))],
)
def test_users_are_decimal(text: str, expected: tuple[int, int | None]) -> None:
    assert parse_user(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", "1:", ":1", "root", "1:wheel", "-1", "+1", " 1", "1 ", "1_000", "0x10", "1e3", "٣", "²", "4294967295", "4294967296",
     "1:4294967295", "1:2:3", "1\n", "9" * 5000],
)  # fmt: skip
def test_what_is_not_a_user_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="decimal number"):
        parse_user(text)


def test_an_id_alone_is_parsed_the_same_way() -> None:
    assert parse_id("42") == 42
    with pytest.raises(UsageError, match="gid"):
        parse_id("adm")
