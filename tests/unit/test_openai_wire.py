"""Bodies, replies, refusals, waits and limits: the pure half of type `llm`."""

from __future__ import annotations

import contextlib
import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.llm import bodies, openai
from llmc_build.llm.openai import Answer, Failure
from llmc_build.llm.patience import GiveUp, Limiter, Patience
from llmc_build.llm.talk import Ask

NOW = 1_700_000_000.0
KEY = "sk-0123456789abcdefghijkl"
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
FORM = bodies.Form(stream=False)


def reply(**changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
    whole: dict[str, Any] = {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    return {**whole, **changes}


def read(body: Any, *, chat: bool = True) -> Answer:
    return openai.read_reply(json.dumps(body).encode(), chat=chat, secret=KEY)


def failing(body: bytes, *, chat: bool = True) -> Failure:
    with pytest.raises(Failure) as caught:
        openai.read_reply(body, chat=chat, secret=KEY)
    return caught.value


# ---------------------------------------------------------------- asking


def test_a_prompt_is_not_sent_to_a_server_that_nobody_has_named() -> None:
    """Without a key it could only be refused, after five tries."""
    asked: dict[str, Any] = {
        "base_url": openai.DEFAULT_BASE_URL,
        "model": "m",
        "api_key_env": "OPENAI_API_KEY",
    }
    with pytest.raises(ValueError, match="no server is named, and OPENAI_API_KEY is not set: "):
        Ask.of(asked, {})
    assert Ask.of(asked, {"OPENAI_API_KEY": KEY}).key == KEY
    assert Ask.of({**asked, "base_url": "http://localhost:8000/v1"}, {}).key is None


def test_a_body_holds_what_is_set_and_nothing_else() -> None:
    """Servers refuse fields they don't know, so an unset extension must not be sent, not even as null."""
    sampling: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 0.0,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "repeat_penalty": None,
        "seed": 0,
        "stop": [],
    }
    body = bodies.completion(
        form=FORM, model="m", messages=MESSAGES, prompt=None, chat=True, sampling=sampling
    )
    assert body == (
        b'{"model":"m","stream":false,"messages":[{"role":"user","content":"hi"}],"max_tokens":5,'
        b'"temperature":0.0,"seed":0}'
    )


def test_extensions_and_stops_are_sent_when_set() -> None:
    sampling: dict[str, Any] = {"top_k": 4, "min_p": 0.1, "repeat_penalty": 1.1, "top_p": 0.9, "stop": ["\n"]}
    body = json.loads(
        bodies.completion(form=FORM, model="m", messages=[], prompt="once", chat=False, sampling=sampling)
    )
    assert body == {"model": "m", "prompt": "once", "stream": False, **sampling}


def test_equal_requests_have_equal_bytes_whatever_the_order_of_their_fields() -> None:
    one = bodies.completion(
        form=FORM, model="m", messages=MESSAGES, prompt=None, chat=True, sampling={"seed": 1, "top_p": 1.0}
    )
    two = bodies.completion(
        form=FORM, model="m", messages=MESSAGES, prompt=None, chat=True, sampling={"top_p": 1.0, "seed": 1}
    )
    assert one == two


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("HTTP://LocalHost:8000//", "http://localhost:8000"),
        (" http://[::1]:80/V1 ", "http://[::1]:80/V1"),
    ],
)
def test_one_server_has_one_address(given: str, normal: str) -> None:
    """The address enters the key: a trailing slash must not run anything again."""
    assert openai.normal_base_url(given) == normal


@pytest.mark.parametrize(
    "address",
    [
        "",
        "api.openai.com/v1",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        "http://[::1/v1",
        "https://user:hunter2hunter2@host/v1",
        "http://host/v1?api-version=1",
        "http://host/v1#x",
        "http://ho st/v1",
        "http://host/\x01",
    ],
)
def test_what_is_no_address_is_refused_in_one_line_without_its_password(address: str) -> None:
    with pytest.raises(ValueError) as caught:
        openai.normal_base_url(address)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()


# ---------------------------------------------------------------- reading


def test_a_reply_gives_its_text_and_counts() -> None:
    assert read(reply()) == Answer(text="yes", finish="stop", prompt_tokens=3, generated_tokens=1)


def test_a_completion_is_read_from_text() -> None:
    assert read({"choices": [{"text": "", "finish_reason": "length"}]}, chat=False) == Answer(
        text="", finish="length"
    )


@pytest.mark.parametrize(
    "usage", [None, 3, [], {}, {"prompt_tokens": True, "completion_tokens": -1}, {"prompt_tokens": "7"}]
)
def test_counts_that_make_no_sense_are_left_out(usage: Any) -> None:
    """Usage is an ornament: a server that gets it wrong has still answered."""
    found = read(reply(usage=usage))
    assert (found.text, found.prompt_tokens, found.generated_tokens) == ("yes", None, None)


