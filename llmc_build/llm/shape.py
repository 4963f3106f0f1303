"""What an answer's bits depend on: the pieces of a prompt, and how many sequences go on together.  Pure.

Owns the canonical pieces, what else is known to give the same bits, and how work is cut to it.  How that is
found out for a model is `selftest`; who computes is `engine`.

Theory of operation.  A model computes a token's logits by products of matrices, and the kernels for those
take other paths by how many tokens are computed together.  Whether the paths give the same bits depends on
the kernels for the model's kind of weights.  So there is one computation that defines the answer, and it
depends on the prompt alone:

- a prompt of n tokens is cut at every multiple of GRID that leaves at least TAIL tokens for the last piece;
- the tokens of the answer are computed one by one.

In models with experts a token's path also depends on which tokens are computed with it.  So nothing is used
of them but beginnings of whole pieces, which are computed with the same tokens wherever they stand.

Everything else (larger pieces, beginnings that were computed for another prompt, several sequences
together) is used as far as it was seen to give the same bits.  A beginning that ends at a multiple of GRID
is computed in the same pieces, whatever prompt it belongs to, unless it reaches into that one's last piece,
which may be larger; so with nothing else known, that is where one may be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmc_build.frozen import frozen

GRID = 32  # tokens
TAIL = 16  # tokens that the last piece has at least, where the prompt has as many
CHUNK = 128  # tokens in one call at most; more is no faster


@frozen(kw_only=True)
class Reading:
    """How a model's prompts may be cut."""

    merged: bool = False  # several pieces may be computed in one call
    align: int = 0  # beginnings of any multiple of so many tokens may be taken from elsewhere; 0: none


CANONICAL = Reading()
FREE = Reading(merged=True, align=1)  # with no promise of equal bits


@frozen(kw_only=True)
class Decoding:
    """How many sequences may go on together."""

    costs: Mapping[int, float]  # width that keeps the bits -> what a step of that width costs, in seconds
    refuted: frozenset[int] = frozenset()  # widths that don't


ALONE = Decoding(costs={1: 1.0})
_LADDER = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)  # widths that others are made of


def usable(common: int, length: int, reading: Reading, source: int) -> int:
    """How much of a beginning of `common` tokens a prompt of `length` may take from one of `source`."""
    if not reading.align:
        return 0
    most = min(common, length - TAIL)
    if not reading.merged:  # the last piece of a prompt may be larger than another's in its place
        most = min(most, _last(source))
    return max(0, most // reading.align * reading.align)


def next_border(at: int, length: int, reading: Reading) -> int:
    """Where the piece that begins at `at` ends."""
    last = _last(length)
    if not reading.merged:
        following = (at // GRID + 1) * GRID
        return following if following <= last else length
    if length - at <= CHUNK:
        return length
    return min((at + CHUNK) // GRID * GRID, last)


def _last(length: int) -> int:
    """Where the last piece of a prompt begins."""
    return max(0, (length - TAIL) // GRID * GRID)


def widths(active: int, decoding: Decoding, limit: int) -> list[int]:
    """How so many sequences are best taken apart into steps that keep the bits; the widest first.

    The last may be wider than what is left: the rest of it is filled with anything.  Together they are as
    wide as `limit` at most, and that must be as much as `active`.
    """
    return _parts(active, decoding, limit)[0]


def _parts(active: int, decoding: Decoding, limit: int) -> tuple[list[int], float]:
    """`widths`, and what they cost."""
    costs = decoding.costs
    # For each number: what it costs exactly, and one of the widths.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for number in range(1, active):
        best.append(min((best[number - w][0] + cost, -w) for w, cost in costs.items() if w <= number))
    # Without any one of the steps there would be too few: so but for one they are fewer than `active`.
    total, _, last, left = min(
        (best[rest][0] + cost, rest + w, -w, rest)
        for w, cost in costs.items()
        for rest in range(max(0, active - w), min(active, limit - w + 1))
    )
    found = [-last]
    while left > 0:
        found.append(-best[left][1])
        left -= found[-1]
    return sorted(found, reverse=True), total


def planned(active: int, steps: int, decoding: Decoding, limit: int) -> list[tuple[int, bool]]:
    """The widths of the steps for so many sequences, and which of them is to be tried out: one at most.

    `steps`: how many tokens each has to come, about; `limit`: how many places there are for the steps
    together, at least `active`.  A width is tried where what it would spare is worth computing so many tokens
    alone.
    """
    parts, cost = _parts(active, decoding, limit)
    alone = decoding.costs[1]
    ladder = sorted({limit, *(width for width in _LADDER if width <= limit)})
    covering = next(width for width in ladder if width >= active)
    singles = parts.count(1)
    for width in (covering, *reversed(ladder)):
        if width < 2 or width in decoding.costs or any(w <= width for w in decoding.refuted):
            continue
        if width == covering:
            spared, rest = cost, []
        elif width <= singles:
            spared, rest = width * alone, [*(p for p in parts if p > 1), *[1] * (singles - width)]
        else:
            continue
        wider = next((w for w in sorted(decoding.costs) if w > width), None)
        guess = width * (alone / 2 if wider is None else decoding.costs[wider] / wider)
        if steps * (spared - guess) > min(width, active) * alone:
            return [(width, True), *((part, False) for part in rest)]
    return [(part, False) for part in parts]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many items two sequences have in common from the beginning on.  Of one type, such as `array`."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # equal up to `low`, not up to `high`
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
