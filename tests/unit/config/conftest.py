"""Configs to start from: the smallest that a container can be created from, and one with every property of the spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ocipy import warning
from ocipy.config.load import parse_config
from ocipy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def config() -> Any:
    return {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0}},
        "mounts": [],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts")]},
    }


@pytest.fixture
def full() -> Any:
    return json.loads((Path(__file__).parent / "full.json").read_text())


@pytest.fixture
def refusal() -> Callable[[Any], ConfigError]:
    """refusal(config): the error that loading it raises."""

    def load(value: Any) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            parse_config(json.dumps(value).encode(), "config.json")
        return caught.value

    return load


@pytest.fixture(autouse=True)
def no_warnings_left() -> Iterator[None]:
    warning.pending.clear()
    yield
    warning.pending.clear()
