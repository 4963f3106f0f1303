"""Prompts with Jinja2 in them.  Pure.

Owns how such a prompt is read and rendered.  Which of its names are references is `promptscope`'s business,
what a template may do `jinjabox`'s.

Theory of operation.  Jinja2 knows names; llmc knows variables and steps, whose names may hold `-` and begin
with a digit.  Both meet in four moves:

1. Jinja2's lexer finds the `{{ }}` (so that comments and raw blocks stay what they are).  Where one begins
   with a reference as `placeholder` knows it, alone or followed by Jinja2 filters, the reference is
   replaced by a made-up name.
2. The text is parsed, and its tree walked with a scope: what `set`, `for`, `with`, `macro` and `call` bind
   belongs to the prompt, and everything else is a reference.
3. A made-up name that stands for something bound (`{{ i-1 }}` in a loop over `i`) is given back to Jinja2,
   and the text is parsed and walked again.
4. In the tree each reference is a name of its own, which nothing else can bind, and its value is the only
   thing that the rendering sees of the world.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from jinja2 import Template, TemplateSyntaxError, nodes

from llmc_build.frozen import frozen
from llmc_build.placeholder import (
    FILTERS,
    PATH,
    PLACEHOLDER,
    Problem,
    PromptError,
    Ref,
    TemplateError,
    read_path,
    reference,
    refuse_path,
)
from llmc_build.template.jinjabox import BoxedEnvironment, RenderError, explain, render, to_json
from llmc_build.template.jinjabudget import LIMITS
from llmc_build.template.promptscope import Walk

MAX_SOURCE = 2 * 1024 * 1024  # characters of a prompt with blocks
_BLOCK_HINT = "{% and {# begin Jinja2 code; for a literal one write {{ '{%' }} or {{ '{#' }}"
_OWN = "|".join(FILTERS)
_HEAD = re.compile(
    rf"""\s*+ (?P<ref>
        (?P<names> [A-Za-z_][A-Za-z0-9_-]*+ (?![.]) | [A-Za-z0-9_-]++ [.] [A-Za-z0-9_-]++ )
        (?P<path> {PATH} )
        (?P<filters> (?: \s*+ \| \s*+ (?:{_OWN}) \b (?!\s*\() )*+ )
      ) \s*+ (?= \| | \Z )""",
    re.VERBOSE | re.ASCII,
)


class JinjaSyntaxError(TemplateError):
    """Jinja2 can't read the text."""


@frozen
class Blocks:
    """A prompt with Jinja2 blocks, compiled."""

    template: Template
    names: tuple[tuple[str, Ref], ...]  # name in the template -> reference
    constants: tuple[tuple[str, str], ...]  # name in the template -> text

    @property
    def refs(self) -> tuple[Ref, ...]:
        return tuple(ref for _, ref in self.names)

    def render(self, texts: Callable[[Ref], str]) -> str:
        """The text.  Raises PromptError."""
        variables: dict[str, object] = dict(self.constants)
        variables.update((name, texts(ref)) for name, ref in self.names)
        try:
            return render(self.template, variables, LIMITS)
        except RenderError as error:
            line = f"line {error.line}: " if error.line else ""
            raise PromptError(f"{line}{error}") from error


def parse_blocks(source: str) -> Blocks:
    """Read a prompt as a Jinja2 template.  Raises TemplateError, JinjaSyntaxError."""
    if len(source) > MAX_SOURCE:
        raise JinjaSyntaxError(
            [Problem(f"a prompt with Jinja2 blocks is longer than {MAX_SOURCE:,} characters", 0)]
        )
    text = _Text(source)
    walk = _walked(text, frozenset())
    if walk.bound_heads:
        walk = _walked(text, frozenset(walk.bound_heads))
    found = sorted(walk.found, key=lambda item: (item[1].start, item[0]))
    problems = [*walk.problems, *refuse_path(ref for _, ref in found)]
    if problems:
        raise TemplateError(problems)
    constants = tuple((head.name, head.literal) for head in text.heads if head.literal is not None)
    return Blocks(_compiled(text, walk.tree), tuple(found), constants)


@functools.lru_cache(maxsize=1)
def _environment() -> BoxedEnvironment:
    filters = {"json": to_json, "raw": lambda value: value}  # for what the prompt binds itself
    return BoxedEnvironment(strict=True, keep_trailing_newline=True, filters=filters)


def _walked(text: _Text, given_back: frozenset[str]) -> Walk:
    heads = [head for head in text.heads if head.name not in given_back]
    try:
        tree = _environment().parse(text.rewritten(heads))
    except Exception as error:
        raise text.syntax_error(error) from error
    try:
        return Walk(
            tree,
            _environment(),
            references={head.name: head.ref for head in heads if head.ref is not None},
            constants={head.name for head in heads if head.literal is not None},
            prefix=text.prefix,
            place=text.places(heads),
        )
    except RecursionError as error:
        raise text.syntax_error(error) from error


def _compiled(text: _Text, tree: nodes.Template) -> Template:
    try:
        return _environment().compile_tree(tree)
    except Exception as error:
        raise text.syntax_error(error) from error


# ---------------------------------------------------------------- the text and its places


@frozen(kw_only=True)
class _Head:
    """What a `{{ }}` begins with and Jinja2 does not see: a reference, or a quoted text."""

    name: str  # made up
    start: int  # in the normalised text
    end: int
    ref: Ref | None = None  # with the offsets of the whole `{{ }}` in the source
    literal: str | None = None


@dataclass(slots=True)
class _Text:
    """The source as Jinja2's lexer sees it, with a way back to the source's offsets."""

    source: str
    normal: str = ""  # with "\n" as the only line end, as Jinja2 makes it
    heads: list[_Head] = field(default_factory=list)
    words: list[tuple[int, str]] = field(default_factory=list)  # offset and text of names and strings
    prefix: str = "_v"
    _shrunk: list[int] = field(default_factory=list)  # offsets of the "\n" that were "\r\n"
    _lines: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        pieces = re.split(r"(\r\n|\r|\n)", self.source)
        at = 0
        self._lines.append(0)
        for piece, end in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
            at += len(piece)
            if end:
                if end == "\r\n":
                    self._shrunk.append(at)
                at += 1
                self._lines.append(at)
        self.normal = "\n".join(pieces[::2])
        while self.prefix in self.source:
            self.prefix += "_"
        try:
            self._scan()
        except Exception as error:
            raise self.syntax_error(error) from error

    def original(self, offset: int) -> int:
        """The offset in the source of an offset in the normalised text."""
        return offset + bisect_left(self._shrunk, offset)

    def line_start(self, line: int) -> int:
        return self.original(self._lines[min(max(line, 1), len(self._lines)) - 1])

    def places(self, heads: Sequence[_Head]) -> Callable[[int, str], int]:
        """A function that gives where a word stands in a line, and its next place there at the next call."""
        found: dict[tuple[int, str], deque[int]] = defaultdict(deque)
        ends = iter([*heads, None])
        head = next(ends)
        for start, word in self.words:
            while head is not None and head.end <= start:
                head = next(ends)
            if head is None or start < head.start:
                found[bisect_left(self._lines, start + 1), word].append(start)

        def place(line: int, word: str) -> int:
            rest = found.get((line, word))
            return self.original(rest.popleft()) if rest else self.line_start(line)

        return place

    def syntax_error(self, error: Exception) -> JinjaSyntaxError:
        line = error.lineno if isinstance(error, TemplateSyntaxError) else 1
        return JinjaSyntaxError(
            [Problem(explain(error).rstrip("."), self.line_start(line or 1), _BLOCK_HINT)]
        )

    def rewritten(self, heads: Sequence[_Head]) -> str:
        """The text for Jinja2's parser, with made-up names for these heads; its lines stay."""
        pieces, at = [], 0
        for head in heads:
            newlines = self.normal.count("\n", head.start, head.end)
            pieces += [self.normal[at : head.start], head.name, "\n" * newlines]
            at = head.end
        return "".join([*pieces, self.normal[at:]])

    def _scan(self) -> None:
        opened: tuple[int, int] | None = None  # where a `{{` begins and ends
        for kind, start, value in self._tokens():
            if kind == "variable_begin":
                opened = start, start + len(value)
            elif kind == "variable_end" and opened is not None:
                self._add_head(opened, start, start + len(value))
                opened = None
            elif kind in ("name", "string"):
                self.words.append((start, value[1:-1] if kind == "string" else value))

    def _tokens(self) -> Iterator[tuple[str, int, str]]:
        """Kind, offset and text of each token.  The lexer leaves out white space that a `-` takes away."""
        at = 0
        for _, kind, value in _environment().pieces(self.normal):
            at = self.normal.index(value, at)
            yield kind, at, value
            at += len(value)

    def _add_head(self, opened: tuple[int, int], inner_end: int, end: int) -> None:
        start, inner = opened
        name = f"{self.prefix}{len(self.heads)}"
        whole = self.original(start), self.original(end)
        text = self.normal[inner:inner_end]
        quoted = PLACEHOLDER.fullmatch("{{" + text + "}}")
        if quoted and quoted["quote"]:
            self.heads.append(_Head(name=name, start=inner, end=inner_end, literal=quoted["literal"]))
            return
        match = _HEAD.match(text)
        if match:
            filters = tuple(part.strip() for part in match["filters"].split("|")[1:])
            ref = reference(tuple(match["names"].split(".")), read_path(match["path"]), filters, *whole)
            at = inner + match.start("ref"), inner + match.end("ref")
            self.heads.append(_Head(name=name, start=at[0], end=at[1], ref=ref))
