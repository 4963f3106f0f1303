"""Where sequences stand: the room that is open, how it grows, and what its slots are known to hold.

Owns the moves of sequences from slot to slot and from room to room.  What is computed there, and when, is
`engine`'s; a room itself is `room`'s.

The room grows with the work: one slot and a few tokens are opened in a hundredth of the time that all of
them take.  For that, and to keep the sequences of a batch in neighbouring slots, sequences move: their
states are copied.  Where states fit into no other room (models with a window, recurrent ones) all slots are
opened for the first prompt, and more tokens when nobody is there.

Memory may refuse a larger room.  Then narrower ones are tried, and who finds no slot waits until others have
ended; a prompt that is too large beside others is answered alone.  Only what is too large alone fails.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items

from llmc_build.llm.room import Room, RoomError, exchanged
from llmc_build.llm.sequence import NoPlace, Sequence
from llmc_build.llm.shape import common_length

_FEW = 4  # slots of a room for a few sequences
_LEAST_CELLS = 256  # tokens of a slot, where the context has as many


class Places:
    """Used by one thread, as the model is."""

    def __init__(
        self, open_room: Callable[[int, int], Room], *, width: int, context: int, whole: bool
    ) -> None:
        """`open_room`: makes a room of so many slots of so many tokens.

        `width`: sequences at a time at most; `context`: tokens of each at most, and with `whole` always.
        Raises RoomError.
        """
        self._open_room = open_room
        self._context = context
        self._least = context if whole else min(context, _LEAST_CELLS)
        self._held: dict[int, array[int]] = {}  # slot -> the prompt that was read into it; of some models
        self._refused: float = float("inf")  # tokens of the smallest room that memory refused
        self.width = width  # sequences at a time: fewer once memory refused more
        self._room: Room | None = open_room(1, self._least)

    @property
    def room(self) -> Room:
        """The room that is open; raises RoomError where none could be opened."""
        if self._room is None:
            raise RoomError("the model's memory is gone")
        return self._room

    def close(self) -> None:
        if self._room is not None:
            self._room.close()
            self._room = None

    # ------------------------------------------------------------ room for a newcomer

    def make_room(self, newcomer: Sequence, sequences: Items[Sequence]) -> bool:
        """Sees to it that the room has the newcomer's slot, and tokens enough; all others move along.

        False: it has to wait for the end of others.  Raises NoPlace, and RoomError where nothing can be
        opened any more.
        """
        if self._room is None:  # it could not be opened for others
            self._room = self._open_room(1, self._least)
        begun = [s for s in sequences if s.begun]
        if not self._fits(newcomer):
            self._seat(newcomer, sequences, {s.slot for s in begun})
        why = self._grow(newcomer, sequences, begun) if self.room.plain or not begun else None
        if self._fits(newcomer):
            return True
        if not begun:
            raise NoPlace(newcomer, str(why))
        if self.room.plain and newcomer.slot >= self.room.width:
            self.width = self.room.width
        return False

    def _fits(self, sequence: Sequence) -> bool:
        return sequence.slot < self.room.width and self._cells(sequence) <= self.room.cells

    def _cells(self, *sequences: Sequence) -> int:
        """Tokens of a slot in which each of these has place, as rooms have them."""
        needs = min(self._context, max(s.needs for s in sequences))
        cells = self._least
        while cells < needs:
            cells = min(self._context, cells * 2)
        return cells

    @staticmethod
    def _seat(newcomer: Sequence, sequences: Items[Sequence], taken: set[int]) -> None:
        """Gives a newcomer the lowest slot in which nobody stands; for whom it was meant gets another."""
        slot = min(set(range(len(taken) + 1)) - taken)
        for other in sequences:
            if other.slot == slot:
                other.slot = newcomer.slot
        newcomer.slot = slot

    def _grow(
        self, newcomer: Sequence, sequences: Items[Sequence], begun: Items[Sequence]
    ) -> RoomError | None:
        """Opens a room for all of them, or else one for the newcomer and those who are there.

        The error says why it can't be.
        """
        room, cells = self.room, self._cells(*sequences)
        slots = newcomer.slot + 1 if room.plain else self.width
        if slots <= room.width and cells <= room.cells:
            return None
        few = room.plain and max(s.slot for s in sequences) < _FEW
        width = max(room.width, min(self.width, _FEW) if few else self.width)
        sizes = [(width, max(cells, room.cells))]
        if not self._fits(newcomer) or not room.plain:
            least = 1 + max(s.slot for s in [newcomer, *begun])
            own = self._cells(newcomer) if not begun else max(self._cells(newcomer), room.cells)
            halves = (width >> i for i in range(width.bit_length()))
            sizes += [(w, own) for w in dict.fromkeys([*(w for w in halves if w > least), least])]
        if begun:  # to try what was refused would have all of them move
            sizes = [(w, c) for w, c in sizes if w * c < self._refused]
        if not sizes:
            return None
        self._room = None
        self._held.clear()
        self._room, why = exchanged(room, [s.slot for s in begun], self._opened, sizes)
        if why is None and self._room.width < width:
            self.width = self._room.width
        return why

    def _opened(self, width: int, cells: int) -> Room:
        try:
            return self._open_room(width, cells)
        except RoomError:
            self._refused = min(self._refused, width * cells)
            raise

    # ------------------------------------------------------------ moves

    def close_ranks(self, sequences: Items[Sequence]) -> None:
        """Moves sequences into lower slots that became free, so that all of them are neighbours."""
        by_slot = {sequence.slot: sequence for sequence in sequences}
        if self.room.recurrent:
            return
        for slot in range(len(by_slot)):
            if slot not in by_slot:
                last = by_slot.pop(max(by_slot))
                self._move(last, slot)
                by_slot[slot] = last

    def _move(self, sequence: Sequence, slot: int) -> None:
        room, old = self.room, sequence.slot
        sequence.slot = slot
        if not sequence.begun:
            return  # the slots hold what they held
        if not room.plain:
            room.copy(old, slot)
        elif not room.load(slot, room.save(old)):
            raise RoomError("the state of a sequence could not be moved")
        self._held.pop(slot, None)
        if old in self._held:
            self._held[slot] = self._held.pop(old)

    # ------------------------------------------------------------ what slots hold

    def hold(self, slot: int, tokens: array[int]) -> None:
        """A slot holds what was computed for a prompt, which others may go on from."""
        self._held[slot] = tokens

    def let_go(self, slot: int) -> None:
        """A slot holds something else from now on."""
        self._held.pop(slot, None)

    def longest(self, tokens: array[int], slot: int) -> tuple[int, int, int]:
        """The slot that has most in common with a prompt, how much, and how long the prompt is that it has.

        Where another has as much, `slot` is preferred.
        """
        best, most, length = slot, 0, 0
        for one, held in self._held.items():
            common = common_length(held, tokens)
            if common > most or (common == most and one == slot):
                best, most, length = one, common, len(held)
        return best, most, length
