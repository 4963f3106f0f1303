"""What is known of a model's bits, kept beside the store.

Owns the file that remembers a self-test's outcome: which model, engine and processor it holds for, and how
it is read and written.  A file that is not whole or not of this form counts as absent: then the test is
made again.

    llmc-exactness/3 HASH\\n      SHA-256 of what follows {"reading": {"merged": true, "align": 1} or null,
    "decoding": {"costs": {"1": 0.012, ...}, "refuted": [12, ...]} or null}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from llmc_build.frozen import frozen
from llmc_build.llm.shape import GRID, Decoding, Reading
from llmc_build.model import Json
from llmc_build.store import files

FORM = "llmc-exactness/3"
FOLDER = "inference"  # under the store
_NAME = "exactness"
_LIMIT = 1 << 16  # bytes
_LEAST_COST = 1e-6  # seconds


@frozen(kw_only=True)
class Exactness:
    """None: not tried yet."""

    reading: Reading | None = None
    decoding: Decoding | None = None

    def as_json(self) -> dict[str, Json]:
        reading: Json = None
        decoding: Json = None
        if self.reading is not None:
            reading = {"merged": self.reading.merged, "align": self.reading.align}
        if self.decoding is not None:
            costs: dict[str, Json] = {str(w): _cost(c) for w, c in sorted(self.decoding.costs.items())}
            decoding = {"costs": costs, "refuted": [*sorted(self.decoding.refuted)]}
        return {"reading": reading, "decoding": decoding}


def _cost(seconds: float) -> float:
    """As it is written: what is too little to be told is the least, since a cost of 0 is none."""
    return max(round(seconds, 6), _LEAST_COST)


def identity(*, model: str, engine: str, system: str, settings: Mapping[str, Json]) -> str:
    """What the bits of a model hang on, as a hash.

    `model`: the SHA-256 of its file; `system`: what llama.cpp says of the processor and of how it was built.
    """
    parts = {"form": FORM, "model": model, "engine": engine, "system": system, **settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_exactness(folder: Path) -> Exactness:
    """What is known; nothing where the file is absent, damaged or of another form."""
    try:
        data = files.read_regular(folder / _NAME, _LIMIT)
    except OSError:
        return Exactness()
    head, _, body = (data or b"").partition(b"\n")
    if head != f"{FORM} {hashlib.sha256(body).hexdigest()}".encode():
        return Exactness()
    try:
        return _parse(json.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Exactness()


def write_exactness(folder: Path, known: Exactness) -> None:
    """Raises OSError."""
    os.makedirs(folder, 0o700, exist_ok=True)
    body = json.dumps(known.as_json(), sort_keys=True).encode() + b"\n"
    head = f"{FORM} {hashlib.sha256(body).hexdigest()}\n".encode()
    files.write_atomic(folder / _NAME, head + body)


def _parse(data: Mapping[str, Mapping[str, object]]) -> Exactness:
    reading, decoding = None, None
    found = data["reading"]
    if found is not None:
        merged, align = found["merged"], found["align"]
        if not isinstance(merged, bool) or align not in (0, 1, 8, GRID):
            raise ValueError
        reading = Reading(merged=merged, align=int(str(align)))
    found = data["decoding"]
    if found is not None:
        costs, refuted = found["costs"], found["refuted"]
        if not isinstance(costs, dict) or not isinstance(refuted, list):
            raise ValueError
        table = {int(width): float(cost) for width, cost in costs.items()}
        if 1 not in table or any(w < 1 or not 0 < c < 1e6 for w, c in table.items()):
            raise ValueError
        if not all(isinstance(width, int) and width > 1 and width not in table for width in refuted):
            raise ValueError
        decoding = Decoding(costs=table, refuted=frozenset(refuted))
    return Exactness(reading=reading, decoding=decoding)
