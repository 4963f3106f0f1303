"""Texts that people and models write, made hostile: workflow files, llmc.yaml, conditions, placeholders, prompts.

Whatever the text, the answer is a result or faults with their places, in bounded time, and no fault has in it
what a terminal would obey.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmc_build.config import read_config
from llmc_build.errors import Fault
from llmc_build.report.words import printable
from llmc_build.resolve import resolve_and_release
from llmc_build.template import (
    ConditionError,
    PromptError,
    TemplateError,
    parse,
    parse_condition,
    parse_prompt,
)
from llmc_build.workflow import read, split
from llmc_build.workflow.kinds import Site
from llmc_build.workflow.nodes import Map, Node, Scalar, Seq
from llmc_build.workflow.yamltext import documents
from tests.faults.mutation import NUMBERS, UNICODE, inputs, within

Amount = Callable[[int, int], int]
ROOT = Path(__file__).parents[2]

FLOWS = [
    *(path.read_bytes() for path in sorted((ROOT / "examples").rglob("*.yaml"))),
    b"name: w\nsteps:\n  - {name: a, command: echo hi, output: x}\n  - {name: b, command: 'cat {{x}}'}\n",
    b"name: w\ndefaults: &d {model: m, timeout: 1m}\nvars: {v: 1}\nsteps:\n- name: a\n  <<: *d\n  prompt: |\n"
    b"    {% if v %}{{ v }}{% endif %}\n  if: \"{{v}} == '1' and not (2 > 3)\"\n",
    b"---\nname: w\norder: dataflow\nsteps:\n- name: a\n  command: x\n  outputs: [d/f, g]\n  inputs: ['**/*.c']\n"
    b"- name: b\n  command: cat\n  needs: a\n  wait_for: {step: w.a, timeout: 1h30m}\n  env: [HOME]\n---\nname: v\n"
    b"steps: [{name: s, type: llm, prompt: '{{w.a}}', stop: [a, b], seed: 1, cache: {ttl: 1d}}]\n",
]
CONFIGS = [
    b"workflows: [a.yaml]\ncache_dir: x\njobs: 2\nmodels:\n  m: pkg:a/b.gguf\n  n: {path: x.gguf, context: 64}\n",
    b"models: {s: {base_url: 'http://h/v1', api_key_env: KEY, model: q}}\nretries: 3\n",
]
YAML_WORDS = [
    b"&a ", b"*a", b"<<: *a", b"<<: [*a, *a]", b"!!python/object:os.system ", b"!!binary ", b"!x ", b"[", b"]", b"{",
    b"}", b": ", b"- ", b"? ", b"|", b">", b"|2-\n", b"'", b'"', b"#", b"%YAML 1.1\n---\n", b"%TAG ! x:\n", b"---\n",
    b"...\n", b"\n", b"  ", b"~", b"null", b"true", b"{{", b"}}", b"{%", b"%}", b"\\x", b"\\u0000", b"\\ud800", b"=",
    b"name", b"steps", b"command", b"outputs: [../x, /etc/x, .llmc/x]", b"../", b"[" * 100, b"{a: " * 70,
    *NUMBERS, *UNICODE,
]  # fmt: skip


def check_faults(faults: tuple[Fault, ...] | list[Fault], data: bytes) -> None:
    lines = max(data.count(b"\n"), data.replace(b"\r\n", b"\n").count(b"\r") + data.count(b"\n")) + 2
    for fault in faults:
        place = fault.location
        assert place is not None, fault
        assert 1 <= place.line <= lines, (fault, lines)
        assert place.column >= 1, fault
        assert printable(fault.headline) == fault.headline, fault
        assert "\n" not in fault.headline
        assert len(fault.headline) < 2_000


def check_problems(error: TemplateError, text: str) -> None:
    assert error.problems
    assert all(0 <= problem.offset <= len(text) for problem in error.problems)


def check_one_line(error: Exception) -> None:
    assert "\n" not in str(error)


def check_flow(data: bytes, tally: Counter[str]) -> None:
    with within(5, data):
        draft = read(data, "w.yaml")
        check_faults(draft.faults, data)
        tally["with faults" if draft.faults else "workflows"] += 1
        if not draft.faults:
            _, faults = resolve_and_release(list(draft.workflows))
            check_faults(faults, data)
        pieces = split(data)
    if pieces is not None and not draft.faults:
        # an edit reads one piece only: it must find what reading the whole found
        parts = [read(data[start:end], "w.yaml", line) for line, start, end in pieces]
        if not any(part.faults for part in parts):
            assert tuple(one for part in parts for one in part.workflows) == draft.workflows
            tally["read in pieces too"] += 1


@pytest.mark.timeout(300)
def test_workflow_files(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    for data in inputs(chance, FLOWS, YAML_WORDS, amount(1_000, 10_000)):
        check_flow(data, tally)
    assert tally["workflows"] > 10
    assert tally["with faults"] > 10


@pytest.mark.timeout(300)
def test_llmc_yaml(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    for data in inputs(chance, CONFIGS, YAML_WORDS, amount(500, 10_000)):
        site = Site("llmc.yaml")
        with within(5, data):
            read_config(data, site)
        check_faults(site.found, data)
        tally["with faults" if site.found else "configurations"] += 1
    assert min(tally.values()) > 3


# ---------------------------------------------------------------- against another reader


def plain(node: Node) -> Any:
    """A node as PyYAML's BaseLoader gives it: every scalar a text."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Seq):
        return [plain(item) for item in node.items]
    assert isinstance(node, Map)
    return {key: plain(entry.node) for key, entry in node.entries.items()}


