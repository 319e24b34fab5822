"""The facts of this host that a plan depends on, gathered once. Made by hand in tests, so that plans need no root."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.linux.cgroups.host import CgroupHost

OLDEST_KERNEL = (5, 12)  # mount_setattr; docs/kernel-features.md has the rest


class Host:
    """``uid``: effective; ``whole_user_namespace``: we are in the host's own, where device nodes can be made; ``setgroups``: our
    user namespace has not given it up; ``apparmor``: the AppArmor LSM is on, ``selinux`` likewise; ``cgroup``: hierarchies;
    ``resctrl``: where that filesystem is mounted, "" for nowhere, None until it is looked for."""

    __slots__ = ("apparmor", "cgroup", "resctrl", "selinux", "setgroups", "uid", "whole_user_namespace")

    def __init__(
        self, uid: int, cgroup: CgroupHost, *, whole_user_namespace: bool = True, setgroups: bool = True, apparmor: bool = False,
        selinux: bool = False, resctrl: str | None = None,
    ) -> None:  # fmt: skip
        self.uid, self.cgroup, self.whole_user_namespace, self.setgroups = uid, cgroup, whole_user_namespace, setgroups
        self.apparmor, self.selinux, self.resctrl = apparmor, selinux, resctrl

    def resctrl_mount(self) -> str:
        """Looked for when a container asks for it: few do."""
        if self.resctrl is None:
            from ocipy.linux.intel_rdt import read_mount

            self.resctrl = read_mount()
        return self.resctrl


def read_host() -> Host:
    """Reads /proc/self and /sys; raises nothing for what a restricted caller may not see."""
    from ocipy.linux.cgroups.host import read_cgroup_host

    whole = _read("/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    return Host(
        os.geteuid(),
        read_cgroup_host(),
        whole_user_namespace=whole,
        setgroups=whole or not _read("/proc/self/setgroups").startswith("deny"),
        apparmor=_read("/sys/module/apparmor/parameters/enabled").startswith("Y"),
        selinux=os.path.exists("/sys/fs/selinux/enforce"),
    )


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 4096).decode()
    finally:
        os.close(fd)


def check_kernel() -> None:
    """Called when a system call of ours is unknown to the kernel: says which kernel it takes."""
    from ocipy.errors import OcipyError

    release = os.uname().release
    numbers = release.split("-", 1)[0].split(".")
    if (int(numbers[0]), int(numbers[1])) < OLDEST_KERNEL:
        oldest = ".".join(map(str, OLDEST_KERNEL))
        raise OcipyError(f"this kernel ({release}) is too old: ocipy needs Linux {oldest} or newer")
