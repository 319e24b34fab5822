"""The cgroup hierarchies of this host as the runtime sees them: read once from /proc, made by hand in tests."""

from __future__ import annotations

import os

BESIDE_V2 = frozenset(("net_cls", "net_prio", "perf_event"))


class CgroupHost:
    """Where each hierarchy is mounted and where in it the runtime itself is.

    ``mode``: "v1", "hybrid" (v1, with cgroup v2 mounted beside it), "v2" or "none". ``mounts``: name -> directory, in the order
    of mountinfo; a name is a controller ("memory"), a named hierarchy ("name=systemd") or "" for cgroup v2. Co-mounted
    controllers (cpu and cpuacct, often) have the same directory. ``own``: name -> path of the runtime's own cgroup, from the
    root of the hierarchy; ``roots``: name -> the path in the hierarchy that is mounted ("/", but not in a container);
    ``denied``: the names where we may not make a cgroup below our own, or on v2 beside it (a runtime without privilege);
    ``unit_root``: the cgroup below which systemd has its units, None until it is needed.
    """

    __slots__ = ("denied", "mode", "mounts", "own", "roots", "unit_root")

    def __init__(
        self, mode: str, mounts: dict[str, str], own: dict[str, str] | None = None, roots: dict[str, str] | None = None
    ) -> None:
        self.mode, self.mounts = mode, mounts
        self.own = dict.fromkeys(mounts, "/") if own is None else own
        self.roots = roots or {}
        self.denied: frozenset[str] = frozenset()
        self.unit_root: str | None = None

    def directory(self, name: str, path: str) -> str:
        """The directory of a cgroup: an absolute path starts at the mount point, a relative one at our own cgroup."""
        if path.startswith("/"):
            return self.mounts[name].rstrip("/") + path
        return "/".join(part for part in (self.seen(name, self.own.get(name, "/")), path) if part)

    def beside(self) -> str:
        """The directory that the runtime's own cgroup v2 is in: below its own, which has processes, v2 gives no controllers."""
        own, mount = self.directory("", ""), self.mounts[""].rstrip("/")
        return mount if own == mount else os.path.dirname(own)

    def seen(self, name: str, own: str) -> str:
        """The directory of a cgroup that /proc/PID/cgroup names."""
        root = self.roots.get(name, "/").rstrip("/")
        # In a cgroup namespace or a container our own path may lie outside of what is mounted: then start at the mount.
        inside = own[len(root) :].strip("/") if (own + "/").startswith(root + "/") and not own.startswith("/..") else ""
        return "/".join(part for part in (self.mounts[name].rstrip("/"), inside) if part)


def read_cgroup_host() -> CgroupHost:
    """Two reads of /proc/self and a look at our own cgroups; mode "none" where they cannot be read."""
    host = parse_cgroup_host(_read("/proc/self/mountinfo"), _read("/proc/self/cgroup"))
    # On v2 a container's cgroup is made beside our own.
    homes = {name: host.directory(name, "") for name in host.mounts}
    homes |= {"": host.beside()} if host.mode == "v2" else {}
    host.denied = frozenset(name for name, home in homes.items() if not os.access(home, os.W_OK))
    return host


def cgroup_of(pid: int, name: str) -> str:
    """The directory of a process' cgroup as we see it; "" when it is gone."""
    host = read_cgroup_host()
    path = _parse_own(_read(f"/proc/{pid}/cgroup")).get(name)
    return host.seen(name, path) if path is not None and name in host.mounts else ""


def _parse_own(cgroups: bytes) -> dict[str, str]:
    own = {}
    for line in cgroups.decode(errors="surrogateescape").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    return own


def parse_cgroup_host(mountinfo: bytes, own_cgroups: bytes) -> CgroupHost:
    """From the texts of /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7))."""
    own = _parse_own(own_cgroups)
    mounts: dict[str, str] = {}
    roots: dict[str, str] = {}
    for raw in mountinfo.split(b"\n"):
        if b" - cgroup" not in raw:
            continue
        before, _, after = raw.decode(errors="surrogateescape").partition(" - ")
        fields = before.split(" ")
        kind, _, options = after.split(" ", 2)
        root, mount = _unescape(fields[3]), _unescape(fields[4])
        for name in [""] if kind == "cgroup2" else options.split(","):
            # The superblock's options name the controllers, among others: what /proc/self/cgroup does not know is another.
            if name in own and (name not in mounts or (root == "/" != roots[name])):
                mounts[name], roots[name] = mount, root
    controllers = {name for name in mounts if name and not name.startswith("name=")}
    if "" in mounts and controllers <= BESIDE_V2:
        # A machine of v2, where somebody has mounted what v2 has not (a VPN: net_cls): no container can be held by that.
        mounts = {name: mount for name, mount in mounts.items() if name not in controllers}
    return CgroupHost(_mode(mounts), mounts, own, roots)


def _mode(mounts: dict[str, str]) -> str:
    controllers = any(name and not name.startswith("name=") for name in mounts)
    if "" in mounts:
        return "hybrid" if controllers else "v2"
    return "v1" if controllers else "none"


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits."""
    if "\\" not in text:
        return text
    parts = text.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)
