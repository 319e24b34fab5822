"""linux.seccomp -> a BPF program (config-linux.md, Seccomp). The runtime compiles, init loads."""

from __future__ import annotations

from _struct import pack

from ocipy.errors import ConfigError, SeccompError
from ocipy.linux import sys
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Seccomp, Syscall, SyscallArg

ROOT = "/linux/seccomp"
EPERM, ENOSYS = 1, 38

# The kernel's SECCOMP_RET_* are libseccomp's SCMP_ACT_*; shim_seccomp.c holds these tables to the headers.
ACTIONS = {
    "SCMP_ACT_KILL": 0,  # the thread, as ever
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
NUMBERED = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # the actions that carry an errno, or a message for the tracer
OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # for other threads of the caller: init has none
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
SPEC_ALLOW, NEW_LISTENER, WAIT_KILLABLE_RECV = 4, 8, 32
# Init hands the listener over by these, filtered already: nobody would be there to answer. runc refuses write too.
NEVER_NOTIFIED = ("sendmsg", "write")


def plan(config: Config) -> Step | None:
    """The step that loads the filter; None without linux.seccomp. Raises ConfigError, SeccompError."""
    seccomp = config.get("linux", {}).get("seccomp")
    if not seccomp:
        return None
    return Step(
        ops.SECCOMP, ROOT, filter=compile_filter(seccomp), flags=flags_of(seccomp), listener=needs_listener(seccomp)
    )


def needs_listener(seccomp: Seccomp) -> bool:
    """Does any system call go to a seccomp agent?"""
    return any(entry["action"] == "SCMP_ACT_NOTIFY" for entry in seccomp.get("syscalls") or ())


def flags_of(seccomp: Seccomp) -> int:
    """Flags of seccomp(2). Without ``flags`` it is SPEC_ALLOW, as under runc: full speed unless the config asks otherwise."""
    names = seccomp.get("flags")
    flags = SPEC_ALLOW if names is None else 0
    for name in names or ():
        flags |= FLAGS[name]
    if needs_listener(seccomp):
        return flags | NEW_LISTENER
    return flags & ~WAIT_KILLABLE_RECV  # the kernel refuses it where nothing is to be received


def compile_filter(seccomp: Seccomp) -> bytes:
    """The program, struct sock_filter after struct sock_filter, for this machine's kernel. A pure function of its argument (which
    config.seccomp has checked), the machine and the version of libseccomp. Raises ConfigError, SeccompError."""
    default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    entries = seccomp.get("syscalls") or []
    names: list[str] = []
    words: list[int] = []
    for index, entry in enumerate(entries):
        names += entry["names"]
        words += _entry(entry, f"{ROOT}/syscalls/{index}")
    texts = sys.texts(names)
    parts = []
    for index, token in enumerate(_architectures(seccomp)):
        try:
            parts.append((token, *sys.seccomp_compile(token, default, texts, words, len(entries))))
        except sys.FilterError as error:
            raise _explained(error, seccomp, index) from None
    limited = seccomp["defaultAction"] == "SCMP_ACT_ERRNO" and default & 0xFFFF != ENOSYS
    program = _joined(parts, limited=limited)
    if len(program) > 8 * sys.MAX_INSTRUCTIONS:
        detail = f"{len(program) // 8} instructions, of which the kernel takes {sys.MAX_INSTRUCTIONS}: use fewer rules with args"
        raise SeccompError(0, "compile the filter", "", ROOT + "/syscalls", detail)
    return program


def _architectures(seccomp: Seccomp) -> list[int]:
    """libseccomp's tokens, the machine's own always among them: its system calls are those of the container."""
    tokens = []
    for index, name in enumerate(seccomp.get("architectures") or ()):
        token = sys.seccomp_arch(name.removeprefix("SCMP_ARCH_").lower())
        if not token:
            reason = f"libseccomp {sys.libseccomp_version()} does not know {name}"
            raise ConfigError(f"{ROOT}/architectures/{index}", reason)
        if token not in tokens:
            tokens.append(token)
    native = sys.seccomp_arch("")
    return tokens if native in tokens else [*tokens, native]


def _action(name: str, errno: int | None) -> int:
    return ACTIONS[name] | (EPERM if errno is None else errno) if name in NUMBERED else ACTIONS[name]


def _entry(entry: Syscall, pointer: str) -> list[int]:
    """One entry of ``syscalls`` as words for the compiler: see add_rules in shim_seccomp.c."""
    if entry["action"] == "SCMP_ACT_NOTIFY":
        for index, name in enumerate(entry["names"]):
            if name in NEVER_NOTIFIED:
                reason = f"{name} cannot be sent to an agent: the container needs it to hand over the listener"
                raise ConfigError(f"{pointer}/names/{index}", reason)
    alternatives = _alternatives(entry.get("args") or [])
    words: list[int] = []
    for conditions in alternatives:
        words.append(len(conditions))
        for arg in conditions:
            words += (arg["index"] | OPERATORS[arg["op"]] << 32, arg["value"], arg.get("valueTwo") or 0)
    return [_action(entry["action"], entry.get("errnoRet")), len(entry["names"]), len(alternatives), len(words), *words]


def _alternatives(args: list[SyscallArg]) -> list[list[SyscallArg]]:
    """All conditions must hold. Two on the same argument cannot be one rule of libseccomp: then, as profiles written for runc
    expect, any one of the conditions is enough."""
    return [args] if len({arg["index"] for arg in args}) == len(args) else [[arg] for arg in args]


def _explained(error: sys.FilterError, seccomp: Seccomp, arch: int) -> SeccompError:
    pointer, what = ROOT, ""
    if error.entry == -1:
        pointer, what = f"{ROOT}/architectures/{arch}", f" for {(seccomp.get('architectures') or ['this machine'])[arch]}"
    elif error.entry is not None:
        pointer, what = f"{ROOT}/syscalls/{error.entry}", f" with {seccomp['syscalls'][error.entry]['action']}"
    detail = f"libseccomp {sys.libseccomp_version()} refuses it"
    if error.errno == 95:  # EOPNOTSUPP
        detail += ": this kernel or this libseccomp is too old for the action"
    elif error.errno == 33:  # EDOM
        detail += ": this machine cannot execute it"
    return SeccompError(error.errno or 0, "compile the filter" + what, "", pointer, detail)


# ---- one program for all architectures --------------------------------------------------------------------------------
#
# The head looks at the architecture and jumps into its program; what no program knows falls into the first, which refuses it.
#
# The head also answers for system calls younger than the profile. libc tries a new call and falls back to an old one on
# ENOSYS; a profile's EPERM it takes for the answer. So what is above the largest number that the profile names does not
# exist, as under runc, but only where the default is an errno: who asks for KILL or TRAP gets that.

LD_WORD, JA, JEQ, JGT, JSET, RET = 0x20, 0x05, 0x15, 0x25, 0x45, 0x06
NUMBER_AT, ARCH_AT = 0, 4  # in struct seccomp_data
AUDIT_ARCH_X86_64 = 0xC000003E
SCMP_ARCH_X32 = 0x4000003E
X32_BIT = 0x40000000
NEVER = 0xFFFFFFFF  # nothing is greater
REFUSE = (RET, 0, 0, ACTIONS["SCMP_ACT_ERRNO"] | ENOSYS)


def _joined(parts: list[tuple[int, bytes, int]], *, limited: bool) -> bytes:
    """``parts``: (libseccomp's token, program, largest number). x32 has the architecture of x86_64, and a bit in the number."""
    if len(parts) == 1 and not limited:
        return parts[0][1]
    starts, limits, size = {}, {}, 0
    for token, program, largest in parts:
        starts[token], size = size, size + len(program) // 8
        limits[token] = largest if limited and largest >= 0 else NEVER
    x32 = starts.pop(SCMP_ARCH_X32, starts.get(AUDIT_ARCH_X86_64, 0))
    lengths = {token: 8 if token == AUDIT_ARCH_X86_64 else 5 for token in starts}
    end = 1 + sum(lengths.values())
    head = [(LD_WORD, 0, 0, ARCH_AT)]
    for token, start in starts.items():
        head += [(JEQ, 0, lengths[token] - 1, token), (LD_WORD, 0, 0, NUMBER_AT)]
        if token != AUDIT_ARCH_X86_64:
            head += [(JGT, 0, 1, limits[token]), REFUSE, (JA, 0, 0, end + start - len(head) - 3)]
            continue
        head += [(JSET, 1, 0, X32_BIT), (JGT, 1, 2, limits[token]), (JGT, 0, 2, limits.get(SCMP_ARCH_X32, NEVER)), REFUSE]
        head.append((JA, 0, 0, end + start - len(head) - 1))
        head.append((JA, 0, 0, end + x32 - len(head) - 1))
    return b"".join([pack("=HBBI", *instruction) for instruction in head]) + b"".join([part[1] for part in parts])
