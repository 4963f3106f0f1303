"""How prompts are cut, how batches are taken apart, and what is kept of beginnings: without a model."""

from __future__ import annotations

import itertools
import json
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llama_cpp", reason="needs the extra `local`")

from llmc_build.llm.beginnings import Beginnings
from llmc_build.llm.exactness import Exactness, read_exactness, write_exactness
from llmc_build.llm.kvstore import KvStore
from llmc_build.llm.room import State
from llmc_build.llm.shape import (
    ALONE,
    CHUNK,
    GRID,
    TAIL,
    Decoding,
    Reading,
    common_length,
    next_border,
    planned,
    usable,
    widths,
)
from llmc_build.llm.waiting import MOST_PASSES, Waiting


def pieces(length: int, reading: Reading, at: int = 0) -> list[int]:
    borders = []
    while at < length:
        at = next_border(at, length, reading)
        borders.append(at)
    return borders


def tokens(*numbers: int) -> array[int]:
    return array("i", numbers)


@given(st.integers(1, 2000))
def test_canonical_pieces_hang_on_the_prompt_alone_and_end_with_a_large_one(length: int) -> None:
    borders = pieces(length, Reading())
    assert borders[-1] == length
    assert all(border % GRID == 0 for border in borders[:-1])
    if len(borders) > 1:
        assert TAIL <= length - borders[-2] < GRID + TAIL


@given(st.integers(1, 2000), st.integers(0, 2000), st.sampled_from([1, 8, GRID]))
def test_what_is_taken_from_elsewhere_leaves_pieces_of_allowed_sizes(
    length: int, common: int, align: int
) -> None:
    reading = Reading(merged=True, align=align)
    start = usable(min(common, length), length, reading, 2000)
    assert start % align == 0
    assert start <= max(0, length - TAIL)
    borders = [start, *pieces(length, reading, start)]
    sizes = [b - a for a, b in itertools.pairwise(borders)]
    assert all(0 < size <= CHUNK for size in sizes)
    assert length < TAIL or sizes[-1] >= TAIL


def test_nothing_is_taken_from_elsewhere_until_it_is_known_to_be_right() -> None:
    assert usable(500, 600, Reading(), 600) == 0
    assert usable(500, 600, Reading(align=GRID), 600) == 480


@given(st.integers(1, 300), st.integers(1, 300))
def test_where_pieces_matter_a_beginning_is_taken_only_if_it_was_computed_in_the_same_ones(
    length: int, source: int
) -> None:
    reading = Reading(align=GRID)
    start = usable(min(length, source), length, reading, source)
    before = [border for border in pieces(length, reading) if border <= start]
    assert before == [border for border in pieces(source, reading) if border <= start]
    assert start == max([*before, 0])


@given(st.integers(1, 40), st.sets(st.integers(2, 16)), st.integers(0, 20))
def test_a_batch_is_taken_apart_into_widths_that_keep_the_bits(
    active: int, known: set[int], more: int
) -> None:
    decoding, limit = Decoding(costs={w: w**0.5 for w in {1, *known}}), active + more
    found = widths(active, decoding, limit)
    assert active <= sum(found) < active + max(found)
    assert sum(found) <= limit
    assert set(found) <= decoding.costs.keys()
    cost = sum(decoding.costs[width] for width in found)
    covering = (cost for width, cost in decoding.costs.items() if active <= width <= limit)
    assert cost <= min(active, *covering, 99)


def test_a_width_that_costs_more_than_its_parts_is_not_used() -> None:
    assert widths(4, Decoding(costs={1: 1.0, 2: 2.5, 4: 3.9}), 16) == [4]
    assert widths(4, Decoding(costs={1: 1.0, 2: 2.5, 4: 4.1}), 16) == [1, 1, 1, 1]


def test_a_step_may_be_wider_than_what_is_left() -> None:
    assert widths(15, Decoding(costs={1: 1.0, 16: 8.0}), 16) == [16]
    assert widths(7, Decoding(costs={1: 1.0, 16: 8.0}), 16) == [1] * 7
    assert widths(11, Decoding(costs={1: 1.0, 4: 2.0}), 16) == [4, 4, 4]


