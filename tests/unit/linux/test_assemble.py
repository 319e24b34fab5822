"""Golden plans: config and host in, every step with its pointer out. A change of a plan is a diff that can be reviewed.

After a change that is meant: ``OCIPY_GOLDEN=write pytest tests/unit/linux/test_assemble.py``, then read the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocipy.config.load import parse_config
from ocipy.errors import ConfigError
from ocipy.linux.assemble import assemble
from ocipy.linux.assemble_exec import assemble_exec
from ocipy.linux.options import Options
from ocipy.linux.cgroups.host import CgroupHost
from ocipy.linux.host import Host
from ocipy.plan import ops
from ocipy.plan.encode import blocks, with_syncs
from ocipy.plan.render import as_objects
from ocipy.plan.step import Step

GOLDEN = Path(__file__).parent / "golden"
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")


def host(uid: int = 0) -> Host:
    mounts = {name: f"/sys/fs/cgroup/{name}" for name in CONTROLLERS}
    return Host(uid, CgroupHost("v1", mounts, dict.fromkeys(mounts, "/")), whole_user_namespace=uid == 0, resctrl="/sys/fs/resctrl")


def minimal() -> dict[str, Any]:
    return {
        "ociVersion": "1.3.0",
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }


def rich() -> dict[str, Any]:
    config = minimal()
    config["process"].update(
        user={"uid": 1000, "gid": 1000, "additionalGids": [10], "umask": 7},
        env=["PATH=/bin", "HOME=/h"], noNewPrivileges=True, oomScoreAdj=5, apparmorProfile="p", terminal=True,
        capabilities={"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}], consoleSize={"height": 3, "width": 4},
    )  # fmt: skip
    config["hostname"], config["domainname"] = "h", "d"
    config["root"]["readonly"] = True
    config["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance"]},
        {"destination": "/ro", "type": "tmpfs", "options": ["ro"]},
        {"destination": "/data", "source": "/srv/data", "options": ["rbind", "rro", "rslave"]},
        {"destination": "/here", "source": "relative", "type": "bind", "options": ["ro", "nosuid"]},
    ]
    linux = config["linux"]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup", "time")]
    linux.update(
        timeOffsets={"boottime": {"secs": 1}}, sysctl={"net.ipv4.ip_forward": "1"}, maskedPaths=["/proc/kcore"],
        readonlyPaths=["/proc/sys"], cgroupsPath="/c", resources={"memory": {"limit": 1 << 20}, "pids": {"limit": 5}},
        devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}],
        rootfsPropagation="rslave", personality={"domain": "LINUX32"}, netDevices={"eth0": {"name": "c0"}},
        intelRdt={"closID": "gold", "memBwSchema": "MB:0=50", "schemata": ["L3:0=f", "L3:1=f"], "enableMonitoring": True},
    )  # fmt: skip
    config["hooks"] = {kind: [{"path": "/hook"}] for kind in ("prestart", "createRuntime", "createContainer", "startContainer")}
    return config


def mapped() -> dict[str, Any]:
    config = minimal()
    config["linux"]["namespaces"] += [{"type": "user"}, {"type": "network"}]
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping, maskedPaths=["/proc/kcore"])
    return config


def joined() -> dict[str, Any]:
    config = minimal()
    config["linux"]["namespaces"] += [{"type": "network", "path": "/run/net"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}]
    return config


def no_mount_namespace() -> dict[str, Any]:
    config = minimal()
    config["linux"]["namespaces"] = [{"type": "pid"}]
    return config


def rootless() -> dict[str, Any]:
    config = mapped()
    mapping = [{"containerID": 0, "hostID": 1000, "size": 1}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)
    config["mounts"] = [{"destination": "/data", "source": "/srv", "options": ["bind", "ro"]}]
    return config


CASES: dict[str, tuple[Callable[[], dict[str, Any]], int]] = {
    "minimal": (minimal, 0), "rich": (rich, 0), "mapped": (mapped, 0), "joined": (joined, 0),
    "no_mount_namespace": (no_mount_namespace, 0), "rootless": (rootless, 1000),
}  # fmt: skip


def plan_of(make: Callable[[], dict[str, Any]], uid: int = 0) -> list[Step]:
    config = parse_config(json.dumps(make()).encode(), "config.json")
    return assemble(config, host(uid), Options("box", "/bundle")).steps


def compare(name: str, steps: list[Step]) -> None:
    text = "".join(json.dumps(step, ensure_ascii=False) + "\n" for step in as_objects(steps))
    file = GOLDEN / f"{name}.jsonl"
    if os.environ.get("OCIPY_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_plan_of_create_is_as_agreed(name: str) -> None:
    compare(name, plan_of(*CASES[name]))


def on_v2() -> Host:
    return Host(0, CgroupHost("v2", {"": "/sys/fs/cgroup"}, {"": "/user.slice/shell"}), resctrl="/sys/fs/resctrl")


def test_the_plans_on_cgroup_v2_are_as_agreed() -> None:
    config = rich()
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]})
    parsed = parse_config(json.dumps(config).encode(), "config.json")
    compare("v2", assemble(parsed, on_v2(), Options("box", "/bundle")).steps)
    flags, paths = 0x2020000, {"": "/sys/fs/cgroup/c"}
    process = parsed["process"]
    steps = assemble_exec(parsed, process, on_v2(), Options("box", "/bundle"), pid=7, flags=flags, cgroup_paths=paths)
    compare("exec_v2", steps)


def test_the_plan_of_exec_is_as_agreed() -> None:
    config = parse_config(json.dumps(rich()).encode(), "config.json")
    process = config["process"]
    process["execCPUAffinity"] = {"initial": "0-1", "final": "1"}
    paths = {"memory": "/sys/fs/cgroup/memory/c"}
    steps = assemble_exec(config, process, host(), Options("box", "/bundle"), pid=7, flags=0x20000, cgroup_paths=paths)
    compare("exec", steps)


def resolves(config: Any, pointer: str) -> bool:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            config = config[int(name)] if isinstance(config, list) else config[name]
        except (KeyError, IndexError, ValueError):
            return False
    return True


# A property that the config leaves away has a default of the specification: its pointer says where one could set it.
DEFAULTED = ("/process/user", "/process/capabilities", "/process/env", "/linux/resources", "/linux/cgroupsPath", "/process/cwd")


@pytest.mark.parametrize("name", CASES)
def test_every_pointer_leads_to_a_property_of_the_config(name: str) -> None:
    make, uid = CASES[name]
    config = make()
    lost = {step.origin for step in plan_of(make, uid) if not resolves(config, step.origin)}
    assert not {pointer for pointer in lost if not pointer.startswith(DEFAULTED)}


def index(steps: list[Step], op: ops.Op) -> int:
    return next(number for number, step in enumerate(steps) if step.op is op)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("CLONE_INIT", "ENTER_TASKS", "the kernel's memory for namespaces is not the program's"),
        ("ENTER_TASKS", "MOUNT", "the memory of mounts is the container's"),
        ("PROPAGATION", "ROOTFS", "nothing may be mounted where the host would see it"),
        ("ATTACH", "DEVICE", "devices go into a mounted /dev"),
        ("DEVICE", "RUN_HOOK", "hooks find everything made"),
        ("RUN_HOOK", "HOOK", "createContainer comes after createRuntime"),
        ("HOOK", "PIVOT_ROOT", "createContainer sees the runtime's paths"),
        ("PIVOT_ROOT", "CONSOLE", "the terminal is the container's"),
        ("READONLY_PATH", "MASK_PATH", "a mask may lie inside a read-only path"),
        ("MASK_PATH", "READONLY_ROOT", "the root is sealed last"),
        ("NO_NEW_PRIVILEGES", "EXEC_LABEL", "labels are of the execve"),
        ("BOUNDING_SET", "USER", "dropping takes CAP_SETPCAP"),
        ("USER", "CAPABILITIES", "the change of user clears them"),
        ("CLOSE_FDS", "RLIMIT", "a small RLIMIT_NOFILE must not stop init"),
        ("RLIMIT", "USER", "prlimit of another user takes CAP_SYS_RESOURCE"),
        ("CLOSE_FDS", "READY", "nobody may wait for what we hold"),
        ("LOCK", "WRITE_STATE", "created without the lock would read as running"),
        ("READY", "WAIT_START", "create is done"),
        ("WAIT_START", "EXEC", "the program begins at start"),
    ],
)  # fmt: skip
def test_the_order_holds(first: str, second: str, why: str) -> None:
    steps = plan_of(rich)
    assert index(steps, ops.ALL[first]) < index(steps, ops.ALL[second]), why


def test_syncs_are_few() -> None:
    """Each costs two context switches."""
    steps = plan_of(minimal)
    assert sum(step.op is ops.SYNC for _, step in with_syncs(steps)) == len(blocks(steps)) - 1 <= 3


@pytest.mark.spec("/linux/mountLabel", needs="SELinux: the plan")
def test_mount_label_is_an_option_where_selinux_is_and_an_error_elsewhere() -> None:
    config = rich()
    config["linux"]["mountLabel"] = "system_u:object_r:svirt_sandbox_file_t:s0:c1,c2"
    parsed = parse_config(json.dumps(config).encode(), "config.json")
    labelled = host()
    labelled.selinux = True
    found = {
        step.get("fstype"): any(option.startswith("context=") for option in step.get("options"))
        for step in assemble(parsed, labelled, Options("box", "/bundle")).steps
        if step.op is ops.MOUNT
    }
    assert found == {"proc": False, "tmpfs": True, "devpts": True}
    with pytest.raises(ConfigError, match="SELinux is not enabled") as caught:
        assemble(parsed, host(), Options("box", "/bundle"))
    assert caught.value.pointer == "/linux/mountLabel"


@pytest.mark.spec("/process/selinuxLabel", needs="SELinux: the refusal without it, and the plan")
def test_a_process_label_is_for_the_next_execve() -> None:
    config = minimal()
    config["process"]["selinuxLabel"] = "system_u:system_r:container_t:s0:c1,c2"
    (step,) = [step for step in plan_of(lambda: config) if step.op is ops.EXEC_LABEL]
    assert (step.origin, step.get("attribute")) == ("/process/selinuxLabel", "thread-self/attr/exec")
    assert step.get("value") == config["process"]["selinuxLabel"]


def test_an_old_kernel_is_said_to_be_old(monkeypatch: pytest.MonkeyPatch) -> None:
    from ocipy.errors import OcipyError
    from ocipy.linux.host import check_kernel

    check_kernel()
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((real[0], real[1], "5.4.0-1-amd64", real[3], real[4])))
    with pytest.raises(OcipyError, match=r"this kernel \(5.4.0-1-amd64\) is too old: ocipy needs Linux 5.12 or newer"):
        check_kernel()
