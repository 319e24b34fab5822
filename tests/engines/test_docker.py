"""dockerd with its own containerd: the shim's calls, prestart hooks of the network, its default seccomp filter and masks."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import TIME_SCALE, Result, wait_until
from engines.engine import IMAGE, Engine, check_limits

_numbers = itertools.count(1)


def run(docker: Engine, *words: str, flags: tuple[str, ...] = (), check: bool = True, input: str = "") -> Result:
    return docker("run", *flags, IMAGE, *words, check=check, input=input)


@pytest.fixture
def sleeper(docker: Engine) -> Iterator[str]:
    """The name of a detached container."""
    name = f"box{next(_numbers)}"
    run(docker, "sleep", "1000", flags=("--detach", "--name", name))
    yield name
    docker("rm", "--force", name)


def of(docker: Engine, name: str, field: str) -> str:
    return docker("inspect", "--format", "{{." + field + "}}", name).stdout.strip()


def test_a_program_runs_in_the_foreground(docker: Engine) -> None:
    result = run(docker, "echo", "hello", flags=("--rm",))
    assert (result.stdout, result.stderr) == ("hello\n", "")


def test_the_exit_code_of_the_program_is_the_one_of_docker(docker: Engine) -> None:
    assert run(docker, "sh", "-c", "exit 7", flags=("--rm",), check=False).status == 7


def test_a_program_that_does_not_exist_gives_127(docker: Engine) -> None:
    for program in ("nothing", "/nowhere"):
        result = run(docker, program, flags=("--rm",), check=False)
        assert (result.status, program in result.stderr) == (127, True), str(result)


def test_a_program_that_cannot_be_executed_gives_126(docker: Engine) -> None:
    for program in ("/etc/passwd", "/etc"):
        result = run(docker, program, flags=("--rm",), check=False)
        assert result.status == 126, str(result)


def test_standard_input_reaches_the_program(docker: Engine) -> None:
    assert run(docker, "cat", flags=("--rm", "--interactive"), input="typed\n").stdout == "typed\n"


def test_a_terminal_is_one_in_the_container(docker: Engine) -> None:
    status, shown = docker.terminal("run", "--rm", "-it", IMAGE, "sh", "-c", "tty; exit 3")
    assert (status, shown.strip()) == (3, "/dev/pts/0")


def test_exec_runs_in_the_container_and_gives_its_code(docker: Engine, sleeper: str) -> None:
    result = docker("exec", sleeper, "sh", "-c", "echo $PPID; exit 5", check=False)
    assert (result.stdout, result.status) == ("0\n", 5)


def test_exec_has_a_terminal(docker: Engine, sleeper: str) -> None:
    status, shown = docker.terminal("exec", "-it", sleeper, "sh", "-c", "tty; exit 4")
    assert (status, shown.strip()) == (4, "/dev/pts/0")


def test_an_exec_of_nothing_gives_126_and_the_reason(docker: Engine, sleeper: str) -> None:
    for program, reason in (
        ("nothing", "executable file not found in $PATH"),
        ("/nowhere", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
    ):
        result = docker("exec", sleeper, program, check=False)
        assert result.status == 126, str(result)
        assert program in result.stdout
        assert reason in result.stdout


def test_exec_of_a_user_in_a_directory(docker: Engine, sleeper: str) -> None:
    script = "id -u; pwd; echo $A; echo $HOME"
    result = docker("exec", "--user", "user", "--workdir", "/tmp", "--env", "A=b", sleeper, "sh", "-c", script)
    assert result.stdout == "1000\n/tmp\nb\n/home/user\n"


def test_logs_hold_what_a_detached_container_said(docker: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(docker, "echo", "said", flags=("--detach", "--name", name))
    assert docker("wait", name).stdout == "0\n"
    assert docker("logs", name).stdout == "said\n"
    docker("rm", name)


def test_stop_sends_the_signal_that_the_program_handles(docker: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(docker, "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done", flags=("--detach", "--name", name))
    wait_until(lambda: docker("logs", name).stdout == "ready\n", 10, "the program")
    docker("stop", name)
    assert of(docker, name, "State.ExitCode") == "9"
    docker("rm", name)


def test_kill_and_start_again(docker: Engine, sleeper: str) -> None:
    docker("kill", sleeper)
    assert docker("wait", sleeper).stdout == "137\n"
    docker("start", sleeper)
    assert docker("exec", sleeper, "echo", "again").stdout == "again\n"


def test_a_restart_policy_starts_what_ended(docker: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(docker, "sh", "-c", "echo once; exit 1", flags=("--detach", "--restart", "on-failure:2", "--name", name))
    wait_until(lambda: docker("logs", name).stdout.count("once") == 3, 20, "two restarts")
    docker("rm", "--force", name)


def test_limits_are_the_cgroups(docker: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(docker, "sleep", "1000", flags=("--detach", "--name", name, "--memory", "32m", "--pids-limit", "50", "--cpu-shares", "512"))
    pid = int(of(docker, name, "State.Pid"))
    check_limits(pid, {"memory.limit_in_bytes": "33554432", "pids.max": "50", "cpu.shares": "512"})
    docker("rm", "--force", name)


def test_a_program_over_its_memory_is_killed_and_docker_knows_why(docker: Engine) -> None:
    name = f"box{next(_numbers)}"
    # The shim listens for it a little after the program has started.
    script = "sleep 0.5; dd if=/dev/zero of=/dev/null bs=64M"
    result = run(docker, "sh", "-c", script, flags=("--name", name, "--memory", "16m"), check=False)
    assert result.status == 137
    assert of(docker, name, "State.OOMKilled") == "true"
    docker("rm", name)


def test_root_user_and_volumes(docker: Engine, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tmp_path.chmod(0o777)
    (tmp_path / "in").chmod(0o777)
    script = "id -u; id -g; touch /x 2>&1; touch /ro/x 2>&1; echo written >/rw/out; df /scratch | tail -n 1 | cut -d ' ' -f 1"
    volumes = "-v", f"{tmp_path}/in:/rw", "-v", f"{tmp_path}:/ro:ro"
    flags = "--rm", "--read-only", "--user", "1000:1000", "--tmpfs", "/scratch", *volumes
    result = run(docker, "sh", "-c", script, flags=flags)
    assert result.stdout.splitlines() == [
        "1000", "1000", "touch: /x: Read-only file system", "touch: /ro/x: Read-only file system", "tmpfs"
    ]
    assert (tmp_path / "in/out").read_text() == "written\n"


def test_an_init_of_docker_is_the_first_process(docker: Engine) -> None:
    assert run(docker, "cat", "/proc/1/comm", flags=("--rm", "--init")).stdout == "docker-init\n"


def test_capabilities_and_seccomp(docker: Engine) -> None:
    result = run(docker, "grep", "-E", "CapEff|NoNewPrivs|Seccomp:", "/proc/self/status", flags=(
        "--rm", "--cap-drop", "all", "--cap-add", "chown", "--security-opt", "no-new-privileges"))  # fmt: skip
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["0000000000000001", "1", "2"]


def test_devices_sysctls_and_shared_namespaces(docker: Engine, sleeper: str) -> None:
    flags = ("--rm", "--device", "/dev/null:/dev/nothing", "--sysctl", "kernel.msgmax=4096", "--pid", "host", "--hostname", "named")
    script = "echo x >/dev/nothing; stat -c %t:%T /dev/nothing; cat /proc/sys/kernel/msgmax; hostname"
    result = run(docker, "sh", "-c", script, flags=flags)
    assert result.stdout == "1:3\n4096\nnamed\n"
    joined = run(docker, "sh", "-c", "readlink /proc/self/ns/net", flags=("--rm", "--network", f"container:{sleeper}")).stdout
    assert joined == docker("exec", sleeper, "readlink", "/proc/self/ns/net").stdout


def test_an_image_is_built_the_old_way_and_with_buildkit(docker: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN echo built >/made && id -u\nRUN cat /made\n")
    for buildkit in ("0", "1"):
        docker.env["DOCKER_BUILDKIT"] = buildkit
        docker("build", "--no-cache", "--network", "none", "--tag", "built", tmp_path)
        assert docker("run", "--rm", "built", "cat", "/made").stdout == "built\n"
        docker("rmi", "built")


def test_a_paused_container_is_resumed(docker: Engine, sleeper: str) -> None:
    docker("pause", sleeper)
    assert docker("inspect", "--format", "{{.State.Status}}", sleeper).stdout == "paused\n"
    docker("unpause", sleeper)
    assert docker("exec", sleeper, "echo", "awake").stdout == "awake\n"


def test_the_processes_of_a_container_are_listed(docker: Engine, sleeper: str) -> None:
    lines = docker("top", sleeper).stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("sleep 1000")


def test_a_program_that_exec_left_behind_ends_with_the_container(docker: Engine, sleeper: str) -> None:
    docker("exec", "--detach", sleeper, "sleep", "1001")
    docker("kill", sleeper)
    docker("wait", sleeper)


def test_containers_of_the_hosts_namespaces(docker: Engine) -> None:
    flags = "--rm", "--pid", "host", "--network", "host", "--ipc", "host", "--uts", "host"
    kinds = "pid", "net", "ipc", "uts"
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    result = run(docker, "sh", "-c", script, flags=flags)
    assert result.stdout.split() == [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]


def test_limits_change_while_it_runs(docker: Engine, sleeper: str) -> None:
    docker("update", "--memory", "64m", "--memory-swap", "-1", "--cpu-shares", "300", sleeper)
    pid = int(of(docker, sleeper, "State.Pid"))
    check_limits(pid, {"memory.limit_in_bytes": "67108864", "cpu.shares": "300"})


def test_a_read_only_container_with_files_of_its_own(docker: Engine) -> None:
    result = run(docker, "sh", "-c", "echo x >/etc/hostname; echo x >/etc/x", flags=("--rm", "--read-only"), check=False)
    assert result.status == 1
    assert result.stderr.count("Read-only file system") == 2


def test_rlimits_and_the_oom_score_are_set(docker: Engine) -> None:
    flags = "--rm", "--ulimit", "nofile=99:100", "--oom-score-adj", "500"
    result = run(docker, "sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj", flags=flags)
    assert result.stdout == "99\n500\n"


def test_a_container_of_the_hosts_cgroup_namespace(docker: Engine) -> None:
    inside = run(docker, "readlink", "/proc/self/ns/cgroup", flags=("--rm", "--cgroupns", "private")).stdout.strip()
    assert inside != os.readlink("/proc/self/ns/cgroup")
    assert run(docker, "readlink", "/proc/self/ns/cgroup", flags=("--rm", "--cgroupns", "host")).stdout.strip() != inside


def test_a_privileged_container(docker: Engine) -> None:
    """Also where docker's daemon has not all capabilities itself."""
    result = run(docker, "sh", "-c", "mount -t tmpfs none /mnt && ls /dev/kmsg && echo mounted", flags=("--rm", "--privileged"))
    assert result.stdout == "/dev/kmsg\nmounted\n"


