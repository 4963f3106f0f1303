"""Scans simple commands, redirections and here-documents of a shell script.  Pure.

A here-document with a quoted delimiter is not expanded by the shell.  Where one holds a placeholder, its
delimiter loses its quotes and the author's own `\\`, `$` and backquotes get a backslash: `edits` has these.

Owns what stands between the words of one command, and between commands: blanks, comments, ends of lines.
Lists and compound commands are `scan`'s.
"""

from __future__ import annotations

import re
from abc import abstractmethod

from llmc_build.shellcode.tree import (
    HOLE,
    Assignment,
    Context,
    Document,
    Function,
    Node,
    Piece,
    Redirect,
    Simple,
    Text,
    Word,
)
from llmc_build.shellcode.word import BLANKS, WordScanner

_KEYWORD = re.compile(
    r"(?:if|then|elif|else|fi|for|select|while|until|do|done|case|in|esac|function|coproc|time|\[\[|\]\]|[!{}])"
    r"(?=[ \t\n;&|<>()]|\Z)"
)
_DIGITS = re.compile(r"[0-9]*")
_SPECIAL_IN_BODY = re.compile(r"[\\$`\0]")
_TO_HOLE = re.compile(r"[^\n\0]*")
REDIRECT = re.compile(r"[0-9]*(<<<|<<-|<<|<>|<&|<(?!\()|>>|>&|>\||>(?!\())|&>>|&>")
_DELIMITER = re.compile(
    r"""(?:\\(?P<a>[\w!.][\w.!+@%-]*)|(?P<quote>['"]?)(?P<b>[\w!.][\w.!+@%-]*)(?P=quote))"""
    r"(?=[ \t\n;&|<>()]|\Z)",
    re.ASCII,
)
_SUBSCRIPT = r"\[(?:\w+|[@*]|\$\w+|\$\{\w+\}|\"\$\w+\"|\"\$\{\w+\}\")\]"
_ASSIGNMENT = re.compile(rf"([A-Za-z_]\w*)({_SUBSCRIPT})?\+?=", re.ASCII)
_ELEMENT = re.compile(rf"{_SUBSCRIPT}\+?=", re.ASCII)
_SUBSCRIPTED = re.compile(r"[A-Za-z_]\w*\[", re.ASCII)
_DECLARING = frozenset({"declare", "typeset", "local", "export", "readonly"})

_USE_BASH = "say `shell: bash` for this step, or write it for sh"
_SUBSCRIPT_HINT = "give the subscript a variable of its own and check it: bash calculates subscripts"


