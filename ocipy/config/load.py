"""config.json, process.json and resources.json: from bytes to the model, a plain dict that passed every check.

Hot path. What is wrong is said by modules that are only then imported: ``schema`` explains, ``locate`` finds line and column.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISREG

from ocipy import warning
from ocipy.errors import ConfigError, OcipyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.config.types import Config, Process, Resources

SIZE_MAX = 4 << 20
DEPTH_MAX = 64
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
ONE_KIND = bytes.maketrans(b"{}", b"[]")
SPACE = " \t\n\r"


class BadJSON(Exception):
    """Text that is not JSON, or not JSON that we take. ``position``: index in the text, -1 for none."""

    def __init__(self, reason: str, position: int = -1) -> None:
        self.reason, self.position = reason, position
        super().__init__(reason)


def load_config(bundle: str) -> tuple[Config, bytes]:
    """(model, the bytes it was read from) of ``bundle``/config.json. Raises ConfigError; warnings go to ``ocipy.warning``."""
    source = f"{bundle}/config.json"
    raw = read_file(source, bundle)
    config = parse_config(raw, source, semantics=False)
    for text in _checked("config", config, raw, source):
        warning.warn(f"{source}: {text}")
    return config, raw


def parse_config(raw: bytes, source: str, *, semantics: bool = True) -> Config:
    """The model of config.json's bytes. ``source`` is its name in errors. Without ``semantics`` only syntax and schema are
    checked, as for the copy in the state, which passed the rest when the container was created. Raises ConfigError."""
    config: Config = _parse("config", raw, source)
    if semantics:
        _checked("config", config, raw, source)
    return config


def parse_process(raw: bytes, source: str) -> Process:
    """The model of a process object that stands alone (exec --process). Raises ConfigError."""
    process: Process = _parse("process", raw, source)
    for text in _checked("process", process, raw, source):
        warning.warn(f"{source}: {text}")
    return process


def parse_resources(raw: bytes, source: str) -> Resources:
    """The model of a resources object that stands alone (update --resources). Raises ConfigError."""
    resources: Resources = _parse("resources", raw, source)
    _checked("resources", resources, raw, source)
    return resources


def read_file(path: str, bundle: str = "") -> bytes:
    """At most SIZE_MAX bytes of a regular file. Raises ConfigError; ``bundle``: it is the config.json of that directory."""
    try:
        # A FIFO must not make us wait, nor a terminal become ours.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _unreadable(path, bundle, error) from None
    try:
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            kind = "a directory" if S_ISDIR(status.st_mode) else "not a regular file"
            raise ConfigError("", f"is {kind}", source=path)
        raw = os.read(fd, min(status.st_size, SIZE_MAX) + 1)
        while len(raw) <= SIZE_MAX and (more := os.read(fd, SIZE_MAX + 1 - len(raw))):
            raw += more
    except OSError as error:
        raise _unreadable(path, bundle, error) from None
    finally:
        os.close(fd)
    if len(raw) > SIZE_MAX:
        raise ConfigError("", f"larger than {SIZE_MAX >> 20} MiB", source=path)
    return raw


def _unreadable(path: str, bundle: str, error: OSError | ValueError) -> OcipyError:
    """Callers look for the words of a missing file."""
    from ocipy.errors import strerror

    if isinstance(error, ValueError):
        return ConfigError("", "a path cannot have a NUL, nor half a surrogate", source=ascii(path)[1:-1])
    if bundle and isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.isdir(bundle):
        return ConfigError("", f"bundle: {strerror(error.errno or 0)}", source=bundle)
    if bundle and isinstance(error, FileNotFoundError):
        return ConfigError("", "JSON specification file config.json not found", source=path)
    return ConfigError("", f"open: {strerror(error.errno or 0)}", source=path)


def _parse(kind: str, raw: bytes, source: str) -> Any:
    """Syntax and schema; ``kind`` is config, process or resources."""
    try:
        from ocipy.config import _compiled
    except ImportError:
        from ocipy.config.schema import no_validator

        raise no_validator() from None
    try:
        value = parse_json(raw)
    except BadJSON as error:
        from ocipy.config.schema import explain_syntax

        raise explain_syntax(error.reason, error.position, raw, source) from None
    except ConfigError as error:
        from ocipy.config.schema import place

        raise place(error, raw, source) from None
    try:
        getattr(_compiled, kind)(value)
    except _compiled.Refused:
        from ocipy.config.schema import explain

        raise explain(kind, value, raw, source) from None
    return value


def _checked(kind: str, value: Any, raw: bytes, source: str) -> list[str]:
    from ocipy.config import check

    checks: Callable[[Any], list[str]]
    checks = check.all_checks if kind == "config" else check.process_checks if kind == "process" else check.resources_checks
    try:
        return checks(value)
    except ConfigError as error:
        from ocipy.config.schema import place

        raise place(error, raw, source) from None


# ---- JSON ------------------------------------------------------------------------------------------------------------


class Scanner:
    """What ``_json.make_scanner`` reads of its context: the json module without its imports. It is private, so what it raises
    only counts when ``json`` says the same."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise BadJSON(f"{name} is not JSON")


def parse_json(raw: bytes) -> Any:
    """RFC 8259, and stricter: UTF-8 without byte order mark, no NaN, at most DEPTH_MAX deep, no NUL and no half surrogates
    in strings or keys. Of a duplicate key the last wins. Raises BadJSON, or ConfigError where there is a pointer to tell."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadJSON("not UTF-8", len(raw[: error.start].decode())) from None
    if text[:1] == "\ufeff":
        raise BadJSON("begins with a byte order mark: save it as UTF-8 without one", 0)
    _check_depth(raw)
    start = len(text) - len(text.lstrip(SPACE))
    value, end = _scan(text, start)
    rest = text[end:].lstrip(SPACE)
    if rest:
        raise BadJSON("more text after the end of the object", len(text) - len(rest))
    if "\\u" in text and ("\\u0000" in text or "\\ud" in text or "\\uD" in text):
        _check_strings(value, "")
    return value


def _scan(text: str, start: int) -> tuple[Any, int]:
    """(value, index after it). Raises BadJSON."""
    try:
        from _json import make_scanner

        value, end = make_scanner(Scanner())(text, start)  # type: ignore[arg-type]
        return value, int(end)
    except Exception:
        from ocipy.config.schema import scan_slowly

        return scan_slowly(text, start)


def _check_depth(raw: bytes) -> None:
    """Counts the nesting before anything recurses: of what is not in a string only the brackets are left, and each round takes
    the innermost pairs away. What does not pair is for the scanner to refuse."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(raw.split(b'"')[::2]).translate(ONE_KIND, NOT_BRACKETS)
    for _ in range(DEPTH_MAX):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    if b"[]" in brackets:
        raise BadJSON(f"nested more than {DEPTH_MAX} deep")


def _check_strings(value: Any, pointer: str) -> None:
    """The kernel ends a string at NUL, and half a surrogate pair cannot be written as UTF-8."""
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigError(pointer, "has \\u0000, where the kernel would end the string")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(pointer, "has half a surrogate pair, which is not a character") from None
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_strings(item, f"{pointer}/{index}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_strings(name, pointer)
            _check_strings(item, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")
