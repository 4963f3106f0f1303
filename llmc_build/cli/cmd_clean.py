"""`llmc clean`: remove what llmc wrote here."""

from __future__ import annotations

import click

from llmc_build import api
from llmc_build.cli import COMMANDS
from llmc_build.cli.common import everywhere
from llmc_build.report.words import printable


@click.command("clean", short_help=COMMANDS["clean"])
@click.option("--expunge", is_flag=True, help="Remove the store too: the next build runs everything.")
@everywhere
def command(expunge: bool) -> int:
    """Remove outputs, runs and state of this workspace.

    The store stays: the next build restores every output without running anything.
    """
    kept = api.clean(expunge=expunge)
    what = "outputs, runs, state and the store" if expunge else "outputs, runs and state"
    click.echo(f"removed: {what}", err=True)
    for path in kept:
        click.echo(f"kept: {printable(path)} (changed since llmc wrote it)", err=True)
    return 0
