"""A JSON Schema as a grammar: what keeps a model on the way to an answer that conforms.  Pure.

Owns the translation.  The grammar admits JSON only, and as much of the schema as a grammar can say: types,
properties in the order of the schema, required ones, enums, bounds of whole numbers, lengths, patterns,
formats, items, local references (recursive ones too), anyOf, oneOf and allOf.  What it can't say it leaves
out, so it may admit too much; whoever uses it asks `judge` in the end.  In one case it admits less than the
schema: an object that lists its properties gets no others unless `additionalProperties` asks for them,
since a model that may invent keys does.

A part that is too large or too strange for a grammar becomes `value`, any JSON.  If the whole grammar can't
be used nevertheless, it is that of any JSON value.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmc_build.constrain import literals, merging
from llmc_build.constrain.drafts import LAST_ALONE, understood
from llmc_build.constrain.fitting import fits
from llmc_build.constrain.gbnf import read_grammar
from llmc_build.constrain.literals import COMMON, VALUE, json_literal
from llmc_build.constrain.numbers import number_grammar
from llmc_build.constrain.pattern import string_grammar
from llmc_build.constrain.references import ReferenceFault, References

MAX_COUNT = 500  # of characters or items that a grammar counts
MAX_CHOICES = 2000  # of an enum
MAX_RULES = 5000
MAX_MATCHED = 500  # names with patterns
MAX_PAIRS = 64  # of branches of two unions
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_FORMATS = {
    "date": 'year "-" month-day',
    "time": "clock",
    "date-time": 'year "-" month-day "T" clock',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
    "ipv4": 'byte "." byte "." byte "." byte',
}
_FORMAT_PATTERNS = {
    "email": r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,4}$",
    "uri": r"^[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+$",
    "ipv6": r"^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$",
}
_FORMAT_RULES = {
    "year": '[1-9] [0-9]{3} | "0" [1-9] [0-9]{2} | "00" [1-9] [0-9] | "000" [1-9]',
    "month-day": '("01" | "03" | "05" | "07" | "08" | "10" | "12") "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("04" | "06" | "09" | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8])',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
    ' ("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "byte": '"25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9]',
}


def steer(schema: object) -> str:
    """The grammar for a schema that was checked; for None, of any JSON object or array."""
    return _steer(json.dumps(schema))


@functools.lru_cache(maxsize=256)
def _steer(text: str) -> str:
    schema = understood(json.loads(text))
    if schema is None:
        return _complete({"root": "object | array"})
    made = _Steering(schema)
    try:
        made.rules["root"] = made.visit(schema)
    except (_TooMuch, RecursionError):
        return _complete({"root": VALUE})
    grammar = _complete(made.rules)
    return grammar if not read_grammar(grammar)[1] else _complete({"root": VALUE})


def _complete(rules: Mapping[str, str]) -> str:
    """The rules with those that every JSON grammar may need; unused ones do no harm."""
    return "".join(f"{name} ::= {body}\n" for name, body in {**rules, **COMMON, **_FORMAT_RULES}.items())


class _TooMuch(Exception):
    pass


class _Steering:
    def __init__(self, root: object) -> None:
        self._references = References(root)
        self._known: dict[str, str] = {}  # a schema, as text -> the rule for it
        self.rules: dict[str, str] = {}

    def rule(self, schema: object) -> str:
        """The name of a rule for a schema; equal schemas share one, which also ends recursion."""
        if schema is True or schema == {}:
            return VALUE
        text = json.dumps(schema, sort_keys=False)
        name = self._known.get(text)
        if name is None:
            name = self._known[text] = f"r{len(self._known)}"
            if len(self._known) > MAX_RULES:
                raise _TooMuch
            self.rules[name] = self.visit(schema)
        return name

    def visit(self, schema: object) -> str:
        """The body of a rule for a schema."""
        if not isinstance(schema, dict):
            return VALUE
        if "$ref" in schema:
            return self._reference(schema)
        for keyword in ("allOf", "anyOf", "oneOf"):
            if isinstance(schema.get(keyword), list) and schema[keyword]:
                return self._combined(schema, keyword)
        if "const" in schema:
            return json_literal(schema["const"])
        if isinstance(schema.get("enum"), list):
            return self._enum(schema)
        return " | ".join(self._type(kind, schema) for kind in _types_of(schema)) or VALUE

    # ------------------------------------------------------------ combinations

    def _reference(self, schema: dict[str, Any]) -> str:
        try:
            found = self._references.target(schema["$ref"])
        except ReferenceFault:
            return VALUE
        rest = self._beside(schema)
        if rest and isinstance(found, dict):
            if "$ref" in found:
                return self.rule(found)
            return self.rule(merging.merged(rest, found))
        return self.rule(found)

    def _combined(self, schema: dict[str, Any], keyword: str) -> str:
        rest = {name: value for name, value in schema.items() if name != keyword}
        branches = [self._resolved(branch) for branch in schema[keyword]]
        if keyword == "allOf":
            return self.visit(functools.reduce(self._both, branches, rest))
        merged = [merging.merged(rest, branch) for branch in branches]
        return " | ".join(dict.fromkeys(self.rule(one) for one in merged if one is not False)) or VALUE

    def _beside(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """What is said beside a reference; in old drafts that counts for nothing."""
        if self._references.draft <= LAST_ALONE:
            return {}
        return {name: value for name, value in schema.items() if name not in _REFERENCE_ASIDES}

    def _both(self, one: Any, other: Any) -> Any:
        """Two schemas as one; of two unions, the pairs of their branches where those are not too many."""
        for name in ("anyOf", "oneOf"):
            unions = [side.get(name) if isinstance(side, dict) else None for side in (one, other)]
            first, second = (union if isinstance(union, list) else [] for union in unions)
            if first != second and 0 < len(first) * len(second) <= MAX_PAIRS:
                pairs = [merging.merged(self._resolved(a), self._resolved(b)) for a in first for b in second]
                one = {**one, name: [pair for pair in pairs if pair is not False] or first}
                other = {key: value for key, value in other.items() if key != name}
        return merging.merged(one, other)

    def _resolved(self, schema: object) -> object:
        """A schema that can be merged with another: what a reference means, and what is beside it."""
        rest: Any = {}
        for _ in range(32):
            if not (isinstance(schema, dict) and "$ref" in schema):
                return merging.merged(rest, schema) if rest else schema
            rest = merging.merged(rest, self._beside(schema))
            try:
                schema = self._references.target(schema["$ref"])
            except ReferenceFault:
                return True
        return True

    def _enum(self, schema: dict[str, Any]) -> str:
        kinds = _types_of(schema) if "type" in schema else _TYPES
        fitting = [value for value in schema["enum"] if any(_is(value, kind) for kind in kinds)]
        if not fitting or len(fitting) > MAX_CHOICES:
            return VALUE
        return " | ".join(dict.fromkeys(map(json_literal, fitting)))

    # ------------------------------------------------------------ types

    def _type(self, kind: str, schema: dict[str, Any]) -> str:
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind in ("integer", "number"):
            body, rules = number_grammar(kind, schema)
            self.rules.update(rules)
            return f"({body})"
        return kind

    def _string(self, schema: dict[str, Any]) -> str:
        pattern, form = schema.get("pattern"), str(schema.get("format"))
        inside = self._matching(pattern, schema) if isinstance(pattern, str) else None
        if inside is None and form in _FORMATS:
            inside = _FORMATS[form]
        elif inside is None and form in _FORMAT_PATTERNS:
            inside = self._matching(_FORMAT_PATTERNS[form], schema)
        inside = inside or _counted(literals.CHAR, schema.get("minLength"), schema.get("maxLength"))
        return rf'"\"" {inside} "\""'

    def _matching(self, pattern: str, schema: Mapping[str, Any]) -> str | None:
        """The inside of a text that matches a pattern, and is as long as the schema says."""
        least, most = min(_count(schema.get("minLength")) or 0, MAX_COUNT), _count(schema.get("maxLength"))
        most = None if most is None or most > MAX_COUNT else most
        found = string_grammar(pattern, least, most, f"p{len(self.rules)}")
        if found is None:
            return None
        body, rules = found
        self.rules.update(rules)
        return f"({body})"

    def _array(self, schema: dict[str, Any]) -> str:
        first = schema.get("prefixItems")
        more: object = schema.get("items", True)
        if first is None and isinstance(more, list):  # drafts before 2020
            first, more = more, schema.get("additionalItems", True)
        if isinstance(first, list) and False in first:  # there the list ends at the latest
            first, more = first[: first.index(False)], False
        heads = [self.rule(item) for item in first] if isinstance(first, list) else []
        low, high = _count(schema.get("minItems")) or 0, _count(schema.get("maxItems"))
        if heads:
            return self._tuple(heads, more, low, high)
        if more is False or high == 0:
            return '"[" ws "]"'
        item = self.rule(more)
        self.rules[f"{item}-next"] = f'ws "," ws {item}'
        rest = _counted(f"{item}-next", max(0, low - 1), None if high is None else high - 1)
        whole = f"{item} {rest}".strip()
        return f'"[" ws {whole if low else f"({whole})?"} ws "]"'

    def _tuple(self, heads: Sequence[str], more: object, low: int, high: int | None) -> str:
        heads = heads if high is None else heads[:high]
        if not heads:
            return '"[" ws "]"'
        if low == 0 and more is True:  # as many as are described: a model would not know where to end
            low, more = len(heads), False
        tail = ""
        if more is not False and (high is None or high > len(heads)):
            item = self.rule(more)
            self.rules[f"{item}-next"] = f'ws "," ws {item}'
            most = None if high is None else high - len(heads)
            tail = _counted(f"{item}-next", max(0, low - len(heads)), most)
        for at in range(len(heads) - 1, 0, -1):
            tail = f'ws "," ws {heads[at]} {tail}'.rstrip()
            if at >= low:
                tail = f"({tail})?"
        whole = f"{heads[0]} {tail}".rstrip()
        return f'"[" ws {whole if low else f"({whole})?"} ws "]"'

    # ------------------------------------------------------------ objects

    def _object(self, schema: dict[str, Any]) -> str:
        listed, patterns = (schema.get(name) for name in ("properties", "patternProperties"))
        known = dict(listed) if isinstance(listed, dict) else {}
        patterns = patterns if isinstance(patterns, dict) else {}
        free = not known and not patterns  # what lists its properties gets no others unless it asks for them
        extra = schema.get("additionalProperties", schema.get("unevaluatedProperties", free))
        required = [name for name in schema.get("required", []) if isinstance(name, str)]
        tried = patterns if len(required) * len(patterns) <= MAX_MATCHED else {}
        for name in required:
            known.setdefault(name, _by_patterns(tried, name, True if extra is False else extra))
        names = [name for name in known if known[name] is not False]
        members = {name: f'{json_literal(name)} ws ":" ws {self.rule(known[name])}' for name in names}
        kinds = [
            self._member(self._key(pattern), value)
            for pattern, value in patterns.items()
            if value is not False
        ]
        if extra is not False:
            kinds.append(self._member(self._other_key(schema.get("propertyNames"), names), extra))
        if not names and not kinds:
            return '"{" ws "}"'
        others = None
        if kinds:
            others = kinds[0] if len(kinds) == 1 else self._new(" | ".join(kinds))
            self.rules[f"{others}-next"] = f'ws "," ws {others}'
        if not names:
            least, most = _count(schema.get("minProperties")) or 0, _count(schema.get("maxProperties"))
            return _free(f"{others}", least, most)
        return f'"{{" ws {self._members(members, set(required), others)} ws "}}"'

    def _member(self, key: str, schema: object) -> str:
        return self._new(f'{key} ws ":" ws {self.rule(schema)}')

    def _key(self, pattern: str) -> str:
        return self._new(self._string({"pattern": pattern}))

    def _other_key(self, names: object, taken: Sequence[str]) -> str:
        """The rule for a name that is not listed."""
        if isinstance(names, dict):
            return self.rule({"type": "string", **names})
        return self._new(rf'"\"" ({literals.other_than(sorted(taken))}) "\""') if taken else "string"

    def _members(self, members: Mapping[str, str], required: set[str], others: str | None) -> str:
        """Members in order.  Two chains of rules: nothing was written yet, or something was."""
        after = f"{others}-next*" if others else '""'
        begin = f"({others} {after})?" if others else '""'
        for name in reversed(list(members)):
            member = self._new(members[name])
            following = f'ws "," ws {member}'
            if name in required:
                begin = f"{member} {after}"
                after = f"{following} {after}"
            else:
                begin = f"{member} {after} | {begin}"
                after = f"({following})? {after}"
            begin, after = self._new(begin), self._new(after)
        return begin

    def _new(self, body: str) -> str:
        name = f"m{len(self.rules)}"
        if len(self.rules) > 4 * MAX_RULES:
            raise _TooMuch
        self.rules[name] = body
        return name


# ---------------------------------------------------------------- small things

# What may stand beside $ref and says nothing about the value.
_REFERENCE_ASIDES = frozenset(
    {
        "$ref",
        "$defs",
        "definitions",
        "$schema",
        "$id",
        "$comment",
        "title",
        "description",
        "default",
        "examples",
    }
)
_OBJECT = {
    "properties",
    "required",
    "additionalProperties",
    "propertyNames",
    "patternProperties",
    "minProperties",
}
_ARRAY = {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"}
_STRING = {"minLength", "maxLength", "pattern", "format"}
_NUMBER = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}


def _types_of(schema: Mapping[str, Any]) -> Sequence[str]:
    """The types that a value may have, or should have where the schema says none."""
    given = schema.get("type")
    kinds = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    found = [kind for kind in _TYPES if kind in kinds and not (kind == "integer" and "number" in kinds)]
    if found:
        return found
    for kind, words in (("object", _OBJECT), ("array", _ARRAY), ("string", _STRING), ("number", _NUMBER)):
        if words & schema.keys():
            return [kind]
    return []


def _is(value: object, kind: str) -> bool:
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: object) -> int | None:
    """A count of a schema; None where it has none."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _counted(item: str, low: object, high: object) -> str:
    """An item between two numbers of times; numbers over the limit are left to the verdict."""
    least, most = min(_count(low) or 0, MAX_COUNT), _count(high)
    if most is None or most > MAX_COUNT:
        return f"{item}*" if least == 0 else f"{item}{{{least},}}"
    return f"{item}{{{least},{max(least, most)}}}" if most > 0 else ""


def _free(member: str, least: int, most: int | None) -> str:
    """An object of unlisted members."""
    if most == 0:
        return '"{" ws "}"'
    rest = _counted(f"{member}-next", max(0, least - 1), None if most is None else most - 1)
    whole = f"{member} {rest}".rstrip()
    return f'"{{" ws {whole if least else f"({whole})?"} ws "}}"'


def _by_patterns(patterns: Mapping[str, object], name: str, other: object) -> object:
    """What holds for a name that is not listed: what the patterns say that it matches, else `other`."""
    met = [schema for pattern, schema in patterns.items() if fits(pattern, name)]
    return functools.reduce(merging.merged, met) if met else other
