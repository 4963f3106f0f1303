"""A step while it is read: the values found so far, and the Step that they make.  Pure.

Owns how defaults and a step's own fields add up.  What the values may be is `kinds` and `compound`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from llmc_build.model import Env, Location, Need, Sampling, Step, Turn, Wait
from llmc_build.workflow.fields import Field
from llmc_build.workflow.inference import Embedded, Piece
from llmc_build.workflow.kinds import Site
from llmc_build.workflow.nodes import Map, Node, Scalar

_MERGED = ("env", "secrets")  # fields whose names add up; every other field of a step replaces the default
_LISTED = ("messages", "text")  # fields that hold several texts, each with a place of its own
_SAMPLING = Sampling()
_NO_PLACES: Mapping[str, Location] = MappingProxyType({})
_NO_BLOCKS: Mapping[str, tuple[int, int]] = MappingProxyType({})


class Values:
    """What has been read of a step, or what steps begin with."""

    __slots__ = ("blocks", "places", "plain", "sampling", "spots")

    def __init__(self, *, places: bool) -> None:
        self.places = places  # whether to note where values stand
        self.plain: dict[str, Any] = {}  # attributes of Step
        self.sampling: dict[str, Any] = {}  # attributes of Sampling
        self.spots: dict[str, tuple[int, int]] = {}  # field -> line, column
        self.blocks: dict[str, tuple[int, int]] = {}

    def copy(self) -> Values:
        other = Values(places=self.places)
        other.plain, other.sampling = self.plain.copy(), self.sampling.copy()
        other.spots, other.blocks = self.spots.copy(), self.blocks.copy()
        return other

    def put(self, field: Field, value: Any, node: Node) -> None:
        name = field.name
        if field.sampling:
            self.sampling[name] = value
            return
        if name in _MERGED:
            value = {**self.plain.get(name, {}), **value}
        self.plain[field.attribute] = value
        if not self.places:
            return
        if field.placed:
            self.spots[name] = (node.line, node.column)
        if field.text:
            if isinstance(node, Scalar) and node.block is not None:
                self.blocks[name] = node.block
            elif self.blocks:
                self.blocks.pop(name, None)
        if name in _LISTED:
            self._place_pieces(name, value.pieces if isinstance(value, Embedded) else value)

    def _place_pieces(self, name: str, pieces: Sequence[Piece]) -> None:
        """Each text of a list has a place of its own, under the name `piece_name` gives it."""
        self._forget_pieces(name)
        for i, piece in enumerate(pieces):
            self.spots[piece_name(name, i)] = (piece.line, piece.column)
            if piece.block is not None:
                self.blocks[piece_name(name, i)] = piece.block

    def _forget_pieces(self, name: str) -> None:
        for places in (self.spots, self.blocks):
            for key in [key for key in places if key.startswith(f"{name}[")]:
                del places[key]

    def drop(self, field: Field) -> None:
        """Forgets a field, and the default that it replaced."""
        self.plain.pop(field.attribute, None)
        self.sampling.pop(field.attribute, None)
        self.spots.pop(field.name, None)
        self.blocks.pop(field.name, None)
        if field.name in _LISTED:
            self._forget_pieces(field.name)

    def step(
        self, site: Site, *, workflow: str, name: str, rule: str, waits: tuple[Wait, ...], node: Map
    ) -> Step:
        """The step that they make; they are used up."""
        plain = self.plain
        for group in _MERGED:
            if group in plain:
                plain[group] = _sorted(plain[group])
        if "needs" in plain:
            plain["needs"] = tuple(
                [Need(target=need.name, location=site.at(need.line, need.column)) for need in plain["needs"]]
            )
        if "messages" in plain:
            plain["messages"] = tuple([Turn(role=p.role, content=p.text) for p in plain["messages"]])
        if "texts" in plain:
            found: Embedded = plain["texts"]
            plain["texts"], plain["single"] = tuple([p.text for p in found.pieces]), found.single
        return Step(
            workflow=workflow,
            name=name,
            rule=rule,
            location=site.at(node.line, node.column),
            sampling=Sampling(**self.sampling) if self.sampling else _SAMPLING,
            waits=waits,
            places=_Places(site.file, self.spots) if self.spots else _NO_PLACES,
            blocks=self.blocks or _NO_BLOCKS,
            **plain,
        )


def _sorted(names: dict[str, str | None]) -> Env:
    return tuple(sorted(names.items()))


def piece_name(field: str, i: int) -> str:
    """What the place of the i-th text of a field is kept under."""
    return f"{field}[{i}]"


class _Places(Mapping[str, Location]):
    """Where the values of a step's fields begin; a Location is made when it is asked for."""

    __slots__ = ("_file", "_spots")

    def __init__(self, file: str, spots: dict[str, tuple[int, int]]) -> None:
        self._file, self._spots = file, spots

    def __getitem__(self, name: str) -> Location:
        line, column = self._spots[name]
        return Location(file=self._file, line=line, column=column)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spots)

    def __len__(self) -> int:
        return len(self._spots)

    def __repr__(self) -> str:
        return f"_Places({self._file!r}, {self._spots!r})"
