"""The systemd driver's names, properties and plans, for hosts that are made by hand: no root, no systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ocipy.errors import CgroupError, ConfigError
from ocipy.linux.cgroups import plan_cgroup
from ocipy.linux.cgroups.host import CgroupHost
from ocipy.linux.cgroups.systemd import escape_cgroup, expand_slice, made_cgroups, parse_path
from ocipy.linux.cgroups.unit_properties import (
    ANNOTATIONS, DEVICES, FILES, INFINITY, annotated, device_properties, known, properties_of,
)  # fmt: skip
from ocipy.plan import ops
from ocipy.plan.step import Step

V2 = {"": "/sys/fs/cgroup"}
V1 = {name: f"/cg/{name}" for name in ("cpu", "cpuset", "memory", "devices", "freezer", "pids", "name=systemd")}


def host(mode: str = "v2", root: str = "") -> CgroupHost:
    found = CgroupHost(mode, V2 if mode == "v2" else V1)
    found.unit_root = root
    return found


def plan(resources: dict[str, Any] | None = None, path: str = "", on: CgroupHost | None = None, **more: Any) -> Any:
    rootless = more.pop("rootless", False)
    config: Any = {"process": {}, "linux": {"resources": resources or {}, **({"cgroupsPath": path} if path else {})}, **more}
    return plan_cgroup(config, on or host(), "c1", manager="systemd", rootless=rootless)


def started(found: Any) -> dict[str, Any]:
    """The unit's properties."""
    step = next(step for step in found.stage if step.op is ops.START_UNIT)
    return {name: value for name, _, value in step.get("properties")}


def told(*files: tuple[str, str], now: dict[str, str] | None = None) -> dict[str, Any]:
    steps = [Step(ops.SET_CGROUP, path="/c", file=file, value=value) for file, value in files]
    return {name: (signature, value) for name, signature, value in properties_of(steps, now or {})}


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "user", "want"),
    [
        ("", False, ("system.slice", "ocipy-c1.scope")),
        ("", True, ("user.slice", "ocipy-c1.scope")),
        ("machine.slice:libpod:abc", False, ("machine.slice", "libpod-abc.scope")),
        ("::abc", False, ("system.slice", "abc.scope")),
        ("::abc", True, ("user.slice", "abc.scope")),
        ("-.slice:p:abc", False, ("-.slice", "p-abc.scope")),
        ("a-b.slice:p:a-b-c.slice", False, ("a-b.slice", "a-b-c.slice")),
        (":p:one.slice", False, ("-.slice", "one.slice")),
        ("x.slice:p:a+b", False, ("x.slice", "p-a\\x2bb.scope")),
    ],
)
def test_cgroupspath_names_a_slice_and_a_unit(text: str, user: bool, want: tuple[str, str]) -> None:
    assert parse_path(text, "c1", user=user) == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/absolute", "slice:prefix:name"),
        ("a.slice:b", "slice:prefix:name"),
        ("a.slice:b:c:d", "slice:prefix:name"),
        ("a.slice:b:", "no name"),
        ("a:b:c", "not the name of a slice"),
        ("a--b.slice:b:c", "not the name of a slice"),
        ("-a.slice:b:c", "not the name of a slice"),
        ("a-.slice:b:c", "not the name of a slice"),
        ("a/b.slice:b:c", "not the name of a slice"),
        (".slice:b:c", "not the name of a slice"),
        ("a.slice:b:" + "c" * 250, "255"),
    ],
)
def test_cgroupspath_that_systemd_cannot_have_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        parse_path(text, "c1", user=False)
    assert raised.value.pointer == "/linux/cgroupsPath"


def test_a_slice_lies_in_those_that_its_name_has() -> None:
    assert expand_slice("-.slice") == ""
    assert expand_slice("system.slice") == "system.slice"
    assert expand_slice("a-b-c.slice") == "a.slice/a-b.slice/a-b-c.slice"


@pytest.mark.parametrize(
    ("unit", "name"),
    [("p-a.scope", "p-a.scope"), ("memory.scope", "_memory.scope"), ("_a.scope", "__a.scope"), ("cgroup.scope", "_cgroup.scope")],
)
def test_a_unit_named_like_a_file_of_the_kernel_gets_a_directory_of_another_name(unit: str, name: str) -> None:
    assert escape_cgroup(unit) == name


# ---- plans -----------------------------------------------------------------------------------------------------------


