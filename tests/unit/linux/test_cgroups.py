"""Plans of cgroups, for hosts that are made by hand: no root, no cgroup filesystem."""

from __future__ import annotations

from typing import Any

import pytest

from ocipy.errors import ConfigError
from ocipy.linux.cgroups import absent, plan_birth, plan_cgroup, plan_entry, plan_update
from ocipy.linux.cgroups.host import CgroupHost, parse_cgroup_host
from ocipy.linux.cgroups.owner import plan_owner
from ocipy.linux.cgroups.v2 import controller_paths, cpu_weight, io_weight, plan_limits
from ocipy.plan.step import Step

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids") + (
    "hugetlb", "net_cls", "net_prio", "rdma",
)  # fmt: skip
MOUNTINFO = rb"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
33 31 0:32 /docker/one /mnt/old rw,relatime - cgroup cgroup rw,memory
34 31 0:32 / /sys/fs/cgroup/mem\040ory rw,relatime - cgroup cgroup rw,memory
35 31 0:32 /docker/two /mnt/new rw,relatime - cgroup cgroup rw,memory
36 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
37 31 0:38 / /sys/fs/cgroup/elogind rw,relatime - cgroup cgroup rw,name=elogind
38 31 0:39 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
OWN = b"5:name=elogind:/\n4:memory:/jobs/me\n3:cpu,cpuacct:/\n1:name=systemd:/user\n0::/user\n"


def host(*names: str, **own: str) -> CgroupHost:
    names = names or CONTROLLERS
    return CgroupHost("v1", {name: f"/cg/{name}" for name in names}, {name: own.get(name, "/") for name in names})


def plan(resources: dict[str, Any] | None = None, path: str = "/box", on: CgroupHost | None = None) -> Any:
    config: Any = {"linux": {"resources": resources or {}, **({"cgroupsPath": path} if path else {})}}
    return plan_cgroup(config, on or host(), "id1")


def written(steps: list[Step]) -> list[tuple[str, Any, str | None, str]]:
    """(cgroup, file, value, property) of what is set because the config says so."""
    return [
        (step.get("path"), step.get("file"), step.get("value"), step.origin.removeprefix("/linux/resources/"))
        for step in steps
        if step.op.name == "SET_CGROUP" and step.origin
    ]


# ---- the host --------------------------------------------------------------------------------------------------------


def test_hierarchies_are_read_from_mountinfo_and_the_whole_one_is_preferred() -> None:
    found = parse_cgroup_host(MOUNTINFO, OWN)
    assert found.mode == "hybrid"
    assert found.mounts == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/mem ory",
        "name=systemd": "/sys/fs/cgroup/systemd",
        "name=elogind": "/sys/fs/cgroup/elogind",
        "": "/sys/fs/cgroup/unified",
    }
    assert found.own["memory"] == "/jobs/me"


def test_a_controller_mounted_beside_v2_is_not_the_containers() -> None:
    v2 = b"30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    mountinfo = v2 + b"40 30 0:50 / /run/vpn/net_cls rw - cgroup net_cls rw,net_cls\n"
    found = parse_cgroup_host(mountinfo, b"2:net_cls:/\n0::/\n")
    assert (found.mode, found.mounts) == ("v2", {"": "/sys/fs/cgroup"})


