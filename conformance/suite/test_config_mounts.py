"""config.md: the root filesystem, mounts and every mount option, as /proc/PID/mountinfo has them before start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mounts, set_namespace

clauses = pytest.mark.clauses
Make = Callable[..., Container]
Change = Callable[[Config], None]
SLEEP = ("/bin/sleep", "1000")
FROM, OWN = 100000, 200000


def ids(first: int) -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": first, "size": 65536}]


def adds(*more: dict[str, Any]) -> Change:
    def change(config: Config) -> None:
        config["mounts"] += more
        config["root"]["readonly"] = False

    return change


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def bind(source: Path, destination: str, *options: str, **more: Any) -> dict[str, Any]:
    return {"destination": destination, "type": "none", "source": str(source), "options": list(options), **more}


def mounted(box: Container) -> list[dict[str, str]]:
    return mounts(Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines())


def mount_of(box: Container, point: str) -> dict[str, str]:
    """The uppermost mount there."""
    return [mount for mount in mounted(box) if mount["point"] == point][-1]


def options_of(box: Container, point: str) -> set[str]:
    """What mountinfo says of a mount and of its filesystem; ``rw`` only if neither is read-only."""
    mount = mount_of(box, point)
    found = {*mount["options"].split(","), *mount["super"].split(",")}
    return found - {"rw"} if "ro" in found else found


def made(container: Make, change: Change) -> Container:
    box = container(*SLEEP, mutate=change)
    box.create()
    return box


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A mount with a file, and with another mount in it that has a file too."""
    path = tmp_path / "source"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    (path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path / "sub"], check=True)
    (path / "file").write_text("file")
    (path / "sub/inner").write_text("inner")
    yield path
    subprocess.run(["umount", "--recursive", path], check=True)


# ---- root ----------------------------------------------------------------------------------------------------------------------


@clauses("config.root.readonly")
@pytest.mark.parametrize("readonly", [True, False, None], ids=["true", "false", "unset"])
def test_the_root_is_read_only_if_asked_for(container: Make, readonly: bool | None) -> None:
    def change(config: Config) -> None:
        config["root"] = {"path": "rootfs"} | ({} if readonly is None else {"readonly": readonly})

    box = container("/bin/sh", "-c", "echo text >/new && echo written || echo refused", mutate=change)
    box.create()
    box.start()
    box.wait_output("refused\n" if readonly else "written\n")
    assert (box.bundle.rootfs / "new").exists() != bool(readonly)


# ---- mounts --------------------------------------------------------------------------------------------------------------------


@clauses("config.mounts.order")
def test_mounts_are_made_in_the_order_of_the_list(container: Make, source: Path) -> None:
    (source / "sub/deep").mkdir()
    change = adds(
        tmpfs("/a/b", "size=1m"), bind(source, "/a", "rbind"), tmpfs("/a/sub/deep", "size=2m"), tmpfs("/a/sub/deep", "size=3m")
    )
    box = made(container, change)
    root = Path(f"/proc/{box.pid}/root")
    assert (root / "a/file").read_text() == "file", "the second mount covers what was mounted below it before"
    sizes = [mount["super"] for mount in mounted(box) if mount["point"] == "/a/sub/deep"]
    assert ["size=2048k" in sizes[0], "size=3072k" in sizes[1]] == [True, True]
    seen = subprocess.run(["stat", "-f", "-c", "%b %S", root / "a/sub/deep"], capture_output=True, text=True, check=True)
    blocks, size = map(int, seen.stdout.split())
    assert blocks * size == 3 << 20


@clauses("config.mounts.destination.relative")
@pytest.mark.parametrize("destination", ["here", "srv/there"])
def test_a_relative_destination_begins_at_the_root(container: Make, destination: str) -> None:
    box = made(container, lambda config: (adds(tmpfs(destination))(config), config["process"].update(cwd="/srv"))[0])
    assert mount_of(box, f"/{destination}")["type"] == "tmpfs"


@clauses("config.mounts.options.data")
def test_options_that_are_unknown_go_to_the_filesystem(container: Make) -> None:
    box = made(container, adds(tmpfs("/here", "nosuid", "size=1m", "nodev", "nr_inodes=77", "mode=751")))
    assert {"size=1024k", "nr_inodes=77", "mode=751", "nosuid", "nodev"} <= options_of(box, "/here")


# ---- options of a filesystem ---------------------------------------------------------------------------------------------------

