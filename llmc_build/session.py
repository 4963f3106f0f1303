"""One build from opening to closing: its store, folders, workers, signals, and its record.  World.

Owns the lifetimes of what a build opens.  What is done with them is `loop`; who asks is `api`.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from llmc_build.binder import Binder, Options
from llmc_build.config import Config
from llmc_build.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OFFLINE,
    EXIT_OK,
    EXIT_TERMINATED,
    StoreError,
)
from llmc_build.execute.pool import Pool
from llmc_build.graph import ActionGraph
from llmc_build.inputs import Inputs
from llmc_build.lanes import Lanes
from llmc_build.loop import Build, Surroundings
from llmc_build.model import BuildReport, State, TargetId, TargetReport
from llmc_build.outputs import Outputs
from llmc_build.plan import Plan
from llmc_build.record import run_record
from llmc_build.report import Reporter
from llmc_build.resolve import Program
from llmc_build.store import Store
from llmc_build.store.runs import Runs
from llmc_build.store.state import FileDigests, read_keys, write_keys, write_last


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


@dataclass(slots=True)
class Stop:
    """Whether and how the user asked for the end."""

    signals: list[int] = field(default_factory=list)

    @property
    def exit_code(self) -> int | None:
        if not self.signals:
            return None
        return EXIT_TERMINATED if self.signals[0] == signal.SIGTERM else EXIT_INTERRUPTED


class _AtOnce(KeyboardInterrupt):
    """The second interrupt: end without waiting for anything."""


@contextmanager
def signals() -> Iterator[Stop]:
    """INT and TERM end the build in order the first time, at once the second time."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def hear(number: int, frame: FrameType | None) -> None:
        stop.signals.append(number)
        if len(stop.signals) == 2:
            raise _AtOnce

    old = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Session:
    """Everything that one build opens, and closes again through `stack`."""

    def __init__(
        self,
        *,
        config: Config,
        program: Program,
        graph: ActionGraph,
        options: Options,
        no_cache: bool,
        environ: Mapping[str, str],
        reporter: Reporter,
        stack: ExitStack,
    ) -> None:
        self.notes: list[str] = []
        self.config, self.program, self.graph, self.options = config, program, graph, options
        self.reporter, self._stack = reporter, stack
        self.home = config.workspace / ".llmc"
        try:
            runs = Runs(self.home)
            self.run = runs.create()
            scratch = self.home / "tmp" / self.run.run_id
            scratch.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise StoreError(
                f"can't write to {self.home}: {error.strerror}", hint="llmc keeps logs and outputs there"
            ) from None
        stack.callback(_remove_tree, scratch)
        self.scratch = scratch
        self.digests = FileDigests(self.home / "state" / "digests")
        if no_cache:
            self.store = stack.enter_context(throwaway_store(self.home))
        else:
            self.store = Store.open(config.cache_dir, note=self.note)
            stack.callback(self.store.close)
        files = {target.id: target.step.location.file for target in program.targets.values()}
        relative = {file: os.path.relpath(file, config.workspace) for file in set(files.values())}
        sources = {target: relative[file] for target, file in files.items()}
        self.outputs = Outputs(config.workspace, self.home, self.store, self.digests, sources)
        stack.callback(self.outputs.close)
        if not options.dry_run:
            self.outputs.withdraw_gone({t.id: t.action.outputs for t in program.targets.values()})
        writers = {path: t.id for t in program.targets.values() for path in t.action.outputs}
        self.last_keys = read_keys(self.home / "state")
        self.binder: Binder = Binder(
            program=program,
            graph=graph,
            store=self.store,
            inputs=Inputs(
                config.workspace,
                self.digests,
                writers,
                graph.comes_after,
                (self.home, config.cache_dir),
            ),
            outputs=self.outputs,
            lanes=Lanes(
                models=config.models,
                workspace=config.workspace,
                digests=self.digests,
                environ=environ,
                store=self.store.cas_root,
                spill=self.store.spill,
            ),
            environ=environ,
            workspace=config.workspace,
            scratch=scratch,
            options=options,
            last_keys=self.last_keys,
        )

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.reporter.note(text)

    def execute(self, stop: Stop, *, fail_fast: bool) -> Mapping[TargetId, TargetReport]:
        """Runs the plan; the workers are gone when it returns."""
        pool = Pool(self.config.jobs, cas=self.store.cas_root, scratch=self.scratch)
        building = Build(
            Surroundings(
                plan=Plan(self.graph, fail_fast=fail_fast),
                binder=self.binder,
                store=self.store,
                outputs=self.outputs,
                executor=pool,
                reporter=self.reporter,
                logs=self.run.step_folder,
                retries=self.config.retries,
                dry_run=self.options.dry_run,
                interrupted=lambda: bool(stop.signals),
            )
        )
        self.store.on_commit = pool.wake
        kill = True
        try:
            building.run()
            kill = False
        except _AtOnce:
            for target in self.graph.order:  # what had not ended by then was cancelled
                if target not in building.reports:
                    building.reports[target] = TargetReport(
                        target=target, status=State.CANCELLED, reason="the build was stopped at once"
                    )
        finally:
            pool.close(kill=kill)
        return building.reports

    def report(self, found: Mapping[TargetId, TargetReport], stop: Stop, *, wall_s: float) -> BuildReport:
        reports = tuple(found[target] for target in self.graph.order)
        failed = any(r.status in (State.FAILED, State.POISONED) for r in reports)
        code = EXIT_FAILED if failed else EXIT_OK
        if self.binder.missed_offline:
            code = EXIT_OFFLINE
        return BuildReport(
            run_id=self.run.run_id,
            exit_code=stop.exit_code if stop.exit_code is not None else code,
            wall_s=round(wall_s, 6),
            targets=reports,
            restored=self.binder.restored,
            notes=tuple(self.notes),
        )

    def keep(self, report: BuildReport, files: Sequence[Path]) -> None:
        """What the next build and `llmc log` need.  A full disk costs the record, not the results."""
        try:
            self.run.finish(run_record(report, self.program, self.binder))
            if self.options.dry_run:
                return
            self.outputs.save()
            self.digests.save()
            state = self.home / "state"
            write_last(state, [str(path.resolve()) for path in files])
            write_keys(state, {**self.last_keys, **self.binder.keys})
        except OSError as error:
            self.note(f"the record of this run could not be written: {error}")


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
