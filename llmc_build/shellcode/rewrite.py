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

Owns the rewriting, and is the face of this package: `prelude` fills the variables, `analysis` finds the
contexts and what is parsed again.  How values get to the machine that runs the script is the executor's
business.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from llmc_build.frozen import frozen
from llmc_build.placeholder import Problem, Ref, Template, TemplateError
from llmc_build.shellcode.analysis import analyse
from llmc_build.shellcode.tree import HOLE, Analysis, Context, Found

_FORMS = {
    Context.BARE: '"${%s}"',
    Context.DOUBLE: "${%s}",
    Context.SINGLE: "'\"${%s}\"'",
    Context.BODY: "${%s}",
    Context.COMMENT: "${%s}",
}
_NONCE = 8  # characters
_NONE: frozenset[int] = frozenset()
_SLOT = re.compile(r"[A-Za-z0-9_]+")


@frozen(kw_only=True)
class Variable:
    """A shell variable that the prelude must fill before the script begins."""

    name: str
    slot: str
    filters: tuple[str, ...]  # to be applied to the slot's value; `path` is not among them
    path: bool  # it holds the path of a file with the value, not the value


class Use(NamedTuple):
    """A value that a script reads: a slot, and what is to become of the value."""

    slot: str
    filters: tuple[str, ...]  # to be applied to the slot's value; `path` is not among them
    path: bool
    mark: str  # what stands for it in the text that the nonce is a hash of
    stem: str  # the name of its variable, without the nonce

    def variable(self, nonce: str) -> Variable:
        """The shell variable that holds it."""
        return Variable(name=self.stem + nonce, slot=self.slot, filters=self.filters, path=self.path)


@functools.lru_cache(maxsize=1024)
def _use(slot: str, filters: tuple[str, ...]) -> Use:
    """The use of a slot with filters as they are written; one for all scripts."""
    if not _SLOT.fullmatch(slot):
        raise ValueError(f"not a slot: {slot!r}")
    return Use(
        slot=slot,
        filters=tuple([name for name in filters if name != "path"]),
        path="path" in filters,
        mark=f"{HOLE}{' '.join([slot, *filters])}{HOLE}",
        stem="_".join(["__llmc", slot, *filters, ""]),
    )


@functools.lru_cache(maxsize=1024)
def _shared(uses: tuple[Use, ...]) -> tuple[Use, ...]:
    """One tuple for all scripts that use values alike: nearly all do."""
    return uses


@frozen(kw_only=True)
class Script:
    """A script whose placeholders have become expansions."""

    text: str  # the same number of lines as the source
    uses: tuple[Use, ...] = ()
    nonce_at: int = 0  # where in the text stands what the names of its variables end with
    words: tuple[str, ...] = ()  # plain words that may be paths of files, relative to the workspace
    # (variable, command): begins an argument of the command, which would take "-x" for an option; the step
    # must be refused where the variable's value begins with "-".
    dash_checks: tuple[tuple[str, str], ...] = ()
    reads: tuple[Ref, ...] = ()  # references that are expanded; those in comments are not

    @property
    def variables(self) -> tuple[Variable, ...]:
        return variables(self.text, self.nonce_at, self.uses)


def variables(text: str, nonce_at: int, uses: Sequence[Use]) -> tuple[Variable, ...]:
    """The variables of a script."""
    nonce = text[nonce_at : nonce_at + _NONCE]
    return tuple([use.variable(nonce) for use in uses])


