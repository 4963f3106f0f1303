"""The format on the disk is the one that `cache/README.md` specifies."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
from pathlib import Path

from llmc_build.model import ActionResult, Digest, OutputFile
from llmc_build.store import Record, Store
from llmc_build.store.record import decode

README = Path(__file__).parents[2] / "cache" / "README.md"


def read_as_specified(root: Path, key: str) -> dict[str, bytes]:
    """What another program would write after reading the specification: the contents of a hit, by role."""
    assert (root / "VERSION").read_bytes() == b"llmc-store/1\n"
    select = re.search(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    assert select
    with sqlite3.connect(root / "index" / "cache.db") as db:
        (data,) = db.execute(select[1], {"key": key}).fetchone()
    db.close()
    head, _, body = data.partition(b"\n")
    assert head == b"llmc-record/1 " + hashlib.sha256(body).hexdigest().encode()
    record = json.loads(body)
    assert record["key"] == key

    def content(digest: dict[str, object]) -> bytes:
        name = str(digest["hash"])
        if digest["size"] <= 4096:  # type: ignore[operator]
            found = base64.b64decode(record["contents"][name], validate=True)
        else:
            found = (root / "cas" / name[:2] / name).read_bytes()
        assert (hashlib.sha256(found).hexdigest(), len(found)) == (name, digest["size"])
        return found

    result = record["result"]
    outputs = {output["path"]: content(output) for output in result["outputs"]}
    return {"value": content(result["value"]), "stderr": content(result["stderr"]), **outputs}


def test_another_program_can_read_a_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path, print)
    output = OutputFile(path="out/é.bin", digest=store.add(b"\x00" * 5000))
    result = ActionResult(value=store.add(b"\xffvalue"), stderr=store.add(b"e" * 4096), outputs=(output,))
    store.commit([Record(key="ab" * 32, components={}, result=result, created=1.0)])
    expected = {"value": b"\xffvalue", "stderr": b"e" * 4096, "out/é.bin": b"\x00" * 5000}
    assert read_as_specified(tmp_path, "ab" * 32) == expected  # while it is in use
    store.close()
    assert read_as_specified(tmp_path, "ab" * 32) == expected
    names = {"VERSION", "cas", "index", "lock", "tmp", "uses"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(f"`{name}" in README.read_text() for name in (*names, "quarantine/", "index.lock", "gc.lock"))


def test_the_example_of_the_specification_is_a_record() -> None:
    lines = re.findall(r"^    (llmc-record/1 [0-9a-f]{64}\n(?:    .*\n)+)", README.read_text(), re.MULTILINE)
    assert len(lines) == 1
    head, *body = lines[0].splitlines()
    data = f"{head}\n{''.join(line.strip() for line in body)}".encode()
    found = decode("2c" * 32, data)
    assert found is not None
    record, contents = found
    assert contents[record.result.value.hash] == b"hello\n"
    assert record.result.outputs[0].digest == Digest(hash="5f" * 32, size=18234)
