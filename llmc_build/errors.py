"""The error tree, the faults that errors carry, and the exit codes.  Pure.

    LlmcError                       every error that llmc itself raises, with its exit code
    ├── UserError           (2)     something the user wrote, said or configured
    │   ├── WorkflowError           faults found in workflow files, all of them together
    │   ├── ConfigError             llmc.yaml, the environment, options
    │   └── UsageError              a command line that can't be served
    ├── NoSuchTarget        (4)     a pattern that matches nothing
    ├── StoreError          (8)     the store or the workspace can't be locked, read or written
    └── InternalError       (37)    a bug in llmc

A step that fails is not an exception: it is a result (`model.Outcome`) that the plan handles.
The text of a fault is made in one place, `Fault.render`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from llmc_build.frozen import frozen
from llmc_build.model import Location

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ASSERTION = 3
EXIT_NO_TARGET = 4
EXIT_OFFLINE = 5
EXIT_STORE = 8
EXIT_INTERNAL = 37
EXIT_INTERRUPTED = 130  # by SIGINT


def exit_code_of_signal(number: int) -> int:
    """What a shell reports of a program that a signal ended: 130, 143; 129 where the terminal was closed."""
    return 128 + number


class Interrupted(KeyboardInterrupt):
    """The user asked for the end, and nothing is left to be done but to end."""

    def __init__(self, exit_code: int = EXIT_INTERRUPTED) -> None:
        super().__init__("interrupted")
        self.exit_code = exit_code


@frozen(kw_only=True)
class Fault:
    """One mistake: a headline with its place, aligned facts, and a hint."""

    headline: str
    location: Location | None = None
    facts: tuple[tuple[str, str], ...] = ()  # (label, text), shown aligned below the headline
    hint: str | None = None

    def render(self) -> str:
        """The text shown to the user, without a trailing newline."""
        place = f"{self.location}: " if self.location else ""
        lines = [f"{place}{self.headline}"]
        width = max((len(label) for label, _ in self.facts), default=0)
        lines += [f"    {label + ':':<{width + 1}} {text}" for label, text in self.facts]
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class LlmcError(Exception):
    """Base of every error that llmc raises on purpose."""

    exit_code = EXIT_INTERNAL

    def __init__(self, faults: Fault | str | Iterable[Fault], *, hint: str | None = None) -> None:
        if isinstance(faults, str):
            faults = Fault(headline=faults, hint=hint)
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__(self.render())

    def render(self) -> str:
        """Every fault, in the order of their places."""
        return "\n".join(fault.render() for fault in sorted(self.faults, key=_place))


class UserError(LlmcError):
    exit_code = EXIT_USAGE


class WorkflowError(UserError):
    """Faults in workflow files; every fault of all files is carried together."""


class ConfigError(UserError):
    """llmc.yaml, an environment variable or an option has a value that can't be used."""


class UsageError(UserError):
    """The command line asks for something that can't be served."""


class NoSuchTarget(LlmcError):
    exit_code = EXIT_NO_TARGET


class StoreError(LlmcError):
    exit_code = EXIT_STORE


class InternalError(LlmcError):
    exit_code = EXIT_INTERNAL


def _place(fault: Fault) -> tuple[str, int, int]:
    at = fault.location
    return (at.file, at.line, at.column) if at else ("", 0, 0)


def did_you_mean(wrong: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word nearest to `wrong`, or None where nothing is near.

    A word that differs only in case is always near.
    """
    words: Sequence[str] = list(dict.fromkeys(known))
    for word in words:
        if word.casefold() == wrong.casefold() and word != wrong:
            return f'did you mean "{word}"? (names are case-sensitive)'
    near = difflib.get_close_matches(wrong, words, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else None