def rewrite(template: Template, *, shell: Literal["sh", "bash"], slot: Callable[[Ref], str]) -> Script:
    """The script for a template; `slot` names the value of a reference and is asked once for each, in order.

    The text depends on slots, filters and the author's text alone, not on the names of references.
    Raises TemplateError with every problem found.
    """
    refs: list[Ref] = []
    holes: list[int] = []  # offsets of HOLE in the text
    paths: list[int] = []  # of them, those with the filter `path`
    pieces: list[str] = []
    spots: list[int] = []  # the pieces that are HOLE
    size = 0
    for part in template.parts:
        if isinstance(part, str):
            pieces.append(part)
            size += len(part)
        else:
            refs.append(part)
            if "path" in part.filters:
                paths.append(size)
            holes.append(size)
            spots.append(len(pieces))
            pieces.append(HOLE)
            size += 1
    text = "".join(pieces)
    if text.count(HOLE) != len(refs):
        raise TemplateError(_nul(template))
    if not refs:
        return Script(text=text, words=analyse(text, shell, _NONE).words)
    found = analyse(text, shell, frozenset(paths) if paths else _NONE)
    over_lines = "\n" in template.source and _over_lines(template)
    if found.problems or over_lines:
        problems = [*(over_lines or ()), *_located(template, found.problems)]
        raise TemplateError(dict.fromkeys(problems))
    uses = [_use(slot(ref), ref.filters) for ref in refs]
    nonce = _nonce(_put(pieces, spots, [use.mark for use in uses]), text)
    names = [use.stem + nonce for use in uses]
    forms = [_FORMS[context] % name for context, name in zip(found.contexts, names, strict=True)]
    if Context.COMMENT in found.contexts:
        read = [n for n, context in enumerate(found.contexts) if context is not Context.COMMENT]
        uses, refs = [uses[n] for n in read], [refs[n] for n in read]
    dashes = [(names[bisect.bisect_left(holes, at)], command) for at, command in found.dashes]
    script = _edited(text, holes, forms, found) if found.edits else _put(pieces, spots, forms)
    return Script(
        text=script,
        uses=_shared(tuple(dict.fromkeys(uses)) if len(uses) > 1 else tuple(uses)),
        nonce_at=script.index(nonce),
        words=found.words,
        dash_checks=tuple(dict.fromkeys(dashes)) if dashes else (),
        reads=tuple(refs),
    )


# ---------------------------------------------------------------- what is found, at its place in the source


def _nul(template: Template) -> Iterator[Problem]:
    for part, (start, _) in zip(template.parts, template.spans, strict=True):
        if isinstance(part, str) and HOLE in part:
            yield Problem("a NUL character in a script", start + part.index(HOLE))
            return


def _over_lines(template: Template) -> list[Problem]:
    return [
        Problem("a placeholder over several lines", ref.start, "write it on one line")
        for ref in template.refs
        if "\n" in template.source[ref.start : ref.end]
    ]


def _located(template: Template, found: Sequence[Found]) -> Iterator[Problem]:
    lengths = [len(part) if isinstance(part, str) else len(HOLE) for part in template.parts]
    begins = [0, *itertools.accumulate(lengths)]  # of the parts in the scanned text
    for one in found:
        n = min(bisect.bisect_right(begins, one.offset), len(lengths)) - 1
        start, end = template.spans[n]
        verbatim = lengths[n] == end - start
        yield Problem(one.message, start + (one.offset - begins[n] if verbatim else 0), one.hint)


# ---------------------------------------------------------------- variables in place of references


def _nonce(canonical: str, text: str) -> str:
    """The end of the names of variables: a hash of the script, so that none is the name of one of its own.

    It sees slots in place of references, since renaming a step must not change the text.
    """
    nonce = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    while nonce[:_NONCE] in text:
        nonce = hashlib.sha256(nonce.encode()).hexdigest()
    return nonce[:_NONCE]


def _put(pieces: list[str], spots: Sequence[int], texts: Sequence[str]) -> str:
    """The pieces with texts put in at some spots."""
    for spot, text in zip(spots, texts, strict=True):
        pieces[spot] = text
    return "".join(pieces)


def _edited(text: str, holes: Sequence[int], forms: Sequence[str], found: Analysis) -> str:
    edits = [(at, at + 1, form) for at, form in zip(holes, forms, strict=True)]
    out = []
    at = 0
    for start, end, replacement in sorted([*edits, *found.edits]):
        out += [text[at:start], replacement]
        at = end
    return "".join([*out, text[at:]])
