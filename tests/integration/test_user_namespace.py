"""A user namespace: its maps, who owns what, and what stays possible (config-linux.md, User namespace mappings)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import TIME_SCALE, Config, Container, mount_at, set_namespace

Make = Callable[..., Container]
Mapping = tuple[int, int, int]
Maps = tuple[Mapping, ...]

FROM = 100000
ONE: Maps = ((0, FROM, 65536),)
SEVERAL: Maps = ((0, FROM, 1000), (1000, 300000, 1), (1001, FROM + 1001, 64535))
SHUFFLED: Maps = ((1001, FROM + 1001, 64535), (0, FROM, 1000), (1000, 300000, 1))
IDENTITY: Maps = ((0, 0, 65536),)
WHOLE: Maps = ((0, 0, 4294967295),)
ROOTLESS: Maps = ((1000, FROM, 100),)
SINGLE: Maps = ((0, FROM, 1),)
MANY: Maps = tuple((index, FROM + 2 * index, 1) for index in range(250))
TOO_LONG: Maps = tuple((index, FROM + 2 * index, 1) for index in range(340))


def mapped(uid: Maps, gid: Maps | None = None, **process: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        set_namespace(config, "user")
        for name, maps in (("uidMappings", uid), ("gidMappings", gid or uid)):
            config["linux"][name] = [{"containerID": inside, "hostID": host, "size": size} for inside, host, size in maps]
        config["process"].update(process)

    return change


def without_group_5(config: Config) -> None:
    """What devpts is told by default takes a gid 5."""
    for mount in config["mounts"]:
        mount["options"] = [option for option in mount.get("options", ()) if option != "gid=5"]


def give_rootfs(box: Container, owner: int = FROM) -> Container:
    subprocess.run(["chown", "-R", "-h", f"{owner}:{owner}", box.bundle.rootfs], check=True)
    return box


def lines(file: str, pid: int) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]


# ---- maps ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("/linux/?idMappings/*")
@pytest.mark.parametrize(
    ("uid", "gid"),
    [(ONE, ONE), (SEVERAL, SEVERAL), (SHUFFLED, ONE), (IDENTITY, IDENTITY), (WHOLE, WHOLE), (ONE, IDENTITY), (MANY, MANY)],
    ids=["one range", "several", "in another order", "identity", "all", "uids and gids differ", "a great many"],
)
def test_the_kernel_has_the_maps_of_the_config(container: Make, uid: Maps, gid: Maps) -> None:
    owner = next(host for inside, host, _ in uid if inside == 0)
    box = give_rootfs(container("/bin/probe", "sleep", mutate=mapped(uid, gid)), owner)
    box.create()
    assert sorted(lines("uid_map", box.pid)) == sorted(map(list, uid))
    assert sorted(lines("gid_map", box.pid)) == sorted(map(list, gid))
    assert Path(f"/proc/{box.pid}/setgroups").read_text() == "allow\n"
    box.delete("--force")


@pytest.mark.parametrize("maps", [ONE, SEVERAL, WHOLE, SINGLE], ids=["one range", "several", "all", "a single id"])
def test_root_inside_is_not_root_outside(container: Make, maps: Maps) -> None:
    def change(config: Config) -> None:
        mapped(maps)(config)
        if maps is SINGLE:
            without_group_5(config)

    box = give_rootfs(container("/bin/probe", "trap", mutate=change), maps[0][1])
    box.run("--detach")
    box.wait_output("ready")
    status = Path(f"/proc/{box.pid}/status").read_text()
    outside = maps[0][1]
    assert f"\nUid:\t{outside}\t{outside}\t{outside}\t{outside}\n" in status
    assert f"\nGid:\t{outside}\t{outside}\t{outside}\t{outside}\n" in status
    seen = box.exec("/bin/probe").json
    assert (seen["uids"], seen["gids"]) == ([0] * 3, [0] * 3)
    box.delete("--force")


@pytest.mark.spec("/process/user/uid", "/process/user/gid", "/process/user/additionalGids")
def test_users_and_groups_are_those_of_the_maps(container: Make) -> None:
    user = {"uid": 1000, "gid": 1001, "additionalGids": [5, 1000]}
    box = give_rootfs(container("/bin/probe", "trap", mutate=mapped(SEVERAL, user=user)))
    box.run("--detach")
    box.wait_output("ready")
    status = Path(f"/proc/{box.pid}/status").read_text()
    assert "\nUid:\t300000\t" in status
    assert f"\nGid:\t{FROM + 1001}\t" in status
    groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
    assert sorted(map(int, groups)) == [FROM + 5, 300000]
    assert sorted(box.exec("/bin/probe").json["groups"]) == [5, 1000]
    box.delete("--force")


def test_a_namespace_without_a_root_runs_with_the_user_that_there_is(container: Make) -> None:
    def change(config: Config) -> None:
        mapped(ROOTLESS, user={"uid": 1001, "gid": 1002})(config)
        without_group_5(config)

    box = container("/bin/probe", "trap", mutate=change)
    box.run("--detach")
    box.wait_output("ready")
    report = box.exec("/bin/probe", flags=["--user", "1001:1002"]).json
    assert (report["uids"], report["gids"]) == ([1001] * 3, [1002] * 3)
    assert report["dev"]["/dev/null"]["type"] == "c"
    assert lines("uid_map", box.pid) == [[1000, FROM, 100]]
    assert f"\nUid:\t{FROM + 1}\t" in Path(f"/proc/{box.pid}/status").read_text()
    box.delete("--force")


@pytest.mark.parametrize(("user", "named"), [({"uid": 70000, "gid": 0}, "70000"), ({"uid": 0, "gid": 70000}, "70000")])
def test_a_user_that_is_not_mapped_is_an_error_that_says_so(container: Make, user: dict[str, int], named: str) -> None:
    answer = give_rootfs(container(mutate=mapped(ONE, user=user))).create(check=False)
    assert answer.status == 1
    assert "uidMappings" in answer.stderr
    assert named in answer.stderr


@pytest.mark.parametrize("missing", ["uidMappings", "gidMappings"])
def test_a_new_namespace_without_mappings_is_an_error(container: Make, missing: str) -> None:
    def change(config: Config) -> None:
        mapped(ONE)(config)
        del config["linux"][missing]

    answer = container(mutate=change).create(check=False)
    assert answer.status == 1
    assert missing in answer.stderr


def test_maps_that_the_kernel_cannot_take_are_an_error_of_one_short_line(container: Make) -> None:
    answer = give_rootfs(container(mutate=mapped(TOO_LONG))).create(check=False)
    assert answer.status == 1
    assert "/linux/uidMappings" in answer.stderr
    assert "340 ranges" in answer.stderr
    assert len(answer.stderr) < 300


# ---- who owns what -------------------------------------------------------------------------------------------------------------


def test_what_is_made_inside_belongs_to_the_mapped_users_outside(container: Make) -> None:
    def change(config: Config) -> None:
        mapped(SEVERAL)(config)
        config["root"]["readonly"] = False
        capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), capabilities)

    script = "touch /root/a /root/b; chown 1000:1001 /root/b; mkdir /root/d"
    box = give_rootfs(container("/bin/sh", "-ec", script, mutate=change))
    box.run()
    root = box.bundle.rootfs / "root"
    assert {name: (os.stat(root / name).st_uid, os.stat(root / name).st_gid) for name in "abd"} == {
        "a": (FROM, FROM), "b": (300000, FROM + 1001), "d": (FROM, FROM),
    }  # fmt: skip


def test_mount_points_that_the_runtime_makes_belong_to_the_mapped_root(container: Make) -> None:
    def change(config: Config) -> None:
        mapped(ONE)(config)
        config["mounts"].append({"destination": "/new/point", "type": "tmpfs", "source": "tmpfs"})
        config["process"]["cwd"] = "/made/cwd"
        config["root"]["readonly"] = False

    box = give_rootfs(container(mutate=change))
    assert mount_at(box.run().json, "/new/point")["type"] == "tmpfs"
    for name in ("new", "new/point", "made/cwd"):
        assert os.stat(box.bundle.rootfs / name).st_uid == FROM


def test_files_of_the_hosts_root_are_nobodys_inside_and_cannot_be_changed(container: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/secret").write_text("secret")
    (tmp_path / "data/secret").chmod(0o600)

    def change(config: Config) -> None:
        mapped(ONE)(config)
        config["mounts"].append({"destination": "/data", "type": "bind", "source": str(tmp_path / "data"), "options": ["rbind"]})
        every = ["CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), every)

    script = "stat -c %u:%g /data/secret; cat /data/secret; chown 0:0 /data/secret; chmod 666 /data/secret; echo x >/data/new"
    box = give_rootfs(container("/bin/sh", "-c", script, mutate=change))
    box.run(check=False)
    assert box.output.read_text() == "65534:65534\n"
    assert sorted(os.listdir(tmp_path / "data")) == ["secret"]


def test_a_source_in_a_directory_that_the_mapped_root_may_not_enter_is_bound(container: Make, tmp_path: Path) -> None:
    (tmp_path / "closed/data").mkdir(parents=True)
    (tmp_path / "closed/data/file").write_text("here")
    (tmp_path / "closed").chmod(0o700)

    def change(config: Config) -> None:
        mapped(ONE)(config)
        source = str(tmp_path / "closed/data")
        config["mounts"].append({"destination": "/data", "type": "bind", "source": source, "options": ["bind", "ro"]})

    box = give_rootfs(container("/bin/cat", "/data/file", mutate=change))
    assert box.run().stdout == "here"


# ---- the rest of the container -------------------------------------------------------------------------------------------------


def test_all_of_the_default_config_is_there(container: Make) -> None:
    box = give_rootfs(container(mutate=mapped(ONE)))
    report = box.run().json
    for mount in box.bundle.config["mounts"]:
        assert mount_at(report, mount["destination"])
    assert mount_at(report, "/proc/timer_list")["root"] == "/null"
    assert mount_at(report, "/proc/sys")["options"].startswith("ro")
    assert report["root_readonly"] is True
    assert report["hostname"] == "box"
    assert report["interfaces"]["lo"] == "up"


def test_capabilities_are_those_of_the_config_and_hold_inside_only(container: Make) -> None:
    every = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_MKNOD"]

    def change(config: Config) -> None:
        mapped(ONE)(config)
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), every)

    script = "hostname other && mount -t tmpfs x /tmp && ! mknod /tmp/n c 1 3 && echo as expected"
    box = give_rootfs(container("/bin/sh", "-c", script, mutate=change))
    box.run()
    assert "as expected" in box.output.read_text()


def privileged_values() -> tuple[int, int]:
    """A hard limit and an oom_score_adj that take CAP_SYS_RESOURCE on the host; where we have none, such as it gives to all."""
    import resource

    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]
    return (hard + 1, -500) if int(effective.split()[1], 16) >> 24 & 1 else (hard, 500)


def test_limits_and_the_oom_score_are_set_with_the_hosts_privilege(container: Make) -> None:
    hard, score = privileged_values()
    limits = [{"type": "RLIMIT_SIGPENDING", "soft": 100, "hard": hard}]
    report = give_rootfs(container(mutate=mapped(ONE, rlimits=limits, oomScoreAdj=score))).run().json
    assert report["rlimits"]["RLIMIT_SIGPENDING"] == {"soft": 100, "hard": hard}
    assert int(report["oom_score_adj"]) == score


def test_the_namespaces_of_the_container_belong_to_its_user_namespace(container: Make) -> None:
    """NS_GET_USERNS: else root inside would have no say over them."""
    import fcntl

    box = give_rootfs(container("/bin/probe", "sleep", mutate=mapped(ONE)))
    box.create()
    wanted = os.stat(f"/proc/{box.pid}/ns/user").st_ino
    for name in ("pid", "net", "mnt", "ipc", "uts"):
        fd = os.open(f"/proc/{box.pid}/ns/{name}", os.O_RDONLY)
        owner = fcntl.ioctl(fd, 0xB701)
        assert os.fstat(owner).st_ino == wanted, name
        os.close(owner)
        os.close(fd)
    box.delete("--force")


def test_mount_points_are_not_made_in_a_rootfs_of_the_hosts_root(container: Make) -> None:
    """A root filesystem that the container's root does not own: the error says which mount, and where."""

    def change(config: Config) -> None:
        mapped(ONE)(config)
        config["mounts"].append({"destination": "/new/point", "type": "tmpfs", "source": "tmpfs"})

    answer = container(mutate=change).create(check=False)
    assert answer.status == 1
    assert "on /new/point (" in answer.stderr
    assert "(/mounts/7)" in answer.stderr
    assert "does the container's root own" in answer.stderr


