"""Buildah with --isolation oci: create, start, state every 100 ms, kill, delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import PREFIX
from engines.engine import IMAGE, Engine


@pytest.fixture
def working(buildah: Engine) -> Iterator[str]:
    """A working container of Buildah."""
    name = buildah("from", "--pull-never", "--network", "none", "--cgroup-parent", f"/{PREFIX}/buildah", IMAGE).stdout.strip()
    yield name
    buildah("rm", name)


def test_a_command_runs_and_its_code_is_buildahs(buildah: Engine, working: str) -> None:
    result = buildah("run", "--network", "none", working, "--", "sh", "-c", "echo hello; exit 6", check=False)
    assert (result.stdout, result.status) == ("hello\n", 6)


def test_what_a_command_wrote_is_there_for_the_next(buildah: Engine, working: str) -> None:
    buildah("run", "--network", "none", working, "--", "sh", "-c", "echo kept >/made")
    assert buildah("run", "--network", "none", working, "--", "cat", "/made").stdout == "kept\n"


def test_a_command_gets_a_terminal(buildah: Engine, working: str) -> None:
    status, shown = buildah.terminal("run", "--network", "none", "--terminal", working, "--", "sh", "-c", "tty; exit 3")
    assert status == 3
    assert shown.startswith("/dev/pts/0")


def test_a_command_gets_volumes_and_a_user(buildah: Engine, working: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "given").write_text("given\n")
    result = buildah("run", "--network", "none", "--user", "1000", "--volume", f"{tmp_path}:/mnt:ro", working, "--",
                     "sh", "-c", "id -u; cat /mnt/given")  # fmt: skip
    assert result.stdout == "1000\ngiven\n"


def test_a_command_that_does_not_exist_is_named(buildah: Engine, working: str) -> None:
    result = buildah("run", "--network", "none", working, "--", "nothing", check=False)
    assert result.status != 0
    assert "nothing" in result.stderr
    assert "executable file not found" in result.stderr


def test_an_image_is_built(buildah: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN echo built >/made && id -u\nUSER user\nRUN cat /made && id -u\n")
    result = buildah("bud", "--network", "none", "--cgroup-parent", f"/{PREFIX}/buildah", "--no-cache", "--tag", "built", tmp_path)
    assert "built\n1000\n" in result.stdout
    buildah("rmi", "built")


def test_a_build_ends_at_a_command_that_fails(buildah: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN exit 9\n")
    result = buildah("bud", "--network", "none", "--cgroup-parent", f"/{PREFIX}/buildah", tmp_path, check=False)
    assert (result.status, "exit status 9" in result.stderr) == (9, True), str(result)
