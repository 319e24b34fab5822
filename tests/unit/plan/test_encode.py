"""The flat buffer: what C reads must be what the plan says."""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING

import pytest

from ocipy.plan import ops
from ocipy.plan.encode import HEADER, MAGIC, STEP, VERSION, blocks, encode, with_syncs
from ocipy.plan.step import Step

if TYPE_CHECKING:
    from collections.abc import Sequence


def plan_of(*names: str) -> list[Step]:
    return [Step(ops.ALL[name]) for name in names]


def words(buffer: bytes, number: int) -> Sequence[int]:
    return unpack_from(f"<{STEP // 8}Q", buffer, HEADER + STEP * number)


def text_at(buffer: bytes, offset: int) -> bytes:
    return buffer[offset : buffer.index(b"\0", offset)]


def test_the_header_tells_version_count_and_size() -> None:
    buffer = encode([Step(ops.SPAWN), Step(ops.SETSID), Step(ops.UNSHARE, flags=7)], {})
    assert unpack_from("<4Q", buffer) == (MAGIC, VERSION, 2, len(buffer))


def test_runtime_steps_before_spawn_are_block_0_and_need_no_sync() -> None:
    plan = plan_of("LISTEN", "SPAWN", "SETSID")
    assert [[step.op.name for step in block] for block in blocks(plan)] == [["LISTEN", "SPAWN"]]
    assert [step.op for _, step in with_syncs(plan)] == [ops.SETSID]


def test_each_run_of_runtime_steps_after_spawn_is_one_block_behind_one_sync() -> None:
    plan = plan_of("SPAWN", "ENTER_CGROUP", "OOM_SCORE_ADJ", "SETSID", "RLIMIT", "WRITE_STATE", "READY")
    names = [[step.op.name for step in block] for block in blocks(plan)]
    assert names == [["SPAWN"], ["ENTER_CGROUP", "OOM_SCORE_ADJ"], ["RLIMIT", "WRITE_STATE"]]
    stream = with_syncs(plan)
    assert [step.op.name for _, step in stream] == ["SYNC", "SETSID", "SYNC", "READY"]
    assert [step.get("number") for _, step in stream if step.op is ops.SYNC] == [1, 2]


def test_indexes_are_those_of_the_whole_plan_so_that_errors_name_the_right_step() -> None:
    plan = plan_of("LISTEN", "SPAWN", "ENTER_CGROUP", "SETSID")
    buffer = encode(plan, {})
    assert [words(buffer, number)[1] for number in range(2)] == [2, 3]


def test_texts_lists_bytes_numbers_and_slots_arrive() -> None:
    plan = [
        Step(ops.SPAWN),
        Step(ops.MOUNT, dest="/dev/ü", fstype="tmpfs", options=["size=1", "mode=755"], attrs=6, flags=2),
        Step(ops.USER, uid=1, gid=2, groups=b"\1\0\0\0\2\0\0\0"),
        Step(ops.ATTACH, dest="/x", tree="tree"),
        Step(ops.MASK_PATH, path="/proc/kcore", null=None),
    ]
    buffer = encode(plan, {"tree": 9})
    mount = dict(zip([name for name, _ in ops.MOUNT.fields], words(buffer, 0)[2:], strict=False))
    assert text_at(buffer, mount["dest"]) == "/dev/ü".encode()
    assert (mount["attrs"], mount["flags"], mount["source"]) == (6, 2, 0)
    offset, count = mount["options"] & 0xFFFFFFFF, mount["options"] >> 32
    assert (count, buffer[offset : offset + 17]) == (2, b"size=1\0mode=755\0"[:16] + b"\0")
    groups = words(buffer, 1)[4]
    assert (groups & 0xFFFFFFFF) % 8 == 0
    assert buffer[groups & 0xFFFFFFFF :][: groups >> 32] == b"\1\0\0\0\2\0\0\0"
    assert words(buffer, 2)[3] == 9
    assert words(buffer, 3)[3] == (1 << 64) - 1


def test_negative_numbers_are_twos_complement() -> None:
    buffer = encode([Step(ops.SPAWN), Step(ops.JOIN, uid=-1, gid=-1)], {})
    assert words(buffer, 0)[2 + 8] == (1 << 64) - 1


def test_a_step_refuses_a_field_that_its_op_does_not_have() -> None:
    with pytest.raises(TypeError, match="UNSHARE has no field flag"):
        Step(ops.UNSHARE, flag=1)


def test_no_op_has_more_fields_than_a_record_holds() -> None:
    assert max(len(op.fields) for op in ops.ALL.values() if op.where == ops.INIT) <= ops.MAX_FIELDS


def test_the_header_for_c_names_every_op_of_init_once() -> None:
    header = ops.c_header()
    names = [op.name for op in ops.ALL.values() if op.where == ops.INIT]
    assert all(header.count(f"\tOP_{name} = ") == 1 for name in names)
    assert f"#define OP_COUNT {len(names) + 1}" in header
