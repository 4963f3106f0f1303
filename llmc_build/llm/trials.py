"""What is known of one model's bits by now, and when it is worth finding out more.

Owns the decision to make a trial, its course, and what it has taught.  The trials themselves are
`selftest`'s; what they teach is used by `engine`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items

from llmc_build.llm.remembered import Remembered
from llmc_build.llm.room import Room, RoomError
from llmc_build.llm.selftest import Tokens, Trial, try_reading
from llmc_build.llm.sequence import Sequence
from llmc_build.llm.shape import ALONE, CANONICAL, FREE, Decoding, Reading, common_length, planned
from llmc_build.model import Json

_CELLS = 512  # tokens of a slot in which a trial is made
_WORTH = 200  # tokens that a trial must be about, of the sequences at hand: it computes as many itself


class Trials:
    def __init__(
        self,
        remembered: Remembered,
        *,
        parallel: int,
        fast: bool,
        room: Callable[[int, int], Room],
        tokens: Tokens,
        experts: bool,
    ) -> None:
        """`room` opens a room for a trial: so many slots, of so many tokens.

        `experts`: the model has experts, so that no trial tells of other tokens than those that it is about.
        """
        self._remembered = remembered
        self._room = room
        self._tokens = tokens
        self._trial: Trial | None = None
        known = remembered.known
        self._reading: Reading | None = known.reading
        self._decoding: Decoding = known.decoding or ALONE
        self._experts = experts
        self._tries_widths = not experts
        if fast:
            self._reading = FREE
            self._decoding = Decoding(costs={width: 1.0 + width for width in range(1, parallel + 1)})

    @property
    def reading(self) -> Reading:
        """How prompts may be cut, by what is known."""
        return self._reading or CANONICAL

    def planned(self, active: int, steps: int, limit: int) -> list[tuple[int, bool]]:
        """How so many sequences go on that have so many tokens to come each: widths, and which is tried."""
        return planned(active, steps if self._tries_widths else 0, self._decoding, limit)

    def learn_width(self, width: int, exact: bool, cost: float, alone: float) -> None:
        """What came of trying a width: whether it keeps the bits, and what it costs, as does one alone."""
        old = self._decoding
        known = {1: min(alone, old.costs[1]) if old is not ALONE else alone}
        if exact:
            known[width] = cost
        refuted = old.refuted if exact else old.refuted | {width}
        self._decoding = Decoding(costs={**old.costs, **known}, refuted=refuted)
        self._remembered.learn(decoding=self._decoding)

    def try_no_width(self) -> None:
        """Nothing can be taken back, so that no width can be tried."""
        self._tries_widths = False

    @property
    def may_reuse(self) -> bool:
        """Whether beginnings can be of use, as far as is known."""
        return self._reading is None or bool(self._reading.align)

    def facts(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        if self._decoding is not ALONE or not self._tries_widths:
            found["widths"] = [*sorted(self._decoding.costs)]
        if self._reading is not None:
            found["reuse_align"] = self._reading.align
            found["merged"] = self._reading.merged
        return found

    def go_on(self, sequences: Items[Sequence], best: Callable[[array[int]], int]) -> bool:
        """Makes a call of a trial that is worth its time for these sequences; False where none is.

        `best`: how many tokens of a prompt are known already.
        """
        if self._trial is None:
            self._trial = self._wanted(sequences, best)
        if self._trial is None:
            return False
        try:
            next(self._trial)
        except StopIteration:
            self._trial = None
        except RoomError:  # no memory to try: what is not known is not used
            self._trial = None
            self._reading = self._reading or CANONICAL
        return True

    def close(self) -> None:
        """Ends a trial that is being made."""
        if self._trial is not None:
            self._trial.close()
            self._trial = None

    def _wanted(self, sequences: Items[Sequence], best: Callable[[array[int]], int]) -> Trial | None:
        unread = [s for s in sequences if s.reading]
        if self._reading is None and unread:
            before: list[Sequence] = []
            spared = 0
            for sequence in unread:
                if not sequence.begun:
                    shared = [common_length(sequence.tokens, other.tokens) for other in before]
                    spared += max(best(sequence.tokens), *shared, 0)
                before.append(sequence)
            if spared >= _WORTH:
                return try_reading(self._open, self._tokens, self._learn_reading, whole_pieces=self._experts)
        return None

    def _open(self, width: int) -> Room:
        return self._room(width, _CELLS)

    def _learn_reading(self, reading: Reading) -> None:
        self._reading = reading
        self._remembered.learn(reading=reading)
