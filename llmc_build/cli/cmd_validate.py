"""`llmc validate`: every error of the files, and nothing run."""

from __future__ import annotations

import click

from llmc_build.cli import COMMANDS, complete
from llmc_build.cli.common import everywhere


@click.command("validate", short_help=COMMANDS["validate"])
@click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=complete.files)
@everywhere
def command(files: tuple[str, ...]) -> int:
    """Check FILEs without running anything; all errors of all files are reported together.

    Without FILE: those that `llmc build` would take.
    """
    from llmc_build import api

    workflows, steps = api.validate(files)
    click.echo(f"valid: {_count(workflows, 'workflow')}, {_count(steps, 'step')}", err=True)
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
