"""One loaded model that answers requests, each as if it were alone.

Owns the model, the context and its sequences, and the order in which they are computed.  How a request
becomes tokens is `prompts`, how the next token is chosen `sampler`, where a text is cut `stops`.  It knows
nothing of channels, logs or stores: `serve` does.

Theory of operation.  A request that was admitted is a `Sequence`: it has a place ("slot") in llama.cpp's
memory, its own sampler, and a position.  `step` makes one call of `llama_decode`, for one of two things:

- prefill: the next chunk of the prompt of the sequence that was admitted first among those not yet read;
- decode:  one token of every sequence that has read its prompt, all in one batch.

Each call that ends at a sequence's newest token gives it the logits for the next one, which is sampled at
once.  So a request joins between any two steps and leaves when it ends, and the width is nothing but the
number of slots.

What a request is answered must not depend on what else is answered.  Three settings see to that: a memory
of its own for each sequence (`kv_unified` off), no flash attention, and prefill in calls of their own, in
chunks whose borders depend on nothing but the prompt.  A slot's memory is cleared before it is used again.
Beyond that it depends on the model's quantisation how wide a batch may be; that is for whoever chooses
`parallel`.
"""

from __future__ import annotations

import codecs
import ctypes
import enum
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from llmc_build.llm.cores import usable_cores
from llmc_build.llm.native import first_error, forget_errors, lib
from llmc_build.llm.prompts import Message, Prompt, PromptError, read_prompt
from llmc_build.llm.requests import RequestError
from llmc_build.llm.sampler import Sampler
from llmc_build.llm.stops import StopMatcher
from llmc_build.llm.vocabulary import Vocabulary
from llmc_build.model import Json, Sampling

DEFAULT_CONTEXT = 4096  # tokens, where the model was trained for as many
CHUNK = 256  # tokens of a prompt read in one call

_FLASH_ATTENTION_OFF = 0
_WORTH_A_THREAD = 128 * 1024 * 1024  # bytes of weights, times sequences
_ALL_LAYERS = -1


class LoadError(Exception):
    """The model can't be loaded.  One line."""


class Finish(enum.Enum):
    """Why an answer is complete."""

    STOP = "stop"  # the model ended it, or a stop string was found
    LENGTH = "length"  # it has `max_tokens` tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is loaded."""

    path: str
    context: int | None = None  # tokens for each sequence; None: DEFAULT_CONTEXT, or fewer if trained so
    threads: int | None = None  # None: as many as are worth it
    gpu_layers: int | None = None  # None: all, where llama.cpp was built for a GPU
    parallel: int = 1  # sequences at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a model."""

    messages: tuple[Message, ...]
    chat: bool | None = None  # None: by the chat template where there is one
    sampling: Sampling = field(default_factory=Sampling)
    output: Mapping[str, Json] | None = None  # what the answer must look like; see `constrain`


