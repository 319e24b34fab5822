"""Dependencies point one way, and the hot path imports nothing slow: read from the sources, without running them.

cli -> container -> linux -> {config, plan} -> errors; only linux/sys.py and linux/libseccomp.py import _native.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "ocipy"

# A layer may import itself and the layers named here. "" is ocipy/__init__.py: the version.
BASE = {"", "_commit", "errors", "warning"}
ALLOWED = {
    "": set(),
    "_commit": set(),
    "errors": set(),
    "warning": {"errors"},
    "plan": BASE,
    "config": BASE,
    "linux": {"plan", "config", *BASE},
    "container": {"linux", "plan", "config", *BASE},
    "cli": {"container", "linux", "plan", "config", *BASE},
    "__main__": {"cli"},
    "_native": set(),
}

# Each costs milliseconds, and a command lives for ten. C parts that do the same: _json, _socket, errno, fcntl, posix.
SLOW = {
    "argparse", "ast", "asyncio", "base64", "cffi", "collections", "concurrent", "contextlib", "copy", "ctypes", "dataclasses",
    "datetime", "decimal", "difflib", "enum", "fastjsonschema", "fnmatch", "functools", "glob", "gzip", "hashlib", "heapq",
    "inspect", "importlib", "ipaddress", "json", "jsonschema", "locale", "logging", "multiprocessing", "pathlib", "pickle",
    "platform", "pprint", "prctl", "queue", "random", "re", "select", "selectors", "shlex", "shutil", "signal", "site", "socket",
    "sre_constants", "string", "struct", "subprocess", "tempfile", "textwrap", "threading", "tokenize", "traceback", "types",
    "typing", "unicodedata", "urllib", "uuid", "warnings", "weakref", "zipfile",
}  # fmt: skip

# Build tools, types for mypy, explanations: these import what they like, and are imported inside functions only.
COLD = {"_native/build.py", "cli/manual.py", "config/compile_schema.py", "config/locate.py", "config/schema.py", "config/types.py"}


class Imports(ast.NodeVisitor):
    """Modules that a file imports as (name, line, at module level); what stands under ``if TYPE_CHECKING`` does not count."""

    def __init__(self, package: str) -> None:
        self.found: list[tuple[str, int, bool]] = []
        self.package, self.depth = package, 0

    def visit_If(self, node: ast.If) -> None:
        typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in node.orelse if typing_only else ast.iter_child_nodes(node):
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, node.lineno, self.depth == 0) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        parents = self.package.split(".")
        base = ".".join(parents[: len(parents) - node.level + 1] if node.level else []) or ""
        module = ".".join(filter(None, (base, node.module or "")))
        self.found.append((module, node.lineno, self.depth == 0))
        if module.startswith("ocipy"):  # from ocipy import errors: a module, or a name of the package
            names = [alias.name for alias in node.names if is_module(module, alias.name)]
            self.found += [(f"{module}.{name}", node.lineno, self.depth == 0) for name in names]


def is_module(package: str, name: str) -> bool:
    path = ROOT.parent.joinpath(*package.split("."), name)
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(path: Path) -> list[tuple[str, int, bool]]:
    visitor = Imports(".".join(path.relative_to(ROOT.parent).parent.parts))
    visitor.visit(ast.parse(path.read_text(), str(path)))
    return visitor.found


def layer(module: str) -> str:
    """'ocipy.linux.sys' -> 'linux', 'ocipy' -> ''."""
    return (module.split(".") + [""])[1]


def layer_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem.replace("__init__", "")


MODULES = sorted(path for path in ROOT.rglob("*.py") if path.name != "_compiled.py")


@pytest.fixture(params=MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def module(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_a_layer_imports_only_what_lies_below_it(module: Path) -> None:
    name = str(module.relative_to(ROOT))
    own = layer_of(module)
    allowed = ALLOWED[own] | {own} | ({"_native"} if name in ("linux/sys.py", "linux/libseccomp.py") else set())
    found = [(target, line) for target, line, _ in imports(module) if target.split(".")[0] == "ocipy"]
    assert not [f"{name}:{line}: {target}" for target, line in found if layer(target) not in allowed]


def test_the_hot_path_imports_nothing_slow(module: Path) -> None:
    name = str(module.relative_to(ROOT))
    if name in COLD:
        return
    slow = [f"{name}:{line}: {target}" for target, line, top in imports(module) if top and target.split(".")[0] in SLOW]
    assert not slow, f"import it inside the function that needs it, or use a C module: {slow}"


def test_cold_modules_are_imported_inside_functions_only(module: Path) -> None:
    if str(module.relative_to(ROOT)) in COLD:
        return
    cold = {"ocipy." + name.removesuffix(".py").replace("/", ".") for name in COLD}
    found = [(target, line) for target, line, top in imports(module) if top and target in cold]
    assert not [f"{module.relative_to(ROOT)}:{line}: {target}" for target, line in found]


def test_nothing_outside_the_standard_library_is_imported_at_module_level(module: Path) -> None:
    name = str(module.relative_to(ROOT))
    if name in COLD:
        return
    known = {*sys.stdlib_module_names, "ocipy", "_cffi_backend", "_interpreter"}  # the last is in interpreter.c
    assert not [f"{name}:{line}: {target}" for target, line, top in imports(module) if top and target.split(".")[0] not in known]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import json", [("json", 1, True)]),
        ("def f():\n import json", [("json", 2, False)]),
        ("if TYPE_CHECKING:\n import json\nelse:\n import re", [("re", 4, True)]),
        ("try:\n import json\nexcept ImportError:\n pass", [("json", 2, True)]),
        ("class C:\n import json", [("json", 2, True)]),
        ("from . import sys", [("ocipy.linux", 1, True)]),
        ("from ..plan.ops import SYNC", [("ocipy.plan.ops", 1, True)]),
        ("from ocipy.plan import ops", [("ocipy.plan", 1, True), ("ocipy.plan.ops", 1, True)]),
    ],
)
def test_imports_are_read_from_the_source(source: str, expected: list[tuple[str, int, bool]]) -> None:
    visitor = Imports("ocipy.linux")
    visitor.visit(ast.parse(source))
    assert [found for found in visitor.found if found[0] != "ocipy.linux.sys"] == expected
