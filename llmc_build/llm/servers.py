"""What holds for all requests to one server: how many it gets at a time, and how it is asked.

Owns the slots of a server and what was learnt about it.  How many slots there are is decided by
`patience.Limiter`; what a request does in its slot is `talk`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

from llmc_build.llm.bodies import Form
from llmc_build.llm.patience import Limiter


class Slot:
    """One request's place among those that a server works on; set before it is left."""

    answered = False
    overloaded = False
    sent = False
    seen = 0  # pauses there had been when its request was sent


class Gate:
    """Lets as many requests through to a server as its limiter allows, in the order they came.

    A server that says when to come back is sent nothing until then: one pause for all.  Pauses that no answer
    came between are pauses in vain, and their number says when to give up, unless the server may still be at
    work for somebody.  They are counted for the server, not for each request, so that a line that waits in
    vain ends at once and not one after the other.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._line: deque[asyncio.Future[int]] = deque()
        self._returned: deque[asyncio.Future[int]] = deque()  # those that were sent before go first
        self._open = asyncio.Event()
        self._open.set()
        self._opens_at = 0.0  # time of the loop
        self._paused = 0  # pauses ever
        self._heard_at = 0  # how many they were when the last answer came
        self._sent = 0  # requests that the server has and neither answered nor refused
        self._visits = 0

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """From the arrival of a request to its end; after a time with none the count in vain begins anew."""
        if not self._visits:
            self._heard_at = self._paused
        self._visits += 1
        try:
            yield
        finally:
            self._visits -= 1

    @contextlib.asynccontextmanager
    async def slot(self, *, again: bool = False) -> AsyncIterator[Slot]:
        """A place at the server.  `again`: for a request that had one before."""
        ticket = await self._enter(again)
        slot = Slot()
        try:
            yield slot
        finally:
            self._leave(ticket, slot)

    async def opened(self, slot: Slot) -> None:
        """Waits for the end of a pause; then the slot's request is sent."""
        while not self._open.is_set():
            await self._open.wait()
        slot.seen = self._paused
        self._sent += not slot.sent
        slot.sent = True

    @property
    def in_vain(self) -> int:
        """Pauses since the last answer, where none is awaited."""
        return 0 if self._sent else self._paused - self._heard_at

    def pause(self, slot: Slot, length_s: Callable[[int], float]) -> None:
        """The server said when to come back.  `length_s` gives, for the pauses in vain, how long to wait.

        The refusals of requests that were sent before a pause belong to it.
        """
        if slot.seen == self._paused:
            self._paused += 1
        self._returns(slot)
        loop = asyncio.get_running_loop()
        wait_s = length_s(max(1, self.in_vain))
        if wait_s <= 0:
            return
        self._opens_at = max(self._opens_at, loop.time() + wait_s)
        if self._open.is_set():
            self._open.clear()
            loop.call_at(self._opens_at, self._reopen)

    def _returns(self, slot: Slot) -> None:
        self._sent -= slot.sent
        slot.sent = False

    def _reopen(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._opens_at:
            loop.call_at(self._opens_at, self._reopen)
            return
        self._open.set()
        self._admit()

    async def _enter(self, again: bool) -> int:
        if self._open.is_set() and self._limiter.room and not (self._line or self._returned):
            return self._limiter.enter()
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        (self._returned if again else self._line).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
                self._leave(turn.result(), Slot())
            raise

    def _leave(self, ticket: int, slot: Slot) -> None:
        self._limiter.leave(ticket, answered=slot.answered, overloaded=slot.overloaded)
        self._returns(slot)
        if slot.answered:
            self._heard_at = self._paused
        self._admit()

    def _admit(self) -> None:
        while self._open.is_set() and self._limiter.room and (self._returned or self._line):
            turn = (self._returned or self._line).popleft()
            if not turn.done():
                turn.set_result(self._limiter.enter())


class Known:
    """What is known of a server, for all requests to it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.form = Form()
        self.has_shown = False  # how its answers come, and so whether they tell the usage
        self._first = asyncio.Lock()

    def stream_no_more(self) -> None:
        """Its answers are asked for as a whole from now on."""
        self.form = replace(self.form, stream=False)

    @contextlib.asynccontextmanager
    async def turn(self, *, usage_matters: bool) -> AsyncIterator[None]:
        """Where usage matters, one request goes first, and shows whether streams tell it."""
        if usage_matters and self._may_stream:
            async with self._first:
                if self._may_stream:
                    yield
                    return
        yield

    @property
    def _may_stream(self) -> bool:
        """Whether answers may come as streams of which nobody has seen how they end."""
        return self.form.stream and not self.has_shown