def test_scope_is_started_with_the_stage_and_limits_are_set_in_it() -> None:
    found = plan({"memory": {"limit": 1 << 20}, "pids": {"limit": 100}}, "a-b.slice:ocipy:x")
    assert found.paths == {"": "/sys/fs/cgroup/a.slice/a-b.slice/ocipy-x.scope"}
    assert (found.make, found.open, found.enter) == ([], [], [])
    assert [(step.op.name, step.get("file")) for step in found.stage] == [("START_UNIT", None), ("SET_CGROUP", "memory.max")]
    assert [step.op.name for step in found.after] == ["SET_CGROUP", "RESTRICT_DEVICES"]
    assert found.unit == {"name": "ocipy-x.scope", "user": False}
    properties = started(found)
    assert list(properties)[:7] == [
        "Description", "Slice", "Delegate", "CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting",
    ]  # fmt: skip
    assert (properties["Description"], properties["Slice"], properties["Delegate"]) == ("ocipy container c1", "a-b.slice", True)
    assert (properties["DefaultDependencies"], properties["CollectMode"]) == (False, "inactive-or-failed")
    assert (properties["MemoryMax"], properties["TasksMax"]) == (1 << 20, 100)


def test_a_cgroup_that_is_to_be_bound_is_made_before_systemd_takes_it() -> None:
    mounts = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]
    found = plan(path="m.slice:p:x", mounts=mounts)
    assert [(step.op.name, step.get("path"), step.get("controllers")) for step in found.make] == [
        ("MAKE_CGROUP", "/sys/fs/cgroup/m.slice/p-x.scope", {})
    ]
    without = host()
    without.denied = frozenset([""])
    assert plan(path="m.slice:p:x", mounts=mounts, on=without).make == []


def test_few_tasks_are_allowed_only_when_the_stage_is_gone() -> None:
    found = plan({"pids": {"limit": 1}})
    assert "TasksMax" not in started(found)
    assert [step.op.name for step in found.after][:2] == ["SET_UNIT", "SET_CGROUP"]
    assert found.after[0].get("properties") == [("TasksMax", "t", 1)]


def test_no_tasks_at_all_is_told_to_the_kernel_alone() -> None:
    found = plan({"pids": {"limit": 0}})
    assert "TasksMax" not in started(found)
    assert [(step.op.name, step.get("value")) for step in found.after][:1] == [("SET_CGROUP", "0")]


def test_rootless_unit_is_below_the_users_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    root = "/user.slice/user-7.slice/user@7.service"
    found = plan(path=":p:x", on=host(root=root), rootless=True)
    assert found.paths == {"": f"/sys/fs/cgroup{root}/user.slice/p-x.scope"}
    assert found.unit == {"name": "p-x.scope", "user": True}


def test_rootless_on_v1_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    with pytest.raises(CgroupError, match="takes cgroup v2"):
        plan(on=host("v1"), rootless=True)


def test_root_of_a_user_namespace_without_a_bus_of_its_own_has_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert plan(rootless=True).unit["user"] is False


def test_a_host_without_systemd_is_told_so_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocipy.linux.cgroups.systemd.BOOTED", f"{tmp_path}/no")
    with pytest.raises(CgroupError, match="leave --systemd-cgroup away"):
        plan(on=CgroupHost("v2", V2))
    monkeypatch.setattr("ocipy.linux.cgroups.systemd.BOOTED", str(tmp_path))
    assert plan(on=CgroupHost("v2", V2)).paths[""].endswith("system.slice/ocipy-c1.scope")


def test_on_v1_directories_are_made_and_entered_as_without_systemd() -> None:
    found = plan({"memory": {"limit": 1 << 20}, "cpu": {"quota": 5000}}, "m.slice:p:x", on=host("v1"))
    assert found.paths["cpuset"] == "/cg/cpuset/m.slice/p-x.scope"
    assert [step.op.name for step in found.stage] == ["START_UNIT"]
    assert {step.get("path") for step in found.make if step.op is ops.MAKE_CGROUP} == set(found.paths.values())
    assert [step.op.name for step in found.enter] == ["ENTER_TASKS"] * 7
    properties = started(found)
    assert properties["BlockIOAccounting"] is True
    assert (properties["MemoryLimit"], properties["CPUQuotaPerSecUSec"]) == (1 << 20, 50000)


def test_slices_are_left_to_systemd_where_it_has_them() -> None:
    found = plan(path="m.slice:p:x", on=host("v1"))
    missing = ["/cg/memory/m.slice", "/cg/memory/m.slice/p-x.scope", "/cg/freezer/m.slice", "/cg/freezer/m.slice/p-x.scope"]
    assert made_cgroups(found, missing) == missing[1:]


