"""Requests that wait for a slot, and which of them is next.  Pure.

Owns their order: as they came, but that one whose prompt has a long beginning in common with what was read
last goes first.  So prompts about one text meet, while what was computed for it is at hand.  None is passed
over for ever.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from llmc_build.llm.shape import common_length

MOST_PASSES = 64  # how often a request may see a later one go first
LONG = 64  # tokens in common that are worth going out of turn for

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class _Place(Generic[Item]):
    item: Item
    tokens: array[int]
    passes: int = 0


class Waiting(Generic[Item]):
    def __init__(self) -> None:
        self._places: list[_Place[Item]] = []
        self._last: array[int] = array("i")  # the prompt that was taken last

    def __len__(self) -> int:
        return len(self._places)

    def add(self, item: Item, tokens: array[int]) -> None:
        """`tokens`: its prompt."""
        self._places.append(_Place(item, tokens))

    def take(self) -> Item:
        """The next one; there must be one."""
        first = self._places[0]
        chosen, longest = first, common_length(first.tokens, self._last)
        if first.passes < MOST_PASSES:
            for place in self._places[1:]:
                common = common_length(place.tokens, self._last)
                if common >= LONG and common > longest:
                    chosen, longest = place, common
        for place in self._places[: self._places.index(chosen)]:
            place.passes += 1
        self._places.remove(chosen)
        self._last = chosen.tokens
        return chosen.item

    def remove(self, wanted: Callable[[Item], bool]) -> Item | None:
        """Takes one out of the line; None where there is none of that kind."""
        for place in self._places:
            if wanted(place.item):
                self._places.remove(place)
                return place.item
        return None
