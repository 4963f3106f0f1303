"""What there is to know of a script: the contexts of its placeholders, its faults, its words.  Pure.

Owns the way there: `plain` where it is certain, else `scan` and `lint`; and the memory of scripts that differ
only in the names of what they refer to.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from llmc_build.shellcode.plain import NO_PATH, plain, relative
from llmc_build.shellcode.tree import HOLE, Analysis, Expansion, Word

if TYPE_CHECKING:
    from llmc_build.shellcode.scan import Scanner

_CUT = re.compile(r"[\s;&|<>()'\"`$\\{}=]+")


# Korn shells calculate the operands of [ -eq ], which runs what a value says; no other sh does.
GUARD = (
    "case ${KSH_VERSION-}${POSH_VERSION-} in ?*) echo 'llmc: this sh calculates with values: use another, "
    "or bash' >&2; exit 125;; esac; "
)
_SHORT = 4096  # characters of a script that is remembered


def analyse(text: str, shell: str, paths: frozenset[int]) -> Analysis:
    """Read a script with HOLE for each placeholder; `paths`: offsets of those with the filter `path`."""
    return _remembered(text, shell, paths) if len(text) <= _SHORT else _analyse(text, shell, paths)


def _analyse(text: str, shell: str, paths: frozenset[int]) -> Analysis:
    return plain(text, paths) or in_full(text, shell, paths)


_remembered = functools.lru_cache(maxsize=1024)(_analyse)


def in_full(text: str, shell: str, paths: frozenset[int]) -> Analysis:
    """Read a script whatever it consists of."""
    from llmc_build.shellcode.lint import Lint  # most scripts are plain, and this takes long to import
    from llmc_build.shellcode.scan import scan

    scanner, tree = scan(text, shell=shell)
    if HOLE not in text:
        return Analysis(words=_words(scanner))
    lint = Lint(paths, shell=shell)
    if scanner.complete:
        lint.check(tree)
    if scanner.found or lint.found:
        return Analysis(problems=(*scanner.found, *lint.found.values()))
    guard = ((0, 0, GUARD),) if lint.calculates else ()
    return Analysis(
        contexts=tuple(context for _, context in sorted(scanner.contexts.items())),
        edits=(*guard, *scanner.edits),
        words=_words(scanner),
        dashes=tuple(sorted(lint.dashes.items())),
    )


# ---------------------------------------------------------------- words that may be files


def _words(scanner: Scanner) -> tuple[str, ...]:
    """Relative paths among the plain words, in order.  Too many do no harm: only existing files count."""
    found: list[str] = []
    for word in sorted(scanner.words, key=lambda word: word.start):
        found += _paths(word, names_command=word.start in scanner.command_words)
    if not scanner.complete:
        found += [path for text in _CUT.split(scanner.text[scanner.pos :]) if (path := relative(text))]
    return tuple(dict.fromkeys(found))


def _paths(word: Word, *, names_command: bool) -> list[str]:
    text = word.literal
    if text is None:
        from llmc_build.shellcode.scan import scan

        inner = [
            piece.text[1:-1]
            for piece in word.pieces
            if isinstance(piece, Expansion) and piece.kind == "backquote"
        ]
        return [path for code in inner for path in _words(scan(code.replace(HOLE, ""), shell="sh")[0])]
    if (names_command and "/" not in text) or NO_PATH.search(word.unquoted):
        return []
    path = relative(text)
    return [path] if path else []
