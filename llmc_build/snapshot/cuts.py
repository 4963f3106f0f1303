"""What a snapshot has of a large document, so that the steps of it that changed can be told.  Pure.

Owns which these are.  Where steps stand is `workflow.cut`'s; what a change means for others is
`incremental.partial`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from llmc_build.frozen import frozen
from llmc_build.snapshot.form import Snapshot
from llmc_build.workflow.cut import HASH, Steps, cut, is_tied

FROM = 100  # steps: a smaller document is read as a whole in a few hundredths of a second


@frozen
class Edit:
    """What happened to the steps of a document, counted from 0 as they stand now.

    Those of `read` have another text, or stand beside some that came or went.  Where names came or went,
    `names` stand now from `begin` to `end` in the place of the old ones from `begin` to `old_end`.
    """

    read: Sequence[int]
    begin: int = 0
    old_end: int = 0
    end: int = 0
    names: Sequence[str] = ()

    @property
    def keeps_names(self) -> bool:
        return self.old_end == self.end == 0


@dataclass(frozen=True)
class Cut:
    """A document whose steps were seen to stand where it was cut, and of which none is tied to another."""

    around: str  # hash of what stands before and behind the steps
    names: Sequence[str]
    variables: Sequence[str | None]  # what each step sets
    hashes: bytes  # of the texts of the steps, one after the other

    def compared(self, steps: Steps) -> Edit | None:
        """What happened to it, as far as hashes tell; None where more than steps changed."""
        if steps.around.hex() != self.around:
            return None
        now, then = steps.hashes, self.hashes
        if len(now) == len(then):
            at = range(0, len(now), HASH)
            edit = Edit([i // HASH for i in at if now[i : i + HASH] != then[i : i + HASH]])
        else:
            begin = _common(lambda count: now[:count] == then[:count], min(len(now), len(then)))
            rest = min(len(now), len(then)) - begin * HASH
            behind = _common(lambda count: not count or now[-count:] == then[-count:], rest)
            edit = self._spanning(begin, len(self.names) - behind, len(steps.starts) - 1 - behind)
        return None if any(is_tied(steps.step(i)) for i in edit.read) else edit

    def _spanning(self, begin: int, old_end: int, end: int) -> Edit:
        """With the step that stands behind, which may come after another one now, or else the one before."""
        count = len(self.names) - old_end + end
        read = range(begin, min(end + 1, count))
        return Edit(read or range(max(0, begin - 1), begin), begin, old_end, end)

    def widened(self, edit: Edit) -> Edit:
        """The edit where not all steps have the names that they had: all that stand between are read."""
        begin, end = min(edit.read), max(edit.read) + 1
        return self._spanning(begin, end, end)

    def edited(self, edit: Edit, found: Sequence[tuple[str, str | None]], hashes: bytes) -> Cut | None:
        """The cut after an edit; None where that changes what steps mean that were not read.

        `found`: names and variables of the steps that were read.
        """
        pairs = [*zip(self.names, self.variables, strict=True)]
        old = pairs[edit.begin : edit.old_end]
        pairs[edit.begin : edit.old_end] = [("", None)] * (edit.end - edit.begin)
        for i, pair in zip(edit.read, found, strict=True):
            if not edit.begin <= i < edit.end and pairs[i] != pair:
                return None
            pairs[i] = pair
        new = pairs[edit.begin : edit.end]
        if [pair for pair in old if pair[1]] != [pair for pair in new if pair[1]]:
            return None
        names = [name for name, _ in pairs]
        came = {name for name, _ in new}.difference(name for name, _ in old)
        if came and (not came.isdisjoint(self._setters) or len({*map(str.lower, names)}) < len(names)):
            return None
        return Cut(self.around, names, [variable for _, variable in pairs], hashes)

    # ------------------------------------------------------------ `names.Siblings`

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _setters(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, variable in enumerate(self.variables):
            if variable is not None:
                found.setdefault(variable, []).append(i)
        return found

    def has(self, step: str) -> bool:
        return step in self._places

    def before(self, step: str) -> str | None:
        """The step that stands before one."""
        i = self._places[step]
        return self.names[i - 1] if i else None

    def setters(self, variable: str) -> list[str]:
        """The steps that set a variable, in order."""
        return [self.names[i] for i in self._setters.get(variable, ())]

    def setters_before(self, variable: str, step: str) -> list[str]:
        """Those of them that stand before a step."""
        place = self._places[step]
        return [self.names[i] for i in self._setters.get(variable, ()) if i < place]


def _common(is_equal: Callable[[int], bool], most: int) -> int:
    """How many hashes are equal, counted from one side; `is_equal` says whether that many bytes are."""
    low, high = 0, most // HASH
    while low < high:
        middle = (low + high + 1) // 2
        if is_equal(middle * HASH):
            low = middle
        else:
            high = middle - 1
    return low


def cut_of(
    text: bytes,
    first_line: int,
    names: Sequence[str],
    variables: Sequence[str | None],
    lines: Sequence[int],
    least: int | None = None,
) -> Cut | None:
    """The cut of a document that was read as a whole; None where it can't be cut, or has too few steps.

    `lines`: where its steps were found to begin.
    """
    if len(names) < (FROM if least is None else least) or is_tied(text):
        return None
    steps = cut(text)
    if steps is None or steps.lines(first_line) != list(lines):
        return None
    return Cut(steps.around.hex(), names, variables, steps.hashes)


class Cuts:
    """The cuts that a snapshot has, by the numbers of documents."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Raises what `form.SENSELESS` has for what was never written; nothing else here does."""
        self._snapshot = snapshot
        self._said: dict[str, tuple[str, list[str | None]]] = json.loads(snapshot.section("cuts"))
        self._begins: dict[str, int] = {}
        end = 0
        for number, (around, variables) in self._said.items():
            self._begins[number] = end
            end += HASH * len(variables)
            known = isinstance(around, str) and all(v is None or isinstance(v, str) for v in variables)
            if not known or int(number) < 0 or len(variables) != snapshot.documents[int(number)][5]:
                raise ValueError("cuts")
        if end != len(snapshot.section("steps")):
            raise ValueError("cuts")
        self._made: dict[int, Cut] = {}

    def __iter__(self) -> Iterator[int]:
        return map(int, self._said)

    def __len__(self) -> int:
        return len(self._said)

    def get(self, number: int) -> Cut | None:
        if str(number) not in self._said:
            return None
        if number not in self._made:
            around, variables = self._said[str(number)]
            workflow, first, count = self._snapshot.documents[number][3:6]
            names = [
                path.removeprefix(f"{workflow}/") for path in self._snapshot.paths[first : first + count]
            ]
            begin = self._begins[str(number)]
            hashes = self._snapshot.section("steps")[begin : begin + HASH * count]
            self._made[number] = Cut(around, names, variables, hashes)
        return self._made[number]

    def around(self, number: int) -> str:
        """The hash of what stands around the steps of a document that is cut."""
        return self._said[str(number)][0]


def sections(cuts: Mapping[int, Cut]) -> dict[str, bytes]:
    """What a snapshot has of cuts, by the numbers of documents."""
    said = {number: (one.around, list(one.variables)) for number, one in cuts.items()}
    return {
        "cuts": json.dumps(said, separators=(",", ":")).encode("ascii"),
        "steps": b"".join([one.hashes for one in cuts.values()]),
    }
