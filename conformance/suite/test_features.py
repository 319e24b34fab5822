"""features.md and features-linux.md: what a runtime says of itself, and whether it is true.

The structure is optional: a runtime without the command has nothing to check, nor has one that leaves a list out."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Config, Container, Runtime, set_namespace
from seccomp_agent import Agent

clauses = pytest.mark.clauses
Make = Callable[..., Container]
Change = Callable[[Config], object]

# What the specification defines: None for a list or a value, else what is in the object.
FLAG = {"enabled": None}
PROPERTIES: dict[str, Any] = {
    "ociVersionMin": None, "ociVersionMax": None, "hooks": None, "mountOptions": None, "annotations": None,
    "potentiallyUnsafeConfigAnnotations": None,
    "linux": {
        "namespaces": None, "capabilities": None, "apparmor": FLAG, "selinux": FLAG, "netDevices": FLAG,
        "cgroup": dict.fromkeys(("v1", "v2", "systemd", "systemdUser", "rdma")),
        "seccomp": dict.fromkeys(("enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags")),
        "memoryPolicy": dict.fromkeys(("modes", "flags")),
        "intelRdt": dict.fromkeys(("enabled", "schemata", "monitoring")),
        "mountExtensions": {"idmap": FLAG},
    },
}  # fmt: skip
# Options that filesystems read themselves.
DATA_OPTIONS = {
    *(
        "size",
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "huge",
        "mpol",
        "inode64",
        "newinstance",
        "ptmxmode",
        "hidepid",
        "subset",
    ),
    *("data", "errors", "discard", "barrier", "commit", "lowerdir", "upperdir", "workdir", "compress", "subvol", "user_xattr"),
}
MAP = [{"containerID": 0, "hostID": 0, "size": 65536}]
NOBODY_CALLS = "sethostname"  # no program of these tests does


@pytest.fixture
def features(runtime: Runtime) -> dict[str, Any]:
    answer = runtime("features", check=False)
    if answer.status != 0:
        pytest.skip("this runtime has no command features, as it may")
    report: dict[str, Any] = answer.json
    return report


def named(features: dict[str, Any], *path: str) -> list[str]:
    """The list at ``path``; the test is skipped if it is absent, null or empty."""
    found: Any = features
    for key in path:
        found = (found or {}).get(key)
    if not found:
        pytest.skip(f"features of this runtime has no {'.'.join(path)}, as it may")
    return list(found)


def refusal(make: Callable[[str], Container], name: str) -> str:
    """What create says when it refuses ``name``, without the name itself; "" if it does not."""
    box = make(name)
    if box.create(check=False).status != 0:
        return box.errors.read_text().replace(name, "NAME").replace(box.id, "ID").replace(str(box.bundle.path), "BUNDLE") or "no"
    box.delete("--force")
    return ""


def unknown(make: Callable[[str], Container], names: list[str], nonsense: str) -> list[str]:
    """Which of ``names`` a container is refused for, where it would be for ``nonsense`` too."""
    assert refusal(make, nonsense), f"{nonsense} was accepted: this runtime ignores what it does not know"
    return [name for name in names if refusal(make, name)]


# ---- the structure --------------------------------------------------------------------------------------------------------------


@clauses("features.ociVersionMin", "features.ociVersionMax")
def test_the_versions_are_strings(features: dict[str, Any]) -> None:
    assert all(isinstance(features[key], str) and features[key] for key in ("ociVersionMin", "ociVersionMax"))


def _order(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Of a SemVer: a pre-release comes before its release."""
    numbers, _, rest = version.partition("+")[0].partition("-")
    return tuple(int(number) for number in numbers.split(".")), not rest, rest


@clauses("features.ociVersionMax.order")
def test_the_last_version_is_not_before_the_first(features: dict[str, Any]) -> None:
    assert _order(features["ociVersionMin"]) <= _order(features["ociVersionMax"])


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=clauses(f"features.{key}.accepted")) for key in ("ociVersionMin", "ociVersionMax")]
)
def test_the_versions_are_accepted(container: Make, features: dict[str, Any], key: str) -> None:
    container("/bin/true", mutate=lambda config: config.update(ociVersion=features[key])).run()


def _undefined(found: Any, known: Any, path: str = "") -> list[str]:
    if not isinstance(found, dict) or not isinstance(known, dict):
        return []
    wrong = [f"{path}/{key}" for key in found if key not in known]
    return wrong + [name for key in known if key in found for name in _undefined(found[key], known[key], f"{path}/{key}")]


@clauses("features.properties")
def test_there_is_no_property_that_the_specification_does_not_define(features: dict[str, Any]) -> None:
    assert _undefined(features, PROPERTIES) == []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), f"a key is there twice: {pairs}"
    return dict(pairs)


