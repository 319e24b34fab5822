"""config.mounts in detail: options, order, mount points, sources, id maps (config.md, Mounts). Plain cases: test_filesystem.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mount_at, mounts, set_namespace

Make = Callable[..., Container]
Probe = Callable[..., dict[str, Any]]
Change = Callable[[Config], None]

FROM = 100000
MAP = [{"containerID": 0, "hostID": FROM, "size": 65536}]


def adds(*more: dict[str, Any]) -> Change:
    def change(config: Config) -> None:
        config["mounts"] += more
        config["root"]["readonly"] = False

    return change


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "none", "source": str(source), "options": ["bind", *options]}


def options_of(report: dict[str, Any], point: str) -> set[str]:
    return set(mount_at(report, point)["options"].split(","))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file, and with a mount in which there is another."""
    path = tmp_path / "source"
    (path / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path / "sub"], check=True)
    (path / "file").write_text("file")
    (path / "sub/inner").write_text("inner")
    yield path
    subprocess.run(["umount", path / "sub"], check=True)


def user_namespace(config: Config) -> None:
    set_namespace(config, "user")
    config["linux"].update(uidMappings=MAP, gidMappings=MAP)


def give_rootfs(box: Container) -> Container:
    subprocess.run(["chown", "-R", "-h", f"{FROM}:{FROM}", box.bundle.rootfs], check=True)
    return box


# ---- binds ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/mounts/*/options=bind", "/mounts/*/options=rbind")
def test_bind_takes_the_directory_alone_and_rbind_what_is_mounted_below(probe: Probe, source: Path) -> None:
    plain = probe(adds(bind(source, "/here")))
    whole = probe(adds(bind(source, "/here", "rbind")))
    assert mount_at(plain, "/here")
    assert not any(" /here/sub " in line for line in plain["mountinfo"])
    assert mount_at(whole, "/here/sub")["type"] == "tmpfs"


@pytest.mark.parametrize("options", [["bind"], [], ["rbind"]], ids=["bind", "by type alone", "rbind"])
def test_a_bind_mount_may_be_named_by_type(container: Make, source: Path, options: list[str]) -> None:
    mount = {"destination": "/here", "type": "bind", "source": str(source), "options": options}
    assert container("/bin/cat", "/here/file", mutate=adds(mount)).run().stdout == "file"


@pytest.mark.spec("/mounts/*/type")
def test_a_bind_mount_needs_no_type(container: Make, source: Path) -> None:
    mount = {"destination": "/here", "source": str(source), "options": ["bind"]}
    assert container("/bin/cat", "/here/file", mutate=adds(mount)).run().stdout == "file"


def test_the_host_sees_what_is_written_to_a_bind_mount(container: Make, source: Path) -> None:
    container("/bin/sh", "-c", "echo new >/here/new", mutate=adds(bind(source, "/here"))).run()
    assert (source / "new").read_text() == "new\n"


@pytest.mark.parametrize("kind", ["dir", "file"])
def test_a_read_only_bind_cannot_be_written(container: Make, source: Path, kind: str) -> None:
    mount = bind(source, "/here", "ro") if kind == "dir" else bind(source / "file", "/here/file", "ro")
    box = container("/bin/sh", "-c", "echo new >/here/file", mutate=adds(mount))
    assert box.run(check=False).status == 1
    assert "Read-only" in box.errors.read_text()
    assert (source / "file").read_text() == "file"


def test_a_bind_mount_leaves_the_options_of_its_source_as_they_are(probe: Probe, source: Path) -> None:
    probe(adds(bind(source / "sub", "/here", "ro", "nosuid", "noexec", "noatime")))
    ours = next(mount for mount in mounts() if mount["point"] == str(source / "sub"))
    assert not {"ro", "nosuid", "noexec", "noatime"} & set(ours["options"].split(","))


