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

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

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
_SLOT = re.compile(r"[A-Za-z0-9_]+")


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
    refs = template.refs
    for part, (start, _) in zip(template.parts, template.spans, strict=True):
        if isinstance(part, str) and HOLE in part:
            raise TemplateError([Problem("a NUL character in a script", start + part.index(HOLE))])
    text = "".join([part if isinstance(part, str) else HOLE for part in template.parts])
    if not refs:
        return Script(text=text, words=analyse(text, shell, frozenset()).words)
    holes = [at for at, part in zip(_offsets(template), template.parts, strict=True) if isinstance(part, Ref)]
    paths = frozenset([at for at, ref in zip(holes, refs, strict=True) if "path" in ref.filters])
    found = analyse(text, shell, paths)
    problems = [*_over_lines(template), *(_located(template, one) for one in found.problems)]
    if problems:
        raise TemplateError(dict.fromkeys(problems))
    variables = _variables(template, text, [slot(ref) for ref in refs])
    read = [n for n, context in enumerate(found.contexts) if context is not Context.COMMENT]
    dashes = [(variables[holes.index(at)].name, command) for at, command in found.dashes]
    return Script(
        text=_edited(text, holes, found, variables) if found.edits else _filled(template, found, variables),
        variables=tuple(dict.fromkeys([variables[n] for n in read])),
        words=found.words,
        dash_checks=tuple(dict.fromkeys(dashes)),
        reads=tuple([refs[n] for n in read]),
    )


# ---------------------------------------------------------------- the template as one text


def _offsets(template: Template) -> Iterator[int]:
    """Where each part stands in the text that has HOLE for each reference."""
    sizes = [len(part) if isinstance(part, str) else len(HOLE) for part in template.parts]
    return accumulate(sizes[:-1], initial=0)


def _over_lines(template: Template) -> Iterator[Problem]:
    for ref in template.refs:
        if "\n" in template.source[ref.start : ref.end]:
            yield Problem("a placeholder over several lines", ref.start, "write it on one line")


def _located(template: Template, found: Found) -> Problem:
    """Something found in the text, at its place in the source."""
    offset = 0
    for at, part, (start, end) in zip(_offsets(template), template.parts, template.spans, strict=True):
        if at > found.offset:
            break
        verbatim = (len(part) if isinstance(part, str) else len(HOLE)) == end - start
        offset = start + (found.offset - at if verbatim else 0)
    return Problem(found.message, offset, found.hint)


# ---------------------------------------------------------------- variables in place of references


def _variables(template: Template, text: str, slots: Sequence[str]) -> list[Variable]:
    """The variable of each reference.

    Names end with a hash of the script, so that no variable that the script uses has the same; the hash sees
    slots in place of references, since renaming a step must not change the text.
    """
    for one in slots:
        if not _SLOT.fullmatch(one):
            raise ValueError(f"not a slot: {one!r}")
    named = iter(slots)
    canonical = [
        part if isinstance(part, str) else f"{HOLE}{' '.join([next(named), *part.filters])}{HOLE}"
        for part in template.parts
    ]
    nonce = hashlib.sha256("".join(canonical).encode("utf-8", "surrogatepass")).hexdigest()
    while nonce[:8] in text:
        nonce = hashlib.sha256(nonce.encode()).hexdigest()
    return [
        Variable(
            name="_".join(["__llmc", one, *ref.filters, nonce[:8]]),
            slot=one,
            filters=tuple([name for name in ref.filters if name != "path"]),
            path="path" in ref.filters,
        )
        for one, ref in zip(slots, template.refs, strict=True)
    ]


def _filled(template: Template, found: Analysis, variables: Sequence[Variable]) -> str:
    forms = iter(
        [_FORMS[context] % variable.name for context, variable in zip(found.contexts, variables, strict=True)]
    )
    return "".join([part if isinstance(part, str) else next(forms) for part in template.parts])


def _edited(text: str, holes: Sequence[int], found: Analysis, variables: Sequence[Variable]) -> str:
    edits = [
        (at, at + 1, _FORMS[context] % variable.name)
        for at, context, variable in zip(holes, found.contexts, variables, strict=True)
    ]
    out = []
    at = 0
    for start, end, replacement in sorted([*edits, *found.edits]):
        out += [text[at:start], replacement]
        at = end
    return "".join([*out, text[at:]])
