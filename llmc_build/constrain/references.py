"""`$ref` within one schema.  Pure.

Owns what a reference means: a JSON pointer (`#/$defs/item`), `#`, or an anchor (`#name`) of the same schema.
Nothing is ever fetched: a reference that leads elsewhere is a fault.
"""

from __future__ import annotations

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
