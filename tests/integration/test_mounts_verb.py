"""mounts add and remove: a running container gets mounts, and loses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mounts, set_namespace

Make = Callable[..., Container]


def with_user_namespace(config: Config) -> None:
    set_namespace(config, "user")
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)


def writable(config: Config) -> None:
    config["root"]["readonly"] = False


@pytest.fixture
def box(container: Make) -> Container:
    made = container("/bin/sleep", "1000", mutate=writable)
    made.run("--detach")
    return made


def listed(tmp_path: Path, *items: dict[str, Any]) -> Path:
    path = tmp_path / "mounts.json"
    path.write_text(json.dumps(items))
    return path


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "source": str(source), "type": "bind", "options": ["bind", *options]}


def seen(box: Container) -> dict[str, dict[str, str]]:
    return {mount["point"]: mount for mount in mounts(Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines())}


def test_a_bind_of_the_host_and_a_new_filesystem_come_and_go(box: Container, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    (source / "file").write_text("of the host")
    path = listed(tmp_path, bind(source, "/data", "ro"), {"destination": "/fresh", "type": "tmpfs", "source": "tmpfs"})
    box.runtime("mounts", "add", box.id, path)
    assert box.exec("cat", "/data/file").stdout == "of the host"
    assert "ro" in seen(box)["/data"]["options"].split(",")
    assert seen(box)["/fresh"]["type"] == "tmpfs"
    box.runtime("mounts", "remove", box.id, path)
    assert not {"/data", "/fresh"} & set(seen(box))
    assert (source / "file").read_text() == "of the host"


def test_the_file_may_be_an_object_with_mounts(box: Container, tmp_path: Path) -> None:
    path = tmp_path / "object.json"
    path.write_text('  { "mounts": [{"destination": "/fresh", "type": "tmpfs", "source": "tmpfs"}] }')
    box.runtime("mounts", "add", box.id, path)
    assert "/fresh" in seen(box)


def test_a_procfs_shows_the_processes_of_the_container(box: Container, tmp_path: Path) -> None:
    box.runtime("mounts", "add", box.id, listed(tmp_path, {"destination": "/more", "type": "tmpfs", "source": "tmpfs"}))
    path = listed(tmp_path, {"destination": "/more/proc", "type": "proc", "source": "proc"})
    box.runtime("mounts", "add", box.id, path)
    assert box.exec("cat", "/more/proc/1/comm").stdout == "sleep\n"


def test_in_a_user_namespace_too(container: Make, tmp_path: Path) -> None:
    def mutate(config: Config) -> None:
        with_user_namespace(config)
        config["mounts"].append({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"})

    box = container("/bin/sleep", "1000", mutate=mutate)
    box.run("--detach")
    source = tmp_path / "data"
    source.mkdir()
    path = listed(tmp_path, bind(source, "/mnt/data"), {"destination": "/mnt/fresh", "type": "tmpfs", "source": "tmpfs"})
    box.runtime("mounts", "add", box.id, path)
    assert {"/mnt/data", "/mnt/fresh"} <= set(seen(box))
    box.runtime("mounts", "remove", box.id, path)
    assert not {"/mnt/data", "/mnt/fresh"} & set(seen(box))


def test_when_one_fails_those_before_it_go_again(box: Container, tmp_path: Path) -> None:
    before = set(seen(box))
    fresh = {"type": "tmpfs", "source": "tmpfs"}
    bad = {"destination": "/bad", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense=1"]}
    path = listed(tmp_path, {"destination": "/one", **fresh}, {"destination": "/two", **fresh}, bad)
    result = box.runtime("mounts", "add", box.id, path, check=False)
    assert (result.status, result.stdout) == (1, "")
    assert "mount tmpfs on /bad" in result.stderr and "(/mounts/2)" in result.stderr and "nonsense=1" in result.stderr
    assert set(seen(box)) == before


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"destination": "/data", "source": "/nowhere", "options": ["bind"]}, '/data (/mounts/0): bind: source "/nowhere"'),
        ({"destination": "/proc/sys", "type": "tmpfs"}, "(/mounts/0/destination): nothing can be mounted below /proc"),
        ({"type": "tmpfs"}, "destination"),
    ],
)
def test_what_config_json_may_not_have_is_refused(box: Container, tmp_path: Path, item: dict[str, Any], said: str) -> None:
    result = box.runtime("mounts", "add", box.id, listed(tmp_path, item), check=False)
    assert result.status == 1
    assert said in result.stderr


def test_what_is_not_mounted_cannot_be_removed(box: Container, tmp_path: Path) -> None:
    result = box.runtime("mounts", "remove", box.id, listed(tmp_path, {"destination": "/etc"}), check=False)
    assert result.status == 1
    assert result.stderr == "ocipy: unmount /etc (/mounts/0): umount2: invalid argument; nothing is mounted there\n"


def test_a_container_cannot_choose_by_a_symlink_what_is_removed(box: Container, tmp_path: Path) -> None:
    box.exec("ln", "-s", "/proc", "/data")
    before = set(seen(box))
    for destination in ("/data", "/data/sys"):
        result = box.runtime("mounts", "remove", box.id, listed(tmp_path, {"destination": destination}), check=False)
        assert result.status == 1, destination
    assert set(seen(box)) == before


def test_a_paused_container_gets_mounts_too(box: Container, tmp_path: Path) -> None:
    box.runtime("pause", box.id)
    box.runtime("mounts", "add", box.id, listed(tmp_path, {"destination": "/fresh", "type": "tmpfs", "source": "tmpfs"}))
    assert "/fresh" in seen(box)


def test_a_stopped_container_has_no_mounts_to_change(box: Container, tmp_path: Path) -> None:
    box.kill()
    box.wait_for("stopped")
    result = box.runtime("mounts", "add", box.id, listed(tmp_path), check=False)
    assert "container not running" in result.stderr
