"""What the action cache holds for one key, and its bytes.

Owns: `Record`, its encoding, and the strict decoder.  Not: where the bytes are kept.

The bytes are one line, `llmc-record/1 SHA256-OF-THE-REST`, and then canonical JSON (sorted keys, no
white space, ASCII); `cache/README.md` has every field.  Contents of at most `INLINE` bytes stand in the
record itself; larger ones are blobs.

The decoder takes bytes from outside.  It gives a record only where everything is as the encoder would
have written it, and None otherwise: no flipped bit, no wrong type, and no path that leaves the workspace
gets further.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llmc_build.model import ActionResult, Digest, Json, OutputFile
from llmc_build.store.cas import is_hash

INLINE = 4096  # bytes; contents up to this size are kept in the record

_MAGIC = b"llmc-record/1 "
_HEAD = len(_MAGIC) + 64 + 1
_MAX_SIZE = 2**63
_FIELDS = {"components", "contents", "created", "key", "result"}
_RESULT = {"exit_code", "outputs", "provenance", "stderr", "value"}
_OUTPUT = {"executable", "hash", "path", "size"}
_DIGEST = {"hash", "size"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one action gave, and what its key was made of."""

    key: str  # 64 hex digits
    components: Mapping[str, Json]  # the key is the hash of their encoding (`keys`)
    result: ActionResult
    created: float  # unix seconds


class RecordError(ValueError):
    """A record that can't be written: a key, a path or a number that the format does not allow."""


def digests(result: ActionResult) -> Iterator[Digest]:
    """Every content that a result refers to; one that occurs twice comes twice."""
    yield result.value
    yield result.stderr
    for output in result.outputs:
        yield output.digest


def encode(record: Record, contents: Mapping[str, bytes]) -> bytes:
    """The bytes of a record.  `contents`: the small contents by hash (others are passed over).

    Raises RecordError where the decoder would not take it, KeyError where a small content lacks.
    """
    small = {d.hash for d in digests(record.result) if d.size <= INLINE}
    document = {
        "key": record.key,
        "components": record.components,
        "created": record.created,
        "result": _result_json(record.result),
        "contents": {name: binascii.b2a_base64(contents[name], newline=False).decode() for name in small},
    }
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        _read(record.key, document)
    except (ValueError, TypeError) as error:
        raise RecordError(f"a record can't be stored: {error}") from error
    body = text.encode("ascii")
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(key: str, data: bytes) -> tuple[Record, dict[str, bytes]] | None:
    """The record stored under a key and its small contents by hash; None where anything is odd."""
    body = data[_HEAD:]
    if data[:_HEAD] != _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n":
        return None
    try:
        return _read(key, _PARSER.decode(body.decode("ascii")))
    except (ValueError, RecursionError):  # what json raises, and _OddError
        return None


class _OddError(ValueError):
    """Something is not as the encoder would have written it."""


def _refuse(name: str) -> object:
    raise _OddError(name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999
        raise _OddError(text)
    return number


_PARSER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _result_json(result: ActionResult) -> dict[str, object]:
    return {
        "value": {"hash": result.value.hash, "size": result.value.size},
        "stderr": {"hash": result.stderr.hash, "size": result.stderr.size},
        "exit_code": result.exit_code,
        "outputs": [
            {
                "path": output.path,
                "executable": output.executable,
                "hash": output.digest.hash,
                "size": output.digest.size,
            }
            for output in result.outputs
        ],
        "provenance": result.provenance,
    }


def _fields(value: object, names: set[str]) -> dict[str, object]:
    if type(value) is not dict or value.keys() != names:
        raise _OddError(f"fields other than {sorted(names)}")
    return value


def _read(key: str, document: object) -> tuple[Record, dict[str, bytes]]:
    top = _fields(document, _FIELDS)
    created, components = top["created"], top["components"]
    if not is_hash(key) or top["key"] != key:
        raise _OddError(f"not the key {key!r}")
    if type(created) not in (int, float) or not (0 <= created < math.inf):  # type: ignore[operator]
        raise _OddError("created is no time")
    if not isinstance(components, Mapping):
        raise _OddError("components is no object")
    result = _read_result(top["result"])
    contents = _read_contents(top["contents"], result)
    record = Record(key=key, components=components, result=result, created=created)  # type: ignore[arg-type]
    return record, contents


def _read_result(value: object) -> ActionResult:
    fields = _fields(value, _RESULT)
    code, outputs, provenance = fields["exit_code"], fields["outputs"], fields["provenance"]
    if type(code) is not int or not -_MAX_SIZE <= code < _MAX_SIZE:
        raise _OddError("exit_code is no number")
    if type(outputs) is not list or not isinstance(provenance, Mapping):
        raise _OddError("outputs or provenance")
    found = tuple(_read_output(output) for output in outputs)
    if len({output.path for output in found}) != len(found):
        raise _OddError("an output twice")
    return ActionResult(
        value=_read_digest(_fields(fields["value"], _DIGEST)),
        stderr=_read_digest(_fields(fields["stderr"], _DIGEST)),
        exit_code=code,
        outputs=found,
        provenance=provenance,
    )


def _read_output(value: object) -> OutputFile:
    fields = _fields(value, _OUTPUT)
    path, executable = fields["path"], fields["executable"]
    if type(path) is not str or not is_inside(path) or type(executable) is not bool:
        raise _OddError(f"output {path!r}")
    return OutputFile(path=path, digest=_read_digest(fields), executable=executable)


def _read_digest(fields: dict[str, object]) -> Digest:
    name, size = fields["hash"], fields["size"]
    if not is_hash(name) or type(size) is not int or not 0 <= size < _MAX_SIZE:
        raise _OddError("not a digest")
    return Digest(hash=name, size=size)  # type: ignore[arg-type]


def _read_contents(value: object, result: ActionResult) -> dict[str, bytes]:
    """The small contents; they must be just those that the result refers to."""
    sizes: dict[str, int] = {}
    for digest in digests(result):
        if sizes.setdefault(digest.hash, digest.size) != digest.size:
            raise _OddError("one hash with two sizes")
    small = {name for name, size in sizes.items() if size <= INLINE}
    found = {name: _read_content(name, data) for name, data in _fields(value, small).items()}
    if any(len(data) != sizes[name] for name, data in found.items()):
        raise _OddError("a content of another size")
    return found


def _read_content(name: str, text: object) -> bytes:
    if type(text) is not str or not text.isascii():
        raise _OddError("a content that is no base64")
    data = binascii.a2b_base64(text, strict_mode=True) if text else b""
    if hashlib.sha256(data).hexdigest() != name:
        raise _OddError("a content of another hash")
    return data


def is_inside(path: str) -> bool:
    """Whether this is the path of something below a folder, as results spell it: a/b/c."""
    if "\0" in path or not all(part not in ("", ".", "..") for part in path.split("/")):
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
