"""linux.seccomp in a container: loaded last, with and without noNewPrivileges, for exec too, and the agent's socket."""

from __future__ import annotations

import array
import json
import os
import platform
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import TIME_SCALE, Config, Container

Make = Callable[..., Container]
GETPPID = {"x86_64": 110, "aarch64": 173}[platform.machine()]
EXDEV = 18
# What init still does, and a small program.
LITTLE = (
    "execve exit_group exit arch_prctl set_tid_address set_robust_list rseq prlimit64 readlink getrandom brk mprotect prctl "
    "write uname newfstatat mmap munmap rt_sigprocmask sendmsg"
).split()


def with_filter(new_privileges: bool = False, **seccomp: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["process"]["noNewPrivileges"] = not new_privileges
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", **seccomp}

    return change


def refuse_getppid(action: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"syscalls": [{"names": ["getppid"], "action": action, **more}]}


@pytest.mark.spec("/linux/seccomp/syscalls/*/names", "/linux/seccomp/syscalls/*/errnoRet")
@pytest.mark.parametrize("new_privileges", [False, True], ids=["no_new_privs", "new privileges"])
def test_a_refused_call_gives_the_configured_errno(container: Make, new_privileges: bool) -> None:
    mutate = with_filter(new_privileges, **refuse_getppid(errnoRet=EXDEV))
    seen = container("/bin/probe", "syscall", str(GETPPID), mutate=mutate).run().json
    assert (seen["result"], seen["errno"]) == (-1, "EXDEV") or seen["errno"] in (EXDEV, "EXDEV")


@pytest.mark.parametrize("new_privileges", [False, True], ids=["no_new_privs", "new privileges"])
def test_the_process_is_filtered_and_has_no_capability_that_init_kept(container: Make, new_privileges: bool) -> None:
    seen = container(mutate=with_filter(new_privileges, **refuse_getppid())).run().json
    assert seen["seccomp"] == 2
    assert "CAP_SYS_ADMIN" not in str(seen["capabilities"])
    assert seen["no_new_privs"] == int(not new_privileges)


def test_exec_is_filtered_too(container: Make) -> None:
    box = container("/bin/probe", "trap", mutate=with_filter(**refuse_getppid(errnoRet=EXDEV)))
    box.run("--detach")
    box.wait_output("ready")
    assert box.exec("/bin/probe", "syscall", str(GETPPID)).json["errno"] in (EXDEV, "EXDEV")


@pytest.mark.spec("/linux/seccomp/defaultAction=SCMP_ACT_ERRNO")
@pytest.mark.parametrize("new_privileges", [False, True], ids=["no_new_privs", "new privileges"])
def test_a_filter_need_allow_no_more_than_the_program_does(container: Make, new_privileges: bool) -> None:
    """Neither accept nor recvfrom, getcwd, prctl, setuid or close_range: init is through with them. It still reports that
    execve is next, and without no_new_privs lays down the capability that loading took."""
    allowed = [*LITTLE, *(["capset", "capget"] if new_privileges else [])]
    seccomp = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}]}
    container("/bin/true", mutate=with_filter(new_privileges, **seccomp)).run()


@pytest.mark.spec("/linux/seccomp/syscalls/*/action=SCMP_ACT_KILL_PROCESS")
def test_a_deadly_call_kills_the_program(container: Make) -> None:
    mutate = with_filter(**refuse_getppid("SCMP_ACT_KILL_PROCESS"))
    assert container("/bin/probe", "syscall", str(GETPPID), mutate=mutate).run(check=False).status == 128 + signal.SIGSYS


@pytest.mark.spec("/linux/seccomp/syscalls/*/args/*/index", "/linux/seccomp/syscalls/*/args/*/value")
def test_conditions_on_arguments_are_compared_as_64_bits(container: Make) -> None:
    args = [{"index": 0, "value": 5 << 32, "op": "SCMP_CMP_EQ"}]
    mutate = with_filter(**refuse_getppid(errnoRet=EXDEV, args=args))
    box = container("/bin/probe", "syscall", str(GETPPID), str(5 << 32), mutate=mutate)
    assert box.run().json["errno"] in (EXDEV, "EXDEV")
    box = container("/bin/probe", "syscall", str(GETPPID), "5", mutate=mutate)
    assert box.run().json["errno"] in (0, None, "")


