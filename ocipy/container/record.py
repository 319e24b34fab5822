"""The record of a container: what later commands need to know, and the journal of what create is about to make.

The file is lines ``key <JSON value>\\n``, each value on its line, so that C reads one key without a JSON parser and copies
its value as it stands. A torn file keeps its whole lines, which is what ``delete --force`` lives on.
"""

from __future__ import annotations

import time

from ocipy.config.json_text import json_text
from ocipy.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TYPES: dict[str, type[Any]] = {
    "id": str,
    "status": str,
    "pid": int,
    "start_time": int,
    "boot_id": str,
    "runtime_pid": int,
    "runtime_start_time": int,
    "bundle": str,
    "rootfs": str,
    "created": str,
    "owner_uid": int,
    "cgroup_manager": str,
    "cgroup_paths": dict,
    "made_cgroups": list,
    "made_resctrl": list,
    "mounts": list,
    "own_pid_namespace": bool,
    "hooks_after": bool,
    "annotations": dict,
}
_TEXTS = ("cgroup_paths", "made_cgroups", "made_resctrl", "mounts", "annotations")  # they hold nothing but text
CREATING, CREATED = "creating", "created"


class Record:
    """One container.

    ``status`` is CREATING until everything is made, then CREATED for ever: what is true now is asked of the kernel (state.py).
    ``pid``, ``start_time`` (field 22 of /proc/pid/stat) and ``boot_id`` name init, ``runtime_pid`` and ``runtime_start_time``
    the creating process; 0 means none. ``cgroup_paths`` is controller -> directory ("" for v2); ``made_cgroups`` and
    ``made_resctrl`` are the directories that did not exist before, ``mounts`` the mount points on the host, each written down
    before it is made. ``hooks_after`` says that the frozen config has poststart or poststop hooks. ``extra`` keeps keys that
    this version does not know.
    """

    __slots__ = (
        "annotations", "boot_id", "bundle", "cgroup_manager", "cgroup_paths", "created", "extra", "hooks_after", "id",
        "made_cgroups", "made_resctrl", "mounts", "own_pid_namespace", "owner_uid", "pid", "rootfs", "runtime_pid",
        "runtime_start_time", "start_time", "status",
    )  # fmt: skip

    def __init__(self, container_id: str) -> None:
        self.id = container_id
        self.status = CREATING
        self.pid = self.start_time = 0
        self.runtime_pid = self.runtime_start_time = 0
        self.boot_id = self.bundle = self.rootfs = self.created = ""
        self.owner_uid = 0
        self.cgroup_manager = "cgroupfs"
        self.cgroup_paths: dict[str, str] = {}
        self.made_cgroups: list[str] = []
        self.made_resctrl: list[str] = []
        self.mounts: list[str] = []
        self.own_pid_namespace = True
        self.hooks_after = False
        self.annotations: dict[str, str] = {}
        self.extra: dict[str, Any] = {}

    def text(self) -> str:
        """The file's content."""
        known = [f"{key} {json_text(getattr(self, key))}\n" for key in _TYPES]
        return "".join(known + [f"{key} {json_text(value)}\n" for key, value in self.extra.items()])


def parse_record(text: str, container_id: str) -> Record:
    """The record in ``text``. Raises StateError unless every line is whole and every known key is there with its type."""
    if not text.endswith("\n"):
        raise StateError("it is empty" if not text else "it is cut off")
    record = Record(container_id)
    missing = dict(_TYPES)
    for line in text[:-1].split("\n"):
        key, value = _parse_line(line)
        if key not in _TYPES:
            record.extra[key] = value
            continue
        _check(key, value)
        setattr(record, key, value)
        missing.pop(key, None)
    if missing:
        raise StateError(f"{next(iter(missing))} is missing")
    _check_record(record, container_id)
    return record


def parse_remains(text: str, container_id: str) -> Record:
    """What can be trusted of a damaged record: each line on its own, the rest as if never written. Never raises.

    A process is named only by all of pid, start time and boot id; with one of them lost, none counts.
    """
    record = Record(container_id)
    found = set()
    for line in text.split("\n")[:-1]:
        try:
            key, value = _parse_line(line)
            if key in _TYPES:
                _check(key, value)
                setattr(record, key, value)
                found.add(key)
        except StateError:
            continue
    if record.id != container_id:
        return Record(container_id)  # another container's: nothing in it is ours to remove
    if not {"pid", "start_time", "boot_id"} <= found:
        record.pid = record.start_time = 0
    if not {"runtime_pid", "runtime_start_time", "boot_id"} <= found:
        record.runtime_pid = record.runtime_start_time = 0
    return record


def _parse_line(line: str) -> tuple[str, Any]:
    key, space, text = line.partition(" ")
    if not space or not key.isidentifier():
        raise StateError(f"{key[:40]!r} is no key")
    return key, parse_json(text)


def _check(key: str, value: Any) -> None:
    want: Any = _TYPES[key]
    if type(value) is not want:
        raise StateError(f"{key} is {_NAMES.get(type(value), 'a number')}, not {_NAMES.get(want, 'a number')}")
    if want is int and not 0 <= value < 1 << 63:
        raise StateError(f"{key} is out of range")
    if key in _TEXTS:
        for item in value.values() if want is dict else value:
            if type(item) is not str:
                raise StateError(f"{key} holds {_NAMES.get(type(item), 'a number')}, not a text")


_NAMES = {str: "a text", dict: "an object", list: "an array", bool: "true or false", type(None): "null"}


def _check_record(record: Record, container_id: str) -> None:
    if record.id != container_id:
        raise StateError(f'it is of container "{record.id}"')
    if record.status not in (CREATING, CREATED):
        raise StateError(f'status is "{record.status}"')
    if record.pid and not (record.start_time and record.boot_id):
        raise StateError("pid without start_time and boot_id")
    if record.pid >= 1 << 22 or record.pid == 1 or record.runtime_pid >= 1 << 22:
        raise StateError("pid is out of range")


def now() -> str:
    """RFC 3339 with nanoseconds, UTC."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09}Z"


class _Scanning:
    """What ``_json.make_scanner`` reads its options from: those of json.loads."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None
    memo: dict[str, str] = {}


def _scanner() -> Callable[[str, int], tuple[Any, int]]:
    """What the json module itself is made of, without its imports; it is private, so json where it is not to be had."""
    try:
        from _json import make_scanner

        return make_scanner(_Scanning())  # type: ignore[arg-type]
    except (ImportError, AttributeError, TypeError):
        from json import JSONDecoder

        return JSONDecoder().raw_decode


_scan = _scanner()


def parse_json(text: str) -> Any:
    """One JSON value and nothing else. Raises StateError."""
    try:
        value, end = _scan(text, 0)
    except (StopIteration, ValueError, RecursionError, TypeError):
        end = -1
    if end != len(text):
        raise StateError(f"{text[:40]!r} is no JSON")
    return value
