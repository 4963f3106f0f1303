"""Places ("slots") in llama.cpp's memory for sequences, and the one call that computes.

Owns a llama.cpp context: how it is opened, what a batch looks like, and how the state of a slot is taken out
and put back.  Which sequence stands in which slot, and what is computed when, is `engine`'s.

Theory of operation.  Every slot has a memory of its own ("stream"; `kv_unified` off), no flash attention is
used, and a sequence's tokens lie in its memory in their order, from the first cell on: so what is computed
for a token does not depend on what other slots hold.  Models whose layers look back on a window only
("SWA") get a memory of full size too: in a ring the tokens of two sequences with one beginning would lie in
different places.

llama.cpp computes those sequences together whose slots are neighbours, in rising order; any other batch is
taken apart without a word.  So callers give neighbours, in order.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from llmc_build.llm.cores import usable_cores
from llmc_build.llm.native import first_error, forget_errors, lib
from llmc_build.llm.shape import CHUNK

_FLASH_ATTENTION_OFF = 0
_WORTH_A_THREAD = 128 * 1024 * 1024  # bytes of weights, times tokens
_ALL = -1

_WORD = 4  # bytes
_HEAD = 3  # words that llama.cpp begins a state with: a magic number, the slot, the number of streams
_MOST_SLOTS = 256
_SLACK = _WORD * _MOST_SLOTS

Work = tuple[int, Items[int], int]  # slot, tokens, position of the first


@dataclass(slots=True, kw_only=True, eq=False)
class State:
    """What a slot holds, as llama.cpp writes it.

    `data` has `size` bytes that matter, and then zeros: that stands for the empty streams of whatever room
    it is put into.  `Room.load` changes the head for as long as it works: another thread must not read it.
    """

    data: memoryview  # of bytes, and writable
    size: int

    @property
    def content(self) -> memoryview:
        """The bytes that matter."""
        return self.data[: self.size]

    def parts(self) -> tuple[bytes, memoryview]:
        """The same in two parts that another thread may read: the head is copied."""
        head = min(_WORD * _HEAD, self.size)
        return bytes(self.data[:head]), self.data[head : self.size]

    @classmethod
    def blank(cls, size: int) -> State:
        """A state whose `content` is still to be filled in."""
        return cls(data=_zeros(size + _SLACK), size=size)


class RoomError(Exception):
    """There is no memory for so many tokens, or llama.cpp can't go on.  One line."""


