"""config-linux.md: seccomp, its listener, and the state that comes over the listener's socket."""

from __future__ import annotations

import json
import platform
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bundles import Config, Container
from seccomp_agent import Agent, Message

clauses = pytest.mark.clauses
Make = Callable[..., Container]
GETPPID = {"x86_64": 110, "aarch64": 173}[platform.machine()]
SLEEP = ("/bin/sleep", "1000")
NOBODY_CALLS = "sethostname"  # no program of these tests does: nobody has to answer


def with_filter(**seccomp: Any) -> Callable[[Config], None]:
    base = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]}
    return lambda config: config["linux"].update(seccomp=base | seccomp)


def rule(action: str = "SCMP_ACT_ERRNO", **more: Any) -> list[dict[str, Any]]:
    return [{"names": ["getppid"], "action": action, **more}]


def call(container: Make, *arguments: int, **seccomp: Any) -> str | None:
    """The name of the errno of getppid with these arguments, which it ignores."""
    box = container("/bin/probe", "syscall", str(GETPPID), *map(str, arguments), mutate=with_filter(**seccomp))
    error: str | None = box.run().json["error"]
    return error


# ---- the filter -----------------------------------------------------------------------------------------------------------------


@clauses("runtime.create.properties")
@pytest.mark.parametrize(
    ("seccomp", "error"),
    [
        ({"syscalls": rule()}, "EPERM"),
        ({"syscalls": rule(errnoRet=18)}, "EXDEV"),
        ({"syscalls": rule("SCMP_ACT_TRACE")}, "ENOSYS"),
        ({"syscalls": rule("SCMP_ACT_LOG")}, None),
        ({"syscalls": rule("SCMP_ACT_ALLOW")}, None),
    ],
    ids=["errno", "another errno", "trace", "log", "allow"],
)
def test_a_call_gets_what_its_action_says(container: Make, seccomp: dict[str, Any], error: str | None) -> None:
    assert call(container, **seccomp) == error


@clauses("runtime.create.properties")
@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_a_deadly_call_kills(container: Make, action: str) -> None:
    box = container("/bin/probe", "syscall", str(GETPPID), mutate=with_filter(syscalls=rule(action)))
    box.create()
    pid = box.pid
    box.start()
    assert box.wait_exit(pid) == -signal.SIGSYS


# Operator, the numbers to compare with, arguments that match, arguments that do not.
OPERATORS: list[tuple[str, int, int, list[int], list[int]]] = [
    ("SCMP_CMP_NE", 7, 0, [6, 8, 7 << 32], [7]),
    ("SCMP_CMP_LT", 7, 0, [6, 0], [7, 8, 1 << 32]),
    ("SCMP_CMP_LE", 7, 0, [6, 7], [8, 1 << 32]),
    ("SCMP_CMP_EQ", 5 << 32, 0, [5 << 32], [5, 0, 6 << 32]),
    ("SCMP_CMP_GE", 7, 0, [7, 8, 1 << 32], [6]),
    ("SCMP_CMP_GT", 7, 0, [8, 1 << 32], [6, 7]),
    ("SCMP_CMP_MASKED_EQ", 0xF0, 0x50, [0x50, 0x5F, 0x150], [0x60, 0x5]),
]


@clauses("runtime.create.properties")
@pytest.mark.parametrize(("operator", "value", "two", "hits", "misses"), OPERATORS, ids=[case[0] for case in OPERATORS])
def test_conditions_compare_arguments(
    container: Make, operator: str, value: int, two: int, hits: list[int], misses: list[int]
) -> None:
    condition = {"index": 1, "value": value, "valueTwo": two, "op": operator}
    found = {argument: call(container, 0, argument, syscalls=rule(args=[condition])) for argument in (*hits, *misses)}
    assert found == dict.fromkeys(hits, "EPERM") | dict.fromkeys(misses)


# ---- the listener ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as made:
        yield made


def notified(container: Make, agent: Agent, **more: Any) -> Container:
    syscalls = [{"names": [NOBODY_CALLS], "action": "SCMP_ACT_NOTIFY"}]
    return container(*SLEEP, mutate=with_filter(syscalls=syscalls, listenerPath=agent.path, **more))


