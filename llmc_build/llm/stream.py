"""An answer that comes in pieces: server-sent events.  Pure.

Owns the reading of such a stream, byte by byte as it arrives.  What the pieces say is checked as a whole
reply's is; where they come from is `wire`, what is done with them `talk`.

Format: lines `data: JSON`, events being separated by empty lines; `data: [DONE]` ends the answer.
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from llmc_build.llm.openai import MAX_REPLY, Answer, Failure, clean, count, refuse_unfinished, server_error


class Stream:
    """The pieces of one answer."""

    def __init__(self, *, chat: bool, secret: str | None, on_text: Callable[[str, int], None]) -> None:
        """`on_text` is called with each piece of text and the number of pieces so far."""
        self._chat = chat
        self._secret = secret
        self._on_text = on_text
        self._rest = bytearray()  # of a line that is not whole yet
        self._event: list[bytes] = []  # the data lines of an event that is not whole yet
        self._texts: list[str] = []
        self._size = 0  # bytes that came
        self._finish: str | None = None
        self._usage: Mapping[str, object] = {}
        self.pieces = 0
        self.done = False

    def feed(self, data: bytes) -> None:
        """Some more bytes.  Raises Failure."""
        self._size += len(data)
        if self._size > 4 * MAX_REPLY:  # each token comes in a wrapping of its own
            raise Failure(f"sent a stream of more than {4 * MAX_REPLY >> 20} MiB", retryable=False)
        self._rest += data
        if b"\n" not in data:  # a long line in many pieces costs one pass
            return
        *lines, rest = bytes(self._rest).replace(b"\r\n", b"\n").split(b"\n")
        self._rest = bytearray(rest)
        for line in lines:
            self._line(line)

    def answer(self) -> Answer:
        """The answer, the stream being over.  Raises Failure."""
        if self._rest:
            self._line(bytes(self._rest))
            self._rest.clear()
        self._dispatch()
        if not self.done and self._finish is None:
            raise Failure("broke off in the middle of its answer", retryable=True)
        refuse_unfinished(self._finish)
        prompt = count(self._usage.get("prompt_tokens"))
        generated = count(self._usage.get("completion_tokens"))
        return Answer(
            text="".join(self._texts),
            finish=clean(self._finish or "stop", self._secret, limit=40),
            prompt_tokens=prompt,
            generated_tokens=generated if generated is not None else self.pieces,
            is_counted=generated is None,
        )

    def _line(self, line: bytes) -> None:
        line = line.rstrip(b"\r")
        if not line:
            self._dispatch()
        elif line.startswith(b"data:"):
            self._event.append(line[5:].removeprefix(b" "))

    def _dispatch(self) -> None:
        """What an event says."""
        data, self._event = b"\n".join(self._event), []
        if not data or self.done:
            return
        if data.strip() == b"[DONE]":
            self.done = True
            return
        try:
            found = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError):
            raise Failure("sent a piece that isn't whole JSON", retryable=True) from None
        if not isinstance(found, dict):
            raise _shape("a piece is no object")
        if found.get("error") is not None:
            raise server_error(data, self._secret)
        usage = found.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        choices = found.get("choices")
        if isinstance(choices, list) and choices:  # the piece with the usage has none
            self._choice(choices[0])

    def _choice(self, choice: object) -> None:
        if not isinstance(choice, dict):
            raise _shape("choices[0] is no object")
        finish = choice.get("finish_reason")
        if finish is not None and not isinstance(finish, str):
            raise _shape("finish_reason is no text")
        self._finish = finish or self._finish
        text = choice.get("text")
        if self._chat:
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else None
        if text is None or text == "":
            return
        if not isinstance(text, str):
            raise _shape("a piece of the answer is no text")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise _shape("a piece of the answer holds half a surrogate pair") from None
        self.pieces += 1
        self._texts.append(text)
        self._on_text(text, self.pieces)


def _shape(what: str) -> Failure:
    return Failure(f"sent a stream that is no completion: {what}", retryable=False)
