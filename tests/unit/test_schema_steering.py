"""What grammars say of objects, lists, texts and of schemas that hold at the same time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from llmc_build.constrain import check_schema, grammar_of, verdict
from llmc_build.constrain.fitting import fits
from llmc_build.constrain.gbnf import read_grammar
from llmc_build.constrain.pattern import matches, string_grammar
from llmc_build.constrain.recognise import recognises

INT, TEXT = {"type": "integer"}, {"type": "string"}
DEFS = {"$defs": {"n": INT, "a": {"type": "object", "properties": {"a": INT}, "required": ["a"]}}}


def admits(schema: Any, value: Any) -> bool:
    grammar, faults = read_grammar(grammar_of({"kind": "schema", "schema": schema}))
    assert grammar is not None, faults
    return recognises(grammar, json.dumps(value))


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"type": "object", "required": ["x-a"], "patternProperties": {"^x-": INT}}, [{"x-a": 1}], [{"x-a": "b"}]),
        ({"type": "object", "required": ["ab"], "patternProperties": {"^a": INT, "b$": {"minimum": 3}},
          "additionalProperties": False}, [{"ab": 3}], [{"ab": 2}, {"ab": None}]),
        ({**TEXT, "format": "date", "pattern": "^2024-0[1-3]-15$"}, ["2024-02-15"], ["2025-02-15"]),
        ({**TEXT, "format": "email", "pattern": "^a@b[.]c$"}, ["a@b.c"], ["b@b.c"]),
        ({**TEXT, "format": "date", "pattern": "^(?!0)"}, ["2024-02-15"], ["x"]),
        ({**TEXT, "format": "date"}, ["0001-01-01", "0999-12-31", "2000-01-01"], ["0000-01-01"]),
        ({**TEXT, "format": "email"}, ["a@b.c", "a" * 64 + "@" + "b." * 3 + "c"],
         ["a" * 65 + "@b.c", "a@" + "b" * 64 + ".c", "a@b" + ".c" * 5]),
        ({**TEXT, "format": "email", "maxLength": 9}, ["abc@de.fg"], ["abcd@ef.gh"]),
        ({"type": "array", "prefixItems": [INT, False, INT]}, [[], [1]], [[1, 2], [1, 2, 3]]),
        ({"type": "array", "prefixItems": [False]}, [[]], [[1]]),
        ({**DEFS, "allOf": [{"$ref": "#/$defs/n", "minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6, "a"]),
        ({**DEFS, "anyOf": [{"$ref": "#/$defs/n", "minimum": 3}, {"type": "null"}]}, [3, None], [2]),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"n": INT},
          "allOf": [{"$ref": "#/definitions/n", "minimum": 3}]}, [2, 3], ["a"]),
        ({"allOf": [{"type": "object", "additionalProperties": False, "properties": {"a": INT}},
                    {"type": "object", "additionalProperties": INT}]}, [{"a": 1}, {}], [{"b": 1}]),
        ({"allOf": [{"type": "object", "patternProperties": {"^b": INT}, "additionalProperties": False},
                    {"properties": {"b": {"minimum": 1}}}]}, [{"b": 1}], []),
        ({"allOf": [{"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
                    {"anyOf": [{"required": ["c"]}, {"required": ["d"]}]}],
          "type": "object", "properties": dict.fromkeys("abcd", INT)},
         [{"a": 1, "c": 1}, {"b": 1, "d": 2}, dict.fromkeys("abcd", 0)], [{"a": 1}, {"d": 1}, {"a": 1, "b": 1}]),
        ({"allOf": [{"anyOf": [INT, TEXT]}, {"anyOf": [{"type": "null"}, TEXT]}]}, ["a"], [1, None]),
    ],
)  # fmt: skip
def test_what_a_grammar_admits(schema: Any, yes: list[Any], no: list[Any]) -> None:
    assert check_schema(schema) == []
    for value in yes:
        assert admits(schema, value), value
        assert verdict({"kind": "schema", "schema": schema}, json.dumps(value)) is None
    assert [value for value in no if admits(schema, value)] == []


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"^(?<year>\d{4})-x$", ["2024-x"], ["24-x", "y2024-x"]),
        (r"^(?<a>x|y)\k<a>$", ["xx", "yy"], ["xy"]),
        (r"^(?<=a)?b$", ["b"], ["a"]),
        (r"^[\w-\.]+$", ["a-b.c", "_"], ["a b", "a/b"]),
        (r"^[a-\d]+$", ["a-1"], ["b"]),
        (r"^[\w-a-z]+$", ["a-z"], [" "]),
        (r"^[\s-,]+$", [" -,"], ["a", "."]),
        (r"^[^]$", ["a", "\n", "]"], ["", "ab"]),
        (r"^[^]]$", ["a"], ["]"]),
        (r"^[]a]$", ["]", "a"], ["b"]),
        (r"^[\x41-\x43$]$", ["B", "$"], ["-", "D"]),
    ],
)
def test_patterns_are_those_of_ecmascript(pattern: str, yes: list[str], no: list[str]) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert check_schema(schema) == []
    assert all(matches(pattern, text) and admits(schema, text) for text in yes)
    assert not any(matches(pattern, text) for text in no)
    if string_grammar(pattern) is not None:
        assert not any(admits(schema, text) for text in no)


def test_a_hostile_pattern_does_not_keep_the_matcher_of_names_busy() -> None:
    begun = time.process_time()
    assert not fits("^(a|a|aa)*(a+)+$", "a" * 60 + "b")
    names = [f"{'a' * 60}{i}" for i in range(40)]
    pattern = {
        "type": "object",
        "required": names,
        "patternProperties": {"^((a+)+)+$": INT, "^(a|aa)+$": INT},
    }
    assert grammar_of({"kind": "schema", "schema": pattern})
    assert fits("^x-", "x-a")
    assert not fits("^(?!x)", "a")
    assert time.process_time() - begun < 30
