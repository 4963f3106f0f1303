"""Two schemas that hold at the same time, as one.  Pure.

Owns the approximation that `steering` uses for allOf and for what stands beside anyOf: exact for types,
properties, required names, bounds, lengths and enums; where two keywords can't be joined the second counts.
"""

from __future__ import annotations

from typing import Any

_LARGER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_EACH = {"items", "additionalProperties", "unevaluatedProperties"}
_SMALLER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}


def merged(one: Any, other: Any) -> Any:
    """The schema of what conforms to both; False where nothing can."""
    if one is False or other is False:
        return False
    if not isinstance(one, dict) or not one:
        return other if isinstance(other, dict) else one
    if not isinstance(other, dict):
        return one
    found = dict(one)
    for name, value in other.items():
        found[name] = _joined(name, found[name], value) if name in found else value
    if found.get("type") == [] or found.get("enum") == []:
        return False
    _close(found, one, other)
    return found


def _joined(name: str, a: Any, b: Any) -> Any:
    if a == b:
        return a
    numbers = all(isinstance(value, int | float) for value in (a, b))
    if name in _LARGER and numbers:
        return max(a, b)
    if name in _SMALLER and numbers:
        return min(a, b)
    if name == "required" and isinstance(a, list) and isinstance(b, list):
        return [*a, *(item for item in b if item not in a)]
    if name == "enum" and isinstance(a, list) and isinstance(b, list):
        return [item for item in a if item in b]
    if name == "type":
        return _types(a, b)
    if name == "properties" and isinstance(a, dict) and isinstance(b, dict):
        return {**a, **{key: merged(a[key], b[key]) if key in a else b[key] for key in b}}
    if name in _EACH and all(isinstance(value, dict | bool) for value in (a, b)):
        return merged(a, b)
    if name in ("allOf",) and isinstance(a, list) and isinstance(b, list):
        return [*a, *b]
    return b


def _types(a: Any, b: Any) -> Any:
    first, second = ([value] if isinstance(value, str) else list(value) for value in (a, b))
    both = [kind for kind in first if kind in second]
    if {"number", "integer"} <= {*first, *second} and "integer" not in both and "number" not in both:
        both.append("integer")
    return both


def _close(found: dict[str, Any], one: dict[str, Any], other: dict[str, Any]) -> None:
    """A side that admits no further properties rules out those that only the other lists."""
    for closed, listing in ((one, other), (other, one)):
        closing = closed.get("additionalProperties") is False and not closed.get("patternProperties")
        if closing and isinstance(listing.get("properties"), dict):
            own = closed.get("properties") or {}
            foreign = {name: False for name in listing["properties"] if name not in own}
            found["properties"] = {**found["properties"], **foreign}
