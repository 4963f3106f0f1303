"""The property above all: after any sequence of edits, kills and corruptions, an incremental build equals a clean one.

A random model is built again and again with the real engine (`engine.Rig`) while it is edited, its store is
damaged and its builds are killed; after each build every value and state is compared with the oracle's, and the
executions are counted: what was kept runs never again, and equal actions run once.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmc_build.model import State
from tests.property.engine import Killed, M, Rig, S, oracle

SEQUENCES = int(os.environ.get("LLMC_SEQUENCES", "500"))
EDITS = 20
KINDS = ["normal"] * 6 + ["constant"] * 3 + ["big", "fails"]
STATES = {
    State.RAN: "good",
    State.CACHED: "good",
    State.FAILED: "failed",
    State.POISONED: "poisoned",
    State.SKIPPED: "skipped",
}


def random_step(chance: random.Random, i: int, serial: int) -> S:
    def some(most: int) -> tuple[int, ...]:
        return tuple(chance.sample(range(i), min(i, chance.randint(0, most))))

    return S(
        name=f"s{serial}",
        salt=chance.randrange(6),
        kind=chance.choice(KINDS),
        reads=some(3),
        needs=some(1),
        file=chance.choice([None, None, "a.txt", "b.txt"]),
        env=chance.choice([None, None, None, "MODE"]),
        condition=chance.randrange(i) if i and chance.random() < 0.15 else None,
    )


def random_model(chance: random.Random) -> M:
    size, homes = chance.randint(1, 9), chance.randint(1, 3)
    return M(
        steps=tuple(random_step(chance, i, i) for i in range(size)),
        home=tuple(chance.randrange(homes) for _ in range(size)),
        names=tuple(f"w{i}" for i in range(homes)),
        files={"a.txt": "0", "b.txt": "0"},
        environ={"MODE": "0"},
    )


def edited(model: M, chance: random.Random, serial: int) -> M:
    """The model after one edit of some kind."""
    i = chance.randrange(len(model.steps))
    step = model.steps[i]
    kind = chance.choice(
        ["salt", "kind", "rewire", "rename", "workflow", "file", "env", "add", "move", "none"]
    )
    if kind == "file":
        return replace(
            model, files={**model.files, chance.choice(["a.txt", "b.txt"]): str(chance.randrange(3))}
        )
    if kind == "env":
        return replace(model, environ={"MODE": str(chance.randrange(3))})
    if kind == "workflow":
        names = list(model.names)
        names[chance.randrange(len(names))] = f"w{serial}x"
        return replace(model, names=tuple(names))
    if kind == "move":
        return replace(model, home=tuple(chance.randrange(len(model.names)) for _ in model.home))
    if kind == "add" and len(model.steps) < 12:
        new = random_step(chance, len(model.steps), serial)
        home = chance.randrange(len(model.names))
        return replace(model, steps=(*model.steps, new), home=(*model.home, home))
    new_step = {
        "salt": replace(step, salt=chance.randrange(6)),
        "kind": replace(step, kind=chance.choice(KINDS)),
        "rewire": replace(random_step(chance, i, serial), name=step.name),
        "rename": replace(step, name=f"s{serial}r"),
    }.get(kind, step)
    return replace(model, steps=(*model.steps[:i], new_step, *model.steps[i + 1 :]))


def damage(rig: Rig, chance: random.Random) -> bool:
    """Spoils something in the store; whether anything was there to spoil."""
    keys = list(rig.index.keys())
    blobs = [path for path in (rig.scratch / "cas").rglob("*") if path.is_file()]
    if blobs and chance.random() < 0.4:
        blob = chance.choice(blobs)
        data = bytearray(blob.read_bytes())
        blob.chmod(0o600)
        if chance.random() < 0.3:
            blob.unlink()
        elif chance.random() < 0.5:
            blob.write_bytes(data[: len(data) // 2])
        else:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            blob.write_bytes(data)
        return True
    if not keys:
        return False
    key = chance.choice(keys)
    record = bytearray(rig.index.get(key) or b"?")
    if chance.random() < 0.4:
        rig.index.delete(key)
    else:
        record[chance.randrange(len(record))] ^= 1 << chance.randrange(8)
        rig.index.put_many([(key, bytes(record))])
    return True


def check(rig: Rig, model: M, kept: set[object], *, intact: bool) -> None:
    """The build that `rig` has just made against the oracle."""
    expected = oracle(model)
    assert {t: STATES[r.status] for t, r in rig.reports.items()} == expected.states
    good = {t: expected.values[t] for t, state in expected.states.items() if state == "good"}
    assert rig.outputs.values == good
    needed = {expected.identity[t] for t in good}
    times = Counter(rig.executed)
    assert all(times[identity] <= 1 for identity in needed), "an equal action ran twice"
    assert all(identity in set(expected.identity.values()) for identity in times), "something ran needlessly"
    if intact:
        assert {i for i in times if i in needed} == needed - kept, "ran though it was kept, or did not run"
    kept |= needed


def sequence(seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    model, rig = random_model(chance), Rig(folder)
    kept: set[object] = set()  # what the store must have
    for serial in range(100, 100 + EDITS):
        spoilt = chance.random() < 0.15 and damage(rig, chance)
        if chance.random() < 0.15:
            with_kill = chance.randrange(4)
            try:
                rig.build(model, chance.randrange(1 << 30), die_after=with_kill)
            except Killed:
                done = oracle(model)
                kept |= {done.identity[t] for t, key in rig.keys.items() if rig.index.get(key) is not None}
                model = edited(model, chance, serial + EDITS)
                rig.build(model, chance.randrange(1 << 30))
        else:
            rig.build(model, chance.randrange(1 << 30))
        check(rig, model, kept, intact=not spoilt)
        if spoilt:  # what was lost has been made again, but only for the steps of this model
            kept = {oracle(model).identity[t] for t, s in oracle(model).states.items() if s == "good"}
            shrunk = Rig(folder / f"again{serial}")
            shrunk.build(model, 1)
            check(shrunk, model, set(), intact=True)
            rig = shrunk
        model = edited(model, chance, serial)


@settings(
    max_examples=SEQUENCES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_an_incremental_build_equals_a_clean_one_after_any_sequence_of_edits(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sequence(seed, Path(folder))


def test_the_property_notices_an_engine_that_forgets_a_file() -> None:
    """The check itself must be able to fail: a key without its files serves stale results."""
    from llmc_build import keys

    original = keys.action_key

    def forgetful(*args: object, files: object, **more: object) -> object:
        return original(*args, files={}, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(keys, "action_key", forgetful)
        with pytest.raises(AssertionError):
            for seed in range(200):
                sequence(seed, Path(folder) / str(seed))
