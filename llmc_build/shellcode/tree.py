"""What a shell script is made of: words, commands and the places of values.  Pure data.

Owns the types that `word` and `scan` build and that `lint` and `shellcode` read.
Owns no parsing.  Offsets (`start`, `end`) count in the *scanned text*, in which every placeholder is
the one character `HOLE`; `shellcode` maps them back to the template.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TypeAlias

from llmc_build.frozen import frozen

HOLE = "\0"  # stands for a placeholder; a script can't hold a NUL otherwise
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PROBLEMS = 100  # of one script that are reported by each of those who look for them
# What a shell reads as a name or as a special parameter, for finding which variables a text mentions.
# Numbers, @ and * are parameters only behind a dollar sign: elsewhere they may be arithmetic.
_MENTION = re.compile(
    r"[A-Za-z_]\w*|(?<=\$)[0-9@*]|(?:(?<=\$\{)|(?<=\$\{[!#]))(?:[0-9]+|[@*])", re.ASCII
)  # $10 is $1 and a 0

# A number, whatever the variable or the array holds; another subscript may be calculated.
_LENGTH = re.compile(r"\$\{#(?:\w+|[@*])(?:\[(?:[0-9]+|[@*])\])?\}", re.ASCII)


class Context(enum.Enum):
    """The quoting around a placeholder; each has one form of expansion that is safe in it."""

    BARE = "bare"
    DOUBLE = "in double quotes"
    SINGLE = "in single quotes"
    BODY = "in a here-document"
    COMMENT = "in a comment"


@frozen(kw_only=True)
class Found:
    """Something that can't be accepted, at an offset of the scanned text."""

    message: str
    offset: int
    hint: str | None


@frozen(kw_only=True)
class Analysis:
    """What is known of a script that was read."""

    problems: tuple[Found, ...] = ()  # any: the script is refused, and the rest of this says nothing
    contexts: tuple[Context, ...] = ()  # of its placeholders, in order
    edits: tuple[tuple[int, int, str], ...] = ()  # (start, end, replacement) besides placeholders
    words: tuple[str, ...] = ()  # plain words that may be paths of files, relative to the workspace
    # Placeholders (their offsets, in order) that begin an argument of the command, which would take "-x" for
    # an option.
    dashes: tuple[tuple[int, str], ...] = ()


@frozen
class Text:
    """Literal characters, quotes removed."""

    text: str
    quoted: bool


@frozen
class Hole:
    """A placeholder."""

    offset: int


@frozen
class Expansion:
    """`$x`, `${...}`, `$((...))` or backquotes."""

    kind: str  # "parameter", "brace", "arithmetic", "backquote"; "fed" for what xargs adds
    text: str  # as written; in arithmetic with a 0 for each $(...)
    inner: tuple[Piece, ...] = ()  # expansions found inside
    split: bool = False  # it stands outside quotes, where the shell makes several words of it

    @property
    def mentions(self) -> frozenset[str]:
        """Every name in the text that could be a variable's; "@" is all parameters, "1" one."""
        return frozenset(map(_name, _MENTION.findall(_LENGTH.sub("", self.text))))


def _name(mentioned: str) -> str:
    """What stands for a variable or a parameter among the names."""
    if mentioned[0].isdigit():
        return mentioned.lstrip("0") or "0"
    return "@" if mentioned == "*" else mentioned


@frozen
class Sub:
    """Commands whose output (or a pipe to them) stands in the word: `$(...)`, `<(...)`."""

    body: Sequence_
    split: bool = False  # it stands outside quotes, where the shell makes several words of it


Piece: TypeAlias = "Text | Hole | Expansion | Sub"


@frozen(kw_only=True)
class Word:
    """One word as the shell reads it."""

    pieces: tuple[Piece, ...]
    start: int
    end: int

    @property
    def literal(self) -> str | None:
        """The word's text where nothing in it is expanded by a parameter or a command."""
        return self.prefix if all(isinstance(piece, Text) for piece in self.pieces) else None

    @property
    def spelled(self) -> str:
        """The word with its expansions as they are written, for what the shell calculates of it."""
        return "".join(piece.text if isinstance(piece, Text | Expansion) else "0" for piece in self.pieces)

    @property
    def prefix(self) -> str:
        """The literal text before the first expansion or placeholder."""
        out = []
        for piece in self.pieces:
            if not isinstance(piece, Text):
                break
            out.append(piece.text)
        return "".join(out)

    @property
    def unquoted(self) -> str:
        """The literal characters that stand outside quotes."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Text) and not piece.quoted)

    @property
    def holes(self) -> tuple[int, ...]:
        """Offsets of the placeholders that stand in the word itself, not in a `$(...)` of it."""
        return tuple(piece.offset for piece in self.pieces if isinstance(piece, Hole))


@dataclass(slots=True, kw_only=True)
class Redirect:
    """A redirection.  Not frozen: the body of a here-document is read lines after its operator."""

    operator: str
    word: Word  # the target, or the body of a here-document
    start: int
    stream: str = ""  # the number before the operator, "" where there is none

    @property
    def is_document(self) -> bool:
        return self.operator in ("<<", "<<-")


@frozen(kw_only=True)
class Document:
    """A here-document whose operator was read and whose body was not."""

    redirect: Redirect
    delimiter: str
    quoted: bool
    start: int  # of the delimiter as written
    end: int


@frozen(kw_only=True)
class Assignment:
    """`name=value`, `name[subscript]+=value` or `name=(element ...)`."""

    name: str
    subscript: str  # as written, "" where there is none
    values: tuple[Word, ...]
    start: int
    is_array: bool = False


@frozen(kw_only=True)
class Simple:
    """A simple command."""

    assignments: tuple[Assignment, ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]
    start: int
    joined: str = ""  # the `&&`, `||` or `&` behind the pipeline that it begins
    negated: bool = False  # whether that pipeline has a `!`


@frozen(kw_only=True)
class Compound:
    """`( )`, `{ }`, `if`, `while`, `until`, `for`, `select`, `case`, `[[ ]]`, `(( ))`, `coproc`."""

    kind: str  # the word or character that opens it
    head: tuple[Word, ...] = ()  # words of `for`, subject of `case`, words and operators of `[[ ]]`
    patterns: tuple[Word, ...] = ()  # of `case`
    firsts: int = 0  # how many of these are the first branch's, where that goes on to no other
    variable: str | None = None  # of `for` and `select`
    bodies: tuple[Sequence_, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    start: int
    joined: str = ""  # as of a simple command
    negated: bool = False


@frozen(kw_only=True)
class Function:
    name: str
    body: Node
    start: int


Node: TypeAlias = "Simple | Compound | Function"
Pipeline: TypeAlias = "tuple[Node, ...]"
Sequence_: TypeAlias = "tuple[Pipeline, ...]"
