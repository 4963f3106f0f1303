"""The http lane and a real model behind llama-cpp-python's own server."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc_build.execute.channel import Channel
from llmc_build.llm import http

pytestmark = pytest.mark.model


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    mine, theirs = Channel.pair()
    config: dict[str, Any] = {"cas": str(tmp_path / "cas"), "tries": 2}
    thread = threading.Thread(target=http.serve, args=(theirs, config), daemon=True)
    thread.start()
    assert (mine.recv(10) or {})["op"] == "ready"
    yield mine
    mine.close()
    thread.join(10)
    assert not thread.is_alive()


def request(base_url: str, text: str, **changes: Any) -> dict[str, Any]:
    sampling = {"max_tokens": 8, "temperature": 0.0, "seed": 0, **changes.pop("sampling", {})}
    return {
        "base_url": base_url,
        "model": "tiny",
        "api_key_env": None,
        "messages": [{"role": "user", "content": text}],
        "prompt": None,
        "chat": True,
        "logs": None,
        **changes,
        "sampling": sampling,
    }


def ends(channel: Channel, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """The ends of some requests that are all in flight together, in the order of the requests."""
    for number, one in enumerate(requests):
        channel.send({"op": "run", "id": number, "request": one, "timeout_s": 60})
    found: dict[int, dict[str, Any]] = {}
    while len(found) < len(requests):
        message = channel.recv(60)
        assert message is not None
        if message["op"] == "done":
            found[message["id"]] = message
    return [found[number] for number in range(len(requests))]


def text(end: dict[str, Any]) -> str:
    assert end["status"] == "ok", end["error"]
    return base64.b64decode(end["reply"]["value"]["data"]).decode()


def test_a_real_server_answers_as_it_does_when_asked_directly(base_url: str, channel: Channel) -> None:
    (end,) = ends(channel, request(base_url, "Say hi."))
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi."}]}
    body.update(max_tokens=8, temperature=0.0, seed=0)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct = urllib.request.Request(
        f"{base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with opener.open(direct, timeout=60) as reply:
        expected = json.load(reply)
    assert text(end) == expected["choices"][0]["message"]["content"]
    assert end["reply"]["stats"]["generated_tokens"] == 8, "counted: this server's streams tell no usage"
    (end,) = ends(channel, request(base_url, "Say hi."))
    assert text(end) == expected["choices"][0]["message"]["content"], "asked for as a whole, it is the same"
    stats = end["reply"]["stats"]
    assert (stats["prompt_tokens"], stats["generated_tokens"], stats["finish"], stats["tries"]) == (
        expected["usage"]["prompt_tokens"],
        8,
        "length",
        1,
    )


def test_many_prompts_at_once_each_get_their_own_answer(base_url: str, channel: Channel) -> None:
    """The server works on one at a time; the others must wait there or here, and none may fail."""
    prompts = [f"Repeat the number {n}." for n in range(6)]
    alone = [text(ends(channel, request(base_url, prompt))[0]) for prompt in prompts]
    assert [text(end) for end in ends(channel, *(request(base_url, prompt) for prompt in prompts))] == alone
    assert len(set(alone)) > 1


def test_a_raw_prompt_is_completed(base_url: str, channel: Channel) -> None:
    raw = request(base_url, "", chat=False, prompt="1, 2, 3, 4, 5,", sampling={"max_tokens": 4})
    assert text(ends(channel, raw)[0]).lstrip().startswith("6")


def test_extensions_and_stops_reach_the_server(base_url: str, channel: Channel) -> None:
    sampling = {"max_tokens": 40, "top_k": 1, "min_p": 0.05, "repeat_penalty": 1.0, "stop": ["8"]}
    raw = request(base_url, "", chat=False, prompt="1, 2, 3, 4, 5,", sampling=sampling)
    (end,) = ends(channel, raw)
    assert end["reply"]["stats"]["finish"] == "stop"
    assert "8" not in text(end)


def test_a_prompt_that_is_too_long_fails_with_the_servers_words(base_url: str, channel: Channel) -> None:
    (end,) = ends(channel, request(base_url, "word " * 2000))
    assert end["status"] == "failed"
    assert "context" in end["error"]
    assert "\n" not in end["error"]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green", "blue"]}, "n": {"type": "integer"}},
    "required": ["color", "n"],
    "additionalProperties": False,
}


def test_a_schema_holds_whatever_the_model_is_asked(base_url: str, channel: Channel) -> None:
    output = {"kind": "schema", "schema": SCHEMA}
    asked = [
        request(base_url, prompt, output=output, sampling={"max_tokens": 40})
        for prompt in ("Name a color.", "Write a poem.", "2 + 2?")
    ]
    for end in ends(channel, *asked):
        found = json.loads(text(end))
        assert found["color"] in ("red", "green", "blue")
        assert isinstance(found["n"], int)


def test_a_grammar_holds(base_url: str, channel: Channel) -> None:
    output = {"kind": "grammar", "grammar": 'root ::= "yes" | "no"'}
    (end,) = ends(channel, request(base_url, "Is the sky blue?", output=output))
    assert text(end) in ("yes", "no")


def test_an_answer_that_is_cut_off_before_it_conforms_fails(base_url: str, channel: Channel) -> None:
    output = {"kind": "schema", "schema": SCHEMA}
    (end,) = ends(channel, request(base_url, "Name a color.", output=output, sampling={"max_tokens": 3}))
    assert (end["status"], "max_tokens" in end["error"]) == ("failed", True)