@pytest.mark.parametrize(
    ("of_source", "asked", "wanted"),
    [
        ("ro", [], {"ro", "relatime"}),
        ("ro", ["rw"], {"rw", "relatime"}),
        ("noexec,nosuid", ["nodev"], {"rw", "noexec", "nosuid", "nodev", "relatime"}),
        ("noexec", ["exec"], {"rw", "relatime"}),
        ("noatime", [], {"rw", "noatime"}),
        ("noatime", ["relatime"], {"rw", "relatime"}),
        ("noatime", ["strictatime"], {"rw"}),
    ],
    ids=["inherited", "rw of ro", "added", "exec of noexec", "atime inherited", "relatime", "strictatime"],
)
def test_options_of_the_source_are_kept_unless_named(
    probe: Probe, source: Path, of_source: str, asked: list[str], wanted: set[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,bind," + of_source, source / "sub"], check=True)
    assert options_of(probe(adds(bind(source / "sub", "/here", *asked))), "/here") == wanted


@pytest.mark.parametrize("option", ["noatime", "relatime", "strictatime"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_one_kind_of_access_time_is_in_force(probe: Probe, source: Path, kind: str, option: str) -> None:
    mount = tmpfs("/here", option) if kind == "tmpfs" else bind(source, "/here", option)
    assert options_of(probe(adds(mount)), "/here") & {"noatime", "relatime"} == {option} - {"strictatime"}


@pytest.mark.spec("/mounts/*/options=defaults")
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["ro", "rw"], {"rw", "relatime"}),
        (["rw", "ro"], {"ro", "relatime"}),
        (["noexec", "exec"], {"rw", "relatime"}),
        (["noatime", "strictatime", "relatime"], {"rw", "relatime"}),
        (["relatime", "noatime"], {"rw", "noatime"}),
        (["nosuid", "nodev", "defaults"], {"rw", "nosuid", "nodev", "relatime"}),
        (["nodev,nosuid", "ro"], {"ro", "nodev", "nosuid", "relatime"}),
    ],
)
def test_of_options_that_exclude_each_other_the_last_is_in_force(
    probe: Probe, source: Path, options: list[str], wanted: set[str]
) -> None:
    assert options_of(probe(adds(bind(source, "/here", *options))), "/here") == wanted


ON_AND_OFF = [
    ("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec"), ("nodiratime", "diratime"),
    ("nosymfollow", "symfollow"), ("noatime", "atime"), ("noatime", "relatime"), ("noatime", "strictatime"),
]  # fmt: skip


@pytest.mark.spec(
    "/mounts/*/options=ro", "/mounts/*/options=rro", "/mounts/*/options=rw", "/mounts/*/options=rrw", "/mounts/*/options=*suid",
    "/mounts/*/options=*dev", "/mounts/*/options=*exec", "/mounts/*/options=*diratime", "/mounts/*/options=*symfollow",
    "/mounts/*/options=atime", "/mounts/*/options=ratime", "/mounts/*/options=noatime", "/mounts/*/options=rnoatime",
    "/mounts/*/options=relatime", "/mounts/*/options=rrelatime", "/mounts/*/options=strictatime",
    "/mounts/*/options=rstrictatime",
)  # fmt: skip
@pytest.mark.parametrize("recursive", ["", "r"], ids=["one", "recursive"])
@pytest.mark.parametrize(("on", "off"), ON_AND_OFF)
def test_an_option_is_put_on_a_mount_and_taken_off(probe: Probe, source: Path, recursive: str, on: str, off: str) -> None:
    points = ("/here", "/here/sub") if recursive else ("/here",)
    mount = bind(source if recursive else source / "sub", "/here")

    def with_option(option: str) -> list[set[str]]:
        seen = probe(adds(mount | {"options": [recursive + "bind", recursive + option]}))
        return [options_of(seen, point) for point in points]

    assert all(on in options for options in with_option(on))
    subprocess.run(["mount", "-o", f"remount,bind,{on}", source / "sub"], check=True)
    assert not any(on in options for options in with_option(off))


@pytest.mark.spec(
    "/mounts/*/options=norelatime", "/mounts/*/options=rnorelatime", "/mounts/*/options=nostrictatime",
    "/mounts/*/options=rnostrictatime",
)  # fmt: skip
@pytest.mark.parametrize("recursive", ["", "r"], ids=["one", "recursive"])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("strictatime relatime", {"relatime"}),
        ("strictatime nostrictatime", {"relatime"}),
        ("strictatime norelatime", set()),
        ("noatime nostrictatime", {"noatime"}),
        ("noatime norelatime", {"noatime"}),
        ("noatime atime", {"relatime"}),
    ],
)
def test_an_access_time_that_is_taken_off_leaves_the_others(
    probe: Probe, source: Path, recursive: str, options: str, wanted: set[str]
) -> None:
    asked = [recursive + option for option in options.split()]
    seen = probe(adds(bind(source if recursive else source / "sub", "/here") | {"options": [recursive + "bind", *asked]}))
    assert options_of(seen, "/here/sub" if recursive else "/here") & {"noatime", "relatime"} == wanted


