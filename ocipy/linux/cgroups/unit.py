"""Starts, changes and stops the unit of a container: what the systemd driver does besides what cgroupfs does."""

from __future__ import annotations

import os

from ocipy.errors import CgroupError
from ocipy.plan import ops
from ocipy.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.config.types import DeviceCgroup
    from ocipy.linux.cgroups.bus import Bus
    from ocipy.linux.cgroups.unit_properties import Property

GONE = ("NoSuchUnit", "UnknownObject")


def apply_start_unit(step: Step, pid: int) -> None:
    """Starts the unit with ``pid`` in it and waits until it runs. Raises CgroupError."""
    from ocipy.linux.cgroups.bus import Bus, BusError

    name = step.get("name")
    what = f"start the systemd unit {name}"
    try:
        bus = Bus(user=step.get("user"), what=what)
        try:
            properties = _for_version(bus, step.get("properties"))
            if not name.endswith(".slice"):
                properties.append(("PIDs", "au", [pid]))
            try:
                _start(bus, name, properties)
            except BusError as error:
                if error.name != "UnitExists":
                    raise
                _forget(bus, name)  # what a failed one left has no processes, and goes
                _start(bus, name, properties)
        finally:
            bus.close()
    except CgroupError as error:
        error.pointer = step.origin
        raise
    if "" in step.get("paths") and len(step.get("paths")) == 1:
        _check_v2(step, pid)


def _start(bus: Bus, name: str, properties: list[Property]) -> None:
    bus.run_job("StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "replace", _variants(properties), []))


def _check_v2(step: Step, pid: int) -> None:
    """Is the process where the plan says, and are the controllers there? Raises CgroupError."""
    from ocipy.linux.cgroups.host import cgroup_of

    path = step.get("paths")[""]
    if not step.get("name").endswith(".slice") and (found := cgroup_of(pid, "")) != path:
        what = f"start the systemd unit {step.get('name')}"
        detail = f"systemd put the container into {found or 'no cgroup that we see'}, not {path}"
        raise CgroupError(0, what, pointer=step.origin, detail=detail)
    has = _read(path + "/cgroup.controllers").split()
    needed = step.get("controllers") or {}
    missing = {name: pointer for name, pointer in needed.items() if name not in ("cgroup2", *has)}
    if missing:
        # Those that systemd does not know, hugetlb and rdma, it does not hand down.
        from ocipy.linux.cgroups.controllers import enable_controllers

        enable_controllers(Step(ops.MAKE_CGROUP, step.origin, path=path, controllers=missing))


def apply_set_unit(step: Step) -> None:
    """Sets properties of a running unit, until it ends. Raises CgroupError."""
    name = step.get("name")
    set_properties(name, step.get("properties"), user=step.get("user"), pointer=step.origin)


def set_properties(name: str, properties: list[Property], *, user: bool, pointer: str = "") -> None:
    """Raises CgroupError."""
    from ocipy.linux.cgroups.bus import Bus

    try:
        bus = Bus(user=user, what=f"change the systemd unit {name}")
        try:
            bus.call("SetUnitProperties", "sba(sv)", (name, True, _variants(_for_version(bus, properties))))
        finally:
            bus.close()
    except CgroupError as error:
        error.pointer = pointer
        raise


def update_unit(
    unit: dict[str, Any], steps: list[Step], devices: list[DeviceCgroup] | None, paths: dict[str, str]
) -> Callable[[], None]:
    """What tells systemd of limits that SET_CGROUP ``steps`` set, and of device rules if they are new."""
    from ocipy.linux.cgroups.unit_properties import device_properties, properties_of, read_now

    found = properties_of(steps, read_now(paths["cpu"]) if "cpu" in paths else {})
    # A limit of 0 tasks is beyond systemd; the kernel has it.
    found = [each for each in found if each[0] != "TasksMax" or each[2]]
    if devices is not None:
        policy, allow = device_properties(devices)
        found += [("DeviceAllow", "a(ss)", []), allow, policy] if allow[2] else [allow, policy]

    def tell() -> None:
        if found:
            set_properties(unit["name"], found, user=unit["user"])

    return tell


def stop_unit(unit: dict[str, Any]) -> None:
    """Stops a unit, with all that is in it, and makes systemd forget it. No error when it is gone. Raises CgroupError."""
    from ocipy.linux.cgroups.bus import Bus, BusError

    name = unit["name"]
    bus = Bus(user=unit["user"], what=f"stop the systemd unit {name}")
    try:
        try:
            bus.run_job("StopUnit", "ss", (name, "replace"))
        except BusError as error:
            if error.name not in GONE:
                raise
        _forget(bus, name)
    finally:
        bus.close()


def _forget(bus: Bus, name: str) -> None:
    """A unit that has failed is kept, for people to look at, until it is reset."""
    from ocipy.linux.cgroups.bus import BusError

    try:
        bus.call("ResetFailedUnit", "s", (name,))
    except BusError as error:
        if error.name not in GONE:
            raise


def attach(unit: dict[str, Any], pid: int, below: str = "") -> None:
    """Has systemd move a process into a unit (or a cgroup below it), where we may not. Raises CgroupError."""
    from ocipy.linux.cgroups.bus import Bus

    bus = Bus(user=unit["user"], what=f"enter the systemd unit {unit['name']} with pid {pid}")
    try:
        bus.call("AttachProcessesToUnit", "ssau", (unit["name"], below, [pid]))
    finally:
        bus.close()


def _for_version(bus: Bus, properties: list[Property]) -> list[Property]:
    """Asks systemd for its version when a property may be too new for it."""
    from ocipy.linux.cgroups.unit_properties import SINCE, known

    if not any(each[0] in SINCE for each in properties):
        return [*properties]
    digits = ""
    for letter in str(bus.property("Version")).lstrip("v"):
        if not letter.isdecimal():
            break
        digits += letter
    return known(properties, int(digits or 0))


def _variants(properties: list[Property]) -> list[tuple[str, tuple[str, Any]]]:
    return [(name, (signature, bytes(value) if signature == "ay" else value)) for name, signature, value in properties]


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).decode()
        finally:
            os.close(fd)
    except OSError:
        return ""
