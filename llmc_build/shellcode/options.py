"""Reads the arguments of a command: options, their values, operands, a command inside.  Pure.

Owns how an argument list is cut up, by what `table` says of a command.  Words may hold placeholders and
expansions: an option is known by the literal text that a word begins with.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from llmc_build.shellcode import git
from llmc_build.shellcode.known import AWK, COMMANDS, PERL, PYTHON, SUBCOMMANDS, Command, Operands
from llmc_build.shellcode.table import WRAPPER_OPERANDS, WRAPPERS
from llmc_build.shellcode.tree import Expansion, Text, Word

ASSIGNED = re.compile(r"([A-Za-z_]\w*)\+?=", re.ASCII)
_EXEC = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
_PARALLEL_VALUES = frozenset(
    {
        *("-j", "--jobs", "-a", "--arg-file", "-S", "--sshlogin", "--results", "--joblog", "--timeout"),
        *("--delay", "--retries", "-n", "-N", "-L", "--tmpdir", "--colsep", "-C"),
    }
)
_PARALLEL_HOLES = re.compile(r"\{[0-9.#/%+-]*\}")
_ABBREVIATED = 4  # characters of a long option that may stand for more
_SPLIT_STRING = re.compile(r"-\w*S|--split-string")


class Role(enum.Enum):
    """What a command takes an argument for."""

    OPTION = "an option, or data that could be taken for one"
    VALUE = "the value of an option: never taken for an option itself"
    LATER = "behind all options: data that only the code given could take for an option"
    PASSED = "handed on as it is: behind the code of a shell, or behind --"
    CODE = "parsed as code"
    FILE = "the name of code: a file, a module"
    OPENED = "the name of a file, in which some characters are code"


def roles(command: Command, arguments: Sequence[Word]) -> tuple[list[tuple[Role, Word]], bool]:
    """What each argument is for, and whether the command reads its code from standard input."""
    reader = _Reader(command, list(arguments))
    found = list(reader.read())
    return found, command.stdin and not reader.given


class _Reader:
    """Goes through arguments as getopt would; `given` tells whether code was found among them."""

    def __init__(self, command: Command, arguments: list[Word]) -> None:
        self.command = command
        self.rest = arguments
        self.given = False
        self._dashed = False  # after "--" nothing is an option
        self._from_input = False  # "-" or -s: the code comes from standard input, arguments are its own
        self._flags = ""  # letters of short options seen, for shells and perl

    def read(self) -> Iterator[tuple[Role, Word]]:
        options = True
        seen = 0
        optional = False  # the word before was an option, which may take this one for its value
        while self.rest:
            word = self.rest.pop(0)
            text = word.prefix
            if self.command.loose and options and optional and _is_no_script(word):
                optional = False
                yield Role.OPTION, word
                continue
            optional = options and text[:1] == "-"
            if word.literal == "--" and not self._dashed:
                options, self._dashed = False, True
                yield Role.OPTION, word
            elif options and text[:1] in ("-", "+") and len(text) > 1:
                yield from self._option(word, text)
            elif word.literal == "-" and self.command.stdin and not self.given:
                self._from_input = True
                yield Role.OPTION, word
            else:
                yield self._operand(seen), word
                seen += 1
                if self.command.operands in (Operands.SCRIPT, Operands.AFTER_FIRST):
                    options = False

    def _operand(self, seen: int) -> Role:
        operands = self.command.operands
        if self.command.shell and "c" in self._flags and not self.given:
            self.given = True
            return Role.CODE
        if operands is Operands.ALL_CODE or (operands is Operands.AFTER_FIRST and seen):
            self.given = True
            return Role.CODE
        if operands is Operands.ALL_FILES:
            return Role.FILE
        if self._from_input or (self.command.shell and "s" in self._flags):
            return Role.PASSED
        if operands in (Operands.CODE, Operands.SCRIPT) and not self.given:
            self.given = True
            return Role.CODE if operands is Operands.CODE else Role.FILE
        if self.command is PERL and set(self._flags) & {"n", "p"}:
            return Role.OPENED  # perl opens "command |" as a pipe
        if self._dashed or (self.command.shell and "c" in self._flags):
            return Role.PASSED
        return Role.LATER if self._settled(seen) else Role.OPTION

    def _settled(self, seen: int) -> bool:
        """Whether the command itself looks for no more options: most go on to the end."""
        if self.command is PYTHON:
            return self.given  # also by -c and -m
        return seen > 0 and (self.command is AWK or self.command.operands is Operands.SCRIPT)

    def _option(self, word: Word, text: str) -> Iterator[tuple[Role, Word]]:
        name, equals, _ = text.partition("=")
        name = self._in_full(name)
        joined = not equals and word.literal is None  # the value, or a part of it, stands in the same word
        if text[0] == "+" and "+" in self.command.code:
            self.given = True
            yield Role.CODE, word
        elif name in self.command.pairs:
            yield Role.OPTION, word
            yield from self._values(2, Role.VALUE)
        elif name in self._taking and not (joined and len(name) == 2):
            yield (self._role(name) if equals or joined else Role.OPTION), word
            if not equals and not joined:
                yield from self._values(1, self._role(name))
        elif text.startswith("--") or (word.literal is None and len(text) < 2):
            yield Role.OPTION, word
        else:
            yield from self._cluster(word, text)

    def _in_full(self, name: str) -> str:
        """The option that runs code which this may stand for: GNU programs know them by their beginnings."""
        if len(name) < _ABBREVIATED or not name.startswith("--") or name in self._taking:
            return name
        meant = (one for one in self.command.code | self.command.files if one.startswith(name))
        return min(meant, default=name)

    def _cluster(self, word: Word, text: str) -> Iterator[tuple[Role, Word]]:
        """Short options in one word: the first that takes a value takes the rest, or the next word."""
        for at, letter in enumerate(text[1:], start=1):
            self._flags += letter
            name = text[0] + letter
            if name in self.command.suffix:
                break
            if name in self._taking:
                attached = at + 1 < len(text) or word.literal is None
                yield (self._role(name) if attached else Role.OPTION), word
                if not attached:
                    yield from self._values(1, self._role(name))
                elif self.command.loose and word.literal and "-" + text[-1] in self.command.code:
                    yield from self._values(1, Role.CODE)  # `-pe`: the first may be a flag
                return
        yield Role.OPTION, word

    @property
    def _taking(self) -> frozenset[str]:
        return self.command.code | self.command.files | self.command.values

    def _role(self, name: str) -> Role:
        if name in self.command.values:
            return Role.VALUE
        self.given = True
        return Role.CODE if name in self.command.code else Role.FILE

    def _values(self, count: int, role: Role) -> Iterator[tuple[Role, Word]]:
        for _ in range(count):
            if self.command.loose and self.rest and len(text := self.rest[0].prefix) > 1 and text[0] == "-":
                return  # it was a flag, and this is the next option
            if self.rest:
                yield role, self.rest.pop(0)


def _is_no_script(word: Word) -> bool:
    """Whether a word is more likely a setting than the name of a script."""
    text = word.literal
    return bool(text) and text is not None and text[0] != "-" and ("=" in text or not set(text) & {".", "/"})


class Wrapped:
    """A command that runs another: `own` are its own arguments, `inner` is the command that it runs."""

    def __init__(self, name: str, arguments: Sequence[Word]) -> None:
        self.own: list[Word] = []
        self.assigned: list[tuple[str, Word]] = []  # name=value arguments of `env`
        self.inner = list(arguments)
        self.splits = False  # `env -S`: arguments are cut into a command
        self._replaced: str | None = None  # what `xargs -I` replaces
        takes, operands = WRAPPERS[name], WRAPPER_OPERANDS.get(name, 0)
        while self.inner:
            text = self.inner[0].prefix
            if name in ("env", "sudo", "doas") and (assigned := ASSIGNED.match(text)):
                self.assigned.append((assigned[1], self._take()))
            elif text.startswith("-") and not (
                name == "flock" and not operands and text in ("-c", "--command")
            ):
                self._option(name, text, takes)
            elif operands:
                operands -= 1
                self._take()
            else:
                return

    def _take(self) -> Word:
        self.own.append(self.inner.pop(0))
        return self.own[-1]

    def _option(self, name: str, text: str, takes: frozenset[str]) -> None:
        self.splits = self.splits or (name == "env" and bool(_SPLIT_STRING.match(text)))
        self._take()
        if text in takes and self.inner:
            self._take()
        if text == "-I":
            self._replaced = self.own[-1].literal or "{}"
        elif text.startswith(("-I", "-i", "--replace")):
            self._replaced = text.partition("=")[2] if "=" in text else text[2:] if text[1] != "-" else ""
            self._replaced = self._replaced or "{}"

    def fed(self, is_value: Callable[[Word], bool]) -> list[Word]:
        """The inner command as xargs builds it from an input that is a value."""
        value = Expansion("fed", "")
        if not self.inner:
            return []
        if self._replaced is None:
            at = self.inner[0].start
            return [*self.inner, Word(pieces=(value,), start=at, end=at)]
        return [
            word
            if is_value(word) or self._replaced not in (word.literal or "")
            else Word(
                pieces=(Text(word.prefix.partition(self._replaced)[0], True), value),
                start=word.start,
                end=word.end,
            )
            for word in self.inner
        ]


def subcommand(name: str, arguments: Sequence[Word]) -> tuple[Command, list[Word]]:
    """What `npm install` or `go run` does, and its arguments; plain where it is no such subcommand."""
    for at, word in enumerate(arguments):
        if not word.prefix.startswith("-"):
            known = SUBCOMMANDS[name].get(word.literal or "")
            if known:
                return known, list(arguments[at + 1 :])
            break
    return COMMANDS.get(name, Command()), list(arguments)


def dashed(arguments: Sequence[Word]) -> list[Word]:
    """The arguments of `tar cf a.tar b` as `tar -c -f a.tar b`."""
    rest = list(arguments)
    letters = rest[0].literal if rest else None
    if not letters or not letters.isalpha():
        return rest
    at = rest.pop(0)
    taking = [letter for letter in letters if f"-{letter}" in COMMANDS["tar"].values]
    found = [] if len(taking) == len(letters) else [_option(set(letters) - set(taking), at)]
    for letter in taking:
        found += [_option(letter, at), *rest[:1]]
        rest = rest[1:]
    return found + rest


def _option(letters: Iterable[str], at: Word) -> Word:
    return Word(pieces=(Text("-" + "".join(sorted(letters)), quoted=True),), start=at.start, end=at.end)


def runs_options(name: str, known: Command, arguments: Sequence[Word]) -> bool:
    """Whether an option of a command could run code, so that no argument may come to be one."""
    if name == "git":
        return git.runs_options(arguments)
    return name == "find" or bool(known.code or known.files)


def runs_arguments(name: str, known: Command, arguments: Sequence[Word]) -> bool:
    """Whether arguments of a command could run code, if a value were several of them."""
    if name == "git":
        return git.runs_arguments(arguments)
    return runs_options(name, known, arguments) or known.operands is not Operands.DATA


def executed_by_find(arguments: Sequence[Word]) -> Iterator[list[Word]]:
    """The commands that `find` runs for what it finds."""
    inner: list[Word] | None = None
    for word in arguments:
        if inner is None:
            inner = [] if word.literal in _EXEC else None
        elif word.literal in (";", "+"):
            yield inner
            inner = None
        else:
            inner.append(word)
    if inner:
        yield inner


def executed_by_parallel(arguments: Sequence[Word]) -> tuple[list[Word], list[Word]]:
    """What GNU parallel gives to a shell, "$1" in place of `{}`, and the words that it puts there."""
    rest = list(arguments)
    while rest and (text := rest[0].prefix).startswith("-"):
        rest.pop(0)
        if text in _PARALLEL_VALUES and rest:
            rest.pop(0)
    template: list[Word] = []
    while rest and not (rest[0].literal or "").startswith(":::"):
        template.append(rest.pop(0))
    replaced = [_replaced_by_parallel(word) for word in template]
    if template and replaced == template:
        replaced.append(
            Word(pieces=(Text('"$1"', quoted=True),), start=template[-1].start, end=template[-1].end)
        )
    return replaced, rest[1:]


def _replaced_by_parallel(word: Word) -> Word:
    pieces = tuple(
        Text(_PARALLEL_HOLES.sub('"$1"', piece.text), piece.quoted) if isinstance(piece, Text) else piece
        for piece in word.pieces
    )
    return Word(pieces=pieces, start=word.start, end=word.end)


def split_string(arguments: Sequence[Word]) -> Iterator[tuple[str | None, Word]]:
    """The command of `env -S`: the fixed text that is cut up, or None, for each word of it."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        text = word.prefix
        if text in ("-S", "--split-string") and rest:
            yield rest[0].literal, rest.pop(0)
            break
        if match := _SPLIT_STRING.match(text):
            yield (text[match.end() :].removeprefix("=") if word.literal is not None else None), word
            break
    yield from ((None, word) for word in rest)
