"""What the rules that ask a model share: prompts with values in them, and sampling.  Pure.

Owns how a step's `prompt` and `system` become the parameters of an action, and how these become messages
once the values are known.  The grammar of prompts is `template`; what a model makes of the messages is
`llm.prompts` (a file) or the server's business.

An action keeps each text as it was written, with the slots of its references in order; names never enter
a key, since what enters is the messages.
"""

from __future__ import annotations

import functools

from llmc_build.model import Action, Json, Sampling, Step
from llmc_build.rules import BindError, Bound, Scope
from llmc_build.template import Prompt, parse_prompt

ROLES = {"system": "system", "prompt": "user"}  # field of a step -> role of its message, in their order
Messages = list[dict[str, str]]

_parse = functools.lru_cache(maxsize=1024)(parse_prompt)


def prompt_params(step: Step, scope: Scope) -> dict[str, Json]:
    """The parameters of an action that asks a model; faults in the texts are left with the scope."""
    params: dict[str, Json] = {"chat": step.chat, "sampling": sampling_params(step.sampling)}
    for name, source in (("system", step.system), ("prompt", step.prompt)):
        if source is None:
            continue
        with scope.reading(name, source):
            params[name] = {"source": source, "slots": [scope.slot(ref) for ref in _parse(source).refs]}
    return params


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
    return [
        {"role": role, "content": _render(action, name, bound)}
        for name, role in ROLES.items()
        if name in action.params
    ]


def as_json(messages: Messages) -> list[Json]:
    """The messages as a JSON value."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _render(action: Action, name: str, bound: Bound) -> str:
    field = action.params[name]
    assert isinstance(field, dict)
    source, slots = field["source"], field["slots"]
    assert isinstance(source, str)
    assert isinstance(slots, list)
    prompt: Prompt = _parse(source)
    slot_of = dict(zip(prompt.refs, map(str, slots), strict=True))
    try:
        return prompt.render(lambda ref: bound.read(slot_of[ref]))
    except ValueError as error:
        raise BindError(f"`{name}`: {error}") from None


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
