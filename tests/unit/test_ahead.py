"""What is begun ahead changes nothing but the time: a wrong guess leaves nothing, a right one is used."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from llmc_build import ahead as module
from llmc_build import api, quick
from llmc_build.ahead import Ahead
from llmc_build.config import Config, load_config
from llmc_build.execute import process
from llmc_build.execute.pool import Pool
from llmc_build.execute.process import Spare
from llmc_build.execute.protocol import Done, Lane, Status, Task
from llmc_build.llm import cores
from llmc_build.store.state import FileDigests

RUNNER = """
import os
from llmc_build.execute.channel import ChannelClosed
told = None

def prepare(config):
    global told
    told = config["word"]
    if told == "die":
        os._exit(7)
    if told == "raise":
        raise ValueError(told)

def serve(channel, config):
    channel.send({"op": "ready", "capacity": 1})
    try:
        while True:
            number = channel.recv()["id"]
            done = {"op": "done", "id": number, "status": "ok", "error": None, "wall_s": 0.0}
            channel.send({**done, "reply": {"told": told}})
    except ChannelClosed:
        pass
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "prepared_runner.py").write_text(RUNNER)
    monkeypatch.syspath_prepend(tmp_path)
    return "prepared_runner"


def answers(folder: Path, runner: str, spare: Spare, *lanes: Lane) -> list[Done]:
    """What the lanes answer to one task each."""
    with Pool(1, cas=folder, runners={"model": runner}, spare=spare) as pool:
        for number, lane in enumerate(lanes):
            pool.submit(Task(id=number, lane=lane, request={}))
        found: list[Done] = []
        limit = time.monotonic() + 60
        while pool.busy and time.monotonic() < limit:
            found += [news for news in pool.wait(10) if isinstance(news, Done)]
    return sorted(found, key=lambda done: done.id)


def test_a_spare_worker_is_the_first_of_its_kind(tmp_path: Path, runner: str) -> None:
    spare = Spare("model", os.environ, runner, {"word": "hello"})
    assert spare.is_there
    first, second = answers(
        tmp_path, runner, spare, Lane(kind="model", name="a"), Lane(kind="model", name="b")
    )
    assert (first.status, first.reply["told"]) == (Status.OK, "hello")
    assert (second.status, second.reply["told"]) == (Status.OK, None)
    assert not spare.is_there


@pytest.mark.parametrize(("word", "told"), [("raise", "raise"), ("die", None)])
def test_a_spare_worker_that_fails_costs_nothing(
    tmp_path: Path, runner: str, word: str, told: str | None
) -> None:
    spare = Spare("model", os.environ, runner, {"word": word})
    limit = time.monotonic() + 30
    while word == "die" and spare.is_there and time.monotonic() < limit:
        time.sleep(0.01)
    (done,) = answers(tmp_path, runner, spare, Lane(kind="model", name="a"))
    assert (done.status, done.reply["told"]) == (Status.OK, told)
    spare.close()


def test_a_spare_worker_that_nobody_took_is_ended(runner: str) -> None:
    spare = Spare("model", os.environ, runner, {"word": "hello"})
    started = spare._started
    assert started is not None
    spare.close()
    spare.close()
    assert not spare.is_there
    assert started.process.returncode is not None


# ---------------------------------------------------------------- the guess


class Counted:
    """In the place of `Spare`."""

    made: list[dict[str, object]]
    is_there = False

    def __init__(self, kind: str, environ: object, runner: str, likely: dict[str, object]) -> None:
        self.made.append(likely)

    def taken(self, kind: str) -> None:
        return None

    def close(self) -> None: ...


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    Counted.made = []
    monkeypatch.setattr(process, "Spare", Counted)
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    return Counted.made


def config(root: Path, text: str) -> Config:
    (root / "llmc.yaml").write_text(text)
    return load_config(root, {}, {})


def test_a_first_build_guesses_by_the_models_of_the_configuration(
    tmp_path: Path, made: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF" + bytes(5000))
    files = [tmp_path / "w.yaml"]
    one = "models: {m: {path: m.gguf, gpu_layers: 3}}\n"
    Ahead(config(tmp_path, "jobs: 1\n"), files, idle=False)
    Ahead(config(tmp_path, "models: {m: {base_url: 'http://127.0.0.1:1/v1'}}\n"), files, idle=False)
    Ahead(config(tmp_path, one), files, idle=True)
    assert made == []
    Ahead(config(tmp_path, one), files, idle=False)
    Ahead(config(tmp_path, "models: {m: {path: m.gguf}, n: {path: n.gguf}}\n"), files, idle=False)
    Ahead(config(tmp_path, "models: {m: {path: gone.gguf}}\n"), files, idle=False)
    Ahead(config(tmp_path, "models: {m: {path: 'hf:a/b/c.gguf'}}\n"), files, idle=False)
    monkeypatch.setattr(module, "_LIGHT", 5000)
    large = Ahead(config(tmp_path, one), files, idle=False)
    assert large.digests._coming == {}, "a build that asks no model would wait for it"
    nothing = {"path": None, "gpu_layers": None}
    assert made == [{"path": str(model), "gpu_layers": 3}, nothing, nothing, nothing, nothing]
    monkeypatch.setattr(cores, "usable_cores", lambda: 1)
    Ahead(config(tmp_path, one), files, idle=False)
    assert len(made) == 5


def test_a_later_build_guesses_by_the_last_one(
    tmp_path: Path, made: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workspace with models whose workflows ask none starts a worker for them once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "llmc.yaml").write_text("models: {m: {path: m.gguf}}\n")
    for word in ("one", "two"):
        (tmp_path / "w.yaml").write_text(f"name: w\nsteps: [{{name: s, command: echo {word}}}]\n")
        assert quick.build(["build", "w.yaml"], os.environ) is None
        assert api.build([tmp_path / "w.yaml"]).ok
        assert len(made) == 1


# ---------------------------------------------------------------- digests


def test_a_digest_that_was_begun_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    digests = FileDigests(tmp_path / "digests")
    read, began, go = FileDigests._read, threading.Event(), threading.Event()

    def slowly(self: FileDigests, name: str) -> object:
        began.set()
        assert go.wait(30)
        return read(self, name)

    monkeypatch.setattr(FileDigests, "_read", slowly)
    digests.begin(file)
    assert began.wait(30)
    digests.begin(file)
    assert len(digests._coming) == 1
    monkeypatch.setattr(FileDigests, "_read", read)
    threading.Timer(0.05, go.set).start()
    assert digests.digest(file) == FileDigests(tmp_path / "other").digest(file)
    assert go.is_set()


def test_a_digest_that_was_begun_is_no_older_than_the_question(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    digests = FileDigests(tmp_path / "digests")
    digests.begin(file)
    digests.begin(tmp_path)
    digests.begin(tmp_path / "nothing")
    for coming in digests._coming.values():
        coming.join()
    file.write_bytes(b"after!")
    assert digests.digest(file) == FileDigests(tmp_path / "other").digest(file)
    assert digests.digest(tmp_path / "nothing") is None


def test_where_there_can_be_no_thread_a_digest_is_taken_when_it_is_asked_for(
    tmp_path: Path, no_threads: None
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    digests = FileDigests(tmp_path / "digests")
    digests.begin(file)
    found = digests.digest(file)
    assert found is not None
    assert found.size == 7
    digests.save()
