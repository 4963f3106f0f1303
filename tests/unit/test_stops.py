"""Stop strings in a stream of bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.llm.stops import StopMatcher


def run(stops: list[str], pieces: list[bytes]) -> tuple[bytes, bool]:
    matcher = StopMatcher(stops)
    out = b"".join(matcher.feed(piece) for piece in pieces)
    return out + matcher.flush(), matcher.stopped


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "stopped"),
    [
        ([], [b"one", b" two"], b"one two", False),
        (["END"], [b"one E", b"N", b"D two"], b"one ", True),
        (["END"], [b"one E", b"N", b"EN"], b"one ENEN", False),
        (["END"], [b"ENEND"], b"EN", True),
        (["\n\n"], [b"a\n", b"b\n", b"\nc"], b"a\nb", True),
        (["abcd", "bc"], [b"abcd"], b"a", True),  # "bc" is complete first
        (["bc", "abc"], [b"xabc"], b"x", True),  # complete together: the longest
        ([""], [b"abc"], b"abc", False),
        (["ß"], [b"a\xc3", b"\x9fb"], b"a", True),
    ],
)
def test_text_is_cut_before_the_stop_string(
    stops: list[str], pieces: list[bytes], text: bytes, stopped: bool
) -> None:
    assert run(stops, pieces) == (text, stopped)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    """The answer is streamed: nothing may wait longer than it must."""
    matcher = StopMatcher(["abab", "xyz"])
    assert [matcher.feed(data) for data in (b"1ab", b"a", b"c", b"xy", b"xy")] == [
        b"1",
        b"",
        b"abac",
        b"",
        b"xy",
    ]


def test_nothing_is_given_out_after_a_stop_string() -> None:
    matcher = StopMatcher(["."])
    assert matcher.feed(b"one. two") == b"one"
    assert (matcher.feed(b" three"), matcher.flush()) == (b"", b"")


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    text=st.text("abc", max_size=24),
    cuts=st.sets(st.integers(0, 24)),
)
def test_the_result_does_not_depend_on_how_tokens_cut_the_text(
    stops: list[str], text: str, cuts: set[int]
) -> None:
    data = text.encode()
    borders = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(borders)]
    assert run(stops, pieces) == run(stops, [data])
    assert run(stops, [data])[1] == any(stop in text for stop in stops)
