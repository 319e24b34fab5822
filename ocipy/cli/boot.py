"""The first and the last thing that Python does in every command."""

from __future__ import annotations

import builtins
import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

try:
    from _interpreter import BEGAN, MAGIC, PLACES, finish  # type: ignore[import-not-found]  # interpreter.c: Python is not yet whole
except ImportError:
    from _frozen_importlib_external import MAGIC_NUMBER as MAGIC

    BEGAN, finish = 0, None
new_module = type(sys)
asked = False  # for a codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

    # name -> is it a package, size of its source, place and size of its code in the bundle; "all of " and a verb -> place and size
    # of all that it imports when it begins: a list of (name, is it a package, size of its source, code)
    Index = dict[str, tuple[bool, int, int, int]]

# In the package, written by setup.py: magic number of the bytecode, size of the index, size of the file, index, code.
BUNDLE = "_bundle"
CODECS_ARE_MADE_LATE = 0x030D0000  # from this version on, a codec that is asked for while Python is not whole is a NULL pointer
INSTALLING = 60  # seconds by which a source may be younger than the bundle it was installed with


class Bundle:
    """Finds the modules of ocipy in one file, by its index: the import system would look at a directory and open a file for each of
    the sixty that create takes, and that is a sixth of its time.
    """

    def __init__(self, package: str, fd: int, index: Index, made: float) -> None:
        self.package, self.fd, self.index, self.made = package, fd, index, made

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """None for what is not in the bundle, and for a source that was changed since: then it is imported as usual."""
        entry = self.index.get(name)
        return self.describe(name, entry[0], entry[1]) if entry else None

    def describe(self, name: str, is_package: bool, size: int) -> ModuleSpec | None:
        """What the import system wants to know; None where the source is not the one that was compiled."""
        stem = self.package + name[5:].replace(".", "/")
        source = stem + ("/__init__.py" if is_package else ".py")
        try:
            now = posix.stat(source)
        except OSError:
            return None
        if now.st_size != size or now.st_mtime > self.made + INSTALLING:
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]
        if is_package:
            spec.submodule_search_locations = [stem]
        return spec

    def import_at_once(self, verb: str) -> bool:
        """What ``import`` would do for all that ``verb`` imports when it begins, without asking for each: a millisecond less.
        False: it is no such verb."""
        _, _, place, size = self.index.get("all of " + verb, (False, 0, 0, 0))
        if not size:
            return False
        for name, is_package, length, code in marshal.loads(posix.pread(self.fd, size, place)):  # noqa: S302
            if name in sys.modules:
                continue
            spec = self.describe(name, is_package, length)
            if spec is None:
                break
            module = new_module(name)
            parent, _, own = name.rpartition(".")
            module.__spec__, module.__loader__, module.__file__ = spec, self, spec.origin  # type: ignore[assignment]
            module.__package__ = name if is_package else parent
            if is_package:
                module.__path__ = spec.submodule_search_locations  # type: ignore[assignment]
            sys.modules[name] = module
            try:
                exec(code, module.__dict__)
            except BaseException:
                del sys.modules[name]
                raise
            if parent:
                setattr(sys.modules[parent], own, module)
        return True

    def create_module(self, spec: ModuleSpec) -> None:
        """A module like any other."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        _, _, place, size = self.index[module.__name__]
        module.__file__ = module.__spec__.origin  # type: ignore[union-attr]
        exec(marshal.loads(posix.pread(self.fd, size, place)), module.__dict__)  # noqa: S302  it is code, like a .pyc


def open_bundle(package: str) -> Bundle | None:
    """Import from the bundle from now on, if there is a whole one for this Python."""
    try:
        fd = posix.open(f"{package}/{BUNDLE}", posix.O_RDONLY | posix.O_CLOEXEC)
        head, file = posix.read(fd, 12), posix.fstat(fd)
    except OSError:
        return None
    if head[:4] != MAGIC or int.from_bytes(head[8:], "little") != file.st_size:
        return None
    index = marshal.loads(posix.read(fd, int.from_bytes(head[4:8], "little")))  # noqa: S302
    bundle = Bundle(package, fd, index, file.st_mtime)
    sys.meta_path.insert(0, bundle)
    return bundle


# Of the standard library, what works and does not need the rest of Python.
CORE = frozenset(
    "_abc _codecs _collections_abc _frozen_importlib_external _imp _io _json _socket _stat _struct _warnings abc codecs errno "
    "fcntl gc genericpath itertools marshal os os.path posix posixpath stat time".split()
)


class Core:
    """Finds what the core of Python needs: extension modules where they were when ocipy was built. What is not known to work before
    Python is whole makes it so first.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """None for what the others find."""
        place = PLACES.get(name)
        if place is None:
            if name == "encodings":
                import_files()
            elif name not in CORE and not name.startswith(("ocipy", "encodings.")):
                make_whole()
            return None
        place = place if place[0] == "/" else f"{self.package}/{place}"
        try:
            posix.stat(place)
        except OSError:
            return None
        return ModuleSpec(name, self, origin=place)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """As the loader of extension modules does."""
        import _imp

        return _imp.create_dynamic(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the loader of extension modules does."""
        import _imp

        _imp.exec_dynamic(module)


class Rest:
    """Finds nothing; but a whole Python, which comes after it, may."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Make Python whole."""
        if not name.startswith("encodings"):
            make_whole()


def import_files() -> None:
    """Who asks for a codec is given codecs alone: the rest cannot be made in the middle of that, for it asks for one too."""
    global asked
    if finish is not None and not asked:
        asked = True
        from _frozen_importlib import _install_external_importers  # type: ignore[attr-defined]

        sys.pycache_prefix, sys.dont_write_bytecode = None, True
        _install_external_importers()


def nothing() -> None:
    """What is left to do where all was done before."""


def make_whole() -> None:
    """What the interpreter left out: codecs, streams, open(), signals, the import of files, os. Once."""
    global finish
    if finish is not None:
        complete, finish = finish, None
        if vars(builtins).get("open") is open_file:
            del builtins.open
        if (small := sys.modules.get("ocipy.cli.small_os")) is not None:
            small.become_real()
        complete()
        hear_of_interrupts()


def hear_of_interrupts() -> None:
    """Ctrl-C is KeyboardInterrupt, once: what it ends is about to clean up. For the interpreter's no call of Python's own ends."""
    import _signal  # type: ignore[import-not-found]

    def interrupt(number: int, frame: object) -> None:
        _signal.signal(number, _signal.SIG_IGN)
        raise KeyboardInterrupt

    if _signal.getsignal(2) != _signal.SIG_IGN:
        _signal.signal(2, interrupt)


def open_file(file: int | str, mode: str = "r", *arguments: Any, **named: Any) -> Any:
    """Stands for open() until Python is whole: text needs codecs."""
    if "b" not in mode:
        make_whole()
    import _io

    return _io.open(file, mode, *arguments, **named)


def stay_small(package: str) -> None:
    """Make do with the core of Python, and the bundle, as long as nothing asks for more."""
    global finish, asked
    if sys.hexversion >= CODECS_ARE_MADE_LATE and finish is not None:
        finish()
        finish, asked = nothing, True  # the real os is left
    else:
        builtins.open = open_file  # type: ignore[assignment]
    sys.meta_path.insert(0, Core(package))
    sys.meta_path.append(Rest)
    from ocipy.cli import small_os

    if finish is not None:
        sys.modules["os"] = small_os
        import posixpath  # which asks for os

        small_os.path = sys.modules["os.path"] = posixpath


def boot(arguments: list[str]) -> NoReturn:
    """Run ``main`` and leave with its status, by os._exit: tearing the interpreter down costs 2 ms and frees nothing."""
    gc.disable()  # a command is over before there is anything to collect; those that stay turn it on again
    launched = posix.environ.pop(b"OCIPY_TRACE", b"")  # the launcher saw --trace
    booted = clock() if launched else 0
    try:
        package = __file__.rpartition("/cli/")[0]
        bundle = open_bundle(package)
        if bundle and finish is not None:
            stay_small(package)
        elif finish is not None:
            make_whole()
        else:
            hear_of_interrupts()
        if launched:
            from ocipy.cli import trace

            trace.start(launched, BEGAN, booted)
        if bundle:
            for each in arguments:
                if bundle.import_at_once(each):  # the verb, or a value before it that is called like one: no harm
                    break
        from ocipy.cli.main import main

        status = main(arguments)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as request:
        status = request.code if isinstance(request.code, int) else int(request.code is not None)
    except BaseException as error:  # a broken installation, or a bug: one line all the same
        status = 1
        text = " ".join(f"{type(error).__name__}: {error}".split())
        posix.write(2, f"ocipy: internal error: {text}\n".encode("utf-8", "backslashreplace"))
    leave(status)


def clock() -> int:
    """CLOCK_MONOTONIC in nanoseconds."""
    from time import monotonic_ns

    return monotonic_ns()


def leave(status: int) -> NoReturn:
    """Flush and exit; output that cannot be written (a full disk, a closed pipe) is a failure of the command."""
    for stream in (sys.stdout, sys.stderr) if hasattr(sys, "stdout") else ():
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            status = status or 1
    posix._exit(status)
