"""Scans the words of a shell script: quotes, expansions, and where placeholders stand in them.  Pure.

Theory of operation.  The scanned text has the one character HOLE for each placeholder.  The scanner
follows the quoting rules that dash and bash share, and notes for every HOLE the context it stands in.
Where shells differ, or where a value would be evaluated rather than expanded, it notes a `Found`
instead; a script with placeholders is then refused as a whole, so a wrong guess about what follows
can't do harm.  A script without placeholders is scanned *leniently*: nothing is noted, and the scan
serves only to find the script's words.  What can't be scanned at all raises `Stop`.

Owns words.  The commands around them, and the commands inside `$(...)`, are `scan`'s: `sequence`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import replace

from llmc_build.shellcode.cursor import Cursor
from llmc_build.shellcode.tree import (
    HOLE,
    NAME,
    Context,
    Expansion,
    Hole,
    Piece,
    Sequence_,
    Sub,
    Text,
    Word,
)

BLANKS = " \t"
METACHARACTERS = frozenset(" \t\n;&|<>()")

_PLAIN = re.compile(r"""[^ \t\n;&|<>()\\'"`$\0]+""")
_IN_DOUBLE = re.compile(r'[^"\\`$\0]+')
_IN_BODY = re.compile(r"[^\\`$\0]+")
_SPECIAL = re.compile(r"[0-9@*#?$!-]")
_CUTTING = re.compile(r"\w+(?:##?|%%?)")  # "${x#"pattern"}": here all shells take quotes alike
_IN_SINGLE = re.compile(r"[^'\0]*")
_NAME_END = re.compile(r"[A-Za-z0-9_]*+\$")  # a name and its dollar sign, read backwards
_NAME_LENGTH = 256  # characters: longer names before a joined line are not looked at
_ANSI = re.compile(r"\$'((?:[^\\'\0]|\\[^\0])*+)'")
_ANSI_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_ANSI_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}

_OWN_VARIABLE = "assign it to a variable before (y={{ x }}) and write the expansion with $y"


