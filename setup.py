"""Build what cannot be plain Python, in this order:

    git ──▶ ocipy/_commit.py                                           what --version says
    ocipy/plan/ops.py ──c_header()──▶ ocipy/_native/ops.h              opcodes, one source for both languages
    spec/*.json ──compile_schema──▶ ocipy/config/_compiled.py          the validator of the hot path
    init.c op_*.c sys*.c ──▶ ocipy/_native/init                        static, freestanding: runs inside containers
    launcher.c ──▶ <prefix>/bin/ocipy                                  static, freestanding: starts Python isolated
    interpreter.c cli/boot.py ──▶ ocipy/_native/ocipy                  Python's core alone; absent where there is no libpython
    docs/man/*.8.in ocipy/cli/options.py ──▶ <prefix>/share/man/man8   manual pages
    shim.cdef spawn.c check.c shim*.c ──cffi──▶ ocipy/_native/_shim    API mode, out of line
    filter.cdef filter.c ──cffi──▶ ocipy/_native/_seccomp              with libseccomp

Names and versions are in pyproject.toml. CC and CFLAGS are honoured; OCIPY_WERROR=1 makes warnings errors (the Makefile does).
"""

from __future__ import annotations

import __future__
import ast
import importlib.util
import marshal
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType
from typing import Any

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "ocipy" / "_native"
CONFIG = ROOT / "ocipy" / "config"
THREADED = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
PY_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}{THREADED}"
OUTPUT = f"build/native-{sysconfig.get_platform()}-{PY_VERSION}"  # relative: data_files takes nothing else

INIT_SOURCES = ("init.c", "op_*.c", "sys*.c")
LAUNCHER_SOURCES = ("launcher.c", "launch_*.c")
CFLAGS = shlex.split(
    "-std=gnu11 -Os -Wall -Wextra -Wvla -Wstack-usage=16384 -Wshadow -Wundef -Wstrict-prototypes"
    " -ffreestanding -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-common"
    # A loop that clears memory must not become a call of memset: memset may be that loop.
    " -fno-tree-loop-distribute-patterns -ffunction-sections -fdata-sections -fmerge-all-constants"
)
INTERPRETER_WARNINGS = ["-Wall", "-Wextra", "-Wvla", "-Wshadow"]
MACHINE_CFLAGS = {"x86_64": ["-fcf-protection=none"], "aarch64": ["-mno-outline-atomics"]}
# Few pages and few segments: a container starts under a memory limit of 256 KiB.
LDFLAGS = shlex.split(
    "-static -nostdlib -nostartfiles -no-pie -s -Wl,--gc-sections -Wl,--build-id=none -Wl,-z,norelro"
    " -Wl,-z,noseparate-code -Wl,-z,noexecstack"
)


def generate() -> None:
    """Write ops.h and _compiled.py, each only where its text changed, so that make and distutils see no news."""
    sys.path.insert(0, str(ROOT))  # the package itself: it needs no build to be read
    header = runpy.run_path(str(ROOT / "ocipy/plan/ops.py"))["c_header"]()
    sys.path.remove(str(ROOT))
    write_if_changed(NATIVE / "ops.h", header)
    compiler = CONFIG / "compile_schema.py"
    schemas = sorted((ROOT / "spec").glob("*.json"))
    compiled = CONFIG / "_compiled.py"
    if compiler.exists() and schemas and newer(compiled, [compiler, *schemas]):
        runpy.run_path(str(compiler))["generate"](ROOT / "spec", compiled)


def generate_manual(output: str) -> None:
    """Manual pages into ``output``/man."""
    sys.path.insert(0, str(ROOT))
    version = runpy.run_path(str(ROOT / "ocipy/__init__.py"))["__version__"]
    runpy.run_path(str(ROOT / "ocipy/cli/manual.py"))["generate"](str(ROOT / "docs/man"), f"{output}/man", version, current_date())
    sys.path.remove(str(ROOT))


def current_date() -> str:
    """Of the last commit, of SOURCE_DATE_EPOCH, or today."""
    if (ROOT / ".git").exists():
        git = subprocess.run(["git", "-C", str(ROOT), "log", "-1", "--format=%cs"], check=False, capture_output=True, text=True)
        if git.stdout:
            return git.stdout.strip()
    return time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))


def manual_pages() -> list[str]:
    """Those that there will be."""
    return [f"{OUTPUT}/man/{source.name.removesuffix('.in')}" for source in sorted((ROOT / "docs" / "man").glob("*.8.in"))]


def current_commit() -> str:
    """"" in a source archive, which brings its own _commit.py."""
    if not (ROOT / ".git").exists():
        return ""
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=False, capture_output=True, text=True)
    return git.stdout.strip() or "unknown"


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def newer(target: Path, sources: list[Path]) -> bool:
    return not target.exists() or target.stat().st_mtime_ns < max(source.stat().st_mtime_ns for source in sources)


