"""Schemas that nothing conforms to are found; none to which something does is called so."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc_build.constrain import check_schema
from llmc_build.constrain.judge import validator
from llmc_build.constrain.possible import impossible
from llmc_build.constrain.references import References, endless

INT = {"type": "integer"}
NODE = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#/$defs/node"}}}


def of(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


@pytest.mark.parametrize(
    ("schema", "place", "said"),
    [
        ({**INT, "minimum": 10, "maximum": 3}, "#/maximum", "between 10 and 3"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "#/maximum", "between 1 and 1"),
        ({**INT, "minimum": 1.2, "maximum": 1.8}, "#/maximum", "no whole number lies between 1.2 and 1.8"),
        ({"type": "number", "multipleOf": 5, "minimum": 6, "maximum": 9}, "#/maximum", "no multiple of 5"),
        ({**INT, "minimum": 10**250 + 1, "maximum": 10**250}, "#/maximum", "between 1e+250 and 1e+250"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "#/maxLength", "at least 5 and at most 4"),
        ({"type": "string", "pattern": "^[0-9]{8}$", "maxLength": 4}, "#/pattern", "has at least 8"),
        ({"type": "string", "pattern": "^[0-9]{2,3}$", "minLength": 4}, "#/pattern", "has at most 3"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "#/maxItems", "at least 3 and at most 2 items"),
        ({"type": "array", "items": False, "minItems": 1}, "#/items", "item 0 of 1 or more can't be"),
        (
            {"type": "array", "prefixItems": [True, {**INT, "minimum": 2, "maximum": 1}], "minItems": 2},
            "#/prefixItems/1/maximum",
            "item 1",
        ),
        (
            of({"a": {**INT, "minimum": 2, "maximum": 1}}),
            "#/properties/a/maximum",
            "'a' is required, and can't be: no",
        ),
        (
            {"type": "object", "properties": {}, "required": ["b"], "additionalProperties": False},
            "#/required",
            "'b' is required, and not allowed",
        ),
        (
            of({"a": True, "b": True}, maxProperties=1),
            "#/maxProperties",
            "2 required properties and at most 1",
        ),
        (
            {"type": "object", "properties": {"a": True}, "minProperties": 2, "additionalProperties": False},
            "#/additionalProperties",
            "at least 2 properties must be there, and 1 are allowed",
        ),
        ({"allOf": [{"type": "string"}, INT]}, "#/allOf/1/type", "string and integer at once"),
        ({"allOf": [{**INT, "minimum": 4}, {"maximum": 3}]}, "#/allOf/1/maximum", "between 4 and 3"),
        ({"anyOf": [False]}, "#/anyOf", "no branch can be met"),
        ({"type": "string", "oneOf": [INT, {"type": "null"}]}, "#/oneOf", "no branch can be met"),
        ({"type": "string", "enum": [1, 2]}, "#/enum", "each of its values is ruled out"),
        ({"const": "abc", "maxLength": 2}, "#/const", "its value is ruled out"),
        ({"not": {}}, "#/not", "every value is ruled out"),
        ({"$ref": "#/$defs/node", "$defs": {"node": NODE}}, "#/$defs/node/properties/next", "without an end"),
        (
            of({"a": {"$ref": "#"}}),
            "#/properties/a",
            "'a' is required, and can't be: it needs itself in every value",
        ),
    ],
)
def test_what_contradicts_itself_is_told_with_its_place(schema: Any, place: str, said: str) -> None:
    (fault,) = check_schema(schema)
    assert fault.pointer == place
    assert "nothing conforms to the schema" in fault.message
    assert said in fault.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"never": False}},
        {"type": "array", "items": False},
        {"type": ["integer", "null"], "minimum": 2, "maximum": 1},
        {"$ref": "#/$defs/node", "$defs": {"node": {**NODE, "required": []}}},
        of({"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}),
        {"anyOf": [{**INT, "minimum": 2, "maximum": 1}, {"type": "null"}]},
        {"type": "object", "required": ["ab"], "patternProperties": {"^a": INT}, "additionalProperties": False},
        {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "type": "string",
         "definitions": {"a": INT}},
        {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "minimum": 1, "maximum": 2,
         "exclusiveMinimum": True},
        {"type": "number", "minimum": 1, "maximum": 1},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.3, "multipleOf": 0.3},
        {"type": "number", "minimum": 0.1, "maximum": 0.1, "multipleOf": 0.1},
        {**INT, "minimum": 1, "maximum": 10**290, "allOf": [{"multipleOf": 10**280 + 2 * i + 1} for i in range(99)]},
    ],
)  # fmt: skip
def test_what_can_be_met_is_let_through(schema: Any) -> None:
    assert check_schema(schema) == []


NUMBERS = st.integers(-2, 3)
COUNTS = st.integers(0, 3)
NAMES = ["a", "b"]
LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["integer", "number", "string", "boolean", "null", ["integer", "string"]]),
        "minimum": NUMBERS,
        "maximum": NUMBERS,
        "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": COUNTS,
        "maxLength": COUNTS,
        "pattern": st.sampled_from(["^a{2}$", "b", "^(a|b)?$"]),
        "enum": st.lists(st.sampled_from([0, 1, "a", "ab", None, True]), min_size=1, max_size=3),
        "const": st.sampled_from([0, 1, "a", None]),
    },
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.one_of(inner, st.booleans(), st.just({"$ref": "#"}), st.just({"$ref": "#/$defs/d"}))
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "integer", ["array", "null"]]),
            "properties": st.dictionaries(st.sampled_from(NAMES), some, max_size=2),
            "required": st.lists(st.sampled_from(NAMES), unique=True, max_size=2),
            "additionalProperties": some,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), some, max_size=1),
            "minProperties": COUNTS,
            "maxProperties": COUNTS,
            "items": some,
            "prefixItems": st.lists(some, min_size=1, max_size=2),
            "minItems": COUNTS,
            "maxItems": COUNTS,
            "allOf": st.lists(some, min_size=1, max_size=2),
            "anyOf": st.lists(some, min_size=1, max_size=2),
            "oneOf": st.lists(some, min_size=1, max_size=2),
            "not": some,
        },
    )


SCHEMAS = st.recursive(LEAVES, grown, max_leaves=5)
SIMPLE = [None, True, -2, -1, 0, 0.5, 1, 2, 3, "", "a", "b", "aa", "ab", "aab"]
SMALL = [*SIMPLE, *([x] for x in SIMPLE), [], *({"a": x} for x in SIMPLE), {}, {"b": 1}, {"a": 1, "b": "a"}]
VALUES = [
    *SMALL,
    *([x, y] for x, y in itertools.product([None, 0, 1, "a", [], {}], repeat=2)),
    *({"a": x} for x in SMALL[15:]),
    *({"a": x, "b": y} for x, y in itertools.product([None, 1, "aa", {}, [0]], repeat=2)),
    [1, 1, 1],
    ["a", "a", "a"],
    [None, None, None],
]


@settings(max_examples=400)
@given(schema=SCHEMAS, shared=SCHEMAS)
def test_nothing_that_has_a_value_is_called_impossible(schema: dict[str, Any], shared: Any) -> None:
    schema = {**schema, "$defs": {"d": shared}}
    references = References(schema)
    if endless(references, references.schemas()[0]) is None and impossible(schema) is not None:
        check = validator(schema)
        assert [value for value in VALUES if check.is_valid(value)] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}},
        },
        {"type": "object", "properties": {"a": {"if": {"$ref": "#/properties/a"}}}},
    ],
)
def test_a_reference_that_comes_back_before_a_value_is_taken_apart_is_refused(schema: Any) -> None:
    (fault,) = check_schema(schema)
    assert fault.message.endswith("refers to itself")
    assert fault.path[-1] == "$ref"
