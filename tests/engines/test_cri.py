"""Kubernetes' way to a runtime: containerd's CRI plugin, pods with a pause container and containers that join its namespaces."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bundles import PREFIX, cgroup_of, hierarchies, wait_until
from engines.cri import HANDLER, OTHER_HANDLER, Container, Cri, Pod
from engines.engine import check_limits, readme

MakePod = Callable[..., Pod]


@pytest.fixture
def make_pod(cri: Cri) -> Iterator[MakePod]:
    """``make_pod({…fields of PodSandboxConfig…}, handler)``: a running pod, stopped and removed when the test ends."""
    pods: list[Pod] = []

    def make(config: dict[str, Any] | None = None, handler: str = "") -> Pod:
        pods.append(Pod(cri, config or {}, handler))
        return pods[-1]

    yield make
    for pod in pods:
        pod.close()


@pytest.fixture
def pod(make_pod: MakePod) -> Pod:
    return make_pod()


def secure(**context: Any) -> dict[str, Any]:
    """The security context, as a pod's and as a container's config have it."""
    return {"linux": {"security_context": context}}


def namespaces(**modes: str) -> dict[str, Any]:
    return secure(namespace_options=modes)


@pytest.fixture
def sleeper(pod: Pod) -> Container:
    return pod.start("sleep", "1000")


def version(cri: Cri) -> tuple[int, ...]:
    """Of containerd: major and minor."""
    return tuple(int(part) for part in re.findall(r"\d+", cri.ask("Version").runtime_version)[:2])


@pytest.fixture
def cleans_up(cri: Cri) -> None:
    if version(cri) >= (2,):
        pytest.skip("containerd 2 leaves the shim of such a pod and what it runs, with any runtime")


def failure(call: Callable[[], object]) -> str:
    """What the engine says of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return f"{caught.value.code().name}: {caught.value.details()}"  # type: ignore[attr-defined]


# ---- from the start of a container to its end ---------------------------------------------------------------------------


def test_a_container_goes_through_its_states(cri: Cri, pod: Pod) -> None:
    box = pod.create("sh", "-c", "sleep 0.3; exit 7")  # containerd notes when it started after it did
    assert box.state() == "CREATED"
    box.start()
    assert box.state() == "RUNNING"
    ended = box.wait()
    assert (ended.exit_code, ended.reason) == (7, "Error")
    assert 0 < ended.created_at < ended.started_at < ended.finished_at
    assert [c.id for c in cri.ask("ListContainers", filter={"pod_sandbox_id": pod.id}).containers] == [box.id]
    box.remove()
    assert not cri.ask("ListContainers", filter={"pod_sandbox_id": pod.id}).containers


def test_a_program_that_does_not_exist_is_named_when_the_container_starts(pod: Pod) -> None:
    for program, why in (("/nowhere", "no such file or directory"), ("nothing", "executable file not found in $PATH")):
        box = pod.create(program, name=program.strip("/"))
        said = failure(box.start)
        assert program in said and why in said
        status = box.status()
        assert (box.state(), status.exit_code, status.reason) == ("EXITED", 128, "StartError")


def test_a_stopped_pod_is_not_ready_and_its_containers_have_ended(cri: Cri, pod: Pod, sleeper: Container) -> None:
    assert pod.status().state == 0
    cri.ask("StopPodSandbox", pod_sandbox_id=pod.id)
    assert pod.status().state == 1
    assert (sleeper.state(), sleeper.status().exit_code) == ("EXITED", 137)


def test_a_container_is_asked_to_end_and_killed_after_its_grace(pod: Pod) -> None:
    loop = "while :; do sleep 0.1; done"
    polite = pod.start("sh", "-c", f"trap 'exit 3' TERM; echo ready; {loop}", name="polite")
    stubborn = pod.start("sh", "-c", f"trap 'echo not yet' TERM; echo ready; {loop}", name="stubborn")
    for box, grace in ((polite, 30), (stubborn, 1)):
        box.wait_said("ready")
        box.stop(grace)
    assert (polite.status().exit_code, stubborn.status().exit_code) == (3, 137)
    assert stubborn.said() == "ready\nnot yet\n"


