"""The JSON Schema says of a document what the reader says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from llmc_build.errors import WorkflowError
from llmc_build.workflow import parse
from llmc_build.workflow.fields import STEP, WORKFLOW
from llmc_build.workflow.schema import json_schema

FILE = Path(__file__).parents[2] / "docs" / "workflow.schema.json"

ACCEPTED = [
    "command: x",
    "command: true",
    "command: x, shell: bash, timeout: 2m, retries: 1, cache: true, sandbox: false, output: v",
    "command: x, timeout: 0, cache: {ttl: 1h30m, version: 2}",
    "command: x, timeout: none, inputs: a, outputs: [b/c, ./d], env: [A], secrets: {T: null}",
    "command: x, inputs: ['**/*.py', a/b], env: {A: 1, B: true, C: text}, if: true",
    "command: x, wait_for: a.b, wait_timeout: 10, needs: [c, d.e]",
    "command: x, wait_for: [a.b, {step: c.d, timeout: 500ms}]",
    "prompt: x",
    "type: local_llm, prompt: x, model: m, max_tokens: 5, temperature: 0.5, top_k: 40, stop: [a, b]",
    "type: llm, prompt_file: p.txt, system: s, chat: false, top_p: 1, min_p: 0, seed: 0, repeat_penalty: 1.1",
    "prompt: x, top_k: null, model: null, description: null",
]

REFUSED = [
    "command: [x]",
    "command: ''",
    "command: x, comand: y",
    "command: x, shell: zsh",
    "command: x, prompt: y",
    "type: shell, command: x, max_tokens: 5",
    "type: llm, command: x",
    "type: Shell, command: x",
    "prompt: x, prompt_file: y",
    "prompt: x, max_tokens: 0",
    "prompt: x, max_tokens: '5'",
    "prompt: x, top_p: 1.5",
    "prompt: x, seed: -1",
    "prompt: x, stop: ['']",
    "command: x, retries: -1",
    "command: x, sandbox: 'yes'",
    "command: x, timeout: -1",
    "command: x, timeout: soon",
    "command: x, timeout: ''",
    "command: x, timeout: 1s1h",
    "command: x, cache: {ttll: 5}",
    "command: x, inputs: /etc/passwd",
    "command: x, inputs: [../a]",
    "command: x, inputs: a/../b",
    "command: x, inputs: ~/a",
    "command: x, inputs: '{{x}}'",
    "command: x, outputs: '*.txt'",
    "command: x, outputs: .llmc/out",
    "command: x, outputs: a/",
    "command: x, outputs: .",
    "command: x, env: A",
    "command: x, env: {a-b: c}",
    "command: x, output: 1a",
    "command: x, wait_for: '{{a.b}}'",
    "command: x, wait_for: {timeout: 5}",
    "command: x, needs: a.b.c",
]

DOCUMENTS: list[tuple[str, bool]] = [
    (
        "{name: w, order: dataflow, vars: {a: 1}, env: [A], steps: [{name: s, command: x}]}",
        True,
    ),
    ("{name: w, defaults: {command: x, timeout: 5}, steps: [{name: s}]}", True),
    ("{name: w, defaults: {type: local_llm, model: m}, steps: [{name: s, prompt: x}]}", True),
    ("{name: w, defaults: {name: x}, steps: [{name: s, command: x}]}", False),
    ("{name: w, defaults: {seed: x}, steps: [{name: s, command: x}]}", False),
    ("{name: w, order: parallel, steps: [{name: s, command: x}]}", False),
    ("{name: w, vars: {1a: x}, steps: [{name: s, command: x}]}", False),
    ("{name: my flow, steps: [{name: s, command: x}]}", False),
    ("{name: w, steps: []}", False),
    ("{name: w, steps: {a: b}}", False),
    ("{name: w}", False),
    ("{steps: [{name: s, command: x}]}", False),
    ("{name: w, steps: [{command: x}]}", False),
    ("{name: w, steps: [text]}", False),
    ("{name: w, model: m, steps: [{name: s, command: x}]}", False),
    ("[]", False),
]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(json_schema())


def parses(text: str) -> bool:
    try:
        return bool(parse(text, "f.yaml"))
    except WorkflowError:
        return False


STEPS = [(f"{{name: w, steps: [{{name: s, {fields}}}]}}", True) for fields in ACCEPTED]
STEPS += [(f"{{name: w, steps: [{{name: s, {fields}}}]}}", False) for fields in REFUSED]


@pytest.mark.parametrize(("text", "good"), STEPS + DOCUMENTS)
def test_the_schema_and_the_reader_agree(validator: Draft202012Validator, text: str, good: bool) -> None:
    """An editor that marks what runs, or passes what does not, is worse than none."""
    data: Any = yaml.safe_load(text)
    assert parses(text) is good
    assert validator.is_valid(data) is good


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


def test_every_field_is_explained() -> None:
    schema: Any = json_schema()
    assert set(schema["properties"]) == set(WORKFLOW)
    assert set(schema["$defs"]["step"]["properties"]) == set(STEP)
    for field in [*WORKFLOW.values(), *STEP.values()]:
        assert field.doc.endswith("."), field.name


def test_the_file_in_docs_is_current() -> None:
    """`llmc schema > docs/workflow.schema.json` writes it anew."""
    assert FILE.read_text(encoding="utf-8") == json.dumps(json_schema(), indent=2) + "\n"
