"""`$ref` within one schema.  Pure.

Owns what a reference means: a JSON pointer (`#/$defs/item`), `#`, or an anchor (`#name`) of the same schema,
and which schemas there are, those that only a reference makes one included.  Nothing is ever fetched: a
reference that leads elsewhere is a fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from llmc_build.constrain.drafts import NEWEST, Path, draft_of, inner
from llmc_build.frozen import frozen

MAX_DEPTH = 64  # of a schema


class ReferenceFault(Exception):
    """A reference that means nothing here.  One line."""


@frozen
class Place:
    """A schema and where it is; the meta-schema sees it there, or it is part of a schema that is `apart`."""

    schema: dict[str, Any]
    path: Path


class References:
    """What the references of a schema mean.  It must not change meanwhile."""

    def __init__(self, root: object) -> None:
        self._root = root
        self.draft = draft_of(root) or NEWEST
        self._named: dict[str, tuple[object, Path]] | None = None

    def target(self, reference: object) -> object:
        """What a reference means; raises ReferenceFault."""
        return self.locate(reference)[0]

    def locate(self, reference: object) -> tuple[object, Path]:
        """What a reference means, and where that is; raises ReferenceFault."""
        if not isinstance(reference, str):
            raise ReferenceFault("a reference is a text")
        if not reference.startswith("#"):
            raise ReferenceFault(f"{reference!r} lies outside of this schema, and nothing is fetched")
        pointer = unquote(reference[1:])
        if pointer.startswith("/"):
            return _at(self._root, pointer, reference)
        if not pointer:
            return self._root, ()
        if self._named is None:
            self._named = self._anchors()
        if pointer not in self._named:
            raise ReferenceFault(f"{reference!r} is no anchor of this schema")
        return self._named[pointer]

    def of(self, schema: dict[str, Any]) -> Iterator[tuple[str, object]]:
        """The references of one schema, each with its keyword."""
        for name in ("$ref", "$dynamicRef") if self.draft == NEWEST else ("$ref",):
            if name in schema:
                yield name, schema[name]

    def schemas(self) -> tuple[list[Place], list[Place]]:
        """Every schema; and of those that are one by references alone, the outermost."""
        found: dict[int, Place] = {}
        apart: dict[int, Place] = {}
        references: list[object] = []
        todo: list[tuple[object, Path, bool]] = [(self._root, (), False)]
        while todo:
            schema, path, alone = todo.pop()
            if not alone:
                apart.pop(id(schema), None)
            if isinstance(schema, dict) and id(schema) not in found:
                found[id(schema)] = place = Place(schema, path)
                if alone:
                    apart[id(schema)] = place
                below = [(one, where, False) for one, where in inner(schema, path, self.draft)]
                todo += reversed(below)
                references += [reference for _, reference in self.of(schema)]
            while references and not todo:
                with contextlib.suppress(ReferenceFault):
                    todo.append((*self.locate(references.pop()), True))
        return list(found.values()), list(apart.values())

    def _anchors(self) -> dict[str, tuple[object, Path]]:
        words = {2020: ("$anchor", "$dynamicAnchor"), 2019: ("$anchor",), 4: ("id",)}.get(
            self.draft, ("$id",)
        )
        found: dict[str, tuple[object, Path]] = {}
        todo: list[tuple[object, Path]] = [(self._root, ())]
        while todo:
            schema, path = todo.pop()
            if isinstance(schema, dict):
                todo += reversed(list(inner(schema, path, self.draft)))
                names = [schema[word] for word in words if isinstance(schema.get(word), str)]
                if self.draft < 2019:  # where an anchor is an address without a document
                    names = [name[1:] for name in names if name.startswith("#")]
                for name in names:
                    found.setdefault(name, (schema, path))
        return found


def _at(root: object, pointer: str, reference: str) -> tuple[object, Path]:
    found, path = root, list[str | int]()
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
            path.append(name)
        elif isinstance(found, list) and name.isascii() and name.isdigit() and _index(name) < len(found):
            found = found[_index(name)]
            path.append(_index(name))
        else:
            raise ReferenceFault(f"{reference!r} leads nowhere in this schema")
    return found, tuple(path)


def _index(digits: str) -> int:
    return int(digits[:18])


def endless(references: References, places: Iterable[Place]) -> str | None:
    """A reference that comes back to itself before a value is taken apart; None where none does.

    `places`: every schema there is.
    """
    done: set[int] = set()
    for start in places:
        trail: list[tuple[object, Iterator[tuple[object, str | None]]]] = []
        above: set[int] = set()  # those on the trail
        todo: tuple[object, str | None] | None = (start.schema, None)
        while todo or trail:
            if todo:
                schema, by = todo
                todo = None
                if id(schema) in above:
                    return by or next(ref for _, ref in _same_value(references, schema) if ref)
                if isinstance(schema, dict) and id(schema) not in done:
                    done.add(id(schema))
                    above.add(id(schema))
                    trail.append((schema, _same_value(references, schema)))
                continue
            todo = next(trail[-1][1], None)
            if todo is None:
                above.discard(id(trail.pop()[0]))
    return None


def _same_value(references: References, schema: object) -> Iterator[tuple[object, str | None]]:
    """The schemas that are asked about the same value, each with the reference that leads there."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        with contextlib.suppress(ReferenceFault):
            yield references.target(schema["$ref"]), str(schema["$ref"])
    for name in ("allOf", "anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            yield from ((one, None) for one in schema[name])
    yield from ((schema[name], None) for name in ("not", "if", "then", "else") if name in schema)
    for name in ("dependentSchemas", "dependencies"):
        if isinstance(schema.get(name), dict):
            yield from ((one, None) for one in schema[name].values())
