"""What the shell offers behind `llmc ... <TAB>`: names of targets, and files.

Owns where names are looked for: in the folders that builds left, so nothing is parsed and nothing heavy is
imported.  The scripts for the shells are click's: `_LLMC_COMPLETE=bash_source llmc`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_WHOLE = 40  # workflows that are offered step by step; of more, the workflows are


def targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Targets that have a value or a log here: `workflow.step`, or `workflow.` where there are many."""
    home = os.path.join(_workspace(), ".llmc")
    places = [os.path.join(home, "out"), os.path.join(home, "runs", "latest")]
    start, dot, _ = incomplete.partition(".")
    workflows = {name for place in places for name in _names(place) if name.startswith(start)}
    if dot:
        workflows &= {start}
    if len(workflows) > _WHOLE:
        return sorted(f"{name}." for name in workflows)
    steps = {
        f"{workflow}.{name}"
        for place in places
        for workflow in workflows
        for name in _names(os.path.join(place, workflow))
    }
    return sorted(name for name in steps if name.startswith(incomplete))


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell knows best."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _workspace() -> str:
    """The nearest folder with an llmc.yaml, from here up, else here: as `config` finds it."""
    here = folder = os.getcwd()
    while not os.path.isfile(os.path.join(folder, "llmc.yaml")):
        above = os.path.dirname(folder)
        if above == folder:
            return here
        folder = above
    return folder


def _names(folder: str) -> Iterator[str]:
    """What can be the name of a workflow or a step; anything else in a word would be the shell's to read."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.replace("-", "").replace("_", "").isalnum():
                    yield entry.name
    except OSError:
        return
