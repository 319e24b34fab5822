"""check.c: what init may execute without looking, and what not."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from struct import pack_into, unpack_from
from typing import Any

import pytest

from ocipy.linux import sys
from ocipy.plan import ops
from ocipy.plan.encode import HEADER, STEP, encode
from ocipy.plan.step import Step

ROOT = Path(__file__).resolve().parents[3]
VALUES: dict[str, Any] = {"u": 7, "s": "text", "t": "text", "l": ["a", "", "c"], "b": b"bytes", "f": "slot"}


def step(op: ops.Op, **more: Any) -> Step:
    return Step(op, **{name: VALUES[kind] for name, kind in op.fields}, **more)


def every_op() -> list[Step]:
    return [Step(ops.SPAWN), *(step(op) for op in ops.ALL.values() if op.where == ops.INIT)]


def encoded(*plan: Step) -> bytearray:
    return bytearray(encode([Step(ops.SPAWN), *plan], {"slot": 3}))


def field_at(number: int, op: ops.Op, name: str) -> int:
    """Where the field of the step with this number lies in the buffer."""
    return HEADER + STEP * number + 16 + 8 * [field for field, _ in op.fields].index(name)


def refusal(buffer: bytes | bytearray) -> str:
    with pytest.raises(ValueError, match="plan") as caught:
        sys.check_plan(bytes(buffer))
    return str(caught.value).removeprefix("plan ")


def test_what_the_encoder_makes_of_every_op_is_accepted() -> None:
    sys.check_plan(encode(every_op(), {"slot": 3}))


def test_absent_fields_and_empty_values_are_accepted() -> None:
    empty: dict[str, Any] = {"u": 0, "s": "", "t": "", "l": [], "b": b"", "f": None}
    for op in ops.ALL.values():
        if op.where == ops.INIT:
            values = {name: empty[kind] for name, kind in op.fields}
            absent = {name: "" for name, kind in op.fields if kind == "t"}
            sys.check_plan(encode([Step(ops.SPAWN), Step(op, **absent), Step(op, **values)], {}))


def test_a_text_that_init_would_read_must_be_there() -> None:
    for op in ops.ALL.values():
        for name, kind in op.fields:
            if op.where == ops.INIT and kind == "t":
                values = {other: "" for other, its in op.fields if its == "t" and other != name}
                number = [field for field, _ in op.fields].index(name)
                with pytest.raises(ValueError, match=f"step 0 field {number} has a text that does not lie in it"):
                    sys.check_plan(encode([Step(ops.SPAWN), Step(op, **values)], {}))


def test_a_plan_without_steps_is_accepted() -> None:
    sys.check_plan(encode([], {}))


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        (0, 0x6F6369707A, "has no magic number"),
        (8, 2, "is of another version"),
        (16, 3, "has no room for its steps"),
        (16, 1 << 63, "has no room for its steps"),
        (24, 31, "has another size than it says"),
        (HEADER, 0, "step 0 field 0 has an unknown op"),
        (HEADER, 1 << 32 | ops.HOSTNAME.code, "step 0 field 0 has an unknown op"),
        (HEADER, max(op.code for op in ops.ALL.values()) + 1, "step 0 field 0 has an unknown op"),
        (HEADER + 8, 1 << 32, "step 0 field 0 is out of order"),
        (HEADER + 24, 1, "step 0 field 1 has a value behind its last field"),
        (HEADER + STEP - 8, 1, "step 0 field 9 has a value behind its last field"),
    ],
    ids=[
        "magic", "version", "too many steps", "count that overflows", "size", "op 0", "high bits of an op", "op too large",
        "index too large", "second field of one", "last field",
    ],
)  # fmt: skip
def test_a_wrong_number_is_refused(offset: int, value: int, expected: str) -> None:
    buffer = encoded(Step(ops.HOSTNAME, name="x"))
    pack_into("<Q", buffer, offset, value)
    assert refusal(buffer) == expected


def test_every_truncation_is_refused() -> None:
    buffer = encode(every_op(), {"slot": 3})
    for size in range(len(buffer)):
        refusal(buffer[:size])


def test_steps_in_a_wrong_order_are_refused() -> None:
    buffer = encoded(Step(ops.SETSID), Step(ops.CLONE_INIT))
    sys.check_plan(bytes(buffer))
    pack_into("<Q", buffer, HEADER + STEP + 8, 1)
    assert refusal(buffer) == "step 1 field 0 is out of order"


@pytest.mark.parametrize(
    ("op", "name", "value", "expected"),
    [
        (ops.HOSTNAME, "name", HEADER, "text"),
        (ops.HOSTNAME, "name", 10_000, "text"),
        (ops.HOSTNAME, "name", 1 << 40, "text"),
        (ops.EXEC, "args", 10_000 | 1 << 32, "list"),
        (ops.EXEC, "args", 1 << 32, "list"),
        (ops.SECCOMP, "filter", 10_000 | 1 << 32, "bytes"),
        (ops.SECCOMP, "filter", HEADER | 8 << 32, "bytes"),
        (ops.SECCOMP, "filter", HEADER + STEP | 0x7FFFFFFF << 32, "bytes"),
        (ops.JOIN_CONTAINER, "pidfd", 1 << 20, "descriptor"),
        (ops.JOIN_CONTAINER, "pidfd", 0xFFFFFFFF, "descriptor"),
    ],
    ids=[
        "text among the steps", "text behind the end", "text with a count", "list behind the end", "list in the header",
        "bytes behind the end", "bytes among the steps", "bytes that reach behind the end",
        "descriptor too large", "descriptor of 32 bits",
    ],
)  # fmt: skip
def test_a_field_that_points_outside_is_refused(op: ops.Op, name: str, value: int, expected: str) -> None:
    buffer = encoded(step(op))
    pack_into("<Q", buffer, field_at(0, op, name), value)
    message = refusal(buffer)
    assert message.startswith("step 0 field ")
    assert expected in message


def test_a_list_with_more_texts_than_there_are_is_refused() -> None:
    buffer = encoded(Step(ops.EXEC, args=["a", "b"], env=[]))
    at = field_at(0, ops.EXEC, "args")
    (word,) = unpack_from("<Q", buffer, at)
    pack_into("<Q", buffer, at, (word & 0xFFFFFFFF) | 0xFFFFFFFF << 32)
    assert "list" in refusal(buffer)


def test_a_text_that_begins_just_behind_the_end_is_refused() -> None:
    buffer = encoded(Step(ops.HOSTNAME, name="x"))
    for offset in range(len(buffer), len(buffer) + 9):
        pack_into("<Q", buffer, field_at(0, ops.HOSTNAME, "name"), offset)
        assert "text" in refusal(buffer)


def test_a_text_without_an_end_is_refused() -> None:
    buffer = encoded(Step(ops.HOSTNAME, name="x"))
    buffer[-1] = 1
    assert refusal(buffer) == "step 0 field 0 has a text that does not lie in it"


@pytest.mark.parametrize("change", [-1, 1, 4], ids=["before", "behind", "half a word"])
def test_bytes_that_are_not_aligned_are_refused(change: int) -> None:
    buffer = encoded(Step(ops.HOSTNAME, name="long enough"), Step(ops.USER, groups=b"\1\0\0\0"))
    at = field_at(1, ops.USER, "groups")
    (word,) = unpack_from("<Q", buffer, at)
    pack_into("<Q", buffer, at, (word + change) & 0xFFFFFFFF)
    assert "bytes" in refusal(buffer)


MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
int LLVMFuzzerTestOneInput(const uint8_t *start, size_t size);
int main(void)
{
	uint32_t size;
	while (fread(&size, sizeof(size), 1, stdin) == 1) {
		uint8_t *data = malloc(size);
		if (fread(data, 1, size, stdin) != size)
			return 1;
		LLVMFuzzerTestOneInput(data, size);
		free(data);
	}
	return 0;
}
"""


