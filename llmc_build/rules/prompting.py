"""What the rules that ask a model share: messages with values in them, sessions, sampling.  Pure.

Owns how a step's `prompt`, `messages`, `system` and `session` become the parameters of an action, and how
these become messages once the values are known.  The grammar of prompts is `template`; what a model makes of
the messages is `llm.prompts` (a file) or the server's business.

An action keeps each text as it was written, with the slots of its references in order; names never enter
a key, since what enters is the messages.

A conversation is a list of *turns*: what a step says, and the slot of what it was answered.  The last turn is
the step's own, and has no answer yet.  A turn whose step was skipped was never said, but for the system
message with which a conversation begins.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping

from llmc_build.model import Action, Json, Sampling, Step
from llmc_build.placeholder import Problem, TemplateError
from llmc_build.rules import BindError, Bound, Scope
from llmc_build.template import Prompt, parse_prompt

MOST_TURNS = 1000  # of a session
Messages = list[dict[str, str]]

_parse = functools.lru_cache(maxsize=1024)(parse_prompt)


def prompt_params(step: Step, scope: Scope) -> dict[str, Json]:
    """The parameters of an action that asks a model; faults in the texts are left with the scope."""
    turns: list[Json] = []
    if step.session is not None:
        with scope.reading("session", step.session):
            turns = scope.earlier()
            if len(turns) >= MOST_TURNS:
                hint = "let a step sum up what was said, and begin a session with that"
                raise TemplateError([Problem(f"a session has more than {MOST_TURNS} steps", 0, hint)])
    begins = turns[0]["messages"] if turns and isinstance(turns[0], dict) else None
    own = _own_messages(step, scope, begins if isinstance(begins, list) else None)
    if step.session is not None:
        scope.said(own)
    turns.append({"messages": [dict(one) for one in own], "answer": None})
    return {
        "chat": step.chat,
        "sampling": sampling_params(step.sampling),
        "turns": turns,
        "output": output_param(step),
        "samples": step.samples,
    }


def samples_component(action: Action) -> dict[str, Json]:
    """What of `samples` enters a key: one answer has the key of a step without them."""
    samples = action.params["samples"]
    return {} if samples is None else {"samples": samples}


def output_param(step: Step) -> Json:
    """What the answer must be, as the workers are told; None: anything."""
    if step.schema is not None:
        return {"kind": "schema", "schema": step.schema}
    if step.grammar is not None:
        return {"kind": "grammar", "grammar": step.grammar}
    return None if step.format is None else {"kind": "json"}


def _own_messages(step: Step, scope: Scope, begins: list[Json] | None) -> list[dict[str, Json]]:
    """What a step says.  `begins`: the messages with which its session begins, where others came before."""
    found: list[dict[str, Json]] = []
    if step.system is not None:
        with scope.reading("system", step.system):
            if begins is None:
                found += _message("system", "system", step.system, scope)
            elif not _begins_with(begins, step.system):
                hint = f'the first step of session "{step.session}" says it for all of them'
                raise TemplateError([Problem("a session has one `system`, where it begins", 0, hint)])
    if step.prompt is not None:
        with scope.reading("prompt", step.prompt):
            found += _message("prompt", "user", step.prompt, scope)
    for i, turn in enumerate(step.messages):
        name = f"messages[{i}]"
        with scope.reading(name, turn.content):
            if turn.role == "system" and begins is not None:
                hint = f'the first step of session "{step.session}" says it for all of them'
                raise TemplateError([Problem("a session has one system message, where it begins", 0, hint)])
            found += _message(name, turn.role, turn.content, scope)
    return found


def _begins_with(begins: list[Json], system: str) -> bool:
    return any(
        isinstance(one, dict) and one["field"] == "system" and one["source"] == system for one in begins
    )


def _message(field: str, role: str, source: str, scope: Scope) -> Iterator[dict[str, Json]]:
    yield {"field": field, "role": role, **text_param(source, scope)}


def text_param(source: str, scope: Scope) -> dict[str, Json]:
    """A text with its references' slots; to be asked for within `scope.reading`.  Raises TemplateError."""
    return {"source": source, "slots": [scope.slot(ref) for ref in _parse(source).refs]}


def output_component(action: Action) -> Json:
    """What of `output` enters a key: a schema as text, for the order of its properties steers an answer."""
    output = action.params["output"]
    if isinstance(output, dict) and output["kind"] == "schema":
        return {"kind": "schema", "schema": json.dumps(output["schema"])}
    return output


def sampling_params(sampling: Sampling) -> dict[str, Json]:
    """Every sampling parameter, as it enters the key and the request."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": float(sampling.temperature),
        "top_k": sampling.top_k,
        "top_p": _number(sampling.top_p),
        "min_p": _number(sampling.min_p),
        "repeat_penalty": _number(sampling.repeat_penalty),
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }


def messages_of(action: Action, bound: Bound) -> Messages:
    """The messages with their values; raises BindError where a value can't be part of a text."""
    found: Messages = []
    for turn in objects(action.params["turns"]):
        answer = turn["answer"]
        was_said = answer is None or str(answer) not in bound.skipped
        for one in objects(turn["messages"]):
            if was_said or one["role"] == "system":
                found.append({"role": str(one["role"]), "content": render(one, str(one["field"]), bound)})
        if answer is not None and was_said:
            found.append({"role": "assistant", "content": _answer(str(answer), bound)})
    return found


def _answer(slot: str, bound: Bound) -> str:
    try:
        return bound.read(slot).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BindError(f"`session`: an earlier answer is not UTF-8 text (byte {error.start})") from None


def as_json(messages: Messages) -> list[Json]:
    """The messages as a JSON value."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def render(text: Mapping[str, Json], field: str, bound: Bound) -> str:
    """A text of `text_param` with its values.  Raises BindError."""
    source, slots = text["source"], text["slots"]
    assert isinstance(source, str)
    assert isinstance(slots, list)
    prompt: Prompt = _parse(source)
    slot_of = dict(zip(prompt.refs, map(str, slots), strict=True))
    try:
        return prompt.render(lambda ref: bound.read(slot_of[ref]))
    except ValueError as error:
        raise BindError(f"`{field}`: {error}") from None


def objects(value: Json) -> Iterable[dict[str, Json]]:
    """The objects of a list of objects."""
    assert isinstance(value, list)
    return (one for one in value if isinstance(one, dict))


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
