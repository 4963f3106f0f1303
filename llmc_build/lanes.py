"""Which worker runs an action: lanes, and the models behind them.  World.

Owns what a `model:` reference comes to for each rule (a GGUF file with its digest, or a server's endpoint),
the lane that serves it, and what that may take of the memory.  How a file is found is `llm.models`.

Steps that name one file share a worker, which answers several at a time.  `LLMC_SUBPROCESS` asks for less, as
the original program does: with 1 every workflow has a worker of its own, with 0 one worker is there at a
time; both answer one request after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmc_build.execute.protocol import Lane
from llmc_build.llm import openai
from llmc_build.model import Action, Json
from llmc_build.rules import BindError, ModelId, rule
from llmc_build.store import files

if TYPE_CHECKING:
    from llmc_build.config import Config, ModelConfig
    from llmc_build.errors import Fault
    from llmc_build.resolve import Target
    from llmc_build.store.state import FileDigests

DEFAULT_KEY = "OPENAI_API_KEY"


def has_changed(model: ModelId | None) -> bool:
    """Whether the file of a model may hold something else than what its digest was taken of.

    A worker may have read it since: when it was loaded, and of a file that is mapped at any time.
    """
    if model is None or model.path is None or model.stamp is None:
        return False
    try:
        return files.stamp(os.stat(model.path)) != model.stamp
    except OSError:
        return True


def budget_of(config: Config, folder: Path) -> dict[str, Json] | None:
    """What a run may spend at servers, and where that is written down; None: as much as it takes."""
    tokens, cost = config.max_tokens_total, config.max_cost
    if tokens is None and cost is None:
        return None
    return {"tokens": tokens, "cost": cost, "ledger": str(folder / "ledger")}


def kind_of(action: Action, models: Mapping[str, ModelConfig]) -> str:
    """Which kind of worker runs an action: the rule's, or, of embeddings, what the model asks for."""
    kind = rule(action.rule).lane
    config = models.get(str(action.params.get("model") or "")) if action.rule == "embed" else None
    return "http" if config is not None and config.path is None else kind


def misnamed(targets: Iterable[Target], models: Mapping[str, ModelConfig], workspace: Path) -> list[Fault]:
    """A fault for each step whose model can only be a name, and is none."""
    from llmc_build.llm.models import ModelError, check_name

    faults = []
    for target in targets:
        if kind_of(target.action, models) == "model":
            try:
                check_name(str(target.action.params["model"]), aliases=models, workspace=workspace)
            except ModelError as error:
                said = (dataclasses.replace(fault, location=target.step.location) for fault in error.faults)
                faults += [
                    dataclasses.replace(f, headline=f'step "{target.step.name}": {f.headline}') for f in said
                ]
    return faults


