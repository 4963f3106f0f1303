"""`llmc cache`: what the store holds, whether it is whole, and what of it may go."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import click

from llmc_build import api
from llmc_build.cli import COMMANDS, Group
from llmc_build.cli.common import everywhere
from llmc_build.report import words

_store = click.option(
    "--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help="Another store than the workspace's."
)


_SIZES = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AGES = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86400, "W": 7 * 86400}


class _Amount(click.ParamType[float]):
    """A number with a unit, which is turned into the smallest one."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name, self._units, self._example = name, units, example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]?)(?:i?[bB])?", str(value).strip())
        if found is None or found[2].upper() not in self._units:
            self.fail(f'"{value}" is no {self.name}: write {self._example}', param, ctx)
        return float(found[1]) * self._units[found[2].upper()]


@click.group("cache", cls=Group, short_help=COMMANDS["cache"])
def command() -> None:
    """Look after the store of this workspace."""


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
        shown = f"{number} ({words.size(number)})" if name == "bytes" and number >= 1024 else str(number)
        click.echo(f"{name:<{width}}  {shown}")
    return 0


@command.command("path", short_help="Print where the store is.")
@_store
@everywhere
def path(cache_dir: Path | None) -> int:
    """Print the folder of the store, whether or not it exists yet."""
    click.echo(os.fspath(api.cache_path(cache_dir=cache_dir)))
    return 0


@command.command("verify", short_help="Read every byte of the store and say what is damaged.")
@click.option("--repair", is_flag=True, help="Set aside what is damaged: the next build makes it again.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@_store
@everywhere
def verify(repair: bool, as_json: bool, cache_dir: Path | None) -> int:
    """Read every byte of the store and say what is damaged; the exit code is 1 where something stays so.

    A build never uses damaged content, and makes again what it needs: this finds the damage sooner.
    """
    found = api.cache_verify(cache_dir=cache_dir, repair=repair)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
    else:
        for line in found.bad:
            click.echo(words.printable(line))
        what = f"{found.records} records and {found.blobs} blobs ({words.size(found.bytes)})"
        if not found.bad:
            click.echo(f"the store is whole: {what}")
        elif repair:
            click.echo(f"set aside: {len(found.bad)} of {what}")
        else:
            click.echo(f"damaged: {len(found.bad)} of {what}; llmc cache verify --repair sets them aside")
    return 1 if found.bad and not repair else 0


@command.command("gc", short_help="Remove what is no longer used.")
@click.option(
    "--max-size",
    type=_Amount("size", _SIZES, "500M or 10G"),
    metavar="SIZE",
    help="Remove what was used longest ago until the store is no larger: 500M, 10G.",
)
@click.option(
    "--max-age",
    type=_Amount("age", _AGES, "12h or 30d"),
    metavar="AGE",
    help="Remove what was not used for so long: 12h, 30d.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@_store
@everywhere
def gc(max_size: float | None, max_age: float | None, as_json: bool, cache_dir: Path | None) -> int:
    """Remove what no result needs, and the results that were used longest ago.

    What a running build uses stays, so that it can be called at any time.
    """
    limit = None if max_size is None else int(max_size)
    done = api.cache_gc(cache_dir=cache_dir, max_bytes=limit, max_age_s=max_age)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done)))
        return 0
    removed = f"{done.records_removed} records and {done.blobs_removed} blobs removed"
    click.echo(
        f"{removed} ({words.size(done.bytes_freed)}); {done.records} records stay ({words.size(done.bytes)})"
    )
    return 0
