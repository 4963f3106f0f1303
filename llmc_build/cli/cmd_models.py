"""`llmc models`: the models that steps can name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmc_build import api
from llmc_build.cli import COMMANDS
from llmc_build.cli.common import everywhere
from llmc_build.report.words import printable, size

if TYPE_CHECKING:
    from llmc_build.llm.models import ModelListing


@click.command("models", short_help=COMMANDS["models"])
@everywhere
def command() -> int:
    """List the built-in models and those of llmc.yaml, and whether they can be used here."""
    for model in api.models():
        click.echo(printable(f"{model.name}  {model.reference}"))
        for line in _facts(model):
            click.echo(f"    {printable(line)}")
    return 0


def _facts(model: ModelListing) -> list[str]:
    facts = []
    if model.base_url:
        facts.append(f"at {model.base_url}")
    if model.path is not None:
        facts.append(f"{model.path}" if model.size is None else f"{model.path} ({size(model.size)})")
    if model.about is not None:
        about = model.about
        context = f"context {about.context} tokens" if about.context else None
        known = [fact for fact in (about.name, about.architecture, about.quantisation, context) if fact]
        if known:
            facts.append(", ".join(known))
    if model.problem:
        facts.append(f"can't be used: {model.problem}")
    return facts
