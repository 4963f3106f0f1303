"""Judges one command with its arguments: is a value among them parsed again?  Pure.

Owns what single commands do: wrappers that run others, functions, shells given code, `find`, `xargs`, `git`
and the builtins that evaluate names.  The walk over the script is `lint`'s, the table of commands
`known`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from llmc_build.shellcode import clean, table
from llmc_build.shellcode.content import Given
from llmc_build.shellcode.flow import OF_PLACEHOLDER, some
from llmc_build.shellcode.inside import HANDING, given_to_shell, interpreter_within
from llmc_build.shellcode.known import COMMANDS, SUBCOMMANDS, Command
from llmc_build.shellcode.options import (
    Role,
    Wrapped,
    dashed,
    roles,
    runs_arguments,
    runs_options,
    split_string,
    subcommand,
)
from llmc_build.shellcode.programs import FAMILY, opens_its_arguments, pipes_of_awk, runs_its_data
from llmc_build.shellcode.special import FILE_RUNS, QUOTE, Special, hint
from llmc_build.shellcode.tree import Expansion, Simple, Sub, Text, Word

_ALL_PARAMETERS = frozenset({"$@", "$*", "${@}", "${*}"})
_STANDARD_INPUT = frozenset({"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "-"})
_OF_SHELL = frozenset({"eval", "trap", "ssh", "su", "watch", "script", "flock", "runuser"})
_CHECKING = {**dict.fromkeys(("sh", "bash", "dash", "ash"), "-n"), "node": "--check", "nodejs": "--check"}
_WITHIN = 20  # commands that run commands are followed so deep
_JOINING = frozenset({"eval", "ssh", "watch"})  # that read their arguments as one
# Options behind which most interpreters take code, for one that isn't known by name.
_UNKNOWN_CODE = frozenset({"-c", "-e", "-E", "-r", "--eval", "-ec", "-lc", "-Command"})
_COMMAND = "name the program yourself; to choose among several: case {{ x }} in a) this ;; b) that ;; esac"


class Calls(Special):
    """A flow that knows what commands do."""

    def __init__(self, paths: frozenset[int], tainted: Iterable[str] = (), level: int = 0) -> None:
        super().__init__(paths, tainted)
        self.dashes: dict[int, str] = {}  # placeholder that begins an argument -> command that would take -x
        self.level = level
        self.functions: set[str] = set()
        self.fed: set[str] = set()  # functions that read a value
        self.telling: set[str] = set()  # functions that print a value
        self.runners: dict[
            str, int
        ] = {}  # functions that run "$@" -> arguments that may be shifted away before
        self._within = 0  # commands that run the one that is judged
        self.document: str | None = None  # the fixed here-document that is standard input

    # ------------------------------------------------------------ running a command

    def run(self, words: list[Word], stdin: bool, *, carried: bool = False) -> bool:
        """Judge a command; tells whether its output is tainted.  `carried`: its environment is."""
        if not words:
            return stdin
        self._within += 1
        try:
            if self._within > _WITHIN:
                self.refuse("commands that run commands are nested too deeply", words[0], "leave some out")
                return True
            return self._run(words[0], words[1:], stdin, carried)
        finally:
            self._within -= 1

    def _run(self, command: Word, arguments: list[Word], stdin: bool, carried: bool) -> bool:
        tainted = some([self.word(word) for word in arguments])
        if arguments and self.word(arguments[-1]):
            self.tainted.add("_")
        if command.literal is None:
            return self._named(command, arguments, stdin, carried) or tainted
        elsewhere = "/" in command.literal[1:] and command.literal[0] != "/"
        if self.holds_value(command) or (elsewhere and self.may_be_value(command)):
            self.refuse(f"`{command.literal}` was written from a value, and is run", command, FILE_RUNS)
        name = table.base_name(command.literal)
        if name in self.functions:
            for role, word in roles(Command(), arguments)[0]:
                self._argument(name, role, word)
            return self._call(name, arguments, tainted, stdin)
        if name in table.WRAPPERS:
            return self._wrapper(name, arguments, stdin, carried)
        if carried and name in ("make", "gmake"):
            self.carried_in(name, command)
        self._judge(name, command, arguments, stdin, carried)
        self._write(name, arguments, stdin)
        return self._output(name, arguments, stdin) or self._tells_environment(name, arguments, carried)

    def _output(self, name: str, arguments: Sequence[Word], stdin: bool) -> bool:
        told = [word for word in arguments if self.word(word)]
        if clean.is_clean(name, arguments, told, self):
            return False
        if name in table.COUNTING:
            return not all(self.only_paths(word) for word in told)
        return stdin or bool(told) or any(self.holds_value(word) for word in arguments)

    def _tells_environment(self, name: str, arguments: Sequence[Word], carried: bool) -> bool:
        """Whether a value in the environment may come out of a command: of a program that reads variables."""
        if not (carried or self.exported & self.tainted) or clean.is_clean(name, arguments, [], self):
            return False
        if name in table.ENVIRONMENT:
            return True
        known = COMMANDS.get(name)
        texts = [text for word in arguments for text in self.texts_of(word)]
        return known is not None and any(table.NAMES_ENVIRONMENT.search(text) for text in texts)

    def _write(self, name: str, arguments: Sequence[Word], stdin: bool) -> None:
        """Files with fixed names that a command writes a value to."""
        operands = [word for word in arguments if not word.prefix.startswith("-")]
        if name == "tee" and stdin:
            for word in operands:
                self.taint_file(word)
        reads = any(self.word(word) or self.holds_value(word) for word in operands)
        if name in table.COPYING and reads and len(operands) > 1:
            self.taint_file(operands[-1])
        if name == "dd" and (reads or stdin):
            for word in operands:
                if word.prefix.startswith("of=") and word.literal:
                    text = Text(word.literal.removeprefix("of="), quoted=True)
                    self.taint_file(Word(pieces=(text,), start=word.start, end=word.end))

    def _named(self, command: Word, arguments: list[Word], stdin: bool, carried: bool) -> bool:
        """A command that an expansion names."""
        if self._is_parameters(command):
            if self.function:
                self.runners[self.function] = self.shifts.get(self.function, 0)
            elif self.parameters in self.tainted:
                self._refuse_command(command)
            return stdin or self.parameters in self.tainted
        if self.word(command):
            self._refuse_command(command)
            return True
        begins = [text.split() for text in self.texts_of(command)] or [[n] for n in _looked_up(command)]
        found = [
            self.run([*_words(texts, command), *arguments], stdin, carried=carried)
            for texts in begins
            if texts
        ]
        if not begins:
            for at, word in enumerate(arguments[1:]):
                if arguments[at].literal in _UNKNOWN_CODE and self.word(word):
                    message = "this argument may be parsed as code by the program that a variable names"
                    self.refuse(message, word, "name the program itself")
        return stdin or True in found

    def _is_parameters(self, word: Word) -> bool:
        pieces = [piece for piece in word.pieces if not isinstance(piece, Text) or piece.text]
        return len(pieces) == 1 and isinstance(pieces[0], Expansion) and pieces[0].text in _ALL_PARAMETERS

    def _refuse_command(self, at: Word) -> None:
        self.refuse(f"{OF_PLACEHOLDER} as the command: it would choose the program that runs", at, _COMMAND)

    def _call(self, name: str, arguments: list[Word], tainted: bool, stdin: bool) -> bool:
        """A function of the script; one that runs "$@" is judged as what it runs."""
        if tainted:
            given = self.given(arguments)
            self.hold(f"@{name}", given.content)
            self.places.setdefault(name, set()).update(given.places)
        if stdin:
            self.fed.add(name)
        for shifted in range(min(self.runners.get(name, -1) + 1, len(arguments))):
            self.run(arguments[shifted:], stdin)
        return name in self.telling or stdin or (name in self.runners and tainted)

    # ------------------------------------------------------------ arguments

    def _judge(self, name: str, command: Word, arguments: list[Word], stdin: bool, carried: bool) -> None:
        self.special(name, command, arguments, stdin)
        known = COMMANDS.get(name, Command())
        if name in SUBCOMMANDS:
            known, arguments = subcommand(name, arguments)
        if self._only_checks(name, arguments):
            known = Command()
        if name == "tar":
            arguments = dashed(arguments)
        if name == "python" and (rest := _module(arguments)):
            self.run(rest, stdin, carried=carried)
        found, reads_code = roles(known, arguments)
        reads_code = reads_code and not any(given_to_shell(arguments) if name in HANDING else ())
        if name != "parallel":
            if reads_code and stdin:
                message = f"{OF_PLACEHOLDER} is the input of `{name}`, which parses it as code"
                self.refuse(message, command, hint(name))
            for role, word in found:
                self._argument(name, role, word, stdin)
            self._risks(name, known, arguments, found)
        handed = [word for role, word in found if role in (Role.PASSED, Role.OPTION, Role.LATER)]
        passed = self.passed(found, handed) if some([self.word(word) for word in handed]) else None
        given = stdin or passed is not None or carried or bool(self.exported & self.tainted)
        given = given or any(self.word(word) or self.holds_value(word) for _, word in found)
        code = [(text, word) for word in _code(found) for text in self.texts_of(word)]
        given = given or any(self.tells_of_file(text) for text, _ in code)
        if reads_code and self.document is not None:
            code.append((self.document, command))
        if name in _JOINING and code:
            code = [(" ".join(text for text, _ in code), code[0][1])]
        for text, word in code:
            if known.shell or name in _OF_SHELL:
                shell = "" if name in ("eval", "trap") else "bash" if name in ("bash", "rbash") else "sh"
                self.nested(text, word, stdin, passed, shell)
            elif given:
                self._program(name, text, word)
        if name == "perl" and any(opens_its_arguments(text) for text, _ in code):
            for word in handed:
                if self.content(word).value:
                    self._argument(name, Role.OPENED, word)
        if name == "curl":
            self._sent(found)
        self._read(name, found, stdin)
        at = interpreter_within(name, arguments)
        if at is not None:
            self.run([word for word in arguments[at:] if word.literal != "--"], stdin)

    def _program(self, name: str, text: str, at: Word) -> None:
        """A program that the script holds, and that is given a value."""
        if runs_its_data(name, text):
            message = f"this program of `{name}` runs what it is given, and it is given a value"
            self.refuse(message, at, "name the commands in the program, with values as separate arguments")
        if FAMILY.get(name) == "awk":
            for command in pipes_of_awk(text):
                self.nested(command, at, stdin=True)

    def _argument(self, name: str, role: Role, word: Word, stdin: bool = False) -> None:
        tainted = self.word(word)
        named = role is Role.FILE and (
            self.may_be_value(word) or (stdin and (word.literal or "") in _STANDARD_INPUT)
        )
        opened = role is Role.OPENED and tainted and not self.only_paths(word)
        if named or opened or (tainted and role in (Role.CODE, Role.FILE)):
            what = "is parsed as code" if role is Role.CODE else "names code that runs"
            subject = "the format" if name == "printf" else "this argument"
            self.refuse(f"{subject} of `{name}` {what}, and a value is only ever data", word, hint(name))
        if role in (Role.OPTION, Role.LATER) and name not in table.HARMLESS:
            if tainted:
                begins = self.content(word).begins
                if name in self.functions:  # what it does with a variable's text is judged in it
                    begins = begins.intersection(word.holes)
                self.dashes |= dict.fromkeys(begins, name)
            if _is_fed(word):
                self._fed_option(name, word)

    def _sent(self, found: Sequence[tuple[Role, Word]]) -> None:
        """Data for curl: where it begins with "@" (or "<", in a form), a file of that name is sent."""
        for (_, option), (role, word) in pairwise(found):
            if role is not Role.VALUE or option.literal not in table.SENDING or not self.word(word):
                continue
            form = option.literal in ("-F", "--form")
            begins = self.content(word).begins if not form else frozenset[int]()
            if form and word.prefix.endswith("="):
                begins = frozenset(word.holes[:1])
            self.dashes |= dict.fromkeys(begins, f"curl {option.literal}")

    def _only_checks(self, name: str, arguments: Sequence[Word]) -> bool:
        """`bash -n FILE` and `node --check FILE` read code and run nothing of it."""
        option = _CHECKING.get(name)
        return (
            option is not None
            and len(arguments) == 2
            and arguments[0].literal == option
            and self.only_paths(arguments[1])
        )

    def _risks(
        self, name: str, known: Command, arguments: Sequence[Word], found: Sequence[tuple[Role, Word]]
    ) -> None:
        """Values that a command could take for its options, which nothing checks when the script runs."""
        if name in table.HARMLESS:
            return
        options = runs_options(name, known, arguments)
        several = runs_arguments(name, known, arguments)
        for role, word in found:
            if not self.word(word) or _is_fed(word):
                continue
            held = self.content(word)
            if "+" in known.code and role is Role.OPTION and (held.begins or held.unknown):
                message = f"an argument of `{name}` that may begin with '+', behind which it takes a command"
                self.refuse(message, word, 'write ./ before it: "./$y"')
            open_ = role in (Role.OPTION, Role.VALUE) or name == "find"
            if several and open_ and self.split(word):
                self._refuse_split(name, word)
            elif options and role is Role.OPTION and self.content(word).unknown:
                message = f"an argument of `{name}` that may begin with '-', and some of its options run code"
                way = 'write ./ before it: "./$y"' if name == "find" else "write `--` before it"
                self.refuse(message, word, way)

    def _refuse_split(self, name: str, word: Word) -> None:
        message = f"a value outside quotes becomes several arguments of `{name}`, and some of them run code"
        self.refuse(message, word, QUOTE)

    def _fed_option(self, name: str, word: Word) -> None:
        """An argument that xargs makes of a value, which nothing can check for being an option."""
        known = COMMANDS.get(name)
        if name == "find" or (known and (known.code or known.files)):
            message = f"xargs makes arguments of `{name}` from a value, and some of its options run code"
            self.refuse(
                message, word, f"write `--` before them, or a loop: while IFS= read -r x; do {name} ..."
            )

    def _read(self, name: str, found: Sequence[tuple[Role, Word]], stdin: bool) -> None:
        """`read` and its like put a value into variables."""
        if name not in ("read", "mapfile", "readarray"):
            return
        for role, word in found:
            if role is Role.CODE and word.literal:
                if name != "read":
                    self.arrays.add(word.literal)
                if stdin:
                    self.taint(word.literal, word)
        if stdin:
            self.tainted |= {"REPLY", "MAPFILE"}

    def passed(self, found: Sequence[tuple[Role, Word]], handed: Sequence[Word]) -> Given:
        """What is known of what is handed to code: the argument behind it is $0."""
        behind = [at for at, (role, _) in enumerate(found, 1) if role is Role.CODE]
        arguments = [word for _, word in found[behind[0] :]] if len(behind) == 1 else []
        known = self.given(arguments, first=0)
        before = some([self.word(word) for word in handed if not any(word is one for one in arguments)])
        return Given(self.contents_of(handed)) if before else known

    # ------------------------------------------------------------ commands that run others

    def _wrapper(self, name: str, arguments: list[Word], stdin: bool, carried: bool) -> bool:
        if name == "command" and arguments and arguments[0].literal in ("-v", "-V"):
            return some([self.word(word) for word in arguments])
        wrapped = Wrapped(name, arguments)
        own = some([self.word(word) for word in wrapped.own])
        for variable, word in wrapped.assigned:
            if self.word(word):
                carried = True
                self.taint(variable, word)
        inner = wrapped.inner
        if wrapped.splits:
            inner = self._split_string(arguments)
        if name == "flock" and inner and inner[0].literal in ("-c", "--command"):
            inner = [Word(pieces=(Text("sh", quoted=True),), start=inner[0].start, end=inner[0].end), *inner]
        for before, word in pairwise([Word(pieces=(), start=0, end=0), *wrapped.own]):
            if name == "strace" and self.word(word) and _names_output(before, word):
                message = "a value as the output of `strace`, which runs a command that stands behind | or !"
                self.refuse(message, word, "write to a file with a fixed name")
            self._argument(name, Role.OPTION, word)
            if self.split(word):
                self._refuse_split(name, word)
        if name == "xargs":
            return self._xargs(wrapped, stdin or own)
        if not inner:
            return stdin or own or (name == "env" and (carried or bool(self.exported & self.tainted)))
        return self.run(inner, stdin, carried=carried) or own

    def _xargs(self, wrapped: Wrapped, tainted: bool) -> bool:
        tainted = tainted or any(self.holds_value(word) for word in wrapped.own)
        if tainted:
            self.run(wrapped.fed(self.word), stdin=False)
            return True
        return bool(wrapped.inner) and self.run(wrapped.inner, stdin=False)

    def _split_string(self, arguments: list[Word]) -> list[Word]:
        """`env -S 'command words'`."""
        found: list[Word] = []
        for text, word in split_string(arguments):
            if text is None:
                if self.word(word):
                    hint = "write the command without -S"
                    self.refuse("`env -S` cuts this argument into a command", word, hint)
                found.append(word)
            else:
                found += _words(text.split(), word)
        return found


def _names_output(before: Word, word: Word) -> bool:
    return before.literal in ("-o", "--output") or word.prefix in ("-o", "--output=")


def _is_fed(word: Word) -> bool:
    return any(isinstance(piece, Expansion) and piece.kind == "fed" for piece in word.pieces[:1])


def _looked_up(word: Word) -> list[str]:
    """The name in `$(command -v name)` or `$(which name)`."""
    if len(word.pieces) != 1 or not isinstance(sub := word.pieces[0], Sub):
        return []
    found = []
    for pipeline in sub.body:
        node = pipeline[0]
        words = [one.literal for one in node.words] if isinstance(node, Simple) else []
        if words[:1] in (["which"], ["type"]) or words[:2] == ["command", "-v"]:
            found.append(words[-1] or "")
    return found


def _module(arguments: Sequence[Word]) -> list[Word]:
    """`python -m MODULE ...` as the command that the module is."""
    for at, word in enumerate(arguments):
        if word.literal == "-m":
            return [one for one in arguments[at + 1 :] if one.literal != "--"]
        if not word.prefix.startswith("-"):
            break
    return []


def _words(texts: Sequence[str], at: Word) -> list[Word]:
    return [Word(pieces=(Text(text, quoted=True),), start=at.start, end=at.end) for text in texts]


def _code(found: Sequence[tuple[Role, Word]]) -> list[Word]:
    return [word for role, word in found if role is Role.CODE]