def scalars(chance: random.Random) -> str:
    return "".join(
        chance.choice(
            [
                "a",
                "b ",
                "1",
                "-",
                ":",
                " #",
                "'",
                '"',
                "\n",
                "é",
                "{",
                "[",
                "|",
                "\U0001f600",
                "\\",
                "%",
                "\t",
            ]
        )
        for _ in range(chance.randint(0, 12))
    )


def anything(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(5) if depth else 0
    if kind < 3:
        return scalars(chance)
    if kind == 3:
        return [anything(chance, depth - 1) for _ in range(chance.randint(0, 4))]
    return {f"k{i}{scalars(chance)}": anything(chance, depth - 1) for i in range(chance.randint(0, 4))}


@pytest.mark.timeout(300)
def test_valid_documents_mean_what_pyyaml_says(
    amount: Amount, chance: random.Random, tally: Counter[str]
) -> None:
    """Documents that PyYAML wrote, in all its styles, and those of the fuzz that have no fault."""
    base = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    for _ in range(amount(400, 10_000)):
        value = anything(chance, 4)
        text = yaml.safe_dump(
            value,
            default_flow_style=chance.choice([True, False, None]),
            default_style=chance.choice([None, None, "'", '"', "|", ">"]),
            width=chance.choice([20, 80, 1000]),
            allow_unicode=chance.choice([True, False]),
            line_break=chance.choice(["\n", "\r\n"]),
        )
        tags = "!!" in text  # PyYAML writes some, which llmc refuses
        compare(text.encode(), base, tally, must_be_read=not tags)
    for data in inputs(chance, FLOWS, YAML_WORDS, amount(400, 10_000)):
        if b"<<" not in data:  # BaseLoader leaves merge keys as they stand
            compare(data, base, tally)
    assert tally["equal"] > 100


def compare(data: bytes, base: Any, tally: Counter[str], *, must_be_read: bool = False) -> None:
    site = Site("x")
    ours = [plain(node) for node in documents(data, site)]
    if site.found:
        assert not must_be_read or "\t" in data.decode(), (site.found, data)
        tally["refused"] += 1
        return
    theirs = list(yaml.load_all(data.decode("utf-8-sig"), Loader=base))
    assert ours == theirs, data
    tally["equal"] += 1


# ---------------------------------------------------------------- placeholders and conditions

TEMPLATE_WORDS = [
    b"{{", b"}}", b"{{ x }}", b"{{x.y}}", b"{{ '}}' }}", b"{{ x | raw }}", b"| json", b"{{{{", b"'", b'"', b"|", b".",
    b"..", b"x.y.z", b"\\", b"{", b"}", b" ", b"\n", *UNICODE,
]  # fmt: skip


@pytest.mark.timeout(300)
def test_texts_with_placeholders(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    """The parts tile the text; a text without `{{` is itself."""
    seeds = [b"a {{ x }} b {{w.s|trim|json}} {{ '{{' }} c", b'{"a":{{x}}}', b"{{x}}{{y}}"]
    for data in inputs(chance, seeds, TEMPLATE_WORDS, amount(1_000, 10_000)):
        text = data.decode("utf-8", "replace")
        with within(5, data):
            try:
                found = parse(text)
            except TemplateError as error:
                check_problems(error, text)
                tally["refused"] += 1
                continue
        assert "".join(text[start:end] for start, end in found.spans) == text
        assert [start for start, _ in found.spans[1:]] == [end for _, end in found.spans[:-1]]
        assert all(text[ref.start : ref.end].startswith("{{") for ref in found.refs)
        tally["read"] += 1
    assert min(tally["read"], tally["refused"]) > 30


CONDITION_WORDS = [
    b"and", b"or", b"not", b"in", b"==", b"!=", b"<", b">=", b"(", b")", b"[", b"]", b",", b"'a'", b'"b"', b"true",
    b"{{ x }}", b"{{n}}", b"'{{x}}!'", b" ", b"&&", b"=", b"not " * 120, b"(" * 120, *NUMBERS, *UNICODE,
]  # fmt: skip
VALUES = {"x": b" yes \n", "n": b"12.50\n", "empty": b"", "odd": b"' or 'a' == 'a", "bin": b"\xff\x00"}


@pytest.mark.timeout(300)
def test_conditions(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    seeds = [
        b"{{x}} == 'yes' and not ({{n}} > 3 or 'a' in ['b', {{x}}])",
        b"'a' in {{ odd }}",
        b"true",
        b"{{bin}}",
    ]
    for data in inputs(chance, seeds, CONDITION_WORDS, amount(1_000, 10_000)):
        text = data.decode("utf-8", "replace")
        with within(5, data):
            try:
                condition = parse_condition(text)
            except TemplateError as error:
                check_problems(error, text)
                tally["refused"] += 1
                continue
            try:
                answer = condition.evaluate(lambda ref: VALUES.get(ref.names[-1], b"v"))
            except ConditionError as error:
                check_one_line(error)
                tally["undecided"] += 1
            else:
                assert answer in (True, False)
                tally["decided"] += 1
    assert min(tally.values()) > 5


def condition_of(chance: random.Random, depth: int) -> tuple[str, bool]:
    """A condition and what it answers, worked out as it is made and by nothing of llmc."""
    kind = chance.randrange(7) if depth else chance.choice([0, 1, 2, 3])
    if kind == 0:
        name, other = chance.choice(list(VALUES)[:4]), chance.choice(["yes", "12.50", "", "' or 'a' == 'a"])
        quote = '"' if "'" in other else "'"
        return f"{{{{ {name} }}}} == {quote}{other}{quote}", VALUES[name].decode().strip() == other
    if kind == 1:
        sign, test = chance.choice([
            ("<", Decimal.__lt__), (">", Decimal.__gt__), ("<=", Decimal.__le__), (">=", Decimal.__ge__),
            ("==", Decimal.__eq__), ("!=", Decimal.__ne__),
        ])  # fmt: skip
        number = chance.choice(["12.5", "12.50", "1.25e1", "-3", "1e3", "0"])
        return f"{{{{ n }}}} {sign} {number}", bool(test(Decimal("12.50"), Decimal(number)))
    if kind == 2:
        words = [chance.choice(["yes", "no", "a b"]) for _ in range(chance.randint(0, 3))]
        listed = ", ".join(f"'{word}'" for word in words)
        negated = chance.random() < 0.5
        return f"{{{{x}}}} {'not in' if negated else 'in'} [{listed}]", ("yes" in words) != negated
    if kind == 3:
        piece = chance.choice(["e", "yes", "yess", ""])
        return f"'{piece}' in {{{{ x }}}}", piece in "yes"
    if kind == 4:
        text, truth = condition_of(chance, depth - 1)
        return f"not ({text})", not truth
    word = "and" if kind == 5 else "or"
    parts = [condition_of(chance, depth - 1) for _ in range(chance.randint(2, 4))]
    together = all if kind == 5 else any
    return f" {word} ".join(f"({text})" for text, _ in parts), together(truth for _, truth in parts)


def test_conditions_answer_as_a_plain_evaluator(
    amount: Amount, chance: random.Random, tally: Counter[str]
) -> None:
    for _ in range(amount(1_000, 10_000)):
        text, expected = condition_of(chance, 3)
        answer = parse_condition(text).evaluate(lambda ref: VALUES[ref.names[0]])
        assert answer == expected, text
        tally[str(expected)] += 1


# ---------------------------------------------------------------- prompts

PROMPT_WORDS = [
    b"{{ x }}", b"{{ wf.my-step }}", b"{{ x | trim }}", b"{% if x %}", b"{% else %}", b"{% endif %}",
    b"{% for i in range(9) %}", b"{% endfor %}", b"{% set a = x %}", b"{{ a }}", b"{% macro m(n) %}", b"{% endmacro %}",
    b"{{ m(1) }}", b"{% raw %}", b"{% endraw %}", b"{# c #}", b"{%-", b"-%}", b"~ 'a' ", b"| upper ", b"| join(',') ",
    b".split() ", b"[1:3]", b".__class__", b"['__class__']", b"|attr('x')", b"loop.index", b"namespace(a=1)", b"in ", b"is ",
    b"not ", b"+", b"*", b"**", b"%", b"(", b")", b"[", b"]", b",", b"'", b'"', b"{% include 'x' %}", b"{% block b %}",
    b"10**9", b"range(10**9)", b"'a'*10**8", b"|center(10**9)", b"{% call m() %}", b"{% filter upper %}",
    b"{% for i in x.split() recursive %}", b"{{ loop(x) }}", *UNICODE,
]  # fmt: skip
PROMPTS = [
    b"Hello {{ x }}, {{ wf.my-step | trim }}.", b"{% for l in x.split('\n') %}{{ loop.index }}: {{ l|trim }}\n{% endfor %}",
    b"{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    b"{% macro m(n) %}{{ n }}{% if n in [1, 2] %}{{ m(n + 1) }}{% endif %}{% endmacro %}{{ m(1) }}",
    b"{% if 'a' in x and x|length > 2 %}{{ x[1:3] ~ x|upper }}{% elif x is string %}{{ '%s' % x }}{% endif %}",
    b"{% set t %}{{ x }}{% endset %}{{ t|replace('a', 'b')|indent(2) }}{{ [1, 2]|join('-') }}",
]  # fmt: skip


def rendered(text: str, tally: Counter[str]) -> None:
    try:
        prompt = parse_prompt(text)
    except TemplateError as error:
        check_problems(error, text)
        tally["refused"] += 1
        return
    try:
        answer = prompt.render(lambda ref: b"a line\nand another\n" if ref.names[-1] != "bin" else b"\xff")
    except PromptError as error:
        check_one_line(error)
        tally["failed"] += 1
    else:
        assert isinstance(answer, str)
        tally["rendered"] += 1


@pytest.mark.timeout(600)
def test_prompts(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    for data in inputs(chance, PROMPTS, PROMPT_WORDS, amount(1_000, 10_000)):
        with within(10, data):
            rendered(data.decode("utf-8", "replace"), tally)
    assert min(tally["refused"], tally["rendered"]) > 50


def expressions(chance: random.Random, depth: int) -> Iterator[str]:
    """Expressions that parse, so that more of the fuzz gets as far as rendering."""

    def one(depth: int) -> str:
        if depth == 0:
            return chance.choice(
                ["x", "n", "'a'", "3", "0", "[1, x]", "{'a': x}", "range(5)", "1.5", "none", "ns", "big"]
            )
        inner = one(depth - 1)
        match chance.randrange(8):
            case 0:
                return f"({inner} {chance.choice(['+', '-', '*', '//', '%', '**', '~', 'in', 'and', '<', '=='])} {one(depth - 1)})"
            case 1:
                name = chance.choice(sorted(filter_names()))
                args = ", ".join(one(0) for _ in range(chance.randint(0, 2)))
                return f"({inner}|{name}{f'({args})' if args else ''})"
            case 2:
                name = chance.choice(
                    [
                        "split",
                        "replace",
                        "join",
                        "upper",
                        "find",
                        "center",
                        "format",
                        "strip",
                        "rfind",
                        "zfill",
                    ]
                )
                return f"({inner}).{name}({', '.join(one(0) for _ in range(chance.randint(0, 2)))})"
            case 3:
                return f"({inner})[{chance.choice(['0', '1:', '::-1', 'x', '-1', ':10**9'])}]"
            case 4:
                return f"[{inner}, {one(depth - 1)}]"
            case 5:
                return f"({inner} is {chance.choice(['defined', 'string', 'number', 'odd', 'mapping', 'in [1]'])})"
            case 6:
                return f"({inner} if {one(0)} else {one(0)})"
            case _:
                return f"({inner}).{chance.choice(['__class__', '__init__', 'a', 'items', 'get', '_x', 'gi_frame', 'mro'])}"

    while True:
        yield one(depth)


def filter_names() -> frozenset[str]:
    from llmc_build.template.promptblocks import _environment

    return _environment().known_filters


@pytest.mark.timeout(600)
def test_expressions_in_prompts(amount: Amount, chance: random.Random, tally: Counter[str]) -> None:
    head = "{% set n = 7 %}{% set ns = namespace(a=1) %}{% set big = 'ab ' * 200000 %}"
    source = expressions(chance, 3)
    for _ in range(amount(1_000, 10_000)):
        text = f"{head}{{{{ {next(source)} }}}}"
        with within(10, text):
            rendered(text, tally)
    assert min(tally["failed"], tally["rendered"]) > 50
