"""Podman through conmon, and its own calls of the runtime: start, kill, delete, with no --root."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import PREFIX, TIME_SCALE, Result, cgroup_of, hierarchies, wait_until
from engines.engine import IMAGE, Engine, check_limits

_numbers = itertools.count(1)
VERSION = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=False).stdout
# On cgroup v2 Podman 4.3 forbids all devices in the cgroup that it makes for a pod: no runtime can make /dev there.
OWN_POD = pytest.mark.skipif(
    set(hierarchies()) == {""} and VERSION.startswith("podman version 4."), reason="Podman 4 forbids a pod all devices on cgroup v2"
)
IN_OUR_CGROUP = ("--cgroup-parent", f"/{PREFIX}")


def run(podman: Engine, *words: str, flags: tuple[str, ...] = (), check: bool = True, input: str = "") -> Result:
    return podman("run", *IN_OUR_CGROUP, *flags, IMAGE, *words, check=check, input=input)


@pytest.fixture
def sleeper(podman: Engine) -> Iterator[str]:
    """The name of a detached container."""
    name = f"box{next(_numbers)}"
    run(podman, "sleep", "1000", flags=("--detach", "--name", name))
    yield name
    podman("rm", "--force", "--time", "0", name)


def pid_of(podman: Engine, name: str) -> int:
    return int(podman("inspect", "--format", "{{.State.Pid}}", name).stdout)


def test_a_program_runs_in_the_foreground(podman: Engine) -> None:
    result = run(podman, "echo", "hello", flags=("--rm",))
    assert (result.stdout, result.stderr) == ("hello\n", "")


def test_the_exit_code_of_the_program_is_the_one_of_podman(podman: Engine) -> None:
    assert run(podman, "sh", "-c", "exit 7", flags=("--rm",), check=False).status == 7


def test_a_program_that_does_not_exist_gives_127(podman: Engine) -> None:
    for program in ("nothing", "/nowhere"):
        result = run(podman, program, flags=("--rm",), check=False)
        assert (result.status, program in result.stderr) == (127, True), str(result)


def test_a_program_that_cannot_be_executed_gives_126(podman: Engine) -> None:
    for program in ("/etc/passwd", "/etc"):
        result = run(podman, program, flags=("--rm",), check=False)
        assert result.status == 126, str(result)


def test_standard_input_reaches_the_program(podman: Engine) -> None:
    assert run(podman, "cat", flags=("--rm", "--interactive"), input="typed\n").stdout == "typed\n"


def test_a_terminal_is_one_in_the_container(podman: Engine) -> None:
    status, shown = podman.terminal("run", *IN_OUR_CGROUP, "--rm", "-it", IMAGE, "sh", "-c", "tty; exit 3")
    assert (status, shown.strip()) == (3, "/dev/pts/0")


def test_exec_runs_in_the_container_and_gives_its_code(podman: Engine, sleeper: str) -> None:
    result = podman("exec", sleeper, "sh", "-c", "echo $PPID; exit 5", check=False)
    assert (result.stdout, result.status) == ("0\n", 5)


def test_exec_has_a_terminal(podman: Engine, sleeper: str) -> None:
    status, shown = podman.terminal("exec", "-it", sleeper, "sh", "-c", "tty; exit 4")
    assert (status, shown.strip()) == (4, "/dev/pts/0")


def test_an_exec_of_nothing_gives_127(podman: Engine, sleeper: str) -> None:
    result = podman("exec", sleeper, "nothing", check=False)
    assert result.status == 127, str(result)


def test_exec_of_a_user_in_a_directory(podman: Engine, sleeper: str) -> None:
    script = "id -u; pwd; echo $A; echo $HOME"
    result = podman("exec", "--user", "user", "--workdir", "/tmp", "--env", "A=b", sleeper, "sh", "-c", script)
    assert result.stdout == "1000\n/tmp\nb\n/home/user\n"


def test_logs_hold_what_a_detached_container_said(podman: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(podman, "echo", "said", flags=("--detach", "--name", name))
    assert podman("wait", name).stdout == "0\n"
    assert podman("logs", name).stdout == "said\n"
    podman("rm", name)


def test_stop_sends_the_signals_in_their_order(podman: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(podman, "sh", "-c", "trap 'exit 9' TERM; touch /tmp/ready; while :; do sleep 0.1; done", flags=("--detach", "--name", name))
    podman("exec", name, "sh", "-c", "until test -e /tmp/ready; do sleep 0.1; done")
    podman("stop", name)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", name).stdout == "9\n"
    podman("rm", name)


def test_kill_and_start_again(podman: Engine, sleeper: str) -> None:
    podman("kill", sleeper)
    assert podman("wait", sleeper).stdout == "137\n"
    podman("start", sleeper)
    assert podman("exec", sleeper, "echo", "again").stdout == "again\n"


def test_a_created_container_starts_and_a_created_one_is_removed(podman: Engine) -> None:
    for start in (True, False):
        name = f"box{next(_numbers)}"
        podman("create", *IN_OUR_CGROUP, "--name", name, IMAGE, "echo", "late")
        podman("init", name)
        if start:
            assert podman("start", "--attach", name).stdout == "late\n"
        podman("rm", "--force", name)


def test_limits_are_the_cgroups(podman: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(podman, "sleep", "1000", flags=("--detach", "--name", name, "--memory", "32m", "--pids-limit", "50", "--cpu-shares", "512"))
    pid = pid_of(podman, name)
    check_limits(pid, {"memory.limit_in_bytes": "33554432", "pids.max": "50", "cpu.shares": "512"})
    podman("rm", "--force", "--time", "0", name)


def test_root_user_and_volumes(podman: Engine, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tmp_path.chmod(0o777)
    (tmp_path / "in").chmod(0o777)
    script = "id -u; id -g; touch /x 2>&1; touch /ro/x 2>&1; echo written >/rw/out; df /scratch | tail -n 1 | cut -d ' ' -f 1"
    volumes = "-v", f"{tmp_path}/in:/rw", "-v", f"{tmp_path}:/ro:ro"
    flags = "--rm", "--read-only", "--user", "1000:1000", "--tmpfs", "/scratch", *volumes
    result = run(podman, "sh", "-c", script, flags=flags)
    assert result.stdout.splitlines() == [
        "1000", "1000", "touch: /x: Read-only file system", "touch: /ro/x: Read-only file system", "tmpfs"
    ]
    assert (tmp_path / "in/out").read_text() == "written\n"


def test_capabilities_seccomp_and_init(podman: Engine) -> None:
    result = run(podman, "grep", "-E", "CapEff|NoNewPrivs|Seccomp:", "/proc/self/status", flags=(
        "--rm", "--cap-drop", "all", "--cap-add", "chown", "--security-opt", "no-new-privileges"))  # fmt: skip
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["0000000000000001", "1", "2"]


@OWN_POD
def test_containers_of_a_pod_share_namespaces(podman: Engine) -> None:
    name = f"pod{next(_numbers)}"
    podman("pod", "create", *IN_OUR_CGROUP, "--infra-command", "/bin/pause", "--name", name)
    first = podman("run", "--rm", "--pod", name, IMAGE, "readlink", "/proc/self/ns/ipc").stdout
    second = podman("run", "--rm", "--pod", name, IMAGE, "readlink", "/proc/self/ns/ipc").stdout
    assert first == second != ""
    podman("pod", "rm", "--force", "--time", "0", name)


def test_a_paused_container_is_resumed(podman: Engine, sleeper: str) -> None:
    podman("pause", sleeper)
    assert podman("inspect", "--format", "{{.State.Status}}", sleeper).stdout == "paused\n"
    podman("unpause", sleeper)
    assert podman("exec", sleeper, "echo", "awake").stdout == "awake\n"


def test_the_processes_of_a_container_are_listed(podman: Engine, sleeper: str) -> None:
    lines = podman("top", sleeper).stdout.splitlines()
    assert len(lines) == 2
    assert "sleep 1000" in lines[1]


def test_a_program_that_exec_left_behind_ends_with_the_container(podman: Engine, sleeper: str) -> None:
    podman("exec", "--detach", sleeper, "sleep", "1001")
    podman("kill", sleeper)
    podman("wait", sleeper)


def test_containers_of_the_hosts_namespaces(podman: Engine) -> None:
    flags = "--rm", "--pid", "host", "--network", "host", "--ipc", "host", "--uts", "host"
    kinds = "pid", "net", "ipc", "uts"
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    result = run(podman, "sh", "-c", script, flags=flags)
    assert result.stdout.split() == [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]


def test_a_user_namespace_with_maps(podman: Engine) -> None:
    flags = "--rm", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"
    result = run(podman, "sh", "-c", "id -u; cat /proc/self/uid_map; stat -c %u /etc", flags=flags)
    assert result.stdout.split() == ["0", "0", "100000", "65536", "0"]


def test_a_privileged_container(podman: Engine) -> None:
    result = run(podman, "sh", "-c", "mount -t tmpfs none /mnt && echo mounted", flags=("--rm", "--privileged"))
    assert result.stdout == "mounted\n"


def test_devices_sysctls_and_the_host_name(podman: Engine) -> None:
    flags = "--rm", "--device", "/dev/null:/dev/nothing", "--sysctl", "kernel.msgmax=4096", "--hostname", "named"
    script = "echo x >/dev/nothing; stat -c %t:%T /dev/nothing; cat /proc/sys/kernel/msgmax; hostname"
    result = run(podman, "sh", "-c", script, flags=flags)
    assert result.stdout == "1:3\n4096\nnamed\n"


def test_podman_knows_the_version_of_the_runtime(podman: Engine) -> None:
    wanted = subprocess.run([podman.runtime, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    assert podman("info", "--format", "{{.Host.OCIRuntime.Version}}").stdout.strip() == wanted


def test_limits_change_while_it_runs(podman: Engine, sleeper: str) -> None:
    podman("update", "--memory", "64m", "--cpu-shares", "300", sleeper)
    pid = pid_of(podman, sleeper)
    check_limits(pid, {"memory.limit_in_bytes": "67108864", "cpu.shares": "300"})


def test_files_that_are_passed_to_exec_arrive(podman: Engine, sleeper: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("given\n")
    command = " ".join([*podman.argv, "exec", "--preserve-fds", "1", sleeper, "cat", "/proc/self/fd/3"])
    result = subprocess.run(["sh", "-c", f"{command} 3<{tmp_path}/given >{tmp_path}/out"], env=podman.env, check=False)
    assert (result.returncode, (tmp_path / "out").read_text()) == (0, "given\n")


def test_a_detached_container_keeps_no_pipe_of_the_caller(podman: Engine) -> None:
    name = f"box{next(_numbers)}"
    argv = [*podman.argv, "run", *IN_OUR_CGROUP, "--detach", "--name", name, IMAGE, "sleep", "1000"]
    assert subprocess.run(argv, env=podman.env, capture_output=True, check=False, timeout=20 * TIME_SCALE).returncode == 0
    podman("rm", "--force", "--time", "0", name)


def test_containers_at_the_same_time(podman: Engine) -> None:
    argv = [*podman.argv, "run", *IN_OUR_CGROUP, "--rm", IMAGE, "echo", "hello"]
    running = [subprocess.Popen(argv, env=podman.env, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert [(one.communicate()[0], one.returncode) for one in running] == [("hello\n", 0)] * 8


# ---- what an engine watches, and how containers end -------------------------------------------------------------------------

FORKS = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done"


@pytest.fixture
def named(podman: Engine) -> Iterator[str]:
    """A name for a container that is removed when the test ends."""
    name = f"box{next(_numbers)}"
    yield name

    def gone() -> bool:
        """The mounts of a user namespace may go a moment after its processes, and Podman does not wait for them."""
        result = podman("rm", "--force", "--ignore", "--time", "0", name, check=False)
        assert result.status == 0 or "device or resource busy" in result.stderr, str(result)
        return result.status == 0

    wait_until(gone, 5, "the container to be removed")


def of(podman: Engine, name: str, field: str) -> str:
    return podman("inspect", "--format", "{{." + field + "}}", name).stdout.strip()


def test_the_health_of_a_container_is_asked_for(podman: Engine, named: str) -> None:
    flags = "--health-cmd", "test ! -e /ill", "--health-interval", "disable", "--health-retries", "1"
    run(podman, "sleep", "1000", flags=("--detach", "--name", named, *flags))
    podman("healthcheck", "run", named)
    assert of(podman, named, "State.Health.Status") == "healthy"
    podman("exec", named, "touch", "/ill")
    assert podman("healthcheck", "run", named, check=False).status == 1
    assert of(podman, named, "State.Health.Status") == "unhealthy"


def test_a_seccomp_profile_of_ones_own_is_loaded(podman: Engine, tmp_path: Path) -> None:
    denied = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    (profile := tmp_path / "profile.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]}))
    result = run(podman, "mkdir", "/x", flags=("--rm", "--security-opt", f"seccomp={profile}"), check=False)
    assert (result.status, result.stderr) == (1, "mkdir: can't create directory '/x': Operation not supported\n")
    unconfined = "--rm", "--security-opt", "seccomp=unconfined"
    assert run(podman, "grep", "Seccomp:", "/proc/self/status", flags=unconfined).stdout.split()[1] == "0"


def test_a_program_cannot_have_more_processes_than_it_may(podman: Engine) -> None:
    result = run(podman, "sh", "-c", FORKS, flags=("--rm", "--pids-limit", "5"), check=False)
    assert (result.status, "can't fork: Resource temporarily unavailable" in result.stderr) == (2, True), str(result)


def test_a_program_over_its_memory_is_killed(podman: Engine) -> None:
    """That conmon tells Podman why is left out: on cgroup v1 it does so with no runtime."""
    result = run(podman, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", flags=("--rm", "--memory", "16m"), check=False)
    assert result.status == 137


def test_a_program_that_does_not_stop_in_time_is_killed(podman: Engine, sleeper: str) -> None:
    podman("stop", "--time", "1", sleeper)  # the first process of a container gets no signal that it does not handle
    assert of(podman, sleeper, "State.ExitCode") == "137"


@pytest.mark.parametrize("name", ["HUP", "INT", "SEGV", "TERM", "KILL"])
def test_the_signal_that_ended_a_program_is_in_its_exit_code(podman: Engine, name: str) -> None:
    result = run(podman, "sh", "-c", f"kill -s {name} $$", flags=("--rm", "--pid", "host"), check=False)
    assert result.status == 128 + getattr(signal, f"SIG{name}")


def test_a_signal_to_podman_run_arrives_at_the_program(podman: Engine, named: str) -> None:
    script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done"
    argv = [*podman.argv, "run", *IN_OUR_CGROUP, "--name", named, IMAGE, "sh", "-c", script]
    with subprocess.Popen(argv, env=podman.env, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout and running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20 * TIME_SCALE) == 6


def test_attach_reads_and_types(podman: Engine, named: str) -> None:
    script = "while read line; do echo got $line; done"
    run(podman, "sh", "-c", script, flags=("--detach", "--interactive", "--name", named))
    with subprocess.Popen(
        [*podman.argv, "attach", named], env=podman.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as attached:
        assert attached.stdin and attached.stdout
        attached.stdin.write("typed\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == "got typed\n"
        podman("kill", named)


def test_a_restart_policy_starts_what_ended(podman: Engine, named: str) -> None:
    run(podman, "sh", "-c", "echo once; exit 1", flags=("--detach", "--restart", "on-failure:2", "--name", named))
    wait_until(lambda: podman("logs", named).stdout.count("once") == 3, 20, "two restarts")


def test_an_init_of_podman_is_the_first_process(podman: Engine) -> None:
    result = run(podman, "cat", "/proc/1/cmdline", flags=("--rm", "--init", "--init-path", "/usr/bin/docker-init"))
    assert result.stdout.startswith("/run/podman-init\0")


def test_the_log_of_a_container_is_a_file_as_kubernetes_has_it(podman: Engine, named: str, tmp_path: Path) -> None:
    flags = "--name", named, "--log-driver", "k8s-file", "--log-opt", f"path={tmp_path}/log"
    run(podman, "sh", "-c", "echo said; echo failed >&2", flags=flags)
    lines = sorted(line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines())
    assert lines == ["stderr F failed", "stdout F said"]


def test_a_container_is_in_the_cgroup_that_is_asked_for(podman: Engine, named: str) -> None:
    run(podman, "sleep", "1000", flags=("--detach", "--name", named, "--cgroup-parent", f"/{PREFIX}/asked"))
    assert cgroup_of(pid_of(podman, named), "memory").parent.name == "asked"
    podman("rm", "--force", "--time", "0", named)
    for point in set(hierarchies().values()):  # the engine's own, for conmon, and the parent that it has made
        for path in (point / PREFIX / "asked/conmon", point / PREFIX / "asked"):
            if path.is_dir():
                path.rmdir()


def test_a_container_without_a_cgroup(podman: Engine) -> None:
    result = podman("run", "--rm", "--cgroups", "disabled", IMAGE, "cat", "/proc/self/cgroup")
    assert PREFIX not in result.stdout
    assert "libpod" not in result.stdout


def test_a_user_namespace_that_podman_chooses_and_one_that_is_joined(podman: Engine, named: str) -> None:
    run(podman, "sleep", "1000", flags=("--detach", "--name", named, "--userns", "auto"))
    first = podman("exec", named, "cat", "/proc/self/uid_map").stdout
    inside, outside, size = map(int, first.split())
    assert (inside, outside >= 200000, size >= 1000) == (0, True, True)
    assert run(podman, "cat", "/proc/self/uid_map", flags=("--rm", "--userns", f"container:{named}")).stdout == first


@pytest.fixture
def kube_parent() -> Iterator[None]:
    """`play kube` has no flag for the parent of its cgroups, which stays behind."""
    points = set(hierarchies().values())
    before = {point for point in points if (point / "libpod_parent").exists()}
    yield
    for point in points - before:
        for path, _, _ in os.walk(point / "libpod_parent", topdown=False):
            os.rmdir(path)


@OWN_POD
def test_a_pod_of_kubernetes_is_played(podman: Engine, kube_parent: None, tmp_path: Path) -> None:
    name = f"pod{next(_numbers)}"
    (tmp_path / "shared").mkdir()
    mounted = [{"name": "shared", "mountPath": "/shared"}]
    writes = {"name": "writes", "image": IMAGE, "command": ["sh", "-c", "echo $WHAT >/shared/file; exec sleep 1000"],
              "env": [{"name": "WHAT", "value": "written"}], "volumeMounts": mounted}  # fmt: skip
    reads = {"name": "reads", "image": IMAGE, "command": ["sleep", "1000"], "volumeMounts": mounted,
             "securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
             "resources": {"limits": {"memory": "32Mi"}}}  # fmt: skip
    volumes = [{"name": "shared", "hostPath": {"path": str(tmp_path / "shared"), "type": "Directory"}}]
    spec = {"containers": [writes, reads], "volumes": volumes}
    (file := tmp_path / "pod.yaml").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    )
    try:
        podman("play", "kube", "--network", "none", file)
        wait_until((tmp_path / "shared/file").exists, 10, "the file")
        script = "id -u; cat /shared/file; grep CapEff /proc/self/status; touch /x 2>&1"
        result = podman("exec", f"{name}-reads", "sh", "-c", script, check=False)
        assert re.split(r"\s+", result.stdout, maxsplit=4)[:4] == ["1000", "written", "CapEff:", "0000000000000000"]
        assert "Read-only file system" in result.stdout
        reader = pid_of(podman, f"{name}-reads")
        check_limits(reader, {"memory.limit_in_bytes": str(32 << 20)})
    finally:
        podman("play", "kube", "--down", file)


def test_an_image_is_built(podman: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN echo built >/made && id -u\n")
    flags = "--isolation", "oci", "--runtime", podman.runtime, "--network", "none", "--cgroup-parent", f"/{PREFIX}/build"
    podman("build", *flags, "--no-cache", "--tag", "built", tmp_path)
    assert podman("run", *IN_OUR_CGROUP, "--rm", "built", "cat", "/made").stdout == "built\n"
    podman("rmi", "built")
