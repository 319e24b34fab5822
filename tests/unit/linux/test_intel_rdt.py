"""What of resctrl can be said without one: where it is mounted, which schemata are the same."""

from __future__ import annotations

import pytest

from ocipy.errors import ConfigError
from ocipy.linux import intel_rdt

BEFORE = b"22 1 0:21 / /proc rw - proc proc rw\n"


@pytest.mark.parametrize(
    ("line", "mount"),
    [
        (b"30 1 0:30 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw,cdp\n", "/sys/fs/resctrl"),
        (b"30 1 0:30 / /a\\040b\\134\xc3\xa4 rw - resctrl none rw\n", "/a b\\\u00e4"),
        (b"30 1 0:30 /group /part rw - resctrl resctrl rw\n31 1 0:30 / /whole rw - resctrl resctrl rw\n", "/whole"),
        (b"30 1 0:30 / /sys/fs/resctrl rw - tmpfs resctrl rw\n", ""),
    ],
    ids=["usual", "escaped", "bound", "other"],
)
def test_resctrl_is_found_where_it_is_mounted(line: bytes, mount: str) -> None:
    assert intel_rdt.parse_mount(BEFORE + line + b"32 1 0:32 / /x rw - sysfs sysfs rw\n") == mount


SCHEMATA = "    MB:0= 50;1=100\n    L3:0=00f;1=7f0\nL3CODE:0=1\n"


@pytest.mark.parametrize("line", ["L3:0=f", "L3:0=0F;1=7f0", "MB:0=50", "MB:00=050;1=100;", "L3CODE:0=1", "L3:"])
def test_a_line_matches_a_file_that_has_all_of_it(line: str) -> None:
    assert intel_rdt.matches(line, SCHEMATA)


@pytest.mark.parametrize("line", ["L3:0=ff", "L3:0=f;1=7f1", "L3:2=f", "MB:0=5", "L2:0=f", "L3DATA:0=1", "nonsense"])
def test_a_line_does_not_match_a_file_that_lacks_some_of_it(line: str) -> None:
    assert not intel_rdt.matches(line, SCHEMATA)


def test_without_a_mount_the_property_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        intel_rdt.plan({"closID": "a"}, "box", "")
    assert caught.value.pointer == "/linux/intelRdt"
    assert "mount -t resctrl" in str(caught.value)
