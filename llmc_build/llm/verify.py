"""Whether an answer is what its step asks for.  Pure.

Owns the check of answers that somebody else constrained, or did not.  Checking of schemas themselves is
`workflow.schemas`; a model on this machine is held to them while it answers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, cast

from llmc_build.model import Json

_SHOWN = 200  # characters of a message


def why_wrong(text: str, output: Json) -> str | None:
    """What of an answer is not as `output` (the parameter of an action) says; None: it conforms.  One line.

    A grammar is not checked: a server that has the field holds to it, and no other can be known.
    """
    if not isinstance(output, dict) or output.get("kind") not in ("schema", "json"):
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:
        return f"it is not JSON: {_short(str(error))}"
    schema = output.get("schema")
    if schema is None:
        return None
    try:
        wrong = next(_errors(json.dumps(schema, sort_keys=True))(value), None)
    except RecursionError:
        return "it is nested too deeply"
    if wrong is None:
        return None
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in wrong.absolute_path)
    return f"by its schema {'it' if not place else 'its value' + place} is wrong: {_short(wrong.message)}"


def _no_constant(word: str) -> None:
    raise ValueError(f"it holds {word}")


@functools.lru_cache(maxsize=64)
def _errors(schema: str) -> Callable[[Any], Any]:
    """The errors of a value by a schema.  Nothing is ever fetched for a reference."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    found = json.loads(schema)
    kind = cast(Any, validator_for(found, default=Draft202012Validator))
    return cast("Callable[[Any], Any]", kind(found, registry=Registry()).iter_errors)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."
