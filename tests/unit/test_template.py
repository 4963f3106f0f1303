"""Placeholders: what is one, what is not, and what stands for what."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmc_build.template import Ref, Template, TemplateError, apply_filters, parse

PIECES = st.sampled_from(
    [
        "{",
        "{{",
        "}",
        "}}",
        "x",
        "my-var",
        "wf.step",
        "2nd.3rd",
        " ",
        "\n",
        "|",
        "raw",
        "json",
        "'",
        '"',
        "é",
        ".",
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=20).map("".join)


def problems(source: str) -> list[tuple[int, str]]:
    with pytest.raises(TemplateError) as caught:
        parse(source)
    return [(problem.offset, problem.message) for problem in caught.value.problems]


def hints(source: str) -> list[str | None]:
    with pytest.raises(TemplateError) as caught:
        parse(source)
    return [problem.hint for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("", ()),
        ("plain } text }}", ("plain } text }}",)),
        ("{{x}}", (Ref(("x",), (), 0, 5),)),
        ("a {{ wf.step }} b", ("a ", Ref(("wf", "step"), (), 2, 15), " b")),
        ("{{ my-var }}", (Ref(("my-var",), (), 0, 12),)),
        ("{{ 2nd-flow.3rd_step }}", (Ref(("2nd-flow", "3rd_step"), (), 0, 23),)),
        ("{{\n x\t}}", (Ref(("x",), (), 0, 8),)),
        ("{{ x | trim|json }}", (Ref(("x",), ("trim", "json"), 0, 19),)),
        ("{{ x | raw | json | path }}", (Ref(("x",), ("raw", "json", "path"), 0, 27),)),
    ],
)
def test_a_text_is_cut_at_its_placeholders(source: str, parts: tuple[str | Ref, ...]) -> None:
    assert parse(source).parts == parts


def test_a_reference_has_the_text_that_messages_show() -> None:
    assert [ref.text for ref in parse("{{ a.b | raw }}{{ c }}").refs] == ["a.b", "c"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ '{{' }}", "{{"),
        ('{{ "}}" }}', "}}"),
        ("{{ 'it\"s' }}", 'it"s'),
        (r"{{ '\n' }}", r"\n"),
        ("{{''}}", ""),
    ],
)
def test_a_quoted_placeholder_is_its_own_text(source: str, text: str) -> None:
    """It is the only way to write a literal `{{`, so nothing in it may be an escape."""
    assert parse(source).parts == (text,)


@pytest.mark.parametrize("source", ['{"a":{{x}}}', "{{{x}}}", '{"a":{"b":{{ x }}}}', "${{ x }}"])
def test_braces_around_a_placeholder_are_text(source: str) -> None:
    """JSON with values in it is the commonest prompt there is."""
    template = parse(source)
    assert [ref.text for ref in template.refs] == ["x"]
    assert rejoined(template) == source


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a {{ x", [(2, "`{{` is not closed by `}}`")]),
        ("{{ {{x}}", [(0, "`{{` is not closed by `}}`")]),
        ("{{ }}", [(0, "an empty placeholder `{{ }}`")]),
        ("{{ foo bar }}", [(0, "`{{ foo bar }}` is not a reference")]),
        ("{{ x.upper() }}", [(0, "`{{ x.upper() }}` is not a reference")]),
        ("{{ naïve }}", [(0, "`{{ naïve }}` is not a reference")]),
        ("{{ 9 }}", [(0, "`{{ 9 }}` is not a reference")]),
        ("{{ x | jsn }}", [(7, 'unknown filter "jsn"')]),
        ("{{ x | raw | trim }}", [(0, "the filters `raw` and `trim` exclude each other")]),
        ("{{ x | json | raw }}", [(0, "the filters are in the wrong order")]),
        ("{{ x | trim | trim }}", [(0, "a filter is given twice")]),
        ("{{ a b }} {{ c }} {{", [(0, "`{{ a b }}` is not a reference"), (18, "`{{` is not closed by `}}`")]),
    ],
)
def test_every_wrong_placeholder_is_named_with_its_place(source: str, found: list[tuple[int, str]]) -> None:
    assert problems(source) == found


def test_a_problem_says_how_to_write_it() -> None:
    assert hints("{{ x | jsn }}") == ['did you mean "json"?']
    assert hints("{{ x | json | raw }}") == ["write {{ x | raw | json }}"]
    assert hints("a {{") == ["for a literal {{ write {{ '{{' }}"]


def rejoined(template: Template) -> str:
    """The source from the parts: verbatim texts as they are, the rest by their spans."""
    pieces = []
    for part, (start, end) in zip(template.parts, template.spans, strict=True):
        verbatim = isinstance(part, str) and len(part) == end - start
        pieces.append(part if verbatim and isinstance(part, str) else template.source[start:end])
        if isinstance(part, Ref):
            assert (part.start, part.end) == (start, end)
    return "".join(pieces)


def check_problems(error: TemplateError, source: str) -> None:
    assert error.problems
    assert all(0 <= problem.offset <= len(source) for problem in error.problems)


@given(TEXTS)
@example("{{ '{{' }}{{x}}}")
@settings(max_examples=400, deadline=None)
def test_the_parts_of_any_text_tile_it(source: str) -> None:
    """What is no placeholder stays byte for byte; nothing but TemplateError escapes."""
    try:
        template = parse(source)
    except TemplateError as error:
        check_problems(error, source)
        return
    assert rejoined(template) == source
    ends = [0, *(end for _, end in template.spans)]
    assert [start for start, _ in template.spans] == ends[:-1]
    assert ends[-1] == len(source)


@pytest.mark.parametrize(
    "unit", ["{{", "{{ '", "{{ x }", "{{ a.b", "{{ x | json | ", "{{ \"{{ '", "}} {{ x y", "{{ x" + " " * 50]
)
def test_a_hostile_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    source = unit * (200_000 // len(unit))
    started = time.perf_counter()
    with pytest.raises(TemplateError):
        parse(source)
    assert time.perf_counter() - started < 10  # quadratic time would be minutes


@pytest.mark.parametrize(
    ("filters", "value", "result"),
    [
        ((), b" a\n\n", b" a"),
        ((), b"a\r\n", b"a\r"),  # as $(...) has it
        ((), b"\n", b""),
        (("raw",), b"a\n\n", b"a\n\n"),
        (("trim",), b"\t a b\r\n ", b"a b"),
        (("json",), b'say "hi"\n\xc3\xa9\n', '"say \\"hi\\"\\né"'.encode()),
        (("raw", "json"), b"a\n", b'"a\\n"'),
        (("path",), b"a\n", b"a\n"),  # a file holds the value byte for byte
        (("json", "path"), b"a\n", b'"a"'),  # unless a filter says otherwise
        ((), b"\xff\x00\n", b"\xff\x00"),
    ],
)
def test_filters(filters: tuple[str, ...], value: bytes, result: bytes) -> None:
    assert apply_filters(value, filters) == result


def test_json_of_bytes_that_are_no_text_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"^the value is not UTF-8 \(byte 2\), so JSON can't hold it$"):
        apply_filters(b"ab\xff", ("json",))


@given(st.text())
def test_json_gives_back_the_text(text: str) -> None:
    value = text.encode("utf-8", "ignore")
    assert json.loads(apply_filters(value, ("raw", "json"))) == value.decode()
