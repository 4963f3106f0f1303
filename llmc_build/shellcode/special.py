"""What single commands do with a value: builtins that evaluate names, and git, make and parallel.  Pure.

Owns the rules that no table can say.  What is common to all commands is `calls`'.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from llmc_build.shellcode import git, table
from llmc_build.shellcode.content import ANYTHING, Given
from llmc_build.shellcode.flow import FILE, OF_PLACEHOLDER, Flow
from llmc_build.shellcode.inside import HANDING, code_behind, entered, given_to_shell
from llmc_build.shellcode.options import (
    ASSIGNED,
    executed_by_find,
    executed_by_parallel,
)
from llmc_build.shellcode.tree import Text, Word

_DECLARING = frozenset({"declare", "typeset", "local", "export", "readonly"})
_NAME_TESTS = frozenset({"-v", "-R"})
_NUMBER_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-t"})
_CALCULATING = frozenset({"shift", "ulimit"})  # in ksh and its kin
_MAKEFILES = ("Makefile", "makefile", "GNUmakefile")
_QUOTED = re.compile(r"""'([^'\n]{1,200})'|"([^"\n]{1,200})\"""")
_ANY = 1000  # more than a script has arguments
QUOTE = 'put it in double quotes: "$y"'
FILE_RUNS = "write the program yourself, and let it read the value: from an argument, or from {{ x | path }}"


