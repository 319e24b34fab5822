"""config.process, seen from inside: user, capabilities, limits, scheduling, signals, files (config.md, Process)."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container
from ocipy.config.rlimits import RESOURCES

Probe = Callable[..., dict[str, Any]]
Make = Callable[..., Container]


_LISTEN = 'exec 3<&{0} {0}<&-; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web; exec "$@"'


def set_process(**values: Any) -> Callable[[Config], None]:
    return lambda config: config["process"].update(values)


def test_without_a_user_the_process_is_root_without_groups(probe: Probe) -> None:
    seen = probe(lambda config: config["process"].pop("user"))
    assert (seen["uids"], seen["gids"], seen["groups"], seen["umask"]) == ([0] * 3, [0] * 3, [], 0o022)


@pytest.mark.spec("/process/user/uid", "/process/user/gid", "/process/user/umask", "/process/user/additionalGids")
def test_all_ids_are_the_users(probe: Probe) -> None:
    seen = probe(set_process(user={"uid": 1000, "gid": 2000, "additionalGids": [5, 29, 100000], "umask": 0o77}))
    assert (seen["uids"], seen["gids"], seen["groups"], seen["umask"]) == ([1000] * 3, [2000] * 3, [5, 29, 100000], 0o77)


@pytest.mark.spec("/process/capabilities/*")
def test_five_capability_sets_are_as_configured(probe: Probe) -> None:
    sets = {
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"],
        "permitted": ["CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_NET_RAW"],
        "ambient": ["CAP_NET_RAW"],
    }
    seen = probe(set_process(capabilities=sets, user={"uid": 1000, "gid": 1000}))["capabilities"]
    # execve of a user other than root: permitted and effective are what ambient gives (capabilities(7)).
    assert seen["bounding"] == ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]
    assert seen["inheritable"] == seen["ambient"] == seen["permitted"] == seen["effective"] == ["CAP_NET_RAW"]


def test_root_has_the_bounding_set_after_execve_and_nothing_more(probe: Probe) -> None:
    seen = probe()["capabilities"]
    wanted = ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"]
    assert (seen["bounding"], seen["permitted"], seen["effective"]) == (wanted, wanted, wanted)
    assert seen["inheritable"] == seen["ambient"] == []


@pytest.mark.spec("/process/capabilities/*")
def test_without_capabilities_there_are_none(probe: Probe) -> None:
    seen = probe(lambda config: config["process"].pop("capabilities"))["capabilities"]
    assert set(map(len, seen.values())) == {0}


@pytest.mark.spec("/process/capabilities/bounding")
def test_a_capability_that_the_kernel_does_not_know_is_a_warning(container: Make) -> None:
    def unknown(config: Config) -> None:
        config["process"]["capabilities"]["bounding"].append("CAP_TIME_TRAVEL")

    box = container("/bin/true", mutate=unknown)
    box.run()
    assert "CAP_TIME_TRAVEL" in box.errors.read_text()


def test_ambient_capabilities_of_root_that_are_not_inheritable_are_no_warning(container: Make) -> None:
    """Buildah sends them with every command, and its user reads our standard error."""

    def ambient(config: Config) -> None:
        config["process"]["capabilities"]["ambient"] = config["process"]["capabilities"]["permitted"]

    box = container("/bin/true", mutate=ambient)
    box.run()
    assert box.errors.read_text() == ""


@pytest.mark.spec("/process/noNewPrivileges")
@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(probe: Probe, wanted: bool) -> None:
    assert probe(set_process(noNewPrivileges=wanted))["no_new_privs"] == int(wanted)


@pytest.mark.spec("/process/rlimits/*")
def test_limits_are_set_soft_and_hard(probe: Probe) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 20},
    ]
    seen = probe(set_process(rlimits=limits))["rlimits"]
    assert seen["RLIMIT_NOFILE"] == {"soft": 100, "hard": 200}
    assert seen["RLIMIT_CORE"] == {"soft": 0, "hard": 0}
    assert seen["RLIMIT_STACK"] == {"soft": 1 << 20, "hard": 1 << 20}


@pytest.mark.spec("/process/rlimits/*/type=*", "/process/rlimits/*")
@pytest.mark.parametrize("name", RESOURCES)
def test_every_kind_of_limit(probe: Probe, name: str) -> None:
    most = resource.getrlimit(RESOURCES[name])[1]
    hard = 1 << 30 if most == resource.RLIM_INFINITY else min(most, 1 << 30)
    seen = probe(set_process(rlimits=[{"type": name, "soft": hard // 2, "hard": hard}]))["rlimits"]
    assert seen[name] == {"soft": hard // 2, "hard": hard}


@pytest.mark.spec("/process/oomScoreAdj")
def test_oom_score_adj_is_written(probe: Probe) -> None:
    assert int(probe(set_process(oomScoreAdj=321))["oom_score_adj"]) == 321


def test_scheduler_and_io_priority(probe: Probe) -> None:
    wanted = {"scheduler": {"policy": "SCHED_BATCH", "nice": 7}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}}
    seen = probe(set_process(**wanted))
    assert (seen["scheduler"]["policy"], seen["scheduler"]["nice"]) == (3, 7)
    assert seen["ioprio"] == 2 << 13 | 6


def test_signals_start_with_the_defaults_whatever_the_caller_ignores(container: Make) -> None:
    import signal

    box = container()
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        seen = box.run().json
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen["signals"]["ignored"] == seen["signals"]["blocked"] == []
    assert seen["pdeathsig"] == 0


def test_the_program_has_stdio_and_nothing_else(container: Make) -> None:
    box = container()
    leaks = [os.open("/", os.O_RDONLY) for _ in range(20)]
    try:
        seen = box.run(pass_fds=leaks).json
    finally:
        for fd in leaks:
            os.close(fd)
    assert sorted(seen["fds"]) == ["0", "1", "2"]


@pytest.mark.spec("/process/env")
def test_the_environment_is_the_configs_and_home(probe: Probe) -> None:
    seen = probe(set_process(env=["A=1", "EMPTY=", "A=2", "ü=ö"]))
    assert sorted(seen["environ"]) == sorted(["EMPTY=", "A=2", "ü=ö", "HOME=/root"])  # the last A, as with runc


@pytest.mark.parametrize(
    ("passwd", "uid", "home"),
    [
        ("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n", 1000, "/home/ann"),
        ("1000:x:5:5::/wrong:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh", 1000, "/home/ann"),
        ("root:x:0:0:root:/root:/bin/sh\n", 1000, "/"),
        ("", 0, "/"),
        ("broken\nroot:x:0\n:::::::\nroot:x:0:0::/r:/bin/sh\n", 0, "/r"),
        ("x" * 5000 + "\nann:x:1000:1000::/home/ann:/bin/sh\n", 1000, "/home/ann"),
        (None, 0, "/"),
    ],
    ids=["by uid", "a name of digits is not a uid", "unknown uid", "empty file", "broken lines", "a long line", "no file"],
)
def test_home_is_from_the_containers_passwd(container: Make, passwd: str | None, uid: int, home: str) -> None:
    box = container(mutate=set_process(user={"uid": uid, "gid": 0}))
    file = box.bundle.rootfs / "etc/passwd"
    file.unlink()
    if passwd is not None:
        file.write_text(passwd)
    assert f"HOME={home}" in box.run().json["environ"]


def test_home_of_the_config_wins(probe: Probe) -> None:
    seen = probe(set_process(env=["HOME=/elsewhere"]))
    assert [entry for entry in seen["environ"] if entry.startswith("HOME=")] == ["HOME=/elsewhere"]


def test_the_program_is_found_along_path(container: Make) -> None:
    box = container("probe", mutate=set_process(env=["PATH=/nowhere:/bin"]))
    assert box.run().json["pid"] == 1


@pytest.mark.spec("/process/args")
def test_arguments_arrive_as_they_are(container: Make) -> None:
    args = ["/bin/probe", "", "a b", "\\", "ü", "x" * 70000]
    assert container(*args).run().json["argv"][1:] == args[1:]


@pytest.mark.spec("/process/cwd")
def test_cwd_is_made_when_it_is_missing(container: Make) -> None:
    def change(config: Config) -> None:
        config["process"]["cwd"] = "/srv/new/dir"
        config["root"]["readonly"] = False

    assert container(mutate=change).run().json["cwd"] == "/srv/new/dir"


@pytest.mark.spec("/process/cwd")
def test_a_cwd_that_only_the_user_may_enter(container: Make) -> None:
    box = container(mutate=set_process(cwd="/private", user={"uid": 1000, "gid": 1000}))
    private = box.bundle.rootfs / "private"
    private.mkdir(0o700)
    os.chown(private, 1000, 1000)
    assert box.run().json["cwd"] == "/private"


def test_a_cwd_that_only_root_may_enter_is_entered_before_the_change_of_user(container: Make) -> None:
    box = container(mutate=set_process(cwd="/private", user={"uid": 1000, "gid": 1000}))
    (box.bundle.rootfs / "private").mkdir(0o700)
    assert box.run().json["cwd"] == "/private"


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 10, 12, 15])
def test_a_cwd_through_a_leaked_descriptor_is_an_error(container: Make, number: int) -> None:
    """CVE-2024-21626."""
    box = container("/bin/true", mutate=set_process(cwd=f"/proc/self/fd/{number}"))
    leaks = [os.open("/", os.O_RDONLY) for _ in range(10)]
    try:
        answer = box.create(check=False, pass_fds=leaks)
    finally:
        for fd in leaks:
            os.close(fd)
    assert answer.status == 1


def test_stdio_belongs_to_the_user(container: Make) -> None:
    box = container("/bin/sh", "-c", "echo again >/dev/stdout", mutate=set_process(user={"uid": 1000, "gid": 1000}))
    box.run()
    assert "again" in box.output.read_text()
    assert box.output.stat().st_uid == 1000


def test_dev_null_as_stdio_keeps_its_owner(container: Make) -> None:
    """It is the host's."""
    before = os.stat("/dev/null")
    container("/bin/true", mutate=set_process(user={"uid": 1000, "gid": 1000})).run()
    assert (os.stat("/dev/null").st_uid, os.stat("/dev/null").st_gid) == (before.st_uid, before.st_gid)


