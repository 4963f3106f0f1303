"""What llmc does, as functions: the Python interface, and all that the command line calls.  World.

Owns how a build is put together from its parts, and nothing of what the parts do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from llmc_build.errors import (
    ConfigError,
    Fault,
    NoSuchTarget,
    StoreError,
    UsageError,
    WorkflowError,
    did_you_mean,
)
from llmc_build.model import BuildReport, TargetId, Workflow

if TYPE_CHECKING:
    from llmc_build.config import Config
    from llmc_build.doctor import Finding
    from llmc_build.llm.models import ModelListing
    from llmc_build.report import Reporter
    from llmc_build.session import Session, Work
    from llmc_build.store.upkeep import Collected, Findings

__all__ = [
    "BuildReport",
    "build",
    "cache_gc",
    "cache_path",
    "cache_stats",
    "cache_verify",
    "clean",
    "load",
    "log",
    "models",
    "show",
    "validate",
]

Files = Sequence[str | Path]


def load(files: Files, *, workspace: Path | None = None) -> tuple[Workflow, ...]:
    """The workflows of files, checked field by field.  Raises WorkflowError with every fault."""
    from llmc_build.reading import load_files

    return load_files([Path(file) for file in files], workspace or _config(None, {}).workspace)


def validate(files: Files = (), *, workspace: Path | None = None) -> tuple[int, int]:
    """(workflows, steps) of files that could be built.  Raises WorkflowError with every fault."""
    from llmc_build.lanes import misnamed
    from llmc_build.reading import load_program

    config = _config(workspace, {})
    program, _ = load_program(_files(files, config), config.workspace, store=config.cache_dir)
    faults = misnamed(program.targets.values(), config.models, config.workspace)
    if faults:
        raise WorkflowError(faults)
    return len({target.step.workflow for target in program.targets.values()}), len(program.targets)


def build(
    files: Files = (),
    *,
    targets: Sequence[str] = (),
    workspace: Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    fail_fast: bool = False,
    retries: int | None = None,
    no_cache: bool = False,
    offline: bool = False,
    cache_dir: Path | None = None,
    max_tokens_total: int | None = None,
    max_cost: float | None = None,
    reporter: Reporter | None = None,
    environ: Mapping[str, str] | None = None,
) -> BuildReport:
    """Builds workflows; what `llmc build` does.

    `files`: workflow files; none: those of llmc.yaml, else of the last build here, else workflow.yaml.
    `targets`: patterns (`workflow.step`, `workflow`, globs); none: everything.  `max_tokens_total`,
    `max_cost`: what all requests to servers may come to, in tokens and in the unit of `prices` in llmc.yaml.
    A step that fails is in the report; raises WorkflowError, ConfigError, UsageError, NoSuchTarget,
    StoreError for what keeps the build from starting.  In the main thread, SIGINT and SIGTERM end the
    build in order; the report says so.
    """
    from llmc_build.ahead import Ahead

    flags = {
        "jobs": jobs,
        "retries": retries,
        "cache_dir": cache_dir,
        "max_tokens_total": max_tokens_total,
        "max_cost": max_cost,
    }
    started = time.monotonic()
    config = _config(workspace, flags, environ)
    environ = os.environ if environ is None else environ
    paths = _files(files, config)
    with Ahead(config, paths, idle=dry_run) as ahead:
        # Imported only now: that takes about as long as what was just begun.
        from llmc_build.collecting import loaded, loading
        from llmc_build.report import Silent
        from llmc_build.session import Session
        from llmc_build.stopping import signals
        from llmc_build.store import occupied
        from llmc_build.why import Options

        reporter = reporter or Silent()
        options = Options(force=force, offline=offline, dry_run=dry_run, no_cache=no_cache)
        with loading():
            work = None if force or no_cache else _part(paths, config, environ, targets)
        work = work or _all(paths, config, targets)
        with occupied.shared(config.workspace / ".llmc"), signals() as stop, loaded(), ExitStack() as longer:
            with ExitStack() as stack:
                session = Session(
                    config=config,
                    options=options,
                    environ=environ,
                    reporter=reporter,
                    stop=stop,
                    stack=stack,
                    ahead=ahead,
                )
                session.begin(work, paths, longer)
                work = _look(session, work, paths, config, targets)
                session.begin(work, paths, longer)  # it may be another one
                reporter.started(len(work.graph or ()), session.run.run_id, config.jobs)
                prompts = session.prompts(work)
                if prompts:
                    reporter.asks(prompts)
                found = session.execute(work.graph, stop, fail_fast=fail_fast) if work.graph else {}
                report = session.report(work, found, stop, wall_s=time.monotonic() - started)
                session.keep(report, work)
            if not stop.signals:  # else the snapshot before stays: what moved since is seen by it
                session.remember(report, work, paths)
    reporter.finished(report)
    return report


def _part(
    paths: Sequence[Path], config: Config, environ: Mapping[str, str], targets: Sequence[str]
) -> Work | None:
    """What changed since the last build, where that can be told; None: everything is to be looked at."""
    from llmc_build.snapshot import keeping

    workspace, names = str(config.workspace), [os.path.abspath(path) for path in paths]
    file, cache_dir = str(config.file) if config.file else None, str(config.cache_dir)
    survey = keeping.survey(workspace, names, config=file, cache_dir=cache_dir, environ=environ)
    if survey is None:
        from llmc_build.snapshot import carried

        found = carried.arrived(
            workspace,
            names,
            config=file,
            cache_dir=cache_dir,
            own_cache_dir=str(config.own_cache_dir),
            hidden=(f"{workspace}/.llmc", cache_dir),
        )
        if found is not None:
            from llmc_build.snapshot.survey import take_survey

            survey = take_survey(
                found, workspace=workspace, files=names, config=file, cache_dir=cache_dir, environ=environ
            )
    if survey is None or survey.whole is not None:
        return None
    from llmc_build.incremental.partial import Partial, TooMuch
    from llmc_build.session import Work
    from llmc_build.snapshot.form import SENSELESS
    from llmc_build.snapshot.selection import selected

    try:
        survey.snapshot.check()
        part = Partial(survey, paths, config.workspace)
        structure = part.structure
        wanted = selected(structure.paths, structure.producers, targets) if targets else None
    except (TooMuch, *SENSELESS):  # what is wrong with it is found by looking at all
        return None
    if targets and wanted is None:
        return None
    return Work(program=part.program, read=part.read, part=part, wanted=wanted)


def _all(paths: Sequence[Path], config: Config, targets: Sequence[str]) -> Work:
    from llmc_build.reading import load_program
    from llmc_build.session import Work

    read: dict[str, str] = {}
    program, graph = load_program(paths, config.workspace, read, store=config.cache_dir)
    graph = graph.select(targets)
    return Work(program=program, read=read, graph=graph, after=graph.comes_after)


def _look(
    session: Session, work: Work, paths: Sequence[Path], config: Config, targets: Sequence[str]
) -> Work:
    """Gets the session ready for the targets that have to be looked at."""
    from llmc_build.incremental.partial import TooMuch
    from llmc_build.snapshot import keeping

    if work.part is not None:
        try:
            session.partly(work)
        except TooMuch:
            work = _all(paths, config, targets)
        else:
            return work
    session.whole(work, keeping.Last(str(config.workspace), [os.path.abspath(path) for path in paths]))
    return work


def show(target: TargetId, *, workspace: Path | None = None) -> bytes:
    """The value of a target, as the last build left it.  Raises NoSuchTarget."""
    from llmc_build.outputs import value_path

    home = _config(workspace, {}).workspace / ".llmc"
    path = value_path(home, _one_target(target))
    if path.is_symlink() or not path.is_file():
        known = [f"{p.parent.name}.{p.name}" for p in (home / "out").glob("*/*")]
        hint = did_you_mean(target, known) or "build it first: llmc build -t " + target
        raise _lacking(home, target, "has no value", hint)
    return path.read_bytes()


def log(target: TargetId, run: str = "latest", *, workspace: Path | None = None) -> Path:
    """The folder with the logs of a target: of the run named, or of the newest run in which it ran.

    Raises NoSuchTarget.
    """
    from llmc_build.store.runs import Runs

    home = _config(workspace, {}).workspace / ".llmc"
    runs = Runs(home)
    workflow, _, step = _one_target(target).partition(".")
    places = runs.all() if run == "latest" else [found for found in (runs.find(run),) if found]
    for place in places:
        folder = place / workflow / step
        if folder.is_dir():
            return folder
    if run != "latest" and not places:
        raise NoSuchTarget(f"there is no run {run}", hint="runs are in .llmc/runs")
    if run != "latest":
        raise NoSuchTarget(f"{target} did not run in {run}, so it has no log")
    raise _lacking(home, target, "has no log", "only what ran has one, and not what came from the store")


def _lacking(home: Path, target: TargetId, what: str, hint: str | None) -> NoSuchTarget:
    """Why a target lacks its value or its log, by the newest run that speaks of it; else with `hint`."""
    from llmc_build.store.runs import Runs

    found = Runs(home).said_of(target)
    why = {
        "failed": f"it failed: {str(found.get('error')).partition(chr(10))[0]}",
        "poisoned": f"it did not run, because {found.get('caused_by')} failed",
        "skipped": f"it was skipped: {found.get('reason')}".removesuffix(": up to date"),
    }.get(str(found.get("status")))
    if why is not None:
        return NoSuchTarget(f"{target} {what}: {why}")
    return NoSuchTarget(f"{target} {what} here", hint=hint)


def clean(*, workspace: Path | None = None, expunge: bool = False) -> list[str]:
    """Removes outputs, runs and state of the workspace, with `expunge` the store too.

    Returns the outputs that stay because they were changed since llmc wrote them.  Raises StoreError, with
    nothing removed, while a build runs there.
    """
    from llmc_build.outputs import Outputs
    from llmc_build.session import throwaway_store
    from llmc_build.store import occupied, opening, runs
    from llmc_build.store.state import FileDigests

    config = _config(workspace, {})
    home = config.workspace / ".llmc"
    kept: list[str] = []
    with occupied.alone(home):
        if home.is_dir():
            digests = FileDigests(home / "state" / "digests")
            with throwaway_store(home) as store:
                kept = Outputs(config.workspace, home, store, digests).remove_all()
        runs.clean(home)
        if expunge:
            opening.expunge(config.cache_dir)
    return kept


def cache_stats(*, workspace: Path | None = None, cache_dir: Path | None = None) -> dict[str, int]:
    """What the store holds: records, blobs, bytes, quarantined."""
    from llmc_build.store import Store

    config = _config(workspace, {"cache_dir": cache_dir})
    if not config.cache_dir.is_dir():
        raise StoreError(f"there is no store at {config.cache_dir} yet")
    store = Store.open(config.cache_dir, note=lambda text: None)
    try:
        return store.stats()
    finally:
        store.close()


def cache_verify(
    *, workspace: Path | None = None, cache_dir: Path | None = None, repair: bool = False
) -> Findings:
    """Reads every byte of the store; with `repair`, what is damaged is set aside.  Raises StoreError."""
    from llmc_build.store import upkeep

    return upkeep.verify(_config(workspace, {"cache_dir": cache_dir}).cache_dir, repair=repair)


def cache_gc(
    *,
    workspace: Path | None = None,
    cache_dir: Path | None = None,
    max_bytes: int | None = None,
    max_age_s: float | None = None,
) -> Collected:
    """Removes what no result needs, and the results used longest ago.  Raises StoreError.

    `max_age_s`: those not used for so long; `max_bytes`: as many as it takes to be no larger.  What a running
    build relies on stays.
    """
    from llmc_build.store import upkeep

    config = _config(workspace, {"cache_dir": cache_dir})
    return upkeep.collect(config.cache_dir, max_bytes=max_bytes, max_age_s=max_age_s)


def cache_path(*, workspace: Path | None = None, cache_dir: Path | None = None) -> Path:
    """Where the store of the workspace is."""
    return _config(workspace, {"cache_dir": cache_dir}).cache_dir


def models(*, workspace: Path | None = None) -> Sequence[ModelListing]:
    """The models that can be named here."""
    from llmc_build.llm.models import list_models

    config = _config(workspace, {})
    return list_models(aliases=config.models, workspace=config.workspace)


def doctor(*, workspace: Path | None = None, online: bool = False) -> Iterator[Finding]:
    """What this machine has, finding by finding; servers are asked only `online`."""
    from llmc_build.doctor import examine

    return examine(_config(workspace, {}), os.environ, online=online)


# ---------------------------------------------------------------- the parts of a build


def _config(
    workspace: Path | None, flags: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> Config:
    from llmc_build.config import load_config

    given = {name: value for name, value in flags.items() if value is not None}
    return load_config(workspace or Path.cwd(), os.environ if environ is None else environ, given)


def _files(files: Files, config: Config) -> list[Path]:
    """The files of a build, in the order given, each once."""
    from llmc_build.snapshot.keeping import absolute, last_files

    if files:
        meant = {file: absolute(str(file)) for file in files}  # another file where a link stands before `..`
        found = [Path(file if name == os.path.abspath(file) else name) for file, name in meant.items()]
    elif config.workflows:
        found = [config.workspace / file for file in config.workflows]
        faults = [
            Fault(headline=f"llmc.yaml: `workflows` lists {name}, which does not exist")
            for name, path in zip(config.workflows, found, strict=True)
            if not os.path.lexists(path)
        ]
        if faults:
            raise ConfigError(faults)
    else:
        found = [config.workspace / file for file in last_files(str(config.workspace))]
        if not found or not all(path.is_file() for path in found):
            found = [config.workspace / "workflow.yaml"]
        if not found[0].is_file():
            here = sorted(p.name for p in config.workspace.glob("*.y*ml") if p.suffix in (".yaml", ".yml"))
            others = ", ".join(name for name in here[:8] if name != "llmc.yaml")
            raise UsageError(
                "no workflow file named, and there is no workflow.yaml here",
                hint="llmc build FILE, or list the files under `workflows:` in llmc.yaml"
                + (f"; there are: {others}" if others else ""),
            )
    return [*{os.path.abspath(path): path for path in found}.values()]


def _one_target(target: str) -> TargetId:
    parts = target.split(".")
    if len(parts) != 2 or not all(parts) or any("/" in part or part.startswith("-") for part in parts):
        raise NoSuchTarget(f'"{target}" is not a target', hint="a target is written workflow.step")
    return target
