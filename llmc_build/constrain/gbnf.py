"""GBNF, the grammars of llama.cpp: parsed, and checked before llama.cpp sees them.  Pure.

Owns the syntax and what makes a grammar unusable.  llama.cpp trusts its grammars: one that is nested
too deeply overflows its stack, `{3,2}` never ends, some left recursion is not noticed and fills the memory,
and `{0,5000}` silently means "without limit".  So whatever passes here is accepted by llama.cpp, means the
same there, and can be expanded in bounded time; what llama.cpp refuses is refused here, with its place.

Format (llama.cpp, grammars/README.md and the parser in src/llama-grammar.cpp): `name ::= alternatives`, one
rule after the other; alternatives are separated by `|`, and are sequences of "literals", [character sets],
`.`, names and (groups), each perhaps followed by `*`, `+`, `?`, `{m}`, `{m,}` or `{m,n}`.  Comments begin
with `#`.  Outside of parentheses a rule ends with its line, unless that ends with `|` or `::=`.

Three things that llama.cpp lets pass are faults here: a rule that is defined twice (the last would count),
a set without characters (it would match nothing, in silence), and `<token>` (an answer is text).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from llmc_build.constrain import GrammarFault
from llmc_build.constrain.recognise import grows
from llmc_build.constrain.soundness import unsound
from llmc_build.errors import did_you_mean

MAX_TEXT = 1 << 20  # characters of a grammar
MAX_ELEMENTS = 200_000  # of all rules, repetitions written out
MAX_REPEAT = 2000  # as llama.cpp: a count, and the rules that a repetition makes
MAX_DEPTH = 100  # of parentheses
ROOT = "root"

_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX = {"x": 2, "u": 4, "U": 8}
_SPACE = " \t"


class Chars(NamedTuple):
    """A set of characters: inclusive ranges of code points, or all but those."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False

    def has(self, code: int) -> bool:
        return any(low <= code <= high for low, high in self.ranges) != self.negated


Symbol = int | Chars  # the number of a rule, or one character
Alternatives = list[list[Symbol]]
ANY = Chars((), negated=True)


@dataclass(slots=True)
class Grammar:
    """Rules by number; groups and repetitions are rules too."""

    rules: list[Alternatives] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of a group or a repetition: that of the rule it is in
    root: int = 0


class _Bad(Exception):
    """Parsing can't go on."""


