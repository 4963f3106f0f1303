"""Conditions: what they mean, what is refused, and that a value is never read as one."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc_build.template import Condition, ConditionError, Ref, TemplateError, parse_condition

VALUES = {
    "mode": "production\n",
    "other": "staging",
    "n": "7\n",
    "pi": " 3.14 ",
    "no": "No\n",
    "zero": "0",
    "false": "false",
    "empty": "\n",
    "list": "a b c",
    "wf.step": "yes",
}


def holds(source: str, **values: str) -> bool:
    known = {**VALUES, **values}
    return parse_condition(source).evaluate(lambda ref: known[ref.text].encode("utf-8", "surrogateescape"))


def problems(source: str) -> list[tuple[int, str, str | None]]:
    with pytest.raises(TemplateError) as caught:
        parse_condition(source)
    return [(problem.offset, problem.message, problem.hint) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("source", "truth"),
    [
        # text
        ("{{mode}} == 'production'", True),
        ("'{{mode}}' == 'production'", True),
        ('{{ mode }} != "production"', False),
        ("{{mode}} == ' production '", True),  # white space around a string does not count
        ("{{mode}} == 'Production'", False),
        ("'{{mode}}-{{other}}' == 'production-staging'", True),
        ("{{ wf.step }} == 'yes'", True),
        ("{{ '{{' }} == '{{ '{{' }}'", True),
        # numbers
        ("{{n}} == 7", True),
        ("{{n}} == 7.0", True),
        ("{{n}} == '7.0'", False),
        ("{{n}} == {{pi}}", False),
        ("{{n}} > 6 and {{n}} >= 7 and {{n}} < 7.5 and {{n}} <= 7e0", True),
        ("{{pi}} < {{n}}", True),
        ("{{n}} != -7", True),
        ("0.1 == 0.10", True),
        ("{{mode}} == 7", False),
        # in
        ("'b' in {{list}}", True),
        ("{{mode}} in ['staging', 'production']", True),
        ("{{mode}} not in ['staging', 'production',]", False),
        ("{{n}} in [1, 7.0]", True),
        ("{{n}} in []", False),
        ("not 'z' in {{list}}", True),
        # standing alone
        ("{{mode}}", True),
        ("{{empty}}", False),
        ("{{no}} or {{zero}} or {{false}}", False),
        ("true and not false", True),
        ("1 and not 0", True),
        ("{{false}} == false", True),
        ("'TRUE' == true", True),
        # shape
        ("not {{mode}} == 'staging'", True),
        ("true or false and false", True),
        ("(true or false) and false", False),
        ("({{n}} == 7) == true", True),
        ("not not true", True),
    ],
)
def test_what_conditions_mean(source: str, truth: bool) -> None:
    assert holds(source) is truth


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", [(0, "the condition is empty", "leave `if` out, or write `true`")]),
        (
            "{{mode}} == production",
            [(12, "unknown word `production`", "quote text: 'production'; a value is written {{ production }}")],
        ),
        ("{{a}} && {{b}}", [(6, "`&&` is not an operator here", "write `and`")]),
        ("{{a}} || !{{b}}", [
            (6, "`||` is not an operator here", "write `or`"),
            (9, "`!` is not an operator here", "write `not`"),
        ]),
        ("{{a}} = 'b'", [(6, "`=` is not an operator here", "write `==`")]),
        ("{{a}} AND {{b}}", [(6, "unknown word `AND`", "write `and`")]),
        ("{{a}} == 'b", [(9, "a string is not closed by '", None)]),
        ("{{a}} {{b}}", [(6, "expected `and`, `or` or the end before `{{b}}`", None)]),
        ("{{a}} ==", [(8, "expected a value, a quoted text, a number or `(` at the end", None)]),
        ("({{a}}", [(6, "expected `)` at the end", None)]),
        ("1 < {{a}} < 3", [(10, "a comparison has two sides", "join comparisons with `and`")]),
        ("{{a}} == ['b']", [(9, "a list stands to the right of `in` only", None)]),
        ("'b' in 5", [(7, "`in` looks into text or a list", None)]),
        ("'b' in ['a' 'b']", [(12, "expected `,` or `]` before `'b'`", None)]),
        (
            "{{ mode == 'x' }}",
            [(0, "`{{ mode == 'x' }}` is not a reference", "only a name goes into {{ }}: {{ name }} == 'text'")],
        ),
        ("{{a | path}} == 'b'", [
            (0, "the filter `path` works in `command` only", "leave it out: the value itself is used")
        ]),
        ("(" * 101 + "1" + ")" * 101, [(101, "the condition is nested more than 100 deep", None)]),
    ],
)  # fmt: skip
def test_what_does_not_parse_is_an_error_and_never_false(
    source: str, found: list[tuple[int, str, str | None]]
) -> None:
    assert problems(source) == found


def test_every_wrong_word_is_reported_at_once() -> None:
    assert [offset for offset, _, _ in problems("{{ a b }} == x && 'y' = z")] == [0, 13, 15, 22, 24]


def test_references_are_listed_with_their_places() -> None:
    source = "{{ a }} == 'x {{ b.c | trim }}'"
    refs = parse_condition(source).refs
    assert [source[ref.start : ref.end] for ref in refs] == ["{{ a }}", "{{ b.c | trim }}"]
    assert [ref.names for ref in refs] == [("a",), ("b", "c")]


def test_comparing_what_is_no_number_is_an_error_that_shows_both_sides() -> None:
    """A step that should not have run must not be skipped quietly, nor run."""
    with pytest.raises(ConditionError) as caught:
        holds("{{mode}} > 5")
    assert str(caught.value) == (
        "`if` can't be decided: 'production' > '5' compares numbers, and 'production' is none"
    )
    assert (caught.value.left, caught.value.right) == ("production", "5")


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "٣", "0x10", "1e9999999999999", ""])
def test_what_only_python_takes_for_a_number_is_none(text: str) -> None:
    with pytest.raises(ConditionError):
        holds("{{n}} < 5", n=text)
    assert not holds("{{n}} == 16", n=text)


def test_json_of_a_value_that_is_no_text_fails_the_condition() -> None:
    with pytest.raises(ConditionError, match="not UTF-8"):
        holds("{{n | json}} == 'x'", n="\udcff")


def test_bytes_that_are_no_text_are_compared_as_they_are() -> None:
    assert holds("{{a}} == {{b}}", a="\udcff", b="\udcff\n")
    assert not holds("{{a}} == {{b}}", a="\udcff", b="\udcfe")


def test_what_the_answer_does_not_depend_on_is_not_read() -> None:
    def value(ref: Ref) -> bytes:
        assert ref.text == "a"
        return b"yes"

    assert parse_condition("{{a}} or {{b}}").evaluate(value)


HOSTILE = [
    "' or '1'=='1",
    "production' or 'a' == 'a",
    "x\" or true or \"",
    "{{mode}}",
    "{{ '{{' }}",
    "true or true",
    ") or (true",
    "not",
    "]",
    "\x00",
    "__import__('os').system('touch /tmp/canary')",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "source", ["'{{x}}' == 'secret'", '"{{x}}" == "secret"', "{{x}} == 'secret'", "{{x}} in ['secret', 's']"]
)
def test_a_value_is_never_part_of_the_expression(source: str, value: str) -> None:
    """Whatever a model says, it can't decide more than its own comparison."""
    assert holds(source, x=value) is False
    assert holds(f"not ({source})", x=value) is True