def test_a_slice_is_a_unit_that_processes_are_put_into() -> None:
    found = plan(path="m.slice:p:m-x.slice")
    assert found.paths == {"": "/sys/fs/cgroup/m.slice/m-x.slice"}
    assert [step.op.name for step in found.stage] == ["START_UNIT", "ENTER_CGROUP"]
    properties = started(found)
    assert properties["Wants"] == ["m.slice"]
    assert "Delegate" not in properties and "Slice" not in properties


def test_controllers_that_limits_need_are_known_to_the_step() -> None:
    found = plan({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]})
    assert found.stage[0].get("controllers")["hugetlb"] == "/linux/resources/hugepageLimits/0/limit"


# ---- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "value", "want"),
    [
        ("memory.max", "4096", {"MemoryMax": ("t", 4096)}),
        ("memory.max", "max", {"MemoryMax": ("t", INFINITY)}),
        ("memory.low", "1", {"MemoryLow": ("t", 1)}),
        ("memory.high", "5", {"MemoryHigh": ("t", 5)}),
        ("memory.min", "5", {"MemoryMin": ("t", 5)}),
        ("memory.swap.max", "0", {"MemorySwapMax": ("t", 0)}),
        ("memory.oom.group", "1", {"OOMPolicy": ("s", "kill")}),
        ("cpu.weight", "33", {"CPUWeight": ("t", 33)}),
        ("cpu.idle", "1", {"CPUWeight": ("t", 0)}),
        ("cpu.idle", "0", {}),
        ("cpu.max", "50000 100000", {"CPUQuotaPerSecUSec": ("t", 500000), "CPUQuotaPeriodUSec": ("t", 100000)}),
        ("cpu.max", "1 100000", {"CPUQuotaPerSecUSec": ("t", 10000), "CPUQuotaPeriodUSec": ("t", 100000)}),
        ("cpu.max", "max 50000", {"CPUQuotaPerSecUSec": ("t", INFINITY), "CPUQuotaPeriodUSec": ("t", 50000)}),
        ("cpuset.cpus", "0-2,9", {"AllowedCPUs": ("ay", [7, 2])}),
        ("cpuset.mems", "0", {"AllowedMemoryNodes": ("ay", [1])}),
        ("pids.max", "7", {"TasksMax": ("t", 7)}),
        ("pids.max", "max", {"TasksMax": ("t", INFINITY)}),
        ("io.weight", "default 200", {"IOWeight": ("t", 200)}),
        ("io.bfq.weight", "10", {"IOWeight": ("t", 1)}),
        ("io.bfq.weight", "1000", {"IOWeight": ("t", 10000)}),
        ("io.bfq.weight", "8:0 1000", {"IODeviceWeight": ("a(st)", [("/dev/block/8:0", 10000)])}),
        ("io.max", "8:0 rbps=5", {"IOReadBandwidthMax": ("a(st)", [("/dev/block/8:0", 5)])}),
        ("io.max", "8:0 wbps=max", {"IOWriteBandwidthMax": ("a(st)", [("/dev/block/8:0", INFINITY)])}),
        ("io.max", "8:0 riops=5", {"IOReadIOPSMax": ("a(st)", [("/dev/block/8:0", 5)])}),
        ("io.max", "8:0 wiops=5", {"IOWriteIOPSMax": ("a(st)", [("/dev/block/8:0", 5)])}),
        ("hugetlb.2MB.max", "0", {}),
        ("rdma.max", "mlx hca_handle=2", {}),
        ("memory.limit_in_bytes", "-1", {"MemoryLimit": ("t", INFINITY)}),
        ("cpu.shares", "1024", {"CPUShares": ("t", 1024)}),
        ("blkio.weight", "10", {"BlockIOWeight": ("t", 10)}),
        ("blkio.weight_device", "8:0 10", {"BlockIODeviceWeight": ("a(st)", [("/dev/block/8:0", 10)])}),
        ("blkio.throttle.read_bps_device", "8:0 1", {"BlockIOReadBandwidth": ("a(st)", [("/dev/block/8:0", 1)])}),
        ("memory.max", "much", {}),
    ],
)
def test_what_is_written_into_a_file_is_told_as_a_property(file: str, value: str, want: dict[str, Any]) -> None:
    assert told((file, value)) == want


def test_v1_quota_and_period_are_one_property_with_what_the_kernel_has() -> None:
    assert told(("cpu.cfs_quota_us", "5000"), now={"cpu.cfs_period_us": "10000"})["CPUQuotaPerSecUSec"] == ("t", 500000)
    both = told(("cpu.cfs_period_us", "20000"), ("cpu.cfs_quota_us", "5000"), now={"cpu.cfs_period_us": "10000"})
    assert both["CPUQuotaPeriodUSec"] == ("t", 20000)


