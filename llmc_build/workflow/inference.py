"""Kinds of values that only steps that ask a model have.  Pure.

Owns the forms of `messages`, `text`, `schema`, `format`, `grammar` and `session`.  Whether schemas and
grammars can be used is `constrain`'s to say; what several of these fields mean together is `reader`'s.
"""

from __future__ import annotations

import contextlib
import json
import math
from typing import NamedTuple

from llmc_build.constrain import check_grammar, check_schema
from llmc_build.errors import Fault, did_you_mean
from llmc_build.model import Json, Location, Step
from llmc_build.workflow.compound import one_path
from llmc_build.workflow.kinds import (
    ANY_TEXT,
    NAME,
    Kind,
    Schema,
    Site,
    described,
    matching,
    name_schema,
    one_of,
    text_of,
)
from llmc_build.workflow.nodes import Enough, Map, Node, Scalar, Seq, shown
from llmc_build.workflow.yamltext import documents

ROLES = ("system", "user", "assistant")
GBNF_SIGN = "::="  # every grammar has a rule, and no path has this


class Piece(NamedTuple):
    """One text of a list of texts, and where it stands."""

    text: str
    line: int
    column: int
    block: tuple[int, int] | None
    role: str = ""


def _piece(site: Site, field: str, node: Node, role: str = "") -> Piece:
    block = node.block if isinstance(node, Scalar) else None
    return Piece(text_of(site, field, node), node.line, node.column, block, role)


# ---------------------------------------------------------------- messages and texts

_MESSAGE_FIELDS = ("role", "content")
_MESSAGES_WANTED = "a list of {role, content}"


def _messages(site: Site, field: str, node: Node) -> tuple[Piece, ...]:
    if not isinstance(node, Seq):
        site.wrong(field, node, _MESSAGES_WANTED, "each entry begins with `- role: user`")
        return ()
    if not node.items:
        site.fault(f"{site.called(field)} is empty", node)
    return tuple(_message(site, field, item) for item in node.items)


def _message(site: Site, field: str, node: Node) -> Piece:
    if not isinstance(node, Map):
        headline = f"{site.called(field)} must be {_MESSAGES_WANTED}, and {described(node)} is no such entry"
        site.fault(headline, node, "write `- role: user` and `content: ...` below it")
        return Piece("", node.line, node.column, None)
    for name, entry in node.entries.items():
        if name not in _MESSAGE_FIELDS:
            near = did_you_mean(name[:64], _MESSAGE_FIELDS)
            site.fault(f'unknown field "{shown(name)}" in {site.called(field)}', entry, near)
    for name in _MESSAGE_FIELDS:
        if name not in node.entries:
            site.fault(f'{site.called(field)} has an entry without "{name}"', node)
    role = node.entries.get("role")
    found = "" if role is None else _role(site, f"{field}.role", role.node)
    content = node.entries.get("content")
    if content is None:
        return Piece("", node.line, node.column, None, found)
    return _piece(site, f"{field}.content", content.node, found)


_role = one_of(*ROLES).read

MESSAGES = Kind(
    read=_messages,
    schema={
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"role": {"enum": list(ROLES)}, "content": {"type": ANY_TEXT}},
            "required": list(_MESSAGE_FIELDS),
            "additionalProperties": False,
        },
    },
)


class Embedded(NamedTuple):
    """What `text` holds."""

    pieces: tuple[Piece, ...]
    single: bool  # one text, and no list


def _embedded(site: Site, field: str, node: Node) -> Embedded:
    if isinstance(node, Map):
        site.wrong(field, node, "a text or a list of texts")
        return Embedded((), True)
    single = not isinstance(node, Seq)
    nodes = node.items if isinstance(node, Seq) else [node]
    if not nodes:
        site.fault(f"{site.called(field)} is empty", node)
    return Embedded(tuple(_piece(site, field, one) for one in nodes), single)


EMBEDDED = Kind(
    read=_embedded,
    schema={"anyOf": [{"type": ANY_TEXT}, {"type": "array", "minItems": 1, "items": {"type": ANY_TEXT}}]},
)

_read_name = matching(NAME, "letters, digits, _ and - (200 at most)")


def _session(site: Site, field: str, node: Node) -> str | None:
    return None if isinstance(node, Scalar) and node.is_null else str(_read_name(site, field, node))


SESSION = Kind(read=_session, schema=name_schema(NAME, "number", "boolean", "null"))


# ---------------------------------------------------------------- what an answer must be