def test_a_container_that_failed_is_made_again_in_the_same_pod(cri: Cri, pod: Pod) -> None:
    first = pod.start("sh", "-c", "exit 1")
    first.wait()
    second = pod.start("sleep", "1000", attempt=1)
    listed = cri.ask("ListContainers", filter={"pod_sandbox_id": pod.id}).containers
    assert {c.metadata.attempt: c.state for c in listed} == {0: 2, 1: 1}
    first.remove()
    assert second.exec("true") == ("", "", 0)


def test_many_pods_come_and_go_at_once(make_pod: MakePod) -> None:
    def one(number: int) -> list[str]:
        pod = make_pod()
        said = [pod.run("echo", f"{number} {name}", name=name) for name in ("a", "b")]
        pod.close()
        return said

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert list(threads.map(one, range(6))) == [[f"{number} a\n", f"{number} b\n"] for number in range(6)]


def test_a_pod_that_cannot_be_made_says_why_and_leaves_nothing(make_pod: MakePod) -> None:
    said = failure(lambda: make_pod({"linux": {"sysctls": {"kernel.nothing": "1"}}}))
    assert re.search("kernel.nothing", said), said


def test_a_container_over_its_memory_is_told_as_killed_for_that(pod: Pod) -> None:
    # The shim listens for it a little after the program has started.
    script = "sleep 0.5; dd if=/dev/zero of=/dev/null bs=64M"
    box = pod.start("sh", "-c", script, linux={"resources": {"memory_limit_in_bytes": 16 << 20}})
    ended = box.wait()
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")


@pytest.mark.usefixtures("cleans_up")
def test_a_pod_whose_pause_process_is_killed_is_not_ready_but_its_containers_run(pod: Pod, sleeper: Container) -> None:
    os.kill(pod.pid(), signal.SIGKILL)
    wait_until(lambda: pod.status().state == 1, 10, "the pod to be not ready")
    assert sleeper.exec("echo", "here") == ("here\n", "", 0)


@pytest.mark.usefixtures("cleans_up")
def test_a_pod_of_a_killed_shim_is_cleaned_up(pod: Pod, sleeper: Container) -> None:
    """containerd then deletes by force, with none of the flags of create."""
    pid = pod.pid()
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}/root").exists(), 10, "the pause process to end")
    sleeper.wait()


# ---- exec, attach, logs -------------------------------------------------------------------------------------------------


def test_exec_gives_output_errors_and_code(sleeper: Container) -> None:
    assert sleeper.exec("sh", "-c", "echo out; echo err >&2; exit 5") == ("out\n", "err\n", 5)


def test_an_exec_of_nothing_says_so_and_the_container_lives(sleeper: Container) -> None:
    assert "executable file not found in $PATH" in failure(lambda: sleeper.exec("nothing"))
    assert sleeper.state() == "RUNNING"


def test_an_exec_that_takes_too_long_is_killed(sleeper: Container) -> None:
    assert failure(lambda: sleeper.exec("sleep", "1234", timeout=1)).startswith("DEADLINE_EXCEEDED")
    wait_until(lambda: "sleep 1234" not in sleeper.sh("ps"), 10, "the program to end")
    assert sleeper.state() == "RUNNING"


def test_a_stream_of_exec_carries_input_output_errors_and_code(sleeper: Container) -> None:
    with sleeper.stream("sh", "-c", "head -n 1; echo err >&2; exit 6") as stream:
        stream.send("typed\n")
        assert stream.finish() == ("typed\n", "err\n", 6)
    with sleeper.stream("true") as stream:
        assert stream.finish() == ("", "", 0)


def test_exec_has_a_terminal_that_is_resized(sleeper: Container) -> None:
    script = "tty; until stty size 2>/dev/null | grep '17 91'; do sleep 0.1; done; exit 4"
    with sleeper.stream("sh", "-c", script, tty=True) as stream:
        stream.wait_for("/dev/pts/0")
        stream.resize(91, 17)
        out, _, code = stream.finish()
    assert (out, code) == ("/dev/pts/0\r\n17 91\r\n", 4)


def test_what_is_typed_on_the_terminal_of_exec_interrupts_the_program(sleeper: Container) -> None:
    with sleeper.stream("sh", "-c", "echo ready; exec sleep 1000", tty=True) as stream:
        stream.wait_for("ready")
        stream.send("\x03")
        assert stream.finish()[2] == 130


