"""The decoder of records: what was encoded comes back, everything else is a miss."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc_build.model import ActionResult, Digest, OutputFile
from llmc_build.store.cas import digest_of
from llmc_build.store.record import Record, RecordError, decode, encode

KEY = "ab" * 32
VALUE, ERRORS = b"the value\n", b""
LARGE = Digest(hash="cd" * 32, size=5000)

RECORD = Record(
    key=KEY,
    components={"rule": "shell", "values": ["é", "\udcff", None, 1.5, {"x": True}]},
    result=ActionResult(
        value=digest_of(VALUE),
        stderr=digest_of(ERRORS),
        outputs=(OutputFile(path="a/b.txt", digest=LARGE, executable=True),),
        provenance={"wall_s": 0.25},
    ),
    created=1_700_000_000.5,
)
CONTENTS = {digest_of(VALUE).hash: VALUE, digest_of(ERRORS).hash: ERRORS}
BYTES = encode(RECORD, CONTENTS)


def with_header(body: bytes) -> bytes:
    return b"llmc-record/1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def changed(**fields: Any) -> bytes:
    """The record with other fields, and a right checksum: as one who means harm would write it."""
    document = json.loads(BYTES.partition(b"\n")[2])
    for name, value in fields.items():
        inner = document
        *path, last = name.split("__")
        for part in path:
            inner = inner[int(part) if part.isdigit() else part]
        inner[last] = value
    return with_header(json.dumps(document).encode())


def test_a_record_comes_back() -> None:
    assert decode(KEY, BYTES) == (RECORD, CONTENTS)


def test_the_bytes_are_as_specified() -> None:
    """Byte for byte what `cache/README.md` says, so that another program can read and write them."""
    head, _, body = BYTES.partition(b"\n")
    assert head == b"llmc-record/1 " + hashlib.sha256(body).hexdigest().encode()
    document = json.loads(body)
    assert body == json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert document == {
        "key": KEY,
        "components": RECORD.components,
        "created": 1_700_000_000.5,
        "result": {
            "value": {"hash": digest_of(VALUE).hash, "size": 10},
            "stderr": {"hash": digest_of(b"").hash, "size": 0},
            "exit_code": 0,
            "outputs": [{"path": "a/b.txt", "executable": True, "hash": LARGE.hash, "size": 5000}],
            "provenance": {"wall_s": 0.25},
        },
        "contents": {
            digest_of(VALUE).hash: base64.b64encode(VALUE).decode(),
            digest_of(b"").hash: "",
        },
    }


def test_a_record_of_another_key_is_a_miss() -> None:
    """A row moved to another key, checksum and all."""
    assert decode("cd" * 32, BYTES) is None


ODD = {
    "key": [None, KEY.upper(), "cd" * 32, 1],
    "components": [None, [], "x"],
    "created": [None, -1, True, "now", 1e999],
    "contents": [None, {}, {LARGE.hash: ""}, {digest_of(VALUE).hash: ["x"], digest_of(b"").hash: ""}],
    "result": [None, {}, []],
    "extra": [1],
    "result__extra": [1],
    "result__exit_code": [None, "0", 0.0, True, 10**30],
    "result__provenance": [None, []],
    "result__value": [None, {}, {"hash": KEY}, {"hash": KEY, "size": 1, "x": 1}],
    "result__value__size": [-1, 11, 10.0, True, 2**63, None],
    "result__value__hash": ["", "../" * 21 + "x", KEY.upper(), None, KEY, "ab" * 31 + "a\n"],
    "result__outputs": [None, {}, [None], [{}], [{"path": "a"}]],
    "result__outputs__0__executable": [None, 1, "true"],
    "result__outputs__0__size": [10, -1],
    "result__outputs__0__path": [
        "", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "./a", "a//b", "a/", "a\0b", ".", None, 1, "\ud800",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ODD.items() for value in values]
)
def test_an_odd_record_with_a_right_checksum_is_a_miss(name: str, value: object) -> None:
    assert changed() != BYTES  # not canonical, yet it is read: what counts is what it says
    assert decode(KEY, changed()) == (RECORD, CONTENTS)
    assert decode(KEY, changed(**{name: value})) is None


def test_a_content_that_is_not_what_its_hash_says_is_a_miss() -> None:
    wrong = {digest_of(VALUE).hash: base64.b64encode(b"other val\n").decode(), digest_of(b"").hash: ""}
    assert decode(KEY, changed(contents=wrong)) is None


def test_an_output_twice_is_a_miss() -> None:
    output = {"path": "a", "executable": False, "hash": LARGE.hash, "size": 5000}
    assert decode(KEY, changed(result__outputs=[output])) is not None
    assert decode(KEY, changed(result__outputs=[output, output])) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"NaN", b"{", b"[" * 100_000, b"1" * 10_000, b"\xff", b'{"a":NaN}', b'{"a":1e999}'],
)
def test_json_that_is_no_record_is_a_miss(body: bytes) -> None:
    assert decode(KEY, with_header(body)) is None


def test_a_number_beyond_all_bounds_is_a_miss() -> None:
    """JSON can spell what it can't hold: it would be read as infinity, which is no JSON."""
    body = BYTES.partition(b"\n")[2].replace(b'"wall_s":0.25', b'"wall_s":1e999')
    assert decode(KEY, with_header(body)) is None


