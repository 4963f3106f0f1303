"""`samples: N`: one step, N answers.  World.

Owns what becomes of a target with samples between "its list is not in the store" and "its list is made":
which of the answers the store has, which are to be run here, and the list of them all.

Theory of operation.  Sample i is the action of the step with the seed `seed + i` and without `samples`: it
has the key that such a step would have, and a record of its own.  The step itself has a key too, and its
value is a JSON list, so that to the plan, to reports and to the next build it is one target like any other.
What runs is only the samples that the store lacks.  Each is stored as it ends, whatever becomes of others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llmc_build import keys, replies
from llmc_build.binding import Pending
from llmc_build.execute.protocol import Done, Status
from llmc_build.lanes import has_changed
from llmc_build.model import Action, ActionResult, Json, TargetId
from llmc_build.store import Record, Store
from llmc_build.store.cas import EMPTY

_SUMMED = ("prompt_tokens", "reused_tokens", "generated_tokens", "tries", "cost")


def count(action: Action) -> int:
    """How many samples an action has; 0: it is none of samples."""
    found = action.params.get("samples") if action.rule != "shell" else None
    return found if isinstance(found, int) else 0


@dataclass(slots=True)
class Sampled:
    """The samples of one target."""

    action: Action
    parts: list[Pending]
    results: dict[int, ActionResult] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    stats: dict[str, Json] = field(default_factory=dict)
    worst: Done | None = None  # of those that ran here: the first that failed, else the last
    locked: bool = False  # whether the keys of what runs here are locked against other processes

    @property
    def missing(self) -> list[int]:
        """The samples that have neither a result nor an error."""
        return [i for i in range(len(self.parts)) if i not in self.results and i not in self.errors]

    @property
    def error(self) -> str | None:
        """One line, where a sample failed."""
        if not self.errors:
            return None
        first = min(self.errors)
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        return f"sample {first} of {len(self.parts)}{more}: {self.errors[first]}"

    def task_action(self, i: int) -> Action:
        """The action of one sample."""
        sampling = {**_sampling(self.action.params), "seed": _seed(self.action.params) + i}
        return dataclasses.replace(
            self.action, params={**self.action.params, "sampling": sampling, "samples": None}
        )


class Samples:
    """All samples of a build."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._open: dict[TargetId, Sampled] = {}  # what runs, or is about to
        self._taken: dict[str, TargetId] = {}  # key of a sample that runs here -> its target

    def of(self, target: TargetId) -> Sampled | None:
        return self._open.get(target)

    def runs_for(self, key: str) -> TargetId | None:
        """The target for one of whose samples an action with this key runs here."""
        return self._taken.get(key)

    def look(self, action: Action, pending: Pending, expired: Callable[[Record], bool] | None) -> Sampled:
        """The samples of a target, with the results that the store has.

        `expired` None: none of them is to be taken.
        """
        parts = [self._part(action, pending, i) for i in range(count(action))]
        found = Sampled(action, parts)
        if expired is not None:
            records = self._store.lookup_many([part.key.hash for part in parts])
            for i, part in enumerate(parts):
                record = records.get(part.key.hash)
                if record is not None and not expired(record):
                    found.results[i] = record.result
        return found

    def _part(self, action: Action, pending: Pending, i: int) -> Pending:
        components = {name: value for name, value in pending.key.components.items() if name != "samples"}
        components["sampling"] = {**_sampling(action.params), "seed": _seed(action.params) + i}
        key = keys.key_of(components)
        return dataclasses.replace(pending, key=key, attempts=0)

    def claim(
        self, target: TargetId, sampled: Sampled, *, locking: bool, busy: Mapping[str, TargetId]
    ) -> bool:
        """Takes what is missing to be run here; False where another action or process runs some of it.

        `busy`: keys of other actions that run here.
        """
        mine: list[str] = []
        for i in sampled.missing:
            key = sampled.parts[i].key.hash
            taken = key in busy or key in self._taken
            if taken or (locking and not self._store.try_lock(key)):
                self._give_back(mine, locking=locking)
                return False
            self._taken[key] = target
            mine.append(key)
        sampled.locked = locking
        self._open[target] = sampled
        return True

    def release(self, target: TargetId) -> None:
        """What ran for a target is over, or is not run here after all."""
        sampled = self._open.pop(target, None)
        if sampled is not None:
            keys_of = [part.key.hash for part in sampled.parts]
            self._give_back([k for k in keys_of if self._taken.get(k) == target], locking=sampled.locked)

    def _give_back(self, taken: list[str], *, locking: bool) -> None:
        for key in taken:
            del self._taken[key]
            if locking:
                self._store.unlock(key)

    def ended(self, target: TargetId, i: int, done: Done, error: str | None) -> Sampled:
        """One sample has ended, and is stored where that may be."""
        sampled = self._open[target]
        part = sampled.parts[i]
        if sampled.worst is None or sampled.worst.status is Status.OK:
            sampled.worst = done
        stats = done.reply.get("stats")
        for name in _SUMMED:
            value, before = (stats if isinstance(stats, dict) else {}).get(name), sampled.stats.get(name, 0)
            if isinstance(value, int | float) and isinstance(before, int | float):
                sampled.stats[name] = before + value
        if error is not None:
            sampled.errors[i] = error
            return sampled
        result = sampled.results[i] = replies.result(done, self._store)
        if part.cached and not has_changed(part.bound.model):
            self._store.commit_soon(
                Record(
                    key=part.key.hash,
                    components=part.key.components,
                    result=result,
                    created=self._clock(),
                    text=part.key.text,
                )
            )
        return sampled

    def joined(self, sampled: Sampled) -> ActionResult:
        """The list of all answers.  Raises ValueError, one line: one was lost, or can't be in a list."""
        output = sampled.action.params.get("output")
        is_json = isinstance(output, dict) and output.get("kind") in ("schema", "json")
        texts = [self._text(sampled.results[i], i, is_json=is_json) for i in range(len(sampled.parts))]
        value = self._store.add(f"[{', '.join(texts)}]".encode())
        return ActionResult(value=value, stderr=EMPTY, provenance={"samples": len(texts), **sampled.stats})

    def _text(self, result: ActionResult, i: int, *, is_json: bool) -> str:
        """An answer as it stands in the list: JSON as it is, and any other text as a JSON string."""
        data = self._store.read(result.value)
        if data is None:
            raise ValueError(f"sample {i} was lost from the store; build again")
        try:
            text = data.decode("utf-8")
            if is_json:
                json.loads(text)
                return text.strip()
            return json.dumps(text, ensure_ascii=False)
        except (ValueError, RecursionError):
            raise ValueError(f"sample {i} is not {'JSON' if is_json else 'UTF-8'}") from None


def _sampling(params: Mapping[str, Json]) -> dict[str, Json]:
    found = params["sampling"]
    assert isinstance(found, dict)
    return found


def _seed(params: Mapping[str, Json]) -> int:
    seed = _sampling(params)["seed"]
    assert isinstance(seed, int)
    return seed
