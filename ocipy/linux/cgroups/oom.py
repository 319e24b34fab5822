"""Says when the kernel finds no memory for a container below its limit."""

from __future__ import annotations

import errno
import os

from ocipy.errors import CgroupError

POLLIN, POLLPRI = 1, 2


class OomWatch:
    """``fd`` and ``mask`` are for poll; after that, ``happened`` tells whether it was for an OOM.

    v1: an eventfd that memory.oom_control of the cgroup was given; the kernel writes to it also when the cgroup goes.
    v2: memory.events, which counts what was killed and tells of each change.
    """

    __slots__ = ("count", "fd", "mask", "path")

    def __init__(self, paths: dict[str, str]) -> None:
        """Raises CgroupError; ``fd`` is -1 where there is no memory controller."""
        self.fd, self.mask, self.count = -1, POLLIN, 0
        self.path = paths.get("memory", "")
        try:
            if self.path:
                self._watch_v1()
            elif list(paths) == [""]:
                self._watch_v2(paths[""])
        except OSError as error:
            raise CgroupError(error.errno or 0, f"watch the memory of the cgroup {self.path or paths['']}") from None

    def happened(self) -> bool:
        """Reads what made ``fd`` ready."""
        if not self.path:
            before, self.count = self.count, self._kills()
            return self.count > before
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return False
        return os.path.exists(self.path)

    def _watch_v1(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(self.path + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            registry = os.open(self.path + "/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(registry, b"%d %d" % (self.fd, control))
            finally:
                os.close(registry)
        finally:
            os.close(control)

    def _watch_v2(self, path: str) -> None:
        try:
            self.fd, self.mask = os.open(path + "/memory.events", os.O_RDONLY | os.O_CLOEXEC), POLLPRI
        except FileNotFoundError:
            return
        self.count = self._kills()

    def _kills(self) -> int:
        try:
            lines = os.pread(self.fd, 4096, 0).decode().splitlines()
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0  # it is gone
            raise
        return int(next((line.split()[1] for line in lines if line.startswith("oom_kill ")), 0))
