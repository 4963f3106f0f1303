"""A request that is being answered: what was asked, how far it is, and what is told of it.

Owns a sequence's text, counts and times.  When it is computed, and where, is `engine`'s.
"""

from __future__ import annotations

import codecs
import enum
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from llmc_build.frozen import frozen
from llmc_build.llm.prompts import Message, Prompt
from llmc_build.llm.sampler import Sampler
from llmc_build.llm.stops import StopMatcher
from llmc_build.model import Json, Sampling


class Finish(enum.Enum):
    """Why an answer is complete."""

    STOP = "stop"  # the model ended it, or a stop string was found
    LENGTH = "length"  # it has `max_tokens` tokens


@frozen(kw_only=True)
class Request:
    """What is asked of a model."""

    messages: tuple[Message, ...]
    chat: bool | None = None  # None: by the chat template where there is one
    sampling: Sampling = field(default_factory=Sampling)
    output: Mapping[str, Json] | None = None  # what the answer must look like


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A request whose prompt is known to fit."""

    request: Request
    prompt: Prompt
    tokens: array[int]  # of the prompt


class Sequence:
    """A request that is being answered."""

    def __init__(self, slot: int, prepared: Prepared, sampler: Sampler) -> None:
        sampling = prepared.request.sampling
        self.slot = slot
        self.prompt = prepared.prompt
        self.tokens = prepared.tokens  # of the prompt
        self.max_tokens = sampling.max_tokens
        self.sampler = sampler
        self.begun = False  # whether it has a place in llama.cpp's memory
        self.position = 0  # tokens that llama.cpp's memory holds
        self.reused = 0  # tokens of the prompt that were not computed for it
        self.widest = 1  # sequences that one call computed a token of, this one among them
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
        return self.position < len(self.tokens)

    @property
    def needs(self) -> int:
        """Tokens that it will have in the memory at most."""
        return len(self.tokens) + self.max_tokens

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
            "prompt_tokens": len(self.tokens),
            "reused_tokens": self.reused,
            "generated_tokens": self.generated,
            "batch": self.widest,
            "ttft_s": round(first - self.started, 4),
            "tokens_per_s": round((self.generated - 1) / span, 2) if span > 0 and self.generated > 1 else 0.0,
        }


@frozen(kw_only=True)
class Event:
    """News of a sequence.  With `finish` or `error` it is over and its slot is free."""

    sequence: Sequence
    text: str = ""  # what the answer goes on with
    finish: Finish | None = None
    error: str | None = None


class NoPlace(Exception):
    """There is no memory for what a sequence needs.  One line."""

    def __init__(self, sequence: Sequence, why: str) -> None:
        super().__init__(why)
        self.sequence = sequence


def neighbours(sequences: Iterable[Sequence]) -> Iterator[list[Sequence]]:
    """Sequences in the order of their slots, as stretches of neighbouring slots."""
    found: list[Sequence] = []
    for sequence in sequences:
        if found and sequence.slot != found[-1].slot + 1:
            yield found
            found = []
        found.append(sequence)
    if found:
        yield found
