"""`$ref` within one schema.  Pure.

Owns what a reference means: a JSON pointer (`#/$defs/item`), `#`, or an anchor (`#name`) of the same schema.
Nothing is ever fetched: a reference that leads elsewhere is a fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import unquote

MAX_DEPTH = 64  # of a schema


class ReferenceFault(Exception):
    """A reference that means nothing here.  One line."""


def target(root: object, reference: object) -> object:
    """What a reference means; raises ReferenceFault."""
    if not isinstance(reference, str):
        raise ReferenceFault("a reference is a text")
    if not reference.startswith("#"):
        raise ReferenceFault(f"{reference!r} lies outside of this schema, and nothing is fetched")
    if reference == "#":
        return root
    pointer = unquote(reference[1:])
    if pointer.startswith("/"):
        return _at(root, pointer, reference)
    for schema in every(root):
        if isinstance(schema, dict) and pointer in (schema.get("$anchor"), schema.get("$dynamicAnchor")):
            return schema
        if isinstance(schema, dict) and schema.get("$id") == reference:  # drafts before 2019
            return schema
    raise ReferenceFault(f"{reference!r} is no anchor of this schema")


def _at(root: object, pointer: str, reference: str) -> object:
    found = root
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise ReferenceFault(f"{reference!r} leads nowhere in this schema")
    return found


def endless(root: object) -> str | None:
    """A reference that comes back to itself before a value is taken apart; None where none does."""
    done: set[int] = set()
    for start in every(root):
        trail: list[tuple[object, Iterator[tuple[object, str | None]]]] = []
        todo: tuple[object, str | None] | None = (start, None)
        while todo or trail:
            if todo:
                schema, by = todo
                todo = None
                if any(schema is seen for seen, _ in trail):
                    return by or next(ref for _, ref in _same_value(root, schema) if ref)
                if isinstance(schema, dict) and id(schema) not in done:
                    done.add(id(schema))
                    trail.append((schema, _same_value(root, schema)))
                continue
            todo = next(trail[-1][1], None)
            if todo is None:
                trail.pop()
    return None


def _same_value(root: object, schema: object) -> Iterator[tuple[object, str | None]]:
    """The schemas that are asked about the same value, each with the reference that leads there."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        with contextlib.suppress(ReferenceFault):
            yield target(root, schema["$ref"]), str(schema["$ref"])
    for name in ("allOf", "anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            yield from ((one, None) for one in schema[name])
    yield from ((schema[name], None) for name in ("not", "if", "then", "else") if name in schema)
    if isinstance(schema.get("dependentSchemas"), dict):
        yield from ((one, None) for one in schema["dependentSchemas"].values())


def every(root: object) -> Iterator[object]:
    """Every value in a schema, the schema first."""
    todo = [root]
    while todo:
        value = todo.pop()
        yield value
        if isinstance(value, dict):
            todo += reversed(value.values())
        elif isinstance(value, list):
            todo += reversed(value)
