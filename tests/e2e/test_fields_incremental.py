"""Fields of values in builds that read only the documents that changed: what they mean depends on others."""

from __future__ import annotations

import pytest

from llmc_build.errors import WorkflowError
from llmc_build.incremental import partial
from tests.conftest import Space

READER = """
name: reader
vars: {w: '{"s": "the field"}'}
steps:
  - {name: r, command: "echo {{ w.s }}"}
"""
OTHER = """
---
name: w
steps:
  - {name: s, command: echo the step}
"""


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many documents were read by each build that did not read all."""
    found: list[int] = []
    begin = partial.Partial.__init__

    def counted(self: partial.Partial, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]
        found.append(len(self.changed))

    monkeypatch.setattr(partial.Partial, "__init__", counted)
    return found


def test_a_workflow_that_comes_and_goes_changes_what_a_reference_means(space: Space, read: list[int]) -> None:
    """`{{ w.s }}` is step s of workflow w where that is there: a document that did not change is read again."""
    for text, value in [
        (READER, "the field"),
        (READER + OTHER, "the step"),
        (READER, "the field"),
        (READER + OTHER.replace("name: s", "name: t"), "the field"),
        (READER + OTHER, "the step"),
        (READER + OTHER.replace("echo", "echo still"), "still the step"),
    ]:
        space.write("flow.yaml", text)
        assert space.build("flow.yaml").ok
        assert space.value("reader.r") == f"{value}\n"
    assert read == [2, 1, 2, 2, 1], "and no more than that"


SCHEMA = """
name: asked
steps:
  - name: a
    type: llm
    model: m
    prompt: x
    if: "false"
    schema: {type: object, properties: {FIELD: {}}, additionalProperties: false}
---
name: reads
steps:
  - {name: r, command: "echo [{{ asked.a.city }}]"}
---
name: apart
steps:
  - {name: one, command: echo one}
"""


def test_a_schema_that_changes_is_held_against_readers_elsewhere(space: Space) -> None:
    space.write("flow.yaml", SCHEMA.replace("FIELD", "city"))
    assert space.build("flow.yaml").ok
    space.write("flow.yaml", SCHEMA.replace("FIELD", "town"))
    with pytest.raises(WorkflowError, match='no field "city"; it has town'):
        space.build("flow.yaml")
    space.write("flow.yaml", SCHEMA.replace("FIELD", "city"))
    assert space.build("flow.yaml").ok


def test_a_reader_that_changes_is_held_against_a_schema_elsewhere(space: Space) -> None:
    space.write("flow.yaml", SCHEMA.replace("FIELD", "city"))
    assert space.build("flow.yaml").ok
    space.edit("flow.yaml", "asked.a.city", "asked.a.town")
    with pytest.raises(WorkflowError, match='no field "town"; it has city'):
        space.build("flow.yaml")


def test_a_field_of_a_step_without_a_schema_takes_its_document_alone(space: Space, read: list[int]) -> None:
    text = SCHEMA.partition("---")[2].replace("asked.a.city", "apart.one")
    space.write("flow.yaml", text)
    assert space.build("flow.yaml").ok
    space.edit("flow.yaml", "apart.one", "apart.one[0]")
    assert not space.build("flow.yaml").ok, "its value is not JSON"
    assert read == [1]