def test_docker_knows_the_version_of_the_runtime(docker: Engine) -> None:
    wanted = subprocess.run([docker.runtime, "--version"], capture_output=True, text=True, check=True).stdout
    commit = docker("info", "--format", "{{.RuncCommit.ID}}").stdout.strip()
    assert commit != "N/A"
    assert commit in wanted


def test_a_detached_container_keeps_no_pipe_of_the_caller(docker: Engine) -> None:
    name = f"box{next(_numbers)}"
    argv = [*docker.argv, "run", "--detach", "--name", name, IMAGE, "sleep", "1000"]
    assert subprocess.run(argv, env=docker.env, capture_output=True, check=False, timeout=20 * TIME_SCALE).returncode == 0
    docker("rm", "--force", name)


def test_containers_at_the_same_time(docker: Engine) -> None:
    argv = [*docker.argv, "run", "--rm", IMAGE, "echo", "hello"]
    running = [subprocess.Popen(argv, env=docker.env, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert [(one.communicate()[0], one.returncode) for one in running] == [("hello\n", 0)] * 8


@pytest.mark.parametrize("flags", [("--memory", "6m"), ("--pids-limit", "2"), ("--cpus", "0.01")], ids=" ".join)
def test_the_smallest_limits_let_a_program_start_and_exec(docker: Engine, flags: tuple[str, ...]) -> None:
    name = f"box{next(_numbers)}"
    run(docker, "sleep", "1000", flags=("--detach", "--name", name, *flags))
    try:
        assert docker("exec", name, "echo", "hello").stdout == "hello\n"
    finally:
        docker("rm", "--force", name)


def test_a_signal_that_is_named_arrives(docker: Engine) -> None:
    name = f"box{next(_numbers)}"
    run(docker, "sh", "-c", "trap 'exit 6' USR1; echo ready; while :; do sleep 0.1; done", flags=("--detach", "--name", name))
    wait_until(lambda: docker("logs", name).stdout == "ready\n", 10, "the program")
    docker("kill", "--signal", "USR1", name)
    assert docker("wait", name).stdout == "6\n"
    docker("rm", name)


def test_files_are_copied_in_and_out(docker: Engine, sleeper: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("copied\n")
    docker("cp", tmp_path / "in", f"{sleeper}:/in")
    assert docker("exec", sleeper, "cat", "/in").stdout == "copied\n"
    docker("cp", f"{sleeper}:/in", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "copied\n"


# ---- what an engine watches, and how containers end -------------------------------------------------------------------------

FORKS = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done"


@pytest.fixture
def named(docker: Engine) -> Iterator[str]:
    """A name for a container that is removed when the test ends."""
    name = f"box{next(_numbers)}"
    yield name
    docker("rm", "--force", name)


def test_the_health_of_a_container_is_told(docker: Engine, named: str) -> None:
    flags = "--health-cmd", "test ! -e /ill", "--health-interval", "300ms", "--health-retries", "1"
    run(docker, "sleep", "1000", flags=("--detach", "--name", named, *flags))
    wait_until(lambda: of(docker, named, "State.Health.Status") == "healthy", 10, "health")
    docker("exec", named, "touch", "/ill")
    wait_until(lambda: of(docker, named, "State.Health.Status") == "unhealthy", 10, "illness")


def test_a_seccomp_profile_of_ones_own_is_loaded(docker: Engine, tmp_path: Path) -> None:
    denied = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    (profile := tmp_path / "profile.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]}))
    result = run(docker, "mkdir", "/x", flags=("--rm", "--security-opt", f"seccomp={profile}"), check=False)
    assert (result.status, result.stderr) == (1, "mkdir: can't create directory '/x': Operation not supported\n")
    unconfined = "--rm", "--security-opt", "seccomp=unconfined"
    assert run(docker, "grep", "Seccomp:", "/proc/self/status", flags=unconfined).stdout.split()[1] == "0"


def test_a_program_cannot_have_more_processes_than_it_may(docker: Engine) -> None:
    result = run(docker, "sh", "-c", FORKS, flags=("--rm", "--pids-limit", "5"), check=False)
    assert (result.status, "can't fork: Resource temporarily unavailable" in result.stderr) == (2, True), str(result)


def test_a_program_that_does_not_stop_in_time_is_killed(docker: Engine, sleeper: str) -> None:
    docker("stop", "--time", "1", sleeper)  # the first process of a container gets no signal that it does not handle
    assert of(docker, sleeper, "State.ExitCode") == "137"


@pytest.mark.parametrize("name", ["HUP", "INT", "SEGV", "TERM", "KILL"])
def test_the_signal_that_ended_a_program_is_in_its_exit_code(docker: Engine, name: str) -> None:
    result = run(docker, "sh", "-c", f"kill -s {name} $$", flags=("--rm", "--pid", "host"), check=False)
    assert result.status == 128 + getattr(signal, f"SIG{name}")


def test_a_signal_to_docker_run_arrives_at_the_program(docker: Engine, named: str) -> None:
    script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done"
    argv = [*docker.argv, "run", "--name", named, IMAGE, "sh", "-c", script]
    with subprocess.Popen(argv, env=docker.env, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout and running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20 * TIME_SCALE) == 6


def test_attach_reads_and_types(docker: Engine, named: str) -> None:
    script = "while read line; do echo got $line; done"
    run(docker, "sh", "-c", script, flags=("--detach", "--interactive", "--name", named))
    with subprocess.Popen(
        [*docker.argv, "attach", named], env=docker.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as attached:
        assert attached.stdin and attached.stdout
        attached.stdin.write("typed\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == "got typed\n"
        docker("kill", named)


def test_a_restart_is_a_new_process_of_the_same_container(docker: Engine, sleeper: str) -> None:
    before = of(docker, sleeper, "State.Pid")
    docker("exec", sleeper, "touch", "/kept")
    docker("restart", "--time", "0", sleeper)
    docker("exec", sleeper, "test", "-e", "/kept")
    assert of(docker, sleeper, "State.Pid") != before


def test_a_container_that_always_restarts_comes_back_when_its_program_is_killed(docker: Engine, named: str) -> None:
    run(docker, "sleep", "1000", flags=("--detach", "--restart", "always", "--name", named))
    before = of(docker, named, "State.Pid")
    os.kill(int(before), signal.SIGKILL)
    wait_until(lambda: of(docker, named, "State.Pid") not in (before, "0"), 20, "a new program")


def test_a_volume_outlives_its_container(docker: Engine) -> None:
    docker("volume", "create", "kept")
    run(docker, "sh", "-c", "echo written >/data/file", flags=("--rm", "--volume", "kept:/data"))
    assert run(docker, "cat", "/data/file", flags=("--rm", "--volume", "kept:/data:ro")).stdout == "written\n"
    docker("volume", "rm", "kept")


def test_what_a_container_uses_is_counted(docker: Engine, sleeper: str) -> None:
    assert docker("stats", "--no-stream", "--format", "{{.PIDs}}", sleeper).stdout == "1\n"
