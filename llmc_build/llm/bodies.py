"""What is asked of an OpenAI-compatible server, in the form that it takes.  Pure.

Owns request bodies and the *form* of a server: which of the protocol's newer fields it knows.  Servers say
so by refusing them, so the newest form is tried first, and a refusal that names a field gives the next one
(`relaxed`). What replies mean is `openai`; that the form is remembered for a server is `talk`'s.

    stream, stream_options    the answer as it comes, and its usage at the end
    response_format           json_schema (strict, then not), json_object with a schema as llama-cpp-python
                              has it, json_object
    grammar                   GBNF, as llama.cpp's servers have it
    max_tokens                or max_completion_tokens, where a server wants that

Whatever a server makes of these, its answer is checked afterwards (`verdicts`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from llmc_build.frozen import frozen
from llmc_build.model import Json

_SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")
_SHAPES = 4  # ways to ask for JSON, the last of which is not to ask


@frozen(kw_only=True)
class Form:
    """How a server is asked."""

    stream: bool = True
    stream_options: bool = True
    completion_tokens: bool = False  # `max_completion_tokens` instead of `max_tokens`
    shape: int = 0  # of `response_format`


def completion(
    *,
    model: str,
    messages: Json,
    prompt: str | None,
    chat: bool,
    sampling: Mapping[str, Json],
    output: Json = None,
    form: Form,
) -> bytes:
    """The body of a request for an answer.  Equal requests give equal bytes; what is not set is not sent.

    `top_k`, `min_p` and `repeat_penalty` are extensions: OpenAI itself refuses them.
    """
    body: dict[str, Json] = {"model": model, "stream": form.stream}
    if form.stream and form.stream_options:
        body["stream_options"] = {"include_usage": True}
    if chat:
        body["messages"] = messages
    else:
        body["prompt"] = prompt or ""
    for name in _SAMPLING:
        value = sampling.get(name)
        if value is not None and value != []:
            renamed = form.completion_tokens and name == "max_tokens"
            body["max_completion_tokens" if renamed else name] = value
    body.update(_constraint(output, form))
    return _encoded(body)


def embeddings(*, model: str, texts: list[str]) -> bytes:
    """The body of a request for vectors."""
    return _encoded({"model": model, "input": list(texts), "encoding_format": "float"})


def _constraint(output: Json, form: Form) -> dict[str, Json]:
    if not isinstance(output, dict):
        return {}
    if output.get("kind") == "grammar":
        return {"grammar": output.get("grammar")}
    schema = output.get("schema")
    if schema is None:
        return {"response_format": {"type": "json_object"}} if form.shape < _SHAPES - 1 else {}
    whole: dict[str, Json] = {"name": "answer", "schema": schema}
    shapes: list[dict[str, Json]] = [
        {"type": "json_schema", "json_schema": {**whole, "strict": True}},
        {"type": "json_schema", "json_schema": whole},
        {"type": "json_object", "schema": schema},
        {"type": "json_object"},
    ]
    return {"response_format": shapes[form.shape]} if form.shape < len(shapes) else {}


def relaxed(form: Form, refusal: str, output: Json) -> Form | None:
    """The form to try after a refusal of the request as such (400, 422); None: it is not about the form."""
    text = refusal.lower()
    if "stream_options" in text and form.stream and form.stream_options:
        return replace(form, stream_options=False)
    if "max_completion_tokens" in text and not form.completion_tokens:
        return replace(form, completion_tokens=True)
    shaped = isinstance(output, dict) and output.get("kind") in ("schema", "json")
    about_shape = any(word in text for word in ("response_format", "json_schema", "json_object", "schema"))
    if shaped and about_shape and form.shape < _SHAPES:
        return replace(form, shape=form.shape + 1)
    if "stream" in text and form.stream:
        return replace(form, stream=False)
    return None


def _encoded(body: dict[str, Json]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
