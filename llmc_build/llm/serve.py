"""The model worker: requests from a channel, answers back.

Owns the conversation with the pool and the logs of a request.  How answers are computed is `engine`; what
is kept of them is the build's business.

One thread does everything.  While a request is being answered the channel is looked at between any two
steps of the engine, so a new request joins, and a cancel or a timeout takes effect, after at most one call
of llama.cpp.  A model that can't be loaded is no reason to die: each request is told why.

Of some requests llama.cpp dies, such as one that takes more stack than there is to be taken apart into
tokens.  So what is done for one request alone is named in the page that llmc shares (`begun`), by which it
knows whom to blame.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llmc_build.execute.channel import Channel, ChannelClosed
from llmc_build.execute.messages import BEGUN
from llmc_build.execute.protocol import pack_content
from llmc_build.frozen import frozen
from llmc_build.llm.limits import bound_memory, deepen_stack
from llmc_build.llm.waiting import Waiting
from llmc_build.model import Json, Sampling

if TYPE_CHECKING:
    from llmc_build.llm.embedding import Embeddings
    from llmc_build.llm.engine import Engine, Event, Prepared, Request, Sequence
    from llmc_build.store.cas import Cas

AHEAD = 16  # requests that stand in line here at most: a slot that gets free is taken at once
PROGRESS_S = 0.2  # at most so often does a request report its progress
_NO_ENGINE = "llama-cpp-python is not installed; pip install 'llmc_build[local]'"


def serve(channel: Channel, config: Mapping[str, Json]) -> None:
    """Loads the model that the lane names and answers requests until the channel closes."""
    bound_memory(_whole(config.get("limit")))
    deepen_stack()
    engine, why = _load(config)
    capacity = 1 if engine is None else engine.parallel + _ahead(engine.parallel)
    worker = _Worker(channel, engine, why, config)
    try:
        facts: Json = None if engine is None else engine.facts()
        channel.send({"op": "ready", "capacity": capacity, "tells": engine is not None, "facts": facts})
        worker.run()
    except ChannelClosed:
        pass
    finally:
        worker.close()


def prepare(config: Mapping[str, Json]) -> None:
    """Imports what takes long, and loads the model that is likely to be asked for (`path`), if any is."""
    from llmc_build.llm import engine  # noqa: F401 - for its own sake
    from llmc_build.llm.loading import prepare as load

    if config.get("path"):
        load(config)


def _load(config: Mapping[str, Json]) -> tuple[Engine | None, str]:
    """The engine, or None and why there is none."""
    try:
        from llmc_build.llm.engine import Engine, LoadError, Settings
        from llmc_build.llm.loading import stamp_of
    except ImportError as error:
        missing = (error.name or "").partition(".")[0] in ("llama_cpp", "numpy")
        return None, _NO_ENGINE if missing else f"llama.cpp can't be used: {error}"
    except (OSError, RuntimeError) as error:  # a shared library that is missing or does not fit
        return None, f"llama.cpp can't be used: {_line(error)}"
    given = {"kept": _whole(config.get("kv_cache")), "states": _whole(config.get("states"))}
    settings = Settings(
        path=str(config["path"]),
        stamp=stamp_of(config),
        context=_whole(config.get("context")),
        threads=_whole(config.get("threads")),
        gpu_layers=_whole(config.get("gpu_layers")),
        parallel=_whole(config.get("parallel")),
        fast=config.get("batching") == "fast",
        store=Path(str(config["cas"])) if config.get("cas") else None,
        model=str(config["model"]) if config.get("model") else None,
        engine=str(config.get("engine") or ""),
        **{name: size for name, size in given.items() if size is not None},
    )
    try:
        return Engine(settings), ""
    except LoadError as error:
        return None, str(error)


@frozen
class _Asked:
    """A request that stands in line."""

    message: dict[str, Any]
    prepared: Prepared


@dataclass(slots=True, kw_only=True)
class _Job:
    """A request that is being answered."""

    id: int
    sequence: Sequence
    output: Mapping[str, Json] | None  # what the answer must look like
    log: TextIO | None  # the answer as it comes
    started: float  # monotonic
    deadline: float | None  # monotonic
    text: list[str] = field(default_factory=list)
    reported: float = 0.0  # when its progress was last sent, monotonic


class _Worker:
    def __init__(self, channel: Channel, engine: Engine | None, why: str, config: Mapping[str, Json]) -> None:
        """`why`: what completions are told where there is no engine."""
        self._channel = channel
        self._engine = engine
        self._why = why
        self._embeddings: Embeddings | None = None  # made for the first request for vectors
        self._config = config
        self._page = _page(config)
        self._cas: Cas | None = None
        self._queue: Waiting[_Asked] = Waiting()  # what found no room
        self._jobs: dict[Sequence, _Job] = {}

    def run(self) -> None:
        """Until the channel closes."""
        while True:
            self._listen()
            if self._engine is not None:
                while self._queue and self._engine.room:
                    self._start(self._engine, self._queue.take())
                for event in self._engine.step():
                    self._on_event(self._engine, event)
                self._expire(self._engine)
            if self._embeddings is not None:
                self._name(self._embeddings.first)
                for end in self._embeddings.step():
                    self._channel.send(end)
                self._name(None)

    def close(self) -> None:
        if self._embeddings is not None:
            self._embeddings.close()
        if self._engine is not None:
            self._engine.close(free=False)  # the process ends

    def _listen(self) -> None:
        """Takes every message that is there; waits for one where there is nothing to do."""
        wait: float | None = 0.0 if self._jobs or self._queue or self._embeddings else None
        while (message := self._channel.recv(wait)) is not None:
            if message["op"] == "run":
                self._take(message)
            elif message["op"] == "cancel":
                self._cancel(self._engine, int(message["id"]), str(message.get("reason") or "cancelled"))
            wait = 0.0

    def _take(self, message: dict[str, Any]) -> None:
        """Has a request wait for its turn, or refuses it."""
        if "embed" in message["request"]:
            try:
                self._for_vectors().add(message)
            except ImportError:
                self._channel.send(_done(message["id"], "failed", error=self._why))
        elif self._engine is None:
            self._channel.send(_done(message["id"], "failed", error=self._why))
        else:
            self._name(message["id"])
            self._prepare(self._engine, message)
            self._name(None)

    def _name(self, task: int | None) -> None:
        """Tells whom to blame if this process dies now."""
        if self._page is not None:
            BEGUN.pack_into(self._page, 0, -1 if task is None else task)

    def _for_vectors(self) -> Embeddings:
        if self._embeddings is None:
            from llmc_build.llm.embedding import Embeddings, opener

            self._embeddings = Embeddings(opener(self._engine, self._config), self._pack)
        return self._embeddings

    # ------------------------------------------------------------ the life of a request

    def _prepare(self, engine: Engine, message: dict[str, Any]) -> None:
        """Puts a request in line; one that can't be answered is told so at once."""
        from llmc_build.llm.requests import RequestError

        try:
            prepared = engine.prepare(_request(message["request"]))
        except RequestError as error:
            self._channel.send(_done(message["id"], "failed", error=str(error)))
        else:
            self._queue.add(_Asked(message, prepared), prepared.tokens)

    def _start(self, engine: Engine, asked: _Asked) -> None:
        from llmc_build.llm.requests import RequestError

        message, started = asked.message, time.monotonic()
        task, timeout_s = int(message["id"]), message.get("timeout_s")
        # The pool lets the time of a request run from the first that it hears of it.
        self._channel.send({"op": "progress", "id": task, "stats": {"tokens": 0}})
        try:
            sequence = engine.admit(asked.prepared)
        except RequestError as error:
            self._channel.send(_done(task, "failed", error=str(error)))
            return
        self._jobs[sequence] = _Job(
            id=task,
            sequence=sequence,
            output=message["request"].get("output"),
            log=_open_logs(message["request"].get("logs"), sequence.prompt.text),
            started=started,
            deadline=None if timeout_s is None else started + timeout_s,
        )

    def _on_event(self, engine: Engine, event: Event) -> None:
        job = self._jobs[event.sequence]
        if event.text:
            job.text.append(event.text)
            if job.log is not None:
                with contextlib.suppress(OSError):  # a log that can't be written spoils no answer
                    job.log.write(event.text)
        if event.error is not None:
            self._end(engine, job, "failed", error=event.error)
        elif event.finish is not None:
            text = "".join(job.text)
            why = _refusal(job, text, event)
            if why is not None:
                self._end(engine, job, "failed", error=why)
                return
            value = text.encode("utf-8", "replace")
            stats: dict[str, Json] = {**event.sequence.stats(), "finish": event.finish.value}
            try:
                packed = self._pack(value)
            except OSError as error:
                self._end(engine, job, "failed", error=f"the answer can't be stored: {_line(error)}")
            else:
                reply: dict[str, Json] = {"value": packed, "stderr": self._pack(b""), "stats": stats}
                self._end(engine, job, "ok", reply=reply)
        else:
            self._report(job)

    def _report(self, job: _Job) -> None:
        now = time.monotonic()
        if now - job.reported >= PROGRESS_S:
            job.reported = now
            stats: dict[str, Json] = {"tokens": job.sequence.generated}
            self._channel.send({"op": "progress", "id": job.id, "stats": stats})
            if job.log is not None:
                with contextlib.suppress(OSError):
                    job.log.flush()

    def _cancel(self, engine: Engine | None, task: int, reason: str) -> None:
        if self._queue.remove(lambda asked: asked.message["id"] == task) is not None:
            self._channel.send(_done(task, "cancelled", error=reason))
            return
        end = self._embeddings.cancel(task, reason) if self._embeddings is not None else None
        if end is not None:
            self._channel.send(end)
        for job in list(self._jobs.values()):
            if job.id == task and engine is not None:
                self._end(engine, job, "cancelled", error=reason)

    def _expire(self, engine: Engine) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.deadline is not None and now >= job.deadline:
                seconds = round(job.deadline - job.started, 3)
                self._end(engine, job, "timeout", error=f"timed out after {seconds:g} s")

    def _end(
        self,
        engine: Engine,
        job: _Job,
        status: str,
        *,
        reply: dict[str, Json] | None = None,
        error: str | None = None,
    ) -> None:
        engine.retire(job.sequence)
        del self._jobs[job.sequence]
        if job.log is not None:
            with contextlib.suppress(OSError):
                job.log.close()
        wall_s = time.monotonic() - job.started
        if reply is None:
            stats: dict[str, Json] = {**job.sequence.stats()}
            reply = {"stats": stats}
        self._channel.send(_done(job.id, status, reply=reply, error=error, wall_s=wall_s))

    def _pack(self, data: bytes) -> dict[str, Json]:
        return pack_content(data, self._put)

    def _put(self, data: bytes) -> None:
        if self._cas is None:
            from llmc_build.store.cas import Cas

            spill = self._config.get("spill")  # where blobs go when the store can't be written
            self._cas = Cas(Path(str(self._config["cas"])), spill=Path(str(spill)) if spill else None)
        self._cas.put_bytes(data)


