"""Limits on what is read and rendered, and that honest work stays far from them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from jinja2 import nodes

from llmc_build import api
from llmc_build.errors import WorkflowError
from llmc_build.template import PromptError, TemplateError, parse, parse_condition, parse_prompt
from llmc_build.template import jinjaprices as prices
from llmc_build.template.jinjabox import TEXT_METHODS
from tests.conftest import Space


def rendered(source: str, **values: str) -> str:
    return parse_prompt(source).render(lambda ref: values[ref.names[-1]].encode())


def test_a_loop_over_ten_thousand_lines_is_ordinary() -> None:
    source = (
        "{% for l in x.split('\n') %}{% if l|trim and 'skip' not in l %}{{ loop.index }}: {{ l|trim|upper }}"
        "{% set words = l.split() %} ({{ words|length }})\n{% endif %}{% endfor %}"
    )
    text = rendered(source, x="some words of a line\n" * 10_000)
    assert text.count("\n") == 10_000
    assert text.startswith("1: SOME WORDS OF A LINE (5)\n")


HOSTILE = {
    "a body that does much": "{% for i in range(2900000) %}{% if " + " and ".join(["i"] * 200) + " %}{% endif %}{% endfor %}",
    "a search backwards": "{% set t = 'a' * 4000000 %}{{ t.rfind('ab' ~ 'a' * 2000000) }}",
    "searches": "{% set t = 'a' * 29000 %}{% set n = 'a' * 50 ~ 'b' ~ 'a' * 48 %}{% for i in range(99999) %}"
    "{% set z = t.count(n) %}{% endfor %}",
    "in": "{% set t = 'a' * 29000 %}{% set n = 'a' * 50 ~ 'b' ~ 'a' * 48 %}{% for i in range(99999) %}"
    "{% if n in t %}{% endif %}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a filtered loop": "{% for i in range(2900000) if i.a.b.c.d.e %}{% endfor %}",
    "wrapping": "{{ ('\t' * 1000000)|wordwrap(1) }}",
    "stripping": "{{ ('b' * 4000000).strip('c' * 4000000 ~ 'b') }}",
    "attributes": "{% set d = [dict(a=1)] * 20000 %}{{ d|map(attribute='" + "a." * 20000 + "a')|list|length }}",
    "slices": "{% set t = 'a' * 8000000 %}{% set n = namespace(l=[]) %}{% for i in range(1000) %}"
    "{% set n.l = n.l + [t[1:]] %}{% endfor %}",
    "numbers": "{% set n = namespace(x=3) %}{% for i in range(99999) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "much code": "{% if x %}" * 40_000,
}  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_prompt_is_refused_within_seconds(source: str) -> None:
    began = time.process_time()
    with pytest.raises((PromptError, TemplateError), match="more than|too large"):
        rendered(source, x="x")
    assert time.process_time() - began < 15  # two where nothing else runs


def test_every_method_of_a_text_pays_for_a_long_one() -> None:
    """What is as fast as copying is paid by weighing; of everything else a megabyte costs."""
    for name in TEXT_METHODS - prices._FAST:
        assert prices.of_method(name, "a" * 1_000_000, []) > 10_000, name
    assert prices.of_method("rfind", "a" * 1_000_000, ["b" * 1_000_000]) > 10**8
    assert prices.of_method("strip", "a" * 1_000_000, ["b" * 1_000_000]) > 10**8


def test_code_is_paid_by_what_is_in_it() -> None:
    lookups = [nodes.Getattr(nodes.Name("a", "load"), "b", "load") for _ in range(100)]
    assert prices.of_code(lookups) >= 100
    assert prices.of_code([]) == 0


def test_the_faults_of_one_text_are_bounded() -> None:
    with pytest.raises(TemplateError) as caught:
        parse("{{ " * 100_000)
    assert len(caught.value.problems) < 200
    with pytest.raises(TemplateError, match="more than 100,000 placeholders"):
        parse("{{ a }}" * 100_001)
    assert len(parse("{{ a }}" * 1_000).refs) == 1_000
    with pytest.raises(TemplateError, match="longer than 1,000,000 characters"):
        parse_condition("true and " * 200_000 + "true")


FLOW = "name: w\nsteps:\n  - {{name: a, command: x, outputs: [{}]}}\n  - {{name: m, type: llm, prompt_file: p.txt}}\n"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("w.yaml", 'step "a" writes w.yaml, which is a workflow file'),
        ("P.TXT", 'step "a" writes P.TXT, which is part of a step'),
        ("store/cas/x", 'step "a" writes store/cas/x, which lies in the store'),
        ("STORE", 'step "a" writes STORE, which lies in the store'),
        ("LLMC.yaml", "is llmc's configuration"),
        (".git/hooks/x", "lies in .git, where git keeps its own"),
        ('"\u00e9", "e\u0301"', "twice"),
        ("a" * 256, "is too long"),
        ("a/" * 1_600 + "b", "is too long"),
    ],
)
def test_an_output_is_a_file_of_its_own(space: Space, output: str, message: str) -> None:
    space.write("llmc.yaml", "cache_dir: store\n")
    space.write("p.txt", "Hello")
    space.write("w.yaml", FLOW.format(output))
    with pytest.raises(WorkflowError) as caught:
        api.validate(["w.yaml"], workspace=space.root)
    assert message in caught.value.render()
    space.write("w.yaml", FLOW.format("stored/x, git, w.yaml.txt"))
    assert api.validate(["w.yaml"], workspace=space.root) == (1, 2)


def test_two_steps_do_not_write_one_name_in_two_forms(space: Space) -> None:
    """macOS takes them for one file, and gives one of them the content of the other."""
    space.write("w.yaml", "name: w\nsteps:\n  - {name: a, command: x, outputs: [\u00e9]}\n"
                "  - {name: b, command: x, outputs: [e\u0301]}\n")  # fmt: skip
    with pytest.raises(WorkflowError, match="a file has one step that writes it"):
        api.validate(["w.yaml"], workspace=space.root)


def test_more_faults_than_anybody_reads_are_counted(space: Space) -> None:
    space.write(
        "w.yaml", f"name: w\nsteps:\n  - {{name: a, command: x, wait_for: [{','.join(['b'] * 1_500)}]}}\n"
    )
    with pytest.raises(WorkflowError) as caught:
        api.validate(["w.yaml"], workspace=space.root)
    assert len(caught.value.faults) == 1_001
    assert "500 more mistakes are not told" in caught.value.render()


def test_a_folder_as_a_workflow_or_a_configuration_is_told(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").mkdir()
    with pytest.raises(WorkflowError, match="is a folder"):
        api.validate([tmp_path / "w.yaml"], workspace=tmp_path)
