"""Names to targets: workflows become targets with actions, and the edges between them.  Pure.

Owns how a step becomes a target, and which edges its references, waits and needs make.  What a name means is
`names`'.

Every fault of all workflows is found in one pass and raised together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType, TracebackType
from typing import TypeAlias

from llmc_build.claims import refuse_shared_outputs
from llmc_build.errors import Fault, WorkflowError
from llmc_build.frozen import frozen
from llmc_build.jsonpath import Path, PathError, extract, why_not
from llmc_build.model import (
    Action,
    Edge,
    EdgeKind,
    Json,
    Location,
    Step,
    TargetId,
    ValueUse,
    Workflow,
)
from llmc_build.names import Known, Names, Origin, Spoken, Unread, View
from llmc_build.rules import rule
from llmc_build.template import Condition, Ref, TemplateError, parse_condition

_NO_MORE = (None, None)
_NO_VALUES: Mapping[str, ValueUse] = MappingProxyType({})
_NOBODY: frozenset[str] = frozenset()


_Meaning: TypeAlias = "TargetId | tuple[str]"  # a step, or the text of a constant


@frozen(kw_only=True)
class Target:
    """A step with its names resolved."""

    id: TargetId
    step: Origin
    action: Action
    condition: Condition | None = None
    condition_values: Mapping[str, ValueUse] = field(default_factory=dict)  # by the text of a Ref
    # Workflows that do not have what it refers to, so that it means something else: `a` of `{{ a.b }}`.
    absent: frozenset[str] = frozenset()

    @property
    def may_mean_another(self) -> bool:
        """Whether what it says would mean something else, had its own workflow another step."""
        return self.step.workflow in self.absent


@frozen(kw_only=True)
class Program:
    """All targets in the order of the files, and all edges between them."""

    targets: dict[TargetId, Target]
    edges: Collection[Edge]


class Edges(Collection[Edge]):
    """Edges in little memory: each is made when it is asked for."""

    def __init__(self) -> None:
        self._ends: list[TargetId] = []  # producer, target, producer, target, ...
        self._kinds: list[EdgeKind] = []
        self._more: dict[int, tuple[Location | None, float | None]] = {}  # where there is more to it

    def add(
        self,
        producer: TargetId,
        target: TargetId,
        kind: EdgeKind,
        location: Location | None = None,
        timeout_s: float | None = None,
    ) -> None:
        if location is not None:
            self._more[len(self._kinds)] = (location, timeout_s)
        self._kinds.append(kind)
        self._ends += (producer, target)

    def __iter__(self) -> Iterator[Edge]:
        ends, more = iter(self._ends), self._more
        for number, kind in enumerate(self._kinds):
            location, timeout_s = more.get(number, _NO_MORE)
            yield Edge(
                producer=next(ends), target=next(ends), kind=kind, timeout_s=timeout_s, location=location
            )

    def __len__(self) -> int:
        return len(self._kinds)

    def __contains__(self, edge: object) -> bool:
        return any(edge == one for one in self)


def resolve(workflows: Sequence[Workflow]) -> Program:
    """Raises WorkflowError with every fault."""
    program, faults = resolve_all(workflows)
    if faults:
        raise WorkflowError(faults)
    return program


def resolve_all(
    workflows: Sequence[Workflow], known: Known | None = None, *, places: bool = True
) -> tuple[Program, list[Fault]]:
    """The program as far as names mean something, and every fault.

    With `known`, the program has the targets of the given workflows only; their edges may begin at others.  A
    name that is neither here nor there is a fault, whose hint draws on the given workflows alone; a workflow
    that is both here and there is one too, unless it is given in part (`known.siblings`).  What involves two
    workflows by their files (two steps that write one file) is looked for among the given ones.
    `places`: whether data edges know where they were asked for, which the report of a cycle alone needs.
    """
    faults: list[Fault] = []
    names = Names(workflows, faults, known, places)
    return _resolved(workflows, names, faults)


def resolve_and_release(workflows: list[Workflow], *, places: bool = True) -> tuple[Program, list[Fault]]:
    """What `resolve_all` does, emptying the list on the way: steps and targets are too much at once."""
    faults: list[Fault] = []
    names = Names(workflows, faults, None, places)
    return _resolved(_popped(workflows), names, faults)


def _popped(workflows: list[Workflow]) -> Iterator[Workflow]:
    workflows.reverse()
    while workflows:
        yield workflows.pop()


def _resolved(
    workflows: Iterable[Workflow], names: Names, faults: list[Fault]
) -> tuple[Program, list[Fault]]:
    targets: dict[TargetId, Target] = {}
    edges = Edges()
    for workflow in workflows:
        view = View(workflow, names)
        before: TargetId | None = None
        for step, origin in zip(workflow.steps, names.origins(workflow), strict=True):
            view.enter(origin)
            targets[origin.id] = _target(step, origin, view, faults, edges)
            if view.siblings is not None:
                before = view.before()
            if before is not None and view.sequential:
                edges.add(before, origin.id, EdgeKind.ORDER)
            before = origin.id
            view.leave(origin)
    refuse_shared_outputs(targets.values(), faults)
    return Program(targets=targets, edges=edges), faults


def _target(step: Step, origin: Origin, view: View, faults: list[Fault], edges: Edges) -> Target:
    """The target of a step; its edges are added to those found so far."""
    scope = _Scope(step, view, faults, edges)
    action = rule(step.rule).lower(step, scope)
    absent = scope.absent
    condition, condition_values = None, _NO_VALUES
    if step.condition is not None:
        scope = _Scope(step, view, faults, edges)
        condition, condition_values = _condition(step, step.condition, scope)
        absent |= scope.absent
    for wait in step.waits:
        producer = view.step(wait.target, "waits for", wait.location, step, faults)
        if producer:
            edges.add(producer, step.id, EdgeKind.WAIT, wait.location, wait.timeout_s)
    for need in step.needs:
        producer = view.step(need.target, "needs", need.location, step, faults)
        if producer:
            edges.add(producer, step.id, EdgeKind.ORDER, need.location)
    return Target(
        id=step.id,
        step=origin,
        action=action,
        condition=condition,
        condition_values=condition_values,
        absent=absent,
    )


def _condition(step: Step, text: str, scope: _Scope) -> tuple[Condition | None, Mapping[str, ValueUse]]:
    condition = None
    slots: dict[str, str] = {}
    with scope.reading("if", text):
        condition = parse_condition(text)
        slots = {ref.text: scope.slot(ref) for ref in condition.refs}
    uses = {use.slot: use for use in scope.values()}
    return condition, {text: uses[slot] for text, slot in slots.items() if slot in uses}


def _why_not(constant: str, path: Path) -> str | None:
    try:
        extract(constant.encode("utf-8", "surrogateescape"), path)
    except PathError as error:
        return str(error)
    return None


@functools.cache
def _slot(number: int) -> str:
    """The name of a slot: one string, in however many steps."""
    return f"v{number}"


class _Scope:
    """`rules.Scope` for one step: gives out slots and notes the edges."""

    __slots__ = ("_edges", "_faults", "_field", "_source", "_step", "_told", "_uses", "_view", "absent")

    def __init__(self, step: Step, view: View, faults: list[Fault], edges: Edges) -> None:
        self._step = step
        self._view = view
        self._faults = faults
        self._edges = edges
        self._uses: dict[_Meaning | tuple[_Meaning, Path], ValueUse] = {}
        self._field = self._source = ""
        self._told: set[Location] | None = None  # places of unknown names: a rule may ask for one twice
        self.absent = _NOBODY

    def slot(self, ref: Ref) -> str:
        means, path = self._means(ref)
        if isinstance(means, Fault):
            self._tell(means, ref)
            return "v0"
        use = self._uses.get((means, path) if path else means)
        return use.slot if use is not None else self._add(means, path, ref.text, ref.start)

    def _means(self, ref: Ref) -> tuple[_Meaning | Fault, Path]:
        """A step, or the text of a constant, and where in it; or what is wrong with the name."""
        path, names = ref.path, ref.names
        means: _Meaning | Fault
        if len(names) == 1:
            means = self._view.entry(names[0]) if path else self._view.variable(names[0])
        else:
            found = self._view.names.find(*names)
            if found is not None and found != self._step.id and not path:
                return found, path
            means, path = self._of_two(ref, found)
        if path and not isinstance(means, Fault):
            means = self._unreachable(ref, means, path) or means
        return means, path

    def _add(self, means: _Meaning, path: Path, name: str, start: int) -> str:
        """A new slot for a value."""
        slot = _slot(len(self._uses))
        if isinstance(means, str):
            # a name that is the producer's own is not kept twice
            name = means if name == means else name
            use = ValueUse(slot=slot, name=name, producer=means, path=path)
            place = self._place(start) if self._view.names.places else None
            self._edges.add(means, self._step.id, EdgeKind.DATA, place)
        else:
            use = ValueUse(slot=slot, name=name, constant=means[0], path=path)
        self._uses[(means, path) if path else means] = use
        return slot

    def _of_two(self, ref: Ref, found: TargetId | None) -> tuple[_Meaning | Fault, Path]:
        """What `{{ a.b }}` means: step b of workflow a, if it was found, or field b of what a is."""
        workflow, name = ref.names
        if found is None:
            self.absent |= {workflow}
            return self._view.field(workflow, name), (name, *ref.path)
        if found == self._step.id:
            return Fault(headline=f'step "{self._step.name}" refers to its own value'), ref.path
        return found, ref.path

    def _unreachable(self, ref: Ref, means: _Meaning, path: Path) -> Fault | None:
        """What is wrong with a path that can be known not to lead anywhere."""
        facts: tuple[tuple[str, str], ...] = ()
        if isinstance(means, str):
            schema = self._view.names.schema(means)
            why = None if schema is None else why_not(schema, path)
            facts = (("value of", means),)
        else:
            why = _why_not(means[0], path)
        if why is None:
            return None
        return Fault(headline=f'step "{self._step.name}" refers to "{ref.text}", but {why}', facts=facts)

    # ------------------------------------------------------------ sessions

    def earlier(self) -> list[Json]:
        """What the steps before it in its session said, and the slots of what they were answered."""
        turns: list[Json] = []
        for spoken in self._view.sessions.get(self._step.session or "", ()):
            messages: list[Json] = [*self._taken_over(spoken)]
            turn: dict[str, Json] = {"messages": messages}
            turn["answer"] = self._again(spoken.target, (), spoken.target)
            known = self._view.turns.setdefault(spoken.target, turn)
            turns.append(known if known == turn else turn)  # a long session is kept once
        return turns

    def _taken_over(self, spoken: Spoken) -> list[dict[str, Json]]:
        slots: dict[Json, Json] = {}
        for slot, use in spoken.uses.items():
            means = (use.constant or "",) if use.producer is None else use.producer
            slots[slot] = self._again(means, use.path, use.name)
        return [
            {**one, "slots": [slots.get(slot, slot) for slot in found]}
            for one in spoken.messages
            if isinstance(found := one["slots"], list)
        ]

    def _again(self, means: _Meaning, path: Path, name: str) -> str:
        use = self._uses.get((means, path) if path else means)
        return use.slot if use is not None else self._add(means, path, name, 0)

    def said(self, messages: Sequence[Mapping[str, Json]]) -> None:
        """What the step says itself, once all of it is read: for those that go on with its session."""
        if self._step.session is not None and self._view.siblings is not None:
            raise Unread(self._step.id)
        if self._step.session is not None:
            read = {slot for one in messages if isinstance(one["slots"], list) for slot in one["slots"]}
            uses = {use.slot: use for use in self.values() if use.slot in read}
            spoken = Spoken(target=self._step.id, messages=messages, uses=uses)
            self._view.sessions.setdefault(self._step.session, []).append(spoken)

    def _tell(self, fault: Fault, ref: Ref) -> None:
        place = self._place(ref.start)
        self._told = self._told or set()
        if place not in self._told:
            self._told.add(place)
            self._faults.append(dataclasses.replace(fault, location=place))

    def _place(self, offset: int) -> Location:
        return self._step.place_in(self._field, self._source, offset)

    def reading(self, name: str, source: str) -> _Scope:
        """The scope itself: each step has one of its own, and reads one field after the other."""
        self._field, self._source = name, source
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, TemplateError):
            return False
        for problem in error.problems:
            self._faults.append(
                Fault(headline=problem.message, location=self._place(problem.offset), hint=problem.hint)
            )
        return True

    def values(self) -> tuple[ValueUse, ...]:
        return tuple(self._uses.values())
