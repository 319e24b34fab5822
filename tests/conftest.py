"""Tests run in a mount namespace of their own, with a clean /sys/fs/cgroup, and leave nothing."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bundles
from bundles import PREFIX, ROOTLESS, TIME_SCALE, Bundle, Container, Mutate, Runtime, delegated, hierarchies, make_bundle, mounts

CLONE_NEWNS = 0x20000
PR_SET_CHILD_SUBREAPER = 36

MAKERS: dict[str, Callable[[], Path]] = {"debian": bundles.debian_rootfs, "image": bundles.image}

FILTERS = Path("/run/ocipy.filters")  # compiled ones, which the runtime keeps for the next container
_had_filters = FILTERS.exists()
_why_not: list[str] = []  # why tests that need root cannot run here


def pytest_configure(config: pytest.Config) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if ROOTLESS:
        _enter_leaf()
    elif os.geteuid() != 0:
        _why_not.append("needs root")
    elif libc.unshare(CLONE_NEWNS) != 0:
        _why_not.append(f"needs a mount namespace: {os.strerror(ctypes.get_errno())}")
    else:
        _mount("--make-rprivate", "/")
        bundles.use_own_null()
        _clean_cgroup_tree()


def _enter_leaf() -> None:
    """Go out of the way: a cgroup that has processes gives its children no controllers."""
    (line,) = Path("/proc/self/cgroup").read_text().splitlines()
    own = line.split(":", 2)[2]
    leaf = hierarchies()[""] / own.lstrip("/") / "tests"
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text("0")
    os.environ["OCIPY_TEST_CGROUP"] = own


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if ROOTLESS:
        config.hook.pytest_deselected(items=[item for item in items if not item.get_closest_marker("rootless")])
        items[:] = [item for item in items if item.get_closest_marker("rootless")]
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker("root")
        if _why_not and item.get_closest_marker("root") and not ROOTLESS:
            item.add_marker(pytest.mark.skip(reason=_why_not[0]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make what takes minutes before the first test, outside of the tests' time limits."""
    wanted = {name for item in session.items if not item.get_closest_marker("skip") for name in getattr(item, "fixturenames", ())}
    for name in sorted(wanted & MAKERS.keys()):
        MAKERS[name]()


def pytest_unconfigure() -> None:
    if not _why_not:
        remove_cgroups()
        if not _had_filters:
            shutil.rmtree(FILTERS, ignore_errors=True)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _clean_cgroup_tree() -> None:
    """On cgroup v1: the same hierarchies in a fresh tmpfs, without what others left beside them.

    crun refuses a machine with v1 hierarchies and a unified one that has controllers: it does not get the latter. With
    OCIPY_CGROUP=v2 there is cgroup v2 alone, with the controllers that v1 has left.
    """
    if os.environ.get("OCIPY_CGROUP") == "v2" and "" in hierarchies():
        bundles.show_only_v2()
        return
    if Path("/sys/fs/cgroup/cgroup.controllers").exists() or not Path("/sys/fs/cgroup").is_dir():
        return
    points = [m for m in mounts() if m["type"] in ("cgroup", "cgroup2") and m["point"].startswith("/sys/fs/cgroup/")]
    if os.path.basename(os.environ.get("RUNTIME", "")) == "crun":
        points = [m for m in points if m["type"] == "cgroup"]
    with tempfile.TemporaryDirectory(prefix="ocipy-cgroup-") as fresh:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", fresh)
        for mount in points:
            target = Path(fresh, os.path.relpath(mount["point"], "/sys/fs/cgroup"))
            target.mkdir(exist_ok=True)
            _mount("--bind", mount["point"], target)
        subprocess.run(["umount", "--recursive", "--lazy", "/sys/fs/cgroup"], check=True)
        _mount("--move", fresh, "/sys/fs/cgroup")


# ---- nothing is left --------------------------------------------------------------------------------------------------------


def cgroups() -> set[str]:
    """Directories of cgroups that this session's containers made, deepest last."""
    found: set[str] = set()
    left = [str(point) for point in set(hierarchies().values())]
    while left:  # not os.walk: in Python 3.11 it recurses, and a tree of cgroups may be very deep
        try:
            with os.scandir(left.pop()) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # it is gone meanwhile
        left += below
        found.update(path for path in below if PREFIX in path)
    return {path for path in found if not path.endswith("/" + PREFIX)}


def remove_cgroups() -> None:
    """End what runs in this session's cgroups, and remove them."""
    tops = [Path(f"{point}{delegated()}", PREFIX) for point in set(hierarchies().values())]
    paths = sorted([*cgroups(), *(str(top) for top in tops if top.is_dir())], key=len, reverse=True)
    for path in paths:
        _thaw_and_kill(Path(path))
    end = time.monotonic() + 5 * TIME_SCALE
    while paths and time.monotonic() < end:
        for path in list(paths):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                paths.remove(path)
            except OSError:
                reap()
                time.sleep(0.01)
            else:
                paths.remove(path)


