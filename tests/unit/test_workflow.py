"""The language: what a file means, and what is said of one that means nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.errors import WorkflowError
from llmc_build.model import CachePolicy, Location, Order, Sampling, Step, Workflow
from llmc_build.workflow import parse
from llmc_build.workflow.fields import STEP, WORKFLOW

GOLDEN = Path(__file__).parent / "golden"


def steps(text: str) -> tuple[Step, ...]:
    """The steps of a workflow given by its `steps:` and what else it has."""
    return parse(f"name: w\n{text}", "f.yaml")[0].steps


def step(fields: str, workflow: str = "") -> Step:
    """One step, its fields in flow form."""
    return steps(f"{workflow}\nsteps:\n  - {{name: s, {fields}}}\n")[0]


def faults(text: bytes | str) -> str:
    with pytest.raises(WorkflowError) as caught:
        parse(text, "f.yaml")
    return caught.value.render()


# ---------------------------------------------------------------- what the original program's files use

ORIGINAL = """\
name: producer
steps:
  - name: mode
    type: shell
    command: echo production
    output: mode
  - name: final_output
    type: local_llm
    model: models/tiny.gguf
    prompt: |
      Summarise {{mode}}.
      In one line.
    max_tokens: 32
    if: "{{mode}} == 'production'"
    output: summary
---
---
name: consumer
steps:
  - name: use
    type: shell
    wait_for: producer.final_output
    wait_timeout: 10
    command: 'echo "{{producer.final_output}}"'
