"""The rule `local_llm`: a prompt answered by a model file on this machine.  Pure.

Owns how such a step becomes an action, what of it enters the key, and the message for the model worker.
How prompts get their values is `prompting`; how they are answered is `llm.engine`.

The key has the context that llmc.yaml gives the model, since some models compute otherwise in a longer one,
and the layers on a GPU where there is one.  It has neither threads nor width: they do not change an answer.
"""

from __future__ import annotations

from llmc_build.model import Action, Json, Step
from llmc_build.rules import BindError, Bound, Scope, action_of
from llmc_build.rules.prompting import (
    as_json,
    messages_of,
    output_component,
    prompt_params,
    samples_component,
)

_NO_GPU = " cpu"  # how the engine's name ends where llama.cpp has no other backend


class LocalLlm:
    name = "local_llm"
    # Also of how `llm.prompts`, `llm.sampler` and `constrain.steering` turn a request into an answer.
    version = 4
    lane = "model"

    def lower(self, step: Step, scope: Scope) -> Action:
        params: dict[str, Json] = {"model": step.model, **prompt_params(step, scope)}
        return action_of(self, step, scope, params)

    def bind(self, action: Action, bound: Bound) -> dict[str, Json]:
        return {
            "messages": as_json(messages_of(action, bound)),
            "chat": action.params["chat"],
            "sampling": action.params["sampling"],
            "output": output_component(action),
            **samples_component(action),
            **file_components(self.name, bound),
        }

    def request(self, action: Action, bound: Bound) -> dict[str, Json]:
        return {
            "messages": as_json(messages_of(action, bound)),
            "chat": action.params["chat"],
            "sampling": action.params["sampling"],
            "output": action.params["output"],
        }


def file_components(rule: str, bound: Bound) -> dict[str, Json]:
    """What of a model file and its engine enters a key.  Raises BindError."""
    model = bound.model
    if model is None or model.hash is None:
        raise BindError(f"a step of type `{rule}` needs a model file: name one in `model`")
    return {
        "model": model.hash,
        "engine": model.engine,
        "context": model.context,
        "gpu_layers": None if model.engine.endswith(_NO_GPU) else model.gpu_layers,
        **({"batching": "fast"} if model.batching == "fast" else {}),
    }