@pytest.mark.spec("/linux/seccomp/syscalls/*/args/*", "/linux/seccomp/syscalls/*/args/*/op=*")
@pytest.mark.parametrize(
    ("op", "value", "value_two", "hit", "miss"),
    [
        ("NE", 5, 0, 6, 5),
        ("LT", 5, 0, 4, 5),
        ("LE", 5, 0, 5, 6),
        ("EQ", 5, 0, 5, 6),
        ("GE", 5, 0, 5, 4),
        ("GT", 5, 0, 6, 5),
        ("MASKED_EQ", 0xF0, 0x50, 0x5F, 0x6F),
    ],
)
def test_each_comparison_of_an_argument(container: Make, op: str, value: int, value_two: int, hit: int, miss: int) -> None:
    args = [{"index": 0, "value": value, "valueTwo": value_two, "op": f"SCMP_CMP_{op}"}]
    mutate = with_filter(**refuse_getppid(errnoRet=EXDEV, args=args))
    for first, refused in ((hit, True), (miss, False)):
        seen = container("/bin/probe", "syscall", str(GETPPID), str(first), mutate=mutate).run().json
        assert (seen["errno"] in (EXDEV, "EXDEV")) == refused


@pytest.mark.spec("/linux/seccomp/defaultErrnoRet")
def test_the_errno_of_what_no_rule_names(container: Make) -> None:
    allowed = [{"names": LITTLE, "action": "SCMP_ACT_ALLOW"}]
    box = container(
        "/bin/cat", "/etc/passwd", mutate=with_filter(defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=EXDEV, syscalls=allowed)
    )
    assert box.run(check=False).status == 1
    assert "Invalid cross-device link" in box.errors.read_text()


@pytest.mark.spec("/linux/seccomp/listener*", "/linux/seccomp/syscalls/*/action=SCMP_ACT_NOTIFY")
def test_the_agent_gets_the_listener_and_one_state(container: Make, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        os.chdir(tmp_path)
        agent.bind("agent")
        os.chdir("/")
        agent.listen()
        agent.settimeout(10 * TIME_SCALE)
        mutate = with_filter(
            **refuse_getppid("SCMP_ACT_NOTIFY"), listenerPath=str(tmp_path / "agent"), listenerMetadata="for the agent"
        )
        box = container("/bin/sleep", "1000", mutate=mutate)
        box.create()
        connection, _ = agent.accept()
        with connection:
            data, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
    fds = array.array("i")
    fds.frombytes(control[0][2][:4])
    assert "seccomp" in os.readlink(f"/proc/self/fd/{fds[0]}")
    os.close(fds[0])
    state = json.loads(data)
    assert state["fds"] == ["seccompFd"]
    assert state["pid"] == box.pid
    assert state["metadata"] == "for the agent"
    assert state["state"]["id"] == box.id
    assert state["state"]["status"] == "creating"
    box.delete("--force")


def test_an_agent_that_is_not_there_undoes_create(container: Make, tmp_path: Path) -> None:
    mutate = with_filter(**refuse_getppid("SCMP_ACT_NOTIFY"), listenerPath=str(tmp_path / "nobody"))
    box = container("/bin/true", mutate=mutate)
    assert box.create(check=False).status == 1
    assert "/linux/seccomp/listenerPath" in box.errors.read_text()


def test_a_compiled_filter_is_kept_for_the_next_container_and_for_exec(container: Make) -> None:
    entry = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]}
    boxes = [container("/bin/sleep", "100", mutate=lambda config: config["linux"].update(seccomp=profile)) for _ in range(2)]
    kept = Path("/run/ocipy.filters")
    before = set(kept.iterdir()) if kept.exists() else set()
    for box in boxes:
        box.run("--detach")
        assert box.exec("/bin/mkdir", "/tmp/x", check=False).stderr.endswith("File descriptor in bad state\n")
        assert len(set(kept.iterdir()) - before) == 1
