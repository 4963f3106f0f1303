"""Texts to vectors, by a loaded model.

Owns the context that embeddings are computed in, the order of the requests for them, and what their values
look like.  It stands beside the `engine`, on the same loaded model; `serve` gives both their turns.

A text is computed alone, in one call, in a memory that was cleared and whose size depends on nothing but the
text's: so its vector has the same bits whatever else was asked.  (A text in several calls would be pooled
piece by piece, and be another vector.)  Pooling is the model's own where its file names one, and the mean
over all tokens otherwise.  Between two texts others have their turn, so a long list holds up nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmc_build.llm.cores import usable_cores
from llmc_build.llm.native import first_error, forget_errors, lib
from llmc_build.llm.requests import RequestError
from llmc_build.llm.vocabulary import Vocabulary
from llmc_build.model import Json

_NONE, _MEAN, _RANK = 0, 1, 4  # enum llama_pooling_type
_FLASH_ATTENTION_OFF = 0
_LEAST = 256  # tokens of a context
_WORTH_A_THREAD = 32  # tokens
_DIGITS = 9  # that tell any two numbers of 32 bits apart

if TYPE_CHECKING:
    from llmc_build.llm.engine import Engine

Vector = npt.NDArray[np.float32]


class Embedder:
    """A model that makes vectors; the model itself stays its owner's.  Used by one thread."""

    def __init__(self, model: object, vocabulary: Vocabulary, *, longest: int, threads: int | None) -> None:
        """`longest`: tokens that a text may have."""
        self._model = model
        self._vocabulary = vocabulary
        self._threads = threads
        trained = int(lib.llama_model_n_ctx_train(model))
        self.longest = min(longest, trained) if trained > 0 else longest
        self._pooling = _pooling(model)
        self._context: object = None
        self._size = 0  # tokens that the context holds
        self._batch: Any = None

    def tokens(self, text: str, number: int) -> list[int]:
        """The tokens of a text, with those that the model wants around it.  Raises RequestError."""
        found = self._vocabulary.tokenize(text, special=False, whole=True)
        if not found:
            raise RequestError(f"text {number} has no tokens: there is nothing to embed")
        if len(found) > self.longest:
            raise RequestError(
                f"text {number} has {len(found)} tokens, and the model's context holds {self.longest}: "
                "shorten it, or raise `context` of the model in llmc.yaml"
            )
        return found

    def vector(self, tokens: list[int], *, normalize: bool) -> Vector:
        """The vector of a text; of length 1 with `normalize`.  Raises RequestError."""
        self._open(max(_LEAST, 1 << (len(tokens) - 1).bit_length()))
        batch = self._batch
        for row, token in enumerate(tokens):
            batch.token[row] = token
            batch.pos[row] = row
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = 0
            batch.logits[row] = 1
        batch.n_tokens = len(tokens)
        forget_errors()
        memory = lib.llama_get_memory(self._context)
        if memory:
            lib.llama_memory_clear(memory, True)
        encodes = not memory or lib.llama_model_has_encoder(self._model)
        compute = lib.llama_encode if encodes else lib.llama_decode
        threads = self._threads or min(usable_cores(), 1 + len(tokens) // _WORTH_A_THREAD)
        lib.llama_set_n_threads(self._context, threads, threads)
        code = int(compute(self._context, batch))
        found = lib.llama_get_embeddings_seq(self._context, 0) if code == 0 else None
        if not found:
            raise RequestError(f"llama.cpp gave no vector ({first_error() or f'code {code}'})")
        width = int(lib.llama_model_n_embd_out(self._model))
        raw = ctypes.string_at(found, width * ctypes.sizeof(ctypes.c_float))
        return _checked(np.frombuffer(raw, np.float32), normalize)

    def close(self) -> None:
        if self._context is not None:
            lib.llama_batch_free(self._batch)
            lib.llama_free(self._context)
            self._context, self._size = None, 0

    def _open(self, size: int) -> None:
        """A context for texts of so many tokens: of that size, whatever was asked before."""
        if self._pooling == _RANK:
            raise RequestError("the model ranks texts and makes no vectors")
        if self._size == size:
            return
        self.close()
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = size
        params.n_seq_max = 1
        params.embeddings = True
        params.pooling_type = self._pooling
        params.kv_unified = False
        params.flash_attn_type = _FLASH_ATTENTION_OFF
        params.no_perf = True
        forget_errors()
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise RequestError(
                f"no context of {size} tokens can be made: {first_error() or 'is there enough memory?'}"
            )
        self._context, self._size = context, size
        self._batch = lib.llama_batch_init(size, 0, 1)


def opener(engine: Engine | None, config: Mapping[str, Json]) -> Callable[[], Embedder]:
    """Makes an embedder on the engine's model, or, where a model completes no text, on one of its own."""
    from llmc_build.llm.loading import DEFAULT_CONTEXT

    context, threads = config.get("context"), config.get("threads")
    known = threads if isinstance(threads, int) else None

    def make() -> Embedder:
        if engine is not None:
            return Embedder(engine.model, engine.vocabulary, longest=engine.context, threads=known)
        longest = context if isinstance(context, int) else DEFAULT_CONTEXT
        model = _load(config)
        return Embedder(model, Vocabulary(model), longest=longest, threads=known)

    return make


def _load(config: Mapping[str, Json]) -> object:
    """A model for vectors only; it stays until the process ends.  Raises RequestError."""
    from llmc_build.llm.loading import LoadError, Settings, load_model, stamp_of

    layers = config.get("gpu_layers")
    settings = Settings(
        path=str(config["path"]),
        stamp=stamp_of(config),
        gpu_layers=layers if isinstance(layers, int) else None,
    )
    try:
        return load_model(settings)
    except LoadError as error:
        raise RequestError(str(error)) from None


def _pooling(model: object) -> int:
    """The pooling that a model's file names; else the mean."""
    buffer = ctypes.create_string_buffer(64)

    def meta(key: str) -> str:
        size = int(lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer)))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else ""

    named = meta(f"{meta('general.architecture')}.pooling_type")
    return int(named) if named.isdigit() and int(named) != _NONE else _MEAN


