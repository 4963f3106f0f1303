"""Tells which commands print numbers, whatever they are given.  Pure.

`n=$(grep -c a {{ x | path }})` is a number, and `$((n + 1))` is safe with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llmc_build.shellcode.tree import Word

_OPERATORS = frozenset({"+", "-", "*", "/", "%", "length", "index"})
_NUMBER_FORMAT = re.compile(r"(?:[0-9 \t:]|\\n|%[0-9]*[diu])*")
_DIGITS_KEPT = re.compile(r"(?:0-9|[0-9]|\[:digit:\]|\[0-9\]|\\n|[ \n])+")
_DELETING = re.compile(r"-(?:cd|dc|Cd|dC)\Z")
_DIGITS_FOUND = re.compile(
    r"\^?-?(?:\[0-9\]|\[\[:digit:\]\]|\\d|[0-9])(?:[0-9]|\[0-9\]|\\?[+*?]|\\?\{[0-9,]*\\?\})*\$?"
)


def is_clean(
    name: str, arguments: Sequence[Word], tainted: Sequence[Word], only_paths: Callable[[Word], bool]
) -> bool:
    """Whether a command with these arguments prints nothing but numbers, or nothing.

    `tainted`: those of the arguments that hold a value.
    """
    literals = [word.literal for word in arguments]
    match name:
        case "seq":
            return not any(text and text.startswith(("-f", "-s", "--f", "--s")) for text in literals)
        case "expr":
            return len(arguments) > 1 and any(text in _OPERATORS for text in literals)
        case "printf":
            return bool(literals) and _NUMBER_FORMAT.fullmatch(literals[0] or "%s") is not None
        case "tr":
            texts = [text or "" for text in literals]
            return len(texts) == 2 and bool(_DELETING.match(texts[0]) and _DIGITS_KEPT.fullmatch(texts[1]))
        case "grep" | "egrep" | "fgrep":
            return _counts(arguments, tainted, only_paths)
    return False


def _counts(arguments: Sequence[Word], tainted: Sequence[Word], only_paths: Callable[[Word], bool]) -> bool:
    """`grep -c` and `grep -q` on one file, and `grep -o` of digits."""
    options = "".join((word.literal or "").partition("=")[0] for word in arguments if _is_short(word.prefix))
    operands = [word for word in arguments if not word.prefix.startswith("-")]
    if "-q" in options or "q" in options:
        return True
    if "c" in options and not set(options) & set("rRHo"):
        files = len(operands) - (0 if "e" in options or "f" in options else 1)
        return files <= 1 + ("e" in options)
    pattern = (operands[0].literal or "") if operands else ""
    return (
        "o" in options
        and not tainted[1:]
        and bool(_DIGITS_FOUND.fullmatch(pattern))
        and all(map(only_paths, tainted))
    )


def _is_short(text: str) -> bool:
    return text.startswith("-") and not text.startswith("--")