@clauses("features.annotations")
def test_annotations_are_keys_with_values(runtime: Runtime, features: dict[str, Any]) -> None:
    if "annotations" not in features:
        pytest.skip("features of this runtime has no annotations, as it may")
    json.loads(runtime("features").stdout, object_pairs_hook=_unique)
    for key, value in (features["annotations"] or {}).items():
        assert key
        assert isinstance(value, str)


@clauses("features.compile-time")
def test_it_is_the_same_where_the_machine_hides_what_it_has(features: dict[str, Any], runtime: Runtime, tmp_path: Path) -> None:
    script = 'for d in /sys/fs/cgroup /sys/kernel /proc/sys; do mount -t tmpfs none $d; done; exec "$0" features'
    argv = ["unshare", "--mount", "--net", "sh", "-c", script, runtime.path]
    with open(tmp_path / "hidden", "wb") as out:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, check=True, timeout=60)
    assert json.loads((tmp_path / "hidden").read_text()) == features


# ---- hooks and mounts -----------------------------------------------------------------------------------------------------------


@clauses("features.hooks")
def test_every_kind_of_hook_is_run(container: Make, features: dict[str, Any]) -> None:
    box = container("/bin/true")
    outside, inside = box.bundle.path / "trace", box.bundle.rootfs / "trace"
    kinds = named(features, "hooks")

    def hook(kind: str) -> dict[str, Any]:
        file = "/trace" if kind == "startContainer" else outside
        return {"path": "/bin/sh", "args": ["sh", "-c", f"cat > /dev/null; echo {kind} >> {file}"]}

    box.bundle.config["hooks"] = {kind: [hook(kind)] for kind in kinds}
    box.bundle.config["root"]["readonly"] = False
    box.bundle.write()
    box.create()
    box.start()
    box.wait_for("stopped")
    box.delete()
    seen = [line for file in (outside, inside) if file.exists() for line in file.read_text().split()]
    assert sorted(seen) == sorted(kinds)


def _mounts_with(option: str, bundle: Path) -> list[dict[str, Any]]:
    """Mounts that this option is for."""
    bind = {"destination": "/mnt", "type": "bind", "source": str(bundle), "options": ["bind"]}
    if option in ("bind", "rbind"):
        return [bind | {"options": [option]}]
    if option in ("idmap", "ridmap"):
        return [bind | {"options": ["bind", option], "uidMappings": MAP, "gidMappings": MAP}]
    if option == "remount":
        return [bind, bind | {"options": ["bind", "remount", "ro"]}]
    return [{"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": [option]}]


@clauses("features.mountOptions")
def test_every_mount_option_is_recognized(container: Make, features: dict[str, Any]) -> None:
    def make(option: str) -> Container:
        box = container("/bin/true")
        (box.bundle.rootfs / "mnt").mkdir(exist_ok=True)
        box.bundle.config["mounts"] += _mounts_with(option, box.bundle.path)
        if option in ("idmap", "ridmap"):
            set_namespace(box.bundle.config, "user")
            box.bundle.config["linux"].update(uidMappings=MAP, gidMappings=MAP)
        box.bundle.write()
        return box

    assert unknown(make, named(features, "mountOptions"), "nosuchoption") == []


@clauses("features.mountOptions.data")
def test_no_mount_option_is_a_filesystems_own(features: dict[str, Any]) -> None:
    options = named(features, "mountOptions")
    assert [option for option in options if "=" in option or option in DATA_OPTIONS] == []


@clauses("features-linux.mountExtensions.idmap")
def test_who_maps_the_ids_of_a_mount_says_so(container: Make, features: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.chown(source, 7, 7)
    mapping = [{"containerID": 0, "hostID": 1000, "size": 100}]

    def change(config: Config) -> None:
        mount = {"destination": "/tmp", "type": "bind", "source": str(source), "options": ["bind"]}
        config["mounts"].append(mount | {"uidMappings": mapping, "gidMappings": mapping})

    answer = container("/bin/stat", "-c", "%u", "/tmp", mutate=change).run(check=False)
    if answer.stdout.strip() != "1007":
        pytest.skip("this runtime does not map the ids of a mount without a user namespace")
    assert features["linux"]["mountExtensions"]["idmap"]["enabled"] is True


# ---- linux ----------------------------------------------------------------------------------------------------------------------


@clauses("features-linux.namespaces")
def test_every_type_of_namespace_is_recognized(container: Make, features: dict[str, Any]) -> None:
    def make(kind: str) -> Container:
        def change(config: Config) -> None:
            set_namespace(config, kind)
            if kind == "user":
                config["linux"].update(uidMappings=MAP, gidMappings=MAP)

        return container("/bin/true", mutate=change)

    assert unknown(make, named(features, "linux", "namespaces"), "nosuchnamespace") == []


# By their numbers.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()


def _own_capabilities() -> set[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    bounding = next(int(line.split()[1], 16) for line in lines if line.startswith("CapBnd:"))
    return {f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if bounding >> bit & 1}


@clauses("features-linux.capabilities")
def test_every_capability_is_given(container: Make, features: dict[str, Any]) -> None:
    """Of those that the test has itself: a runtime that knows a name gives it."""
    names = named(features, "linux", "capabilities")
    assert set(names) <= {f"CAP_{name}" for name in CAPABILITIES}
    wanted = sorted(set(names) & _own_capabilities())

    def change(config: Config) -> None:
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), wanted)

    assert sorted(container(mutate=change).run().json["capabilities"]["bounding"]) == wanted


