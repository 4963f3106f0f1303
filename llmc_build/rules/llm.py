"""The rule `llm`: a prompt answered by an OpenAI-compatible server.  Pure.

Owns how such a step becomes an action, what of it enters the key, and the message for the http lane.  How
prompts get their values is `prompting`; how the server is asked is `llm.http`.

The key names the server by its address and its word for the model, since what lies behind them can't be
hashed.  The API key is no part of it: neither its value nor the name of the variable that holds it.
"""

from __future__ import annotations

from llmc_build.llm.openai import ENGINE, normal_base_url
from llmc_build.model import Action, Json, Step
from llmc_build.rules import BindError, Bound, ModelId, Scope, action_of
from llmc_build.rules.prompting import (
    as_json,
    messages_of,
    output_component,
    prompt_params,
    samples_component,
)


class Llm:
    name = "llm"
    version = 2
    lane = "http"

    def lower(self, step: Step, scope: Scope) -> Action:
        params: dict[str, Json] = {"model": step.model, **prompt_params(step, scope)}
        return action_of(self, step, scope, params)

    def bind(self, action: Action, bound: Bound) -> dict[str, Json]:
        model = _server(bound)
        return {
            "messages": as_json(messages_of(action, bound)),
            "chat": _chat(action),
            "sampling": action.params["sampling"],
            "output": output_component(action),
            **samples_component(action),
            "endpoint": {"base_url": base_url_of(model), "model": model.remote_name},
            "engine": ENGINE,
        }

    def request(self, action: Action, bound: Bound) -> dict[str, Json]:
        model = _server(bound)
        messages = messages_of(action, bound)
        chat = _chat(action)
        return {
            "base_url": base_url_of(model),
            "model": model.remote_name,
            "api_key_env": model.api_key_env,
            "prices": list(model.prices) if model.prices is not None else None,
            "messages": as_json(messages),
            "prompt": None if chat else "\n\n".join(message["content"] for message in messages),
            "chat": chat,
            "sampling": action.params["sampling"],
            "output": action.params["output"],
        }


def _chat(action: Action) -> bool:
    return action.params["chat"] is not False  # a server's chat endpoint is what steps mean by default


def _server(bound: Bound) -> ModelId:
    if bound.model is None or not bound.model.base_url or not bound.model.remote_name:
        raise BindError("a step of type `llm` needs a server: give its model a `base_url` in llmc.yaml")
    return bound.model


def base_url_of(model: ModelId) -> str:
    """The address of a server.  Raises BindError."""
    try:
        return normal_base_url(model.base_url or "")
    except ValueError as error:
        raise BindError(f"model {model.reference}: {error}") from None