# ---- a runtime that is in a user namespace itself ------------------------------------------------------------------------------


def run_inside(box: Container, *, setgroups: bool) -> dict[str, Any]:
    """As in `podman unshare`, or in a container: root, but not the host's."""
    runtime = [box.runtime.path, "--root", str(box.runtime.root), "--cgroup-manager", "disabled"]
    script = 'echo ready; read go; exec unshare --mount --pid --fork --mount-proc "$@"'
    argv = ["unshare", "--user", "sh", "-c", script, "sh", *runtime, "run", "--bundle", str(box.bundle.path), box.id]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        if not setgroups:
            Path(f"/proc/{process.pid}/setgroups").write_text("deny")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536")
        said, complaint = process.communicate("go\n", timeout=30 * TIME_SCALE)
    assert process.returncode == 0, complaint
    report: dict[str, Any] = json.loads(said)
    return report


def without_cgroups(config: Config) -> None:
    del config["linux"]["cgroupsPath"], config["linux"]["resources"]
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]


@pytest.mark.parametrize("setgroups", [True, False], ids=["", "without setgroups"])
@pytest.mark.parametrize("nested", [False, True], ids=["", "that makes another"])
def test_a_runtime_in_a_user_namespace_runs_containers(container: Make, nested: bool, setgroups: bool) -> None:
    def change(config: Config) -> None:
        without_cgroups(config)
        if nested:
            mapped(((0, 1000, 1000),))(config)
        if setgroups:
            config["process"]["user"] = {"uid": 1, "gid": 2, "additionalGids": [3]}

    box = container(mutate=change)
    if nested:
        give_rootfs(box, 1000)
    report = run_inside(box, setgroups=setgroups)
    assert report["uid_map"].split() == (["0", "1000", "1000"] if nested else ["0", "0", "65536"])
    assert (report["uid"], report["groups"]) == ((1, [3]) if setgroups else (0, report["groups"]))
    assert report["dev"]["/dev/null"]["type"] == "c"
    assert mount_at(report, "/sys")["type"] == "sysfs"


@pytest.mark.spec("/process/user/additionalGids")
def test_groups_that_cannot_be_set_are_an_error(container: Make) -> None:
    def change(config: Config) -> None:
        without_cgroups(config)
        config["process"]["user"] = {"uid": 0, "gid": 0, "additionalGids": [3]}

    with pytest.raises(AssertionError, match="additionalGids"):
        run_inside(container(mutate=change), setgroups=False)