class Sequence:
    """A request that is being answered."""

    def __init__(self, slot: int, prompt: Prompt, sampling: Sampling, sampler: Sampler) -> None:
        self.slot = slot
        self.prompt = prompt
        self.max_tokens = sampling.max_tokens
        self.sampler = sampler
        self.position = 0  # tokens that llama.cpp's memory holds
        self.token: int | None = None  # sampled, not yet in the memory
        self.generated = 0  # tokens of the answer, without the one that ends it
        self.started = time.monotonic()
        self.first: float | None = None  # when the first token of the answer was there
        self.last = self.started
        self._stops = StopMatcher(sampling.stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def reading(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return self.position < len(self.prompt.tokens)

    def take(self, data: bytes) -> str:
        """The text that is certain once the answer goes on with these bytes."""
        return self._decoder.decode(self._stops.feed(data))

    @property
    def stopped(self) -> bool:
        return self._stops.stopped

    def rest(self) -> str:
        """The text that was held back, when nothing more will come."""
        return self._decoder.decode(self._stops.flush(), final=True)

    def stats(self) -> dict[str, float | int]:
        """Counts and speeds so far; seconds since the request was admitted."""
        now = time.monotonic()
        first = now if self.first is None else self.first
        span = self.last - first
        return {
            "prompt_tokens": len(self.prompt.tokens),
            "generated_tokens": self.generated,
            "ttft_s": round(first - self.started, 4),
            "tokens_per_s": round((self.generated - 1) / span, 2) if span > 0 and self.generated > 1 else 0.0,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """News of a sequence.  With `finish` or `error` it is over and its slot is free."""

    sequence: Sequence
    text: str = ""  # what the answer goes on with
    finish: Finish | None = None
    error: str | None = None


class Engine:
    """A loaded model.  Used by one thread."""

    def __init__(self, settings: Settings, *, watch: Callable[[Sequence, bytes], None] | None = None) -> None:
        """Loads the model; raises LoadError.

        `watch` is given the logits (float32, one for each token of the vocabulary) that each token is
        chosen from: what reproducibility is measured by.
        """
        forget_errors()
        self._watch = watch
        self._context: object = None
        self._model = load_model(settings)
        try:
            self.context, self._context = _open_context(self._model, settings)
        except LoadError:
            lib.llama_model_free(self._model)
            raise
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(max(CHUNK, settings.parallel), 0, 1)
        self._free = list(reversed(range(settings.parallel)))
        self._sequences: list[Sequence] = []  # in the order of admission
        self.vocabulary = Vocabulary(self._model)
        template = lib.llama_model_chat_template(self._model, None)
        self.template = template.decode("utf-8", "replace") if template else None

    @property
    def model(self) -> object:
        """llama.cpp's model; it stays the engine's."""
        return self._model

    @property
    def room(self) -> int:
        """How many more requests can be admitted now."""
        return len(self._free)

    @property
    def active(self) -> tuple[Sequence, ...]:
        return tuple(self._sequences)

    def admit(self, request: Request) -> Sequence:
        """Takes a request on; needs room.  Raises RequestError."""
        if not self._free:
            raise ValueError("no room: every slot is taken")
        try:
            prompt = read_prompt(self.vocabulary, self.template, request.messages, request.chat)
        except PromptError as error:
            raise RequestError(str(error)) from None
        if len(prompt.tokens) >= self.context:
            raise RequestError(
                f"the prompt has {len(prompt.tokens)} tokens, and the model's context holds {self.context} "
                "with the answer: shorten it, or raise `context` of the model in llmc.yaml"
            )
        sampler = Sampler(request.sampling, self.vocabulary, prompt.tokens, request.output)
        sequence = Sequence(self._free.pop(), prompt, request.sampling, sampler)
        self._sequences.append(sequence)
        return sequence

    def step(self) -> list[Event]:
        """One call of llama.cpp, and what came of it; nothing where nothing is to be done."""
        reading = next((s for s in self._sequences if s.reading), None)
        if reading is not None:
            start = reading.position
            tokens = reading.prompt.tokens[start : start + CHUNK]
            return self._compute([(reading, tokens)])
        decoding = [(s, (s.token,)) for s in self._sequences if s.token is not None]
        return self._compute(decoding) if decoding else []

    def retire(self, sequence: Sequence) -> None:
        """Ends a sequence and frees its slot; does nothing where it is over already."""
        if sequence not in self._sequences:
            return
        self._sequences.remove(sequence)
        sequence.sampler.close()
        lib.llama_memory_seq_rm(self._memory, sequence.slot, -1, -1)
        self._free.append(sequence.slot)

    def close(self) -> None:
        """Frees the model; the engine can't be used any more."""
        for sequence in self.active:
            self.retire(sequence)
        if self._context is not None:
            lib.llama_batch_free(self._batch)
            lib.llama_free(self._context)
            lib.llama_model_free(self._model)
            self._context = self._model = None

    # ------------------------------------------------------------ one call

    def _compute(self, work: Items[tuple[Sequence, Items[int]]]) -> list[Event]:
        rows = self._fill(work)
        forget_errors()
        code = int(lib.llama_decode(self._context, self._batch))
        if code != 0:
            return [self._failed(sequence, code) for sequence, _ in work]
        events = []
        for (sequence, tokens), row in zip(work, rows, strict=True):
            sequence.position += len(tokens)
            if not sequence.reading:
                events.append(self._next(sequence, row))
        return events

    def _next(self, sequence: Sequence, row: int) -> Event:
        try:
            return self._advance(sequence, self._choose(sequence, row))
        except RequestError as error:
            self.retire(sequence)
            return Event(sequence=sequence, error=str(error))

    def _fill(self, work: Items[tuple[Sequence, Items[int]]]) -> list[int]:
        """Puts the tokens into the batch; the row of each sequence's last one."""
        batch, row, rows = self._batch, 0, []
        for sequence, tokens in work:
            for i, token in enumerate(tokens):
                batch.token[row] = token
                batch.pos[row] = sequence.position + i
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = sequence.slot
                batch.logits[row] = i == len(tokens) - 1
                row += 1
            rows.append(row - 1)
        batch.n_tokens = row
        return rows

    def _choose(self, sequence: Sequence, row: int) -> int:
        if self._watch is not None:
            logits = lib.llama_get_logits_ith(self._context, row)
            self._watch(sequence, ctypes.string_at(logits, self.vocabulary.size * 4))
        return sequence.sampler.sample(self._context, row)

    def _advance(self, sequence: Sequence, token: int) -> Event:
        """What a new token means for its sequence."""
        sequence.last = time.monotonic()
        if sequence.first is None:
            sequence.first = sequence.last
        if self.vocabulary.is_end(token):
            return self._finished(sequence, "", Finish.STOP)
        sequence.generated += 1
        text = sequence.take(self.vocabulary.piece(token))
        if sequence.stopped or sequence.sampler.complete:
            return self._finished(sequence, text, Finish.STOP)
        if sequence.generated >= sequence.max_tokens:
            return self._finished(sequence, text, Finish.LENGTH)
        if sequence.position >= self.context:
            return self._full(sequence)
        sequence.token = token
        return Event(sequence=sequence, text=text)

    def _finished(self, sequence: Sequence, text: str, finish: Finish) -> Event:
        text += sequence.rest()
        self.retire(sequence)
        return Event(sequence=sequence, text=text, finish=finish)

    def _full(self, sequence: Sequence) -> Event:
        """The answer reached the end of the context before its own: a cut text is no answer."""
        self.retire(sequence)
        error = (
            f"the prompt of {len(sequence.prompt.tokens)} tokens and {sequence.generated} tokens of answer "
            f"fill the context of {self.context}: lower `max_tokens` ({sequence.max_tokens}), shorten the "
            "prompt, or raise `context` of the model in llmc.yaml"
        )
        return Event(sequence=sequence, error=error)

    def _failed(self, sequence: Sequence, code: int) -> Event:
        self.retire(sequence)
        why = first_error()
        error = f"llama.cpp could not go on (llama_decode gave {code}{f': {why}' if why else ''})"
        return Event(sequence=sequence, error=error)


# ---------------------------------------------------------------- loading


def load_model(settings: Settings) -> object:
    """llama.cpp's model; raises LoadError."""
    _check_file(settings.path)
    params = lib.llama_model_default_params()
    params.n_gpu_layers = _ALL_LAYERS if settings.gpu_layers is None else settings.gpu_layers
    model = lib.llama_model_load_from_file(settings.path.encode("utf-8", "surrogateescape"), params)
    if not model:
        raise LoadError(f"{settings.path} can't be loaded: {first_error() or 'llama.cpp does not say why'}")
    return model


def _check_file(path: str) -> None:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise LoadError(f"the model file {path} can't be read: {error.strerror}") from None
    if magic != b"GGUF":
        raise LoadError(f"{path} is not a GGUF file: it does not begin with the letters GGUF")


def _decode_threads(model: object, parallel: int) -> int:
    """Threads for computing one token of each sequence.

    In a small model the threads would wait for each other longer than they compute: SmolLM2-135M gives
    110 tokens/s with one and 70 with two.  Answers don't depend on it.
    """
    work = int(lib.llama_model_size(model)) * parallel
    return min(usable_cores(), 1 + work // _WORTH_A_THREAD)


def _open_context(model: object, settings: Settings) -> tuple[int, object]:
    """The tokens that each sequence holds, and llama.cpp's context."""
    wanted = settings.context or min(int(lib.llama_model_n_ctx_train(model)), DEFAULT_CONTEXT)
    params = lib.llama_context_default_params()
    params.n_ctx = wanted * settings.parallel
    params.n_seq_max = settings.parallel
    params.n_batch = params.n_ubatch = max(CHUNK, settings.parallel)
    params.n_threads = settings.threads or _decode_threads(model, settings.parallel)
    params.n_threads_batch = settings.threads or usable_cores()
    params.kv_unified = False
    params.flash_attn_type = _FLASH_ATTENTION_OFF
    params.no_perf = True
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise LoadError(
            f"{settings.path}: no context of {settings.parallel} x {wanted} tokens can be made: "
            f"{first_error() or 'is there enough memory?'}"
        )
    if not lib.llama_get_memory(context) or lib.llama_model_has_encoder(model):
        lib.llama_free(context)
        raise LoadError(f"{settings.path} is not a model that completes text")
    return min(wanted, int(lib.llama_n_ctx_seq(context))), context