def test_many_execs_run_at_once(sleeper: Container) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        results = threads.map(lambda n: sleeper.exec("sh", "-c", f"sleep 0.2; echo {n}; exit {n}"), range(24))
        assert list(results) == [(f"{n}\n", "", n) for n in range(24)]


RESTRICTIONS = "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Cpus_allowed"


def test_exec_is_as_restricted_as_the_container(pod: Pod) -> None:
    context = {"run_as_user": {"value": 1000}, "supplemental_groups": [99], "no_new_privs": True, "seccomp": {},
               "capabilities": {"drop_capabilities": ["CHOWN", "MKNOD"]}}  # fmt: skip
    resources = {"cpuset_cpus": "0", "oom_score_adj": 600}
    box = pod.start("sleep", "1000", linux={"resources": resources, "security_context": context})

    def restrictions(pid: str) -> list[str]:
        there = f"cd /proc/{pid}; for kind in cgroup ipc mnt net pid uts; do readlink ns/$kind; done; cat cgroup oom_score_adj; "
        return box.sh(f"{there} grep -E '^({'|'.join(RESTRICTIONS)}):' status").splitlines()

    shell = restrictions("$$")
    assert shell == restrictions("1")
    assert "Seccomp:\t2" in shell


def test_a_container_with_a_terminal_is_attached_to(pod: Pod) -> None:
    box = pod.start("sh", tty=True, stdin=True)
    with box.attach(tty=True) as stream:
        stream.send("tty; echo $((6 * 7))\n")
        stream.wait_for("42")
        stream.send("exit 3\n")
        assert "/dev/pts/0" in stream.finish()[0]
    assert box.wait().exit_code == 3


def test_standard_input_ends_when_who_is_attached_goes(pod: Pod) -> None:
    box = pod.start("cat", stdin=True, stdin_once=True)
    with box.attach() as stream:
        stream.send("typed\n")
        stream.wait_for("typed\n")
    assert box.wait().exit_code == 0
    assert box.said() == "typed\n"


def test_the_log_tells_streams_and_lines(pod: Pod) -> None:
    box = pod.start("sh", "-c", "echo out; sleep 0.1; echo err >&2; sleep 0.1; printf unfinished")
    box.wait()
    assert box.lines() == [("stdout", "F", "out"), ("stderr", "F", "err"), ("stdout", "P", "unfinished")]


# ---- resources ------------------------------------------------------------------------------------------------------------


def test_statistics_of_containers_and_of_their_pod(cri: Cri, pod: Pod) -> None:
    box = pod.start("sh", "-c", "while :; do :; done")

    def stats() -> Any:
        return cri.ask("ContainerStats", container_id=box.id).stats

    wait_until(lambda: stats().cpu.usage_core_nano_seconds.value > 10_000_000, 10, "10 ms of processor time")
    assert 0 < stats().memory.working_set_bytes.value < 100 << 20
    listed = cri.ask("ListContainerStats", filter={"pod_sandbox_id": pod.id}).stats
    assert [(one.attributes.id, one.attributes.metadata.name) for one in listed] == [(box.id, "box")]
    of_pod = cri.ask("PodSandboxStats", pod_sandbox_id=pod.id).stats.linux
    assert of_pod.cpu.usage_core_nano_seconds.value > 10_000_000
    assert of_pod.memory.working_set_bytes.value > 0
    assert of_pod.network.default_interface.name == "eth0"
    assert [one.attributes.id for one in of_pod.containers] == [box.id]


def check(pid: int, quota: int, shares: int, memory: int) -> None:
    wanted = {"cpu.cfs_quota_us": quota, "cpu.shares": shares, "memory.limit_in_bytes": memory, "cpuset.cpus": 0}
    check_limits(pid, {file: str(value) for file, value in wanted.items()})


