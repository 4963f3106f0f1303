"""`llmc schema`: the language as JSON Schema."""

from __future__ import annotations

import json

import click

from llmc_build.cli import COMMANDS


@click.command("schema", short_help=COMMANDS["schema"])
def command() -> int:
    """Print the JSON Schema of the workflow language, for completion and checks in editors."""
    from llmc_build.workflow.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
    return 0
