"""What is said to an OpenAI-compatible server, and what its answers mean.  Pure.

Owns addresses and the reading of replies and refusals.  Request bodies are `bodies`, answers that come in
pieces `stream`; when to ask again is `patience`; sockets, clocks and tasks are `http` and `wire`.

Everything a server sends is data from outside: a reply is checked field by field, and a text of the
server's enters a message of llmc only through `clean`, which removes control characters and the API key
and bounds its length.

Format: https://platform.openai.com/docs/api-reference/chat and .../completions, of which only fields that
llama.cpp, vLLM and other servers share are relied on.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from datetime import UTC
from urllib.parse import urlsplit, urlunsplit

from llmc_build.frozen import frozen

ENGINE = "openai-chat/1"  # enters keys: raise it when the same request would be sent differently
DEFAULT_BASE_URL = "https://api.openai.com/v1"
MAX_REPLY = 64 << 20  # bytes of a reply
MAX_REFUSAL = 64 << 10  # bytes read of the body of a refusal
MAX_TEXT = 300  # characters of a server's text inside a message

_BROKEN_OFF = ("error", "abort", "aborted", "cancelled")  # of OpenRouter, vLLM, SGLang and others
_SHORTEST_SECRET = 6  # shorter values are placeholders ("none", "x") and would garble every message
_SURELY_SECRET = 16  # from here on a key can't stand in an honest answer by chance


class Failure(Exception):
    """A try that gave no answer.  `text` continues a sentence whose subject is the server."""

    def __init__(
        self, text: str, *, retryable: bool, overloaded: bool = False, asked_s: float | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.retryable = retryable
        self.overloaded = overloaded  # the server has too much to do: send it fewer at a time
        self.asked_s = asked_s  # seconds the server asks to wait (Retry-After)
        self.unsent = False  # the request never reached the server
        self.status: int | None = None  # of a refusal

    @property
    def paces(self) -> bool:
        """Whether the server says when it takes requests again: this one was only too early."""
        return self.retryable and self.overloaded and self.asked_s is not None

    @property
    def is_free(self) -> bool:
        """Whether nothing can have been computed for it.

        A 5xx may come from a gateway that had passed the request on, except one that says when to come back.
        """
        if self.status is None:
            return self.unsent
        return self.status < 500 or (self.status == 503 and self.asked_s is not None)


@frozen(kw_only=True)
class Answer:
    """A reply that can be used."""

    text: str
    finish: str  # "stop", "length", or the server's own word
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    is_counted: bool = False  # the generated tokens are the pieces that came: the server did not tell


# ---------------------------------------------------------------- asking


def normal_base_url(text: str) -> str:
    """The address without trailing slashes, scheme and host in lower case.  Raises ValueError, one line.

    The text of an address that may hold a password is not repeated in the error.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        has_login = "@" in parts.netloc
        _ = parts.port
    except ValueError:
        raise ValueError("base_url is not an address such as https://api.openai.com/v1") from None
    if has_login:
        raise ValueError("base_url must not hold a user name or password: name a variable in api_key_env")
    if (
        parts.scheme.lower() not in ("http", "https")
        or not parts.hostname
        or not text.isprintable()
        or " " in text
    ):
        shown = clean(text)
        raise ValueError(f"base_url is not an http or https address with a host: {shown!r}")
    if parts.query or parts.fragment:
        raise ValueError("base_url must not have a part after ? or #")
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path.rstrip("/"), "", ""))


def server_name(base_url: str) -> str:
    """How messages call the server: its host and port."""
    return urlsplit(base_url).netloc or base_url


def path(*, chat: bool) -> str:
    return "/chat/completions" if chat else "/completions"


EMBEDDINGS = "/embeddings"


# ---------------------------------------------------------------- reading


def read_reply(data: bytes, *, chat: bool, secret: str | None = None) -> Answer:
    """The answer in the body of a 2xx reply.  Raises Failure.

    What isn't whole JSON was cut off or mangled on the way, and another try may do better; JSON of another
    shape is what this server says, and would say again.
    """
    try:
        body = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Failure("sent a reply that isn't whole JSON", retryable=True) from None
    if not isinstance(body, dict):
        raise _shape("it is no object")
    if body.get("error") is not None:
        raise server_error(data, secret)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _shape("choices[0] is missing")
    finish = choices[0].get("finish_reason")
    if finish is not None and not isinstance(finish, str):
        raise _shape("finish_reason is no text")
    refuse_unfinished(finish)
    text = _text(choices[0], chat=chat)
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Answer(
        text=text,
        finish=clean(finish or "stop", secret, limit=40),
        prompt_tokens=count(counts.get("prompt_tokens")),
        generated_tokens=count(counts.get("completion_tokens")),
    )


def refuse_unfinished(finish: str | None) -> None:
    """Raises Failure where a server says that it gave no whole answer, for another reason than its length."""
    if finish == "content_filter":
        raise Failure("withheld the answer (finish_reason content_filter)", retryable=False)
    if finish in _BROKEN_OFF:
        raise Failure(f"broke off in the middle of its answer (finish_reason {finish})", retryable=True)


