"""linux.netDevices: devices of the runtime's network namespace go into the container's (config-linux.md, Network Devices).

The runtime moves them while init waits in its namespaces, through two sockets: one of its own namespace, and one that
belongs to the container's. A create that fails gives them back. Once there is a container they are its namespace's: the kernel
returns physical devices when the namespace ends, and virtual ones end with it.
"""

from __future__ import annotations

import errno
import os

from ocipy import warning
from ocipy.errors import NamespaceError
from ocipy.linux import sys
from ocipy.linux.rtnetlink import (
    IFA_ADDRESS, IFA_ANYCAST, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS, IFA_LABEL, IFA_LOCAL, IFA_PROTO, IFA_RT_PRIORITY, Netlink,
    RefusedError,
)  # fmt: skip
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config
    from ocipy.linux.rtnetlink import Address, Link

AF_INET6 = 10
RT_SCOPE_UNIVERSE = 0
IFA_F_PERMANENT = 0x80
# What somebody asked for, not what the kernel found out (tentative, secondary, deprecated): NODAD, HOMEADDRESS, MANAGETEMPADDR,
# NOPREFIXROUTE, MCAUTOJOIN.
FLAGS_KEPT = 0x02 | 0x10 | 0x100 | 0x200 | 0x400
KEPT = (IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_ANYCAST, IFA_CACHEINFO, IFA_RT_PRIORITY, IFA_PROTO)
NAME_MAX = 15
TRIES = 10


def plan(config: Config) -> list[Step]:
    """One step for each device, in the order of the config."""
    devices = config.get("linux", {}).get("netDevices") or {}
    return [
        Step(ops.MOVE_NET_DEVICE, _pointer(name), name=name, new=device.get("name") or name) for name, device in devices.items()
    ]


def _pointer(name: str) -> str:
    return "/linux/netDevices/" + name.replace("~", "~0").replace("/", "~1")


class Moved:
    """A device that is in the container's network namespace, or on its way: what it was, and the way back.

    ``link``: as it was here; ``index``: there; ``here``, ``there``: sockets; ``home``: our own network namespace.
    """

    __slots__ = ("addresses", "here", "home", "index", "link", "there")

    def __init__(self, link: Link, addresses: list[Address], here: Netlink, there: Netlink) -> None:
        self.link, self.addresses, self.here, self.there = link, addresses, here, there
        self.index = link.index
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """It stays where it is. An open socket would keep the container's namespace alive."""
        self.here.close()
        self.there.close()
        os.close(self.home)

    def give_back(self) -> None:
        """Back to our namespace with name, index, addresses and state as they were; a warning where that fails."""
        name = self.link.name
        try:
            self.there.move(self.index, self.home, name, self.link.index)
            _add_addresses(self.here, self.link.index, self.addresses, name, name)
            if self.link.is_up:
                self.here.set_up(self.link.index)
        except RefusedError as error:
            reason = error.reason or os.strerror(error.errno or 0).lower()
            warning.warn(f"network device {name} could not be given back by the container that was not created: {reason}")
        self.close()


def apply_move(step: Step, pid: int) -> Moved:
    """Moves a device into the network namespace of ``pid``, gives it its name and its addresses, and sets it up.

    Raises NamespaceError; then it is where it was.
    """
    name, new = step.get("name"), step.get("new")
    try:
        moved = _begin(name, pid)
    except OSError as error:
        raise _failure(step, error, "find") from None
    call = "move"
    try:
        _check_free(moved.there, new)
        _move(moved, new, pid)
        call = "give addresses to"
        actual = moved.there.link_at(moved.index).name if "%" in new else new
        _add_addresses(moved.there, moved.index, moved.addresses, moved.link.name, actual)
        call = "set up"
        moved.there.set_up(moved.index)
    except OSError as error:
        if _is_gone(moved):
            moved.give_back()
        else:
            moved.close()
        raise _failure(step, error, call) from None
    return moved


