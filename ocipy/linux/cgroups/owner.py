"""Gives a container its own cgroup v2, to make others below it (config-linux.md, Cgroup ownership)."""

from __future__ import annotations

import os

from ocipy.config.mounts import destination
from ocipy.errors import CgroupError
from ocipy.linux.namespaces import UNMAPPED, host_id
from ocipy.linux.process import user_of
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config

LIST = "/sys/kernel/cgroup/delegate"
FALLBACK = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def plan_owner(config: Config, path: str) -> list[Step]:
    """To the user of the process, if the container gets a cgroup namespace and a writable mount of it; else it stays ours."""
    linux = config.get("linux") or {}
    made = [item["type"] for item in linux.get("namespaces") or () if not item.get("path")]
    joined = [item["type"] for item in linux.get("namespaces") or () if item.get("path")]
    if "cgroup" not in made or "user" in joined or not _is_writable(config):
        return []  # the maps of a user namespace that is joined are not ours to know
    uid = user_of(config["process"]).get("uid", 0)
    if "user" in made:
        uid = host_id(linux.get("uidMappings") or [], uid)
        if uid == UNMAPPED:
            return []
    return [Step(ops.OWN_CGROUP, "/process/user/uid", path=path, uid=uid)]


def _is_writable(config: Config) -> bool:
    return any(
        mount.get("source") == "cgroup" and destination(mount) == "/sys/fs/cgroup" and "ro" not in (mount.get("options") or ())
        for mount in config.get("mounts") or ()
    )


def apply_owner(step: Step) -> None:
    """Changes the owner of the directory and of the files that may be delegated: not of limits."""
    path, uid = step.get("path"), step.get("uid")
    try:
        os.chown(path, uid, -1)
        for name in _delegated():
            try:
                os.chown(f"{path}/{name}", uid, -1, follow_symlinks=False)
            except FileNotFoundError:
                pass
    except OSError as error:
        if error.errno == 1 and os.geteuid() != 0:
            return  # the cgroup stays the user's own, who is root in the container
        raise CgroupError(error.errno or 0, f"give the cgroup {path} to uid {uid}", "chown", step.origin) from None


def _delegated() -> tuple[str, ...] | list[str]:
    try:
        with open(LIST, "rb") as file:
            return [name for name in file.read().decode().split() if "/" not in name]
    except OSError:
        return FALLBACK
