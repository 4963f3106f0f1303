"""Bytes that llmc finds on its disk or gets from a server, damaged at random or made hostile on purpose.

Records of the store, the snapshot, remembered digests, the list of what was placed; bodies of replies; and a real
server on this machine that breaks every rule of HTTP it can.  Never an exception but those promised, never more
memory or time than the limits allow, and what is accepted is what was written.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import os
import random
import resource
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmc_build import quick
from llmc_build.llm import openai
from llmc_build.llm.openai import Answer, Failure
from llmc_build.model import ActionResult, Digest, OutputFile
from llmc_build.outputs import _checked, _read_list
from llmc_build.snapshot import form
from llmc_build.store import Record, record
from llmc_build.store.runs import Runs
from llmc_build.store.state import _load_digests
from tests.conftest import Space
from tests.faults.mutation import NUMBERS, UNICODE, hostile_json, mutated, within

Amount = Callable[[int, int], int]

JSON_WORDS = [
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"[" * 2_000, b'{"a":' * 2_000, b"{}", b"[]", b'""',
    b'"key"', b'"result"', b'"hash"', b'"size"', b'"path"', b'"../x"', b'"/etc/x"', b'"a/../b"', b'"\\u0000"',
    b'"\\ud800"', b'"\\udcff"', b"\\", b"true,", b'"contents":{}', *NUMBERS, *UNICODE,
]  # fmt: skip


# ---------------------------------------------------------------- records


def digest_of(data: bytes) -> Digest:
    return Digest(hash=hashlib.sha256(data).hexdigest(), size=len(data))


def written(chance: random.Random) -> tuple[str, bytes]:
    """A key and the record that llmc writes under it."""
    value, large = chance.randbytes(chance.randint(0, 30)), chance.randbytes(5_000)
    outputs = tuple(
        OutputFile(
            path=path, digest=digest_of(chance.choice([value, large])), executable=chance.random() < 0.5
        )
        for path in chance.sample(["a", "b/c", "é/d", "x.y/z"], chance.randint(0, 3))
    )
    key = hashlib.sha256(chance.randbytes(8)).hexdigest()
    result = ActionResult(
        value=digest_of(value), stderr=digest_of(b""), outputs=outputs, provenance={"wall_s": 1.5}
    )
    small = {digest_of(data).hash: data for data in (value, b"")}
    made = Record(key=key, components={"command": "x", "n": [1, None, "é"]}, result=result, created=1.0)
    return key, record.encode(made, small)


def sealed(body: bytes) -> bytes:
    """A body with the right hash before it, as somebody who wants to be believed would write it."""
    return b"llmc-record/1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


@pytest.mark.timeout(300)
def test_records(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    """A changed record is none; one that is sealed again is none, or is one that llmc could have written."""
    for _ in range(amount(1_000, 10_000)):
        key, data = written(chance)
        assert record.decode(key, data) is not None
        damaged = mutated(chance, data, JSON_WORDS)
        if damaged != data:
            with within(5, damaged):
                assert record.decode(key, damaged) is None
        body = hostile_json(chance, data.partition(b"\n")[2], JSON_WORDS)
        with within(5, body):
            found = record.decode(key, sealed(body))
        if found is None:
            tally["refused"] += 1
            continue
        tally["accepted"] += 1
        accepted, contents = found
        again = record.encode(accepted, contents)
        assert record.decode(key, again) == found
        for output in accepted.result.outputs:
            assert not output.path.startswith("/")
            assert ".." not in output.path.split("/")
        for name, content in contents.items():
            assert hashlib.sha256(content).hexdigest() == name
    assert tally["refused"] > 100


# ---------------------------------------------------------------- what a workspace keeps

FLOW = (
    "name: w\nsteps:\n  - {name: a, command: 'cat in.txt; echo made > out.txt', outputs: [out.txt], inputs: [in.txt]}\n"
    "  - {name: b, command: 'echo {{ w.a }}'}\n  - {name: c, command: 'cat out.txt', inputs: ['*.txt']}\n"
)


def resealed(chance: random.Random, data: bytes) -> bytes:
    """A snapshot changed at random, with every checksum put right again."""
    length = int(data[len(form.MAGIC) :].split(b" ", 1)[0], 16)
    start = data.index(b"\n", len(form.MAGIC)) + 1
    head, rest = data[start : start + length], data[start + length :]
    if chance.random() < 0.5:
        words = [*JSON_WORDS, b'"facts"', b'"sections"', b"-1", b"99999", b'"' + b"a" * 64 + b'"']
        head = hostile_json(chance, head, words)
    else:
        document = json.loads(head)
        name = chance.choice(sorted(document["sections"]))
        rest = mutated(chance, rest, [b"\xff" * 4, b"\0" * 8, *JSON_WORDS])
        for where in document["sections"].values():
            where[2] = zlib.crc32(rest[where[0] : where[0] + where[1]])
        document["sections"][name][chance.randrange(2)] += chance.choice([0, 0, 4, -4, 10**6, 2**70])
        head = json.dumps(document).encode()
    return form.MAGIC + b"%x %x\n" % (len(head), zlib.crc32(head)) + head + rest


@pytest.mark.timeout(300)
def test_the_state_of_a_workspace(
    space: Space, amount: Amount, chance: random.Random, tally: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshot, digests, placed.json and its journal: the build after any of it is a build."""
    space.write("in.txt", "in\n")
    space.write("w.yaml", FLOW)
    space.build("w.yaml")
    time.sleep(0.05)
    space.build("w.yaml")
    home = space.root / ".llmc"
    kept = {
        path: path.read_bytes() for path in [*home.glob("state/*"), home / "placed.json"] if path.is_file()
    }
    assert any(path.name.startswith("snapshot") for path in kept)
    journal = home / "placed.journal"
    monkeypatch.chdir(space.root)
    for _ in range(amount(80, 10_000)):
        path = chance.choice(sorted(kept))
        if path.name.startswith("snapshot"):
            path.write_bytes(resealed(chance, kept[path]))
            with within(20, path):
                code = quick.build(["build", "w.yaml"], space.environ)
            tally["resealed snapshots, believed" if code is not None else "resealed snapshots, refused"] += 1
        path.write_bytes(hostile_json(chance, kept[path], JSON_WORDS))
        if chance.random() < 0.2:
            journal.write_bytes(hostile_json(chance, b'["w.yaml w.a",{"out.txt":"00"}]', JSON_WORDS) + b"\n")
        with within(20, path):
            quick.build(["build", "w.yaml"], space.environ)
            assert space.build("w.yaml").exit_code == 0
        check_workspace(space)
        tally[path.name.partition("-")[0]] += 1
        for other, data in kept.items():
            other.write_bytes(data)