def _filtered(container: Make, seccomp: dict[str, Any]) -> Container:
    base = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]}
    return container("/bin/true", mutate=lambda config: config["linux"].update(seccomp=base | seccomp))


def _rule(action: str = "SCMP_ACT_ERRNO", **more: Any) -> list[dict[str, Any]]:
    return [{"names": [NOBODY_CALLS], "action": action, **more}]


@pytest.mark.parametrize(
    ("key", "nonsense", "seccomp"),
    [
        pytest.param(
            "actions", "SCMP_ACT_NOSUCH", lambda name: {"syscalls": _rule(name)}, marks=clauses("features-linux.seccomp.actions")
        ),
        pytest.param(
            "operators",
            "SCMP_CMP_NOSUCH",
            lambda name: {"syscalls": _rule(args=[{"index": 0, "value": 1, "valueTwo": 1, "op": name}])},
            marks=clauses("features-linux.seccomp.operators"),
        ),
        pytest.param(
            "knownFlags",
            "SECCOMP_FILTER_FLAG_NOSUCH",
            lambda name: {"flags": [name], "syscalls": _rule()},
            marks=clauses("features-linux.seccomp.knownFlags"),
        ),
        pytest.param(
            "supportedFlags",
            "SECCOMP_FILTER_FLAG_NOSUCH",
            lambda name: {"flags": [name], "syscalls": _rule()},
            marks=clauses("features-linux.seccomp.supportedFlags"),
        ),
    ],
)
def test_every_word_of_seccomp_is_recognized(
    container: Make, features: dict[str, Any], key: str, nonsense: str, seccomp: Callable[[str], dict[str, Any]]
) -> None:
    with Agent() as agent:

        def make(name: str) -> Container:
            config = seccomp(name)
            if name in (
                "SCMP_ACT_NOTIFY",
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
            ):  # the kernel takes the latter with a listener only
                config |= {"listenerPath": agent.path, "syscalls": _rule("SCMP_ACT_NOTIFY")}
            return _filtered(container, config)

        assert unknown(make, named(features, "linux", "seccomp", key), nonsense) == []


BIG_ENDIAN = {
    f"SCMP_ARCH_{name}"
    for name in ("MIPS", "MIPS64", "MIPS64N32", "PARISC", "PARISC64", "PPC", "PPC64", "S390", "S390X", "M68K", "SHEB")
}


@clauses("features-linux.seccomp.archs")
def test_every_architecture_of_seccomp_is_recognized(container: Make, features: dict[str, Any]) -> None:
    """No filter holds architectures of both byte orders: those of the other are refused for that, not for their names."""

    def make(name: str) -> Container:
        return _filtered(container, {"architectures": [name], "syscalls": _rule()})

    names = named(features, "linux", "seccomp", "archs")
    assert unknown(make, [name for name in names if name not in BIG_ENDIAN], "SCMP_ARCH_NOSUCH") == []
    other = {name: refusal(make, name) for name in set(names) & BIG_ENDIAN}
    assert [name for name, said in other.items() if said and os.strerror(errno.EDOM).lower() not in said.lower()] == []


NODES = {"MPOL_DEFAULT": "", "MPOL_LOCAL": ""}


@pytest.mark.parametrize(
    ("key", "nonsense", "policy"),
    [
        pytest.param(
            "modes",
            "MPOL_NOSUCH",
            lambda name: {"mode": name, **({} if name in NODES else {"nodes": "0"})},
            marks=clauses("features-linux.memoryPolicy.modes"),
        ),
        pytest.param(
            "flags",
            "MPOL_F_NOSUCH",
            lambda name: {"mode": "MPOL_BIND", "nodes": "0", "flags": [name]},
            marks=clauses("features-linux.memoryPolicy.flags"),
        ),
    ],
)
def test_every_word_of_a_memory_policy_is_recognized(
    container: Make, features: dict[str, Any], key: str, nonsense: str, policy: Callable[[str], dict[str, Any]]
) -> None:
    def make(name: str) -> Container:
        return container("/bin/true", mutate=lambda config: config["linux"].update(memoryPolicy=policy(name)))

    assert unknown(make, named(features, "linux", "memoryPolicy", key), nonsense) == []
