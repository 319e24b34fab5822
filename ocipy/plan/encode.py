"""Plan -> the flat buffer that init maps and trusts.

    header   u64 magic | u64 version | u64 count of steps | u64 size in bytes
    step     u64 op code | u64 index in the plan | 10 x u64 fields
    pool     texts, each ended by NUL; lists are texts one after the other; bytes, 8-aligned

A field is a number; a text is its offset in the buffer (0: none); a list is offset | count << 32; bytes are offset | length << 32;
a slot is the file descriptor that it holds. Every decision is made here and checked again by check.c before clone.
"""

from __future__ import annotations

from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAGIC = 0x007970_69636F  # "ocipy"
VERSION = 1
HEADER = 32
STEP = 16 + 8 * ops.MAX_FIELDS
_U64 = (1 << 64) - 1


def blocks(plan: list[Step]) -> list[list[Step]]:
    """The runtime's work: block 0 runs before and up to SPAWN, block n when init reports SYNC(n)."""
    found: list[list[Step]] = [[]]
    spawned = inside = False
    for step in plan:
        if step.op.where == ops.INIT:
            inside = True
        else:
            if spawned and inside:
                found.append([])
                inside = False
            found[-1].append(step)
            if step.op is ops.SPAWN:
                spawned = inside = True
    return found


def with_syncs(plan: list[Step]) -> list[tuple[int, Step]]:
    """Init's steps as (index in the plan, step), with a SYNC before each place where the runtime has work."""
    stream: list[tuple[int, Step]] = []
    number = 0
    spawned = inside = False
    for index, step in enumerate(plan):
        if step.op.where == ops.INIT:
            inside = True
            stream.append((index, step))
        elif spawned and inside:
            number += 1
            inside = False
            stream.append((index, Step(ops.SYNC, step.origin, number=number)))
        elif step.op is ops.SPAWN:
            spawned = inside = True
    return stream


class _Pool:
    __slots__ = ("base", "offsets", "parts", "size")

    def __init__(self, base: int) -> None:
        self.base, self.size = base, 0
        self.parts: list[bytes] = []
        self.offsets: dict[bytes, int] = {}

    def add(self, data: bytes, *, align: int = 1) -> int:
        at = self.offsets.get(data)
        if at is None or at % align:
            padding = -self.size % align
            self.parts += (b"\0" * padding, data)
            at = self.offsets[data] = self.base + self.size + padding
            self.size += padding + len(data)
        return at


def _word(kind: str, value: Any, pool: _Pool, slots: dict[str, int]) -> int:
    if kind == "f":
        return _U64 if value is None else slots[value]
    if value is None:
        return 0
    if kind == "u":
        return int(value) & _U64
    if kind in ("s", "t"):
        return pool.add(text(value) + b"\0")
    if kind == "l":
        return pool.add(b"".join([text(item) + b"\0" for item in value]) + b"\0") | len(value) << 32
    return pool.add(bytes(value), align=8) | len(value) << 32


def text(value: str) -> bytes:
    """UTF-8 bytes; a lone surrogate stands for a byte of the file system (PEP 383)."""
    return value.encode("utf-8", "surrogateescape")


def encode(plan: list[Step], slots: dict[str, int]) -> bytes:
    """The buffer for init; ``slots`` maps slot names to file descriptors, all of them open by now."""
    stream = with_syncs(plan)
    pool = _Pool(HEADER + STEP * len(stream))
    words: list[int] = []
    for index, step in stream:
        words += (step.op.code, index)
        fields = step.op.fields
        words += [_word(kind, step.values.get(name), pool, slots) for name, kind in fields]
        words += [0] * (ops.MAX_FIELDS - len(fields))
    size = pool.base + pool.size
    words = [MAGIC, VERSION, len(stream), size, *words]
    return b"".join([word.to_bytes(8, "little") for word in words]) + b"".join(pool.parts)
