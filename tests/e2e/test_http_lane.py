"""The http lane against real servers on 127.0.0.1, most of which misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from llmc_build.execute.channel import Channel
from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import Done, Lane, Status, Task
from llmc_build.execute.residence import Room
from llmc_build.llm import http
from llmc_build.llm.patience import Limiter
from llmc_build.model import Digest
from llmc_build.store.cas import Cas

pytest.importorskip("httpx")
Gate = pytest.importorskip("llmc_build.llm.servers").Gate

KEY = "sk-canary-5f1d0c9be2a74"
MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi ✓"}]
SAMPLING: dict[str, Any] = {"max_tokens": 5, "temperature": 0.0, "seed": 0, "top_k": None, "stop": []}


# ---------------------------------------------------------------- a server


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[socket.socket, Request], None]  # returns with the connection to be closed


@dataclass
class Server:
    """Answers the n-th request as the n-th behaviour says, and all further ones as the last."""

    script: list[Behaviour]
    requests: list[Request] = field(default_factory=list)
    dropped: threading.Event = field(default_factory=threading.Event)  # a client went away unanswered

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.base_url = f"http://{self.host}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=(conn,), daemon=True).start()

    def _converse(self, conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            request = _read_request(conn)
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
                behave = self.script[min(len(self.requests), len(self.script)) - 1]
            try:
                behave(conn, request)
            except OSError:
                self.dropped.set()


def _read_request(conn: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = conn.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    while len(body) < int(headers.get("content-length", 0)):
        body += conn.recv(65536)
    return Request(line=line, headers=headers, body=body)


def raw(data: bytes) -> Behaviour:
    return lambda conn, request: conn.sendall(data)


def http_reply(status: int, body: bytes = b"", *, length: int | None = None, **headers: str) -> Behaviour:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return raw("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)


def completion(text: Any = "yes", finish: str = "stop", **extra: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "text": text, "finish_reason": finish}
    usage = {"prompt_tokens": 11, "completion_tokens": 1}
    return json.dumps({"choices": [choice], "usage": usage, **extra}).encode()


ok = http_reply(200, completion())


def events(*found: Any, done: bool = True, cut: bool = False, pause_s: float = 0.0) -> Behaviour:
    """A stream of server-sent events; `cut`: the connection is reset in the middle."""

    def behave(conn: socket.socket, request: Request) -> None:
        conn.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"
        )
        for one in [*found, *(["[DONE]"] if done else [])]:
            text = one if isinstance(one, str) else json.dumps(one)
            conn.sendall(b": a comment\n" + f"data: {text}\r\n\r\n".encode())
            time.sleep(pause_s)
        if cut:
            reset(conn, request)

    return behave


def piece(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {} if text is None else {"content": text}, "finish_reason": finish}]}


def usage(prompt: int, generated: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": generated}}


streamed = events(piece("ye"), piece("s"), piece(None, "stop"), usage(11, 2))


def error(status: int, message: str = "try later", **headers: str) -> Behaviour:
    return http_reply(status, json.dumps({"error": {"message": message}}).encode(), length=None, **headers)


def reset(conn: socket.socket, request: Request) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang(conn: socket.socket, request: Request) -> None:
    if not conn.recv(1):  # returns when the client gives up
        raise OSError("dropped")


def drip(conn: socket.socket, request: Request) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        conn.sendall(b" ")
        time.sleep(0.05)


# ---------------------------------------------------------------- the lane


class Worker:
    """The lane on a thread of this process, spoken to as the pool would."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self._mine, theirs = Channel.pair()
        self._count = 0
        self._ends: dict[int, dict[str, Any]] = {}
        self.progress: list[dict[str, Any]] = []
        settings = {"cas": str(folder / "cas"), "tries": 3, "backoff_s": 0.02, **config}
        self.thread = threading.Thread(target=http.serve, args=(theirs, settings), daemon=True)
        self.thread.start()
        ready = self._mine.recv(10)
        assert ready is not None
        assert ready["op"] == "ready"
        self.capacity = ready["capacity"]

    def start(self, server: Server | str, *, timeout_s: float | None = None, **request: Any) -> int:
        self._count += 1
        whole = {
            "base_url": server if isinstance(server, str) else server.base_url,
            "model": "tiny",
            "api_key_env": "LANE_TEST_KEY",
            "messages": MESSAGES,
            "prompt": None,
            "chat": True,
            "sampling": SAMPLING,
            "logs": str(self.folder / "logs" / str(self._count)),
            **request,
        }
        self._mine.send({"op": "run", "id": self._count, "request": whole, "timeout_s": timeout_s})
        return self._count

    def end(self, number: int, within_s: float = 20.0) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while number not in self._ends:
            message = self._mine.recv(max(0.0, deadline - time.monotonic()))
            assert message is not None, "the lane said nothing in time"
            if message["op"] == "progress":
                self.progress.append(message)
            elif message["op"] == "done":
                assert message["id"] not in self._ends, "a request ended twice"
                self._ends[message["id"]] = message
        return self._ends[number]

    def ask(self, server: Server | str, **how: Any) -> dict[str, Any]:
        return self.end(self.start(server, **how))

    def cancel(self, number: int) -> None:
        self._mine.send({"op": "cancel", "id": number, "reason": "test"})

    def log(self, name: str, number: int = 1) -> str:
        return (self.folder / "logs" / str(number) / name).read_text("utf-8")

    def close(self) -> None:
        self._mine.close()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the lane outlived its channel"


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    monkeypatch.setenv("LANE_TEST_KEY", KEY)
    made: list[Worker] = []

    def make(**config: Any) -> Worker:
        made.append(Worker(tmp_path, **config))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def worker(workers: Callable[..., Worker]) -> Worker:
    return workers()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*script: Behaviour) -> Server:
        made.append(Server(list(script)))
        return made[-1]

    yield make
    for server in made:
        server.close()


Serve = Callable[..., Server]
Workers = Callable[..., Worker]


def value(end: dict[str, Any]) -> bytes:
    assert end["status"] == "ok", end["error"]
    return base64.b64decode(end["reply"]["value"]["data"])


