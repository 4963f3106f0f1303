"""What the names in workflows mean.  Pure.

Owns the rules (DESIGN, "Values"): `{{ name }}` is the variable of the nearest earlier step of the workflow
that sets it (in a `dataflow` workflow, of the one step that does), else a constant of `vars`;
`{{ workflow.step }}` is any step's value.  Where no step has that name, the workflow's variable of that name
will do, as in files of the original program; the last step that sets it counts.  Where neither is there,
`{{ a.b }}` is field b of the variable a, or else of the step a of the same workflow.  What follows from a
name is `resolve`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from llmc_build.errors import Fault, did_you_mean
from llmc_build.frozen import frozen
from llmc_build.model import Json, Location, Order, Step, TargetId, ValueUse, Workflow

_NO_PLACES: Mapping[str, Location] = MappingProxyType({})


@frozen(kw_only=True)
class Origin:
    """What of a step outlives its lowering: names and places, and no text."""

    id: TargetId
    workflow: str
    name: str
    file: str
    line: int
    column: int
    output: str | None
    condition: str | None
    sources: tuple[str, ...]  # files whose text became part of it
    schema: Json  # of its value, where that is known; else None
    files: Mapping[str, Location]  # where its `inputs` and `outputs` are written

    @property
    def location(self) -> Location:
        """Where the step is written."""
        return Location(file=self.file, line=self.line, column=self.column)

    def place(self, name: str) -> Location:
        """Where `inputs` or `outputs` are written, or else the step."""
        return self.files.get(name, self.location)


def _origin(step: Step) -> Origin:
    files = _NO_PLACES
    if step.inputs or step.outputs:
        files = {name: step.place(name) for name in ("inputs", "outputs")}
    return Origin(
        id=step.id,
        workflow=step.workflow,
        name=step.name,
        file=step.location.file,
        line=step.location.line,
        column=step.location.column,
        output=step.output,
        condition=step.condition,
        sources=step.sources,
        schema=schema_of_value(step) if step.rule != "shell" else None,
        files=files,
    )


def schema_of_value(step: Step) -> Json:
    """A JSON Schema of the values that a step can have; None where nothing is known."""
    if step.rule == "embed":
        vector: Json = {"type": "array", "items": {"type": "number"}}
        return vector if step.single else _list_of(vector, len(step.texts))
    own = step.schema if isinstance(step.schema, dict) else None
    if step.samples is None:
        return own
    constrained = own is not None or step.format is not None
    return _list_of(own if constrained else {"type": "string"}, step.samples)


def _list_of(item: Json, count: int) -> Json:
    return {"type": "array", "maxItems": count, **({} if item is None else {"items": item})}


class Siblings(Protocol):
    """All steps of a workflow of which only some are given."""

    def has(self, step: str) -> bool: ...

    def before(self, step: str) -> str | None:
        """The step that stands before one."""
        ...

    def setters(self, variable: str) -> Sequence[str]:
        """The steps that set a variable, in order."""
        ...

    def setters_before(self, variable: str, step: str) -> Sequence[str]:
        """Those of them that stand before a step."""
        ...


class Known(Protocol):
    """What exists and is not given: an edited workflow, or step, may refer to what is left as it was."""

    def siblings(self, workflow: str) -> Siblings | None:
        """Of a workflow that is given in part."""
        ...

    def has(self, workflow: str) -> bool:
        """Whether there is a workflow of that name, whatever its case."""
        ...

    def find(self, workflow: str, name: str) -> TargetId | None:
        """The step of that name, else the last step of the workflow that sets the variable of that name."""
        ...

    def lacks_schema(self, target: TargetId) -> bool:
        """Whether nothing is known of the value of a target of such a workflow."""
        ...


class Unread(Exception):
    """A target whose document would have to be read."""


class Names:
    """Every name of all workflows."""

    def __init__(
        self, workflows: Sequence[Workflow], faults: list[Fault], known: Known | None, places: bool
    ) -> None:
        self.known = known
        self.places = places
        self.steps: dict[str, dict[str, Origin]] = {}
        self.setters: dict[str, dict[str, list[Origin]]] = {}  # workflow -> variable -> steps, in order
        self.siblings: dict[str, Siblings] = {}  # of workflows that are given in part
        self._origins: dict[str, list[Origin]] = {}
        folded: dict[str, Workflow] = {}
        for workflow in workflows:
            first = folded.setdefault(workflow.name.casefold(), workflow)
            if first is not workflow:
                if known is None and first.location.file == workflow.location.file:
                    continue  # the reader of that file has said so
                faults.append(
                    Fault(
                        headline=f'workflow "{workflow.name}" is defined twice',
                        location=workflow.location,
                        facts=(("first", f'"{first.name}" at {first.location}'),),
                        hint="names of workflows are unique over all files of a build, whatever their case",
                    )
                )
                continue
            siblings = known.siblings(workflow.name) if known is not None else None
            if siblings is not None:
                self.siblings[workflow.name] = siblings
            elif known is not None and known.has(workflow.name):
                headline = f'workflow "{workflow.name}" is defined twice'
                faults.append(Fault(headline=headline, location=workflow.location))
            origins = self._origins[workflow.name] = [_origin(step) for step in workflow.steps]
            self.steps[workflow.name] = {origin.name: origin for origin in origins}
            setters: dict[str, list[Origin]] = {}
            for origin in origins:
                if origin.output:
                    setters.setdefault(origin.output, []).append(origin)
            self.setters[workflow.name] = setters

    def origins(self, workflow: Workflow) -> list[Origin]:
        """One for each step of a workflow; to be asked for in the order of the workflows."""
        # what is not there any more was that of another workflow of the same name
        return self._origins.pop(workflow.name, None) or [_origin(step) for step in workflow.steps]

    def find(self, workflow: str, name: str) -> TargetId | None:
        """The step `workflow.name`, or the last step that sets the variable of that name."""
        steps = self.steps.get(workflow)
        if steps is None or workflow in self.siblings:
            return self.known.find(workflow, name) if self.known is not None else None
        if name in steps:
            return steps[name].id
        setters = self.setters[workflow].get(name)
        return setters[-1].id if setters else None

    def schema(self, target: TargetId) -> Json:
        """The schema of a step's value.  Raises Unread where only its document tells."""
        workflow, _, step = target.partition(".")
        steps = self.steps.get(workflow)
        if steps is not None and step in steps:
            return steps[step].schema
        if self.known is not None and not self.known.lacks_schema(target):
            raise Unread(target)
        return None

    def qualified(self) -> Iterator[str]:
        return (f"{workflow}.{step}" for workflow, steps in self.steps.items() for step in steps)