class Lanes:
    """`store`: the folder of the CAS, which workers write into; `spill`: where they write when it is full.

    `memory`: bytes that model workers may take together (None: by what is free); `subprocess`:
    LLMC_SUBPROCESS; `kv_cache`: bytes of the store that computed beginnings of prompts may take; None: the
    worker's default; `budget`: of requests to servers, as `llm.budget.Ledger` has it;
    `limits`: of shell steps, as llmc.yaml has them.
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
        memory: int | None = None,
        subprocess: bool | None = None,
        limits: Mapping[str, int] | None = None,
        kv_cache: int | None = None,
        budget: Mapping[str, Json] | None = None,
    ) -> None:
        self._limits: dict[str, Json] = {**(limits or {})}
        self._given = memory
        self._subprocess = subprocess
        self._models = models
        self._workspace = workspace
        self._digests = digests
        self._environ = environ
        self._store = store
        self._budget = budget
        self._spill = None if spill is None else str(spill)
        self._kv_cache = kv_cache
        self._known: dict[tuple[str, str], ModelId | BindError] = {}
        self.files: dict[str, str] = {}  # model files that were asked for -> SHA-256
        self.moving: set[str] = set()  # references that may mean another file tomorrow
        self._made: dict[tuple[str, ModelId | None, str], Lane] = {}

    @functools.cached_property
    def memory(self) -> int | None:
        """Bytes that model workers may take together; None where nobody knows what is free."""
        from llmc_build.llm.memory import default_limit

        return default_limit() if self._given is None else self._given

    def model(self, action: Action) -> ModelId | None:
        """The model of an action, None for a rule without one.  Raises BindError, one line."""
        kind = self.kind(action)
        if kind == "shell":
            return None
        reference = str(action.params.get("model") or "")
        found = self._known.get((kind, reference))
        if found is None or (isinstance(found, ModelId) and has_changed(found)):
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
            before = files.stamp(os.stat(file.path))
            digest = self._digests.digest(file.path)
        except (OSError, ValueError) as error:
            raise BindError(f"model {reference}: {error}") from None
        if digest is None:
            raise BindError(f"model {reference}: there is no file {file.path}")
        self.files.setdefault(str(file.path), digest.hash)  # of several that it had, not what it has now
        if not models.is_pinned(reference, self._models):
            self.moving.add(reference)
        return ModelId(
            reference=reference,
            hash=digest.hash,
            path=str(file.path),
            stamp=before,
            engine=engine,
            context=file.context,
            threads=file.threads,
            gpu_layers=file.gpu_layers,
            parallel=file.parallel,
            batching=file.batching,
        )

    def _server(self, reference: str) -> ModelId:
        config = self._models.get(reference)
        asked = (config.base_url if config else None) or self._environ.get("OPENAI_BASE_URL")
        if config is not None:
            is_file = config.base_url is None and config.path is not None
        else:  # nothing is sent to a server that nobody has named where the model can only be a file
            from llmc_build.llm.models import names_a_file

            is_file = not asked and names_a_file(reference)
        if is_file:
            raise BindError(
                f"model {reference} is a file: a step of type `llm` asks a server; use `local_llm`"
            )
        base = asked or openai.DEFAULT_BASE_URL
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
        return kind_of(action, self._models)

    def queue(self, action: Action, model: ModelId | None) -> str:
        """The plan's name for the queue of the action's lane."""
        kind = self.kind(action)
        return f"{kind}:{model.hash}{self._owner(action)}" if model and model.hash else kind

    def _owner(self, action: Action) -> str:
        """What tells the workers on one model apart: nothing, or the workflow."""
        return f":{action.target.partition('.')[0]}" if self._subprocess else ""

    def lane(self, action: Action, model: ModelId | None) -> Lane:
        """Raises BindError where the model can't be held in memory."""
        kind, owner = self.kind(action), self._owner(action)
        found = self._made.get((kind, model, owner))
        if found is None:
            found = self._made[kind, model, owner] = self._lane(kind, model, owner)
        return found

    def _lane(self, kind: str, model: ModelId | None, owner: str) -> Lane:
        config: dict[str, Json] = {"cas": str(self._store), "spill": self._spill}
        if kind == "model" and model is not None:
            config.update(
                path=model.path,
                stamp=None if model.stamp is None else list(model.stamp),
                context=model.context,
                threads=model.threads,
                gpu_layers=model.gpu_layers,
                batching=model.batching,
                label=model.reference,
                model=model.hash,
                engine=model.engine,
                kv_cache=self._kv_cache,
                **self._share(model),
            )
            settings = f"{model.context}:{model.gpu_layers}:{model.batching or 'exact'}"
            return Lane(kind=kind, name=f"{model.hash}:{model.stamp}:{settings}{owner}", config=config)
        if kind == "http" and self._budget is not None:
            config["budget"] = dict(self._budget)
        if kind == "shell":
            config["limits"] = self._limits
        return Lane(kind=kind, config=config)

    def _share(self, model: ModelId) -> dict[str, Json]:
        """How many requests at a time, and the memory that takes.  Raises BindError."""
        from llmc_build.llm import memory

        parallel = model.parallel if self._subprocess is None else 1
        on_gpu = not model.engine.endswith(" cpu") and model.gpu_layers != 0
        limit = None if on_gpu else self.memory  # a GPU's own memory is nothing that we know of
        try:
            need = memory.need_of(
                Path(str(model.path)), context=model.context, parallel=parallel, limit=limit
            )
        except OSError as error:
            raise BindError(f"model {model.reference}: {error.strerror or error}") from None
        if limit is not None and need.whole > limit:
            raise BindError(f"model {model.reference} {memory.too_large(need, limit)}")
        if on_gpu:
            return {"parallel": need.parallel, "weights": 0, "memory": 0}
        return {
            "parallel": need.parallel,
            "weights": need.weights,
            "memory": need.own,
            "states": need.states,
            "limit": limit,
        }
