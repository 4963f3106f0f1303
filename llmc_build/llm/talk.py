"""One request to a server, from standing in line to the answer or the last failure.

Owns the slots of a server, the loop of tries with its waits, the API key, and the request's logs.  The
formats and the decisions are `openai`, sockets are `wire`, the channel and other requests are `http`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from llmc_build.llm import openai, wire
from llmc_build.llm.openai import Answer, Failure, GiveUp, Limiter, Patience
from llmc_build.model import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as it will be sent."""

    base_url: str
    chat: bool
    body: bytes
    shown: str  # the messages or the prompt, for the log
    key_name: str | None  # name of the variable that holds the API key
    key: str | None = field(repr=False)

    @classmethod
    def of(cls, request: Mapping[str, Json], environ: Mapping[str, str]) -> Ask:
        """Raises ValueError, one line, where the request or the key can't be used."""
        chat, prompt, sampling = (
            request.get("chat") is not False,
            request.get("prompt"),
            request.get("sampling"),
        )
        messages = request.get("messages")
        name = request.get("api_key_env")
        key_name = name if isinstance(name, str) and name else None
        return cls(
            base_url=openai.normal_base_url(str(request.get("base_url"))),
            chat=chat,
            body=openai.encode_body(
                model=str(request.get("model")),
                messages=messages,
                prompt=prompt if isinstance(prompt, str) else None,
                chat=chat,
                sampling=sampling if isinstance(sampling, dict) else {},
            ),
            shown=json.dumps(messages, indent=1, ensure_ascii=False) if chat else str(prompt or ""),
            key_name=key_name,
            key=_key(key_name, environ),
        )

    @property
    def server(self) -> str:
        return openai.server_name(self.base_url)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


def _key(name: str | None, environ: Mapping[str, str]) -> str | None:
    key = environ.get(name, "").strip() if name else ""
    if not key:
        return None
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"the value of {name} can't be an API key: it has characters that a header can't hold"
        )
    return key


# ---------------------------------------------------------------- slots


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


# ---------------------------------------------------------------- logs


class Log:
    """The files of one request in its log folder.  A log that can't be written never fails a step."""

    def __init__(self, folder: Json) -> None:
        self._folder = Path(folder) if isinstance(folder, str) else None

    def write(self, name: str, text: str, *, more: bool = False) -> None:
        if self._folder is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if more else os.O_TRUNC)
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(self._folder / name, flags, 0o600), "wb") as file:
                file.write(text.encode("utf-8", "replace"))


# ---------------------------------------------------------------- tries


class Conversation:
    """The tries of one request."""

    def __init__(
        self,
        ask: Ask,
        *,
        client: httpx.AsyncClient,
        gate: Gate,
        patience: Patience,
        try_s: float,
        log: Log,
        progress: Callable[[dict[str, Json]], None],
    ) -> None:
        self._ask = ask
        self._client = client
        self._gate = gate
        self._patience = patience
        self._try_s = try_s
        self._log = log
        self._progress = progress
        self.tried = 0  # tries begun

    async def answer(self, limit: asyncio.Timeout, timeout_s: float | None) -> Answer:
        """The answer.  Raises Failure with a whole sentence.

        `limit` is the caller's running timeout without an end; it gets its end with the first slot.
        """
        while True:
            try:
                async with self._gate.slot() as slot:
                    if timeout_s is not None and limit.when() is None:
                        limit.reschedule(_now() + timeout_s)
                    return await self._try(slot)
            except Failure as failure:
                end = limit.when()
                wait_s = self._wait_s(failure, None if end is None else end - _now())
            self._progress({"tries": self.tried, "wait_s": wait_s})
            await asyncio.sleep(wait_s)

    async def _try(self, slot: Slot) -> Answer:
        self.tried += 1
        try:
            async with asyncio.timeout(self._try_s) as limit:
                answer = await self._once()
        except Failure as failure:
            slot.overloaded = failure.overloaded
            raise
        except TimeoutError:
            slot.overloaded = True
            if not limit.expired():
                raise
            text = f"gave no whole answer within {self._try_s:g} s"
            raise Failure(text, retryable=True, overloaded=True) from None
        except asyncio.CancelledError:
            self._note("ended by the step's timeout or by the build")
            raise
        slot.answered = True
        self._note(f"answered, finish {answer.finish}")
        return answer

    async def _once(self) -> Answer:
        ask = self._ask
        url = ask.base_url + openai.path(chat=ask.chat)
        reply = await wire.post(self._client, url, body=ask.body, headers=ask.headers, secret=ask.key)
        if not 200 <= reply.status < 300:
            failure = openai.refusal(
                reply.status,
                reply.body,
                now=time.time(),
                asked=urlsplit(url).path,
                retry_after=reply.retry_after,
                location=reply.location,
                secret=ask.key,
            )
            if reply.status in (401, 403) and ask.key_name and not ask.key:
                failure.text += f" (the environment variable {ask.key_name} is not set)"
            raise failure
        answer = openai.read_reply(reply.body, chat=ask.chat, secret=ask.key)
        if openai.gives_away(answer.text, ask.key):
            raise Failure("repeated the API key in its answer, which is therefore not kept", retryable=False)
        return answer

    def _wait_s(self, failure: Failure, left_s: float | None) -> float:
        """How long to wait before the next try.  Raises the last Failure when there is none."""
        try:
            wait_s = self._patience.wait_s(failure, tried=self.tried, left_s=left_s, uniform=random.uniform)
        except GiveUp as end:
            self._note(f"{failure.text}{end}")
            text = f"{self._ask.server} {failure.text}{end}"
            raise Failure(openai.redact(text, self._ask.key), retryable=False) from None
        self._note(f"{failure.text}; waiting {wait_s:.2f} s")
        return wait_s

    def _note(self, text: str) -> None:
        line = openai.redact(f"try {self.tried}: {text}\n", self._ask.key)
        self._log.write("stderr", line, more=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