class CommandScanner(WordScanner):
    """A scanner that can read one simple command."""

    def __init__(self, text: str, *, shell: str, strict: bool) -> None:
        super().__init__(text, shell=shell, strict=strict)
        self.complete = True  # false where scanning had to stop
        self.words: list[Word] = []  # every word of commands so far, whatever becomes of the tree
        self.command_words: set[int] = set()  # where those begin that name a command

    @abstractmethod
    def function(self, name: str | None, start: int) -> Function:
        """Scan the body of a function, behind its name and `()`."""

    # ------------------------------------------------------------ between commands

    def blanks(self) -> None:
        """Go to the next token of this line, over blanks, joined lines and a comment."""
        while char := self.peek():
            if char in BLANKS:
                self.pos += 1
            elif self.at("\\\n"):
                self.continuation()
            elif char == "#":
                self._comment()
            else:
                return

    def _comment(self) -> None:
        while self.peek() not in ("", "\n"):
            if self.peek() == HOLE:
                self.hole(Context.COMMENT)
            elif text := self.match(_TO_HOLE):
                self.pos = text.end()

    def newlines(self) -> None:
        """Go to the next token of any line; bodies of here-documents are read at the ends of lines."""
        self.blanks()
        while self.peek() == "\n":
            self.pos += 1
            if self.pending:
                self.bodies()
            self.blanks()

    def keyword(self) -> str:
        """The reserved word that begins here, or ""."""
        word = self.match(_KEYWORD)
        return word.group() if word else ""

    def expect(self, word: str, opened: int, opener: str) -> None:
        if self.keyword() != word:
            raise self.stop(f"expected `{word}` for this `{opener}`, found {self.shown()}", opened)
        self.pos += len(word)

    def shown(self) -> str:
        text = re.compile(r";;|&&|\|\||[A-Za-z0-9_]+|.", re.DOTALL).match(self.text, self.pos, self.end)
        shown = "" if text is None else text.group()
        return {"": "end of the script", "\n": "end of line", HOLE: "placeholder"}.get(shown, f"`{shown}`")

    # ------------------------------------------------------------ simple commands

    def simple(self) -> Node:
        start = self.pos
        assignments: list[Assignment] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            self.blanks()
            if self.match(REDIRECT):
                redirects.append(self.redirect())
            elif self.at("<(") or self.at(">("):
                words.append(self.argument())
            elif self.peek() in ("", "\n", ";", "&", "|", ")"):
                break
            elif self.at("("):
                if len(words) == 1 and not assignments and not redirects:
                    self.words.pop()  # the name that was taken for a command
                    return self._function_parentheses(words[0].literal, start)
                raise self.stop(
                    "unexpected `(`", self.pos, "quote it, or write the commands on a line of their own"
                )
            elif not words and (found := self._assignment()):
                assignments.append(found)
            else:
                if not words:
                    self.command_words.add(self.pos)
                words.append(self.argument(declares=bool(words) and words[0].literal in _DECLARING))
        if not (assignments or words or redirects):
            raise self.stop(f"a command is missing before {self.shown()}", self.pos)
        return Simple(
            assignments=tuple(assignments), words=tuple(words), redirects=tuple(redirects), start=start
        )

    def _function_parentheses(self, name: str | None, start: int) -> Function:
        self.pos += 1
        self.blanks()
        if not self.at(")"):
            raise self.stop("unexpected `(`", self.pos, "quote it")
        self.pos += 1
        return self.function(name, start)

    def argument(self, *, declares: bool = False) -> Word:
        """A word of a command, a `<(...)`, or an array among the arguments of `declare`."""
        start = self.pos
        word = self.word()
        pieces: list[Piece] = [*word.pieces]
        if declares and self.at("(") and word.unquoted.endswith("="):
            pieces.append(Text("(", quoted=False))
            for element in self._array():
                pieces += element.pieces
        while self.at("<(") or self.at(">("):
            pieces += [*self._process().pieces, *self.word().pieces]
        if self.pos > word.end:
            word = Word(pieces=tuple(pieces), start=start, end=self.pos)
        self.needed(word, "a word")
        self.words.append(word)
        return word

    def needed(self, word: Word, what: str) -> Word:
        """A scanned word, which must not be empty."""
        if word.start == word.end:
            raise self.stop(f"{what} is missing before {self.shown()}", word.start)
        return word

    def _process(self) -> Word:
        start = self.pos
        if self.shell != "bash":
            self.refuse(f"{self.text[start : start + 2]}...) in a script for sh", start, _USE_BASH)
        elif self.at(">("):
            self.refuse(">(...) beside placeholders", start, "use a pipe, or a file")
        self.pos += 2
        inside = self.commands(start, "this <( is never closed")
        return Word(pieces=(inside,), start=start, end=self.pos)

    def _assignment(self) -> Assignment | None:
        start = self.pos
        head = self.match(_ASSIGNMENT)
        if head is None:
            if self.match(_SUBSCRIPTED):
                raise self.stop("an array subscript that is not a plain word", start, _SUBSCRIPT_HINT)
            return None
        self.pos = head.end()
        is_array = self.at("(")
        values = self._array() if is_array else [self.word()]
        self.words += [value for value in values if any(not hasattr(p, "text") for p in value.pieces)]
        return Assignment(
            name=head[1], subscript=head[2] or "", values=tuple(values), start=start, is_array=is_array
        )

    def _array(self) -> list[Word]:
        if self.shell != "bash":
            self.refuse("an array in a script for sh", self.pos, _USE_BASH)
        opened = self.pos
        self.pos += 1
        words = []
        self.newlines()
        while not self.at(")"):
            if self.at("[") and not self.match(_ELEMENT):
                self.refuse("an array subscript that is not a plain word", self.pos, _SUBSCRIPT_HINT)
            word = self.word()
            if word.start == word.end:
                raise self.stop("this ( of an array is never closed", opened)
            words.append(word)
            self.newlines()
        self.pos += 1
        return words

    # ------------------------------------------------------------ redirections and here-documents

    def redirect(self) -> Redirect:
        start = self.pos
        match = self.match(REDIRECT)
        assert match is not None
        operator = match[1] or match.group()
        self.pos = match.end()
        self.blanks()
        if operator in ("<<", "<<-"):
            return self._document(operator, start)
        if operator == "<<<" and self.shell != "bash":
            self.refuse("<<< is not sh", start, "write: printf '%s\\n' {{ x }} | command")
        word = self._process() if self.at("<(") or self.at(">(") else self.needed(self.word(), "a file name")
        if operator in ("<", "<>"):
            self.words.append(word)
        return Redirect(operator=operator, word=word, start=start, stream=self._stream(start))

    def _stream(self, start: int) -> str:
        digits = _DIGITS.match(self.text, start, self.end)
        return digits.group() if digits else ""

    def _document(self, operator: str, start: int) -> Redirect:
        match = self.match(_DELIMITER)
        if match is None:
            raise self.stop(
                "the delimiter of a here-document must be a plain word", start, "write <<EOF or <<'EOF'"
            )
        self.pos = match.end()
        redirect = Redirect(operator=operator, word=Word(pieces=(), start=start, end=start), start=start)
        self.pending.append(
            Document(
                redirect=redirect,
                delimiter=match["a"] or match["b"],
                quoted=bool(match["a"] or match["quote"]),
                start=match.start(),
                end=match.end(),
            )
        )
        return redirect

    def bodies(self) -> None:
        """Read the bodies of the here-documents that were opened on the line just ended."""
        waiting, self.pending = self.pending, []
        for document in waiting:
            start = self.pos
            stop, after = self._extent(document)
            if document.quoted:
                pieces = self._quoted_body(document, stop)
            else:
                pieces = self._expanding_body(stop)
            document.redirect.word = Word(pieces=pieces, start=start, end=stop)
            self.pos = after

    def _extent(self, document: Document) -> tuple[int, int]:
        """Where the body ends, and where the script goes on."""
        at = self.pos
        while at < self.end:
            stop = self.text.find("\n", at, self.end)
            stop = self.end if stop < 0 else stop
            line = self.text[at:stop]
            if (line.lstrip("\t") if document.redirect.operator == "<<-" else line) == document.delimiter:
                return at, min(stop + 1, self.end)
            at = stop + 1
        hint = f"a line that holds {document.delimiter} and nothing else ends it"
        raise self.stop("this here-document is never closed", document.redirect.start, hint)

    def _expanding_body(self, stop: int) -> tuple[Piece, ...]:
        outer, self.end = self.end, stop
        pieces: list[Piece] = []
        while char := self.peek():
            pieces += self.inner(char, Context.BODY)
        self.end = outer
        return tuple(pieces)

    def _quoted_body(self, document: Document, stop: int) -> tuple[Piece, ...]:
        body = self.text[self.pos : stop]
        if HOLE not in body:
            return (Text(body, quoted=True),)
        self.edits.append((document.start, document.end, document.delimiter))
        pieces: list[Piece] = []
        start, at = self.pos, 0
        for special in _SPECIAL_IN_BODY.finditer(body):
            pieces.append(Text(body[at : special.start()], quoted=True))
            at = special.start()
            if special[0] == HOLE:
                self.pos = start + at
                pieces += self.hole(Context.BODY)
                at += 1
            else:
                self.edits.append((start + at, start + at + 1, f"\\{special[0]}"))
        return (*pieces, Text(body[at:], quoted=True))