def _text(choice: Mapping[str, object], *, chat: bool) -> str:
    where, found = "choices[0].text", choice.get("text")
    if chat:
        message = choice.get("message")
        where = "choices[0].message.content"
        found = message.get("content") if isinstance(message, dict) else None
    if not isinstance(found, str):
        raise _shape(f"{where} is no text")
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:
        raise _shape(f"{where} holds half a surrogate pair") from None
    return found


def server_error(data: bytes, secret: str | None) -> Failure:
    """What an error inside of a 2xx reply means."""
    return Failure(f"answered with an error: {_message(data, secret)}", retryable=False)


def read_embeddings(
    data: bytes, wanted: int, *, secret: str | None = None
) -> tuple[list[list[float]], int | None]:
    """The vectors in the body of a 2xx reply, in order, and the tokens of the texts.  Raises Failure."""
    try:
        body = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Failure("sent a reply that isn't whole JSON", retryable=True) from None
    if isinstance(body, dict) and body.get("error") is not None:
        raise server_error(data, secret)
    entries = body.get("data") if isinstance(body, dict) else None
    if not isinstance(entries, list) or len(entries) != wanted:
        raise Failure(f"sent a reply that is not {wanted} embeddings", retryable=False)
    found: dict[int, list[float]] = {}
    for place, entry in enumerate(entries):
        index = entry.get("index", place) if isinstance(entry, dict) else None
        vector = entry.get("embedding") if isinstance(entry, dict) else None
        if not isinstance(index, int) or not isinstance(vector, list) or not vector:
            raise Failure("sent a reply with an entry that is no embedding", retryable=False)
        numbers = [x for x in map(_finite, vector) if x is not None]
        if len(numbers) != len(vector):
            raise Failure("sent an embedding that does not consist of numbers", retryable=False)
        found[index] = numbers
    if sorted(found) != list(range(wanted)):
        raise Failure("sent embeddings that don't belong to the texts", retryable=False)
    usage = body.get("usage")
    return [found[i] for i in range(wanted)], count(
        usage.get("prompt_tokens") if isinstance(usage, dict) else None
    )


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shape(what: str) -> Failure:
    return Failure(f"sent a reply that is no completion: {what}", retryable=False)


def count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    return None


def refusal(
    status: int,
    body: bytes,
    *,
    now: float,
    asked: str = "",
    retry_after: str | None = None,
    location: str | None = None,
    secret: str | None = None,
) -> Failure:
    """What a reply that isn't 2xx means.

    `now` is Unix time, for a Retry-After that is a date; `asked`, the path that was asked for, is named where
    it may be what is wrong.
    """
    if 300 <= status < 400:
        where = f" to {clean(location, secret)}" if location else ""
        hint = "llmc follows no redirect: set base_url to the right address"
        return Failure(f"answered {status}, a redirect{where}; {hint}", retryable=False)
    failure = _refusal(status, body, now, asked, retry_after, secret)
    failure.status = status
    return failure


def _refusal(
    status: int, body: bytes, now: float, asked: str, retry_after: str | None, secret: str | None
) -> Failure:
    message = _message(body, secret)
    wrong_path = f" for {asked}" if asked and status in (404, 405) else ""
    text = f"answered {status}{wrong_path}" + (f": {message}" if message else "")
    if status == 429 and _code(body) == "insufficient_quota":  # waiting doesn't help an empty account
        return Failure(text, retryable=False)
    if status in (408, 429) or status >= 500:
        asked_s = parse_retry_after(retry_after, now=now)
        return Failure(text, retryable=True, overloaded=status in (429, 503), asked_s=asked_s)
    return Failure(text, retryable=False)


def _error(body: bytes) -> object:
    """What a body says of an error, in the forms that servers use; the body's text where it has none."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict):
        return text
    for name in ("error", "detail", "message"):
        if found.get(name):
            return found[name]
    return text


def _message(body: bytes, secret: str | None) -> str:
    error = _error(body)
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error = error["message"]
    if not isinstance(error, str):
        error = json.dumps(error)
    return clean(error, secret)


def _code(body: bytes) -> object:
    error = _error(body)
    return error.get("code") if isinstance(error, dict) else None


def clean(text: str, secret: str | None = None, *, limit: int = MAX_TEXT) -> str:
    """A text from outside as one bounded line: no control or formatting characters, no `secret`."""
    # Only as much as can be shown is looked at; the margin keeps a secret at the cut from being halved.
    margin = len(secret or "")
    head = text[: 16 * limit + margin]
    words = "".join(" " if c.isspace() else c for c in head if c.isspace() or _shows(c)).split()
    line = redact(" ".join(words), secret)
    if len(text) > len(head):
        line = line[: max(0, len(line) - margin)]
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _shows(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def redact(text: str, secret: str | None) -> str:
    if secret is None or len(secret) < _SHORTEST_SECRET:
        return text
    return text.replace(secret, "***")


def gives_away(text: str, secret: str | None) -> bool:
    """Whether an answer repeats the API key, as only a server that plays tricks does."""
    return secret is not None and len(secret) >= _SURELY_SECRET and secret in text


# ---------------------------------------------------------------- coming back


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds from now that a Retry-After header (RFC 9110, 10.2.3) asks for; None where it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.replace(".", "", 1).isdecimal() and value.isascii() and len(value) <= 12:
        return float(value)
    from email.utils import parsedate_to_datetime  # few servers say a date, and it takes long to import

    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
