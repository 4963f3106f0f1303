"""Texts to vectors by a real worker: the same bits whatever is asked beside them."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from llmc_build.model import Digest
from llmc_build.store.cas import Cas
from tests.e2e.test_model_worker import ENDLESS, MODEL, Start, Worker, start
from tests.e2e.tinybert import write_bert

pytestmark = pytest.mark.model
__all__ = ["start"]


def ask(
    worker: Worker, task: int, texts: list[str], *, normalize: bool = False, single: bool = False, **more: Any
) -> None:
    embed = {"texts": texts, "normalize": normalize, "single": single}
    request = {"embed": embed, "logs": more.get("logs")}
    worker.channel.send({"op": "run", "id": task, "request": request, "timeout_s": more.get("timeout_s")})


def vectors(done: dict[str, Any], folder: Path) -> Any:
    assert (done["status"], done["error"]) == ("ok", None)
    content = done["reply"]["value"]
    if "data" in content:
        return json.loads(base64.b64decode(content["data"]))
    data = Cas(folder / "store").read(Digest(hash=content["hash"], size=content["size"]))
    assert data is not None
    return json.loads(data)


TEXTS = ["A fox runs through the forest.", "Ein Fuchs.", "word " * 300, "tax law"]


def test_each_text_has_its_vector_whatever_is_asked_beside_it(start: Start, tmp_path: Path) -> None:
    worker = start(threads=1)
    ask(worker, 1, TEXTS, logs=str(tmp_path / "logs"))
    done = worker.next("done")
    together = vectors(done, tmp_path)
    assert [len(vector) for vector in together] == [576] * 4
    assert len({json.dumps(vector) for vector in together}) == 4
    assert done["reply"]["stats"]["texts"] == 4
    assert done["reply"]["stats"]["prompt_tokens"] > 300
    assert (tmp_path / "logs/prompt").read_text() == "\n".join(TEXTS)
    alone = start(threads=2)
    alone.submit(50, ENDLESS, chat=False, max_tokens=60)  # completed at the same time
    for number in (3, 0, 2, 1):
        ask(alone, number, [TEXTS[number]], single=True)
    found = {}
    for _ in range(5):
        done = alone.next("done")
        found[done["id"]] = vectors(done, tmp_path) if done["id"] != 50 else done["status"]
    assert found.pop(50) == "ok"
    assert [found[i] for i in range(4)] == together


def test_like_texts_have_like_vectors(start: Start, tmp_path: Path) -> None:
    """The vectors are those of the texts, not just some numbers."""
    worker = start(threads=1)
    ask(
        worker,
        1,
        ["The cat sat on the mat.", "A cat is sitting on a mat.", "Quarterly tax filings are due."],
        normalize=True,
    )
    a, b, c = vectors(worker.next("done"), tmp_path)
    assert [round(math.sqrt(sum(x * x for x in v)), 4) for v in (a, b, c)] == [1, 1, 1]
    near, far = (sum(x * y for x, y in zip(a, v, strict=True)) for v in (b, c))
    assert near > far


def test_a_text_that_does_not_fit_fails_its_request_with_both_numbers(start: Start) -> None:
    worker = start(threads=1)
    ask(worker, 1, ["short", "word " * 2000])
    ask(worker, 2, [""])
    ask(worker, 3, ["fine"])
    first, second, third = (worker.next("done") for _ in range(3))
    assert first["status"] == "failed"
    assert first["error"].startswith("text 2 has 200")
    assert "tokens, and the model's context holds 1024" in first["error"]
    assert second["error"] == "text 1 has no tokens: there is nothing to embed"
    assert third["status"] == "ok"


def test_requests_for_vectors_are_cancelled_and_time_out(start: Start) -> None:
    worker = start(threads=1)
    ask(worker, 1, ["word " * 900] * 500, timeout_s=0.2)
    ask(worker, 2, ["fine"])
    worker.channel.send({"op": "cancel", "id": 2, "reason": "not needed"})
    ends = {done["id"]: done for done in (worker.next("done"), worker.next("done"))}
    assert ends[1]["error"] == "timed out after 0.2 s"
    assert (ends[2]["status"], ends[2]["error"]) == ("cancelled", "not needed")


def test_waiting_in_line_costs_a_request_for_vectors_nothing_of_its_time(start: Start) -> None:
    worker = start(threads=1)
    ask(worker, 1, ["word " * 150])
    one_s = worker.next("done")["wall_s"]
    for number in range(2, 14):
        ask(worker, number, ["word " * 150], timeout_s=5 * one_s)
    ends = [worker.next("done") for _ in range(12)]
    assert {end["status"] for end in ends} == {"ok"}
    assert max(end["wall_s"] for end in ends) < 5 * one_s


def test_the_time_of_a_single_text_is_told_and_looked_at(start: Start) -> None:
    """It can't be stopped in the middle, but for the pool, which has to know when it began."""
    worker = start(threads=1)
    ask(worker, 1, ["word " * 150], timeout_s=0.001)
    assert worker.next("progress")["id"] == 1
    done = worker.next("done")
    assert (done["status"], done["error"]) == ("timeout", "timed out after 0.001 s")


def test_a_model_that_can_not_be_loaded_says_so(start: Start, tmp_path: Path) -> None:
    worker = start(str(tmp_path / "nowhere.gguf"))
    ask(worker, 1, ["x"])
    assert "nowhere.gguf can't be read" in worker.next("done")["error"]
    assert MODEL


@pytest.mark.parametrize("pooling", [1, 2])
def test_a_model_that_only_makes_vectors_makes_them_and_completes_nothing(
    start: Start, tmp_path: Path, pooling: int
) -> None:
    """As BERT and its kin: they have no memory of sequences, and read a text at once."""
    path = str(write_bert(tmp_path / "bert.gguf", pooling=pooling))
    worker, other = start(path, context=64), start(path, context=64)
    texts = ["the fox runs", "the cat sleeps in the sun", "fox"]
    ask(worker, 1, texts, normalize=True)
    together = vectors(worker.next("done"), tmp_path)
    assert [len(vector) for vector in together] == [32, 32, 32]
    assert len({json.dumps(vector) for vector in together}) == 3
    for number in (2, 0, 1):
        ask(other, number, [texts[number]], normalize=True, single=True)
        assert vectors(other.next("done"), tmp_path) == together[number]
    worker.submit(2, "Tell me a story.")
    refused = worker.next("done")
    assert refused["status"] == "failed"
    assert "is not a model that completes text" in refused["error"]
    ask(worker, 3, ["fox " * 100])
    assert worker.next("done")["error"].startswith("text 1 has 102 tokens, and the model's context holds 64:")


def test_a_model_that_ranks_makes_no_vectors(start: Start, tmp_path: Path) -> None:
    worker = start(str(write_bert(tmp_path / "rank.gguf", pooling=4)), context=64)
    ask(worker, 1, ["fox"])
    assert worker.next("done")["error"] == "the model ranks texts and makes no vectors"
