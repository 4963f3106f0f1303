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
from dataclasses import field

from llmc_build.frozen import frozen
from llmc_build.keys import ascii_json
from llmc_build.model import ActionResult, Digest, Json, OutputFile
from llmc_build.store.cas import EMPTY, is_hash

INLINE = 4096  # bytes; contents up to this size are kept in the record

_MAGIC = b"llmc-record/1 "
_HEAD = len(_MAGIC) + 64 + 1
_MAX_SIZE = 2**63
_FIELDS = {"components", "contents", "created", "key", "result"}
_RESULT = {"exit_code", "outputs", "provenance", "stderr", "value"}
_OUTPUT = {"executable", "hash", "path", "size"}
_DIGEST = {"hash", "size"}


@frozen(kw_only=True)
class Record:
    """What one action gave, and what its key was made of."""

    key: str  # 64 hex digits
    components: Mapping[str, Json]  # the key is the hash of their encoding (`keys`)
    result: ActionResult
    created: float  # unix seconds
    text: str | None = field(
        default=None, compare=False, repr=False
    )  # `ascii_json` of the components, if made


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

    Raises RecordError where the decoder would not take it, KeyError where a small content lacks.  The JSON
    is put together from its parts, which have nothing in them that would have to be escaped, since
    that costs a third of encoding the whole; a test holds it against the encoder.
    """
    result = record.result
    small = {d.hash: contents[d.hash] for d in digests(result) if d.size <= INLINE}
    try:
        _vet(record, small)
        components = ascii_json(record.components) if record.text is None else record.text
        outputs, provenance = _outputs_json(result), _provenance_json(result.provenance)
    except (ValueError, TypeError) as error:
        raise RecordError(f"a record can't be stored: {error}") from error
    data = ",".join([f'"{name}":"{_base64(small[name])}"' for name in sorted(small)])
    value, stderr = result.value, result.stderr
    body = (
        f'{{"components":{components},"contents":{{{data}}},"created":{record.created!r},"key":"{record.key}",'
        f'"result":{{"exit_code":{result.exit_code},"outputs":{outputs},"provenance":{provenance},'
        f'"stderr":{{"hash":"{stderr.hash}","size":{stderr.size}}},'
        f'"value":{{"hash":"{value.hash}","size":{value.size}}}}}}}'
    ).encode("ascii")
    return b"%s%s\n%s" % (_MAGIC, hashlib.sha256(body).hexdigest().encode(), body)


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _outputs_json(result: ActionResult) -> str:
    if not result.outputs:
        return "[]"
    return ascii_json(
        [
            {"path": o.path, "executable": o.executable, "hash": o.digest.hash, "size": o.digest.size}
            for o in result.outputs
        ]
    )


def _provenance_json(provenance: Mapping[str, Json]) -> str:
    wall = provenance.get("wall_s")
    if len(provenance) == 1 and type(wall) is float and math.isfinite(wall):  # of every shell step
        return f'{{"wall_s":{wall!r}}}'
    return ascii_json(provenance)


def decode(key: str, data: bytes) -> tuple[Record, dict[str, bytes]] | None:
    """The record stored under a key and its small contents by hash; None where anything is odd."""
    body = data[_HEAD:]
    if data[:_HEAD] != b"%s%s\n" % (_MAGIC, hashlib.sha256(body).hexdigest().encode()):
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


def _fields(value: object, names: set[str]) -> dict[str, object]:
    if type(value) is not dict or value.keys() != names:
        raise _OddError(f"fields other than {sorted(names)}")
    return value


def _read(key: str, document: object) -> tuple[Record, dict[str, bytes]]:
    """A record of the right types; what they say is `_vet`'s."""
    top = _fields(document, _FIELDS)
    components = top["components"]
    if top["key"] != key:
        raise _OddError(f"not the key {key!r}")
    if type(components) is not dict:
        raise _OddError("components is no object")
    result = _read_result(_fields(top["result"], _RESULT))
    record = Record(key=key, components=components, result=result, created=top["created"])  # type: ignore[arg-type]
    texts = top["contents"]
    if type(texts) is not dict:
        raise _OddError("contents is no object")
    contents = {name: _read_content(text) for name, text in texts.items()}
    _vet(record, contents)
    return record, contents


def _read_result(fields: dict[str, object]) -> ActionResult:
    outputs = fields["outputs"]
    if type(outputs) is not list:
        raise _OddError("outputs")
    return ActionResult(
        value=_read_digest(_fields(fields["value"], _DIGEST)),
        stderr=_read_digest(_fields(fields["stderr"], _DIGEST)),
        exit_code=fields["exit_code"],  # type: ignore[arg-type]
        outputs=tuple([_read_output(_fields(output, _OUTPUT)) for output in outputs]),
        provenance=fields["provenance"],  # type: ignore[arg-type]
    )


def _read_output(fields: dict[str, object]) -> OutputFile:
    return OutputFile(
        path=fields["path"],  # type: ignore[arg-type]
        digest=_read_digest(fields),
        executable=fields["executable"],  # type: ignore[arg-type]
    )


def _read_digest(fields: dict[str, object]) -> Digest:
    name, size = fields["hash"], fields["size"]
    if type(name) is not str or len(name) != 64 or type(size) is not int or size < 0:
        raise _OddError("not a digest")
    return EMPTY if not size and name == EMPTY.hash else Digest(hash=name, size=size)


def _read_content(text: object) -> bytes:
    if type(text) is not str or not text.isascii():
        raise _OddError("a content that is no base64")
    return binascii.a2b_base64(text, strict_mode=True) if text else b""


def _vet(record: Record, contents: Mapping[str, bytes]) -> None:
    """Raise _OddError for a record that must be neither written nor believed.

    `contents` must be just the small contents that the result refers to.
    """
    created, result = record.created, record.result
    if not is_hash(record.key):
        raise _OddError(f"not a key: {record.key!r}")
    if type(created) not in (int, float) or not 0 <= created < math.inf:
        raise _OddError("created is no time")
    if type(result.exit_code) is not int or not -_MAX_SIZE <= result.exit_code < _MAX_SIZE:
        raise _OddError("exit_code is no number")
    if not isinstance(result.provenance, Mapping):
        raise _OddError("provenance is no object")
    if result.outputs:
        _vet_outputs(result)
    small = 0
    sizes: dict[str, int] = {}
    for digest in (result.value, result.stderr, *[output.digest for output in result.outputs]):
        name, size = digest.hash, digest.size
        if name in sizes:
            if sizes[name] != size:
                raise _OddError("one hash with two sizes")
            continue
        sizes[name] = size
        if not is_hash(name) or type(size) is not int or not 0 <= size < _MAX_SIZE:
            raise _OddError("not a digest")
        if size <= INLINE:
            small += 1
            data = contents.get(name)
            if data is None or len(data) != size:
                raise _OddError("a content lacks or has another size")
            if name != (hashlib.sha256(data).hexdigest() if size else EMPTY.hash):
                raise _OddError("a content of another hash")
    if len(contents) != small:
        raise _OddError("contents that the result does not name")


def _vet_outputs(result: ActionResult) -> None:
    for output in result.outputs:
        if type(output.path) is not str or not is_inside(output.path) or type(output.executable) is not bool:
            raise _OddError(f"output {output.path!r}")
    if len({output.path for output in result.outputs}) != len(result.outputs):
        raise _OddError("an output twice")


def is_inside(path: str) -> bool:
    """Whether this is the path of something below a folder, as results spell it: a/b/c."""
    if "\0" in path or not all(part not in ("", ".", "..") for part in path.split("/")):
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
