"""What a user can write stands in the guide: every option, field and variable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llmc_build import cli, config
from llmc_build.workflow import fields

ROOT = Path(__file__).parents[2]
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
LANGUAGE = (ROOT / "docs" / "language.md").read_text()
SOURCES = [path.read_text() for path in (ROOT / "llmc_build").rglob("*.py")]


def options(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    context = click.Context(command)
    for param in command.params:
        yield from ((name, option) for option in param.opts if option.startswith("-"))
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from options(found, f"{name} {below}")


@pytest.mark.parametrize(("command", "option"), sorted(options(cli.group, "llmc")))
def test_an_option_stands_in_the_guide(command: str, option: str) -> None:
    assert f"llmc {command.split()[1]}" in COMMANDS if " " in command else True
    assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", COMMANDS)


@pytest.mark.parametrize(
    "field",
    [*config._FIELDS, *config._LIMIT_FIELDS, *config._MODEL_FIELDS],
)
def test_a_field_of_llmc_yaml_stands_in_the_guide(field: str) -> None:
    """In a block that is an llmc.yaml."""
    written = "".join(re.findall(r"<!-- config -->\n```yaml\n(.*?)```", LANGUAGE, re.DOTALL))
    assert re.search(rf"^ *{field}:", written, re.MULTILINE)


@pytest.mark.parametrize("field", [*fields.WORKFLOW, *fields.STEP])
def test_a_field_of_workflows_and_steps_stands_in_the_guide(field: str) -> None:
    assert re.search(rf"`{field}[`:]", LANGUAGE)


def test_a_variable_that_llmc_reads_stands_in_the_guide() -> None:
    read = {
        name for text in SOURCES for name in re.findall(r"[\"'](OPENAI_[A-Z_]+|LLMC_[A-Z_]*[A-Z])[\"']", text)
    }
    assert {"OPENAI_API_KEY", "LLMC_CACHE_DIR", "LLMC_JOBS"} <= read
    own = {"LLMC_STEP_TOKEN"}  # how llmc knows the processes of its steps; nobody sets it
    assert [name for name in sorted(read - own) if f"`{name}`" not in COMMANDS] == []