class WordScanner(Cursor, ABC):
    """A scanner that can read one word."""

    @abstractmethod
    def sequence(self, stops: frozenset[str]) -> Sequence_:
        """Scan commands up to a word of `stops`, a `)` or the end."""

    # ------------------------------------------------------------ words and their pieces

    def word(self) -> Word:
        """The word that begins here; it may be empty."""
        start = self.pos
        pieces: list[Piece] = []
        while (char := self.peek()) and char not in METACHARACTERS:
            pieces += self._piece(char)
        word = Word(pieces=tuple(pieces), start=start, end=self.pos)
        if word.holes and _is_sequence(word.unquoted):
            self.refuse("a placeholder in a {..} sequence", start, "count with a loop, or with seq {{ x }}")
        return word

    def hole(self, context: Context) -> list[Piece]:
        offset = self.pos
        self.pos += 1
        self.contexts[offset] = context
        if self._forbidden and context is not Context.COMMENT:
            message, hint, _ = self._forbidden[-1]
            self.refuse(message, offset, hint)
        return [Hole(offset)]

    def _piece(self, char: str) -> list[Piece]:
        match char:
            case "\\":
                return self._backslash()
            case "'":
                return self._single()
            case '"':
                return self._double()
            case "`":
                return _split(self._backquotes())
            case "$":
                return _split(self._dollar(Context.BARE))
            case _ if char == HOLE:
                return self.hole(Context.BARE)
        plain = self.match(_PLAIN)
        assert plain is not None
        self.pos = plain.end()
        return [Text(plain.group(), quoted=False)]

    def _backslash(self) -> list[Piece]:
        if self.peek(1) == "\n":
            self.continuation()
            return []
        escaped = self._escaped()
        return [Text(escaped, quoted=True)] if escaped else []

    def _escaped(self) -> str:
        """The character after a backslash, "" where that is a placeholder (which is refused)."""
        following = self.peek(1)
        if following == HOLE:
            self.refuse("a backslash directly before a placeholder", self.pos, "write the backslash as '\\'")
            self.pos += 1
            return ""
        self.pos += 2 if following else 1
        return following or "\\"

    def continuation(self) -> None:
        """A backslash and a newline outside quotes; shells remove them before they look for words."""
        before = self.text[self.pos - 1] if self.pos else "\n"
        if before not in BLANKS + "\n;&|":
            self.refuse(
                "a line ends with a backslash in the middle of a word", self.pos, "put a space before it"
            )
        self.pos += 2

    def _single(self) -> list[Piece]:
        opened = self.pos
        self.pos += 1
        pieces: list[Piece] = [Text("", quoted=True)]
        while True:
            literal = self.match(_IN_SINGLE)
            if literal is None or literal.end() == self.end:
                raise self.stop("this ' is never closed", opened)
            self._literal(literal.end(), pieces)
            if self.peek() == "'":
                self.pos += 1
                return pieces
            pieces += self.hole(Context.SINGLE)

    def _literal(self, stop: int, pieces: list[Piece]) -> None:
        text = self.text[self.pos : stop]
        if "\n" in text:
            self.inside_line()
        self.pos = stop
        if text:
            pieces.append(Text(text, quoted=True))

    def inside_line(self) -> None:
        """A newline that does not end a line of commands: no here-document may wait for its body."""
        if self.pending:
            raise self.stop(
                "a here-document must begin on the line after its <<",
                self.pending[0].redirect.start,
                "close every quote and every $( on the line of the <<",
            )

    def _double(self) -> list[Piece]:
        opened = self.pos
        self.pos += 1
        pieces: list[Piece] = [Text("", quoted=True)]
        while char := self.peek():
            if char == '"':
                self.pos += 1
                return pieces
            pieces += self.inner(char, Context.DOUBLE)
        raise self.stop('this " is never closed', opened)

    def inner(self, char: str, context: Context) -> list[Piece]:
        """What begins here inside double quotes, or inside a here-document."""
        match char:
            case "\\" if self.peek(1) == "\n":
                return self._joined_lines(context)
            case "\\":
                escaped = self._escaped()
                return [Text(escaped, quoted=True)] if escaped else []
            case "`":
                return self._backquotes()
            case "$":
                return self._dollar(context)
            case _ if char == HOLE:
                return self.hole(context)
        plain = self.match(_IN_BODY if context is Context.BODY else _IN_DOUBLE)
        if plain is None:  # a double quote where the caller gives it no meaning
            self.pos += 1
            return [Text(char, quoted=True)]
        pieces: list[Piece] = []
        self._literal(plain.end(), pieces)
        return pieces

    def _joined_lines(self, context: Context) -> list[Piece]:
        self.inside_line()
        if context is Context.BODY:
            self.refuse(
                "a line of a here-document ends with a backslash: shells differ on where the document ends",
                self.pos,
                "write the line in one piece, or quote the delimiter (<<'EOF')",
            )
        elif _NAME_END.match(self.text[max(0, self.pos - _NAME_LENGTH) : self.pos][::-1]):
            self.refuse(
                "a line ends with a backslash inside the name of a variable", self.pos, "join the lines"
            )
        self.pos += 2
        return []

    # ------------------------------------------------------------ expansions

    def _dollar(self, context: Context) -> list[Piece]:
        following = self.peek(1)
        if following == "(":
            return [self._arithmetic() if self.peek(2) == "(" else self._substitution()]
        if following == "{":
            return [self._brace(context)]
        if following == "'" and context is Context.BARE:
            return self._ansi()
        name = NAME.match(self.text, self.pos + 1, self.end) or _SPECIAL.match(
            self.text, self.pos + 1, self.end
        )
        if name:
            text = self.text[self.pos : name.end()]
            self.pos = name.end()
            return [Expansion("parameter", text)]
        self._odd_dollar(following, context)
        self.pos += 1
        return [Text("$", quoted=context is not Context.BARE)]

    def _odd_dollar(self, following: str, context: Context) -> None:
        """Refuse what some shell reads as more than a dollar sign."""
        if following == HOLE:
            self.refuse("$ directly before a placeholder", self.pos, "write a dollar sign as '$'")
        elif following == "[":
            self.refuse("$[ is arithmetic in bash", self.pos, "write $(( )), or '$[' for the characters")
        elif following == '"' and context is Context.BARE:
            self.refuse('$"..." means different things to different shells', self.pos, 'write "..."')
        elif following == "\\" and self.peek(2) == "\n":
            self.refuse("a line ends with $ and a backslash", self.pos, "join the lines")

    def _ansi(self) -> list[Piece]:
        whole = self.match(_ANSI)
        if whole is None or (self.strict and self.shell != "bash"):
            raise self.stop(
                "$'...' means different things to different shells",
                self.pos,
                "write '...', or use printf for escapes",
            )
        self._literal(whole.end(), [])
        return [Text(_ANSI_ESCAPE.sub(_unescaped, whole[1]), quoted=True)]

    def _substitution(self) -> Sub:
        opened = self.pos
        self.pos += 2
        if self.at("\\\n"):
            self.refuse("a line ends with a backslash after $(", self.pos, "leave the backslash out")
        return self.commands(opened, "this $( is never closed")

    def commands(self, opened: int, never_closed: str) -> Sub:
        """The commands up to the `)` that closes what was opened at `opened`."""
        outer, self.pending = self.pending, []
        forbidden = self._forbidden
        self._forbidden = [one for one in forbidden if one[2]]
        self.substitutions += 1
        with self.nested():
            body = self.sequence(frozenset())
        if self.peek() != ")":
            raise self.stop(never_closed, opened)
        self.pos += 1
        if self.pending:
            raise self.stop(
                "this here-document is still open at the end of $( )",
                self.pending[0].redirect.start,
                "put the closing ) on a line after the document",
            )
        self.substitutions -= 1
        self.pending, self._forbidden = outer, forbidden
        if "\n" in self.text[opened : self.pos]:
            self.inside_line()
        return Sub(body)

    def _brace(self, context: Context) -> Expansion:
        opened = self.pos
        self.pos += 2
        if self.peek() in {" ", "\t", "\n", "|", "(", "\\"}:
            self.refuse("${ must be followed by a name", opened)
        inner: list[Piece] = []
        cuts = self.match(_CUTTING) is not None
        with self.forbidding("a placeholder inside ${...}", _OWN_VARIABLE, deeply=True), self.nested():
            while (char := self.peek()) != "}":
                if not char:
                    raise self.stop("this ${ is never closed", opened)
                quoted = char == '"' and cuts and context is Context.DOUBLE
                inner += self._double() if quoted else self._in_brace(char, context)
        self.pos += 1
        return Expansion("brace", self.text[opened : self.pos], tuple(inner))

    def _in_brace(self, char: str, context: Context) -> list[Piece]:
        if char in "'\"" and context is not Context.BARE:
            self.refuse(
                'quotes inside "${...}" mean different things to different shells',
                self.pos,
                "use a variable that holds the text, or move the expansion out of the quotes",
            )
            self.pos += 1
            return []
        if char == "\\" or (char == '"' and context is Context.BARE) or char in "`$" or char == HOLE:
            return self.inner(char, context) if char != '"' else self._double()
        if char == "'":
            return self._single()
        if char == "\n":
            self.inside_line()
        if char in "<>" and self.peek(1) == "(":
            self.refuse("process substitution inside ${...}", self.pos, _OWN_VARIABLE)
        self.pos += 1
        return []

    def _arithmetic(self) -> Expansion:
        opened = self.pos
        self.pos += 3
        return self.calculation(opened, "$((", _EXPR)

    def calculation(self, opened: int, opener: str, hint: str) -> Expansion:
        """The rest of an arithmetic expression, to its `))`."""
        depth = 0
        inner: list[Piece] = []
        text = [self.text[opened : self.pos]]
        what = f"a placeholder inside {opener}...)), which evaluates text as code"
        with self.forbidding(what, hint, deeply=False), self.nested():
            while depth or not self.at("))"):
                start, char = self.pos, self.peek()
                if not char:
                    raise self.stop(f"this {opener} is never closed", opened)
                if char == ")" and not depth:
                    raise self.stop(f"{opener} is closed by a single )", opened, "write ( ( for a subshell")
                if char in "'\"":
                    self.refuse(f"quotes inside {opener}...))", self.pos, "leave them out")
                depth += (char == "(") - (char == ")")
                found = self._in_arithmetic(char)
                inner += found
                text.append("0" if found and isinstance(found[0], Sub) else self.text[start : self.pos])
        self.pos += 2
        return Expansion("arithmetic", "".join([*text, "))"]), tuple(inner))

    def _in_arithmetic(self, char: str) -> list[Piece]:
        if char in "\\`$" or char == HOLE:
            return self.inner(char, Context.DOUBLE)
        if char == "\n":
            self.inside_line()
        self.pos += 1
        return []

    def _backquotes(self) -> list[Piece]:
        """Text up to the next backquote without a backslash before it; quotes do not matter to shells."""
        opened = self.pos
        self.pos += 1
        while (char := self.peek()) != "`":
            if not char:
                raise self.stop("this ` is never closed", opened)
            if char == HOLE:
                hint = "write $(...) instead of backquotes"
                with self.forbidding("a placeholder inside backquotes", hint, deeply=True):
                    self.hole(Context.BARE)
                continue
            if char == "\n":
                self.inside_line()
            self.pos += 2 if char == "\\" and self.peek(1) not in ("", HOLE) else 1
        self.pos += 1
        return [Expansion("backquote", self.text[opened : self.pos])]


def _split(pieces: list[Piece]) -> list[Piece]:
    """Expansions that stand outside quotes."""
    return [replace(piece, split=True) if isinstance(piece, Expansion | Sub) else piece for piece in pieces]


def _is_sequence(unquoted: str) -> bool:
    """Whether there is a `{`, a `..` behind it, and a `}` behind that."""
    opened = unquoted.find("{")
    dots = unquoted.find("..", opened + 1) if opened >= 0 else -1
    return dots >= 0 and "}" in unquoted[dots:]


def _unescaped(escape: re.Match[str]) -> str:
    """What stands for itself in `$'...'`."""
    code, octal, letter = escape.groups()
    if letter is None:
        return chr(int(code, 16) if code else int(octal, 8) & 255)
    return _ANSI_LETTERS.get(letter, letter)


_EXPR = "let expr calculate (n=$(expr {{ x }} + 1)): it only ever sees a value as data"
