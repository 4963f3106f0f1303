"""JSON Schemas checked before anything runs.  Pure.

Owns what makes a schema unusable: it is none (by the meta-schema of its draft), it is too large, it refers to
something outside of it or to itself without an end, a pattern of it can't be read, or nothing conforms
to it.  What an answer is checked against is `judge`.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from llmc_build.constrain import SchemaFault
from llmc_build.constrain.drafts import Path, draft_of
from llmc_build.constrain.pattern import MAX_PATTERN, compiled
from llmc_build.constrain.possible import impossible
from llmc_build.constrain.references import MAX_DEPTH, Place, ReferenceFault, References, endless
from llmc_build.errors import did_you_mean

MAX_NODES = 20_000  # values in a schema, enums included
MAX_SCHEMAS = 3_000  # mappings in it: the meta-schema takes a fraction of a millisecond for each
MAX_BYTES = 1 << 20  # as JSON text
_SHOWN = 20
_NEWEST = "leave it out: it is https://json-schema.org/draft/2020-12/schema then"
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_KEYWORDS = frozenset([
        "$anchor", "$comment", "$defs", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor",
        "$recursiveRef", "$ref", "$schema", "$vocabulary", "additionalItems",
        "additionalProperties", "allOf", "anyOf", "const", "contains", "contentEncoding",
        "contentMediaType", "contentSchema", "default", "definitions", "dependencies",
        "dependentRequired", "dependentSchemas", "deprecated", "description", "else", "enum",
        "example", "examples", "exclusiveMaximum", "exclusiveMinimum", "format", "id", "if",
        "items", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains",
        "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not", "nullable",
        "oneOf", "pattern", "patternProperties", "prefixItems", "properties", "propertyNames",
        "readOnly", "required", "then", "title", "type", "unevaluatedItems",
        "unevaluatedProperties", "uniqueItems", "writeOnly",
])  # fmt: skip


def faults_of(schema: object) -> list[SchemaFault]:
    """Every fault of a schema; those that hide others come alone."""
    if schema is False:
        return [_fault((), "nothing conforms to the schema `false`")]
    if not isinstance(schema, dict | bool):
        return [_fault((), f"a schema is a mapping, not {_called(schema)}")]
    too_large = _too_large(schema)
    if too_large:
        return [too_large]
    return list(_checked(json.dumps(schema)))


def _too_large(schema: object) -> SchemaFault | None:
    """The first thing that is too much, or is no JSON; looked at before anything recurses into it."""
    nodes = schemas = size = 0
    todo: list[tuple[object, int, Path]] = [(schema, 0, ())]
    while todo:
        value, depth, path = todo.pop()
        nodes += 1
        schemas += isinstance(value, dict)
        size += len(value) if isinstance(value, str) else 8
        if depth > MAX_DEPTH:
            return _fault(path[:8], f"the schema is nested more than {MAX_DEPTH} deep")
        if nodes > MAX_NODES or schemas > MAX_SCHEMAS or size > MAX_BYTES:
            limits = f"{MAX_NODES} values, {MAX_SCHEMAS} of them mappings, and {MAX_BYTES} bytes"
            return _fault((), f"the schema is too large: the limit is {limits}")
        if isinstance(value, dict):
            for name, item in value.items():
                if not isinstance(name, str):
                    return _fault(path, f"{name!r} is no name: names in JSON are texts", "put it into quotes")
                size += len(name)
                todo.append((item, depth + 1, (*path, name)))
        elif isinstance(value, list):
            todo += [(item, depth + 1, (*path, i)) for i, item in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            return _fault(path, f"{value} is no JSON number")
        elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1000:
            return _fault(path, "a number of more than 300 digits")
        elif not isinstance(value, str | int | float | None):
            return _fault(path, f"{_called(value)} is no JSON value")
    return None


@functools.lru_cache(maxsize=256)
def _checked(text: str) -> tuple[SchemaFault, ...]:
    schema = json.loads(text)
    return tuple(dict.fromkeys(_found(schema)))


def _found(schema: Any) -> Iterator[SchemaFault]:
    import jsonschema.exceptions

    from llmc_build.constrain import judge

    if draft_of(schema) is None:
        yield _fault(("$schema",), f"{schema['$schema']!r} is no draft that is known", _NEWEST)
        return
    references = References(schema)
    places, apart = references.schemas()
    own = [fault for place in places for fault in _own(references, place)]
    yield from own
    loop = None if own else endless(references, places)
    if loop is not None:
        stands = next((place.path for place in places if place.schema.get("$ref") == loop), ())
        yield _fault((*stands, "$ref"), f"{loop!r} refers to itself")
        return
    try:
        broken = judge.validator(schema).META_SCHEMA
        checker = type(judge.validator(schema))(broken, registry=judge.no_registry())
        whole: list[tuple[Any, Path]] = [(schema, ()), *((place.schema, place.path) for place in apart)]
        errors = [
            (error, (*path, *error.absolute_path))
            for part, path in whole
            for error in _first(checker.iter_errors(part), _SHOWN)
        ]
    except (RecursionError, jsonschema.exceptions.UnknownType):
        yield _fault((), "the schema can't be checked: it is too deep")
        return
    if not own and not errors:
        never = impossible(schema)
        if never is not None:
            yield never
    told = {fault.path for fault in own}
    for error, path in errors[:_SHOWN]:
        if path not in told:
            told.add(path)
            yield _told(error, path)


def _first(errors: Iterator[Any], count: int) -> Iterator[Any]:
    for _, error in zip(range(count), errors, strict=False):
        yield error


def _told(error: Any, path: Path) -> SchemaFault:
    """A fault by the meta-schema, in words that a person understands."""
    value = error.instance
    if path and path[-1] == "type":
        kinds = value if isinstance(value, list) else [value]
        wrong = next((kind for kind in kinds if kind not in _TYPES), value)
        near = did_you_mean(wrong, _TYPES) if isinstance(wrong, str) else None
        return _fault(
            path, f"there is no type {json.dumps(wrong)[:60]}", near or f"types: {', '.join(_TYPES)}"
        )
    wanted = error.validator_value
    if error.validator == "type":
        kinds = [wanted] if isinstance(wanted, str) else list(wanted)
        old = bool(path) and path[-1] == "items" and isinstance(value, list)
        return _fault(
            path,
            f"must be {' or '.join(_A[kind] for kind in kinds)}, not {_called(value)}",
            "a list of items is called prefixItems, or has `$schema` name an older draft" if old else None,
        )
    message = " ".join(str(error.message).split())
    return _fault(path, message if len(message) <= 200 else message[:200] + "…")


_A = {
    "object": "a mapping", "array": "a list", "string": "a text", "boolean": "true or false", "null": "null",
    "integer": "a whole number", "number": "a number",
}  # fmt: skip


def _own(references: References, place: Place) -> Iterator[SchemaFault]:
    """What the meta-schema says nothing of: references, patterns, misspelt keywords; not in data."""
    schema, path = place.schema, place.path
    for name, reference in references.of(schema):
        yield from _reference(references, reference, (*path, name))
    if isinstance(schema.get("pattern"), str):
        yield from _pattern(schema["pattern"], (*path, "pattern"))
    if isinstance(schema.get("patternProperties"), dict):
        for pattern in schema["patternProperties"]:
            yield from _pattern(pattern, (*path, "patternProperties", pattern))
    if schema.get("enum") == []:
        yield _fault((*path, "enum"), "nothing conforms to an enum without values")
    for name in sorted(
        schema.keys() - _KEYWORDS
    ):  # it means nothing, and one that is misspelt would pass for that
        near = difflib.get_close_matches(name, _like(name), n=1, cutoff=0.84)
        if near:
            yield _fault(
                (*path, name), f"{name!r} is no keyword of JSON Schema", f'did you mean "{near[0]}"?'
            )


def _like(name: str) -> list[str]:
    """Keywords that begin as a name does and are about as long: to compare with all takes too long."""
    begin, size = name[:1].lower(), len(name)
    return [word for word in _KEYWORDS if word[0].lower() == begin and abs(len(word) - size) <= 2]


def _reference(references: References, reference: object, path: Path) -> Iterator[SchemaFault]:
    """One step; whether it goes on for ever is looked at apart."""
    hint = "references lead to places of the same schema: #/$defs/name"
    try:
        found = references.target(reference)
    except ReferenceFault as error:
        yield _fault(path, str(error), hint)
        return
    if not isinstance(found, dict | bool):
        yield _fault(path, f"{reference!r} leads to no schema, but to {_called(found)}", hint)


def _pattern(pattern: str, path: Path) -> Iterator[SchemaFault]:
    if len(pattern) > MAX_PATTERN:
        yield _fault(path, f"a pattern of {len(pattern)} characters, where {MAX_PATTERN} is the limit")
        return
    try:
        compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield _fault(path, f"the pattern can't be read: {' '.join(str(error).split()) or 'it is too deep'}")


def _called(value: object) -> str:
    if value is None:
        return "nothing"
    for kind, name in ((bool, "true or false"), (str, "a text"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "a mapping" if isinstance(value, dict) else f"a {type(value).__name__}"


def _fault(path: Path, message: str, hint: str | None = None) -> SchemaFault:
    return SchemaFault(path=path, message=message, hint=hint)
