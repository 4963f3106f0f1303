"""How the next token is chosen: llama.cpp's own sampler chain, made from a step's parameters.

Owns the order of the stages and their fixed settings.  A change here changes answers: raise the version of
the rule `local_llm` with it.  A parameter that is not set adds no stage; the order is llama.cpp's default.
How an answer is held to a grammar is `constraint`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from llmc_build.llm.native import lib
from llmc_build.llm.requests import RequestError
from llmc_build.model import Json, Sampling

if TYPE_CHECKING:
    from llmc_build.llm.constraint import Constraint
    from llmc_build.llm.vocabulary import Vocabulary

PENALTY_WINDOW = 64  # tokens that `repeat_penalty` looks back on, those of the prompt included
_MIN_KEEP = 1


class Sampler:
    """A sampler chain of one request; `close` frees it."""

    def __init__(
        self,
        sampling: Sampling,
        vocabulary: Vocabulary,
        prompt: Iterable[int],
        output: Mapping[str, Json] | None = None,
    ) -> None:
        """`output`: what the answer must look like (`constrain`).  Raises RequestError."""
        self._constraint: Constraint | None = None
        if output is not None:
            from llmc_build.llm.constraint import Constraint

            # First: where it raises, there is nothing to free.
            self._constraint = Constraint(output, vocabulary, reach=_reach(sampling))
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for stage in _stages(sampling, vocabulary.size):
            lib.llama_sampler_chain_add(self._chain, stage)  # the chain owns the stage from here on
        if sampling.repeat_penalty is not None:
            for token in list(prompt)[-PENALTY_WINDOW:]:
                lib.llama_sampler_accept(self._chain, token)

    def sample(self, context: object, row: int) -> int:
        """The next token, from the logits of that row of the last batch.  Raises RequestError."""
        if self._constraint is None:
            token = int(lib.llama_sampler_sample(self._chain, context, row))
        else:
            token = self._constraint.sample(self._chain, context, row)
        if not math.isfinite(lib.llama_get_logits_ith(context, row)[token]):
            raise RequestError("the model computes no numbers (NaN): its file may be damaged")
        return token

    @property
    def complete(self) -> bool:
        """Whether the answer so far has all that is asked for, and nothing could follow but its end."""
        return self._constraint is not None and self._constraint.complete

    def close(self) -> None:
        chain, self._chain = self._chain, None
        if chain is not None:
            lib.llama_sampler_free(chain)
        if self._constraint is not None:
            self._constraint.close()


def _reach(sampling: Sampling) -> int | None:
    """How many of the best candidates the chain looks at; None: all of them."""
    if sampling.repeat_penalty is not None:  # it changes which are the best
        return None
    return 1 if sampling.temperature <= 0 else sampling.top_k or None  # a top-k of 0 is all, too


def _stages(sampling: Sampling, n_vocab: int) -> list[object]:
    stages = []
    if sampling.repeat_penalty is not None:
        stages.append(
            lib.llama_sampler_init_penalties(n_vocab, PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
        )
    if sampling.temperature <= 0:
        return [*stages, lib.llama_sampler_init_greedy()]
    if sampling.top_k is not None:
        stages.append(lib.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p is not None:
        stages.append(lib.llama_sampler_init_top_p(sampling.top_p, _MIN_KEEP))
    if sampling.min_p is not None:
        stages.append(lib.llama_sampler_init_min_p(sampling.min_p, _MIN_KEEP))
    stages.append(lib.llama_sampler_init_temp(sampling.temperature))
    return [*stages, lib.llama_sampler_init_dist(sampling.seed)]
