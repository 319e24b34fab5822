"""Why a file was refused, in words. Cold: imported when the compiled validator has said no, and by tests as the oracle."""

from __future__ import annotations

import json
import os
import re
from itertools import islice

from ocipy.config.load import DEPTH_MAX, BadJSON, Scanner
from ocipy.config.locate import line_and_column, locate
from ocipy.config.paths import printable
from ocipy.errors import ConfigError, OcipyError, label_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from jsonschema.exceptions import ValidationError

DEFINITIONS = {"process": "Process", "resources": "Resources"}
ERRORS_MAX = 50  # that are told: to find the place of each takes time
ARTICLES = {
    "object": "an object", "array": "an array", "string": "a string", "integer": "an integer", "boolean": "true or false",
}  # fmt: skip
PATTERNS = {
    "RLIMIT_": "is not a limit such as RLIMIT_NOFILE",
    "0-9, -": "is not a list such as 0-3,7",
    "rwm": "may have the letters r, w and m only",
    "MB:": "must start with MB: and be one line",
    "[KMG]B": "is not a size such as 2MB, a number and KB, MB or GB",
    "0|": "is not a version such as 1.3.0 (SemVer 2.0.0)",
}


def no_validator() -> OcipyError:
    return OcipyError("ocipy/config/_compiled.py is missing: this tree is not built; run `make build`")


# ---- syntax ----------------------------------------------------------------------------------------------------------


def scan_slowly(text: str, start: int) -> tuple[Any, int]:
    """(value, index after it) by the json module, which knows what is wrong and where. Raises BadJSON."""
    try:
        value, end = json.JSONDecoder(parse_constant=Scanner.parse_constant).raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise BadJSON("not JSON: " + error.msg[:1].lower() + error.msg[1:].removesuffix(" at"), error.pos) from None
    except BadJSON as error:
        words = re.finditer(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity', text)
        raise BadJSON(error.reason, next((word.start() for word in words if word[0][0] != '"'), -1)) from None
    except RecursionError:
        raise BadJSON(f"nested more than {DEPTH_MAX} deep") from None
    except ValueError as error:  # int() of more digits than sys.get_int_max_str_digits()
        longest = max(re.finditer(r"[0-9]+", text), key=lambda match: match.end() - match.start(), default=None)
        raise BadJSON(f"a number is too large: {error}".partition(";")[0], longest.start() if longest else -1) from None
    return value, end


def explain_syntax(reason: str, position: int, raw: bytes, source: str) -> ConfigError:
    """The error for text that is not JSON; ``position`` is an index in the text."""
    error = ConfigError("", reason, source=source)
    if position >= 0:
        error.line, error.column = line_and_column(raw.decode(errors="replace"), position)
    return error


def place(error: ConfigError, raw: bytes, source: str) -> ConfigError:
    """The same error with file, line and column."""
    return _placed(error, raw.decode(), source)


def _placed(error: ConfigError, text: str, source: str) -> ConfigError:
    error.source = source
    error.line, error.column = locate(text, error.pointer)
    error.pointer = printable(error.pointer, 256)  # it has names of the file in it, which can be anything
    return error


# ---- schema ----------------------------------------------------------------------------------------------------------


def explain(kind: str, value: Any, raw: bytes, source: str) -> ConfigError:
    """What the schema has against ``value``: the first error in the order of the file, the others in ``more``."""
    text = raw.decode()
    try:
        every = (error for error in validator(kind).iter_errors(value) if not _repeats(error))
        errors = list(islice(every, ERRORS_MAX + 1))
    except ImportError:
        reason = "does not match the schema; what is wrong can be told once the Python package jsonschema is installed"
        return ConfigError("", reason, source=source)
    found = [_placed(ConfigError(_pointer(error), _reason(error)), text, source) for error in errors]
    if not found:
        return ConfigError("", f"does not match the schema of {kind}.json", source=source)
    found.sort(key=lambda item: (item.line, item.column))
    first, *others = found[:ERRORS_MAX]
    first.more = [f"{item.line}:{item.column}: {label_of(item.pointer)} ({item.pointer}): {item.reason}" for item in others]
    if len(found) > ERRORS_MAX:
        first.more.append("… and more")
    return first


def validator(kind: str) -> Any:
    """jsonschema's validator of config, process, resources, features or state."""
    from jsonschema import Draft7Validator, validators
    from jsonschema.exceptions import ValidationError as Invalid

    schema = read_schema("config" if kind in DEFINITIONS else kind)
    if kind in DEFINITIONS:
        schema = {**schema["definitions"][DEFINITIONS[kind]], "definitions": schema["definitions"]}

    def pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Invalid]:
        # `$` of JSON Schema is the end; Python's also stands before a last newline.
        if isinstance(instance, str) and not re.search(pattern.removesuffix("$") + r"\Z" * pattern.endswith("$"), instance):
            yield Invalid(f"{instance!r} does not match {pattern!r}")

    checker = Draft7Validator.TYPE_CHECKER.redefine("integer", lambda _, item: item.__class__ is int)
    extend: Any = validators.extend
    return extend(Draft7Validator, {"pattern": pattern}, type_checker=checker)(schema)


def read_schema(name: str) -> dict[str, Any]:
    """spec/<name>.schema.json, installed beside this module or in the source tree."""
    here = os.path.dirname(os.path.abspath(__file__))
    for directory in (here + "/spec", here + "/../../spec"):
        try:
            with open(f"{directory}/{name}.schema.json", encoding="utf-8") as file:
                schema: dict[str, Any] = json.load(file)
                return schema
        except FileNotFoundError:
            continue
    raise OcipyError(f"{name}.schema.json is missing: this installation is not complete")


def _repeats(error: ValidationError) -> bool:
    """A range says nothing of what is no integer, and was told to be none."""
    return error.validator in ("minimum", "maximum") and error.instance.__class__ is not int


def _pointer(error: ValidationError) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.absolute_path)


def _shown(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False))


def _reason(error: ValidationError) -> str:
    keyword = str(error.validator)
    rule: Any = error.validator_value
    value: Any = error.instance
    if keyword == "type":
        return f"{_shown(value)} is not {ARTICLES[str(rule)]}"
    if keyword == "required":
        name = next(name for name in rule if name not in value and f"'{name}'" in error.message)
        return f"{name} is missing{_meant(name, list(value), 'found')}"
    if keyword == "enum":
        return f"{_shown(value)} is not one of {', '.join(rule)}{_meant(value, rule)}"
    if keyword in ("minimum", "maximum"):
        schema: Any = error.schema
        return f"{value} is out of range: {schema['minimum']} to {schema['maximum']}"
    if keyword == "pattern":
        return f"{_shown(value)} " + next(text for part, text in PATTERNS.items() if part in str(rule))
    if keyword == "minLength":
        return "a name in it is empty" if "propertyNames" in error.schema_path else "must not be empty"
    if keyword == "minItems":
        return "needs at least one entry"
    return error.message[:200]


def _meant(name: Any, names: list[str], word: str = "did you mean") -> str:
    """", did you mean …?" where something is spelt much like ``name``."""
    from difflib import get_close_matches

    near = get_close_matches(name, names, 1, 0.75) if isinstance(name, str) and len(name) < 100 else []
    if not near:
        return ""
    return f"; did you mean {near[0]}?" if word == "did you mean" else f"; there is {near[0]}"
