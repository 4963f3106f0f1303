"""Names to targets: workflows become targets with actions, and the edges between them.  Pure.

Owns what a name means (DESIGN, "Values"): `{{ name }}` is the variable of the nearest earlier step of the
workflow that sets it (in a `dataflow` workflow, of the one step that does), else a constant of `vars`;
`{{ workflow.step }}` is any step's value.  Where no step has that name, the workflow's variable of that
name will do, as in files of the original program; the last step that sets it counts.

Every fault of all workflows is found in one pass and raised together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Protocol

from llmc_build.errors import Fault, WorkflowError, did_you_mean
from llmc_build.model import (
    Action,
    Edge,
    EdgeKind,
    Location,
    Order,
    Step,
    TargetId,
    ValueUse,
    Workflow,
    message,
)
from llmc_build.rules import rule
from llmc_build.template import Condition, Ref, TemplateError, parse_condition

_NO_VALUES: Mapping[tuple[str, ...], ValueUse] = MappingProxyType({})


@message
class Target:
    """A step with its names resolved."""

    id: TargetId
    step: Step
    action: Action
    condition: Condition | None = None
    condition_values: Mapping[tuple[str, ...], ValueUse] = field(default_factory=dict)  # by names of a Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """All targets in the order of the files, and all edges between them."""

    targets: Mapping[TargetId, Target]
    edges: tuple[Edge, ...]


def resolve(workflows: Sequence[Workflow]) -> Program:
    """Raises WorkflowError with every fault."""
    program, faults = resolve_all(workflows)
    if faults:
        raise WorkflowError(faults)
    return program


class Known(Protocol):
    """Workflows that exist and are not given: an edited workflow may refer to those left as they were."""

    def has(self, workflow: str) -> bool:
        """Whether there is a workflow of that name, whatever its case."""
        ...

    def find(self, workflow: str, name: str) -> TargetId | None:
        """The step of that name, else the last step of the workflow that sets the variable of that name."""
        ...


def resolve_all(
    workflows: Sequence[Workflow], known: Known | None = None, *, places: bool = True
) -> tuple[Program, list[Fault]]:
    """The program as far as names mean something, and every fault.

    With `known`, the program has the targets of the given workflows only; their edges may begin at others.  A
    name that is neither here nor there is a fault, whose hint draws on the given workflows alone; a workflow
    that is both here and there is one too.  What involves two workflows by their files (two steps that write
    one file) is looked for among the given ones.
    `places`: whether data edges know where they were asked for, which the report of a cycle alone needs.
    """
    faults: list[Fault] = []
    names = _Names(workflows, faults, known, places)
    targets: dict[TargetId, Target] = {}
    edges: list[Edge] = []
    for workflow in workflows:
        view = _View(workflow, names)
        before: Step | None = None
        for step in workflow.steps:
            view.enter(step)
            targets[step.id] = _target(step, view, faults, edges)
            if before is not None and view.sequential:
                edges.append(Edge(producer=before.id, target=step.id, kind=EdgeKind.ORDER))
            before = step
            view.leave(step)
    _refuse_shared_outputs(targets.values(), faults)
    return Program(targets=targets, edges=tuple(edges)), faults


def _target(step: Step, view: _View, faults: list[Fault], edges: list[Edge]) -> Target:
    """The target of a step; its edges are added to those found so far."""
    action = rule(step.rule).lower(step, _Scope(step, view, faults, edges))
    condition, condition_values = None, _NO_VALUES
    if step.condition is not None:
        condition, condition_values = _condition(step, step.condition, _Scope(step, view, faults, edges))
    for wait in step.waits:
        producer = view.step(wait.target, "waits for", wait.location, step, faults)
        if producer:
            edges.append(
                Edge(
                    producer=producer,
                    target=step.id,
                    kind=EdgeKind.WAIT,
                    timeout_s=wait.timeout_s,
                    location=wait.location,
                )
            )
    for need in step.needs:
        producer = view.step(need.target, "needs", need.location, step, faults)
        if producer:
            edges.append(Edge(producer=producer, target=step.id, kind=EdgeKind.ORDER, location=need.location))
    return Target(
        id=step.id, step=step, action=action, condition=condition, condition_values=condition_values
    )


def _condition(
    step: Step, text: str, scope: _Scope
) -> tuple[Condition | None, Mapping[tuple[str, ...], ValueUse]]:
    condition = None
    slots: dict[tuple[str, ...], str] = {}
    with scope.reading("if", text):
        condition = parse_condition(text)
        slots = {ref.names: scope.slot(ref) for ref in condition.refs}
    uses = {use.slot: use for use in scope.values()}
    return condition, {names: uses[slot] for names, slot in slots.items() if slot in uses}


class _Names:
    """Every name of all workflows."""

    def __init__(
        self, workflows: Sequence[Workflow], faults: list[Fault], known: Known | None, places: bool
    ) -> None:
        self.known = known
        self.places = places
        self.steps: dict[str, dict[str, Step]] = {}
        self.setters: dict[str, dict[str, list[Step]]] = {}  # workflow -> variable -> steps, in order
        folded: dict[str, Workflow] = {}
        for workflow in workflows:
            first = folded.setdefault(workflow.name.casefold(), workflow)
            if first is not workflow:
                faults.append(
                    Fault(
                        headline=f'workflow "{workflow.name}" is defined twice',
                        location=workflow.location,
                        facts=(("first", f'"{first.name}" at {first.location}'),),
                        hint="names of workflows are unique over all files of a build, whatever their case",
                    )
                )
                continue
            if known is not None and known.has(workflow.name):
                headline = f'workflow "{workflow.name}" is defined twice'
                faults.append(Fault(headline=headline, location=workflow.location))
            self.steps[workflow.name] = {step.name: step for step in workflow.steps}
            setters: dict[str, list[Step]] = {}
            for step in workflow.steps:
                if step.output:
                    setters.setdefault(step.output, []).append(step)
            self.setters[workflow.name] = setters

    def find(self, workflow: str, name: str) -> TargetId | None:
        """The step `workflow.name`, or the last step that sets the variable of that name."""
        steps = self.steps.get(workflow)
        if steps is None:
            return self.known.find(workflow, name) if self.known is not None else None
        if name in steps:
            return steps[name].id
        setters = self.setters[workflow].get(name)
        return setters[-1].id if setters else None

    def qualified(self) -> Iterator[str]:
        return (f"{workflow}.{step}" for workflow, steps in self.steps.items() for step in steps)


class _View:
    """What the steps of one workflow can see, as the steps are walked in order."""

    def __init__(self, workflow: Workflow, names: _Names) -> None:
        self.workflow = workflow
        self.sequential = workflow.order is Order.SEQUENTIAL
        self.names = names
        self.setters = names.setters.get(workflow.name, {})
        self.earlier: dict[str, Step] = {}  # variable -> the nearest earlier step that sets it
        self.current: Step | None = None

    def enter(self, step: Step) -> None:
        self.current = step

    def leave(self, step: Step) -> None:
        if step.output:
            self.earlier[step.output] = step

    def variable(self, name: str) -> TargetId | tuple[str] | Fault:
        """The step or the constant that a name means, or what is wrong with it (without a place)."""
        assert self.current is not None
        setters = self.setters.get(name, [])
        if self.sequential:
            step = self.earlier.get(name)
            if step is not None:
                return step.id
        else:
            others = [step for step in setters if step is not self.current]
            if len(others) > 1:
                return Fault(
                    headline=f'{self._who()} refers to "{name}", which several steps set',
                    facts=tuple((step.name, str(step.location)) for step in others),
                    hint="in a `dataflow` workflow one step sets a variable; or name the step: "
                    f"{{{{ {self.workflow.name}.{others[0].name} }}}}",
                )
            if others:
                return others[0].id
        if name in self.workflow.vars:
            return (self.workflow.vars[name],)
        return self._unknown(name, setters)

    def _who(self) -> str:
        assert self.current is not None
        return f'step "{self.current.name}"'

    def _unknown(self, name: str, setters: Sequence[Step]) -> Fault:
        headline = f'{self._who()} refers to "{name}", which nothing defines'
        if setters and setters[0] is self.current:
            return Fault(headline=f'{self._who()} refers to "{name}", which it sets itself')
        if setters:
            return Fault(
                headline=f'{self._who()} refers to "{name}", which only a later step sets',
                facts=(("set by", f"{setters[0].name} at {setters[0].location}"),),
                hint="move that step up, or say `order: dataflow` in the workflow",
            )
        if name in self.names.steps.get(self.workflow.name, {}):
            return Fault(
                headline=headline,
                hint=f"{name} is a step: give it `output: {name}`, or write "
                f"{{{{ {self.workflow.name}.{name} }}}}",
            )
        known = [*self.earlier, *self.workflow.vars]
        if self.workflow.order is Order.DATAFLOW:
            known += self.setters
        return Fault(headline=headline, hint=did_you_mean(name, known) or _known(known))

    def step(
        self, target: str, verb: str, place: Location, step: Step, faults: list[Fault]
    ) -> TargetId | None:
        """The target that `wait_for` or `needs` names, or None with a fault."""
        workflow, dot, name = target.partition(".")
        if not dot:
            workflow, name = self.workflow.name, target
        found = self.names.find(workflow, name)
        if found is not None and found != step.id:
            return found
        headline = f'step "{step.name}" {verb} "{target}", which does not exist'
        hint = self.hint(workflow, name) if dot else did_you_mean(target, self.names.steps[workflow])
        if found is not None:
            headline, hint = f'step "{step.name}" {verb} itself', None
        elif not dot and target in self.names.steps:
            hint = f'"{target}" is a workflow: name one of its steps, such as ' + next(
                (f"{target}.{s}" for s in reversed(self.names.steps[target])), target
            )
        faults.append(Fault(headline=headline, location=place, hint=hint))
        return None

    def hint(self, workflow: str, name: str) -> str | None:
        """How to write a `workflow.name` that does not exist."""
        if workflow in self.names.steps:
            near = did_you_mean(name, [*self.names.steps[workflow], *self.names.setters[workflow]])
            if near:
                return near.replace('"', f'"{workflow}.', 1)
            return f"workflow {workflow} has the steps {', '.join(list(self.names.steps[workflow])[:8])}"
        return did_you_mean(f"{workflow}.{name}", self.names.qualified()) or did_you_mean(
            workflow, self.names.steps
        )


def _known(names: Iterable[str]) -> str | None:
    found = sorted(set(names))
    return f"known here: {', '.join(found[:8])}" if found else "no variable is set before this step"


class _Scope:
    """`rules.Scope` for one step: gives out slots and notes the edges."""

    __slots__ = ("_edges", "_faults", "_field", "_source", "_step", "_told", "_uses", "_view")

    def __init__(self, step: Step, view: _View, faults: list[Fault], edges: list[Edge]) -> None:
        self._step = step
        self._view = view
        self._faults = faults
        self._edges = edges
        self._uses: dict[TargetId | tuple[str], ValueUse] = {}  # id of a step, or the text of a constant
        self._field = self._source = ""
        self._told: set[Location] | None = None  # places of unknown names: a rule may ask for one twice

    def slot(self, ref: Ref) -> str:
        means = self._means(ref)
        if isinstance(means, Fault):
            self._tell(means, ref)
            return "v0"
        use = self._uses.get(means)
        if use is not None:
            return use.slot
        slot = f"v{len(self._uses)}"
        if isinstance(means, str):
            name = ref.text
            # a name that is the producer's own is not kept twice
            self._uses[means] = ValueUse(slot=slot, name=means if name == means else name, producer=means)
            place = self._place(ref.start) if self._view.names.places else None
            self._edges.append(Edge(producer=means, target=self._step.id, kind=EdgeKind.DATA, location=place))
        else:
            self._uses[means] = ValueUse(slot=slot, name=ref.text, constant=means[0])
        return slot

    def _means(self, ref: Ref) -> TargetId | tuple[str] | Fault:
        """A step, the text of a constant, or what is wrong with the name (without a place)."""
        if len(ref.names) == 1:
            return self._view.variable(ref.names[0])
        workflow, name = ref.names
        found = self._view.names.find(workflow, name)
        if found is None:
            return Fault(
                headline=f'step "{self._step.name}" refers to "{ref.text}", which does not exist',
                hint=self._view.hint(workflow, name),
            )
        if found == self._step.id:
            return Fault(headline=f'step "{self._step.name}" refers to its own value')
        return found

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


def unordered_inputs(program: Program, comes_after: Callable[[TargetId, TargetId], bool]) -> list[Fault]:
    """A fault for each step that does not come after the step that writes one of its inputs."""
    writers = {path: target for target in program.targets.values() for path in target.action.outputs}
    faults = []
    for target in program.targets.values():
        for path in target.action.inputs:
            writer = writers.get(path)
            if writer is not None and not comes_after(target.id, writer.id):
                headline = f'step "{target.step.name}" reads {path}, which step "{writer.id}" writes'
                hint = f"let it come after that step: needs: {writer.id}"
                if writer is target:
                    headline = f'step "{target.step.name}" reads {path}, which it writes itself'
                    hint = "a step's output can't be its input: write to another file"
                faults.append(Fault(headline=headline, location=target.step.place("inputs"), hint=hint))
    return faults


def _refuse_shared_outputs(targets: Iterable[Target], faults: list[Fault]) -> None:
    """Two steps must not write one file, nor a file where another writes a folder."""
    writers: dict[str, tuple[Target, str]] = {}
    folders: dict[str, tuple[Target, str]] = {}
    for target in targets:
        for path in target.action.outputs:
            other, other_path = writers.setdefault(path.casefold(), (target, path))
            if other is not target:
                faults.append(_conflict(target, path, other, other_path))
            parts = path.casefold().split("/")
            for i in range(1, len(parts)):
                folders.setdefault("/".join(parts[:i]), (target, path))
    for folded, (target, path) in writers.items():
        if folded in folders:
            faults.append(_conflict(*folders[folded], target, path))


def _conflict(target: Target, path: str, other: Target, other_path: str) -> Fault:
    return Fault(
        headline=f'step "{target.step.name}" writes {path}, but step "{other.id}" writes {other_path}',
        location=target.step.place("outputs"),
        facts=(("other", str(other.step.place("outputs"))),),
        hint="a file has one step that writes it",
    )