@pytest.mark.parametrize(
    "body",
    [
        [],
        "yes",
        7,
        {},
        {"choices": {}},
        {"choices": []},
        {"choices": ["yes"]},
        {"choices": [{"text": "for the other endpoint"}]},
        {"choices": [{"message": "yes"}]},
        {"choices": [{"message": {"content": None, "tool_calls": []}, "finish_reason": "tool_calls"}]},
        {"choices": [{"message": {"content": ["yes"]}}]},
        {"choices": [{"message": {"content": "yes"}, "finish_reason": 1}]},
        {"choices": [{"message": {"content": "\ud800"}}]},
        {"choices": [{"message": {"content": "no"}, "finish_reason": "content_filter"}]},
        {"error": {"message": "no such model"}},
    ],
)
def test_json_of_another_shape_fails_and_is_not_asked_for_again(body: Any) -> None:
    assert not failing(json.dumps(body).encode()).retryable


@pytest.mark.parametrize(
    "body", [b"", b'{"choices": [', b"<html>", b"\xff\xfe", b"[" * 200_000, b"9" * 10_000]
)
def test_what_is_not_whole_json_is_asked_for_again(body: bytes) -> None:
    found = failing(body)
    assert (found.retryable, found.text) == (True, "sent a reply that isn't whole JSON")


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "error", "usage"]), inner, max_size=3
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_an_answer_or_a_failure(body: bytes) -> None:
    """A hostile server must not be able to raise anything else inside the worker."""
    with contextlib.suppress(Failure):
        assert isinstance(openai.read_reply(body, chat=True).text, str)
    assert openai.refusal(429, body, now=NOW).text.startswith("answered 429")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    assert openai.refusal(status, b"", now=NOW).retryable


@pytest.mark.parametrize("status", [301, 308, 400, 401, 403, 404, 405, 413, 422])
def test_a_status_that_would_come_again_is_final(status: int) -> None:
    assert not openai.refusal(status, b"", now=NOW).retryable


def test_an_empty_account_is_final_though_it_is_a_429() -> None:
    body = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    found = openai.refusal(429, body, now=NOW, retry_after="1")
    assert (found.retryable, found.text) == (False, "answered 429: You exceeded your current quota")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": {"message": "too long"}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"detail": [{"loc": ["body"], "msg": "bad"}]}', '[{"loc": ["body"], "msg": "bad"}]'),
        (b'{"message": "too long"}', "too long"),
        (b"\x1b[31mtoo\r\n\tlong\x00", "[31mtoo long"),
        ("to\u202eo l\u200bong".encode(), "too long"),
        (b"x" * 5000, "x" * 299 + "…"),
        (b"\xff", "\ufffd"),
        (f"bad key {KEY}!".encode(), "bad key ***!"),
        (f"bad key {KEY[:9]}\x00{KEY[9:]}!".encode(), "bad key ***!"),
    ],
)
def test_a_servers_words_are_shown_bounded_and_harmless(body: bytes, text: str) -> None:
    """They end up on a terminal and in records, so they carry no control characters and no key."""
    assert openai.refusal(400, body, now=NOW, secret=KEY).text == f"answered 400: {text}"


@given(st.integers(0, 6000), st.integers(0, 40), st.integers(10, 400))
def test_no_part_of_a_key_is_left_at_a_cut(before: int, zeros: int, limit: int) -> None:
    """A cut through the key would hide it from the search for it."""
    shown = openai.clean("\0" * before + "." * zeros + KEY * 3 + "tail " * 9000, KEY, limit=limit)
    assert KEY[:4] not in shown
    assert len(shown) <= limit


def test_a_redirect_is_named_and_not_followed() -> None:
    found = openai.refusal(307, b"", now=NOW, location="http://evil.example/v1")
    assert found.text == (
        "answered 307, a redirect to http://evil.example/v1; llmc follows no redirect: set base_url to the "
        "right address"
    )


def test_a_wrong_path_is_named() -> None:
    found = openai.refusal(404, b'{"detail":"Not Found"}', now=NOW, asked="/chat/completions")
    assert found.text == "answered 404 for /chat/completions: Not Found"


