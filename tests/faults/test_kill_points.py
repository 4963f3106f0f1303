"""Builds that are killed at any system call: nothing wrong is left, what was acknowledged runs never again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.house import HONEST, House
from tests.faults.points import Points, injected, needs_strace, was_hit

KILLED = {137, -9}


@pytest.mark.timeout(200)
def test_a_build_killed_at_any_system_call_is_healed_by_the_next(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """llmc itself, its committing thread and its workers, on a new store and on an old one."""
    needs_strace(tmp_path)
    house = House(tmp_path)
    points = Points(house)
    for number in range(amount(12, 1000)):
        if chance.random() < 0.4:
            house.forget()
        house.edit(f"s{number}" if chance.random() < 0.7 else house.source, f"m{number}")
        point = points.choose(chance)
        wrap, command = injected(house, point, "signal=SIGKILL")
        ended = house.build(wrap=wrap, command=command)
        before = house.executions()
        assert ended.code in KILLED | HONEST, (str(point), ended)
        assert "internal error" not in ended.stderr, (str(point), ended.stderr)
        if ended.code == 0:
            assert not house.wrong(), str(point)
        try:
            house.heals(ended, before)
        except AssertionError as error:
            raise AssertionError(f"killed at {point} (round {number})") from error
        tally["kill points"] += 1
        tally[f"in {point.role}"] += 1
        tally["not reached"] += not was_hit(house)
        tally["results acknowledged before"] += len(ended.acknowledged)
    assert house.litter() == []
