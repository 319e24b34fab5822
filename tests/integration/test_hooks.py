"""The six hooks: order, place, state on standard input, environment, failure (config.md, POSIX-platform Hooks)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, mounts, set_namespace

Make = Callable[..., Container]
OUTSIDE = ("prestart", "createRuntime", "poststart", "poststop")
INSIDE = ("createContainer", "startContainer")
ORDER = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], **more}


def record(log: Path) -> Callable[[Config], None]:
    """Every hook appends its kind, namespace and state; createContainer sees the host's paths, startContainer the container's."""

    def change(config: Config) -> None:
        config["root"]["readonly"] = False
        config["hooks"] = {
            kind: [hook(f'echo "{kind} $(readlink /proc/self/ns/mnt) $(cat)" >>{"/log" if kind == "startContainer" else log}')]
            for kind in ORDER
        }

    return change


def entries(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    lines = (line.split(" ", 2) for line in path.read_text().splitlines())
    return [(kind, namespace, json.loads(state)) for kind, namespace, state in lines]


@pytest.mark.spec("/hooks/*/path", "/annotations")
def test_hooks_run_in_order_each_in_its_namespaces_with_the_state(container: Make, tmp_path: Path) -> None:
    log = tmp_path / "log"
    box = container("/bin/sleep", "1000", mutate=record(log))
    box.bundle.config["annotations"] = {"org.example.key": "value"}
    box.bundle.write()
    box.create()
    pid, ours = box.pid, os.readlink("/proc/self/ns/mnt")
    theirs = os.readlink(f"/proc/{pid}/ns/mnt")
    box.start()
    inside = entries(box.bundle.rootfs / "log")
    box.kill("KILL")
    box.wait_exit(pid)
    box.delete()
    seen = entries(log)
    assert [kind for kind, _, _ in seen] == [kind for kind in ORDER if kind != "startContainer"]
    assert {kind: namespace for kind, namespace, _ in seen + inside} == dict.fromkeys(OUTSIDE, ours) | dict.fromkeys(INSIDE, theirs)
    states = {kind: state for kind, _, state in seen + inside}
    assert {kind: state["status"] for kind, state in states.items()} == {
        "prestart": "created", "createRuntime": "creating", "createContainer": "creating", "startContainer": "created",
        "poststart": "running", "poststop": "stopped",
    }  # fmt: skip
    assert {kind: state.get("pid") for kind, state in states.items()} == {
        "prestart": pid, "createRuntime": pid, "createContainer": 1, "startContainer": 1, "poststart": pid, "poststop": None,
    }  # fmt: skip
    for state in states.values():
        assert (state["id"], state["bundle"], state["ociVersion"]) == (box.id, str(box.bundle.path), "1.3.0")
        assert state["annotations"] == {"org.example.key": "value"}


def test_create_runtime_hooks_find_the_mounts_made_and_the_root_not_pivoted(container: Make, tmp_path: Path) -> None:
    def change(config: Config) -> None:
        script = 'pid=$(sed "s/.*\\"pid\\": *\\([0-9]*\\).*/\\1/"); grep -c " /dev/shm\\| /.*/dev/shm" /proc/$pid/mountinfo >'
        config["hooks"] = {"createRuntime": [hook(script + str(tmp_path / "count"))]}

    box = container("/bin/true", mutate=change)
    box.run()
    assert int((tmp_path / "count").read_text()) >= 1


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_during_create_undoes_it_and_runs_poststop(container: Make, tmp_path: Path, kind: str) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {
            kind: [hook("echo why it failed >&2; exit 3"), hook(f"touch {tmp_path}/second")],
            "poststop": [hook(f"touch {tmp_path}/poststop")],
        }

    box = container("/bin/true", mutate=change)
    answer = box.create(check=False)
    text = box.errors.read_text()
    assert answer.status == 1
    assert f"/hooks/{kind}/0" in text and "exit status 3" in text and "why it failed" in text
    assert text.count("\n") == 1
    assert (tmp_path / "poststop").exists()
    assert not (tmp_path / "second").exists()
    assert not list(box.runtime.root.iterdir())


def test_a_start_container_hook_that_fails_stops_the_container_before_its_program(container: Make) -> None:
    def change(config: Config) -> None:
        config["root"]["readonly"] = False
        config["hooks"] = {"startContainer": [hook("exit 4")]}

    box = container("/bin/touch", "/ran", mutate=change)
    box.create()
    pid = box.pid
    answer = box.start(check=False)
    assert answer.status == 1
    assert "/hooks/startContainer/0" in answer.stderr and "exit status 4" in answer.stderr
    box.wait_exit(pid)
    assert not (box.bundle.rootfs / "ran").exists()
    assert box.status == "stopped"


def test_a_poststart_hook_that_fails_stops_the_container(container: Make) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {"poststart": [hook("exit 5")]}

    box = container("/bin/sleep", "1000", mutate=change)
    box.create()
    pid = box.pid
    answer = box.start(check=False)
    assert answer.status == 1
    assert "/hooks/poststart/0" in answer.stderr
    assert box.wait_exit(pid) == -9
    assert box.status == "stopped"


def test_poststart_runs_after_the_program_was_executed(container: Make, tmp_path: Path) -> None:
    def change(config: Config) -> None:
        script = f'pid=$(sed "s/.*\\"pid\\": *\\([0-9]*\\).*/\\1/"); cat /proc/$pid/comm >{tmp_path}/comm'
        config["hooks"] = {"poststart": [hook(script)]}

    box = container("/bin/sleep", "1000", mutate=change)
    box.create()
    box.start()
    assert (tmp_path / "comm").read_text() == "sleep\n"


def test_a_poststop_hook_that_fails_is_a_warning_and_the_next_one_runs(container: Make, tmp_path: Path) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {"poststop": [hook("exit 6"), hook(f"touch {tmp_path}/second")]}

    box = container("/bin/true", mutate=change)
    box.create()
    answer = box.delete("--force")
    assert "warning" in answer.stderr and "/hooks/poststop/0" in answer.stderr
    assert (tmp_path / "second").exists()


@pytest.mark.spec("/hooks/*/timeout")
@pytest.mark.parametrize("kind", ORDER)
def test_a_hook_that_takes_too_long_is_killed_with_its_group(container: Make, kind: str) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {kind: [hook("sleep 1000 & sleep 1000", timeout=1)]}

    box = container("/bin/sleep", "1000", mutate=change)
    answer = box.create(check=False)
    if not answer.status and kind != "poststop":
        answer = box.start(check=False)
    assert answer.status == (kind != "poststop")
    if kind == "poststop":
        answer = box.delete("--force")
    assert f"/hooks/{kind}/0" in answer.stderr
    assert re.search("(timeout of|timed out after) 1 s", answer.stderr)


@pytest.mark.spec("/hooks/*/env", "/hooks/*/args", "/hooks/*/path")
@pytest.mark.parametrize("kind", ORDER)
def test_the_environment_of_a_hook_is_its_own_and_nothing_else(container: Make, tmp_path: Path, kind: str) -> None:
    """LD_PRELOAD of the process or of the caller must not reach a hook."""

    def change(config: Config) -> None:
        config["root"]["readonly"] = False
        config["process"]["env"].append("LD_PRELOAD=/evil.so")
        place = "/seen" if kind == "startContainer" else tmp_path / "seen"
        config["hooks"] = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"env >{place}"], "env": ["PATH=/bin", "A=b"]}]
        }

    box = container("/bin/true", mutate=change)
    box.run(env={"PATH": os.environ["PATH"], "SECRET": "1"})
    seen = (box.bundle.rootfs if kind == "startContainer" else tmp_path) / "seen"
    names = {line.partition("=")[0] for line in seen.read_text().splitlines() if line}
    assert {"PATH", "A"} <= names <= {"PATH", "A", "PWD", "SHLVL", "_", "OLDPWD"}


def test_a_hook_that_does_not_exist_is_an_error(container: Make) -> None:
    box = container("/bin/true", mutate=lambda config: config.update(hooks={"createRuntime": [{"path": "/no/such/hook"}]}))
    assert box.create(check=False).status == 1
    assert "/no/such/hook" in box.errors.read_text()
    assert "no such file or directory" in box.errors.read_text()


def test_large_annotations_do_not_block_a_hook_that_does_not_read(container: Make) -> None:
    def change(config: Config) -> None:
        config["annotations"] = {f"org.example.{number}": "x" * 1000 for number in range(500)}
        config["hooks"] = {kind: [{"path": "/bin/true"}] for kind in ORDER}

    container("/bin/true", mutate=change).run()


# ---- hooks that mount ----------------------------------------------------------------------------------------------------------

ENTER = """pid=$(tr -d ' \\n' | sed 's/.*"pid":\\([0-9]*\\).*/\\1/'); nsenter --mount --target=$pid """


def hook_that_mounts(config: Config, kind: str, path: Path) -> None:
    """What hooks that add devices and libraries do: they mount below root.path, in the container's mount namespace."""
    config["hooks"] = {kind: [hook(f"{'' if kind == 'createContainer' else ENTER}mount -t tmpfs hooked {path}")]}


