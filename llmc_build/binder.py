"""One target and the world: what it reads, its key, what the store has for it, what a worker is told.  World.

Owns all that happens to a target between "it may be looked at" and "its result is known", but for the
order of things (`plan`), the running (`execute`) and the meaning of answers (`replies`).  `check` answers
the plan; `task` makes the message for a worker; `finish` turns the answer into a result and, where it may
be kept, a record for the store.
"""

from __future__ import annotations

import binascii
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmc_build import keys, plan, replies
from llmc_build.environment import MissingSecret, step_environment
from llmc_build.execute.protocol import Done, Status, Task
from llmc_build.graph import ActionGraph
from llmc_build.inputs import InputError, Inputs
from llmc_build.lanes import Lanes
from llmc_build.model import (
    Action,
    ActionKey,
    ActionResult,
    Digest,
    Json,
    Location,
    TargetId,
    ValueUse,
)
from llmc_build.outputs import Outputs, PlacingError
from llmc_build.outside import Outside
from llmc_build.resolve import Program
from llmc_build.rules import BindError, Bound, rule
from llmc_build.store import INLINE, Record, Store
from llmc_build.store.files import write_atomic
from llmc_build.template import ConditionError

PLATFORM = f"{platform.system().lower()}-{platform.machine()}"
ELSEWHERE_S = 0.05  # how soon to look again for what another llmc process is running


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the store is used."""

    force: bool = False
    offline: bool = False
    dry_run: bool = False


@dataclass(slots=True, kw_only=True)
class Pending:
    """A target that was checked and must run: what its key was made of."""

    key: ActionKey
    bound: Bound
    files: dict[str, tuple[Digest, bool]]
    env: Mapping[str, str | None]
    cached: bool  # whether the result may be kept
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What `finish` made of a worker's answer."""

    error: str | None = None
    result: ActionResult | None = None
    record: Record | None = None  # to be committed before the target is reported
    warnings: tuple[str, ...] = ()
    stderr_tail: str = ""
    stats: Mapping[str, Json] = field(default_factory=dict)


