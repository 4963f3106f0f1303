"""Scans the commands of a shell script: lists, pipelines, compound commands.  Pure.

Theory of operation.  A recursive descent over the grammar that POSIX gives for sh, with the additions of
bash that can be told apart by sight; `word` does the words, `command` the simple commands.  It
builds the tree that `lint` judges.  What bash reads in another way than sh (`[[`, `((`, `<<<`, `<(`) is
scanned as bash does, and refused where a script for sh has placeholders, since sh may be bash on one
machine and dash on the next.
"""

from __future__ import annotations

import re
from dataclasses import replace

from llmc_build.shellcode.command import REDIRECT, CommandScanner
from llmc_build.shellcode.cursor import Stop
from llmc_build.shellcode.tree import (
    HOLE,
    NAME,
    Compound,
    Function,
    Node,
    Pipeline,
    Redirect,
    Sequence_,
    Text,
    Word,
)
from llmc_build.shellcode.word import METACHARACTERS

_FUNCTION_NAME = re.compile(r"[A-Za-z_][\w.:-]*", re.ASCII)
_JOINING = re.compile(r"&&?|\|\|")
_EMPTY_PARENTHESES = re.compile(r"\([ \t]*\)")
_TIMED = re.compile(r"time[ \t]+(?:-p[ \t]+)?(?=[({!]|if\b|for\b|while\b|until\b|case\b|\[\[)")


def scan(text: str, *, shell: str) -> tuple[Scanner, Sequence_]:
    """Scan a whole script; the sequence is empty where the scanner is not `complete`."""
    scanner = Scanner(text, shell=shell, strict=HOLE in text)
    return scanner, scanner.script()