@given(st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_two_values_are_equal_exactly_when_their_texts_are(left: str, right: str) -> None:
    a, b = (text.encode("utf-8", "ignore").decode() for text in (left, right))
    for source in ("{{a}} == {{b}}", "'{{a}}' == '{{b}}'"):
        assert holds(source, a=a, b=b) is (a.strip() == b.strip())
    assert holds("{{a}} in {{b}}", a=a, b=b) is (a.strip() in b.strip())


@given(st.integers(), st.integers(), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
def test_numbers_compare_as_numbers_do(left: int, right: int, sign: str) -> None:
    """Exactly, however many digits there are."""
    expected = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
    truth = expected[sign](left, right) if sign in expected else left != right
    assert holds(f"{{{{a}}}} {sign} {right}", a=str(left)) is truth


def check_problems(error: TemplateError, source: str) -> None:
    assert error.problems
    assert all(0 <= problem.offset <= len(source) for problem in error.problems)


def check_one_line(error: Exception) -> None:
    assert "\n" not in str(error)


WORDS = st.sampled_from(
    [
        "{{a}}",
        "'x'",
        '"{{b}}"',
        "5",
        "and",
        "or",
        "not",
        "in",
        "==",
        "<",
        "(",
        ")",
        "[",
        "]",
        ",",
        "true",
        "{{",
        "'",
    ]
)


@given(st.lists(st.one_of(WORDS, st.text(max_size=2)), max_size=12).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_condition_or_a_template_error(source: str) -> None:
    try:
        condition: Condition = parse_condition(source)
    except TemplateError as error:
        check_problems(error, source)
        return
    try:
        assert condition.evaluate(lambda _: b"5") in (True, False)
    except ConditionError as error:
        check_one_line(error)


def test_a_condition_of_many_parts_is_no_deep_one() -> None:
    assert holds(" and ".join(["{{mode}} == 'production'"] * 5000))
