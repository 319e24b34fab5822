"""Device rules of cgroup v2: an eBPF program (BPF_PROG_TYPE_CGROUP_DEVICE) that the kernel asks at each open and mknod.

It gets {u32 access << 16 | type, u32 major, u32 minor} and answers 1 to allow; of the programs of a cgroup and of all above it,
each must allow. Ours holds the rules of the container, the last first: each letter of the access is decided by the last rule that
speaks of the device and that letter, and an access is allowed when all its letters are.
"""

from __future__ import annotations

import os

from ocipy.errors import CgroupError
from ocipy.linux import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.linux.cgroups.device_rules import DeviceRule
    from ocipy.plan.step import Step

# What others may tell our programs by. An update names its own, so that rules of create are known to be in force still.
NAME, UPDATED = "ocipy_devices", "ocipy_updated"

KINDS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_…
ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_…
ALL = 7

# Opcodes of linux/bpf.h that are used here; all but MOVE work on 32 bits, against an immediate value.
LOAD, MOVE, SET, AND, SHIFT_RIGHT = 0x61, 0xBF, 0xB4, 0x54, 0x74
JUMP, IF_EQUAL, IF_NOT_EQUAL, EXIT = 0x05, 0x16, 0x56, 0x95
# Registers: the answer, the context, scratch; then what is asked for: type, letters of the access that are not decided yet, device.
ANSWER, CONTEXT, SCRATCH, KIND, LETTERS, MAJOR, MINOR = 0, 1, 1, 2, 3, 4, 5


def device_program(rules: list[DeviceRule]) -> bytes:
    """The instructions, 8 bytes each. Rules before the last one for everything ("a") cannot matter and are left out."""
    last = max((index for index, rule in enumerate(rules) if rule.kind == "a"), default=-1)
    parts = [
        _instruction(LOAD, LETTERS, CONTEXT, 0),
        _instruction(LOAD, MAJOR, CONTEXT, 4),
        _instruction(LOAD, MINOR, CONTEXT, 8),
        _instruction(MOVE, KIND, LETTERS),
        _instruction(AND, KIND, value=0xFFFF),
        _instruction(SHIFT_RIGHT, LETTERS, value=16),
    ]
    for rule in reversed(rules[last + 1 :]):
        parts += _rule(rule)
    return b"".join([*parts, *_answer(last >= 0 and rules[last].allow)])


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    number = code | to << 8 | source << 12 | (offset & 0xFFFF) << 16 | (value & 0xFFFFFFFF) << 32
    return number.to_bytes(8, "little")  # both architectures are


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(SET, ANSWER, value=allow), _instruction(EXIT)]


def _rule(rule: DeviceRule) -> list[bytes]:
    """Tests that jump over the rest where the device is another, and then the decision."""
    letters = 0
    for letter in rule.access:
        letters |= ACCESS[letter]
    if rule.allow:
        # These letters need no more asking; when none is left, all were allowed.
        body = [_instruction(AND, LETTERS, value=ALL & ~letters), _instruction(IF_NOT_EQUAL, LETTERS, offset=2)]
    else:
        body = [
            _instruction(MOVE, SCRATCH, LETTERS),
            _instruction(AND, SCRATCH, value=letters),
            _instruction(IF_EQUAL, SCRATCH, offset=2),
        ]
    body += _answer(rule.allow)
    for register, number in ((MINOR, rule.minor), (MAJOR, rule.major), (KIND, KINDS[rule.kind])):
        if number >= 0:
            body.insert(0, _instruction(IF_NOT_EQUAL, register, offset=len(body), value=number))
    return body


def apply_devices(step: Step) -> None:
    """Attaches the program of ``rules`` to the cgroup, in one step in the place of the one that we have there, if any.

    Programs of others stay, and still have their say. A runtime without privilege cannot do it, and need not: what its containers
    may open is what its user may; it says so where the config has more to say than what holds without a word. Raises CgroupError.
    """
    from ocipy.linux.cgroups.device_rules import all_rules, parse_rule

    path = step.get("path")
    program = cgroup = -1
    try:
        program = sys.bpf_load(device_program([parse_rule(text) for text in step.get("rules")]), step.get("name") or NAME)
        cgroup = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _attach(cgroup, program)
    except OSError as error:
        if error.errno == 1 and not _privileged():
            if len(step.get("rules")) > len(all_rules([])):
                from ocipy import warning

                warning.warn("linux.resources.devices is ignored: the runtime has not the privilege for it")
                warning.check()
            return
        raise _explain(step, error) from None
    finally:
        for fd in (program, cgroup):
            if fd >= 0:
                os.close(fd)


def is_updated(path: str) -> bool:
    """Has an update given this cgroup other rules than create did? Raises CallError."""
    cgroup = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        programs = sys.bpf_programs(cgroup)
    finally:
        os.close(cgroup)
    for fd, _ in programs:
        os.close(fd)
    return any(name == UPDATED for _, name in programs)


def _attach(cgroup: int, program: int) -> None:
    programs = sys.bpf_programs(cgroup)
    try:
        ours = [fd for fd, name in programs if name in (NAME, UPDATED)]
        sys.bpf_attach(cgroup, program, ours[0] if ours else -1)
        for fd in ours[1:]:
            sys.bpf_detach(cgroup, fd)
    finally:
        for fd, _ in programs:
            os.close(fd)


def _privileged() -> bool:
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", "rb") as file:
        return file.read().split() == [b"0", b"0", b"4294967295"]


def _explain(step: Step, error: OSError) -> CgroupError:
    arguments: tuple[Any, ...] = getattr(error, "arguments", ())
    call = " ".join((getattr(error, "call", "open"), *arguments[:1]))
    advice = {
        1: "it takes CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, and a parent cgroup whose own program lets others be added",
        7: "these are too many rules for the kernel",
        22: "the kernel may have been built without CONFIG_CGROUP_BPF",
        38: "the kernel was built without CONFIG_BPF_SYSCALL",
    }.get(error.errno or 0, "")
    if arguments[:1] == ("BPF_PROG_LOAD",) and len(arguments) > 1:
        advice = f"the kernel says: {arguments[1]}" + (f"; {advice}" if advice else "")
    return CgroupError(error.errno or 0, f"restrict devices of the cgroup {step.get('path')}", call, step.origin, advice)
