"""Why a target runs; and, in a dry run, what can't be known because something before it would run.  World.

Owns the reasons that are told.  What a build does for them is decided in `binder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from llmc_build import keys
from llmc_build.binding import Pending
from llmc_build.frozen import frozen
from llmc_build.inputs import Inputs, is_pattern, would_match
from llmc_build.model import Action, TargetId
from llmc_build.resolve import Target
from llmc_build.store import Record, Store


@frozen(kw_only=True)
class Options:
    """How the store is used."""

    force: bool = False
    offline: bool = False
    dry_run: bool = False
    no_cache: bool = False


class Reasons:
    """Why a target must run that nothing in the store will do for."""

    def __init__(
        self,
        options: Options,
        store: Store,
        last_key: Callable[[TargetId], str | None],
        expired: Callable[[TargetId, Record], bool],
    ) -> None:
        """`last_key`: of a target, in the last build."""
        self._options, self._store, self._last_key, self._expired = options, store, last_key, expired

    def why(self, action: Action, pending: Pending) -> str:
        if self._options.force:
            return "forced"
        if not pending.cached:
            return "never cached"
        if self._options.no_cache:
            return "--no-cache"
        last = self._last_key(action.target)
        if last is None:
            return "not built before"
        before = self._store.lookup(last, verify=False)
        if last == pending.key.hash:
            old = before is not None and self._expired(action.target, before)
            return "its result is older than its ttl" if old else "its result is not in the store"
        if before is None:
            return "something it is made of changed"
        names = {use.slot: f"{{{{ {use.name} }}}}" for use in action.values}
        changes = keys.difference(before.components, pending.key.components, names)
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        return ", ".join(changes[:3]) + more


class Unknown:
    """In a dry run: targets that would run, and so what nobody knows of those that read them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._targets: set[TargetId] = set()
        self._files: dict[str, TargetId] = {}  # that they would write
        self._folders: dict[str, list[str]] = {}  # that these would be in

    def __contains__(self, target: TargetId) -> bool:
        return target in self._targets

    def add(self, action: Action) -> None:
        """A target that would run."""
        self._targets.add(action.target)
        for path in action.outputs:
            self._files[path] = action.target
            folder = path.rpartition("/")[0]
            while folder:
                self._folders.setdefault(folder, []).append(path)
                folder = folder.rpartition("/")[0]

    def read_by(self, target: Target) -> str | None:
        """What of them a target reads, or None."""
        if not self._targets:
            return None
        values = {use.producer for use in (*target.action.values, *target.condition_values.values())}
        for producer in sorted(self._targets.intersection(filter(None, values))):
            return producer
        for path in self._paths(target.action):
            if self._inputs.visible(target.id, path):
                return f"{path} of {self._files[path]}"
        return None

    def _paths(self, action: Action) -> Iterator[str]:
        if not self._files:
            return
        yield from (path for path in (*action.inputs, *action.words) if path in self._files)
        for pattern in action.inputs:
            yield from self._folders.get(pattern, ())
            if is_pattern(pattern):
                yield from filter(partial(would_match, pattern), self._files)