def test_the_session_keyring_is_new_unless_told_otherwise(container: Make) -> None:
    if not Path("/proc/keys").exists():
        pytest.skip("this kernel has no keyrings")
    box = container()
    ours = container().run("--no-new-keyring").json
    theirs = box.run().json
    assert theirs["session_keyring"].endswith(f";_ses.{box.id}")
    assert "_ses." + box.id not in str(ours["session_keyring"])


def test_personality(probe: Probe) -> None:
    assert probe(lambda config: config["linux"].update(personality={"domain": "LINUX32"}))["personality"] & 0xFF == 8


@pytest.mark.spec("/process/selinuxLabel", needs="SELinux: the refusal without it, and the plan")
def test_a_label_of_selinux_is_an_error_where_there_is_none(container: Make) -> None:
    enabled = Path("/sys/fs/selinux/enforce")
    if enabled.exists():
        pytest.skip("SELinux is enabled here: this label may be one that it knows")
    box = container("/bin/true", mutate=set_process(selinuxLabel="system_u:system_r:container_t:s0:c1,c2"))
    assert box.create(check=False).status == 1
    assert "(/process/selinuxLabel)" in box.errors.read_text()

@pytest.mark.spec(
    "/freebsd", "/solaris", "/vm", "/windows", "/zos", "/process/commandLine", "/process/user/username",
)  # fmt: skip
def test_what_is_for_other_platforms_has_no_effect(container: Make) -> None:
    def change(config: Config) -> None:
        config |= {name: {"anything": [1]} for name in ("freebsd", "solaris", "vm", "windows", "zos")}
        config["process"]["commandLine"] = "/bin/false"
        config["process"]["user"]["username"] = "nobody"

    box = container(mutate=change)
    assert box.run().json["uids"] == [0, 0, 0]
    assert box.errors.read_text() == ""


