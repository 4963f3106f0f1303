"""How an error is told on standard error, and the exit code it gives.

Owns the wording of usage errors and of internal ones; a `LlmcError` brings its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

import click

from llmc_build.cli import Session
from llmc_build.errors import EXIT_INTERNAL, EXIT_STORE, EXIT_USAGE, Fault, LlmcError, did_you_mean
from llmc_build.report import words
from llmc_build.report.console import choose_look


def tell(error: Exception, session: Session) -> int:
    """Prints `error`; only a bug in llmc, or `-v -v`, shows a traceback."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    faults, code = _faults(error, session)
    look = choose_look(sys.stderr, os.environ, color=session.color)
    paint = words.ansi if look.color else words.plain
    for fault in faults:
        text = words.printable(fault.render())
        _write(f"{paint('error:', 'red')} {words.github_inert(text) if look.github else text}\n")
        if look.github and fault.location:
            at = fault.location
            message = words.printable(fault.headline)
            _write(words.github_error(message, file=at.file, line=at.line, title="llmc") + "\n")
    if session.verbose >= 2:
        _write(words.printable("".join(traceback.format_exception(error))))
    return code


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to read it; the exit code still tells
        sys.stderr.write(text)


def _faults(error: Exception, session: Session) -> tuple[Sequence[Fault], int]:
    if isinstance(error, LlmcError):
        return sorted(error.faults, key=_place), error.exit_code
    if isinstance(error, click.ClickException):
        return (_usage(error, session),), EXIT_USAGE
    refused = _refused(error)
    if refused is not None:
        return (Fault(headline=refused, hint="where it happened: the same command with -v -v"),), EXIT_STORE
    return (_internal(error),), EXIT_INTERNAL


def _place(fault: Fault) -> tuple[str, int, int]:
    at = fault.location
    return (at.file, at.line, at.column) if at else ("", 0, 0)


_WORDING = {"a valid integer range": "a whole number", "a valid float range": "a number"}


def _usage(error: click.ClickException, session: Session) -> Fault:
    """A wrong command line, in the form of every other error."""
    hint = f"{session.command} --help"
    headline = error.format_message().strip().rstrip(".")
    for its, ours in _WORDING.items():
        headline = headline.replace(its, ours)
    if isinstance(error, click.NoSuchOption):
        headline = f"there is no option {error.option_name}"
        if session.command == "llmc":  # no command was read yet
            hint = f"options stand behind the command, as in llmc build {error.option_name}; see {hint}"
        hint = did_you_mean(error.option_name, error.possibilities or ()) or hint
    return Fault(headline=headline[:1].lower() + headline[1:], hint=hint)


def _refused(error: BaseException | None) -> str | None:
    """What the machine would not do, in a line; None where it is llmc's own mistake.

    A module that can't be found is missing, or its disk does not answer: both are the machine's.
    """
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, ImportError):
        why = _refused(error.__cause__ or error.__context__) or str(error)
        return f"a part of llmc can't be loaded: {why}"
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        # A package whose folder was found and whose first file was not is one without anything in it.
        empty = getattr(error.obj, "__file__", None) is None
        return f"a part of llmc can't be loaded: {error.obj.__name__}" if empty else None
    return None


def _internal(error: Exception) -> Fault:
    return Fault(
        headline=f"internal error: {type(error).__name__}: {error}",
        hint=f"this is a bug in llmc; please report it {_tracker()}, "
        "with what the same command prints when -v -v is added",
    )


def _tracker() -> str:
    try:
        from importlib import metadata

        urls = metadata.metadata("llmc_build").get_all("Project-URL") or []
    except (ImportError, OSError):  # it is not installed, or the disk gives nothing any more
        urls = []
    for entry in urls:
        label, _, url = entry.partition(", ")
        if label.lower() in ("issues", "bug tracker", "tracker"):
            return f"at {url}"
    return "to whoever you have llmc from"
