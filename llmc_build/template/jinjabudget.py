"""What a Jinja2 template may use: the account of one rendering, and sizes known beforehand.  Pure.

Owns the limits, the weighing of values, and for each operation whose result can be much larger than what
goes in, how large it will be.  Where these are asked is `jinjabox`'s business.

Weighing walks into lists, since a list of lists of lists is short and its text is not.

A step is about a microsecond of this decade's machines, so the limit on steps is one on time that does not
depend on the machine, nor on what else runs there: the same template with the same values is refused
everywhere or nowhere.  What takes longer for each character than copying it does is charged by `jinjaprices`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jinja2 import Undefined
from jinja2.runtime import LoopContext
from jinja2.utils import Namespace

from llmc_build.frozen import frozen

_MAX_INTEGER_BITS = 1_024
_MAX_WIDTH = 1_000  # of a field, an indentation, a batch
_CHARACTERS_PER_STEP = 1024  # what takes as long as one item of a list
_STEPS_PER_FIELD = 16  # of a format
_ITEMS_PER_STEP = 2  # that weighing looks at
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_WIDE_FIELDS = {  # by the sign that begins a field: widths of four digits, or given by a value
    "%": re.compile(
        r"%(?: \([^()]*+\( | (?:\([^()]*+\))?+ [-#0\ +]*+ (?:[0-9]{4} | \* | [0-9]*+\.(?:[0-9]{4} | \*)) )",
        re.VERBOSE,
    ),
    "{": re.compile(r"\{[^{}:]*+:[^{}]*?(?:[0-9]{4}|\{)"),
}


class OverBudgetError(Exception):
    """A template wants more than it is given."""


@frozen(kw_only=True)
class Limits:
    """What one rendering may use."""

    characters: int  # of any one value
    made: int  # characters of all values made on the way
    steps: int  # items visited, operations done


# Of prompts and of chat templates alike: a text of 4 million tokens, 256 MB on the way, 2 seconds.
LIMITS = Limits(characters=16 * 1024 * 1024, made=64 * 1024 * 1024, steps=3_000_000)


class Budget:
    """What is left of the limits in one rendering."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.steps = limits.steps
        self.made = limits.made

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise OverBudgetError(f"the template takes more than {self.limits.steps} steps")

    def room(self, size: int) -> None:
        """Checks a size in characters before something of that size is made."""
        if size > self.limits.characters:
            raise OverBudgetError(
                f"the template makes a value of more than {self.limits.characters} characters"
            )

    def weigh(self, value: object) -> int:
        """The size of a value and of all that it holds, in characters."""
        if type(value) is str:  # most values are texts
            self.step(1 + len(value) // _CHARACTERS_PER_STEP)
            self.room(len(value))
            return len(value) + 1
        size = items = 0
        rest: list[Any] = [value]
        while rest:
            item = rest.pop()
            items += 1
            if isinstance(item, str):
                size += len(item)
            elif isinstance(item, int):
                check_integer(item.bit_length())
            elif isinstance(item, dict):
                self.room(size + items + 2 * len(item))
                rest.extend(item)
                rest.extend(item.values())
            elif isinstance(item, list | tuple | KeysView | ValuesView | ItemsView):
                self.room(size + items + len(item))
                rest.extend(item)
            elif isinstance(item, Namespace):
                rest.append(item._Namespace__attrs)
            if items & 0xFF == 0:
                self.step(0x100 // _ITEMS_PER_STEP)
                self.room(size + items)
        self.step(1 + (items & 0xFF) // _ITEMS_PER_STEP + size // _CHARACTERS_PER_STEP)
        self.room(size + items)
        return size + items

    def keep(self, value: Any) -> Any:
        """Counts a value as made.  What is computed item by item becomes a list."""
        value = self.listed(value)
        self.made -= self.weigh(value)
        if self.made < 0:
            raise OverBudgetError(f"the template makes more than {self.limits.made} characters on its way")
        return value

    def listed(self, value: Any) -> Any:
        """A value, as a list where it is computed item by item."""
        lazy = isinstance(value, Iterator) and not isinstance(value, LoopContext | Undefined)
        return self.each(value) if lazy else value

    def each(self, values: Iterable[Any]) -> list[Any]:
        """The items, each of which takes a step."""
        items = []
        for item in values:
            self.step()
            items.append(item)
        return items


# ---------------------------------------------------------------- what is worked out before it is made


def check_integer(bits: int) -> None:
    if bits > _MAX_INTEGER_BITS:
        raise OverBudgetError("a number in the template is too large")


def check_widths(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _MAX_WIDTH:
            raise OverBudgetError(f"a width in the template is over {_MAX_WIDTH}")


def check_format(budget: Budget, template: str, values: object, sign: str) -> None:
    if _WIDE_FIELDS[sign].search(template):
        raise OverBudgetError("a field in a format of the template is too wide")
    fields = template.count(sign)
    budget.step(_STEPS_PER_FIELD * fields)  # a float with a thousand digits takes that long
    budget.room(len(template) + _MAX_WIDTH * fields + fields * budget.weigh(values))


def check_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    if not (type(left) is type(right) is int):
        budget.weigh((left, right))
    if isinstance(left, int) and isinstance(right, int):
        bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * max(right, 0)}
        check_integer(bits.get(operator, 0))
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int):
                budget.room(len(many) * max(times, 0))
    elif operator == "%" and isinstance(left, str):
        check_format(budget, left, right, "%")


def _replaced(budget: Budget, text: str, old: Any, new: Any, *_: Any, **__: Any) -> int:
    return len(text) + str(text).count(str(old)) * len(str(new)) if isinstance(text, str) else 0


def _joined(budget: Budget, glue: str, items: Any) -> int:
    return budget.weigh(items) + len(glue) * (len(items) if hasattr(items, "__len__") else 0)


def _padded(budget: Budget, text: str, width: Any, *_: Any, **__: Any) -> int:
    return max(len(text), width if isinstance(width, int) else 0)


def _tabbed(budget: Budget, text: str, tabsize: Any = 8) -> int:
    return len(text) + text.count("\t") * max(tabsize if isinstance(tabsize, int) else 0, 0)


def _split(budget: Budget, text: str, sep: str | None = None, maxsplit: int = -1) -> int:
    budget.step(text.count(sep) if sep else len(text) // 2)
    return len(text)


def _split_lines(budget: Budget, text: str, keepends: bool = False) -> int:
    budget.step(sum(map(text.count, _LINE_ENDS)))
    return len(text)


METHOD_SIZES: Mapping[str, Callable[..., int]] = {
    "center": _padded,
    "expandtabs": _tabbed,
    "join": _joined,
    "ljust": _padded,
    "replace": _replaced,
    "rjust": _padded,
    "rsplit": _split,
    "split": _split,
    "splitlines": _split_lines,
    "zfill": _padded,
}


def _formatted(budget: Budget, template: Any, *args: Any, **kwargs: Any) -> int:
    check_format(budget, str(template), (args, kwargs), "%")
    return 0


def _indented(budget: Budget, text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    lines = sum(map(str(text).count, _LINE_ENDS)) + 1
    return lines * (len(width) if isinstance(width, str) else int(width))


def _joined_filter(budget: Budget, value: Any, d: Any = "", attribute: Any = None) -> int:
    return _joined(budget, str(d), value)


def _replaced_filter(budget: Budget, text: Any, old: Any, new: Any, count: Any = None) -> int:
    return _replaced(budget, str(text), old, new)


def _wrapped(
    budget: Budget, text: Any, width: Any = 79, _: Any = True, wrapstring: Any = None, *__: Any
) -> int:
    return len(str(text)) * (1 + len(wrapstring or ""))


def _summed(budget: Budget, items: Any, attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, int | float):
        raise OverBudgetError("the filter `sum` adds numbers only")
    return 0


FILTER_SIZES: Mapping[str, Callable[..., int]] = {
    "format": _formatted,
    "indent": _indented,
    "join": _joined_filter,
    "replace": _replaced_filter,
    "sum": _summed,
    "wordwrap": _wrapped,
}
WIDE_FILTERS = frozenset({"batch", "center", "indent", "round", "slice"})
