"""The expressions of `if`.  Pure.

Owns how a condition is read.  What it means is `conditiontree`'s business, which step a reference names
`resolve`'s.

    condition  := either
    either     := both ( "or" both )*
    both       := negation ( "and" negation )*
    negation   := "not" negation | comparison
    comparison := operand ( ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not" "in" ) operand )?
    operand    := placeholder | quoted | number | "true" | "false" | list | "(" condition ")"
    list       := "[" ( operand ( "," operand )* ","? )? "]"          only to the right of `in`

Theory of operation.  The text is cut into tokens and the tokens become a tree before any value is known;
a placeholder is a leaf of the tree, or a part of a quoted string that is a leaf.  So a value is compared
and never read as an expression, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from llmc_build.frozen import frozen
from llmc_build.placeholder import (
    PLACEHOLDER,
    Problem,
    Ref,
    Template,
    TemplateError,
    parse,
    refuse_path,
)
from llmc_build.template.conditiontree import (
    NUMBER,
    ORDERINGS,
    Both,
    Comparison,
    Either,
    Node,
    Not,
    Number,
    Text,
    Truth,
    Values,
)

MAX_DEPTH = 100  # of parentheses and `not`
MAX_LENGTH = 1_000_000  # characters
_MAX_PROBLEMS = 100  # what follows is not looked at
_COMPARISONS = frozenset({"==", "!=", "in", "not in", *ORDERINGS})
_TOKEN = re.compile(r"\s++|===|<>|[=!<>]=|&&|\|\||[<>=!()\[\],&|]|[^\s()\[\],'\"=!<>&|{}]++|.", re.DOTALL)
_WORDS = frozenset({"and", "or", "not", "in"})
_CORRECTIONS = {
    "&&": "and",
    "&": "and",
    "||": "or",
    "|": "or",
    "!": "not",
    "=": "==",
    "===": "==",
    "<>": "!=",
}


@frozen(kw_only=True)
class Condition:
    """A condition ready to be decided."""

    source: str
    refs: tuple[Ref, ...]  # in the order of the text
    root: Node

    def evaluate(self, value: Values) -> bool:
        """Whether the condition holds.  `value` gives the bytes of what a reference names.

        Values are asked for only as far as the answer depends on them.  Raises ConditionError.
        """
        return self.root.holds(value)


def parse_condition(source: str) -> Condition:
    """Read a condition; TemplateError has every problem of its words, or else the first of its form."""
    if len(source) > MAX_LENGTH:
        hint = "what a condition compares with can be a constant of `vars`, or a step's value"
        raise TemplateError([Problem(f"the condition is longer than {MAX_LENGTH:,} characters", 0, hint)])
    reader = _Reader(source)
    root = reader.condition()
    if reader.problems or root is None:
        raise TemplateError(reader.problems)
    return Condition(source=source, refs=tuple(reader.refs), root=root)


@frozen
class _Token:
    kind: str  # a word of the language or a sign; else "leaf", or "end"
    at: int
    leaf: Text | Number | Truth | None = None


class _Wrong(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class _Reader:
    """Reads tokens first, all of them; then the tree, by recursive descent."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.refs: list[Ref] = []
        self.tokens = [*self._cut(), _Token("end", len(source))]
        self.next = 0
        self.depth = 0

    # -------- tokens

    def _cut(self) -> Iterator[_Token]:
        at = 0
        while at < len(self.source) and len(self.problems) < _MAX_PROBLEMS:
            start, found = at, self.source[at]
            if self.source.startswith("{{", at):
                at = self._placeholder_end(at)
                yield _Token("leaf", start, self._text(start, at))
            elif found in "'\"":
                at = self._quote_end(at)
                yield _Token("leaf", start, self._text(start + 1, at))
                at += 1
            else:
                match = _TOKEN.match(self.source, at)
                assert match is not None
                at = match.end()
                if not match[0].isspace():
                    yield self._token(match[0], start)

    def _placeholder_end(self, at: int) -> int:
        match = PLACEHOLDER.match(self.source, at)
        if match:
            return match.end()
        close = self.source.find("}}", at)
        return len(self.source) if close < 0 else close + 2

    def _quote_end(self, at: int) -> int:
        quote, start = self.source[at], at
        at += 1
        while at < len(self.source) and self.source[at] != quote:
            match = PLACEHOLDER.match(self.source, at) if self.source[at] == "{" else None
            at = match.end() if match else at + 1
        if at >= len(self.source):
            self.problems.append(Problem(f"a string is not closed by {quote}", start, None))
        return at

    def _text(self, start: int, end: int) -> Text:
        try:
            template = parse(self.source[start:end])
        except TemplateError as error:
            for problem in error.problems:
                hint = "only a name goes into {{ }}: {{ name }} == 'text'"
                hint = hint if problem.message.endswith("is not a reference") else problem.hint or hint
                self.problems.append(Problem(problem.message, start + problem.offset, hint))
            return Text(Template("", (), ()))
        moved = tuple(
            part
            if isinstance(part, str)
            else Ref(part.names, part.filters, part.start + start, part.end + start, part.path)
            for part in template.parts
        )
        text = Text(Template(template.source, moved, template.spans))
        self.problems += refuse_path(text.template.refs)
        self.refs += text.template.refs
        return text

    def _token(self, word: str, at: int) -> _Token:
        right = _CORRECTIONS.get(word)
        if right:
            self.problems.append(Problem(f"`{word}` is not an operator here", at, f"write `{right}`"))
            return _Token(right, at)
        if word in _WORDS or word in _COMPARISONS or word in "()[],":
            return _Token(word, at)
        if word.casefold() in ("true", "false"):
            return _Token("leaf", at, Truth(word.casefold() == "true"))
        if NUMBER.fullmatch(word):
            return _Token("leaf", at, Number(word))
        return self._unquoted(word, at)

    def _unquoted(self, word: str, at: int) -> _Token:
        shown = word if len(word) <= 60 else word[:57] + "..."
        lower = word.casefold()
        if lower in _WORDS:
            self.problems.append(Problem(f"unknown word `{word}`", at, f"write `{lower}`"))
            return _Token(lower, at)
        hint = f"quote text: '{shown}'"
        if re.fullmatch(r"[A-Za-z_][\w.-]*", word, re.ASCII):
            hint += f"; a value is written {{{{ {shown} }}}}"
        self.problems.append(Problem(f"unknown word `{shown}`", at, hint))
        return _Token("leaf", at, Truth(False))

    # -------- tree

    def condition(self) -> Node | None:
        """The whole text as a tree; what is wrong is added to `problems`."""
        if len(self.tokens) == 1:
            self.problems.append(Problem("the condition is empty", 0, "leave `if` out, or write `true`"))
            return None
        try:
            root = self._either()
            if self._kind != "end":
                raise self._unexpected("`and`, `or` or the end")
        except _Wrong as wrong:
            if not self.problems:  # else the form is only wrong because the words are
                self.problems.append(wrong.problem)
            return None
        return root

    @property
    def _kind(self) -> str:
        return self.tokens[self.next].kind

    def _accept(self, *kinds: str) -> bool:
        """Goes on behind these tokens if they come next."""
        found = tuple(token.kind for token in self.tokens[self.next : self.next + len(kinds)])
        if found == kinds:
            self.next += len(kinds)
        return found == kinds

    def _unexpected(self, wanted: str) -> _Wrong:
        token = self.tokens[self.next]
        end = self.tokens[self.next + 1].at if self._kind != "end" else token.at
        found = self.source[token.at : min(end, token.at + 60)].strip()
        where = f"before `{found}`" if found else "at the end"
        return _Wrong(Problem(f"expected {wanted} {where}", token.at))

    def _deeper(self, read: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Wrong(
                Problem(f"the condition is nested more than {MAX_DEPTH} deep", self.tokens[self.next].at)
            )
        node = read()
        self.depth -= 1
        return node

    def _either(self) -> Node:
        items = [self._both()]
        while self._accept("or"):
            items.append(self._both())
        return items[0] if len(items) == 1 else Either(tuple(items))

    def _both(self) -> Node:
        items = [self._negation()]
        while self._accept("and"):
            items.append(self._negation())
        return items[0] if len(items) == 1 else Both(tuple(items))

    def _negation(self) -> Node:
        if self._accept("not"):
            return Not(self._deeper(self._negation))
        return self._comparison()

    def _comparison(self) -> Node:
        left = self._operand()
        sign = self._sign()
        if sign is None:
            return left
        right = self._list() if sign in ("in", "not in") and self._accept("[") else self._operand()
        if sign in ("in", "not in") and isinstance(right, Number | Truth):
            raise _Wrong(Problem(f"`{sign}` looks into text or a list", self.tokens[self.next - 1].at))
        at = self.tokens[self.next].at
        if self._sign() is not None:
            raise _Wrong(Problem("a comparison has two sides", at, "join comparisons with `and`"))
        return Comparison(left, sign, right)

    def _sign(self) -> str | None:
        if self._accept("not", "in"):
            return "not in"
        kind = self._kind
        return kind if kind in _COMPARISONS and self._accept(kind) else None

    def _operand(self) -> Node:
        leaf = self.tokens[self.next].leaf
        if leaf is not None:
            self.next += 1
            return leaf
        if self._accept("("):
            node = self._deeper(self._either)
            if not self._accept(")"):
                raise self._unexpected("`)`")
            return node
        if self._kind == "[":
            raise _Wrong(Problem("a list stands to the right of `in` only", self.tokens[self.next].at))
        raise self._unexpected("a value, a quoted text, a number or `(`")

    def _list(self) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._accept("]"):
            items.append(self._operand())
            if not self._accept(",") and self._kind != "]":
                raise self._unexpected("`,` or `]`")
        return tuple(items)
