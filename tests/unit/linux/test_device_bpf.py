"""The device program of cgroup v2, executed by a small interpreter, against what a devices cgroup of v1 does with its rules."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocipy.errors import ConfigError
from ocipy.linux.cgroups.device_bpf import ACCESS, KINDS, device_program
from ocipy.linux.cgroups.device_rules import DEFAULTS, DeviceRule, all_rules, parse_rule, plan_rules

LETTERS = ["".join(letters) for size in (1, 2, 3) for letters in itertools.combinations("rwm", size)]
NUMBERS = [0, 1, 3, 5, 8, 136, 0xFFFFF]
U32 = 0xFFFFFFFF


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """What the kernel would do: 64-bit registers, the context in r1, the answer in r0."""
    asked = sum(ACCESS[letter] for letter in access) << 16 | KINDS[kind]
    context = [asked, major, minor]
    registers: list[Any] = [None, context] + [None] * 9
    at = 0
    while True:
        word = int.from_bytes(program[8 * at : 8 * at + 8], "little")
        code, to, source = word & 0xFF, word >> 8 & 15, word >> 12 & 15
        offset, value = word >> 16 & 0xFFFF, word >> 32
        at += 1
        if code == 0x61:  # r = *(u32 *)(context + offset)
            assert registers[source] is context
            registers[to] = context[offset // 4]
        elif code == 0xBF:
            registers[to] = registers[source]
        elif code == 0xB4:
            registers[to] = value
        elif code == 0x54:
            registers[to] = registers[to] & value & U32
        elif code == 0x74:
            registers[to] = (registers[to] & U32) >> value
        elif code == 0x16:
            at += offset if registers[to] & U32 == value else 0
        elif code == 0x56:
            at += offset if registers[to] & U32 != value else 0
        elif code == 0x95:
            assert registers[0] in (0, 1)
            return bool(registers[0])
        else:
            raise AssertionError(f"unknown opcode {code:#x}")


class DevicesCgroup:
    """security/device_cgroup.c of the kernel: a default, and exceptions from it."""

    def __init__(self) -> None:
        self.default = True
        self.exceptions: dict[tuple[str, int, int], set[str]] = {}

    def write(self, rule: DeviceRule) -> None:
        if rule.kind == "a":
            self.default, self.exceptions = rule.allow, {}
            return
        key = (rule.kind, rule.major, rule.minor)
        if rule.allow != self.default:
            self.exceptions.setdefault(key, set()).update(rule.access)
        elif key in self.exceptions:
            self.exceptions[key] -= set(rule.access)

    def allows(self, kind: str, major: int, minor: int, access: str) -> bool:
        found = [
            letters for (a, b, c), letters in self.exceptions.items() if a == kind and b in (-1, major) and c in (-1, minor)
        ]
        if self.default:
            return not any(letters & set(access) for letters in found)
        return any(set(access) <= letters for letters in found)


def v1(rules: list[DeviceRule]) -> DevicesCgroup:
    made = DevicesCgroup()
    for rule in rules:
        made.write(rule)
    return made


def last_word(rules: list[DeviceRule], kind: str, major: int, minor: int, access: str) -> bool:
    """The meaning of a list: of each letter the last rule decides that speaks of it and the device; nothing is allowed unsaid."""

    def speaks(rule: DeviceRule, letter: str) -> bool:
        same = rule.kind in ("a", kind) and rule.major in (-1, major) and rule.minor in (-1, minor)
        return same and letter in rule.access

    return all(next((rule.allow for rule in reversed(rules) if speaks(rule, letter)), False) for letter in access)


number = st.none() | st.just(-1) | st.sampled_from(NUMBERS)
access = st.sampled_from(LETTERS)
device = st.fixed_dictionaries(
    {"allow": st.booleans(), "access": access},
    optional={"type": st.sampled_from("abc"), "major": number, "minor": number},
)
request = st.tuples(st.sampled_from("bc"), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), access)


@settings(max_examples=600, deadline=None)
@given(st.lists(device, max_size=8), st.lists(request, min_size=1, max_size=20))
def test_program_says_what_the_last_rule_says(devices: list[Any], requests: list[Any]) -> None:
    rules = all_rules(devices)
    program = device_program(rules)
    for asked in requests:
        assert run(program, *asked) == last_word(rules, *asked), (asked, [(rule.allow, str(rule)) for rule in rules])


@settings(max_examples=600, deadline=None)
@given(st.lists(device, max_size=6), st.lists(request, min_size=1, max_size=20))
def test_program_is_a_devices_cgroup_letter_by_letter_where_v1_can_hold_the_rules(devices: list[Any], requests: list[Any]) -> None:
    """Reading and writing at once: v1 wants one rule with both, the program takes two."""
    try:
        # Without the defaults, which v1 cannot always add: in a cgroup that allows all but "c *:*" they have no effect.
        rules = plan_rules(devices)[: -len(DEFAULTS)]
    except ConfigError:
        return  # a hole in a wider rule, which only a program can hold
    program, cgroup = device_program(rules), v1(rules)
    for kind, major, minor, letters in requests:
        for letter in letters:
            assert run(program, kind, major, minor, letter) == cgroup.allows(kind, major, minor, letter)
        if cgroup.allows(kind, major, minor, letters):
            assert run(program, kind, major, minor, letters)


DENY = "deny a"
TABLE = [
    # rules, and what is then asked: "+c 1:3 rw" is allowed, "-…" is not
    ([DENY], "-c 1:3 r", "-b 8:0 m", "-c 0:0 rwm"),
    (["allow a"], "+c 1:3 r", "+b 8:0 rwm"),
    ([DENY, "allow c 1:3 r"], "+c 1:3 r", "-c 1:3 w", "-c 1:3 rw", "-c 1:3 m", "-b 1:3 r", "-c 1:4 r", "-c 2:3 r"),
    ([DENY, "allow c 1:3 m"], "+c 1:3 m", "-c 1:3 r"),
    ([DENY, "allow c 1:* rwm"], "+c 1:0 rwm", "+c 1:1048575 rw", "-c 2:0 r"),
    ([DENY, "allow c *:3 rw"], "+c 0:3 rw", "+c 4095:3 w", "-c 1:4 r"),
    ([DENY, "allow b *:* m"], "+b 8:1 m", "-b 8:1 rm", "-c 8:1 m"),
    ([DENY, "allow c 1:3 r", "allow c 1:3 w"], "+c 1:3 rw", "-c 1:3 rwm"),
    ([DENY, "allow c 1:* rw", "deny c 1:3 w"], "+c 1:3 r", "-c 1:3 w", "-c 1:3 rw", "+c 1:4 rw"),
    ([DENY, "deny c 1:3 rwm", "allow c 1:* rwm"], "+c 1:3 rwm"),
    (["allow a", "deny c 1:3 w"], "+c 1:3 r", "-c 1:3 w", "-c 1:3 rw", "+c 1:3 m", "+b 1:3 rwm"),
    (["allow c 1:3 rwm", DENY], "-c 1:3 r"),
    (["deny c 1:3 rwm", "allow a"], "+c 1:3 rwm"),
    ([DENY, "allow c 0:0 r"], "+c 0:0 r", "-c 0:1 r"),
    ([DENY, "allow c 4294967295:4294967295 r"], "+c 4294967295:4294967295 r", "-c 1:1 r"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: ", ".join(row[0]))
def test_rules_and_what_they_allow(row: tuple[Any, ...]) -> None:
    program = device_program([parse_rule(text) for text in row[0]])
    for text in row[1:]:
        kind, numbers, letters = text[1:].split()
        major, _, minor = numbers.partition(":")
        assert run(program, kind, int(major), int(minor), letters) == (text[0] == "+"), text


def test_default_devices_are_allowed_whatever_is_denied() -> None:
    program = device_program(all_rules([{"allow": False, "type": "c", "access": "rwm"}]))
    for text in DEFAULTS[2:]:
        rule = parse_rule("allow " + text)
        assert run(program, "c", rule.major, max(rule.minor, 0), "rwm")
    assert run(program, "b", 8, 0, "m")
    assert not run(program, "b", 8, 0, "r")


def test_what_an_earlier_rule_said_before_everything_was_denied_is_left_out() -> None:
    short = device_program([parse_rule(text) for text in (DENY, "allow c 1:3 rwm")])
    assert device_program([parse_rule(text) for text in ("allow b 8:0 rwm", DENY, "allow c 1:3 rwm")]) == short


def test_text_of_a_rule_can_be_read_back() -> None:
    for text in ("deny a", "allow a", "allow c 1:* rwm", "deny b *:3 m"):
        rule = parse_rule(text)
        assert f"{'allow' if rule.allow else 'deny'} {rule}" == text


def test_number_that_no_device_has_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        all_rules([{"allow": True, "type": "c", "major": 2**32, "access": "r"}])
    assert caught.value.pointer == "/linux/resources/devices/0/major"
