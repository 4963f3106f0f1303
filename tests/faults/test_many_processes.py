"""Eight `llmc` at once on one store, some of them killed: identical work is done once, and nothing is wrong."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.house import STEPS, House

MANY = 8


def start(house: House) -> subprocess.Popen[bytes]:
    house.events.unlink(missing_ok=True)
    return subprocess.Popen(
        house.command("--events", str(house.events), jobs=1),
        cwd=house.work,
        env=house.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


class Street:
    """Houses that share a store and the folder in which executions are counted: their actions are identical."""

    def __init__(self, root: Path, *, one_workspace: bool) -> None:
        self.houses: list[House] = []
        for number in range(MANY):
            place = root / f"{number}"
            place.mkdir()
            house = House(place, cache=root / "store", work=root / "work" if one_workspace else None)
            house.side = root / "side"
            house.side.mkdir(exist_ok=True)
            text = (house.work / "flow.yaml").read_text().replace(str(place / "side"), str(house.side))
            for other in range(number):
                text = text.replace(str(root / f"{other}" / "side"), str(house.side))
            (house.work / "flow.yaml").write_text(text)
            self.houses.append(house)

    def edit(self, source: str, more: str) -> None:
        for house in self.houses:
            house.edit(source, more)


@pytest.mark.timeout(250)
@pytest.mark.parametrize("one_workspace", [False, True], ids=["own workspaces", "one workspace"])
def test_eight_at_once_with_random_kills(
    tmp_path: Path,
    amount: Callable[[int, int], int],
    chance: random.Random,
    tally: Counter[str],
    one_workspace: bool,
) -> None:
    street = Street(tmp_path, one_workspace=one_workspace)
    for number in range(amount(3, 100)):
        if chance.random() < 0.2:
            shutil.rmtree(tmp_path / "store", ignore_errors=True)  # all begin it together
        street.edit(f"s{number}", f"m{number}")
        before = street.houses[0].executions()
        running = [start(house) for house in street.houses]
        killed = set(chance.sample(range(MANY), chance.choice([0, 0, 1, 2, 4])))
        for victim in sorted(killed):
            time.sleep(chance.uniform(0, 0.6))
            with contextlib.suppress(ProcessLookupError):
                os.kill(running[victim].pid, signal.SIGKILL)
        ended = []
        for house, process in zip(street.houses, running, strict=True):
            errors = process.communicate(timeout=120)[1].decode("utf-8", "replace")
            ended.append(house.ended(process.returncode, errors))
        what = f"round {number}, killed {killed}"
        for index, one in enumerate(ended):
            assert one.code in ({0, -9} if index in killed else {0}), (what, index, one)
            if one.code == 0:
                assert street.houses[index].seen() == street.houses[index].expected(), (what, index)
        time.sleep(0.2 if killed else 0)  # a worker of a killed one ends by itself
        after = street.houses[0].executions()
        again = after - before
        most = 1 + len(killed)  # what a killed one ran, and could not store, another runs
        assert all(count <= most for count in again.values()), (what, again)
        if not killed:
            assert again == Counter(dict.fromkeys(again, 1)), (what, again)
            assert {"plain", "large", "file", "reads", "counts"} <= again.keys() <= set(STEPS), (what, again)
        house = chance.choice(street.houses)
        shutil.rmtree(house.work / ".llmc", ignore_errors=True)
        assert house.build().code == 0
        assert house.seen() == house.expected()
        assert street.houses[0].executions() == after, (what, "what was stored ran again")
        tally["rounds of eight"] += 1
        tally["killed"] += sum(one.code == -9 for one in ended)
        tally["steps run, each once but for kills"] += again.total()
