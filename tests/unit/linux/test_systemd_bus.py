"""What is said to systemd and what is made of its answers: over a real bus, to a service of the tests that answers in its place."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import HeaderFields, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import Proxy, open_dbus_connection
from jeepney.wrappers import DBusAddress

from ocipy.errors import CgroupError
from ocipy.linux.cgroups import apply_set_unit, apply_start_unit, stop_unit
from ocipy.linux.cgroups.bus import MANAGER, PATH, SERVICE, Bus, BusError, addresses
from ocipy.linux.cgroups.systemd import read_unit_root
from ocipy.linux.cgroups.unit import update_unit
from ocipy.plan import ops
from ocipy.plan.step import Step

JOB = "/org/freedesktop/systemd1/job/7"
EMITTER = DBusAddress(PATH, interface=MANAGER)
UNIT: dict[str, Any] = {"name": "a.scope", "user": True}


class Systemd:
    """Answers on the bus at ``address``. ``calls``: what it was asked, as (method, signature, body); ``refusals``: method -> errors
    (name, text) for its next calls; ``results``: of the next jobs; ``early``: they end before their reply is sent."""

    def __init__(self, address: str) -> None:
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []
        self.refusals: dict[str, list[tuple[str, str]]] = {}
        self.results: list[str] = []
        self.properties: dict[str, str] = {"Version": "252.1-1", "ControlGroup": "/user.slice/user@7.service"}
        self.early = False
        self.forger: Any = None  # another connection, which tells our caller that the job is done
        self.connection = open_dbus_connection(address)
        Proxy(message_bus, self.connection).RequestName(SERVICE)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                message = self.connection.receive()
            except (OSError, ValueError):
                return
            if message.header.message_type is MessageType.method_call:
                self._answer(message)

    def _answer(self, message: Any) -> None:
        fields = message.header.fields
        method = fields[HeaderFields.member]
        self.calls.append((method, fields.get(HeaderFields.signature, ""), message.body))
        refusals = self.refusals.get(method)
        if refusals:
            name, text = refusals.pop(0)
            self.connection.send(new_error(message, name, "s", (text,)))
        elif method == "Get":
            self.connection.send(new_method_return(message, "v", (("s", self.properties[message.body[1]]),)))
        elif method in ("StartTransientUnit", "StopUnit"):
            reply = new_method_return(message, "o", (JOB,))
            other = new_signal(EMITTER, "JobRemoved", "uoss", (6, JOB + "6", "b.scope", "failed"))
            end = new_signal(EMITTER, "JobRemoved", "uoss", (7, JOB, "a.scope", self.results.pop(0) if self.results else "done"))
            if self.forger:
                forged = new_signal(EMITTER, "JobRemoved", "uoss", (7, JOB, "a.scope", "done"))
                forged.header.fields[HeaderFields.destination] = fields[HeaderFields.sender]
                self.forger.send(forged)
                Proxy(message_bus, self.forger).GetId()  # so that the bus has it before what follows
            for each in (other, end, reply) if self.early else (reply, other, end):
                self.connection.send(each)
        else:
            self.connection.send(new_method_return(message))

    def asked(self, method: str) -> list[tuple[str, tuple[Any, ...]]]:
        return [(signature, body) for name, signature, body in self.calls if name == method]


@pytest.fixture
def bus_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bus of our own, which is the user's."""
    argv = ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", f"--address=unix:path={tmp_path}/bus"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout
        address = daemon.stdout.readline().strip()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        yield address
        daemon.kill()


@pytest.fixture
def systemd(bus_address: str) -> Iterator[Systemd]:
    service = Systemd(bus_address)
    yield service
    service.connection.sock.shutdown(2)
    service.thread.join()
    service.connection.close()


def start(*properties: tuple[str, str, Any], name: str = "a.scope", pid: int = 99) -> None:
    paths = {"memory": "/cg/memory", "": "/cg/unified"}
    values = {"name": name, "user": True, "properties": list(properties), "paths": paths}
    apply_start_unit(Step(ops.START_UNIT, "/linux/cgroupsPath", **values), pid)


# ---- starting --------------------------------------------------------------------------------------------------------


