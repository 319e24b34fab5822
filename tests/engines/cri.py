"""containerd's CRI plugin, asked as the kubelet asks it: gRPC, and WebSockets for streams.

The daemon has a network namespace of its own: the bridge of the pods' network is in it, and "the host's network" is this one.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import itertools
import json
import os
import socket
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import grpc
import websocket
from bundles import PREFIX, SYSTEMD, TIME_SCALE, runtime_path, wait_until
from engines.engine import IMAGE, PAUSE, Engine, archive, pause_archive, readme

HANDLER, OTHER_HANDLER = "under-test", "bare"  # OTHER_HANDLER: its own state, no devices of the host for the privileged
CLONE_NEWNET = 0x40000000
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)  # channels of v4.channel.k8s.io

messages, services = grpc.protos_and_services("engines/cri.proto")  # found beside the modules, compiled in memory

_numbers = itertools.count(1)


class Cri(Engine):
    """``cri.ask("ContainerStatus", container_id=…)`` sends one request; as an Engine it is ``ctr`` in the CRI's namespace."""

    def connect(self, address: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix://{address}")
        self.stubs = services.RuntimeServiceStub(self.channel), services.ImageServiceStub(self.channel)

    def ask(self, method: str, *, seconds: float = 30, **fields: Any) -> Any:
        """One call; a dict is a message. Raises grpc.RpcError with what the engine says."""
        stub = next(s for s in self.stubs if hasattr(s, method))
        return getattr(stub, method)(getattr(messages, f"{method}Request")(**fields), timeout=seconds * TIME_SCALE)

    def stop(self) -> None:
        if hasattr(self, "channel"):
            self.channel.close()
        super().stop()

    def socket_there(self, host: str, port: int) -> socket.socket:
        """A connection from the daemon's network namespace: only the thread that makes it goes there."""
        def connect() -> socket.socket:
            assert self.daemon
            with open(f"/proc/{self.daemon.pid}/ns/net", "rb") as there:
                assert ctypes.CDLL(None).setns(there.fileno(), CLONE_NEWNET) == 0
            return socket.create_connection((host, port), 10 * TIME_SCALE)

        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(connect).result()

    def there(self, *argv: str | Path) -> str:
        """The output of a command in the daemon's mount namespace."""
        assert self.daemon
        where = f"--mount=/proc/{self.daemon.pid}/ns/mnt"
        return subprocess.run(["nsenter", where, *argv], check=True, stdout=subprocess.PIPE, text=True).stdout

    def namespace(self, kind: str) -> str:
        assert self.daemon
        return os.readlink(f"/proc/{self.daemon.pid}/ns/{kind}")


class Stream:
    """What exec -i, -t and attach get: frames of one channel each."""

    def __init__(self, cri: Cri, url: str) -> None:
        where = urllib.parse.urlsplit(url)
        assert where.hostname and where.port
        self.connection = cri.socket_there(where.hostname, where.port)
        self.socket = websocket.WebSocket()
        self.socket.connect(url.replace("http:", "ws:", 1), socket=self.connection, subprotocols=["v4.channel.k8s.io"])
        self.got = dict.fromkeys(range(5), b"")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.connection.close()

    def send(self, text: str, channel: int = STDIN) -> None:
        self.socket.send_binary(bytes([channel]) + text.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.send(json.dumps({"Width": columns, "Height": rows}), RESIZE)

    def _read(self) -> bool:
        frame = self.socket.recv()
        if frame:
            assert isinstance(frame, bytes), frame
            self.got[frame[0]] += frame[1:]
        return bool(frame)

    def wait_for(self, text: str, channel: int = STDOUT) -> None:
        while text.encode() not in self.got[channel]:
            assert self._read(), f"{text!r} did not come: {self.got}"

    def finish(self) -> tuple[str, str, int | None]:
        """Read to the end: standard output and error, and the exit code that the error channel tells (None: it says nothing)."""
        while self._read():
            pass
        said = self.got[ERROR]
        return self.got[STDOUT].decode(), self.got[STDERR].decode(), _code(json.loads(said)) if said else None


def _code(status: dict[str, Any]) -> int:
    if status["status"] == "Success":
        return 0
    assert status["reason"] == "NonZeroExitCode", status
    return next(int(cause["message"]) for cause in status["details"]["causes"] if cause["reason"] == "ExitCode")


def deep(*parts: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts merged, the later over the earlier."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            merged[key] = deep(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


class Pod:
    """A running sandbox of ``config`` over the defaults; all in the cgroup of this test session."""

    def __init__(self, cri: Cri, config: dict[str, Any], handler: str = "") -> None:
        self.cri, self.number = cri, next(_numbers)
        self.logs = cri.directory / "logs" / str(self.number)
        self.config = deep({
            "metadata": {"name": f"pod{self.number}", "uid": f"uid{self.number}", "namespace": "tests"},
            "log_directory": str(self.logs),
            "linux": {"cgroup_parent": "system.slice" if SYSTEMD else f"/{PREFIX}",
                      "security_context": {"namespace_options": {"pid": "CONTAINER"}}},
        }, config)  # fmt: skip
        self.id = cri.ask("RunPodSandbox", config=self.config, runtime_handler=handler).pod_sandbox_id

    def status(self) -> Any:
        return self.cri.ask("PodSandboxStatus", pod_sandbox_id=self.id).status

    def pid(self) -> int:
        """Of its pause process."""
        return int(json.loads(self.cri.ask("PodSandboxStatus", pod_sandbox_id=self.id, verbose=True).info["info"])["pid"])

    def create(self, *words: str, name: str = "box", attempt: int = 0, **config: Any) -> Container:
        """A container of these words; ``config``: fields of ContainerConfig."""
        options = self.config["linux"]["security_context"]["namespace_options"]
        whole = deep({
            "metadata": {"name": name, "attempt": attempt}, "image": {"image": IMAGE}, "command": words,
            "log_path": f"{name}{attempt}.log", "linux": {"security_context": {"namespace_options": options}},
        }, config)  # fmt: skip
        answer = self.cri.ask("CreateContainer", pod_sandbox_id=self.id, config=whole, sandbox_config=self.config)
        return Container(self, answer.container_id, self.logs / whole["log_path"])

    def start(self, *words: str, **config: Any) -> Container:
        container = self.create(*words, **config)
        container.start()
        return container

    def run(self, *words: str, **config: Any) -> str:
        """What a container says until it ends; it must succeed, and is removed."""
        container = self.start(*words, **config)
        status = container.wait()
        said = container.said()
        assert status.exit_code == 0, f"{status}\n{said}"
        container.remove()
        container.log.unlink()
        return said

    def sh(self, script: str, **config: Any) -> str:
        return self.run("sh", "-c", script, **config)

    def close(self) -> None:
        if self.id:
            self.cri.ask("StopPodSandbox", pod_sandbox_id=self.id)
            self.cri.ask("RemovePodSandbox", pod_sandbox_id=self.id)
        self.id = ""


class Container:
    def __init__(self, pod: Pod, id: str, log: Path) -> None:
        self.pod, self.cri, self.id, self.log = pod, pod.cri, id, log

    def start(self) -> None:
        self.cri.ask("StartContainer", container_id=self.id)

    def status(self) -> Any:
        return self.cri.ask("ContainerStatus", container_id=self.id).status

    def state(self) -> str:
        """CREATED, RUNNING, EXITED or UNKNOWN."""
        return messages.ContainerState.Name(self.status().state).removeprefix("CONTAINER_")

    def pid(self) -> int:
        return int(json.loads(self.cri.ask("ContainerStatus", container_id=self.id, verbose=True).info["info"])["pid"])

    def wait(self, seconds: float = 10) -> Any:
        """Its status once it has ended."""
        wait_until(lambda: self.state() == "EXITED", seconds, f"container {self.id} to end")
        return self.status()

    def exec(self, *words: str, timeout: int = 0) -> tuple[str, str, int]:
        answer = self.cri.ask("ExecSync", container_id=self.id, cmd=words, timeout=timeout)
        return answer.stdout.decode(), answer.stderr.decode(), answer.exit_code

    def sh(self, script: str) -> str:
        """What a script says that runs beside the container's process; it must succeed."""
        out, err, code = self.exec("sh", "-c", script)
        assert code == 0, (out, err, code)
        return out

    def stream(self, *words: str, tty: bool = False, stdin: bool = True) -> Stream:
        answer = self.cri.ask("Exec", container_id=self.id, cmd=words, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
        return Stream(self.cri, answer.url)

    def attach(self, *, tty: bool = False) -> Stream:
        answer = self.cri.ask("Attach", container_id=self.id, tty=tty, stdin=True, stdout=True, stderr=not tty)
        return Stream(self.cri, answer.url)

    def lines(self) -> list[tuple[str, str, str]]:
        """The log's lines without their times: the stream, F of a full line or P of a part, the text."""
        wait_until(self.log.exists, 10, f"{self.log}")
        return [tuple(line.split(" ", 3)[1:]) for line in self.log.read_text().splitlines()]  # type: ignore[misc]

    def said(self) -> str:
        """All standard output of the log."""
        return "".join(text + "\n" * (part == "F") for stream, part, text in self.lines() if stream == "stdout")

    def wait_said(self, wanted: str) -> None:
        wait_until(lambda: wanted in self.said(), 10, f"{wanted!r} in the log of {self.id}")

    def stop(self, grace: int = 0) -> None:
        self.cri.ask("StopContainer", container_id=self.id, timeout=grace)

    def remove(self) -> None:
        self.cri.ask("RemoveContainer", container_id=self.id)


def _handler(name: str, states: Path, **settings: str) -> str:
    table = f'[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}'
    lines = [f"{table}]", 'runtime_type = "io.containerd.runc.v2"', *(f"{key} = {value}" for key, value in settings.items()),
             f"{table}.options]", f'BinaryName = "{runtime_path()}"', f'Root = "{states}"',
             f"SystemdCgroup = {str(SYSTEMD).lower()}"]  # fmt: skip
    return "\n".join(lines)


def cri(directory: Path) -> Cri:
    address = directory / "grpc.sock"
    engine = Cri(directory, ["ctr", "--address", str(address), "--namespace", "k8s.io"])
    roots = {handler: directory / f"states-{handler}" for handler in (HANDLER, OTHER_HANDLER)}
    engine.states = [root / "k8s.io" for root in (*roots.values(), Path("/run/containerd/runc"))]
    # Negative scores below one's own need CAP_SYS_RESOURCE; profiles of AppArmor are not what is tested.
    (directory / "config.toml").write_text(f"""
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
address = "{address}"
[ttrpc]
address = "{directory}/ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{directory}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "{HANDLER}"
{_handler(HANDLER, roots[HANDLER])}
{_handler(OTHER_HANDLER, roots[OTHER_HANDLER], privileged_without_host_devices="true")}
{readme("toml", "containerd")}
""")
    (directory / "cni").mkdir()
    addresses = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "dataDir": str(directory / "addresses")}
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "ipam": addresses}
    network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
    (directory / "cni/pods.conflist").write_text(json.dumps(network))
    # The CNI library keeps its results in /var/lib/cni.
    prepare = f"mount -t tmpfs {PREFIX} /var/lib && busybox ip link set lo up"
    engine.start("unshare", "--net", "sh", "-c", f'{prepare} && exec containerd --config "$0"', directory / "config.toml")
    engine.connect(address)
    engine("images", "import", archive())
    engine("images", "import", pause_archive())
    for image in IMAGE, PAUSE:
        wait_until(lambda name=image: engine.ask("ImageStatus", image={"image": name}).image.id, 10, f"{image} in the CRI")
    return engine
