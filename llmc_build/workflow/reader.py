"""YAML text -> Workflow, every fault with its place, all faults of a file at once.  Pure.

Owns the language: how the tables of `fields` combine into steps, what `defaults` and a workflow's
`env` give to them, and what must hold between fields.  Names of other steps are not looked up here:
that takes all files, and is `resolve`.

Theory of operation.  A workflow's own fields are read first.  `defaults` are read once as they
stand, and sorted by rule into what a step of that rule begins with.  A step then is: its rule, found
from its own fields and the defaults; a copy of what the rule begins with; its own fields over it;
the few checks that involve several fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from llmc_build.errors import Fault, WorkflowError, did_you_mean
from llmc_build.frozen import frozen
from llmc_build.model import Order, Step, Wait, Workflow
from llmc_build.workflow import fields
from llmc_build.workflow.asking import Asking
from llmc_build.workflow.compound import Target
from llmc_build.workflow.fields import EITHER, PROMPTS, RULES, STEP, WORKFLOW, Field
from llmc_build.workflow.kinds import Site, described
from llmc_build.workflow.nodes import Enough, Entry, Map, Node, Scalar, Seq, shown
from llmc_build.workflow.parts import Values
from llmc_build.workflow.yamltext import documents

_DECISIVE = ("command", *PROMPTS, "text")  # what decides the rule of a step without a type


def parse(data: bytes | str, file: str) -> tuple[Workflow, ...]:
    """The workflows of a file, in order; `file` is what messages call it.

    Raises WorkflowError with every fault of the file.  A file of empty documents gives none.
    """
    draft = read(data, file)
    if draft.faults:
        raise WorkflowError(draft.faults)
    return draft.workflows


@frozen(kw_only=True)
class Draft:
    """A file as far as it could be read: wrong fields are left out, so that names can still be checked."""

    workflows: tuple[Workflow, ...]
    faults: tuple[Fault, ...]
    names_known: bool  # every name that the file defines is there: an unknown one is a fault of its own


def read(
    data: bytes | str,
    file: str,
    first_line: int | None = None,
    *,
    places: bool = True,
    left_out: int | None = None,
) -> Draft:
    """What `parse` does, for a caller that has more to check before it raises.

    `first_line`: the data is a piece of the file (`split`), and this is the number of its first line.  Where
    any piece has a fault, the whole file has to be read to know its faults.
    `left_out`: so many empty items stand for steps that are left out (`cut`); another number is a fault.
    `places`: whether steps know where each of their values stands, which only messages about them need.
    """
    site = Site(file)
    reader = _Reader(site, places, left_out)
    found: list[Workflow] = []
    try:
        for root in documents(data, site, first_line):
            if not (isinstance(root, Scalar) and root.is_null):
                found += reader.workflow(root)
    except Enough:
        reader.names_known = False
    return Draft(
        workflows=tuple(found), faults=tuple(dict.fromkeys(site.found)), names_known=reader.names_known
    )


class _Reader:
    """Reads the workflows of one file."""

    def __init__(self, site: Site, places: bool, left_out: int | None) -> None:
        self.site, self.places, self.left_out = site, places, left_out
        self.workflows: dict[str, tuple[str, Node]] = {}  # lower-case name -> name, its place
        self.names_known = True
        self.names: dict[str, str] = {}  # steps of many workflows have the same: one string will do

    # ------------------------------------------------------------ a workflow

    def workflow(self, root: Node) -> list[Workflow]:
        """The workflow of a document, or none where it is no mapping."""
        site = self.site
        site.owner = "this workflow"
        if not isinstance(root, Map):
            hint = "a workflow is a mapping with `name` and `steps`"
            site.fault(f"a document must be a mapping, not {described(root)}", root, hint)
            self.names_known = False
            return []
        self.name = self._workflow_name(root)
        self.names_known &= bool(self.name)
        owner = site.owner = f'workflow "{shown(self.name)}"' if self.name else "this workflow"
        values = self._workflow_fields(root)
        self._read_defaults(root.entries.get("defaults"), values.get("env", {}), root.entries.get("env"))
        site.owner = owner
        workflow = Workflow(
            name=self.name,
            location=site.at(root.line, root.column),
            steps=tuple(self._steps(root)),
            description=values.get("description", ""),
            order=Order.DATAFLOW if values.get("order") == "dataflow" else Order.SEQUENTIAL,
            vars=values.get("vars", {}),
        )
        return [workflow]

    def _workflow_name(self, root: Map) -> str:
        entry = root.entries.get("name")
        if entry is None:
            self.site.fault("this workflow has no name", root, "give it `name: ...`")
            return ""
        return self._name(entry.node, WORKFLOW["name"], self.workflows, "workflows of this file")

    def _name(self, node: Node, field: Field, taken: dict[str, tuple[str, Node]], among: str) -> str:
        """A name that must be unique whatever the case."""
        before = len(self.site.found)
        name: str = _read(self.site, field, node)
        if len(self.site.found) > before:
            return ""
        name = self.names.setdefault(name, name)
        lower = name.lower()
        if lower in taken:
            self._twice(name, node, *taken[lower], among)
        else:
            taken[lower] = (name, node)
        return name

    def _twice(self, name: str, node: Node, other: str, place: Node, among: str) -> None:
        hint = None
        if node is place:
            hint = "an alias repeats it: write `<<: *anchor` and a name of its own"
        elif other != name:
            hint = "names that differ only in case count as equal"
        first = f"{self.site.at(place.line, place.column)}" + ("" if other == name else f' as "{other}"')
        headline = f'two {among} are named "{name}"'
        self.site.add(headline, node.line, node.column, facts=[("first", first)], hint=hint)

    def _workflow_fields(self, root: Map) -> dict[str, Any]:
        values = {}
        for name, entry in root.entries.items():
            field = WORKFLOW.get(name)
            if field is None:
                hint = 'it is a field of steps: put it under "defaults"' if name in STEP else None
                self.site.unknown(name, entry, WORKFLOW, hint)
            elif field.kind is not None and name != "name":
                values[name] = field.kind.read(self.site, name, entry.node)
        return values

    def _read_defaults(
        self, entry: Entry | None, env: dict[str, str | None], env_entry: Entry | None
    ) -> None:
        """Find what the steps of each rule begin with."""
        site = self.site
        self.bases = {rule: Values(places=self.places) for rule in RULES}
        self.default_rule: str | None = None
        self.default_fields: frozenset[str] = frozenset()
        if env_entry is not None:
            self.bases["shell"].put(STEP["env"], env, env_entry.node)
        node = entry.node if entry is not None else None
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return
        if not isinstance(node, Map):
            site.wrong("defaults", node, "a mapping of step fields")
            return
        site.owner = f'the defaults of workflow "{shown(self.name)}"'
        for name, (line, column, value_node) in node.entries.items():
            field = STEP.get(name)
            if field is None or name in fields.NOT_IN_DEFAULTS:
                self._unknown(name, Entry(line, column, value_node))
                continue
            value = _read(site, field, value_node)
            if name == "type":
                self.default_rule = value if value in RULES else None
                continue
            for rule in field.rules:
                self.bases[rule].put(field, value, value_node)
        self.default_fields = frozenset(node.entries)
        for group in EITHER:
            self._check_either("the defaults have", group, node.entries)

    def _check_either(self, who: str, group: tuple[str, ...], entries: dict[str, Entry]) -> None:
        """Of some fields there may be one."""
        given = [name for name in group if name in entries]
        if len(given) > 1:
            self.site.fault(f'{who} both "{given[0]}" and "{given[1]}"', entries[given[1]])

    def _steps(self, root: Map) -> Iterator[Step]:
        site, entry = self.site, root.entries.get("steps")
        if entry is None:
            site.fault(f"{site.owner} has no steps", root, "give it `steps:` and a list")
            return
        if not isinstance(entry.node, Seq):
            hint = 'each step begins with "- name: ..."' if isinstance(entry.node, Map) else None
            site.wrong("steps", entry.node, "a list of steps", hint)
            self.names_known = False
            return
        if not entry.node.items:
            site.fault(f"{site.owner} has no steps", entry.node)
        names: dict[str, tuple[str, Node]] = {}
        self.steps_called = (
            f'steps of workflow "{shown(self.name)}"' if self.name else "steps of this workflow"
        )
        items = entry.node.items
        if self.left_out is not None:
            items = [node for node in items if not (isinstance(node, Scalar) and node.is_null)]
            if len(entry.node.items) - len(items) != self.left_out:
                site.fault("a step does not end where the next one begins", entry.node)
        for number, node in enumerate(items, 1):
            yield from self._step(node, number, names)

    # ------------------------------------------------------------ a step

    def _step(self, node: Node, number: int, names: dict[str, tuple[str, Node]]) -> Iterator[Step]:
        """The step without the fields that are wrong, or none where it has no name."""
        site = self.site
        site.owner = f"step {number}"
        if not isinstance(node, Map):
            site.fault(
                f"{site.owner} must be a mapping, not {described(node)}",
                node,
                "a step begins with `- name: ...`",
            )
            self.names_known = False
            return
        entries = node.entries
        name = self._step_name(node, names)
        if name:
            site.owner = f'step "{name}"'
        rule = self._rule(node)
        values = self.bases[rule].copy() if rule else Values(places=self.places)
        for group in EITHER:
            if not entries.keys().isdisjoint(group):
                for one in group:
                    values.drop(STEP[one])
        wrong: set[str] = set()
        known = len(site.found)
        for field_name, entry in entries.items():
            field = STEP.get(field_name)
            if field is None:
                self._unknown(field_name, entry)
            elif rule is not None and rule not in field.rules:
                site.fault(_misfit(site, field_name, rule), entry)
            elif field_name != "name" and field_name != "type":
                value = _read(site, field, entry.node)
                if len(site.found) == known:
                    values.put(field, value, entry.node)
                    continue
                # a value that is wrong reaches no Step, nor does the default that it replaces
                wrong.add(field_name)
                values.drop(field)
                self.names_known &= field_name != "output"
            known = len(site.found)
        if rule and wrong.isdisjoint(_DECISIVE):
            self._check_essentials(rule, values, node)
        if rule in fields.MODEL and not wrong:
            Asking(site, values, entries).check()
        self._check_environment(values, entries)
        waits = self._waits(values, entries)
        self.names_known &= bool(name)
        if name:
            yield values.step(
                site, workflow=self.name, name=name, rule=rule or "shell", waits=waits, node=node
            )

    def _step_name(self, node: Map, names: dict[str, tuple[str, Node]]) -> str:
        entry = node.entries.get("name")
        if entry is None:
            self.site.fault(f"{self.site.owner} has no name", node, "give it `name: ...`")
            return ""
        return self._name(entry.node, STEP["name"], names, self.steps_called)

    def _rule(self, node: Map) -> str | None:
        """The rule of a step, or None with a fault."""
        entry = node.entries.get("type")
        if entry is not None:
            rule: str = _read(self.site, STEP["type"], entry.node)
            return rule if rule in RULES else None
        fitting = _fitting(node.entries.keys())
        if self.default_rule is not None and (not fitting or self.default_rule in fitting):
            return self.default_rule
        fitting = fitting or _fitting(self.default_fields)
        if not fitting and any(did_you_mean(n, _DECISIVE) for n in node.entries if n not in STEP):
            return None  # the misspelt field is the fault
        for one in (fields.SHELL, fields.MODEL, fields.EMBED):
            if fitting == one:
                return "llm" if one is fields.MODEL else next(iter(one))
        headline = f"{self.site.owner} has neither a command nor a prompt"
        if fitting:
            headline = f"{self.site.owner} has {_both(fitting)}"
        self.site.fault(
            headline, node, "a shell step has `command`, a model step has `prompt` or `prompt_file`"
        )
        return None

    def _unknown(self, name: str, entry: Entry) -> None:
        hint = None
        if name in WORKFLOW:
            hint = "it is a field of a workflow" if name not in STEP else "it belongs to each step"
        elif name in fields.SYNONYMS:
            hint = f'did you mean "{fields.SYNONYMS[name]}"?'
        self.site.unknown(name, entry, STEP, hint)

    def _check_essentials(self, rule: str, values: Values, node: Map) -> None:
        """A step has what its rule can't do without."""
        site, plain = self.site, values.plain
        if rule == "shell":
            if "command" not in plain:
                site.fault(f"{site.owner} is a shell step and has no command", node)
            return
        if rule == "embed":
            if "texts" not in plain:
                hint = "give it `text`: a text, or a list of texts"
                site.fault(f"{site.owner} is a step of type embed and has no text", node, hint)
            return
        if all(plain.get(prompt) is None for prompt in PROMPTS):
            hint = "give it `prompt`, `prompt_file` or `messages`"
            site.fault(f"{site.owner} is a step of type {rule} and has no prompt", node, hint)
        if rule == "local_llm" and not plain.get("model"):
            hint = "name one, such as `model: smollm2-135m`"
            site.fault(f"{site.owner} is a step of type local_llm and has no model", node, hint)
        for group in EITHER:
            self._check_either(f"{site.owner} has", group, node.entries)

    def _check_environment(self, values: Values, entries: dict[str, Entry]) -> None:
        """A name is a secret or not: what the step itself gives as env must not be one elsewhere."""
        env, secrets = values.plain.get("env"), values.plain.get("secrets")
        if not env or not secrets:
            return
        for name in sorted(secrets.keys() & _own_env(entries)):
            hint = "what is in env enters logs and keys: remove it from one of them"
            self.site.fault(
                f'{self.site.owner} has "{shown(name)}" in env and in secrets', entries["env"].node, hint
            )
        values.plain["env"] = {name: value for name, value in env.items() if name not in secrets}

    def _waits(self, values: Values, entries: dict[str, Entry]) -> tuple[Wait, ...]:
        timeout_s = values.plain.pop("wait_timeout", None)
        targets: tuple[Target, ...] = values.plain.pop("waits", ())
        if "wait_timeout" in entries and not targets:
            hint = "a limit for the step itself is `timeout`"
            self.site.fault(
                f'{self.site.owner} has "wait_timeout" and no "wait_for"', entries["wait_timeout"], hint
            )
        return tuple(
            [
                Wait(
                    target=target.name,
                    timeout_s=target.timeout_s if target.own_timeout else timeout_s,
                    location=self.site.at(target.line, target.column),
                )
                for target in targets
            ]
        )


