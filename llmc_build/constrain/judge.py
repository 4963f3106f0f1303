"""Whether a finished answer is what was asked for.  Pure.

Owns the verdict: the text must be JSON (of no doubtful kind: no NaN, no name twice), must conform to the
schema by the library `jsonschema`, or must be of the grammar.  Nothing is fetched: the registry of schemas is
empty.  Patterns and formats are checked by definitions of our own, lest a verdict depend on what else is
installed, and multiples in decimals.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import jsonschema
import jsonschema.validators
import jsonschema_specifications
import referencing
import referencing.exceptions

from llmc_build.constrain import Output
from llmc_build.constrain.drafts import NEWEST, draft_of, without
from llmc_build.constrain.gbnf import read_grammar
from llmc_build.constrain.pattern import compiled, matches
from llmc_build.constrain.recognise import TooAmbiguous, recognises

MAX_DEPTH = 200  # of an answer
_SHOWN = 160  # characters of a value in a message


def verdict(output: Output, text: str) -> str | None:
    """Why a text is not of an output, in one line; None where it is."""
    if output["kind"] == "grammar":
        return _of_grammar(str(output["grammar"]), text)
    try:
        value = _parsed(text)
    except RecursionError:
        return "the answer is no JSON that can be checked: it is nested too deeply"
    except ValueError as error:
        return f"the answer is no JSON: {' '.join(str(error).split())}"
    if output["kind"] == "json":
        return (
            None if isinstance(value, dict | list) else "the answer is JSON, but neither an object nor a list"
        )
    return _of_schema(output["schema"], value)


def _parsed(text: str) -> Any:
    """A JSON value; raises ValueError, RecursionError."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the name {_short(twice)} stands twice in an object")
        return found

    return json.loads(text, parse_constant=refuse, object_pairs_hook=once)


def _of_schema(schema: Any, value: Any) -> str | None:
    try:
        error = next(validator(schema).iter_errors(value), None)
    except RecursionError:
        return "the answer can't be checked against the schema: it is nested too deeply"
    except referencing.exceptions.Unresolvable as missing:
        return f"the answer can't be checked: the schema refers to {_short(missing.ref)}, which is not there"
    if error is None:
        return None
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    message = " ".join(str(error.message).split())
    message = message if len(message) <= 2 * _SHOWN else message[: 2 * _SHOWN] + "…"
    return (
        f"the answer does not conform to the schema{' at ' + place.lstrip('.') if place else ''}: {message}"
    )


def _of_grammar(grammar: str, text: str) -> str | None:
    read, faults = read_grammar(grammar)
    if read is None:
        return f"the grammar can't be used: {faults[0]}"
    try:
        return None if recognises(read, text) else "the answer is not of the grammar"
    except TooAmbiguous:
        return "the answer can't be checked: the grammar has too many ways to read it"


_DRAFTS = {
    4: jsonschema.Draft4Validator,
    6: jsonschema.Draft6Validator,
    7: jsonschema.Draft7Validator,
    2019: jsonschema.Draft201909Validator,
    2020: jsonschema.Draft202012Validator,
}


def validator(schema: Any) -> Any:
    """The validator for a schema, by the draft that it names, else the newest."""
    return _validator(json.dumps(schema))


@functools.lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    schema = json.loads(text)
    base = _DRAFTS[draft_of(schema) or NEWEST]
    schema = without(schema, {"$schema"})  # where one stands, the library takes its own validator
    kind = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        base,
        {"pattern": _pattern, "patternProperties": _pattern_properties, "multipleOf": _multiple_of},
        format_checker=_FORMATS,
    )
    return kind(schema, format_checker=_FORMATS, registry=no_registry())


def no_registry() -> Any:
    """Knows the drafts of JSON Schema themselves, and fetches nothing."""
    return jsonschema_specifications.REGISTRY


# ---------------------------------------------------------------- patterns


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not matches(pattern, value):
        yield jsonschema.ValidationError(f"{_short(value)} does not match {_short(pattern)}")


def _multiple_of(validator: Any, step: float, value: Any, schema: Any) -> Iterator[Any]:
    """In decimals, as numbers are written: 19.99 is a multiple of 0.01, and no quotient of floats says so."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        exact = math.isfinite(value) and Fraction(str(value)) % Fraction(str(step)) == 0
        if not exact:
            yield jsonschema.ValidationError(f"{_short(value)} is not a multiple of {_short(step)}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any
) -> Iterator[Any]:
    if isinstance(value, dict):
        for pattern, subschema in patterns.items():
            for name, item in value.items():
                if matches(pattern, name):
                    yield from validator.descend(item, subschema, path=name, schema_path=pattern)


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"


# ---------------------------------------------------------------- formats

_FORMATS = jsonschema.FormatChecker(formats=())
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(\.\d+)?(Z|[+-](\d\d):(\d\d))", re.ASCII | re.IGNORECASE)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*")


def _is_date(text: str) -> bool:
    if _DATE.fullmatch(text) is None:
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    match = _TIME.fullmatch(text)
    if match is None:
        return False
    hour, minute, second, offset_hour, offset_minute = (int(match[i] or 0) for i in (1, 2, 3, 6, 7))
    return hour < 24 and minute < 60 and second <= 60 and offset_hour < 24 and offset_minute < 60


def _is_date_time(text: str) -> bool:
    return _is_date(text[:10]) and text[10:11] in ("T", "t", " ") and _is_time(text[11:])


def _is_address(kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _is_regex(text: str) -> bool:
    try:
        compiled(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


for _name, _check in {
    "date": _is_date,
    "time": _is_time,
    "date-time": _is_date_time,
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
    "email": lambda text: _EMAIL.fullmatch(text) is not None,
    "uri": lambda text: _URI.fullmatch(text) is not None,
    "ipv4": lambda text: _is_address(ipaddress.IPv4Address, text),
    "ipv6": lambda text: _is_address(ipaddress.IPv6Address, text),
    "regex": _is_regex,
}.items():
    _FORMATS.checks(_name)(lambda value, check=_check: not isinstance(value, str) or check(value))
