"""Tells which commands print numbers, whatever they are given.  Pure.

`n=$(grep -c a {{ x | path }})` is a number, and `$((n + 1))` is safe with it.  Where a value could be
taken for an option, the output could be anything: only words whose first character is known, or looked at
when the script runs, are no options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from llmc_build.shellcode import table
from llmc_build.shellcode.content import Content
from llmc_build.shellcode.tree import Word


class Judge(Protocol):
    """What is known of words."""

    def word(self, word: Word) -> bool: ...

    def contents_of(self, words: Iterable[Word]) -> Content: ...

    def only_paths(self, word: Word) -> bool: ...


_OPERATORS = frozenset({"+", "-", "*", "/", "%", "length", "index"})
_NUMBER_FORMAT = re.compile(r"(?:[0-9 \t:]|\\n|%[0-9]*[diu]|%[0-9]*(?:\.[0-9]+)?f)*")
_DIGITS_KEPT = re.compile(r"(?:0-9|[0-9]|\[:digit:\]|\[0-9\]|\\n|[ \n])+")
_DELETING = re.compile(r"-(?:cd|dc|Cd|dC)\Z")
_DIGITS_FOUND = re.compile(
    r"\^?-?(?:\[0-9\]|\[\[:digit:\]\]|\\d|[0-9])(?:[0-9]|\[0-9\]|\\?[+*?]|\\?\{[0-9,]*\\?\})*\$?"
)


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands that read no input, and print nothing of the files that they are given.
_DEAF = _set(
    "basename date dirname echo expr hostname id mktemp nproc printf pwd seq stat uname uuidgen whoami"
)
# Options that take a value, or two.
_TAKING: dict[str, dict[str, int]] = {
    "stat": {"-c": 1},
    "date": dict.fromkeys(("-d", "--date", "-r", "--reference", "-f", "--file"), 1),
    "jq": dict.fromkeys(("--arg", "--argjson", "--rawfile", "--slurpfile"), 2),
    "curl": dict.fromkeys(
        _set(
            "-o --output -so -sSo -w --write-out -sw -d --data --data-binary --data-raw --data-urlencode"
            " --json -X --request -H --header -m --max-time --connect-timeout --retry -A -F --form -u"
        ),
        1,
    ),
}
_STAT_FORMAT = re.compile(r"(?:[0-9 \n]|\\n|%[sbBahiduogXYZW])+")
_STAT_FORMATS = {"-f%z": "%s", "-L": "", "--dereference": "", "--": ""}  # the first: on the BSDs
_JQ_NUMBER = re.compile(r"(?:[^#]*\|)?\s*(?:length|utf8bytelength|tonumber|floor|round|ceil)\s*")
_JQ_DEFINES = re.compile(r"\b(?:def|import|include)\b")
_JQ_FLAG = re.compile(r"-[cejnrsRS]+|--(?:raw-output|slurp|compact-output|null-input|exit-status|raw-input)")
_AWK_NUMBER = re.compile(
    r"\s*END\s*\{\s*print\s+NR\s*;?\s*\}\s*"
    r"|\s*(?:/[^/\\{}\"']*/)?\s*\{\s*([a-z]\w*)(?:\+\+|\s*\+=\s*[\w$]+)\s*;?\s*\}"
    r"\s*END\s*\{\s*print\s+\1\s*(?:\+\s*0)?\s*;?\s*\}\s*"
)
_SED_DIGITS = re.compile(r"s(.)\[\^(?:0-9|\[:digit:\])\](?:\*|\+|\\\+)?\1\1g")
_CURL_NUMBERS = re.compile(
    r"(?:[0-9 :\n]|\\n|%\{(?:http_code|response_code|size_\w+|time_\w+|speed_\w+|num_\w+)\})+"
)
_CURL_FLAG = re.compile(r"-[sSLfkGg46]+|--(?:silent|show-error|location|fail|insecure|compressed|get)")


def is_clean(name: str, arguments: Sequence[Word], tainted: Sequence[Word], known: Judge) -> bool:
    """Whether a command with these arguments prints nothing but numbers, or nothing of a value.

    `tainted`: those of the arguments that hold a value.
    """
    if name in _DEAF and not tainted:
        return True
    if name in table.COUNTING or name == "du":
        return bool(tainted) and not known.contents_of(tainted).value
    literals = [word.literal for word in arguments]
    match name:
        case "seq":
            return not any(text and text.startswith(("-f", "-s", "--f", "--s")) for text in literals) and (
                not known.contents_of(_first_operand(arguments)).unknown
            )
        case "expr":
            return len(arguments) > 1 and any(text in _OPERATORS for text in literals)
        case "printf":
            return bool(literals) and _NUMBER_FORMAT.fullmatch(literals[0] or "%s") is not None
        case "tr":
            texts = [text or "" for text in literals]
            texts = ["-cd", *texts[2:]] if set(texts[:2]) == {"-c", "-d"} else texts
            return len(texts) == 2 and bool(_DELETING.match(texts[0]) and _DIGITS_KEPT.fullmatch(texts[1]))
        case "grep" | "egrep" | "fgrep":
            return _counts(arguments, tainted, known)
        case "stat" | "date" | "jq" | "curl" | "sed" | "awk" | "gawk" | "mawk" | "nawk":
            return _prints_numbers(name, _Parted(name, arguments), known)
    return False


def _first_operand(arguments: Sequence[Word]) -> list[Word]:
    """The first word that a command may take for an option although it was meant for an operand."""
    for word in arguments:
        if word.literal == "--":
            return []
        if not (word.literal or "").startswith("-"):
            return [word]
    return []


class _Parted:
    """Arguments: options with their values, and the rest."""

    def __init__(self, name: str, arguments: Sequence[Word]) -> None:
        self.options: list[str] = []
        self.values: list[tuple[str, Word]] = []
        self.operands: list[Word] = []
        self.ended = False  # by `--`
        taking = ""
        skipped = 0
        for word in arguments:
            if skipped:
                skipped -= 1
                self.values.append((taking, word))
            elif self.ended or not word.prefix.startswith("-") or word.literal == "-":
                self.operands.append(word)
            elif word.literal == "--":
                self.ended = True
            elif word.literal is None:  # --date="$y"; where a value is part of the name, it is no known one
                taking, joined, _ = word.prefix.partition("=")
                self.options.append(taking if joined else "-?")
                self.values.append((taking, word))
            else:
                taking = word.literal
                skipped = _TAKING.get(name, {}).get(taking, 0)
                self.options.append(taking)

    def settled(self, known: Judge) -> bool:
        """Whether no value can be an option, or become several words."""
        values = [word for _, word in self.values]
        split = any(getattr(piece, "split", False) for word in values for piece in word.pieces)
        if split and known.contents_of(values).value:
            return False
        return self.ended or not known.contents_of(self.operands).unknown

    def of(self, *options: str) -> list[Word]:
        """The values of some options."""
        return [word for option, word in self.values if option in options]


def _prints_numbers(name: str, parted: _Parted, known: Judge) -> bool:
    """Whether a program, or a format, prints numbers alone."""
    if not parted.settled(known):
        return False
    if name == "stat":
        return _stats(parted)
    if name == "date":  # prints nothing of the date that it is given; an operand would be a format
        fixed = all(
            option in _TAKING[name] or re.fullmatch(r"-[uR]|--utc", option) for option in parted.options
        )
        return fixed and not any(map(known.word, parted.operands))
    if name == "curl":
        return _curl(parted, known)
    program = parted.operands[0].literal if parted.operands else None
    options = set(parted.options)
    if program is None:
        return False
    if name == "jq":
        flags = all(option in _TAKING[name] or _JQ_FLAG.fullmatch(option) for option in options)
        return flags and _JQ_NUMBER.fullmatch(program) is not None and not _JQ_DEFINES.search(program)
    if name == "sed":
        if program in ("$=", "="):
            return options == {"-n"}
        return options <= {"-E", "-r"} and _SED_DIGITS.fullmatch(program) is not None
    # Among the files, a value could be an assignment: NR=..., or OFMT=..., in which numbers are printed.
    alone = all(len(option) == 3 and option.startswith("-F") for option in options)
    return (
        alone and _AWK_NUMBER.fullmatch(program) is not None and not known.contents_of(parted.operands).value
    )


def _stats(parted: _Parted) -> bool:
    """`stat -c %s FILE`."""
    formats = [word.literal or "%n" for word in parted.of("-c")]
    for option in parted.options:
        if option.startswith(("--format=", "--printf=")):
            formats.append(option.partition("=")[2])
        elif option != "-c":
            formats.append(option[2:] if option.startswith("-c") else _STAT_FORMATS.get(option, "%n"))
    return _STAT_FORMAT.fullmatch("".join(formats)) is not None


def _curl(parted: _Parted, known: Judge) -> bool:
    """`curl -o FILE -w '%{http_code}' URL`: what it prints is what -w says."""
    written = parted.of("-o", "--output", "-so", "-sSo")
    told = parted.of("-w", "--write-out", "-sw")
    return (
        all(option in _TAKING["curl"] or _CURL_FLAG.fullmatch(option) for option in parted.options)
        and len(parted.operands) == len(written) == len(told) == 1
        and not known.word(written[0])
        and written[0].literal not in ("-", "/dev/stdout", "/dev/stderr")
        and _CURL_NUMBERS.fullmatch(told[0].literal or "") is not None
    )


def _counts(arguments: Sequence[Word], tainted: Sequence[Word], known: Judge) -> bool:
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
        and all(map(known.only_paths, tainted))
    )


def _is_short(text: str) -> bool:
    return text.startswith("-") and not text.startswith("--")
