"""linux.seccomp -> a BPF program (config-linux.md, Seccomp). The runtime compiles, init loads.

libseccomp knows the names, numbers and architectures, and makes the tree of what has no conditions. Conditions on arguments
are compiled here: libseccomp 2.5.4 merges several rules of one call into a tree that lets wrong values through (LT and LE
beside another rule), or did not end in minutes (some pairs of rules with one or two conditions each).
"""

from __future__ import annotations

from ocipy.errors import ConfigError, SeccompError
from ocipy.linux import libseccomp, seccomp_bpf as bpf
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Seccomp, Syscall, SyscallArg

ROOT = "/linux/seccomp"
EPERM, ENOSYS = 1, 38
ERRNO = 0x00050000
SCMP_ARCH_X86 = 0x40000003
ARCH_64BIT = 0x80000000  # in a token; x32 is without it: libseccomp compares its arguments by 32 bits

# The kernel's SECCOMP_RET_* are libseccomp's SCMP_ACT_*; shim_seccomp.c holds these tables to the headers.
ACTIONS = {
    "SCMP_ACT_KILL": 0,  # the thread, as ever
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
NUMBERED = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # the actions that carry an errno, or a message for the tracer
OPERATORS = tuple("SCMP_CMP_" + name for name in "NE LT LE EQ GE GT MASKED_EQ".split())  # what seccomp_bpf compiles
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # for other threads of the caller: init has none
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
SPEC_ALLOW, NEW_LISTENER, WAIT_KILLABLE_RECV = 4, 8, 32
# Init hands the listener over by these, filtered already: nobody would be there to answer. runc refuses write too.
NEVER_NOTIFIED = ("sendmsg", "write")
# What x86 has a number for besides socketcall and ipc, of which alone libseccomp tells.
X86_DIRECT = {
    "socket": 359, "socketpair": 360, "bind": 361, "connect": 362, "listen": 363, "accept4": 364, "getsockopt": 365,
    "setsockopt": 366, "getsockname": 367, "getpeername": 368, "sendto": 369, "sendmsg": 370, "recvfrom": 371, "recvmsg": 372,
    "shutdown": 373, "semget": 393, "semctl": 394, "shmget": 395, "shmctl": 396, "shmat": 397, "shmdt": 398, "msgget": 399,
    "msgsnd": 400, "msgrcv": 401, "msgctl": 402,
}  # fmt: skip


def plan(config: Config, kept: str = "") -> Step | None:
    """The step that loads the filter; None without linux.seccomp. ``kept``: where compiled filters are kept, "" nowhere.

    Raises ConfigError, SeccompError.
    """
    seccomp = config.get("linux", {}).get("seccomp")
    if not seccomp:
        return None
    if kept:
        from ocipy.linux.filters import find_or_compile

        program = find_or_compile(kept, seccomp, compile_filter, __file__)
    else:
        program = compile_filter(seccomp)
    return Step(ops.SECCOMP, ROOT, filter=program, flags=flags_of(seccomp), listener=needs_listener(seccomp))


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


class Rules:
    """A profile sorted by what can answer. ``plain``: name -> action without conditions, for libseccomp; the first entry that
    has a name counts, and it counts more than entries with conditions, as libseccomp has it. ``conditional``: name -> (action,
    conditions that must all hold) in order, for a program of our own. ``entries``: name -> the entry of ``syscalls`` it is in.
    """

    __slots__ = ("conditional", "default", "entries", "plain")

    def __init__(self, seccomp: Seccomp) -> None:
        self.default = action_of(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
        self.plain: dict[str, int] = {}
        self.conditional: dict[str, list[tuple[int, list[SyscallArg]]]] = {}
        self.entries: dict[str, int] = {}
        for index, entry in enumerate(seccomp.get("syscalls") or ()):
            _check_notified(entry, f"{ROOT}/syscalls/{index}")
            action, args = action_of(entry["action"], entry.get("errnoRet")), entry.get("args") or []
            # Two conditions on one argument: any one of all is enough, as profiles written for runc expect.
            rules = [args] if len({arg["index"] for arg in args}) == len(args) else [[arg] for arg in args]
            for name in entry["names"]:
                self.entries.setdefault(name, index)
                if action == self.default:
                    continue  # says nothing, so it does not stand against an entry that does, as under runc
                if not args:
                    self.plain.setdefault(name, action)
                else:
                    self.conditional.setdefault(name, []).extend([(action, rule) for rule in rules])
        for name in self.plain:
            self.conditional.pop(name, None)

    def unconditional(self, arch: int) -> list[int]:
        """An action for each of ``entries``. x86 has socketcall and ipc, whose arguments no filter can see: what has conditions
        gets there the mildest of its actions; its own number is answered before."""
        if arch != SCMP_ARCH_X86:
            return [self.plain.get(name, self.default) for name in self.entries]
        # The kernel's order, from KILL_PROCESS to ALLOW, is that of signed numbers.
        mildest = {n: max((a for a, _ in rules), key=lambda a: a ^ 0x80000000) for n, rules in self.conditional.items()}
        return [self.plain.get(name, mildest.get(name, self.default)) for name in self.entries]


def compile_filter(seccomp: Seccomp) -> bytes:
    """The program, struct sock_filter after struct sock_filter, for this machine's kernel. A pure function of its argument (which
    config.seccomp has checked), the machine and the version of libseccomp. Raises ConfigError, SeccompError."""
    rules = Rules(seccomp)
    names = list(rules.entries)
    limited = seccomp["defaultAction"] == "SCMP_ACT_ERRNO" and rules.default & 0xFFFF != ENOSYS
    parts = []
    for index, arch in enumerate(_architectures(seccomp)):
        try:
            program, largest = libseccomp.compile_names(arch, rules.default, names, rules.unconditional(arch))
        except libseccomp.FilterError as error:
            raise _explained(error, seccomp, rules, index) from None
        head = bpf.younger(largest, ERRNO | ENOSYS) if limited and largest >= 0 else []
        for name, conditional in rules.conditional.items():
            number = X86_DIRECT.get(name, -1) if arch == SCMP_ARCH_X86 else -1
            if number < 0:
                number = libseccomp.number(arch, name)
            if number >= 0:
                head += bpf.call(number, conditional, rules.default, wide=bool(arch & ARCH_64BIT))
        parts.append((arch, head, program))
    program = bpf.joined(parts)
    if len(program) > 8 * libseccomp.MAX_INSTRUCTIONS:
        detail = f"{len(program) // 8} instructions, of which the kernel takes {libseccomp.MAX_INSTRUCTIONS}: use fewer conditions"
        raise SeccompError(0, "compile the filter", "", ROOT + "/syscalls", detail)
    return program


def _architectures(seccomp: Seccomp) -> list[int]:
    """libseccomp's tokens, the machine's own always among them: its system calls are those of the container."""
    tokens = []
    for index, name in enumerate(seccomp.get("architectures") or ()):
        token = libseccomp.arch(name.removeprefix("SCMP_ARCH_").lower())
        if not token:
            reason = f"libseccomp {libseccomp.version()} does not know {name}"
            raise ConfigError(f"{ROOT}/architectures/{index}", reason)
        if token not in tokens:
            tokens.append(token)
    native = libseccomp.arch("")
    return tokens if native in tokens else [*tokens, native]


def action_of(name: str, errno: int | None) -> int:
    """The kernel's number of an action, with an errno or a message for the tracer."""
    return ACTIONS[name] | (EPERM if errno is None else errno) if name in NUMBERED else ACTIONS[name]


def _check_notified(entry: Syscall, pointer: str) -> None:
    if entry["action"] == "SCMP_ACT_NOTIFY":
        for index, name in enumerate(entry["names"]):
            if name in NEVER_NOTIFIED:
                reason = f"{name} cannot be sent to an agent: the container needs it to hand over the listener"
                raise ConfigError(f"{pointer}/names/{index}", reason)


def _explained(error: libseccomp.FilterError, seccomp: Seccomp, rules: Rules, arch: int) -> SeccompError:
    pointer, what = ROOT, ""
    if error.name == -1:
        pointer, what = f"{ROOT}/architectures/{arch}", f" for {(seccomp.get('architectures') or ['this machine'])[arch]}"
    elif error.name is not None:
        index = list(rules.entries.values())[error.name]
        pointer, what = f"{ROOT}/syscalls/{index}", f" with {seccomp['syscalls'][index]['action']}"
    detail = f"libseccomp {libseccomp.version()} refuses it"
    if error.errno == 95:  # EOPNOTSUPP
        detail += ": this kernel or this libseccomp is too old for the action"
    elif error.errno == 33:  # EDOM
        detail += ": this machine cannot execute it"
    return SeccompError(error.errno or 0, "compile the filter" + what, "", pointer, detail)