class Binder:
    def __init__(
        self,
        *,
        program: Program,
        graph: ActionGraph,
        store: Store,
        inputs: Inputs,
        outputs: Outputs,
        lanes: Lanes,
        environ: Mapping[str, str],
        workspace: Path,
        scratch: Path,
        options: Options,
        last_keys: Mapping[TargetId, str],
        clock: Callable[[], float] = time.time,
        outside: Outside | None = None,
    ) -> None:
        """`outside`: what is read of targets that are not in the graph."""
        self._program = program
        self._graph = graph
        self._store = store
        self._inputs = inputs
        self._outputs = outputs
        self._lanes = lanes
        self._environ = environ
        self._workspace = workspace
        self._scratch = scratch
        self._options = options
        self._last_keys = last_keys
        self._clock = clock
        self._outside = outside
        self._leaders: dict[str, TargetId] = {}  # key -> the target whose action runs
        self._done: dict[str, TargetId] = {}  # key -> a target of this build that has its result
        self.pending: dict[TargetId, Pending] = {}
        self.results: dict[TargetId, ActionResult] = {}
        self.keys: dict[TargetId, str] = {}
        self.warnings: dict[TargetId, tuple[str, ...]] = {}
        self.unknown: set[TargetId] = set()  # in a dry run: targets whose value can't be known
        self.restored = 0
        self.missed_offline = False

    # ------------------------------------------------------------ what a target reads

    def _digest(self, use: ValueUse) -> Digest:
        if use.producer is None:
            return self._store.add((use.constant or "").encode("utf-8", "surrogateescape"))
        result = self.results.get(use.producer)
        if result is not None:
            return result.value
        found = None
        if self._outside is not None and use.producer not in self._graph:
            found = self._outside.digest(use.producer)
        return self._store.add(b"") if found is None else found  # a skipped step's value is empty

    def _read(self, use: ValueUse) -> bytes:
        digest = self._digest(use)
        data = self._store.read(digest)
        if data is None and self._fetched(use, digest):
            data = self._store.read(digest)
        if data is None:
            raise BindError(f"the value of {use.name} was lost from the store; build again")
        return data

    def _fetched(self, use: ValueUse, digest: Digest) -> bool:
        """Whether the value of a target outside the build was brought into the store."""
        producer = use.producer
        if self._outside is None or producer is None or producer in self._graph:
            return False
        return self._outside.fetch(producer, digest)

    def value(self, target: TargetId) -> bytes | None:
        """A target's value, or None where it has none."""
        result = self.results.get(target)
        return None if result is None else self._store.read(result.value)

    def location(self, target: TargetId) -> Location:
        return self._program.targets[target].step.location

    # ------------------------------------------------------------ check

    def check(self, target: TargetId) -> plan.Verdict:
        """What is to be done for a target, all it depends on having ended well."""
        try:
            return self._check(target)
        except (BindError, InputError, MissingSecret, ConditionError, PlacingError) as error:
            return plan.Broken(error=str(error))

    def _check(self, target: TargetId) -> plan.Verdict:
        found = self._program.targets[target]
        uses = {use.producer for use in (*found.action.values, *found.condition_values.values())}
        guessed = sorted(p for p in uses & self.unknown if p is not None)
        if guessed:
            self.unknown.add(target)
            return plan.Hit(reason=f"would run: reads {guessed[0]}")
        if found.condition is not None:
            values = found.condition_values
            if not found.condition.evaluate(lambda ref: self._read(values[ref.names])):
                return plan.Skip(reason=f"if: {found.step.condition} is false")
        action = found.action
        pending = self._bind(action)
        self.keys[target] = pending.key.hash
        if pending.cached:
            verdict = self._served(target, action, pending)
            if verdict is not None:
                return verdict
        return self._miss(target, action, pending)

    def _bind(self, action: Action) -> Pending:
        its = rule(action.rule)
        model = self._lanes.model(action)
        uses = {use.slot: use for use in action.values}
        bound = Bound(
            values={slot: self._digest(use) for slot, use in uses.items()},
            read=lambda slot: self._read(uses[slot]),
            platform=PLATFORM,
            model=model,
        )
        found = self._inputs.find(action)
        if found.warnings:
            self.warnings[action.target] = found.warnings
        env = {name: self._environ.get(name) if value is None else value for name, value in action.env}
        key = keys.action_key(its, action, bound, files=found.files, env=env)
        enabled = action.cache.enabled
        cached = action.sandbox if enabled is None else enabled
        return Pending(key=key, bound=bound, files=found.files, env=env, cached=cached)

    def _served(self, target: TargetId, action: Action, pending: Pending) -> plan.Verdict | None:
        """A verdict from an equal action, in this build, in the store or elsewhere; None: it must run."""
        key = pending.key.hash
        if key in self._leaders:
            return plan.Same(leader=self._leaders[key])
        twin = self._done.get(key)
        if twin is not None and self._take(target, self.results[twin]):
            return plan.Hit(reason=f"equal to {twin}")
        if self._options.force:
            return None
        for attempt in ("before the lock", "under the lock"):
            found = self._store.lookup(key)
            if found is not None and not self._expired(action, found) and self._take(target, found.result):
                if attempt == "under the lock":
                    self._store.unlock(key)
                return plan.Hit(reason="in the store")
            if self._options.dry_run or self._options.offline:
                break
            if attempt == "before the lock" and not self._store.try_lock(key):
                return plan.Elsewhere(again_in_s=ELSEWHERE_S)
        return None

    def _take(self, target: TargetId, result: ActionResult) -> bool:
        """Puts a stored result into place; False makes it a miss: a blob of it was lost, or it is not ours.

        A store that others can write to must not be able to write files that the step does not declare.
        """
        if {output.path for output in result.outputs} != set(self._program.targets[target].action.outputs):
            return False
        if not self._options.dry_run:
            written = self._outputs.place(target, result)
            if written is None:
                return False
            self.restored += written
        self.results[target] = result
        self._done.setdefault(self.keys[target], target)
        return True

    def _expired(self, action: Action, found: Record) -> bool:
        ttl = action.cache.ttl_s
        return ttl is not None and not 0 <= self._clock() - found.created < ttl

    def _miss(self, target: TargetId, action: Action, pending: Pending) -> plan.Verdict:
        reason = self._why(target, pending)
        if self._options.dry_run:
            self.unknown.add(target)
            return plan.Hit(reason=f"would run: {reason}")
        if self._options.offline:
            self.missed_offline = True
            return plan.Broken(error=f"not in the store ({reason}), and --offline forbids running it")
        self.pending[target] = pending
        if pending.cached:
            self._leaders[pending.key.hash] = target
        return plan.Miss(reason=reason, lane=self._lanes.queue(action, pending.bound.model))

    def _why(self, target: TargetId, pending: Pending) -> str:
        if self._options.force:
            return "forced"
        if not pending.cached:
            return "never cached"
        last = self._last_keys.get(target)
        if last is None:
            return "not built before"
        if last == pending.key.hash:
            return "its result is not in the store"
        before = self._store.lookup(last, verify=False)
        if before is None:
            return "something it is made of changed"
        changes = keys.difference(before.components, pending.key.components)
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        return ", ".join(changes[:3]) + more

    # ------------------------------------------------------------ run

    def task(self, target: TargetId, number: int, logs: Path) -> Task:
        """The message for the worker that runs a target.  Raises BindError, MissingSecret."""
        action = self._program.targets[target].action
        pending = self.pending[target]
        pending.attempts += 1
        request = rule(action.rule).request(action, pending.bound)
        request["logs"] = str(logs)
        components = keys.as_text(pending.key.components)
        if rule(action.rule).lane == "shell":
            request["action"] = components  # the worker writes it beside the logs
            request.update(self._shell_request(action, pending))
            for variable in replies.objects(request["variables"]):
                variable["content"] = self._content(action, str(variable["slot"]))
        else:
            write_atomic(logs / "action.json", components.encode())
        lane = self._lanes.lane(action, pending.bound.model)
        return Task(id=number, lane=lane, request=request, timeout_s=action.timeout_s)

    def _shell_request(self, action: Action, pending: Pending) -> dict[str, Json]:
        env, secrets = step_environment(self._environ, pending.env, action.secrets)
        return {
            "env": dict(env),
            "secrets": dict(secrets),
            "sandbox": action.sandbox,
            "workspace": str(self._workspace),
            "scratch": str(self._scratch),
            "inputs": [[path, str(self._workspace / path)] for path in pending.files],
            "outputs": list(action.outputs),
        }

    def _content(self, action: Action, slot: str) -> dict[str, Json]:
        use = next(use for use in action.values if use.slot == slot)
        digest = self._digest(use)
        path = self._store.file(digest)
        if path is None and digest.size > INLINE and self._fetched(use, digest):
            path = self._store.file(digest)
        if path is not None:
            return {"hash": digest.hash, "size": digest.size, "file": str(path)}
        data = binascii.b2a_base64(self._read(use), newline=False).decode("ascii")
        return {"hash": digest.hash, "size": digest.size, "data": data}

    def may_retry(self, target: TargetId, done: Done, retries: int) -> bool:
        """Whether a failed attempt is to be made again."""
        own = self._program.targets[target].action.retries
        return done.status not in (Status.OK, Status.CANCELLED) and self.pending[target].attempts <= max(
            own, retries
        )

    def finish(self, target: TargetId, done: Done) -> Verified:
        """What a worker's answer comes to.  The outputs of a good result are in place on return."""
        pending = self.pending[target]
        warnings = [*self.warnings.get(target, ()), *replies.texts(done.reply.get("warnings"))]
        undeclared = replies.texts(done.reply.get("undeclared"))
        if undeclared:
            warnings.append(f"wrote {', '.join(undeclared)}: declare what is to be kept in `outputs`")
        tail = str(done.reply.get("stderr_tail", ""))
        if done.status is not Status.OK:
            return Verified(
                error=self._explain(target, done, tail), warnings=tuple(warnings), stderr_tail=tail
            )
        changed = self._inputs.changed(pending.files)
        if changed:
            warnings.append(f"{', '.join(changed)} changed while the step ran: its result is not kept")
        result = replies.result(done, self._store)
        try:
            if self._outputs.place(target, result) is None:
                return Verified(error="its result was lost from the store while it was put in place")
        except PlacingError as error:
            return Verified(error=str(error), warnings=tuple(warnings))
        self.results[target] = result
        kept = None
        if pending.cached and not changed:
            kept = Record(
                key=pending.key.hash,
                components=pending.key.components,
                result=result,
                created=self._clock(),
            )
        stats = done.reply.get("stats")
        return Verified(
            result=result,
            record=kept,
            warnings=tuple(warnings),
            stderr_tail=tail,
            stats=stats if isinstance(stats, dict) else {},
        )

    def release(self, target: TargetId, *, kept: bool) -> None:
        """The action of a target is over and, where `kept`, its record is durable."""
        pending = self.pending.pop(target)
        key = pending.key.hash
        if self._leaders.get(key) == target:
            del self._leaders[key]
            self._store.unlock(key)
            if kept:
                self._done.setdefault(key, target)

    def _explain(self, target: TargetId, done: Done, tail: str) -> str:
        action = self._program.targets[target].action
        error = done.error or done.status.value
        if action.sandbox and rule(action.rule).lane == "shell":
            given = self.pending[target].files
            for word in replies.paths_in(tail):
                known = word in action.outputs or any(p == word or p.startswith(f"{word}/") for p in given)
                if not known and self._inputs.offers(target, word):
                    hint = f"the step was not given {word} of the workspace: declare it in `inputs`"
                    return f"{error}\nhint: {hint}"
        return error