def mutated(buffer: bytes, chance: random.Random) -> bytes:
    copy = bytearray(buffer)
    for _ in range(chance.randint(1, 4)):
        at = 8 * chance.randrange(len(copy) // 8)
        value = chance.choice(
            [0, 1, len(copy), chance.randrange(1 << 64), chance.randrange(len(copy) + 99) | chance.choice([0, 9 << 32])]
        )
        pack_into("<Q", copy, at, value)
    if chance.random() < 0.2:
        del copy[chance.randrange(HEADER, len(copy)) :]
        pack_into("<Q", copy, 24, len(copy))
    return bytes(copy)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler (cc) with the address sanitizer")
def test_no_mutation_of_a_plan_makes_init_read_outside_of_it(tmp_path: Path) -> None:
    (tmp_path / "ops.h").write_text(ops.c_header())
    (tmp_path / "main.c").write_text(MAIN)
    source = ROOT / "ocipy" / "_native" / "check.c"
    program = tmp_path / "fuzz"
    sanitize = "-fsanitize=address,undefined,alignment"
    flags = ["-g", "-O1", "-Wall", "-Wextra", "-Werror", sanitize, "-fno-sanitize-recover=all", "-DOCIPY_FUZZ", f"-I{tmp_path}"]
    subprocess.run(["cc", *flags, source, tmp_path / "main.c", "-o", program], check=True)
    chance = random.Random(1)
    plan = encode(every_op(), {"slot": 3})
    inputs = [plan, *(mutated(plan, chance) for _ in range(20_000))]
    data = b"".join(len(item).to_bytes(4, "little") + item for item in inputs)
    result = subprocess.run([program], input=data, capture_output=True, check=False, env={**os.environ, "LD_PRELOAD": ""})
    assert (result.returncode, result.stderr.decode()) == (0, "")
