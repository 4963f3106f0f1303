"""What was computed for the beginnings of prompts, and which of it a prompt can go on from.

Owns the states in memory: which are worth taking, which are found for a prompt, and which have to go.
Where a longer life is wanted they are passed on to `kvstore`; what a state is made of is `room`'s.

A state holds everything that a model has computed for some tokens.  It serves every prompt that begins with
the same tokens, also where only part of them agree: the rest is cut off.  So of many questions about one
text only the first one's state is kept; the others add little to it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from llmc_build.llm.room import State
from llmc_build.llm.shape import common_length

LEAST = 16  # tokens that a state must spare to be worth its memory
_SHARE = 8  # and this part of the prompt
_OVERHEAD = 512  # bytes that count for an entry beside its state


@dataclass(slots=True, eq=False)
class Beginning:
    """A state and what it is of."""

    tokens: array[int]
    size: int  # bytes
    state: State | None  # None: not in memory; `fetch` brings it
    fetch: Callable[[], State | None] | None = None


class Beginnings:
    """States by their tokens; those in memory take at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[Beginning, None] = {}  # the most recently used last
        self._held = 0

    def __len__(self) -> int:
        return len(self._found)

    def best(self, tokens: array[int]) -> tuple[Beginning | None, int]:
        """The state that has most in common with a prompt, and how many tokens that is."""
        best, most = None, 0
        for one in self._found:
            # what is in memory is taken where it is as good
            common = common_length(one.tokens, tokens)
            if common > most or (common == most and best is not None and best.state is None):
                best, most = one, common
        return (best, most) if most else (None, 0)

    def worth(self, length: int, reused: int) -> bool:
        """Whether the state of a prompt is worth keeping when so much of it came from another."""
        return length - reused >= max(LEAST, length // _SHARE)

    def add(self, tokens: array[int], state: State) -> Beginning:
        """Keeps a state in memory; those that it makes needless go."""
        made = Beginning(tokens=tokens, size=state.size, state=state)
        for one in [one for one in self._found if tokens[: len(one.tokens)] == one.tokens]:
            self._forget(one)
        self._found[made] = None
        self._held += made.size + _OVERHEAD
        self._make_room()
        return made

    def known(self, tokens: array[int], size: int, fetch: Callable[[], State | None]) -> None:
        """Tells of a state that can be fetched; it is the least recently used one."""
        self._found = {Beginning(tokens=tokens, size=size, state=None, fetch=fetch): None, **self._found}

    def state(self, one: Beginning) -> State | None:
        """The bytes of a state, which is now the most recently used.

        None, and it is forgotten, where they are lost.
        """
        if one.state is None and one.fetch is not None:
            one.state = one.fetch()
            if one.state is None:
                del self._found[one]
                return None
            self._held += one.size + _OVERHEAD
        del self._found[one]
        self._found[one] = None
        state = one.state
        self._make_room()
        return state

    def drop(self, one: Beginning) -> None:
        """Forgets a state that turned out to be of no use."""
        if one in self._found:
            self._forget(one)

    def _make_room(self) -> None:
        for one in list(self._found):
            if self._held <= self._limit:
                return
            if one.state is None:
                continue
            if one.fetch is None:
                self._forget(one)
            else:
                self._held -= one.size + _OVERHEAD
                one.state = None

    def _forget(self, one: Beginning) -> None:
        del self._found[one]
        if one.state is not None:
            self._held -= one.size + _OVERHEAD
