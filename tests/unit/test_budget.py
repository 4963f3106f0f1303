"""The ledger of a build: whatever is asked for in whatever order, the limit holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.llm.budget import Amount, Ledger, OverBudget, at_most, prompt_bound

amounts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans(), st.integers(0, 3))


@given(st.integers(0, 200), st.lists(amounts, max_size=20))
def test_what_is_spent_never_exceeds_the_limit(limit: int, asked: list[tuple[int, int, bool, int]]) -> None:
    """Each may need so many tokens and needs no more; some never tell, and count in full."""

    async def build() -> tuple[int, int]:
        ledger = Ledger(tokens=limit)
        spent = most = 0

        async def request(most_tokens: int, tokens: int, tells: bool, turns: int) -> None:
            nonlocal spent, most
            amount = Amount(tokens=most_tokens)
            try:
                async with ledger.reserved(amount) as charge:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    used = min(tokens, most_tokens) if tells else most_tokens
                    spent += used
                    most = max(most, spent)
                    if tells:
                        charge.spent = Amount(tokens=used)
            except OverBudget:
                assert spent + most_tokens > limit, "it was refused though there was room"

        await asyncio.gather(*(request(*one) for one in asked))
        return spent, most

    spent, most = asyncio.run(build())
    assert spent == most <= limit


def test_a_request_waits_for_room_that_others_may_leave() -> None:
    async def build() -> list[str]:
        ledger, story = Ledger(tokens=100), list[str]()

        async def request(name: str, most: int, used: int) -> None:
            async with ledger.reserved(Amount(tokens=most)) as charge:
                story.append(f"{name} begins")
                await asyncio.sleep(0.01)
                charge.spent = Amount(tokens=used)
                story.append(f"{name} ends")

        await asyncio.gather(request("a", 80, 10), request("b", 80, 10))
        return story

    assert asyncio.run(build()) == ["a begins", "a ends", "b begins", "b ends"]


def test_a_request_that_is_cancelled_counts_in_full() -> None:
    async def build() -> None:
        ledger = Ledger(tokens=100)

        async def request() -> None:
            async with ledger.reserved(Amount(tokens=60)):
                await asyncio.sleep(10)

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(OverBudget, match="leaves 40 tokens, and this request may need 60"):
            async with ledger.reserved(Amount(tokens=60)):
                pass

    asyncio.run(build())


def test_a_successor_reads_what_was_spent_and_what_was_left_open(tmp_path: Path) -> None:
    file = tmp_path / "ledger"

    async def build() -> None:
        ledger = Ledger(tokens=1000, file=file)
        async with ledger.reserved(Amount(tokens=100)) as charge:
            charge.spent = Amount(tokens=7)
        async with ledger.reserved(Amount(tokens=50)):
            file.write_bytes(file.read_bytes() + b'{"n": 2, "tok')  # the worker dies while it writes
            successor = Ledger(tokens=100, file=file)
            with pytest.raises(OverBudget, match="leaves 43 tokens"):
                async with successor.reserved(Amount(tokens=44)):
                    pass

    asyncio.run(build())


@given(st.text(max_size=50))
def test_a_prompt_has_no_more_tokens_than_its_bound(text: str) -> None:
    assert len(text.encode()) <= prompt_bound([text])
    assert at_most([text], 5, (2e6, 1e6)).cost == pytest.approx(2 * prompt_bound([text]) + 5)
