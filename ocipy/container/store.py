"""The state directory: ``<root>/<id>/`` with the record, the frozen config, a lock for commands, init's lock and the start socket.

    state        the record (record.py), replaced by rename
    state.copy   the same text again, for delete --force when the record is damaged
    config.json  the bytes of config.json as create read them
    lock         flock of the command at work, whose pid, start time and kind (create or other) are its text
    init.lock    OFD write lock of init, freed by execve: held means created, free means running
    start        the socket on which init waits for start
    notify/      notify.sock, what the container writes to that is passed on to the caller's NOTIFY_SOCKET

The directory is what makes a container exist, and it goes last.
"""

from __future__ import annotations

import errno
import os
import time

from ocipy.container.record import CREATED, CREATING, Record, now, parse_record, parse_remains
from ocipy.errors import NotFoundError, StateError, strerror

__all__ = ["CREATED", "CREATING", "Entry", "Record", "Store", "boot_id", "check_id", "default_root", "now", "start_time"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-"
GOING = 20  # milliseconds at most between the end of the record and that of its directory
_LIMIT = 1 << 22  # bytes of a record: more than any config we accept could make


def default_root() -> str:
    """/run/ocipy for root, $XDG_RUNTIME_DIR/ocipy for others. Raises StateError without one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 and not (runtime and _in_user_namespace()):
        return "/run/ocipy"
    if not runtime:
        raise StateError("no place for the state of containers: set XDG_RUNTIME_DIR or give --root")
    return runtime + "/ocipy"


def filters_directory() -> str:
    """Where compiled seccomp filters are kept, whatever --root is; "" where there is no place."""
    try:
        return default_root() + ".filters"
    except StateError:
        return ""


def _in_user_namespace() -> bool:
    """Root of a user namespace that is not the host's: /run is not ours, even if it looks so."""
    try:
        return _read("/proc/self/uid_map").split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def check_id(container_id: str) -> None:
    """Raises StateError unless it is letters, digits, ``_ + . -``, neither "." nor "..", at most 255."""
    if not container_id:
        raise StateError("container id cannot be empty")
    if container_id.strip(_LETTERS) or container_id in (".", "..") or len(container_id) > 255:
        shown = container_id if len(container_id) <= 64 else container_id[:64] + "..."
        raise StateError(f'invalid container ID format: "{shown}" (letters, digits and _ + . - only, 255 at most)')


def boot_id() -> str:
    """Of this boot of the kernel: a start time means nothing without it."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def start_time(pid: int) -> int:
    """Field 22 of /proc/pid/stat, 0 when there is no such process or only its zombie is left.

    Raises OSError when that is not to be seen, for want of file descriptors or of /proc: nobody may take it for dead.
    """
    try:
        stat = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat[stat.rindex(")") + 2 :].split(" ", 20)  # from field 3: state; 17: num_threads; 19: starttime
    if fields[0] in "ZX" and fields[17] in "01":  # a leader that exited before its threads is a zombie too
        return 0
    return int(fields[19])


def _read(path: str, dirfd: int | None = None) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dirfd)
    try:
        size = os.fstat(fd).st_size if dirfd is not None else 4096
        return os.read(fd, min(size, _LIMIT)).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


class Store:
    """The directory of all containers of one ``root``, an absolute path made on demand with mode 0700."""

    __slots__ = ("root",)

    def __init__(self, root: str = "") -> None:
        self.root = os.path.abspath(root) if root else default_root()

    def create(self, container_id: str) -> Entry:
        """A new entry, locked by us. Raises StateError when the id is taken or no id at all."""
        check_id(container_id)
        path = f"{self.root}/{container_id}"
        try:
            _make(path, self.root)
            entry = Entry(container_id, path)
        except FileExistsError:
            raise StateError(f'container with given ID already exists: "{container_id}"') from None
        except NotFoundError:
            raise StateError(f'container "{container_id}" was deleted while it was created') from None
        except OSError as error:
            raise StateError(f"cannot make the state directory {path} (--root): {strerror(error.errno or 0)}") from None
        try:
            entry.lock(wait=False, creating=True)
        except OSError as error:
            entry.remove()
            raise StateError(f"cannot lock {path}: {strerror(error.errno or 0)}") from None
        return entry

    def open(self, container_id: str) -> Entry:
        """The entry of an id. Raises NotFoundError, StateError for what cannot be an id."""
        check_id(container_id)
        return Entry(container_id, f"{self.root}/{container_id}")

    def ids(self) -> list[str]:
        """All ids, sorted; an absent root holds none."""
        try:
            with os.scandir(self.root) as entries:
                names = [item.name for item in entries if item.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.strip(_LETTERS))


def _make(path: str, root: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        os.makedirs(root, 0o700, exist_ok=True)
        os.mkdir(path, 0o700)


class Entry:
    """One container's directory. ``dirfd`` is CLOEXEC and open until ``close``; every file in it is reached through it."""

    __slots__ = ("dirfd", "id", "lockfd", "path")

    def __init__(self, container_id: str, path: str) -> None:
        self.id, self.path, self.lockfd = container_id, path, -1
        try:
            self.dirfd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise NotFoundError(container_id) from None
            raise StateError(f"cannot open {path}: {strerror(error.errno or 0)}") from None

    def lock(self, *, wait: bool, creating: bool = False) -> None:
        """Take the lock of commands for the rest of the process's life, or until ``unlock``.

        Raises StateError when another command has it and ``wait`` is False; NotFoundError when the container is gone by then.
        """
        from ocipy.linux import sys

        try:
            fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self.dirfd)
        except FileNotFoundError:
            raise NotFoundError(self.id) from None
        try:
            sys.flock(fd, wait=wait)
        except BlockingIOError:
            os.close(fd)
            if os.fstat(self.dirfd).st_nlink == 0:
                raise NotFoundError(self.id) from None
            pid, _, _ = self.holder()
            by = f" (pid {pid})" if pid else ""
            raise StateError(f'container "{self.id}" is in use by another command{by}') from None
        if os.fstat(fd).st_nlink == 0:
            os.close(fd)
            raise NotFoundError(self.id)
        pid = os.getpid()
        os.pwrite(fd, b"%d %d %s\n" % (pid, start_time(pid), b"create" if creating else b"other"), 0)
        self.lockfd = fd

    def holder(self) -> tuple[int, int, bool]:
        """(pid, start time, does it create?) of who took the lock last: it may be gone; (0, 0, False) when nothing tells."""
        try:
            words = _read("lock", self.dirfd).split("\n")[0].split()
            return int(words[0]), int(words[1]), words[2] == "create"
        except (OSError, ValueError, IndexError):
            return 0, 0, False

    def write(self, record: Record) -> None:
        """Replace the record in one step. Without fsync: what a power cut leaves is a container that is gone anyway."""
        data = record.text().encode("ascii")
        self._write("state.copy", data)
        self._write("state.new", data)
        os.rename("state.new", "state", src_dir_fd=self.dirfd, dst_dir_fd=self.dirfd)

    def read(self) -> Record:
        """The record. Raises StateError when it is damaged or was never written, NotFoundError when the entry is gone."""
        try:
            return parse_record(_read("state", self.dirfd), self.id)
        except FileNotFoundError:
            for _ in range(GOING):
                if os.fstat(self.dirfd).st_nlink == 0:
                    raise NotFoundError(self.id) from None
                time.sleep(0.001)
            raise self._corrupt("nothing was written yet") from None
        except OSError as error:
            raise self._corrupt(strerror(error.errno or 0)) from None
        except StateError as error:
            raise self._corrupt(str(error)) from None

    def remains(self) -> Record:
        """What can be trusted of a damaged record, for ``delete --force``. Never raises."""
        for name, parse in (("state", parse_record), ("state.copy", parse_record), ("state", parse_remains)):
            try:
                return parse(_read(name, self.dirfd), self.id)
            except (OSError, StateError):
                continue
        return Record(self.id)

    def _corrupt(self, reason: str) -> StateError:
        return StateError(f'state of container "{self.id}" is corrupt: {reason}; use delete --force')

    def write_config(self, raw: bytes) -> None:
        """Freeze the bytes of config.json."""
        self._write("config.json", raw)

    def read_config(self) -> bytes:
        """The frozen bytes of config.json. Raises StateError."""
        try:
            fd = os.open("config.json", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.dirfd)
        except OSError as error:
            raise self._corrupt(f"config.json: {strerror(error.errno or 0)}") from None
        with open(fd, "rb", buffering=0) as file:
            return file.read()

    def _write(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self.dirfd)
            try:
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
        except OSError as error:
            raise StateError(f"cannot write {self.path}/{name}: {strerror(error.errno or 0)}") from None

    def remove(self) -> None:
        """Remove the directory and everything in it: the record late, the lock last, so that nobody works on what is half gone."""
        while True:
            last = ("state.copy", "state", "lock")
            for name in [name for name in os.listdir(self.dirfd) if name not in last] + list(last):
                self._unlink(name)
            try:
                return os.rmdir(self.path)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise StateError(f"cannot remove {self.path}: {strerror(error.errno or 0)}") from None
                # somebody else's lock, made in between; who has it will see that it is gone

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.dirfd)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            self._remove_directory(name)
        except OSError as error:
            raise StateError(f"cannot remove {self.path}/{name}: {strerror(error.errno or 0)}") from None

    def _remove_directory(self, name: str) -> None:
        """Of sockets and files only (notify)."""
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.dirfd)
        try:
            for inner in os.listdir(fd):
                os.unlink(inner, dir_fd=fd)
            os.rmdir(name, dir_fd=self.dirfd)
        finally:
            os.close(fd)

    def unlock(self) -> None:
        """Let other commands at it again."""
        if self.lockfd >= 0:
            os.close(self.lockfd)
            self.lockfd = -1

    def close(self) -> None:
        """Release the lock and the directory."""
        self.unlock()
        os.close(self.dirfd)
