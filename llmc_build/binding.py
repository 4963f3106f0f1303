"""What an action is bound to: all that determines its result, and the key of that.  World.

Owns how a target comes to be `Pending`: the values and files that it reads, its model, its environment.  What
the store has for the key, and what is done then, is `binder`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from llmc_build import keys
from llmc_build.inputs import Inputs
from llmc_build.keys import Files
from llmc_build.lanes import Lanes
from llmc_build.model import Action, ActionKey, TargetId
from llmc_build.reads import Reads
from llmc_build.resolve import Target
from llmc_build.rules import Bound, rule
from llmc_build.store.files import Stamp
from llmc_build.traces import Traces

PLATFORM = f"{platform.system().lower()}-{platform.machine()}"


@dataclass(slots=True, kw_only=True)
class Pending:
    """A target whose key is known and whose result is not: what the key was made of."""

    key: ActionKey
    bound: Bound
    files: Files
    stamps: Mapping[str, Stamp | None]  # of the files, before they were read
    env: Mapping[str, str | None]
    cached: bool  # whether the result may be kept
    attempts: int = 0


class Binding:
    def __init__(
        self, reads: Reads, inputs: Inputs, lanes: Lanes, environ: Mapping[str, str], traces: Traces
    ) -> None:
        self.warnings: dict[TargetId, tuple[str, ...]] = {}  # of what was declared and not found
        self._reads = reads
        self._inputs = inputs
        self._lanes = lanes
        self._environ = environ
        self._traces = traces

    def is_wanted(self, target: Target) -> bool:
        """Whether a target's condition holds.  Raises ConditionError, BindError."""
        if target.condition is None:
            return True
        reads, values = self._reads, target.condition_values
        return target.condition.evaluate(lambda ref: reads.read(values[ref.text]))

    def bind(self, action: Action) -> Pending:
        """Raises BindError, InputError."""
        reads, uses = self._reads, action.values
        bound = Bound(
            values={use.slot: reads.digest(use) for use in uses},
            read=lambda slot: reads.read(next(use for use in uses if use.slot == slot)),
            skipped=[use.slot for use in uses if reads.is_skipped(use)] if action.rule != "shell" else (),
            platform=PLATFORM,
            model=self._lanes.model(action),
        )
        found = self._inputs.find(action)
        if found.warnings:
            self.warnings[action.target] = found.warnings
        self._traces.given(action.target, found.files)
        env = {name: self._environ.get(name) if value is None else value for name, value in action.env}
        key = keys.action_key(rule(action.rule), action, bound, files=found.files, env=env)
        return Pending(
            key=key,
            bound=bound,
            files=found.files,
            stamps=found.stamps,
            env=env,
            cached=action.is_cached,
        )
