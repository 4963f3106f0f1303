"""What keeps a model's bits: pieces of prompts, and widths of batches, tried out on the model itself.

Owns the trials.  Their outcome is a `shape.Reading` and a `shape.Decoding`; `exactness` keeps them.

A trial computes something in the canonical way and in the way that is tried, and compares the bits of all
logits.  How prompts may be cut is tried on a few tokens that are arbitrary, but always the same, for
kernels choose their path by shapes, not by values (models with experts are the exception: how many tokens
meet in an expert hangs on all that are computed together); between two calls of llama.cpp it yields, so that
the worker can go on listening.  A width is tried on the very sequences that want it, when they want it: what
is computed in the canonical way is their next token, and only the other computation is one more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from llmc_build.llm.room import Room, RoomError, Work
from llmc_build.llm.shape import GRID, Reading, next_border
from llmc_build.llm.vocabulary import Vocabulary

_PROMPT = 87  # tokens: no multiple of any number of columns that kernels take together
_CUTS = {1: 41, 8: 40, GRID: 2 * GRID}  # alignment -> where the prompt is cut to try it

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


def try_reading(
    open_room: Callable[[int], Room],
    tokens: Tokens,
    found: Callable[[Reading], None],
    *,
    whole_pieces: bool = False,
) -> Trial:
    """Tells `found` how prompts may be cut; raises RoomError where there is no memory to try.

    `open_room` opens a room of so many slots.  There is no limit of time: it takes a few hundred tokens, and
    the slower a model is the more it spares.  `whole_pieces`: only what leaves every piece as it is.
    """
    prompt, reading = tokens.take(1, _PROMPT), Reading()
    room = open_room(2)
    try:
        wanted = yield from _rest(room, 0, prompt, 0, Reading())
        donor = room.save(0) if room.saves(_PROMPT) else None
        for align, cut in _CUTS.items():
            if whole_pieces and align < GRID:
                continue
            merged = Reading(merged=align < GRID)
            # as when another prompt has the same beginning: what comes after it is cut off
            if donor is None or not (room.load(1, donor) and room.cut(1, cut)):
                break
            if (yield from _rest(room, 1, prompt, cut, merged)) == wanted:
                reading = Reading(merged=merged.merged, align=align)
                break
            yield
        if not reading.merged and not whole_pieces:
            room.clear(1)
            whole = yield from _rest(room, 1, prompt, 0, Reading(merged=True))
            reading = Reading(merged=whole == wanted, align=reading.align)
    finally:
        room.close()
    found(reading)


def try_width(
    room: Room,
    work: Sequence[Work],
    filling: Sequence[Work],
    learn: Callable[[bool, float, float], None],
    give_up: Callable[[], None],
) -> Iterator[int]:
    """Computes a token of several sequences, each alone; yields the row of each, while it has its logits.

    Before that all are computed together, with what fills the width, and taken back: `learn` is told whether
    that gave the same bits, and what it cost together, and alone (seconds of a thread).  `give_up` is told
    where nothing can be taken back.  Raises RoomError.
    """
    first, every = work[0], [*work, *filling]
    begun = time.process_time()
    (row,) = room.compute([first])
    alone_s = (time.process_time() - begun) / room.threads_for(1)
    if not room.cut(first[0], first[2]):
        give_up()
        yield row
        for one in work[1:]:
            yield room.compute([one])[0]
        return
    begun = time.process_time()
    rows = room.compute(every)
    cost = (time.process_time() - begun) / room.threads_for(len(every))
    together = [room.logits(row) for row in rows[: len(work)]]
    if not all(room.cut(slot, position) for slot, _, position in every):
        raise RoomError("the model's memory could be cut once, and then not")
    exact = True
    for one, bits in zip(work, together, strict=True):
        (row,) = room.compute([one])
        exact = exact and room.logits(row) == bits
        yield row
    learn(exact, cost, alone_s)


def _rest(
    room: Room, slot: int, prompt: Sequence[int], at: int, reading: Reading
) -> Generator[None, None, bytes]:
    """Computes a prompt from `at` on; the logits of its last token."""
    while True:
        end = next_border(at, len(prompt), reading)
        rows = room.compute([(slot, prompt[at:end], at)])
        if end == len(prompt):
            return room.logits(rows[0])
        at = end
        yield
