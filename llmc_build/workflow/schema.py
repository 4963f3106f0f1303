"""The language as a JSON Schema, for completion in editors.  Pure.

Owns the form of the schema; what the fields are is `fields`.  One document of a file is described.
The schema is as strict as it can be without refusing what `workflow` accepts: what needs more than
one step to see (unique names, what `defaults` supply) is left to `llmc validate`.
"""

from __future__ import annotations

from itertools import combinations

from llmc_build.model import Json
from llmc_build.workflow.fields import EITHER, NOT_IN_DEFAULTS, RULES, SHELL, STEP, WORKFLOW, Field
from llmc_build.workflow.kinds import Schema


def json_schema() -> Schema:
    """JSON Schema (draft 2020-12) of one workflow document."""
    defaults = {name: _shown(field) for name, field in STEP.items() if name not in NOT_IN_DEFAULTS}
    steps: Schema = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}}
    own: dict[str, Schema] = {
        "steps": steps,
        "defaults": {
            "type": ["object", "null"],
            "properties": _json(defaults),
            "additionalProperties": False,
        },
    }
    properties = {name: _shown(field, own.get(name)) for name, field in WORKFLOW.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmc workflow",
        "description": "One workflow. A file may hold several, separated by lines of three hyphens.",
        "type": "object",
        "properties": _json(properties),
        "required": ["name", "steps"],
        "additionalProperties": False,
        "$defs": {"step": _step()},
    }


def _step() -> Schema:
    return {
        "title": "step",
        "type": "object",
        "properties": _json({name: _shown(field) for name, field in STEP.items()}),
        "required": ["name"],
        "additionalProperties": False,
        "allOf": [*(_only(rule) for rule in sorted(RULES)), _one_asking(), *_at_most_one()],
    }


def _only(rule: str) -> Json:
    """Steps of a type have no fields of other types."""
    foreign = [name for name, field in STEP.items() if rule not in field.rules]
    return {
        "if": {"properties": {"type": {"const": rule}}, "required": ["type"]},
        "then": {"properties": dict.fromkeys(foreign, False)},
    }


def _one_asking() -> Json:
    """A step is a shell step or a model step."""
    model = [name for name, field in STEP.items() if not field.rules & SHELL]
    return {"if": {"required": ["command"]}, "then": {"properties": dict.fromkeys(model, False)}}


def _at_most_one() -> list[Json]:
    """Of some groups of fields a step has one at most."""
    pairs = (pair for group in EITHER for pair in combinations(group, 2))
    return [{"not": {"required": list(pair)}} for pair in pairs]


def _shown(field: Field, schema: Schema | None = None) -> Schema:
    """A field as a property, with what an editor shows of it."""
    assert field.kind is not None or schema is not None
    found = {**(schema or (field.kind.schema if field.kind else {})), "description": field.doc}
    return found if field.default is None else {**found, "default": field.default}


def _json(properties: dict[str, Schema]) -> dict[str, Json]:
    return dict(properties)
