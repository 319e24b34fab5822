"""linux.intelRdt: classes of service and groups to monitor (config-linux.md, IntelRdt), against our own resctrl (resctrl.py)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import REPOSITORY, Bundle, Config, Container, Runtime, runtime_path, wait_until
from resctrl import TYPE, Resctrl

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse: resctrl cannot be stood in for")

WRAPPER = f"""#!{REPOSITORY}/.venv/bin/python -I
import sys
from ocipy.linux import intel_rdt
intel_rdt.FILESYSTEM = b"{TYPE}"
from ocipy.cli.boot import boot
boot(sys.argv[1:])
"""
Make = Callable[..., Container]


@pytest.fixture
def resctrl(tmp_path: Path) -> Iterator[Resctrl]:
    made = Resctrl(tmp_path / "resctrl with a space")
    made.mount()
    yield made
    made.unmount()


@pytest.fixture
def runtime(tmp_path: Path, resctrl: Resctrl, no_leaks: None) -> Iterator[Runtime]:
    """One that takes our filesystem for resctrl."""
    wrapper = tmp_path / "ocipy-with-resctrl"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    runtime = Runtime(tmp_path / "runtime", str(wrapper))
    yield runtime
    assert not runtime.close()


@pytest.fixture
def box(runtime: Runtime, bundle: Callable[..., Bundle]) -> Make:
    """``box({"closID": "gold"})``: a container that sleeps, called "box" if no other id is given."""

    def make(rdt: dict[str, Any] | None, change: Callable[[Config], object] = lambda config: None, id: str = "box") -> Container:
        def mutate(config: Config) -> None:
            if rdt is not None:
                config["linux"]["intelRdt"] = rdt
            change(config)

        return runtime.container(bundle("/bin/sleep", "1000", mutate=mutate), f"{id}-{os.getpid()}")

    return make


def refused(box: Container, resctrl: Resctrl) -> str:
    """The error of a create that fails; no group is left, and none is gone."""
    before = set(resctrl.groups)
    answer = box.create(check=False)
    assert answer.status == 1
    assert set(resctrl.groups) == before
    said = box.errors.read_text()
    assert said.count("\n") == 1, said
    return said


# ---- the class of service -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rdt", [{}, {"schemata": ["L3:0=f0"]}], ids=["nothing", "schemata"])
def test_without_a_name_the_class_is_the_containers_and_goes_with_it(box: Make, resctrl: Resctrl, rdt: dict[str, Any]) -> None:
    container = box(rdt)
    container.create()
    assert set(resctrl.groups) == {"", container.id}
    assert resctrl.tasks(container.id) == [container.pid]
    assert [path for path, _ in resctrl.written if path.endswith("schemata")] == [f"{container.id}/schemata"] * len(rdt)
    container.delete("--force")
    assert set(resctrl.groups) == {""}


def test_the_launcher_leaves_a_class_to_python_to_remove(box: Make, resctrl: Resctrl) -> None:
    container = box({})
    container.create()
    container.runtime.path = runtime_path()
    container.delete()
    assert set(resctrl.groups) == {""}


def test_a_class_of_the_containers_name_that_was_there_stays(box: Make, resctrl: Resctrl) -> None:
    container = box({"memBwSchema": "MB:0=50"})
    resctrl.make(container.id)
    container.create()
    assert resctrl.tasks(container.id) == [container.pid]
    assert resctrl.schemata(container.id) == "L3:0=fff;1=fff MB:0=50;1=100"
    container.delete("--force")
    assert set(resctrl.groups) == {"", container.id}


@pytest.mark.parametrize("rdt", [{"l3CacheSchema": "L3:0=f"}, {"memBwSchema": "MB:0=50"}], ids=["l3", "mb"])
def test_either_schema_alone_is_written(box: Make, resctrl: Resctrl, rdt: dict[str, str]) -> None:
    container = box(rdt)
    container.create()
    wanted = [(f"{container.id}/schemata", f"{line}\n") for line in rdt.values()]
    assert [write for write in resctrl.written if write[0].endswith("schemata")] == wanted
    container.delete("--force")


@pytest.mark.spec(
    "/linux/intelRdt/closID", "/linux/intelRdt/schemata", "/linux/intelRdt/l3CacheSchema", "/linux/intelRdt/memBwSchema",
    needs="RDT in the CPU: a fake tree of resctrl",
)  # fmt: skip
def test_a_class_that_is_named_and_has_schemata_is_made_and_stays(box: Make, resctrl: Resctrl) -> None:
    rdt = {"closID": "gold", "l3CacheSchema": "L3:0=7f0;1=1f", "memBwSchema": "MB:0=20;1=70", "schemata": ["L3:0=f", "MB:1=30"]}
    container = box(rdt)
    container.create()
    assert resctrl.tasks("gold") == [container.pid]
    assert resctrl.schemata("gold") == "L3:0=00f;1=01f MB:0=20;1=30"
    wanted = ["L3:0=7f0;1=1f\n", "MB:0=20;1=70\n", "L3:0=f\nMB:1=30\n"]
    assert [text for path, text in resctrl.written if path == "gold/schemata"] == wanted
    container.delete("--force")
    assert set(resctrl.groups) == {"", "gold"}


def test_a_class_that_is_only_named_must_be_there(box: Make, resctrl: Resctrl) -> None:
    said = refused(box({"closID": "gold"}), resctrl)
    assert "use the class of service" in said
    assert "(/linux/intelRdt/closID): stat: no such file or directory; it must exist already" in said
    resctrl.make("gold")
    container = box({"closID": "gold"})
    container.create()
    assert resctrl.tasks("gold") == [container.pid]
    assert not [path for path, _ in resctrl.written if path.endswith("schemata")]
    container.delete("--force")
    assert set(resctrl.groups) == {"", "gold"}


def test_the_root_is_the_default_class(box: Make, resctrl: Resctrl) -> None:
    container = box({"closID": "/"})
    container.create()
    assert resctrl.written == [("tasks", str(container.pid))]
    container.delete("--force")


@pytest.mark.parametrize("line", ["L3:0=7f0;1=1f", "L3:1=01F"])
def test_a_class_that_has_what_is_asked_for_is_shared(box: Make, resctrl: Resctrl, line: str) -> None:
    resctrl.make("gold", "L3:0=7f0;1=1f\n")
    box({"closID": "gold", "l3CacheSchema": line}).create()
    assert resctrl.schemata("gold") == "L3:0=7f0;1=01f MB:0=100;1=100"


@pytest.mark.parametrize(
    "rdt", [{"l3CacheSchema": "L3:0=7f0;1=f"}, {"memBwSchema": "MB:0=50"}, {"l3CacheSchema": "L3:2=1"}], ids=["l3", "mb", "id"]
)
def test_a_class_that_has_something_else_is_an_error_and_stays_as_it_is(
    box: Make, resctrl: Resctrl, rdt: dict[str, str]
) -> None:
    resctrl.make("gold", "L3:0=7f0;1=1f\n")
    said = refused(box({"closID": "gold", **rdt}), resctrl)
    assert f'it is asked for "{next(iter(rdt.values()))}" and has "' in said
    assert resctrl.schemata("gold") == "L3:0=7f0;1=01f MB:0=100;1=100"


def test_exec_enters_what_the_container_is_in(box: Make, resctrl: Resctrl, runtime: Runtime, tmp_path: Path) -> None:
    container = box({"enableMonitoring": True})
    container.run("--detach")
    pid_file = tmp_path / "pid"
    container.exec("/bin/sleep", "1000", flags=["--detach", "--pid-file", pid_file])
    pid = int(pid_file.read_text())
    monitored = f"{container.id}/mon_groups/{container.id}"
    assert resctrl.tasks(container.id) == resctrl.tasks(monitored) == [container.pid, pid]
    container.kill("KILL")
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or container.wait_exit(pid) is not None, 5, "the process to end")


# ---- monitoring -----------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/intelRdt/enableMonitoring", needs="RDT in the CPU: a fake tree of resctrl")
@pytest.mark.parametrize("closid", [None, "gold", "/"], ids=["own", "named", "root"])
def test_a_group_to_monitor_is_the_containers_and_goes_with_it(box: Make, resctrl: Resctrl, closid: str | None) -> None:
    resctrl.make("gold")
    container = box({"enableMonitoring": True} | ({"closID": closid} if closid else {}))
    container.create()
    group = {None: container.id, "/": ""}.get(closid, closid)
    monitored = f"{group}/mon_groups/{container.id}".lstrip("/")
    assert resctrl.tasks(str(group)) == resctrl.tasks(monitored) == [container.pid]
    container.delete("--force")
    assert set(resctrl.groups) == {"", "gold"}


def test_a_group_to_monitor_that_is_there_already_is_an_error(box: Make, resctrl: Resctrl) -> None:
    container = box({"closID": "/", "enableMonitoring": True})
    resctrl.make(f"mon_groups/{container.id}")
    said = refused(container, resctrl)
    assert "(/linux/intelRdt/enableMonitoring): mkdir: file exists; " in said


# ---- refused, and undone --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closid", [None, "gold"], ids=["own", "named"])
def test_what_the_kernel_refuses_is_an_error_in_its_words_and_leaves_nothing(
    box: Make, resctrl: Resctrl, closid: str | None
) -> None:
    rdt = {"schemata": ["L3:0=f0", "L3:1=505"]} | ({"closID": closid} if closid else {})
    said = refused(box(rdt), resctrl)
    assert 'write "L3:0=f0, L3:1=505" to ' in said
    assert "write: invalid argument; The mask 505 has non-consecutive 1-bits" in said


def test_no_class_that_is_left_is_an_error(box: Make, resctrl: Resctrl) -> None:
    for name in ("a", "b", "c"):
        resctrl.make(name)
    assert "mkdir: no space left on device; Out of CLOSIDs; the CPU has no more of them" in refused(box({}), resctrl)


@pytest.mark.parametrize("flags", [[], ["--pid-file", "/nowhere/pid"]], ids=["hook", "pid-file"])
def test_a_class_that_a_failed_create_has_made_goes(box: Make, resctrl: Resctrl, flags: list[str]) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}
    hooks = {} if flags else {"createRuntime": [hook]}
    rdt = {"closID": "gold", "schemata": ["MB:0=50"], "enableMonitoring": True}
    container = box(rdt, lambda config: config.update(hooks=hooks))
    assert container.create(*flags, check=False).status == 1
    assert set(resctrl.groups) == {""}


def test_a_class_that_a_killed_create_has_made_goes_with_delete(box: Make, resctrl: Resctrl, runtime: Runtime) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "1000"]}
    rdt = {"closID": "gold", "schemata": ["MB:0=50"], "enableMonitoring": True}
    container = box(rdt, lambda config: config.update(hooks={"createRuntime": [hook]}))
    argv = [runtime.path, "--root", str(runtime.root), "create", "--bundle", str(container.bundle.path), container.id]
    with open(container.errors, "wb") as errors:
        create = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    wait_until(lambda: bool(resctrl.tasks("gold/mon_groups/" + container.id)) if len(resctrl.groups) > 2 else False, 10, "a task")
    create.kill()
    create.wait()
    container.delete("--force")
    assert set(resctrl.groups) == {""}


def test_without_a_mounted_resctrl_it_is_an_error_that_says_so(box: Make, resctrl: Resctrl) -> None:
    container = box({"closID": "/"})
    container.runtime.path = runtime_path()
    assert refused(container, resctrl) == (
        "ocipy: linux.intelRdt (/linux/intelRdt): no resctrl filesystem is mounted: mount -t resctrl resctrl /sys/fs/resctrl "
        "(takes a CPU that has RDT)\n"
    )


def test_without_the_property_resctrl_is_left_alone(box: Make, resctrl: Resctrl) -> None:
    container = box(None)
    container.run("--detach")
    container.delete("--force")
    assert resctrl.written == []


# ---- update, plan ---------------------------------------------------------------------------------------------------------------


def test_update_changes_the_schemata(box: Make, resctrl: Resctrl, runtime: Runtime) -> None:
    container = box({})
    container.create()
    runtime("update", "--l3-cache-schema", "L3:0=f", "--mem-bw-schema", "MB:1=20", "--pids-limit", "77", container.id)
    assert resctrl.schemata(container.id) == "L3:0=00f;1=fff MB:0=100;1=20"
    assert (container.cgroup("pids") / "pids.max").read_text() == "77\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--l3-cache-schema", "L3:0=f", "--mem-bw-schema", "MB:0=5"], "MB value 5 out of range"),
        (["--l3-cache-schema", "L3:0=f", "--cpu-period", "1"], "cpu"),
        (["--l3-cache-schema", "MB:0=50"], "l3-cache-schema"),
        (["--mem-bw-schema", "MB:0=50\nL3:0=f"], "mem-bw-schema"),
    ],
    ids=["kernel", "cgroup", "other", "lines"],
)
def test_an_update_that_is_refused_changes_nothing(
    box: Make, resctrl: Resctrl, runtime: Runtime, flags: list[str], words: str
) -> None:
    container = box({})
    container.create()
    refused = runtime("update", *flags, container.id, check=False)
    assert refused.status == 1
    assert words in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert resctrl.schemata(container.id) == "L3:0=fff;1=fff MB:0=100;1=100"


def test_update_of_a_container_without_a_class_is_refused(box: Make, runtime: Runtime) -> None:
    container = box(None)
    container.create()
    said = runtime("update", "--mem-bw-schema", "MB:0=50", container.id, check=False).stderr
    assert said == f'ocipy: cannot update container "{container.id}": it was made without linux.intelRdt\n'


def test_the_plan_says_what_is_made_and_entered(box: Make, resctrl: Resctrl, runtime: Runtime) -> None:
    container = box({"closID": "gold", "l3CacheSchema": "L3:0=f", "enableMonitoring": True})
    plan = json.loads(runtime("plan", "--format", "json", container.bundle.path).stdout)
    texts = [step["text"].replace(str(resctrl.point), "") for step in plan if step["origin"].startswith("/linux/intelRdt")]
    name = container.bundle.path.name
    assert texts == [
        "make the group /gold of resctrl unless it is there, write 'L3:0=f' to its schemata",
        f"make the group /gold/mon_groups/{name} of resctrl",
        f"enter the groups /gold, /gold/mon_groups/{name} of resctrl",
    ]
