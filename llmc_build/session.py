"""One build from opening to closing: its store, folders, workers, and its record.  World.

Owns the lifetimes of what a build opens.  What is done with them is `loop`; who asks is `api`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc_build.ahead import Ahead
from llmc_build.binder import Binder
from llmc_build.config import Config
from llmc_build.errors import EXIT_FAILED, EXIT_OFFLINE, EXIT_OK, StoreError
from llmc_build.execute.sweep import end_forgotten
from llmc_build.incremental.cone import choose, suspects
from llmc_build.incremental.partial import Partial, TooMuch
from llmc_build.incremental.restoring import Restoring
from llmc_build.incremental.taking import take
from llmc_build.incremental.watching import Evidence
from llmc_build.inputs import Inputs
from llmc_build.lanes import Lanes, budget_of
from llmc_build.model import BuildReport, Digest, State, TargetId, TargetReport
from llmc_build.outputs import Outputs
from llmc_build.outside import Outside
from llmc_build.record import Record, run_record
from llmc_build.report import Reporter
from llmc_build.resolve import Program
from llmc_build.snapshot.everything import Everything
from llmc_build.snapshot.form import SKIPPED
from llmc_build.snapshot.keeping import Last
from llmc_build.spent import Spent
from llmc_build.stopping import Stop
from llmc_build.store import Store
from llmc_build.store.runs import Runs
from llmc_build.subgraph import Graph, SubGraph
from llmc_build.why import Options

if TYPE_CHECKING:
    from llmc_build.snapshot.doubt import Doubt

MANY = 200  # targets in doubt: from here on, and from a quarter of all, everything is looked at


@contextmanager
def throwaway_store(home: Path) -> Iterator[Store]:
    """A store that lives as long as the build."""
    parent = home / "tmp"
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="store-", dir=parent))
    store = Store.memory(scratch)
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(slots=True, kw_only=True)
class Work:
    """What a build works on: all targets of its files, or some and what is known of the others."""

    program: Program
    read: Mapping[str, str]  # files that were read -> SHA-256
    graph: Graph | None = None  # of the targets that are looked at; None: there are none
    after: Callable[[TargetId, TargetId], bool] | None = None  # of a whole build: what comes after what
    part: Partial | None = None
    wanted: Collection[int] | None = None  # of a partial build: those asked for, by number; None: all
    left: Collection[int] = ()  # targets that should be looked at, and were not asked for


class Session:
    """Everything that one build opens, and closes again through `stack`."""

    def __init__(
        self,
        *,
        config: Config,
        options: Options,
        environ: Mapping[str, str],
        reporter: Reporter,
        stop: Stop,
        stack: ExitStack,
        ahead: Ahead,
    ) -> None:
        self.notes: list[str] = []
        self.config, self.options, self.reporter = config, options, reporter
        self._environ, self._stop, self._stack = environ, stop, stack
        self.home = config.workspace / ".llmc"
        try:
            self.run = Runs(self.home).create()
            self._scratch = self.home / "tmp" / self.run.run_id
            self._scratch.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise StoreError(
                f"can't write to {self.home}: {error.strerror}", hint="llmc keeps logs and outputs there"
            ) from None
        stack.callback(_remove_tree, self._scratch)
        end_forgotten(str(self._scratch.parent))
        self._ahead, self._digests = ahead, ahead.digests
        if options.no_cache:
            self.store = stack.enter_context(throwaway_store(self.home))
        else:
            self.store = Store.open(config.cache_dir, note=self.note)
            stack.callback(self.store.close)
        self._lanes = Lanes(
            models=config.models,
            workspace=config.workspace,
            digests=self._digests,
            environ=environ,
            store=self.store.cas_root,
            spill=self.store.spill,
            memory=config.memory,
            kv_cache=config.kv_cache,
            subprocess=config.subprocess,
            budget=budget_of(config, self._scratch),
            limits=config.limits,
        )
        self._members: set[TargetId] = set()  # of a partial build: the targets that it looks at
        self._put_back: Collection[int] = ()  # targets of a partial build that needed nothing but placing
        self._doubt: Doubt | None = None
        self._record: Record | None = None  # of this run, where it speaks of every target

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
        self.reporter.note(text)

    # ------------------------------------------------------------ what there is to do

    def whole(self, work: Work, last: Last) -> None:
        """Gets ready to look at every target of a graph."""
        program = work.program
        assert work.after is not None
        files = {target.step.file for target in program.targets.values()}
        relative = {file: os.path.relpath(os.path.realpath(file), self.config.workspace) for file in files}
        sources = {target.id: relative[target.step.file] for target in program.targets.values()}
        self._bind(program, sources, last.key, after=work.after)
        if not self.options.dry_run:
            self.outputs.withdraw_values(t for t in last.targets() if t not in program.targets)
            declared = {t.id: t.action.outputs for t in program.targets.values()}
            self.outputs.withdraw_gone(declared, named=lambda: _named(program))
            self.outputs.save_at_once()

    def partly(self, work: Work) -> None:
        """Finds out which targets are to be looked at, and gets ready for these.  Raises TooMuch."""
        part = work.part
        assert part is not None
        old, structure = part.survey.snapshot, part.structure

        def was(target: TargetId) -> int | None:
            number = structure.number(target)
            return None if number is None else part.was_at(number)

        def digest(target: TargetId) -> Digest | None:
            number = was(target)
            if number is None or old.flags[number] & SKIPPED:
                return None
            found, size = old.value(number)
            return Digest(hash=found, size=size)

        def key(target: TargetId) -> str | None:
            number = was(target)
            return None if number is None else old.key(number)

        files = [os.path.relpath(os.path.realpath(file), self.config.workspace) for file in part.files]

        def source(target: TargetId) -> str:
            return files[part.file_of(target)]

        sources = {target: source(target) for target in [*part.gone, *map(structure.target, part.changed)]}
        outside = Outside(home=self.home, store=self.store, digest=digest, key=key)
        self._bind(
            part.program,
            sources,
            key,
            after=structure.comes_after,
            writers=structure.outputs,
            outside=outside,
        )
        if any(map(self.outputs.has_placed, part.gone)):
            raise TooMuch("steps with outputs are gone: somebody else may ask for these now")
        lost = self._settle(part, work.wanted, source)
        doubtful = suspects(part, work.wanted, lost)
        if len(doubtful) > self._enough(part):
            raise TooMuch("most of it")
        part.read_also(doubtful)
        chosen = choose(part, doubtful, work.wanted, self.binder.probe_many, lost)
        part.read_also(chosen)
        if work.wanted is not None:
            work.left = set(suspects(part, None, lost)).difference(chosen)
        work.program = part.program
        if chosen:
            self._members.update(map(structure.target, sorted(chosen)))
            work.graph = SubGraph([structure.target(i) for i in sorted(chosen)], part.program.edges)
            self.outputs.sources.update({target: source(target) for target in self._members - sources.keys()})
        if not self.options.dry_run:
            for target in part.gone:
                self.outputs.withdraw(target)
            if part.reshaped:
                self.outputs.withdraw_folders({d[3]: files[d[0]] for d in structure.documents})

    def _settle(
        self, part: Partial, wanted: Collection[int] | None, source_of: Callable[[TargetId], str]
    ) -> Collection[int]:
        """Results that the store has lost; where many are not in place, they are put back on the way."""
        restoring = Restoring(part, self.store, self.outputs, source_of, self._stop)
        if not self.options.dry_run and len(suspects(part, wanted, ())) > self._enough(part):
            restoring.put_back(wanted)
            self.outputs.settle()
            self._put_back = restoring.back
            self.binder.restored += restoring.written
        elif part.survey.store_changed:
            restoring.find_lost()
        return restoring.lost

    @staticmethod
    def _enough(part: Partial) -> int:
        """How many targets in doubt are looked at one by one."""
        return max(MANY, len(part.structure.paths) // 4)

    def _bind(
        self,
        program: Program,
        sources: Mapping[TargetId, str],
        last_key: Callable[[TargetId], str | None],
        *,
        after: Callable[[TargetId, TargetId], bool],
        writers: Mapping[str, TargetId] | None = None,
        outside: Outside | None = None,
    ) -> None:
        config = self.config
        self.outputs = Outputs(config.workspace, self.home, self.store, self._digests, sources)
        self._stack.callback(self.outputs.close)
        if writers is None:
            writers = {path: t.id for t in program.targets.values() for path in t.action.outputs}
        self._inputs = Inputs(config.workspace, self._digests, writers, after, (self.home, config.cache_dir))
        self._spent = Spent(program)
        self.binder = Binder(
            program=program,
            graph=self._members,
            store=self.store,
            inputs=self._inputs,
            outputs=self.outputs,
            lanes=self._lanes,
            environ=self._environ,
            workspace=config.workspace,
            scratch=self._scratch,
            options=self.options,
            last_key=last_key,
            outside=outside,
        )

    def prompts(self, work: Work) -> list[TargetId]:
        """The targets that ask models, of those that are looked at."""
        targets = work.program.targets
        return [t for t in work.graph.order if targets[t].action.rule != "shell"] if work.graph else []

    # ------------------------------------------------------------ doing it

    def execute(self, graph: Graph, stop: Stop, *, fail_fast: bool) -> Mapping[TargetId, TargetReport]:
        """Runs the plan; the workers are gone when it returns."""
        from llmc_build.execute.pool import Pool
        from llmc_build.execute.residence import Room
        from llmc_build.loop import Build, StoppedAtOnce, Surroundings
        from llmc_build.plan import Plan

        stop.building = True
        workers = {None: None, True: self.config.jobs, False: 1}[self.config.subprocess]
        models = Room(memory=self._lanes.memory, workers=workers, note=self.note)
        pool = Pool(
            self.config.jobs,
            cas=self.store.cas_root,
            scratch=self._scratch,
            models=models,
            spare=self._ahead.spare,
        )
        building = Build(
            Surroundings(
                plan=Plan(graph, fail_fast=fail_fast),
                binder=self.binder,
                store=self.store,
                outputs=self.outputs,
                executor=pool,
                reporter=self.reporter,
                logs=self.run.step_folder,
                retries=self.config.retries,
                dry_run=self.options.dry_run,
                interrupts=lambda: len(stop.signals),
                ended=self._spent.add,
            )
        )
        self.store.on_commit = pool.wake
        kill = True
        try:
            building.run()
            kill = False
        except StoppedAtOnce:
            for target in graph.order:  # what had not ended by then was cancelled
                if target not in building.reports:
                    building.reports[target] = TargetReport(
                        target=target, status=State.CANCELLED, reason="the build was stopped at once"
                    )
        finally:
            pool.close(kill=kill)
        return building.reports

    # ------------------------------------------------------------ what is left of it

    def report(
        self, work: Work, found: Mapping[TargetId, TargetReport], stop: Stop, *, wall_s: float
    ) -> BuildReport:
        looked_at = tuple(found[target] for target in work.graph.order) if work.graph is not None else ()
        failed = any(r.status in (State.FAILED, State.POISONED) for r in looked_at)
        code = EXIT_FAILED if failed else EXIT_OK
        if self.binder.missed_offline:
            code = EXIT_OFFLINE
        every: Sequence[TargetReport] = looked_at
        skipped = 0
        if work.part is not None:
            part = work.part
            every = Everything(part.structure, part.was, part.survey.snapshot, found, work.wanted)
            skipped = every.skipped
        return BuildReport(
            run_id=self.run.run_id,
            exit_code=stop.exit_code if stop.exit_code is not None else code,
            wall_s=round(wall_s, 6),
            targets=every,
            looked_at=looked_at,
            skipped_before=skipped,
            restored=self.binder.restored,
            notes=tuple(self.notes),
        )

    def begin(self, work: Work, files: Sequence[Path], stack: ExitStack) -> None:
        """Before anything is taken away, runs or is placed.  `stack`: of what is open until the end."""
        if not self.options.dry_run:
            from llmc_build.snapshot.doubt import Doubt

            with contextlib.suppress(OSError):
                if self._doubt is None:
                    self._doubt = Doubt(str(self.config.workspace), [os.path.abspath(file) for file in files])
                    stack.callback(self._doubt.close)
                if work.part is None or work.part.reshaped:
                    self._doubt.mark()

    def keep(self, report: BuildReport, work: Work) -> None:
        """What `llmc log` and the next build need.  A full disk costs the record, not the results."""
        try:
            structure = work.part.structure if work.part is not None else None
            record = run_record(report, work.program, self.binder, structure)
            self.run.finish(record)
            if work.wanted is None and report.ok:
                self._record = record
            if not self.options.dry_run:
                self.outputs.save()
                self._digests.save()
            if self._doubt is not None and self._doubt.has_others:
                self.outputs.note_beside({t.partition(".")[0]: s for t, s in self.outputs.sources.items()})
        except OSError as error:
            self.note(f"the record of this run could not be written: {error}")

    def remember(self, report: BuildReport, work: Work, files: Sequence[Path]) -> None:
        """Takes the snapshot from which the next build starts; the store is closed."""
        if self.options.dry_run or self.options.no_cache or self.store.broken:
            return
        from llmc_build.snapshot import keeping

        config, binder = self.config, self.binder
        taken = take(
            Evidence(
                workspace=config.workspace,
                cache_dir=config.cache_dir,
                own_cache_dir=config.own_cache_dir,
                config=config.file,
                config_hash=config.file_hash,
                given=tuple(str(config.workspace / name) for name in config.workflows),
                files=files,
                environ=self._environ,
                read=work.read,
                program=work.program,
                part=work.part,
                reports=report.looked_at or (),
                traces=binder.traces,
                placed_ctimes=self.outputs.placed_ctimes,
                names=self._inputs.namer(),
                remembered=self._digests.remembered,
                models=self._lanes.files,
                moving_models=frozenset(self._lanes.moving),
                left=work.left,
                put_back=self._put_back,
                record=self._record,
            )
        )
        with contextlib.suppress(OSError):  # then the next build looks at everything
            keeping.keep(taken, str(config.workspace), [os.path.abspath(file) for file in files])
            if self._doubt is not None:
                self._doubt.settle(taken)
        if taken is not None and (work.part is None or len(report.news) > MANY):
            from llmc_build.snapshot import carried

            with contextlib.suppress(OSError):  # then a fresh checkout does
                carried.carry(taken, (str(self.home), str(config.cache_dir)))


def _named(program: Program) -> set[str]:
    """The files that steps ask for by name, as inputs or in a command."""
    actions = [target.action for target in program.targets.values()]
    return {os.path.normpath(path) for action in actions for path in (*action.inputs, *action.words)}


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
