"""Compile spec/config.schema.json into Python: ``python -m ocipy.config.compile_schema SPEC_DIRECTORY TARGET``.

Runs when ocipy is built. The result, ``_compiled.py``, has ``config(value)``, ``process(value)`` and ``resources(value)``, which
raise ``Refused`` or return None. It imports nothing, has no messages and no regular expressions: on the hot path it only says
no, and then ``schema.explain`` says why from the same schema. It is tables and one function that walks them, because loading
the bytecode of a function for each object takes ten times as long as running it. Only the keywords that our schema uses are
known here; one more stops the build.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENTRIES = {"config": "", "process": "/definitions/Process", "resources": "/definitions/Resources"}
IGNORED = {"$schema", "$comment", "title", "description", "definitions"}
# The function of the template that stands for a pattern: importing `re` costs more than all the rest.
PATTERNS = {
    "^RLIMIT_[A-Z]+$": "rlimit",
    "^[0-9, -]*$": "id_list",
    "^[rwm]*$": "access",
    "^MB:[^\\n]*$": "bandwidth",
    "^[1-9][0-9]*[KMG]B$": "page_size",
    "^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\\+[0-9A-Za-z.-]+)?$": "semver",
}
TEMPLATE = '''"""Generated from spec/config.schema.json by compile_schema.py: change those."""

# mypy: ignore-errors


class Refused(Exception):
    pass


def check(node, value):
    """A node is a class; (least, greatest) of an int; a set of str; a function that says whether a str is good;
    [node of items, least number]; or {name: node, REQUIRED: names, OTHERS: node of the names not listed}."""
    kind = node.__class__
    if kind is dict:
        if value.__class__ is not dict:
            raise Refused
        for name in node[REQUIRED]:
            if name not in value:
                raise Refused
        others = node[OTHERS]
        for name, item in value.items():
            child = node.get(name, others)
            if child is str:
                if item.__class__ is not str:
                    raise Refused
            elif child is not None:
                check(child, item)
    elif kind is list:
        child, least = node
        if value.__class__ is not list or len(value) < least:
            raise Refused
        for item in value:
            if child is not str or item.__class__ is not str:
                check(child, item)
    elif not (
        value.__class__ is node
        if kind is type
        else value.__class__ is int and node[0] <= value <= node[1]  # a bool has another class
        if kind is tuple
        else value.__class__ is str and (value in node if kind is frozenset else node(value))
    ):
        raise Refused


def rlimit(x):
    return x[:7] == "RLIMIT_" and x[7:].isalpha() and x.isascii() and x.isupper()


def id_list(x):
    return not x.strip("0123456789, -")


def access(x):
    return not x.strip("rwm")


def bandwidth(x):
    return x[:3] == "MB:" and "\\n" not in x


def page_size(x):
    return x[-2:] in ("KB", "MB", "GB") and x[0] in "123456789" and not x[:-2].strip("0123456789")


def semver(x):
    rest, plus, build = x.partition("+")
    core, minus, label = rest.partition("-")
    for number in (numbers := core.split(".")):
        if not number or number.strip("0123456789") or (number[0] == "0" and number != "0"):
            return False
    letters = "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    whole = bool(label) == bool(minus) and bool(build) == bool(plus)
    return len(numbers) == 3 and whole and not (label + build).strip(letters)


REQUIRED, OTHERS = 1, 2  # no JSON has such names
'''


class Compiler:
    """Each definition of the schema becomes a name of the module, all else is written where it stands."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.lines: list[str] = []
        self.names: dict[str, str] = {}

    def definition(self, pointer: str) -> str:
        """The name of the node made from the schema at ``pointer``; what it refers to is made before it."""
        if pointer not in self.names:
            node = self.node(self.at(pointer), pointer)
            name = self.names[pointer] = pointer.removeprefix("/definitions/") or "Config"
            self.lines.append(f"{name} = {node}")
        return self.names[pointer]

    def at(self, pointer: str) -> dict[str, Any]:
        schema = self.root
        for part in pointer.split("/")[1:]:
            schema = schema[part]
        return schema

    def node(self, schema: dict[str, Any], pointer: str) -> str:
        if "$ref" in schema:
            return self.definition(schema["$ref"].removeprefix("#"))
        kind = "enum" if "enum" in schema else schema.get("type")
        if kind not in KEYWORDS or (unknown := schema.keys() - KEYWORDS[kind] - IGNORED - {"type"}):
            raise ValueError(f"{pointer}: {sorted(unknown) if kind in KEYWORDS else kind} is not known to compile_schema.py")
        if kind == "object":
            return self.object(schema, pointer)
        if kind == "array":
            return f"[{self.node(schema['items'], pointer + '/items')}, {schema.get('minItems', 0)}]"
        if kind == "enum":
            return f"frozenset(({', '.join(json.dumps(value) for value in schema['enum'])},))"
        if kind == "integer":
            return f"({schema['minimum']}, {schema['maximum']})"
        if "pattern" in schema:
            return PATTERNS[schema["pattern"]]
        if schema.get("minLength", 0) > 1:
            raise ValueError(f"{pointer}: minLength can be 0 or 1 here")
        return "len" if schema.get("minLength") else {"string": "str", "boolean": "bool"}[kind]

    def object(self, schema: dict[str, Any], pointer: str) -> str:
        if not schema.keys() & KEYWORDS["object"]:
            return "dict"
        nodes = {name: self.node(child, f"{pointer}/properties/{name}") for name, child in schema.get("properties", {}).items()}
        if "propertyNames" in schema:
            if schema["propertyNames"] != {"minLength": 1}:
                raise ValueError(f"{pointer}: propertyNames can only say minLength 1 here")
            nodes[""] = "frozenset()"  # nothing is good
        others = schema.get("additionalProperties")
        items = [f"{json.dumps(name)}: {node}" for name, node in nodes.items()]
        items.append(f"REQUIRED: {tuple(schema.get('required', ()))!r}")
        items.append(f"OTHERS: {'None' if others is None else self.node(others, pointer + '/additionalProperties')}")
        return f"{{{', '.join(items)}}}"


KEYWORDS = {
    "object": {"required", "properties", "additionalProperties", "propertyNames"},
    "array": {"items", "minItems"},
    "enum": {"enum"},
    "integer": {"minimum", "maximum"},
    "string": {"minLength", "pattern"},
    "boolean": set(),
}


def generate(directory: str | Path, target: str | Path | None = None) -> str:
    """The source of ``_compiled.py`` from ``directory``/config.schema.json; written to ``target`` when that is given."""
    compiler = Compiler(json.loads((Path(directory) / "config.schema.json").read_text("utf-8")))
    entries = [
        f"def {name}(value):\n    check({compiler.definition(pointer)}, value)" for name, pointer in ENTRIES.items()
    ]
    source = TEMPLATE + "\n".join(compiler.lines) + "\n\n\n" + "\n\n\n".join(entries) + "\n"
    if target is not None:
        Path(target).write_text(source, "utf-8")
    return source


if __name__ == "__main__":
    generate(sys.argv[1], sys.argv[2])
