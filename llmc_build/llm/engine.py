"""One loaded model that answers requests, each as if it were alone.

Owns the order in which sequences are computed.  What a request becomes is `prompts`, how the next token is
chosen `sampler`, where a text is cut `stops`; the slots are `room`'s.  It knows nothing of channels or
logs: `serve` does.

Theory of operation.  A request that was admitted is a `Sequence`: it has a slot, its own sampler, and a
position.  `step` does one of three things:

- reading:  the next piece of the prompt of the sequence that was admitted first among those not yet read;
- decoding: one token of every sequence that has read its prompt;
- a trial:  one call of a self-test whose outcome is wanted now.

Each call that ends at a sequence's newest token gives it the logits for the next one, which is sampled at
once.  So a request joins between any two steps and leaves when it ends.

What a request is answered must not depend on what else is answered.  `shape` defines the pieces by which an
answer is computed when nothing is known of a model; whatever is quicker (wider batches, larger pieces,
beginnings that another prompt had) is used only as far as a trial has shown it to give the same bits.  A
trial takes about as long as a few hundred tokens, once for each model and store, and is made when the work
at hand is worth it.

Beginnings.  When a prompt has been read, its state is kept in memory, and the next prompt goes on from the
state that has most in common with it.  Copying a state takes a thousandth of the time of computing it, so
there is no other sharing: not between slots, not in batches.  (Models with a window are the exception: in
these a prompt goes on from what another slot holds.)  States of long beginnings are also kept in the store.

Where sequences stand, and how room is made for more, is `places`'s.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial

from llmc_build.llm.beginnings import LEAST, Beginnings
from llmc_build.llm.loading import (
    LoadError,
    Settings,
    context_of,
    has_experts,
    load_model,
    parallel_of,
    stretches,
)
from llmc_build.llm.native import lib
from llmc_build.llm.places import Places
from llmc_build.llm.prompts import PromptError, read_prompt
from llmc_build.llm.remembered import Remembered
from llmc_build.llm.requests import RequestError
from llmc_build.llm.room import Room, RoomError
from llmc_build.llm.sampler import Sampler
from llmc_build.llm.selftest import Tokens, try_width
from llmc_build.llm.sequence import Event, Finish, NoPlace, Prepared, Request, Sequence, neighbours
from llmc_build.llm.shape import next_border, usable
from llmc_build.llm.trials import Trials
from llmc_build.llm.vocabulary import Vocabulary
from llmc_build.model import Json

__all__ = [
    "Engine",
    "Event",
    "Finish",
    "LoadError",
    "Prepared",
    "Request",
    "RequestError",
    "Sequence",
    "Settings",
]


class Engine:
    """A loaded model.  Used by one thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        watch: Callable[[Sequence, bytes], None] | None = None,
    ) -> None:
        """Loads the model; raises LoadError.

        `watch` is given the logits (float32, one for each token of the vocabulary) that each token is
        chosen from: what reproducibility is measured by.
        """
        self._watch = watch
        self._settings = settings
        self._sequences: list[Sequence] = []  # in the order of admission
        self._beginnings = Beginnings(settings.states)
        self._places: Places | None = None
        self._model: object = load_model(settings)
        try:
            self.context = context_of(self._model, settings)
        except LoadError:
            self._free()
            raise
        width = parallel_of(self._model, settings, self.context)
        self.vocabulary = Vocabulary(self._model)
        template = lib.llama_model_chat_template(self._model, None)
        self.template = template.decode("utf-8", "replace") if template else None
        try:
            whole = stretches(self._model, self.context)
            self._places = Places(self._new_room, width=width, context=self.context, whole=whole)
            why = None if self._room.completes else "is not a model that completes text"
        except RoomError as error:
            why = f"can't be used: {error}"
        if why is not None:
            self._free()
            raise LoadError(f"{settings.path} {why}")
        fitting = 0 if self._room.plain else width
        self._remembered = Remembered(settings, context=self.context, width=fitting)
        for entry in self._remembered.entries():
            fetch = partial(self._remembered.fetch, entry)
            self._beginnings.known(entry.tokens, entry.size, fetch)
        self._trials = Trials(
            self._remembered,
            parallel=width,
            fast=settings.fast,
            room=self._new_room,
            tokens=Tokens(self.vocabulary),
            experts=has_experts(self._model),
        )

    @property
    def model(self) -> object:
        """llama.cpp's model; it stays the engine's."""
        return self._model

    @property
    def parallel(self) -> int:
        """Requests at a time at most."""
        return self._standing.width

    @property
    def room(self) -> int:
        """How many more requests can be admitted now."""
        return max(0, self.parallel - len(self._sequences))

    @property
    def active(self) -> tuple[Sequence, ...]:
        return tuple(self._sequences)

    def facts(self) -> dict[str, Json]:
        """What is known of the model's bits, for whoever wants to know how it is run."""
        mode = "fast" if self._settings.fast else "exact"
        known: dict[str, Json] = {"parallel": self.parallel, "context": self.context, "batching": mode}
        return {**known, **self._trials.facts()}

    def prepare(self, request: Request) -> Prepared:
        """The prompt of a request; raises RequestError."""
        try:
            prompt = read_prompt(self.vocabulary, self.template, request.messages, request.chat)
        except PromptError as error:
            raise RequestError(str(error)) from None
        if len(prompt.tokens) >= self.context:
            raise RequestError(
                f"the prompt has {len(prompt.tokens)} tokens, and the model's context holds {self.context} "
                "with the answer: shorten it, or raise `context` of the model in llmc.yaml"
            )
        return Prepared(request=request, prompt=prompt, tokens=array("i", prompt.tokens))

    def admit(self, request: Request | Prepared) -> Sequence:
        """Takes a request on; needs room.  Raises RequestError."""
        if not self.room:
            raise ValueError("no room: every slot is taken")
        prepared = self.prepare(request) if isinstance(request, Request) else request
        asked = prepared.request
        sampler = Sampler(asked.sampling, self.vocabulary, prepared.prompt.tokens, asked.output)
        taken = {sequence.slot for sequence in self._sequences}
        slot = next(slot for slot in range(self.parallel) if slot not in taken)
        sequence = Sequence(slot, prepared, sampler)
        self._sequences.append(sequence)
        return sequence

    def step(self) -> list[Event]:
        """One piece of work, and what came of it; nothing where nothing is to be done."""
        events: list[Event] = []
        try:
            if not self._sequences or self._trials.go_on(self._sequences, self._known_of):
                return events
            reading = next((s for s in self._sequences if s.reading), None)
            if reading is not None and (reading.begun or self._begin(reading)):
                events += self._read(reading)
            else:
                self._decode(events)
        except NoPlace as error:
            events.append(self._failed(error.sequence, str(error)))
        except RoomError as error:
            events += [self._failed(sequence, str(error)) for sequence in self.active]
        return events

    def retire(self, sequence: Sequence) -> None:
        """Ends a sequence and frees its slot; does nothing where it is over already."""
        if sequence not in self._sequences:
            return
        self._sequences.remove(sequence)
        sequence.sampler.close()

    def close(self, *, free: bool = True) -> None:
        """The engine can't be used any more; what it has to write is written, and the model freed."""
        for sequence in self.active:
            self.retire(sequence)
        if self._model is not None:
            self._trials.close()
            self._remembered.close()
            if free:
                self._free()

    def _free(self) -> None:
        if self._places is not None:
            self._places.close()
        lib.llama_model_free(self._model)
        self._model = None

    # ------------------------------------------------------------ reading

    def _read(self, sequence: Sequence) -> list[Event]:
        """Computes the next piece of a prompt."""
        reading = self._trials.reading
        end = next_border(sequence.position, len(sequence.tokens), reading)
        (row,) = self._room.compute(
            [(sequence.slot, sequence.tokens[sequence.position : end], sequence.position)]
        )
        sequence.position = end
        if sequence.reading:
            return []
        self._keep(sequence)
        return [self._next(sequence, row)]

    def _begin(self, sequence: Sequence) -> bool:
        """Gives a sequence its place, and what of its prompt is known already; False: no place yet."""
        if not self._standing.make_room(sequence, self._sequences):
            return False
        sequence.begun = True
        length = self._take_over(sequence) or self._restore(sequence)
        if not length:
            self._room.clear(sequence.slot)
        sequence.position = sequence.reused = length
        self._standing.let_go(sequence.slot)
        return True

    def _restore(self, sequence: Sequence) -> int:
        """Puts a state into the slot; the number of tokens that need not be computed."""
        while True:
            best, common = self._beginnings.best(sequence.tokens)
            if best is None:
                return 0
            length = usable(common, len(sequence.tokens), self._trials.reading, len(best.tokens))
            if length < LEAST:
                return 0
            state = self._beginnings.state(best)
            if state is not None:
                if self._room.load(sequence.slot, state) and self._room.cut(sequence.slot, length):
                    return length
                self._beginnings.drop(best)  # else it was lost, or damaged in the store

    def _known_of(self, tokens: array[int]) -> int:
        """How many tokens of a prompt were computed before, and are at hand."""
        return max(self._beginnings.best(tokens)[1], self._standing.longest(tokens, 0)[1])

    def _take_over(self, sequence: Sequence) -> int:
        """As `_restore`, from what a slot holds, where that is more than any state has."""
        best, common, held = self._standing.longest(sequence.tokens, sequence.slot)
        length = usable(common, len(sequence.tokens), self._trials.reading, held)
        if length < LEAST or common <= self._beginnings.best(sequence.tokens)[1]:
            return 0
        if best != sequence.slot:
            self._room.copy(best, sequence.slot)
        return length if self._room.cut(sequence.slot, length) else 0

    def _keep(self, sequence: Sequence) -> None:
        """Keeps what was computed for a prompt, where it is worth it."""
        tokens, room = sequence.tokens, self._room
        if not self._trials.may_reuse:
            return
        if room.window:
            self._standing.hold(sequence.slot, tokens)
        if room.saves(len(tokens)) and self._beginnings.worth(len(tokens), sequence.reused):
            state = room.save(sequence.slot)
            self._beginnings.add(tokens, state)
            self._remembered.keep(tokens, state)

    # ------------------------------------------------------------ decoding

    def _decode(self, events: list[Event]) -> None:
        """Computes one token of every sequence, in as few calls as keep the bits."""
        self._standing.close_ranks(self._sequences)
        room = self._room
        answering = [s for s in self._sequences if s.token is not None]
        for group in neighbours(sorted(answering, key=lambda s: s.slot)):
            steps = sum(s.max_tokens - s.generated for s in group) // len(group)
            limit, at = room.width - group[0].slot if len(group) == len(answering) else len(group), 0
            for width, is_trial in self._trials.planned(len(group), steps, limit):
                self._compute(group[at : at + width], width, events, is_trial=is_trial)
                at += width

    def _compute(
        self, sequences: Items[Sequence], width: int, events: list[Event], *, is_trial: bool
    ) -> None:
        room, trials = self._room, self._trials
        work = [(s.slot, (s.token or 0,), s.position) for s in sequences]
        filling = room.filling(work, width)
        for slot, _, _ in filling:
            self._standing.let_go(slot)
        if is_trial:
            learn = partial(trials.learn_width, width)
            rows = try_width(room, work, filling, learn, trials.try_no_width)
        else:
            rows = iter(room.compute([*work, *filling])[: len(work)])
        for sequence, row in zip(sequences, rows, strict=True):
            sequence.position += 1
            sequence.widest = max(sequence.widest, 1 if is_trial else len(work))
            events.append(self._next(sequence, row))

    def _next(self, sequence: Sequence, row: int) -> Event:
        if self._watch is not None:
            self._watch(sequence, self._room.logits(row))
        try:
            return self._advance(sequence, sequence.sampler.sample(self._room.handle, row))
        except RequestError as error:
            return self._failed(sequence, str(error))

    def _advance(self, sequence: Sequence, token: int) -> Event:
        """What a new token means for its sequence."""
        sequence.last = time.monotonic()
        if sequence.first is None:
            sequence.first = sequence.last
        if self.vocabulary.is_end(token):
            return self._finished(sequence, "", Finish.STOP)
        sequence.generated += 1
        text = sequence.take(self.vocabulary.piece(token))
        if sequence.stopped or sequence.sampler.complete:
            return self._finished(sequence, text, Finish.STOP)
        if sequence.generated >= sequence.max_tokens:
            return self._finished(sequence, text, Finish.LENGTH)
        if sequence.position >= self.context:
            return self._full(sequence)
        sequence.token = token
        return Event(sequence=sequence, text=text)

    def _finished(self, sequence: Sequence, text: str, finish: Finish) -> Event:
        text += sequence.rest()
        self.retire(sequence)
        return Event(sequence=sequence, text=text, finish=finish)

    def _full(self, sequence: Sequence) -> Event:
        """The answer reached the end of the context before its own: a cut text is no answer."""
        return self._failed(
            sequence,
            f"the prompt of {len(sequence.tokens)} tokens and {sequence.generated} tokens of answer "
            f"fill the context of {self.context}: lower `max_tokens` ({sequence.max_tokens}), shorten the "
            "prompt, or raise `context` of the model in llmc.yaml",
        )

    def _failed(self, sequence: Sequence, error: str) -> Event:
        self.retire(sequence)
        return Event(sequence=sequence, error=error)

    # ------------------------------------------------------------ slots

    @property
    def _standing(self) -> Places:
        assert self._places is not None
        return self._places

    @property
    def _room(self) -> Room:
        return self._standing.room

    def _new_room(self, width: int, cells: int) -> Room:
        return Room(self._model, width=width, cells=cells, threads=self._settings.threads)
