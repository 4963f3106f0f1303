"""`llmc log`: what a step wrote and ran."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from llmc_build.cli import COMMANDS, complete
from llmc_build.cli.common import everywhere

_SHOWN = ("stderr", "stdout", "script", "prompt")
_LIMIT = 1024 * 1024  # bytes shown of each file


@click.command("log", short_help=COMMANDS["log"])
@click.argument("target", shell_complete=complete.targets)
@click.option("--run", "run", default="latest", metavar="ID", help="A run; its logs are in .llmc/runs/ID.")
@everywhere
def command(target: str, run: str) -> int:
    """Print standard error, standard output, and the script or prompt of TARGET, and where they are."""
    from llmc_build import api

    folder = api.log(target, run)
    for name in _SHOWN:
        file = folder / name
        if file.is_file():
            _print(file)
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in _SHOWN)
    if others:
        sys.stdout.write(f"also in {_near(folder)}: {', '.join(others)}\n")
    return 0


def _print(file: Path) -> None:
    from llmc_build.report.words import printable, size

    count = file.stat().st_size
    with file.open("rb") as stream:
        data = stream.read(_LIMIT)
    sys.stdout.write(f"==> {_near(file)} ({size(count)})\n")
    text = data.decode("utf-8", "surrogateescape")
    sys.stdout.write(printable(text))
    if count > len(data):
        sys.stdout.write(f"\n(the first {size(len(data))})")
    if not text.endswith("\n") and count:
        sys.stdout.write("\n")
    sys.stdout.write("\n")


def _near(path: Path) -> str:
    """The path from here where it is below, else in full."""
    from llmc_build.report.words import printable

    here = Path.cwd()
    return printable(os.fspath(path.relative_to(here) if path.is_relative_to(here) else path))