class Special(Flow):
    """A flow that knows what single commands do."""

    def __init__(self, paths: frozenset[int], tainted: Iterable[str] = ()) -> None:
        super().__init__(paths, tainted)
        self.exported: set[str] = set()
        self.shell = "sh"

    @abstractmethod
    def run(self, words: list[Word], stdin: bool, *, carried: bool = False) -> bool:
        """Judge a command; tells whether its output is tainted.  `carried`: its environment is."""

    def special(self, name: str, command: Word, arguments: list[Word], stdin: bool) -> None:
        tainted = any(self.word(word) for word in arguments)
        match name:
            case "alias":
                message = "an alias changes how the rest of the script is read"
                self.refuse(message, command, "write a function")
            case "set" if tainted:
                self.hold(self.parameters, self.contents_of(arguments))
                self.moved.add(self.function)
            case "shift":
                self._shift(arguments)
            case "getopts" if self.parameters in self.tainted:
                self.tainted.add("OPTARG")
            case "[" | "test":
                self._test(arguments)
            case "let" if any(self.reaches(word.spelled) for word in arguments):
                message = f"{OF_PLACEHOLDER} in `let`, which evaluates it as code"
                self.refuse(message, command, "let expr calculate: n=$(expr {{ x }} + 1)")
            case "printf" if tainted and arguments[0].literal == "-v" and len(arguments) > 1:
                self.taint(arguments[1].literal or "", arguments[1])
            case "find":
                for inner in executed_by_find(arguments):
                    self.run(inner, stdin=False)
            case "git":
                self._git(arguments)
            case "parallel":
                self._parallel(command, arguments, stdin)
            case _ if name in HANDING:
                for inner in given_to_shell(arguments):
                    self.run(inner, stdin)
            case "docker" | "podman" | "nerdctl" | "docker-compose" | "flatpak":
                self._entered(arguments, stdin)
            case "make" | "gmake":
                self._make(command, arguments)
            case _ if name in _DECLARING:
                self._declare(name, arguments)
        if name in _CALCULATING and tainted:
            self.calculates = True

    def may_be_value(self, word: Word) -> bool:
        """Whether the word may name such a file: from another folder, or by a pattern."""
        written = [name.removeprefix(FILE) for name in self.tainted if name.startswith(FILE)]
        if not written:
            return False
        last = {name.rsplit("/", 1)[-1] for name in written}
        for name in self.names(word):
            base = name.rsplit("/", 1)[-1]
            if base in last or ("*" in base and any(fnmatchcase(one, base) for one in last)):
                return True
        return False

    def tells_of_file(self, program: str) -> bool:
        """Whether a program names, in quotes, a file that a value was written to."""
        quoted = {text.removeprefix("./") for pair in _QUOTED.findall(program) for text in pair}
        return any(FILE + name in self.tainted for name in quoted)

    def _entered(self, arguments: list[Word], stdin: bool) -> None:
        """`docker run --entrypoint sh image -c ...`: what stands behind the image is the program's."""
        for program, rest in entered(arguments):
            if self.word(program):
                message = f"{OF_PLACEHOLDER} as the command: it would choose the program that runs"
                self.refuse(message, program, "name the program yourself")
            for code in code_behind(program, rest):
                self.run([program, *code], stdin)

    def _shift(self, arguments: list[Word]) -> None:
        text = arguments[0].literal if arguments else "1"
        count = int(text) if text and text.isdigit() and len(text) < 4 else _ANY
        self.shifts[self.function] = self.shifts.get(self.function, 0) + count

    def _test(self, words: Sequence[Word]) -> None:
        """`[` and `test`: a name behind -v is evaluated, and a value could be the -v itself."""
        tainted = [self.word(word) for word in words]
        if any(word.literal in _NAME_TESTS for word in words) and True in tainted:
            for word, is_tainted in zip(words, tainted, strict=True):
                if is_tainted:
                    message = f"{OF_PLACEHOLDER} in a test that bash evaluates"
                    self.refuse(message, word, "compare with [ a -eq b ]")
        if self.shell == "bash":
            for word in words:
                if self.split(word):
                    message = "a value outside quotes in a test: it could be an operator that bash evaluates"
                    self.refuse(message, word, QUOTE)
        for at, word in enumerate(words[1:]):
            if tainted[at] and tainted[at + 1]:
                message = "two values side by side in a test: the first could be an operator"
                self.refuse(message, word, "write the operator: [ {{ x }} = {{ y }} ]")
        if True in tainted and any(word.literal in _NUMBER_TESTS for word in words):
            self.calculates = True

    def _declare(self, name: str, arguments: list[Word]) -> None:
        options = "".join(word.literal or "" for word in arguments if word.prefix.startswith("-"))
        for word in arguments:
            assigned = ASSIGNED.match(word.prefix)
            variable = assigned[1] if assigned else word.prefix
            listed = assigned is not None and "=(" in word.unquoted
            if "i" in options or "n" in options:
                self.evaluated.add(variable)
            if "a" in options or "A" in options or listed:
                self.arrays.add(variable)
            if name == "export" or "x" in options:
                self.exported.add(variable)
            if assigned and not listed:
                self._learn_assigned(variable, word, len(assigned[0]))
            if "n" in options:
                self._reference(variable, word)
            if not self.word(word):
                continue
            if not assigned:
                hint = "write: name={{ x }}"
                self.refuse(f"a placeholder as the name of a variable for `{name}`", word, hint)
                continue
            if variable in self.arrays and not listed:
                message = f"bash parses what `{name}` assigns to an array"
                self.refuse(message, word, f"write: {variable}=({{{{ x }}}}), or choose another name")
            held = ANYTHING if listed else self.content(word, len(assigned[0]))
            self.taint(variable, word, held)

    def _learn_assigned(self, variable: str, word: Word, skipped: int) -> None:
        """The fixed text behind `name=` among the arguments of `export` and its like."""
        if word.literal is not None:
            text = Text(word.literal[skipped:], quoted=True)
            self.learn(variable, Word(pieces=(text,), start=word.start, end=word.end))

    def _reference(self, variable: str, word: Word) -> None:
        """`declare -n name=other`: both hold what one of them holds."""
        target = (word.literal or "").partition("=")[2]
        if target in self.tainted:
            self.hold(variable, ANYTHING)
        elif target and variable in self.tainted:
            self.hold(target, ANYTHING)

    def _git(self, arguments: list[Word]) -> None:
        for inner in git.executed(arguments):
            if isinstance(inner, list):
                self.run(inner, stdin=False)
            elif self.word(inner):
                message = "this argument of `git` is parsed as code, and a value is only ever data"
                self.refuse(message, inner, hint("git"))

    def _make(self, command: Word, arguments: list[Word]) -> None:
        if self.tainted & self.exported:
            self.carried_in("make", command)
        if not any(
            word.literal and word.literal.startswith(("-f", "--file", "--makefile")) for word in arguments
        ):
            for name in _MAKEFILES:
                text = Word(pieces=(Text(name, quoted=True),), start=command.start, end=command.end)
                if self.may_be_value(text):
                    self.refuse(f"`{name}` was written from a value, and `make` runs it", command, FILE_RUNS)

    def carried_in(self, name: str, command: Word) -> None:
        message = f"`{name}` expands the variables of its environment, and one holds a value"
        self.refuse(message, command, hint(name))

    def _parallel(self, command: Word, arguments: list[Word], stdin: bool) -> None:
        template, given = executed_by_parallel(arguments)
        tainted = stdin or any(self.word(word) for word in given)
        code = [word for word in template if self.word(word)] or (
            [command] if not template and tainted else []
        )
        for word in code:
            message = "this argument of `parallel` is parsed as code, and a value is only ever data"
            what = message if word is not command else "`parallel` runs what it is given, which is a value"
            self.refuse(what, word, hint("parallel"))
        if not code and template:
            for text in self.texts_of(_joined(template)):
                held = Given(ANYTHING if stdin else self.contents_of(given)) if tainted else None
                self.nested(text, command, stdin=False, given=held, shell=self.shell)


def _joined(words: Sequence[Word]) -> Word:
    """Words as one, with blanks between them."""
    pieces = [piece for word in words for piece in (*word.pieces, Text(" ", quoted=True))]
    return Word(pieces=tuple(pieces), start=words[0].start, end=words[-1].end)


def hint(name: str) -> str:
    return table.HINTS.get(name, table.DEFAULT_HINT)
