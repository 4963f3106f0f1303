"""The http lane's tasks: from a message of the channel to its reply.

Theory of operation.  One event loop, up to 64 requests in flight.  The loop watches the channel; each "run"
becomes a task and each "cancel" cancels one, which closes its connection at once.  A task asks its server's
`Gate` for a slot, tries, leaves the slot, waits as `Patience` says, and asks again.  The gate's limit
follows what the server can take (`patience.Limiter`), so of 64 steps some may stand in line here; a step's
timeout starts when it gets its first slot, since standing in line is not the step's doing.  When the
channel closes, every task is cancelled and the process ends.

Owns the tasks and the channel.  One request is `talk`, formats and decisions are `openai`, sockets `wire`.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import math
import os
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx

from llmc_build.execute.channel import Channel, ChannelClosed, Message
from llmc_build.execute.protocol import pack_content
from llmc_build.frozen import frozen
from llmc_build.llm.budget import Ledger
from llmc_build.llm.openai import Answer, Failure, clean
from llmc_build.llm.patience import Limiter, Patience
from llmc_build.llm.servers import Gate, Known
from llmc_build.llm.talk import Ask, Conversation, Log
from llmc_build.model import Json
from llmc_build.store.cas import Cas

CAPACITY = 64


@frozen(kw_only=True)
class Settings:
    """The lane's config; everything but the store has a default."""

    cas: str | None  # the store's folder
    spill: str | None  # where large answers go when the store can't be written
    patience: Patience
    try_s: float  # a try that has given no whole answer by then is given up
    connect_s: float
    ledger: Ledger

    @classmethod
    def of(cls, config: Mapping[str, Json]) -> Settings:
        cas, spill = config.get("cas"), config.get("spill")
        return cls(
            cas=cas if isinstance(cas, str) else None,
            spill=spill if isinstance(spill, str) else None,
            patience=Patience(
                tries=int(_number(config, "tries", 5)), base_s=_number(config, "backoff_s", 0.5)
            ),
            try_s=_number(config, "try_s", 600.0),
            connect_s=_number(config, "connect_s", 10.0),
            ledger=Ledger.of(config.get("budget")),
        )


def _number(config: Mapping[str, Json], name: str, default: float) -> float:
    value = config.get(name)
    return float(value) if isinstance(value, int | float) else default


def _end(status: str, error: str, stats: dict[str, Json] | None = None) -> dict[str, Json]:
    return {"status": status, "error": error, "reply": {"stats": stats} if stats else {}}


def _vectors(text: str, embed: Json) -> str:
    """The value of a step of type embed: one vector, or a list of them."""
    vectors = json.loads(text)
    asked = embed if isinstance(embed, dict) else {}
    if asked.get("normalize") is not False:
        vectors = [_unit(vector) for vector in vectors]
    return json.dumps(vectors[0] if asked.get("single") is not False else vectors)


