"""What an answer must look like: JSON, a JSON Schema, or a grammar.  Pure.

Owns the check of schemas and grammars before anything runs (`check_schema`, `check_grammar`), the grammar
that steers a model towards a schema (`grammar_of`), and the verdict on an answer (`verdict`).  An *output*
is `{"kind": "json"}`, `{"kind": "schema", "schema": {...}}` or `{"kind": "grammar", "grammar": "..."}`, or
None for text without bounds.  How tokens are refused is `llm.sampler`.

A grammar steers and the verdict decides: what a schema says and no grammar can (uniqueItems, if, not, ...)
is checked on the finished answer, so an answer that is given conforms in full.  Schemas and grammars come
from anywhere; every check here ends in bounded time, and none fetches anything.

The parts are imported when they are used: the validator of JSON Schema takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmc_build.frozen import frozen

if TYPE_CHECKING:
    from llmc_build.model import Json

Output = Mapping[str, "Json"]


@frozen(kw_only=True)
class GrammarFault:
    """What is wrong with a grammar, and where."""

    line: int  # of the grammar's text, from 1
    column: int  # in code points, from 1
    message: str  # one line
    hint: str | None = None

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


@frozen(kw_only=True)
class SchemaFault:
    """What is wrong with a schema, and where in it."""

    path: tuple[str | int, ...]  # keys and indexes from the root of the schema
    message: str  # one line
    hint: str | None = None

    @property
    def pointer(self) -> str:
        """The place as a JSON pointer; `#` for the whole schema."""
        return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in self.path)

    def __str__(self) -> str:
        return f"{self.pointer}: {self.message}"


def check_grammar(text: str) -> list[GrammarFault]:
    """What is wrong with a GBNF grammar; an empty list where a model can be held to it."""
    from llmc_build.constrain.gbnf import read_grammar

    return read_grammar(text)[1]


def check_schema(schema: Json) -> list[SchemaFault]:
    """What is wrong with a JSON Schema; an empty list where answers can be checked against it."""
    from llmc_build.constrain.schema import faults_of

    return faults_of(schema)


def grammar_of(output: Output) -> str:
    """The GBNF grammar for an output that was checked.  What it admits is JSON, or of the given grammar."""
    if output["kind"] == "grammar":
        return str(output["grammar"])
    from llmc_build.constrain.steering import steer

    return steer(output.get("schema") if output["kind"] == "schema" else None)


def verdict(output: Output, text: str) -> str | None:
    """Why an answer is not what was asked for, in one line; None where it is.

    The time that it takes is not bounded where a schema has hostile patterns: see `llm.verdicts`.
    """
    from llmc_build.constrain import judge

    return judge.verdict(output, text)