"""


def test_a_file_of_the_original_program_is_read() -> None:
    producer, consumer = parse(ORIGINAL.encode(), "f.yaml")
    assert (producer.name, producer.order, len(producer.steps)) == ("producer", Order.SEQUENTIAL, 2)
    model = producer.steps[1]
    assert (model.id, model.rule, model.model) == ("producer.final_output", "local_llm", "models/tiny.gguf")
    assert model.prompt == "Summarise {{mode}}.\nIn one line.\n"
    assert model.sampling == Sampling(max_tokens=32)
    assert model.condition == "{{mode}} == 'production'"
    use = consumer.steps[0]
    assert [(wait.target, wait.timeout_s) for wait in use.waits] == [("producer.final_output", 10.0)]
    assert use.waits[0].location == Location(file="f.yaml", line=22, column=15)


def test_empty_documents_are_passed_over() -> None:
    assert parse("---\n# nothing\n---\n~\n---\n", "f.yaml") == ()
    assert parse("", "f.yaml") == ()
    assert len(parse("---\n---\n" + ORIGINAL + "---\n", "f.yaml")) == 2


def test_places_point_into_the_text_of_blocks_and_quotes() -> None:
    """A fault inside a prompt or command is shown where that character stands in the file."""
    producer, consumer = parse(ORIGINAL, "f.yaml")
    model, use = producer.steps[1], consumer.steps[0]
    assert str(model.place_in("prompt", model.prompt or "", 10)) == "f.yaml:11:17"
    assert str(model.place_in("prompt", model.prompt or "", 23)) == "f.yaml:12:10"
    assert str(use.place_in("command", use.command or "", 6)) == "f.yaml:24:21"
    assert str(model.place_in("if", model.condition or "", 2)) == "f.yaml:14:12"
    assert str(model.location) == "f.yaml:7:5"
    assert str(model.place("nothing")) == "f.yaml:7:5"


# ---------------------------------------------------------------- type

TYPES = [
    ("command: x", "", "shell"),
    ("prompt: x", "", "llm"),
    ("prompt_file: x.txt", "", "llm"),
    ("type: local_llm, model: m, prompt: x", "", "local_llm"),
    ("prompt: x", "defaults: {type: local_llm, model: m}", "local_llm"),
    ("command: x", "defaults: {type: local_llm}", "shell"),
    ("prompt: x", "defaults: {type: shell}", "llm"),
    ("output: y", "defaults: {command: x}", "shell"),
    ("output: y", "defaults: {type: local_llm, model: m, prompt: x}", "local_llm"),
    ("prompt: x", "defaults: {command: y}", "llm"),
    ("type: shell", "defaults: {type: llm, command: y}", "shell"),
]


@pytest.mark.parametrize(("fields", "workflow", "rule"), TYPES)
def test_a_step_without_a_type_is_what_its_fields_and_the_defaults_make_it(
    fields: str, workflow: str, rule: str
) -> None:
    assert step(fields, workflow).rule == rule


# ---------------------------------------------------------------- values

VALUES: list[tuple[str, str, object]] = [
    ("command: true", "command", "true"),
    ("command: 007", "command", "007"),
    ("command: x, description: ", "description", ""),
    ("command: x, shell: bash", "shell", "bash"),
    ("command: x, sandbox: false", "sandbox", False),
    ("command: x, retries: 3", "retries", 3),
    ("command: x, if: True", "condition", "true"),
    ("command: x, if: '{{a}} in b'", "condition", "{{a}} in b"),
    ("command: x, timeout: 10", "timeout_s", 10.0),
    ("command: x, timeout: 2m", "timeout_s", 120.0),
    ("command: x, timeout: 1m30s", "timeout_s", 90.0),
    ("command: x, timeout: 1h", "timeout_s", 3600.0),
    ("command: x, timeout: 500ms", "timeout_s", 0.5),
    ("command: x, timeout: 1d 2h", "timeout_s", 93600.0),
    ("command: x, timeout: '1.5'", "timeout_s", 1.5),
    ("command: x, timeout: 0", "timeout_s", None),
    ("command: x, timeout: 0s", "timeout_s", None),
    ("command: x, timeout: none", "timeout_s", None),
    ("command: x, timeout: null", "timeout_s", None),
    ("command: x, cache: true", "cache", CachePolicy(enabled=True)),
    ("command: x, cache: false", "cache", CachePolicy(enabled=False)),
    ("command: x, cache: {ttl: 7d, version: 1.0}", "cache", CachePolicy(ttl_s=604800.0, version="1.0")),
    ("command: x, inputs: ./a//b/", "inputs", ("a/b",)),
    ("command: x, inputs: [a, ./a, 'src/**/*.py', .]", "inputs", ("a", "src/**/*.py", "**")),
    ("command: x, inputs: ", "inputs", ()),
    ("command: x, outputs: [./out/a, b]", "outputs", ("out/a", "b")),
    ("command: x, env: [B, A]", "env", (("A", None), ("B", None))),
    ("command: x, env: {B: 1.50, A: , C: yes}", "env", (("A", None), ("B", "1.50"), ("C", "yes"))),
    ("command: x, env: {A: ''}", "env", (("A", ""),)),
    ("command: x, secrets: [T]", "secrets", (("T", None),)),
    ("prompt: x, chat: false", "chat", False),
    ("prompt: x, system: y", "system", "y"),
    ("prompt: '', model: m", "prompt", ""),
    ("prompt_file: ./p/q.txt", "prompt_file", "p/q.txt"),
    ("prompt: x, stop: '.'", "sampling", Sampling(stop=(".",))),
    ('prompt: x, stop: ["\\n", 5]', "sampling", Sampling(stop=("\n", "5"))),
    ("prompt: x, temperature: 1, top_k: 40", "sampling", Sampling(temperature=1.0, top_k=40)),
    ("prompt: x, top_p: 0.5, min_p: 0", "sampling", Sampling(top_p=0.5, min_p=0.0)),
    ("prompt: x, seed: 4294967294", "sampling", Sampling(seed=2**32 - 2)),
    ("prompt: x, repeat_penalty: 1.1, max_tokens: 1", "sampling", Sampling(max_tokens=1, repeat_penalty=1.1)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "attribute", "value"), VALUES)
def test_fields_have_the_values_that_are_written(fields: str, attribute: str, value: object) -> None:
    assert getattr(step(fields), attribute) == value


def test_numbers_of_one_field_have_one_type() -> None:
    """`temperature: 1` and `temperature: 1.0` are one thing, and so must be their keys."""
    assert type(step("prompt: x, temperature: 1").sampling.temperature) is float
    assert type(step("prompt: x, seed: 1").sampling.seed) is int


WAITS: list[tuple[str, list[tuple[str, float | None]]]] = [
    ("wait_for: a.b", [("a.b", None)]),
    ("wait_for: other", [("other", None)]),
    ("wait_for: [a.b, c.d], wait_timeout: 2s", [("a.b", 2.0), ("c.d", 2.0)]),
    ("wait_for: {step: a.b, timeout: 1m}", [("a.b", 60.0)]),
    ("wait_for: [a.b, {step: c.d, timeout: 0}], wait_timeout: 5", [("a.b", 5.0), ("c.d", None)]),
    ("wait_for: [{step: e.f}], wait_timeout: 5", [("e.f", 5.0)]),
    ("wait_for: a.b, wait_timeout: none", [("a.b", None)]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "waits"), WAITS)
def test_wait_for_has_three_forms_and_wait_timeout_is_for_those_without_their_own(
    fields: str, waits: list[tuple[str, float | None]]
) -> None:
    assert [(wait.target, wait.timeout_s) for wait in step(f"command: x, {fields}").waits] == waits


def test_a_time_of_many_spaces_is_refused_quickly() -> None:
    """A pattern that can match white space in several ways takes hours for this."""
    assert "must be a time" in faults(
        f"name: w\nsteps: [{{name: s, command: x, timeout: '1d{' ' * 5000}x'}}]"
    )


def test_needs_keep_their_places() -> None:
    needs = step("command: x, needs: [a, b.c]").needs
    assert [(need.target, need.location.column) for need in needs] == [("a", 35), ("b.c", 38)]


def test_workflow_fields_are_read() -> None:
    text = "name: w\ndescription: why\norder: dataflow\nvars: {a: 1.50, b: yes, c: ''}\n"
    text += "steps: [{name: s, command: x}]"
    found = parse(text, "f.yaml")[0]
    assert (found.description, found.order, found.vars) == (
        "why",
        Order.DATAFLOW,
        {"a": "1.50", "b": "yes", "c": ""},
    )


# ---------------------------------------------------------------- defaults and env


def test_a_steps_own_fields_win_over_defaults() -> None:
    found = step("prompt: x, seed: 7", "defaults: {seed: 1, temperature: 0.5, model: m}")
    assert found.sampling == Sampling(seed=7, temperature=0.5)
    assert found.model == "m"
    assert str(found.place("model")) == "f.yaml:2:46"


def test_a_null_switches_a_default_off() -> None:
    found = step(
        "prompt: x, top_k: null, model: null, timeout: 0", "defaults: {top_k: 40, model: m, timeout: 5}"
    )
    assert (found.sampling.top_k, found.model, found.timeout_s) == (None, None, None)


def test_a_default_that_a_type_has_no_use_for_does_not_apply() -> None:
    shell, model = steps(
        "defaults: {model: m, shell: bash}\nsteps: [{name: a, command: x}, {name: b, prompt: y}]"
    )
    assert (shell.model, shell.shell) == (None, "bash")
    assert (model.model, model.shell) == ("m", "sh")


def test_a_steps_own_prompt_replaces_a_default_prompt_file() -> None:
    found = step("prompt: x", "defaults: {prompt_file: p.txt}")
    assert (found.prompt, found.prompt_file) == ("x", None)


def test_a_block_of_the_defaults_gives_way_to_a_steps_own_text() -> None:
    """Else a fault in the step's command would be shown in the lines of the default."""
    own, default = steps("defaults:\n  command: |\n    x\nsteps: [{name: a, command: y}, {name: b}]")
    assert (dict(own.blocks), own.command) == ({}, "y")
    assert (dict(default.blocks), default.command) == ({"command": (4, 4)}, "x\n")


