"""linux.seccomp: the compiled program in a simulator against what the profile says, and loaded for real."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from ocipy.errors import ConfigError, SeccompError
from ocipy.linux import libseccomp, seccomp, sys

if TYPE_CHECKING:
    from collections.abc import Callable

X86_64, X86, X32, AARCH64 = 0xC000003E, 0x40000003, 0x4000003E, 0xC00000B7
X32_BIT = 0x40000000
ARCHS = {"SCMP_ARCH_X86_64": X86_64, "SCMP_ARCH_X86": X86, "SCMP_ARCH_X32": X32}
KILL, ERRNO, ALLOW = 0, 0x00050000, 0x7FFF0000
EPERM, ENOSYS = 1, 38
U64 = (1 << 64) - 1

library = ctypes.CDLL("libseccomp.so.2")
on_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs the system call numbers of x86_64")


def number(name: str, arch: int = 0) -> int:
    found: int = library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(arch), name.encode())
    return found


def entry(names: str, action: str, *args: tuple[int, str, int] | tuple[int, str, int, int], **more: Any) -> dict[str, Any]:
    """("openat read", "ERRNO", (0, "EQ", 1), errnoRet=2) as in config.json."""
    conditions = [dict(zip(("index", "op", "value", "valueTwo"), arg, strict=False)) for arg in args]
    for condition in conditions:
        condition["op"] = f"SCMP_CMP_{condition['op']}"
    return {"names": names.split(), "action": "SCMP_ACT_" + action, **({"args": conditions} if args else {}), **more}


def profile(default: str, *entries: dict[str, Any], archs: str = "", **more: Any) -> Any:
    found = {"defaultAction": "SCMP_ACT_" + default, "syscalls": list(entries), **more}
    return found | ({"architectures": [f"SCMP_ARCH_{arch}" for arch in archs.split()]} if archs else {})


# ---- a machine for BPF programs ----------------------------------------------------------------------------------------


def verdict(program: bytes, nr: int, args: tuple[int, ...] = (0,) * 6, arch: int = X86_64) -> int:
    """What the kernel would do (Documentation/networking/filter.rst), of the instructions that seccomp allows."""
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *args)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, true, false, k = instructions[at]
        at += 1
        if code == 0x20:
            accumulator = int.from_bytes(data[k : k + 4], sys.BYTE_ORDER)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return int(k)
        elif code == 0x05:
            at += k
        else:
            taken = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += true if taken else false


def compiled(*args: Any, **more: Any) -> bytes:
    return seccomp.compile_filter(profile(*args, **more))


COMPARE: dict[str, Callable[[int, int, int], bool]] = {
    "SCMP_CMP_NE": lambda given, value, _: given != value,
    "SCMP_CMP_LT": lambda given, value, _: given < value,
    "SCMP_CMP_LE": lambda given, value, _: given <= value,
    "SCMP_CMP_EQ": lambda given, value, _: given == value,
    "SCMP_CMP_GE": lambda given, value, _: given >= value,
    "SCMP_CMP_GT": lambda given, value, _: given > value,
    "SCMP_CMP_MASKED_EQ": lambda given, value, two: given & value == two & value,  # as libseccomp has it
}


def expected(config: dict[str, Any], name: str, args: tuple[int, ...], bits: int = 64) -> int:
    """By the words of the specification; of entries that contradict each other one without conditions counts, then the first."""
    default = seccomp.action_of(config["defaultAction"], config.get("defaultErrnoRet"))
    found = [item for item in config["syscalls"] if name in item["names"]]
    for item in sorted(found, key=lambda item: bool(item.get("args"))):
        action = seccomp.action_of(item["action"], item.get("errnoRet"))
        if action == default:
            continue  # says nothing that the default does not say
        if holds(item.get("args") or [], args, (1 << bits) - 1):
            return action
    return default


def holds(conditions: list[dict[str, Any]], args: tuple[int, ...], mask: int) -> bool:
    met = [
        COMPARE[item["op"]](args[item["index"]] & mask, item["value"] & mask, item.get("valueTwo", 0) & mask)
        for item in conditions
    ]
    one_each = len({item["index"] for item in conditions}) == len(conditions)
    return all(met) if one_each else any(met)


# ---- random profiles -------------------------------------------------------------------------------------------------------

NAMES = [
    "read", "write", "open", "close", "stat", "mmap", "mprotect", "ioctl", "pipe", "dup", "getpid", "socket", "clone", "fork",
    "execve", "kill", "uname", "ptrace", "prctl", "mount", "reboot", "gettid", "openat", "unshare", "accept4", "setns", "getrandom",
    "bpf", "statx", "clone3", "openat2", "pidfd_getfd", "landlock_restrict_self", "personality", "chmod", "swapon", "sync", "tkill",
    "mq_open", "inotify_init", "epoll_wait", "fanotify_init", "syslog", "umask", "getcwd", "utimensat", "no_such_call",
]  # fmt: skip
INTERESTING = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 5 << 32, (5 << 32) + 7, 1 << 63, U64 - 1, U64]


def random_value(chance: Random) -> int:
    return chance.choice([chance.choice(INTERESTING), chance.randrange(1 << 32), chance.randrange(1 << 64)])


def random_action(chance: Random, among: list[str]) -> tuple[str, int | None]:
    name = chance.choice(among)
    return name, chance.choice([None, chance.randrange(4095)]) if name in seccomp.NUMBERED else None


def random_condition(chance: Random) -> dict[str, Any]:
    condition = {"index": chance.randrange(6), "op": chance.choice(sorted(COMPARE)), "value": random_value(chance)}
    return condition | ({"valueTwo": random_value(chance)} if chance.random() < 0.5 else {})


def random_profile(chance: Random) -> Any:
    every = sorted(seccomp.ACTIONS)
    default, default_errno = random_action(chance, [name for name in every if name != "SCMP_ACT_NOTIFY"])
    names, entries = chance.sample(NAMES, len(NAMES)), []
    for _ in range(chance.randint(0, 12)):
        now, names = names[: (count := chance.randint(1, 8))], names[count:]
        action, errno_ret = random_action(chance, every)
        if action == "SCMP_ACT_NOTIFY":
            now = [name for name in now if name not in seccomp.NEVER_NOTIFIED]
        item: dict[str, Any] = {"names": now or ["no_such_call"], "action": action}
        if errno_ret is not None:
            item["errnoRet"] = errno_ret
        if chance.random() < 0.5:
            item["args"] = [random_condition(chance) for _ in range(chance.randint(1, 4))]
        entries.append(item)
        if chance.random() < 0.3:
            again = {"args": [random_condition(chance) for _ in range(chance.randint(1, 3))]}
            entries.append(item | again | ({"action": "SCMP_ACT_TRAP"} if chance.random() < 0.5 and errno_ret is None else {}))
    config = profile("", *entries, archs=chance.choice(["", "X86_64", "X86_64 X86 X32", "X32"])) | {"defaultAction": default}
    return config | ({} if default_errno is None else {"defaultErrnoRet": default_errno})


def near_args(config: dict[str, Any], name: str, chance: Random) -> tuple[int, ...]:
    """Arguments about which the conditions of this call have something to say."""
    found = [condition for item in config["syscalls"] if name in item["names"] for condition in item.get("args") or []]
    near = {c["value"] + change for c in found for change in (-1, 0, 1, 1 << 32)}
    near |= {c.get("valueTwo", 0) & c["value"] | chance.randrange(1 << 64) & ~c["value"] for c in found}
    return tuple(chance.choice([*sorted(near), *INTERESTING]) & U64 for _ in range(6))


@on_x86_64
@pytest.mark.parametrize("seed", range(20))
def test_random_profiles_do_what_they_say(seed: int) -> None:
    chance = Random(seed)
    for _ in range(20):
        config = random_profile(chance)
        program = seccomp.compile_filter(config)
        named = {ARCHS[name] for name in config.get("architectures", [])} | {X86_64}
        for arch in named:
            audit, bits = (X86_64 if arch == X32 else arch), (64 if arch == X86_64 else 32)
            known = [number(name, arch) for item in config["syscalls"] for name in item["names"]]
            largest = max(known, default=-1)
            limited = config["defaultAction"] == "SCMP_ACT_ERRNO" and config.get("defaultErrnoRet") != ENOSYS and largest >= 0
            for name in NAMES:
                nr = number(name, arch)
                for args in [near_args(config, name, chance) for _ in range(4)] if nr >= 0 else []:
                    want = ERRNO | ENOSYS if limited and nr > largest else expected(config, name, args, bits)
                    assert hex(verdict(program, nr, args, audit)) == hex(want), (name, args, config)


@pytest.mark.parametrize("seed", range(5))
def test_random_profiles_are_accepted_by_the_kernel(seed: int) -> None:
    chance = Random(seed)
    for _ in range(10):
        config = random_profile(chance) | ({"architectures": []} if os.uname().machine != "x86_64" else {})
        program = seccomp.compile_filter(config)
        assert accepted(program), config


def test_many_conditions_on_one_call_are_a_program_for_each_of_them() -> None:
    entries = [entry("openat", "ERRNO", (0, "EQ", value), (1, "GT", value)) for value in range(50)]
    program = compiled("ALLOW", *entries)
    nr = number("openat")
    native = libseccomp.arch("")
    for value in range(50):
        assert verdict(program, nr, (value, value + 1, 0, 0, 0, 0), native) == ERRNO | EPERM
        assert verdict(program, nr, (value, value, 0, 0, 0, 0), native) == ALLOW


def test_two_rules_of_two_conditions_each_are_compiled() -> None:
    """libseccomp 2.5.4 does not come back from these."""
    both = [entry("openat", "ERRNO", (0, "EQ", 1), (1, "NE", 2)), entry("openat", "TRAP", (1, "EQ", 2), (2, "GT", 3))]
    program = compiled("ALLOW", *both)
    nr, native = number("openat"), libseccomp.arch("")
    for args, want in (((1, 1), ERRNO | EPERM), ((1, 2, 4), 0x00030000), ((1, 2, 3), ALLOW), ((0, 1, 4), ALLOW)):
        assert verdict(program, nr, (*args, 0, 0, 0, 0)[:6], native) == want


@pytest.mark.parametrize(
    ("action", "errno_ret", "want"),
    [("ERRNO", None, ERRNO | 1), ("ERRNO", 0, ERRNO), ("ERRNO", 4095, ERRNO | 4095), ("TRACE", None, 0x7FF00001),
     ("TRACE", 0xFFFF, 0x7FF0FFFF), ("KILL", None, 0), ("ALLOW", None, ALLOW)],
)  # fmt: skip
def test_an_action_carries_its_number(action: str, errno_ret: int | None, want: int) -> None:
    assert seccomp.action_of("SCMP_ACT_" + action, errno_ret) == want


def test_an_entry_without_conditions_counts_more_than_one_with_them() -> None:
    strict, plain = entry("getpid", "KILL", (0, "EQ", 1)), entry("getpid", "ERRNO")
    assert compiled("ALLOW", strict, plain) == compiled("ALLOW", plain, strict) == compiled("ALLOW", plain)


@pytest.mark.parametrize("args", [(), [(0, "EQ", 1)]], ids=["alone", "with conditions"])
def test_an_entry_that_repeats_the_default_does_not_open_what_another_closes(args: Any) -> None:
    default, strict = entry("getpid", "ALLOW"), entry("getpid", "KILL", *args)
    assert compiled("ALLOW", default, strict) == compiled("ALLOW", strict, default) == compiled("ALLOW", strict)


def test_of_two_entries_without_conditions_the_first_counts() -> None:
    first, second = entry("getpid", "ERRNO"), entry("getpid", "KILL")
    assert compiled("ALLOW", first, second) == compiled("ALLOW", first)


@on_x86_64
def test_calls_that_x86_hides_in_socketcall_get_the_mildest_action_since_their_arguments_cannot_be_seen() -> None:
    entries = [entry("socket", "KILL_PROCESS", (0, "EQ", 16)), entry("socket", "ALLOW", (0, "NE", 40)), entry("shmget", "TRAP")]
    program = compiled("ERRNO", *entries, entry("openat2", "LOG"), archs="X86")
    socketcall, ipc = number("socketcall", X86), number("ipc", X86)
    assert verdict(program, socketcall, (1, 0, 0, 0, 0, 0), X86) == ALLOW
    assert verdict(program, socketcall, (2, 0, 0, 0, 0, 0), X86) == ERRNO | EPERM
    assert verdict(program, ipc, (23, 0, 0, 0, 0, 0), X86) == 0x00030000
    for domain, want in ((16, 0x80000000), (40, ERRNO | EPERM), (2, ALLOW)):
        assert verdict(program, 359, (domain, 0, 0, 0, 0, 0), X86) == want
        assert verdict(program, number("socket", X86_64), (domain, 0, 0, 0, 0, 0)) == want


# ---- architectures and younger calls -----------------------------------------------------------------------------------


@on_x86_64
def test_an_architecture_that_is_not_named_is_refused() -> None:
    program = compiled("ALLOW", entry("getpid", "ERRNO"))
    assert verdict(program, 0, arch=X86) == KILL
    assert verdict(program, 0 | X32_BIT) == KILL
    assert verdict(program, 0, arch=AARCH64) == KILL


@pytest.mark.spec(
    "/linux/seccomp/architectures=SCMP_ARCH_X86", "/linux/seccomp/architectures=SCMP_ARCH_X86_64",
    "/linux/seccomp/architectures=SCMP_ARCH_X32", needs="an interpreter of the filter",
)  # fmt: skip
@on_x86_64
def test_each_architecture_has_its_own_numbers() -> None:
    program = compiled("ERRNO", entry("getpid exit", "ALLOW"), entry("openat2", "TRAP"), archs="X86 X32")
    for arch, audit in ((X86_64, X86_64), (X86, X86), (X32, X86_64)):
        assert verdict(program, number("getpid", arch), arch=audit) == ALLOW
        assert verdict(program, number("openat2", arch), arch=audit) == seccomp.ACTIONS["SCMP_ACT_TRAP"]
        assert verdict(program, number("openat2", arch) + 1, arch=audit) == ERRNO | ENOSYS
        assert verdict(program, number("openat2", arch) - 1, arch=audit) == ERRNO | EPERM
    assert verdict(program, 1, arch=AARCH64) == KILL


@on_x86_64
@pytest.mark.parametrize(
    ("default", "more", "want"),
    [
        ("ERRNO", {}, ERRNO | ENOSYS),
        ("ERRNO", {"defaultErrnoRet": 13}, ERRNO | ENOSYS),
        ("ERRNO", {"defaultErrnoRet": ENOSYS}, ERRNO | ENOSYS),
        ("KILL_PROCESS", {}, 0x80000000),
        ("TRAP", {}, 0x00030000),
        ("LOG", {}, 0x7FFC0000),
        ("TRACE", {"defaultErrnoRet": 5}, 0x7FF00005),
    ],
)
def test_a_call_younger_than_the_profile_does_not_exist_where_the_default_is_an_errno(
    default: str, more: dict[str, int], want: int
) -> None:
    program = compiled(default, entry("getpid openat2", "ALLOW"), **more)
    assert verdict(program, number("openat2") + 1) == want


@on_x86_64
def test_a_profile_that_names_no_call_has_its_default_for_all() -> None:
    program = compiled("ERRNO", entry("no_such_call", "ALLOW"), defaultErrnoRet=7)
    assert verdict(program, 1) == ERRNO | 7


def test_an_architecture_named_twice_is_there_once() -> None:
    once, twice = (compiled("ALLOW", entry("getpid", "KILL"), archs=f"{arch}") for arch in ("X86", "X86 X86"))
    assert once == twice


def test_an_architecture_of_another_kind_of_machine_is_named_in_the_error() -> None:
    with pytest.raises(SeccompError) as caught:
        compiled("ALLOW", archs="X86_64 S390X")
    assert caught.value.pointer == "/linux/seccomp/architectures/1"
    assert "SCMP_ARCH_S390X" in str(caught.value)


def test_an_architecture_that_this_libseccomp_does_not_know_is_named_in_the_error() -> None:
    if libseccomp.arch("m68k"):
        pytest.skip("this libseccomp knows all architectures of the specification")
    with pytest.raises(ConfigError) as caught:
        compiled("ALLOW", archs="M68K")
    assert caught.value.pointer == "/linux/seccomp/architectures/0"


@pytest.mark.spec("/linux/seccomp/architectures=*", needs="that machine: libseccomp knows the name")
def test_every_architecture_of_the_specification_has_libseccomps_name() -> None:
    for name in ("x86", "x86_64", "x32", "arm", "aarch64", "mips64n32", "ppc64le", "s390x", "parisc64", "riscv64"):
        assert libseccomp.arch(name)


# ---- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/seccomp/defaultAction=SCMP_ACT_NOTIFY", needs="init's own calls would wait for the agent: an error")
@pytest.mark.parametrize("name", ["write", "sendmsg"])
def test_what_hands_the_listener_over_cannot_be_sent_to_it(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled("ALLOW", entry("read", "ERRNO"), entry(f"mkdir {name}", "NOTIFY"))
    assert caught.value.pointer == "/linux/seccomp/syscalls/1/names/1"


def test_a_profile_that_is_too_long_for_the_kernel_says_so() -> None:
    entries = [entry("openat", "ERRNO", (0, "EQ", value), (1, "EQ", value)) for value in range(700)]
    with pytest.raises(SeccompError, match="4096"):
        compiled("ALLOW", *entries, archs="X86_64 X86 X32")


@pytest.mark.parametrize("name", ["", "no_such_call", "a\0b", "\ud800", "écrire"])
def test_a_name_that_libseccomp_does_not_know_is_left_out(name: str) -> None:
    item = entry("getpid", "ERRNO") | {"names": [name, "getpid"]}
    assert compiled("ALLOW", item) == compiled("ALLOW", entry("getpid", "ERRNO"))


# ---- flags and the step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "notify", "want"),
    [
        (None, False, 4),
        ([], False, 0),
        (["TSYNC"], False, 0),
        (["LOG"], False, 2),
        (["LOG", "SPEC_ALLOW", "TSYNC"], False, 6),
        (["WAIT_KILLABLE_RECV"], False, 0),
        (["WAIT_KILLABLE_RECV"], True, 32 | 8),
        ([], True, 8),
        (None, True, 4 | 8),
    ],
)
def test_flags(flags: list[str] | None, notify: bool, want: int) -> None:
    config = profile("ALLOW", entry("mkdir", "NOTIFY" if notify else "KILL"))
    if flags is not None:
        config["flags"] = [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]
    assert seccomp.flags_of(config) == want
    assert seccomp.needs_listener(config) == notify


def test_the_step_carries_program_flags_and_listener() -> None:
    config = profile("ALLOW", entry("mkdir", "NOTIFY"), listenerPath="/run/agent")
    step = seccomp.plan({"ociVersion": "1.3.0", "linux": {"seccomp": config}})
    assert step is not None
    assert step.origin == "/linux/seccomp"
    assert step.values == {"filter": seccomp.compile_filter(config), "flags": 12, "listener": True}


@pytest.mark.parametrize("linux", [{}, {"seccomp": None}])
def test_without_seccomp_there_is_no_step(linux: Any) -> None:
    assert seccomp.plan({"ociVersion": "1.3.0", "linux": linux}) is None
    assert seccomp.plan({"ociVersion": "1.3.0"}) is None


# ---- in the kernel -----------------------------------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER = 38, 1


def load(program: bytes, flags: int = 0) -> int:
    class Program(ctypes.Structure):
        _fields_ = [("size", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    result: int = libc.syscall(number("seccomp"), SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(Program(len(program) // 8, program)))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return result


def in_child(program: bytes, work: Callable[[], int], flags: int = 0) -> int:
    """The exit code of a child that loaded the filter and did the work, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            load(program, flags)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def accepted(program: bytes) -> bool:
    """Does the kernel take it? Under a random filter the child has no way to end but to crash."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            load(program)
            code = 0
            ctypes.string_at(0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 1


def call(name: str, *args: int) -> Callable[[], int]:
    """A system call whose errno is the exit code."""
    nr = number(name)

    def work() -> int:
        return ctypes.get_errno() if libc.syscall(nr, *args) < 0 else 0

    return work


ACTIONS: list[tuple[str, dict[str, int], int]] = [
    ("ERRNO", {}, errno.EPERM),
    ("ERRNO", {"errnoRet": errno.ENOLINK}, errno.ENOLINK),
    ("ERRNO", {"errnoRet": 0}, 0),
    ("KILL", {}, -signal.SIGSYS),
    ("KILL_THREAD", {}, -signal.SIGSYS),
    ("KILL_PROCESS", {}, -signal.SIGSYS),
    ("TRAP", {}, -signal.SIGSYS),
    ("TRACE", {}, errno.ENOSYS),  # nobody traces
    ("LOG", {}, 0),
    ("ALLOW", {}, 0),
]


@pytest.mark.spec("/linux/seccomp/syscalls/*/action=SCMP_ACT_[!N]*")
@pytest.mark.parametrize(("action", "more", "want"), ACTIONS)
def test_each_action_in_the_kernel(action: str, more: dict[str, int], want: int) -> None:
    default = "LOG" if action == "ALLOW" else "ALLOW"
    program = compiled(default, entry("getppid", action, **more))
    assert in_child(program, call("getppid")) == want
    assert in_child(program, call("getuid")) == 0


@pytest.mark.spec("/linux/seccomp/defaultAction=SCMP_ACT_[!N]*")
@pytest.mark.parametrize(("action", "more", "want"), ACTIONS)
def test_each_default_action_in_the_kernel(action: str, more: dict[str, int], want: int) -> None:
    needed = entry("exit_group exit rt_sigreturn getuid pidfd_open", "ALLOW" if action != "ALLOW" else "LOG")
    default = {"defaultErrnoRet": more["errnoRet"]} if more else {}
    program = compiled(action, needed, **default)
    assert in_child(program, call("getppid")) == want
    assert in_child(program, call("getuid")) == 0


@pytest.mark.parametrize(("first", "want"), [(0, 0), (7, errno.EXDEV), (7 << 32, 0)])
def test_arguments_in_the_kernel(first: int, want: int) -> None:
    program = compiled("ALLOW", entry("getppid", "ERRNO", (0, "EQ", 7), errnoRet=errno.EXDEV))
    assert in_child(program, call("getppid", ctypes.c_ulong(first))) == want  # type: ignore[arg-type]


def test_an_errno_is_the_default_in_the_kernel_and_younger_calls_do_not_exist() -> None:
    needed = "exit_group exit rt_sigreturn getuid pidfd_open"
    program = compiled("ERRNO", entry(needed, "ALLOW"), defaultErrnoRet=errno.EACCES)
    assert in_child(program, call("getppid")) == errno.EACCES
    assert in_child(program, call("getuid")) == 0
    assert in_child(program, call("openat2")) == errno.ENOSYS


@pytest.mark.spec("/linux/seccomp/flags=*")
@pytest.mark.parametrize("flags", [["LOG"], ["SPEC_ALLOW"], ["TSYNC"], ["LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"], []])
def test_the_kernel_takes_the_flags(flags: list[str]) -> None:
    config = profile("ALLOW", entry("getppid", "ERRNO"), flags=[f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags])
    assert in_child(seccomp.compile_filter(config), call("getppid"), seccomp.flags_of(config)) == errno.EPERM


@pytest.mark.spec("/linux/seccomp/flags=SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
def test_an_agent_answers_in_the_kernel() -> None:
    config = profile("ALLOW", entry("getppid", "NOTIFY"), listenerPath="/agent", flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            listener = load(seccomp.compile_filter(config), seccomp.flags_of(config))
            socket.send_fds(theirs, [b"x"], [listener])
            os.close(listener)
            code = call("getppid")()
        finally:
            os._exit(code)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    request = array.array("B", bytes(80))  # struct seccomp_notif
    fcntl.ioctl(fds[0], 0xC0502100, request)  # SECCOMP_IOCTL_NOTIF_RECV
    cookie, pid, _, nr = struct.unpack_from("=QIIi", request)
    assert (pid, nr) == (child, number("getppid"))
    answer = array.array("B", struct.pack("=QqiI", cookie, 0, -errno.EXDEV, 0))
    fcntl.ioctl(fds[0], 0xC0182101, answer)  # SECCOMP_IOCTL_NOTIF_SEND
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EXDEV
    os.close(fds[0])
    ours.close()
    theirs.close()


@pytest.mark.skipif(not os.path.exists("/usr/share/containers/seccomp.json"), reason="needs the profile of containers-common")
def test_the_profile_that_engines_use_lets_an_ordinary_program_run() -> None:
    with open("/usr/share/containers/seccomp.json") as file:
        found = json.load(file)
    entries = [
        {key: item[key] for key in ("names", "action", "args", "errnoRet") if item.get(key) is not None}
        for item in found["syscalls"] if not (item.get("includes") or {}).get("caps")
    ]  # fmt: skip
    allowed = {name for item in entries if item["action"] == "SCMP_ACT_ALLOW" and "args" not in item for name in item["names"]}
    entries = [item | {"names": [name for name in item["names"] if "args" in item or item["action"] == "SCMP_ACT_ALLOW"
                                 or name not in allowed]} for item in entries]  # fmt: skip
    config = profile("ERRNO", *[item for item in entries if item["names"]], archs="X86_64 X86 X32", defaultErrnoRet=1)
    program = seccomp.compile_filter(config)

    def work() -> int:
        return os.system("ls / > /dev/null && echo | sort > /dev/null && date > /dev/null")

    assert in_child(program, work) == 0
    assert in_child(program, call("userfaultfd")) == errno.EPERM
