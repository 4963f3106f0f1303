"""Text to tokens and tokens to bytes, in the vocabulary of one loaded model.

Owns tokenisation as such.  What text a model is given, and which parts of it may hold special tokens, is
`prompts`.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

from llmc_build.llm.native import lib

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_UNKNOWN, _CONTROL = 1, 8  # llama_token_attr
_NO_TOKEN = -1


class Vocabulary:
    """The vocabulary of a model; valid as long as the model is loaded."""

    def __init__(self, model: object) -> None:
        self._vocab = self.handle = lib.llama_model_get_vocab(model)
        self.size = int(lib.llama_vocab_n_tokens(self._vocab))
        bos = int(lib.llama_vocab_bos(self._vocab))
        self.bos: int | None = None if bos == _NO_TOKEN else bos
        eos = int(lib.llama_vocab_eos(self._vocab))
        self.eos: int | None = None if eos == _NO_TOKEN else eos
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab)) and self.bos is not None
        self.piece = functools.lru_cache(maxsize=1 << 14)(self._piece)

    def tokenize(self, text: str, *, special: bool, whole: bool = False) -> list[int]:
        """The tokens of a text; with `whole`, also those that the model wants around a text.

        With `special`, the text of a control token becomes that token; without, it is text like any other.
        """
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        while True:
            buffer = (lib.llama_token * room)()
            count = int(lib.llama_tokenize(self._vocab, raw, len(raw), buffer, room, whole, special))
            if count >= 0:
                return list(buffer[:count])
            room = -count  # what llama.cpp says it needs

    def name(self, token: int | None) -> str:
        """The text by which a token is called, such as `<|im_end|>`; empty for none."""
        if token is None:
            return ""
        return bytes(lib.llama_vocab_get_text(self._vocab, token)).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    @functools.cached_property
    def end(self) -> int | None:
        """A token that ends an answer; None where the model has none."""
        known = [self.eos] if self.eos is not None and self.is_end(self.eos) else range(self.size)
        return next((token for token in known if self.is_end(token)), None)

    @functools.cached_property
    def ids(self) -> npt.NDArray[np.int32]:
        """Every token."""
        import numpy as np

        return np.arange(self.size, dtype=np.int32)

    @functools.cached_property
    def steering(self) -> npt.NDArray[np.bool_]:
        """Of each token, whether it steers the model and does not end an answer."""
        import numpy as np

        found = (self.is_special(token) and not self.is_end(token) for token in range(self.size))
        return np.fromiter(found, dtype=np.bool_, count=self.size)

    def is_special(self, token: int) -> bool:
        """Whether the token steers the model rather than being text."""
        return bool(lib.llama_vocab_get_attr(self._vocab, token) & (_UNKNOWN | _CONTROL))

    def _piece(self, token: int) -> bytes:
        """The bytes that a token adds to an answer; none for a control token."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = int(lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False))
            if count >= 0:
                return buffer.raw[:count]
            room = -count
