"""Bytes to model: files, JSON, limits, and what the hot path may import."""

from __future__ import annotations

import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ocipy
from ocipy import warning
from ocipy.config import load
from ocipy.config.load import BadJSON, load_config, parse_config, parse_json, parse_process, parse_resources
from ocipy.errors import ConfigError, OcipyError

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = Path(__file__).parent / "full.json"
BANNED = {
    "dataclasses", "typing", "enum", "re", "argparse", "logging", "pathlib", "subprocess", "json", "jsonschema", "contextlib",
    "collections", "functools", "socket", "signal", "select", "selectors", "tempfile", "shutil", "inspect", "datetime",
}  # fmt: skip


def test_every_property_of_the_specification_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(FULL.read_bytes())
    config, raw = load_config(str(tmp_path))
    assert config == json.loads(raw)
    assert raw == FULL.read_bytes()
    assert warning.pending == []


def test_loading_imports_nothing_slow(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(FULL.read_bytes())
    program = f"""import sys
before = set(sys.modules)
sys.path.insert(0, {str(Path(ocipy.__file__).parent.parent)!r})
from ocipy.config.load import load_config
load_config({str(tmp_path)!r})
print(*(set(sys.modules) - before))"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert "ocipy.config.mounts" in done.stdout.split()
    assert not BANNED & {name.partition(".")[0] for name in done.stdout.split()}
    assert not {"ocipy.config.schema", "ocipy.config.locate", "ocipy.config.types"} & set(done.stdout.split())


def test_a_warning_names_file_and_pointer(tmp_path: Path, config: Any) -> None:
    config["process"]["capabilities"] = {"bounding": ["CAP_FLY"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_config(str(tmp_path))
    [text] = warning.pending
    assert text.startswith(f"{tmp_path}/config.json: /process/capabilities/bounding/0: ")


# ---- files -------------------------------------------------------------------------------------------------------------


def test_a_missing_config_is_told_in_the_words_that_callers_look_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"JSON specification file config\.json not found"):
        load_config(str(tmp_path))


def test_a_missing_bundle_is_the_fault_not_its_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent: bundle: no such file or directory"):
        load_config(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkdir, "is a directory"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: os.symlink("/dev/zero", path), "is not a regular file"),
        (lambda path: os.symlink(path, path), "too many levels of symbolic links"),
        (lambda path: Path(path).write_bytes(b" " * (4 << 20) + b"{}"), "larger than 4 MiB"),
        (lambda path: Path(path).touch(), "expecting value"),
    ],
    ids=["directory", "fifo", "device", "loop", "large", "empty"],
)
def test_what_is_not_a_readable_file_is_refused(tmp_path: Path, make: Callable[[str], object], words: str) -> None:
    make(str(tmp_path / "config.json"))
    with pytest.raises(ConfigError, match=words):
        load_config(str(tmp_path))


@pytest.mark.parametrize("bundle", ["a\0b", "\ud800"], ids=["nul", "surrogate"])
def test_a_bundle_path_that_no_kernel_takes_is_refused(bundle: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(bundle)
    str(caught.value).encode()


# ---- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (b"", 1, 1),
        (b"\n  ", 2, 3),
        (b'{"a": }', 1, 7),
        (b'{"a": 1,\n "b" 2}', 2, 6),
        (b'{"a": 1}\n\n {}', 3, 2),
        (b"{]", 1, 2),
        (b'{"a": "\x01"}', 1, 8),
        (b'{"a": "\n"}', 1, 8),
        (b'{"a": "NaN",\n "b": NaN}', 2, 7),
        (b'{"a": [-Infinity]}', 1, 8),
        (b'{"a": 01}', 1, 8),
        (b'{"a":\n ' + b"9" * 5000 + b"}", 2, 2),
        (b"\xef\xbb\xbf{}", 1, 1),
        (b'{"a": "\xff"}', 1, 8),
        (b'{"\xc3\xa4": "\xed\xa0\x80"}', 1, 8),
        (b'{"a": \'b\'}', 1, 7),
        (b'{"a": 1, // one\n}', 1, 10),
        (b'{"a": "\\x"}', 1, 8),
    ],
)
def test_bad_json_is_refused_with_its_place(text: bytes, line: int, column: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.json")
    assert (caught.value.line, caught.value.column) == (line, column), str(caught.value)


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (rb'{"a": "x\u0000"}', "/a"),
        (rb'{"a": {"b~/c": [1, "\ud800"]}}', "/a/b~0~1c/1"),
        (rb'{"a": {"\uDFFF": 1}}', "/a"),
        (rb'{"a": {"\u0000": 1}}', "/a"),
        (rb'{"a": "\udc00\ud800"}', "/a"),
    ],
)
def test_nul_and_half_surrogates_are_refused_in_every_string(text: bytes, pointer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json(text)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("text", [rb'"\ud83d\ude00"', rb'"\\u0000"', rb'"\\ud800"', rb'"\u00e4"', '"\U0001f600"'.encode()])
def test_other_escapes_are_taken(text: bytes) -> None:
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("fill", ["", r"\"[", "[", "]", r"\\", r"\\\"{", "}"])
def test_64_levels_are_the_most_whatever_the_strings_hold(fill: str) -> None:
    def nested(depth: int) -> bytes:
        return (f'["{fill}", {{"{fill}": ' * (depth // 2) + "1" + "}]" * (depth // 2)).encode()

    assert parse_json(nested(64))
    with pytest.raises(BadJSON, match="nested more than 64 deep"):
        parse_json(nested(66))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 3000 + b"1" + b"]" * 2999, b"[{" * 70 + b"]}" * 70])
def test_deep_text_that_is_not_json_ends_in_an_error_too(text: bytes) -> None:
    with pytest.raises(BadJSON):
        parse_json(text)


def test_the_last_of_a_duplicate_key_wins() -> None:
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}


def test_a_byte_order_mark_is_called_by_its_name() -> None:
    with pytest.raises(ConfigError, match="byte order mark"):
        parse_config(b"\xef\xbb\xbf{}", "config.json")


def documents() -> list[bytes]:
    rng = random.Random(7)
    texts = [FULL.read_bytes(), b"[]", b" {} ", b"1", b"-0.5e3", b'"a"', b"true", b"null", b'{"":[]}']
    for _ in range(300):
        text = bytearray(rng.choice(texts[:1]))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(3)] = rng.choice([b"", b'"', b"{", b"]", b",", b"\\", b"1e5", b"nul", b"\xc3", b" "])
        texts.append(bytes(text))
    return texts


def outcome(parse: Callable[[bytes], object], text: bytes) -> object:
    try:
        return parse(text)
    except (OcipyError, BadJSON, ValueError):
        return "refused"


def test_the_private_scanner_agrees_with_json() -> None:
    for text in documents():
        assert outcome(parse_json, text) == outcome(json.loads, text), text


@pytest.mark.parametrize("broken", [None, lambda context: None, lambda context: lambda text, index: None, TypeError], ids=str)
def test_without_the_private_scanner_json_does_the_work(monkeypatch: pytest.MonkeyPatch, broken: object) -> None:
    import _json

    from ocipy.config import schema

    assert schema  # imports json, which would keep the broken scanner
    if broken is None:
        monkeypatch.delattr(_json, "make_scanner")
    else:
        monkeypatch.setattr(_json, "make_scanner", broken)
    assert parse_json(FULL.read_bytes()) == json.loads(FULL.read_bytes())
    with pytest.raises(ConfigError, match="NaN is not JSON"):
        parse_config(b'{"a": NaN}', "config.json")


def test_an_unbuilt_tree_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ocipy.config._compiled", None)
    monkeypatch.delattr(ocipy.config, "_compiled", raising=False)
    with pytest.raises(OcipyError, match="make build"):
        parse_config(b"{}", "config.json")


# ---- fuzz --------------------------------------------------------------------------------------------------------------


def garbage(rng: random.Random) -> bytes:
    kind = rng.randrange(3)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return "".join(rng.choices('{}[]",:\\ue0 \n' + string.digits, k=rng.randrange(200))).encode()
    text = bytearray(FULL.read_bytes())
    for _ in range(rng.randrange(1, 6)):
        text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def complaint(parse: Callable[[bytes, str], object], text: bytes) -> str:
    try:
        parse(text, "config.json")
    except OcipyError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("parse", [parse_config, parse_process, parse_resources])
def test_random_bytes_end_in_a_model_or_in_one_line(parse: Callable[[bytes, str], object]) -> None:
    rng = random.Random(42)
    for _ in range(1500):
        text = garbage(rng)
        said = complaint(parse, text)
        assert said.isprintable(), text
        assert said.encode() or not said, text


def test_a_string_of_70_kb_anywhere_ends_in_a_model_or_a_short_error(full: Any) -> None:
    """It may be good (an annotation) or bad (a path): never a traceback, never a line as long as the string."""
    long = "/\n" + "x" * 70_000
    for path in leaves(full, str):
        changed = replaced(full, path, long)
        said = complaint(parse_config, json.dumps(changed).encode())
        assert len(said) < 1500, path
        assert said.isprintable(), path
    for path, name in members(full):
        changed = replaced(full, path, {long if key == name else key: item for key, item in at(full, path).items()})
        said = complaint(parse_config, json.dumps(changed).encode())
        assert len(said) < 1500, (path, name)
        assert said.isprintable(), (path, name)


Path_ = tuple[object, ...]


def leaves(value: Any, kind: type, path: Path_ = ()) -> list[Path_]:
    if isinstance(value, kind):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in leaves(item, kind, (*path, key))]


def members(value: Any, path: Path_ = ()) -> list[tuple[Path_, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    own = [(path, key) for key in value] if isinstance(value, dict) else []
    return own + [found for key, item in items for found in members(item, (*path, key))]


def at(value: Any, path: Path_) -> Any:
    for key in path:
        value = value[key]
    return value


def replaced(value: Any, path: Path_, new: object) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def test_the_file_may_grow_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_bytes(FULL.read_bytes())
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 100)))
    assert load.read_file(str(tmp_path / "config.json")) == FULL.read_bytes()


def test_a_copy_in_the_state_needs_no_second_look(config: Any) -> None:
    config["process"]["cwd"] = "relative"
    assert parse_config(json.dumps(config).encode(), "config.json", semantics=False) == config
    with pytest.raises(ConfigError):
        parse_config(json.dumps(config).encode(), "config.json")
