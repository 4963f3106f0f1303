"""JSON Schemas: checked before anything runs, turned into grammars, and answers judged by them."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import time
from typing import Any

import jsonschema
import pytest

from llmc_build.constrain import check_grammar, check_schema, grammar_of, verdict
from llmc_build.constrain.gbnf import Chars, Grammar, read_grammar
from llmc_build.constrain.numbers import integers
from llmc_build.constrain.recognise import recognises
from llmc_build.rules.local_llm import LocalLlm


def texts_of(grammar: Grammar, chance: random.Random, count: int) -> list[str]:
    """Random texts of a grammar, by a walk that looks for the end once it is deep."""
    least: list[float] = [float("inf")] * len(grammar.rules)
    while True:
        new = [
            min(
                1 + max((least[s] if isinstance(s, int) else 0 for s in sequence), default=0)
                for sequence in alternatives
            )
            for alternatives in grammar.rules
        ]
        if new == least:
            break
        least = new

    def height(sequence: list[Any]) -> float:
        return max((least[s] for s in sequence if isinstance(s, int)), default=0)

    def walk() -> str:
        found: list[str] = []
        todo: list[Any] = [grammar.root]
        steps = 0
        while todo:
            symbol = todo.pop()
            steps += 1
            if isinstance(symbol, int):
                alternatives = grammar.rules[symbol]
                shortest = min(alternatives, key=height)
                todo += reversed(shortest if steps > 150 else chance.choice(alternatives))
            else:
                found.append(char_of(symbol, chance))
        return "".join(found)

    return [walk() for _ in range(count)]


def char_of(chars: Chars, chance: random.Random) -> str:
    if not chars.negated:
        low, high = chance.choice(chars.ranges)
        return chr(chance.randint(low, high))
    while True:
        code = chance.choice([chance.randint(1, 0x7E), chance.randint(0xA0, 0xFF), 0x4E2D, 0x1F600])
        if chars.has(code):
            return chr(code)


def steered(schema: Any) -> Grammar:
    grammar, faults = read_grammar(grammar_of({"kind": "schema", "schema": schema}))
    assert grammar is not None, faults
    return grammar


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["tall", "kind", 3, None]}, "maxItems": 3},
        "note": {"type": ["string", "null"]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
LIST = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
    "$ref": "#/$defs/node",
}
# For these a grammar says all: every text of it conforms.
EXACT: dict[str, Any] = {
    "person": PERSON,
    "list": LIST,
    "tree": {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
    },
    "const": {"const": {"a": [1, "x"], "b": None}},
    "enum": {"enum": ['a"b', "c\\d", "é\n", 1.5, True, [1, 2]]},
    "typed enum": {"type": "string", "enum": ["a", 3, "b"]},
    "bounds": {"type": "integer", "minimum": -17, "maximum": 1205},
    "exclusive": {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 101},
    "from": {"type": "integer", "minimum": 95},
    "to": {"type": "integer", "maximum": -95},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "signed": {"type": "number", "minimum": -2, "maximum": 3},
    "pattern": {"type": "string", "pattern": '^[A-Z]{2,3}-\\d+(a|"b")?$'},
    "inner pattern": {"type": "string", "pattern": "x[^a-z\\s]y"},
    "half anchored": {"type": "string", "pattern": "^A|B|(C|D)$"},
    "dots": {"type": "string", "pattern": "^a.c\\.[\\w\\-]*\\\\$"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
        "items": False,
        "minItems": 1,
    },
    "old tuple": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}, {"type": "string"}],
        "additionalItems": {"type": "null"},
        "minItems": 2,
    },
    "dictionary": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
    "named keys": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z]{1,3}$"},
        "additionalProperties": True,
    },
    "more keys": {
        "type": "object",
        "properties": {"ab": {"type": "integer"}, "ac": {"type": "integer"}},
        "additionalProperties": {"type": "boolean"},
    },
    "all of": {
        "allOf": [
            {"properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 5}, "b": {"const": 3}}, "required": ["b"]},
        ]
    },
    "any of": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "union": {"oneOf": [{"type": "integer"}, {"type": "boolean"}, {"type": "null"}]},
    "anchor": {
        "$defs": {"x": {"$anchor": "here", "type": "boolean"}},
        "items": {"$ref": "#here"},
        "type": "array",
    },
    "false property": {"type": "object", "properties": {"a": False, "b": {"type": "null"}}},
    "pattern and length": {"type": "string", "pattern": "^[A-Z][a-z]*$", "minLength": 2, "maxLength": 5},
    "pattern within length": {"type": "string", "pattern": "(ab|c)+d?", "minLength": 3, "maxLength": 6},
    "pattern from length": {"type": "string", "pattern": "^(a|bc)*x(yz?)*$", "minLength": 4},
    "multiples": {"type": "integer", "multipleOf": 7, "minimum": -30, "maximum": 30},
    "all multiples": {"type": "integer", "multipleOf": 12},
    "multiples from 0": {"type": "integer", "multipleOf": 5, "minimum": 0},
    "whole multiples": {"type": "number", "multipleOf": 10},
    "email": {"type": "string", "format": "email", "maxLength": 20},
    "uri": {"type": "string", "format": "uri", "maxLength": 30},
    "ipv6": {"type": "string", "format": "ipv6"},
    "keys by pattern": {
        "type": "object",
        "patternProperties": {"^[a-z]{1,3}$": {"type": "integer"}, "^[A-Z]$": {"type": "null"}},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "listed keys and keys by pattern": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 3}},
        "patternProperties": {"^x-": {"type": "boolean"}},
        "required": ["name"],
        "additionalProperties": False,
    },
    "everything": True,
    "nothing said": {},
}


def test_other_grammars_are_another_version_of_the_rule() -> None:
    """What steers an answer determines it: where this fails, raise `LocalLlm.version` with the new digest."""
    made = [grammar_of({"kind": "schema", "schema": schema}) for schema in EXACT.values()]
    digest = hashlib.sha256("\0".join(made).encode()).hexdigest()
    assert (LocalLlm.version, digest[:16]) == (4, "c0589686cc112ef2")


@pytest.mark.parametrize("schema", EXACT.values(), ids=EXACT.keys())
def test_every_text_of_the_grammar_for_a_schema_conforms_to_it(schema: Any) -> None:
    """By the verdict, and by jsonschema as it comes."""
    assert check_schema(schema) == []
    grammar, chance = steered(schema), random.Random(1)
    plain = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)(schema)
    for text in texts_of(grammar, chance, 60):
        why = verdict({"kind": "schema", "schema": schema}, text)
        if why is not None and "stands twice" in why:
            continue  # a grammar can't compare the names that are free
        assert why is None, (text, why)
        plain.validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (PERSON, [{"name": "A", "age": 0}, {"name": "é\"x", "age": 130, "tags": ["tall", 3], "note": None}]),
        (LIST, [{"value": -1, "next": {"value": 2, "next": None}}]),
        (EXACT["bounds"], list(range(-17, 1206))),
        (EXACT["exclusive"], list(range(10, 101))),
        (EXACT["share"], [0, 1, 0.5, 0.25]),
        (EXACT["signed"], [-2, -1.5, 0, 2.75, 3]),
        (EXACT["tuple"], [[1], [1, "x"]]),
        (EXACT["more keys"], [{}, {"ab": 1}, {"ab": 1, "ac": 2, "abc": True, "a": False, "": True}]),
        (EXACT["enum"], ["a\"b", "é\n", 1.5, [1, 2]]),
        (EXACT["tree"], [{"children": [{}, {"children": []}]}]),
        (EXACT["any of"], [{"a": 1}, {"b": "x"}, {"a": 1, "b": "x"}]),
        (EXACT["pattern and length"], ["Ab", "Abcde"]),
        (EXACT["multiples"], list(range(-28, 29, 7))),
        (EXACT["all multiples"], [-144, -12, 0, 12, 120, 1200000]),
        (EXACT["multiples from 0"], [0, 5, 10, 99995]),
        ({"type": "number", "multipleOf": 0.01, "minimum": 0}, [0, 1.5, 19.99]),
        (EXACT["email"], ["fox@example.org", "a.b+c@d-e.f"]),
        (EXACT["uri"], ["https://example.org/a?b=c#d", "mailto:a@b.c"]),
        (EXACT["keys by pattern"], [{"a": 1}, {"abc": 2, "Z": None, "b": 0}]),
        (EXACT["listed keys and keys by pattern"], [{"name": "a"}, {"name": "b", "x-a": True, "x-": False}]),
    ],
)  # fmt: skip
def test_the_grammar_for_a_schema_has_the_values_that_conform(schema: Any, values: list[Any]) -> None:
    grammar = steered(schema)
    for value in values:
        assert recognises(grammar, json.dumps(value, ensure_ascii=False)), value


LETTERS = ["".join(part) for size in range(6) for part in itertools.product("abc", repeat=size)]


@pytest.mark.parametrize(
    "pattern",
    ["^a+$", "^a*b+c?$", "^(ab|c)*$", "b", "^a|c$", "^(a{2}|b{1,2})+$", "^(a?b?)*c$", "^[^b]{2,}$", "^$|ab"],
)
@pytest.mark.parametrize(("least", "most"), [(0, 3), (2, 4), (3, 3), (3, None), (0, None), (1, 5)])
def test_texts_of_a_pattern_between_two_lengths_are_exactly_those(
    pattern: str, least: int, most: int | None
) -> None:
    schema = {"type": "string", "pattern": pattern, "minLength": least}
    schema |= {"maxLength": most} if most is not None else {}
    grammar = steered(schema)
    for text in LETTERS:
        fits = least <= len(text) <= (9 if most is None else most) and re.search(pattern, text) is not None
        assert recognises(grammar, json.dumps(text)) == fits, text


@pytest.mark.parametrize("seed", range(20))
def test_whole_numbers_between_bounds_are_exactly_those(seed: int) -> None:
    chance = random.Random(seed)
    low = chance.choice([None, chance.randint(-2000, 2000)])
    high = chance.choice([None, chance.randint(low if low is not None else -2000, 2500)])
    grammar, faults = read_grammar(f"root ::= {integers(low, high) or 'none'}")
    assert grammar is not None, faults
    for number in [
        *range(-2600, 2601, 7),
        *(x + d for x in (low, high, 0) if x is not None for d in (-1, 0, 1)),
    ]:
        wanted = (low is None or number >= low) and (high is None or number <= high)
        assert recognises(grammar, str(number)) == wanted, (low, high, number)
    assert not any(recognises(grammar, text) for text in ("-0", "007", "+5", "1.0", ""))


@pytest.mark.parametrize(
    ("step", "value", "fits"),
    [
        (0.01, 19.99, True),
        (0.01, 0.07, True),
        (0.01, 1.005, False),
        (0.1, 1e22, True),
        (7, 49.0, True),
        (7, 1e999, False),
    ],
)
def test_a_multiple_is_one_by_the_numbers_as_they_are_written(step: float, value: float, fits: bool) -> None:
    schema = {"type": "number", "multipleOf": step}
    text = "1e999" if value == float("inf") else json.dumps(value)
    assert (verdict({"kind": "schema", "schema": schema}, text) is None) == fits


UNSAID: list[tuple[Any, Any, str]] = [
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, [1, 1], "non-unique"),
    ({"type": "integer", "multipleOf": 7}, 6, "not a multiple of 7"),
    ({"not": {"type": "string"}}, "x", "should not be valid"),
    ({"if": {"type": "integer"}, "then": {"minimum": 5}}, 3, "less than the minimum of 5"),
    ({"type": "string", "pattern": "^(?!ab)"}, "abc", "does not match"),
    ({"type": "string", "pattern": "^a$"}, "a\n", "does not match"),
    ({"type": "string", "format": "email"}, "nobody", "is not a 'email'"),
    ({"type": "string", "format": "ipv6"}, "1::2::3", "is not a 'ipv6'"),
    ({"type": "string", "minLength": 1000}, "x", "is too short"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, {"a": 1}, "'b' is a dependency of 'a'"),
    ({"type": "array", "contains": {"const": 3}}, [1, 2], "does not contain items"),
    ({"patternProperties": {"^n_": {"type": "integer"}}}, {"n_a": "x"}, "at n_a: 'x' is not of type 'integer'"),
    ({"properties": {"a": {"items": {"type": "null"}}}}, {"a": [None, 1]}, "at a[1]: 1 is not of type 'null'"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "message"), UNSAID)
def test_what_no_grammar_says_the_verdict_says(schema: Any, value: Any, message: str) -> None:
    """The grammar may admit it; the answer is refused all the same."""
    assert check_schema(schema) == []
    assert check_grammar(grammar_of({"kind": "schema", "schema": schema})) == []
    why = verdict({"kind": "schema", "schema": schema}, json.dumps(value))
    assert why is not None
    assert message in why
    assert "\n" not in why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "the answer is no JSON: "),
        ('{"a": 1} and more', "the answer is no JSON: Extra data"),
        ('{"a": 1, "a": 2}', "the name 'a' stands twice in an object"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ("[" * 100_000, "it is nested too deeply"),
        ("1" * 5000, "the answer is no JSON: "),
        ('"text"', "neither an object nor a list"),
    ],
)
def test_what_is_no_json_is_refused(text: str, message: str) -> None:
    assert message in (verdict({"kind": "json"}, text) or "")


BAD = [
    (False, "#", "nothing conforms to the schema `false`"),
    ("x", "#", "a schema is a mapping, not a text"),
    ({"properties": {"a/b": {"type": "strng"}}}, "#/properties/a~1b/type", 'there is no type "strng"'),
    ({"type": ["string", "nul"]}, "#/type", 'there is no type "nul"'),
    ({"required": "a"}, "#/required", "must be a list, not a text"),
    ({"properties": [1]}, "#/properties", "must be a mapping, not a list"),
    ({"minLength": -1}, "#/minLength", "-1 is less than the minimum of 0"),
    ({"enum": []}, "#/enum", "nothing conforms to an enum without values"),
    ({"$schema": "http://example.org"}, "#/$schema", "'http://example.org' is no draft that is known"),
    ({"$ref": "http://127.0.0.1:1/x.json"}, "#/$ref", "'http://127.0.0.1:1/x.json' lies outside of this schema"),
    ({"$ref": "file:///etc/passwd"}, "#/$ref", "'file:///etc/passwd' lies outside of this schema"),
    ({"items": {"$ref": "#/$defs/a"}}, "#/items/$ref", "'#/$defs/a' leads nowhere in this schema"),
    ({"$ref": "#nowhere"}, "#/$ref", "'#nowhere' is no anchor of this schema"),
    ({"type": "object", "propertys": {"a": True}}, "#/propertys", "'propertys' is no keyword of JSON Schema"),
    ({"items": {"minlength": 3}}, "#/items/minlength", "'minlength' is no keyword"),
    ({"$ref": "#"}, "#/$ref", "'#' refers to itself"),
    ({"pattern": "("}, "#/pattern", "the pattern can't be read: missing )"),
    ({"patternProperties": {"[": {}}}, "#/patternProperties/[", "the pattern can't be read"),
    ({"pattern": "a" * 3000}, "#/pattern", "a pattern of 3000 characters"),
    ({1: {}}, "#", "1 is no name"),
    ({"const": float("nan")}, "#/const", "nan is no JSON number"),
    ({"const": 10**400}, "#/const", "a number of more than 300 digits"),
    ({"enum": [{"x": {1, 2}}]}, "#/enum/0/x", "a set is no JSON value"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "pointer", "message"), BAD)
def test_a_fault_of_a_schema_has_its_place(schema: Any, pointer: str, message: str) -> None:
    found = {fault.pointer: fault.message for fault in check_schema(schema)}
    assert found[pointer].startswith(message), found


def test_every_fault_of_a_schema_is_found_in_one_pass() -> None:
    schema = {"properties": {"a": {"type": "x"}, "b": {"$ref": "#/c"}, "d": {"pattern": "["}}, "required": 3}
    assert sorted(fault.pointer for fault in check_schema(schema)) == [
        "#/properties/a/type", "#/properties/b/$ref", "#/properties/d/pattern", "#/required",
    ]  # fmt: skip


def test_data_of_a_schema_is_not_taken_for_a_schema() -> None:
    assert (
        check_schema({"const": {"$ref": "nowhere", "pattern": "("}, "default": {"type": "x", "$ref": 3}})
        == []
    )


def deep(levels: int) -> Any:
    found: Any = {}
    for _ in range(levels):
        found = {"items": found}
    return found


def wide(levels: int) -> Any:
    """Doubles at every level, by references."""
    return {
        "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
        | {f"d{levels}": {"type": "integer"}},
        "$ref": "#/$defs/d0",
    }


HOSTILE: dict[str, Any] = {
    "deep": deep(100_000),
    "large enum": {"enum": list(range(100_000))},
    "many properties": {"properties": {f"p{i}": {"type": "integer"} for i in range(50_000)}},
    "long text": {"const": "x" * (2 << 20)},
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_schema_is_refused_in_bounded_time(schema: Any) -> None:
    begun = time.process_time()
    (fault,) = check_schema(schema)
    assert "deep" in fault.message or "too large" in fault.message
    assert time.process_time() - begun < 30


HEAVY: dict[str, Any] = {
    "wide": wide(40),
    "enum": {"enum": [f"value {i}" for i in range(10_000)]},
    "properties": {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(2000)}},
    "counts": {"type": "array", "items": {"type": "string", "maxLength": 10**9}, "maxItems": 10**12},
    "nested counts": {"type": "array", "maxItems": 400, "items": {"type": "array", "maxItems": 400, "items": {"type": "array", "maxItems": 400}}},
    "union of unions": {"anyOf": [{"anyOf": [{"type": "string", "minLength": i * 10 + j} for j in range(20)]} for i in range(20)]},
    "pattern": {"type": "string", "pattern": "^((a{0,400}){0,400}){0,400}$"},
    "deep pattern": {"type": "string", "pattern": "(" * 300 + "a" + ")" * 300},
    "left recursion": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
}  # fmt: skip


@pytest.mark.parametrize("schema", HEAVY.values(), ids=HEAVY.keys())
def test_a_heavy_schema_has_a_grammar_that_can_be_used_all_the_same(schema: Any) -> None:
    begun = time.process_time()
    assert [fault for fault in check_schema(schema) if "itself" not in fault.message] == []
    grammar, faults = read_grammar(grammar_of({"kind": "schema", "schema": schema}))
    assert grammar is not None, faults
    assert time.process_time() - begun < 10
