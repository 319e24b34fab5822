"""What callers say beside the config."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Mount


class Options:
    """What the command line and the caller's environment add to the config.

    ``bundle``: absolute path; ``id``: container id; ``preserve_fds``: number of fds from 3 on that the program gets; ``extra_env``:
    NAME=value that the runtime itself adds (LISTEN_PID …); ``cgroup_manager``: "cgroupfs", "systemd" or "disabled"; ``filters``:
    the directory of compiled seccomp filters, "" to compile each time.
    """

    __slots__ = (
        "bundle", "cgroup_manager", "extra_env", "extra_mounts", "filters", "id", "no_new_keyring", "no_pivot", "preserve_fds",
    )  # fmt: skip

    def __init__(self, container_id: str, bundle: str) -> None:
        self.id, self.bundle = container_id, bundle
        self.no_pivot = self.no_new_keyring = False
        self.preserve_fds = 0
        self.extra_env: list[str] = []
        self.extra_mounts: list[Mount] = []
        self.cgroup_manager = "cgroupfs"
        self.filters = ""

    def rootfs(self, config: Config) -> str:
        """root.path; relative ones start at the bundle (config.md, Root)."""
        path = config["root"]["path"]
        return path if path.startswith("/") else f"{self.bundle}/{path}"
