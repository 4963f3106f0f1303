"""The rule `embed`: texts as vectors, by a model file on this machine or by a server.  Pure.

Owns how such a step becomes an action, what of it enters the key, and the message for the worker.  Which of
the two kinds of worker answers is a matter of the model: `lanes` knows.
"""

from __future__ import annotations

from llmc_build.model import Action, Json, Step
from llmc_build.rules import BindError, Bound, Scope, action_of
from llmc_build.rules.llm import base_url_of
from llmc_build.rules.local_llm import file_components
from llmc_build.rules.prompting import objects, render, text_param


class Embed:
    name = "embed"
    version = 1  # also of how `llm.engine` turns a text into a vector
    lane = "model"  # or "http", where the model stands at a server

    def lower(self, step: Step, scope: Scope) -> Action:
        texts: list[Json] = []
        for i, source in enumerate(step.texts):
            with scope.reading(f"text[{i}]", source):
                texts.append(text_param(source, scope))
        params: dict[str, Json] = {
            "model": step.model,
            "texts": texts,
            "single": step.single,
            "normalize": step.normalize,
        }
        return action_of(self, step, scope, params)

    def bind(self, action: Action, bound: Bound) -> dict[str, Json]:
        model = bound.model
        if model is None:
            raise BindError("a step of type `embed` needs a model: name one in `model`")
        components: dict[str, Json] = {
            "texts": _texts(action, bound),
            "single": action.params["single"],
            "normalize": action.params["normalize"],
        }
        if model.base_url is None:
            return {**components, **file_components(self.name, bound)}
        endpoint: Json = {"base_url": base_url_of(model), "model": model.remote_name}
        return {**components, "endpoint": endpoint, "engine": model.engine}

    def request(self, action: Action, bound: Bound) -> dict[str, Json]:
        embed: dict[str, Json] = {
            "texts": _texts(action, bound),
            "normalize": action.params["normalize"],
            "single": action.params["single"],
        }
        model = bound.model
        if model is None or model.base_url is None:
            return {"embed": embed}
        return {
            "base_url": base_url_of(model),
            "model": model.remote_name,
            "api_key_env": model.api_key_env,
            "prices": list(model.prices) if model.prices is not None else None,
            "embed": embed,
        }


def _texts(action: Action, bound: Bound) -> list[Json]:
    """The texts with their values.  Raises BindError."""
    texts = list(objects(action.params["texts"]))
    if action.params["single"]:
        return [render(text, "text", bound) for text in texts]
    return [render(text, f"text[{i}]", bound) for i, text in enumerate(texts)]
