"""Puts values into shell scripts as data: no byte of a value ever enters the text of a script.  Pure.

Theory of operation.  Each `{{ x }}` becomes the expansion of a shell variable, in the form that the quoting
around it needs; at run time a prelude on the first line fills the variables.

    bare            "${v}"          one word, neither split nor globbed
    "..."           ${v}
    '...'           '"${v}"'        the quotes are left and entered again
    <<EOF           ${v}
    <<'EOF'         ${v}            the delimiter loses its quotes, the author's text is escaped
    $( ... )        as if from the start
    # comment       ${v}            never read
    {{ x | path }}  the same, of a variable that holds the path of a file with the value

Where no form is safe, where shells disagree about the quoting, or where the value would be parsed again as
code, the script is refused with the place and another way to write it.

Owns the rewriting, and is the face of this package: `prelude` fills the variables, `scan` finds the
contexts, `lint` what is parsed again.  How values get to the machine that runs the script is the executor's
business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from llmc_build.placeholder import Problem, Ref, Template, TemplateError
from llmc_build.shellcode.lint import Lint
from llmc_build.shellcode.scan import Scanner, scan
from llmc_build.shellcode.tree import HOLE, Context, Expansion, Found, Word

_FORMS = {
    Context.BARE: '"${%s}"',
    Context.DOUBLE: "${%s}",
    Context.SINGLE: "'\"${%s}\"'",
    Context.BODY: "${%s}",
    Context.COMMENT: "${%s}",
}
_FILE_CHARACTERS = re.compile(r"[^\x00-\x1f\x7f]+")
_CUT = re.compile(r"[\s;&|<>()'\"`$\\{}=]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A shell variable that the prelude must fill before the script begins."""

    name: str
    slot: str
    filters: tuple[str, ...]  # to be applied to the slot's value; `path` is not among them
    path: bool  # it holds the path of a file with the value, not the value


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script whose placeholders have become expansions."""

    text: str  # the same number of lines as the source
    variables: tuple[Variable, ...] = ()
    words: tuple[str, ...] = ()  # plain words that may be paths of files, relative to the workspace
    # (variable, command): begins an argument of the command, which would take "-x" for an option; the step
    # must be refused where the variable's value begins with "-".
    dash_checks: tuple[tuple[str, str], ...] = ()
    reads: tuple[Ref, ...] = ()  # references that are expanded; those in comments are not


def rewrite(template: Template, *, shell: Literal["sh", "bash"], slot: Callable[[Ref], str]) -> Script:
    """The script for a template; `slot` names the value of a reference and is asked once for each, in order.

    The text depends on slots, filters and the author's text alone, not on the names of references.
    Raises TemplateError with every problem found.
    """
    source = _Source(template)
    scanner, tree = scan(source.text, shell=shell)
    if not source.refs:
        return Script(text=source.text, words=_words(scanner))
    lint = Lint(frozenset(at for at, ref in source.refs.items() if "path" in ref.filters))
    if scanner.complete:
        lint.check(tree)
    problems = source.problems + [source.located(found) for found in (*scanner.found, *lint.found)]
    if problems:
        raise TemplateError(dict.fromkeys(problems))
    names = _Names(source, slot)
    read = [at for at in source.refs if scanner.contexts[at] is not Context.COMMENT]
    return Script(
        text=_edited(source.text, scanner, names),
        variables=tuple(dict.fromkeys(names.variable[at] for at in read)),
        words=_words(scanner),
        dash_checks=tuple(
            dict.fromkeys((names.variable[at].name, lint.dashes[at]) for at in sorted(lint.dashes))
        ),
        reads=tuple(source.refs[at] for at in read),
    )


class _Source:
    """The template as one text with HOLE for each reference, and the way back to its offsets."""

    def __init__(self, template: Template) -> None:
        self.refs: dict[int, Ref] = {}
        self.problems: list[Problem] = []
        self._starts: list[tuple[int, int, bool]] = []  # offset in text, offset in source, verbatim
        pieces: list[str] = []
        length = 0
        for part, (start, end) in zip(template.parts, template.spans, strict=True):
            piece = HOLE if isinstance(part, Ref) else part
            self._starts.append((length, start, len(piece) == end - start))
            if isinstance(part, Ref):
                self.refs[length] = part
                self._check_reference(template.source[start:end], start)
            elif HOLE in part:
                raise TemplateError([Problem("a NUL character in a script", start + part.index(HOLE))])
            pieces.append(piece)
            length += len(piece)
        self.text = "".join(pieces)

    def _check_reference(self, written: str, start: int) -> None:
        if "\n" in written:
            self.problems.append(Problem("a placeholder over several lines", start, "write it on one line"))

    def located(self, found: Found) -> Problem:
        offset = 0
        for at, start, verbatim in self._starts:
            if at > found.offset:
                break
            offset = start + (found.offset - at if verbatim else 0)
        return Problem(found.message, offset, found.hint)


class _Names:
    """The variable of each placeholder.

    Names end with a hash of the script, so that no variable that the script uses has the same; the hash sees
    slots in place of references, since renaming a step must not change the text.
    """

    def __init__(self, source: _Source, slot: Callable[[Ref], str]) -> None:
        slots = {at: slot(ref) for at, ref in source.refs.items()}
        if bad := [name for name in slots.values() if not re.fullmatch(r"[A-Za-z0-9_]+", name)]:
            raise ValueError(f"not a slot: {bad[0]!r}")
        nonce = self._nonce(source, slots)
        self.variable: Mapping[int, Variable] = {
            at: Variable(
                name="_".join(["__llmc", slots[at], *ref.filters, nonce]),
                slot=slots[at],
                filters=tuple(name for name in ref.filters if name != "path"),
                path="path" in ref.filters,
            )
            for at, ref in source.refs.items()
        }

    @staticmethod
    def _nonce(source: _Source, slots: Mapping[int, str]) -> str:
        canonical = source.text
        for at in sorted(slots, reverse=True):
            marker = " ".join([slots[at], *source.refs[at].filters])
            canonical = f"{canonical[:at]}{HOLE}{marker}{HOLE}{canonical[at + 1 :]}"
        nonce = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        while nonce[:8] in source.text:
            nonce = hashlib.sha256(nonce.encode()).hexdigest()
        return nonce[:8]


def _edited(text: str, scanner: Scanner, names: _Names) -> str:
    edits = [
        (at, at + 1, _FORMS[context] % names.variable[at].name) for at, context in scanner.contexts.items()
    ]
    out = []
    at = 0
    for start, end, replacement in sorted(edits + scanner.edits):
        out += [text[at:start], replacement]
        at = end
    return "".join([*out, text[at:]])


# ---------------------------------------------------------------- words that may be files


def _words(scanner: Scanner) -> tuple[str, ...]:
    """Relative paths among the plain words, in order.  Too many do no harm: only existing files count."""
    found: list[str] = []
    for word in sorted(scanner.words, key=lambda word: word.start):
        found += _paths(word, names_command=word.start in scanner.command_words)
    if not scanner.complete:
        found += [path for text in _CUT.split(scanner.text[scanner.pos :]) if (path := _relative(text))]
    return tuple(dict.fromkeys(found))


def _paths(word: Word, *, names_command: bool) -> list[str]:
    text = word.literal
    if text is None:
        inner = [
            piece.text[1:-1]
            for piece in word.pieces
            if isinstance(piece, Expansion) and piece.kind == "backquote"
        ]
        return [path for code in inner for path in _words(scan(code.replace(HOLE, ""), shell="sh")[0])]
    if (names_command and "/" not in text) or re.search(r"[*?\[{]|^~", word.unquoted):
        return []
    path = _relative(text)
    return [path] if path else []


def _relative(text: str) -> str | None:
    """A word as a path below the workspace, without `.` and doubled slashes; None where it can't be one."""
    if text.startswith(("-", "/")) or not _FILE_CHARACTERS.fullmatch(text):
        return None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return "/".join(parts) if parts and ".." not in parts else None
