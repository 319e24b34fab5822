"""The only source of the numbers that cross the line between Python and C.

An op is one intention of the config. Its fields are typed: ``t`` text, ``s`` text or None, ``u`` an unsigned number (negative:
two's complement), ``l`` a list of texts, ``b`` bytes, ``f`` the name of a slot that holds a descriptor when the plan is encoded
(None: -1), ``*`` anything that JSON can say (runtime ops only, which never reach C). ``c_header()`` gives all of it to the C
compiler, so that drift cannot happen.

A plan is a list without branches. Looking and then choosing how lives in the handler of an op.
"""

from __future__ import annotations

from ocipy import SPEC_VERSION
from ocipy.plan.reports import REPORTS

RUNTIME = "runtime"  # executed by Python, outside
INIT = "init"  # executed by the static init, inside


class Op:
    """One kind of step: ``code`` (0 for runtime ops), ``name``, ``where`` it runs, ``fields`` as (name, type) pairs and their
    ``names``."""

    __slots__ = ("code", "fields", "name", "names", "where")

    def __init__(self, code: int, name: str, where: str, fields: tuple[tuple[str, str], ...]) -> None:
        self.code, self.name, self.where, self.fields = code, name, where, fields
        self.names = frozenset([field for field, _ in fields])

    def __repr__(self) -> str:
        return self.name


ALL: dict[str, Op] = {}
MAX_FIELDS = 10


def _op(name: str, where: str, fields: str) -> Op:
    # Those of init come first: each has the number of its place.
    code = len(ALL) + 1 if where == INIT else 0
    op = ALL[name] = Op(code, name, where, tuple([(text[:-2], text[-1]) for text in fields.split()]))
    return op


# ---- init: the stage, still in the host's user namespace -------------------------------------------------------
SYNC = _op("SYNC", INIT, "number:u")  # put in by encode() where the runtime has work to do
SET_DUMPABLE = _op("SET_DUMPABLE", INIT, "value:u")
JOIN = _op("JOIN", INIT, "user:f mount:f network:f ipc:f uts:f pid:f cgroup:f time:f uid:u gid:u")
JOIN_CONTAINER = _op("JOIN_CONTAINER", INIT, "pidfd:f flags:u")
UNSHARE = _op("UNSHARE", INIT, "flags:u")
BECOME = _op("BECOME", INIT, "uid:u gid:u")
CLONE_INIT = _op("CLONE_INIT", INIT, "cgroup:f")
# ---- init: the container process ---------------------------------------------------------------------------------
ENTER_TASKS = _op("ENTER_TASKS", INIT, "tasks:f")
SETSID = _op("SETSID", INIT, "")
SESSION_KEYRING = _op("SESSION_KEYRING", INIT, "name:t label:s")
LOOPBACK_UP = _op("LOOPBACK_UP", INIT, "")
PROPAGATION = _op("PROPAGATION", INIT, "path:t flags:u")
ROOTFS = _op("ROOTFS", INIT, "tree:f attach:u path:s")
MOUNT = _op("MOUNT", INIT, "dest:t fstype:t source:s options:l attrs:u propagation:u flags:u")
MOUNT_OLD = _op("MOUNT_OLD", INIT, "dest:t fstype:t source:s data:s ms_flags:u propagation:u flags:u")
ATTACH = _op("ATTACH", INIT, "dest:t tree:f propagation:u flags:u")
BIND = _op("BIND", INIT, "dest:t source:t recursive:u attr_set:u attr_clr:u rec_set:u rec_clr:u propagation:u flags:u")
REMOUNT = _op("REMOUNT", INIT, "dest:t attr_set:u attr_clr:u propagation:u flags:u")
MAKE_DIRECTORY = _op("MAKE_DIRECTORY", INIT, "path:t mode:u")
DEVICE = _op("DEVICE", INIT, "path:t mode:u rdev:u uid:u gid:u")
SYMLINK = _op("SYMLINK", INIT, "target:t path:t replace:u")
HOOK = _op("HOOK", INIT, "path:t args:l env:l timeout:u state_head:t state_tail:t output:f")
PIVOT_ROOT = _op("PIVOT_ROOT", INIT, "")
MOVE_ROOT = _op("MOVE_ROOT", INIT, "")
CHROOT = _op("CHROOT", INIT, "")
CONSOLE = _op("CONSOLE", INIT, "height:u width:u uid:u gid:u mount:u")
STDIO_OWNER = _op("STDIO_OWNER", INIT, "uid:u gid:u")
HOSTNAME = _op("HOSTNAME", INIT, "name:t")
DOMAINNAME = _op("DOMAINNAME", INIT, "name:t")
SYSCTL = _op("SYSCTL", INIT, "path:t value:t")
UNMOUNT = _op("UNMOUNT", INIT, "parent:t name:t")
READONLY_PATH = _op("READONLY_PATH", INIT, "path:t")
MASK_PATH = _op("MASK_PATH", INIT, "path:t null:f")
READONLY_ROOT = _op("READONLY_ROOT", INIT, "")
NO_NEW_PRIVILEGES = _op("NO_NEW_PRIVILEGES", INIT, "")
PERSONALITY = _op("PERSONALITY", INIT, "persona:u")
MEMORY_POLICY = _op("MEMORY_POLICY", INIT, "mode:u nodes:b")
EXEC_LABEL = _op("EXEC_LABEL", INIT, "attribute:t value:t")
HOME = _op("HOME", INIT, "uid:u")
CWD = _op("CWD", INIT, "path:t final:u create:u")
SECCOMP = _op("SECCOMP", INIT, "filter:b flags:u listener:u")
BOUNDING_SET = _op("BOUNDING_SET", INIT, "keep:u")
USER = _op("USER", INIT, "uid:u gid:u groups:b set_groups:u")
CAPABILITIES = _op("CAPABILITIES", INIT, "effective:u permitted:u inheritable:u ambient:u keep:u")
UMASK = _op("UMASK", INIT, "mask:u")
LOOKUP = _op("LOOKUP", INIT, "program:t search:t")
CLOSE_FDS = _op("CLOSE_FDS", INIT, "first:u listener:f lock:f")
LOCK = _op("LOCK", INIT, "lock:f")
READY = _op("READY", INIT, "")
WAIT_START = _op("WAIT_START", INIT, "listener:f")
EXEC = _op("EXEC", INIT, "args:l env:l")