def check_workspace(space: Space) -> None:
    assert space.read("in.txt") == "in\n"
    assert space.read("out.txt") == "made\n"
    assert space.value("w.b") == "in\n"
    assert space.value("w.c") == "made\n"


def test_lists_of_what_was_placed(
    tmp_path: Path, amount: Amount, chance: random.Random, tally: Counter[str]
) -> None:
    """Only paths inside the workspace, whatever the list says: they may be removed."""
    seeds = [b'{"w.yaml w.a":{"out.txt":"' + b"0" * 64 + b'","d/e":"00"}}', b"{}"]
    for _ in range(amount(1_000, 10_000)):
        data = hostile_json(chance, chance.choice(seeds), JSON_WORDS)
        path = tmp_path / "placed.json"
        path.write_bytes(data)
        with within(5, data):
            placed = _read_list(path) or {}
            _load_digests(path)
        for paths in placed.values():
            assert all(not name.startswith("/") and ".." not in name.split("/") and name for name in paths)
        tally["believed" if placed else "empty"] += 1
        assert _checked(placed) == placed


def test_names_of_runs(tmp_path: Path, chance: random.Random, tally: Counter[str]) -> None:
    """Whatever lies among the runs, they are listed, and a new one can be made."""
    runs = Runs(tmp_path / ".llmc", keep=3)
    first = runs.create()
    for _ in range(60):
        name = chance.choice(
            ["20261123T121354.862Z-" + "9" * chance.randint(1, 30), "x", "é\n", "\x1b[2J", "latest2"]
        )
        with contextlib.suppress(OSError):
            os.symlink("/", tmp_path / ".llmc" / "runs" / name) if chance.random() < 0.5 else os.mkdir(
                tmp_path / ".llmc" / "runs" / name
            )
        tally["names"] += 1
    second = runs.create()
    assert runs.find(second.run_id) is not None
    assert Path("/etc").is_dir()
    assert first.run_id != second.run_id


