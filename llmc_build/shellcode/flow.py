"""Follows values through a script: which variables, files and words hold one.  Pure.

*Tainted* is what holds a value, or text made of one, at any point of the script: order does not matter.
Beside that it is known which fixed texts a variable may hold, so that a command or a file that a variable
names is found.

Owns what is known, and how words are judged by it.  What commands do with their words is `lint`'s.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from llmc_build.shellcode import table
from llmc_build.shellcode.content import ANYTHING, Content, Given, subscript, variable_begun
from llmc_build.shellcode.tree import (
    HOLE,
    PROBLEMS,
    Assignment,
    Expansion,
    Found,
    Hole,
    Piece,
    Sequence_,
    Sub,
    Text,
    Word,
)

OF_PLACEHOLDER = "a value from a placeholder"
_BRACE = re.compile(r"\$\{([!#]?)(\w+|[@*#?$!-])(.*)\}", re.DOTALL)
_NAMED = re.compile(r"\$(?:(\w+)|\{(\w+)\}|\{(\w+):?[-=]([\w./+-]+)\})", re.ASCII)
_SHELL_VARIABLES = frozenset({"SHELL", "BASH"})
_STREAMS = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/fd/1", "/dev/fd/2"})
_TEXTS = 8  # fixed texts of one variable, or of one word, that are followed
_PATTERN = re.compile(r"[*?\[{]")  # what the shell makes file names or words of
_LIST = re.compile(r"\$\{?[@*]|\[[@*]\]|\$\{!")  # expansions that are many words also in quotes
# A name with an expansion in it: what stands before, and behind.
_COMPOSED = re.compile(r"(?<!\w)([A-Za-z_]\w*)?(?:\$\w+|\$\{[^{}]*\})+(?<=[}\w])(\w+)?", re.ASCII)
_DIGITS = 4  # of the number of a parameter
_LONG = 4096  # characters of a fixed text made of several that are followed
FILE = "<file "  # before the name of a file, among the tainted names
_KEYS = "<keys "  # before the name of an array, one of whose keys is a value

_CHECKED = "compare it with what you expect first: case {{ x }} in a) ... ;; b) ... ;; esac"
_SUBSCRIPT = "use a number or a fixed word as the subscript"
PLAIN = "use a plain variable and its plain expansion"
_EXPR = "let expr calculate: n=$(expr {{ x }} + 1)"


class Flow(ABC):
    """What is known of one script, growing until nothing more is found out."""

    def __init__(self, paths: frozenset[int], tainted: Iterable[str] = ()) -> None:
        self.found: dict[tuple[str, int], Found] = {}  # by message and the place that it was noted for
        self.paths = paths  # offsets of the placeholders with the filter `path`
        self.tainted = set(tainted)
        self.texts: dict[str, set[str]] = {}  # fixed texts that a variable may hold
        self.contents: dict[str, Content] = {}  # what is known of tainted variables; of others: nothing
        self.evaluated: set[str] = set()  # variables declared as numbers or references
        self.proven: frozenset[str] = frozenset()  # variables that are numbers where the walk is
        self.calculates = False  # whether a value is taken for a number, which some shells calculate
        self.arrays: set[str] = set()
        self.maps: set[str] = set()  # associative arrays, declared before everything else
        self.function = ""  # the function that is being walked
        # Arguments of functions, and under "" of this code, that hold a value; of all where nothing is said.
        self.places: dict[str, set[int]] = {}
        self.shifts: dict[str, int] = {}  # arguments that a function may shift away
        self.moved: set[str] = set()  # functions that give themselves other arguments
        self.loops = 0  # in which what comes later in the script may have been before
        self.stdin = False  # whether standard input is tainted here
        # Which pieces of a word are tainted in this round, by identity; the word is kept so that it stays
        # unique.
        self.known: dict[int, tuple[Word, tuple[bool, ...]]] = {}

    @abstractmethod
    def sequence(self, tree: Sequence_, stdin: bool) -> bool:
        """Judge commands; tells whether their output is tainted."""

    @abstractmethod
    def nested(
        self, code: str, word: Word, stdin: bool, given: Given | None = None, shell: str = ""
    ) -> bool | None:
        """Judge code that is given to another shell; None where it can't be read.

        `given`: what is known of its positional parameters, if they are tainted.  `shell`: "sh" or "bash"
        where it is not the same as here.
        """

    def refuse(self, message: str, at: Word | int, hint: str | None) -> None:
        """Note a problem, at a word's first placeholder."""
        where = (message, at if isinstance(at, int) else at.start)
        if where not in self.found and len(self.found) < PROBLEMS:
            offset = at if isinstance(at, int) else (at.holes[0] if at.holes else at.start)
            self.found[where] = Found(message=message, offset=offset, hint=hint)

    # ------------------------------------------------------------ variables

    @property
    def parameters(self) -> str:
        """What stands for the positional parameters among the names."""
        return f"@{self.function}"

    def taint(self, name: str, at: Word | int, content: Content = ANYTHING) -> None:
        if table.DANGEROUS_VARIABLE.fullmatch(name):
            self.refuse(f"{name} is set from a placeholder, and its value decides what runs", at, _CHECKED)
        elif name in self.evaluated:
            self.refuse(f"{name} is declared as a number, so bash calculates what is assigned", at, PLAIN)
        elif name in table.NUMERIC_VARIABLE:
            self.calculates = True
        self.hold(name, content)

    def hold(self, name: str, content: Content) -> None:
        """A variable, or what stands for the positional parameters, is tainted by a text of this content."""
        self.contents[name] = self.contents.get(name, content) | content
        self.tainted.add(name)

    def taint_file(self, word: Word) -> None:
        """A value is written to the file that a word names."""
        self.tainted |= {FILE + name for name in self.names(word) if name not in _STREAMS}

    def holds_value(self, word: Word) -> bool:
        """Whether the word names a file that a value was written to."""
        return any(FILE + name in self.tainted for name in self.names(word))

    def names(self, word: Word) -> list[str]:
        """How a word may name a file."""
        spelled = [
            piece.text if isinstance(piece, Text) else piece.text.replace("{", "").replace("}", "")
            for piece in word.pieces
            if isinstance(piece, Text) or (isinstance(piece, Expansion) and piece.text)
        ]
        names = {"".join(spelled), *self.texts_of(word)} if len(spelled) == len(word.pieces) else set()
        return [name.removeprefix("./") for name in names]

    def assign(self, assignment: Assignment) -> None:
        """Take in `name=value`."""
        name = assignment.name
        if assignment.subscript and self.reaches(assignment.subscript):
            if name in self.maps:
                self.tainted.add(_KEYS + name)
            else:
                self.refuse(
                    f"{OF_PLACEHOLDER} as a subscript, which bash calculates", assignment.start, _SUBSCRIPT
                )
        if assignment.is_array:
            self.arrays.add(name)
            for value in assignment.values:
                self._element(name, value)
        elif len(assignment.values) == 1:
            self.learn(name, assignment.values[0])
        if some([self.word(value) for value in assignment.values]):
            self.taint(name, assignment.start, self._assigned(assignment))

    def _assigned(self, assignment: Assignment) -> Content:
        """What is known of the new text; in an array, a word behind an option is taken for its value."""
        if not assignment.is_array:
            return self.content(assignment.values[0])
        held = Content()
        option = False
        for word in assignment.values:
            one = self.contents_of([word])
            held = held | (Content(value=one.value) if option and not self.split(word) else one)
            option = word.prefix.startswith("-") and word.literal is not None
        return held

    def _element(self, name: str, word: Word) -> None:
        """`[subscript]=value` among the elements of an array."""
        if not word.unquoted.startswith("["):
            return
        for piece in word.pieces:
            if isinstance(piece, Text) and "]" in piece.text:
                return
            if not isinstance(piece, Text) and self.piece(piece, word):
                if name in self.maps:
                    self.tainted.add(_KEYS + name)
                else:
                    self.refuse(f"{OF_PLACEHOLDER} as a subscript, which bash calculates", word, _SUBSCRIPT)

    def learn(self, name: str, word: Word) -> None:
        """A variable may hold the fixed texts of this word."""
        known = self.texts.setdefault(name, set())
        for text in self.texts_of(word):
            if len(known) < _TEXTS:
                known.add(text)

    def texts_of(self, word: Word) -> list[str]:
        """The fixed texts that a word may stand for; none where it is made of more than is known."""
        found = [""]
        for piece in word.pieces:
            texts = self._texts_of(piece)
            found = [before + text for before in found for text in texts if len(before) < _LONG][:_TEXTS]
        return found

    def _texts_of(self, piece: Piece) -> list[str]:
        if isinstance(piece, Text):
            return [piece.text]
        if not isinstance(piece, Expansion) or not (named := _NAMED.fullmatch(piece.text)):
            return []
        name = named[1] or named[2] or named[3]
        default = [named[4]] if named[4] else []
        shell = ["sh"] if name in _SHELL_VARIABLES else []
        return sorted({*self.texts.get(name, ()), *default, *shell})[:_TEXTS]

    def reaches(self, text: str) -> bool:
        """Whether arithmetic on a text comes to a value, over names that are the values of variables."""
        if self._composes(text):
            return True
        seen: set[str] = set()
        waiting = self._mentioned(text) - self.proven
        while waiting:
            if waiting & self.tainted:
                return True
            seen |= waiting
            texts = [fixed for name in waiting for fixed in self.texts.get(name, ())]
            waiting = frozenset().union(*map(self._mentioned, texts)) - seen - self.proven
        return False

    def _composes(self, text: str) -> bool:
        """Whether arithmetic may make the name of a tainted variable: $((y$i)) is $((y1)) where i is 1."""
        return any(
            name.startswith(before) and name.endswith(behind) and len(name) > len(before + behind)
            for before, behind in _COMPOSED.findall(text)
            if before or behind
            for name in self.tainted
        )

    def mentions(self, text: str) -> bool:
        """Whether a text names a variable that is tainted."""
        return bool(self._mentioned(text) & self.tainted)

    def _mentioned(self, text: str) -> frozenset[str]:
        return frozenset(map(self._standing, Expansion("", text).mentions))

    def _standing(self, name: str) -> str:
        """What stands for a variable or a parameter among the tainted names; "" for none of them."""
        if name in ("@", "*"):
            return self.parameters
        if not name.isdigit() or not name.strip("0"):
            return name  # $0 is no argument of a function
        return self.parameters if len(name) > _DIGITS or self._holds(int(name)) else ""

    def _holds(self, number: int) -> bool:
        """Whether this parameter may be an argument that holds a value, as far as is known."""
        places = self.places.get(self.function)
        if places is None or self.loops or self.function in self.moved:
            return True
        last = number + self.shifts.get(self.function, 0)
        return any(-place <= last if place < 0 else number <= place <= last for place in places)

    def given(self, arguments: Sequence[Word], first: int = 1) -> Given:
        """What is known of the arguments of code, or of a function; the first is the one with this number."""
        places = set()
        for at, word in enumerate(arguments):
            if any(map(_is_many, word.pieces)):
                if some([self.word(one) for one in arguments[at:]]):
                    places |= {at + first} if at + first < 1 else set()
                    places.add(-max(1, at + first))
                break
            if self.word(word):
                places.add(at + first)
        return Given(self.contents_of(arguments), frozenset(places))

    # ------------------------------------------------------------ words: are they tainted?

    def word(self, word: Word) -> bool:
        """Whether a word holds a value."""
        return True in self._tainted_pieces(word)

    def _tainted_pieces(self, word: Word) -> tuple[bool, ...]:
        if id(word) not in self.known:
            self.known[id(word)] = (word, tuple([self.piece(piece, word) for piece in word.pieces]))
        return self.known[id(word)][1]

    def content(self, word: Word, behind: int = 0) -> Content:
        """What is known of a word's text, behind its first characters."""
        begins: set[int] = set()
        unknown = value = False
        begun = False  # whether there was something that can't be empty or an option
        for piece, tainted in zip(word.pieces, self._tainted_pieces(word), strict=True):
            if isinstance(piece, Text):
                begun = begun or len(piece.text) > behind
                behind = max(0, behind - len(piece.text))
            elif not tainted:
                begun = True
            else:
                held = self._held(piece)
                value = value or held.value
                if not begun:
                    begins |= held.begins
                    unknown = unknown or held.unknown
                    begun = not held.value
        return Content(frozenset(begins), unknown, value)

    def contents_of(self, words: Iterable[Word]) -> Content:
        """What is known of any of these words, of which the shell may make more."""
        held = Content()
        for word in words:
            if self.word(word):
                held = held | (ANYTHING if self.split(word) else self.content(word))
        return held

    def _held(self, piece: Piece) -> Content:
        """What is known of the text of a tainted piece."""
        if isinstance(piece, Hole):
            return Content() if piece.offset in self.paths else Content(frozenset({piece.offset}), value=True)
        if not isinstance(piece, Expansion) or not (name := variable_begun(piece.text)):
            return ANYTHING
        name = self._standing(name)
        held = self.contents.get(name, ANYTHING) if name in self.tainted else Content()
        if some([not isinstance(one, Text) for one in piece.inner]):
            return ANYTHING
        return held

    def _names_parameter(self, name: str) -> bool:
        """Whether `${!name}` may be a parameter that holds a value, as `${!#}` is the last one."""
        numbers = name == "#" or any(text.isdigit() for text in self.texts.get(name, ()))
        return numbers and self.parameters in self.tainted

    def names_by_value(self, word: Word) -> bool:
        """Whether there is a value in the expansions of a word that names a file."""
        process = len(word.pieces) == 1 and isinstance(word.pieces[0], Sub) and not word.pieces[0].split
        return not process and some(
            [
                tainted and not isinstance(piece, Hole) and self._held(piece).value
                for piece, tainted in zip(word.pieces, self._tainted_pieces(word), strict=True)
            ]
        )

    def split(self, word: Word) -> bool:
        """Whether the shell makes several words of a value in it."""
        return some(
            [
                tainted and isinstance(piece, Expansion | Sub) and piece.split and self._held(piece).value
                for piece, tainted in zip(word.pieces, self._tainted_pieces(word), strict=True)
            ]
        )

    def only_paths(self, word: Word) -> bool:
        """Whether all that is tainted of a word are paths that llmc made."""
        return all(
            isinstance(piece, Text) or (isinstance(piece, Hole) and piece.offset in self.paths)
            for piece in word.pieces
        )

    def piece(self, piece: Piece, word: Word) -> bool:
        if isinstance(piece, Text):
            return False
        if isinstance(piece, Sub):
            return self.sequence(piece.body, self.stdin)
        if not isinstance(piece, Expansion) or piece.kind == "fed":
            return True
        within = [self.piece(one, word) for one in piece.inner]
        inner = some(within)
        match piece.kind:
            case "backquote":
                output = self.nested(_unescaped(piece.text[1:-1]), word, self.stdin)
                return self.mentions(piece.text) if output is None else output
            case "brace":
                return self._brace(piece.text, word) or inner
            case "arithmetic" if HOLE not in piece.text:
                values = zip(piece.inner, within, strict=True)
                unproven = [tainted and not self.is_number(one) for one, tainted in values]
                if some(unproven) or self.reaches(piece.text):
                    self.refuse(f"{OF_PLACEHOLDER} in $((...)), which bash evaluates as code", word, _EXPR)
                else:
                    return False
        return inner or self.mentions(piece.text)

    def is_number(self, piece: Piece) -> bool:
        """Whether all that is tainted of a piece are variables that were seen to be numbers."""
        if not isinstance(piece, Expansion) or piece.kind not in ("parameter", "brace") or piece.inner:
            return False
        return self._mentioned(piece.text) & self.tainted <= self.proven

    def _brace(self, text: str, word: Word) -> bool:
        """Refuse the forms of `${...}` in which bash evaluates a value, and follow `${x:=value}`."""
        match = _BRACE.fullmatch(text)
        if match is None:
            return self.mentions(text)
        sign, name, rest = match.groups()
        name = self._standing(name)
        if sign == "!" and rest in ("[@]", "[*]"):
            return _KEYS + name in self.tainted
        inside, rest = subscript(rest)
        evaluated = (
            (sign == "!" and name in self.tainted)
            or (inside and name not in self.maps and self.reaches(inside))
            or (re.match(r":(?![-=?+])", rest) and self.reaches(rest))
            or (rest.startswith("@P") and name in self.tainted)
        )
        if evaluated:
            self.refuse(f"{OF_PLACEHOLDER} in ${{...}}, in a form that bash evaluates", word, PLAIN)
        if re.match(r":?=", rest) and self.mentions(rest):
            self.taint(name, word)
        if sign == "!" and (self.reaches(name) or self._names_parameter(name)):
            return True
        return sign != "#" and self.mentions(text)


def some(tainted: Sequence[bool]) -> bool:
    """`any` over a list, since every member must have been walked."""
    return True in tainted


def _is_many(piece: Piece) -> bool:
    """Whether the shell may make several words of this, or none."""
    if isinstance(piece, Text):
        return not piece.quoted and _PATTERN.search(piece.text) is not None
    if isinstance(piece, Expansion):
        return piece.split or piece.kind == "fed" or _LIST.search(piece.text) is not None
    return isinstance(piece, Sub) and piece.split


def _unescaped(code: str) -> str:
    """What the shell between backquotes sees."""
    return re.sub(r"\\([\\$`])", r"\1", code)