def test_environments_add_up_and_the_nearest_wins() -> None:
    found = step("command: x, env: {C: s}", "env: {A: w, B: w, C: w}\ndefaults: {env: {B: d, C: d}}")
    assert found.env == (("A", "w"), ("B", "d"), ("C", "s"))


def test_the_environment_of_a_workflow_is_for_shell_steps() -> None:
    assert step("prompt: x", "env: [A]").env == ()


def test_a_secret_is_never_also_env() -> None:
    """What is in env enters keys and records."""
    found = step("command: x, secrets: [T]", "env: {T: shown, U: u}")
    assert (found.env, found.secrets) == ((("U", "u"),), (("T", None),))


def test_wait_timeout_of_the_defaults_is_for_steps_that_wait() -> None:
    waiting, other = steps(
        "defaults: {wait_timeout: 5}\nsteps: [{name: a, command: x, wait_for: v.z}, {name: b, command: y}]"
    )
    assert [wait.timeout_s for wait in waiting.waits] == [5.0]
    assert other.waits == ()


def test_anchors_and_merge_keys_serve_as_templates() -> None:
    _, b = steps("steps:\n  - &a {name: a, command: x, retries: 2}\n  - {<<: *a, name: b}\n")
    assert (b.name, b.command, b.retries) == ("b", "x", 2)