@pytest.mark.parametrize(
    ("mountinfo", "mode"),
    [
        (b"", "none"),
        (b"1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "v2"),
        (b"1 2 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "v1"),
        (b"1 2 0:1 / /c rw - cgroup2 c rw\n1 2 0:1 / /sys/fs/cgroup/systemd rw - cgroup c rw,name=systemd\n", "v2"),
    ],
    ids=["no cgroups", "only v2", "only v1", "v2 and a named hierarchy"],
)
def test_mode_follows_from_what_is_mounted(mountinfo: bytes, mode: str) -> None:
    assert parse_cgroup_host(mountinfo, OWN).mode == mode


def test_a_runtime_in_a_container_starts_at_what_is_mounted_there() -> None:
    line = b"1 2 0:1 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    inside = parse_cgroup_host(line, b"4:memory:/docker/abc/jobs\n")
    assert inside.directory("memory", "/box") == "/sys/fs/cgroup/memory/box"
    assert inside.directory("memory", "box") == "/sys/fs/cgroup/memory/jobs/box"
    assert parse_cgroup_host(line, b"4:memory:/docker/abcd\n").directory("memory", "box") == "/sys/fs/cgroup/memory/box"


# ---- where -----------------------------------------------------------------------------------------------------------


def test_absolute_path_starts_at_each_mount_point() -> None:
    assert plan(path="/a//b/", on=host("cpu", "memory", "devices", memory="/me")).paths == {
        "cpu": "/cg/cpu/a/b",
        "memory": "/cg/memory/a/b",
        "devices": "/cg/devices/a/b",
    }


def test_relative_path_starts_at_the_runtimes_own_cgroup() -> None:
    paths = plan(path="a/b", on=host("memory", "devices", memory="/me")).paths
    assert paths == {"memory": "/cg/memory/me/a/b", "devices": "/cg/devices/a/b"}


def test_without_a_path_the_id_names_the_cgroup_below_our_own() -> None:
    made = plan(path="", on=host("memory", "devices", memory="/me"))
    assert made.paths == {"memory": "/cg/memory/me/id1", "devices": "/cg/devices/id1"}
    assert [step.origin for step in made.make] == ["", ""]


@pytest.mark.parametrize("path", ["/a/../b", "..", "/", "./.", "//", "a\nb"])
def test_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"linux\.cgroupsPath"):
        plan(path=path)


def test_co_mounted_controllers_are_one_cgroup() -> None:
    both = CgroupHost("v1", {"cpu": "/cg/cpu,cpuacct", "cpuacct": "/cg/cpu,cpuacct", "devices": "/cg/devices"})
    made = plan(on=both)
    assert [(step.get("path"), step.get("controllers")) for step in made.make] == [
        ("/cg/cpu,cpuacct/box", ["cpu", "cpuacct"]),
        ("/cg/devices/box", ["devices"]),
    ]


def test_container_joins_systemds_hierarchy_and_v2_but_nobody_elses() -> None:
    config: Any = {"linux": {"cgroupsPath": "/box"}}
    mountinfo = MOUNTINFO.replace(b"cpu,cpuacct rw", b"x rw").replace(b"rw,cpu,", b"rw,devices,")
    on = parse_cgroup_host(mountinfo, OWN + b"9:devices:/\n")
    assert list(plan_cgroup(config, on, "id1").paths) == ["devices", "cpuacct", "memory", "name=systemd", ""]


def test_disabled_cgroups_make_nothing_and_say_what_is_ignored() -> None:
    config: Any = {"linux": {"resources": {"pids": {"limit": 3}}}}
    made = plan_cgroup(config, host(), "id1", manager="disabled")
    assert (made.paths, made.make, made.enter, made.after) == ({}, [], [], [])
    assert made.warnings == ["linux.resources is ignored: cgroups are disabled on the command line"]


def test_a_runtime_without_privilege_leaves_out_what_it_may_not_write() -> None:
    on = host("cpu", "memory", "devices")
    on.denied = frozenset(("memory", "devices"))
    assert list(plan({"devices": [{"allow": False, "access": "rwm"}]}, path="", on=on).paths) == ["cpu"]
    with pytest.raises(ConfigError, match="memory controller is not mounted on this host, or not for us"):
        plan({"memory": {"limit": 1}}, path="", on=on)
    assert list(plan(path="/must/be", on=on).paths) == ["cpu", "memory", "devices"]


# ---- limits of v1 ----------------------------------------------------------------------------------------------------

LIMITS: list[tuple[dict[str, Any], list[tuple[str, Any, str, str]]]] = [
    (
        {"memory": {"reservation": 3, "swap": 9, "limit": 5, "swappiness": 0, "kernelTCP": 7, "disableOOMKiller": True}},
        [
            ("/cg/memory/box", "memory.limit_in_bytes", "5", "memory/limit"),
            ("/cg/memory/box", "memory.memsw.limit_in_bytes", "9", "memory/swap"),
            ("/cg/memory/box", "memory.soft_limit_in_bytes", "3", "memory/reservation"),
            ("/cg/memory/box", "memory.kmem.tcp.limit_in_bytes", "7", "memory/kernelTCP"),
            ("/cg/memory/box", "memory.swappiness", "0", "memory/swappiness"),
            ("/cg/memory/box", "memory.oom_control", "1", "memory/disableOOMKiller"),
        ],
    ),
    ({"memory": {"limit": -1, "swap": -1, "swappiness": 2**64 - 1}}, [
        ("/cg/memory/box", "memory.limit_in_bytes", "-1", "memory/limit"),
        ("/cg/memory/box", "memory.memsw.limit_in_bytes", "-1", "memory/swap"),
    ]),
    (
        {"cpu": {"shares": 2, "quota": 50000, "period": 100000, "burst": 1000, "idle": 0,
                 "realtimeRuntime": 9, "realtimePeriod": 99}},
        [
            ("/cg/cpu/box", "cpu.shares", "2", "cpu/shares"),
            ("/cg/cpu/box", "cpu.idle", "0", "cpu/idle"),
            ("/cg/cpu/box", "cpu.cfs_period_us", "100000", "cpu/period"),
            ("/cg/cpu/box", "cpu.cfs_quota_us", "50000", "cpu/quota"),
            ("/cg/cpu/box", "cpu.cfs_burst_us", "1000", "cpu/burst"),
            ("/cg/cpu/box", "cpu.rt_period_us", "99", "cpu/realtimePeriod"),
            ("/cg/cpu/box", "cpu.rt_runtime_us", "9", "cpu/realtimeRuntime"),
        ],
    ),
    ({"cpu": {"cpus": "0-1", "mems": "0"}}, [
        ("/cg/cpuset/box", "cpuset.cpus", "0-1", "cpu/cpus"), ("/cg/cpuset/box", "cpuset.mems", "0", "cpu/mems"),
    ]),
    (
        {"blockIO": {
            "weight": 10, "leafWeight": 11, "weightDevice": [{"major": 8, "minor": 0, "weight": 5, "leafWeight": 6}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}, {"major": 8, "minor": 16, "rate": 0}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 30}],
        }},
        [
            ("/cg/blkio/box", ["blkio.weight", "blkio.bfq.weight"], "10", "blockIO/weight"),
            ("/cg/blkio/box", "blkio.leaf_weight", "11", "blockIO/leafWeight"),
            ("/cg/blkio/box", ["blkio.weight_device", "blkio.bfq.weight_device"], "8:0 5", "blockIO/weightDevice/0/weight"),
            ("/cg/blkio/box", "blkio.leaf_weight_device", "8:0 6", "blockIO/weightDevice/0/leafWeight"),
            ("/cg/blkio/box", "blkio.throttle.read_bps_device", "8:0 600", "blockIO/throttleReadBpsDevice/0/rate"),
            ("/cg/blkio/box", "blkio.throttle.read_bps_device", "8:16 0", "blockIO/throttleReadBpsDevice/1/rate"),
            ("/cg/blkio/box", "blkio.throttle.write_iops_device", "8:0 30", "blockIO/throttleWriteIOPSDevice/0/rate"),
        ],
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
         "network": {"classID": 7, "priorities": [{"name": "lo", "priority": 3}]},
         "rdma": {"mlx5/1": {"hcaHandles": 3, "hcaObjects": 0}}},
        [
            ("/cg/hugetlb/box", "hugetlb.2MB.limit_in_bytes", "4", "hugepageLimits/0/limit"),
            ("/cg/hugetlb/box", ["hugetlb.2MB.rsvd.limit_in_bytes", None], "4", "hugepageLimits/0/limit"),
            ("/cg/net_cls/box", "net_cls.classid", "7", "network/classID"),
            ("/cg/net_prio/box", "net_prio.ifpriomap", "lo 3", "network/priorities/0"),
            ("/cg/rdma/box", "rdma.max", "mlx5/1 hca_handle=3 hca_object=0", "rdma/mlx5~11"),
        ],
    ),
    ({"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "cpus": ""}, "blockIO": {"weight": 0},
      "network": {"classID": 0}}, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "expected"), LIMITS, ids=["memory", "unlimited memory", "cpu", "cpuset", "blockIO", "others", "zero is unset"]
)
def test_each_limit_is_written_with_its_pointer(resources: dict[str, Any], expected: Any) -> None:
    assert written(plan(resources).make) == expected


