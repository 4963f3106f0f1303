"""A condition as a tree, and what it answers.  Pure.

Owns what comparisons mean.  White space around a string does not count.  Where one side of `==` is a number,
the other is equal if it is the same number.  Two strings, and so two values, compare as text.  `<` and its
kin compare numbers, and raise ConditionError where a side is none.  `in` looks for a piece of text, or for a
member of a list.  A string that stands alone is false if it is empty or says false, no or 0.

A value is a leaf, or a part of one: it is compared and never read as an expression, whatever it holds.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from decimal import Decimal
from typing import TypeAlias

from llmc_build.filters import apply_filters
from llmc_build.frozen import frozen
from llmc_build.placeholder import Ref, Template

Values: TypeAlias = Callable[[Ref], bytes]

_FALSE = frozenset({"", "false", "no", "0"})
NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]{1,9})?")
ORDERINGS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class ConditionError(Exception):
    """A condition that can't be decided with these values: its step fails.

    `left` and `right` are the two texts of a comparison, white space removed.
    """

    def __init__(self, message: str, *, left: str = "", right: str = "") -> None:
        self.left = left
        self.right = right
        super().__init__(message)


@frozen
class Text:
    """A quoted string or a placeholder."""

    template: Template

    def text(self, value: Values) -> str:
        parts = [part if isinstance(part, str) else _read(part, value) for part in self.template.parts]
        return "".join(parts).strip()

    def holds(self, value: Values) -> bool:
        return self.text(value).casefold() not in _FALSE


@frozen
class Number:
    literal: str

    def text(self, value: Values) -> str:
        return self.literal

    def holds(self, value: Values) -> bool:
        return Decimal(self.literal) != 0


@frozen
class Not:
    inner: Node

    def text(self, value: Values) -> str:
        return _word(self.holds(value))

    def holds(self, value: Values) -> bool:
        return not self.inner.holds(value)


@frozen
class Both:
    items: tuple[Node, ...]

    def text(self, value: Values) -> str:
        return _word(self.holds(value))

    def holds(self, value: Values) -> bool:
        return all(item.holds(value) for item in self.items)


@frozen
class Either:
    items: tuple[Node, ...]

    def text(self, value: Values) -> str:
        return _word(self.holds(value))

    def holds(self, value: Values) -> bool:
        return any(item.holds(value) for item in self.items)


@frozen
class Comparison:
    left: Node
    operator: str
    right: Node | tuple[Node, ...]  # a tuple: the list to the right of `in`

    def text(self, value: Values) -> str:
        return _word(self.holds(value))

    def holds(self, value: Values) -> bool:
        if self.operator in ("in", "not in"):
            return _contains(self.left, self.right, value) == (self.operator == "in")
        assert not isinstance(self.right, tuple)
        if self.operator in ("==", "!="):
            return _equal(self.left, self.right, value) == (self.operator == "==")
        return _ordered(self.left, self.operator, self.right, value)


@frozen
class Truth:
    value: bool

    def text(self, value: Values) -> str:
        return _word(self.value)

    def holds(self, value: Values) -> bool:
        return self.value


Node: TypeAlias = "Text | Number | Truth | Not | Both | Either | Comparison"


def _word(truth: bool) -> str:
    return "true" if truth else "false"


def _read(ref: Ref, value: Values) -> str:
    try:
        return apply_filters(value(ref), ref.filters).decode("utf-8", "surrogateescape")
    except ValueError as error:
        raise ConditionError(f"{{{{ {ref.text} }}}}: {error}") from None


def _number(text: str) -> Decimal | None:
    return Decimal(text) if NUMBER.fullmatch(text) else None


def _equal(left: Node, right: Node, value: Values) -> bool:
    first, second = left.text(value), right.text(value)
    if isinstance(left, Number) or isinstance(right, Number):
        number = _number(first)
        return number is not None and number == _number(second)
    if not (isinstance(left, Text) and isinstance(right, Text)):  # true, false and what is in parentheses
        return first.casefold() == second.casefold()
    return first == second


def _contains(left: Node, right: Node | tuple[Node, ...], value: Values) -> bool:
    if isinstance(right, tuple):
        return any(_equal(left, item, value) for item in right)
    return left.text(value) in right.text(value)


def _ordered(left: Node, sign: str, right: Node, value: Values) -> bool:
    texts = left.text(value), right.text(value)
    first, second = map(_number, texts)
    if first is not None and second is not None:
        return ORDERINGS[sign](first, second)
    shown = [_shown(text) for text in texts]
    wrong = shown[0] if first is None else shown[1]
    raise ConditionError(
        f"`if` can't be decided: {shown[0]} {sign} {shown[1]} compares numbers, and {wrong} is none",
        left=texts[0],
        right=texts[1],
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