def heard(box: Container, agent: Agent) -> Message:
    """What comes when ``box`` is created and started, over the first connection."""
    box.create()
    box.start()
    return agent.receive()


@clauses("config-linux.seccomp.state.json")
def test_the_state_is_json_in_the_payload(container: Make, agent: Agent) -> None:
    text = heard(notified(container, agent), agent).text
    state, _ = json.JSONDecoder().raw_decode(text)
    assert set(state) >= {"ociVersion", "pid", "state"}


@clauses("config-linux.seccomp.listenerPath.one")
def test_one_state_comes_over_a_connection(container: Make, agent: Agent) -> None:
    text = heard(notified(container, agent), agent).text
    _, end = json.JSONDecoder().raw_decode(text)
    assert text[end:].strip(" \n\0") == ""


@clauses("config-linux.seccomp.listenerPath.close")
def test_the_connection_is_closed(container: Make, agent: Agent) -> None:
    assert heard(notified(container, agent), agent).closed


@clauses("config-linux.seccomp.listenerPath.reuse")
def test_another_state_comes_over_another_connection(container: Make, agent: Agent) -> None:
    box = notified(container, agent)
    heard(box, agent)
    box.exec("/bin/true")
    assert agent.receive().state["state"]["id"] == box.id


@clauses("config-linux.seccomp.listenerPath.seccompFd", "config-linux.seccomp.state.rights")
def test_the_listener_comes_as_a_descriptor(container: Make, agent: Agent) -> None:
    message = heard(notified(container, agent), agent)
    assert "seccompFd" in message.state["fds"]
    assert len(message.fds) == len(message.state["fds"])
    assert "seccomp" in message.fds[message.state["fds"].index("seccompFd")]


@clauses("config-linux.seccomp.state.first")
def test_descriptors_come_with_the_first_message(container: Make, agent: Agent) -> None:
    """Long metadata, which may need several."""
    message = heard(notified(container, agent, listenerMetadata="x" * 100_000), agent)
    assert message.state["metadata"] == "x" * 100_000
    assert message.parts[0][1] == len(message.fds) == 1
    assert [count for _, count in message.parts[1:] if count] == []


@clauses("config-linux.seccomp.state.ociVersion")
def test_the_state_has_a_version(container: Make, agent: Agent) -> None:
    version = heard(notified(container, agent), agent).state["ociVersion"]
    assert isinstance(version, str)
    assert version


@clauses("config-linux.seccomp.state.pid")
def test_the_state_has_the_pid(container: Make, agent: Agent) -> None:
    box = notified(container, agent)
    assert heard(box, agent).state["pid"] == box.pid


@clauses("config-linux.seccomp.state.state")
def test_the_state_has_the_state_of_the_container(container: Make, agent: Agent) -> None:
    box = notified(container, agent)
    state = heard(box, agent).state["state"]
    assert (state["id"], state["bundle"], state["pid"]) == (box.id, str(box.bundle.path), box.pid)
    assert state["status"] in ("creating", "created")
    assert isinstance(state["ociVersion"], str)


@clauses("runtime.create.properties")
def test_metadata_is_passed_on(container: Make, agent: Agent) -> None:
    assert heard(notified(container, agent, listenerMetadata="for the agent"), agent).state["metadata"] == "for the agent"


def refused(box: Container) -> bool:
    return box.create(check=False).status != 0 or box.start(check=False).status != 0


@clauses("config-linux.seccomp.listenerPath.error")
@pytest.mark.parametrize("there", ["nothing", "nobody"])
def test_a_state_that_cannot_be_sent_is_an_error(container: Make, agent: Agent, there: str) -> None:
    box = notified(container, agent)
    if there == "nothing":
        box.bundle.config["linux"]["seccomp"]["listenerPath"] += "-not"
        box.bundle.write()
    else:
        agent.socket.close()
    assert refused(box)


@clauses("config-linux.seccomp.listenerPath.socket")
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM], ids=lambda kind: kind.name)
def test_the_socket_is_a_stream(container: Make, kind: socket.SocketKind) -> None:
    with Agent(kind) as agent:
        assert refused(notified(container, agent)) == (kind != socket.SOCK_STREAM)