def test_cpuset_is_copied_from_the_parent_where_the_config_is_silent() -> None:
    copies = [step for step in plan({"cpu": {"mems": "0"}}).make if step.op.name == "SET_CGROUP" and step.get("value") is None]
    assert [(step.get("path"), step.get("file")) for step in copies] == [("/cg/cpuset/box", "cpuset.cpus")]


@pytest.mark.parametrize(("limit", "value"), [(0, "0"), (5, "5"), (-1, "max")])
def test_pids_limit_waits_until_init_is_born(limit: int, value: str) -> None:
    made = plan({"pids": {"limit": limit}})
    assert written(made.make) == []
    assert written(made.after)[0] == ("/cg/pids/box", "pids.max", value, "pids/limit")


@pytest.mark.parametrize(
    ("resources", "controller"),
    [({"memory": {"limit": 5}}, "memory"), ({"cpu": {"cpus": "0"}}, "cpuset"), ({"pids": {"limit": 0}}, "pids"),
     ({"network": {"classID": 5}}, "net_cls"), ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, "hugetlb")],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_limit_for_a_controller_that_is_not_mounted_is_an_error(resources: dict[str, Any], controller: str) -> None:
    with pytest.raises(ConfigError, match=f"the {controller} controller is not mounted on this host") as caught:
        plan(resources, on=host("devices"))
    assert caught.value.pointer.startswith("/linux/resources/")


