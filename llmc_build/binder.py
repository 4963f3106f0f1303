"""One target and the world: what the store has for it, whether it is run here, what became of it.  World.

Owns what happens to a target between "it may be looked at" and "its result is known", but for what its key
is made of (`binding`), the order of things (`plan`), what a worker is told (`orders`), the running
(`execute`) and the meaning of answers (`replies`).  `check_many` answers the plan; `claim_many` says whether
a target that missed is to be run by this process; `finish` turns the answer of a worker into a result and,
where it may be kept, a record for the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from llmc_build import plan, samples
from llmc_build.answers import Answers, Verified
from llmc_build.binding import Binding, Pending
from llmc_build.environment import MissingSecret
from llmc_build.execute.protocol import Done, Status, Task
from llmc_build.frozen import frozen
from llmc_build.inputs import InputError, Inputs
from llmc_build.lanes import Lanes
from llmc_build.model import Digest, Location, TargetId, ValueUse
from llmc_build.orders import Orders
from llmc_build.outputs import Outputs, PlacingError
from llmc_build.outside import Outside
from llmc_build.reads import Reads
from llmc_build.resolve import Program
from llmc_build.rules import BindError
from llmc_build.samples import Sampled, Samples
from llmc_build.store import Record, Store
from llmc_build.template import ConditionError
from llmc_build.traces import Traces
from llmc_build.why import Options, Reasons, Unknown

MOST_PENDING = 1000  # targets that wait for a worker with what their keys were made of; others look again
ELSEWHERE_S = 0.05  # how soon to look again for what another llmc process is running


@frozen(kw_only=True)
class Finding:
    """What a look at a target would find, given the values that its producers have."""

    key: str | None  # None: its condition is false, so that it has none
    value: str | None = None  # SHA-256 of the value that the store has for the key; None: it has none


class Binder:
    def __init__(
        self,
        *,
        program: Program,
        graph: Container[TargetId],
        store: Store,
        inputs: Inputs,
        outputs: Outputs,
        lanes: Lanes,
        environ: Mapping[str, str],
        workspace: Path,
        scratch: Path,
        options: Options,
        last_key: Callable[[TargetId], str | None],
        clock: Callable[[], float] = time.time,
        outside: Outside | None = None,
    ) -> None:
        """`outside`: what is read of targets that are not in the graph."""
        self._program = program
        self._store = store
        self._outputs = outputs
        self._lanes = lanes
        environ = dict(environ)  # os.environ decodes each variable whenever it is asked for
        self.traces = Traces()
        self._reads = Reads(store, graph, outside)
        self._binding = Binding(self._reads, inputs, lanes, environ, self.traces)
        self._orders = Orders(self._reads, lanes, environ, workspace, scratch)
        self._options = options
        self._clock = clock
        self._answers = Answers(
            program=program,
            store=store,
            inputs=inputs,
            outputs=outputs,
            reads=self._reads,
            traces=self.traces,
            warnings=self._binding.warnings,
            dry_run=options.dry_run,
            clock=clock,
        )
        self._samples = Samples(store, clock)
        self._reasons = Reasons(options, store, last_key, self._expired)
        self._leaders: dict[str, TargetId] = {}  # key -> the target whose action runs
        self._done: dict[str, TargetId] = {}  # key -> a target of this build that has its result
        self.pending: dict[TargetId, Pending] = {}  # what missed, as far as it is remembered, and what runs
        self.keys: dict[TargetId, str] = {}
        self.warnings = self._binding.warnings
        self.unknown = Unknown(inputs)
        self.restored = 0
        self.missed_offline = False

    @property
    def values(self) -> Mapping[TargetId, Digest]:
        """The values of targets that have one by now."""
        return self._reads.values

    def value(self, target: TargetId) -> bytes | None:
        """A target's value, or None where it has none, or it was lost."""
        try:
            return self._reads.read(ValueUse(slot="", name=target, producer=target))
        except BindError:
            return None

    def location(self, target: TargetId) -> Location:
        return self._program.targets[target].step.location

    # ------------------------------------------------------------ check

    def check(self, target: TargetId) -> plan.Verdict:
        """What is to be done for a target, all it depends on having ended well."""
        return self.check_many([target])[0]

    def check_many(self, targets: Sequence[TargetId]) -> list[plan.Verdict]:
        """As `check` one after the other, but the store is asked once for all of them."""
        found = [self._prepare(target) for target in targets]
        records = self._lookup(found, verify=False)
        verdicts = []
        for target, one in zip(targets, found, strict=True):
            if isinstance(one, Pending):
                try:
                    self.keys[target] = one.key.hash
                    one = (
                        self._served(target, one, records)
                        or self._sampled(target, one)
                        or self._miss(target, one)
                    )
                except PlacingError as error:
                    one = plan.Broken(error=str(error))
            verdicts.append(one)
        return verdicts

    def _sampled(self, target: TargetId, pending: Pending) -> plan.Verdict | None:
        """A verdict for a target of samples that the store has one by one; None: something must run."""
        action = self._program.targets[target].action
        if self._options.force or not pending.cached or not samples.count(action):
            return None
        sampled = self._samples.look(action, pending, partial(self._expired, target))
        if sampled.missing:
            return None
        verified = self._whole(target, pending, sampled)
        if verified.error is not None:
            return plan.Broken(error=verified.error)
        if verified.record is not None and not self._options.dry_run:
            self._store.commit_soon(verified.record)
            self.restored += 1  # a list that the store had not
        return plan.Hit(reason="its samples are in the store")

    def _whole(self, target: TargetId, pending: Pending, sampled: Sampled) -> Verified:
        """What a target comes to whose samples have all ended."""
        if sampled.error is not None:
            return Verified(error=sampled.error, stats=sampled.stats)
        try:
            result = self._samples.joined(sampled)
        except ValueError as error:
            return Verified(error=str(error), stats=sampled.stats)
        return self._answers.placed(target, pending, result, stats=sampled.stats)

    def _lookup(self, found: Iterable[plan.Verdict | Pending], *, verify: bool) -> dict[str, Record]:
        """Records of what must not run here and now.  `verify` false: for `_take`, which sees to it."""
        if self._options.force:
            return {}
        hashes = [one.key.hash for one in found if isinstance(one, Pending) and one.cached]
        wanted = [key for key in dict.fromkeys(hashes) if key not in self._leaders]
        return self._store.lookup_many(wanted, verify=verify) if wanted else {}

    def _prepare(self, target: TargetId) -> plan.Verdict | Pending:
        """What a target's key is made of; or a verdict that needs no key."""
        try:
            found = self._program.targets[target]
            guessed = self.unknown.read_by(found)
            if guessed is not None:
                self.unknown.add(found.action)
                return plan.Hit(reason=f"would run: reads {guessed}")
            if not self._binding.is_wanted(found):
                return plan.Skip(reason=f"if: {found.step.condition} is false")
            return self._binding.bind(found.action)
        except (BindError, InputError, MissingSecret, ConditionError) as error:
            return plan.Broken(error=str(error))

    def probe_many(self, targets: Sequence[TargetId]) -> list[Finding | None]:
        """What `check_many` would find, given values from outside; None: it takes more than that."""
        found = [self._prepare(target) for target in targets]
        records = self._lookup(found, verify=True)
        return [self._finding(t, one, records) for t, one in zip(targets, found, strict=True)]

    def _finding(
        self, target: TargetId, one: plan.Verdict | Pending, records: Mapping[str, Record]
    ) -> Finding | None:
        if not isinstance(one, Pending):
            return Finding(key=None) if isinstance(one, plan.Skip) else None
        if not one.cached or self._options.force:
            return None
        record = records.get(one.key.hash)
        usable = record is not None and not self._expired(target, record)
        return Finding(
            key=one.key.hash, value=record.result.value.hash if record is not None and usable else None
        )

    def _served(
        self, target: TargetId, pending: Pending, records: Mapping[str, Record]
    ) -> plan.Verdict | None:
        """A verdict from an equal action, in this build or in the store; None: it must run."""
        key = pending.key.hash
        if not pending.cached:
            return None
        if key in self._leaders:
            return plan.Same(leader=self._leaders[key])
        if self._samples.runs_for(key) is not None:
            return plan.Elsewhere(again_in_s=ELSEWHERE_S)
        twin = self._done.get(key)
        found = records.get(key)
        if found is None and twin is not None:
            found = self._store.lookup(key, verify=False)
        if found is None or (twin is None and self._expired(target, found)):
            return None
        if not self._take(target, found):
            return None
        self._done.setdefault(key, target)
        return plan.Hit(reason="in the store" if twin is None else f"equal to {twin}")

    def _take(self, target: TargetId, record: Record) -> bool:
        """Puts a stored result into place; False makes it a miss: a blob of it was lost, or it is not ours.

        A store that others can write to must not be able to write files that the step does not declare.
        Every byte is verified: what is copied is hashed on its way, so only what is left is read for that.
        """
        result = record.result
        action = self._program.targets[target].action
        declared = action.outputs
        if (declared or result.outputs) and {output.path for output in result.outputs} != set(declared):
            return False
        if not self._options.dry_run:
            written = self._outputs.place(target, result)
            if written is None:
                return False
            self.restored += written
        if not self._store.verify(record):
            return False
        self._reads.values[target] = result.value
        self.traces.gave(action, result, record.created)
        return True

    def _expired(self, target: TargetId, found: Record) -> bool:
        ttl = self._program.targets[target].action.cache.ttl_s
        return ttl is not None and not 0 <= self._clock() - found.created < ttl

    def _miss(self, target: TargetId, pending: Pending) -> plan.Verdict:
        action = self._program.targets[target].action
        reason = self._reasons.why(action, pending)
        if self._options.dry_run:
            self.unknown.add(action)
            return plan.Hit(reason=f"would run: {reason}")
        if self._options.offline:
            self.missed_offline = True
            return plan.Broken(error=f"not in the store ({reason}), and --offline forbids running it")
        if len(self.pending) < MOST_PENDING:
            self.pending[target] = pending
        if pending.cached:
            self._leaders[pending.key.hash] = target
        return plan.Miss(reason=reason, lane=self._lanes.queue(action, pending.bound.model))

    # ------------------------------------------------------------ run

    def claim_many(self, targets: Sequence[TargetId]) -> list[plan.Verdict | None]:
        """Right before targets that missed are run: None for those that this process is to run now.

        Only here are their keys locked: each lock costs the kernel a walk along all others of the process.
        """
        claimed = [self._claim(target) for target in targets]
        locked = [one.key.hash for one in claimed if isinstance(one, Pending) and one.cached]
        records = self._store.lookup_many(locked, verify=False) if locked and not self._options.force else {}
        return [
            self._late(target, one, records) if isinstance(one, Pending) else one
            for target, one in zip(targets, claimed, strict=True)
        ]

    def _claim(self, target: TargetId) -> plan.Verdict | Pending:
        """What a target's key is made of, its lock being ours; or why it is not run now."""
        known = self.keys[target]
        again = self.pending.get(target) or self._prepare(target)
        if not isinstance(again, Pending):
            self._drop(target, known)
            return again
        if again.key.hash != known:  # an input changed since
            self._drop(target, known)
            return self.check(target)
        if again.cached and not self._options.force and not self._store.try_lock(known):
            self._drop(target, known)
            return plan.Elsewhere(again_in_s=ELSEWHERE_S)
        self.pending[target] = again
        return again

    def _late(self, target: TargetId, pending: Pending, records: Mapping[str, Record]) -> plan.Verdict | None:
        """A hit where another process has stored the result since the target was checked."""
        found = records.get(pending.key.hash)
        if found is None or self._expired(target, found):
            return self._claim_samples(target, pending)
        verdict: plan.Verdict = plan.Hit(reason="in the store")
        try:
            if not self._take(target, found):
                return self._claim_samples(target, pending)
            self._done.setdefault(found.key, target)
        except PlacingError as error:
            verdict = plan.Broken(error=str(error))
        self._drop(target, found.key)
        return verdict

    def _claim_samples(self, target: TargetId, pending: Pending) -> plan.Verdict | None:
        """None where what is missing of a target's samples runs here now, if it has any."""
        action = self._program.targets[target].action
        if not samples.count(action):
            return None
        look = pending.cached and not self._options.force
        sampled = self._samples.look(action, pending, partial(self._expired, target) if look else None)
        if not sampled.missing:
            verdict = self._sampled(target, pending)
            if verdict is not None:
                self._drop(target, pending.key.hash)
                return verdict
        if not self._samples.claim(target, sampled, locking=look, busy=self._leaders if look else {}):
            self._drop(target, pending.key.hash)
            return plan.Elsewhere(again_in_s=ELSEWHERE_S)
        return None

    def _drop(self, target: TargetId, key: str) -> None:
        """A target that missed is not run now."""
        self._samples.release(target)
        self.pending.pop(target, None)
        if self._leaders.get(key) == target:
            del self._leaders[key]
            self._store.unlock(key)

    def parts(self, target: TargetId) -> list[int]:
        """What has to run for a claimed target: of samples those that are missing, else one task."""
        sampled = self._samples.of(target)
        return [0] if sampled is None else sampled.missing

    def _part(self, target: TargetId, part: int) -> Pending:
        sampled = self._samples.of(target)
        return self.pending[target] if sampled is None else sampled.parts[part]

    def task(self, target: TargetId, number: int, logs: str | Path, part: int = 0) -> Task:
        """The message for the worker that runs a target, or a part.  Raises BindError, MissingSecret."""
        pending = self._part(target, part)
        pending.attempts += 1
        action, sampled = self._program.targets[target].action, self._samples.of(target)
        if not action.sandbox:
            self._outputs.make_way(target)
        if sampled is not None:
            action, logs = sampled.task_action(part), f"{logs}/sample-{part}"
        return self._orders.task(action, pending, number, logs)

    def may_retry(self, target: TargetId, done: Done, retries: int, part: int = 0) -> bool:
        """Whether a failed attempt is to be made again."""
        own = self._program.targets[target].action.retries
        if done.status in (Status.OK, Status.CANCELLED):
            return False
        return self._part(target, part).attempts <= max(own, retries)

    def finish(self, target: TargetId, done: Done, part: int = 0) -> tuple[Done, Verified] | None:
        """What a worker's answer, placed, comes to, and which speaks for the target; None: not all ended."""
        if self._samples.of(target) is None:
            return done, self._answers.finish(target, self.pending[target], done)
        error = None if done.status is Status.OK else done.error or done.status.value
        sampled = self._samples.ended(target, part, done, error)
        if sampled.missing:
            return None
        return sampled.worst or done, self._whole(target, self.pending[target], sampled)

    def is_cached(self, target: TargetId) -> bool:
        """Whether a result of it may be kept."""
        return self._program.targets[target].action.is_cached

    def release(self, target: TargetId, *, kept: bool) -> None:
        """The action of a target is over and, where `kept`, its record is durable."""
        key = self.pending[target].key.hash
        if kept:
            self._done.setdefault(key, target)
        self._drop(target, key)
