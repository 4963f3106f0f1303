"""Which worker runs an action: lanes, and the models behind them.  World.

Owns what a `model:` reference comes to for each rule (a GGUF file with its digest, or a server's endpoint)
and the lane that serves it.  How a file is found is `llm.models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmc_build.execute.protocol import Lane
from llmc_build.llm import openai
from llmc_build.model import Action, Json
from llmc_build.rules import BindError, ModelId, rule

if TYPE_CHECKING:
    from llmc_build.config import ModelConfig
    from llmc_build.store.state import FileDigests

DEFAULT_KEY = "OPENAI_API_KEY"


class Lanes:
    """`store`: the folder of the CAS, which workers write into; `spill`: where they write when it is full;
    `budget`: of requests to servers, as `llm.budget.Ledger` has it.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, ModelConfig],
        workspace: Path,
        digests: FileDigests,
        environ: Mapping[str, str],
        store: Path,
        spill: Path | None = None,
        budget: Mapping[str, Json] | None = None,
    ) -> None:
        self._models = models
        self._workspace = workspace
        self._digests = digests
        self._environ = environ
        self._store = store
        self._budget = budget
        self._spill = None if spill is None else str(spill)
        self._known: dict[tuple[str, str], ModelId | BindError] = {}
        self.files: dict[str, str] = {}  # model files that were asked for -> SHA-256
        self.moving: set[str] = set()  # references that may mean another file tomorrow
        self._made: dict[tuple[str, ModelId | None], Lane] = {}

    def model(self, action: Action) -> ModelId | None:
        """The model of an action, None for a rule without one.  Raises BindError, one line."""
        kind = self.kind(action)
        if kind == "shell":
            return None
        reference = str(action.params.get("model") or "")
        found = self._known.get((kind, reference))
        if found is None:
            try:
                found = self._file(reference) if kind == "model" else self._server(reference)
            except BindError as error:
                found = error
            self._known[kind, reference] = found
        if isinstance(found, BindError):
            raise found
        return found

    def _file(self, reference: str) -> ModelId:
        from llmc_build.llm import models

        if not reference:
            raise BindError("the step has no `model`: name one, such as `model: smollm2-135m`")
        try:
            file = models.resolve(reference, aliases=self._models, workspace=self._workspace)
            engine = models.engine_identity()
        except models.ModelError as error:
            raise BindError(str(error)) from None
        try:
            digest = self._digests.digest(file.path)
        except (OSError, ValueError) as error:
            raise BindError(f"model {reference}: {error}") from None
        if digest is None:
            raise BindError(f"model {reference}: there is no file {file.path}")
        self.files[str(file.path)] = digest.hash
        if not models.is_pinned(reference, self._models):
            self.moving.add(reference)
        return ModelId(
            reference=reference,
            hash=digest.hash,
            path=str(file.path),
            engine=engine,
            context=file.context,
            threads=file.threads,
            gpu_layers=file.gpu_layers,
            parallel=file.parallel,
        )

    def _server(self, reference: str) -> ModelId:
        config = self._models.get(reference)
        if config is not None and config.base_url is None and config.path is not None:
            raise BindError(
                f"model {reference} is a file: a step of type `llm` asks a server; use `local_llm`"
            )
        base = (
            (config.base_url if config else None)
            or self._environ.get("OPENAI_BASE_URL")
            or openai.DEFAULT_BASE_URL
        )
        name = (config.model if config else None) or reference or self._environ.get("OPENAI_MODEL", "")
        if not name:
            raise BindError("the step has no `model`, and OPENAI_MODEL is not set")
        return ModelId(
            reference=reference or name,
            engine=openai.ENGINE,
            base_url=base,
            remote_name=name,
            # a server that llmc.yaml names gets the key that is meant for it, and no other
            api_key_env=config.api_key_env if config and config.base_url else DEFAULT_KEY,
            prices=config.prices if config else None,
        )

    def kind(self, action: Action) -> str:
        """Which kind of worker runs an action: the rule's, or, of embeddings, what the model asks for."""
        kind = rule(action.rule).lane
        config = self._models.get(str(action.params.get("model") or "")) if action.rule == "embed" else None
        return "http" if config is not None and config.path is None else kind

    def queue(self, action: Action, model: ModelId | None) -> str:
        """The plan's name for the queue of the action's lane."""
        kind = self.kind(action)
        return f"{kind}:{model.hash}" if model and model.hash else kind

    def lane(self, action: Action, model: ModelId | None) -> Lane:
        kind = self.kind(action)
        found = self._made.get((kind, model))
        if found is None:
            found = self._made[kind, model] = self._lane(kind, model)
        return found

    def _lane(self, kind: str, model: ModelId | None) -> Lane:
        config: dict[str, Json] = {"cas": str(self._store), "spill": self._spill}
        if kind == "model" and model is not None:
            config.update(
                path=model.path,
                context=model.context,
                threads=model.threads,
                gpu_layers=model.gpu_layers,
                parallel=model.parallel or 1,
            )
            return Lane(kind=kind, name=f"{model.hash}:{model.context}:{model.gpu_layers}", config=config)
        if kind == "http" and self._budget is not None:
            config["budget"] = dict(self._budget)
        return Lane(kind=kind, config=config)