def test_limits_are_set_and_updated_while_the_container_runs(cri: Cri, pod: Pod) -> None:
    resources = {"cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20, "cpuset_cpus": "0"}
    box = pod.start("sleep", "1000", linux={"resources": {**resources, "oom_score_adj": 500}})
    check(box.pid(), 50000, 512, 64 << 20)
    assert box.sh("cat /proc/1/oom_score_adj") == "500\n"
    cri.ask("UpdateContainerResources", container_id=box.id,
            linux={"cpu_quota": 20000, "cpu_shares": 256, "memory_limit_in_bytes": 32 << 20})  # fmt: skip
    check(box.pid(), 20000, 256, 32 << 20)


def test_the_cgroup_that_the_kubelet_made_for_a_pod_stays_when_the_pod_goes(make_pod: MakePod) -> None:
    """It is read after the containers have ended, and the kubelet removes it."""
    made = [point / PREFIX / "kubepods" / "pod" for point in set(hierarchies().values())]
    for path in made:
        path.mkdir(parents=True)
    pod = make_pod({"linux": {"cgroup_parent": f"/{PREFIX}/kubepods/pod"}})
    box = pod.start("sleep", "1000")
    for pid in box.pid(), pod.pid():
        assert cgroup_of(pid, "memory").parent in made
    pod.close()
    for path in made:
        path.rmdir()  # it is there, and has no children
        path.parent.rmdir()


# ---- security -------------------------------------------------------------------------------------------------------------


def test_a_root_is_read_only_and_a_user_has_its_groups(pod: Pod) -> None:
    ids = {"run_as_user": {"value": 1000}, "run_as_group": {"value": 50}, "supplemental_groups": [99, 98]}
    said = pod.sh("id -u; id -g; id -G; touch /tmp/x 2>&1 || true", **secure(**ids, readonly_rootfs=True))
    assert said == "1000\n50\n50 29 98 99\ntouch: /tmp/x: Read-only file system\n"


def test_a_user_is_known_by_name_and_gets_no_new_privileges(pod: Pod) -> None:
    script = "id -u; grep NoNewPrivs /proc/self/status; pwd; echo $A; echo $HOME"
    said = pod.sh(script, working_dir="/made/here", envs=[{"key": "A", "value": "b c"}],
                  **secure(run_as_username="user", no_new_privs=True))  # fmt: skip
    assert said == "1000\nNoNewPrivs:\t1\n/made/here\nb c\n/home/user\n"


def test_capabilities_are_added_and_dropped(pod: Pod) -> None:
    def effective(add: list[str], drop: list[str]) -> set[int]:
        said = pod.sh("grep CapEff /proc/self/status", **secure(capabilities={"add_capabilities": add, "drop_capabilities": drop}))
        mask = int(said.split()[1], 16)
        return {number for number in range(64) if mask >> number & 1}

    chown, net_bind_service, sys_ptrace = 0, 10, 19
    assert effective(["NET_BIND_SERVICE"], ["ALL"]) == {net_bind_service}
    assert effective(["SYS_PTRACE"], ["CHOWN"]) == effective([], []) - {chown} | {sys_ptrace}


def test_paths_are_masked_and_read_only(pod: Pod) -> None:
    script = "wc -c </proc/keys; ls /proc/bus | wc -l; (echo 1 >/proc/sys/net/ipv4/ip_forward) 2>&1 || true"
    said = pod.sh(script, **secure(masked_paths=["/proc/keys", "/proc/bus"], readonly_paths=["/proc/sys"]))
    assert said == "0\n0\nsh: can't create /proc/sys/net/ipv4/ip_forward: Read-only file system\n"


def test_seccomp_profiles(pod: Pod, tmp_path: Path) -> None:
    (profile := tmp_path / "profile.json").write_text(json.dumps({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }))  # fmt: skip
    script = "grep Seccomp: /proc/self/status; mkdir /x 2>&1 || true"

    def under(kind: str, reference: str = "") -> list[str]:
        said = pod.sh(script, **secure(seccomp={"profile_type": kind, "localhost_ref": reference}))
        return said.removeprefix("Seccomp:\t").splitlines()

    assert under("Unconfined") == ["0"]
    assert under("RuntimeDefault") == ["2"]
    assert under("Localhost", str(profile)) == ["2", "mkdir: can't create directory '/x': No space left on device"]


def devices(listing: str) -> set[str]:
    """Names of devices in the output of ls -l."""
    return {line.split()[-1] for line in listing.splitlines() if line[0] in "bc"}


def test_devices_are_given_with_their_permissions(pod: Pod) -> None:
    given = [{"container_path": "/dev/all", "host_path": "/dev/zero", "permissions": "rwm"},
             {"container_path": "/dev/read", "host_path": "/dev/kmsg", "permissions": "r"}]  # fmt: skip
    said = pod.sh("head -c 3 /dev/all | wc -c; echo >/dev/all; (echo >/dev/read) 2>&1; ls -l /dev/read", devices=given)
    lines = said.splitlines()
    assert lines[:2] == ["3", "sh: can't create /dev/read: Operation not permitted"]
    assert lines[2].split()[4:6] == ["1,", "11"]


def test_a_privileged_pod_has_the_hosts_devices_and_capabilities(make_pod: MakePod) -> None:
    pod = make_pod(secure(privileged=True))
    said = pod.sh("ls -l /dev; grep CapEff: /proc/self/status; mount -t tmpfs none /mnt && echo mounted; "
                  "grep Seccomp: /proc/self/status; cd /sys/fs/cgroup; cd memory 2>/dev/null; mkdir x && rmdir x && echo made",
                  **secure(privileged=True))  # fmt: skip
    ours = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    assert f"CapEff:\t{ours['CapEff']}\nmounted\nSeccomp:\t0\nmade\n" in said
    assert {"null", "kmsg"} <= devices(said)


def test_a_privileged_pod_of_a_handler_without_the_hosts_devices(make_pod: MakePod) -> None:
    pod = make_pod(secure(privileged=True), OTHER_HANDLER)
    said = pod.sh("ls -l /dev", **secure(privileged=True))
    assert devices(said) == {"full", "null", "random", "tty", "urandom", "zero"}


def test_a_handler_of_the_pod_is_the_runtime_of_its_containers(cri: Cri, make_pod: MakePod) -> None:
    usual, other = cri.states[:2]
    for handler, states in (("", usual), (HANDLER, usual), (OTHER_HANDLER, other)):
        pod = make_pod(handler=handler)
        box = pod.start("sleep", "1000")
        assert pod.status().runtime_handler == handler
        assert {pod.id, box.id} <= set(os.listdir(states))
    assert 'no runtime for "nothing"' in failure(lambda: make_pod(handler="nothing"))


# ---- what containers of a pod share ----------------------------------------------------------------------------------------


def test_a_pod_has_a_network_that_its_containers_share(make_pod: MakePod) -> None:
    one, other = make_pod(), make_pod()
    address = one.status().network.ip
    assert address.startswith("10.88.0.")
    server = one.start("sh", "-c", "while :; do echo hello | nc -l -p 8080; done", name="server")
    assert f"inet {address}/24" in server.sh("ip address show eth0")
    ask = "until nc $0 8080; do sleep 0.1; done"
    assert one.run("sh", "-c", ask, "127.0.0.1") == "hello\n"
    assert other.run("sh", "-c", ask, address) == "hello\n"


def test_names_and_resolvers_of_a_pod(make_pod: MakePod) -> None:
    dns = {"servers": ["192.0.2.1"], "searches": ["example.org"], "options": ["ndots:5"]}
    pod = make_pod({"hostname": "named", "dns_config": dns})
    said = pod.sh("hostname; cat /etc/hostname /etc/resolv.conf; echo $HOSTNAME")
    assert said == "named\nnamed\nsearch example.org\nnameserver 192.0.2.1\noptions ndots:5\nnamed\n"


def test_containers_of_a_pod_share_memory_and_names_of_ipc(pod: Pod) -> None:
    link = pod.sh("echo shared >/dev/shm/x; readlink /proc/self/ns/ipc", name="one")
    assert pod.sh("cat /dev/shm/x; readlink /proc/self/ns/ipc", name="other") == f"shared\n{link}"


def test_containers_of_a_pod_share_processes_if_they_are_to(make_pod: MakePod) -> None:
    pod = make_pod(namespaces(pid="POD"))
    neighbour = pod.start("sleep", "1001", name="neighbour")
    listed = pod.sh("ps -o pid,args; kill $(pidof sleep | tr ' ' '\\n' | sort -n | tail -n 1)")
    assert "sleep 1001" in listed and "sleep 100000" in listed.splitlines()[1]
    assert neighbour.wait().exit_code == 143


def test_a_container_joins_the_processes_of_its_target(pod: Pod, sleeper: Container) -> None:
    said = pod.sh("ps -o pid,args; readlink /proc/self/ns/pid", name="debug", **namespaces(pid="TARGET", target_id=sleeper.id))
    assert "1 sleep 1000" in said
    assert said.splitlines()[-1] == sleeper.sh("readlink /proc/self/ns/pid").strip()
    assert "sleep 1000" not in pod.sh("ps -o pid,args", name="alone")


def test_a_pod_is_in_the_hosts_namespaces(cri: Cri, make_pod: MakePod) -> None:
    pod = make_pod(namespaces(network="NODE", pid="NODE", ipc="NODE"))
    kinds = "net", "pid", "ipc", "uts"
    said = pod.sh(f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done")
    assert said.split() == [cri.namespace(kind) for kind in kinds]


def test_a_pod_has_a_user_namespace_that_its_containers_share(cri: Cri, make_pod: MakePod) -> None:
    if version(cri) < (1, 7):
        pytest.skip("containerd before 1.7 makes no user namespaces for pods")
    ids = [{"host_id": 200000, "container_id": 0, "length": 65536}]
    pod = make_pod(secure(namespace_options={"userns_options": {"mode": "POD", "uids": ids, "gids": ids}}))
    script = "id -u; cat /proc/self/uid_map; stat -c '%u %g' /; touch /dev/shm/x; readlink /proc/self/ns/user"
    one, other = (pod.sh(script, name=name).split() for name in ("one", "other"))
    assert one == other
    assert one[:-1] == ["0", "0", "200000", "65536", "0", "0"]


def test_sysctls_of_a_pod_hold_in_its_containers(make_pod: MakePod) -> None:
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "99", "kernel.shm_rmid_forced": "1"}
    pod = make_pod({"linux": {"sysctls": sysctls}})
    assert pod.sh("cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced") == "99\n1\n"


def test_the_pause_process_is_the_pods_user(make_pod: MakePod) -> None:
    pod = make_pod(secure(run_as_user={"value": 1000}))
    assert "Uid:\t1000\t1000\t1000\t1000" in Path(f"/proc/{pod.pid()}/status").read_text()


# ---- mounts ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(cri: Cri) -> Iterator[Path]:
    """A shared mount where the daemon is."""
    path = cri.directory / "shared"
    path.mkdir()
    cri.there("mount", "-t", "tmpfs", "outside", path)
    cri.there("mount", "--make-shared", path)
    yield path
    cri.there("umount", "--recursive", path)
    path.rmdir()


def test_mounts_are_private_or_come_in_or_go_out(cri: Cri, make_pod: MakePod, shared: Path) -> None:
    pod = make_pod(secure(privileged=True))
    boxes = {}
    for name in "private", "host_to_container", "bidirectional":
        mount = {"container_path": "/shared", "host_path": str(shared), "propagation": f"PROPAGATION_{name.upper()}"}
        boxes[name] = pod.start("sleep", "1000", name=name, mounts=[mount], **secure(privileged=True))
    cri.there("mkdir", *(shared / name for name in ("outer", *boxes)))
    cri.there("mount", "-t", "tmpfs", "outer", shared / "outer")
    came = {name for name, box in boxes.items() if "outer /shared/outer" in box.sh("cat /proc/mounts")}
    assert came == {"host_to_container", "bidirectional"}
    for name, box in boxes.items():
        box.sh(f"mount -t tmpfs inner /shared/{name}")
    outside = cri.there("cat", "/proc/self/mounts")
    assert {name for name in boxes if f"inner {shared}/{name}" in outside} == {"bidirectional"}


def test_files_and_directories_are_mounted_read_only(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    mounts = [{"container_path": "/etc/made/file", "host_path": str(tmp_path / "file"), "readonly": True},
              {"container_path": "/data", "host_path": str(tmp_path)}]  # fmt: skip
    said = pod.sh("cat /etc/made/file; (echo >/etc/made/file) 2>&1; echo new >/data/new", mounts=mounts)
    assert said == "content\nsh: can't create /etc/made/file: Read-only file system\n"
    assert (tmp_path / "new").read_text() == "new\n"


def test_the_handler_that_the_readme_configures_and_its_runtime_class_names(make_pod: MakePod) -> None:
    handler = re.search(r"^handler: (\S+)$", readme("yaml", "Kubernetes"), re.MULTILINE)
    assert handler
    assert make_pod({}, handler[1]).run("echo", "hello") == "hello\n"
