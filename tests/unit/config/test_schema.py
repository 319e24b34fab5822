"""Our schemas: the compiled validator against jsonschema, ours against the official ones, and how a refusal is told."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import referencing
import referencing.jsonschema

from ocipy.config import _compiled, compile_schema, types
from ocipy.config.load import parse_config, parse_json, parse_process, parse_resources
from ocipy.config.schema import read_schema, validator
from ocipy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[3]
OFFICIAL = Path(os.environ.get("OCIPY_SPEC_SCHEMAS") or ROOT.parent / "shared/runtime-spec-1.3.0/schema")
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="no official schemas: set OCIPY_SPEC_SCHEMAS to the directory schema/ of runtime-spec 1.3.0"
)
ROUNDS = int(os.environ.get("OCIPY_FUZZ_ROUNDS", "1"))  # more for a longer search
POOL: list[Any] = [
    None, True, False, 0, 1, -1, 7, 101, 512, 65536, 1.0, 0.5, 1 << 32, 1 << 63, 1 << 64, -(1 << 63) - 1, "", "x", "1",
    "CAP_KILL", [], {}, [0], [""], {"": 1}, {"": ""}, {"x": 1}, {"x": "y"}, {"x": {}}, [{}], [[]],
]  # fmt: skip


def accepted(check: Callable[[Any], object], value: Any) -> bool:
    try:
        check(value)
    except _compiled.Refused:
        return False
    return True


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every member."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from nodes(item)


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy with one to three members dropped, retyped, renamed, doubled or swapped."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(nodes(value))
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[key + rng.choice("xS")] = holder.pop(key)
        elif kind == 2:
            other, name = rng.choice(places)
            try:
                holder[key] = copy.deepcopy(other[name])
            except (KeyError, IndexError):  # dropped by the mutation before
                continue
        else:
            holder[key] = copy.deepcopy(rng.choice(POOL))
    return value


# ---- ours ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config", "features", "state"])
def test_our_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(read_schema(name))


@pytest.mark.parametrize("kind", ["config", "process", "resources"])
def test_the_compiled_validator_agrees_with_jsonschema(kind: str, full: Any) -> None:
    value = {"config": full, "process": full["process"], "resources": full["linux"]["resources"]}[kind]
    check, oracle, rng = getattr(_compiled, kind), validator(kind), random.Random(kind)
    assert accepted(check, value)
    verdicts = set()
    for _ in range(1200 * ROUNDS):
        changed = mutated(value, rng)
        verdict = accepted(check, changed)
        verdicts.add(verdict)
        assert verdict == oracle.is_valid(changed), next(oracle.iter_errors(changed), changed)
    assert verdicts == {True, False}


@pytest.mark.parametrize("value", POOL, ids=repr)
def test_the_compiled_validator_agrees_on_what_is_no_config_at_all(value: Any) -> None:
    assert accepted(_compiled.config, value) == validator("config").is_valid(value)


SAMPLES = [
    "", "RLIMIT_CPU", "RLIMIT_", "RLIMIT_cpu", "RLIMIT_CPU1", "xRLIMIT_CPU", "RLIMIT_ÄU", "RLIMIT_CPU\n", "0-3,7", "0-3, 7",
    "a", "0\n",
    "٣", "rwm", "rr", "rwx", "MB:", "MB:0=1;1=2", "MB:1\nL3:2", "mb:1", "MB:\n", "2MB", "64KB", "1GB", "0MB", "12MB", "MB",
    "2mb", "2TB",
    "2MB\n", "٣MB", "1.0.0", "1.3", "1.3.0-rc.1", "1.3.0+dev", "1.3.0-a+b", "01.3.0", "1.3.00", "1.3.0-", "1.3.0+", "1.3.0 ",
    "1.3.0\n",
    "v1.3.0", "1.3.0-a_b", "1..0", "1.3.0.1", "1.3.0+a+b", "1.3.0-a-b", "٣.3.0", "-1.0.0", "1.0.0-+x",
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "name"), compile_schema.PATTERNS.items())
def test_the_patterns_by_hand_are_the_patterns(pattern: str, name: str) -> None:
    rng = random.Random(name)
    samples = SAMPLES + ["".join(rng.choices("01.-+,rwmMBKGLIT_ a\n", k=rng.randrange(8))) for _ in range(3000)]
    for text in samples:
        expected = re.search(pattern.removesuffix("$") + r"\Z", text) is not None
        assert bool(text and getattr(_compiled, name)(text)) == bool(text and expected), text
    assert accepted(_compiled.process, {"cwd": "", "execCPUAffinity": {"final": ""}})


def test_a_keyword_that_is_not_compiled_stops_the_build(tmp_path: Path) -> None:
    schema = read_schema("config")
    schema["definitions"]["Mount"]["properties"]["type"]["maxLength"] = 5
    (tmp_path / "config.schema.json").write_text(json.dumps(schema))
    with pytest.raises(ValueError, match="maxLength"):
        compile_schema.generate(tmp_path)


def test_what_was_built_is_of_this_schema() -> None:
    source = compile_schema.generate(ROOT / "spec")
    assert Path(str(_compiled.__file__)).read_text() == source, "build again: spec/config.schema.json has changed"


def properties(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for name, child in schema.get("properties", {}).items():
        yield name, name in schema.get("required", ())
        yield from ((f"{name}.{rest}", required) for rest, required in below(child, definitions))


def below(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array":
        yield from below(schema["items"], definitions)
    elif isinstance(schema.get("additionalProperties"), dict):
        yield from below(schema["additionalProperties"], definitions)
    else:
        yield from properties(schema, definitions)


def fields(model: Any) -> Iterator[tuple[str, bool]]:
    for name, hint in typing.get_type_hints(model, include_extras=True).items():
        yield name, model.__total__ or typing.get_origin(hint) is typing.Required
        inner = hint
        while typing.get_args(inner) and typing.get_origin(inner) is not typing.Literal:
            inner = typing.get_args(inner)[-1]
        if typing.is_typeddict(inner):
            yield from ((f"{name}.{rest}", required) for rest, required in fields(inner))


def test_the_types_are_those_of_the_schema() -> None:
    schema = read_schema("config")
    ours = dict(fields(types.Config))
    ours["process.user.username"] = False  # of Windows: accepted, and not for us to read
    assert ours == dict(properties(schema, schema["definitions"]))


# ---- the official ones ---------------------------------------------------------------------------------------------------


def official(name: str) -> jsonschema.Draft4Validator:
    resources = [
        (path.name, referencing.Resource.from_contents(json.loads(path.read_text()), referencing.jsonschema.DRAFT4))
        for path in OFFICIAL.glob("*.json")
    ]
    registry: referencing.Registry[Any] = referencing.Registry().with_resources(resources)
    return jsonschema.Draft4Validator({"$ref": f"{name}-schema.json"}, registry=registry)


def cases(name: str, verdict: str) -> list[Any]:
    paths = sorted((OFFICIAL / "test" / name / verdict).glob("*.json"))
    return [pytest.param(path, id=f"{verdict}-{path.stem}") for path in paths] or [pytest.param(None, marks=needs_official)]


@needs_official
@pytest.mark.parametrize("path", cases("config", "good"))
def test_good_configs_are_good(path: Path) -> None:
    """Those of other platforms too: their sections are not ours to judge, and are ignored (config.md, Extensibility)."""
    value = parse_config(path.read_bytes(), path.name, semantics=False)
    assert value["ociVersion"]


# What is wrong with it is in a section of another platform.
OTHER_PLATFORM = {"freebsd-vnet-disable"}


@needs_official
@pytest.mark.parametrize("path", cases("config", "bad"))
def test_bad_configs_are_bad(path: Path) -> None:
    if path.stem in OTHER_PLATFORM:
        parse_config(path.read_bytes(), path.name, semantics=False)
        return
    with pytest.raises(ConfigError):
        parse_config(path.read_bytes(), path.name, semantics=False)


@needs_official
@pytest.mark.parametrize("name", ["features", "state"])
def test_good_and_bad_features_and_states_are_so(name: str) -> None:
    for path in (OFFICIAL / "test" / name / "good").glob("*.json"):
        assert validator(name).is_valid(parse_json(path.read_bytes())), path
    for path in (OFFICIAL / "test" / name / "bad").glob("*.json"):
        try:
            value = json.loads(path.read_bytes())
        except ValueError:
            continue
        assert not validator(name).is_valid(value), path


ID = r"(uid|gid|additionalGids/\d+|containerID|hostID)"
# (pointer, keyword, why) of errors that only our schema has.
STRICTER = [
    (r"/ociVersion", "pattern", "config.md: MUST be in SemVer v2.0.0 format"),
    (r"/(root/path|mounts/\d+/destination|hooks/\w+/\d+/path|linux/devices/\d+/path)", "minLength", "an empty path names nothing"),
    (r"/linux/seccomp/syscalls/\d+/names/\d+", "minLength", "an empty name names nothing"),
    (r"/process/user", "required", "config.md: uid and gid are REQUIRED"),
    (rf"/(process/user|linux/devices/\d+)/{ID}", "maximum", "4294967295 is -1 to the kernel"),
    (rf"/(linux|mounts/\d+)/[ug]idMappings/\d+/{ID}", "maximum", "4294967295 is -1 to the kernel"),
    (r"/(linux|mounts/\d+)/[ug]idMappings/\d+/size", "minimum", "user_namespaces(7): a range is not empty"),
    (r"/process/user/umask", "maximum", "umask(2) has nine bits"),
    (r"/process/oomScoreAdj", "minimum|maximum", "proc(5): -1000 to 1000"),
    (r"/process/ioPriority", "required", "config.md: priority is REQUIRED"),
    (r"/process/ioPriority/priority", "minimum|maximum", "config.md: 0 to 7"),
    (r"/hooks/\w+/\d+/timeout", "maximum", "no int holds it"),
    (r"/(annotations|linux/sysctl|linux/resources/unified)/", "type", "config.md: values are strings, of the empty key too"),
    (r"/annotations", "minLength|propertyNames", "config.md: keys MUST NOT be an empty string"),
    (r"/linux/timeOffsets/.*", "type|minimum|maximum", "config-linux.md: whatever the clock, values are objects"),
    (r"/linux/timeOffsets/\w+/nanosecs", "maximum", "time_namespaces(7): less than a second"),
    (r"/linux/resources/devices/\d+/type", "enum", "config-linux.md: a, c or b"),
    (r"/linux/resources/devices/\d+/access", "pattern", "config-linux.md: a composition of r, w and m"),
    (r"/linux/resources/memory/\w+", "minimum", "config-linux.md: bytes, or -1"),
    (r"/linux/resources/memory/swappiness", "maximum", "config-linux.md: 0 to 100"),
    (r"/linux/resources/blockIO/throttle\w+/\d+", "required", "config-linux.md: rate is REQUIRED"),
    (r"/linux/memoryPolicy", "required", "config-linux.md: mode is REQUIRED"),
    (r"/linux/memoryPolicy/nodes", "pattern", "config-linux.md: numbers, commas and dashes"),
    (r"/linux/personality", "required", "config-linux.md: domain is REQUIRED"),
]
# The same of the official schema.
LAXER = [
    (r"/(windows|solaris|vm|zos|freebsd)(/.*)?", ".*", "not for Linux: ignored"),
    (r"/linux/devices/\d+/fileMode", "maximum", "config-linux.md: uint32; engines send the bits of the type with it"),
    (r"/linux/resources/pids", "required", "config-linux.md: limit is OPTIONAL"),
    (r"/linux/rootfsPropagation", "enum", "engines send the recursive names"),
]


def unexplained(errors: Iterator[Any], explained: list[tuple[str, str, str]]) -> list[str]:
    found = []
    for error in errors:
        pointer = "".join(f"/{part}" for part in error.absolute_path)
        if not any(re.fullmatch(where, pointer) and re.fullmatch(what, error.validator) for where, what, _ in explained):
            found.append(f"{pointer}: {error.validator}: {error.message}")
    return found


@needs_official
def test_verdicts_differ_from_the_official_schema_only_where_explained(full: Any) -> None:
    theirs, ours, rng = official("config"), validator("config"), random.Random(1)
    del full["windows"], full["vm"], full["zos"], full["solaris"], full["freebsd"]
    example = json.loads((OFFICIAL / "test/config/good/spec-example.json").read_text())
    assert theirs.is_valid(full)
    agreed = differed = 0
    for number in range(700 * ROUNDS):
        changed = mutated(full if number % 3 else example, rng)
        verdict = accepted(_compiled.config, changed)
        if verdict == theirs.is_valid(changed):
            agreed += 1
            continue
        differed += 1
        errors = unexplained(theirs.iter_errors(changed), LAXER) if verdict else unexplained(ours.iter_errors(changed), STRICTER)
        assert not errors, errors
    assert agreed > 10 * differed > 0


# ---- explanations --------------------------------------------------------------------------------------------------------


BAD = """{
  "ociVersion": "1.3.0",
  "root": {"path": "rootfs"},
  "process": {
    "cwd": "/", "args": ["sh"],
    "user": {"uid": 0, "gid": 0}
  },
  "mounts": [
    {"destination": "/proc", "type": "proc"},
    {"destination": "/a/b~c", "type": "tmpfs", "options": ["ro"]}
  ],
  "linux": {
    "namespaces": [{"type": "mount"},
      {"type": "network"}],
    "rdma~/": {}
  }
}"""


@pytest.mark.parametrize(
    ("old", "new", "pointer", "line", "column", "words"),
    [
        ('"1.3.0"', "13", "/ociVersion", 2, 17, "13 is not a string"),
        ('"1.3.0"', '"1.3"', "/ociVersion", 2, 17, '"1.3" is not a version such as 1.3.0'),
        ('"1.3.0"', '"1.3.0\\n"', "/ociVersion", 2, 17, "is not a version such as 1.3.0"),
        ('"1.3.0"', '"2.0.0"', "/ociVersion", 2, 17, "2.0.0: this runtime implements 1.3.0, and only versions 1.x"),
        ('"ociVersion"', '"ocVersion"', "", 1, 1, "ociVersion is missing; there is ocVersion"),
        ('{"path": "rootfs"}', '"rootfs"', "/root", 3, 11, '"rootfs" is not an object'),
        ('{"path": "rootfs"}', '{"path": ""}', "/root/path", 3, 20, "must not be empty"),
        ('"uid": 0', '"uid": -1', "/process/user/uid", 6, 21, "-1 is out of range: 0 to 4294967294"),
        ('"uid": 0', '"uid": 0.0', "/process/user/uid", 6, 21, "0.0 is not an integer"),
        ('"uid": 0', '"uid": true', "/process/user/uid", 6, 21, "true is not an integer"),
        ('"uid": 0', '"uid": null', "/process/user/uid", 6, 21, "null is not an integer"),
        ('["ro"]', '"ro"', "/mounts/1/options", 10, 59, '"ro" is not an array'),
        ('["ro"]', '["ro", 1]', "/mounts/1/options/1", 10, 66, "1 is not a string"),
        ('"network"', '"netwrk"', "/linux/namespaces/1/type", 14, 16, "did you mean network?"),
        ('"network"', '"\\nx"', "/linux/namespaces/1/type", 14, 16, '"\\nx" is not one of pid, network'),
        ('"/", "args"', '"work", "args"', "/process/cwd", 5, 12, '"work" must be an absolute path'),
        ('"args": ["sh"]', '"args": []', "/process/args", 5, 25, "args must not be empty"),
        ('"args": ["sh"]', '"arg": ["sh"]', "/process", 4, 14, "args must not be empty"),
        ('"rdma~/": {}', '"sysctl": {"a/~b": "1"}', "/linux/sysctl/a~1~0b", 15, 24, "no namespace has its own"),
        ('"rdma~/": {}', '"seccomp": {"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}',
         "/linux/seccomp/syscalls/0/names", 15, 73, "needs at least one entry"),
        ('"linux"', '"annotations": {"": "x"}, "linux"', "/annotations", 12, 18, "a name in it is empty"),
        ('"rdma~/": {}', '"sysctl": {"/": "1", "~1": 1}', "/linux/sysctl/~01", 15, 32, "1 is not a string"),
        ('"rdma~/": {}', '"sysctl": {"": 1}', "/linux/sysctl/", 15, 20, "1 is not a string"),
        ('"rdma~/": {}', '"timeOffsets": {"x": 1, "x": []}', "/linux/timeOffsets/x", 15, 34, "[] is not an object"),
    ],
)
def test_a_refusal_names_pointer_line_column_and_reason(
    old: str, new: str, pointer: str, line: int, column: int, words: str
) -> None:  # fmt: skip
    assert old in BAD
    with pytest.raises(ConfigError) as caught:
        parse_config(BAD.replace(old, new).encode(), "b/config.json")
    error = caught.value
    assert (error.pointer, error.line, error.column) == (pointer, line, column), str(error)
    assert words in error.reason
    assert str(error).startswith(f"b/config.json:{line}:{column}: ")


def test_all_errors_are_told_in_the_order_of_the_file(full: Any) -> None:
    full["root"]["readonly"] = "yes"
    full["process"]["oomScoreAdj"] = 2000
    full["linux"]["namespaces"][0]["type"] = "pids"
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps(full, indent=1).encode(), "config.json")
    assert caught.value.pointer == "/root/readonly"
    assert [text.split(": ")[1] for text in caught.value.more] == [
        "process.oomScoreAdj (/process/oomScoreAdj)", "linux.namespaces[0].type (/linux/namespaces/0/type)"
    ]  # fmt: skip
    assert str(caught.value).endswith(" (and 2 more)")


def test_a_thousand_errors_are_not_told_one_by_one(full: Any) -> None:
    full["process"]["args"] = [1] * 1000
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps(full).encode(), "config.json")
    assert len(caught.value.more) == 50
    assert caught.value.more[-1] == "… and more"


def test_every_refusal_has_words_and_a_place(full: Any) -> None:
    rng = random.Random(3)
    for _ in range(400 * ROUNDS):
        changed = mutated(full, rng)
        if accepted(_compiled.config, changed):
            continue
        with pytest.raises(ConfigError) as caught:
            parse_config(json.dumps(changed).encode(), "config.json")
        assert "does not match" not in caught.value.reason
        assert caught.value.line == 1


def test_a_process_and_resources_stand_alone(full: Any) -> None:
    assert parse_process(json.dumps(full["process"]).encode(), "p") == full["process"]
    resources = full["linux"]["resources"]
    assert parse_resources(json.dumps(resources).encode(), "r") == resources
    with pytest.raises(ConfigError) as caught:
        parse_process(b'{"cwd": "/", "args": ["sh"], "rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}', "p")
    assert (caught.value.pointer, caught.value.column) == ("/rlimits/0/type", 51)
    with pytest.raises(ConfigError) as caught:
        parse_resources(b'{"cpu": {"cpus": "3-1"}}', "-")
    assert caught.value.pointer == "/cpu/cpus"


def test_without_jsonschema_a_refusal_is_still_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    with pytest.raises(ConfigError, match="once the Python package jsonschema is installed"):
        parse_config(b"[]", "config.json")
