"""linux.devices (config-linux.md, Devices; mknod(2))."""

from __future__ import annotations

from posixpath import normpath

from ocipy.config.paths import check_path
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config

MAJOR_MAX, MINOR_MAX = (1 << 12) - 1, (1 << 20) - 1


def check(config: Config) -> list[str]:
    """Raises ConfigError; gives warnings."""
    warnings = []
    paths: dict[str, int] = {}
    numbers: dict[tuple[str, int, int], int] = {}
    for index, device in enumerate(config.get("linux", {}).get("devices") or ()):
        pointer, kind = f"/linux/devices/{index}", device["type"]
        check_path(device["path"], pointer + "/path")
        path = normpath("/" + device["path"].lstrip("/"))
        if path in paths:
            raise ConfigError(pointer + "/path", f"{device['path']} is the path of linux.devices[{paths[path]}] as well")
        if path in ("/", "/proc") or path.startswith("/proc/"):
            raise ConfigError(pointer + "/path", "no device can be there")
        paths[path] = index
        if kind == "p":
            continue
        for name, most in (("major", MAJOR_MAX), ("minor", MINOR_MAX)):
            if name not in device:
                raise ConfigError(pointer, f"{name} is missing; only type p, a FIFO, has none")
            if not 0 <= device[name] <= most:  # type: ignore[literal-required]
                raise ConfigError(f"{pointer}/{name}", f"not a {name} number of a device: 0 to {most}")
        same = ("b" if kind == "b" else "c", device["major"], device["minor"])
        if same in numbers:
            text = f"the same device as linux.devices[{numbers[same]}] (config-linux.md: SHOULD NOT)"
            warnings.append(f"{pointer}: {text}")
        numbers.setdefault(same, index)
    return warnings
