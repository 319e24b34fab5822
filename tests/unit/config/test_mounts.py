"""Mount options and the rules of mounts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from ocipy.config.check import all_checks
from ocipy.config.mounts import (
    ATIME, ATTRIBUTES, NOT_ATIME, NOT_SUPERBLOCK, OTHERS, PROPAGATION, SUPERBLOCK, destination, fs_data_needs_mount2, mount2_data,
    parse_options,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocipy.config.mounts import MountOptions
    from ocipy.errors import ConfigError

RO, NOSUID, NODEV, NOEXEC, ATIME_FIELD, NOATIME, STRICTATIME, NODIRATIME, NOSYMFOLLOW = 1, 2, 4, 8, 0x70, 0x10, 0x20, 0x80, 0x200000
# The table of config.md, Linux mount options.
TABLE = """
async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec noiversion
nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount rexec rnoatime
rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid
rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap""".split()


def told(parsed: MountOptions) -> dict[str, Any]:
    """What is not as without options."""
    values = {name: getattr(parsed, name) for name in parsed.__slots__}
    return {name: value for name, value in values.items() if value}


@pytest.mark.parametrize("option", TABLE)
def test_every_option_of_the_table_is_known(option: str) -> None:
    assert not parse_options([option]).data


def test_the_tables_have_no_name_twice() -> None:
    own = [*ATTRIBUTES, *ATIME, *NOT_ATIME, *SUPERBLOCK, *NOT_SUPERBLOCK, *OTHERS, *PROPAGATION]
    recursive = ["r" + name for name in (*ATTRIBUTES, *ATIME, *NOT_ATIME)]
    assert len({*own, *recursive}) == len(own) + len(recursive)
    assert set(TABLE) <= {*own, *recursive}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("defaults", {}),
        ("ro", {"attr_set": RO}),
        ("rw", {"attr_clr": RO}),
        ("ro rw", {"attr_clr": RO}),
        ("rw ro", {"attr_set": RO}),
        ("nosuid nodev noexec", {"attr_set": NOSUID | NODEV | NOEXEC}),
        ("nosuid suid dev", {"attr_clr": NOSUID | NODEV}),
        ("nosymfollow nodiratime", {"attr_set": NOSYMFOLLOW | NODIRATIME}),
        ("relatime", {"attr_clr": ATIME_FIELD}),
        ("noatime", {"attr_set": NOATIME, "attr_clr": ATIME_FIELD}),
        ("noatime strictatime", {"attr_set": STRICTATIME, "attr_clr": ATIME_FIELD}),
        ("strictatime noatime", {"attr_set": NOATIME, "attr_clr": ATIME_FIELD}),
        ("atime", {"attr_clr": ATIME_FIELD}),
        ("noatime atime", {"attr_clr": ATIME_FIELD}),
        ("strictatime atime", {"attr_set": STRICTATIME, "attr_clr": ATIME_FIELD}),
        ("strictatime norelatime", {"attr_set": STRICTATIME, "attr_clr": ATIME_FIELD}),
        ("strictatime nostrictatime", {"attr_clr": ATIME_FIELD}),
        ("rro", {"rec_set": RO}),
        ("rrw", {"rec_clr": RO}),
        ("rnosuid rnodev rnoexec", {"rec_set": NOSUID | NODEV | NOEXEC}),
        ("rnoatime", {"rec_set": NOATIME, "rec_clr": ATIME_FIELD}),
        ("rrelatime", {"rec_clr": ATIME_FIELD}),
        ("ratime rnosymfollow", {"rec_clr": ATIME_FIELD, "rec_set": NOSYMFOLLOW}),
        ("ro rrw", {"attr_set": RO, "rec_clr": RO}),
        ("bind", {"bind": True}),
        ("rbind", {"bind": True, "recursive": True}),
        ("bind ro remount", {"bind": True, "remount": True, "attr_set": RO}),
        ("private", {"propagation": 1 << 18}),
        ("rprivate", {"propagation": 1 << 18 | 1 << 14}),
        ("shared rslave", {"propagation": 1 << 19 | 1 << 14}),
        ("runbindable", {"propagation": 1 << 17 | 1 << 14}),
        ("sync dirsync mand", {"sb_flags": ["sync", "dirsync", "mand"]}),
        ("sync async lazytime nolazytime silent loud iversion noiversion mand nomand", {}),
        ("sync sync", {"sb_flags": ["sync"]}),
        ("tmpcopyup", {"tmpcopyup": True}),
        ("idmap", {"idmap": "idmap"}),
        ("idmap ridmap", {"idmap": "ridmap"}),
        ("mode=755 size=64k ro rust", {"attr_set": RO, "data": ["mode=755", "size=64k", "rust"]}),
    ],
)
def test_options_become_bits(options: str, expected: dict[str, Any]) -> None:
    assert told(parse_options(options.split())) == expected


@pytest.mark.parametrize(
    ("option", "data"),
    [
        ("size=64k,mode=755,nosuid", ["size=64k", "mode=755"]),
        ('context="system_u:object_r:tmp_t:s0:c1,c2"', ["context=system_u:object_r:tmp_t:s0:c1,c2"]),
        ('mode=755,context="a,b",uid=5', ["mode=755", "context=a,b", "uid=5"]),
        ("mpol=bind:0,2,size=5", ["mpol=bind:0,2", "size=5"]),
        (r"lowerdir=/a\,b:/c,upperdir=/d", [r"lowerdir=/a\,b:/c", "upperdir=/d"]),
        ("a,,b,", ["a", "b"]),
        ("x=", ["x="]),
        ('x="', ['x="']),
        (",", []),
    ],
)
def test_one_string_may_have_several_options(option: str, data: list[str]) -> None:
    assert parse_options([option]).data == data


def test_parsing_never_fails() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        options = ["".join(rng.choices('ro,="\\ba1', k=rng.randrange(9))) for _ in range(rng.randrange(4))]
        parsed = parse_options(options)
        assert all(parsed.data)
        mount2_data(parsed)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (["ro", "size=5"], False),
        (["iversion"], True),
        (["silent"], True),
        (["silent", "loud"], False),
        (["sync", "lazytime"], False),
        (["lowerdir=" + "x" * 255], False),
        (["lowerdir=" + "x" * 256], True),
        (["lowerdir=" + "ä" * 128], True),
    ],
)
def test_what_fsconfig_cannot_say_needs_mount2(options: list[str], needed: bool) -> None:
    assert fs_data_needs_mount2(parse_options(options)) is needed


def test_mount2_gets_labels_with_commas_in_quotes() -> None:
    parsed = parse_options(['context="u:o:t:s0:c1,c2"', "mode=755", "mpol=bind:0,2", "noswap"])
    assert mount2_data(parsed) == 'context="u:o:t:s0:c1,c2",mode=755,mpol=bind:0,2,noswap'


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a", "/a"), ("a/b", "/a/b"), ("//a//b/", "/a/b"), ("/a/../b/.", "/b"), ("../../x", "/x"), (".", "/"), ("/", "/")],
)
def test_destinations_are_absolute_and_clean(path: str, expected: str) -> None:
    assert destination({"destination": path}) == expected


LXCFS = "cpuinfo diskstats loadavg meminfo slabinfo stat swaps uptime net/dev sys/kernel/ns_last_pid sys/crypto/fips_enabled"
GOOD = [
    {"destination": "/proc", "type": "proc"},
    {"destination": "/proc/", "type": "proc", "source": "proc"},
    {"destination": "/proc", "source": "/proc", "options": ["rbind"]},
    {"destination": "/proc", "type": "proc", "options": ["remount", "ro"]},
    {"destination": "/process", "type": "tmpfs"},
    {"destination": "data", "type": "tmpfs"},
    {"destination": "/data", "type": "bind", "source": "x"},
    {"destination": "/data", "type": "none", "source": "x", "options": ["rbind", "ro", "rprivate", "rnosuid"]},
    *({"destination": f"/proc/{name}", "source": "/lxcfs", "options": ["bind"]} for name in LXCFS.split()),
]
MAPS = [{"containerID": 0, "hostID": 0, "size": 1}]
BAD = [
    ({"destination": "/proc", "type": "tmpfs"}, "/type"),
    ({"destination": "proc", "type": "tmpfs"}, "/type"),
    ({"destination": "/a/..//proc/.", "type": "tmpfs"}, "/type"),
    ({"destination": "/proc", "type": "proc", "source": "/fake", "options": ["bind"]}, "/destination"),
    ({"destination": "/proc", "source": "/proc/self", "options": ["bind"]}, "/destination"),
    ({"destination": "/proc/self/attr", "source": "/x", "options": ["bind"]}, "/destination"),
    ({"destination": "/proc/sys", "source": "/x", "options": ["bind"]}, "/destination"),
    ({"destination": "/proc/net/../sys", "type": "tmpfs"}, "/destination"),
    ({"destination": "/", "type": "tmpfs"}, "/destination"),
    ({"destination": "/data", "options": ["bind"]}, "/source"),
    ({"destination": "/data", "source": "", "type": "bind"}, "/source"),
    ({"destination": "/data", "source": "/x"}, "/type"),
    ({"destination": "/data", "source": "/x", "options": ["bind", "nosiud"]}, "/options"),
    ({"destination": "/data", "source": "/x", "options": ["bind", "idmap"]}, "/options"),
    ({"destination": "/data", "source": "/x", "options": ["bind"], "uidMappings": MAPS}, "/uidMappings"),
    ({"destination": "/data", "source": "/x", "options": ["bind"], "gidMappings": MAPS}, "/gidMappings"),
    ({"destination": "/data", "type": "tmpfs", "uidMappings": MAPS, "gidMappings": MAPS}, ""),
    ({"destination": "/data", "source": "/x", "options": ["bind"], "uidMappings": MAPS * 2, "gidMappings": MAPS},
     "/uidMappings/1/containerID"),
    ({"destination": "/" + "x" * 256, "type": "tmpfs"}, "/destination"),
    ({"destination": "/" + "x/" * 2048, "type": "tmpfs"}, "/destination"),
    ({"destination": "/" + "ä" * 128, "type": "tmpfs"}, "/destination"),
    ({"destination": "/data", "type": "bind", "source": "x/" * 2048}, "/source"),
    ({"destination": "/data", "type": "x" * 256}, "/type"),
]  # fmt: skip


@pytest.mark.parametrize("mount", GOOD, ids=str)
def test_good_mounts_are_accepted(config: Any, mount: dict[str, Any]) -> None:
    config["mounts"] = [mount]
    all_checks(config)


@pytest.mark.parametrize(("mount", "pointer"), BAD, ids=lambda value: str(value)[:70])
def test_bad_mounts_are_refused(config: Any, refusal: Callable[[Any], ConfigError], mount: dict[str, Any], pointer: str) -> None:
    config["mounts"] = [{"destination": "/ok", "type": "tmpfs"}, mount]
    error = refusal(config)
    assert error.pointer == "/mounts/1" + pointer
    assert error.label.startswith("mounts[1] ")
    assert len(str(error)) < 400


def test_idmap_may_take_the_mappings_of_the_user_namespace(config: Any) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"] |= {"uidMappings": MAPS, "gidMappings": MAPS}
    config["mounts"] = [{"destination": "/data", "source": "/x", "options": ["bind", "ridmap"]}]
    assert all_checks(config) == []


def test_a_relative_destination_is_warned_of(config: Any) -> None:
    config["mounts"] = [{"destination": "data", "type": "tmpfs"}]
    [warning] = all_checks(config)
    assert warning.startswith("/mounts/0/destination: ")


def test_an_option_for_the_filesystem_of_a_bind_mount_is_warned_of(config: Any) -> None:
    config["mounts"] = [{"destination": "/data", "source": "/x", "options": ["bind", "mode=755"]}]
    [warning] = all_checks(config)
    assert warning.startswith("/mounts/0/options: ") and '"mode=755"' in warning