# ---------------------------------------------------------------- messages and logs


def _request(request: Mapping[str, Any]) -> Request:
    from llmc_build.llm.engine import Request

    sampling = dict(request.get("sampling") or {})
    sampling["stop"] = tuple(sampling.get("stop") or ())
    messages = tuple(
        {"role": str(message["role"]), "content": str(message["content"])} for message in request["messages"]
    )
    return Request(
        messages=messages,
        chat=request.get("chat"),
        sampling=Sampling(**sampling),
        output=request.get("output"),
    )


def _refusal(job: _Job, text: str, event: Event) -> str | None:
    """Why a finished answer is not what the request asks for; None where it is."""
    if job.output is None:
        return None
    from llmc_build.llm.verdicts import refusal

    cut = event.finish is not None and event.finish.value == "length"
    return refusal(job.output, text, cut_after=job.sequence.generated if cut else None)


def _done(
    task: int,
    status: str,
    *,
    reply: dict[str, Json] | None = None,
    error: str | None = None,
    wall_s: float = 0.0,
) -> dict[str, Json]:
    return {
        "op": "done",
        "id": task,
        "status": status,
        "reply": reply or {},
        "error": error,
        "wall_s": round(wall_s, 6),
    }


def _open_logs(folder: object, prompt: str) -> TextIO | None:
    """Writes the prompt and opens the file for the answer; None where nothing is to be, or can be, logged."""
    if not isinstance(folder, str):
        return None
    place = Path(folder)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        (place / "prompt").write_text(prompt, encoding="utf-8", errors="replace", newline="")
        return open(place / "stdout", "w", encoding="utf-8", errors="replace", newline="")
    except OSError:
        return None


def _page(config: Mapping[str, Json]) -> mmap.mmap | None:
    """The page that llmc shares, where it does."""
    fd = _whole(config.get("begun"))
    if fd is None:
        return None
    page = mmap.mmap(fd, BEGUN.size)
    os.close(fd)
    return page


def _ahead(parallel: int) -> int:
    """How many requests are to stand in line: none where they are to be answered one by one."""
    return 0 if parallel == 1 else min(parallel, AHEAD)


def _whole(value: Json) -> int | None:
    return value if isinstance(value, int) else None


def _line(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split())