def read_grammar(text: str) -> tuple[Grammar | None, list[GrammarFault]]:
    """The grammar, or None and what is wrong with it."""
    if len(text) > MAX_TEXT:
        fault = GrammarFault(
            line=1, column=1, message=f"a grammar of {len(text)} characters, where {MAX_TEXT} is the limit"
        )
        return None, [fault]
    reader = _Reader(text)
    try:
        reader.read()
    except _Bad:
        return None, reader.faults
    reader.check()
    return (None, reader.faults) if reader.faults else (reader.grammar, [])


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._elements = 0
        self._numbers: dict[str, int] = {}  # name -> number
        self._used: dict[str, int] = {}  # name -> where it is used first
        self._defined: dict[str, int] = {}  # name -> where it is defined
        self.grammar = Grammar()
        self.faults: list[GrammarFault] = []

    def read(self) -> None:
        self._skip(lines=True)
        while self._at < len(self._text):
            self._rule()

    def check(self) -> None:
        """What can be said only once every rule was read."""
        for name, at in self._used.items():
            if name not in self._defined:
                self._fault(f'rule "{name}" is not defined', at, did_you_mean(name, self._defined))
        if ROOT not in self._defined:
            near = did_you_mean(ROOT, self._defined)
            self._fault('there is no rule "root"', 0, near or 'an answer begins with the rule "root"')
        if self.faults:
            return
        self.grammar.root = self._numbers[ROOT]
        for number, message, hint in unsound(self.grammar):
            self._fault(message, self._defined[self.grammar.names[number]], hint)
        text = None if self.faults else grows(self.grammar)
        if text is not None:
            self._fault(
                f"the grammar is too ambiguous: after {text[:40]!r} there are too many ways to go on",
                self._defined[ROOT],
                "let each text be read in one way only",
            )

    # ------------------------------------------------------------ rules

    def _rule(self) -> None:
        start = self._at
        name = self._name()
        self._skip()
        if not self._text.startswith("::=", self._at):
            self._stop("expected ::= after the name of a rule", self._at)
        self._at += 3
        self._skip(lines=True)
        if name in self._defined:
            self._fault(f'rule "{name}" is defined twice', start)
        self._defined.setdefault(name, start)
        self._alternatives(self._number(name), name, nested=False)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            self._stop(f"{self._seen()} is out of place", self._at, self._advice())
        self._skip(lines=True)

    def _advice(self) -> str | None:
        char = self._text[self._at]
        if char == "<" or char == "!":
            return "an answer is text: a grammar here has no tokens"
        if char == "'":
            return 'literals stand in "double quotes"'
        return "names of rules have letters, digits and -" if char == "_" else None

    def _alternatives(self, rule: int, name: str, *, nested: bool) -> None:
        found: Alternatives = [self._sequence(name, nested=nested)]
        while self._peek() == "|":
            self._at += 1
            self._skip(lines=True)
            found.append(self._sequence(name, nested=nested))
        self.grammar.rules[rule] = found

    def _sequence(self, name: str, *, nested: bool) -> list[Symbol]:
        found: list[Symbol] = []
        last = 0  # where the item begins that a repetition is about
        weight = 1  # rules that writing the item down again makes, as llama.cpp counts them
        while (char := self._peek()) != "":
            start = self._at
            if char in "*+?{":
                low, high = self._counts(nested)
                if last == len(found):
                    self._stop(f"{char} has nothing before it to repeat", start)
                weight = self._repeat(name, found, last, (low, high), weight, start)
                continue
            before = len(self.grammar.rules)
            if char == '"':
                item = self._literal()
            elif char == "[":
                item = [self._set()]
            elif char == ".":
                self._at += 1
                item = [ANY]
            elif char == "(":
                item = [self._group(name)]
            elif _in_name(char):
                item = [self._reference()]
            else:
                break
            last, weight = len(found), 1
            if char == "(":
                weight = max(1, len(self.grammar.rules) - before)
            found += item
            self._grow(len(item))
            self._skip(lines=nested)
        return found

    def _repeat(
        self, name: str, found: list[Symbol], last: int, counts: tuple[int, int | None], weight: int, at: int
    ) -> int:
        """Writes a repetition of the last item out, as rules; its own weight."""
        low, high = counts
        item = found[last:]
        times = high if high else low or 1
        if weight * times > MAX_REPEAT:
            self._stop(
                f"a repetition that makes {weight * times} rules, where {MAX_REPEAT} is the limit", at,
                "repeat less often, or less",
            )  # fmt: skip
        options = 1 if high is None else high - low
        self._grow((len(item) + 1) * (max(low, 1) - 1 + options))
        del found[last:]
        found += item * low
        more: int | None = None
        for _ in range(options):
            rule = self._fresh(name)
            rest: list[Symbol] = [rule] if high is None else [] if more is None else [more]
            self.grammar.rules[rule] = [[*item, *rest], []]
            more = rule
        if more is not None:
            found.append(more)
        return weight * times

    def _counts(self, nested: bool) -> tuple[int, int | None]:
        """The least and the largest number of repetitions; None: no limit."""
        start, char = self._at, self._text[self._at]
        self._at += 1
        self._skip(lines=nested)
        if char != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        low = self._integer()
        high: int | None = low
        self._skip(lines=nested)
        if self._peek() == ",":
            self._at += 1
            self._skip(lines=nested)
            high = self._integer() if self._peek().isdigit() else None
            self._skip(lines=nested)
        if self._peek() != "}":
            self._stop("expected } after a number of repetitions", self._at)
        self._at += 1
        self._skip(lines=nested)
        if max(low, high or 0) > MAX_REPEAT:
            self._stop(f"more than {MAX_REPEAT} repetitions", start, "without a limit: {0,} or *")
        if high is not None and high < low:
            self._stop(f"{{{low},{high}}} repeats at least {low} and at most {high} times", start)
        return low, high

    def _integer(self) -> int:
        end = self._at
        while end < len(self._text) and self._text[end] in "0123456789":
            end += 1
        if end == self._at or end - self._at > 9:
            self._stop("expected a number of repetitions", self._at)
        value = int(self._text[self._at : end])
        self._at = end
        return value

    # ------------------------------------------------------------ items

    def _group(self, name: str) -> Symbol:
        start = self._at
        self._at += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._stop(f"parentheses nested more than {MAX_DEPTH} deep", start)
        self._skip(lines=True)
        rule = self._fresh(name)
        self._alternatives(rule, name, nested=True)
        if self._peek() != ")":
            if self._at < len(self._text):
                self._stop(f"{self._seen()} is out of place within parentheses", self._at, self._advice())
            self._stop("this parenthesis is never closed", start)
        self._at += 1
        self._depth -= 1
        return rule

    def _reference(self) -> Symbol:
        start = self._at
        name = self._name()
        self._used.setdefault(name, start)
        return self._number(name)

    def _literal(self) -> list[Symbol]:
        start = self._at
        self._at += 1
        found: list[Symbol] = []
        while self._peek() != '"':
            if self._at >= len(self._text):
                self._stop("this literal is never closed", start)
            code = self._char()
            found.append(Chars(((code, code),)))
        self._at += 1
        return found

    def _set(self) -> Chars:
        start = self._at
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges = []
        while self._peek() != "]":
            if self._at >= len(self._text):
                self._stop("this set of characters is never closed", start)
            at = self._at
            low = high = self._char(bound=True)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._char(bound=True)
            if high < low:
                self._stop("a range of characters that ends before it begins", at)
            ranges.append((low, high))
        self._at += 1
        if not ranges:
            self._stop("a set without characters", start, "any character: .")
        self._grow(len(ranges))
        return Chars(tuple(ranges), negated)

    def _char(self, *, bound: bool = False) -> int:
        """The code point of a character or an escape; as the bound of a range any code point will do."""
        start, char = self._at, self._peek()
        if not char:
            self._stop("the grammar ends within a literal or a set", start)
        self._at += 1
        if char != "\\":
            return self._usable(ord(char), start)
        kind = self._peek()
        self._at += 1
        if kind in _HEX:
            digits = self._text[self._at : self._at + _HEX[kind]]
            if len(digits) < _HEX[kind] or not all(c in "0123456789abcdefABCDEF" for c in digits):
                self._stop(f"\\{kind} takes {_HEX[kind]} hexadecimal digits", start)
            self._at += len(digits)
            code = int(digits, 16)
            return code if bound and code <= 0x10FFFF else self._usable(code, start)
        if kind not in _ESCAPES:
            self._stop(
                f"no escape is \\{kind}", start, 'escapes: \\t \\r \\n \\\\ \\" \\[ \\] \\- \\x.. \\u....'
            )
        return ord(_ESCAPES[kind])

    def _usable(self, code: int, at: int) -> int:
        if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self._stop(f"U+{code:04X} is no character of a text", at)
        return code

    def _name(self) -> str:
        end = self._at
        while end < len(self._text) and _in_name(self._text[end]):
            end += 1
        if end == self._at:
            self._stop(f"expected the name of a rule, not {self._seen()}", self._at, self._advice_at())
        name = self._text[self._at : end]
        self._at = end
        return name

    def _advice_at(self) -> str | None:
        if self._peek() == "|":
            return "end the line before with |, or put the alternatives into parentheses"
        return self._advice() if self._at < len(self._text) else None

    # ------------------------------------------------------------ small things

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = self._fresh(name)
        return self._numbers[name]

    def _fresh(self, name: str) -> int:
        self.grammar.rules.append([])
        self.grammar.names.append(name)
        return len(self.grammar.rules) - 1

    def _grow(self, count: int) -> None:
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            self._stop(f"a grammar of more than {MAX_ELEMENTS} elements, repetitions written out", self._at)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _seen(self) -> str:
        char = self._peek()
        return "the end" if not char else "the end of the line" if char in "\r\n" else ascii(char)

    def _skip(self, *, lines: bool = False) -> None:
        """Spaces and comments; line ends where `lines`."""
        text, at, end = self._text, self._at, len(self._text)
        while at < end:
            char = text[at]
            if char == "#":
                while at < end and text[at] not in "\r\n":
                    at += 1
            elif char in _SPACE or (lines and char in "\r\n"):
                at += 1
            else:
                break
        self._at = at

    def _fault(self, message: str, at: int, hint: str | None = None) -> None:
        before = self._text[:at]
        line = before.count("\n") + 1
        self.faults.append(
            GrammarFault(line=line, column=at - (before.rfind("\n") + 1) + 1, message=message, hint=hint)
        )

    def _stop(self, message: str, at: int, hint: str | None = None) -> NoReturn:
        self._fault(message, at, hint)
        raise _Bad


def _in_name(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "-")
