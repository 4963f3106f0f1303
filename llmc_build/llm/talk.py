"""One request to a server, from standing in line to the answer or the last failure.

Owns the loop of tries with its waits, the API key, and the request's logs.  What holds for all requests to a
server is `servers`; the formats and the decisions are `openai`, sockets are `wire`, the channel is `lane`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from llmc_build.frozen import frozen
from llmc_build.llm import bodies, openai, wire
from llmc_build.llm.bodies import Form, relaxed
from llmc_build.llm.budget import Amount, Charge, Ledger, OverBudget, Prices, at_most, cost_of, prices_of
from llmc_build.llm.openai import Answer, Failure
from llmc_build.llm.patience import GiveUp, Patience
from llmc_build.llm.servers import Known, Slot
from llmc_build.llm.stream import Stream
from llmc_build.llm.verdicts import refusal
from llmc_build.model import Json

_REFUSED = (400, 415, 422, 500, 501)  # how servers say that they don't know a field
_EARLY = 8  # so many refusals for coming too early count as one try while the server answers others
_PROGRESS_S = 0.2  # at most so often does a request report its progress


@frozen(kw_only=True)
class Ask:
    """What is asked of whom."""

    base_url: str
    model: str
    chat: bool
    messages: Json
    prompt: str | None
    sampling: Mapping[str, Json]
    output: Json  # what the answer must be
    texts: list[str] | None  # what is to be embedded; None: an answer is wanted
    prices: Prices | None
    key_name: str | None  # name of the variable that holds the API key
    key: str | None = field(repr=False)

    @classmethod
    def of(cls, request: Mapping[str, Json], environ: Mapping[str, str]) -> Ask:
        """Raises ValueError, one line, where the request or the key can't be used."""
        prompt, sampling, embed = request.get("prompt"), request.get("sampling"), request.get("embed")
        texts = embed.get("texts") if isinstance(embed, dict) else None
        name = request.get("api_key_env")
        key_name = name if isinstance(name, str) and name else None
        key = _key(key_name, environ)
        base_url = openai.normal_base_url(str(request.get("base_url")))
        if base_url == openai.DEFAULT_BASE_URL and key is None:  # nobody has named it: nothing is sent
            raise ValueError(
                f"no server is named, and {key_name} is not set: "
                "give the model a `base_url` in llmc.yaml, or set OPENAI_BASE_URL"
            )
        return cls(
            base_url=base_url,
            model=str(request.get("model")),
            chat=request.get("chat") is not False,
            messages=request.get("messages"),
            prompt=prompt if isinstance(prompt, str) else None,
            sampling=sampling if isinstance(sampling, dict) else {},
            output=request.get("output"),
            texts=[str(text) for text in texts] if isinstance(texts, list) else None,
            prices=prices_of(request.get("prices")),
            key_name=key_name,
            key=key,
        )

    @property
    def server(self) -> str:
        return openai.server_name(self.base_url)

    @property
    def url(self) -> str:
        return self.base_url + (openai.EMBEDDINGS if self.texts is not None else openai.path(chat=self.chat))

    @property
    def shown(self) -> str:
        """What is asked, for the log."""
        if self.texts is not None:
            return json.dumps(self.texts, indent=1, ensure_ascii=False)
        return json.dumps(self.messages, indent=1, ensure_ascii=False) if self.chat else self.prompt or ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def body(self, form: Form) -> bytes:
        if self.texts is not None:
            return bodies.embeddings(model=self.model, texts=self.texts)
        return bodies.completion(
            model=self.model,
            messages=self.messages,
            prompt=self.prompt,
            chat=self.chat,
            sampling=self.sampling,
            output=self.output,
            form=form,
        )

    def at_most(self) -> Amount:
        """The most that asking once can come to."""
        if self.texts is not None:
            return at_most(self.texts, 0, self.prices)
        most = self.sampling.get("max_tokens")
        texts = [self.prompt or ""]
        if self.chat and isinstance(self.messages, list):
            texts = [str(one.get("content")) for one in self.messages if isinstance(one, dict)]
        if self.output is not None:
            texts.append(json.dumps(self.output))  # some servers tell the model of it
        return at_most(texts, most if isinstance(most, int) else 0, self.prices)


