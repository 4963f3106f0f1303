"""Taking a snapshot after a build, so that the next one need not look at what did not change. World.

Owns what a snapshot says of the world after a build, and carries over what it said of targets that this
build did not look at. It errs on one side: what can't be told to be as it was when it was used is written
down so that the next build looks at it.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence

from llmc_build.incremental.joining import piece_of
from llmc_build.incremental.partial import piece_hash
from llmc_build.incremental.watching import Evidence, Watching
from llmc_build.model import State, TargetId, TargetReport
from llmc_build.names import Origin
from llmc_build.reading import read_bytes, shown
from llmc_build.record import ALL_OF, unchanged
from llmc_build.snapshot import cuts
from llmc_build.snapshot import survey as world
from llmc_build.snapshot.form import (
    CHECK,
    GOOD,
    SENSELESS,
    SKIPPED,
    Facts,
    Snapshot,
    number_bytes,
    pack_key,
    pack_value,
)
from llmc_build.snapshot.stamps import is_fresh, look
from llmc_build.snapshot.structure import Structure, of_program
from llmc_build.workflow.split import split


def take(e: Evidence) -> Snapshot | None:
    """The snapshot of a build; None where the files changed while it ran."""
    try:
        return _Taker(e).snapshot()
    except SENSELESS:  # the old one said something senseless, though its checksums hold
        if e.part is None:
            raise
        return None


class _Taker:
    def __init__(self, e: Evidence) -> None:
        self.e = e
        self.old = e.part.survey.snapshot if e.part is not None else None
        self.now_ns = time.time_ns()
        self.texts: dict[tuple[int, int], bytes] = {}  # number of a file, line -> large document

    def snapshot(self) -> Snapshot | None:
        e = self.e
        structure = e.part.structure if e.part is not None else self._structure()
        if structure is None:
            return None
        self.structure = structure
        self.looked_at = dict(self._numbered(e.reports))
        self.watching = Watching(e, self.old, structure, self.looked_at)
        folders, words = self.watching.folders()
        readers = self.watching.readers()
        prompts = self.watching.prompts()
        sections = {
            "paths": "\n".join(structure.paths).encode("ascii"),
            "documents": _json(structure.documents),
            "starts": number_bytes(structure.producers[0]),
            "producers": number_bytes(structure.producers[1]),
            "outputs": _json(structure.outputs),
            "readers": _json(readers),
            "prompts": _json(prompts),
            "words": _json(words),
            **cuts.sections(self._cuts()),
            **self._results(),
            **self._blobs(),
            "record": self._record(),
        }
        facts = Facts(
            who=world.who(),
            workspace=str(e.workspace),
            config=None if e.config is None else self.watching.watch(str(e.config), e.config_hash),
            cache_dir=str(e.cache_dir),
            own_cache_dir=str(e.own_cache_dir),
            environ=self.watching.environ(),
            files=self.watching.files(),
            watched=self.watching.watched([*readers, *prompts]),
            folders=folders,
            python=world.packages() if self.watching.has_models() else [],
            store=[self.watching.store_file(name) for name in ("cache.db", "cache.db-wal")],
            given=list(e.given),
            out=world.folder_stamp(f"{e.workspace}/.llmc/out"),
            placed=world.placed_stamp(str(e.workspace)) if structure.outputs else None,
        )
        return Snapshot(facts, sections)

    def _record(self) -> bytes:
        """What the record of a run is that finds everything as it is now; nothing for a large build."""
        record = self.e.record
        if record is None or len(self.structure.paths) > ALL_OF:
            return b""
        return _json(unchanged(record))

    # ------------------------------------------------------------ structure

    def _structure(self) -> Structure | None:
        e = self.e
        places: dict[str, tuple[int, list[tuple[int, str]]]] = {}
        for number, file in enumerate(e.files):
            data = read_bytes(file)
            if data is None or world.sha256(data) != e.read.get(os.path.abspath(file)):
                return None
            pieces = split(data) or [(1, 0, 0)]  # a piece that no text has: it is never found again
            self.texts.update(
                {(number, line): data[a:b] for line, a, b in pieces if b - a > _STEP * cuts.FROM}
            )
            places[shown(file)] = (number, [(line, piece_hash(data[a:b])) for line, a, b in pieces])
        return of_program(e.program, lambda file, line: (places[file][0], *_document(places[file][1], line)))

    def _cuts(self) -> dict[int, cuts.Cut]:
        """How the large documents can be cut: as they could be, or as they were read."""
        e = self.e
        found = dict(e.part.cuts) if e.part is not None else {}
        names = {}
        for number, document in enumerate(self.structure.documents):
            if document[5] >= cuts.FROM and number not in found:
                names[document[3]] = number
        steps: dict[str, list[Origin]] = {name: [] for name in names}
        for target in e.program.targets.values() if names else ():
            if target.step.workflow in names:
                steps[target.step.workflow].append(target.step)
                if target.may_mean_another:
                    names.pop(target.step.workflow)
        for name, number in names.items():
            piece, own = piece_of(self.structure.documents[number]), steps[name]
            text = self.texts.get(piece[:2], b"") if e.part is None else e.part.text_of(piece)
            if text is None:
                continue
            cut = cuts.cut_of(
                text, piece[1], [s.name for s in own], [s.output for s in own], [s.line for s in own]
            )
            if cut is not None:
                found[number] = cut
        return found

    def _numbered(self, reports: Iterable[TargetReport]) -> Iterator[tuple[int, TargetReport]]:
        for report in reports:
            number = self.structure.number(report.target)
            if number is not None:
                yield number, report

    # ------------------------------------------------------------ results

    def _results(self) -> dict[str, bytes]:
        e, structure, count = self.e, self.structure, len(self.structure.paths)
        flags = bytearray(self._carried("flags", 1))
        keys = bytearray(self._carried("keys", 32))
        values = bytearray(self._carried("values", 40))
        ctimes = array("q")
        fresh: set[int] = set()
        windows: dict[int, tuple[int, int]] = {}
        if self.old is None or e.part is None:
            ctimes.extend([-1] * count)
        else:
            for first, length in e.part.runs:
                ctimes.extend(self.old.ctimes[first : first + length] if first >= 0 else [-1] * length)
            known = self.old.windows
            windows = {i: known[was] for i, was in enumerate(e.part.was) if was in known} if known else {}
            then = set(self.old.fresh)
            fresh = {i for i, was in enumerate(e.part.was) if was in then} if then else set()
            for i in e.left:
                flags[i] = 0
        for i in self.watching.stale:
            flags[i] = 0
        home = f"{e.workspace}/.llmc/out"
        for i in e.put_back:
            fresh.discard(i)
            good, ctimes[i] = self._placed(structure.target(i), f"{home}/{structure.paths[i]}")
            if not good:
                flags[i] = 0
            elif is_fresh(ctimes[i], ctimes[i], self.now_ns):
                fresh.add(i)
        for i, report in self.looked_at.items():
            fresh.discard(i)
            flag, ctimes[i] = self._one(report, f"{home}/{structure.paths[i]}")
            if flag & CHECK:
                windows[i] = self._window(report.target)
            if ctimes[i] >= 0 and is_fresh(ctimes[i], ctimes[i], self.now_ns):
                fresh.add(i)
            output = report.output
            value = pack_value((output.hash, output.size) if output else None)
            if self.old is not None and (not flag & GOOD or values[i * 40 : i * 40 + 40] != value):
                self._unsettle(i, flags)
            flags[i] = flag
            keys[i * 32 : i * 32 + 32] = pack_key(report.key)
            values[i * 40 : i * 40 + 40] = value
        checked = [windows[i] for i, flag in enumerate(flags) if flag & CHECK] if windows else []
        return {
            "begins": number_bytes(array("q", [begin for begin, _ in checked])),
            "ends": number_bytes(array("q", [end for _, end in checked])),
            "flags": bytes(flags),
            "keys": bytes(keys),
            "values": bytes(values),
            "ctimes": number_bytes(ctimes),
            "fresh": number_bytes(array("I", sorted(fresh))),
        }

    def _carried(self, section: str, width: int) -> bytes:
        """What the old snapshot has for each target, zeros for new ones."""
        part = self.e.part
        if self.old is None or part is None:
            return bytes(len(self.structure.paths) * width)
        data = self.old.section(section)
        return b"".join(
            bytes(count * width) if first < 0 else data[first * width : (first + count) * width]
            for first, count in part.runs
        )

    def _one(self, report: TargetReport, path: str) -> tuple[int, int]:
        """Flags of a target, and the ctime of the file that holds its value."""
        e, target = self.e, report.target
        if not report.status.good or target in e.traces.not_kept or target in self.watching.not_good:
            return 0, -1
        if report.status is State.SKIPPED:
            return GOOD | SKIPPED, -1
        flag = GOOD | (CHECK if self._may_age(target) else 0)
        placed, ctime = self._placed(target, path)
        return (flag if placed else 0), ctime

    def _placed(self, target: TargetId, path: str) -> tuple[bool, int]:
        """Whether the file of a value is the one that was placed, and its ctime."""
        try:
            ctime = os.lstat(path).st_ctime_ns
        except OSError:
            return False, -1
        return ctime == self.e.placed_ctimes.get(target), ctime

    def _may_age(self, target: TargetId) -> bool:
        """Whether a result may have to be made again though nothing changed here."""
        ttl_s = self.e.program.targets[target].action.cache.ttl_s
        return ttl_s is not None or self._asks_moving_model(target)

    def _asks_moving_model(self, target: TargetId) -> bool:
        model = self.e.program.targets[target].action.params.get("model")
        return isinstance(model, str) and model in self.e.moving_models

    def _window(self, target: TargetId) -> tuple[int, int]:
        """From when until when, in ns, a result is taken for as good as new."""
        ttl_s = self.e.program.targets[target].action.cache.ttl_s
        made_s = self.e.traces.made.get(target)
        moving = self._asks_moving_model(target)
        if ttl_s is None or made_s is None or moving or not 0 <= made_s < _FAR_S:
            return _NEVER
        return int(made_s * 1e9), int(min(made_s + ttl_s, _FAR_S) * 1e9)

    def _unsettle(self, i: int, flags: bytearray) -> None:
        """What reads a target that is not as it was is to be looked at, where it was not yet."""
        for consumer in self.structure.consumers_of(i):
            if consumer not in self.looked_at:
                flags[consumer] = 0

    def _blobs(self) -> dict[str, bytes]:
        paths = set(self.old.blobs[0]) if self.old is not None else set()
        paths.update(f"cas/{name[:2]}/{name}" for name in self.e.traces.blobs)
        listed = sorted(paths)
        times = [look(f"{self.e.cache_dir}/{path}") for path in listed]
        return {
            "blobs": "\n".join(listed).encode("ascii"),
            "blob_ctimes": number_bytes(array("q", [stamp[4] if stamp else -2 for stamp in times])),
        }


_FAR_S = 9e9  # a time beyond all that are meant
_NEVER = (0, 0)
_STEP = 10  # bytes that a step has at least: a document of less than `cuts.FROM` times that is not cut


def _document(pieces: Sequence[tuple[int, str]], line: int) -> tuple[int, str]:
    """First line and hash of the document that holds a line."""
    from bisect import bisect_right

    return pieces[bisect_right(pieces, line, key=lambda piece: piece[0]) - 1]


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")
