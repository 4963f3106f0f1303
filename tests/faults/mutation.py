"""How data is made hostile: changes of bytes at random, and words that parsers dislike.

Every choice comes from the `chance` that is given, so a finding is found again with the same `--seed`.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

NUMBERS = [
    b"0", b"-1", b"1e999999999", b"-0.0", b"NaN", b"Infinity", b"-Infinity", b"1" + b"0" * 400, b"9" * 5000,
    b"0x" + b"f" * 300, b"2001-99-99", b"18446744073709551616", b"1_000", b".inf", b".nan", b"1e-999",
]  # fmt: skip
UNICODE = [
    "\u2028".encode(), "\ufeff".encode(), b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\x1b[2J", b"\x9b31m", "\x9b".encode(),
    "\u202e".encode(), "\U0001f600".encode(), b"\xc3", "e\u0301".encode(), "é".encode(), b"\r", b"\r\n", b"\t", b"\x7f",
]  # fmt: skip


def mutated(
    chance: random.Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes] = ()
) -> bytes:
    """The data after one to six changes."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(found))
        end = min(len(found), at + int(chance.expovariate(1 / 12)))
        match chance.randrange(9):
            case 0 if found:
                place = chance.randrange(len(found))
                found[place] ^= 1 << chance.randrange(8)
            case 1:
                del found[at:end]
            case 2:
                found[at:at] = found[at:end] * chance.choice([1, 2, 3, 50])
            case 3 if len(found) > 1:
                del found[at:]
            case 4 if others:
                other = chance.choice(others)
                start = chance.randint(0, len(other))
                found[at:end] = other[start : start + int(chance.expovariate(1 / 60))]
            case 5:
                found[at:end] = chance.choice(words) * chance.choice([1, 1, 1, 2, 200])
            case 6:
                found[at:at] = chance.randbytes(chance.choice([1, 2, 8]))
            case _:
                found[at:end] = chance.choice(words)
        if len(found) > 200_000:
            del found[200_000:]
    return bytes(found)


def inputs(
    chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes], count: int
) -> Iterator[bytes]:
    """`count` pieces of hostile data: the seeds themselves, then changed ones, some changed again and again."""
    pool = list(seeds)
    for i in range(count):
        if i < len(seeds):
            yield seeds[i]
            continue
        data = mutated(chance, chance.choice(pool), words, pool)
        if chance.random() < 0.05:
            pool.append(data)
        if len(pool) > 400:
            del pool[len(seeds) + chance.randrange(100)]
        yield data


@contextmanager
def within(cpu_s: float, what: object) -> Iterator[None]:
    """Fails where the body takes more CPU time than that; other programs on the machine don't count."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < cpu_s, f"{took:.1f} s of CPU for {str(what)[:400]}"


HOSTILE_VALUES: list[object] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1.5, float("nan"), float("inf"), "", "a", "..",
    "../x", "/etc/x", "a/../b", "a//b", ".", "\0", "\ud800", "\udcff", "\x1b[2J", "\u202e", "a" * 64, "0" * 64, "a" * 9_000,
    [], {}, [[]], {"": {}}, [None], "é", "e\u0301", "1", "true",
]  # fmt: skip


def reshaped(chance: random.Random, document: Any) -> Any:
    """A JSON document with one to three of its values replaced, taken out, doubled, wrapped or renamed."""
    for _ in range(chance.randint(1, 3)):
        places = list(_places(document))
        if not places:
            return chance.choice(HOSTILE_VALUES)
        holder, key = chance.choice(places)
        match chance.randrange(8):
            case 0:
                del holder[key]
            case 1:
                other, place = chance.choice(places)
                with suppress(KeyError, IndexError):
                    holder[key] = copy.deepcopy(other[place])
            case 2 if isinstance(holder, dict):
                holder[chance.choice(["", "x", "\x1b[2J", "../x", "a" * 64])] = holder.pop(key)
            case 3 if isinstance(holder, list):
                holder.extend(copy.deepcopy(holder))
            case 4:
                deep: object = holder[key]
                for _ in range(chance.choice([1, 3, 500])):
                    deep = [deep]
                holder[key] = deep
            case 5 if type(holder[key]) is int:
                holder[key] += chance.choice([-1, 1, 4, 2**32, -(2**31)])
            case _:
                holder[key] = copy.deepcopy(chance.choice(HOSTILE_VALUES))
    return document


def _places(document: object) -> Iterator[tuple[Any, Any]]:
    rest: list[Any] = [document]
    while rest:
        item = rest.pop()
        if isinstance(item, dict | list):
            for key in list(item) if isinstance(item, dict) else range(len(item)):
                yield item, key
                rest.append(item[key])


def hostile_json(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """The bytes of a JSON document, changed in its structure, or byte by byte, or both."""
    if chance.random() < 0.75:
        with suppress(ValueError, RecursionError):
            document = reshaped(chance, json.loads(data))
            style: dict[str, Any] = (
                {} if chance.random() < 0.5 else {"sort_keys": True, "separators": (",", ":")}
            )
            data = json.dumps(document, **style).encode("ascii")
            if chance.random() < 0.9:
                return data
    return mutated(chance, data, words)