def _read(site: Site, field: Field, node: Node) -> Any:
    assert field.kind is not None
    return field.kind.read(site, field.name, node)


def _fitting(names: Set[str]) -> frozenset[str]:
    """The rules that the fields of a step speak for; none, or more than one kind of them, decide nothing."""
    signs = ((fields.SHELL, ("command",)), (fields.MODEL, PROMPTS), (fields.EMBED, ("text",)))
    found: frozenset[str] = frozenset()
    for rules, own in signs:
        if not names.isdisjoint(own):
            found |= rules
    return found


def _both(fitting: Set[str]) -> str:
    """What a step has that speaks for several rules."""
    signs = (("shell", "a command"), ("llm", "a prompt"), ("embed", "a text to embed"))
    return "both " + " and ".join(what for rule, what in signs if rule in fitting)


def _own_env(entries: dict[str, Entry]) -> set[str]:
    """The names that a step itself gives as `env`."""
    node = entries["env"].node if "env" in entries else None
    if isinstance(node, Map):
        return set(node.entries)
    return {item.text for item in node.items if isinstance(item, Scalar)} if isinstance(node, Seq) else set()


def _misfit(site: Site, field: str, rule: str) -> str:
    accepting = fields.accepting(field)
    return f"{site.called(field)} belongs to steps of type {accepting}, and this one is of type {rule}"