# ---- runtime -----------------------------------------------------------------------------------------------------
MAKE_CGROUP = _op("MAKE_CGROUP", RUNTIME, "path:* controllers:*")
SET_CGROUP = _op("SET_CGROUP", RUNTIME, "path:* file:* value:*")
OWN_CGROUP = _op("OWN_CGROUP", RUNTIME, "path:* uid:*")
RESTRICT_DEVICES = _op("RESTRICT_DEVICES", RUNTIME, "path:* rules:* name:*")
START_UNIT = _op("START_UNIT", RUNTIME, "name:* user:* properties:* paths:* controllers:*")
SET_UNIT = _op("SET_UNIT", RUNTIME, "name:* user:* properties:*")
ENTER_CGROUP = _op("ENTER_CGROUP", RUNTIME, "paths:* init:*")
OPEN_CGROUP = _op("OPEN_CGROUP", RUNTIME, "slot:* path:*")
OPEN_TREE = _op(
    "OPEN_TREE", RUNTIME, "slot:* source:* dest:* recursive:* attr_set:* attr_clr:* rec_set:* rec_clr:* slave:* idmap:*"
)
OPEN_DEVICE = _op("OPEN_DEVICE", RUNTIME, "slot:* path:* type:* major:* minor:*")
OPEN_NAMESPACE = _op("OPEN_NAMESPACE", RUNTIME, "slot:* path:* type:* changed:*")
OPEN_ROOTFS = _op("OPEN_ROOTFS", RUNTIME, "slot:* path:* attach:* slave:*")
OPEN_PIDFD = _op("OPEN_PIDFD", RUNTIME, "slot:* pid:*")
LISTEN = _op("LISTEN", RUNTIME, "slot:*")
OPEN_LOCK = _op("OPEN_LOCK", RUNTIME, "slot:*")
OPEN_HOOK_OUTPUT = _op("OPEN_HOOK_OUTPUT", RUNTIME, "slot:*")
SPAWN = _op("SPAWN", RUNTIME, "preserve_fds:* affinity:* cgroup:*")
OOM_SCORE_ADJ = _op("OOM_SCORE_ADJ", RUNTIME, "value:*")
ID_MAPS = _op("ID_MAPS", RUNTIME, "uid:* gid:* setgroups:*")
TIME_OFFSETS = _op("TIME_OFFSETS", RUNTIME, "offsets:*")
MAKE_RESCTRL = _op("MAKE_RESCTRL", RUNTIME, "path:* how:* compare:* schemata:*")
ENTER_RESCTRL = _op("ENTER_RESCTRL", RUNTIME, "paths:*")
MOVE_NET_DEVICE = _op("MOVE_NET_DEVICE", RUNTIME, "name:* new:*")
RUN_HOOK = _op("RUN_HOOK", RUNTIME, "kind:* path:* args:* env:* timeout:*")
RLIMIT = _op("RLIMIT", RUNTIME, "resource:* soft:* hard:*")
SCHEDULER = _op("SCHEDULER", RUNTIME, "policy:* nice:* priority:* flags:* runtime:* deadline:* period:*")
IO_PRIORITY = _op("IO_PRIORITY", RUNTIME, "level:* data:*")
CPU_AFFINITY = _op("CPU_AFFINITY", RUNTIME, "cpus:*")
WRITE_STATE = _op("WRITE_STATE", RUNTIME, "status:*")

