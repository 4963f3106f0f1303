"""`{{ name }}`, `{{ workflow.step }}`, `{{ step.items[0].name }}` and `{{ name | filter }}` in text.  Pure.

Owns the grammar of a placeholder and the positions of all references of a text.  What a filter does to a
value is in `filters`.  It knows neither what a name stands for (`resolve`) nor what surrounds it: shell
scripts are `shellcode`'s, expressions `condition`'s, Jinja2 blocks `promptdoc`'s.

    placeholder := "{{" ws ( reference | quoted ) ws "}}"
    reference   := ( variable | workflow "." step ) path ( ws "|" ws filter )*
    path        := ( "." field | "[" ws ( number | quoted ) ws "]" )*
    quoted      := "'" text without ' "'"  |  '"' text without " '"'

A quoted placeholder is its own text, without escapes of any kind: `{{ '{{' }}` is how a literal `{{`
is written.  `a.b` may be step b of workflow a, or field b of what a is: that is for `resolve` to tell.
A `}}` outside of a placeholder is text.  Where several readings are possible the one that
makes a whole placeholder is taken, so that the JSON text `{"a":{{x}}}` holds the placeholder `{{x}}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import field

from llmc_build.errors import did_you_mean
from llmc_build.frozen import frozen
from llmc_build.jsonpath import Path, text_of

FILTERS = ("raw", "trim", "json", "path")  # in the only order in which they may follow each other
ESCAPE_HINT = "for a literal {{ write {{ '{{' }}"
FORM_HINT = f"write {{{{ name }}}} or {{{{ workflow.step }}}}; {ESCAPE_HINT}"

PATH = r"""(?: [.] [A-Za-z0-9_-]++ | \[ \s*+ (?: -?[0-9]{1,9}+ | "[^"\n]*+" | '[^'\n]*+' ) \s*+ \] )*+"""
# Possessive quantifiers: a hostile text costs one pass, since nothing is ever tried again.
PLACEHOLDER = re.compile(
    r"""\{\{ \s*+
        (?: (?P<quote>['"]) (?P<literal> (?:(?!(?P=quote)).)*+ ) (?P=quote)
          | (?: (?P<one> [A-Za-z_][A-Za-z0-9_-]*+ ) (?! [.] )
              | (?P<workflow> [A-Za-z0-9_-]++ ) [.] (?P<step> [A-Za-z0-9_-]++ )
            ) (?P<path> PATH ) (?P<filters> (?: \s*+ \| \s*+ \w++ )*+ )
        )
        \s*+ \}\}""".replace("PATH", PATH),
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_PART = re.compile(
    r"""[.] ([A-Za-z0-9_-]++) | (-?[0-9]++) (?= \s*+ \] ) | "([^"\n]*+)" | '([^'\n]*+)'""", re.X
)
_FILTER = re.compile(r"\w+", re.ASCII)
_STEP = re.compile(r"[A-Za-z0-9_-]+")
_BRACES = re.compile(r"\{\{+|\}\}")
MAX_PLACEHOLDERS = 100_000  # in one text
_MAX_PROBLEMS = 100  # of one text; what follows is not looked at
_QUOTED = 60  # characters of a faulty placeholder that a message quotes


@frozen
class Problem:
    """One mistake in a text: what it is, where (a character offset), and the way out."""

    message: str
    offset: int
    hint: str | None = None


class TemplateError(Exception):
    """A text that can't be used, with every problem found in it, in the order of their places."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda problem: problem.offset))
        super().__init__("; ".join(problem.message for problem in self.problems))


@frozen
class Ref:
    """A reference to a value: ("variable",) or ("workflow", "step"), or ("variable", "field")."""

    names: tuple[str, ...]
    filters: tuple[str, ...] = ()  # none: trailing newlines are dropped
    start: int = 0  # offset in the source of the first character: of "{{", or of a name in an expression
    end: int = 0  # offset behind the last character
    path: Path = ()  # where in the value, which is JSON then

    @property
    def text(self) -> str:
        """The reference as it is written, without filters: `workflow.step`, `name.items[0]`."""
        return ".".join(self.names) + text_of(self.path) if self.path else ".".join(self.names)


class PromptError(ValueError):
    """A prompt that can't be rendered with these values.  `ref`: the reference at fault, where it is one."""

    def __init__(self, message: str, ref: Ref | None = None) -> None:
        self.ref = ref
        super().__init__(message)


@frozen
class Template:
    """A text cut at its placeholders.

    Text parts may stand side by side: a quoted placeholder is a part of its own (an empty one, where
    nothing is quoted), so that a text part as long as its span is a verbatim piece of the source.
    """

    source: str
    parts: tuple[str | Ref, ...]
    spans: tuple[tuple[int, int], ...] = field(compare=False)  # of each part in the source; they tile it

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Every reference, in the order of the text; the same value may be referred to more than once."""
        return tuple(part for part in self.parts if isinstance(part, Ref))


def parse(source: str) -> Template:
    """Cut a text at its placeholders; TemplateError names everything in `{{ }}` that is none."""
    parts: list[str | Ref] = []
    spans: list[tuple[int, int]] = []
    problems: list[Problem] = []
    at = 0
    for count, match in enumerate(PLACEHOLDER.finditer(source) if "{{" in source else ()):
        start, end = match.span()
        if start > at:
            between = source[at:start]
            if "{{" in between:
                problems += _stray(source, at, start)
            parts.append(between)
            spans.append((at, start))
        if len(problems) > _MAX_PROBLEMS:
            raise TemplateError(problems)
        if count >= MAX_PLACEHOLDERS:
            many = f"the text has more than {MAX_PLACEHOLDERS:,} placeholders"
            raise TemplateError([Problem(many, start, "split it, or let a loop write it")])
        found = _read(match, start, end)
        if isinstance(found, Ref) and found.filters:
            problems += _filter_problems(found, source)
        parts.append(found)
        spans.append((start, end))
        at = end
    if at < len(source):
        rest = source[at:]
        if "{{" in rest:
            problems += _stray(source, at, len(source))
        parts.append(rest)
        spans.append((at, len(source)))
    if problems:
        raise TemplateError(problems)
    return Template(source, tuple(parts), tuple(spans))


def refuse_path(refs: Iterable[Ref]) -> list[Problem]:
    """What to say of the filter `path` where the text is no command."""
    return [
        Problem(
            "the filter `path` works in `command` only", ref.start, "leave it out: the value itself is used"
        )
        for ref in refs
        if "path" in ref.filters
    ]


def _read(match: re.Match[str], start: int, end: int) -> str | Ref:
    quote, literal, one, workflow, step, path, filters = match.groups()
    if quote:
        return str(literal)
    names = (one,) if one else (workflow, step)
    found = tuple(_FILTER.findall(filters)) if filters else ()
    return reference(names, read_path(path), found, start, end) if path else Ref(names, found, start, end)


def reference(
    names: tuple[str, ...], path: Path, filters: tuple[str, ...] = (), start: int = 0, end: int = 0
) -> Ref:
    """A reference with a path; `a["b"]` is `a.b`, and what that means is not known here."""
    if len(names) == 1 and path and isinstance(path[0], str) and _STEP.fullmatch(path[0]):
        return Ref((*names, path[0]), filters, start, end, path[1:])
    return Ref(names, filters, start, end, path)


def read_path(text: str) -> Path:
    """The parts of a path as it is written."""
    return tuple(
        int(found[2]) if found[2] else found[1] if found[1] is not None else found[3] or found[4] or ""
        for found in _PART.finditer(text)
    )


def _filter_problems(ref: Ref, source: str) -> list[Problem]:
    problems = []
    at = source.find("|", ref.start)
    for name in ref.filters:
        at = source.index(name, at)
        if name not in FILTERS:
            hint = did_you_mean(name, FILTERS) or f"there are {', '.join(FILTERS)}"
            problems.append(Problem(f'unknown filter "{name}"', at, hint))
        at += len(name)
    return problems or _misfits(ref)


def _misfits(ref: Ref) -> list[Problem]:
    if {"raw", "trim"} <= set(ref.filters):
        return [Problem("the filters `raw` and `trim` exclude each other", ref.start, "keep one of them")]
    if len(set(ref.filters)) < len(ref.filters):
        return [Problem("a filter is given twice", ref.start, "give it once")]
    proper = [name for name in FILTERS if name in ref.filters]
    if proper != list(ref.filters):
        hint = f"write {{{{ {' | '.join([ref.text, *proper])} }}}}"
        return [Problem("the filters are in the wrong order", ref.start, hint)]
    return []


def _stray(source: str, start: int, end: int) -> list[Problem]:
    """What to say of each `{{` in a stretch of text that holds no placeholder."""
    problems: list[Problem] = []
    opened: int | None = None
    for brace in _BRACES.finditer(source, start, end):
        if len(problems) > _MAX_PROBLEMS:
            return problems
        if brace[0] == "}}":
            if opened is not None:
                problems.append(_explain(source[opened : brace.end()], opened))
            opened = None
        else:
            if opened is not None:
                problems.append(Problem("`{{` is not closed by `}}`", opened, ESCAPE_HINT))
            opened = brace.start()
    if opened is not None:
        problems.append(Problem("`{{` is not closed by `}}`", opened, ESCAPE_HINT))
    return problems


def _explain(text: str, at: int) -> Problem:
    inside = text[2:-2].strip()
    quoted = text if len(text) <= _QUOTED else text[:_QUOTED] + "..."
    if not inside:
        return Problem("an empty placeholder `{{ }}`", at, FORM_HINT)
    return Problem(f"`{' '.join(quoted.split())}` is not a reference", at, FORM_HINT)
