"""Reaching into JSON values: what a path leads to, and what a schema says of it before there is a value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.jsonpath import PathError, extract, text_of, why_not
from llmc_build.placeholder import parse

VALUE = b'{"name": "Ada\\n", "items": [{"n": 1.50}, {"n": "two"}], "big": 123456789012345678901234567890, "no": null}'


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (("name",), "Ada\n"),
        (("items", 0, "n"), "1.50"),
        (("items", -1, "n"), "two"),
        (("items",), '[{"n": 1.50}, {"n": "two"}]'),
        (("big",), "123456789012345678901234567890"),
        (("no",), "null"),
        ((), VALUE.decode().replace("\\n", "\\n")),
    ],
)
def test_strings_are_themselves_and_anything_else_is_json_as_it_was_written(
    path: tuple[Any, ...], found: str
) -> None:
    assert extract(VALUE, path) == found.encode()


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        (VALUE, ("nam",), 'the value has no field "nam"; it has name, items, big, no'),
        (VALUE, ("items", 2), "the value.items has no entry 2; it has 2"),
        (VALUE, ("items", -3), "the value.items has no entry -3; it has 2"),
        (VALUE, ("items", "n"), 'the value.items is a list and has no field "n": [{"n": 1.50}, {"n": "two"}]'),
        (VALUE, ("name", 0), "the value.name is a string and has no entry 0: \"Ada\\n\""),
        (VALUE, ("no", "x"), 'the value.no is null and has no field "x": null'),
        (b"plain words", ("x",), "the value is not JSON (Expecting value, line 1, column 1): plain words"),
        (b"", ("x",), "the value is not JSON: it is empty"),
        (b"[NaN]", (0,), "the value is not JSON: it holds NaN"),
        (b"\xff", (0,), "the value is not JSON: it is not UTF-8"),
        (b'["\\ud800"]', (0,), "the value holds half a surrogate pair, which is no text"),
        (b"[" * 100_000, (0,), "the value is nested too deeply"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_said_in_one_line(value: bytes, path: tuple[Any, ...], why: str) -> None:
    with pytest.raises(PathError) as caught:
        extract(value, path)
    assert str(caught.value) == why


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aü\n"\\'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc-1", max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values, st.data())
def test_what_is_found_is_what_python_finds(value: Any, data: st.DataObject) -> None:
    path: list[str | int] = []
    inside = value
    while isinstance(inside, dict | list) and inside and data.draw(st.booleans()):
        part = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        path.append(part)
        inside = inside[part]
    found = extract(json.dumps(value).encode(), tuple(path)).decode()
    assert found == inside if isinstance(inside, str) else json.loads(found) == inside


parts = st.one_of(st.integers(-99, 99), st.text("abcXYZ012-_ .é", min_size=1, max_size=6))


@given(st.lists(parts, min_size=1, max_size=5))
def test_a_path_is_read_as_it_is_written(path: list[str | int]) -> None:
    (ref,) = parse(f"{{{{ name{text_of(tuple(path))} }}}}").refs
    assert (*ref.names[1:], *ref.path) == tuple(path)
    assert ref.text == f"name{text_of(tuple(path))}"


# ---------------------------------------------------------------- schemas

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "maxItems": 3, "items": {"type": "string"}},
        "pair": {"prefixItems": [{"type": "string"}, {"type": "object", "additionalProperties": False}], "items": False},
        "self": {"$ref": "#"},
        "friend": {"$ref": "#/$defs/friend"},
        "either": {"anyOf": [{"type": "string"}, {"properties": {"x": {}}, "additionalProperties": False}]},
        "fixed": {"enum": [{"a": 1}, "b"]},
        "open": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
    "patternProperties": {"^x-": {"type": "integer"}},
    "additionalProperties": False,
    "$defs": {"friend": {"type": ["object", "null"], "properties": {"age": {}}, "additionalProperties": False}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "possible"),
    [
        (("name",), True),
        (("nam",), False),
        (("name", "x"), False),
        (("name", 0), False),
        (("tags", 2), True),
        (("tags", 3), False),
        (("tags", -3), True),
        (("tags", -4), False),
        (("tags", 0, "x"), False),
        (("pair", 0), True),
        (("pair", 1, "x"), False),
        (("pair", 2), False),
        (("pair", -1), True),
        (("self", "self", "name"), True),
        (("self", "self", "nam"), False),
        (("friend", "age"), True),
        (("friend", "name"), False),
        (("friend", 0), False),
        (("either", "x"), True),
        (("either", "y"), False),
        (("fixed", "a"), True),
        (("fixed", "b"), False),
        (("open", "b", 3), True),
        (("open", "a", 3), False),
        (("x-1",), True),
        (("x-1", "y"), False),
    ],
)
def test_a_schema_says_what_can_not_be_there(path: tuple[Any, ...], possible: bool) -> None:
    assert (why_not(PERSON, path) is None) == possible


def test_a_schema_that_goes_round_in_circles_says_nothing() -> None:
    assert why_not({"$ref": "#"}, ("x",)) is None
    assert why_not({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, ("x",)) is None


@given(json_values, st.lists(parts, min_size=1, max_size=3))
def test_what_a_value_has_is_never_denied(value: Any, path: list[str | int]) -> None:
    """A schema made from a value by its types: what is in the value must be possible."""
    try:
        extract(json.dumps(value).encode(), tuple(path))
    except PathError:
        return
    assert why_not(described(value), tuple(path)) is None


def described(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        inner = {name: described(item) for name, item in value.items()}
        return {"type": "object", "properties": inner, "additionalProperties": False}
    if isinstance(value, list):
        return {"type": "array", "prefixItems": [described(item) for item in value], "maxItems": len(value)}
    return {"const": value}
