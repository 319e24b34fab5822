"""Classic BPF around libseccomp's programs: architectures, system calls younger than the profile, conditions on arguments.

    load arch ─┬─ x86_64 ─▶ load number ─▶ younger? ─▶ calls with conditions ─▶ libseccomp's program for x86_64
               ├─ x86    ─▶ …                                                ─▶ libseccomp's program for x86
               └─ another: libseccomp's first program, which refuses it

Programs of several architectures are put together here because libseccomp takes the square of the time for them: 12 ms instead
of 5 for the usual profile. An instruction is (code, jump if true, jump if false, k); jumps count what they pass over.
"""

from __future__ import annotations

from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import SyscallArg

    Instruction = tuple[int, int, int, int]

LOAD, AND, JUMP, RETURN = 0x20, 0x54, 0x05, 0x06
EQUAL, GREATER, GREATER_EQUAL, ANY_BIT = 0x15, 0x25, 0x35, 0x45
NUMBER_AT, ARCH_AT, ARGS_AT = 0, 4, 16  # in struct seccomp_data, of a little-endian machine
U32 = 0xFFFFFFFF
AUDIT_ARCH_X86_64 = 0xC000003E
SCMP_ARCH_X32 = 0x4000003E  # the architecture of x86_64, and a bit in the number
X32_BIT = 0x40000000


def younger(largest: int, answer: int) -> list[Instruction]:
    """What is above the largest number that the profile names does not exist, as under runc: libc tries a new call and falls
    back to an old one on ENOSYS; EPERM it takes for the answer."""
    return [(GREATER, 0, 1, largest), (RETURN, 0, 0, answer)]


def call(number: int, rules: list[tuple[int, list[SyscallArg]]], default: int, *, wide: bool) -> list[Instruction]:
    """The first rule whose conditions all hold answers, else the default. The accumulator has the number, also afterwards.

    ``wide``: arguments have 64 bits.
    """
    code: list[Instruction] = []
    for action, conditions in rules:
        rule: list[Instruction] = [(RETURN, 0, 0, action)]
        for arg in reversed(conditions):
            rule = condition(arg, len(rule), wide=wide) + rule
        code += rule
    code.append((RETURN, 0, 0, default))
    return [(EQUAL, 1, 0, number), (JUMP, 0, 0, len(code)), *code]


def condition(arg: SyscallArg, rest: int, *, wide: bool) -> list[Instruction]:
    """Falls through where it holds, else passes over the ``rest`` of the rule."""
    kind, value, two = arg["op"][9:], arg["value"], arg.get("valueTwo") or 0
    at = ARGS_AT + 8 * arg["index"]
    low, high = value & U32, value >> 32
    if kind == "MASKED_EQ":
        words = [(at + 4, high, two >> 32 & high)] * wide + [(at, low, two & low)]
        code: list[Instruction] = []
        for place, mask, wanted in words:
            code += [(LOAD, 0, 0, place), (AND, 0, 0, mask), (EQUAL, 0, 0, wanted)]
        return [(c, 0, len(code) - i - 1 + rest, k) if c == EQUAL else (c, 0, 0, k) for i, (c, _, _, k) in enumerate(code)]
    if kind in ("EQ", "NE"):
        yes, no = (0, rest) if kind == "EQ" else (rest, 0)
        upper = [(LOAD, 0, 0, at + 4), (EQUAL, 0, 2 + no, high)]
        return upper * wide + [(LOAD, 0, 0, at), (EQUAL, yes, no, low)]
    # LT and LE are what GE and GT are not.
    yes, no = (0, rest) if kind in ("GT", "GE") else (rest, 0)
    code = [(LOAD, 0, 0, at + 4), (GREATER, 3 + yes, 0, high), (EQUAL, 0, 2 + no, high)] if wide else []
    return [*code, (LOAD, 0, 0, at), (GREATER if kind in ("GT", "LE") else GREATER_EQUAL, yes, no, low)]


def joined(parts: list[tuple[int, list[Instruction], bytes]]) -> bytes:
    """``parts``: (libseccomp's token, what comes first, libseccomp's program)."""
    if len(parts) == 1 and not parts[0][1]:
        return parts[0][2]
    heads = {token: head for token, head, _ in parts}
    x32 = heads.pop(SCMP_ARCH_X32, [])
    code: list[Instruction] = [(LOAD, 0, 0, ARCH_AT)]
    exits: list[tuple[int, int]] = []  # where a head ends, and whose program comes next
    for token, head in heads.items():
        size = len(head) + 2 + (len(x32) + 3 if token == AUDIT_ARCH_X86_64 else 0)
        code += [(EQUAL, 1, 0, token), (JUMP, 0, 0, size), (LOAD, 0, 0, NUMBER_AT)]
        if token == AUDIT_ARCH_X86_64:
            code += [(ANY_BIT, 0, 1, X32_BIT), (JUMP, 0, 0, len(head) + 1)]
        code += head
        exits.append((len(code), token))
        code.append((JUMP, 0, 0, 0))
        if token == AUDIT_ARCH_X86_64:
            code += x32
            exits.append((len(code), SCMP_ARCH_X32))
            code.append((JUMP, 0, 0, 0))
    starts, size = {}, len(code)
    for token, _, program in parts:
        starts[token], size = size, size + len(program) // 8
    for at, token in exits:  # without x32 its calls are refused by the program for x86_64
        code[at] = (JUMP, 0, 0, starts.get(token, starts.get(AUDIT_ARCH_X86_64, 0)) - at - 1)
    return b"".join([pack("=HBBI", *instruction) for instruction in code] + [program for _, _, program in parts])
