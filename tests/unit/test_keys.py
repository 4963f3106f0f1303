"""The key: what enters it, how it is encoded, and what is said of two that differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc_build import workflow
from llmc_build.keys import action_key, canonical, difference, key_of
from llmc_build.model import ActionKey, Digest
from llmc_build.resolve import resolve
from llmc_build.rules import Bound, ModelId, rule

VALUE = Digest(hash="ab" * 32, size=3)
MODEL = ModelId(reference="m", hash="cd" * 32, engine="llama-cpp-python 1 cpu", path="/somewhere")


def key(step: str, *, model: ModelId = MODEL, value: Digest = VALUE, **more: object) -> ActionKey:
    text = f"name: w\nvars: {{x: abc}}\nsteps:\n  - {step}\n"
    action = resolve(workflow.parse(text, "f.yaml")).targets["w.s"].action
    bound = Bound(
        values={use.slot: value for use in action.values},
        read=lambda slot: b"abc",
        platform="linux-x86_64",
        model=model,
    )
    return action_key(rule(action.rule), action, bound, **{"files": {}, "env": {}, **more})  # type: ignore[arg-type]


SHELL = "{name: s, command: 'echo {{x}}'}"
LOCAL = "{name: s, type: local_llm, model: m, prompt: 'say {{x}}', max_tokens: 9}"


@pytest.mark.parametrize(
    "other",
    [
        "{name: s, command: 'echo {{x}}', timeout: 3, retries: 2, description: d, output: o}",
        "{name: s, command: 'echo {{x}}', secrets: {T: v}, if: \"1 == 1\"}",
    ],
)
def test_what_does_not_determine_the_result_is_not_in_the_key(other: str) -> None:
    assert key(SHELL).hash == key(other).hash


@pytest.mark.parametrize(
    "other",
    [
        "{name: s, command: 'echo  {{x}}'}",
        "{name: s, command: 'echo \"{{x}}\"'}",
        "{name: s, command: 'echo {{x | raw}}'}",
        "{name: s, command: 'echo {{x}}', shell: bash}",
        "{name: s, command: 'echo {{x}}', outputs: [o]}",
        "{name: s, command: 'echo {{x}}', sandbox: false}",
        "{name: s, command: 'echo {{x}}', cache: {version: 2}}",
    ],
)
def test_what_determines_the_result_is_in_the_key(other: str) -> None:
    assert key(SHELL).hash != key(other).hash


@pytest.mark.parametrize("step", [SHELL, LOCAL])
def test_the_version_of_the_rule_is_in_the_key(step: str) -> None:
    """An llmc that does a step in another way must not serve what an older one made."""
    components = key(step).components
    name = str(components["rule"])
    assert components["rule_version"] == rule(name).version
    assert key_of({**components, "rule_version": rule(name).version + 1}).hash != key(step).hash


def test_the_content_of_values_files_and_variables_is_in_the_key() -> None:
    other = Digest(hash="ef" * 32, size=3)
    assert key(SHELL).hash != key(SHELL, value=other).hash
    assert key(SHELL).hash != key(SHELL, files={"a": (VALUE, False)}).hash
    assert key(SHELL, files={"a": (VALUE, False)}).hash != key(SHELL, files={"a": (VALUE, True)}).hash
    assert key(SHELL, env={"A": "1"}).hash != key(SHELL, env={"A": "2"}).hash
    assert key(SHELL, env={"A": ""}).hash != key(SHELL, env={"A": None}).hash


@pytest.mark.parametrize(
    "field",
    [
        "max_tokens: 10",
        "temperature: 0.5",
        "top_k: 3",
        "top_p: 0.9",
        "min_p: 0.1",
        "repeat_penalty: 1.1",
        "seed: 7",
        "stop: [a]",
        "chat: false",
        "system: be brief",
    ],
)
def test_every_sampling_parameter_is_in_the_key(field: str) -> None:
    changed = LOCAL.replace("max_tokens: 9", field if field.startswith("max") else f"max_tokens: 9, {field}")
    assert key(LOCAL).hash != key(changed).hash


def test_a_model_is_its_content_and_its_engine_not_its_name_or_place() -> None:
    def change(**changes: str) -> str:
        return key(LOCAL, model=dataclasses.replace(MODEL, **changes)).hash

    same = key(LOCAL).hash
    assert change(reference="other", path="/elsewhere") == same
    assert change(hash="00" * 32) != same
    assert change(engine="llama-cpp-python 2 cpu") != same
    assert change(engine="llama-cpp-python 1 cuda") != same


def test_prompts_that_come_to_the_same_messages_are_one_action() -> None:
    written_out = LOCAL.replace("{{x}}", "abc")
    assert key(LOCAL).hash == key(written_out).hash


def test_a_server_is_its_endpoint_and_name_and_never_its_key() -> None:
    step = LOCAL.replace("local_llm", "llm")
    server = ModelId(
        reference="m", engine="openai-chat/1", base_url="http://a/v1", remote_name="m", api_key_env="K"
    )

    def change(**changes: str) -> str:
        return key(step, model=dataclasses.replace(server, **changes)).hash

    assert change(api_key_env="OTHER") == change()
    assert change(base_url="http://b/v1") != change()
    assert change(remote_name="n") != change()


def test_the_difference_of_two_keys_names_what_changed() -> None:
    old = {
        "files": {"a": ["1", 1, False], "b": ["2", 1, False]},
        "env": {"M": "x"},
        "script": "s",
        "rule": "shell",
    }
    new = {
        "files": {"a": ["9", 1, False], "c": ["2", 1, False]},
        "env": {"M": "y"},
        "script": "t",
        "rule": "shell",
    }
    assert difference(old, new) == (
        "variable M changed",
        "file a changed",
        "file b is gone",
        "file c is new",
        "script changed",
    )
    assert difference(old, old) == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def shape(value: object) -> object:
    """A value with its types, so that 1, 1.0 and True are told apart."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value]
    return (type(value).__name__, repr(value))


@given(json_values, json_values)
def test_two_values_encode_alike_only_where_they_are_equal(a: object, b: object) -> None:
    encode: Callable[[object], bytes] = canonical  # type: ignore[assignment]
    assert (encode(a) == encode(b)) == (shape(a) == shape(b))
