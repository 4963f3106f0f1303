"""Prompts: what they refer to, what they render to, and that values stay text."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc_build.template import PromptError, Ref, TemplateError, parse, parse_prompt

VALUES: dict[str, bytes] = {
    "x": b"X\n",
    "mode": b"prod\n",
    "notes": b"one\ntwo\n\n",
    "n": b"5\n",
    "i": b"I\n",
    "greeting": b"Hi",
    "my-var": b"mine\n",
    "wf.step": b"Step\n",
    "wf.title": b"Title\n",
    "wf.my-step": b"hyphen\n",
    "2nd.st-ep": b"second\n",
    "bytes": b"ab\xff",
}


def value(ref: Ref) -> bytes:
    return VALUES[ref.text]


def shown(source: str, **values: str) -> str:
    known = {**VALUES, **{name: text.encode() for name, text in values.items()}}
    return parse_prompt(source).render(lambda ref: known[ref.text])


def refs(source: str) -> list[tuple[str, str]]:
    """Each reference, and the text that stands at its place."""
    return [(ref.text, source[ref.start : ref.end]) for ref in parse_prompt(source).refs]


def problems(source: str) -> list[tuple[int, str, str | None]]:
    with pytest.raises(TemplateError) as caught:
        parse_prompt(source)
    return [(problem.offset, problem.message, problem.hint) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        # placeholders
        ("Say {{x}} to {{ wf.step }}.\n", "Say X to Step.\n"),
        ("{{ notes | raw }}|{{ notes | json }}", 'one\ntwo\n\n|"one\\ntwo"'),
        ('{"a":{{ x | json }}}', '{"a":"X"}'),
        ("a } b {{ '{{' }} 100%", "a } b {{ 100%"),
        # blocks
        ("{% if mode == 'prod' %}P {{ x }}{% endif %} {{ wf.step }}\n", "P X Step\n"),
        ("{% for line in notes.splitlines() %}- {{ line }}\n{% endfor %}", "- one\n- two\n"),
        ("{% if n|int > 4 and wf.step != 'a' %}{{ x ~ n }}{% endif %}", "X5"),
        ("{% set a = x ~ '!' %}{{ a }}{{ a | json }}{{ a | raw }}", 'X!"X!"X!'),
        ("{% macro m(q) %}<{{ q }}{{ x }}>{% endmacro %}{{ m(n) }}", "<5X>"),
        ("{% with a = x %}{{ a }}{% endwith %}{# {{ no }} #}", "X"),
        ("{% filter upper %}{{ wf.step }}{% endfilter %}", "STEP"),
        (
            "{% set ns = namespace(n=0) %}{% for c in notes %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "7",
        ),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{{ '{%' }} {% if x %}y{% endif %}", "{% y"),
        ("{{- x -}}  b", "Xb"),
        # expressions
        ("{{ x | lower }}{{ wf.step | length }}", "x4"),
        ("{{ x if mode == 'prod' else n }}", "X"),
        ("{{ wf.step.upper() }} {{ notes.splitlines()[1] }}", "STEP two"),
        ("{{ wf.title | upper }} {{ wf['my-step'] | upper }}", "TITLE HYPHEN"),
        ("{{ notes | raw | length }} {{ notes | trim }}", "9 one\ntwo"),
        # names that Jinja2 does not know
        ("{{ my-var | upper }} {{ 2nd.st-ep }}{% if x %}!{% endif %}", "MINE second!"),
        ("{% if x %}{{ my-var }}{{ wf.my-step | raw }}{% endif %}", "minehyphen\n"),
        # names that the prompt binds
        ("{% for i in range(3) %}{{ i-1 }},{{ loop.index }} {% endfor %}{{ i }}", "-1,1 0,2 1,3 I"),
        ("{{ x }}{% set x = 1 %}{{ x }}", "X1"),
        ("{% if n == '5' %}{% set greeting = 'Yo' %}{% endif %}{{ greeting }}", "Yo"),
        ("{% if n == '6' %}{% set greeting = 'Yo' %}{% endif %}{{ greeting }}", "Hi"),
        ("{% if n == '6' %}{% set a = 1 %}{% else %}{% set a = 2 %}{% endif %}{{ a }}", "2"),
        ("{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}", "12"),
        ("{% macro m() %}{{ greeting }}{% endmacro %}{% set greeting = 'late' %}{{ m() }}", "late"),
    ],
)
def test_what_prompts_render_to(source: str, text: str) -> None:
    assert shown(source) == text


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a {{x}} {{ wf.step | raw }}", [("x", "{{x}}"), ("wf.step", "{{ wf.step | raw }}")]),
        ("{% if mode %}{{ x }}{% endif %}{% if x %}{% endif %}", [("mode", "mode"), ("x", "{{ x }}"), ("x", "x")]),
        ("{{ x ~ x }}\n{% if wf.step %}{% endif %}", [("x", "x"), ("x", "x"), ("wf.step", "wf.step")]),
        ("{% for l in notes.split() %}{{ l }}{% endfor %}{{ my-var|upper }}", [
            ("notes", "notes"), ("my-var", "{{ my-var|upper }}")
        ]),
        ("a\r\n{% if x %}\r\n{{ n }}{% endif %}\r\n", [("x", "x"), ("n", "{{ n }}")]),
        ("{{\n x\n}}{% if x %}{% endif %}\n{{ n }}", [("x", "{{\n x\n}}"), ("x", "x"), ("n", "{{ n }}")]),
        ("{% set x = 1 %}{{ x }}{{ range(3) | list }}", []),
        ("{% raw %}{{ x }}{% endraw %}{# {{ n }} #}", []),
    ],
)  # fmt: skip
def test_references_are_listed_with_their_places(source: str, found: list[tuple[str, str]]) -> None:
    assert refs(source) == found


def test_references_of_a_prompt_are_all_different() -> None:
    """What reads them keeps them in a dict."""
    for source in ("{{x}}{{x}}", "{% if x and x %}{{ x ~ x }}{% endif %}"):
        found = parse_prompt(source).refs
        assert len(set(found)) == len(found)


_END = (
    "Unexpected end of template. Jinja was looking for the following tags: 'elif' or 'else' or 'endif'. "
    "The innermost block that needs to be closed is 'if'"
)
_BLOCK = "{% and {# begin Jinja2 code; for a literal one write {{ '{%' }} or {{ '{#' }}"
_FORM = "write {{ name }} or {{ workflow.step }}; for a literal {{ write {{ '{{' }}"
_PATH = ("the filter `path` works in `command` only", "leave it out: the value itself is used")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a\n\n{% if x %}", [(3, _END, _BLOCK)]),
        ("100 {# of", [(0, "Missing end of comment tag", _BLOCK)]),
        ("{{ foo bar }}", [(0, "`{{ foo bar }}` is not a reference", _FORM)]),
        ("text {{ x", [(5, "`{{` is not closed by `}}`", "for a literal {{ write {{ '{{' }}")]),
        ("{{ x | path }}", [(0, *_PATH)]),
        ("{% if x %}{{ x | path }}{% endif %}", [(10, *_PATH)]),
        ("{{ x | uper }}", [(7, 'unknown filter "uper"', 'did you mean "upper"?')]),
        ("{{ x is deffined }}", [(8, 'unknown test "deffined"', 'did you mean "defined"?')]),
        ("{{ rangee(3) }}", [(3, '"rangee" is not a function', 'did you mean "range"?')]),
        ("{{ x.uper() }}", [(5, 'a text has no method "uper"', 'did you mean "upper"?')]),
        ("{% set q.n = 1 %}", [(7, '"q" is not a namespace', "say {% set q = namespace() %} before")]),
        ("{% if '{{mode}}' == 'prod' %}{% endif %}", [
            (6, "`{{mode}}` stands in quotes inside of Jinja2 code, where it is no placeholder", "write mode")
        ]),
        ("{% include 'a' %}", [(3, "`{% include %}` does not work in a prompt", "a prompt is one text")]),
        ("{{ x | uper }}{% block b %}{% endblock %}", [
            (7, 'unknown filter "uper"', 'did you mean "upper"?'),
            (17, "`{% block %}` does not work in a prompt", "a prompt is one text"),
        ]),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_reported_with_its_place(
    source: str, found: list[tuple[int, str, str | None]]
) -> None:
    assert problems(source) == found


@pytest.mark.parametrize(
    "word", ["import 'a' as b", "from 'a' import b", "extends 'a'", "include 'a'", "block a %}{% endblock"]
)
def test_a_prompt_reads_no_other_text(word: str) -> None:
    assert "does not work in a prompt" in problems(f"{{% {word} %}}")[0][1]


@pytest.mark.parametrize(
    "call", ["[1, 2] | random", "lipsum()", "x | attr('y')", "x | urlize", "now()", "cycler.__init__"]
)
def test_nothing_random_and_nothing_beyond_text_is_to_be_had(call: str) -> None:
    """The same values must make the same prompt."""
    with pytest.raises((TemplateError, PromptError, KeyError)):
        shown(f"{{{{ {call} }}}}")


HOSTILE = [
    "{{ 7*7 }}",
    "{% for i in range(9) %}{% endfor %}",
    "{{ '{{' }}",
    "{#",
    "}}",
    "{{ x }}",
    "<b>&amp;",
    "\x00",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("source", ["{{ x }}", "{% if n %}{{ x }}{% endif %}", "{% set a = x %}{{ a ~ '' }}"])
def test_a_value_is_never_read_as_a_template(source: str, text: str) -> None:
    """A model's answer is data, and another model's prompt is made of it."""
    assert shown(source, x=text) == text


@pytest.mark.parametrize("source", ["{{ bytes }}", "{% if bytes %}{% endif %}"])
def test_a_value_that_is_no_text_is_named(source: str) -> None:
    with pytest.raises(PromptError) as caught:
        shown(source)
    assert str(caught.value) == "the value of bytes is not UTF-8 text (byte 2), and a prompt is text"
    assert caught.value.ref is not None
    assert caught.value.ref.text == "bytes"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{{ 'a' * 10**9 }}", "line 2: the template makes a value of more than 16777216 characters"),
        ("{% for i in range(10**9) %}{% endfor %}", "line 1: the template takes more than 3000000 steps"),
        ("{{ x.splitlines()[5] }}", "line 1: list object has no element 5"),
        ("{{ n + 1 }}", 'line 1: TypeError: can only concatenate str (not "int") to str'),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "line 1: the template is nested too deeply"),
    ],
)
def test_what_goes_wrong_in_rendering_is_one_line_with_its_place(source: str, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        shown(source)
    assert str(caught.value) == message


def test_attributes_of_python_are_out_of_reach() -> None:
    with pytest.raises(PromptError, match="the attribute '__class__' of a str is out of bounds"):
        shown("{% set a = x %}{{ a.__class__ }}")


def test_plain_prompts_do_not_load_jinja2() -> None:
    """Its import costs as much as a thousand targets."""
    code = (
        "import sys; from llmc_build.template import parse_prompt; parse_prompt('{{x}} {{a.b|raw}}');"
        "print('jinja2' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_a_long_prompt_with_blocks_is_read_in_a_moment() -> None:
    source = "{% if x %}" + "{{ x }} and {{ wf.step }} { } text\n" * 2_000 + "{% endif %}"
    started = time.perf_counter()
    assert len(parse_prompt(source).refs) == 4_001
    assert time.perf_counter() - started < 20


def check_problems(error: TemplateError, source: str) -> None:
    assert error.problems
    assert all(0 <= problem.offset <= len(source) for problem in error.problems)


def check_one_line(error: Exception) -> None:
    assert "\n" not in str(error)


PIECES = st.sampled_from(
    ["{{", "}}", "{%", "%}", "{#", "#}", "x", " if ", " for i in ", "endif", "endfor", " set ", "=", "'", ".", "|",
     "upper", "raw", "my-var", "1", "(", ")", "-", "\n", "\r\n", "{% if x %}", "{% endif %}", "{{ x }}", "wf.step"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=2)), max_size=15).map("".join)


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_prompt_or_a_template_error(source: str) -> None:
    try:
        prompt = parse_prompt(source)
    except TemplateError as error:
        check_problems(error, source)
        return
    assert all(0 <= ref.start < ref.end <= len(source) for ref in prompt.refs)
    try:
        prompt.render(lambda _: b"text\n")
    except PromptError as error:
        check_one_line(error)


@given(st.text(), st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_a_prompt_with_blocks_says_what_one_without_says(before: str, text: str, after: str) -> None:
    """`{% if %}` somewhere in a prompt must not change what its placeholders mean."""
    source = f"{before}{{{{ x }}}}{after}"
    try:
        parse(source)
    except TemplateError:
        return
    if any(sign in source for sign in ("{%", "{#", "\r")) or before.endswith("{") or "{{" in before + after:
        return
    clean = text.encode("utf-8", "ignore").decode()
    assert shown(source + "\n{% if false %}{% endif %}", x=clean) == shown(source + "\n", x=clean)


# ---------------------------------------------------------------- against Jinja2 as it is

NAMES = st.sampled_from(["a", "b", "c"])
EXPRESSIONS = st.one_of(
    NAMES,
    st.builds("{} ~ {}".format, NAMES, NAMES),
    st.builds("{} | upper".format, NAMES),
    st.builds("{}.replace('a', {})".format, NAMES, NAMES),
    st.builds("({} if {} == 'A' else {})".format, NAMES, NAMES, NAMES),
    st.sampled_from(["'q'", "'A' ~ 'b'"]),
)


FORMS = [  # N: a name, E: an expression, B: statements
    "{{ E }}",
    "{{ E }}",
    "{% set N = E %}",
    "{% if N == E %}B{% endif %}",
    "{% if N == 'A' %}B{% else %}B{% endif %}",
    "{% if N == 'A' %}B{% elif N == 'B' %}B{% else %}B{% endif %}",
    "{% for N in E %}B{{ loop.index }}{% else %}B{% endfor %}",
    "{% for N in 'xAB' if N != 'x' %}B{% endfor %}",
    "{% with N = E %}B{% endwith %}",
    "{% set N %}B{% endset %}",
    "{% filter lower %}B{% endfilter %}",
    "{% macro m(N) %}B{% endmacro %}{{ m(E) }}",
    "{# N #}-",
]


@st.composite
def templates(draw: st.DrawFn, depth: int = 3) -> str:
    text = ""
    for form in draw(st.lists(st.sampled_from(FORMS if depth else FORMS[:3]), min_size=1, max_size=4)):
        for sign in re.split(r"\b([NEB])\b(?!')", form):
            inner = {"N": NAMES, "E": EXPRESSIONS, "B": templates(depth=depth - 1)}.get(sign, st.just(sign))
            text += draw(inner)
    return text


def or_nothing(call: Callable[[], str]) -> str | None:
    try:
        return call()
    except (jinja2.TemplateError, PromptError, TypeError, KeyError):
        return None


@given(templates())
@settings(max_examples=100, deadline=None)
def test_scopes_are_those_of_jinja2(source: str) -> None:
    """Only the names that Jinja2 itself would look up outside are references, in every place."""
    source = "{% if true %}{% endif %}" + source
    values = {"a": "A", "b": "B", "c": "cab"}
    plain = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    expected = or_nothing(lambda: plain.from_string(source).render(values))
    if expected is not None:
        assert (
            or_nothing(lambda: parse_prompt(source).render(lambda ref: values[ref.text].encode())) == expected
        )
