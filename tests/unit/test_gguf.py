"""The header of a GGUF file, and what hostile ones can't do."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc_build.llm import gguf
from llmc_build.llm.gguf import Description, GgufError, describe, read_values


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + body


ENTRIES = [
    entry("general.architecture", 8, text("llama")),
    entry("general.name", 8, text("Tiny")),
    entry("general.file_type", 4, struct.pack("<I", 15)),
    entry("tokenizer.ggml.tokens", 9, array(8, 2, text("a") + text("bc"))),
    entry("tokenizer.ggml.scores", 9, array(6, 3, struct.pack("<3f", 1, 2, 3))),
    entry("llama.rope.scale", 6, struct.pack("<f", 0.5)),
    entry("tokenizer.ggml.add_bos_token", 7, b"\1"),
    entry("llama.context_length", 4, struct.pack("<I", 2048)),
]


def header(entries: list[bytes], *, version: int = 3, count: int | None = None) -> bytes:
    number = len(entries) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", version, 7, number) + b"".join(entries)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


@pytest.mark.parametrize("buffer", [8, 13, 64, 1 << 18])
def test_a_vocabulary_is_passed_over_wherever_its_reading_is_cut(
    file: Path, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "_BUFFER", buffer)
    words = [b"x" * (number * 7 % 40) for number in range(100)]
    tokens = b"".join(struct.pack("<Q", len(word)) + word for word in words)
    more = [entry("tokenizer.ggml.tokens", 9, array(8, len(words), tokens)), *ENTRIES[-2:]]
    file.write_bytes(header([*ENTRIES[:2], *more]) + b"weights")
    assert read_values(file)["llama.context_length"] == 2048
    for wrong in (struct.pack("<Q", 1 << 40), struct.pack("<Q", 1 << 23)):
        file.write_bytes(header([*ENTRIES[:2], entry("a", 9, array(8, 101, tokens + wrong))]))
        with pytest.raises(GgufError):
            read_values(file)
    whole = header([*ENTRIES[:2], *more])
    for end in range(len(whole) - 300, len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(GgufError):
            read_values(file)


def test_single_values_are_read_and_arrays_passed_over(file: Path) -> None:
    file.write_bytes(header(ENTRIES))
    assert describe(file) == Description(
        name="Tiny", architecture="llama", context=2048, quantisation="Q4_K_M"
    )
    values = read_values(file)
    assert values["tokenizer.ggml.add_bos_token"] is True
    assert values["llama.rope.scale"] == 0.5
    assert "tokenizer.ggml.tokens" not in values


def test_a_file_that_says_little_is_described_by_what_it_says(file: Path) -> None:
    file.write_bytes(header([entry("general.file_type", 4, struct.pack("<I", 999))]))
    assert describe(file) == Description(quantisation="type 999")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a GGUF file: it does not begin with the letters GGUF"),
        (b"PK\3\4 and more", "not a GGUF file: it does not begin with the letters GGUF"),
        (header([], version=1), "GGUF version 1, where 2 or 3 can be read"),
        (header(ENTRIES)[:-1], "the file ends within its header: it is cut off or damaged"),
        (header(ENTRIES)[:150], "the file ends within its header: it is cut off or damaged"),
        (
            header([], count=1 << 60),
            "the header is damaged: 1152921504606846976 entries, where 4096 is the limit",
        ),
        (
            header([struct.pack("<Q", 1 << 62)]),
            "the header is damaged: 4611686018427387904 bytes of a string, where 16777216 is the limit",
        ),
        (header([entry("k", 13, b"")]), "the header is damaged: no value is of type 13"),
        (
            header([entry("k", 9, array(9, 1, b""))]),
            "the header is damaged: no array has elements of type 9",
        ),
        (
            header([entry("k", 9, array(12, 1 << 24, b""))]),
            "the file ends within its header: it is cut off or damaged",
        ),
    ],
)
def test_what_is_no_header_is_refused_with_the_reason(file: Path, data: bytes, message: str) -> None:
    file.write_bytes(data)
    with pytest.raises(GgufError) as error:
        describe(file)
    assert str(error.value) == message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(at=st.integers(4, len(header(ENTRIES)) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_is_read_or_refused_but_never_more(file: Path, at: int, byte: int) -> None:
    """Model files come from strangers: a listing of them must neither fail otherwise nor hang."""
    data = bytearray(header(ENTRIES))
    data[at] = byte
    file.write_bytes(data)
    with contextlib.suppress(GgufError):
        describe(file)