def test_no_step_is_wider_than_there_are_places() -> None:
    assert widths(15, Decoding(costs={1: 1.0, 16: 8.0}), 15) == [1] * 15
    assert widths(11, Decoding(costs={1: 1.0, 4: 2.0}), 11) == [4, 4, 1, 1, 1]
    assert widths(16, Decoding(costs={1: 0.0026, 6: 0.0099}), 16) == [6, 6, 1, 1, 1, 1]
    assert planned(4, 0, Decoding(costs={1: 0.0058, 16: 0.0145}), 4) == [(1, False)] * 4
    assert planned(1, 50, Decoding(costs={1: 0.0004, 2: 0.00039}), 1) == [(1, False)]


@given(
    st.dictionaries(st.integers(1, 20), st.floats(0, 2), max_size=5),
    st.sets(st.integers(2, 20)),
    st.integers(1, 20),
    st.integers(0, 8),
    st.integers(0, 200),
)
def test_a_plan_fits_into_the_room_whatever_was_learnt(
    costs: dict[int, float], refuted: set[int], active: int, more: int, steps: int
) -> None:
    decoding = Decoding(costs={1: 1.0, **costs}, refuted=frozenset(refuted - costs.keys()))
    limit = active + more
    plan = planned(active, steps, decoding, limit)
    assert active <= sum(width for width, _ in plan) <= limit
    assert sum(is_trial for _, is_trial in plan) <= 1
    exact = [0.0]
    for number in range(1, limit + 1):
        exact.append(min(exact[number - w] + cost for w, cost in decoding.costs.items() if w <= number))
    parts = widths(active, decoding, limit)
    assert active <= sum(parts) <= limit
    assert sum(decoding.costs[width] for width in parts) == pytest.approx(min(exact[active:]))


def learnt(
    active: int, exact: Callable[[int], bool], cost: Callable[[int], float], limit: int = 16, steps: int = 100
) -> tuple[Decoding, list[int]]:
    """What is known of a model after many steps of so many sequences, and the widths that were tried."""
    known, tried = ALONE, []
    for _ in range(40):
        plan = planned(active, steps, known, limit)
        assert active <= sum(width for width, _ in plan) < active + max(width for width, _ in plan)
        assert sum(width for width, _ in plan) <= limit
        trials = [width for width, is_trial in plan if is_trial]
        assert len(trials) <= 1
        assert all(width in known.costs for width, is_trial in plan if not is_trial)
        for width in trials:
            tried.append(width)
            costs = {**known.costs, 1: cost(1), **({width: cost(width)} if exact(width) else {})}
            refuted = known.refuted if exact(width) else known.refuted | {width}
            known = Decoding(costs=costs, refuted=refuted)
    return known, tried


def linear(width: int) -> float:
    return 1 + 0.4 * width


def test_widths_are_tried_as_they_are_wanted() -> None:
    assert learnt(16, lambda width: True, linear)[1] == [16]
    known, tried = learnt(15, lambda width: True, linear)
    assert (tried, widths(15, known, 16)) == ([16], [16])
    assert learnt(5, lambda width: True, linear, limit=5)[1] == [5]
    known, tried = learnt(16, lambda width: width <= 6, linear)
    assert (tried, widths(16, known, 16)) == ([16, 12, 8, 6, 4], [6, 6, 4])
    known, tried = learnt(16, lambda width: False, linear)
    assert (tried, widths(16, known, 16)) == ([16, 12, 8, 6, 4, 3, 2], [1] * 16)
    assert planned(15, 100, known, 16) == [(1, False)] * 15
    assert learnt(1, lambda width: True, linear)[1] == []