# ---------------------------------------------------------------- faults, whole

CASES = sorted(path.stem for path in GOLDEN.glob("workflow-*.yaml"))


@pytest.mark.parametrize("name", CASES)
def test_faults_are_said_in_these_words(name: str) -> None:
    """golden/ has each text and all that is said of it; LLMC_UPDATE_GOLDEN=1 writes the latter anew."""
    shown = faults((GOLDEN / f"{name}.yaml").read_bytes()) + "\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("LLMC_UPDATE_GOLDEN"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


def test_every_golden_text_has_its_case() -> None:
    assert len(CASES) > 30
    assert sorted(path.stem for path in GOLDEN.glob("workflow-*.txt")) == CASES


# ---------------------------------------------------------------- anything at all

words = st.sampled_from([*STEP, *WORKFLOW, "step", "ttl", "x", "<<", "A", ""])
texts = st.sampled_from(
    [
        "x",
        "a.b",
        "shell",
        "llm",
        "local_llm",
        "embed",
        "user",
        "10s",
        "../x",
        "{{x}}",
        "",
        "sh",
        "T",
        "a/b",
        "*",
    ]
)
scalar = st.one_of(texts, st.none(), st.booleans(), st.integers(-5, 300), st.floats(), st.text(max_size=5))
node = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=6),
    max_leaves=12,
)
loose_step = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(STEP, node),
        "name": st.sampled_from(["a", "A", "b", "c d"]),
        "command": texts,
        "prompt": texts,
    },
)
loose_workflow = st.fixed_dictionaries(
    {"name": st.sampled_from(["w", "W", "v"]), "steps": st.lists(loose_step, max_size=4)},
    optional={"defaults": loose_step, "env": node, "vars": node, "order": node, "zzz": node},
)


def attempt(data: bytes | str) -> tuple[Workflow, ...] | str:
    try:
        return parse(data, "f.yaml")
    except WorkflowError as error:
        return error.render()


@given(st.one_of(st.binary(), st.text()))
def test_any_bytes_give_workflows_or_faults(data: bytes | str) -> None:
    attempt(data)


@given(st.lists(st.one_of(loose_workflow, node), max_size=3))
def test_any_structure_gives_workflows_or_faults(documents: list[Any]) -> None:
    text = yaml.safe_dump_all(documents, sort_keys=False)
    found = attempt(text)
    assert attempt(text) == found
    if isinstance(found, tuple):
        for workflow in found:
            assert workflow.steps
            assert len({s.name.lower() for s in workflow.steps}) == len(workflow.steps)
