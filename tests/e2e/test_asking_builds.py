"""Whole builds of steps that ask a server: conversations, samples, constraints, fields, budgets.

The server is a scripted one on 127.0.0.1, so that what it was asked can be counted and compared.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc_build import api
from llmc_build.errors import WorkflowError
from llmc_build.model import BuildReport, State
from llmc_build.report.words import last_line
from tests.e2e.test_http_lane import Request, Server, error, http_reply

Answering = Callable[[dict[str, Any]], str]


class Asked:
    """A workspace with a server that answers by a function of the request's body."""

    def __init__(self, root: Path, answering: Answering) -> None:
        self.root = root
        self.bodies: list[dict[str, Any]] = []
        self.answering = answering
        self.refuse: Callable[[dict[str, Any]], bool] = lambda body: False
        self._lock = threading.Lock()
        self.server = Server([self._behave])
        self.config()

    def config(self, more: str = "") -> None:
        text = f"jobs: 2\nmodels:\n  m: {{base_url: {self.server.base_url}, model: tiny{more}}}\n"
        (self.root / "llmc.yaml").write_text(text)

    def _behave(self, conn: socket.socket, request: Request) -> None:
        body = json.loads(request.body)
        with self._lock:
            self.bodies.append(body)
        if self.refuse(body):
            error(400, "no")(conn, request)
            return
        if "input" in body:
            vectors = [{"index": i, "embedding": [float(len(t)), 0.0]} for i, t in enumerate(body["input"])]
            http_reply(200, json.dumps({"data": vectors, "usage": {"prompt_tokens": 3}}).encode())(
                conn, request
            )
            return
        choice = {"message": {"content": self.answering(body)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        http_reply(200, json.dumps({"choices": [choice], "usage": usage}).encode())(conn, request)

    def build(self, steps: str, head: str = "", **options: Any) -> BuildReport:
        text = f"name: w\ndefaults: {{type: llm, model: m}}\n{head}\nsteps:\n{steps}"
        (self.root / "flow.yaml").write_text(text)
        return api.build([self.root / "flow.yaml"], workspace=self.root, environ={}, **options)

    def value(self, step: str) -> str:
        return (self.root / ".llmc/out/w" / step).read_text()

    def taken(self) -> list[dict[str, Any]]:
        """What was asked since the last time."""
        with self._lock:
            found, self.bodies = self.bodies, []
        return found


def last_words(body: dict[str, Any]) -> str:
    return f"<{body['messages'][-1]['content']}>"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.chdir(tmp_path)
    found = Asked(tmp_path, last_words)
    yield found
    found.server.close()


def messages(*said: str) -> list[dict[str, str]]:
    """user, assistant, user, ... in turn; a leading "!" is the system's."""
    system = [{"role": "system", "content": said[0][1:]}] if said[0].startswith("!") else []
    roles = ("user", "assistant")
    return [*system, *({"role": roles[i % 2], "content": t} for i, t in enumerate(said[len(system) :]))]


def statuses(report: BuildReport) -> dict[str, str]:
    return {target.target.removeprefix("w."): target.status.value for target in report.targets}


# ---------------------------------------------------------------- conversations

TALK = """
  - {name: a, session: s, system: Be brief., prompt: one}
  - {name: other, prompt: apart}
  - {name: b, session: s, if: "CONDITION", prompt: two}
  - {name: c, session: s, messages: [{role: user, content: "three {{ w.other }}"}]}
"""


def test_the_steps_of_a_session_are_one_conversation(asked: Asked) -> None:
    report = asked.build(TALK.replace("CONDITION", "true"))
    assert report.ok
    by_last = {body["messages"][-1]["content"]: body["messages"] for body in asked.taken()}
    assert by_last["one"] == messages("!Be brief.", "one")
    assert by_last["two"] == messages("!Be brief.", "one", "<one>", "two")
    three = "three <apart>"
    assert by_last[three] == messages("!Be brief.", "one", "<one>", "two", "<two>", three)
    assert by_last["apart"] == messages("apart")


def test_a_skipped_step_was_never_said(asked: Asked) -> None:
    report = asked.build(TALK.replace("CONDITION", "false"))
    assert statuses(report)["b"] == "skipped"
    assert messages("!Be brief.", "one", "<one>", "three <apart>") in [b["messages"] for b in asked.taken()]


def test_a_session_whose_first_step_is_skipped_keeps_its_system_message(asked: Asked) -> None:
    asked.build(
        "  - {name: a, if: 'false', session: s, system: S, prompt: one}\n  - {name: b, session: s, prompt: two}\n"
    )
    assert [body["messages"] for body in asked.taken()] == [messages("!S", "two")]


def test_a_change_early_in_a_conversation_is_heard_by_all_that_follows(asked: Asked) -> None:
    asked.build(TALK.replace("CONDITION", "true"))
    asked.taken()
    report = asked.build(TALK.replace("CONDITION", "true").replace("one", "uno"))
    assert statuses(report) == {"a": "ran", "other": "cached", "b": "ran", "c": "ran"}
    assert asked.build(TALK.replace("CONDITION", "true")).counts["ran"] == 0, "each is in the store"


def test_an_equal_answer_stops_a_change_of_a_session_nowhere_since_the_words_are_part_of_it(
    asked: Asked,
) -> None:
    asked.answering = lambda body: "same"
    asked.build(TALK.replace("CONDITION", "true"))
    asked.taken()
    asked.build(TALK.replace("CONDITION", "true").replace("one", "uno"))
    assert [b["messages"][1]["content"] for b in asked.taken()] == ["uno", "uno", "uno"]


def test_a_failure_in_a_session_poisons_what_follows(asked: Asked) -> None:
    asked.refuse = lambda body: body["messages"][-1]["content"] == "two"
    report = asked.build(TALK.replace("CONDITION", "true"))
    assert statuses(report) == {"a": "ran", "other": "ran", "b": "failed", "c": "poisoned"}


def test_sessions_of_a_dataflow_workflow_go_by_the_order_of_the_document(asked: Asked) -> None:
    steps = "  - {name: a, session: s, prompt: one}\n  - {name: b, session: t, prompt: x}\n  - {name: c, session: s, prompt: two}\n"
    asked.build(steps, head="order: dataflow")
    assert messages("one", "<one>", "two") in [body["messages"] for body in asked.taken()]


def test_a_reference_of_an_earlier_turn_means_what_it_meant_there(asked: Asked) -> None:
    steps = """
  - {name: x, type: shell, command: echo early, output: v}
  - {name: a, session: s, prompt: "{{ v }}"}
  - {name: y, type: shell, command: echo late, output: v}
  - {name: b, session: s, prompt: "{{ v }}"}
"""
    asked.build(steps)
    assert messages("early", "<early>", "late") in [body["messages"] for body in asked.taken()]


@pytest.mark.parametrize(
    "second",
    ["{name: b, session: s, system: B, prompt: x}", "{name: b, session: s, messages: [{role: system, content: B}]}"],
)  # fmt: skip
def test_a_session_has_one_system_message_where_it_begins(asked: Asked, second: str) -> None:
    with pytest.raises(WorkflowError, match="a session has one"):
        asked.build(f"  - {{name: a, session: s, system: A, prompt: x}}\n  - {second}\n")


def test_a_system_message_of_the_defaults_is_that_of_the_session(asked: Asked) -> None:
    steps = "  - {name: a, session: s, prompt: one}\n  - {name: b, session: s, prompt: two}\n"
    (asked.root / "flow.yaml").write_text(
        f"name: w\ndefaults: {{type: llm, model: m, system: S}}\nsteps:\n{steps}"
    )
    api.build([asked.root / "flow.yaml"], workspace=asked.root, environ={})
    assert asked.taken()[-1]["messages"] == messages("!S", "one", "<one>", "two")


# ---------------------------------------------------------------- samples


def sample(n: int, **more: Any) -> str:
    return f"  - {json.dumps({'name': 'a', 'prompt': 'x', 'samples': n, 'temperature': 1, **more})}\n"


def test_each_sample_has_a_seed_and_is_asked_for_once(asked: Asked) -> None:
    asked.answering = lambda body: f'"{body["seed"]}"\n'
    report = asked.build(sample(3, seed=7))
    assert (report.counts["total"], report.counts["ran"]) == (1, 1), "a step with samples is one step"
    assert json.loads(asked.value("a")) == ['"7"\n', '"8"\n', '"9"\n']
    assert sorted(body["seed"] for body in asked.taken()) == [7, 8, 9]
    assert asked.build(sample(5, seed=7)).counts["ran"] == 1
    assert sorted(body["seed"] for body in asked.taken()) == [10, 11]
    assert json.loads(asked.value("a")) == [f'"{seed}"\n' for seed in range(7, 12)]
    report = asked.build(sample(2, seed=8))
    assert (report.counts["ran"], asked.taken()) == (0, [])
    assert not last_line(report).startswith("up to date"), "its value is another one"
    assert json.loads(asked.value("a")) == ['"8"\n', '"9"\n']


def test_a_step_without_samples_is_a_sample_of_its_seed(asked: Asked) -> None:
    asked.answering = lambda body: str(body["seed"])
    asked.build(sample(3))
    asked.taken()
    report = asked.build("  - {name: one, prompt: x, temperature: 1, seed: 2}\n")
    assert (statuses(report), asked.value("one"), asked.taken()) == ({"one": "cached"}, "2", [])


def test_samples_that_two_steps_share_are_asked_for_once(asked: Asked) -> None:
    steps = (
        sample(4)
        + sample(6, seed=2).replace('"a"', '"b"')
        + "  - {name: c, prompt: x, temperature: 1, seed: 3}\n"
    )
    report = asked.build(steps, head="order: dataflow")
    assert report.ok
    assert sorted(body["seed"] for body in asked.taken()) == list(range(8))


def test_a_failed_sample_fails_the_step_and_the_others_are_kept(asked: Asked) -> None:
    asked.refuse = lambda body: body["seed"] == 1
    (target,) = asked.build(sample(4)).targets
    assert target.status is State.FAILED
    assert target.error is not None
    assert target.error.startswith("sample 1 of 4: ")
    asked.taken()
    asked.refuse = lambda body: False
    assert asked.build(sample(4)).ok
    assert [body["seed"] for body in asked.taken()] == [1]


def test_samples_that_are_json_make_a_list_of_values(asked: Asked) -> None:
    asked.answering = lambda body: '{"n": 1.50} '
    asked.build(
        sample(2, schema={"type": "object"}) + "  - {name: r, type: shell, command: 'echo {{ a[1].n }}'}\n"
    )
    assert (asked.value("a"), asked.value("r")) == ('[{"n": 1.50}, {"n": 1.50}]', "1.50\n")


def test_forced_samples_are_all_asked_for_again(asked: Asked) -> None:
    asked.build(sample(3))
    asked.taken()
    asked.build(sample(3), force=True)
    assert len(asked.taken()) == 3


def test_samples_are_told_in_a_dry_run_and_missed_offline(asked: Asked) -> None:
    asked.build(sample(3))
    asked.taken()
    assert asked.build(sample(2), dry_run=True).counts["ran"] == 0
    assert asked.build(sample(4), dry_run=True).counts["ran"] == 1
    assert asked.build(sample(2), offline=True).ok
    assert asked.build(sample(4), offline=True).exit_code == 5
    assert asked.taken() == []


# ---------------------------------------------------------------- constraints and fields

COLORS: dict[str, Any] = {
    "type": "object",
    "properties": {"color": {"type": "string"}, "shades": {"type": "array", "maxItems": 2}},
    "additionalProperties": False,
}


def constrained(command: str, **more: Any) -> str:
    fields = {"name": "a", "prompt": "x", "schema": COLORS, **more}
    return f"  - {json.dumps(fields)}\n  - {json.dumps({'name': 'r', 'type': 'shell', 'command': command})}\n"


def test_only_a_change_of_the_field_reaches_its_reader(asked: Asked) -> None:
    """Early cutoff by field: the rest of the value may change as it likes."""
    asked.answering = lambda body: '{"color": "red", "shades": [1]}'
    asked.build(constrained("echo {{ a.color }}"))
    asked.answering = lambda body: '{"shades": [2], "color": "red"}'
    report = asked.build(constrained("echo {{ a.color }}", prompt="y"))
    assert statuses(report) == {"a": "ran", "r": "cached"}
    asked.answering = lambda body: '{"color": "blue"}'
    report = asked.build(constrained("echo {{ a.color }}", prompt="z"))
    assert (statuses(report)["r"], asked.value("r")) == ("ran", "blue\n")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("echo {{ a.colour }}", 'the value has no field "colour"; it has color, shades'),
        ("echo {{ w.a.color.x }}", 'the value.color is of type string, which has no field "x"'),
        ("echo {{ a.shades[2] }}", "the value.shades has at most 2 entries, and no entry 2"),
        ("echo {{ a[0] }}", "the value is of type object, which has no entry 0"),
    ],
)
def test_a_field_that_can_not_be_there_is_an_error_at_once(asked: Asked, command: str, why: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        asked.build(constrained(command))
    (fault,) = caught.value.faults
    assert why in fault.headline
    assert fault.location is not None
    assert (fault.location.line, asked.taken()) == (6, [])


def test_an_answer_that_does_not_conform_is_not_kept(asked: Asked) -> None:
    asked.answering = lambda body: '{"color": 3}'
    report = asked.build(constrained("echo {{ a.color }}"))
    assert statuses(report) == {"a": "failed", "r": "poisoned"}
    assert report.usage == {"requests": 1, "prompt_tokens": 10, "generated_tokens": 5}
    asked.answering = lambda body: '{"color": "red"}'
    assert asked.build(constrained("echo {{ a.color }}")).ok
    assert len(asked.taken()) == 2


def test_a_schema_from_a_file_is_watched(asked: Asked) -> None:
    asked.answering = lambda body: '{"color": "red"}'
    (asked.root / "s.json").write_text(json.dumps(COLORS))
    assert asked.build(constrained("echo {{ a.color }}", schema="s.json")).ok
    assert asked.build(constrained("echo {{ a.color }}", schema="s.json")).counts["ran"] == 0
    (asked.root / "s.json").write_text(
        json.dumps({"properties": {"colour": {}}, "additionalProperties": False})
    )
    with pytest.raises(WorkflowError, match='no field "color"; it has colour'):
        asked.build(constrained("echo {{ a.color }}", schema="s.json"))
    (asked.root / "s.json").write_text('{"type": "objekt"}')
    with pytest.raises(WorkflowError) as caught:
        asked.build(constrained("echo {{ a.color }}", schema="s.json"))
    assert str(caught.value.faults[0].location) == "s.json:1:11"


def test_fields_work_in_conditions_and_prompts(asked: Asked) -> None:
    steps = """
  - {name: d, type: shell, command: "echo '{\\"mode\\": \\"x\\", \\"n\\": [4]}'", output: d}
  - {name: a, if: "{{ d.mode }} == 'x' and {{ d.n[0] }} > 3", prompt: "{{ w.d.n }} {{ d['mode'] }}"}
  - {name: b, if: "{{ d.mode }} == 'y'", prompt: never}
  - {name: c, prompt: "{% if d.n[0] == '4' %}{{ d.n[-1] }} {{ d.mode | upper }}{% endif %}"}
"""
    report = asked.build(steps)
    assert statuses(report) == {"d": "ran", "a": "ran", "b": "skipped", "c": "ran"}
    assert (asked.value("a"), asked.value("c")) == ("<[4] x>", "<4 X>")


def test_a_value_without_the_field_fails_its_reader_with_the_reason(asked: Asked) -> None:
    steps = "  - {name: a, type: shell, command: 'echo words', output: v}\n  - {name: r, type: shell, command: 'echo {{ v.x }}'}\n"
    report = asked.build(steps)
    assert next(t.error for t in report.targets if t.target == "w.r") == (
        "{{ v.x }}: the value is not JSON (Expecting value, line 1, column 1): words"
    )


def test_a_field_of_a_skipped_step_is_empty(asked: Asked) -> None:
    steps = (
        "  - {name: a, if: 'false', prompt: x}\n  - {name: r, type: shell, command: 'echo [{{ a.x[1] }}]'}\n"
    )
    assert asked.build(steps).ok
    assert asked.value("r") == "[]\n"


def test_embeddings_come_from_a_server_that_llmc_yaml_names(asked: Asked) -> None:
    steps = """
  - {name: one, type: embed, text: "{{ w.list[1] }}!"}
  - {name: list, type: embed, normalize: false, text: [abc, de]}
"""
    assert asked.build(steps, head="order: dataflow").ok
    assert (json.loads(asked.value("list")), json.loads(asked.value("one"))) == (
        [[3.0, 0.0], [2.0, 0.0]],
        [1.0, 0.0],
    )
    assert asked.taken()[-1]["input"] == ["[2.0, 0.0]!"]
    with pytest.raises(WorkflowError, match="at most 2 entries"):
        asked.build(
            "  - {name: l, type: embed, text: [a, b]}\n  - {name: r, type: shell, command: 'echo {{ l[2] }}'}\n"
        )


# ---------------------------------------------------------------- money


def test_what_a_build_cost_is_counted_once(asked: Asked) -> None:
    asked.config(", prices: {prompt: 1000, completion: 2000}")
    report = asked.build(sample(3) + "  - {name: b, prompt: y}\n")
    assert report.usage == {"requests": 4, "prompt_tokens": 40, "generated_tokens": 20, "cost": 0.08}
    assert asked.build(sample(3)).usage == {}, "what comes from the store costs nothing"


def test_a_budget_of_tokens_holds_for_the_whole_build(asked: Asked) -> None:
    steps = "".join(f"  - {{name: s{i}, prompt: p{i}, max_tokens: 5}}\n" for i in range(20))
    report = asked.build(steps, head="order: dataflow", max_tokens_total=400)
    ran, failed = report.counts["ran"], report.counts["failed"]
    assert (report.exit_code, ran + failed) == (1, 20)
    assert ran == len(asked.taken())
    assert report.usage["prompt_tokens"] == 10 * ran
    assert 15 * ran <= 400 < 15 * ran + 150, "as much was spent as could safely be"
    refused = next(t.error for t in report.targets if t.error)
    assert "was not asked: --max-tokens-total 400 leaves" in refused
    assert asked.build(steps, head="order: dataflow").counts["ran"] == 20 - ran, "a refusal is not kept"


def test_a_budget_of_cost_needs_prices(asked: Asked) -> None:
    report = asked.build("  - {name: a, prompt: x}\n", max_cost=1.0)
    assert "--max-cost needs `prices` of the model tiny" in str(report.targets[0].error)
    asked.config(", prices: {prompt: 1000, completion: 2000}")
    assert asked.build("  - {name: a, prompt: x}\n", max_cost=1.0).ok
    assert "--max-cost 0.1 leaves 0.1" in str(
        asked.build("  - {name: a, prompt: z}\n", max_cost=0.1).targets[0].error
    )