def test_a_width_is_tried_where_it_is_worth_it() -> None:
    assert planned(4, 100, ALONE, 4) == [(4, True)]
    assert planned(4, 1, ALONE, 4) == [(1, False)] * 4
    wide = Decoding(costs={1: 1.0, 16: 8.0})
    assert planned(12, 100, wide, 16) == [(12, True)]
    assert planned(12, 3, wide, 16) == [(16, False)]
    assert planned(12, 100, Decoding(costs={1: 1.0, 16: 8.0, 12: 7.0}), 16) == [(12, False)]
    assert planned(13, 100, Decoding(costs={1: 1.0, 16: 8.0, 12: 6.5}), 16) == [(12, False), (1, False)]


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64), st.floats(0.1, 1.5), st.integers(0, 200))
def test_no_width_is_tried_twice_nor_used_untried(
    active: int, most: int, limit: int, each: float, steps: int
) -> None:
    limit = max(limit, active)
    known, tried = learnt(active, lambda width: width <= most, lambda width: 1 + each * width, limit, steps)
    assert len(tried) == len(set(tried)) <= 20
    assert not any(is_trial for _, is_trial in planned(active, steps, known, limit))
    assert planned(active, 0, ALONE, limit) == [(1, False)] * active


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_length_is_that_of_the_common_beginning(one: list[int], other: list[int]) -> None:
    wanted = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    assert common_length(array("i", one), array("i", other)) == wanted


# ---------------------------------------------------------------- waiting


def test_prompts_with_a_common_beginning_meet() -> None:
    waiting: Waiting[str] = Waiting()
    a, b = [1] * 100, [2] * 100
    for name, prompt in (("a1", a), ("b1", b), ("a2", a), ("b2", b)):
        waiting.add(name, tokens(*prompt, ord(name[1])))
    assert [waiting.take() for _ in range(4)] == ["a1", "a2", "b1", "b2"]


def test_no_prompt_is_passed_over_for_ever() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.add("a", tokens(*[1] * 100))
    assert waiting.take() == "a"
    waiting.add("other", tokens(2))
    for _ in range(MOST_PASSES):
        waiting.add("a", tokens(*[1] * 100))
        assert waiting.take() == "a"
    waiting.add("a", tokens(*[1] * 100))
    assert waiting.take() == "other"


def test_short_prompts_go_in_the_order_in_which_they_came() -> None:
    waiting: Waiting[int] = Waiting()
    for number in (1, 2, 1, 2):
        waiting.add(number, tokens(number))
    assert waiting.remove(lambda item: item == 2) == 2
    assert [waiting.take() for _ in range(3)] == [1, 1, 2]


# ---------------------------------------------------------------- beginnings


def state(size: int, fill: int = 7) -> State:
    made = State.blank(size)
    made.content[:] = bytes([fill]) * size
    return made


def test_the_state_that_has_most_in_common_is_found() -> None:
    beginnings = Beginnings(1 << 20)
    beginnings.add(tokens(1, 2, 3, 4), state(10))
    best = beginnings.add(tokens(1, 2, 9, 9, 9), state(10))
    assert beginnings.best(tokens(1, 2, 9, 9, 1)) == (best, 4)
    assert beginnings.best(tokens(5, 5)) == (None, 0)


def test_states_that_were_not_used_for_longest_leave_first() -> None:
    beginnings = Beginnings(2 * (1000 + 512))
    first, second = (beginnings.add(tokens(n, n), state(1000)) for n in (1, 2))
    assert beginnings.state(first) is not None
    beginnings.add(tokens(3, 3), state(1000))
    assert beginnings.best(tokens(2, 2)) == (None, 0)
    assert beginnings.best(tokens(1, 1)) == (first, 2)
    assert second.state is not None  # whoever still has it can use it


# ---------------------------------------------------------------- the store


def kept(folder: Path, **fields: int) -> KvStore:
    return KvStore(folder, "m" * 64, limit=fields.get("limit", 1 << 30))


def test_states_come_back_byte_for_byte(tmp_path: Path) -> None:
    store = kept(tmp_path)
    store.put(tokens(1, 2, 3), state(5000, 3))
    store.close()
    (entry,) = kept(tmp_path).entries()
    assert entry.tokens == tokens(1, 2, 3)
    found = store.fetch(entry)
    assert found is not None
    assert bytes(found.content) == bytes([3]) * 5000


