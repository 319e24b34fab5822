"""As much of rtnetlink(7) as it takes to move a network device: requests to the kernel, and its answers."""

from __future__ import annotations

from _socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, socket
from _struct import Struct

NETLINK_ROUTE = 0
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x300, 0x200, 0x400
NLM_F_DUMP_INTR, NLM_F_ACK_TLVS = 0x10, 0x200
NLMSGERR_ATTR_MSG = 1
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22

IFLA_IFNAME, IFLA_NET_NS_FD, IFLA_NEW_IFINDEX = 3, 28, 49
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_ANYCAST, IFA_CACHEINFO = 1, 2, 3, 4, 5, 6
IFA_FLAGS, IFA_RT_PRIORITY, IFA_PROTO = 8, 9, 11
IFF_UP = 1

_HEADER = Struct("=LHHLL")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = Struct("=BxHiLL")  # struct ifinfomsg: family, hardware type, index, flags, which of them to change
_ADDRESS = Struct("=BBBBL")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE = Struct("=HH")  # struct nlattr: length, type
_NUMBER = Struct("=L")
_ERROR = Struct("=i")
_TRIES = 10


class RefusedError(OSError):
    """The kernel's answer is an error; ``reason`` is what it says about it, "" where it says nothing."""

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(errno, reason)
        self.reason = reason


class Link:
    """A network device: its name, its index, and whether it is up."""

    __slots__ = ("index", "is_up", "name")

    def __init__(self, name: str, index: int, *, is_up: bool) -> None:
        self.name, self.index, self.is_up = name, index, is_up


class Address:
    """An address of a device: struct ifaddrmsg without the index, and the attributes as the kernel gave them."""

    __slots__ = ("attributes", "family", "flags", "prefix", "scope")

    def __init__(self, family: int, prefix: int, flags: int, scope: int, attributes: dict[int, bytes]) -> None:
        self.family, self.prefix, self.scope, self.attributes = family, prefix, scope, attributes
        wide = attributes.get(IFA_FLAGS)
        self.flags: int = _NUMBER.unpack(wide)[0] if wide else flags


class Netlink:
    """An rtnetlink socket; it works in the network namespace in which it was made, by the rights of who uses it and who made it."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, fd: int | None = None) -> None:
        """``fd``: such a socket, which is taken over; None: a new one, in our own network namespace. Raises OSError."""
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE, fd)
        self._sequence = 0
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

    def close(self) -> None:
        self._socket.close()

    def link(self, name: str) -> Link:
        """The device of this name. Raises RefusedError, with ENODEV when there is none."""
        return _parse_link(self._ask(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _attribute(IFLA_IFNAME, name))[0])

    def link_at(self, index: int) -> Link:
        """The device with this index. Raises RefusedError, with ENODEV when there is none."""
        return _parse_link(self._ask(RTM_GETLINK, 0, _LINK.pack(0, 0, index, 0, 0))[0])

    def indexes(self) -> set[int]:
        """The indexes of all devices."""
        return {_parse_link(body).index for body in self._ask(RTM_GETLINK, NLM_F_DUMP, _LINK.pack(0, 0, 0, 0, 0))}

    def move(self, index: int, namespace: int, name: str, new_index: int) -> None:
        """Move a device into an open network namespace. Raises RefusedError; then it may be there under its old name."""
        attributes = _attribute(IFLA_NET_NS_FD, namespace) + _attribute(IFLA_IFNAME, name)
        attributes += _attribute(IFLA_NEW_IFINDEX, new_index)
        self._ask(RTM_NEWLINK, NLM_F_ACK, _LINK.pack(0, 0, index, 0, 0) + attributes)

    def set_up(self, index: int) -> None:
        """Raises RefusedError."""
        self._ask(RTM_NEWLINK, NLM_F_ACK, _LINK.pack(0, 0, index, IFF_UP, IFF_UP))

    def addresses(self, index: int) -> list[Address]:
        """All addresses of a device, in the order in which they were given to it."""
        found = []
        for body in self._ask(RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, flags, scope, owner = _ADDRESS.unpack_from(body)
            if owner == index:
                found.append(Address(family, prefix, flags, scope, _parse_attributes(body[_ADDRESS.size :])))
        return found

    def add_address(self, index: int, address: Address, attributes: dict[int, bytes | int]) -> None:
        """``attributes`` in place of the address's own. Raises RefusedError."""
        body = _ADDRESS.pack(address.family, address.prefix, 0, address.scope, index)
        body += b"".join([_attribute(kind, value) for kind, value in attributes.items()])
        self._ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """The bodies of all answers. A dump that was disturbed is begun again."""
        for _ in range(_TRIES):
            self._sequence += 1
            header = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0)
            self._socket.sendto(header + body, (0, 0))
            answers, whole = self._answers(dump=flags & NLM_F_DUMP == NLM_F_DUMP, acknowledged=bool(flags & NLM_F_ACK))
            if whole:
                break
        return answers

    def _answers(self, *, dump: bool, acknowledged: bool) -> tuple[list[bytes], bool]:
        answers: list[bytes] = []
        whole = True
        while True:
            for kind, flags, body in self._receive():
                whole = whole and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_ERROR and (number := -_ERROR.unpack_from(body)[0]):
                    raise RefusedError(number, _reason(flags, body))
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return answers, whole
                answers.append(body)
                if not dump and not acknowledged:
                    return answers, whole

    def _receive(self) -> list[tuple[int, int, bytes]]:
        """The messages of one datagram that answer our request: (type, flags, body)."""
        data, (port, _) = self._socket.recvfrom(1 << 16)
        found, at = [], 0
        while port == 0 and at + _HEADER.size <= len(data):  # from the kernel, not from a process of the namespace
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if size < _HEADER.size:
                break
            if sequence == self._sequence:
                found.append((kind, flags, data[at + _HEADER.size : at + size]))
            at += size + 3 & ~3
        return found


def _attribute(kind: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        value = _NUMBER.pack(value)
    elif isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape") + b"\0"
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _parse_attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3
    return found


def _parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    name = _parse_attributes(body[_LINK.size :]).get(IFLA_IFNAME, b"").rstrip(b"\0")
    return Link(name.decode("utf-8", "surrogateescape"), index, is_up=bool(flags & IFF_UP))


def _reason(flags: int, body: bytes) -> str:
    """The kernel's own words about an error, behind the errno and the header of what we sent."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    text = _parse_attributes(body[_ERROR.size + _HEADER.size :]).get(NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode("utf-8", "replace")