def test_devices_of_several_lines_are_in_one_property() -> None:
    found = told(("io.max", "8:0 rbps=5"), ("io.max", "8:16 rbps=6"))
    assert found == {"IOReadBandwidthMax": ("a(st)", [("/dev/block/8:0", 5), ("/dev/block/8:16", 6)])}


def test_old_systemd_is_not_told_what_it_does_not_know() -> None:
    found = known([("AllowedCPUs", "ay", [1]), ("CPUWeight", "t", 1)], 243)
    assert [name for name, _, _ in found] == ["CPUWeight"]


def test_device_rules_become_a_list_of_what_is_allowed() -> None:
    policy, allow = device_properties([{"allow": False, "access": "rwm"}, {"allow": True, "type": "b", "major": 8, "access": "r"}])
    assert policy == ("DevicePolicy", "s", "strict")
    pairs = dict(allow[2])
    assert pairs["/dev/char/1:3"] == "rwm" and pairs["char-pts"] == "rwm"
    assert (pairs["char-*"], pairs["/dev/char/5:2"]) == ("m", "rwm")
    assert any(node.startswith("block-") and "r" in access for node, access in pairs.items())


def test_container_that_may_open_everything_has_no_policy() -> None:
    assert device_properties([{"allow": True, "access": "rwm"}]) == [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]


# ---- annotations -----------------------------------------------------------------------------------------------------


def annotation(name: str, value: str) -> Any:
    return annotated({"annotations": {f"org.systemd.property.{name}": value}})  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("TimeoutStopUSec", "uint64 5", ("TimeoutStopUSec", "t", 5)),
        ("TimeoutStopUSec", "5", ("TimeoutStopUSec", "t", 5)),
        ("TimeoutStopSec", "1.5", ("TimeoutStopUSec", "t", 1500000)),
        ("RuntimeMaxSec", "uint64 2", ("RuntimeMaxUSec", "t", 2000000)),
        ("CollectMode", "'inactive'", ("CollectMode", "s", "inactive")),
        ("Description", '"it\\"s, a"', ("Description", "s", 'it"s, a')),
        ("DefaultDependencies", "true", ("DefaultDependencies", "b", True)),
        ("After", "['a.service', \"b,c.service\"]", ("After", "as", ["a.service", "b,c.service"])),
        ("Before", "@as []", ("Before", "as", [])),
        ("KillSignal", "int32 9", ("KillSignal", "i", 9)),
    ],
)
def test_an_annotation_sets_a_property(name: str, text: str, want: tuple[str, str, Any]) -> None:
    assert annotation(name, text) == [want]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("TimeoutStopUSec", "soon", "uint64 1"),
        ("TimeoutStopUSec", "int32 5", "uint64 1"),
        ("TimeoutStopUSec", "-1", "uint64 1"),
        ("TimeoutStopSec", "-1", "a number of seconds"),
        ("TimeoutStopSec", "inf", "a number of seconds"),
        ("CollectMode", "inactive", "'text'"),
        ("CollectMode", "'a'b'", "'text'"),
        ("DefaultDependencies", "yes", "true or false"),
        ("After", "'a'", r"\['a', 'b'\]"),
        ("Slice", "'a.slice'", "say it in linux.cgroupsPath"),
        ("Delegate", "false", "always delegated"),
        ("MemoryMax", "uint64 5", "say it in linux.resources"),
        ("DeviceAllow", "[]", "linux.resources.devices"),
        ("FailureAction", "'reboot'", "harmless"),
        ("OnFailure", "['a.service']", "harmless"),
        ("ExecStart", "[]", "harmless"),
        ("", "1", "harmless"),
    ],
)
def test_an_annotation_that_is_wrong_or_dangerous_is_refused(name: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        annotation(name, text)
    assert raised.value.pointer == f"/annotations/org.systemd.property.{name}"


def test_annotations_win_over_what_ocipy_says() -> None:
    found = plan(annotations={"org.systemd.property.CollectMode": "'inactive'", "other": "x"})
    assert started(found)["CollectMode"] == "inactive"


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_has_every_file_property_and_annotation() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/cgroups.md").read_text().partition("## As a unit of systemd")[2]
    properties = {name for name, _, _ in FILES.values()} | {name for names in DEVICES.values() for name in names.values()}
    assert not [name for name in {*FILES, *DEVICES, *properties, *ANNOTATIONS} if f"`{name}`" not in page]
