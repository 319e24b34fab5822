"""bundle.md and config.md: what a configuration must have, must not have, and may have besides.

Each case of what is refused begins with a configuration that the runtime takes. Where it does not, for want of the feature in
machine or runtime, what is said of the other proves nothing, and the test is skipped."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from bundles import Config, ConsoleSocket, Container

clauses = pytest.mark.clauses
Make = Callable[..., Container]
SLEEP = ("/bin/sleep", "1000")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

HOOK = {"path": "/bin/true", "timeout": 10}
TERMINAL = {"process": {"terminal": True, "consoleSize": {"height": 25, "width": 80}}}
RLIMIT = {"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}]}}
SCHEDULER = {"process": {"scheduler": {"policy": "SCHED_BATCH"}}}
IO = {"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 5}}}
TMPFS = {"mounts": [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]}
NOTED = {"annotations": {"org.example.key": "value"}}

# Clause, what is put into the default configuration, and where in it is what must not be absent.
REQUIRED: list[tuple[str, Config, str]] = [
    ("ociVersion", {}, "ociVersion"),
    ("root", {}, "root"),
    ("root.path", {}, "root/path"),
    ("mounts.destination", TMPFS, "mounts/0/destination"),
    ("process.consoleSize.height", TERMINAL, "process/consoleSize/height"),
    ("process.consoleSize.width", TERMINAL, "process/consoleSize/width"),
    ("process.cwd", {}, "process/cwd"),
    ("process.args", {}, "process/args"),
    ("process.args", {"process": {"args": ["/bin/true"]}}, "process/args/0"),
    ("process.rlimits.type", RLIMIT, "process/rlimits/0/type"),
    ("process.rlimits.soft", RLIMIT, "process/rlimits/0/soft"),
    ("process.rlimits.hard", RLIMIT, "process/rlimits/0/hard"),
    ("process.scheduler.policy", SCHEDULER, "process/scheduler/policy"),
    ("process.ioPriority.class", IO, "process/ioPriority/class"),
    ("process.ioPriority.priority", IO, "process/ioPriority/priority"),
    ("process.user.uid", {}, "process/user/uid"),
    ("process.user.gid", {}, "process/user/gid"),
    *[("hooks.path", {"hooks": {kind: [HOOK]}}, f"hooks/{kind}/0/path") for kind in HOOKS],
]  # fmt: skip

# Clause, what is put into the default configuration, and what takes its place where.
FORBIDDEN: list[tuple[str, Config, str, Any]] = [
    *[("ociVersion.format", {}, "ociVersion", text) for text in ("", "1", "1.0", "01.0.2", "1.0.2.0", "one", "v1.0.2", "1.0.2-")],
    ("root.path.directory", {}, "root/path", "missing"),
    ("root.path.directory", {}, "root/path", "config.json"),
    ("process.cwd.absolute", {}, "process/cwd", "bin"),
    ("process.cwd.absolute", {}, "process/cwd", ""),
    *[("process.rlimits.type.unknown", RLIMIT, "process/rlimits/0/type", text) for text in ("RLIMIT_NONE", "", "RLIMIT_")],
    ("process.rlimits.twice", RLIMIT, "process/rlimits/+", {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}),
    ("process.rlimits.twice", RLIMIT, "process/rlimits/+", {"type": "RLIMIT_NOFILE", "soft": 256, "hard": 256}),
    *[("hooks.path.absolute", {"hooks": {kind: [HOOK]}}, f"hooks/{kind}/0/path", "bin/true") for kind in HOOKS],
    *[("hooks.timeout", {"hooks": {kind: [HOOK]}}, f"hooks/{kind}/0/timeout", value) for kind in HOOKS for value in (0, -1)],
    ("annotations", NOTED, "annotations", ["org.example.key"]),
    ("annotations", NOTED, "annotations", "org.example.key"),
    ("annotations.key.empty", NOTED, "annotations/", "value"),
    *[("annotations.value", NOTED, "annotations/org.example.key", value) for value in (1, True, ["value"], {"a": "b"})],
    ("invalid", {}, "process/terminal", "no"),
    ("invalid", {}, "process/env", "A=b"),
    ("invalid", {}, "process/args", "/bin/true"),
    ("invalid", {}, "process/user/uid", "root"),
    ("invalid", {}, "process/user/gid", -5),
    ("invalid", {}, "process/oomScoreAdj", 5000),
    ("invalid", {}, "root/readonly", "yes"),
    ("invalid", {}, "root/path", 5),
    ("invalid", {}, "hostname", 5),
    ("invalid", {}, "mounts", {}),
    ("invalid", TMPFS, "mounts/0/options", "ro"),
    ("invalid", TMPFS, "mounts/0/type", "no-such-filesystem"),
    ("invalid", {}, "hooks", []),
    ("invalid", {}, "linux/namespaces", [{"type": "no-such-namespace"}]),
    ("invalid", {}, "linux/rootfsPropagation", "no-such-propagation"),
    ("invalid", {}, "linux/maskedPaths", "/proc/kcore"),
    ("invalid", {}, "linux/resources/memory", {"limit": "1G"}),
    ("invalid", {}, "linux/seccomp", {"defaultAction": "SCMP_ACT_NONE"}),
    ("invalid", {}, "linux/seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONE"]}),
]  # fmt: skip

# Properties that no version of the specification has, in every kind of object.
PLACES = (
    "", "process", "process/user", "process/capabilities", "process/rlimits/0", "root", "mounts/0", "linux", "linux/resources",
    "linux/resources/memory", "linux/namespaces/0", "hooks", "hooks/createRuntime/0",
)  # fmt: skip
UNKNOWN = [f"{place}/newProperty".lstrip("/") for place in PLACES]


def merged(config: Config, more: Config) -> Config:
    """``config`` with these properties; objects are merged, lists begin with those of ``more``."""
    found = copy.deepcopy(config)
    for key, value in copy.deepcopy(more).items():
        old = found.get(key)
        found[key] = old | value if isinstance(old, dict) else value + old if isinstance(old, list) else value
    return found


def holder_of(config: Config, path: str) -> tuple[Any, str | int]:
    *way, last = path.split("/")
    found: Any = config
    for key in way:
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found, int(last) if isinstance(found, list) and last != "+" else last


def put(config: Config, path: str, value: Any) -> None:
    place, key = holder_of(config, path)
    if key == "+":
        place.append(value)
    else:
        place[key] = value


def created(box: Container) -> bool:
    """Whether the runtime has made a container of the bundle; there is a socket for its terminal if it has one."""
    box.bundle.write()
    if box.bundle.config["process"]["terminal"] is not True:
        return box.create(check=False).status == 0
    with ConsoleSocket() as console:
        return box.create("--console-socket", console.path, check=False).status == 0


def check_refused(box: Container, more: Config, path: str, change: Callable[[Config], None]) -> None:
    """A container is made of the default configuration with ``more``, and none once ``change`` has spoiled it."""
    box.bundle.config = merged(box.bundle.config, more)
    if not created(box):
        pytest.skip(f"{path} is refused complete too: this machine or runtime lacks what it takes")
    box.delete("--force")
    change(box.bundle.config)
    assert not created(box), "the runtime has taken it"
    assert box.runtime("state", box.id, check=False).status != 0


def _parameters(cases: list[Any]) -> list[Any]:
    return [
        pytest.param(*case[1:], marks=clauses(f"config.{case[0]}"), id=" ".join(str(part) for part in case[2:])) for case in cases
    ]


@pytest.mark.parametrize(("more", "path"), _parameters(REQUIRED))
def test_what_is_required_may_not_be_absent(container: Make, more: Config, path: str) -> None:
    def remove(config: Config) -> None:
        place, key = holder_of(config, path)
        del place[key]

    check_refused(container(*SLEEP), more, path, remove)


@pytest.mark.parametrize(("more", "path", "value"), _parameters(FORBIDDEN))
def test_what_is_forbidden_is_refused(container: Make, more: Config, path: str, value: Any) -> None:
    check_refused(container(*SLEEP), more, path, lambda config: put(config, path, value))


# ---- what is ignored -----------------------------------------------------------------------------------------------------------


@clauses("config.unknown")
@pytest.mark.parametrize("value", ["text", 5, {"a": []}], ids=["text", "number", "object"])
@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_property_is_ignored(container: Make, path: str, value: Any) -> None:
    box = container("/bin/echo", "ran")
    more = {"hooks": {"createRuntime": [{"path": "/bin/true"}]}, "process": RLIMIT["process"]}
    box.bundle.config = merged(box.bundle.config, more)
    box.bundle.config["linux"]["resources"]["memory"] = {"limit": 1 << 26}
    put(box.bundle.config, path, value)
    box.bundle.write()
    box.create()
    box.start()
    box.wait_output("ran\n")


@clauses("config.annotations.unknown")
@pytest.mark.parametrize("key", ["org.example.key", "no domain", "org.opencontainers.new.key", "\N{SNOWMAN}"])
def test_an_unknown_annotation_is_ignored(container: Make, key: str) -> None:
    box = container("/bin/echo", "ran", mutate=lambda config: config.update(annotations={key: "value"}))
    box.create()
    box.start()
    box.wait_output("ran\n")


# ---- the bundle ----------------------------------------------------------------------------------------------------------------


@clauses("bundle.config")
def test_a_bundle_without_a_configuration_is_an_error(container: Make) -> None:
    box = container(*SLEEP)
    (box.bundle.path / "config.json").unlink()
    assert box.create(check=False).status != 0
    assert box.runtime("state", box.id, check=False).status != 0


@clauses("bundle.config.place")
@pytest.mark.parametrize("name", ["Config.json", "config", "config.js", "rootfs/config.json"])
def test_a_configuration_of_another_name_or_place_is_not_read(container: Make, name: str) -> None:
    box = container(*SLEEP)
    (box.bundle.path / "config.json").rename(box.bundle.path / name)
    assert box.create(check=False).status != 0


@clauses("bundle.config.place")
def test_the_configuration_is_the_one_in_the_top_directory(container: Make) -> None:
    box = container("/bin/echo", "right")
    wrong = copy.deepcopy(box.bundle.config)
    wrong["process"]["args"] = ["/bin/echo", "wrong"]
    for name in ("config", "Config.json", "rootfs/config.json"):
        (box.bundle.path / name).write_text(json.dumps(wrong))
    box.create()
    box.start()
    box.wait_output("right\n")