def _key(name: str | None, environ: Mapping[str, str]) -> str | None:
    key = environ.get(name, "").strip() if name else ""
    if not key:
        return None
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"the value of {name} can't be an API key: it has characters that a header can't hold"
        )
    return key


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
        known: Known,
        ledger: Ledger,
        patience: Patience,
        try_s: float,
        log: Log,
        progress: Callable[[dict[str, Json]], None],
        sent: Callable[[], None],
    ) -> None:
        """`sent` is called before anything is sent that may cost something."""
        self._ask = ask
        self._client = client
        self._known = known
        self._ledger = ledger
        self._patience = patience
        self._try_s = try_s
        self._log = log
        self._progress = progress
        self._tell_sent = sent
        self._told_s = 0.0  # when progress was last told, monotonic
        self._held = ""  # the end of what came of the answer, which is not in the log yet
        self._limit: asyncio.Timeout | None = None  # of all tries
        self._early = 0  # tries that only came too early
        self.tried = 0  # tries begun
        self.prompt_tokens: int | None = None  # of all tries that told
        self.generated_tokens: int | None = None

    @property
    def stats(self) -> dict[str, Json]:
        """What the request came to by now."""
        found: dict[str, Json] = {
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "tries": self.tried,
        }
        if self._ask.prices is not None and self.prompt_tokens is not None:
            cost = cost_of(self.prompt_tokens, self.generated_tokens or 0, self._ask.prices)
            found["cost"] = round(cost, 12)
        return found

    async def answer(self, limit: asyncio.Timeout, timeout_s: float | None) -> Answer:
        """The answer.  Raises Failure with a whole sentence.

        `limit` is the caller's running timeout without an end; it gets its end with the first slot.
        """
        self._limit = limit
        with self._known.gate.visit():
            while True:
                try:
                    return await self._in_turn(limit, timeout_s)
                except Failure as failure:
                    wait_s = self._wait_s(failure, self._left_s)
                    paces = failure.paces  # then the gate waits
                self._progress({"tries": self.tried, "wait_s": wait_s})
                await asyncio.sleep(0 if paces else wait_s)

    async def _in_turn(self, limit: asyncio.Timeout, timeout_s: float | None) -> Answer:
        ask, ledger = self._ask, self._ledger
        if ledger.has_price and ask.prices is None:
            text = f"was not asked: --max-cost needs `prices` of the model {ask.model} in llmc.yaml"
            raise Failure(text, retryable=False)
        async with (
            self._known.turn(usage_matters=self._usage_matters),
            self._known.gate.slot(again=self.tried > 0) as slot,
        ):
            if timeout_s is not None and limit.when() is None:
                limit.reschedule(_now() + timeout_s)
            begun = self.tried + 1
            while True:
                form = self._known.form
                try:
                    async with ledger.reserved(ask.at_most()) as charge:
                        self.tried = begun
                        return await self._try(form, slot, charge)
                except OverBudget as error:
                    raise Failure(f"was not asked: {error}", retryable=False) from None
                except Failure as failure:
                    if not self._asks_otherwise(form, failure):
                        raise

    @property
    def _left_s(self) -> float | None:
        """What is left of the step's timeout; None: it has none."""
        end = self._limit.when() if self._limit is not None else None
        return None if end is None else end - _now()

    @property
    def _usage_matters(self) -> bool:
        return self._ask.texts is None and (self._ask.prices is not None or self._ledger.is_limited)

    async def _try(self, form: Form, slot: Slot, charge: Charge) -> Answer:
        """One request."""
        gate = self._known.gate
        charge.spent = Amount()
        await gate.opened(slot)
        charge.spent = None  # from here on nobody knows
        if self.tried == 1:
            self._tell_sent()
        try:
            async with asyncio.timeout(self._try_s) as limit:
                answer = await self._asked(form, charge)
        except Failure as failure:
            slot.overloaded = failure.overloaded
            if failure.is_free:
                charge.spent = Amount()
            if failure.paces:
                self._early += 1
                gate.pause(slot, functools.partial(self._patience.pause_s, failure, left_s=self._left_s))
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
        self._check(answer)
        self._note(f"answered, finish {answer.finish}")
        return answer

    def _check(self, answer: Answer) -> None:
        """Raises Failure where an answer is not what it must be, whatever the server made of that."""
        output, most = self._ask.output, self._ask.sampling.get("max_tokens")
        if self._ask.texts is not None or not isinstance(output, dict):
            return
        cut = most if answer.finish == "length" and isinstance(most, int) else None
        why = refusal(output, answer.text, cut_after=cut)
        if why is not None:
            raise Failure(f"did not give what was asked for: {why}", retryable=False)

    def _asks_otherwise(self, form: Form, failure: Failure) -> bool:
        """Whether the server is to be asked again at once, in another form that it may take."""
        if form.stream and failure.retryable and failure.status is None and not failure.unsent:
            # some servers break a stream off when the next request comes
            self._known.stream_no_more()
        refused = failure.status in _REFUSED
        other = relaxed(form, failure.text, self._ask.output) if refused else None
        if other is None:
            return False
        self._note(f"{failure.text}; asking otherwise")
        if self._known.form == form:
            self._known.form = other
        return True

    async def _asked(self, form: Form, charge: Charge) -> Answer:
        ask = self._ask
        self._held = ""
        if ask.texts is None:
            self._log.write("stdout", "")
        stream = Stream(chat=ask.chat, secret=ask.key, on_text=self._heard)
        reply = await wire.post(
            self._client,
            ask.url,
            body=ask.body(form),
            headers=ask.headers,
            secret=ask.key,
            feed=stream.feed if ask.texts is None else None,
        )
        if not 200 <= reply.status < 300:
            failure = openai.refusal(
                reply.status,
                reply.body,
                now=time.time(),
                asked=urlsplit(ask.url).path,
                retry_after=reply.retry_after,
                location=reply.location,
                secret=ask.key,
            )
            if reply.status in (401, 403) and ask.key_name and not ask.key:
                failure.text += f" (the environment variable {ask.key_name} is not set)"
            raise failure
        if ask.texts is not None:
            vectors, tokens = openai.read_embeddings(reply.body, len(ask.texts), secret=ask.key)
            answer = Answer(text=json.dumps(vectors), finish="stop", prompt_tokens=tokens, generated_tokens=0)
        elif reply.is_stream:
            answer = stream.answer()
            if answer.is_counted or answer.prompt_tokens is None:
                self._known.stream_no_more()
        else:
            answer = openai.read_reply(reply.body, chat=ask.chat, secret=ask.key)
        if ask.texts is None:
            self._known.has_shown = True
        self._account(answer, charge)
        if openai.gives_away(answer.text, ask.key):
            raise Failure("repeated the API key in its answer, which is therefore not kept", retryable=False)
        return answer

    def _account(self, answer: Answer, charge: Charge) -> None:
        prompt, generated = answer.prompt_tokens, answer.generated_tokens
        if prompt is not None:
            self.prompt_tokens = (self.prompt_tokens or 0) + prompt
        if generated is not None:
            self.generated_tokens = (self.generated_tokens or 0) + generated
        if prompt is not None and generated is not None and not answer.is_counted:
            cost = cost_of(prompt, generated, self._ask.prices)
            charge.spent = Amount(tokens=prompt + generated, cost=cost)

    def _heard(self, text: str, pieces: int) -> None:
        """A piece of the answer: it goes into the log, but never a part of the API key."""
        held = openai.redact(self._held + text, self._ask.key)
        keep = len(self._ask.key or "")
        shown, self._held = (held[:-keep], held[-keep:]) if keep else (held, "")
        if shown:
            self._log.write("stdout", shown, more=True)
        now = _now()
        if now - self._told_s >= _PROGRESS_S:
            self._told_s = now
            self._progress({"tokens": pieces})

    def _wait_s(self, failure: Failure, left_s: float | None) -> float:
        """How long to wait before the next try.  Raises the last Failure when there is none."""
        early = self._early // _EARLY
        counted = self.tried - self._early
        counted += max(early, self._known.gate.in_vain) if failure.paces else early
        try:
            wait_s = self._patience.wait_s(
                failure, tried=self.tried, counted=counted, left_s=left_s, uniform=random.uniform
            )
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
