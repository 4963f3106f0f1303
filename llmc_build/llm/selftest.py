"""What keeps a model's bits: pieces of prompts, and widths of batches, tried out on the model itself.

Owns the trials.  Their outcome is a `shape.Reading` and a `shape.Decoding`; `exactness` keeps them.

A trial is a generator that yields between two calls of llama.cpp, so that a worker can go on listening
while it runs.  It computes a few tokens in the canonical way and in the way that is tried, and compares the
bits of all logits.  The tokens are arbitrary, but always the same: kernels choose their path by shapes, not
by values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from llmc_build.llm.room import Room
from llmc_build.llm.shape import GRID, Decoding, Reading, next_border
from llmc_build.llm.vocabulary import Vocabulary

LIMIT_S = 30.0  # what is not known after that much time counts as not so

_PROMPT = 87  # tokens: no multiple of any number of columns that kernels take together
_CUTS = {1: 41, 8: 40, GRID: 2 * GRID}  # alignment -> where the prompt is cut to try it
_NEVER = float("inf")
_WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)  # others are made of these

Trial = Generator[None, None, None]


class Tokens:
    """Ordinary tokens of a vocabulary, the same ones every time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def take(self, seed: int, count: int) -> list[int]:
        found: list[int] = []
        number, size = seed * 7919 + 17, self._vocabulary.size
        while len(found) < count:
            number = (number * 1103515245 + 12345) & 0x7FFFFFFF
            token = number % size
            if size < 64 or not self._vocabulary.is_special(token):
                found.append(token)
        return found


class _Late(Exception):
    """The time is up."""


class Clock:
    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._end = time.monotonic() + limit_s

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise _Late


def try_reading(open_room: Callable[[int], Room], tokens: Tokens, found: Callable[[Reading], None]) -> Trial:
    """Tells `found` how prompts may be cut; raises RoomError where there is no memory to try.

    `open_room` opens a room of so many slots.
    """
    clock, prompt, reading = Clock(), tokens.take(1, _PROMPT), Reading()
    room = open_room(2)
    try:
        wanted = yield from _rest(room, 0, prompt, 0, Reading(), clock)
        donor = room.save(0) if room.saves(_PROMPT) else None
        for align, cut in _CUTS.items():
            merged = Reading(merged=align < GRID)
            # as when another prompt has the same beginning: what comes after it is cut off
            if donor is None or not (room.load(1, donor) and room.cut(1, cut)):
                break
            if (yield from _rest(room, 1, prompt, cut, merged, clock)) == wanted:
                reading = Reading(merged=merged.merged, align=align)
                break
            yield
            clock.check()
        if not reading.merged:
            room.clear(1)
            whole = yield from _rest(room, 1, prompt, 0, Reading(merged=True), clock)
            reading = Reading(merged=whole == wanted, align=reading.align)
    except _Late:
        pass
    finally:
        room.close()
    found(reading)


def try_decoding(
    open_room: Callable[[int], Room], tokens: Tokens, most: int, found: Callable[[Decoding], None]
) -> Trial:
    """Tells `found` which widths, of those up to `most`, keep the bits; raises RoomError."""
    clock, alone, costs = Clock(), dict[int, bytes](), dict[int, float]()
    room = open_room(most)
    try:
        prompts = [tokens.take(2 + i, 2 + i % 4) for i in range(most)]
        for slot, prompt in enumerate(prompts):
            yield
            clock.check()
            room.compute([(slot, prompt, 0)])
        nexts = [tokens.take(100 + i, 1) for i in range(most)]
        costs[1] = _NEVER
        for slot in range(most):
            yield
            clock.check()
            begun = time.process_time()
            rows = room.compute([(slot, nexts[slot], len(prompts[slot]))])
            alone[slot] = room.logits(rows[0])
            costs[1] = min(costs[1], (time.process_time() - begun) / room.threads_for(1))
            room.cut(slot, len(prompts[slot]))
        for width in [most, *(width for width in _WIDTHS if width < most)]:
            yield
            clock.check()
            begun = time.process_time()
            rows = room.compute(
                [(slot, nexts[slot], len(prompt)) for slot, prompt in enumerate(prompts[:width])]
            )
            got = [room.logits(row) for row in rows]
            cost = (time.process_time() - begun) / room.threads_for(width)
            if not all(room.cut(slot, len(prompt)) for slot, prompt in enumerate(prompts[:width])):
                break  # the memory can't be cut, so that there is no second try
            if got == [alone[slot] for slot in range(width)]:
                costs[width] = cost
    except _Late:
        pass
    finally:
        room.close()
    found(Decoding(costs=costs if costs.get(1, _NEVER) < _NEVER else {1: 1.0}))


def _rest(
    room: Room, slot: int, prompt: Sequence[int], at: int, reading: Reading, clock: Clock
) -> Generator[None, None, bytes]:
    """Computes a prompt from `at` on; the logits of its last token."""
    while True:
        end = next_border(at, len(prompt), reading)
        rows = room.compute([(slot, prompt[at:end], at)])
        if end == len(prompt):
            return room.logits(rows[0])
        at = end
        yield
        clock.check()
