"""`llmc show`: the value of a target."""

from __future__ import annotations

import sys

import click

from llmc_build.cli import COMMANDS, complete
from llmc_build.cli.common import everywhere


@click.command("show", short_help=COMMANDS["show"])
@click.argument("target", shell_complete=complete.targets)
@everywhere
def command(target: str) -> int:
    """Print the value that the last build gave TARGET (workflow.step).

    Into a file or a pipe it goes byte for byte; on a terminal, what the terminal would act on is spelt out.
    """
    from llmc_build import api

    value = api.show(target)
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
        return 0
    from llmc_build.report.words import printable

    text = printable(value.decode("utf-8", "surrogateescape"))
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    return 0
