"""Finds where a value in a script would be parsed again as code.  Pure.

Theory of operation.  The rewriting makes a value data for the shell that runs the script, and for one level
only: `eval`, `sh -c`, an awk program, arithmetic on a variable are parsed again.  This walk over the tree
follows values from placeholders through variables, functions, positional parameters, `read`, `$(...)` and
pipes, and refuses where one arrives at code.  *Tainted* is a variable that holds a value, or text made of
one, at any point of the script: order does not matter, so the walk is repeated until nothing more becomes
tainted, and only the last round reports.  `table` knows which argument of which command is code.

It is a lint and not a proof: files that one command writes and another runs are not followed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from llmc_build.shellcode import table
from llmc_build.shellcode.options import ASSIGNED, Role, Wrapped, executed_by_find, interpreter_within, roles
from llmc_build.shellcode.scan import scan
from llmc_build.shellcode.table import Command
from llmc_build.shellcode.tree import (
    HOLE,
    Assignment,
    Compound,
    Expansion,
    Found,
    Function,
    Node,
    Piece,
    Pipeline,
    Redirect,
    Sequence_,
    Simple,
    Sub,
    Text,
    Word,
)

_BRACE = re.compile(r"\$\{([!#]?)(\w+|[@*#?$!-])(.*)\}", re.DOTALL)
_ARITHMETIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
_NAME_TESTS = frozenset({"-v", "-R"})
_DECLARING = frozenset({"declare", "typeset", "local", "export", "readonly"})
_EXEC_INPUT = "<exec"  # stands among the tainted names where `exec <` opens a value as everyone's input
_LEVELS = 8  # code within code that is followed

_OF_PLACEHOLDER = "a value from a placeholder"
_CHECKED = "compare it with what you expect first: case {{ x }} in a) ... ;; b) ... ;; esac"


class Lint:
    """One script under judgement; `found` and `dashes` hold the outcome of `check`."""

    def __init__(self, paths: frozenset[int], tainted: frozenset[str] = frozenset(), level: int = 0) -> None:
        self.found: list[Found] = []
        self.dashes: dict[int, str] = {}  # placeholder that begins an argument -> command that would take -x
        self._paths = paths  # offsets of the placeholders with the filter `path`
        self._level = level
        self._tainted = set(tainted)
        self._evaluated: set[str] = set()  # variables declared as numbers or references
        self._functions: set[str] = set()
        self._fed: set[str] = set()  # functions that read a value
        self._telling: set[str] = set()  # functions that print a value
        self._stdin = False
        # What is known of a word in this round, by identity; the word is kept so that it stays unique.
        self._known: dict[int, tuple[Word, bool]] = {}

    def check(self, tree: Sequence_, *, stdin: bool = False) -> bool:
        """Judge a script to the end; tells whether its output is tainted."""
        while True:
            before = self._state()
            self.found.clear()
            self.dashes.clear()
            self._known.clear()
            output = self._sequence(tree, stdin)
            if before == self._state():
                return output

    def _state(self) -> object:
        return tuple(map(len, (self._tainted, self._evaluated, self._functions, self._fed, self._telling)))

    def _refuse(self, message: str, at: Word | int, hint: str | None) -> None:
        offset = at if isinstance(at, int) else (at.holes[0] if at.holes else at.start)
        one = Found(message=message, offset=offset, hint=hint)
        if one not in self.found:
            self.found.append(one)

    # ------------------------------------------------------------ commands: is their output tainted?

    def _sequence(self, tree: Sequence_, stdin: bool) -> bool:
        return _some([self._pipeline(pipeline, stdin) for pipeline in tree])

    def _pipeline(self, nodes: Pipeline, stdin: bool) -> bool:
        for node in nodes:
            stdin = self._node(node, stdin)
        return stdin

    def _node(self, node: Node, stdin: bool) -> bool:
        match node:
            case Simple():
                return self._simple(node, stdin)
            case Compound():
                return self._compound(node, stdin)
            case Function():
                self._functions.add(node.name)
                if self._node(node.body, node.name in self._fed):
                    self._telling.add(node.name)
        return False

    def _compound(self, node: Compound, stdin: bool) -> bool:
        stdin = self._input(node.redirects, stdin)
        outer, self._stdin = self._stdin, stdin
        tainted = [self._word(word) for word in (*node.head, *node.patterns)]
        if node.variable and (any(tainted) or (not node.head and "@" in self._tainted)):
            self._taint(node.variable, node.start)
        if node.kind == "[[":
            self._test(node.head, _ARITHMETIC_TESTS | _NAME_TESTS)
        outputs = [self._sequence(body, stdin) for body in node.bodies]
        self._stdin = outer
        return any(outputs)

    def _input(self, redirects: Sequence[Redirect], stdin: bool) -> bool:
        """Whether standard input is tainted behind these redirections."""
        stdin = stdin or _EXEC_INPUT in self._tainted
        for redirect in redirects:
            tainted = self._word(redirect.word)
            if redirect.is_document or redirect.operator == "<<<":
                stdin = tainted
                continue
            for hole in redirect.word.holes:
                self._target(redirect, hole)
            if redirect.operator == "<":
                stdin = tainted
        return stdin

    def _target(self, redirect: Redirect, hole: int) -> None:
        if redirect.operator != "<":
            self._refuse(
                "a placeholder as the target of a redirection: a value could name any file", hole, _TARGET
            )
        elif hole not in self._paths:
            self._refuse(
                "a placeholder as the name of an input file", hole, "to read the value write < {{ x | path }}"
            )

    def _simple(self, node: Simple, stdin: bool) -> bool:
        outer, self._stdin = self._stdin, self._input(node.redirects, stdin)
        for assignment in node.assignments:
            self._assign(assignment)
        output = bool(node.words) and self._run(list(node.words), self._stdin)
        if self._stdin and [word.literal for word in node.words] == ["exec"]:
            self._tainted.add(_EXEC_INPUT)
        self._stdin = outer
        return output

    # ------------------------------------------------------------ variables

    def _assign(self, assignment: Assignment) -> None:
        if self._mentions(assignment.subscript):
            self._refuse(
                f"{_OF_PLACEHOLDER} as a subscript, which bash calculates", assignment.start, _SUBSCRIPT
            )
        if _some([self._word(value) for value in assignment.values]):
            self._taint(assignment.name, assignment.start)

    def _taint(self, name: str, at: Word | int) -> None:
        if table.DANGEROUS_VARIABLE.fullmatch(name):
            self._refuse(f"{name} is set from a placeholder, and its value decides what runs", at, _CHECKED)
        elif name in self._evaluated:
            self._refuse(f"{name} is declared as a number, so bash calculates what is assigned", at, _PLAIN)
        self._tainted.add(name)

    def _mentions(self, text: str) -> bool:
        return bool(Expansion("", text).mentions & self._tainted)

    # ------------------------------------------------------------ words: are they tainted?

    def _word(self, word: Word) -> bool:
        if id(word) not in self._known:
            self._known[id(word)] = (word, self._pieces(word.pieces, word))
        return self._known[id(word)][1]

    def _pieces(self, pieces: Sequence[Piece], word: Word) -> bool:
        return _some([self._piece(piece, word) for piece in pieces])

    def _piece(self, piece: Piece, word: Word) -> bool:
        if isinstance(piece, Text):
            return False
        if isinstance(piece, Sub):
            return self._sequence(piece.body, self._stdin)
        if not isinstance(piece, Expansion):
            return True
        inner = self._pieces(piece.inner, word)
        match piece.kind:
            case "tainted":
                return True
            case "backquote":
                return self._nested(_unescaped(piece.text[1:-1]), word, self._stdin) or self._mentions(
                    piece.text
                )
            case "brace":
                self._brace(piece.text, word)
            case "arithmetic" if HOLE not in piece.text and (inner or piece.mentions & self._tainted):
                self._refuse(f"{_OF_PLACEHOLDER} in $((...)), which bash evaluates as code", word, _EXPR)
        return inner or bool(piece.mentions & self._tainted)

    def _brace(self, text: str, word: Word) -> None:
        """Refuse the forms of `${...}` in which bash evaluates a value, and follow `${x:=value}`."""
        match = _BRACE.fullmatch(text)
        if match is None:
            return
        sign, name, rest = match.groups()
        name = "@" if name.isdigit() or name == "*" else name
        evaluated = (
            (sign == "!" and name in self._tainted and rest not in ("[@]", "[*]"))
            or (rest.startswith("[") and self._mentions(rest.partition("]")[0]))
            or (re.match(r":(?![-=?+])", rest) and self._mentions(rest))
            or (rest.startswith("@") and name in self._tainted)
        )
        if evaluated:
            self._refuse(f"{_OF_PLACEHOLDER} in ${{...}}, in a form that bash evaluates", word, _PLAIN)
        if re.match(r":?=", rest) and self._mentions(rest):
            self._taint(name, word)

    def _nested(self, code: str, word: Word, stdin: bool, given: frozenset[str] = frozenset()) -> bool:
        """Judge code that the script gives to another shell; tells whether its output is tainted."""
        if self._level >= _LEVELS:
            return True
        _, tree = scan(code.replace("\0", ""), shell="bash")
        inner = Lint(frozenset(), frozenset(self._tainted - {"@"} | given), self._level + 1)
        output = inner.check(tree, stdin=stdin)
        for found in inner.found:
            self._refuse(found.message, word, found.hint)
        return output

    # ------------------------------------------------------------ running a command

    def _run(self, words: list[Word], stdin: bool) -> bool:
        if not words:
            return stdin
        command, arguments = words[0], words[1:]
        tainted = [self._word(word) for word in arguments]
        chosen = self._word(command)
        if chosen:
            self._refuse(
                f"{_OF_PLACEHOLDER} as the command: it would choose the program that runs", command, _COMMAND
            )
        if command.literal is None:
            return chosen or stdin or any(tainted)
        name = table.base_name(command.literal)
        if name in self._functions:
            for role, word in roles(Command(), arguments)[0]:
                self._argument(name, role, word)
            return self._call(name, any(tainted), stdin)
        if name in table.WRAPPERS:
            return self._wrapper(name, arguments, stdin)
        self._judge(name, command, arguments, stdin)
        return any(tainted) or (stdin and name not in table.COUNTING)

    def _call(self, name: str, tainted: bool, stdin: bool) -> bool:
        if tainted:
            self._tainted.add("@")
        if stdin:
            self._fed.add(name)
        return name in self._telling or stdin

    def _judge(self, name: str, command: Word, arguments: list[Word], stdin: bool) -> None:
        self._special(name, command, arguments)
        known = table.COMMANDS.get(name, Command())
        found, reads_code = roles(known, arguments)
        if reads_code and stdin:
            self._refuse(
                f"{_OF_PLACEHOLDER} is the input of `{name}`, which parses it as code", command, _hint(name)
            )
        for role, word in found:
            self._argument(name, role, word)
        passed = any(role in (Role.PASSED, Role.OPTION) and self._word(word) for role, word in found)
        if code := _shell_code(name, known, found):
            text = " ".join(word.literal or "" for word in code)
            self._nested(text, code[0], stdin, frozenset({"@"} if passed else ()))
        if name in ("read", "mapfile", "readarray") and stdin:
            for target in [word for role, word in found if role is Role.CODE and word.literal]:
                self._taint(target.literal or "", target)
            self._tainted |= {"REPLY", "MAPFILE"}
        at = interpreter_within(name, arguments)
        if at is not None:
            self._run(arguments[at:], stdin)

    def _argument(self, name: str, role: Role, word: Word) -> None:
        if role in (Role.CODE, Role.FILE) and self._word(word):
            what = "is parsed as code" if role is Role.CODE else "names code that runs"
            subject = "the format" if name == "printf" else "this argument"
            self._refuse(f"{subject} of `{name}` {what}, and a value is only ever data", word, _hint(name))
        if role is Role.OPTION and name not in table.HARMLESS:
            values = takewhile(lambda hole: hole not in self._paths, word.leading_holes)
            self.dashes |= dict.fromkeys(values, name)

    def _special(self, name: str, command: Word, arguments: list[Word]) -> None:
        tainted = any(self._word(word) for word in arguments)
        if name == "alias":
            self._refuse("an alias changes how the rest of the script is read", command, "write a function")
        elif name == "set" and tainted:
            self._tainted.add("@")
        elif name in ("[", "test"):
            self._test(arguments, _NAME_TESTS)
        elif name in _DECLARING:
            self._declare(name, command, arguments)
        elif name == "printf" and tainted and arguments[0].literal == "-v" and len(arguments) > 1:
            self._taint(arguments[1].literal or "", arguments[1])
        elif name == "find":
            for inner in executed_by_find(arguments):
                self._run(inner, stdin=False)

    def _test(self, words: Sequence[Word], operators: frozenset[str]) -> None:
        if any(word.literal in operators for word in words):
            for word in words:
                if self._word(word):
                    self._refuse(
                        f"{_OF_PLACEHOLDER} in a test that bash evaluates", word, "compare with [ a -eq b ]"
                    )

    def _declare(self, name: str, command: Word, arguments: list[Word]) -> None:
        options = "".join(w.literal or "" for w in arguments if w.prefix.startswith("-"))
        for word in arguments:
            assigned = ASSIGNED.match(word.prefix)
            if "i" in options or "n" in options:
                self._evaluated.add(assigned[1] if assigned else word.prefix)
            if not self._word(word):
                continue
            if assigned:
                self._taint(assigned[1], word)
            else:
                self._refuse(
                    f"a placeholder as the name of a variable for `{name}`", word, "write: name={{ x }}"
                )

    # ------------------------------------------------------------ commands that run others

    def _wrapper(self, name: str, arguments: list[Word], stdin: bool) -> bool:
        if name == "command" and arguments and arguments[0].literal in ("-v", "-V"):
            return _some([self._word(word) for word in arguments])
        wrapped = Wrapped(name, arguments)
        own = _some([self._word(word) for word in wrapped.own])
        for variable, word in wrapped.assigned:
            if self._word(word):
                self._taint(variable, word)
        if wrapped.splits:
            self._split_string(arguments)
        for word in wrapped.own:
            self._argument(name, Role.OPTION, word)
        if name == "xargs" and (stdin or own):
            return self._run(wrapped.fed(self._word), False) or True
        return self._run(wrapped.inner, stdin and name != "xargs") or own if wrapped.inner else stdin or own

    def _split_string(self, arguments: list[Word]) -> None:
        for word in arguments:
            if self._word(word):
                hint = "write the command without -S"
                self._refuse("`env -S` cuts this argument into a command", word, hint)


def _some(tainted: list[bool]) -> bool:
    """`any` over a list, since every member must have been walked."""
    return True in tainted


def _shell_code(name: str, known: Command, found: Sequence[tuple[Role, Word]]) -> list[Word]:
    """The arguments that are shell code as the author wrote it, without expansions."""
    if not known.shell and name not in ("eval", "trap", "ssh", "su", "watch"):
        return []
    return [word for role, word in found if role is Role.CODE and word.literal is not None]


def _unescaped(code: str) -> str:
    """What the shell between backquotes sees."""
    return re.sub(r"\\([\\$`])", r"\1", code)


def _hint(name: str) -> str:
    return table.HINTS.get(name, table.DEFAULT_HINT)


_TARGET = "write to a file with a fixed name, and declare it in `outputs`"
_SUBSCRIPT = "use a number or a fixed word as the subscript"
_PLAIN = "use a plain variable and its plain expansion"
_EXPR = "let expr calculate: n=$(expr {{ x }} + 1)"
_COMMAND = "name the program yourself; to choose among several: case {{ x }} in a) this ;; b) that ;; esac"
