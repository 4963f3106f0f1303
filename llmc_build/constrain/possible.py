"""Schemas that nothing conforms to, found before a model is asked.  Pure.

Owns one question: is there certainly no value that conforms?  It looks at what contradicts itself: bounds,
lengths, counts, types, required names that are not allowed, values of an enum that the rest rules out,
branches of which none can be met, references that need themselves without an end.  A schema that it lets
through may be impossible nevertheless (`not`, `if`, formats and dependencies are not looked into): then the
verdict on the answer says so.

Theory of operation.  What must hold at the same time is a list of schemas, each with its place; nothing is
merged, so nothing is lost.  A value is finite: so a list that is met again while it is being looked at
has no value by that way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from llmc_build.constrain import SchemaFault
from llmc_build.constrain.drafts import LAST_ALONE, Path, understood
from llmc_build.constrain.pattern import widths
from llmc_build.constrain.references import ReferenceFault, References
from llmc_build.constrain.spans import TooMuch, is_number, no_number
from llmc_build.frozen import frozen

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MOST_LOOKS = 100_000  # schemas looked at, each as often as that happens
_CHECK = 100  # looks in whose time a check of values is made
_MOST_VALUES = 2_000  # of an enum
_PLAIN = frozenset({"type", "enum", "const", "minLength", "maxLength", "multipleOf"}) | {
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
}


@frozen
class _Part:
    """One of the schemas that hold at the same time."""

    schema: dict[str, Any]
    path: Path
    bare: bool = False  # its anyOf and oneOf are seen to elsewhere


@frozen
class _Why:
    path: Path
    text: str
    inner: bool = False  # it says already of what it is the reason

    def within(self, text: str, path: Path | None = None) -> _Why:
        """The reason of something that needs this; one step of the way is told, the innermost."""
        found = self.text if self.inner else f"{text}: {self.text}"
        return _Why(self.path if path is None else path, found, inner=True)


def impossible(schema: object) -> SchemaFault | None:
    """Why nothing conforms to a schema that is one by its meta-schema; None where something may."""
    try:
        schema = understood(schema)
        why = _Search(schema).why([(schema, ())])
    except (TooMuch, RecursionError):
        return None
    if why is None:
        return None
    return SchemaFault(path=why.path, message=f"nothing conforms to the schema: {why.text}")


class _Search:
    def __init__(self, root: object) -> None:
        self._references = References(root)
        self._draft = {"$schema": root["$schema"]} if isinstance(root, dict) and "$schema" in root else {}
        self._old = self._references.draft <= LAST_ALONE
        self._looks = 0
        self._checks: dict[int, Any] = {}  # schemas, by their identity
        self._open: set[frozenset[tuple[int, bool]]] = set()
        self._fine: set[frozenset[tuple[int, bool]]] = set()

    def why(self, schemas: Sequence[tuple[object, Path]], bare: Sequence[_Part] = ()) -> _Why | None:
        """Why no value conforms to all of some schemas."""
        parts = [*bare]
        for schema, path in schemas:
            never = self._flatten(schema, path, parts)
            if never is not None:
                return never
        if not parts:
            return None
        key = frozenset((id(part.schema), part.bare) for part in parts)
        if key in self._fine:
            return None
        if key in self._open:
            return _Why(parts[0].path, "it needs itself in every value, without an end")
        self._count(len(parts))
        self._open.add(key)
        found = self._look(parts)
        self._open.discard(key)
        if found is None:
            self._fine.add(key)
        return found

    def _count(self, looks: int) -> None:
        self._looks += looks
        if self._looks > _MOST_LOOKS:
            raise TooMuch

    def _flatten(self, schema: object, path: Path, parts: list[_Part]) -> _Why | None:
        """Adds a schema with what it refers to and its allOf."""
        todo = deque([(schema, path)])
        taken = {id(part.schema) for part in parts}
        self._count(len(parts))
        while todo:
            schema, path = todo.popleft()
            if schema is False:
                return _Why(path, "it is false")
            if not isinstance(schema, dict) or id(schema) in taken:
                continue
            taken.add(id(schema))
            self._count(1)
            if "$ref" in schema:
                try:
                    found, place = self._references.locate(schema["$ref"])
                except ReferenceFault:
                    raise TooMuch from None
                todo.append((found, (*path, "$ref") if found is False else place))
                if self._old:
                    continue
            parts.append(_Part(schema, path))
            todo += [(one, (*path, "allOf", i)) for i, one in enumerate(schema.get("allOf", []))]
        return None

    def _look(self, parts: Sequence[_Part]) -> _Why | None:
        for part in parts:
            if part.schema.get("not") in (True, {}) and "not" in part.schema:
                return _Why((*part.path, "not"), "every value is ruled out")
        listed = self._listed(parts)
        if listed is not None:
            return listed[0]
        return self._branches(parts) or self._types(parts)

    def _listed(self, parts: Sequence[_Part]) -> tuple[_Why | None] | None:
        """The outcome where values are listed: an enum or a const."""
        for part in parts:
            name = "const" if "const" in part.schema else "enum"
            if name not in part.schema:
                continue
            values = part.schema[name] if name == "enum" else [part.schema[name]]
            if len(values) > _MOST_VALUES or any(isinstance(value, dict | list) for value in values):
                return (None,)
            checks = [self._check(other.schema) for other in parts]
            for value in values:
                self._count(len(checks))
                if all(check.is_valid(value) for check in checks):
                    return (None,)
            which = "its value" if name == "const" else "each of its values"
            return (_Why((*part.path, name), f"{which} is ruled out by the rest"),)
        return None

    def _check(self, schema: dict[str, Any]) -> Any:
        from llmc_build.constrain import judge

        if id(schema) not in self._checks:
            self._count(_CHECK)
            self._checks[id(schema)] = judge.validator({**_plain(schema), **self._draft})
        return self._checks[id(schema)]

    def _branches(self, parts: Sequence[_Part]) -> _Why | None:
        """Why one of the choices has no branch that can be met."""
        others = [_Part(part.schema, part.path, bare=True) for part in parts]
        for part in parts:
            for name in ("anyOf", "oneOf"):
                if part.bare or not part.schema.get(name):
                    continue
                path = (*part.path, name)
                whys = [self.why([(one, (*path, i))], others) for i, one in enumerate(part.schema[name])]
                if whys[0] is not None and None not in whys:
                    return whys[0].within("no branch can be met", path)
        return None

    # ------------------------------------------------------------ types

    def _types(self, parts: Sequence[_Part]) -> _Why | None:
        kinds, said = list(_TYPES), False
        for part in parts:
            given = part.schema.get("type")
            if given is None:
                continue
            names = [given] if isinstance(given, str) else given
            left = [kind for kind in kinds if kind in names or (kind == "integer" and "number" in names)]
            if not left:
                wanted = " and ".join(dict.fromkeys([_or(kinds), _or(names)]))
                return _Why((*part.path, "type"), f"no value is {wanted} at once")
            kinds, said = left, True
        if not said or {"boolean", "null"} & {*kinds}:
            return None
        whys = [self._kind(kind, parts) for kind in kinds if kind != "integer" or "number" not in kinds]
        return None if None in whys else whys[0]

    def _kind(self, kind: str, parts: Sequence[_Part]) -> _Why | None:
        if kind in ("number", "integer"):
            return self._number(parts, whole=kind == "integer")
        return {"object": self._object, "array": self._array, "string": self._string}[kind](parts)

    def _number(self, parts: Sequence[_Part], *, whole: bool) -> _Why | None:
        found = no_number([(part.schema, part.path) for part in parts], whole=whole)
        return None if found is None else _Why(*found)

    def _string(self, parts: Sequence[_Part]) -> _Why | None:
        least, most, path = _counts(parts, "minLength", "maxLength")
        if most is not None and least > most:
            return _Why(path, f"no text has at least {least} and at most {most} characters")
        for part in parts:
            pattern = part.schema.get("pattern")
            found = widths(pattern) if isinstance(pattern, str) else None
            if found is None:
                continue
            if most is not None and found[0] > most:
                told = f"what matches has at least {found[0]} characters, and {most} are allowed"
                return _Why((*part.path, "pattern"), told)
            if found[1] is not None and found[1] < least:
                told = f"what matches has at most {found[1]} characters, and {least} are needed"
                return _Why((*part.path, "pattern"), told)
        return None

    def _array(self, parts: Sequence[_Part]) -> _Why | None:
        least, most, path = _counts(parts, "minItems", "maxItems")
        if most is not None and least > most:
            return _Why(path, f"no list has at least {least} and at most {most} items")
        heads = max((len(_heads(part.schema)) for part in parts), default=0)
        for index in range(min(least, heads + 1)):
            why = self.why(list(_items(parts, index)))
            if why is not None:
                return why.within(f"item {index} of {least} or more can't be")
        return None

    def _object(self, parts: Sequence[_Part]) -> _Why | None:
        least, most, path = _counts(parts, "minProperties", "maxProperties")
        needed = {
            name: (*part.path, "required")
            for part in parts
            if isinstance(part.schema.get("required"), list)
            for name in part.schema["required"]
        }
        if most is not None and max(least, len(needed)) > most:
            how = f"{least} properties" if least > most else f"{len(needed)} required properties"
            return _Why(path, f"no object has at least {how} and at most {most}")
        for name, place in needed.items():
            why = self._property(parts, name, place)
            if why is not None:
                return why
        for part in parts:
            schema = part.schema
            if schema.get("additionalProperties") is False and not schema.get("patternProperties"):
                allowed = sum(1 for value in schema.get("properties", {}).values() if value is not False)
                if allowed < least:
                    told = f"at least {least} properties must be there, and {allowed} are allowed"
                    return _Why((*part.path, "additionalProperties"), told)
        return None

    def _property(self, parts: Sequence[_Part], name: str, place: Path) -> _Why | None:
        schemas = list(_values(parts, name))
        if any(schema is False for schema, _ in schemas):
            return _Why(place, f"{name!r} is required, and not allowed")
        why = self.why(schemas) if schemas else None
        if why is not None:
            return why.within(f"{name!r} is required, and can't be")
        return None


def _counts(parts: Sequence[_Part], lower: str, upper: str) -> tuple[int, int | None, Path]:
    """The largest of the lower counts, the smallest of the upper ones, and where that stands."""
    least: int = 0
    most: int | None = None
    path: Path = ()
    for part in parts:
        low, high = part.schema.get(lower), part.schema.get(upper)
        if is_number(low) and low > least:
            least, path = int(low), (*part.path, lower) if most is None else path
        if is_number(high) and (most is None or high < most):
            most, path = int(high), (*part.path, upper)
    return least, most, path


def _heads(schema: dict[str, Any]) -> list[object]:
    items = schema.get("prefixItems", schema.get("items"))
    return items if isinstance(items, list) else []


def _items(parts: Sequence[_Part], index: int) -> Iterator[tuple[object, Path]]:
    """What holds for an item of a list."""
    for part in parts:
        schema, heads = part.schema, _heads(part.schema)
        if index < len(heads):
            name = "prefixItems" if "prefixItems" in schema else "items"
            yield heads[index], (*part.path, name, index)
            continue
        name = "additionalItems" if isinstance(schema.get("items"), list) else "items"
        if name in schema:
            yield schema[name], (*part.path, name)


def _values(parts: Sequence[_Part], name: str) -> Iterator[tuple[object, Path]]:
    """What holds for a property of an object."""
    for part in parts:
        schema, met = part.schema, False
        listed = schema.get("properties", {})
        if name in listed:
            met = True
            yield listed[name], (*part.path, "properties", name)
        if not met and "additionalProperties" in schema and not schema.get("patternProperties"):
            yield schema["additionalProperties"], (*part.path, "additionalProperties")


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema says of a single value at once; patterns could take for ever."""
    return {name: value for name, value in schema.items() if name in _PLAIN}


def _or(kinds: Sequence[str]) -> str:
    return " or ".join(kinds)
