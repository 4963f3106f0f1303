"""From messages to the text that a model reads, by the model file's own chat template.

Owns what a chat template is given.  The template comes with the model and is not trusted: it runs in
`jinjabox` under limits.  It touches no clock either, so that the same messages are the same text on every
day.  Which of the text's characters become control tokens is `prompts`' business.

Templates are written for the way that Hugging Face's transformers renders them
(https://huggingface.co/docs/transformers/chat_templating_writing): blocks take their line's white space with
them, `{% break %}` and `{% continue %}` work, and there are `raise_exception`, `strftime_now` and a plain
`tojson`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import Extension
from jinja2.parser import Parser

from llmc_build.template.jinjabox import BoxedEnvironment, RenderError, explain, render
from llmc_build.template.jinjabudget import LIMITS, Limits

MAX_TEMPLATE = 256 * 1024  # characters; those of large models have 30,000

# What `strftime_now` answers: 26 July 2024, a Friday, the date that Llama's own templates fall back to.
# No date is right for a text that must be the same tomorrow; a template that asks gets one it knows.
_DATE = {
    "A": "Friday", "B": "July", "H": "00", "I": "12", "M": "00", "S": "00", "Y": "2024", "a": "Fri",
    "b": "Jul", "d": "26", "e": "26", "j": "208", "m": "07", "p": "AM", "y": "24", "F": "2024-07-26",
    "T": "00:00:00", "-d": "26", "-m": "7", "-H": "0", "-I": "12", "%": "%",
}  # fmt: skip


class ChatTemplateError(Exception):
    """The template can't be used, or refuses these messages.  One line."""


def render_chat(
    template: str,
    messages: Sequence[dict[str, str]],
    *,
    bos: str,
    eos: str,
    add_generation_prompt: bool = True,
    limits: Limits = LIMITS,
) -> str:
    """The text of a conversation, up to where the model's answer begins.

    `bos` and `eos` are the texts of the model's tokens of these names.  Raises ChatTemplateError.
    """
    variables = {
        "messages": [dict(message) for message in messages],
        "bos_token": bos,
        "eos_token": eos,
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
    }
    compiled = _compile(template)
    try:
        return render(compiled, variables, limits)
    except RenderError as error:
        line = f"line {error.line}: " if error.line else ""
        raise ChatTemplateError(f"{line}{error}") from error


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> Template:
    if len(template) > MAX_TEMPLATE:
        raise ChatTemplateError(f"it has {len(template)} characters, over the limit of {MAX_TEMPLATE}")
    environment = _environment()
    try:
        for _ in environment.pieces(template):
            pass  # only to know that there are not too many
        return environment.compile_tree(environment.parse(template))
    except Exception as error:
        line = getattr(error, "lineno", None)
        raise ChatTemplateError(f"line {line}: {explain(error)}" if line else explain(error)) from error


@functools.lru_cache(maxsize=1)
def _environment() -> BoxedEnvironment:
    return BoxedEnvironment(
        strict=False,
        globals={"raise_exception": _raise_exception, "strftime_now": _strftime_now},
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012  Jinja2's way to declare it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: object) -> str:
    raise TemplateRuntimeError(str(message))


def _strftime_now(form: str) -> str:
    def part(match: re.Match[str]) -> str:
        if match[1] not in _DATE:
            raise ValueError(f"strftime_now does not know {match[0]}")
        return _DATE[match[1]]

    return re.sub(r"%(-?.?)", part, str(form), flags=re.DOTALL)