def test_a_scope_is_started_with_its_properties_and_the_process(systemd: Systemd) -> None:
    start(("Slice", "s", "b.slice"), ("Delegate", "b", True), ("MemoryMax", "t", 2**64 - 1), ("AllowedCPUs", "ay", [7, 2]),
          ("DeviceAllow", "a(ss)", [("/dev/char/1:3", "rwm")]), ("After", "as", []))  # fmt: skip
    [(signature, body)] = systemd.asked("StartTransientUnit")
    assert signature == "ssa(sv)a(sa(sv))"
    name, mode, properties, others = body
    assert (name, mode, others) == ("a.scope", "replace", [])
    assert properties == [
        ("Slice", ("s", "b.slice")), ("Delegate", ("b", True)), ("MemoryMax", ("t", 2**64 - 1)), ("AllowedCPUs", ("ay", b"\7\2")),
        ("DeviceAllow", ("a(ss)", [("/dev/char/1:3", "rwm")])), ("After", ("as", [])), ("PIDs", ("au", [99])),
    ]  # fmt: skip


def test_a_slice_has_no_processes_of_its_own(systemd: Systemd) -> None:
    start(name="a.slice")
    assert systemd.asked("StartTransientUnit")[0][1][2] == []


def test_a_job_that_ends_before_its_reply_is_not_missed(systemd: Systemd) -> None:
    systemd.early = True
    start()


def test_nobody_else_ends_a_job(systemd: Systemd, bus_address: str) -> None:
    with open_dbus_connection(bus_address) as systemd.forger:
        systemd.results = ["failed"]
        with pytest.raises(CgroupError, match="the job failed"):
            start()


@pytest.mark.parametrize(
    ("result", "words"), [("failed", "the job failed"), ("timeout", "longer than systemd allows"), ("canceled", "cancelled")]
)
def test_a_job_that_does_not_succeed_is_an_error(systemd: Systemd, result: str, words: str) -> None:
    systemd.results = [result]
    with pytest.raises(CgroupError, match=rf"start the systemd unit a.scope \(/linux/cgroupsPath\): .*{words}.*says: {result}"):
        start()


def test_what_a_failed_unit_left_is_reset_and_the_unit_started(systemd: Systemd) -> None:
    systemd.refusals = {"StartTransientUnit": [(SERVICE + ".UnitExists", "Unit a.scope already exists.")]}
    start()
    assert [method for method, _, _ in systemd.calls] == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (SERVICE + ".UnitExists", "a unit of this name exists"),
        ("org.freedesktop.DBus.Error.AccessDenied", "this user may not"),
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", "this user may not"),
        ("org.freedesktop.DBus.Error.UnixProcessIdUnknown", "another pid namespace"),
        ("org.freedesktop.DBus.Error.PropertyReadOnly", "what systemd says"),
    ],
)
def test_errors_of_systemd_are_in_words(systemd: Systemd, name: str, words: str) -> None:
    systemd.refusals = {"StartTransientUnit": [(name, "what systemd says")] * 2}
    with pytest.raises(CgroupError, match=f"what systemd says.*{words}" if words != "what systemd says" else words) as raised:
        start()
    assert raised.value.pointer == "/linux/cgroupsPath"


def test_an_old_systemd_gets_only_what_it_knows(systemd: Systemd) -> None:
    systemd.properties["Version"] = "v243-2"
    start(("AllowedCPUs", "ay", [1]), ("CPUWeight", "t", 5))
    assert [name for name, _ in systemd.asked("StartTransientUnit")[0][1][2]] == ["CPUWeight", "PIDs"]


# ---- later -----------------------------------------------------------------------------------------------------------


def test_properties_are_set_until_the_unit_ends(systemd: Systemd) -> None:
    apply_set_unit(Step(ops.SET_UNIT, **UNIT, properties=[("TasksMax", "t", 1)]))
    assert systemd.asked("SetUnitProperties") == [("sba(sv)", ("a.scope", True, [("TasksMax", ("t", 1))]))]


def test_an_update_tells_what_is_written_and_new_device_rules(systemd: Systemd) -> None:
    steps = [Step(ops.SET_CGROUP, path="/c", file="memory.max", value="4096")]
    update_unit(UNIT, steps, [{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}], {"": "/c"})()
    [(_, (_, _, properties))] = systemd.asked("SetUnitProperties")
    assert properties[0] == ("MemoryMax", ("t", 4096))
    assert properties[1] == ("DeviceAllow", ("a(ss)", []))
    assert ("/dev/char/1:11", "r") in properties[2][1][1]


def test_an_update_of_what_systemd_does_not_know_says_nothing(systemd: Systemd) -> None:
    update_unit(UNIT, [Step(ops.SET_CGROUP, path="/c", file="hugetlb.2MB.max", value="0")], None, {"": "/c"})()
    assert systemd.calls == []