# ---------------------------------------------------------------- replies

REPLIES = [
    b'{"choices":[{"message":{"content":"Hi","role":"assistant"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,'
    b'"completion_tokens":2}}',
    b'{"choices":[{"text":"Hi \\ud83d\\ude00","finish_reason":"length"}]}',
    b'{"error":{"message":"no \\u001b[2J","code":"insufficient_quota"}}', b"<html>502</html>", b"",
]  # fmt: skip
REPLY_WORDS = [
    *JSON_WORDS, b'"choices":', b'"message":', b'"content":', b'"text":', b'"usage":', b'"finish_reason":', b'"error":',
    b'"content_filter"', b"sk-secret-secret-secret", b'"completion_tokens":',
]  # fmt: skip
SECRET = "sk-secret-secret-secret"


@pytest.mark.timeout(300)
def test_bodies_of_replies(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    """An answer of the right types, or a failure of one harmless line that does not hold the key."""
    for _ in range(amount(1_000, 10_000)):
        data = hostile_json(chance, chance.choice(REPLIES), REPLY_WORDS)
        with within(5, data):
            try:
                answer = openai.read_reply(data, chat=chance.random() < 0.5, secret=SECRET)
            except Failure as failure:
                check_failure(failure)
                tally["failures"] += 1
            else:
                check_answer(answer)
                tally["answers"] += 1
            headers = [
                None,
                "1",
                "1e999",
                "9" * 400,
                "Mon, 99 Foo 2026",
                "\x00",
                "-1",
                "٣",
                data.decode("latin-1")[:50],
            ]
            check_failure(
                openai.refusal(
                    chance.choice([301, 400, 401, 404, 408, 429, 500, 503, 599]), data, now=1e9, secret=SECRET,
                    asked="/v1/x", retry_after=chance.choice(headers), location=chance.choice(headers),
                )
            )  # fmt: skip
    assert min(tally.values()) > 20


def check_failure(failure: Failure) -> None:
    assert failure.text.isprintable()
    assert len(failure.text) < 1_000
    assert SECRET not in failure.text
    assert failure.asked_s is None or failure.asked_s >= 0


def check_answer(answer: Answer) -> None:
    answer.text.encode()
    assert answer.finish.isprintable()
    for count in (answer.prompt_tokens, answer.generated_tokens):
        assert count is None or (type(count) is int and count >= 0)


# ---------------------------------------------------------------- a hostile server

OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = object()
GOOD = b'{"choices":[{"message":{"content":"fine"},"finish_reason":"stop"}]}'


def replies(chance: random.Random) -> Iterator[bytes | object]:
    """What the server sends, byte for byte; ENDLESS: more of the same until nobody listens."""
    bomb = gzip.compress(b"a" * 20_000_000)
    fixed: list[tuple[bytes, bytes | object]] = [
        (OK + b"Content-Length: %d\r\n\r\n" % len(GOOD), GOOD),
        (OK + b"Content-Length: 99999999999999999999\r\n\r\n", GOOD),
        (OK + b"Content-Length: -5\r\n\r\n", GOOD),
        (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", GOOD),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\nnot a chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"ffffffffffffffff\r\n" + GOOD),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n" * 3 + b"0\r\n\r\n"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb), bomb),
        (OK + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(3000)), b"\r\n" + GOOD),
        (OK + b"X: " + b"a" * 5_000_000 + b"\r\n", b"\r\n" + GOOD),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 307 Again\r\nLocation: http://127.0.0.1:1/\x1b[2J\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 999 \x1b[2J\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 -1 No\r\n\r\n", b""), (b"HTTP/9.9 200 OK\r\n\r\n", GOOD), (b"", b""), (b"\x16\x03\x01\x02\x00", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, OK + b"Content-Length: 2\r\n\r\n{}"),
        (b"HTTP/1.1 500 X\r\nRetry-After: 1e999\r\nContent-Length: 5\r\n\r\n", b"\xff\xfe\x00\x1b["),
        (OK + b"Content-Type: application/json\r\n\r\n", ENDLESS),
        (b"HTTP/1.1 400 Bad\r\n\r\n", ENDLESS),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10\r\n" + b"x" * 16 + b"\r\n"),
    ]  # fmt: skip
    for head, body in fixed:
        yield head if body is ENDLESS else head + body  # type: ignore[operator]
        if body is ENDLESS:
            yield ENDLESS
    whole = OK + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
    words = [b"\r\n", b": ", b"HTTP/1.1 ", b"chunked", b"gzip", *REPLY_WORDS]
    while True:
        if chance.random() < 0.5:
            yield mutated(chance, whole, words)
        else:
            body = hostile_json(chance, GOOD, REPLY_WORDS)
            yield OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Hostile(threading.Thread):
    """One connection after another, each answered with the next reply, whatever was asked."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._source = replies(chance)
        self._pushed: bytes | object | None = None

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                connection.recv(65536)
                reply = next(self._source) if self._pushed is None else self._pushed
                self._pushed = None
                assert isinstance(reply, bytes)
                following = None
                if reply.endswith(b"\r\n\r\n") and (b"json\r\n\r\n" in reply or b"400 Bad" in reply):
                    following = next(self._source)
                connection.sendall(reply)
                while following is ENDLESS:
                    connection.sendall(b"a" * 65536)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.timeout(300)
def test_a_hostile_server(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    """A real one, by the real client: an answer or a failure, within seconds, and in bounded memory."""
    wire = pytest.importorskip("llmc_build.llm.wire")
    server = Hostile(chance)
    server.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def ask() -> None:
        client = wire.make_client(connect_s=5)
        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        for number in range(amount(150, 10_000)):
            try:
                async with asyncio.timeout(20):
                    reply = await wire.post(
                        client, url, body=b"{}", headers={"Authorization": f"Bearer {SECRET}"}, secret=SECRET
                    )
                if 200 <= reply.status < 300:
                    check_answer(openai.read_reply(reply.body, chat=True, secret=SECRET))
                    tally["answers"] += 1
                    continue
                assert len(reply.body) <= openai.MAX_REFUSAL
                raise openai.refusal(
                    reply.status, reply.body, now=1e9, location=reply.location, secret=SECRET
                )
            except Failure as failure:
                check_failure(failure)
                tally["failures"] += 1
            except TimeoutError:
                raise AssertionError(f"reply {number} holds the client up") from None
        await client.aclose()

    asyncio.run(ask())
    server.close()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400 * 1024, f"{grown} KiB more"  # the largest reply allowed is 64 MiB
    assert tally["failures"] > 10
    assert tally["answers"] > 0


def test_base64_of_contents_is_strict(chance: random.Random) -> None:
    """What is not just as the encoder writes it is refused: two texts for one content would be two records."""
    key, data = written(chance)
    body = json.loads(data.partition(b"\n")[2])
    for name, text in body["contents"].items():
        if text:
            body["contents"][name] = base64.b64encode(base64.b64decode(text)).decode() + "\n"
            assert record.decode(key, sealed(json.dumps(body).encode())) is None
