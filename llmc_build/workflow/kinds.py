"""Kinds of values: what a field of YAML may hold, how it is read, and its JSON Schema.  Pure.

Owns the kinds that are one scalar, and the wording of "must be this, not that".  Lists and mappings
are `compound`; which fields there are, and of what kind, is `fields` and `config`.

A kind's `read` always gives a value: what is wrong goes to the `Site`, and a file with faults gives
no workflow, so the value it gives then is never seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from llmc_build.errors import did_you_mean
from llmc_build.frozen import frozen
from llmc_build.model import Json, Sandbox
from llmc_build.workflow.nodes import NULLS, Entry, Faults, Map, Node, Scalar, Seq, shown

Schema = dict[str, Json]


class Site(Faults):
    """The faults of a file, and whose fields are being read."""

    owner = ""  # 'step "b"', for messages

    def fault(self, headline: str, node: Node | Entry, hint: str | None = None) -> None:
        self.add(headline, node.line, node.column, hint=hint)

    def wrong(self, field: str, node: Node, wanted: str, hint: str | None = None) -> None:
        """A value is not what its field wants."""
        if isinstance(node, Scalar) and node.is_null and not node.text:
            self.fault(f"{self.called(field)} has no value; it must be {wanted}", node, hint)
        else:
            self.fault(f"{self.called(field)} must be {wanted}, not {described(node)}", node, hint)

    def called(self, field: str) -> str:
        return f'"{field}" of {self.owner}' if self.owner else f'"{field}"'

    def unknown(self, name: str, entry: Entry, known: Iterable[str], hint: str | None = None) -> None:
        """A field that nothing reads."""
        of = f" of {self.owner}" if self.owner else ""
        near = did_you_mean(name, known) if len(name) <= 64 else None
        self.fault(f'unknown field "{shown(name)}"{of}', entry, hint or near)


Reader = Callable[[Site, str, Node], Any]


@frozen(kw_only=True)
class Kind:
    """What a field may hold."""

    read: Reader
    schema: Schema


def described(node: Node) -> str:
    """What a node is, in the words of a message."""
    if isinstance(node, Map):
        return "a mapping"
    if isinstance(node, Seq):
        return "a list"
    if node.is_null:
        return "null" if node.text else "nothing"
    return f'the text "{shown(node.text)}"' if isinstance(node.value, str) else shown(node.text)


# ---------------------------------------------------------------- texts

ANY_TEXT: list[Json] = ["string", "number", "boolean"]  # plain numbers and booleans count as they are written


def text_of(site: Site, field: str, node: Node, wanted: str = "a text") -> str:
    """A scalar as it is written: `command: true` is the command true."""
    if isinstance(node, Scalar) and (node.style or node.text not in NULLS):  # `is_null`, said faster
        return node.text
    hint = 'give it a value, or remove it; an empty text is written ""'
    site.wrong(field, node, wanted, hint if isinstance(node, Scalar) else None)
    return ""


def _filled(site: Site, field: str, node: Node) -> str:
    text = text_of(site, field, node)
    if (not text or text.isspace()) and isinstance(node, Scalar) and not node.is_null:
        site.fault(f"{site.called(field)} is empty", node)
    return text


def _optional_text(site: Site, field: str, node: Node) -> str | None:
    return None if isinstance(node, Scalar) and node.is_null else text_of(site, field, node)


def _remark(site: Site, field: str, node: Node) -> str:
    return _optional_text(site, field, node) or ""


TEXT = Kind(read=text_of, schema={"type": ANY_TEXT})
FILLED = Kind(read=_filled, schema={"type": ANY_TEXT, "pattern": r"\S"})
OPTIONAL_TEXT = Kind(read=_optional_text, schema={"type": [*ANY_TEXT, "null"]})
REMARK = Kind(read=_remark, schema=OPTIONAL_TEXT.schema)  # nothing is the empty text


def _condition(site: Site, field: str, node: Node) -> str:
    text = _filled(site, field, node)
    return text.lower() if isinstance(node, Scalar) and isinstance(node.value, bool) else text


CONDITION = Kind(read=_condition, schema=FILLED.schema)


# ---------------------------------------------------------------- names

NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")  # of steps and workflows; the limit is a folder's name
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TARGET = re.compile(r"(?:[A-Za-z0-9_-]+\.)?[A-Za-z0-9_-]+")  # without a workflow: a step of the same one

_NAME_RULE = "letters, digits, _ and - (200 at most)"
VARIABLE_RULE = "letters, digits, _ and -, beginning with a letter or _"
ENV_RULE = "letters, digits and _, beginning with a letter or _"


def matching(pattern: re.Pattern[str], rule: str) -> Reader:
    """A reader of texts that consist of what `rule` says."""
    fits = pattern.fullmatch

    def read(site: Site, field: str, node: Node) -> str:
        text = text_of(site, field, node)
        if fits(text) is None and isinstance(node, Scalar) and not node.is_null:
            site.fault(
                f'{site.called(field)} must consist of {rule}, not "{shown(text)}"',
                node,
                cleaned(text, pattern),
            )
        return text

    return read


def cleaned(text: str, pattern: re.Pattern[str]) -> str | None:
    """A hint with the name that a text could have been."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_" if pattern is ENV_NAME else "-", text.strip()[:200]).strip("-")
    return f'"{name}" would do' if pattern.fullmatch(name) else None