def json_of(site: Site, field: str, node: Node) -> Json:
    """What JSON a node is; what JSON does not have is a fault."""
    if isinstance(node, Map):
        return {name: json_of(site, field, entry.node) for name, entry in node.entries.items()}
    if isinstance(node, Seq):
        return [json_of(site, field, item) for item in node.items]
    value = node.value
    if isinstance(value, float) and not math.isfinite(value):
        site.fault(f"{site.called(field)} holds {shown(node.text)}, which JSON does not have", node)
        return None
    return value


def _schema(site: Site, field: str, node: Node) -> Json:
    """An object, or the path of a file."""
    if isinstance(node, Scalar) and not isinstance(node.value, bool):
        return None if node.is_null else one_path(site, field, node)
    if not isinstance(node, Map):
        hint = "any JSON is `format: json`" if isinstance(node, Scalar) and node.value is True else None
        site.wrong(field, node, "a JSON Schema, or the path of a file that holds one", hint)
        return None
    return checked_schema(site, field, node)


def checked_schema(site: Site, field: str, node: Map) -> Json:
    """The JSON Schema that a node is; what is wrong with it is a fault at its place."""
    known = len(site.found)
    schema = json_of(site, field, node)
    for fault in check_schema(schema) if len(site.found) == known else ():
        headline = f"{site.called(field)} is no usable JSON Schema: {fault.message}"
        site.fault(headline, _at(node, fault.path), fault.hint)
    return schema


def _at(node: Node, path: tuple[str | int, ...]) -> Node:
    """The node that a path leads to, or the nearest one above it."""
    for part in path:
        if isinstance(node, Map) and str(part) in node.entries:
            node = node.entries[str(part)].node
        elif isinstance(node, Seq) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            break
    return node


_SCHEMA_SCHEMA: Schema = {"anyOf": [{"type": "object"}, {"type": ["string", "null"]}]}
SCHEMA = Kind(read=_schema, schema=_SCHEMA_SCHEMA)


def _grammar(site: Site, field: str, node: Node) -> str | None:
    """A grammar, or the path of a file."""
    if isinstance(node, Scalar) and node.is_null:
        return None
    wanted = "a grammar (GBNF), or the path of a file that holds one"
    text = text_of(site, field, node, wanted)
    if not isinstance(node, Scalar):
        return text
    if GBNF_SIGN not in text:
        return one_path(site, field, node)
    for fault in check_grammar(text):
        line, column = _in_text(node, fault.line, fault.column)
        site.add(f"{site.called(field)}: {fault.message}", line, column, hint=fault.hint)
    return text


def _in_text(node: Scalar, line: int, column: int) -> tuple[int, int]:
    """Where a place of a text stands in its file, as near as is known."""
    if node.block is not None:
        return node.block[0] + line - 1, node.block[1] + column
    return (node.line, node.column + column - 1) if line == 1 else (node.line, node.column)


GRAMMAR = Kind(read=_grammar, schema={"type": ["string", "null"]})

_FORMATS = one_of("json")


def _format(site: Site, field: str, node: Node) -> str | None:
    return None if isinstance(node, Scalar) and node.is_null else str(_FORMATS.read(site, field, node))


FORMAT = Kind(read=_format, schema={"enum": ["json", None]})


# ---------------------------------------------------------------- files in place of values


def taken_in(step: Step) -> list[tuple[str, str]]:
    """(field, path) of the files whose text is part of a step."""
    found = []
    if step.prompt_file is not None:
        found.append(("prompt_file", step.prompt_file))
    if isinstance(step.schema, str):
        found.append(("schema", step.schema))
    if step.grammar is not None and GBNF_SIGN not in step.grammar:
        found.append(("grammar", step.grammar))
    return found


def schema_of_file(text: str, name: str) -> tuple[Json, tuple[Fault, ...]]:
    """The JSON Schema in a file of JSON or YAML, and what is wrong with it; `name` is for messages."""
    if name.endswith(".json"):  # YAML can't spell all of JSON's escapes
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text)
            if isinstance(found, dict) and not check_schema(found):
                return found, ()
    site = Site(name)
    schema: Json = None
    try:
        roots = list(documents(text, site))
        if site.found:
            return None, tuple(site.found)
        root = roots[0] if len(roots) == 1 else None
        if isinstance(root, Map):
            schema = checked_schema(site, "schema", root)
        else:
            site.add(f"{name} does not hold a JSON Schema", 1, 1, hint="a schema is an object: {...}")
    except Enough:
        pass
    return schema, tuple(site.found)


def grammar_faults(text: str, name: str) -> list[Fault]:
    """What is wrong with the grammar in a file, at its place there."""
    return [
        Fault(
            headline=f"grammar {name}: {fault.message}",
            location=Location(file=name, line=fault.line, column=fault.column),
            hint=fault.hint,
        )
        for fault in check_grammar(text)
    ]