def test_a_state_is_kept_as_it_was_put_whatever_its_head_is_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is put into a slot has that slot in its head until llama.cpp has read it."""
    store, made, write = kept(tmp_path), state(5000, 3), KvStore._write

    def while_it_is_loaded(*args: Any) -> None:
        made.data[4:12] = bytes([1, 0, 0, 0, 8, 0, 0, 0])
        write(*args)
        made.data[4:12] = bytes([3]) * 8

    monkeypatch.setattr(KvStore, "_write", while_it_is_loaded)
    store.put(tokens(1, 2, 3), made)
    store.close()
    (entry,) = kept(tmp_path).entries()
    found = store.fetch(entry)
    assert found is not None
    assert bytes(found.content) == bytes([3]) * 5000


def test_a_state_that_is_smaller_than_a_head_is_kept(tmp_path: Path) -> None:
    store = kept(tmp_path)
    store.put(tokens(1), state(5))
    store.close()
    assert [store.fetch(entry) is not None for entry in store.entries()] == [True]


@pytest.mark.parametrize("what", ["flip", "cut", "more", "renamed", "empty"])
def test_a_file_that_is_not_what_it_says_is_removed(tmp_path: Path, what: str) -> None:
    store = kept(tmp_path)
    store.put(tokens(1, 2, 3), state(3000))
    store.close()
    (path,) = tmp_path.rglob("*.kv")
    data = path.read_bytes()
    for place in range(0, len(data), 97) if what == "flip" else [0]:
        changed = {
            "flip": data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :],
            "cut": data[:-1],
            "more": data + b"x",
            "renamed": data,
            "empty": b"",
        }[what]
        path.unlink(missing_ok=True)
        target = path.with_name("0" * 64 + ".kv") if what == "renamed" else path
        target.write_bytes(changed)
        assert [store.fetch(entry) for entry in store.entries()] in ([], [None])
        assert not target.exists()


def test_the_states_of_all_models_stay_within_the_bound(tmp_path: Path) -> None:
    for number in range(6):
        store = KvStore(tmp_path, f"{number % 2}" * 64, limit=10_000)
        store.put(tokens(number), state(3000))
        store.close()
        for path in tmp_path.rglob("*.kv"):
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
    found = list(tmp_path.rglob("*.kv"))
    assert sum(path.stat().st_size for path in found) <= 10_000
    assert len(found) == 3
    left = [entry.tokens[0] for n in "01" for entry in KvStore(tmp_path, n * 64, limit=1).entries()]
    assert sorted(left) == [3, 4, 5]


def test_a_store_that_can_not_be_written_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = kept(tmp_path / "file")
    store.put(tokens(1), state(10))
    store.close()
    assert list(store.entries()) == []


def test_what_is_known_of_the_bits_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    known = Exactness(
        reading=Reading(merged=True, align=8),
        decoding=Decoding(costs={1: 0.5, 4: 1.25}, refuted=frozenset({6, 16})),
    )
    write_exactness(tmp_path, known)
    assert read_exactness(tmp_path) == known
    data = (tmp_path / "exactness").read_bytes()
    for place in range(0, len(data), 7):
        (tmp_path / "exactness").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_exactness(tmp_path) == Exactness()
    assert json.loads(data.partition(b"\n")[2])["reading"]["align"] == 8


def test_a_cost_too_small_to_be_told_spoils_nothing(tmp_path: Path) -> None:
    reading = Reading(merged=True, align=8)
    decoding = Decoding(costs={1: 2e-7, 4: 1.25}, refuted=frozenset({6}))
    write_exactness(tmp_path, Exactness(reading=reading, decoding=decoding))
    found = read_exactness(tmp_path)
    assert found.reading == reading
    assert found.decoding == Decoding(costs={1: 1e-6, 4: 1.25}, refuted=frozenset({6}))
