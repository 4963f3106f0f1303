"""Reaching into a JSON value: `{{ step.items[0].name }}`.  Pure.

Owns what a path is and what it leads to: in a value (`extract`), and in every value that a JSON Schema allows
(`why_not`).  How a path is written in a reference is `placeholder`'s.

A path is a tuple of names and numbers; a negative number counts from the end.  What it leads to is bytes:
a string as it is, and anything else as JSON, its numbers as they were written, whatever their size.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from llmc_build.model import Json

Path: TypeAlias = tuple[str | int, ...]

MAX_SIZE = 64 << 20  # bytes of a value that is reached into
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 60  # characters of a value that a message quotes
_MOST_STEPS = 2000  # references and alternatives of a schema that are looked at for one path
_MOST_DEEP = 60  # of them within each other: a reference may lead to itself


class PathError(ValueError):
    """What a path does not lead to.  One line; it continues "{{ reference }}: "."""


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


def text_of(path: Path) -> str:
    """A path as it is written behind a name: `.items[0]["first name"]`."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" if _PLAIN.fullmatch(part) else f'["{part}"]'
        for part in path
    )


def extract(value: bytes, path: Path) -> bytes:
    """What a path leads to in a value.  Raises PathError."""
    found = _parsed(value)
    for i, part in enumerate(path):
        found = _inside(found, part, path, i)
    try:
        text = found if type(found) is str else "".join(_written(found))
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise PathError("the value holds half a surrogate pair, which is no text") from None
    except RecursionError:
        raise PathError("the value is nested too deeply") from None


@functools.lru_cache(maxsize=4)  # several references into one value follow each other
def _parsed(value: bytes) -> Any:
    if len(value) > MAX_SIZE:
        raise PathError(f"the value has more than {MAX_SIZE >> 20} MiB, too much to reach into")
    try:
        text = value.decode("utf-8")
        return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise PathError("the value is not JSON: it is not UTF-8") from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise PathError("the value is not JSON: it is empty") from None
        where = f"line {error.lineno}, column {error.colno}"
        raise PathError(f"the value is not JSON ({error.msg}, {where}): {_short(text)}") from None
    except RecursionError:
        raise PathError("the value is nested too deeply") from None


def _no_constant(word: str) -> None:
    raise PathError(f"the value is not JSON: it holds {word}")


def _inside(value: Any, part: str | int, path: Path, i: int) -> Any:
    """The field or entry `path[i]` of a value to which the path led so far."""
    if isinstance(part, str) and isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(part, int) and isinstance(value, list) and -len(value) <= part < len(value):
        return value[part]
    at = f"the value{text_of(path[:i])}"
    if isinstance(part, str):
        if not isinstance(value, dict):
            raise PathError(f'{at} is {_kind(value)} and has no field "{part}": {_short(_dumped(value))}')
        known = ", ".join(_short(name) for name in list(value)[:8]) or "no fields"
        raise PathError(f'{at} has no field "{part}"; it has {known}')
    if not isinstance(value, list):
        raise PathError(f"{at} is {_kind(value)} and has no entry {part}: {_short(_dumped(value))}")
    raise PathError(f"{at} has no entry {part}; it has {len(value)}")


def _kind(value: Any) -> str:
    if isinstance(value, _Number):
        return "a number"
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return kinds.get(type(value), "null")


def _dumped(value: Any) -> str:
    try:
        return "".join(_written(value))
    except RecursionError:
        return "..."


def _written(value: Any) -> Iterator[str]:
    """JSON on one line, in pieces."""
    if isinstance(value, _Number):
        yield value
    elif isinstance(value, dict):
        yield "{"
        for i, (name, item) in enumerate(value.items()):
            yield f"{', ' if i else ''}{json.dumps(name, ensure_ascii=False)}: "
            yield from _written(item)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for i, item in enumerate(value):
            if i:
                yield ", "
            yield from _written(item)
        yield "]"
    else:
        yield json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


# ---------------------------------------------------------------- what a schema allows


def why_not(schema: Json, path: Path) -> str | None:
    """Why no value that the schema allows has this path; None where one may have it.

    It errs on one side: what it does not understand (conditions, negations) may be there.
    """
    return _Reach(schema).why_not(schema, path, 0)