def test_values_that_ask_for_nothing_need_no_controller() -> None:
    resources = {"memory": {"limit": 0, "disableOOMKiller": False}, "pids": {"limit": -1}, "cpu": {"shares": 0, "idle": 0}}
    assert written(plan(resources, on=host("devices")).make) == []


@pytest.mark.parametrize(
    ("resources", "pointer"),
    [
        ({"memory": {"swappiness": 101}}, "memory/swappiness"),
        ({"memory": {"limit": 9, "swap": 5}}, "memory/swap"),
        ({"cpu": {"shares": 1}}, "cpu/shares"),
        ({"cpu": {"shares": 262145}}, "cpu/shares"),
        ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, "hugepageLimits/0/pageSize"),
        ({"unified": {"memory.max": "1"}}, "unified/memory.max"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_value_that_cannot_be_expressed_is_an_error(resources: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(resources)
    assert caught.value.pointer == "/linux/resources/" + pointer


@pytest.mark.spec(
    "/linux/resources/memory/kernel", "/linux/resources/memory/useHierarchy",
    needs="no kernel has it: a warning, an error with --strict",
)  # fmt: skip
def test_what_linux_no_longer_has_is_one_warning_each() -> None:
    warnings = plan({"memory": {"kernel": 5, "useHierarchy": False}}).warnings
    about = [text.split()[0].rstrip(":").removeprefix("linux.resources.") for text in warnings]
    assert about == ["memory.kernel", "memory.useHierarchy"]
    assert plan({"memory": {"kernel": -1, "useHierarchy": True}}).warnings == []


def test_update_lifts_the_limit_of_swap_with_that_of_memory() -> None:
    steps = plan_update({"memory": {"limit": -1}, "pids": {"limit": 5}}, {"memory": "/cg/memory/box", "pids": "/cg/pids/box"}, [])
    assert [(step.get("file"), step.get("value")) for step in steps] == [
        ("memory.limit_in_bytes", "-1"),
        (["memory.memsw.limit_in_bytes", None], "-1"),
        ("pids.max", "5"),
    ]


# ---- device rules ----------------------------------------------------------------------------------------------------


def rules(*devices: dict[str, Any]) -> list[str]:
    steps = plan({"devices": list(devices)}).after
    return [f"{step.get('file').removeprefix('devices.')} {step.get('value')}" for step in steps]


DENY_ALL = {"allow": False, "access": "rwm"}


def test_container_without_rules_gets_the_default_devices_and_no_others() -> None:
    assert rules()[:3] == ["deny a", "allow c *:* m", "allow b *:* m"]
    assert "allow c 1:3 rwm" in rules()


def test_rules_are_written_in_order_and_before_the_defaults() -> None:
    fuse = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    disk = {"allow": True, "type": "b", "major": 8, "access": "r"}
    assert rules(DENY_ALL, fuse, disk)[:4] == ["deny a", "allow c 10:229 rwm", "allow b 8:* r", "allow c *:* m"]


def test_rule_for_everything_keeps_its_numbers_and_access() -> None:
    some = {"allow": True, "type": "a", "major": 10, "minor": -1, "access": "rw"}
    assert rules(some)[:3] == ["deny a", "allow c 10:* rw", "allow b 10:* rw"]


def test_everything_allowed_is_everything() -> None:
    assert rules({"allow": True, "access": "mrw"})[0] == "allow a"


def test_hole_in_a_wider_rule_is_an_error_because_v1_cannot_hold_it() -> None:
    wide, hole = {"allow": True, "type": "c", "major": 10, "access": "rwm"}, {"type": "c", "major": 10, "minor": 1, "access": "w"}
    with pytest.raises(ConfigError, match="cannot deny") as caught:
        rules(DENY_ALL, wide, {"allow": False, **hole})
    assert caught.value.pointer == "/linux/resources/devices/2"
    assert rules({"allow": True, "access": "rwm"}, {"allow": False, **hole})[:2] == ["allow a", "deny c 10:1 w"]


def test_exception_is_taken_away_as_it_was_written() -> None:
    one = {"type": "c", "major": 10, "minor": 1, "access": "rwm"}
    wide = {"allow": False, "type": "c", "major": 10, "access": "rwm"}
    assert rules(DENY_ALL, {"allow": True, **one}, {"allow": False, **one}, wide)[2:4] == ["deny c 10:1 rwm", "deny c 10:* rwm"]


@pytest.mark.parametrize(
    ("device", "name"),
    [({"allow": True}, "access"), ({"allow": True, "access": "rx"}, "access"), ({"allow": True, "type": "p"}, "type")],
)
def test_rule_that_says_nothing_is_an_error(device: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules({"access": "r", **device} if name == "type" else device)
    assert caught.value.pointer == f"/linux/resources/devices/0/{name}"


def test_host_without_the_devices_controller_cannot_hold_a_container() -> None:
    with pytest.raises(ConfigError, match="devices controller is not mounted"):
        plan(on=host("memory"))


# ---- v2 --------------------------------------------------------------------------------------------------------------

V2 = CgroupHost("v2", {"": "/sys/fs/cgroup"}, {"": "/user.slice/shell"})


def test_v2_restricts_devices_once_they_are_made() -> None:
    fuse = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    (step,) = plan({"devices": [fuse]}, on=V2).after
    assert step.op.name == "RESTRICT_DEVICES"
    assert step.get("rules")[:4] == ["deny a", "allow c 10:229 rwm", "allow c *:* m", "allow b *:* m"]


def test_v2_takes_a_hole_in_a_wider_rule() -> None:
    wide, hole = {"allow": True, "type": "c", "major": 10, "access": "rwm"}, {"type": "c", "major": 10, "minor": 1, "access": "w"}
    (step,) = plan({"devices": [wide, {"allow": False, **hole}]}, on=V2).after
    assert step.get("rules")[1:3] == ["allow c 10:* rwm", "deny c 10:1 w"]


def test_v2_init_is_born_in_its_cgroup() -> None:
    opened, entered = plan_entry({"": "/sys/fs/cgroup/box"})
    assert entered == []
    there = {"cgroup": opened[0].get("slot")}
    assert plan_birth(opened, mapped=False) == ({}, there)
    # Of a user of the container the kernel would not take it.
    assert plan_birth(opened, mapped=True) == (there, {})


def test_v2_beside_v1_is_where_the_stage_is_born() -> None:
    assert plan_birth(plan_entry({"": "/cg/unified/box", "pids": "/cg/pids/box"})[0], mapped=False)[1] == {}
    assert plan_birth(plan_entry({"pids": "/cg/pids/box"})[0], mapped=False) == ({}, {})


def test_v2_controllers_are_needed_by_the_first_limit_that_asks_for_them() -> None:
    unlimited = {"cpu": {"quota": -1}, "pids": {"limit": -1}}
    resources = {"memory": {"limit": 5, "reservation": 3}, **unlimited, "unified": {"io.max": "8:0 rbps=1"}}
    assert plan(resources, on=V2).make[0].get("controllers") == {
        "cgroup2": "/linux/cgroupsPath",
        "memory": "/linux/resources/memory/limit",
        "io": "/linux/resources/unified/io.max",
    }


def test_v2_runtime_without_privilege_makes_no_cgroup_that_nobody_asked_for() -> None:
    on = CgroupHost("v2", {"": "/sys/fs/cgroup"}, {"": "/user.slice/shell"})
    on.denied = frozenset(("",))
    made = plan({"devices": [DENY_ALL]}, path="", on=on)
    assert (made.paths, made.make, made.open, made.after) == ({}, [], [], [])
    assert made.warnings == ["linux.resources.devices is ignored: the runtime may not make cgroups here (it has no privilege)"]
    with pytest.raises(ConfigError, match="may not make cgroups here") as caught:
        plan({"memory": {"limit": 5}}, path="", on=on)
    assert caught.value.pointer == "/linux/resources/memory/limit"
    assert plan(path="/box", on=on).paths == {"": "/sys/fs/cgroup/box"}


def test_v2_limit_of_processes_waits_for_init() -> None:
    files = [step.get("file") for step in plan({"pids": {"limit": 0}, "memory": {"limit": 5}}, on=V2).after]
    assert files == ["pids.max", None]


WRITABLE = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]}]
READONLY = [{**WRITABLE[0], "options": ["nosuid", "ro"]}]
MAPPED = [{"containerID": 0, "hostID": 5000, "size": 10}]


@pytest.mark.parametrize(
    ("namespaces", "mounts", "uid", "owner"),
    [
        (["cgroup"], WRITABLE, 7, 7),
        (["cgroup", "user"], WRITABLE, 7, 5007),
        (["cgroup", "user"], WRITABLE, 70, None),
        (["cgroup"], READONLY, 7, None),
        (["mount"], WRITABLE, 7, None),
        (["cgroup"], [], 7, None),
        (["cgroup"], [{**WRITABLE[0], "source": "cgroup2"}], 7, None),
    ],
    ids=["the user's", "mapped", "not mapped", "read-only", "no cgroup namespace", "no mount", "another source"],
)
def test_v2_cgroup_is_owned_as_the_specification_says(namespaces: Any, mounts: Any, uid: int, owner: int | None) -> None:
    linux = {"namespaces": [{"type": kind} for kind in namespaces], "uidMappings": MAPPED}
    steps = plan_owner({"process": {"user": {"uid": uid, "gid": 0}}, "linux": linux, "mounts": mounts}, "/cg/box")  # type: ignore[typeddict-item]
    assert [step.get("uid") for step in steps] == ([] if owner is None else [owner])


def test_v2_relative_path_starts_beside_our_own_cgroup() -> None:
    assert controller_paths(V2, "/a") == {"": "/sys/fs/cgroup/a"}
    assert controller_paths(V2, "a") == {"": "/sys/fs/cgroup/user.slice/a"}
    assert controller_paths(CgroupHost("v2", {"": "/sys/fs/cgroup"}), "a") == {"": "/sys/fs/cgroup/a"}


def test_v2_limits_are_those_of_the_spec_in_the_kernels_terms() -> None:
    resources: Any = {
        "memory": {"limit": 5, "swap": 9, "reservation": 3},
        "cpu": {"shares": 1024, "quota": 50000, "burst": 10, "idle": 1, "cpus": "0", "mems": "0"},
        "pids": {"limit": 0},
        "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
        "unified": {"memory.high": "4", "io.max": "8:0 rbps=1\n8:16 rbps=2"},
    }
    assert [item[1:3] for item in written(plan_limits(resources, "/cg/box", []))] == [
        ("memory.swap.max", "4"), ("memory.max", "5"), ("memory.low", "3"),
        ("cpu.weight", "100"), ("cpu.idle", "1"), ("cpu.max", "50000 100000"), ("cpu.max.burst", "10"),
        ("cpuset.cpus", "0"), ("cpuset.mems", "0"),
        ("pids.max", "0"), (["io.bfq.weight", "io.weight"], ["10", "1"]), ("io.max", "8:0 rbps=600"),
        ("hugetlb.2MB.max", "4"), (["hugetlb.2MB.rsvd.max", None], "4"),
        ("memory.high", "4"), ("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "pointer"),
    [
        ({"memory": {"swap": 5}}, "memory/swap"),
        ({"memory": {"limit": 9, "swap": 5}}, "memory/swap"),
        ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, "hugepageLimits/0/pageSize"),
        ({"unified": {"cgroup.procs": "5"}}, "unified/cgroup.procs"),
        ({"unified": {"../x.max": "5"}}, "unified/..~1x.max"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_v2_value_that_cannot_be_expressed_is_an_error(resources: Any, pointer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_limits(resources, "/cg/box", [])
    assert caught.value.pointer == "/linux/resources/" + pointer


@pytest.mark.parametrize(
    ("resources", "about"),
    [
        ({"memory": {"swappiness": 5}}, ["memory.swappiness"]),
        ({"memory": {"disableOOMKiller": True, "useHierarchy": False}}, ["memory.useHierarchy", "memory.disableOOMKiller"]),
        ({"memory": {"kernel": 5, "kernelTCP": 5}}, ["memory.kernel", "memory.kernelTCP"]),
        ({"cpu": {"realtimeRuntime": 5, "realtimePeriod": 9}}, ["cpu.realtimeRuntime", "cpu.realtimePeriod"]),
        ({"blockIO": {"leafWeight": 5}}, ["blockIO.leafWeight"]),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 5}]}}, ["blockIO.weightDevice[0].leafWeight"]),
        ({"network": {"classID": 5, "priorities": [{"name": "lo", "priority": 1}]}}, ["network.classID", "network.priorities"]),
        ({"memory": {"swappiness": 2**64 - 1, "kernel": 2**64 - 1, "disableOOMKiller": False}, "network": {"classID": 0}}, []),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else "",
)
def test_v2_warns_once_of_each_property_that_it_has_nothing_like(resources: Any, about: list[str]) -> None:
    warnings: list[str] = []
    assert plan_limits(resources, "/cg/box", warnings) == []
    assert [text.split()[0].rstrip(":").removeprefix("linux.resources.") for text in warnings] == about


@pytest.mark.parametrize(
    ("memory", "files"),
    [
        ({"limit": 5}, [("memory.max", "5")]),
        ({"limit": 5, "swap": 5}, [(["memory.swap.max", None], "0"), ("memory.max", "5")]),
        ({"limit": 5, "swap": 7}, [("memory.swap.max", "2"), ("memory.max", "5")]),
        ({"limit": 5, "swap": -1}, [(["memory.swap.max", None], "max"), ("memory.max", "5")]),
        ({"limit": -1}, [(["memory.swap.max", None], "max"), (["memory.max", None], "max")]),
        ({"limit": -1, "swap": 7}, [("memory.swap.max", "7"), (["memory.max", None], "max")]),
        ({"limit": -1, "swap": -1}, [(["memory.swap.max", None], "max"), (["memory.max", None], "max")]),
        ({"limit": 0, "swap": 0}, []),
    ],
    ids=str,
)
def test_v2_limits_swap_by_itself(memory: Any, files: Any) -> None:
    assert [(step.get("file"), step.get("value")) for step in plan_limits({"memory": memory}, "/cg/box", [])] == files


@pytest.mark.parametrize(("weight", "converted"), [(10, 1), (100, 910), (500, 4950), (1000, 10000)])
def test_v2_weight_of_io_is_a_straight_line(weight: int, converted: int) -> None:
    assert io_weight(weight) == converted


SHARES = [(1, 1), (2, 1), (512, 59), (1024, 100), (4096, 303), (262144, 10000), (300000, 10000)]


@pytest.mark.parametrize(("shares", "weight"), SHARES)
def test_v2_weight_keeps_the_ends_and_the_middle_of_shares(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_directories_to_be_made_are_named_parents_first_and_once(tmp_path: Any) -> None:
    (tmp_path / "there").mkdir()
    paths = [f"{tmp_path}/there", f"{tmp_path}/there/a/b", f"{tmp_path}/there/a/c"]
    assert absent(paths) == [f"{tmp_path}/there/a", f"{tmp_path}/there/a/b", f"{tmp_path}/there/a/c"]
