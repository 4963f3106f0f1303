"""`llmc cache`: questions about the store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from llmc_build import api
from llmc_build.cli import COMMANDS
from llmc_build.cli.common import everywhere
from llmc_build.report.words import size

_store = click.option(
    "--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help="Another store than the workspace's."
)


@click.group("cache", short_help=COMMANDS["cache"])
def command() -> None:
    """Ask about the store of this workspace."""


@command.command("stats", short_help="Print what the store holds.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@_store
@everywhere
def stats(as_json: bool, cache_dir: Path | None) -> int:
    """Print how much the store holds."""
    found = api.cache_stats(cache_dir=cache_dir)
    if as_json:
        click.echo(json.dumps(found))
        return 0
    width = max(map(len, found))
    for name, number in found.items():
        shown = f"{number} ({size(number)})" if name == "bytes" and number >= 1024 else str(number)
        click.echo(f"{name:<{width}}  {shown}")
    return 0


@command.command("path", short_help="Print where the store is.")
@_store
@everywhere
def path(cache_dir: Path | None) -> int:
    """Print the folder of the store, whether or not it exists yet."""
    click.echo(os.fspath(api.cache_path(cache_dir=cache_dir)))
    return 0
