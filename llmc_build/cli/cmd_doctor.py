"""`llmc doctor`: what this machine has for llmc."""

from __future__ import annotations

import json

import click

from llmc_build.cli import COMMANDS
from llmc_build.cli.common import everywhere

_MARKS = {"ok": "ok  ", "note": "note", "fail": "FAIL"}


@click.command("doctor", short_help=COMMANDS["doctor"])
@click.option("--online", is_flag=True, help="Ask the servers of llmc.yaml too.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@everywhere
def command(online: bool, as_json: bool) -> int:
    """Look at what llmc needs here: Python, llama.cpp, models, memory, store, sandbox, processes.

    Exit code 1 where something that this workspace is configured for can't work.
    """
    from llmc_build import api
    from llmc_build.report.words import printable

    good, found = True, []
    for finding in api.doctor(online=online):
        good = good and finding.state.value != "fail"
        found.append(finding)
        if not as_json:
            click.echo(printable(f"{_MARKS[finding.state.value]}  {finding.name:<14} {finding.text}"))
    if as_json:
        listed = [finding.as_json() for finding in found]
        click.echo(json.dumps({"schema": "llmc-doctor/1", "ok": good, "findings": listed}))
    return 0 if good else 1
