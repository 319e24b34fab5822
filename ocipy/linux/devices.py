"""Device nodes and links of /dev (config-linux.md, Devices, Default Devices; runtime-linux.md, Dev symbolic links)."""

from __future__ import annotations

from posixpath import normpath

from ocipy.config.mounts import destination, is_bind, parse_options
from ocipy.errors import MountError
from ocipy.linux import sys
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Device
    from ocipy.linux.host import Host
    from ocipy.linux.namespaces import Namespaces

S_IFMT = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}
DEFAULT_MODE = 0o666

DEFAULT_DEVICES: tuple[Device, ...] = (
    {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
    {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5},
    {"path": "/dev/full", "type": "c", "major": 1, "minor": 7},
    {"path": "/dev/random", "type": "c", "major": 1, "minor": 8},
    {"path": "/dev/urandom", "type": "c", "major": 1, "minor": 9},
    {"path": "/dev/tty", "type": "c", "major": 5, "minor": 0},
)
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)


def binds_dev(config: Config) -> bool:
    """Is /dev the host's or another's, bound in? Then nothing is made there."""
    return any(destination(mount) == "/dev" and is_bind(mount, parse_options(mount.get("options") or ()))
               for mount in config.get("mounts") or ())  # fmt: skip


def wanted_devices(config: Config) -> list[tuple[str, Device]]:
    """(JSON pointer, device): the config's, then the defaults that the config does not have itself."""
    own = [(f"/linux/devices/{index}", device) for index, device in enumerate(config.get("linux", {}).get("devices") or ())]
    if binds_dev(config):
        return [(origin, device) for origin, device in own if not normpath(device["path"]).startswith("/dev/")]
    paths = {device["path"] for _, device in own}
    return own + [("", device) for device in DEFAULT_DEVICES if device["path"] not in paths]


def can_make_nodes(found: Namespaces, host: Host) -> bool:
    """mknod works only in the host's user namespace; elsewhere the host's nodes are bound."""
    return host.uid == 0 and host.whole_user_namespace and not found.has("user")


def plan_open(config: Config, found: Namespaces, host: Host) -> list[Step]:
    """For a user namespace: the runtime opens the host's nodes, checking that they are what the config says."""
    if can_make_nodes(found, host) or host.uid != 0:
        return []
    return [
        Step(ops.OPEN_DEVICE, origin, slot=f"device:{device['path']}", path=device["path"], type=device["type"],
             major=device.get("major", 0), minor=device.get("minor", 0))
        for origin, device in wanted_devices(config) if device["type"] != "p"
    ]  # fmt: skip


def plan_make(config: Config, found: Namespaces, host: Host) -> list[Step]:
    """The nodes, the links of /dev, and ptmx as a link to the container's own."""
    steps: list[Step] = []
    for origin, device in wanted_devices(config):
        path = device["path"]
        mode = device.get("fileMode")
        mode = DEFAULT_MODE if mode is None else mode & 0o7777
        if device["type"] == "p" or can_make_nodes(found, host):
            rdev = device.get("major", 0) << 32 | device.get("minor", 0)
            steps.append(Step(ops.DEVICE, origin, path=path, mode=S_IFMT[device["type"]] | mode, rdev=rdev,
                              uid=device.get("uid", 0), gid=device.get("gid", 0)))
        elif host.uid != 0:
            steps.append(Step(ops.BIND, origin, dest=path, source=path, recursive=0))
        else:
            steps.append(Step(ops.ATTACH, origin, dest=path, tree=f"device:{path}"))
    if binds_dev(config):
        return steps
    steps += [Step(ops.SYMLINK, target=target, path=path) for target, path in LINKS]
    steps.append(Step(ops.SYMLINK, target="pts/ptmx", path="/dev/ptmx", replace=1))
    return steps


def apply_open(step: Step) -> int:
    """A detached clone of the host's node; refused when the node is not the device that the config names."""
    path = step.get("path")
    try:
        return sys.open_device_tree(path, step.get("type"), step.get("major"), step.get("minor"))
    except OSError as error:
        call = getattr(error, "call", "open_tree")
        detail = "in a user namespace devices are bound from the host, which must have the same node"
        raise MountError(error.errno or 0, f"open the device {path}", call, step.origin, detail) from None
