"""What a step of type `local_llm` becomes, and what of it enters the key."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest

from llmc_build.errors import WorkflowError
from llmc_build.model import Digest, Json, Location, Sampling, Step, Workflow
from llmc_build.resolve import Target, resolve
from llmc_build.rules import BindError, Bound, ModelId
from llmc_build.rules.local_llm import LocalLlm

HERE = Location(file="flow.yaml", line=1, column=1)
MODEL = ModelId(reference="m", hash="ab" * 32, path="/models/m.gguf", engine="llama-cpp-python 0.3.36 cpu")
RULE = LocalLlm()


def step(name: str = "ask", **fields: object) -> Step:
    return Step(workflow="w", name=name, rule="local_llm", location=HERE, **fields)  # type: ignore[arg-type]


def target(asking: Step, *, producer: str = "make", variable: str = "text") -> Target:
    """The asking step, resolved in a workflow in which one step comes before it."""
    before = Step(workflow="w", name=producer, rule="shell", location=HERE, command="true", output=variable)
    workflow = Workflow(name="w", location=HERE, steps=(before, asking), vars={"tone": "kind"})
    return resolve([workflow]).targets[asking.id]


def bound(value: bytes = b"the text\n", model: ModelId | None = MODEL) -> Callable[[Target], Bound]:
    def make(asked: Target) -> Bound:
        values = {
            use.slot: value if use.constant is None else use.constant.encode() for use in asked.action.values
        }
        digests = {
            slot: Digest(hash=hashlib.sha256(data).hexdigest(), size=len(data))
            for slot, data in values.items()
        }
        return Bound(values=digests, read=values.__getitem__, model=model)

    return make


def components(
    asking: Step, around: Callable[[Target], Bound] | None = None, **names: str
) -> dict[str, Json]:
    asked = target(asking, **names)
    return RULE.bind(asked.action, (around or bound())(asked))


def test_the_key_holds_the_rendered_messages_the_model_and_every_parameter() -> None:
    asking = step(
        prompt="Be {{ tone }}: {{ text }}!",
        system="You read {{ w.make | json }}.",
        model="m",
        chat=True,
        sampling=Sampling(max_tokens=9, temperature=1, top_k=4, top_p=0.5, min_p=0.1, seed=7, stop=("x",)),
    )
    model = dataclasses.replace(MODEL, context=512)
    assert components(asking, bound(model=model)) == {
        "messages": [
            {"role": "system", "content": 'You read "the text".'},
            {"role": "user", "content": "Be kind: the text!"},
        ],
        "chat": True,
        "sampling": {
            "max_tokens": 9,
            "temperature": 1.0,
            "top_k": 4,
            "top_p": 0.5,
            "min_p": 0.1,
            "repeat_penalty": None,
            "seed": 7,
            "stop": ["x"],
        },
        "output": None,
        "model": "ab" * 32,
        "engine": "llama-cpp-python 0.3.36 cpu",
        "context": 512,
        "gpu_layers": None,
    }


def test_names_and_places_do_not_enter_the_key() -> None:
    """Renaming runs nothing."""
    one = components(step(prompt="Say: {{ text }}", model="m"))
    other = components(
        step("renamed", prompt="Say: {{words}}", model="alias-of-m", description="other"),
        producer="earlier",
        variable="words",
    )
    assert one == other


def test_a_value_enters_as_the_message_has_it() -> None:
    """A trailing newline that the message does not show changes nothing: early cutoff."""
    asking = step(prompt="Say: {{ text }}", model="m")
    assert components(asking, bound(b"a\n")) == components(asking, bound(b"a"))
    assert components(asking, bound(b"a")) != components(asking, bound(b"b"))


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "Other: {{ text }}"},
        {"system": "Be brief."},
        {"chat": False},
        {"sampling": Sampling(max_tokens=7)},
        {"sampling": Sampling(temperature=0.1)},
        {"sampling": Sampling(repeat_penalty=1.1)},
        {"sampling": Sampling(seed=1)},
        {"sampling": Sampling(stop=("a",))},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_may_change_the_answer_changes_the_key(changed: dict[str, object]) -> None:
    asking = step(prompt="Say: {{ text }}", model="m")
    assert components(asking) != components(dataclasses.replace(asking, **changed))  # type: ignore[arg-type]


def test_of_the_model_its_content_engine_and_context_enter_the_key_and_nothing_else() -> None:
    asking = step(prompt="hi", model="m")

    def key(**fields: object) -> dict[str, Json]:
        return components(asking, bound(model=dataclasses.replace(MODEL, **fields)))  # type: ignore[arg-type]

    same = key()
    assert key(path="/elsewhere.gguf", reference="x", threads=8, parallel=16, gpu_layers=9) == same
    assert key(batching="exact") == same
    assert key(batching="fast") != same
    for fields in ({"hash": "cd" * 32}, {"engine": "llama-cpp-python 0.4 cpu"}, {"context": 99}):
        assert key(**fields) != same
    gpu = "llama-cpp-python 0.3.36 cuda"
    assert key(engine=gpu, gpu_layers=9) != key(engine=gpu, gpu_layers=10)


def test_the_request_holds_what_the_worker_needs() -> None:
    asked = target(step(prompt="Say: {{ text }}", model="m", chat=False))
    assert RULE.request(asked.action, bound()(asked)) == {
        "messages": [{"role": "user", "content": "Say: the text"}],
        "chat": False,
        "sampling": components(step(prompt="Say: {{ text }}", model="m"))["sampling"],
        "output": None,
    }


def test_a_value_with_braces_is_text() -> None:
    """Data is never code: a value is not read as a template."""
    key = components(step(prompt="Say: {{ text }}", model="m"), bound(b"{{ tone }} {% if %}"))
    assert key["messages"] == [{"role": "user", "content": "Say: {{ tone }} {% if %}"}]


def test_a_value_that_is_no_text_is_an_error_that_names_it() -> None:
    with pytest.raises(BindError, match=r"`prompt`: the value of text is not UTF-8"):
        components(step(prompt="Say: {{ text }}", model="m"), bound(b"\xff\xfe"))


def test_an_unknown_reference_is_found_before_anything_runs() -> None:
    places = {"prompt": dataclasses.replace(HERE, line=3), "system": dataclasses.replace(HERE, line=2)}
    asking = step(prompt="a {{ txet }}", system="{{ other }}", places=places)
    with pytest.raises(WorkflowError) as error:
        target(asking)
    assert [(str(fault.location), fault.headline) for fault in error.value.faults] == [
        ("flow.yaml:2:1", 'step "ask" refers to "other", which nothing defines'),
        ("flow.yaml:3:3", 'step "ask" refers to "txet", which nothing defines'),
    ]


def test_without_a_model_file_nothing_is_bound() -> None:
    server = ModelId(reference="gpt", base_url="https://example.org/v1")
    for model in (None, server):
        with pytest.raises(BindError, match="needs a model file"):
            components(step(prompt="hi"), bound(model=model))


def test_the_order_of_the_properties_of_a_schema_changes_the_key() -> None:
    """The answer has them in that order, so it is another answer."""
    one = {"type": "object", "properties": {"a": {}, "b": {}}}
    other = {"type": "object", "properties": {"b": {}, "a": {}}}
    first, second = (components(step(prompt="x", model="m", schema=schema)) for schema in (one, other))
    assert one == other
    assert first["output"] != second["output"]
