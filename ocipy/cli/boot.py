"""The first and the last thing that Python does in every command."""

from __future__ import annotations

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import NoReturn

    # name -> is it a package, size of its source, place and size of its code in the bundle
    Index = dict[str, tuple[bool, int, int, int]]

# In the package, written by setup.py: magic number of the bytecode, size of the index, size of the file, index, code.
BUNDLE = "_bundle"
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
        if entry is None:
            return None
        stem = self.package + name[5:].replace(".", "/")
        source = stem + ("/__init__.py" if entry[0] else ".py")
        try:
            now = posix.stat(source)
        except OSError:
            return None
        if now.st_size != entry[1] or now.st_mtime > self.made + INSTALLING:
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=entry[0])  # type: ignore[arg-type]
        spec.has_location = True
        if entry[0]:
            spec.submodule_search_locations = [stem]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """A module like any other."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        _, _, place, size = self.index[module.__name__]
        exec(marshal.loads(posix.pread(self.fd, size, place)), module.__dict__)  # noqa: S302  it is code, like a .pyc


def open_bundle(package: str) -> None:
    """Import from the bundle from now on, if there is a whole one for this Python."""
    try:
        fd = posix.open(f"{package}/{BUNDLE}", posix.O_RDONLY | posix.O_CLOEXEC)
        head, file = posix.read(fd, 12), posix.fstat(fd)
    except OSError:
        return
    if head[:4] == MAGIC_NUMBER and int.from_bytes(head[8:], "little") == file.st_size:
        index = marshal.loads(posix.read(fd, int.from_bytes(head[4:8], "little")))  # noqa: S302
        sys.meta_path.insert(0, Bundle(package, fd, index, file.st_mtime))


def boot(arguments: list[str]) -> NoReturn:
    """Run ``main`` and leave with its status, by os._exit: tearing the interpreter down costs 2 ms and frees nothing."""
    gc.disable()  # a command is over before there is anything to collect; those that stay turn it on again
    try:
        open_bundle(__file__.rpartition("/cli/")[0])
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


def leave(status: int) -> NoReturn:
    """Flush and exit; output that cannot be written (a full disk, a closed pipe) is a failure of the command."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            status = status or 1
    posix._exit(status)
