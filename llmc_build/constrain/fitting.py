"""Whether a name matches a pattern, in bounded time.  Pure.

Owns a matcher that no hostile pattern keeps busy: the recogniser of grammars, on the grammar of the pattern.
It says no where the pattern has none, or takes too long.
"""

from __future__ import annotations

import functools
import json

from llmc_build.constrain.gbnf import Grammar, read_grammar
from llmc_build.constrain.literals import COMMON
from llmc_build.constrain.pattern import string_grammar
from llmc_build.constrain.recognise import TooAmbiguous, recognises

_BUDGET = 5_000  # steps of the recogniser; some thousandths of a second
_LONGEST = 200  # characters of a name


def fits(pattern: str, name: str) -> bool:
    """Whether a name has a match of a pattern; False where that is not known."""
    grammar = _grammar(pattern) if len(name) <= _LONGEST else None
    if grammar is None:
        return False
    try:
        return recognises(grammar, json.dumps(name, ensure_ascii=False)[1:-1], _BUDGET)
    except TooAmbiguous:
        return False


@functools.lru_cache(maxsize=256)
def _grammar(pattern: str) -> Grammar | None:
    found = string_grammar(pattern)
    if found is None:
        return None
    rules = {"root": found[0], **found[1], **COMMON}
    return read_grammar("".join(f"{name} ::= {body}\n" for name, body in rules.items()))[0]