# Option: those that are given, those that mountinfo then has, those that it has not.
OF_TMPFS: dict[str, tuple[str, str, str]] = {
    "async": ("sync async", "", "sync"),
    "atime": ("noatime atime", "", "noatime"),
    "defaults": ("defaults", "rw relatime", "nosuid nodev noexec noatime sync defaults"),
    "dev": ("nodev dev", "", "nodev"),
    "diratime": ("nodiratime diratime", "", "nodiratime"),
    "dirsync": ("dirsync", "dirsync", ""),
    "exec": ("noexec exec", "", "noexec"),
    "iversion": ("iversion", "rw", "iversion"),
    "lazytime": ("lazytime", "lazytime", ""),
    "loud": ("silent loud", "rw", "loud silent"),
    "noatime": ("noatime", "noatime", "relatime"),
    "nodev": ("nodev", "nodev", ""),
    "nodiratime": ("nodiratime", "nodiratime", ""),
    "noexec": ("noexec", "noexec", ""),
    "noiversion": ("iversion noiversion", "rw", "iversion noiversion"),
    "nolazytime": ("lazytime nolazytime", "", "lazytime"),
    "norelatime": ("relatime norelatime", "rw", "noatime norelatime"),
    "nostrictatime": ("strictatime nostrictatime", "relatime", "strictatime"),
    "nosuid": ("nosuid", "nosuid", ""),
    "nosymfollow": ("nosymfollow", "nosymfollow", ""),
    "relatime": ("relatime", "relatime", "noatime"),
    "ro": ("ro", "ro", ""),
    "rw": ("ro rw", "rw", "ro"),
    "silent": ("silent", "rw", "silent"),
    "strictatime": ("strictatime", "rw", "relatime noatime"),
    "suid": ("nosuid suid", "", "nosuid"),
    "symfollow": ("nosymfollow symfollow", "", "nosymfollow"),
    "sync": ("sync", "sync", ""),
}


def _marked(names: Any) -> list[Any]:
    return [pytest.param(name, marks=clauses(f"config.mounts.options.{name}")) for name in names]


@pytest.mark.parametrize("option", _marked(OF_TMPFS))
def test_an_option_of_a_filesystem_works(container: Make, option: str) -> None:
    given, there, absent = (text.split() for text in OF_TMPFS[option])
    found = options_of(made(container, adds(tmpfs("/here", *given))), "/here")
    assert (set(there) - found, set(absent) & found) == (set(), set())


@clauses("config.mounts.options.remount")
def test_remount_changes_a_mount_that_is_there(container: Make) -> None:
    box = made(container, adds(tmpfs("/here", "size=1m"), tmpfs("/here", "remount", "ro", "nosuid", "size=1m")))
    assert [mount["point"] for mount in mounted(box)].count("/here") == 1
    assert {"ro", "nosuid"} <= options_of(box, "/here")


# ---- bind mounts and what is below them ----------------------------------------------------------------------------------------


@clauses("config.mounts.options.bind")
def test_bind_shows_the_source_without_what_is_mounted_below(container: Make, source: Path) -> None:
    box = made(container, adds(bind(source, "/here", "bind"), bind(source / "file", "/one", "bind")))
    root = Path(f"/proc/{box.pid}/root")
    assert (root / "one").samefile(source / "file")
    assert (root / "here/file").read_text() == "file"
    assert os.listdir(root / "here/sub") == []


@clauses("config.mounts.options.rbind")
def test_rbind_shows_the_source_with_what_is_mounted_below(container: Make, source: Path) -> None:
    box = made(container, adds(bind(source, "/here", "rbind")))
    root = Path(f"/proc/{box.pid}/root")
    assert [(root / "here" / name).read_text() for name in ("file", "sub/inner")] == ["file", "inner"]


# Option: how both mounts of the source are before, and what mountinfo has, or has not (not so), of both then.
RECURSIVE: dict[str, tuple[str, str]] = {
    "ratime": ("noatime", "not noatime"),
    "rdev": ("nodev", "not nodev"),
    "rdiratime": ("nodiratime", "not nodiratime"),
    "rexec": ("noexec", "not noexec"),
    "rnoatime": ("relatime", "noatime"),
    "rnodiratime": ("diratime", "nodiratime"),
    "rnoexec": ("exec", "noexec"),
    "rnorelatime": ("relatime", "rw"),
    "rnostrictatime": ("strictatime", "not strictatime"),
    "rnosuid": ("suid", "nosuid"),
    "rnosymfollow": ("symfollow", "nosymfollow"),
    "rrelatime": ("noatime", "relatime"),
    "rro": ("rw", "ro"),
    "rrw": ("ro", "rw"),
    "rstrictatime": ("noatime", "not noatime"),
    "rsuid": ("nosuid", "not nosuid"),
    "rsymfollow": ("nosymfollow", "not nosymfollow"),
}