@frozen(kw_only=True)
class Spoken:
    """What a step said in a session, for the steps that go on with it."""

    target: TargetId
    messages: Sequence[Mapping[str, Json]]  # as the rule gave them, with slots
    uses: Mapping[str, ValueUse]  # slot -> value


class View:
    """What the steps of one workflow can see, as the steps are walked in order."""

    def __init__(self, workflow: Workflow, names: Names) -> None:
        self.workflow = workflow
        self.sequential = workflow.order is Order.SEQUENTIAL
        self.names = names
        self.setters = names.setters.get(workflow.name, {})
        self.siblings = names.siblings.get(workflow.name)
        self.earlier: dict[str, Origin] = {}  # variable -> the nearest earlier step that sets it
        self.current: Origin | None = None
        self.sessions: dict[str, list[Spoken]] = {}  # session -> what its earlier steps said, in order
        self.turns: dict[TargetId, dict[str, Json]] = {}  # a turn as those have it that go on with it

    def enter(self, step: Origin) -> None:
        self.current = step

    def leave(self, step: Origin) -> None:
        if step.output:
            self.earlier[step.output] = step

    def own(self, name: str) -> TargetId | None:
        """A step of the workflow itself."""
        if self.siblings is not None:
            return f"{self.workflow.name}.{name}" if self.siblings.has(name) else None
        step = self.names.steps.get(self.workflow.name, {}).get(name)
        return None if step is None else step.id

    def before(self) -> TargetId | None:
        """The step that stands before the one that is looked at, of a workflow that is given in part."""
        assert self.current is not None
        assert self.siblings is not None
        step = self.siblings.before(self.current.name)
        return None if step is None else f"{self.workflow.name}.{step}"

    def field(self, name: str, field: str) -> TargetId | tuple[str] | Fault:
        """What `{{ name.field }}` reaches into, there being no `name.field` itself; or what is wrong."""
        found, own = self.variable(name), self.own(name)
        if not isinstance(found, Fault):
            return found
        if own is not None:
            return Fault(headline=f"{self._who()} refers to its own value") if self._is_self(own) else own
        if name in self.setters:
            return found
        headline = f'{self._who()} refers to "{name}.{field}", which does not exist'
        return Fault(headline=headline, hint=self.hint(name, field))

    def entry(self, name: str) -> TargetId | tuple[str] | Fault:
        """What `{{ name[0] }}` reaches into: a variable, or else a step of the workflow."""
        found, own = self.variable(name), self.own(name)
        return own if isinstance(found, Fault) and own is not None and not self._is_self(own) else found

    def variable(self, name: str) -> TargetId | tuple[str] | Fault:
        """The step or the constant that a name means, or what is wrong with it (without a place)."""
        assert self.current is not None
        if self.siblings is not None:
            return self._variable_of_siblings(name, self.siblings)
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

    def _variable_of_siblings(self, name: str, siblings: Siblings) -> TargetId | tuple[str] | Fault:
        """As `variable`; what is wrong is told by whoever reads all steps."""
        assert self.current is not None
        if self.sequential:
            setters = siblings.setters_before(name, self.current.name)
        else:
            setters = [step for step in siblings.setters(name) if step != self.current.name]
        if setters and (self.sequential or len(setters) == 1):
            return f"{self.workflow.name}.{setters[-1]}"
        if name in self.workflow.vars and not setters:
            return (self.workflow.vars[name],)
        return Fault(headline=f'{self._who()} refers to "{name}"')

    def _is_self(self, target: TargetId) -> bool:
        return self.current is not None and target == self.current.id

    def _who(self) -> str:
        assert self.current is not None
        return f'step "{self.current.name}"'

    def _unknown(self, name: str, setters: Sequence[Origin]) -> Fault:
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
        if workflow == "env" and workflow not in self.names.steps:
            return f"environment variables reach scripts: give the step `env: [{name}]`, and write ${name}"
        if workflow in self.names.steps:
            near = did_you_mean(name, [*self.names.steps[workflow], *self.names.setters[workflow]])
            if near:
                return near.replace('"', f'"{workflow}.', 1)
            return f"workflow {workflow} has the steps {', '.join(list(self.names.steps[workflow])[:8])}"
        return (
            did_you_mean(f"{workflow}.{name}", self.names.qualified())
            or did_you_mean(workflow, self.names.steps)
            or f'nothing here is named "{workflow}": if it is a workflow of another file, name that file, too'
        )


def _known(names: Iterable[str]) -> str | None:
    found = sorted(set(names))
    return f"known here: {', '.join(found[:8])}" if found else "no variable is set before this step"
