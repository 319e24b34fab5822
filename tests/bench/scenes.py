"""The containers that are measured: what each scene changes in the config that ``spec`` gives."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bundles import Config, set_namespace

PROFILE = Path("/usr/share/containers/seccomp.json")
# What Docker leaves to a container's root.
CAPABILITIES = [f"CAP_{name}" for name in (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)]  # fmt: skip
VOLUMES = 60  # mounts, masked and read-only paths together
_sandbox: dict[str, int] = {}


class Scene(NamedTuple):
    name: str
    text: str
    change: Callable[[Config], None]


def plain(config: Config) -> None:
    """As it is."""


def docker(config: Config) -> None:
    """As an engine's default container: its capabilities, a compiled profile of 430 names, files and volumes bound in."""
    config["process"] |= {"capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")}}
    config["process"]["noNewPrivileges"] = False
    config["root"]["readonly"] = False
    linux = config["linux"]
    linux["seccomp"] = profile(set(CAPABILITIES))
    linux["resources"] |= {"memory": {"limit": 1 << 30}, "cpu": {"shares": 512}, "pids": {"limit": 1000}}
    files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    config["mounts"] += [bind(path, path, "rprivate") for path in files if os.path.exists(path)]
    has = len(config["mounts"]) + len(linux["maskedPaths"]) + len(linux["readonlyPaths"])
    config["mounts"] += [bind("/usr", f"/volumes/{number}", "rprivate", "ro") for number in range(VOLUMES - has)]


def bind(source: str, destination: str, *options: str) -> dict[str, Any]:
    return {"type": "bind", "source": source, "destination": destination, "options": ["rbind", *options]}


def profile(capabilities: set[str]) -> dict[str, Any]:
    """The installed profile of engines, as linux.seccomp for a container with ``capabilities``."""
    text = json.loads(PROFILE.read_text())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

    def fits(rule: dict[str, Any]) -> bool:
        wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
        return (
            (not wanted.get("caps") or capabilities.issuperset(wanted["caps"]))
            and (not wanted.get("arches") or machine in wanted["arches"])
            and not capabilities.intersection(unwanted.get("caps") or ())
            and machine not in (unwanted.get("arches") or ())
        )

    keys = ("names", "action", "args", "errnoRet")
    rules = [{key: rule[key] for key in keys if rule.get(key)} for rule in text["syscalls"] if fits(rule)]
    own = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}.get(machine)
    families = [[f["architecture"], *f["subArchitectures"]] for f in text.get("archMap", ()) if f["architecture"] == own]
    seccomp = {"defaultAction": text["defaultAction"], "architectures": families[0] if families else [], "syscalls": rules}
    return seccomp | ({"defaultErrnoRet": text["defaultErrnoRet"]} if text.get("defaultErrnoRet") else {})


def pod(config: Config) -> None:
    """As a container of a pod: it joins the namespaces of a process that is there, and has shared volumes."""
    for kind, file in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")):
        set_namespace(config, kind, f"/proc/{sandbox()}/ns/{file}")
    set_namespace(config, "cgroup")
    del config["hostname"]
    config["process"]["oomScoreAdj"] = 1000
    config["linux"]["resources"] |= {"cpu": {"shares": 512, "quota": 50000, "period": 100000}, "memory": {"limit": 1 << 28}}
    config["mounts"] += [bind("/usr", f"/volumes/{number}", "rslave") for number in range(4)]


def sandbox() -> int:
    """A process in namespaces of its own, that lives as long as the benchmark."""
    if not _sandbox:
        child = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "sleep", "3600"], stdin=subprocess.DEVNULL)
        own = os.stat("/proc/self/ns/net").st_ino
        while os.stat(f"/proc/{child.pid}/ns/uts").st_ino == os.stat("/proc/self/ns/uts").st_ino or (
            os.stat(f"/proc/{child.pid}/ns/net").st_ino == own
        ):
            assert child.poll() is None, "unshare failed"
        _sandbox["pid"] = child.pid
    return _sandbox["pid"]


def end_sandbox() -> None:
    for pid in _sandbox.values():
        os.kill(pid, 9)


def users(config: Config) -> None:
    """In a user namespace of its own."""
    set_namespace(config, "user")
    for key in ("uidMappings", "gidMappings"):
        config["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]


SCENES = [
    Scene("default", "five new namespaces, the default mounts, masks, devices and cgroups of `spec`", plain),
    Scene("engine", f"an engine's default: its capabilities, its seccomp profile, limits, {VOLUMES} mounts and masks", docker),
    Scene("pod", "joins the network, IPC and UTS namespaces of another process, four shared volumes, limits", pod),
    Scene("userns", "a user namespace with 65,536 ids", users),
]
