"""Everything that the specification demands of a config and a schema cannot say.

A section is imported when the config has it: an import costs more than a check.
"""

from __future__ import annotations

from ocipy.config import root, version
from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.config.types import Config, Linux, Process, Resources


def all_checks(config: Config) -> list[str]:
    """Raises ConfigError for the first rule that is broken; gives warnings, each with its JSON pointer."""
    from ocipy.config import namespaces, process

    warnings = version.check(config["ociVersion"])
    root.check(config)
    if "process" not in config:
        raise ConfigError("", "process property must not be empty: there is nothing to run")
    warnings += process.check(config["process"])
    warnings += namespaces.check(config)
    if config.get("mounts"):
        from ocipy.config import mounts

        warnings += mounts.check(config)
    if config.get("hooks"):
        from ocipy.config import hooks

        hooks.check(config)
    if config.get("linux"):
        warnings += _check_linux(config, config["linux"])
    return warnings


def _check_linux(config: Config, linux: Linux) -> list[str]:
    warnings: list[str] = []
    if linux.get("devices"):
        from ocipy.config import devices

        warnings += devices.check(config)
    if linux.get("maskedPaths") or linux.get("readonlyPaths"):
        from ocipy.config import masks

        masks.check(config)
    if linux.get("resources") or linux.get("cgroupsPath"):
        from ocipy.config import cgroups

        cgroups.check(config)
    if linux.get("sysctl"):
        from ocipy.config import sysctl

        sysctl.check(config)
    if "seccomp" in linux:
        from ocipy.config import seccomp

        seccomp.check(linux["seccomp"])
    return warnings + _check_rare(linux)


def _check_rare(linux: Linux) -> list[str]:
    warnings: list[str] = []
    if linux.get("netDevices"):
        from ocipy.config import net_devices

        net_devices.check(linux)
    if "intelRdt" in linux:
        from ocipy.config import intel_rdt

        warnings += intel_rdt.check(linux["intelRdt"])
    if "memoryPolicy" in linux:
        from ocipy.config import memory_policy

        memory_policy.check(linux["memoryPolicy"])
    if "personality" in linux:
        from ocipy.config import personality

        personality.check(linux["personality"])
    return warnings


def process_checks(process: Process) -> list[str]:
    """The same for a process that stands alone: exec --process."""
    from ocipy.config.process import check

    return check(process, "")


def resources_checks(resources: Resources) -> list[str]:
    """The same for resources that stand alone: update --resources."""
    from ocipy.config.cgroups import check_resources

    check_resources(resources, "")
    return []