def _thaw_and_kill(path: Path) -> None:
    try:
        if (path / "freezer.state").exists():
            (path / "freezer.state").write_text("THAWED")
        for pid in (path / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass  # it ended by itself


def _stat(pid: str) -> tuple[str, str, str]:
    """Parent, state and name of a process."""
    text = Path("/proc", pid, "stat").read_text(errors="replace")
    name = text[text.index("(") + 1 : text.rindex(")")]
    state, parent = text[text.rindex(")") + 2 :].split()[:2]
    return parent, state, name


def _processes() -> dict[str, tuple[str, str, str]]:
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[pid] = _stat(pid)
        except (OSError, ValueError):
            continue
    return found


def reap() -> None:
    """Collect orphans that ended: they are children of this process."""
    us = str(os.getpid())
    for pid, (parent, state, _) in _processes().items():
        if parent == us and state == "Z":
            try:
                os.waitpid(int(pid), os.WNOHANG)
            except ChildProcessError:
                continue


def descendants() -> set[str]:
    """Processes that came from this one, as "pid name"."""
    every, found, names = _processes(), {str(os.getpid())}, set()
    while new := {pid for pid, (parent, _, _) in every.items() if parent in found and pid not in found}:
        found |= new
        names |= {f"{pid} {every[pid][2]} ({every[pid][1]})" for pid in new}
    return names


def _files() -> set[str]:
    """Files that bear this session's name, or ocipy's, where a runtime may put something."""
    found = set()
    for directory in ("/run", "/tmp", "/dev/shm", "/var/run"):
        for name in os.listdir(directory) if os.path.isdir(directory) else []:
            # In /tmp and /dev/shm others may have theirs; a runtime has no business there without our name.
            if PREFIX in name or (name.startswith("ocipy") and directory.endswith("/run")):
                found.add(os.path.join(directory, name))
    for directory in ("/run/ocipy", "/run/runc", "/run/crun"):
        if os.path.isdir(directory):
            found.update(os.path.join(directory, name) for name in os.listdir(directory) if PREFIX in name)
    return found - {f"{run}/ocipy{what}" for run in ("/run", "/var/run") for what in ("", ".filters")}


def surroundings() -> dict[str, set[str]]:
    """What a runtime may leave: mounts, cgroups, processes, files."""
    mine = {f"{m['point']} ({m['type']} of {m['source']})" for m in mounts()}
    host = set() if ROOTLESS else {line for line in Path("/proc/1/mountinfo").read_text().splitlines() if PREFIX in line}
    return {"mount": mine | host, "cgroup": cgroups(), "process": descendants(), "file": _files()}


def _left(before: dict[str, set[str]]) -> list[str]:
    reap()
    after = surroundings()
    return [f"{kind} {thing}" for kind, things in after.items() for thing in sorted(things - before[kind])]


@pytest.fixture
def look() -> Callable[[], dict[str, set[str]]]:
    """What no_leaks looks at, for the test of it."""
    return surroundings


@pytest.fixture
def known_leak() -> str:
    """What no_leaks expects to be left, a regular expression; "" for nothing. For tests of other runtimes."""
    return ""


@pytest.fixture
def may_leak() -> bool:
    """Whether what is left does not matter to this test."""
    return False


@pytest.fixture
def no_leaks(known_leak: str, may_leak: bool) -> Iterator[None]:
    """The test fails if it leaves a mount, a cgroup, a process or a file of the runtime. Orphans become our children."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = surroundings()
    yield
    end = time.monotonic() + (0 if may_leak else 2 * TIME_SCALE)
    while (left := _left(before)) and time.monotonic() < end:
        time.sleep(0.02)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    if any(thing.startswith("cgroup") for thing in left):
        remove_cgroups()
    unknown = [thing for thing in left if not (known_leak and re.match(known_leak, thing))]
    assert may_leak or not unknown, "the test left: " + "; ".join(unknown)
    assert left or not known_leak, f"the test left nothing, though {known_leak} is expected"


# ---- what tests ask for -----------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path, no_leaks: None) -> Iterator[Runtime]:
    """The runtime under test, with its own state directory; what is left of its containers is deleted by force, to be gone."""
    runtime = Runtime(tmp_path / "runtime")
    yield runtime
    left = runtime.close()
    assert not left, "delete --force left: " + "; ".join(left)


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """``bundle(args, mutate=None, rootfs=None)``: a new bundle, busybox by default; see bundles.make_bundle."""
    count = iter(range(1000))

    def make(*args: str, mutate: Mutate | None = None, rootfs: Path | None = None, **more: Any) -> Bundle:
        return make_bundle(tmp_path / f"bundle{next(count)}", rootfs, args or ("/bin/probe",), mutate, **more)

    return make


@pytest.fixture
def container(runtime: Runtime, bundle: Callable[..., Bundle]) -> Callable[..., Container]:
    """``container("sleep", "100", mutate=f)``: a container that is not created yet, of a new bundle."""

    def make(*args: str, id: str | None = None, **more: Any) -> Container:
        return runtime.container(bundle(*args, **more), id)

    return make


@pytest.fixture
def probe(container: Callable[..., Container]) -> Callable[..., dict[str, Any]]:
    """``probe(mutate, *arguments)``: run the probe in the foreground under a changed config; its report."""

    def run(mutate: Mutate | None = None, *arguments: str, **more: Any) -> dict[str, Any]:
        report: dict[str, Any] = container("/bin/probe", *arguments, mutate=mutate, **more).run().json
        return report

    return run


@pytest.fixture
def debian() -> Path:
    """A root filesystem of packages, shared: ``make_bundle`` copies it."""
    return bundles.debian_rootfs()


@pytest.fixture
def image() -> Path:
    """An image as OCI layout, as umoci's bundle, and as docker export gives it; shared: see bundles.image."""
    return bundles.image()