class _Reach:
    """One question to a schema."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._steps = 0  # a schema of many alternatives must not take for ever
        self._deep = 0

    def why_not(self, schema: Json, path: Path, at: int) -> str | None:
        self._steps += 1
        if at == len(path) or self._steps > _MOST_STEPS or self._deep > _MOST_DEEP:
            return None
        self._deep += 1
        why = self._checked(schema, path, at)
        self._deep -= 1
        return why

    def _checked(self, schema: Json, path: Path, at: int) -> str | None:
        if schema is False:
            return f"the schema allows no value{text_of(path[:at])}"
        if not isinstance(schema, dict):
            return None
        checks = (self._by_type, self._by_value, self._by_child, self._by_reference, self._by_group)
        return next((why for check in checks if (why := check(schema, path, at)) is not None), None)

    def _by_type(self, schema: Mapping[str, Json], path: Path, at: int) -> str | None:
        listed = schema.get("type")
        types = [listed] if isinstance(listed, str) else listed
        wanted = "object" if isinstance(path[at], str) else "array"
        if not isinstance(types, list) or wanted in types:
            return None
        is_a = " or ".join(map(str, types))
        return f"by its schema the value{text_of(path[:at])} is of type {is_a}, {_has_no(path[at])}"

    def _by_value(self, schema: Mapping[str, Json], path: Path, at: int) -> str | None:
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if not isinstance(values, list) or any(_has(value, path[at:]) for value in values):
            return None
        return f"none of the values of the schema has{text_of(path[at:])}"

    def _by_child(self, schema: Mapping[str, Json], path: Path, at: int) -> str | None:
        part = path[at]
        where = f"the value{text_of(path[:at])}"
        if isinstance(part, str):
            return self._by_field(schema, part, where, path, at)
        most = schema.get("maxItems")
        place = part if part >= 0 else None  # which entry a negative number means is not known
        if isinstance(most, int | float) and (part >= most if part >= 0 else -part > most):
            return f"by its schema {where} has at most {most:g} entries, and no entry {part}"
        first = schema.get("prefixItems")
        if isinstance(first, list) and place is not None and place < len(first):
            return self.why_not(first[place], path, at + 1)
        rest = schema.get("items")
        if place is None and isinstance(first, list):
            options = [*first, True if rest is None else rest]
            return self._by_any(options, path, at + 1)
        if isinstance(rest, list):  # the form of older drafts
            return (
                self.why_not(rest[place], path, at + 1) if place is not None and place < len(rest) else None
            )
        if rest is False:
            return f"by its schema {where} has no entry {part}"
        return None if rest is None else self.why_not(rest, path, at + 1)

    def _by_field(self, schema: Mapping[str, Json], part: str, where: str, path: Path, at: int) -> str | None:
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        patterns = schema.get("patternProperties")
        matching = [s for p, s in patterns.items() if _matches(p, part)] if isinstance(patterns, dict) else []
        found = [known[part]] if part in known else []
        if found or matching:
            whys = (self.why_not(one, path, at + 1) for one in (*found, *matching))
            return next((why for why in whys if why is not None), None)
        others = schema.get("additionalProperties")
        if others is False:
            names = ", ".join(list(known)[:8]) or "no fields"
            return f'by its schema {where} has no field "{part}"; it has {names}'
        return None if others is None else self.why_not(others, path, at + 1)

    def _by_reference(self, schema: Mapping[str, Json], path: Path, at: int) -> str | None:
        reference = schema.get("$ref")
        target = _resolved(self._root, reference) if isinstance(reference, str) else None
        return None if target is None else self.why_not(target, path, at)

    def _by_group(self, schema: Mapping[str, Json], path: Path, at: int) -> str | None:
        every = schema.get("allOf")
        if isinstance(every, list):
            why = next((why for one in every if (why := self.why_not(one, path, at)) is not None), None)
            if why is not None:
                return why
        for name in ("anyOf", "oneOf"):
            group = schema.get(name)
            if isinstance(group, list) and group:
                why = self._by_any(group, path, at)
                if why is not None:
                    return why
        return None

    def _by_any(self, options: Iterable[Json], path: Path, at: int) -> str | None:
        """The first reason, where every alternative has one."""
        whys: list[str] = []
        for option in options:
            why = self.why_not(option, path, at)
            if why is None:
                return None
            whys.append(why)
        return whys[0] if whys else None


def _has_no(part: str | int) -> str:
    return f'which has no field "{part}"' if isinstance(part, str) else f"which has no entry {part}"


def _has(value: Json, path: Path) -> bool:
    for part in path:
        inside = (isinstance(part, str) and isinstance(value, dict) and part in value) or (
            isinstance(part, int) and isinstance(value, list) and -len(value) <= part < len(value)
        )
        if not inside:
            return False
        value = value[part]  # type: ignore[index]
    return True


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True


def _resolved(root: Json, reference: str) -> Json:
    """What a reference within the schema means; None where that is not easily told."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    found = root
    for part in reference[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isascii() and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found
