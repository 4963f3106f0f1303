"""The `llmc` command: what the commands are, and how every error leaves the program.

Owns the group, the table of commands and `main`.  What a command does is in `cmd_*`, one small file
each, which is imported when that command is called: `llmc --help` and `llmc --version` import click
and nothing else.  No decision about a build is made in this package.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from llmc_build import __version__

# name -> one line for `llmc --help`; the command is `command` in the module cmd_NAME.
COMMANDS = {
    "build": "Build targets; only what a change can reach runs.",
    "validate": "Check workflow files and report every error in them.",
    "show": "Print the value of a target.",
    "log": "Print what a step wrote, what it ran, and where that is kept.",
    "clean": "Remove outputs, runs and state of this workspace.",
    "cache": "Look after the store: stats, verify, gc, path.",
    "models": "List the models that steps can name.",
    "doctor": "Look at what this machine has for llmc.",
    "schema": "Print the JSON Schema of the workflow language.",
}

_EXIT_SIGINT = 130
_EXIT_SIGPIPE = 141  # what a shell reports of a program whose reader left


@dataclass(slots=True)
class Session:
    """What the options that every command has were set to; `main` reads it when something fails."""

    verbose: int = 0
    color: str = "auto"
    command: str = "llmc"  # what was called, as far as it is known


class _ReaderLeft(Exception):
    """Whoever read standard output or standard error is gone."""


class _Stopped(Exception):
    """The user asked for the end of what had nothing left to record."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


class Group(click.Group):
    """A group that says which command was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise _no_such_command(ctx.command_path, args[0], known)
        if args:
            ctx.ensure_object(Session).command = f"{ctx.command_path} {args[0]}"
        return super().resolve_command(ctx, args)


class _Lazy(Group):
    """A group that knows its commands by name and imports one when it is called."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _ReaderLeft from None  # click would make it exit code 1
        except KeyboardInterrupt as end:  # click would print an empty line, and lose which signal it was
            raise _Stopped(int(getattr(end, "exit_code", _EXIT_SIGINT))) from None
        return result

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"llmc_build.cli.cmd_{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="llmc %(version)s")
def group() -> None:
    """Build LLM workflows incrementally: what did not change does not run again.

    Start with `llmc build FILE`; a second `llmc build` runs only what a change can reach.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.  No exception leaves it."""
    session = Session()
    try:
        code = group.main(args=args, prog_name="llmc", standalone_mode=False, obj=session)
    except _ReaderLeft:
        _print_no_more()
        return _EXIT_SIGPIPE
    except (KeyboardInterrupt, click.Abort, _Stopped) as end:
        _print_no_more()
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo("interrupted", err=True)
        return int(getattr(end, "exit_code", _EXIT_SIGINT))
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told
        try:
            from llmc_build.cli import failure

            return failure.tell(error, session)
        except (OSError, ImportError, MemoryError):  # of a disk that gives nothing any more
            click.echo(f"error: {error}", err=True)
            return 8
    return code if isinstance(code, int) else 0


def _print_no_more() -> None:
    """What waits to be printed goes nowhere: the last flush of all would wait for a reader."""
    with contextlib.suppress(OSError, ValueError):  # no descriptor is left, or it is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _no_such_command(group: str, name: str, known: Sequence[str]) -> Exception:
    from llmc_build.errors import UsageError, did_you_mean

    if name.endswith((".yaml", ".yml")):
        hint = f"to build it: llmc build {name}"
    else:
        hint = did_you_mean(name, known) or f"{group} --help lists the commands"
    whole = f"{group} {name}".removeprefix("llmc ")
    return UsageError(f'there is no command "{whole}"', hint=hint)