def test_recursive_options_and_their_exceptions_at_the_top(probe: Probe, source: Path) -> None:
    seen = probe(adds(bind(source, "/here", "rbind", "rro", "rnoexec", "rw")))
    assert {"rw", "noexec"} <= options_of(seen, "/here")
    assert {"ro", "noexec"} <= options_of(seen, "/here/sub")


def test_a_recursive_option_takes_back_what_lies_below(probe: Probe, source: Path) -> None:
    subprocess.run(["mount", "-o", "remount,bind,ro,noexec", source / "sub"], check=True)
    assert {"ro", "noexec"} <= options_of(probe(adds(bind(source, "/here", "rbind"))), "/here/sub")
    seen = options_of(probe(adds(bind(source, "/here", "rbind", "rrw", "rexec"))), "/here/sub")
    assert "rw" in seen
    assert "noexec" not in seen


@pytest.mark.spec(
    "/mounts/*/options=*private", "/mounts/*/options=*slave", "/mounts/*/options=*shared", "/mounts/*/options=*unbindable",
)  # fmt: skip
@pytest.mark.parametrize("option", ["rprivate", "private", "rslave", "slave", "rshared", "shared", "unbindable", "runbindable"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_has_the_propagation_asked_for(probe: Probe, source: Path, kind: str, option: str) -> None:
    mount = tmpfs("/here", option) if kind == "tmpfs" else bind(source, "/here", "rbind", option)
    seen = probe(adds(mount))
    wanted = "shared" if option.endswith("shared") else "unbindable" if option.endswith("unbindable") else ""
    assert mount_at(seen, "/here")["optional"].startswith(wanted)
    assert bool(mount_at(seen, "/here")["optional"]) == bool(wanted)
    if kind == "bind":
        assert bool(mount_at(seen, "/here/sub")["optional"]) == (bool(wanted) and option.startswith("r"))


def test_a_source_is_followed_through_links(container: Make, source: Path) -> None:
    (source.parent / "link").symlink_to("source")
    (source.parent / "direct").symlink_to("source/file")
    mutate = adds(bind(source.parent / "link", "/here"), bind(source.parent / "direct", "/file"))
    assert container("/bin/cat", "/here/file", "/file", mutate=mutate).run().stdout == "filefile"


def test_a_source_that_is_unbindable_is_an_error_that_says_so(container: Make, source: Path) -> None:
    subprocess.run(["mount", "--make-unbindable", source / "sub"], check=True)
    box = container("/bin/true", mutate=adds(bind(source / "sub", "/here")))
    assert box.create(check=False).status == 1
    assert "(/mounts/7)" in box.errors.read_text()
    assert "; is it on an unbindable mount?" in box.errors.read_text()


@pytest.mark.spec("/mounts/*/destination", "/mounts/*/source")
def test_names_with_blanks_and_other_letters(container: Make, tmp_path: Path) -> None:
    name = 'a b\t"c"\\,ü:=\n#'
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text("here")
    mutate = adds(bind(tmp_path / name, "/" + name))
    assert container("/bin/cat", f"/{name}/file", mutate=mutate).run().stdout == "here"


@pytest.mark.parametrize("kind", ["socket", "fifo", "device"])
def test_a_file_of_any_kind_is_bound_on_a_file(probe: Probe, tmp_path: Path, kind: str) -> None:
    import socket

    path = tmp_path / "special"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(tmp_path)
            listener.bind("special")
            os.chdir("/")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    assert mount_at(probe(adds(bind(path, "/run/new/special"))), "/run/new/special")


def test_a_bind_of_the_whole_host_stays_possible(probe: Probe) -> None:
    seen = probe(adds(bind("/", "/host", "rbind", "rslave", "ro")))
    assert "ro" in options_of(seen, "/host")
    assert mount_at(seen, "/host/proc")["type"] == "proc"


def test_a_hundred_mounts(probe: Probe, source: Path) -> None:
    seen = probe(adds(*[bind(source, f"/many/{number}", "ro") for number in range(100)]))
    assert all(mount_at(seen, f"/many/{number}") for number in range(100))


# ---- order and mount points ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("/mounts/*/destination")
def test_mounts_are_made_in_the_order_of_the_config(container: Make, source: Path) -> None:
    below = container("/bin/ls", "/a/b", mutate=adds(tmpfs("/a"), bind(source, "/a/b")))
    covered = container("/bin/ls", "/a", mutate=adds(bind(source, "/a/b"), tmpfs("/a")))
    assert below.run().stdout.split() == ["file", "sub"]
    assert covered.run().stdout == ""


def test_the_last_of_two_mounts_on_one_place_is_seen(container: Make, source: Path) -> None:
    assert container("/bin/ls", "/a", mutate=adds(bind(source, "/a"), bind(source / "sub", "/a"))).run().stdout == "inner\n"


def test_a_mount_point_in_an_earlier_bind_mount_is_made_on_the_host(container: Make, source: Path) -> None:
    container("/bin/true", mutate=adds(bind(source, "/a"), tmpfs("/a/deep/er"))).run()
    assert (source / "deep/er").is_dir()
    assert list((source / "deep/er").iterdir()) == []


def test_a_mount_point_that_is_missing_in_a_read_only_mount_is_an_error_that_says_so(container: Make, source: Path) -> None:
    box = container("/bin/true", mutate=adds(bind(source, "/a", "ro"), tmpfs("/a/missing")))
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert "on /a/missing (" in said
    assert "(/mounts/8)" in said
    assert "read-only" in said.lower()
    assert not (source / "missing").exists()


@pytest.mark.parametrize(
    ("links", "destination", "found"),
    [
        ({"to": "real"}, "/to", "real"),
        ({"to": "/real"}, "/to/deep", "real/deep"),
        ({"etc/to": "/real"}, "/etc/to/deep/er", "real/deep/er"),
        ({"one": "two", "two": "/three", "three": "real"}, "/one/x", "real/x"),
        ({"up": "../../../../real"}, "/up", "real"),
        ({"etc/up": "../real/./a/../b"}, "/etc/up/c", "real/b/c"),
        ({"dangling": "gone/away"}, "/dangling/below", "gone/away/below"),
        ({}, "/real/../other/./place//", "other/place"),
        ({}, "relative/place", "relative/place"),
        ({}, "/../../above", "above"),
    ],
    ids=["relative", "absolute", "absolute below", "a chain", "up", "dots", "dangling", "a path with dots", "no slash", "above"],
)
def test_a_mount_point_is_found_and_made_inside_the_root(
    container: Make, links: dict[str, str], destination: str, found: str
) -> None:
    box = container(mutate=adds(tmpfs(destination)))
    (box.bundle.rootfs / "real/a").mkdir(parents=True)
    for name, target in links.items():
        (box.bundle.rootfs / name).symlink_to(target)
    assert mount_at(box.run().json, "/" + found)["type"] == "tmpfs"
    assert (box.bundle.rootfs / found).is_dir()


def test_links_that_go_round_are_an_error(container: Make) -> None:
    box = container("/bin/true", mutate=adds(tmpfs("/round/x")))
    (box.bundle.rootfs / "round").symlink_to("about")
    (box.bundle.rootfs / "about").symlink_to("round")
    assert box.create(check=False).status == 1
    assert "on /round/x (" in box.errors.read_text()
    assert "(/mounts/7)" in box.errors.read_text()


def test_a_path_through_a_file_is_an_error_that_names_the_mount(container: Make) -> None:
    box = container("/bin/true", mutate=adds(tmpfs("/etc/passwd/x")))
    assert box.create(check=False).status == 1
    assert "on /etc/passwd/x (" in box.errors.read_text()
    assert "(/mounts/7)" in box.errors.read_text()


def test_a_filesystem_on_a_file_is_an_error_that_names_the_mount(container: Make) -> None:
    box = container("/bin/true", mutate=adds(tmpfs("/etc/passwd")))
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert "on /etc/passwd (" in said
    assert "(/mounts/7)" in said
    assert "not a directory on a directory, nor a file on a file" in said


def test_a_directory_on_a_file_is_an_error_in_words(container: Make, source: Path) -> None:
    box = container("/bin/true", mutate=adds(bind(source, "/etc/passwd")))
    assert box.create(check=False).status == 1
    assert "not a directory on a directory, nor a file on a file" in box.errors.read_text()


def test_the_mode_of_mount_points_that_are_made(container: Make, source: Path) -> None:
    old = os.umask(0o077)
    try:
        box = container("/bin/true", mutate=adds(tmpfs("/one/two"), bind(source / "file", "/one/file")))
        box.run()
    finally:
        os.umask(old)
    root = box.bundle.rootfs
    assert [(root / name).stat().st_mode & 0o777 for name in ("one", "one/two", "one/file")] == [0o755, 0o755, 0o644]


# ---- other filesystems ---------------------------------------------------------------------------------------------------------


def replaced(destination: str, **values: Any) -> Change:
    def change(config: Config) -> None:
        next(mount for mount in config["mounts"] if mount["destination"] == destination).update(values)

    return change


def test_proc_hides_processes_of_others_if_asked_to(probe: Probe) -> None:
    seen = probe(replaced("/proc", options=["hidepid=2", "gid=7", "nosuid"]))
    mount = mount_at(seen, "/proc")
    assert {"gid=7"} <= set(mount["super"].split(","))
    assert "hidepid=invisible" in mount["super"]
    assert "nosuid" in mount["options"]
    assert "hidepid" not in Path("/proc/self/mountinfo").read_text()


def test_proc_shows_the_processes_of_the_container_only(container: Make) -> None:
    box = container("/bin/sh", "-c", "ls /proc | grep '^[0-9]'")
    assert {int(pid) for pid in box.run().stdout.split()} <= set(range(1, 10))


def test_a_proc_of_the_host_stays_as_it_is_when_the_containers_is_read_only(container: Make) -> None:
    """One superblock for all of a pid namespace: "ro" is of the mount alone."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "pid"]
        replaced("/proc", options=["ro"])(config)

    assert "ro" in options_of(container(mutate=change).run().json, "/proc")
    own = [mount for mount in mounts() if mount["point"] == "/proc"]
    assert own[-1]["super"].startswith("rw")
    Path("/proc/self/comm").write_text("still")


@pytest.mark.parametrize("network", ["network", None])
def test_sysfs_is_read_only_for_the_container_alone(container: Make, network: str | None) -> None:
    def change(config: Config) -> None:
        if not network:
            config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "network"]

    seen = container(mutate=change).run().json
    assert "ro" in options_of(seen, "/sys")
    assert mount_at(seen, "/sys")["super"].startswith("rw")
    assert next(mount for mount in mounts() if mount["point"] == "/sys")["super"].startswith("rw")


def test_a_devpts_of_its_own_shows_no_terminal_of_the_host(container: Make) -> None:
    import pty

    master, slave = pty.openpty()
    try:
        assert container("/bin/ls", "/dev/pts").run().stdout.split() == ["ptmx"]
    finally:
        os.close(master)
        os.close(slave)


def test_message_queues_are_those_of_the_ipc_namespace(container: Make) -> None:
    script = "ls /dev/mqueue; stat -c %a /dev/mqueue; touch /dev/mqueue/q && ls /dev/mqueue"
    assert container("/bin/sh", "-c", script).run().stdout.split() == ["1777", "q"]


@pytest.mark.spec(
    "/mounts/*/options=sync", "/mounts/*/options=async", "/mounts/*/options=dirsync", "/mounts/*/options=*mand",
    "/mounts/*/options=*lazytime", "/mounts/*/options=*iversion", "/mounts/*/options=silent", "/mounts/*/options=loud",
)  # fmt: skip
@pytest.mark.parametrize("option", ["sync", "dirsync", "lazytime", "iversion", "silent", "mand"])
@pytest.mark.parametrize("off", [False, True], ids=["on", "and taken back"])
def test_options_of_a_superblock(probe: Probe, option: str, off: bool) -> None:
    back = {"sync": "async", "silent": "loud", "dirsync": "defaults"}.get(option, "no" + option)  # nothing takes dirsync back
    mount = tmpfs("/here", option, *([back] if off else []), "nodev")
    seen = mount_at(probe(adds(mount)), "/here")
    assert "nodev" in seen["options"]
    shown = option in seen["super"].split(",")
    assert shown == (not off or option == "dirsync") or option in ("iversion", "silent", "mand")  # the kernel does not show these


@pytest.mark.spec("/mounts/*/type", "/mounts/*/options")
def test_an_overlay_with_upper_layer(container: Make, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/old").write_text("old")
    layers = [f"lowerdir={tmp_path}/lower", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"]
    overlay = {"destination": "/o", "type": "overlay", "source": "overlay", "options": layers}
    box = container("/bin/sh", "-c", "cat /o/old; echo new >/o/new", mutate=adds(overlay))
    assert box.run().stdout == "old"
    assert (tmp_path / "upper/new").read_text() == "new\n"


def long_layers(tmp_path: Path, count: int) -> list[Path]:
    layers = [tmp_path / f"{number}{'x' * 60}" for number in range(count)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / str(number)).touch()
    return layers


@pytest.mark.parametrize("count", [2, 4, 20])
def test_an_overlay_of_many_layers_has_them_all(container: Make, tmp_path: Path, count: int) -> None:
    """fsconfig takes no value over 255 bytes, and mount(2) no page of options."""
    layers = long_layers(tmp_path, count)
    lower = "lowerdir=" + ":".join(map(str, layers))
    overlay = {"destination": "/o", "type": "overlay", "source": "overlay", "options": [lower, "ro", "nosuid", "rslave"]}
    box = container("/bin/ls", "/o", mutate=adds(overlay))
    assert sorted(map(int, box.run().stdout.split())) == list(range(count))


def test_options_beyond_a_page_are_an_error_in_words(container: Make, tmp_path: Path) -> None:
    layers = long_layers(tmp_path, 60)
    overlay = {"destination": "/o", "type": "overlay", "source": "overlay", "options": ["lowerdir=" + ":".join(map(str, layers))]}
    box = container("/bin/true", mutate=adds(overlay))
    assert box.create(check=False).status == 1
    assert "/mounts/7" in box.errors.read_text()
    assert box.errors.read_text().count("\n") == 1


@pytest.mark.parametrize("option", ["ro", "nosuid", "noexec", "noatime"])
def test_the_other_way_to_mount_has_the_same_options(probe: Probe, option: str) -> None:
    """iversion takes mount(2)."""
    assert option in options_of(probe(adds(tmpfs("/here", "iversion", option))), "/here")


def test_propagation_of_a_mount_made_the_other_way(probe: Probe) -> None:
    assert mount_at(probe(adds(tmpfs("/here", "silent", "rshared"))), "/here")["optional"].startswith("shared")


# ---- remount -------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/mounts/*/options=remount")
def test_remount_changes_a_mount_that_is_there(probe: Probe, source: Path) -> None:
    again = {"destination": "/here", "type": "none", "source": "none", "options": ["remount", "bind", "ro", "noexec"]}
    seen = options_of(probe(adds(bind(source, "/here", "nosuid"), again)), "/here")
    assert {"ro", "noexec", "nosuid"} <= seen


def test_remount_of_the_root(probe: Probe) -> None:
    again = {"destination": "/", "type": "none", "source": "none", "options": ["remount", "bind", "nosuid"]}
    assert "nosuid" in options_of(probe(adds(again)), "/")


def test_remount_of_what_is_not_mounted_is_an_error(container: Make) -> None:
    again = {"destination": "/etc", "type": "none", "source": "none", "options": ["remount", "bind", "ro"]}
    box = container("/bin/true", mutate=adds(again))
    assert box.create(check=False).status == 1
    assert "(/mounts/7)" in box.errors.read_text()
    assert "nothing is mounted there" in box.errors.read_text()


# ---- id maps -------------------------------------------------------------------------------------------------------------------


def owned(path: Path, uid: int, gid: int) -> Path:
    path.touch()
    os.chown(path, uid, gid)
    return path


def test_idmap_takes_the_maps_of_the_user_namespace(container: Make, tmp_path: Path) -> None:
    """So that the files of the host's users are the container's."""
    data = tmp_path / "data"
    data.mkdir()
    owned(data / "zero", 0, 0)
    owned(data / "user", 1000, 1001)

    def change(config: Config) -> None:
        user_namespace(config)
        adds(bind(data, "/data", "idmap"))(config)

    box = give_rootfs(container("/bin/sh", "-c", "stat -c %u:%g /data/zero /data/user; touch /data/new", mutate=change))
    assert box.run().stdout.split() == ["0:0", "1000:1001"]
    assert (os.stat(data / "new").st_uid, os.stat(data / "new").st_gid) == (0, 0)


@pytest.mark.spec("/mounts/*/?idMappings/*")
def test_maps_of_a_mount_win_over_those_of_the_user_namespace(container: Make, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    owned(data / "user", 1000, 1000)
    mount = bind(data, "/data")
    mount["uidMappings"] = mount["gidMappings"] = [{"containerID": 1000, "hostID": FROM + 5, "size": 1}]

    def change(config: Config) -> None:
        user_namespace(config)
        adds(mount)(config)

    assert give_rootfs(container("/bin/stat", "-c", "%u:%g", "/data/user", mutate=change)).run().stdout.strip() == "5:5"


def test_an_id_without_a_map_is_nobody_and_cannot_be_given(container: Make, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    owned(data / "other", 7, 7)
    mount = bind(data, "/data", "idmap")
    mount["uidMappings"] = mount["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
    script = "stat -c %u:%g /data/other; chown 7 /data/other || touch /data/new"
    box = container("/bin/sh", "-c", script, mutate=adds(mount))
    box.run()
    assert box.output.read_text().split() == ["65534:65534"]
    assert (data / "new").exists()


@pytest.mark.spec("/mounts/*/options=idmap", "/mounts/*/options=ridmap")
@pytest.mark.parametrize(("option", "below"), [("idmap", "1000"), ("ridmap", "5000")])
def test_only_ridmap_reaches_what_is_mounted_below(container: Make, source: Path, option: str, below: str) -> None:
    owned(source / "file", 1000, 1000)
    owned(source / "sub/inner", 1000, 1000)
    mount = bind(source, "/here", "rbind", option)
    mount["uidMappings"] = mount["gidMappings"] = [{"containerID": 1000, "hostID": 5000, "size": 1}]
    box = container("/bin/stat", "-c", "%u", "/here/file", "/here/sub/inner", mutate=adds(mount))
    assert box.run().stdout.split() == ["5000", below]


def test_a_file_can_be_idmapped(container: Make, source: Path) -> None:
    owned(source / "sub/inner", 1000, 1000)
    mount = bind(source / "sub/inner", "/here", "idmap")
    mount["uidMappings"] = mount["gidMappings"] = [{"containerID": 1000, "hostID": 0, "size": 1}]
    assert container("/bin/stat", "-c", "%u:%g", "/here", mutate=adds(mount)).run().stdout.strip() == "0:0"


def test_idmapped_and_read_only_and_private(probe: Probe, source: Path) -> None:
    mount = bind(source, "/here", "idmap", "ro", "nosuid", "rprivate")
    mount["uidMappings"] = mount["gidMappings"] = [{"containerID": 0, "hostID": 5000, "size": 10}]
    assert {"idmapped", "ro", "nosuid"} <= options_of(probe(adds(mount)), "/here")


def test_a_filesystem_that_cannot_be_idmapped_is_an_error_in_words(container: Make) -> None:
    mount = bind("/sys/kernel", "/here", "idmap")
    mount["uidMappings"] = mount["gidMappings"] = [{"containerID": 0, "hostID": 5000, "size": 10}]
    box = container("/bin/true", mutate=adds(mount))
    assert box.create(check=False).status == 1
    said = box.errors.read_text()
    assert "/mounts/7" in said
    assert "support idmapped mounts" in said
