"""Where schemas are within a schema, by which draft, and that looking at them ends soon."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from llmc_build.constrain import check_schema, grammar_of, verdict
from llmc_build.constrain.gbnf import read_grammar
from llmc_build.constrain.recognise import recognises

INT = {"type": "integer"}
DRAFT_4, DRAFT_7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"
OPEN_API = {"components": {"schemas": {"X": {"type": "integer", "minimum": 1, "exclusiveMinimum": True}}}}


def conforms(schema: Any, value: Any) -> bool:
    return verdict({"kind": "schema", "schema": schema}, json.dumps(value)) is None


def steers_to(schema: Any, value: Any) -> bool:
    grammar, faults = read_grammar(grammar_of({"kind": "schema", "schema": schema}))
    assert grammar is not None, faults
    return recognises(grammar, json.dumps(value))


@pytest.mark.parametrize(
    "schema",
    [
        {"example": {"$ref": 3, "pattern": "("}},
        {"const": {"$ref": "#/const"}},
        {"x-internal": {"$ref": "elsewhere.json", "pattern": "(", "propertys": 1}},
        {
            "$schema": DRAFT_7,
            "dependencies": {"items": ["a"], "maxlength": ["b"], "pattern": {"minLength": 1}},
        },
        {"dependentRequired": {"propertys": ["a"], "minlength": ["pattern"]}},
        {"$ref": "#/x-parts/a", "x-parts": {"a": INT}},
        {"$schema": DRAFT_7, "$ref": "#/$defs/a", "$defs": {"a": INT}},
        {"$schema": "https://json-schema.org/draft-07/schema#"},
        {"$schema": "http://json-schema.org/draft-07/schema"},
        {"$schema": "http://json-schema.org/schema#"},
    ],
)
def test_what_is_no_schema_is_not_taken_for_one(schema: Any) -> None:
    assert check_schema(schema) == []


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"title": "x", "$ref": "#/title"}, {"#/$ref": "'#/title' leads to no schema, but to a text"}),
        ({"items": {"$ref": "#/foo"}, "foo": 3}, {"#/items/$ref": "'#/foo' leads to no schema, but to a number"}),
        ({"items": {"$ref": "#/enum"}, "enum": [1]}, {"#/items/$ref": "'#/enum' leads to no schema"}),
        ({"items": {"$ref": "#/foo"}, "foo": {"pattern": "("}}, {"#/foo/pattern": "the pattern can't be read"}),
        ({"items": {"$ref": "#/foo"}, "foo": {"type": "x"}}, {"#/foo/type": 'there is no type "x"'}),
        ({"items": {"$ref": "#/foo"}, "foo": {"multipleOf": 0}}, {"#/foo/multipleOf": "0 is less than"}),
        (
            {"items": {"$ref": "#/default"}, "default": {"properties": {"a": {"required": 3}}}},
            {"#/default/properties/a/required": "must be a list"},
        ),
        (
            {"items": {"$ref": "#/components/schemas/X"}, **OPEN_API},
            {"#/components/schemas/X/exclusiveMinimum": "must be a number, not true or false"},
        ),
        ({"items": {"$ref": "#/a/b/items"}, "not": {"$ref": "#/a/b"}, "a": {"b": {"items": {"type": 1}}}},
         {"#/a/b/items/type": "there is no type 1"}),
        ({"$dynamicRef": "#nowhere"}, {"#/$dynamicRef": "'#nowhere' is no anchor"}),
        ({"items": {"$ref": "#a"}, "foo": {"$anchor": "a"}}, {"#/items/$ref": "'#a' is no anchor"}),
        ({"$schema": DRAFT_7 + "x"}, {"#/$schema": f"'{DRAFT_7}x' is no draft"}),
    ],
)  # fmt: skip
def test_where_only_a_reference_leads_is_checked_like_the_rest(schema: Any, told: dict[str, str]) -> None:
    found = {fault.pointer: fault.message for fault in check_schema(schema)}
    assert found.keys() == told.keys()
    for pointer, message in told.items():
        assert found[pointer].startswith(message)


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"$schema": DRAFT_4, "const": 1}, 2, True),
        ({"$schema": DRAFT_4, "type": "integer", "const": "a"}, 2, True),
        ({"$schema": DRAFT_4, "properties": {"const": INT}, "type": "object"}, {"const": 2}, True),
        ({"$schema": DRAFT_7, "type": "array", "prefixItems": [False], "minItems": 1}, [2], True),
        ({"$schema": DRAFT_7, "type": "array", "prefixItems": [False], "minItems": 1}, [], False),
        ({"$schema": DRAFT_7, "type": "array", "items": [{"const": 1}], "minItems": 1}, [1], True),
        ({"$schema": "https" + DRAFT_7[4:], "type": "array", "items": [INT], "minItems": 1}, [1], True),
    ],
)
def test_a_keyword_counts_where_its_draft_knows_it(schema: Any, value: Any, fits: bool) -> None:
    assert check_schema(schema) == []
    assert conforms(schema, value) is fits
    assert steers_to(schema, value) is fits


def test_a_draft_named_within_does_not_change_how_patterns_and_multiples_are_judged() -> None:
    inner = {"$schema": DRAFT_7, "multipleOf": 0.01, "type": "number"}
    schema = {"properties": {"a": inner, "$schema": INT}, "items": {"$ref": "#"}, "$schema": DRAFT_7}
    assert check_schema(schema) == []
    assert conforms(schema, {"a": 19.99, "$schema": 3})
    assert not conforms(schema, {"$schema": "a"})
    assert not conforms({"$schema": DRAFT_7, "items": {"$ref": "#"}, "pattern": "^a$"}, ["a\n"])


def chain(count: int, name: str = "$ref") -> dict[str, Any]:
    to = [{"$ref": f"#/$defs/d{i + 1}"} for i in range(count)]
    links = {f"d{i}": one if name == "$ref" else {name: [one]} for i, one in enumerate(to)}
    return {**links, f"d{count}": {}}


NAMES = [f"p{i}" for i in range(1400)]
TOO_MANY: dict[str, Any] = {
    "links": {"$ref": "#/$defs/d0", "$defs": chain(2900)},
    "anchors": {
        "properties": {f"p{i}": {"$ref": "#x"} for i in range(2900)},
        "$defs": {"x": {"$anchor": "x"}},
        "enum": [f"e{i}" for i in range(10_000)],
    },
    "required properties with a long chain": {
        "type": "object",
        "required": NAMES,
        "properties": {name: {"$ref": "#/$defs/d0"} for name in NAMES},
        "$defs": chain(700, "allOf"),
    },
    "all with any": {
        "allOf": [{"minLength": i} for i in range(1400)],
        "anyOf": [{"maxLength": i + 2000} for i in range(1400)],
    },
    "all with enums": {
        "allOf": [{"maximum": i} for i in range(1400)],
        "anyOf": [{"enum": [*range(i, i + 9)]} for i in range(1000)],
    },
    "nothing many times": {"type": "string", "pattern": "^a*(((()){500}){500}){500}b*$", "minLength": 3},
}


@pytest.mark.parametrize("schema", TOO_MANY.values(), ids=TOO_MANY.keys())
def test_the_largest_schemas_are_checked_soon(schema: Any) -> None:
    begun = time.process_time()
    assert check_schema(schema) == []
    if "pattern" in schema:
        assert steers_to(schema, "aaab")
    assert time.process_time() - begun < 30  # some were minutes, or for ever
