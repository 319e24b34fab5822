"""A resctrl filesystem for machines whose CPU has none: the kernel's rules for groups, tasks and schemata, served by FUSE.

Docs: the kernel's Documentation/filesystems/resctrl.rst. Two caches of 12 ways (L3), bandwidth in steps of 10 (MB), four classes of
service and four monitored groups, the root's among them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

TYPE = "fuse.resctrl"  # what /proc/self/mountinfo calls it
CLASSES = MONITORED = 4
WAYS = 0xFFF
DEFAULT = {"L3": {"0": "fff", "1": "fff"}, "MB": {"0": "100", "1": "100"}}

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, RMDIR, OPEN, READ, WRITE = 1, 2, 3, 4, 9, 11, 14, 15, 16
RELEASE, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, BATCH_FORGET = 18, 25, 26, 27, 28, 29, 34, 36, 42
UNANSWERED = (FORGET, INTERRUPT, BATCH_FORGET)
DIRECT_IO = 1

Schemata = dict[str, dict[str, str]]


class Refused(OSError):
    """What the kernel answers a system call with."""


class Group:
    """A class of service ("monitored" is none: one of its groups to monitor) with its tasks."""

    def __init__(self, schemata: Schemata | None) -> None:
        self.schemata = schemata
        self.tasks: list[int] = []


class Resctrl:
    """``groups``: path from the mount point ("" for the root) -> group; ``written``: (path of a file, text) of all writes."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self.groups = {"": Group({name: dict(values) for name, values in DEFAULT.items()})}
        self.written: list[tuple[str, str]] = []
        self.status = "ok"
        self._paths = {1: ""}
        self._numbers = {"": 1}
        self._fd = -1
        self._thread = threading.Thread(target=self._serve, daemon=True)

    # ---- what a test does ----------------------------------------------------------------------------------------------------

    def mount(self) -> None:
        self.point.mkdir(exist_ok=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"resctrl", os.fsencode(self.point), TYPE.encode(), 0, options):
            raise OSError(ctypes.get_errno(), "mount of a fuse filesystem")
        self._thread.start()

    def unmount(self) -> None:
        ctypes.CDLL(None).umount2(os.fsencode(self.point), 2)
        self._thread.join(10)
        os.close(self._fd)

    def make(self, name: str, schemata: str = "") -> None:
        """A class that somebody has configured before."""
        (self.point / name).mkdir()
        if schemata:
            (self.point / name / "schemata").write_text(schemata)
        self.written.clear()

    def tasks(self, path: str) -> list[int]:
        return self.groups[path].tasks

    def schemata(self, path: str) -> str:
        found = self.groups[path].schemata
        assert found is not None
        return " ".join(f"{name}:" + ";".join(f"{key}={value}" for key, value in ids.items()) for name, ids in found.items())

    # ---- the rules of resctrl ------------------------------------------------------------------------------------------------

    def _children(self, path: str) -> list[str] | None:
        """Names in a directory; None for what is none."""
        if path == "info":
            return ["last_cmd_status"]
        if path in self.groups:
            group = self.groups[path]
            prefix = path + "/" if path else ""
            files = ["tasks", *(["schemata", "mon_groups"] if group.schemata else []), *([] if path else ["info"])]
            return files + [name[len(prefix) :] for name in self.groups if name and _parent(name) == path]
        if path.endswith("mon_groups") and _parent(path) in self.groups and self.groups[_parent(path)].schemata:
            return [name[len(path) + 1 :] for name in self.groups if name and _parent(name) == path]
        return None

    def _content(self, path: str) -> str:
        group, _, name = path.rpartition("/")
        if path == "info/last_cmd_status":
            return self.status + "\n"
        if name == "tasks":
            return "".join(f"{pid}\n" for pid in self.groups[group].tasks)
        schemata = self.groups[group].schemata or {}
        lines = [f"{key:>6}:" + ";".join(f"{at}={value}" for at, value in ids.items()) for key, ids in schemata.items()]
        return "\n".join(lines) + "\n"

    def _make(self, path: str) -> None:
        if self._children(path) is not None:
            raise Refused(errno.EEXIST, "")
        parent = _parent(path)
        if parent.endswith("mon_groups"):
            self._room(sum(True for _ in self.groups), MONITORED * CLASSES if "/" in parent else MONITORED)
            self.groups[path] = Group(None)
        elif parent == "":
            self._room(sum(group.schemata is not None for group in self.groups.values()), CLASSES)
            self.groups[path] = Group({name: dict(values) for name, values in DEFAULT.items()})
        else:
            raise Refused(errno.EPERM, "")

    def _room(self, used: int, most: int) -> None:
        if used >= most:
            self.status = "Out of CLOSIDs" if most == CLASSES else "Out of RMIDs"
            raise Refused(errno.ENOSPC, "")
        self.status = "ok"

    def _remove(self, path: str) -> None:
        if path not in self.groups or not path:
            raise Refused(errno.EPERM, "")
        for name in [name for name in self.groups if name == path or name.startswith(path + "/")]:
            self.groups[""].tasks += self.groups.pop(name).tasks

    def _write(self, path: str, text: str) -> None:
        self.written.append((path, text))
        group, _, name = path.rpartition("/")
        self.status = "ok"
        if name == "tasks":
            self._enter(group, int(text))
        elif name == "schemata":
            self._set(group, text)
        else:
            raise Refused(errno.EPERM, "")

    def _enter(self, path: str, pid: int) -> None:
        if not os.path.exists(f"/proc/{pid}"):
            raise Refused(errno.ESRCH, "")
        group = self.groups[path]
        if group.schemata is None and pid not in self.groups[path.rpartition("mon_groups/")[0].rstrip("/")].tasks:
            self.status = "Can't move task to different control group"
            raise Refused(errno.EINVAL, "")
        for name, other in self.groups.items():
            if pid in other.tasks and (group.schemata is not None or other.schemata is None) and name != path:
                other.tasks.remove(pid)
        if pid not in group.tasks:
            group.tasks.append(pid)

    def _set(self, path: str, text: str) -> None:
        """All lines of one write, or none."""
        if not text.endswith("\n"):
            raise Refused(errno.EINVAL, "")
        schemata = self.groups[path].schemata or {}
        wanted: dict[tuple[str, str], str] = {}
        for line in text[:-1].split("\n"):
            name, _, values = line.strip().partition(":")
            for item in values.split(";"):
                at, _, value = item.strip().partition("=")
                if name not in schemata or at not in schemata[name]:
                    self._refuse(f"Unknown or unsupported resource name or domain '{name}:{at}'")
                if (name, at) in wanted:
                    self._refuse(f"Duplicate domain {at}")
                wanted[name, at] = self._value(name, value)
        for (name, at), value in wanted.items():
            schemata[name][at] = value

    def _value(self, name: str, value: str) -> str:
        if name == "MB":
            if not value.isdecimal() or not 10 <= int(value) <= 100:
                self._refuse(f"MB value {value} out of range [10,100]")
            return str(-(-int(value) // 10) * 10)
        try:
            mask = int(value, 16)
        except ValueError:
            mask = 0
        bits = f"{mask:b}".strip("0")
        if not mask or mask > WAYS or "0" in bits:
            self._refuse(f"The mask {value} has non-consecutive 1-bits or is out of range")
        return f"{mask:03x}"

    def _refuse(self, status: str) -> None:
        self.status = status
        raise Refused(errno.EINVAL, "")

    # ---- FUSE ----------------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 18)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # unmounted
            _, code, unique, node = struct.unpack_from("=LLQQ", request)
            if code in UNANSWERED:
                continue
            number, answer = 0, b""
            try:
                handler = self._HANDLERS.get(code)
                if handler is None:
                    raise Refused(errno.ENOSYS, "")
                answer = handler(self, self._paths.get(node, ""), request[40:])
            except Refused as error:
                number = error.errno or errno.EIO
            except (KeyError, ValueError):
                number = errno.EINVAL
            try:
                os.write(self._fd, struct.pack("=LlQ", 16 + len(answer), -number, unique) + answer)
            except OSError:
                continue  # who has asked has gone

    def _number(self, path: str) -> int:
        if path not in self._numbers:
            self._numbers[path] = len(self._numbers) + 1
            self._paths[self._numbers[path]] = path
        return self._numbers[path]

    def _attributes(self, path: str) -> bytes:
        children = self._children(path)
        if children is None and _name(path) not in (self._children(_parent(path)) or ()):
            raise Refused(errno.ENOENT, "")
        mode = stat.S_IFDIR | 0o755 if children is not None else stat.S_IFREG | 0o644
        size = 0 if children is not None else len(self._content(path))
        return struct.pack("=QQQQQQLLLLLLLLLL", self._number(path), size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, path: str) -> bytes:
        attributes = self._attributes(path)
        return struct.pack("=QQQQLL", self._number(path), 0, 0, 0, 0, 0) + attributes

    def _do_init(self, path: str, body: bytes) -> bytes:
        return struct.pack("=LLLLHHLLHHL28x", 7, 31, 0, 0, 8, 8, 1 << 16, 1, 0, 0, 0)

    def _do_lookup(self, path: str, body: bytes) -> bytes:
        return self._entry(_join(path, _text(body)))

    def _do_getattr(self, path: str, body: bytes) -> bytes:
        return struct.pack("=QLL", 0, 0, 0) + self._attributes(path)

    def _do_mkdir(self, path: str, body: bytes) -> bytes:
        made = _join(path, _text(body[8:]))
        self._make(made)
        return self._entry(made)

    def _do_rmdir(self, path: str, body: bytes) -> bytes:
        self._remove(_join(path, _text(body)))
        return b""

    def _do_open(self, path: str, body: bytes) -> bytes:
        return struct.pack("=QLL", 0, DIRECT_IO, 0)

    def _do_read(self, path: str, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQL", body)
        return self._content(path).encode()[offset : offset + size]

    def _do_write(self, path: str, body: bytes) -> bytes:
        _, _, size = struct.unpack_from("=QQL", body)
        self._write(path, body[40 : 40 + size].decode())
        return struct.pack("=LL", size, 0)

    def _do_readdir(self, path: str, body: bytes) -> bytes:
        _, offset, _ = struct.unpack_from("=QQL", body)
        found = b""
        for index, name in list(enumerate(self._children(path) or (), 1))[offset:]:
            data = name.encode()
            found += struct.pack("=QQLL", self._number(_join(path, name)), index, len(data), 0) + data + bytes(-len(data) % 8)
        return found

    def _do_nothing(self, path: str, body: bytes) -> bytes:
        return b""

    _HANDLERS: dict[int, Callable[[Resctrl, str, bytes], bytes]] = {
        INIT: _do_init, LOOKUP: _do_lookup, GETATTR: _do_getattr, SETATTR: _do_getattr, MKDIR: _do_mkdir, RMDIR: _do_rmdir,
        OPEN: _do_open, OPENDIR: _do_open, READ: _do_read, WRITE: _do_write, READDIR: _do_readdir, RELEASE: _do_nothing,
        RELEASEDIR: _do_nothing, FLUSH: _do_nothing, ACCESS: _do_nothing,
    }  # fmt: skip


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _text(body: bytes) -> str:
    return body.split(b"\0", 1)[0].decode()