def _checked(vector: Vector, normalize: bool) -> Vector:
    length = math.sqrt(float(np.sum(vector.astype(np.float64) ** 2)))
    if not math.isfinite(length):
        raise RequestError("the model gave a vector of numbers that are none")
    return (vector / np.float64(length)).astype(np.float32) if normalize and length > 0 else vector.copy()


def as_json(vectors: list[Vector], *, single: bool) -> bytes:
    """The value of a step: a vector, or a list of vectors."""
    numbers = [[float(f"{x:.{_DIGITS}g}") for x in vector.tolist()] for vector in vectors]
    return json.dumps(numbers[0] if single else numbers, separators=(",", ":")).encode("ascii")


# ---------------------------------------------------------------- requests


@dataclass(slots=True, kw_only=True)
class _Job:
    """A request for vectors."""

    id: int
    texts: list[str]
    normalize: bool
    single: bool
    logs: object
    timeout_s: float | None
    started: float | None = None  # when it became the first of the line, monotonic
    tokens: list[list[int]] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        return 0.0 if self.started is None else time.monotonic() - self.started

    @property
    def is_late(self) -> bool:
        return self.timeout_s is not None and self.wall_s >= self.timeout_s


class Embeddings:
    """The requests for vectors of one worker, in the order in which they came."""

    def __init__(
        self, open_embedder: Callable[[], Embedder], pack: Callable[[bytes], dict[str, Json]]
    ) -> None:
        """`open_embedder`: called for the first request; `pack`: makes a content of a value."""
        self._open_embedder = open_embedder
        self._embedder: Embedder | None = None
        self._pack = pack
        self._jobs: deque[_Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def first(self) -> int | None:
        """The request that the next step is about."""
        return self._jobs[0].id if self._jobs else None

    def add(self, message: Mapping[str, Any]) -> None:
        """Takes on a message "run" whose request says `embed`."""
        request = message["request"]
        wanted = request["embed"]
        self._jobs.append(
            _Job(
                id=int(message["id"]),
                texts=[str(text) for text in wanted["texts"]],
                normalize=bool(wanted.get("normalize")),
                single=bool(wanted.get("single")),
                logs=request.get("logs"),
                timeout_s=message.get("timeout_s"),
            )
        )

    def cancel(self, task: int, reason: str) -> dict[str, Json] | None:
        """The message about the end of a request; None where it is none of these."""
        for job in self._jobs:
            if job.id == task:
                self._jobs.remove(job)
                return _done(job, "cancelled", error=reason)
        return None

    def step(self) -> Iterator[dict[str, Json]]:
        """Computes one text, and gives the messages that are to be sent."""
        if not self._jobs:
            return
        job = self._jobs[0]
        try:
            if self._embedder is None:
                self._embedder = self._open_embedder()
            if job.started is None:
                job.started = time.monotonic()
                # The pool lets the time of a request run from the first that it hears of it.
                yield {"op": "progress", "id": job.id, "stats": {"tokens": 0}}
            if not job.is_late:
                self._one(self._embedder, job)
            if job.is_late:
                end = _done(job, "timeout", error=f"timed out after {job.timeout_s:g} s")
            elif len(job.vectors) < len(job.texts):
                yield {"op": "progress", "id": job.id, "stats": {"tokens": _computed(job)}}
                return
            else:
                value = self._pack(as_json(job.vectors, single=job.single))
                reply: dict[str, Json] = {"value": value, "stderr": self._pack(b""), "stats": _stats(job)}
                end = _done(job, "ok", reply=reply)
        except RequestError as error:
            end = _done(job, "failed", error=str(error))
        except OSError as error:
            end = _done(job, "failed", error=f"the vectors can't be stored: {' '.join(str(error).split())}")
        self._jobs.popleft()
        yield end

    def close(self) -> None:
        if self._embedder is not None:
            self._embedder.close()

    def _one(self, embedder: Embedder, job: _Job) -> None:
        """The next text of a job; first of all, that every text fits."""
        if not job.tokens:
            _log(job)
            job.tokens = [embedder.tokens(text, i + 1) for i, text in enumerate(job.texts)]
        if len(job.vectors) < len(job.tokens):
            tokens = job.tokens[len(job.vectors)]
            job.vectors.append(embedder.vector(tokens, normalize=job.normalize))


def _computed(job: _Job) -> int:
    return sum(map(len, job.tokens[: len(job.vectors)]))


def _stats(job: _Job) -> dict[str, Json]:
    """As of a completion: nothing is generated, and all that is computed is prompt."""
    return {"prompt_tokens": _computed(job), "generated_tokens": 0, "texts": len(job.texts)}


def _log(job: _Job) -> None:
    """Writes the texts where a completion has its prompt."""
    if isinstance(job.logs, str):
        with contextlib.suppress(OSError):
            place = Path(job.logs)
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = "\n".join(job.texts)
            (place / "prompt").write_text(text, encoding="utf-8", errors="replace", newline="")


def _done(
    job: _Job, status: str, *, reply: dict[str, Json] | None = None, error: str | None = None
) -> dict[str, Json]:
    return {
        "op": "done",
        "id": job.id,
        "status": status,
        "reply": reply or {"stats": _stats(job)},
        "error": error,
        "wall_s": round(job.wall_s, 6),
    }