def test_preserved_descriptors_keep_their_numbers(container: Make, tmp_path: Path) -> None:
    box = container()
    file = tmp_path / "kept"
    file.write_text("kept")
    with file.open() as kept:
        wrapper = ["bash", "-c", f'exec 3<&{kept.fileno()} {kept.fileno()}<&-; exec "$@"', "bash"]
        argv = [box.runtime.path, "--root", str(box.runtime.root), "run", "--preserve-fds", "1", "--bundle", str(box.bundle.path)]
        import subprocess

        with box.output.open("wb") as out:
            subprocess.run([*wrapper, *argv, box.id], stdin=subprocess.DEVNULL, stdout=out, pass_fds=[kept.fileno()], check=True)
    seen = json.loads(box.output.read_text())
    assert sorted(seen["fds"]) == ["0", "1", "2", "3"]
    assert seen["fds"]["3"]["ino"] == file.stat().st_ino


def test_listen_fds_reach_pid_1_of_the_container(container: Make) -> None:
    import socket
    import subprocess

    box = container()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0" + box.id.encode())
        listener.listen()
        number = listener.fileno()
        wrapper = ["bash", "-c", _LISTEN.format(number), "bash"]
        argv = [box.runtime.path, "--root", str(box.runtime.root), "run", "--bundle", str(box.bundle.path), box.id]
        with box.output.open("wb") as out:
            subprocess.run([*wrapper, *argv], stdin=subprocess.DEVNULL, stdout=out, pass_fds=[number], check=True)
    seen = json.loads(box.output.read_text())
    assert {"LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=web"} <= set(seen["environ"])
    assert seen["fds"]["3"]["target"].startswith("socket:")