# ---- flags of mount ops --------------------------------------------------------------------------------------------
MOUNT_FLAGS = {
    "NO_SYMLINKS": 1,  # proc and sysfs: their mount point must be a real directory
    "ON_PROC": 2,  # the mount point may lie on procfs
    "COPY_UP": 4,  # tmpcopyup: what lies below goes into the new tmpfs
    "RECURSIVE": 8,  # REMOUNT: attributes of the whole tree
    "KEEP_MODE": 32,  # of the directory that is covered, when there is one already
    "KEEP_OWNER": 64,  # and its owner
    "OPTIONAL": 16,  # the kernel may refuse it (devpts gid= in a small user namespace …)
}

# ---- calls that a report can name ----------------------------------------------------------------------------------
CALLS = (
    "none", "accept4", "bind", "capset", "chdir", "chmod", "chown", "chroot", "clone3", "close_range", "connect",
    "dup3", "execve", "faccessat2", "fchdir", "fchmod", "fchown", "fcntl", "fsconfig", "fsmount", "fsopen", "fstat", "fstatfs",
    "getcwd", "getdents64", "ioctl", "keyctl", "kill", "mkdirat", "mknodat", "mmap", "mount", "mount_setattr", "move_mount",
    "open_tree", "openat", "openat2", "personality", "pipe2", "pivot_root", "prctl", "read", "readlinkat", "recvmsg",
    "rt_sigaction", "seccomp", "sendfile", "sendmsg", "set_mempolicy", "setdomainname", "setgroups", "sethostname", "setns",
    "setresgid", "setresuid", "setsid", "socket", "symlinkat", "umount2", "unlinkat", "unshare", "waitid", "write",
    "verify", "lookup", "decode",
)  # fmt: skip


def c_header() -> str:
    """The text of ops.h: op codes, field numbers, field types for the check before clone, flags, reports, calls."""
    ops = [op for op in ALL.values() if op.where == INIT]
    lines = ["/* Generated from ocipy/plan/ops.py: change that file. */", "#ifndef OCIPY_OPS_H", "#define OCIPY_OPS_H"]
    lines += ["enum {"] + [f"\tOP_{op.name} = {op.code}," for op in ops] + ["};"]
    lines += [f"#define {op.name}_{field} {i}" for op in ops for i, (field, _) in enumerate(op.fields)]
    lines += [f"#define MOUNT_FLAG_{name} {value}" for name, value in MOUNT_FLAGS.items()]
    lines += [f"#define REPORT_{name} {i + 1}" for i, name in enumerate(REPORTS)]
    lines += [f"#define CALL_{name} {i}" for i, name in enumerate(CALLS)]
    lines += [f'#define SPEC_VERSION "{SPEC_VERSION}"']
    lines += [f"#define OP_COUNT {len(ops) + 1}", f"#define MAX_FIELDS {MAX_FIELDS}"]
    signatures = ", ".join(f'[{op.code}] = "{"".join(kind for _, kind in op.fields)}"' for op in ops)
    lines += [f"#define OP_SIGNATURES {{ {signatures} }}", "#endif", ""]
    return "\n".join(lines)
