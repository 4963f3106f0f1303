"""Finds commands that a program is told to start by its arguments, which is not all that it does.  Pure.

Owns containers, `su` and unknown programs that are given an interpreter with its code.  Commands that do
nothing but run another are `options`' wrappers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from llmc_build.shellcode.known import COMMANDS, Command, Operands
from llmc_build.shellcode.options import Role, roles
from llmc_build.shellcode.table import HARMLESS, base_name
from llmc_build.shellcode.tree import Piece, Text, Word

HANDING = frozenset({"su", "runuser", "capsh"})  # give to a shell what stands behind `--`
_STARTING = frozenset({"--entrypoint", "--command"})  # options that name the program to start
_CONTAINERS = frozenset(
    {
        *("docker", "podman", "kubectl", "lxc", "bwrap", "entr", "runuser", "su", "start-stop-daemon"),
        *("vagrant", "docker-compose", "nerdctl", "gosu", "su-exec", "tini", "dumb-init", "sshpass", "op"),
        *("uv", "poetry", "pipenv", "pdm", "hatch", "conda", "mamba", "micromamba", "bundle", "direnv"),
        *("npx", "bunx", "pnpm", "yarn", "doppler"),
    }
)
_TEXT = HARMLESS | {
    "cat",
    "grep",
    "which",
    "type",
    "logger",
    "basename",
    "dirname",
}  # words of these are words


def interpreter_within(name: str, arguments: Sequence[Word]) -> int | None:
    """Where, among the arguments of a command that is not in the table, one begins that is given code.

    That of a container may also read its code from the input.
    """
    if name in _TEXT or (name in COMMANDS and name not in _CONTAINERS):
        return None
    for at, word in enumerate(arguments):
        known = COMMANDS.get(base_name(word.literal or "")) if word.literal not in (".", "source") else None
        if at and arguments[at - 1].literal in _STARTING:
            continue  # `entered` tells what is its own
        is_interpreter = known is not None and (known.shell or known.stdin or bool(known.code))
        if known and ((name in _CONTAINERS and is_interpreter) or _is_given_code(known, arguments[at + 1 :])):
            return at
    return None


def _is_given_code(known: Command, arguments: Sequence[Word]) -> bool:
    """Whether an interpreter gets its code by an option, before any operand."""
    for role, word in roles(known, arguments)[0]:
        if role is Role.CODE:
            return known.shell or known.operands is not Operands.ALL_CODE or word.prefix.startswith("-")
        if not word.prefix.startswith("-") and role is not Role.VALUE:
            return False
    return False


def given_to_shell(arguments: Sequence[Word]) -> Iterator[list[Word]]:
    """The shell that `su USER -- -c ...` starts with what stands behind the `--`."""
    for at, word in enumerate(arguments):
        if word.literal == "--":
            rest = list(arguments[at + 1 :])
            if rest and not rest[0].prefix.startswith("-"):
                rest.pop(0)  # the user
            yield [Word(pieces=(Text("sh", quoted=True),), start=word.start, end=word.end), *rest]
            return


def entered(arguments: Sequence[Word]) -> Iterator[tuple[Word, list[Word]]]:
    """The program that a container is told to start, and all that stands behind it."""
    for at, word in enumerate(arguments):
        option, joined, _ = word.prefix.partition("=")
        if option not in _STARTING:
            continue
        if joined:
            pieces = (Text(word.prefix.partition("=")[2], quoted=True), *_behind_text(word))
            yield Word(pieces=pieces, start=word.start, end=word.end), list(arguments[at + 1 :])
        elif at + 1 < len(arguments):
            yield arguments[at + 1], list(arguments[at + 2 :])


def code_behind(program: Word, arguments: Sequence[Word]) -> Iterator[list[Word]]:
    """From where an interpreter, whose own arguments begin somewhere among these, may be given code."""
    known = COMMANDS.get(base_name(program.literal or ""))
    for at, word in enumerate(arguments):
        if known and word.prefix.startswith("-") and _is_given_code(known, arguments[at:]):
            yield list(arguments[at:])
            return


def _behind_text(word: Word) -> Iterator[Piece]:
    """The pieces behind the literal text that a word begins with."""
    return itertools.dropwhile(lambda piece: isinstance(piece, Text), word.pieces)
