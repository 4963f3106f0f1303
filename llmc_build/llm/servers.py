"""What holds for all requests to one server: how many it gets at a time, and how it is asked.

Owns the slots of a server and what was learnt about it.  How many slots there are is decided by
`openai.Limiter`; what a request does in its slot is `talk`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

from llmc_build.llm.bodies import Form
from llmc_build.llm.openai import Limiter


class Slot:
    """One request's place among those that a server works on; set before it is left."""

    answered = False
    overloaded = False


class Gate:
    """Lets as many requests through to a server as its limiter allows, in the order they came."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._line: deque[asyncio.Future[int]] = deque()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        ticket = await self._enter()
        slot = Slot()
        try:
            yield slot
        finally:
            self._leave(ticket, slot)

    async def _enter(self) -> int:
        if self._limiter.room and not self._line:
            return self._limiter.enter()
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
                self._leave(turn.result(), Slot())
            raise

    def _leave(self, ticket: int, slot: Slot) -> None:
        self._limiter.leave(ticket, answered=slot.answered, overloaded=slot.overloaded)
        while self._line and self._limiter.room:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(self._limiter.enter())


class Known:
    """What is known of a server, for all requests to it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.form = Form()
        self.tells_usage: bool | None = None  # whether its streams end with the usage; None: not seen yet
        self._first = asyncio.Lock()

    def stream_no_more(self) -> None:
        """Its answers are asked for as a whole from now on."""
        self.form = replace(self.form, stream=False)

    @contextlib.asynccontextmanager
    async def turn(self, *, usage_matters: bool) -> AsyncIterator[None]:
        """Where usage matters, one request goes first, and shows whether streams tell it."""
        if usage_matters and self.tells_usage is None:
            async with self._first:
                if self.tells_usage is None:
                    yield
                    return
        yield