def test_every_flipped_bit_is_a_miss() -> None:
    for at in range(len(BYTES)):
        flipped = bytearray(BYTES)
        flipped[at] ^= 1 << at % 8
        assert decode(KEY, bytes(flipped)) is None


def test_every_cut_is_a_miss() -> None:
    assert all(decode(KEY, BYTES[:length]) is None for length in range(len(BYTES)))
    assert decode(KEY, BYTES + b"\n") is None


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_a_miss(data: bytes) -> None:
    assert decode(KEY, data) is None
    assert decode(KEY, with_header(data)) is None


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A record in which one value somewhere became another, under a right checksum."""
    document = json.loads(BYTES.partition(b"\n")[2])
    inner = document
    while True:
        keys = range(len(inner)) if isinstance(inner, list) else sorted(inner)
        if not keys:
            break
        key = draw(st.sampled_from(list(keys)))
        if not isinstance(inner[key], dict | list) or draw(st.booleans()):
            inner[key] = draw(json_values)
            break
        inner = inner[key]
    return with_header(json.dumps(document).encode())


@given(mutated())
@settings(max_examples=500, deadline=None)
def test_a_mutated_record_is_a_miss_or_a_record_that_would_be_written(data: bytes) -> None:
    """Whatever is accepted can be encoded again and means the same."""
    found = decode(KEY, data)
    if found is not None:
        record, contents = found
        assert decode(KEY, encode(record, contents)) == found


digest_strategy = st.one_of(
    st.binary(max_size=40).map(lambda data: (digest_of(data), data)),
    st.builds(lambda h, s: (Digest(hash=h.hex(), size=s), None), st.binary(min_size=32, max_size=32), st.integers(4097, 2**62)),
)  # fmt: skip


@given(
    st.lists(digest_strategy, min_size=2, max_size=5, unique_by=lambda pair: pair[0].hash),
    st.dictionaries(st.text(max_size=9), json_values, max_size=4),
    st.floats(0, 1e12),
    st.integers(-255, 255),
    st.dictionaries(st.sampled_from(["wall_s", "tokens", "\x7f\u2028é"]), json_values),
)
@settings(max_examples=300, deadline=None)
def test_every_record_comes_back(
    found: list[Any], components: Any, created: float, code: int, provenance: Any
) -> None:
    contents = {digest.hash: data for digest, data in found if data is not None}
    value, stderr, *rest = [digest for digest, _ in found]
    outputs = tuple(OutputFile(path=f"out/{i}", digest=digest) for i, digest in enumerate(rest))
    result = ActionResult(value=value, stderr=stderr, outputs=outputs, exit_code=code, provenance=provenance)
    record = Record(key=KEY, components=components, result=result, created=created)
    data = encode(record, contents)
    assert decode(KEY, data) == (record, contents)
    body = data.partition(b"\n")[2]
    assert body == json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    ready = replace(record, text=json.dumps(components, sort_keys=True, separators=(",", ":")))
    assert encode(ready, contents) == data


def test_what_the_decoder_would_refuse_is_not_written() -> None:
    bad = OutputFile(path="../x", digest=LARGE)
    result = ActionResult(value=digest_of(VALUE), stderr=digest_of(ERRORS), outputs=(bad,))
    with pytest.raises(RecordError):
        encode(Record(key=KEY, components={}, result=result, created=0.0), CONTENTS)
    with pytest.raises(RecordError):
        encode(Record(key=KEY, components={"x": float("nan")}, result=RECORD.result, created=0.0), CONTENTS)
    with pytest.raises(KeyError):
        encode(RECORD, {})
