"""linux.sysctl: only what a namespace of the container owns (config-linux.md, Sysctl; namespaces(7))."""

from __future__ import annotations

from ocipy.config.paths import printable
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config

IPC = frozenset(("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"))
VALUE_MAX = 4095  # one write of less than a page


def sysctl_path(name: str) -> str:
    """The file below /proc/sys. As sysctl(8) has it, dots separate, or slashes where a slash comes first; the other letter is
    then part of a name ("net.ipv4.conf.eth0/100.forwarding" is of eth0.100)."""
    slash, dot = name.find("/"), name.find(".")
    if slash < 0 or (0 <= dot < slash):
        return "".join({".": "/", "/": "."}.get(letter, letter) for letter in name)
    return name


def check(config: Config) -> None:
    """Raises ConfigError for parameters that are the host's."""
    linux = config.get("linux", {})
    kinds = {item["type"] for item in linux.get("namespaces") or ()}
    for name, value in (linux.get("sysctl") or {}).items():
        pointer = "/linux/sysctl/" + name.replace("~", "~0").replace("/", "~1")
        parts = sysctl_path(name).split("/")
        if len(parts) < 2 or len(name) > 255 or any(part in ("", ".", "..") for part in parts):
            raise ConfigError(pointer, f'"{printable(name)}" is not the name of a kernel parameter')
        if len(value) > VALUE_MAX:
            raise ConfigError(pointer, f"a value of more than {VALUE_MAX} characters")
        needed = _namespace(parts)
        if not needed:
            raise ConfigError(pointer, f"{name}: no namespace has its own; {_advice(parts)}")
        if needed not in kinds:
            raise ConfigError(pointer, f"{name} needs a {needed} namespace, or it would be the host's that changes")


def namespace_of(name: str) -> str:
    """The type of namespace that a parameter belongs to."""
    return _namespace(sysctl_path(name).split("/"))


def _namespace(parts: list[str]) -> str:
    """The type of namespace that owns the parameter; "" for the host's, and for those that have a property of their own."""
    if parts[0] == "net":
        return "network"
    if parts[0] == "user":
        return "user"
    if (parts[:2] == ["fs", "mqueue"] and len(parts) == 3) or (parts[0] == "kernel" and len(parts) == 2 and parts[1] in IPC):
        return "ipc"
    return "uts" if parts == ["kernel", "domainname"] else ""


def _advice(parts: list[str]) -> str:
    return "set the hostname property" if parts == ["kernel", "hostname"] else "set it on the host"
