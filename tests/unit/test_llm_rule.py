"""The rule `llm`: what of a step enters its key, and what the http lane is told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmc_build.model import Location, Sampling, Step, ValueUse
from llmc_build.rules import BindError, Bound, ModelId, rule
from llmc_build.template import Ref

STEP = Step(
    workflow="w",
    name="ask",
    rule="llm",
    location=Location(file="flow.yaml", line=1, column=1),
    system="Be brief.",
    prompt="Sum up: {{ text }}",
    model="gpt",
    sampling=Sampling(max_tokens=9, top_p=1, stop=("END",)),
)
MODEL = ModelId(
    reference="gpt",
    engine="openai-chat/1",
    base_url="https://Example.com/v1/",
    remote_name="gpt-4o-mini",
    api_key_env="MY_KEY",
)
LLM = rule("llm")


class OneValue:
    """A scope in which every name means one value."""

    def slot(self, ref: Ref) -> str:
        return "v0"

    @contextlib.contextmanager
    def reading(self, name: str, source: str) -> Iterator[None]:
        yield

    def values(self) -> tuple[ValueUse, ...]:
        return (ValueUse(slot="v0", name="text", producer="w.a"),)


def bound(value: bytes = b"the text\n", model: ModelId | None = MODEL) -> Bound:
    return Bound(read=lambda slot: value, model=model)


def components(step: Step = STEP, **how: Any) -> dict[str, Any]:
    return LLM.bind(LLM.lower(step, OneValue()), bound(**how))


def request(step: Step = STEP, **how: Any) -> dict[str, Any]:
    return LLM.request(LLM.lower(step, OneValue()), bound(**how))


def test_the_key_is_made_of_what_is_asked_and_of_whom() -> None:
    assert components() == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sum up: the text"},
        ],
        "chat": True,
        "sampling": {
            "max_tokens": 9,
            "temperature": 0.0,
            "top_k": None,
            "top_p": 1.0,
            "min_p": None,
            "repeat_penalty": None,
            "seed": 0,
            "stop": ["END"],
        },
        "output": None,
        "endpoint": {"base_url": "https://example.com/v1", "model": "gpt-4o-mini"},
        "engine": "openai-chat/1",
    }


def test_names_and_the_api_key_are_no_part_of_the_key() -> None:
    """Another account, another name of the model in llmc.yaml: the same question."""
    renamed = replace(STEP, name="other", workflow="z", model="alias", prompt="Sum up: {{ same }}")
    other = replace(MODEL, reference="alias", api_key_env="ANOTHER", base_url="https://example.com/v1")
    assert components(renamed, model=other) == components()
    assert "MY_KEY" not in json.dumps(components())


@pytest.mark.parametrize(
    "step",
    [
        replace(STEP, system=None),
        replace(STEP, chat=False),
        replace(STEP, sampling=Sampling(max_tokens=9)),
        replace(STEP, prompt="Sum up, {{ text }}"),
    ],
)
def test_what_is_asked_differently_has_another_key(step: Step) -> None:
    assert components(step) != components()


def test_another_value_server_or_model_has_another_key() -> None:
    assert components(value=b"another") != components()
    assert components(model=replace(MODEL, remote_name="gpt-4o")) != components()
    assert components(model=replace(MODEL, base_url="http://localhost/v1")) != components()


def test_chat_left_out_is_chat() -> None:
    """A server doesn't tell whether its model has a template; its chat endpoint is what is meant."""
    assert components(replace(STEP, chat=True)) == components()


def test_the_lane_is_told_the_name_of_the_variable_and_no_key() -> None:
    assert request() == {
        "base_url": "https://example.com/v1",
        "model": "gpt-4o-mini",
        "api_key_env": "MY_KEY",
        "messages": components()["messages"],
        "prompt": None,
        "chat": True,
        "sampling": components()["sampling"],
        "output": None,
        "prices": None,
    }


def test_without_chat_the_texts_are_one_prompt() -> None:
    assert request(replace(STEP, chat=False))["prompt"] == "Be brief.\n\nSum up: the text"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (None, "needs a server"),
        (ModelId(reference="m", hash="0" * 64, path="/m.gguf"), "needs a server"),
        (replace(MODEL, base_url="localhost:80/v1"), "model gpt: base_url is not an http or https address"),
    ],
)
def test_a_model_without_a_usable_server_fails_the_step(model: ModelId | None, text: str) -> None:
    with pytest.raises(BindError, match=text):
        components(model=model)
