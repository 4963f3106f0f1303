"""Tokens that keep an answer to its grammar.

Owns how llama.cpp's grammar sampler and a request's sampler chain choose together.  What the grammar is, and
whether the finished answer is what was asked for, is `constrain`.

Theory of operation.  To ask the grammar about every token of a vocabulary takes as long as computing the
token does (5 to 10 ms for 49,152); to ask about one takes a hundredth of that.  So the chain first chooses
as if there were no grammar, and only the token that it chose is asked about.  If the grammar refuses it, the
chain chooses once more, among the tokens that the grammar allows.  Of a greedy choice and of top-k sampling
these are found among the best few first: asking about the best 256 is enough wherever as many of them are
allowed as the chain looks at.  The outcome is the same as when everything had been asked.

Control tokens have a text by which the grammar would take them for text; they are refused, but for those
that end an answer, which the grammar allows where a text is complete.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llmc_build.constrain import grammar_of
from llmc_build.llm.native import first_error, forget_errors, lib
from llmc_build.llm.requests import RequestError
from llmc_build.llm.vocabulary import Vocabulary
from llmc_build.model import Json

_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data
_BEST = 256  # candidates that are asked about first
_MOST_BEST = 64  # what a chain may look at for that to be worth it

Candidates = npt.NDArray[np.void]


class Constraint:
    """The grammar of one answer, at the place where the answer is; `close` frees it."""

    def __init__(self, output: Mapping[str, Json], vocabulary: Vocabulary, *, reach: int | None) -> None:
        """`reach`: how many of the best candidates the chain looks at; None: all.  Raises RequestError."""
        self._vocabulary = vocabulary
        self._reach = reach
        self._json = output["kind"] != "grammar"
        self._end = vocabulary.end
        if self._end is None:
            raise RequestError(
                "the model has no token that ends an answer, which `schema`, `grammar` and `format` need"
            )
        forget_errors()
        self._grammar = lib.llama_sampler_init_grammar(
            vocabulary.handle, grammar_of(output).encode(), b"root"
        )
        if not self._grammar:
            raise RequestError(f"llama.cpp refuses the grammar: {first_error() or 'it does not say why'}")
        self._last = b""  # the bytes of the newest token
        self._all = np.zeros(vocabulary.size, _CANDIDATE)

    def sample(self, chain: object, context: object, row: int) -> int:
        """The next token; `chain` and grammar have taken it on.  Raises RequestError."""
        address = ctypes.addressof(lib.llama_get_logits_ith(context, row).contents)
        logits = np.ctypeslib.as_array((ctypes.c_float * len(self._all)).from_address(address))
        token = self._choice(chain, self._filled(logits))
        if not self._allows(token):
            token = self._among_allowed(chain, logits)
        lib.llama_sampler_accept(chain, token)
        lib.llama_sampler_accept(self._grammar, token)
        self._last = self._vocabulary.piece(token)
        return token

    @property
    def complete(self) -> bool:
        """Whether a JSON value is closed: behind that only the end can come.

        Never told of numbers, which could have more digits, nor of grammars of the user's.
        """
        closed = self._json and self._last[-1:] in (b"}", b"]", b'"', b"e", b"l")
        return closed and self._end is not None and self._allows(self._end)

    def close(self) -> None:
        grammar, self._grammar = self._grammar, None
        if grammar is not None:
            lib.llama_sampler_free(grammar)

    # ------------------------------------------------------------ choosing

    def _among_allowed(self, chain: object, logits: npt.NDArray[np.float32]) -> int:
        if self._reach is not None and self._reach <= _MOST_BEST and len(logits) > _BEST:
            # every candidate as good as the last of the best, lest it matter how equal ones are ordered
            border = np.partition(logits, len(logits) - _BEST)[len(logits) - _BEST]
            best = np.flatnonzero(logits >= border)
            candidates = self._held_to_grammar(self._some(best, logits))
            if np.count_nonzero(candidates["logit"] > -np.inf) >= self._reach:
                return self._choice(chain, candidates)
        candidates = self._held_to_grammar(self._filled(logits))
        if not np.any(candidates["logit"] > -np.inf):
            raise RequestError("no token of the model's vocabulary can follow by the grammar")
        return self._choice(chain, candidates)

    def _filled(self, logits: npt.NDArray[np.float32]) -> Candidates:
        """Every token with its logit; in one array, used again and again."""
        found = self._all
        found["id"] = self._vocabulary.ids
        found["logit"] = logits
        found["p"] = 0.0
        return found

    def _some(self, ids: npt.NDArray[np.intp], logits: npt.NDArray[np.float32]) -> Candidates:
        found = np.zeros(len(ids), _CANDIDATE)
        found["id"] = ids
        found["logit"] = logits[ids]
        return found

    def _held_to_grammar(self, candidates: Candidates) -> Candidates:
        """The candidates, those that may not follow without a chance."""
        candidates["logit"][self._vocabulary.steering[candidates["id"]]] = -np.inf
        lib.llama_sampler_apply(self._grammar, ctypes.byref(_array(candidates)))
        return candidates

    def _allows(self, token: int) -> bool:
        if self._vocabulary.steering[token]:
            return False
        one = np.zeros(1, _CANDIDATE)
        one["id"] = token
        lib.llama_sampler_apply(self._grammar, ctypes.byref(_array(one)))
        return bool(one["logit"][0] > -np.inf)

    @staticmethod
    def _choice(chain: object, candidates: Candidates) -> int:
        """The token that a chain chooses."""
        array = _array(candidates)
        lib.llama_sampler_apply(chain, ctypes.byref(array))
        return int(array.data[array.selected].id)


def _array(candidates: Candidates) -> Any:
    """Candidates as llama.cpp sees them, in the same memory."""
    data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data))
    return lib.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