class Bare(ast.NodeTransformer):
    """Leaves out what no command reads: docstrings, annotations, what is for type checkers alone, the import of __future__."""

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False):
            node.body[0] = ast.Pass(lineno=1, col_offset=0)
        if isinstance(node, ast.ClassDef) and (node.bases or node.decorator_list):
            return node  # the base, or what decorates it, may read annotations
        return super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        bare = ast.Assign(targets=[node.target], value=node.value) if node.value else ast.Pass()
        return ast.copy_location(bare, node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse:
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if node.module == "__future__" else node


def bytecode(text: bytes, name: str) -> CodeType:
    """Compiled, without what no command reads."""
    tree = ast.fix_missing_locations(Bare().visit(ast.parse(text, name)))
    code: CodeType = compile(tree, name, "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    return code


def libpython() -> Path | None:
    """The shared library of the Python that runs this, if it has one."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    places = (sysconfig.get_config_var(where) for where in ("LIBDIR", "LIBPL"))
    found = (Path(place, name) for place in places if place and ".so" in name)
    return next((path for path in found if path.exists()), None)


def boot_header() -> str:
    """What interpreter.c is made with."""
    boot = marshal.dumps(bytecode((ROOT / "ocipy/cli/boot.py").read_bytes(), "ocipy/cli/boot.py"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    places = {name: f"../{name}{suffix}" for name in ("_cffi_backend", "_prctl")}  # in the package's site
    places |= {f"ocipy._native.{name}": f"_native/{name}.abi3.so" for name in ("_shim", "_seccomp")}
    for name in ("_json", "_socket", "_struct", "fcntl"):
        spec = importlib.util.find_spec(name)
        if spec and spec.has_location and spec.origin:
            places[name] = spec.origin
    code = {"BOOT_CODE": boot, "PLACES": marshal.dumps(places), "MAGIC": importlib.util.MAGIC_NUMBER}
    arrays = [f"static const unsigned char {name}[] = {{{','.join(map(str, data))}}};" for name, data in code.items()]
    paths = {"PYTHON": sys.executable, "PYTHON_PREFIX": sys.base_prefix, "STDLIB": sysconfig.get_path("stdlib")}
    paths["DYNLOAD"] = sysconfig.get_config_var("DESTSHARED") or paths["STDLIB"] + "/lib-dynload"
    return "\n".join([*(f'#define {name} "{path}"' for name, path in paths.items()), *arrays]) + "\n"


def expand(patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in NATIVE.glob(pattern)})


class BuildNative(Command):
    """Compile the two static executables into --output; CC may be a cross compiler."""

    description = "compile the static init and the launcher"
    user_options = [("output=", "o", "directory of objects and executables")]

    def initialize_options(self) -> None:
        self.output = OUTPUT

    def finalize_options(self) -> None:
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
        self.cc = shlex.split(compiler.replace("-pthread", ""))
        machine = subprocess.run([*self.cc, "-dumpmachine"], check=True, capture_output=True, text=True).stdout
        extra = MACHINE_CFLAGS.get(machine.split("-")[0], [])
        werror = ["-Werror"] if os.environ.get("OCIPY_WERROR") else []
        self.cflags = [*CFLAGS, *extra, *werror, *shlex.split(os.environ.get("CFLAGS", ""))]

    def run(self) -> None:
        generate()
        output = ROOT / self.output
        output.mkdir(parents=True, exist_ok=True)
        generate_manual(str(output))
        self.build_interpreter(output)
        for name, patterns in (("init", INIT_SOURCES), ("ocipy", LAUNCHER_SOURCES)):
            if sources := expand(patterns):
                self.link(output / name, self.compile(sources, output))

    def build_interpreter(self, output: Path) -> None:
        """Only for the Python that runs this, and where it has a shared library: the launcher does without."""
        library, target = libpython(), output / "interpreter"
        if library is None or "aarch64" in self.output:
            target.unlink(missing_ok=True)
            return
        self.cflags.append(f'-DLIBPYTHON="{library}"')
        write_if_changed(output / "boot.h", boot_header())
        source = NATIVE / "interpreter.c"
        if newer(target, [source, output / "boot.h"]):
            flags = [f"-I{output}", f"-I{sysconfig.get_path('include')}", "-std=gnu11", "-O2", "-s", *INTERPRETER_WARNINGS]
            flags += ["-Werror"] if os.environ.get("OCIPY_WERROR") else []
            execute([*self.cc, *flags, "-o", str(target), str(source), str(library), f"-Wl,-rpath,{library.parent}"])

    def compile(self, sources: list[Path], output: Path) -> list[Path]:
        """Objects of ``sources``; only what is older than its source, a header or the flags is compiled."""
        flags = [*self.cflags, f'-DPY_VERSION="{PY_VERSION}"']
        write_if_changed(output / "flags", shlex.join([*self.cc, *flags]))
        depends = [*NATIVE.glob("*.h"), output / "flags"]
        objects = [output / f"{source.stem}.o" for source in sources]
        stale = [pair for pair in zip(sources, objects, strict=True) if newer(pair[1], [pair[0], *depends])]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [[*self.cc, *flags, "-c", str(s), "-o", str(o)] for s, o in stale]
            list(pool.map(execute, commands))
        return objects

    def link(self, executable: Path, objects: list[Path]) -> None:
        if newer(executable, objects):
            execute([*self.cc, *LDFLAGS, "-o", str(executable), *map(str, objects), "-lgcc"])


def execute(command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(str(error)) from error


class Build(build):
    sub_commands = [("build_native", None), *build.sub_commands]


class BuildExt(build_ext):
    """The cffi shim; with --inplace the static init beside it, so that the source tree can be imported."""

    def run(self) -> None:
        self.run_command("build_native")
        if self.inplace:
            copy_init(NATIVE)
        super().run()


class BuildPy(build_py):
    """Python modules, and as data of the package the static init and the schemas that explain a refusal."""

    def run(self) -> None:
        self.run_command("build_native")
        package = Path(self.build_lib) / "ocipy"
        for stale in package.glob("**/*.py"):  # else a module removed from the tree stays in the wheel
            stale.unlink()
        super().run()
        copy_init(package / "_native")
        (package / "config" / "spec").mkdir(parents=True, exist_ok=True)
        for schema in (ROOT / "spec").glob("*.json"):
            shutil.copy2(schema, package / "config" / "spec" / schema.name)
        bundle(package)


# What is imported at once when a command begins, in one piece: all that these import as they are imported.
CREATE = ["cli.create", "config._compiled", "config.check", "linux.cgroups.host", "linux.cgroups.apply"]
AT_ONCE = {"create": CREATE, "run": [*CREATE, "cli.run"], "exec": ["cli.exec"]}


def bundle(package: Path) -> None:
    """The bytecode of all modules in one file (boot.py reads it), for the Python that runs this."""
    modules: dict[str, tuple[bool, int, CodeType]] = {}
    trees: dict[str, ast.Module] = {}
    for source in sorted(package.glob("**/*.py")):
        name = ".".join((package.name, *source.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
        text = source.read_bytes()
        modules[name] = (source.name == "__init__.py", len(text), bytecode(text, str(source.relative_to(package.parent))))
        trees[name] = ast.parse(text)
    index: dict[str, tuple[bool, int, int, int]] = {}
    code = b""
    for name, (kind, size, compiled) in modules.items():
        piece = marshal.dumps(compiled)
        index[name] = (kind, size, len(code), len(piece))
        code += piece
    for verb, seeds in AT_ONCE.items():
        names: dict[str, None] = {}
        for seed in ("cli.main", *seeds):
            in_order(f"ocipy.{seed}", trees, names)
        piece = marshal.dumps([(name, *modules[name]) for name in names])
        index["all of " + verb] = (False, 0, len(code), len(piece))
        code += piece

    def placed(start: int) -> bytes:
        return marshal.dumps({name: (kind, size, start + at, length) for name, (kind, size, at, length) in index.items()})

    # Numbers of marshal have one size up to 31 bits, so the index is as long with the right places as without.
    start = 12 + len(placed(0))
    head = importlib.util.MAGIC_NUMBER + len(placed(0)).to_bytes(4, "little") + (start + len(code)).to_bytes(4, "little")
    (package / "_bundle").write_bytes(head + placed(start) + code)


def in_order(name: str, trees: dict[str, ast.Module], found: dict[str, None], above: tuple[str, ...] = ()) -> None:
    """Add to ``found`` what the import of ``name`` imports, and it, each after what it needs."""
    if name not in trees or name in found or name in above:
        return
    in_order(name.rpartition(".")[0], trees, found, (*above, name))
    for node in trees[name].body:
        wanted = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            wanted = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        for each in wanted:
            in_order(each, trees, found, (*above, name))
    found[name] = None


def copy_init(directory: Path) -> None:
    shutil.copy2(ROOT / OUTPUT / "init", directory / "init")
    if (interpreter := ROOT / OUTPUT / "interpreter").exists():
        shutil.copy2(interpreter, directory / "ocipy")


os.chdir(ROOT)
if commit := current_commit():  # before setup(): a source archive takes it along
    write_if_changed(ROOT / "ocipy" / "_commit.py", f'COMMIT = "{commit}"\n')
setup(
    cmdclass={"build": Build, "build_native": BuildNative, "build_ext": BuildExt, "build_py": BuildPy},
    cffi_modules=["ocipy/_native/build.py:ffibuilder", "ocipy/_native/build.py:seccomp_builder"],
    # An ELF on the PATH: scripts= reads its files as text. The wheel keeps the execute bit.
    data_files=[("bin", [f"{OUTPUT}/ocipy"]), ("share/man/man8", manual_pages())],
)
