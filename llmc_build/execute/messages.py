"""What is said between llmc and its workers: the shapes of messages, and contents in them.

Owns the encoding.  How messages travel is `channel`; what a request or a reply says is the business of the
lane's runner.  Shell workers import it, and have to start fast: the types of llmc's side are in `protocol`.

Messages are JSON objects.  To a runner:

    {"op": "run", "id": int, "request": {...}, "timeout_s": float | null, "rest": bool}
    {"op": "cancel", "id": int, "reason": str}

From a runner:

    {"op": "ready", "capacity": int, "defaults": {...}}     once, before anything else
    {"op": "progress", "id": int, "stats": {...}}           as often as useful
    {"op": "sent", "id": int}                               from now on it may cost something
    {"op": "back", "ids": [int]}                            not begun yet: for another worker
    {"op": "done", "id": int, "status": "ok" | "failed" | "timeout" | "cancelled",
     "reply": {...}, "error": str | null, "wall_s": float}  exactly once for each "run" that wasn't given back

Requests to one worker are much alike, so a shell worker gets of each only what differs from the one
before (`shortened`): with "rest", the fields that are not in "request" are as in the last "run".  A reply's
fields are as in "defaults" where it doesn't say otherwise; "defaults", "rest" and "timeout_s" may be left
out.  A runner whose tasks stand in line says "tells": true when it is ready, and sends a "progress" when it
begins one: from then on the task's time runs.  A model worker also says "facts" of how it computes.

A *content* in a message is {"hash": hex, "size": n, "data": base64} up to `INLINE_BYTES`, and
{"hash", "size"} above: then its bytes are already durable in the store.
"""

from __future__ import annotations

import binascii
import hashlib
import signal
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmc_build.model import Json

INLINE_BYTES = 4096  # contents up to this size travel inside messages
# In the page that llmc and a worker share: the task that a shell worker began last, or the one that a model
# worker is doing something for alone; or -1.
BEGUN = struct.Struct("q")


def shortened(request: Mapping[str, Json], last: Mapping[str, Json]) -> tuple[Mapping[str, Json], bool]:
    """("request", "rest") of a message: the fields that differ from the last request, or all of them."""
    if not last or not last.keys() <= request.keys():
        return request, False
    return {name: value for name, value in request.items() if name not in last or last[name] != value}, True


def restored(message: Mapping[str, Any], last: Mapping[str, Any]) -> Mapping[str, Any]:
    """The whole request of a message; equal fields of two requests are the same objects."""
    request: Mapping[str, Any] = message["request"]
    return {**last, **request} if message.get("rest") else request


def pack_content(data: bytes, put: Callable[[bytes], object]) -> dict[str, Json]:
    """A content for a message; `put` must make large bytes durable in the store."""
    if len(data) > INLINE_BYTES:
        put(data)
        return {"hash": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return {
        "hash": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "data": binascii.b2a_base64(data, newline=False).decode("ascii"),
    }


def content_data(content: Mapping[str, Json]) -> bytes | None:
    """The bytes that a content carries, verified, or None where they are in the store."""
    data = content.get("data")
    if not isinstance(data, str):
        return None
    found = binascii.a2b_base64(data)
    if "hash" in content and hashlib.sha256(found).hexdigest() != content["hash"]:
        raise ValueError(f"a content does not match its digest {content['hash']!r}")
    return found


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
