"""What a GGUF file says of itself: architecture, context, quantisation.

Owns a reader of the header's single values, for listings and for messages.  Loading a model is llama.cpp's
work; nothing here decides whether it can.  The file may come from anywhere, so every count and length is
bounded before it is used, and a file that goes beyond raises GgufError.

Format: "GGUF", version u32 (2 or 3), tensors u64, entries u64; an entry is a key, a type u32, a value.  A
string is its length u64 and its bytes; an array is a type u32, a count u64 and the elements.  Everything is
little-endian.  (github.com/ggml-org/ggml, docs/gguf.md)
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NoReturn

from llmc_build.frozen import frozen

_MAX_ENTRIES = 4096
_MAX_STRING = 1 << 24  # bytes; chat templates can be long
_MAX_ARRAY = 1 << 24  # elements
_MAX_HEADER = 1 << 28  # bytes of all entries together
_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_SIZE = 8  # bytes of the size of a string
_BYTES = "bytes of a string"
_BUFFER = 1 << 18  # bytes of strings that are read at a time
_CUT_OFF = "the file ends within its header: it is cut off or damaged"

_QUANTISATIONS = {  # general.file_type, numbered as `enum llama_ftype` of llama.h
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

Value = str | int | float | bool


class GgufError(Exception):
    """Not a GGUF file, or one whose header can't be read.  One line."""


@frozen(kw_only=True)
class Description:
    """What is known of a model file; None where it does not say."""

    name: str | None = None
    architecture: str | None = None
    context: int | None = None  # tokens it was trained for
    quantisation: str | None = None  # of most of its weights


def describe(path: Path) -> Description:
    """Reads a model's description.  Raises GgufError, and OSError where the file can't be read."""
    values = read_values(path)
    architecture = values.get("general.architecture")
    context = values.get(f"{architecture}.context_length")
    kind = values.get("general.file_type")
    name = values.get("general.name")
    return Description(
        name=name if isinstance(name, str) else None,
        architecture=architecture if isinstance(architecture, str) else None,
        context=context if isinstance(context, int) else None,
        quantisation=_QUANTISATIONS.get(kind, f"type {kind}") if isinstance(kind, int) else None,
    )


def read_values(path: Path) -> dict[str, Value]:
    """Every entry of the header that is a single value; arrays are passed over."""
    with open(path, "rb") as file:
        return _Reader(file).values()


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._left = _MAX_HEADER

    def values(self) -> dict[str, Value]:
        if self._file.read(4) != b"GGUF":
            raise GgufError("not a GGUF file: it does not begin with the letters GGUF")
        version = self._whole("<I")
        if version not in (2, 3):
            raise GgufError(f"GGUF version {version}, where 2 or 3 can be read")
        self._whole("<Q")  # tensors
        entries = self._bounded("<Q", _MAX_ENTRIES, "entries")
        found: dict[str, Value] = {}
        for _ in range(entries):
            key = self._string().decode("utf-8", "replace")
            kind = self._whole("<I")
            if kind == _ARRAY:
                self._skip_array()
            else:
                found[key] = self._value(kind)
        return found

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string().decode("utf-8", "replace")
        value: Value = self._number(kind)
        return value

    def _number(self, kind: int) -> int | float | bool:
        code = _NUMBERS.get(kind)
        if code is None:
            raise GgufError(f"the header is damaged: no value is of type {kind}")
        (value,) = struct.unpack(code, self._take(struct.calcsize(code)))
        assert isinstance(value, int | float)
        return value

    def _skip_array(self) -> None:
        kind = self._whole("<I")
        count = self._bounded("<Q", _MAX_ARRAY, "elements of an array")
        if kind == _STRING:
            self._skip_strings(count)
        elif kind in _NUMBERS:
            self._skip(count * struct.calcsize(_NUMBERS[kind]))
        else:
            raise GgufError(f"the header is damaged: no array has elements of type {kind}")

    def _skip_strings(self, count: int) -> None:
        """Passes over so many strings: a vocabulary has a hundred thousand."""
        size_at = struct.Struct("<Q").unpack_from
        data, at = b"", 0
        while count:
            try:
                (size,) = size_at(data, at)
            except struct.error:  # the next size is not in the buffer
                self._skip(max(0, at - len(data)))
                rest = data[at:]
                data, at = rest + self._take_some(_BUFFER), 0
                if len(data) < _SIZE:
                    raise GgufError(_CUT_OFF) from None
                continue
            if size > _MAX_STRING:
                self._refuse(size, _MAX_STRING, _BYTES)
            at += _SIZE + size
            count -= 1
        if at > len(data):
            self._skip(at - len(data))
        else:
            self._left += len(data) - at
            self._file.seek(at - len(data), os.SEEK_CUR)

    def _take_some(self, most: int) -> bytes:
        data = self._file.read(most)
        self._spend(len(data))
        return data

    def _string(self) -> bytes:
        return self._take(self._string_size())

    def _string_size(self) -> int:
        return self._bounded("<Q", _MAX_STRING, _BYTES)

    def _bounded(self, code: str, most: int, what: str) -> int:
        number = self._whole(code)
        if number > most:
            self._refuse(number, most, what)
        return number

    def _refuse(self, number: int, most: int, what: str) -> NoReturn:
        raise GgufError(f"the header is damaged: {number} {what}, where {most} is the limit")

    def _whole(self, code: str) -> int:
        (number,) = struct.unpack(code, self._take(struct.calcsize(code)))
        return int(number)

    def _take(self, size: int) -> bytes:
        self._spend(size)
        data = self._file.read(size)
        if len(data) < size:
            raise GgufError(_CUT_OFF)
        return data

    def _skip(self, size: int) -> None:
        self._spend(size)
        if self._file.seek(size, os.SEEK_CUR) > self._size:
            raise GgufError(_CUT_OFF)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise GgufError(f"the header is damaged: more than {_MAX_HEADER} bytes")
