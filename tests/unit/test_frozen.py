"""`frozen` against what dataclasses makes of the same class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from llmc_build.frozen import frozen

Decorator = Callable[[type], type]


def _usual(cls: type) -> type:
    return dataclasses.dataclass(frozen=True, slots=True)(cls)


@pytest.fixture(params=[frozen, _usual], ids=["frozen", "dataclass"])
def decorator(request: pytest.FixtureRequest) -> Decorator:
    return request.param  # type: ignore[no-any-return]


def _point(decorator: Decorator) -> Any:
    class Point:
        x: int
        y: int = 2
        note: str = dataclasses.field(default="", compare=False, repr=False)
        total: int = dataclasses.field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "total", self.x + self.y)

    return decorator(Point)


def test_values_of_equal_fields_are_equal_and_one_key(decorator: Decorator) -> None:
    point = _point(decorator)
    assert point(1) == point(x=1, y=2, note="another")
    assert point(1) != point(2)
    assert {point(1), point(1, 2), point(1, 3)} == {point(1), point(1, 3)}


def test_values_of_two_classes_are_never_equal(decorator: Decorator) -> None:
    class One:
        x: int

    class Other:
        x: int

    one, other = decorator(One), decorator(Other)
    assert one(1) == one(1)
    assert one(1) != other(1)
    assert one(1) != 1
    assert one(1) != (1,)


def test_they_are_shown_by_their_fields(decorator: Decorator) -> None:
    point = _point(decorator)
    assert repr(point(1)).endswith("Point(x=1, y=2, total=3)")


def test_they_can_be_changed_in_a_copy(decorator: Decorator) -> None:
    assert dataclasses.replace(_point(decorator)(1), x=5).total == 7


def test_they_have_slots(decorator: Decorator) -> None:
    assert not hasattr(_point(decorator)(1), "__dict__")


def test_a_class_without_fields(decorator: Decorator) -> None:
    class Nothing:
        pass

    nothing = decorator(Nothing)
    assert nothing() == nothing()
    assert hash(nothing()) == hash(nothing())


def test_what_a_class_has_of_its_own_stays() -> None:
    @frozen
    class Name:
        text: str

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Name) and self.text.lower() == other.text.lower()

        def __hash__(self) -> int:
            return hash(self.text.lower())

        def __repr__(self) -> str:
            return self.text

    assert Name("A") == Name("a")
    assert {Name("A"), Name("a")} == {Name("a")}
    assert repr(Name("A")) == "A"


def test_fields_can_be_by_name_only() -> None:
    @frozen(kw_only=True)
    class Size:
        width: int = 1
        height: int

    assert Size(height=2) == Size(width=1, height=2)
    with pytest.raises(TypeError):
        Size(1, 2)  # type: ignore[misc]