class Room:
    """`width` slots of `cells` tokens each."""

    def __init__(
        self, model: object, *, width: int, cells: int, threads: int | None = None, unified: bool = False
    ) -> None:
        """`threads`: None: as many as are worth it.  Raises RoomError."""
        params = lib.llama_context_default_params()
        params.n_ctx = cells * width
        params.n_seq_max = width
        params.n_batch = params.n_ubatch = max(CHUNK, width)
        params.kv_unified = unified
        params.flash_attn_type = _FLASH_ATTENTION_OFF
        params.swa_full = True
        params.no_perf = True
        forget_errors()
        self._context = lib.llama_init_from_model(model, params)
        if not self._context:
            why = first_error() or "is there enough memory?"
            raise RoomError(f"no context of {width} x {cells} tokens can be made: {why}")
        self.width = width
        self.cells = int(lib.llama_n_ctx_seq(self._context)) if not unified else cells
        self.recurrent = bool(lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
        self.window = int(lib.llama_model_n_swa(model))
        self.plain = not self.recurrent and not self.window and not unified
        self.completes = bool(lib.llama_get_memory(self._context)) and not lib.llama_model_has_encoder(model)
        self._memory = lib.llama_get_memory(self._context)
        self._threads = threads
        self._weights = int(lib.llama_model_size(model))
        self._n_vocab = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)))
        self._set_threads = 0
        self._batch = lib.llama_batch_init(max(CHUNK, width), 0, 1)

    @property
    def handle(self) -> object:
        """llama.cpp's context."""
        return self._context

    def close(self) -> None:
        if self._context is not None:
            lib.llama_batch_free(self._batch)
            lib.llama_free(self._context)
            self._context = None

    # ------------------------------------------------------------ computing

    def compute(self, work: Items[Work]) -> list[int]:
        """Computes tokens at the ends of sequences; the row of each one's last token.  Raises RoomError."""
        batch, row, rows = self._batch, 0, []
        token, pos, count, slots, logits = batch.token, batch.pos, batch.n_seq_id, batch.seq_id, batch.logits
        for slot, tokens, position in work:
            for number in tokens:
                token[row] = number
                pos[row] = position
                count[row] = 1
                slots[row][0] = slot
                logits[row] = 0
                row += 1
                position += 1
            logits[row - 1] = 1
            rows.append(row - 1)
        batch.n_tokens = row
        self._use_threads(row)
        forget_errors()
        code = int(lib.llama_decode(self._context, batch))
        if code != 0:
            why = first_error()
            told = f"llama_decode gave {code}{f': {why}' if why else ''}"
            raise RoomError(f"llama.cpp could not go on ({told})")
        return rows

    def filling(self, work: Items[Work], width: int) -> list[Work]:
        """What makes some work as wide as that: a token in each slot behind it, which nobody may use."""
        free = work[-1][0] + 1
        found = [(slot, work[0][1], 0) for slot in range(free, free + width - len(work))]
        for slot, _, _ in found:
            self.clear(slot)
        return found

    def logits(self, row: int) -> bytes:
        """The logits of a row of the last call: float32, one for each token of the vocabulary."""
        return ctypes.string_at(lib.llama_get_logits_ith(self._context, row), self._n_vocab * 4)

    def threads_for(self, tokens: int) -> int:
        """Threads that so many tokens in one call are worth.

        In a small model, threads that compute one token would wait for each other longer than they compute.
        Answers don't depend on it.
        """
        return self._threads or min(usable_cores(), 1 + self._weights * tokens // _WORTH_A_THREAD)

    def _use_threads(self, tokens: int) -> None:
        wanted = self.threads_for(tokens)
        if wanted != self._set_threads:
            lib.llama_set_n_threads(self._context, wanted, wanted)
            self._set_threads = wanted

    # ------------------------------------------------------------ what a slot holds

    def clear(self, slot: int) -> None:
        lib.llama_memory_seq_rm(self._memory, slot, _ALL, _ALL)

    def cut(self, slot: int, length: int) -> bool:
        """Forgets what comes after that many tokens; False where the model's memory can't be cut."""
        if int(lib.llama_memory_seq_pos_max(self._memory, slot)) < length:
            return True
        return bool(lib.llama_memory_seq_rm(self._memory, slot, length, _ALL))

    def copy(self, source: int, slot: int) -> None:
        """Makes a slot hold what another one holds, every token in the same cell."""
        self.clear(slot)
        lib.llama_memory_seq_cp(self._memory, source, slot, _ALL, _ALL)

    def saves(self, length: int) -> bool:
        """Whether the state of so many tokens can be saved, and be put back to where it was."""
        return not self.recurrent and (not self.window or length <= self.window)

    def save(self, slot: int) -> State:
        """What a slot holds; it must be something that `saves`."""
        lib.llama_synchronize(self._context)
        size = int(lib.llama_state_seq_get_size(self._context, slot))
        data = _zeros(size + _SLACK)
        got = int(lib.llama_state_seq_get_data(self._context, _pointer(data), size, slot))
        if got != size:
            raise RoomError(f"llama.cpp gave {got} bytes of a state of {size}")
        if not self.plain:
            return State(data=data, size=size)
        # The streams of other slots are empty and take a word each: those before ours are cut off.
        words = data[: _WORD * (_HEAD + slot)].cast("I").tolist()
        after = _WORD * (self.width - 1 - slot)
        if words[1:] != [slot, self.width, *[0] * slot] or any(data[size - after : size]):
            raise RoomError("llama.cpp writes states in a form that is not known")
        data = data[_WORD * slot :]
        _set_words(data, words[0], 0, 1)
        return State(data=data, size=size - _WORD * (self.width - 1))

    def load(self, slot: int, state: State) -> bool:
        """Puts a state into a slot, whatever that held; False, and the slot is empty, where it can't be."""
        self.clear(slot)
        length = state.size
        if self.plain:
            magic = state.data[:_WORD].cast("I")[0]
            _set_words(state.data, magic, slot, self.width)
            length += _WORD * (self.width - 1)
        used = int(lib.llama_state_seq_set_data(self._context, _pointer(state.data), length, slot))
        if self.plain:
            _set_words(state.data, magic, 0, 1)
        if used != length:
            self.clear(slot)
            return False
        return True


def exchanged(
    room: Room, slots: Items[int], open_room: Callable[[int, int], Room], sizes: Items[tuple[int, int]]
) -> tuple[Room, RoomError | None]:
    """Another room in the place of one, which is closed; some slots hold what they held.

    It is of the first of some sizes (slots, tokens of each) that can be opened, or as large as the old one
    where the error says why none can be.  Raises RoomError where nothing can be opened.
    """
    try:
        states = [(slot, room.save(slot)) for slot in slots]
    finally:
        room.close()
    made, why = None, None
    for width, cells in sizes:
        try:
            made, why = open_room(width, cells), None
            break
        except RoomError as error:
            why = error
    made = made or open_room(room.width, room.cells)
    for slot, state in states:
        if not made.load(slot, state):
            made.close()
            raise RoomError("the state of a sequence could not be moved")
    return made, why


def _zeros(size: int) -> memoryview:
    return memoryview((ctypes.c_uint8 * size)()).cast("B")


def _set_words(data: memoryview, *words: int) -> None:
    data[: _WORD * _HEAD].cast("I")[:] = memoryview(array("I", words))


def _pointer(data: memoryview) -> object:
    return (ctypes.c_uint8 * len(data)).from_buffer(data)
