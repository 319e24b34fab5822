"""make demo tells the truth: it checks itself that a limit killed and that nothing is left, and fails otherwise."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bundles import REPOSITORY, TIME_SCALE, runtime_path


def test_demo_succeeds_and_leaves_nothing(tmp_path: Path, no_leaks: None) -> None:
    out = tmp_path / "out"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = os.environ | {"RUNTIME": runtime_path(), "TMPDIR": str(scratch)}
    with open(out, "wb") as file:
        argv = ["sh", str(REPOSITORY / "docs/demo.sh")]
        demo = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60 * TIME_SCALE)
    text = out.read_text()
    assert demo.returncode == 0, text
    assert not list(scratch.iterdir())
    assert "exit status 137" in text
    assert "touch: /new: Read-only file system" in text
