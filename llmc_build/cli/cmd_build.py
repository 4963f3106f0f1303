"""`llmc build`: from the command line to `api.build` and from its report to the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmc_build.cli import COMMANDS, Session, complete
from llmc_build.cli.common import everywhere

if TYPE_CHECKING:
    from llmc_build.model import BuildReport
    from llmc_build.report import Reporter
    from llmc_build.report.console import Console


@click.command("build", short_help=COMMANDS["build"])
@click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=complete.files)
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    metavar="PATTERN",
    shell_complete=complete.targets,
    help="workflow.step, workflow, or a glob of either; what it depends on comes along.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps that run at a time; default: one for each CPU.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option("-f", "--force", is_flag=True, help="Run everything asked for, even where nothing changed.")
@click.option(
    "--fail-fast/--keep-going",
    " /-k",
    "fail_fast",
    default=False,
    help="After a failure: start nothing more, or go on with what does not depend on it (the default).",
)
@click.option(
    "--retries", type=click.IntRange(min=0), metavar="N", help="Try a failed step again at least N times."
)
@click.option("--no-cache", is_flag=True, help="Neither read the store nor write to it.")
@click.option("--offline", is_flag=True, help="What is not in the store is an error (exit 5).")
@click.option("--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help="The store.")
@click.option(
    "--max-tokens-total",
    type=click.IntRange(min=0),
    metavar="N",
    help="Ask servers for N tokens at most, prompts and answers together.",
)
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Spend X at servers at most, by the prices in llmc.yaml.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print failures and the last line only.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the report as one JSON object on standard output."
)
@click.option(
    "--events",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what happens to FILE, a JSON object a line.",
)
@everywhere
@click.pass_obj
def command(
    session: Session,
    /,
    *,
    files: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    events: Path | None,
    **options: Any,
) -> int:
    """Build the workflows in FILEs.

    Without FILE: the workflows that llmc.yaml lists, else the files of the last build here, else
    workflow.yaml.  Progress and summary go to standard error.
    """
    from llmc_build.report.console import Console, choose_look

    _refuse_targets_as_files(files)
    look = choose_look(
        sys.stderr,
        os.environ,
        color=session.color,
        verbose=session.verbose,
        quiet=quiet,
        dry_run=options["dry_run"],
    )
    console = Console(sys.stderr, look)
    try:
        report = _with_events(events, console, files, options)
    finally:
        console.close()
    if as_json:
        from llmc_build.report.events import report_text
        from llmc_build.stopping import report_whole

        with report_whole():
            sys.stdout.writelines(report_text(report))
            sys.stdout.flush()
    return report.exit_code


def _with_events(
    path: Path | None, console: Console, files: tuple[str, ...], options: dict[str, Any]
) -> BuildReport:
    from llmc_build import api

    if path is None:
        return api.build(files, reporter=console, **options)
    from llmc_build.report import Tee
    from llmc_build.report.events import Events

    events = Events(path, console.note)
    both: Reporter = Tee([events, console])
    try:
        return api.build(files, reporter=both, **options)
    finally:
        events.close()


def _refuse_targets_as_files(files: tuple[str, ...]) -> None:
    """`llmc build demo.story` is meant well: say how a target is named."""
    for file in files:
        if not file.endswith((".yaml", ".yml")) and "/" not in file and not Path(file).exists():
            from llmc_build.errors import UsageError

            raise UsageError(f"there is no file {file}", hint=f"to build a target: llmc build -t {file}")
