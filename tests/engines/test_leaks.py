"""The leak checks look at the right places: there a container of each engine is seen while it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from bundles import PREFIX, wait_until
from engines.engine import IMAGE, Engine

Look = Callable[[], dict[str, set[str]]]
KINDS = {"mount", "cgroup", "process", "state"}

CTR = "run --detach --runc-binary {0.runtime} --runc-root {0.directory}/containers"
DETACHED = {
    "ctr": (f"{CTR} {IMAGE} seen sleep 1000", "task delete --force seen", "container delete seen"),
    "docker": (f"run --detach --name seen {IMAGE} sleep 1000", "rm --force seen"),
    "podman": (f"run --detach --cgroup-parent /{PREFIX} --name seen {IMAGE} sleep 1000", "rm --force --time 0 seen"),
}


def seen(engine: Engine, look: Look, before: tuple[dict[str, set[str]], ...]) -> set[str]:
    """The kinds of which there is more than before."""
    now = look(), engine.traces()
    return {kind for old, new in zip(before, now, strict=True) for kind in new if new[kind] - old[kind]}


@pytest.mark.parametrize("name", DETACHED)
def test_a_running_container_is_seen_by_every_leak_check(request: pytest.FixtureRequest, look: Look, name: str) -> None:
    engine: Engine = request.getfixturevalue(name)
    before = look(), engine.traces()
    start, *end = (words.format(engine).split() for words in DETACHED[name])
    engine(*start)
    found = seen(engine, look, before)
    for words in end:
        engine(*words, check=False)
    assert found >= KINDS


def test_a_command_of_buildah_is_seen_by_every_leak_check(buildah: Engine, look: Look) -> None:
    parent = f"/{PREFIX}/buildah"
    name = buildah("from", "--pull-never", "--network", "none", "--cgroup-parent", parent, IMAGE).stdout.strip()
    before = look(), buildah.traces()
    argv = [*buildah.argv, "run", "--network", "none", name, "--", "cat"]
    with subprocess.Popen(argv, env=buildah.env, stdin=subprocess.PIPE) as command:  # leaving closes its input: the end of cat
        wait_until(lambda: seen(buildah, look, before) >= KINDS, 10, "mounts, a cgroup, processes and a state")
    assert command.returncode == 0
    buildah("rm", name)


def test_a_pod_of_the_cri_is_seen_by_every_leak_check(cri: Engine, look: Look) -> None:
    from engines.cri import Cri, Pod  # with gRPC, which only tests of the CRI need

    assert isinstance(cri, Cri)
    before = look(), cri.traces()
    pod = Pod(cri, {}, "")
    pod.start("sleep", "1000")
    found = seen(cri, look, before)
    pod.close()
    assert found >= KINDS
