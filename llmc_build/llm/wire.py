"""One POST over httpx, bounded in size, with every way it can fail told as a `Failure`.

Owns the HTTP client and its settings.  What is sent and what a reply means is `openai`; when to try again
is `http`.  The one module that imports httpx, so that `http` can say what to install where it is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx

from llmc_build import __version__
from llmc_build.frozen import frozen
from llmc_build.llm.openai import MAX_REFUSAL, MAX_REPLY, Failure, clean

_HEADERS = {
    "Accept": "application/json, text/event-stream",
    # A compressed reply could unfold to any size, so none is asked for and none is taken.
    "Accept-Encoding": "identity",
    "User-Agent": f"llmc/{__version__}",
}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class SetupError(Exception):
    """The environment (a proxy, certificates) makes a client impossible.  One line."""


@frozen(kw_only=True)
class Reply:
    """What a server sent, of any status."""

    status: int
    body: bytes
    is_stream: bool  # its body went, as it came, to whoever reads pieces
    retry_after: str | None
    location: str | None


def make_client(*, connect_s: float) -> httpx.AsyncClient:
    """A client that obeys the proxy and certificate variables of the environment and follows no redirect.

    Only connecting is limited here: how long an answer may take is the caller's affair.  A server on this
    machine is never reached through a proxy.
    """
    try:
        return httpx.AsyncClient(
            headers=_HEADERS,
            timeout=httpx.Timeout(None, connect=connect_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
            mounts={f"all://{host}": None for host in _LOOPBACK},
        )
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise SetupError(f"the HTTP client can't be set up: {clean(str(error))}") from error


async def post(
    client: httpx.AsyncClient,
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    secret: str | None,
    feed: Callable[[bytes], None] | None = None,
) -> Reply:
    """Sends `body` and reads the whole reply.  Raises Failure, whose text never holds `secret`.

    `feed` is given the bytes of a reply that comes as a stream of events, as they come.
    """
    try:
        async with client.stream(
            "POST", url, content=body, headers={"Content-Type": "application/json", **headers}
        ) as response:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            is_stream = feed is not None and response.is_success and kind == "text/event-stream"
            return Reply(
                status=response.status_code,
                body=await _body(response, feed if is_stream else None),
                is_stream=is_stream,
                retry_after=response.headers.get("Retry-After"),
                location=response.headers.get("Location"),
            )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise _failure(error, secret) from None


async def _body(response: httpx.Response, feed: Callable[[bytes], None] | None) -> bytes:
    """A refusal's beginning, or a whole reply; more than `MAX_REPLY` of that is a Failure.

    What `feed` is given is not returned, and its size is for whoever reads it to limit.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if response.is_success and coding not in ("", "identity"):
        raise Failure(f"sent a compressed reply ({clean(coding, limit=40)}) unasked", retryable=False)
    found = bytearray()
    async for chunk in response.aiter_raw():
        if feed is not None:
            feed(chunk)
            continue
        found += chunk
        if not response.is_success and len(found) >= MAX_REFUSAL:
            return bytes(found[:MAX_REFUSAL])
        if len(found) > MAX_REPLY:
            raise Failure(f"sent a reply of more than {MAX_REPLY >> 20} MiB", retryable=False)
    return bytes(found)


def _failure(error: httpx.TransportError | httpx.InvalidURL, secret: str | None) -> Failure:
    why = clean(str(error), secret) or type(error).__name__
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return Failure(f"can't be asked: {why}", retryable=False)
    if isinstance(error, httpx.ConnectTimeout):
        return _unsent(Failure("took too long to accept a connection", retryable=True, overloaded=True))
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        retryable = "CERTIFICATE_VERIFY_FAILED" not in why
        return _unsent(Failure(f"could not be reached: {why}", retryable=retryable))
    return Failure(f"broke off the connection: {why}", retryable=True)


def _unsent(failure: Failure) -> Failure:
    failure.unsent = True
    return failure