class Scanner(CommandScanner):
    """Reads commands; `found`, `contexts` and `edits` tell what is to be done with the placeholders."""

    def script(self) -> Sequence_:
        try:
            tree = self.sequence(frozenset())
            if self.pos < self.end:
                raise self.stop(f"unexpected {self.shown()}", self.pos)
            if self.pending:
                self.bodies()
        except Stop:
            self.complete = False
            return ()
        return tree

    # ------------------------------------------------------------ lists and pipelines

    def sequence(self, stops: frozenset[str]) -> Sequence_:
        pipelines: list[Pipeline] = []
        self.newlines()
        while not self._ends(stops):
            pipelines.append(self._pipeline())
            self.blanks()
            if joined := self.match(_JOINING):
                pipelines[-1] = _marked(pipelines[-1], joined=joined.group())
            if self.at("&&") or self.at("||"):
                self.pos += 2
                self.newlines()
                if self._ends(stops):
                    raise self.stop(f"a command is missing before {self.shown()}", self.pos)
            elif self.at(";;") or self.at(";&"):
                break
            elif self.at(";") or self.at("&"):
                self.pos += 1
                self.newlines()
            elif self.at("\n"):
                self.newlines()
            else:
                break
        return tuple(pipelines)

    def _ends(self, stops: frozenset[str]) -> bool:
        return self.peek() in ("", ")") or self.at(";;") or self.at(";&") or self.keyword() in stops

    def _pipeline(self) -> Pipeline:
        negated = self._prefixes()
        nodes = [self._command()]
        self.blanks()
        while self.at("|") and not self.at("||"):
            self.pos += 2 if self.at("|&") else 1
            self.newlines()
            nodes.append(self._command())
            self.blanks()
        return _marked(tuple(nodes), negated=True) if negated else tuple(nodes)

    def _prefixes(self) -> bool:
        """`!`, and `time` where it is followed by what only a reserved word can be followed by.

        Tells whether there was a `!`.
        """
        negated = False
        while True:
            if self.keyword() == "!":
                self.pos += 1
                negated = True
            elif timed := self.match(_TIMED):
                self.pos = timed.end()
            else:
                return negated
            self.blanks()

    def _command(self) -> Node:
        with self.nested():
            return self._compound() or self.simple()

    # ------------------------------------------------------------ compound commands

    def _compound(self) -> Node | None:
        start, word = self.pos, self.keyword()
        match word:
            case "if":
                found = self._if(start)
            case "while" | "until":
                found = self._loop(start, word)
            case "for" | "select":
                found = self._for(start, word)
            case "case":
                found = self._case(start)
            case "{":
                found = self._group(start)
            case "[[":
                found = self._condition(start)
            case "function":
                return self._function_word(start)
            case "coproc":
                raise self.stop("`coproc` beside placeholders", start, "use a pipe, or a file")
            case "" | "time" | "in":
                if not self.at("("):
                    return None
                found = self._arithmetic_command(start) if self.at("((") else self._subshell(start)
            case _:
                raise self.stop(f"unexpected {self.shown()}", start)
        return self._redirected(found)

    def _redirected(self, found: Compound) -> Compound:
        redirects: list[Redirect] = []
        self.blanks()
        while self.match(REDIRECT):
            redirects.append(self.redirect())
            self.blanks()
        return replace(found, redirects=tuple(redirects)) if redirects else found

    def _if(self, start: int) -> Compound:
        bodies = []
        opener = "if"
        while opener in ("if", "elif"):
            self.pos += len(opener)
            bodies.append(self.sequence(frozenset({"then"})))
            self.expect("then", start, "if")
            bodies.append(self.sequence(frozenset({"elif", "else", "fi"})))
            opener = self.keyword()
        if opener == "else":
            self.pos += 4
            bodies.append(self.sequence(frozenset({"fi"})))
        self.expect("fi", start, "if")
        return Compound(kind="if", bodies=tuple(bodies), start=start)

    def _loop(self, start: int, word: str) -> Compound:
        self.pos += len(word)
        condition = self.sequence(frozenset({"do"}))
        return Compound(kind=word, bodies=(condition, self._do(start, word)), start=start)

    def _do(self, start: int, opener: str) -> Sequence_:
        self.expect("do", start, opener)
        body = self.sequence(frozenset({"done"}))
        self.expect("done", start, opener)
        return body

    def _for(self, start: int, opener: str) -> Compound:
        self.pos += len(opener)
        self.blanks()
        variable: str | None = None
        if self.at("(("):
            words = [*self._arithmetic_command(self.pos).head]
        else:
            variable, words = self._loop_variable(opener), self._loop_words()
        self.newlines()
        if self.at(";"):
            self.pos += 1
        self.newlines()
        body = self._do(start, opener)
        return Compound(kind=opener, head=tuple(words), variable=variable, bodies=(body,), start=start)

    def _loop_variable(self, opener: str) -> str:
        word = self.word()
        if word.holes:
            self.refuse(
                f"a placeholder as the variable of `{opener}`",
                word.start,
                "write: for item in {{ x }}; do ...",
            )
        elif not NAME.fullmatch(word.literal or ""):
            raise self.stop(f"`{opener}` needs the name of a variable", word.start)
        return word.literal or ""

    def _loop_words(self) -> list[Word]:
        self.newlines()
        if self.keyword() != "in":
            return []
        self.pos += 2
        self.blanks()
        words = []
        while self.peek() not in ("", "\n", ";"):
            words.append(self.argument())
            self.blanks()
        return words

    def _case(self, start: int) -> Compound:
        self.pos += 4
        self.blanks()
        subject = self.argument()
        self.newlines()
        self.expect("in", start, "case")
        self.newlines()
        patterns: list[Word] = []
        bodies: list[Sequence_] = []
        firsts = 0
        while self.keyword() != "esac":
            if self.substitutions and not self.at("("):
                self.refuse(
                    "`case` inside $( )",
                    start,
                    "write a ( before each of its patterns: (a) ... ;; (*) ... ;;",
                )
            patterns += self._patterns(start)
            bodies.append(self.sequence(frozenset({"esac"})))
            if len(bodies) == 1 and not self.at(";;&") and not self.at(";&"):
                firsts = len(patterns)
            for end in (";;&", ";;", ";&"):
                if self.at(end):
                    self.pos += len(end)
                    break
            else:
                break
            self.newlines()
        self.expect("esac", start, "case")
        return Compound(
            kind="case",
            head=(subject,),
            patterns=tuple(patterns),
            firsts=firsts,
            bodies=tuple(bodies),
            start=start,
        )

    def _patterns(self, start: int) -> list[Word]:
        if self.at("("):
            self.pos += 1
            self.blanks()
        patterns = []
        while True:
            patterns.append(self.needed(self.word(), "a pattern"))
            self.blanks()
            if not self.at("|"):
                break
            self.pos += 1
            self.blanks()
        if not self.at(")"):
            raise self.stop(f"expected `)` after a pattern of this `case`, found {self.shown()}", start)
        self.pos += 1
        return patterns

    def _group(self, start: int) -> Compound:
        self.pos += 1
        body = self.sequence(frozenset({"}"}))
        self.expect("}", start, "{")
        return Compound(kind="{", bodies=(body,), start=start)

    def _subshell(self, start: int) -> Compound:
        self.pos += 1
        body = self.sequence(frozenset())
        if not self.at(")"):
            raise self.stop("this ( is never closed", start)
        self.pos += 1
        return Compound(kind="(", bodies=(body,), start=start)

    def _condition(self, start: int) -> Compound:
        if self.shell != "bash":
            self.refuse("[[ ]] in a script for sh", start, "write [ ], or say `shell: bash` for this step")
        self.pos += 2
        head: list[Word] = []
        self.newlines()
        while self.keyword() != "]]":
            char = self.peek()
            if not char:
                raise self.stop("this [[ is never closed", start)
            if char in METACHARACTERS:
                head.append(self._operator(2 if self.at("&&") or self.at("||") else 1))
            else:
                head.append(self.needed(self.word(), "a word"))
                self.words.append(head[-1])
            self.newlines()
        self.pos += 2
        return Compound(kind="[[", head=tuple(head), start=start)

    def _operator(self, length: int) -> Word:
        start = self.pos
        self.pos += length
        text = Text(self.text[start : self.pos], quoted=False)
        return Word(pieces=(text,), start=start, end=self.pos)

    def _arithmetic_command(self, start: int) -> Compound:
        if self.strict and self.shell != "bash":
            raise self.stop(
                "(( )) is arithmetic in bash and two subshells in sh", start, "write $(( )) or ( ( ) )"
            )
        self.pos += 2
        found = self.calculation(start, "((", "calculate with expr before, or compare with [ ... ]")
        head = Word(pieces=(found,), start=start, end=self.pos)
        return Compound(kind="((", head=(head,), start=start)

    def _function_word(self, start: int) -> Function:
        if self.shell != "bash":
            self.refuse("`function` in a script for sh", start, "write name() { ...; }")
        self.pos += len("function")
        self.blanks()
        name = self.needed(self.word(), "a name").literal
        self.blanks()
        if self.match(_EMPTY_PARENTHESES):
            self.pos = self.text.index(")", self.pos) + 1
        return self.function(name, start)

    def function(self, name: str | None, start: int) -> Function:
        if name is None or not _FUNCTION_NAME.fullmatch(name):
            raise self.stop("the name of a function must be a plain word", start)
        self.newlines()
        if not (self.at("(") or self.keyword()):
            raise self.stop("the body of a function must be { ...; } or another compound command", start)
        return Function(name=name, body=self._command(), start=start)


def _marked(pipeline: Pipeline, *, joined: str = "", negated: bool = False) -> Pipeline:
    """A pipeline with what stands around it noted at its first command."""
    first = pipeline[0]
    if isinstance(first, Function):
        return pipeline
    first = replace(first, joined=joined or first.joined, negated=negated or first.negated)
    return (first, *pipeline[1:])
