"""Numbers as grammars: bounds, exclusive ones too, multiples, and how many digits there may be."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from llmc_build.constrain import check_schema, grammar_of, verdict
from llmc_build.constrain.gbnf import read_grammar
from llmc_build.constrain.numbers import multiples
from llmc_build.constrain.recognise import recognises

NUMBER, INT = {"type": "number"}, {"type": "integer"}


def admits(schema: Any, text: str) -> bool:
    grammar, faults = read_grammar(grammar_of({"kind": "schema", "schema": schema}))
    assert grammar is not None, faults
    return recognises(grammar, text)


@pytest.mark.parametrize("seed", range(16))
def test_multiples_between_bounds_are_exactly_those(seed: int) -> None:
    chance = random.Random(seed)
    step = chance.choice([2, 3, 5, 7, 10, 12, 30, 64, 100, 199, 250, 300])
    low = chance.choice([None, chance.randint(-200_000, 200_000)])
    high = chance.choice([None, chance.randint(low if low is not None else -200_000, 400_000)])
    body, rules = multiples(step, low, high)
    text = "\n".join([f"root ::= {body}", *(f"{name} ::= {rule}" for name, rule in rules.items())])
    grammar, faults = read_grammar(text)
    assert grammar is not None, faults
    edges = [
        edge // step * step + d * step for edge in (low, high, 0) if edge is not None for d in (-1, 0, 1, 2)
    ]
    near = [number + d for number in edges for d in (-1, 0, 1)]
    for number in [*near, *(chance.randint(-6 * 10**5, 6 * 10**5) // step * step for _ in range(40))]:
        wanted = (low is None or number >= low) and (high is None or number <= high) and number % step == 0
        assert recognises(grammar, str(number)) == wanted, (step, low, high, number)
    assert not any(recognises(grammar, text) for text in ("-0", "0" * step, f"0{step}", f"{step}.0", ""))


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({**INT, "multipleOf": 7}, ["0", "-7", "7" * 18], ["7" * 19, "6"]),
        ({**INT, "multipleOf": 5, "minimum": 100, "maximum": 99_999}, ["100", "99995"], ["0", "95", "100000", "101"]),
        ({**INT, "multipleOf": 5, "minimum": 5}, ["5"], ["0", "-5"]),
        ({**INT, "multipleOf": 1000, "minimum": 1}, ["1000", "123000"], ["0", "100", "1500", "-1000"]),
        ({**INT, "multipleOf": 86_400, "maximum": 10**9}, ["0", "86400", "-864000"], ["86401", "100", "14500"]),
        ({**INT, "multipleOf": 2.5}, ["5", "-10"], ["2", "7"]),
        ({**INT, "multipleOf": 365}, ["365", "730"], ["366", "365" * 7]),
        ({**INT, "multipleOf": 1021, "minimum": 3}, ["1021"], ["1", "9" * 20]),
        ({**INT, "minimum": 1, "maximum": 9223372036854775807}, ["1", "9" * 18], ["0", "-1"]),
        ({**INT, "minimum": -9223372036854775808, "maximum": -1}, ["-1"], ["0", "1"]),
        ({**INT, "minimum": 10**19 + 5}, [str(10**19 + 5)], ["1", str(10**19)]),
        ({**NUMBER, "exclusiveMinimum": 0}, ["0.5", "0.0001", "1", "1.0"], ["0", "0.0", "-1"]),
        ({**NUMBER, "exclusiveMaximum": 1}, ["0.999", "-3", "0"], ["1", "1.0"]),
        ({**NUMBER, "exclusiveMaximum": 0}, ["-0.5", "-2"], ["0", "-0", "-0.0", "1"]),
        ({**NUMBER, "exclusiveMinimum": -1, "exclusiveMaximum": 1}, ["-0.9", "0", "0.9"], ["-1", "1"]),
        ({**NUMBER, "minimum": 0, "exclusiveMinimum": 0, "maximum": 1}, ["1", "0.1"], ["0"]),
        ({**NUMBER, "exclusiveMinimum": 0, "multipleOf": 0.01}, ["0.01", "0.50", "1.00"], ["0.00", "0.001"]),
        ({**NUMBER, "maximum": 0}, ["0", "-1.5"], ["1", "0.5"]),
        ({**NUMBER, "minimum": 0, "maximum": 0}, ["0"], ["1", "-1"]),
        ({**NUMBER, "minimum": 1, "maximum": 1}, ["1"], ["0", "2"]),
        ({**NUMBER, "minimum": -1, "maximum": -1}, ["-1"], ["0", "1"]),
        ({**NUMBER, "multipleOf": 0.25}, ["0.25", "1.5"], ["0.125"]),
        ({"$schema": "http://json-schema.org/draft-04/schema#", **NUMBER, "minimum": 0, "exclusiveMinimum": True},
         ["0.1"], ["0"]),
    ],
)  # fmt: skip
def test_numbers_of_a_schema(schema: Any, yes: list[str], no: list[str]) -> None:
    assert check_schema(schema) == []
    for text in yes:
        assert admits(schema, text), text
        assert verdict({"kind": "schema", "schema": schema}, text) is None or len(text) > 17
    assert [text for text in no if admits(schema, text)] == []


def test_many_multiples_share_their_rules() -> None:
    """Each could have thousands, and a grammar of too many rules is that of any value."""
    some = {"type": "integer", "multipleOf": 150, "minimum": 0}
    schema = {"type": "object", "properties": {f"p{i}": {**some, "maximum": 10**9 + i} for i in range(40)}}
    assert not admits(schema, '{"p0": 7}')
    assert admits(schema, json.dumps({"p0": 150, "p39": 0}))
