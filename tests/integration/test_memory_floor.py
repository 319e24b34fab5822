"""A container starts under a memory limit that is hardly more than its program needs: the runtime takes none of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bundles import Config, Container, hierarchies

Make = Callable[..., Container]
LIMIT = 256 * 1024


def has_memory() -> bool:
    if set(hierarchies()) == {""}:
        return "memory" in (hierarchies()[""] / "cgroup.controllers").read_text().split()
    return "memory" in hierarchies()


pytestmark = pytest.mark.skipif(not has_memory(), reason="needs the memory controller")


def limit_memory(config: Config) -> None:
    config["linux"]["resources"]["memory"] = {"limit": LIMIT}


def test_true_runs_under_256_kib_ten_times_of_ten(container: Make) -> None:
    box = container("/bin/true", mutate=limit_memory)
    statuses = []
    for _ in range(10):
        # Pages of the program that nobody has read yet would be charged to the container.
        (box.bundle.rootfs / "bin/busybox").read_bytes()
        statuses.append(box.run(check=False).status)
    assert statuses == [0] * 10


def test_below_the_floor_the_error_names_memory(container: Make) -> None:
    def far_too_little(config: Config) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 16 * 1024}

    box = container("/bin/true", mutate=far_too_little)
    answer = box.create(check=False)
    assert answer.status == 1
    assert "memory" in box.errors.read_text()