def _unit(vector: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else vector


class Lane:
    """All requests of this process."""

    def __init__(self, channel: Channel, settings: Settings, client: httpx.AsyncClient) -> None:
        self._channel = channel
        self._settings = settings
        self._client = client
        self._servers: dict[str, Known] = {}
        self._ledger = settings.ledger
        self._tasks: dict[int, asyncio.Task[dict[str, Json]]] = {}
        self._closed = asyncio.Event()
        self._cas: Cas | None = None  # opened for the first answer that needs it
        self._disk = ThreadPoolExecutor(max_workers=1)  # a Cas is used by one thread

    async def run(self) -> None:
        """Serves until the channel closes."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._read)
        self._send({"op": "ready", "capacity": CAPACITY})
        self._read()
        await self._closed.wait()
        loop.remove_reader(self._channel.fileno())
        running = list(self._tasks.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.aclose()
        self._disk.shutdown()

    def _read(self) -> None:
        try:
            while (message := self._channel.recv(0)) is not None:
                self._take(message)
        except ChannelClosed:
            self._closed.set()

    def _send(self, message: dict[str, Json]) -> None:
        try:
            self._channel.send(message)
        except ChannelClosed:
            self._closed.set()

    def _take(self, message: Message) -> None:
        number = message["id"]
        if message["op"] == "cancel":
            if number in self._tasks:
                self._tasks[number].cancel()
            return
        begun = time.monotonic()
        task = asyncio.create_task(self._serve(number, message["request"], message.get("timeout_s")))
        self._tasks[number] = task
        task.add_done_callback(lambda task: self._done(number, task, time.monotonic() - begun))

    def _done(self, number: int, task: asyncio.Task[dict[str, Json]], wall_s: float) -> None:
        """The one place that reports an end, whatever it was."""
        del self._tasks[number]
        if task.cancelled():
            end: dict[str, Json] = _end("cancelled", "cancelled")
        elif (error := task.exception()) is not None:
            # Not its text, which nobody has looked through for the key.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            end = _end("failed", f"internal error of the http lane: {type(error).__name__} at {place}")
        else:
            end = task.result()
        self._send({"op": "done", "id": number, "wall_s": wall_s, **end})

    async def _serve(
        self, number: int, request: Mapping[str, Json], timeout_s: float | None
    ) -> dict[str, Json]:
        """The end of one request: its status, reply and error."""
        try:
            ask = Ask.of(request, os.environ)
        except ValueError as error:
            return _end("failed", clean(str(error)))
        log = Log(request.get("logs"))
        log.write("prompt", ask.shown)
        log.write("stderr", "")
        conversation = self._conversation(number, ask, log)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(None) as limit:
                answer = await conversation.answer(limit, timeout_s)
        except TimeoutError:
            text = f"{ask.server} gave no answer within {timeout_s:g} s (try {conversation.tried})"
            return _end("timeout", text, conversation.stats)
        except Failure as failure:
            return _end("failed", failure.text, conversation.stats)
        if ask.texts is not None:
            answer = replace(answer, text=_vectors(answer.text, request.get("embed")))
        log.write("stdout", answer.text)
        wall_s = time.monotonic() - begun
        stats: dict[str, Json] = {**conversation.stats, "finish": answer.finish, "wall_s": wall_s}
        if answer.generated_tokens and ask.texts is None:
            stats["tokens_per_s"] = round(answer.generated_tokens / max(wall_s, 1e-6), 3)
        try:
            reply = await self._reply(answer, stats)
        except OSError as error:
            return _end("failed", f"the answer can't be kept: {error.strerror or 'the disk refuses it'}")
        return {"status": "ok", "error": None, "reply": reply}

    def _conversation(self, number: int, ask: Ask, log: Log) -> Conversation:
        return Conversation(
            ask,
            client=self._client,
            known=self._known(ask.base_url),
            ledger=self._ledger,
            patience=self._settings.patience,
            try_s=self._settings.try_s,
            log=log,
            progress=lambda stats: self._send({"op": "progress", "id": number, "stats": stats}),
            sent=lambda: self._send({"op": "sent", "id": number}),
        )

    def _known(self, base_url: str) -> Known:
        if base_url not in self._servers:
            self._servers[base_url] = Known(Gate(Limiter(most=CAPACITY)))
        return self._servers[base_url]

    async def _reply(self, answer: Answer, stats: dict[str, Json]) -> dict[str, Json]:
        # On a thread: making a large answer durable waits for the disk.
        pack = functools.partial(pack_content, answer.text.encode("utf-8"), self._put)
        value = await asyncio.get_running_loop().run_in_executor(self._disk, pack)
        return {"value": value, "stderr": pack_content(b"", self._put), "stats": stats}

    def _put(self, data: bytes) -> object:
        if self._cas is None:
            if self._settings.cas is None:
                raise OSError(errno.ENOENT, "the lane was given no store")
            spill = self._settings.spill
            self._cas = Cas(Path(self._settings.cas), spill=Path(spill) if spill else None)
        return self._cas.put_bytes(data)
