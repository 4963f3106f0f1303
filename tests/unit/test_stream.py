"""Streams of events: whatever arrives, in whatever pieces, is an answer or a failure."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.llm import bodies
from llmc_build.llm.bodies import Form, relaxed
from llmc_build.llm.openai import Answer, Failure, read_embeddings, read_reply
from llmc_build.llm.stream import Stream

KEY = "sk-0123456789abcdefghijkl"


def read(*pieces: bytes) -> Answer:
    stream = Stream(chat=True, secret=KEY, on_text=lambda text, count: None)
    for piece in pieces:
        stream.feed(piece)
    return stream.answer()


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def piece(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


DONE = b"data: [DONE]\n\n"
texts = st.lists(st.text(max_size=5), max_size=5)


@given(texts, st.data())
def test_an_answer_does_not_depend_on_where_its_bytes_are_cut(said: list[str], data: st.DataObject) -> None:
    whole = b"".join([*(event(piece(text)) for text in said), event(piece(None, "stop")), DONE])
    at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    cut = [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]
    assert read(*cut) == read(whole)
    assert read(whole).text == "".join(said)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.text(max_size=4) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "usage", "error", "finish_reason", "text", "prompt_tokens"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.one_of(values.map(event), st.binary(max_size=30), st.just(DONE), st.just(b"\n"))))
def test_whatever_a_server_sends_is_an_answer_or_a_failure(sent: list[bytes]) -> None:
    with contextlib.suppress(Failure):
        answer = read(*sent)
        answer.text.encode("utf-8")
        assert answer.generated_tokens is not None


@given(values | st.binary(max_size=40), st.integers(0, 3))
def test_whatever_a_server_sends_for_vectors_is_vectors_or_a_failure(sent: Any, wanted: int) -> None:
    data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    with contextlib.suppress(Failure):
        vectors, _ = read_embeddings(data, wanted)
        assert len(vectors) == wanted


def test_a_stream_without_an_end_is_not_read_for_ever() -> None:
    stream = Stream(chat=True, secret=None, on_text=lambda text, count: None)
    with pytest.raises(Failure, match="more than 256 MiB"):
        while True:
            stream.feed(b"x" * (1 << 22))


def test_what_is_in_the_usage_wins_over_what_was_counted() -> None:
    sent = [event(piece("a")), event(piece("b", "length"))]
    assert (read(*sent).generated_tokens, read(*sent).is_counted) == (2, True)
    told = read(*sent, event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}))
    assert (told.prompt_tokens, told.generated_tokens, told.is_counted, told.finish) == (
        3,
        9,
        False,
        "length",
    )


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_an_answer_that_a_server_broke_off_is_none(finish: str) -> None:
    """vLLM and OpenRouter end a reply so, in order, with what there was of the text."""
    whole = {"choices": [{"message": {"content": "The ans"}, "finish_reason": finish}]}
    for reading in (
        lambda: read(event(piece("The ans")), event(piece("", finish)), DONE),
        lambda: read_reply(json.dumps(whole).encode(), chat=True),
    ):
        with pytest.raises(Failure) as caught:
            reading()
        assert caught.value.retryable
        assert caught.value.text == f"broke off in the middle of its answer (finish_reason {finish})"


SCHEMA = {"kind": "schema", "schema": {}}


def test_a_form_is_relaxed_by_what_a_refusal_names_and_never_without_end() -> None:
    assert relaxed(Form(), "the prompt is too long", SCHEMA) is None
    assert relaxed(Form(), "response_format is not supported", None) is None
    form: Form | None = Form()
    for refusal in ("stream_options", "stream", "max_completion_tokens", *["json_schema"] * 4):
        assert form is not None
        form = relaxed(form, f"Unknown field: {refusal}", SCHEMA)
    assert form == Form(stream=False, stream_options=False, completion_tokens=True, shape=4)
    for word in ("stream_options", "stream", "max_completion_tokens", "json_schema"):
        assert relaxed(form, word, SCHEMA) is None
    body = json.loads(
        bodies.completion(
            model="m",
            messages=[],
            prompt=None,
            chat=True,
            sampling={"max_tokens": 3},
            output=SCHEMA,
            form=form,
        )
    )
    assert body == {"model": "m", "messages": [], "max_completion_tokens": 3, "stream": False}