# ---------------------------------------------------------------- waiting


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("-1", None),
        ("nan", None),
        ("1e9", None),
        ("soon", None),
        ("", None),
        ("9" * 400, None),
        ("²", None),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("Tue, 14 Nov 2023 22:13:40 -0000", 20.0),
        ("Tue, 14 Nov 99999 22:13:40 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert openai.parse_retry_after(value, now=NOW) == seconds


def longest(low: float, high: float) -> float:
    return high


def busy(asked_s: float | None = None) -> Failure:
    return Failure("answered 429", retryable=True, overloaded=True, asked_s=asked_s)


def test_waits_double_up_to_a_cap() -> None:
    patience = Patience(tries=10, base_s=0.5, cap_s=3.0)
    waits = [patience.wait_s(busy(), tried=n, left_s=None, uniform=longest) for n in range(1, 6)]
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_wait_is_drawn_from_its_whole_range() -> None:
    """Full jitter: 64 steps refused together must not come back together."""
    asked: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.25

    assert Patience(base_s=0.5).wait_s(busy(), tried=2, left_s=None, uniform=draw) == 0.25
    assert asked == [(0.0, 1.0)]


@pytest.mark.parametrize(
    ("asked_s", "left_s"), [(0.0, None), (7.0, None), (600.0, None), (7.0, 8.0), (3600.0, 3601.0)]
)
def test_what_the_server_asks_for_is_waited(asked_s: float, left_s: float | None) -> None:
    assert Patience().wait_s(busy(asked_s), tried=1, left_s=left_s, uniform=longest) == asked_s
    assert Patience().pause_s(busy(asked_s), 1, left_s=left_s) == max(asked_s, 0.05)


@pytest.mark.parametrize(
    ("failure", "tried", "left_s", "text"),
    [
        (Failure("answered 400", retryable=False), 1, None, ""),
        (busy(), 5, None, " (5 tries)"),
        (busy(120.0), 1, 30.0, "; it asks to wait 120 s, and 30 s are left of the step's timeout"),
        (
            busy(601.0),
            1,
            None,
            "; it asks to wait 601 s: a step waits that long where it has a `timeout` that is longer",
        ),
        (busy(), 3, 0.1, "; the step's timeout leaves no time for another try (3 so far)"),
    ],
)
def test_giving_up_says_why(failure: Failure, tried: int, left_s: float | None, text: str) -> None:
    with pytest.raises(GiveUp) as caught:
        Patience().wait_s(failure, tried=tried, left_s=left_s, uniform=longest)
    assert str(caught.value) == text


def test_tries_that_only_came_too_early_may_be_left_out() -> None:
    assert Patience(tries=3).wait_s(busy(2.0), tried=9, counted=2, left_s=None, uniform=longest) == 2.0
    with pytest.raises(GiveUp, match="9 tries"):
        Patience(tries=3).wait_s(busy(2.0), tried=9, counted=3, left_s=None, uniform=longest)


@pytest.mark.parametrize(
    ("asked_s", "in_vain", "pause_s"),
    [
        (2.0, 1, 2.0),
        (0.0, 1, 0.05),
        (0.0, 2, 0.5),
        (0.0, 4, 2.0),
        (3.0, 4, 3.0),
        (590.0, 1, 590.0),
        (900.0, 1, 0.0),
        (9.0, 5, 0.0),
    ],
)
def test_a_pause_is_what_is_asked_for_and_grows_in_vain(asked_s: float, in_vain: int, pause_s: float) -> None:
    assert Patience(tries=5, base_s=0.5).pause_s(busy(asked_s), in_vain, left_s=None) == pause_s


# ---------------------------------------------------------------- limits


def full(limiter: Limiter) -> list[int]:
    """Fills every place; the tickets."""
    tickets = []
    while limiter.room:
        tickets.append(limiter.enter())
    return tickets


def test_every_answer_of_a_full_server_allows_one_more_until_it_refuses() -> None:
    limiter = Limiter(start=2, most=64)
    for ticket in full(limiter):
        limiter.leave(ticket, answered=True, overloaded=False)
        limiter.enter()
    assert limiter.limit == 3  # the second answer left a place free, so it proved nothing
    for _ in range(200):
        full(limiter)
        limiter.leave(0, answered=True, overloaded=False)
    assert limiter.limit == 64


def test_a_round_of_refusals_halves_once() -> None:
    """Sixty refusals of one burst say one thing; halving for each would bring every burst down to 1."""
    limiter = Limiter(start=32, most=64)
    for ticket in full(limiter):
        limiter.leave(ticket, answered=False, overloaded=True)
    assert (limiter.limit, limiter.active) == (16, 0)


def test_the_limit_never_falls_below_one_and_grows_by_one_a_round_afterwards() -> None:
    limiter = Limiter(start=8, most=64)
    for _ in range(10):
        limiter.leave(limiter.enter(), answered=False, overloaded=True)
    assert limiter.limit == 1
    limiter.leave(limiter.enter(), answered=True, overloaded=False)
    assert limiter.limit == 2
    for _ in range(2):
        full(limiter)
        limiter.leave(10, answered=True, overloaded=False)
    assert limiter.limit == 3


def test_a_failure_that_is_not_load_changes_nothing() -> None:
    limiter = Limiter(start=4)
    for ticket in full(limiter):
        limiter.leave(ticket, answered=False, overloaded=False)
    assert limiter.limit == 4
