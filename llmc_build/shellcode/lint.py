"""Finds where a value in a script would be parsed again as code.  Pure.

Theory of operation.  The rewriting makes a value data for the shell that runs the script, and for one level
only: `eval`, `sh -c`, an awk program, arithmetic on a variable are parsed again.  This walk over the tree
follows values from placeholders through variables, functions, positional parameters, `read`, `$(...)`,
pipes and files with fixed names, and refuses where one arrives at code.  `flow` keeps what is tainted;
since order does not matter to it, the walk is repeated until nothing more becomes tainted, and only the
last round reports.  Only that a variable was seen to be a number is known for a part of the script: `proven`.
`known` and `table` say which argument of which command is code, `calls` what single commands do with
theirs, and `programs` which programs in other languages run what they are given.

It is a lint and not a proof: files whose names a program chooses, and what programs do inside, are not
followed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from llmc_build.shellcode.calls import Calls
from llmc_build.shellcode.content import ANYTHING, Given
from llmc_build.shellcode.flow import FILE, OF_PLACEHOLDER, some
from llmc_build.shellcode.proven import (
    Changes,
    asked_by,
    behind,
    clauses,
    first_of_case,
    number,
    numbers,
    refused_by,
)
from llmc_build.shellcode.scan import scan
from llmc_build.shellcode.tree import (
    Compound,
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

_ARITHMETIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
_LOOPS = frozenset({"for", "while", "until", "select"})
_NAME_TESTS = frozenset({"-v", "-R"})
_OWN = frozenset({"exit"})  # leaves whatever shell it stands in
_OF_LOOP = frozenset({"continue", "break"})
_EXEC_INPUT = "<exec"  # stands among the tainted names where `exec <` opens a value as everyone's input
_LEVELS = 8  # code within code that is followed
_ROUNDS = 24  # a script whose values go through more variables backwards is refused


class Lint(Calls):
    """One script under judgement; `found` and `dashes` hold the outcome of `check`."""

    def __init__(
        self, paths: frozenset[int], tainted: Iterable[str] = (), level: int = 0, shell: str = "sh"
    ) -> None:
        super().__init__(paths, tainted, level)
        self.shell = shell
        self.leaving = _OWN  # commands behind which nothing of the sequence goes on
        self._changes = Changes(())
        self._orderly = True  # whether this is not code that runs amidst other code of the same shell
        # What is known in this round of code within code: whether its output is tainted, its problems and its
        # placeholders that begin an argument.
        self.within: dict[
            tuple[str, bool, Given | None, str, str], tuple[bool | None, tuple[Found, ...], dict[int, str]]
        ] = {}

    def check(self, tree: Sequence_, *, stdin: bool = False) -> bool:
        """Judge a script to the end; tells whether its output is tainted."""
        self.maps |= _maps(tree)
        self._changes = Changes(tree)
        for _ in range(_ROUNDS):
            before = self._state()
            self.found.clear()
            self.dashes.clear()
            self.known.clear()
            self.within.clear()
            self.calculates = False
            self.shifts.clear()
            output = self.sequence(tree, stdin)
            if before == self._state():
                return output
        self.refuse(
            "values go through more variables than can be followed",
            0,
            "use them closer to where they come from",
        )
        return True

    def _state(self) -> object:
        known = (
            self.tainted,
            self.evaluated,
            self.arrays,
            self.functions,
            self.fed,
            self.telling,
            self.exported,
            self.moved,
        )
        texts = sum(map(len, self.texts.values()))
        contents = sum(len(one.begins) + one.unknown + one.value for one in self.contents.values())
        places = sum(map(len, self.places.values()))
        sizes = (len(self.texts), texts, contents, places, sum(self.runners.values()), len(self.runners))
        return (*map(len, known), *sizes)

    # ------------------------------------------------------------ commands: is their output tainted?

    def sequence(self, tree: Sequence_, stdin: bool) -> bool:
        before, listed, output = self.proven, frozenset[str](), False
        for at, pipeline in enumerate(tree):
            with self._proving(listed):
                output = self._pipeline(pipeline, stdin) or output
            first = pipeline[0]
            joined = first.joined if not isinstance(first, Function) else ""
            chained = joined == "&&" and not (at and _is_joined(tree[at - 1], "||"))
            shown = numbers(pipeline) if chained and not _is_negated(first) else frozenset[str]()
            listed = listed | self._still(shown, tree, at + 1) if chained else frozenset()
            self.proven |= self._still(behind(tree, at, self.leaving - self.functions), tree, at + 1)
        self.proven = before
        return output

    def _still(self, names: frozenset[str], tree: Sequence_, at: int = 0) -> frozenset[str]:
        """Those of some variables that these commands do not change, from one of them on."""
        if not names or not self._orderly:
            return frozenset()
        return self._changes.left_alone(names, tree[at:], frozenset(self.functions))

    @contextmanager
    def _proving(self, names: frozenset[str]) -> Iterator[None]:
        """Some variables are numbers here."""
        before, self.proven = self.proven, self.proven | names
        yield
        self.proven = before

    @contextmanager
    def _reaching(self, leaving: frozenset[str]) -> Iterator[None]:
        before, self.leaving = self.leaving, leaving
        yield
        self.leaving = before

    def _pipeline(self, nodes: Pipeline, stdin: bool) -> bool:
        own = len(nodes) > 1 or _is_joined(nodes, "&")  # a shell of its own, which is in no loop
        with self._reaching(_OWN if own else self.leaving):
            for node in nodes:
                stdin = self._node(node, stdin)
        return stdin

    def piece(self, piece: Piece, word: Word) -> bool:
        if not isinstance(piece, Sub):
            return super().piece(piece, word)
        with self._reaching(_OWN):
            return super().piece(piece, word)

    def _node(self, node: Node, stdin: bool) -> bool:
        match node:
            case Simple():
                return self._simple(node, stdin)
            case Compound():
                return self._compound(node, stdin)
            case Function():
                self._function(node)
        return False

    def _function(self, node: Function) -> None:
        self.functions.add(node.name)
        outer, loops = self.function, self.loops
        self.function, self.loops = node.name, 0
        proven, self.proven = self.proven, frozenset()
        with self._reaching(_OWN | {"return"}):
            if self._node(node.body, node.name in self.fed):
                self.telling.add(node.name)
        self.function, self.loops, self.proven = outer, loops, proven

    def _compound(self, node: Compound, stdin: bool) -> bool:
        stdin = self._input(node.redirects, stdin)
        outer, self.stdin = self.stdin, stdin
        tainted = [self.word(word) for word in (*node.head, *node.patterns)]
        if node.variable:
            if any(tainted):
                self.taint(node.variable, node.start, self.contents_of(node.head))
            elif not node.head and self.parameters in self.tainted:
                self.taint(node.variable, node.start, self.contents.get(self.parameters, ANYTHING))
            for word in node.head:
                self.learn(node.variable, word)
        if node.kind == "[[":
            self._condition(node.head, any(tainted))
        self.loops += node.kind in _LOOPS
        inside = (
            self.leaving | _OF_LOOP if node.kind in _LOOPS else _OWN if node.kind == "(" else self.leaving
        )
        output = False
        with self._reaching(inside):
            for at, body in enumerate(node.bodies):
                shown = self._still(self._still(_shown(node, at), body), node.bodies[at - 1])
                with self._proving(shown):
                    output = self.sequence(body, stdin) or output
        self.loops -= node.kind in _LOOPS
        self.stdin = outer
        return self._written(node.redirects, output)

    def _condition(self, words: Sequence[Word], tainted: bool) -> None:
        """`[[ ... ]]`, in which words may be names, subscripts and arithmetic."""
        if any(word.literal in _ARITHMETIC_TESTS | _NAME_TESTS for word in words):
            shown = frozenset[str]()
            for clause in clauses(words) or [words]:
                with self._proving(self._still(shown, ())):
                    self._evaluated_test(clause)
                shown |= frozenset(filter(None, [number(clause)]))
        if tainted:
            self.tainted.add("BASH_REMATCH")

    def _evaluated_test(self, words: Sequence[Word]) -> None:
        if not any(word.literal in _ARITHMETIC_TESTS | _NAME_TESTS for word in words):
            return
        for word in words:
            value = some(
                [
                    self.piece(piece, word) and not self.is_number(piece)
                    for piece in word.pieces
                    if not isinstance(piece, Text)
                ]
            )
            if value or self.reaches(word.spelled):
                hint = "compare with [ a -eq b ]"
                self.refuse(f"{OF_PLACEHOLDER} in a test that bash evaluates", word, hint)

    def _simple(self, node: Simple, stdin: bool) -> bool:
        outer, outer_code = self.stdin, self.document
        self.document = None
        self.stdin = self._input(node.redirects, stdin)
        for assignment in node.assignments:
            self.assign(assignment)
        carried = some([self.word(value) for one in node.assignments for value in one.values])
        words = list(node.words)
        output = bool(words) and self.run(words, self.stdin, carried=carried and bool(words))
        if [word.literal for word in words] == ["exec"]:
            if self.stdin:
                self.tainted.add(_EXEC_INPUT)
            output = True  # what is printed from here on
        elif not words and not node.assignments and any(one.operator == "<" for one in node.redirects):
            output = self.stdin  # $(< file) is what the file holds
        self.stdin, self.document = outer, outer_code
        return self._written(node.redirects, output)

    # ------------------------------------------------------------ redirections

    def _input(self, redirects: Sequence[Redirect], stdin: bool) -> bool:
        """Whether standard input is tainted behind these redirections."""
        stdin = stdin or _EXEC_INPUT in self.tainted
        for redirect in redirects:
            tainted = self.word(redirect.word)
            if redirect.is_document or redirect.operator == "<<<":
                stdin = tainted
                self.document = redirect.word.literal
                continue
            for hole in redirect.word.holes:
                self._target(redirect, hole)
            if self.names_by_value(redirect.word):
                self._named_target(redirect)
            if redirect.operator in ("<", "<>"):
                stdin = tainted or self.holds_value(redirect.word)
        return stdin

    def _target(self, redirect: Redirect, hole: int) -> None:
        if redirect.operator != "<":
            message = "a placeholder as the target of a redirection: a value could name any file"
            self.refuse(message, hole, "write to a file with a fixed name, and declare it in `outputs`")
        elif hole not in self.paths:
            message = "a placeholder as the name of an input file"
            self.refuse(message, hole, "to read the value write < {{ x | path }}")

    def _named_target(self, redirect: Redirect) -> None:
        """A target that a variable or a command names."""
        if redirect.operator != "<":
            message = f"{OF_PLACEHOLDER} as the target of a redirection: it could name any file"
            hint = "write to a file with a fixed name, and declare it in `outputs`"
            self.refuse(message, redirect.word, hint)
        elif self.shell == "bash":
            message = f"{OF_PLACEHOLDER} as the name of an input file, which bash takes for a connection"
            self.refuse(message, redirect.word, 'let the command open the file: cat -- "$y"')

    def _written(self, redirects: Sequence[Redirect], output: bool) -> bool:
        """Note the files that output is written to; tells whether standard output is still tainted."""
        left = output
        for redirect in redirects:
            if output and redirect.operator.startswith((">", "&>", "<>")):
                self.taint_file(redirect.word)
                target = redirect.word.literal or ""
                away = redirect.stream in ("", "1") and not target.isdigit()
                left = left and not (away and (target == "/dev/null" or not target.startswith("/dev/")))
        return left

    # ------------------------------------------------------------ code within code

    def nested(
        self, code: str, word: Word, stdin: bool, given: Given | None = None, shell: str = ""
    ) -> bool | None:
        if self.level >= _LEVELS:
            return True
        key = (code, stdin, given, shell, self.function)
        known = self.within.get(key)
        if known is None:
            complete, tree = _scanned(code.replace("\0", ""))
            inner = Lint(frozenset(), (), self.level + 1, shell or self.shell)
            self._hand_down(inner, given, same=not shell)
            output = inner.check(tree, stdin=stdin)
            self._take_back(inner, same=not shell)
            known = (output if complete else None, (*inner.found.values(),), inner.dashes)
            self.within[key] = known
            self.calculates = self.calculates or inner.calculates
        for found in known[1]:
            self.refuse(found.message, word, found.hint)
        self.dashes |= known[2]
        return known[0]

    def _hand_down(self, inner: Lint, given: Given | None, *, same: bool) -> None:
        """Code within code knows what is known here; another shell has parameters of its own."""
        inner.texts = {name: {*texts} for name, texts in self.texts.items()}
        inner.contents = {**self.contents}
        inner.functions = {*self.functions} if same else self.functions & self.exported
        inner.telling = self.telling & inner.functions
        inner.fed = self.fed & inner.functions
        inner.runners = {name: self.runners[name] for name in self.runners.keys() & inner.functions}
        inner.exported = {*self.exported}
        inner.places = {name: {*self.places[name]} for name in self.places.keys() & inner.functions}
        inner.moved = self.moved & inner.functions
        if given is not None and not same:
            inner.places[""] = {*given.places}
        known = {f"@{name}" for name in inner.functions} | ({"@", "0"} if same else set())
        inner.tainted = {name for name in self.tainted if name in known or name[0] not in "@0"}
        if same:
            inner.function, inner.loops = self.function, 1  # it may run later
            inner._orderly = False
            inner.evaluated, inner.arrays, inner.maps = {*self.evaluated}, {*self.arrays}, {*self.maps}
        if given is not None:
            inner.contents |= {"@": given.content, "0": given.content}
            inner.tainted |= {"@", "0"} if 0 in given.places else {"@"}

    def _take_back(self, inner: Lint, *, same: bool) -> None:
        """Files, and functions of this script, that code within code gave a value; all that it did here."""
        taken = {f"@{name}" for name in inner.functions & self.functions & self.exported}
        names = {name for name in inner.tainted if same or name in taken or name.startswith(FILE)}
        for name in names & inner.contents.keys():
            self.contents[name] = self.contents.get(name, inner.contents[name]) | inner.contents[name]
        self.tainted |= names
        for name in names & {f"@{function}" for function in inner.places if function}:
            self.places.setdefault(name[1:], set()).update(inner.places[name[1:]])
        self.fed |= inner.fed & (inner.functions if same else self.functions & self.exported)
        if same:
            self.functions |= inner.functions
            self.moved |= inner.moved
            self.telling |= inner.telling
            self.exported |= inner.exported
            self.evaluated |= inner.evaluated
            self.arrays |= inner.arrays
            for name, shifted in inner.runners.items():
                self.runners[name] = max(shifted, self.runners.get(name, 0))
            for name, shifted in inner.shifts.items():
                self.shifts[name] = self.shifts.get(name, 0) + shifted


def _shown(node: Compound, at: int) -> frozenset[str]:
    """The variables that are numbers in a part of a compound command, by what was asked before it."""
    if node.kind == "case":
        name = first_of_case(node) if at else None
        return frozenset({name} if name else ())
    if node.kind == "if" and at % 2:
        return asked_by(node.bodies[at - 1])
    return (
        refused_by(node.bodies[0]) if node.kind == "if" and at == 2 == len(node.bodies) - 1 else frozenset()
    )


def _is_joined(pipeline: Pipeline, operator: str) -> bool:
    return not isinstance(pipeline[0], Function) and pipeline[0].joined == operator


def _is_negated(node: Node) -> bool:
    return not isinstance(node, Function) and node.negated


@functools.lru_cache(maxsize=64)
def _scanned(code: str) -> tuple[bool, Sequence_]:
    scanner, tree = scan(code, shell="bash")
    return scanner.complete, tree


def _maps(tree: Sequence_) -> set[str]:
    """Associative arrays that are declared at the top of a script, before anything else is done with them."""
    found: set[str] = set()
    for pipeline in tree:
        node = pipeline[0]
        if len(pipeline) != 1 or not isinstance(node, Simple) or not node.words:
            continue
        words = [word.prefix for word in node.words]
        if words[0] in ("declare", "typeset") and any(w.startswith("-") and "A" in w for w in words[1:]):
            found |= {word.partition("=")[0] for word in words[1:] if not word.startswith("-")}
    return found