@pytest.mark.parametrize("option", _marked(RECURSIVE))
def test_a_recursive_option_works_below_too(container: Make, source: Path, option: str) -> None:
    before, wanted = RECURSIVE[option]
    for path in (source, source / "sub"):
        subprocess.run(["mount", "-o", f"remount,bind,{before}", path], check=True)
    box = made(container, adds(bind(source, "/here", "rbind", option)))
    word = wanted.removeprefix("not ")
    for point in ("/here", "/here/sub"):
        assert (word in options_of(box, point)) == (word == wanted), point


def propagation(box: Container, point: str) -> str:
    """shared, slave, unbindable or private."""
    tags = {tag.partition(":")[0] for tag in mount_of(box, point)["optional"].split()}
    return " ".join(sorted(tags & {"shared", "master", "unbindable"})).replace("master", "slave") or "private"


@pytest.mark.parametrize(
    "option", _marked(["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"])
)
def test_propagation_of_a_bind_mount_is_the_one_that_is_asked_for(container: Make, source: Path, option: str) -> None:
    kind = option if option in ("shared", "slave") else option.removeprefix("r")
    before = "--make-rshared" if kind != "shared" else "--make-rprivate"
    subprocess.run(["mount", before, source], check=True)
    box = made(container, adds(bind(source, "/here", "rbind", option)))
    assert propagation(box, "/here") == kind
    if option != kind:
        assert propagation(box, "/here/sub") == kind


# ---- mappings of ids -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def owned(source: Path) -> Path:
    """The source, and what is mounted in it, with files of an id that only the mapping of the mount gives to root."""
    for name in ("file", "sub/inner"):
        os.chown(source / name, 0, 0)
    return source


def _mappings_of(option: str, source: Path, *, user: bool, own: bool) -> Change:
    """With ``own``, 0 on the disk is OWN in the mount; the container's root is FROM if it has a user namespace."""

    def change(config: Config) -> None:
        how = {"uidMappings": ids(OWN), "gidMappings": ids(OWN)} if own else {}
        adds(bind(source, "/here", "bind" if option == "idmap" else "rbind", option, **how))(config)
        if user:
            set_namespace(config, "user")
            config["linux"].update(uidMappings=ids(FROM), gidMappings=ids(FROM))

    return change


def owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


def _clauses_of(names: str) -> list[Any]:
    return [
        pytest.param(option, marks=clauses(*(f"config.mounts.options.{option}{name}" for name in names.split(" "))))
        for option in ("idmap", "ridmap")
    ]


@clauses("config.mounts.mappings.setattr")
@pytest.mark.parametrize("option", _clauses_of(" .mapped .own .data .setattr"))
def test_the_mappings_of_a_mount_are_those_that_it_has(container: Make, owned: Path, option: str) -> None:
    """The mount shows other owners, and the files on the disk keep theirs: nothing but mount_setattr does that."""
    box = made(container, _mappings_of(option, owned, user=False, own=True))
    root = Path(f"/proc/{box.pid}/root")
    assert owner(root / "here/file") == (OWN, OWN)
    if option == "ridmap":
        assert owner(root / "here/sub/inner") == (OWN, OWN)
    assert owner(owned / "file") == (0, 0)
    assert option not in options_of(box, "/here")


@pytest.mark.parametrize("option", _clauses_of(".none"))
def test_a_mapping_that_nobody_gives_is_an_error(container: Make, owned: Path, option: str) -> None:
    box = container(*SLEEP, mutate=_mappings_of(option, owned, user=False, own=False))
    assert box.create(check=False).status != 0
    assert box.runtime("state", box.id, check=False).status != 0


@pytest.mark.parametrize(
    "missing", [pytest.param(name, marks=clauses(f"config.mounts.{other}")) for name, other in
                (("gidMappings", "uidMappings"), ("uidMappings", "gidMappings"))]
)  # fmt: skip
def test_mappings_of_users_and_of_groups_come_together(container: Make, owned: Path, missing: str) -> None:
    box = container(*SLEEP, mutate=_mappings_of("idmap", owned, user=False, own=True))
    if box.create(check=False).status != 0:
        pytest.skip("mappings of a mount are refused complete too: this machine or runtime lacks them")
    box.delete("--force")
    del box.bundle.config["mounts"][-1][missing]
    box.bundle.write()
    assert box.create(check=False).status != 0, "the runtime has taken it"
