"""Whether a JSON value is a JSON Schema that can be used.  Pure.

Owns what of JSON Schema is refused: what its own meta-schema refuses, references that lead nowhere or out of
the schema (nothing is ever fetched), and patterns that are no regular expressions.  jsonschema is imported
when the first schema is met.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from llmc_build.model import Json

MAX_SIZE = 1 << 20  # characters of a schema, as JSON
_DATA = frozenset({"const", "enum", "default", "examples", "$comment", "title", "description"})
_MOST = 300  # characters of a message


class Problem(NamedTuple):
    """What is wrong with a schema, and where in it."""

    text: str
    path: tuple[str | int, ...] = ()
    hint: str | None = None


def problem_of(schema: Json) -> Problem | None:
    """What is wrong with a schema, or None."""
    text = json.dumps(schema, sort_keys=True)
    if len(text) > MAX_SIZE:
        return Problem(f"it is larger than {MAX_SIZE >> 20} MiB")
    return _problem(text)


@functools.lru_cache(maxsize=256)
def _problem(text: str) -> Problem | None:
    schema = json.loads(text)
    from jsonschema.validators import Draft202012Validator, validator_for

    named = schema.get("$schema") if isinstance(schema, dict) else None
    kind = cast(Any, validator_for(schema, default=Draft202012Validator))
    if isinstance(named, str) and kind.META_SCHEMA.get("$id", "").rstrip("#") != named.rstrip("#"):
        hint = "leave it out: it is https://json-schema.org/draft/2020-12/schema then"
        return Problem(f"the dialect {_short(named)} is not known", ("$schema",), hint)
    try:
        error = next(iter(sorted(kind(kind.META_SCHEMA).iter_errors(schema), key=_depth)), None)
        if error is not None:
            return Problem(_short(error.message), tuple(error.absolute_path))
        return next(_own_problems(schema), None)
    except RecursionError:
        return Problem("it is nested too deeply")


def _depth(error: Any) -> tuple[int, str]:
    return -len(error.absolute_path), error.message


def _own_problems(schema: Json) -> Iterator[Problem]:
    for path, name, value in _keywords(schema, ()):
        if name in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
            if not value.startswith("#"):
                hint = 'write what it refers to under "$defs", and refer to it as "#/$defs/..."'
                yield Problem(f"{name} {_short(value)} leads out of the schema", (*path, name), hint)
            elif not _leads_somewhere(schema, value):
                yield Problem(f"{name} {_short(value)} leads nowhere", (*path, name))
        elif name == "pattern" and isinstance(value, str):
            yield from _pattern_problem(value, (*path, name))
        elif name == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                yield from _pattern_problem(pattern, (*path, name, pattern))


def _keywords(schema: Json, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str, Json]]:
    """(path of the schema, keyword, value) of a schema and all in it."""
    if isinstance(schema, list):
        for i, item in enumerate(schema):
            yield from _keywords(item, (*path, i))
    elif isinstance(schema, dict):
        for name, value in schema.items():
            yield path, name, value
            if name in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"):
                for key, inner in value.items() if isinstance(value, dict) else ():
                    yield from _keywords(inner, (*path, name, key))
            elif name not in _DATA:
                yield from _keywords(value, (*path, name))


def _leads_somewhere(schema: Json, reference: str) -> bool:
    """Whether a reference within the schema finds something: a place, or an anchor."""
    if not reference.startswith("#/"):
        name = reference[1:]
        anchors = ("$anchor", "$dynamicAnchor")
        return not name or any(n in anchors and v == name for _, n, v in _keywords(schema, ()))
    found: Json = schema
    for part in reference[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isascii() and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return False
    return isinstance(found, dict | bool)


def _pattern_problem(pattern: str, path: tuple[str | int, ...]) -> Iterator[Problem]:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield Problem(f'the pattern "{_short(pattern)}" is no regular expression: {error}', path)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST else line[: _MOST - 3] + "..."
