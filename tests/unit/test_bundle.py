"""The bundle of bytecode that boot.py imports from: the same modules, and never older than their sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import ocipy

LAUNCHER = Path(sysconfig.get_path("scripts")) / "ocipy"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
INSTALLED = Path(sysconfig.get_path("purelib")) / "ocipy"


class Prefix:
    """A copy of what is installed, to change."""

    def __init__(self, base: Path) -> None:
        self.launcher = base / "bin/ocipy"
        self.package = base / "lib" / VERSION / "site-packages/ocipy"
        self.launcher.parent.mkdir(parents=True)
        shutil.copy2(LAUNCHER, self.launcher)
        (base / "bin" / VERSION).symlink_to(Path(sys.executable).resolve())
        shutil.copytree(INSTALLED, self.package)
        (base / "pyvenv.cfg").touch()
        for name in ("_cffi_backend*", "jsonschema*"):
            for path in INSTALLED.parent.glob(name):
                (self.package.parent / path.name).symlink_to(path)

    def run(self, *arguments: str) -> str:
        return subprocess.run([self.launcher, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    return Prefix(tmp_path / "prefix")


def test_every_module_is_in_it(prefix: Prefix) -> None:
    for source in prefix.package.glob("**/*.py"):
        if source.name not in ("__init__.py", "boot.py"):
            before = source.stat()
            source.write_bytes(b"#" * (before.st_size - 1) + b"\n")  # of the same size: nothing but the bundle has code
            os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert prefix.run("--version").startswith(f"ocipy version {ocipy.__version__}\n")
    assert "OPTIONS" in prefix.run("create", "--help")
    assert '"ociVersionMax": "1.3.0"' in prefix.run("features")


def test_a_source_that_was_changed_counts(prefix: Prefix) -> None:
    source = prefix.package / "cli/version.py"
    source.write_text("def version():\n    return 'changed\\n'\n")
    assert prefix.run("--version") == "changed\n"


def test_a_source_that_was_changed_counts_at_the_same_size(prefix: Prefix) -> None:
    source = prefix.package / "cli/version.py"
    source.write_bytes(source.read_bytes().replace(b"ocipy version", b"OCIPY VERSION"))
    later = (prefix.package / "_bundle").stat().st_mtime + 3600
    os.utime(source, (later, later))
    assert prefix.run("--version").startswith("OCIPY VERSION ")


@pytest.mark.parametrize("size", [4, 8, 9, 100, 5000, 100_000, -1])
def test_a_bundle_that_was_cut_off_is_as_none(prefix: Prefix, size: int) -> None:
    bundle = prefix.package / "_bundle"
    bundle.write_bytes(bundle.read_bytes()[:size])
    assert prefix.run("--version").startswith("ocipy version ")
    assert '"ociVersionMax": "1.3.0"' in prefix.run("features")


def test_a_bundle_that_is_no_file_is_as_none(prefix: Prefix) -> None:
    bundle = prefix.package / "_bundle"
    bundle.unlink()
    bundle.mkdir()
    assert prefix.run("--version").startswith("ocipy version ")


@pytest.mark.parametrize("content", [None, b"", b"\0" * 8, b"of another Python"], ids=["absent", "empty", "zeros", "other"])
def test_without_a_bundle_for_this_python_modules_are_imported_as_usual(prefix: Prefix, content: bytes | None) -> None:
    bundle = prefix.package / "_bundle"
    bundle.unlink()
    if content is not None:
        bundle.write_bytes(content)
    assert prefix.run("--version").startswith("ocipy version ")


@pytest.mark.parametrize("name", ["errors", "linux/sys", "container/lifecycle", "cli/create"])
def test_a_source_that_was_changed_counts_among_those_that_come_at_once(prefix: Prefix, name: str) -> None:
    source = prefix.package / f"{name}.py"
    source.write_text(source.read_text() + "\nimport posix\nposix.write(1, b'changed\\n')\n")
    command = [str(prefix.launcher), "create", "--bundle", "/nonexistent", "x"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "changed\n"
    assert done.stderr.startswith("ocipy: ")
    assert "internal" not in done.stderr


@pytest.mark.parametrize("verb", ["create", "run", "exec"])
def test_what_comes_at_once_is_what_the_verb_imports(prefix: Prefix, verb: str) -> None:
    """And each has what a module has of the import system."""
    script = f"""
import marshal, posix, sys
sys.path.insert(0, {str(prefix.package.parent)!r})
from ocipy.cli import boot
bundle = boot.open_bundle({str(prefix.package)!r})
_, _, place, size = bundle.index["all of {verb}"]
names = [name for name, *_ in marshal.loads(posix.pread(bundle.fd, size, place))]
if sys.argv[1:]:
    bundle.import_at_once({verb!r})
    before = set(sys.modules)
    import ocipy.cli.main, ocipy.cli.{verb}
    assert before == set(sys.modules)
else:
    for name in names:
        __import__(name)
keys = ("__name__", "__package__", "__file__", "__path__", "__loader__", "__spec__")
for name, module in sys.modules.items():
    if name.startswith("ocipy."):
        parent, _, own = name.rpartition(".")
        assert getattr(sys.modules[parent], own) is module
        print(name, sorted(vars(module)), [str(vars(module).get(key)).split(" object at")[0] for key in keys])
"""
    usual, at_once = (
        subprocess.run([sys.executable, "-I", "-c", script, *given], check=True, capture_output=True, text=True).stdout.splitlines()
        for given in ([], ["at once"])
    )
    assert sorted(usual) == sorted(at_once)
    assert len(usual) > 30


def test_arguments_of_the_program_are_no_verbs(prefix: Prefix, tmp_path: Path) -> None:
    command = [str(prefix.launcher), "--root", str(tmp_path), "--trace", str(tmp_path / "trace"), "exec", "nope", "run", "create"]
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 255
    events = json.loads((tmp_path / "trace").read_text())["traceEvents"]
    assert [event["name"] for event in events if event["name"].startswith("import all of ")] == ["import all of exec"]