# ---------------------------------------------------------------- answers


def test_an_answer_is_the_value_and_leaves_its_logs(worker: Worker, serve: Serve) -> None:
    server = serve(ok)
    end = worker.ask(server)
    assert value(end) == b"yes"
    stats = end["reply"]["stats"]
    assert {name: stats[name] for name in stats if name not in ("wall_s", "tokens_per_s")} == {
        "prompt_tokens": 11,
        "generated_tokens": 1,
        "finish": "stop",
        "tries": 1,
    }
    assert 0 < stats["wall_s"] <= end["wall_s"]
    assert end["reply"]["stderr"]["size"] == 0
    assert worker.capacity == 64
    assert json.loads(worker.log("prompt")) == MESSAGES
    assert worker.log("stdout") == "yes"
    assert worker.log("stderr") == "try 1: answered, finish stop\n"


def test_the_server_gets_the_request_and_the_key_in_one_header(worker: Worker, serve: Serve) -> None:
    server = serve(ok)
    worker.ask(server)
    (request,) = server.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert KEY not in request.body.decode()
    assert json.loads(request.body) == {
        "model": "tiny",
        "messages": MESSAGES,
        "max_tokens": 5,
        "temperature": 0.0,
        "seed": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_raw_prompt_goes_to_completions(worker: Worker, serve: Serve) -> None:
    server = serve(ok)
    assert value(worker.ask(server, chat=False, prompt="once upon")) == b"yes"
    assert server.requests[0].line == "POST /v1/completions HTTP/1.1"
    assert json.loads(server.requests[0].body)["prompt"] == "once upon"
    assert worker.log("prompt") == "once upon"


def test_an_answer_cut_by_max_tokens_is_kept_and_says_so(worker: Worker, serve: Serve) -> None:
    end = worker.ask(serve(http_reply(200, completion("ye", "length"))))
    assert (value(end), end["reply"]["stats"]["finish"]) == (b"ye", "length")


def test_a_large_answer_is_in_the_store(worker: Worker, serve: Serve, tmp_path: Path) -> None:
    text = "ünïcode " * 5000
    end = worker.ask(serve(http_reply(200, completion(text))))
    content = end["reply"]["value"]
    assert "data" not in content
    found = Cas(tmp_path / "cas").read(Digest(hash=content["hash"], size=content["size"]))
    assert found == text.encode()


def test_a_large_answer_that_cannot_be_kept_fails_in_one_line(
    workers: Workers, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    end = workers(cas=str(tmp_path / "file" / "cas")).ask(serve(http_reply(200, completion("x" * 9000))))
    assert (end["status"], end["error"]) == ("failed", "the answer can't be kept: Not a directory")


def test_logs_that_cannot_be_written_do_not_fail_a_step(worker: Worker, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert value(worker.ask(serve(ok), logs=str(tmp_path / "file" / "logs"))) == b"yes"


def test_a_server_on_this_machine_is_asked_without_a_proxy(
    workers: Workers, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the environment can't reach 127.0.0.1 of this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert value(workers().ask(serve(ok))) == b"yes"


# ---------------------------------------------------------------- trying again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_passing_trouble_is_tried_again(worker: Worker, serve: Serve, status: int) -> None:
    server = serve(error(status), ok)
    end = worker.ask(server)
    assert value(end) == b"yes"
    assert end["reply"]["stats"]["tries"] == len(server.requests) == 2
    assert worker.progress[0]["stats"]["tries"] == 1
    first, second = worker.log("stderr").splitlines()
    assert first.startswith(f"try 1: answered {status}: try later; waiting 0.0")
    assert second == "try 2: answered, finish stop"


def test_a_lasting_trouble_fails_after_the_tries_with_the_servers_words(worker: Worker, serve: Serve) -> None:
    server = serve(error(500, "out of\x07 memory"))
    end = worker.ask(server)
    assert (end["status"], end["error"]) == (
        "failed",
        f"{server.host} answered 500: out of memory (3 tries)",
    )
    assert len(server.requests) == 3


def test_retry_after_in_seconds_is_honoured(worker: Worker, serve: Serve) -> None:
    begun = time.monotonic()
    assert value(worker.ask(serve(error(429, Retry_After="1"), ok))) == b"yes"
    assert 1.0 <= time.monotonic() - begun < 5.0


def test_retry_after_as_a_date_is_honoured(worker: Worker, serve: Serve) -> None:
    begun = time.monotonic()
    date = formatdate(time.time() + 2, usegmt=True)  # whole seconds: 1 to 2 from now
    assert value(worker.ask(serve(error(503, Retry_After=date), ok))) == b"yes"
    assert 0.9 <= time.monotonic() - begun < 6.0


def test_a_wait_longer_than_the_timeout_fails_at_once(worker: Worker, serve: Serve) -> None:
    """Waiting out a timeout that is known to be lost only wastes the user's time."""
    server = serve(error(429, Retry_After="3600"))
    begun = time.monotonic()
    end = worker.ask(server, timeout_s=30)
    assert time.monotonic() - begun < 5
    assert end["status"] == "failed"
    assert end["error"] == (
        f"{server.host} answered 429: try later; "
        "it asks to wait 3600 s, and 30 s are left of the step's timeout"
    )


def test_a_wait_that_nobody_wants_fails_each_at_once_and_those_in_line_too(
    workers: Workers, serve: Serve
) -> None:
    server = serve(error(429, Retry_After="3600"))
    worker = workers()
    numbers = [worker.start(server) for _ in range(20)]
    begun = time.monotonic()
    errors = {worker.end(number)["error"] for number in numbers}
    assert time.monotonic() - begun < 5
    assert errors == {
        f"{server.host} answered 429: try later; it asks to wait 3600 s: a step waits that long where it has "
        "a `timeout` that is longer"
    }
    assert len(server.requests) == 20


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (http_reply(200, b"<html>"), "sent a reply that isn't whole JSON"),
        (http_reply(200, completion()[:-9]), "sent a reply that isn't whole JSON"),
        (http_reply(200, completion()[:9], length=500), "broke off the connection: "),
        (http_reply(204), "sent a reply that isn't whole JSON"),
        (raw(b"\x00\xff garbage\r\n\r\n"), "broke off the connection: "),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000), "broke off the connection: "),
        (raw(b""), "broke off the connection: "),
        (reset, "broke off the connection: "),
    ],
    ids=["html", "cut", "short", "empty", "no-http", "endless-head", "close", "reset"],
)
def test_a_mangled_reply_is_tried_again_and_then_fails(
    worker: Worker, serve: Serve, behaviour: Behaviour, text: str
) -> None:
    assert value(worker.ask(serve(behaviour, ok))) == b"yes"
    server = serve(behaviour)
    end = worker.ask(server)
    assert end["status"] == "failed"
    assert end["error"].startswith(f"{server.host} {text}")
    assert end["error"].endswith(" (3 tries)")
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_named(worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    end = worker.ask(f"http://127.0.0.1:{port}/v1")
    assert end["status"] == "failed"
    assert end["error"].startswith(f"127.0.0.1:{port} could not be reached: ")


# ---------------------------------------------------------------- not trying again


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_final_and_shown(worker: Worker, serve: Serve, status: int) -> None:
    server = serve(error(status, "no\nsuch \x1b[31mmodel"), ok)
    end = worker.ask(server)
    where = " for /v1/chat/completions" if status == 404 else ""
    assert (end["status"], "value" in end["reply"]) == ("failed", False)
    assert end["error"] == f"{server.host} answered {status}{where}: no such [31mmodel"
    assert len(server.requests) == 1


def test_a_missing_key_is_named_where_the_server_wants_one(
    worker: Worker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LANE_TEST_KEY")
    server = serve(error(401, "who are you"), ok)
    assert worker.ask(server)["error"] == (
        f"{server.host} answered 401: who are you (the environment variable LANE_TEST_KEY is not set)"
    )
    assert value(worker.ask(server)) == b"yes"  # a server that wants none gets none
    assert not any("authorization" in request.headers for request in server.requests)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"hello": "world"}', "sent a reply that is no completion: choices[0] is missing"),
        (completion(None), "sent a reply that is no completion: choices[0].message.content is no text"),
        (completion("", "content_filter"), "withheld the answer (finish_reason content_filter)"),
        (b'{"error": {"message": "model not loaded"}}', "answered with an error: model not loaded"),
    ],
)
def test_a_reply_of_another_shape_is_final(worker: Worker, serve: Serve, body: bytes, text: str) -> None:
    server = serve(http_reply(200, body), ok)
    end = worker.ask(server)
    assert (end["status"], end["error"]) == ("failed", f"{server.host} {text}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(worker: Worker, serve: Serve, status: int) -> None:
    """A redirect would carry the key and the prompt to another server."""
    other = serve(ok)
    end = worker.ask(serve(http_reply(status, Location=f"{other.base_url}/chat/completions")))
    assert end["status"] == "failed"
    assert f"answered {status}, a redirect to {other.base_url}/chat/completions" in end["error"]
    assert other.requests == []


def test_a_huge_reply_is_given_up(worker: Worker, serve: Serve) -> None:
    def flood(conn: socket.socket, request: Request) -> None:
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            conn.sendall(b" " * (1 << 20))

    server = serve(flood)
    end = worker.ask(server)
    assert (end["status"], end["error"]) == ("failed", f"{server.host} sent a reply of more than 64 MiB")
    assert server.dropped.wait(5)


def test_a_compressed_reply_is_refused(worker: Worker, serve: Serve) -> None:
    """A few bytes could unfold to any size."""
    bomb = http_reply(200, gzip.compress(b" " * (1 << 20)), Content_Encoding="gzip")
    end = worker.ask(serve(bomb))
    assert "sent a compressed reply (gzip) unasked" in end["error"]


def test_an_endless_refusal_is_read_only_as_far_as_it_is_shown(worker: Worker, serve: Serve) -> None:
    def flood(conn: socket.socket, request: Request) -> None:
        conn.sendall(b"HTTP/1.1 400 No\r\n\r\n")
        while True:
            conn.sendall(b"no " * 10_000)

    end = worker.ask(serve(flood))
    assert "answered 400: no no no" in end["error"]
    assert len(end["error"]) < 400


@pytest.mark.parametrize(
    ("base_url", "text"),
    [
        ("ftp://127.0.0.1/v1", "base_url is not an http or https address"),
        ("http://user:hunter2hunter2@127.0.0.1/v1", "base_url must not hold a user name or password"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(worker: Worker, base_url: str, text: str) -> None:
    end = worker.ask(base_url)
    assert end["status"] == "failed"
    assert end["error"].startswith(text)
    assert "hunter2" not in end["error"]


# ---------------------------------------------------------------- time


@pytest.mark.parametrize("behaviour", [hang, drip])
def test_a_step_that_runs_out_of_time_ends_and_leaves_the_server(
    worker: Worker, serve: Serve, behaviour: Behaviour
) -> None:
    server = serve(behaviour)
    begun = time.monotonic()
    end = worker.ask(server, timeout_s=0.4)
    assert 0.4 <= time.monotonic() - begun < 4
    assert (end["status"], "value" in end["reply"]) == ("timeout", False)
    assert end["error"] == f"{server.host} gave no answer within 0.4 s (try 1)"
    assert server.dropped.wait(5), "the connection was left open"


@pytest.mark.parametrize("behaviour", [hang, drip])
def test_a_try_that_gets_nowhere_is_given_up_for_another(
    workers: Workers, serve: Serve, behaviour: Behaviour
) -> None:
    assert value(workers(try_s=0.3).ask(serve(behaviour, ok))) == b"yes"


def test_a_timeout_is_that_of_all_tries_together(workers: Workers, serve: Serve) -> None:
    begun = time.monotonic()
    end = workers(try_s=0.25, tries=40, backoff_s=0).ask(serve(hang), timeout_s=0.9)
    assert end["status"] == "timeout"
    assert 0.9 <= time.monotonic() - begun < 4


def test_waiting_in_line_costs_a_step_nothing_of_its_timeout(worker: Worker, serve: Serve) -> None:
    """Thirty steps on a server that gets eight at first: the last must not fail for having waited."""

    def slow(conn: socket.socket, request: Request) -> None:
        time.sleep(0.5)
        ok(conn, request)

    server = serve(slow)
    begun = time.monotonic()
    numbers = [worker.start(server, timeout_s=1.2) for _ in range(30)]
    assert {worker.end(number)["status"] for number in numbers} == {"ok"}
    assert time.monotonic() - begun > 1.2, "the last step did not wait long enough to prove anything"


def test_cancelling_aborts_the_request_at_once(worker: Worker, serve: Serve) -> None:
    server = serve(hang)
    number = worker.start(server)
    _until(lambda: server.requests)
    begun = time.monotonic()
    worker.cancel(number)
    end = worker.end(number)
    assert time.monotonic() - begun < 2
    assert (end["status"], end["reply"]) == ("cancelled", {})
    assert server.dropped.wait(5)


def test_cancelling_ends_a_wait_and_a_place_in_line_too(worker: Worker, serve: Serve) -> None:
    busy = serve(error(429, Retry_After="30"))
    full = serve(hang)
    waiting = worker.start(busy)
    _until(lambda: busy.requests)
    in_line = [worker.start(full) for _ in range(12)]  # more than a new server gets at a time
    _until(lambda: len(full.requests) >= 8)
    for number in [waiting, *reversed(in_line)]:
        worker.cancel(number)
    assert {worker.end(number, 5)["status"] for number in [waiting, *in_line]} == {"cancelled"}
    assert len(full.requests) == 8
    worker.cancel(waiting)  # what has ended already is passed over
    assert value(worker.ask(serve(ok))) == b"yes"


def test_the_lane_ends_with_its_channel(workers: Workers, serve: Serve) -> None:
    server = serve(hang)
    worker = workers()
    worker.start(server)
    _until(lambda: server.requests)
    worker.close()
    assert server.dropped.wait(5)


def _until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


# ---------------------------------------------------------------- many at a time


class Crowd:
    """A behaviour that counts how many requests it works on, and refuses those above `most`."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._lock = threading.Lock()
        self._now = 0
        self.peak = 0
        self.refused = 0

    def __call__(self, conn: socket.socket, request: Request) -> None:
        with self._lock:
            self._now += 1
            self.peak = max(self.peak, self._now)
            taken = self._now <= self._most
            self.refused += not taken
        if taken:
            time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
        (ok if taken else error(429))(conn, request)


def test_an_able_server_gets_more_and_more_up_to_64_at_a_time(worker: Worker, serve: Serve) -> None:
    crowd = Crowd(most=1000, seconds=0.1)
    server = serve(crowd)
    numbers = [worker.start(server) for _ in range(200)]
    assert {worker.end(number)["status"] for number in numbers} == {"ok"}
    assert 32 <= crowd.peak <= 64


def test_a_server_that_takes_two_gets_about_two(workers: Workers, serve: Serve) -> None:
    """Without a limit, 40 steps that come back again and again would use up their tries."""
    crowd = Crowd(most=2, seconds=0.02)
    server = serve(crowd)
    worker = workers(tries=8)
    numbers = [worker.start(server) for _ in range(40)]
    assert [value(worker.end(number)) for number in numbers] == [b"yes"] * 40
    assert crowd.peak <= 8
    assert crowd.refused < 40


class Bucket:
    """A behaviour that answers `rate` requests a second, and `burst` at once; the others are too early."""

    def __init__(self, rate: float, burst: float, retry_after: str) -> None:
        self._rate, self._burst, self._retry_after = rate, burst, retry_after
        self._lock = threading.Lock()
        self._left, self._at = burst, time.monotonic()

    def __call__(self, conn: socket.socket, request: Request) -> None:
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
            taken = self._left >= 1
            self._left -= taken
        (ok if taken else error(429, Retry_After=self._retry_after))(conn, request)


@pytest.mark.parametrize("retry_after", ["0.2", "0.01", "0"])
def test_a_server_that_limits_its_rate_answers_everybody(
    workers: Workers, serve: Serve, retry_after: str
) -> None:
    """It takes 20 a second.  If only the refused waited, the others would use up their tries meanwhile."""
    server = serve(Bucket(rate=20, burst=4, retry_after=retry_after))
    worker = workers(backoff_s=0.2)
    numbers = [worker.start(server) for _ in range(50)]
    assert [value(worker.end(number)) for number in numbers] == [b"yes"] * 50
    assert len(server.requests) < 200


@pytest.mark.parametrize("how", [{}, {"prices": [1.0, 1.0]}], ids=["plain", "priced"])
@pytest.mark.parametrize("retry_after", ["0.3", "0"])
def test_a_server_that_is_always_asked_too_early_fails_all_at_once(
    worker: Worker, serve: Serve, how: dict[str, Any], retry_after: str
) -> None:
    """Not one after the other: forty steps with two pauses each would take half a minute."""
    server = serve(error(429, "slow down", Retry_After=retry_after))
    begun = time.monotonic()
    numbers = [worker.start(server, **how) for _ in range(40)]
    ends = [worker.end(number) for number in numbers]
    assert time.monotonic() - begun < 5
    assert {end["status"] for end in ends} == {"failed"}
    assert all(f"{server.host} answered 429: slow down" in end["error"] for end in ends)
    assert len(server.requests) < 80


def test_a_server_that_works_on_one_request_at_a_time_answers_all_however_slowly(
    worker: Worker, serve: Serve
) -> None:
    """While it works on one it refuses in vain as often as there are tries, and more."""
    lock = threading.Lock()

    def busy(conn: socket.socket, request: Request) -> None:
        if not lock.acquire(blocking=False):
            error(429, Retry_After="0.05")(conn, request)
            return
        time.sleep(0.7)
        lock.release()
        ok(conn, request)

    server = serve(busy)
    numbers = [worker.start(server) for _ in range(8)]
    assert [value(worker.end(number)) for number in numbers] == [b"yes"] * 8
    assert len(server.requests) < 60


def test_a_request_that_alone_is_always_too_early_fails_while_others_are_answered(
    worker: Worker, serve: Serve
) -> None:
    """Servers say 429 to a prompt that is larger than all they take in a minute, too."""

    def picky(conn: socket.socket, request: Request) -> None:
        large = b"large" in request.body
        (error(429, "too large", Retry_After="0.01") if large else ok)(conn, request)

    server = serve(picky)
    large = worker.start(server, messages=[{"role": "user", "content": "large"}])
    for _ in range(2000):
        assert value(worker.ask(server)) == b"yes"
        if large in worker._ends:
            break
    assert "answered 429: too large (" in worker.end(large)["error"]


def test_a_pause_of_a_server_holds_for_all_and_can_be_left(workers: Workers, serve: Serve) -> None:
    server = serve(error(429, Retry_After="30"))
    worker = workers()
    first = worker.start(server)
    _until(lambda: server.requests)
    _until(lambda: "waiting" in worker.log("stderr"))
    others = [worker.start(server, timeout_s=0.3) for _ in range(3)]
    time.sleep(0.5)
    for number in (first, *others):
        worker.cancel(number)
    assert {worker.end(number, 5)["status"] for number in (first, *others)} == {"cancelled"}
    assert len(server.requests) == 1, "nothing is sent before the time that the server named"


def test_a_step_that_was_sent_runs_out_of_time_in_a_pause(workers: Workers, serve: Serve) -> None:
    server = serve(error(429, Retry_After="0.3"))
    begun = time.monotonic()
    end = workers(backoff_s=20).ask(server, timeout_s=1)  # the second pause is longer than was asked for
    assert end["status"] == "timeout"
    assert 1 <= time.monotonic() - begun < 4


def test_requests_that_wait_for_the_budget_wait_for_a_pause_too(workers: Workers, serve: Serve) -> None:
    """The room that a refused request leaves is no reason to ask at once."""
    server = serve(error(429, Retry_After="0.5"), error(429, Retry_After="0.5"), ok)
    worker = workers(budget={"tokens": 400, "cost": None, "ledger": None})
    numbers = [worker.start(server, sampling={"max_tokens": 50}) for _ in range(5)]
    begun = time.monotonic()
    assert [value(worker.end(number)) for number in numbers] == [b"yes"] * 5
    assert time.monotonic() - begun >= 0.9
    assert len(server.requests) == 7


def test_a_slot_given_to_a_request_that_is_cancelled_in_that_moment_is_not_lost() -> None:
    """A lost slot would make a server's line shorter for good, and at last stop it."""

    async def story() -> bool:
        gate = Gate(Limiter(start=1))

        async def visit() -> None:
            async with gate.slot():
                await asyncio.sleep(0)

        first, second, third = (asyncio.create_task(visit()) for _ in range(3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert first.done()  # it has left, and the second's turn has come but not yet been taken
        second.cancel()
        await asyncio.wait([second, third], timeout=2)
        return second.cancelled() and third.done()

    assert asyncio.run(story())


# ---------------------------------------------------------------- the key


TELLTALES: list[Behaviour] = [
    error(400, f"bad key {KEY}"),
    error(500, f"{KEY} " * 100),
    http_reply(400, f"<html>{'x' * 290}{KEY}".encode()),
    http_reply(403, f"{KEY[:5]}\0{KEY[5:]}".encode()),
    http_reply(302, Location=f"http://x/{KEY}"),
    http_reply(200, completion(f"your key is {KEY}")),
    http_reply(200, completion("yes", f"{KEY}")),
    http_reply(200, completion(None, error={"message": KEY})),
    http_reply(200, completion()[:5], Content_Encoding=KEY),
    raw(f"HTTP/1.1 {KEY}\r\n\r\n".encode()),
    raw(f"HTTP/1.1 200 OK\r\n{KEY} x: {KEY}\r\n\r\n".encode()),
    raw(f"{KEY}\r\n\r\n".encode()),
    error(429, KEY, Retry_After=KEY),
]


def test_the_key_is_in_no_error_log_or_reply_whatever_the_server_does(
    worker: Worker, serve: Serve, tmp_path: Path
) -> None:
    """A hostile or chatty server repeats the key; records and logs are shared with others."""
    servers = [serve(behaviour) for behaviour in TELLTALES]
    ends = [worker.end(worker.start(server, timeout_s=5)) for server in servers]
    assert all(f"Bearer {KEY}" == s.requests[0].headers["authorization"] for s in servers)
    said = json.dumps([ends, worker.progress])
    written = [path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2 * len(servers)
    for text in (said, *written):
        assert KEY not in text
        assert base64.b64encode(KEY.encode()).decode() not in text
        assert KEY[:12] not in text


@pytest.mark.parametrize("key", ["sk-canary\r\nX-Evil: 1", "sk-canary-\u00fc"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(
    worker: Worker, serve: Serve, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LANE_TEST_KEY", key)
    server = serve(ok)
    end = worker.ask(server)
    assert end["error"] == (
        "the value of LANE_TEST_KEY can't be an API key: it has characters that a header can't hold"
    )
    assert server.requests == []


# ---------------------------------------------------------------- the process


SPAWN = """
import sys
if sys.argv[3] == "bare":
    sys.modules["httpx"] = None  # as if it were not installed
from llmc_build.execute.channel import Channel
from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import Done, Lane, Status, Task
from llmc_build.llm.http import serve
serve(Channel.from_fd(int(sys.argv[1])), {"cas": sys.argv[2], "backoff_s": 0.01})
"""


def _in_a_process(folder: Path, base_url: str, how: str) -> list[dict[str, Any]]:
    """What a lane in its own process says to one request, up to its end; it must say nothing else."""
    mine, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-c", SPAWN, str(theirs.fileno()), str(folder / "cas"), how],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "LANE_TEST_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    theirs.close()
    request: dict[str, Any] = {"base_url": base_url, "model": "tiny", "api_key_env": "LANE_TEST_KEY"}
    request.update(messages=MESSAGES, chat=True, sampling=SAMPLING, logs=None)
    said: list[dict[str, Any]] = []
    with process, contextlib.closing(Channel(mine)) as channel:
        channel.send({"op": "run", "id": 7, "request": request, "timeout_s": 20})
        while not said or said[-1]["op"] != "done":
            message = channel.recv(20)
            assert message is not None, "the lane said nothing in time"
            said.append(message)
        channel.close()
        output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (0, b"")
    return said


def test_the_lane_runs_in_a_process_of_its_own_and_ends_with_its_channel(
    serve: Serve, tmp_path: Path
) -> None:
    """As the pool starts it: the key only in the environment, nothing on its output, an end at EOF."""
    said = _in_a_process(tmp_path, serve(error(500, KEY), ok).base_url, "whole")
    assert [message["op"] for message in said] == ["ready", "sent", "progress", "done"]
    assert value(said[-1]) == b"yes"
    assert KEY not in json.dumps(said)


def test_the_pool_runs_the_lane_with_the_key_of_its_environment(serve: Serve, tmp_path: Path) -> None:
    """Through the real pool: the same answers, one process for many requests, and cancelling works."""
    good, bad = serve(error(429), ok), serve(hang)
    with Pool(1, tmp_path / "cas", environ={**os.environ, "LANE_TEST_KEY": KEY}) as pool:
        lane = Lane(kind="http", config={"backoff_s": 0.01})
        assert pool.room(lane) == 64
        for number, server in ((1, good), (2, good), (3, bad)):
            request: dict[str, Any] = {"base_url": server.base_url, "model": "tiny", "messages": MESSAGES}
            request.update(api_key_env="LANE_TEST_KEY", chat=True, sampling=SAMPLING, logs=None)
            pool.submit(Task(id=number, lane=lane, request=request))
        _until(lambda: bad.requests)
        pool.cancel(3, "the build was stopped")
        done: dict[int, Done] = {}
        while len(done) < 3:
            news = pool.wait(10)
            assert news, "the pool said nothing in time"
            done.update({item.id: item for item in news if isinstance(item, Done)})
    assert {number: end.status for number, end in done.items()} == {
        1: Status.OK,
        2: Status.OK,
        3: Status.CANCELLED,
    }
    assert good.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert bad.dropped.wait(5)


def test_what_a_killed_worker_had_sent_is_sent_once_more_and_that_is_said(
    serve: Serve, tmp_path: Path
) -> None:
    """Eight had been sent, and may have been answered; four stood in line, and can't have cost anything."""
    server, notes = serve(*[hang] * 8, ok), list[str]()
    with Pool(1, tmp_path / "cas", models=Room(note=notes.append)) as pool:
        lane = Lane(kind="http")
        for number in range(12):
            request: dict[str, Any] = {"base_url": server.base_url, "model": "tiny", "messages": MESSAGES}
            pool.submit(Task(id=number, lane=lane, request={**request, "chat": True, "sampling": SAMPLING}))
        limit = time.monotonic() + 20
        while len(server.requests) < 8:
            assert time.monotonic() < limit
            pool.wait(0.05)
        (worker,) = pool._lanes[lane].workers
        os.kill(worker.pid, signal.SIGKILL)
        ends: list[Done] = []
        while len(ends) < 12 and time.monotonic() < limit:
            ends += [item for item in pool.wait(1) if isinstance(item, Done)]
    assert [end.status for end in ends] == [Status.OK] * 12
    assert len(server.requests) == 20
    assert notes == [
        "the worker died: killed by SIGKILL; 8 requests that it had sent may be charged twice: asked again"
    ]


def test_without_httpx_a_step_fails_with_what_to_install(serve: Serve, tmp_path: Path) -> None:
    """The extra is optional; a crash of the worker would not say what is missing."""
    server = serve(ok)
    end = _in_a_process(tmp_path, server.base_url, "bare")[-1]
    assert end["status"] == "failed"
    assert end["error"] == "steps of type llm need httpx: pip install 'llmc_build[openai]'"
    assert server.requests == []


def test_a_proxy_that_cannot_be_used_is_named(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://proxy:1")
    end = workers().ask("https://127.0.0.1:1/v1")
    assert end["status"] == "failed"
    assert end["error"].startswith("the HTTP client can't be set up: ")


# ---------------------------------------------------------------- streams


def test_a_streamed_answer_is_logged_and_told_as_it_comes(worker: Worker, serve: Serve) -> None:
    release = threading.Event()

    def slowly(conn: socket.socket, request: Request) -> None:
        events(piece("ye"), done=False)(conn, request)
        release.wait(10)
        tail = [piece("s"), piece(None, "stop"), usage(11, 2)]
        conn.sendall(
            b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in tail) + b"data: [DONE]\n\n"
        )

    number = worker.start(serve(slowly), api_key_env=None)
    deadline = time.monotonic() + 10
    log = worker.folder / "logs" / "1" / "stdout"
    while not (log.exists() and log.read_text() == "ye"):
        assert time.monotonic() < deadline, "the piece that came is not in the log"
        time.sleep(0.01)
    release.set()
    end = worker.end(number)
    assert value(end) == b"yes"
    stats = end["reply"]["stats"]
    assert (stats["prompt_tokens"], stats["generated_tokens"], stats["finish"]) == (11, 2, "stop")
    assert any(message["stats"].get("tokens") for message in worker.progress)
    assert worker.log("stdout") == "yes"


def test_a_stream_in_pieces_of_any_size_is_one_answer(worker: Worker, serve: Serve) -> None:
    """A byte at a time: borders of lines, events and characters fall anywhere."""
    data = b"".join(
        b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\r\n\r\n"
        for one in [piece("ün"), piece("ï✓"), piece(None, "stop"), usage(1, 2)]
    )

    def bytewise(conn: socket.socket, request: Request) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for i in range(len(data)):
            conn.sendall(data[i : i + 1])
        conn.sendall(b"data: [DONE]\n\n")

    assert value(worker.ask(serve(bytewise))) == "ünï✓".encode()


@pytest.mark.parametrize(
    "broken",
    [
        events(piece("ye"), done=False),
        events(piece("ye"), done=False, cut=True),
        events(piece("ye"), "{not json", done=False),
        events(piece("ye"), '{"choices": [{"delta": {"con', done=False),
    ],
)
def test_a_stream_that_breaks_off_is_asked_for_again(worker: Worker, serve: Serve, broken: Behaviour) -> None:
    server = serve(broken, streamed)
    end = worker.ask(server)
    assert value(end) == b"yes"
    assert (len(server.requests), worker.log("stdout")) == (2, "yes")


def test_an_error_in_a_stream_is_the_servers_words(worker: Worker, serve: Serve) -> None:
    end = worker.ask(serve(events(piece("ye"), {"error": {"message": "out of\nmemory"}})))
    assert end["error"].endswith("answered with an error: out of memory")


def test_the_api_key_in_a_stream_reaches_neither_log_nor_value(worker: Worker, serve: Serve) -> None:
    end = worker.ask(serve(events(*(piece(c) for c in f"it is {KEY}!"), piece(None, "stop"))))
    assert (end["status"], KEY in end["error"], KEY in worker.log("stdout")) == ("failed", False, False)


def test_a_server_that_streams_nothing_is_read_whole(worker: Worker, serve: Serve) -> None:
    assert value(worker.ask(serve(ok))) == b"yes"


def test_fields_that_a_server_refuses_are_left_out_from_then_on(worker: Worker, serve: Serve) -> None:
    server = serve(
        error(400, "Unknown parameter: stream_options"),
        error(422, "stream: extra fields not permitted"),
        error(400, "Use max_completion_tokens instead of max_tokens"),
        ok,
    )
    assert value(worker.ask(server)) == b"yes"
    assert value(worker.ask(server)) == b"yes"
    last = json.loads(server.requests[-1].body)
    assert (len(server.requests), last["stream"], "stream_options" in last) == (5, False, False)
    assert (last["max_completion_tokens"], "max_tokens" in last) == (5, False)


def test_a_refusal_for_another_reason_is_not_asked_again(worker: Worker, serve: Serve) -> None:
    server = serve(error(400, "the prompt is too long"))
    assert "too long" in worker.ask(server)["error"]
    assert len(server.requests) == 1


# ---------------------------------------------------------------- what an answer must be

SCHEMA = {
    "kind": "schema",
    "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


def test_a_schema_is_sent_and_the_answer_held_to_it(worker: Worker, serve: Serve) -> None:
    server = serve(http_reply(200, completion('{"n": 3}')))
    assert value(worker.ask(server, output=SCHEMA)) == b'{"n": 3}'
    asked = json.loads(server.requests[0].body)["response_format"]
    assert asked == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA["schema"], "strict": True},
    }


@pytest.mark.parametrize(
    ("answer", "finish", "why"),
    [
        ('{"n": "3"}', "stop", "does not conform to the schema at n: '3' is not of type 'integer'"),
        ("{}", "stop", "'n' is a required property"),
        ("```json\n{}\n```", "stop", "the answer is no JSON"),
        ('{"n": ', "length", "raise `max_tokens`"),
        ('{"n": NaN}', "stop", "the answer is no JSON"),
        ("[" * 100_000, "stop", "the answer is no JSON"),
    ],
)
def test_an_answer_that_does_not_conform_fails_the_step(
    worker: Worker, serve: Serve, answer: str, finish: str, why: str
) -> None:
    server = serve(http_reply(200, completion(answer, finish)))
    end = worker.ask(server, output=SCHEMA)
    assert (end["status"], why in end["error"], len(server.requests)) == ("failed", True, 1), end["error"]
    assert "value" not in end["reply"]
    assert end["reply"]["stats"]["prompt_tokens"] == 11


def test_a_server_is_asked_for_json_in_the_form_that_it_knows(worker: Worker, serve: Serve) -> None:
    refuse = error(400, "response_format.type must be text or json_object")
    server = serve(refuse, refuse, http_reply(200, completion('{"n": 3}')))
    assert value(worker.ask(server, output=SCHEMA)) == b'{"n": 3}'
    forms = [json.loads(request.body)["response_format"] for request in server.requests]
    assert [form["type"] for form in forms] == ["json_schema", "json_schema", "json_object"]
    assert forms[2] == {"type": "json_object", "schema": SCHEMA["schema"]}
    assert value(worker.ask(server, output=SCHEMA)) == b'{"n": 3}'
    assert len(server.requests) == 4, "the form is remembered"


def test_any_json_and_grammars_are_asked_for(worker: Worker, serve: Serve) -> None:
    server = serve(http_reply(200, completion("[1]")))
    assert value(worker.ask(server, output={"kind": "json"})) == b"[1]"
    assert value(worker.ask(server, output={"kind": "grammar", "grammar": 'root ::= "[1]"'})) == b"[1]"
    first, second = (json.loads(request.body) for request in server.requests)
    assert first["response_format"] == {"type": "json_object"}
    assert second["grammar"] == 'root ::= "[1]"'


# ---------------------------------------------------------------- embeddings


def embedded(*vectors: list[float]) -> bytes:
    entries = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return json.dumps({"data": entries[::-1], "usage": {"prompt_tokens": 7}}).encode()


def test_texts_become_vectors_in_their_order(worker: Worker, serve: Serve) -> None:
    server = serve(http_reply(200, embedded([3.0, 4.0], [0.0, 2.0])))
    embed = {"texts": ["a", "b"], "single": False, "normalize": True}
    end = worker.ask(server, embed=embed)
    assert json.loads(value(end)) == [[0.6, 0.8], [0.0, 1.0]]
    assert json.loads(value(worker.ask(server, embed={**embed, "normalize": False}))) == [
        [3.0, 4.0],
        [0.0, 2.0],
    ]
    assert server.requests[0].line == "POST /v1/embeddings HTTP/1.1"
    assert json.loads(server.requests[0].body) == {
        "model": "tiny",
        "input": ["a", "b"],
        "encoding_format": "float",
    }
    assert end["reply"]["stats"]["prompt_tokens"] == 7


@pytest.mark.parametrize(
    "body",
    [b"[]", embedded([1.0]), embedded([], []), embedded([1.0], [float("nan")]), b'{"data": [1, 2]}',
     b'{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}'],
)  # fmt: skip
def test_what_is_no_list_of_vectors_fails_the_step(worker: Worker, serve: Serve, body: bytes) -> None:
    embed = {"texts": ["a", "b"], "single": False, "normalize": True}
    assert worker.ask(serve(http_reply(200, body)), embed=embed)["status"] == "failed"


# ---------------------------------------------------------------- budgets

PRICES = [1_000_000.0, 2_000_000.0]  # a token of a prompt is 1, one of an answer 2


def test_what_a_request_cost_is_told(worker: Worker, serve: Serve) -> None:
    end = worker.ask(serve(streamed), prices=PRICES)
    stats = end["reply"]["stats"]
    assert (stats["prompt_tokens"], stats["generated_tokens"], stats["cost"]) == (11, 2, 15.0)


def test_a_budget_is_never_overshot_and_what_it_leaves_is_used(workers: Workers, serve: Serve) -> None:
    """Each request may need up to 212 tokens and needs 105: of 1,000 tokens eight fit, and not nine."""
    server = serve(http_reply(200, json.dumps({**json.loads(completion()), **usage(100, 5) | {
        "choices": json.loads(completion())["choices"]}}).encode()))  # fmt: skip
    worker = workers(budget={"tokens": 1000, "cost": None, "ledger": None})
    numbers = [worker.start(server) for _ in range(20)]
    ends = [worker.end(number) for number in numbers]
    good = [end for end in ends if end["status"] == "ok"]
    spent = sum(
        end["reply"]["stats"]["prompt_tokens"] + end["reply"]["stats"]["generated_tokens"] for end in good
    )
    assert len(server.requests) == len(good) == 8
    assert spent == 840
    refused = next(end for end in ends if end["status"] == "failed")
    assert "was not asked: --max-tokens-total 1000 leaves 160 tokens" in refused["error"]


def test_tries_count_and_what_is_refused_costs_nothing(workers: Workers, serve: Serve) -> None:
    worker = workers(budget={"tokens": 300, "cost": None, "ledger": None})
    server = serve(error(503, Retry_After="0"), error(429), streamed)
    assert value(worker.ask(server)) == b"yes"
    broken = serve(events(piece("ye"), done=False))
    end = worker.ask(broken)
    assert len(broken.requests) == 1, "the first broken answer may have cost all that was left"
    assert "--max-tokens-total 300 leaves" in end["error"]


@pytest.mark.parametrize(
    "behaviour",
    [error(500), error(502), error(503), error(504), error(500, "stream is not supported"), reset, hang],
    ids=["500", "502", "503", "504", "500-form", "reset", "hang"],
)
def test_a_request_that_may_have_been_answered_counts_as_the_most(
    workers: Workers, serve: Serve, behaviour: Behaviour
) -> None:
    """A gateway says 504 when the model behind it took too long: its work is billed all the same."""
    worker = workers(budget={"tokens": 1000, "cost": None, "ledger": None}, try_s=1)
    server = serve(behaviour)
    end = worker.ask(server, sampling={**SAMPLING, "max_tokens": 500})
    assert len(server.requests) == 1
    assert "was not asked: --max-tokens-total 1000 leaves" in end["error"]


def test_a_cost_is_limited_by_prices_and_needs_them(workers: Workers, serve: Serve) -> None:
    worker = workers(budget={"tokens": None, "cost": 250.0, "ledger": None})
    server = serve(streamed)
    assert value(worker.ask(server, prices=PRICES)) == b"yes"
    assert "needs `prices` of the model tiny" in worker.ask(server)["error"]
    while (end := worker.ask(server, prices=PRICES))["status"] == "ok":
        assert len(server.requests) < 30
    assert "--max-cost 250 leaves" in end["error"]
    assert 15 * len(server.requests) <= 250


def test_a_worker_that_is_started_again_knows_what_is_spent(
    workers: Workers, serve: Serve, tmp_path: Path
) -> None:
    """The first died in the middle of a request: that may have cost all that was set aside for it."""
    budget = {"tokens": 400, "cost": None, "ledger": str(tmp_path / "ledger")}
    first = workers(budget=budget)
    assert value(first.ask(serve(streamed))) == b"yes"
    lost = first.start(serve(hang))
    deadline = time.monotonic() + 10
    while len((tmp_path / "ledger").read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / "ledger2").write_text((tmp_path / "ledger").read_text())
    first.cancel(lost)
    first.end(lost)
    second = workers(budget={**budget, "ledger": str(tmp_path / "ledger2")})
    server = serve(streamed)
    assert "--max-tokens-total 400 leaves" in second.ask(server)["error"]
    assert not server.requests


def test_where_usage_matters_a_server_that_does_not_stream_it_is_asked_otherwise(
    worker: Worker, serve: Serve
) -> None:
    """One request finds out; the answers of all others come whole, with their usage."""
    silent = events(piece("yes"), piece(None, "stop"))
    server = serve(silent, ok)
    numbers = [worker.start(server, prices=PRICES) for _ in range(5)]
    stats = [worker.end(number)["reply"]["stats"] for number in numbers]
    streams = [json.loads(request.body)["stream"] for request in server.requests]
    assert streams == [True, False, False, False, False]
    assert sorted(one.get("cost", 0.0) for one in stats) == [0.0, 13.0, 13.0, 13.0, 13.0]


@pytest.mark.parametrize("refuses", [False, True], ids=["ignores", "refuses"])
def test_where_usage_matters_a_server_that_streams_nothing_is_asked_for_many_at_a_time(
    worker: Worker, serve: Serve, refuses: bool
) -> None:
    crowd = Crowd(most=1000, seconds=0.1)

    def whole(conn: socket.socket, request: Request) -> None:
        if refuses and json.loads(request.body)["stream"]:
            error(400, "stream is not supported")(conn, request)
        else:
            crowd(conn, request)

    server = serve(whole)
    numbers = [worker.start(server, prices=PRICES) for _ in range(24)]
    assert {worker.end(number)["reply"]["stats"].get("cost") for number in numbers} == {13.0}
    assert crowd.peak >= 6
