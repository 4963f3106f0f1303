"""A state machine over edit, build, kill, corrupt, evict and forget, against a model that knows no engine.

The model (`tests/property`) says what a clean build gives, and here also which actions the store must have, may
have, and can't have. After every build: every value and state is that of a clean build; what the store must have
did not run; what it can't have did; nothing ran twice. The engine is the real one over a real store on the
disk; only what a script computes is pretended.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from llmc_build.store import opening, upkeep
from llmc_build.store.cas import Cas
from llmc_build.store.index import DiskIndex
from tests.property.engine import Expected, Killed, M, Rig, oracle
from tests.property.test_incremental import STATES, edited, random_model

SEEDS = st.integers(min_value=0, max_value=2**32)
figures: Counter[str] = Counter()


class DiskRig(Rig):
    """The rig of the property tests over a store on the disk, opened anew for every build."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.root = scratch / "store"
        opening.prepare(self.root)
        self.notes: list[str] = []

    def opened(self) -> None:
        self.cas = Cas(self.root)
        self.index = DiskIndex(self.root, note=self.notes.append)  # type: ignore[assignment]

    def closed(self) -> None:
        self.index.close()


class Machine(RuleBasedStateMachine):
    salt = 0  # moved by `--seed`

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="llmc-machine-"))
        self.rig = DiskRig(self.folder)
        self.serial = 100
        self.must: set[object] = set()  # identities of actions that the store has
        self.may: set[object] = set()  # of those that it may have
        self.key_of: dict[object, str] = {}
        self.model = M(steps=(), home=(), names=())

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ what happens

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        chance = random.Random(seed + self.salt)
        model = random_model(chance)
        large = [replace(s, kind="big") if chance.random() < 0.4 else s for s in model.steps]
        self.model = replace(model, steps=tuple(large))

    @rule(seed=SEEDS, times=st.integers(min_value=1, max_value=3))
    def edit(self, seed: int, times: int) -> None:
        for _ in range(times):
            self.serial += 1
            self.model = edited(self.model, random.Random(seed + self.serial + self.salt), self.serial)

    @rule(seed=SEEDS)
    def build(self, seed: int) -> None:
        figures["builds"] += 1
        self.rig.opened()
        try:
            self.rig.build(self.model, seed)
            expected = oracle(self.model)
            self.check(expected)
            self.learn(expected)
        finally:
            self.rig.closed()

    @rule(seed=SEEDS)
    def edit_and_build(self, seed: int) -> None:
        self.edit(seed, 1)
        self.build(seed)

    @rule(seed=SEEDS)
    def edit_a_file_and_build(self, seed: int) -> None:
        files = {**self.model.files, random.Random(seed).choice(["a.txt", "b.txt"]): str(seed % 3)}
        self.model = replace(self.model, files=files)
        self.build(seed)

    @rule(seed=SEEDS)
    def clean_and_build(self, seed: int) -> None:
        self.forget()
        self.build(seed)

    @rule(seed=SEEDS, after=st.integers(min_value=0, max_value=4))
    def killed_build(self, seed: int, after: int) -> None:
        figures["kills"] += 1
        self.rig.opened()
        try:
            self.rig.build(self.model, seed, die_after=after)
        except Killed:
            pass
        finally:
            self.learn(oracle(self.model))
            self.rig.closed()

    @rule(seed=SEEDS, way=st.sampled_from(["cut", "flip", "gone", "swap"]))
    def corrupt_a_blob(self, seed: int, way: str) -> None:
        blobs = sorted(self.rig.root.glob("cas/*/*"))
        if not blobs:
            return
        figures["blobs corrupted"] += 1
        blob = random.Random(seed).choice(blobs)
        data = bytearray(blob.read_bytes())
        blob.chmod(0o600)
        if way == "gone":
            blob.unlink()
        elif way == "swap":
            blob.write_bytes(blobs[0].read_bytes() + b"another")
        elif way == "cut":
            blob.write_bytes(data[:-1])
        else:
            data[seed % len(data)] ^= 1 << (seed % 8)
            blob.write_bytes(data)
        self.doubt()

    @rule(seed=SEEDS, way=st.sampled_from(["flip", "cut", "gone", "zero", "plant", "record"]))
    def corrupt_the_index(self, seed: int, way: str) -> None:
        path = self.rig.root / "index" / "cache.db"
        data = bytearray(path.read_bytes() if path.exists() else b"")
        if not data:
            return
        figures["indexes corrupted"] += 1
        if way == "gone":
            path.unlink()
        elif way == "cut":
            path.write_bytes(data[: seed % len(data)])
        elif way == "zero":
            path.write_bytes(bytes(len(data)))
        elif way == "flip":
            data[seed % len(data)] ^= 1 << (seed % 8)
            path.write_bytes(data)
        else:
            change = "mode = 4" if way == "plant" else "value = substr(value, 1, length(value) - 1) || 'x'"
            try:
                with sqlite3.connect(path) as db:
                    db.execute(f"UPDATE Cache SET {change} WHERE rowid % 2 = {seed % 2}")
            except (sqlite3.Error, UnicodeDecodeError):  # it was damaged before
                path.write_bytes(b"")
            else:
                db.close()
        self.doubt()

    @rule(share=st.sampled_from([0.0, 0.3, 0.7, None]))
    def evict(self, share: float | None) -> None:
        figures["evictions"] += 1
        most = None
        if share is not None:
            most = int(
                share * sum(path.stat().st_size for path in self.rig.root.rglob("*") if path.is_file())
            )
        upkeep.collect(self.rig.root, max_bytes=most)
        index = DiskIndex(self.rig.root)
        left = set(index.keys())
        index.close()
        self.must = {identity for identity in self.must if self.key_of[identity] in left}
        self.may = {identity for identity in self.may if self.key_of.get(identity) in left}

    def forget(self) -> None:
        """`llmc clean`: nothing is in place any more."""
        figures["clean"] += 1
        self.rig.outputs.values.clear()

    @rule()
    def verify(self) -> None:
        """Afterwards the store says of itself that it is whole."""
        figures["repairs"] += 1
        upkeep.verify(self.rig.root, repair=True)
        assert upkeep.verify(self.rig.root).bad == []

    # ------------------------------------------------------------ what must hold

    def doubt(self) -> None:
        """Something was damaged: the store may have what it had."""
        self.may |= self.must
        self.must = set()

    def check(self, expected: Expected) -> None:
        rig = self.rig
        assert {t: STATES[r.status] for t, r in rig.reports.items()} == expected.states
        good = {t for t, state in expected.states.items() if state == "good"}
        assert rig.outputs.values == {t: expected.values[t] for t in good}
        needed = {expected.identity[t] for t in good}
        ran = Counter(rig.executed)
        assert all(ran[identity] <= 1 for identity in needed), "an equal action ran twice"
        assert set(ran) <= set(expected.identity.values()), "something ran needlessly"
        assert not set(ran) & needed & self.must, "the store had it, and it ran"
        assert needed - self.must - self.may <= set(ran), "nobody can have made it, and it did not run"

    def learn(self, expected: Expected) -> None:
        """What the store has now; after a kill, as far as it was committed."""
        index = DiskIndex(self.rig.root)
        there = set(index.keys())
        index.close()
        for target, key in self.rig.keys.items():
            identity = expected.identity.get(target)
            if identity is not None and key in there:
                self.key_of[identity] = key
                if target in self.rig.reports:
                    self.must.add(identity)
                else:
                    self.may.add(identity)


def go(machine: type[Machine], runs: int) -> None:
    chosen = settings(
        max_examples=runs,
        stateful_step_count=12,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.timeout(200)
def test_a_build_is_a_clean_build_whatever_happened_before(
    amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    figures.clear()
    Machine.salt = chance.randrange(1 << 30)
    runs = amount(25, 2000)
    go(Machine, runs)
    tally["runs"] += runs
    tally.update(figures)


@pytest.mark.parametrize("fault", ["a blob is believed", "an input is forgotten", "the store forgets"])
def test_the_machine_notices(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each promise broken on purpose is seen."""
    from llmc_build import keys
    from llmc_build.store.facade import Store

    if fault == "a blob is believed":
        monkeypatch.setattr(Cas, "_judge", lambda self, fd, digest, found: True)
    elif fault == "an input is forgotten":
        original = keys.action_key

        def forgetful(*args: object, files: object, **more: object) -> object:
            return original(*args, files={}, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(keys, "action_key", forgetful)
    else:
        monkeypatch.setattr(Store, "lookup_many", lambda self, keys, verify=True: {})
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        go(Machine, 300)
