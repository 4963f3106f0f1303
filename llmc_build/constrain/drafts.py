"""Which draft of JSON Schema a schema is of, and which of its keywords hold schemas there.  Pure.

Owns what `$schema` means (its scheme does not matter, for both are about), where the schemas within a
schema are, and a schema without keywords that count for nothing.  What lies elsewhere, such as in a default
or under a name that means nothing, is data; it becomes a schema only by a reference that leads there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NEWEST = 2020
LAST_ALONE = 7  # the last draft where nothing counts beside $ref
_DRAFTS = {
    "json-schema.org/draft-04/schema": 4,
    "json-schema.org/draft-06/schema": 6,
    "json-schema.org/draft-07/schema": 7,
    "json-schema.org/draft/2019-09/schema": 2019,
    "json-schema.org/draft/2020-12/schema": 2020,
    "json-schema.org/schema": NEWEST,
}
_NAMES = frozenset([  # whose values have names of the author's choice, and behind each a schema
        "$defs", "definitions", "dependencies", "dependentRequired", "dependentSchemas",
        "patternProperties", "properties",
])  # fmt: skip
_HOLDING = _NAMES | {
    "additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "contentSchema", "else", "if",
    "items", "not", "oneOf", "prefixItems", "propertyNames", "then", "unevaluatedItems",
    "unevaluatedProperties",
}  # fmt: skip
_SINCE = {
    **dict.fromkeys(("const", "contains", "propertyNames"), 6),
    **dict.fromkeys(("if", "then", "else"), 7),
    **dict.fromkeys(("$defs", "contentSchema", "dependentSchemas"), 2019),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), 2019),
    "prefixItems": 2020,
}

Path = tuple[str | int, ...]


def draft_of(schema: object) -> int | None:
    """The number or the year of the draft, the newest where none is named; None where it is not known."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if named is None:
        return NEWEST
    address = str(named).removesuffix("#").removeprefix("https://").removeprefix("http://")
    return _DRAFTS.get(address)


def inner(schema: dict[str, Any], path: Path, draft: int) -> Iterator[tuple[object, Path]]:
    """The schemas directly in a schema, as far as its draft knows of them; lists of names are none."""
    for name, value in schema.items():
        if name not in _HOLDING or _SINCE.get(name, 0) > draft:
            continue
        if isinstance(value, list):
            yield from ((item, (*path, name, i)) for i, item in enumerate(value))
        elif name not in _NAMES:
            yield value, (*path, name)
        elif isinstance(value, dict):
            yield from (
                (item, (*path, name, key)) for key, item in value.items() if not isinstance(item, list)
            )


def understood(schema: Any) -> Any:
    """A schema without the keywords that its draft does not know."""
    draft = draft_of(schema) or NEWEST
    return without(schema, {name for name in ("const", "prefixItems") if _SINCE[name] > draft})


def without(value: Any, words: set[str], *, named: bool = False) -> Any:
    """A schema without some keywords, at any depth; names of properties and data are none."""
    if isinstance(value, list):
        return [without(item, words) for item in value]
    if not isinstance(value, dict) or not words:
        return value
    return {
        name: item if name in ("enum", "const") and not named else _next(name, item, words, named)
        for name, item in value.items()
        if named or name not in words
    }


def _next(name: str, item: Any, words: set[str], named: bool) -> Any:
    return without(item, words, named=not named and name in _NAMES)
