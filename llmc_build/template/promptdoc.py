"""Prompts: texts with placeholders, and with Jinja2 blocks where their author wants them.  Pure.

Owns what a prompt refers to and how values get into it.  The Jinja2 side of a prompt is `promptblocks`',
and is only loaded for prompts that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from llmc_build.filters import apply_filters
from llmc_build.frozen import frozen
from llmc_build.placeholder import (
    PromptError,
    Ref,
    Template,
    TemplateError,
    parse,
    refuse_path,
)

Values: TypeAlias = Callable[[Ref], bytes]


class _Body(Protocol):
    @property
    def refs(self) -> tuple[Ref, ...]: ...

    def render(self, texts: Callable[[Ref], str]) -> str: ...


@frozen(kw_only=True)
class Prompt:
    """A prompt ready for its values."""

    source: str
    body: _Body

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Every reference, in the order of the text; all are different, by their offsets if nothing else."""
        return self.body.refs

    def render(self, value: Values) -> str:
        """The text.  `value` gives the bytes of what a reference names.

        Values are text and never read as a template.  Raises PromptError.
        """
        return self.body.render(lambda ref: _text(ref, value))


def parse_prompt(source: str) -> Prompt:
    """Read a prompt.  Raises TemplateError with the problems found."""
    plain: _Plain | None = None
    problem: TemplateError | None = None
    try:
        plain = _Plain(parse(source))
    except TemplateError as error:
        problem = error
    if plain is not None and "{%" not in source and "{#" not in source:
        refused = refuse_path(plain.refs)
        if refused:
            raise TemplateError(refused)
        return Prompt(source=source, body=plain)

    from llmc_build.template.promptblocks import JinjaSyntaxError, parse_blocks

    try:
        return Prompt(source=source, body=parse_blocks(source))
    except JinjaSyntaxError:
        if problem is not None and "{%" not in source and "{#" not in source:
            raise problem from None  # nothing says that Jinja2 was meant
        raise


@frozen
class _Plain:
    """A prompt with placeholders and nothing else."""

    template: Template

    @property
    def refs(self) -> tuple[Ref, ...]:
        return self.template.refs

    def render(self, texts: Callable[[Ref], str]) -> str:
        return "".join(_pieces(self.template.parts, texts))


def _pieces(parts: Iterable[str | Ref], texts: Callable[[Ref], str]) -> Iterable[str]:
    return (part if isinstance(part, str) else texts(part) for part in parts)


def _text(ref: Ref, value: Values) -> str:
    try:
        return apply_filters(value(ref), ref.filters).decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the value of {ref.text} is not UTF-8 text (byte {error.start}), and a prompt is text"
        raise PromptError(message, ref) from None
    except ValueError as error:
        if isinstance(error, PromptError):
            raise
        raise PromptError(f"{{{{ {ref.text} }}}}: {error}", ref) from None
