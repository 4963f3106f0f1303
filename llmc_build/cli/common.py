"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from llmc_build.cli import Session

Function = TypeVar("Function", bound=Callable[..., Any])


def everywhere(function: Function) -> Function:
    """`-C`, `-v` and `--color`: they are kept in the `Session`, and no command sees them as arguments."""
    for option in (_color, _verbose, _directory):
        function = option(function)
    return function


def _change_directory(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.chdir(value)


def _set_verbose(ctx: click.Context, param: click.Parameter, value: int) -> None:
    ctx.ensure_object(Session).verbose = value


def _set_color(ctx: click.Context, param: click.Parameter, value: str) -> None:
    ctx.ensure_object(Session).color = value


_directory = click.option(
    "-C",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    is_eager=True,  # every other path is relative to it
    expose_value=False,
    callback=_change_directory,
    help="Do everything as if started in DIR.",
)
_verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_set_verbose,
    help="Say more; twice: tracebacks.",
)
_color = click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    expose_value=False,
    callback=_set_color,
    help="Colour; auto: on a terminal.",
)