def test_a_unit_is_stopped_and_forgotten(systemd: Systemd) -> None:
    stop_unit(UNIT)
    assert [(name, body) for name, _, body in systemd.calls] == [
        ("StopUnit", ("a.scope", "replace")), ("ResetFailedUnit", ("a.scope",)),
    ]  # fmt: skip


def test_a_unit_that_is_gone_is_stopped(systemd: Systemd) -> None:
    gone = (SERVICE + ".NoSuchUnit", "Unit a.scope not loaded.")
    systemd.refusals = {"StopUnit": [gone], "ResetFailedUnit": [gone]}
    stop_unit(UNIT)


def test_a_unit_that_may_not_be_stopped_is_an_error(systemd: Systemd) -> None:
    systemd.refusals = {"StopUnit": [("org.freedesktop.DBus.Error.AccessDenied", "no")]}
    with pytest.raises(BusError, match=r"stop the systemd unit a\.scope: no"):
        stop_unit(UNIT)


def test_users_units_are_below_their_systemds_cgroup(systemd: Systemd) -> None:
    assert read_unit_root(user=True) == "/user.slice/user@7.service"


# ---- no systemd ------------------------------------------------------------------------------------------------------


def test_a_bus_without_systemd_is_an_error(bus_address: str) -> None:
    with pytest.raises(CgroupError, match="is it the init of this host"):
        start()


def test_systemd_that_goes_away_is_an_error(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(self: Systemd, message: Any) -> None:
        self.connection.sock.shutdown(2)

    monkeypatch.setattr(Systemd, "_answer", drop)
    with pytest.raises(CgroupError, match=r"start the systemd unit a\.scope"):
        start()


def test_systemd_that_does_not_answer_is_an_error(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocipy.linux.cgroups.bus.TIMEOUT", 0.1)
    monkeypatch.setattr(Systemd, "_answer", lambda self, message: None)
    with pytest.raises(CgroupError, match=r"did not do it within 0\.1 s"):
        start()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"),
        ({"XDG_RUNTIME_DIR": "/nowhere"}, "/nowhere/bus: no such file"),
        ({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/no%77here,guid=1;tcp:host=a"}, "/nowhere: no such file"),
        ({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/a%zz;unix:path=/nowhere"}, "/nowhere: no such file"),
    ],
)
def test_no_bus_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str) -> None:
    for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CgroupError, match=f"systemd cannot be reached.*{words}"):
        start()


def test_addresses_are_those_of_the_environment_then_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:abstract=one;unix:runtime=yes;unix:path=/two")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    assert [*addresses(user=True)] == [("\0one", False), ("/two", False), ("/r/bus", False), ("/r/systemd/private", True)]
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    assert [*addresses(user=False)] == [("/run/dbus/system_bus_socket", False), ("/run/systemd/private", True)]


def test_jeepney_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jeepney", None)
    with pytest.raises(CgroupError, match="pip install jeepney"):
        start()


def test_a_bus_that_counts_pids_otherwise_is_refused(systemd: Systemd) -> None:
    """A number would name another process there."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    code = 1
    try:
        real = os.getpid
        os.getpid = lambda: real() + 1
        Bus(user=True, what="try")
    except CgroupError as error:
        code = 0 if "another pid namespace" in str(error) else 2
    finally:
        os._exit(code)


def test_systemds_own_socket_is_spoken_to_without_a_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_directly(tmp_path, monkeypatch, lambda message: new_method_return(message, "v", (("s", "/x"),)))
    assert read_unit_root(user=True) == "/x"


def serve_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any]) -> None:
    """One connection to $XDG_RUNTIME_DIR/systemd/private, with one call."""
    import socket

    from jeepney.low_level import Parser

    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "systemd").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{tmp_path}/systemd/private")
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        said = b""
        while not said.endswith(b"DATA\r\n"):
            said += connection.recv(4096)
        assert said == b"\0AUTH EXTERNAL\r\nDATA\r\n"
        connection.sendall(b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n")
        parser, begun = Parser(), b""
        while b"BEGIN\r\n" not in begun:
            begun += connection.recv(4096)
        parser.add_data(begun.partition(b"BEGIN\r\n")[2])
        while (message := parser.get_next_message()) is None:
            parser.add_data(connection.recv(4096))
        connection.sendall(answer(message).serialise(serial=1))
        connection.close()
        server.close()

    threading.Thread(target=serve, daemon=True).start()