def _begin(name: str, pid: int) -> Moved:
    here = Netlink()
    link = here.link(name)
    addresses = [address for address in here.addresses(link.index) if _is_kept(address)]
    namespace = _open_namespace(pid)
    try:
        there = Netlink(sys.netlink_socket(namespace))
    finally:
        os.close(namespace)
    return Moved(link, addresses, here, there)


def _open_namespace(pid: int) -> int:
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _is_kept(address: Address) -> bool:
    """Addresses that are for the outside and for ever; the kernel makes those of the link itself, and a router the others."""
    return address.scope == RT_SCOPE_UNIVERSE and bool(address.flags & IFA_F_PERMANENT)


def _check_free(there: Netlink, name: str) -> None:
    """The kernel moves first and renames then: it would find out too late."""
    if "%" in name:
        return
    try:
        there.link(name)
    except RefusedError as error:
        if error.errno == errno.ENODEV:
            return
        raise
    raise RefusedError(errno.EEXIST, "")


def _move(moved: Moved, new: str, pid: int) -> None:
    """Its index there is its own unless that is taken."""
    for attempt in range(TRIES):
        taken = moved.there.indexes()
        if moved.index in taken:
            moved.index = max(taken) + 1
        try:
            _move_to(moved, new, pid)
        except RefusedError as error:
            if error.errno == errno.EBUSY and attempt < TRIES - 1:
                continue  # somebody else has made a device in a namespace that is joined
            raise
        return


def _move_to(moved: Moved, new: str, pid: int) -> None:
    namespace = _open_namespace(pid)
    try:
        moved.here.move(moved.link.index, namespace, new, moved.index)
    finally:
        os.close(namespace)


def _is_gone(moved: Moved) -> bool:
    try:
        return moved.here.link_at(moved.link.index).name != moved.link.name
    except RefusedError:
        return True


def _add_addresses(netlink: Netlink, index: int, addresses: list[Address], old: str, new: str) -> None:
    # The kernel tells the newest IPv6 address first, and the oldest IPv4 one: the first is the one to send from.
    for address in [item for item in addresses if item.family != AF_INET6] + [
        item for item in reversed(addresses) if item.family == AF_INET6
    ]:
        attributes: dict[int, bytes | int] = {kind: address.attributes[kind] for kind in KEPT if kind in address.attributes}
        attributes[IFA_FLAGS] = address.flags & FLAGS_KEPT
        label = _label(address.attributes.get(IFA_LABEL, b"").rstrip(b"\0"), old.encode(), new.encode())
        if label:
            attributes[IFA_LABEL] = label + b"\0"
        netlink.add_address(index, address, attributes)


def _label(label: bytes, old: bytes, new: bytes) -> bytes:
    """The label of an IPv4 address (eth0:1) begins with the device's name; without one the kernel takes the name."""
    if not label.startswith(old + b":"):
        return b""
    changed = new + label[len(old) :]
    return changed if len(changed) <= NAME_MAX else b""


_ADVICE = {
    ("find", errno.ENODEV): "the runtime's network namespace has no such device (ip link)",
    ("move", errno.EEXIST): "the container's network namespace has a device of that name: choose another `name`, or one with %d",
    ("move", errno.EINVAL): "this kind of device cannot change its network namespace",
    ("give addresses to", errno.EACCES): "IPv6 is disabled for it in the container's network namespace",
}


def _failure(step: Step, error: OSError, call: str) -> NamespaceError:
    name, new, number = step.get("name"), step.get("new"), error.errno or 0
    what = f"{call} the network device {name}" + (f" as {new}" if new != name else "")
    detail = _ADVICE.get((call, number), "")
    if number in (errno.EPERM, errno.EACCES) and not detail:
        detail = "that takes CAP_NET_ADMIN in both network namespaces"
    said = error.reason if isinstance(error, RefusedError) else ""
    made = getattr(error, "call", "netlink" if isinstance(error, RefusedError) else "open")
    return NamespaceError(number, what, made, step.origin, "; ".join(filter(None, (said, detail))))