def sources(box: Container) -> list[str]:
    return [f"{mount['point']} {mount['source']}" for mount in mounts(Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines())]


@pytest.mark.parametrize("propagation", [None, "shared", "rprivate"])
@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_what_a_hook_mounts_below_the_path_of_the_root_is_in_the_container(
    container: Make, kind: str, propagation: str | None
) -> None:
    box = container("/bin/sleep", "1000")
    hook_that_mounts(box.bundle.config, kind, box.bundle.rootfs / "srv")
    if propagation:
        box.bundle.config["linux"]["rootfsPropagation"] = propagation
    box.bundle.write()
    (box.bundle.rootfs / "srv").mkdir(exist_ok=True)
    box.create()
    assert "/srv hooked" in sources(box)
    assert not [mount for mount in mounts() if mount["source"] == "hooked"]
    box.start()


def test_the_path_of_the_root_may_be_a_link_for_a_hook_that_mounts(container: Make) -> None:
    box = container("/bin/sleep", "1000")
    (box.bundle.path / "link").symlink_to("rootfs")
    box.bundle.config["root"]["path"] = "link"
    hook_that_mounts(box.bundle.config, "createContainer", box.bundle.path / "link/srv")
    box.bundle.write()
    (box.bundle.rootfs / "srv").mkdir(exist_ok=True)
    box.create()
    assert "/srv hooked" in sources(box)


@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["may be entered", "may not be entered"])
def test_with_a_user_namespace_hooks_run_wherever_the_root_is(container: Make, tmp_path: Path, mode: int) -> None:
    """Root of a user namespace may have no way along the path."""

    def change(config: Config) -> None:
        set_namespace(config, "user")
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        config["linux"].update(uidMappings=mapping, gidMappings=mapping)
        config["hooks"] = {"createRuntime": [hook("cat >/dev/null")]}

    box = container("/bin/echo", "ran", mutate=change)
    subprocess.run(["chown", "-R", "-h", "100000:100000", box.bundle.rootfs], check=True)
    box.bundle.path.chmod(mode)
    box.create()
    box.start()
    box.wait_output("ran")
