from __future__ import annotations

import json

import pytest

from ocipy.config import capabilities as config_capabilities
from ocipy.linux import namespaces, process, seccomp
from ocipy.plan import ops, render
from ocipy.plan.step import Step

EXAMPLES = {"s": "text", "t": "text", "u": 3, "l": ["one", "two"], "b": bytes(8), "f": "slot"}
RUNTIME_EXAMPLES: dict[str, object] = {
    "uid": [{"containerID": 0, "hostID": 1, "size": 2}], "gid": [], "offsets": {"boottime": {"secs": 1}}, "args": ["a", "b"],
    "timeout": 3, "attr_set": 1, "attr_clr": 0x70, "rec_set": 2, "rec_clr": 4, "paths": {"memory": "/x"}, "controllers": ["memory"],
    "properties": [("Slice", "s", "a.slice")],
}  # fmt: skip


@pytest.mark.parametrize("op", ops.ALL.values(), ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["bare", "full"])
def test_every_op_has_words_with_and_without_its_fields(op: ops.Op, full: bool) -> None:
    assert op.name in render._WORDS
    values = {name: EXAMPLES.get(kind, RUNTIME_EXAMPLES.get(name, "x")) for name, kind in op.fields}
    text = render.describe(Step(op, "/x", **(values if full else {})))
    assert text
    assert "\n" not in text
    assert "lambda" not in text


def test_no_words_are_left_over_from_ops_that_are_gone() -> None:
    assert set(render._WORDS) <= set(ops.ALL)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step(ops.UNSHARE, flags=0x20020000), "make new namespaces: CLONE_NEWNS|CLONE_NEWPID"),
        (
            Step(ops.MOUNT, dest="/proc", fstype="proc", source="proc", options=["hidepid=2"], attrs=0xE, flags=1),
            "mount proc on /proc (hidepid=2, MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC, no symlinks)",
        ),
        (Step(ops.PROPAGATION, path="/", flags=0x84000), "set the propagation of / to MS_REC|MS_SLAVE"),
        (
            Step(ops.CAPABILITIES, effective=1 << 5, permitted=(1 << 41) - 1, ambient=0),
            "set capabilities: effective CAP_KILL; permitted all; inheritable none; ambient none",
        ),
        (
            Step(ops.DEVICE, path="/dev/null", mode=0o020666, rdev=1 << 32 | 3),
            "make character device 1:3 /dev/null (mode 0666, owner 0:0)",
        ),
        (
            Step(ops.ID_MAPS, uid=[{"containerID": 0, "hostID": 1000, "size": 1}], gid=[], setgroups=False),
            "map uids 0:1000:1 and gids none (container:host:size), and deny setgroups",
        ),
        (
            Step(ops.MEMORY_POLICY, mode=2 | 1 << 15, nodes=(0b1011).to_bytes(8, "little")),
            "set the memory policy MPOL_BIND (MPOL_F_STATIC_NODES) on nodes 0-1,3",
        ),
        (Step(ops.USER, uid=1, gid=2, groups=b"\x05\0\0\0\x06\0\0\0", set_groups=1), "become uid 1, gid 2, groups 5 6"),
    ],
    ids=lambda value: value.op.name if isinstance(value, Step) else "",
)
def test_numbers_become_the_words_of_the_kernel(step: Step, text: str) -> None:
    assert render.describe(step) == text


def test_the_names_are_those_that_config_and_linux_know() -> None:
    assert config_capabilities.NAMES == render.CAPABILITIES
    assert {name: number for number, name in enumerate(render.MPOL_MODES)} == process.MEMORY_POLICIES
    assert process.MEMORY_POLICY_FLAGS == render.MPOL_FLAGS
    assert sorted(namespaces.CLONE_FLAGS.values()) == sorted(render.CLONE.values())
    assert {name: flag for name, flag in render.SECCOMP_FLAGS.items() if seccomp.FLAGS.get(name)} == {
        name: flag for name, flag in seccomp.FLAGS.items() if flag
    }


def test_unknown_bits_are_shown_and_never_lost() -> None:
    assert render.names(0x40000001, render.MS) == "MS_RDONLY|0x40000000"


PLAN = [
    Step(ops.MAKE_CGROUP, "/linux/cgroupsPath", path="/sys/fs/cgroup/memory/x"),
    Step(ops.SPAWN, "/process"),
    Step(ops.UNSHARE, "/linux/namespaces", flags=0x20000),
    Step(ops.CLONE_INIT),
    Step(ops.HOSTNAME, "/hostname", name="a\nb"),
    Step(ops.RLIMIT, "/process/rlimits/0", resource="RLIMIT_NOFILE", soft=1, hard=2),
    Step(ops.WAIT_START),
    Step(ops.SECCOMP, "/linux/seccomp", filter=bytes(16)),
]


def test_a_plan_as_text_numbers_every_step_names_its_pointer_and_who_does_it() -> None:
    assert render.as_text(PLAN) == (
        "the runtime, before there is a process:\n"
        "    0  /linux/cgroupsPath  make the cgroup /sys/fs/cgroup/memory/x\n"
        "    1  /process            start the stage from the sealed init\n"
        "\n"
        "the stage, still executed in the host's user namespace:\n"
        "    2  /linux/namespaces   make new namespaces: CLONE_NEWNS\n"
        "    3                      clone init, the container process, into the new namespaces\n"
        "\n"
        "init, in the container's namespaces:\n"
        "    4  /hostname           set the hostname a\\nb\n"
        "\n"
        "the runtime, while init waits:\n"
        "    5  /process/rlimits/0  set RLIMIT_NOFILE to 1, at most 2\n"
        "\n"
        "init, in the container's namespaces:\n"
        "    6                      wait for start\n"
        "\n"
        "init, after start:\n"
        "    7  /linux/seccomp      load a seccomp filter of 2 instructions\n"
    )


def test_a_plan_as_json_has_all_fields_and_only_the_size_of_bytes() -> None:
    objects = json.loads(json.dumps(render.as_objects(PLAN)))
    assert [item["index"] for item in objects] == list(range(len(PLAN)))
    assert objects[2] == {
        "index": 2, "op": "UNSHARE", "where": "init", "origin": "/linux/namespaces", "flags": 0x20000,
        "text": "make new namespaces: CLONE_NEWNS",
    }  # fmt: skip
    assert objects[7]["filter"] == {"bytes": 16}