def name_schema(pattern: re.Pattern[str], *types: str) -> Schema:
    return {"type": ["string", *types], "pattern": f"^{pattern.pattern}$"}


NAMED = Kind(read=matching(NAME, _NAME_RULE), schema=name_schema(NAME, "number", "boolean"))
_read_variable = matching(VARIABLE, VARIABLE_RULE)


def _optional_variable(site: Site, field: str, node: Node) -> str | None:
    return None if isinstance(node, Scalar) and node.is_null else _read_variable(site, field, node)


OPTIONAL_VARIABLE = Kind(read=_optional_variable, schema=name_schema(VARIABLE, "boolean", "null"))


def one_of(*words: str) -> Kind:
    """A kind that is one of some words."""

    def read(site: Site, field: str, node: Node) -> str:
        text = text_of(site, field, node)
        if text not in words and isinstance(node, Scalar) and not node.is_null:
            hint = did_you_mean(text, words) if len(text) <= 64 else None
            site.wrong(field, node, " or ".join(f'"{word}"' for word in words), hint)
        return text

    return Kind(read=read, schema={"enum": list(words)})


# ---------------------------------------------------------------- numbers and switches


def number(
    wanted: str,
    low: float = 0,
    high: float = math.inf,
    *,
    whole: bool = False,
    optional: bool = False,
) -> Kind:
    """A kind of numbers from `low` to `high`; an optional one may be null."""
    types: tuple[type, ...] = (int,) if whole else (int, float)

    def read(site: Site, field: str, node: Node) -> float | None:
        value = node.value if isinstance(node, Scalar) else None
        if value is None and optional and isinstance(node, Scalar):
            return None
        if type(value) not in types or not low <= value < math.inf or value > high:  # type: ignore[operator]
            site.wrong(field, node, wanted, _number_hint(node))
            return None
        return int(value) if whole else float(value)  # type: ignore[arg-type]

    schema: Schema = {
        "type": ["integer" if whole else "number", *(["null"] if optional else [])],
        "minimum": low,
    }
    return Kind(read=read, schema=schema if high == math.inf else {**schema, "maximum": high})


def _number_hint(node: Node) -> str | None:
    if (
        isinstance(node, Scalar)
        and node.style
        and isinstance(Scalar(node.text[:30], 0, 0).value, int | float)
    ):
        return "remove the quotes"
    return None


NOT_BOOLS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def _boolean(site: Site, field: str, node: Node) -> bool:
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, bool):
        return value
    text = node.text.lower() if isinstance(node, Scalar) else ""
    hint = f"write {NOT_BOOLS[text]}" if text in NOT_BOOLS else None
    site.wrong(field, node, "true or false", "remove the quotes" if text in ("true", "false") else hint)
    return False


def _optional_boolean(site: Site, field: str, node: Node) -> bool | None:
    return None if isinstance(node, Scalar) and node.is_null else _boolean(site, field, node)


def _sandbox(site: Site, field: str, node: Node) -> Sandbox:
    if isinstance(node, Scalar):
        if isinstance(node.value, bool):
            return node.value
        if node.text == "strict":
            return "strict"
    text = node.text.lower() if isinstance(node, Scalar) else ""
    hint = f"write {NOT_BOOLS[text]}" if text in NOT_BOOLS else None
    hint = "remove the quotes" if text in ("true", "false") else hint or did_you_mean(text[:64], ["strict"])
    site.wrong(field, node, "true, false or strict", hint)
    return True


BOOLEAN = Kind(read=_boolean, schema={"type": "boolean"})
SANDBOX = Kind(read=_sandbox, schema={"enum": [True, False, "strict"]})
OPTIONAL_BOOLEAN = Kind(read=_optional_boolean, schema={"type": ["boolean", "null"]})

_AMOUNT = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(  # white space only behind an amount, so that there is one way to match it
    "".join(rf"(?:({_AMOUNT}){unit}\s*)?" for unit in ("d", "h", "m(?!s)", "s", "ms"))
)
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_LONGEST_S = 1e9  # 31 years; clocks overflow not far above
_DURATION_WANTED = 'a time: a number of seconds, or a text such as "10s", "2m", "1h30m" or "500ms"'


def duration_of(site: Site, field: str, node: Node) -> float | None:
    if isinstance(node, Scalar):
        if node.is_null or node.text.strip() in ("none", "None"):
            return None
        seconds = _seconds(node)
        if seconds is not None and 0 <= seconds <= _LONGEST_S:
            return seconds or None
    negative = isinstance(node, Scalar) and node.text.startswith("-")
    site.wrong(field, node, _DURATION_WANTED, "0 or none is no limit" if negative else None)
    return None


def _seconds(node: Scalar) -> float | None:
    value = node.value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = node.text.strip()
    if re.fullmatch(_AMOUNT, text):
        return float(text)
    found = _DURATION.fullmatch(text) if text else None
    if found is None:
        return None
    return sum(float(amount) * unit for amount, unit in zip(found.groups(), _UNITS_S, strict=True) if amount)


DURATION = Kind(
    read=duration_of,
    schema={
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": _LONGEST_S},
            {"type": "string", "pattern": rf"^\s*(?=\S)(?:{_AMOUNT}|{_DURATION.pattern}|[Nn]one)\s*$"},
            {"type": "null"},
        ]
    },
)
