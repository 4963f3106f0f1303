"""Reads scripts of plain simple commands at once.  Pure.

Most scripts are a few simple commands of plain words and quoted text, in which there is nothing to follow: no
expansion but that of a variable, no assignment, no command that parses an argument again.  For those, one
pass of one regular expression gives what `scan` and `lint` would find out.  Whatever is not certain is left
to them: `plain` gives None then, and never a problem.

Owns the recognition only: each rule here is one of `scan` or `lint`, and a test compares the two over random
scripts.
"""

from __future__ import annotations

import functools
import re
from itertools import pairwise, takewhile
from typing import NamedTuple

from llmc_build.shellcode.known import COMMANDS, SUBCOMMANDS
from llmc_build.shellcode.table import COPYING, HARMLESS, WRAPPERS, base_name
from llmc_build.shellcode.tree import HOLE, Analysis, Context

_DOLLAR = r"\$(?:[A-Za-z_][A-Za-z0-9_]*+|[0-9@*#?!-])"
_TOKEN = re.compile(
    rf"""
    (?: [ \t]++ (?: \\\n [ \t]*+ )*+ )?+
    (?: (?P<redirect> [0-9]*+ (?: >> | >& | > | < ) )
      | \# [^\n\0]*+ (?= \n | \Z )
      | (?P<bare> (?!\#) [^ \t\n;&|<>()\\'"`$\0]++ ) (?= [ \t\n;&|<>] | \Z )
      | (?P<word> (?!\#)
          (?: [^ \t\n;&|<>()\\'"`$\0]++
            | \0
            | " (?: [^"\\`$]++ | \\[^\n\0] | {_DOLLAR} )*+ "
            | ' [^']*+ '
            | {_DOLLAR}
          )++
        ) (?= [ \t\n;&|<>] | \Z )
      | (?P<operator> && | \|\|?+ )
      | (?P<end> [;&\n] )
      | \Z
    )""",
    re.VERBOSE,
)
_PIECE = re.compile(r"""(?P<bare>[^'"]++)|"(?P<double>(?:[^"\\]++|\\.)*+)"|'(?P<single>[^']*+)'""", re.DOTALL)
_CONTEXTS = {"bare": Context.BARE, "double": Context.DOUBLE, "single": Context.SINGLE}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_RESERVED = frozenset(
    {
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "for",
        "select",
        "while",
        "until",
        "do",
        "done",
        "case",
        "in",
        "esac",
    }
    | {"function", "coproc", "time", "[[", "]]", "!", "{", "}"}
)
# Commands that `lint` follows by more than the table of commands.
_FOLLOWED = frozenset(
    {"alias", "set", "declare", "typeset", "local", "export", "readonly", "find", "shift", "ulimit"}
    | {"capsh", "docker", "docker-compose", "flatpak", "nerdctl", "podman"}
)
_WRITING = COPYING | {"tee", "dd"}
_TESTS = frozenset({"-v", "-R", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-t"})  # that shells evaluate
_NUMBERED = tuple("0123456789.")
NO_PATH = re.compile(r"[*?\[{]|^~")
_FILE_CHARACTERS = re.compile(r"[^\x00-\x1f\x7f]+")


class _Word(NamedTuple):
    start: int
    written: str
    literal: str | None  # None where a variable or a placeholder is part of it
    unquoted: str = ""  # what of the literal stands outside quotes
    leading: tuple[int, ...] = ()  # offsets of the placeholders that it begins with
    holes: bool = False


def plain(text: str, paths: frozenset[int]) -> Analysis | None:
    """A script read at once; None where that would not be certain to be right.

    `paths`: offsets of the placeholders with the filter `path`.
    """
    contexts: list[Context] = []
    parts = _commands(text, contexts)
    if parts is None:
        return None
    commands, opened = parts
    dashes: dict[int, str] = {}
    if contexts:
        names = [command[0].literal or "" for command in commands]
        if any("/" in name for name in names) and (">" in text or not _WRITING.isdisjoint(names)):
            return None  # it might run what it writes
        for command in commands:
            if not _judge(command, paths, dashes):
                return None
    words = [word for command in commands for word in command[1:] if word.literal]
    words += [command[0] for command in commands if "/" in (command[0].literal or "")]
    words += opened
    words.sort()
    found = [path for word in words if (path := _path(word))]
    return Analysis(contexts=tuple(contexts), words=tuple(dict.fromkeys(found)), dashes=tuple(dashes.items()))


def _commands(text: str, contexts: list[Context]) -> tuple[list[list[_Word]], list[_Word]] | None:
    """The words of each command, and the files that are opened to be read."""
    commands: list[list[_Word]] = []
    opened: list[_Word] = []
    current: list[_Word] = []  # the command being read
    missing = False  # a command must follow
    target = ""  # the redirection whose file must follow
    at, size = 0, len(text)
    while at < size:
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        kind = token.lastgroup
        if kind == "bare" or kind == "word":
            start, written = token.start(kind), token[kind]
            word = (
                _Word(start, written, written, written) if kind == "bare" else _read(start, written, contexts)
            )
            if target:
                if word.holes:
                    return None
                if target == "<":
                    opened.append(word)
                target = ""
            elif current:
                current.append(word)
            elif written in _RESERVED or "=" in written or ("[" in written and written != "["):
                return None
            else:
                current.append(word)
                commands.append(current)
                missing = False
        elif target:
            return None
        elif kind == "redirect":
            if not current:
                return None
            target = token[kind].lstrip("0123456789")
        elif kind is not None:
            if not current and token[kind] != "\n":
                return None
            missing = kind == "operator" or (missing and not current)
            current = []
    return None if missing or target else (commands, opened)


def _read(start: int, written: str, contexts: list[Context]) -> _Word:
    """A word with quotes, variables or placeholders."""
    literal: list[str] = []
    unquoted: list[str] = []
    leading: list[int] = []
    begins = True  # nothing but placeholders so far
    holes = expands = False
    for piece in _PIECE.finditer(written):
        kind = piece.lastgroup or ""
        body = piece[kind]
        if HOLE in body:
            holes = True
            contexts += [_CONTEXTS[kind]] * body.count(HOLE)
            if begins:
                first = start + piece.start(kind)
                leading += range(first, first + len(body) - len(body.lstrip(HOLE)))
        begins = begins and not body.strip(HOLE)
        if kind == "double" and "\\" in body:
            expands = expands or "$" in _ESCAPED.sub("", body)
            body = _ESCAPED.sub(r"\1", body)
        elif kind != "single":
            expands = expands or "$" in body
        literal.append(body)
        if kind == "bare":
            unquoted.append(body)
    fixed = None if holes or expands else "".join(literal)
    return _Word(start, written, fixed, "".join(unquoted), tuple(leading), holes)


def _judge(command: list[_Word], paths: frozenset[int], dashes: dict[int, str]) -> bool:
    """Whether it is certain that no argument is code; notes those that could be taken for options."""
    name = command[0].literal
    if name is None or not _takes_data(name):
        return False
    name = base_name(name)
    arguments = command[1:]
    if name in ("[", "test") and any(a.holes and b.holes for a, b in pairwise(arguments)):
        return False
    for word in arguments:
        if word.literal is None:
            if word.holes and "{" in word.unquoted:
                return False
        elif word.literal in _TESTS or _names_interpreter(word.literal):
            return False
    if name == "printf":
        first = arguments[:1]
        return not any(word.holes for word in first) and not any(map(_is_option, arguments))
    if name not in HARMLESS:
        for word in takewhile(lambda word: word.literal != "--", arguments):
            dashes |= dict.fromkeys(takewhile(lambda hole: hole not in paths, word.leading), name)
    return True


@functools.lru_cache(maxsize=1024)
def _takes_data(command: str) -> bool:
    """Whether a command takes its arguments as data, as far as anybody knows."""
    name = base_name(command)
    return name == "printf" or not (
        name in COMMANDS or name in SUBCOMMANDS or name in WRAPPERS or name in _FOLLOWED
    )


def _names_interpreter(argument: str) -> bool:
    name = argument.rsplit("/", 1)[-1]
    return name in COMMANDS or (name.endswith(_NUMBERED) and base_name(name) in COMMANDS)


def _is_option(word: _Word) -> bool:
    return word.written.lstrip("\"'\\").startswith(("-", "+"))


# ---------------------------------------------------------------- words that may be files


def _path(word: _Word) -> str | None:
    if word.literal is None or NO_PATH.search(word.unquoted):
        return None
    return relative(word.literal)


def relative(text: str) -> str | None:
    """A word as a path below the workspace, without `.` and doubled slashes; None where it can't be one."""
    if text.startswith(("-", "/")) or not _FILE_CHARACTERS.fullmatch(text):
        return None
    if "/" not in text and text not in (".", ".."):
        return text
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return "/".join(parts) if parts and ".." not in parts else None
