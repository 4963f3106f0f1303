"""How much is injected, and what came of it.

Every test here asks `amount(short, full)` how many injections to make: `short` in CI, `full` with `--full`
(`make faults`), or what `--count N` says. Its random choices come from `chance`, which `--seed N` moves. What it
did is told to `tally`, and printed with the summary:

    pytest tests/faults/test_NAME.py --count 1000 --seed 7
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

_figures: pytest.StashKey[dict[str, Counter[str]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_figures] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full") or config.getoption("--count"):
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)  # the limits are meant for the short form


@pytest.fixture
def amount(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """How many injections to make, of those for CI and those for the full form."""

    def choose(short: int, full: int) -> int:
        asked: int | None = pytestconfig.getoption("--count")
        return asked if asked is not None else full if pytestconfig.getoption("--full") else short

    return choose


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random choices that are the same in each run with the same `--seed`."""
    return random.Random(f"{request.config.getoption('--seed')} {request.node.nodeid}")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """What was injected and what came of it, by words: `tally["kill points"] += 1`."""
    return request.config.stash[_figures].setdefault(request.node.nodeid, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = {name: counts for name, counts in config.stash[_figures].items() if counts}
    if figures:
        terminalreporter.section("faults injected")
    for name, counts in figures.items():
        terminalreporter.line(f"{name}: " + ", ".join(f"{count:,} {word}" for word, count in counts.items()))
