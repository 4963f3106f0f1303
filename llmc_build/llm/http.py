"""The runner of the http lane: steps of type `llm`, answered by OpenAI-compatible servers.

Owns the process: what it needs, and what it says where that is missing.  The work is done by `lane` (tasks
and the channel), `talk` (one request), `wire` (sockets) and `openai` (formats and decisions; pure).

The API key is read from this process's environment by the name that a request gives, goes into one header,
and is removed from every text that leaves: errors, logs, progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from llmc_build.execute.channel import Channel, ChannelClosed
from llmc_build.model import Json


def serve(channel: Channel, config: Mapping[str, Json]) -> None:
    """Answers requests until the channel closes.

    config: "cas", the store's folder; and, all optional, "tries" (5), "backoff_s" (0.5, the longest first
    wait), "try_s" (600, after which a try is given up), "connect_s" (10), "budget" (see `budget.Ledger`).
    """
    try:
        from llmc_build.llm import lane, wire
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("httpx", "httpcore", "h11", "anyio"):
            raise
        return _refuse_all(channel, "steps of type llm need httpx: pip install 'llmc_build[openai]'")
    settings = lane.Settings.of(config)
    try:
        client = wire.make_client(connect_s=settings.connect_s)
    except wire.SetupError as error:
        return _refuse_all(channel, str(error))
    return asyncio.run(lane.Lane(channel, settings, client).run())


def _refuse_all(channel: Channel, why: str) -> None:
    """Fails every request with one line, rather than end as a crash that nobody can read."""
    try:
        channel.send({"op": "ready", "capacity": 1})
        while True:
            message = channel.recv()
            if message is not None and message["op"] == "run":
                end: dict[str, Json] = {"status": "failed", "reply": {}, "error": why, "wall_s": 0.0}
                channel.send({"op": "done", "id": message["id"], **end})
    except ChannelClosed:
        return
