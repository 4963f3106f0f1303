"""A target and the world: checked in bulk as one by one, run by one process, within bounded memory."""

from __future__ import annotations

import binascii
import hashlib
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmc_build import binder as binder_module
from llmc_build import plan, workflow
from llmc_build.binder import Binder
from llmc_build.execute.protocol import Done, Status, Task
from llmc_build.graph import ActionGraph
from llmc_build.inputs import Inputs
from llmc_build.lanes import Lanes
from llmc_build.loop import Build, Surroundings
from llmc_build.model import State, TargetId
from llmc_build.outputs import Outputs
from llmc_build.report import Silent
from llmc_build.resolve import resolve
from llmc_build.rules import BindError
from llmc_build.store import Store
from llmc_build.store.cas import digest_of
from llmc_build.store.state import FileDigests
from llmc_build.why import Options


class Workers:
    """An executor whose steps say their script, and which counts them."""

    def __init__(self, width: int = 4) -> None:
        self.tasks: list[Task] = []
        self.ran: list[str] = []
        self.width = width
        self.times = 1  # how often a step says its script
        self.before: Callable[[], None] = lambda: None

    @property
    def busy(self) -> int:
        return len(self.tasks)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def room(self, lane: object) -> int:
        return self.width - len(self.tasks)

    def wait(self, timeout_s: float | None) -> list[Done]:
        self.before()
        tasks, self.tasks = self.tasks, []
        return [self._run(task) for task in tasks]

    def _run(self, task: Task) -> Done:
        self.ran.append(str(task.request["script"]))
        value = self.ran[-1].encode() * self.times
        reply = {"value": content(value), "stderr": content(value.upper()), "exit_code": 0}
        return Done(id=task.id, status=Status.OK, reply=reply)

    def cancel(self, task_id: int, reason: str) -> None: ...

    def close(self, *, kill: bool = False) -> None: ...


def content(data: bytes) -> dict[str, object]:
    return {
        "hash": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "data": binascii.b2a_base64(data, newline=False).decode(),
    }


@dataclass
class Session:
    """What one process has open of a workspace."""

    graph: ActionGraph
    store: Store
    outputs: Outputs
    binder: Binder


class Space:
    """A workspace and its builds, without worker processes."""

    def __init__(self, folder: Path, text: str, stack: ExitStack) -> None:
        self.folder, self._text, self._stack = folder, text, stack

    def session(self) -> Session:
        program = resolve(workflow.parse(self._text, "f.yaml"))
        graph = ActionGraph(tuple(program.targets), program.edges)
        home = self.folder / ".llmc"
        home.mkdir(exist_ok=True)
        store = Store.open(home / "cache", print)
        digests = FileDigests(home / "state" / "digests")
        outputs = Outputs(self.folder, home, store, digests)
        self._stack.callback(store.close)
        self._stack.callback(outputs.close)
        binder = Binder(
            program=program,
            graph=graph,
            store=store,
            inputs=Inputs(self.folder, digests, {}, graph.comes_after, (home,)),
            outputs=outputs,
            lanes=Lanes(models={}, workspace=self.folder, digests=digests, environ={}, store=store.cas_root),
            environ={"PATH": "/bin"},
            workspace=self.folder,
            scratch=self.folder,
            options=Options(),
            last_key=lambda target: None,
        )
        return Session(graph, store, outputs, binder)

    def build(self, session: Session, workers: Workers, **more: Any) -> dict[TargetId, State]:
        building = Build(
            Surroundings(
                plan=plan.Plan(session.graph),
                binder=session.binder,
                store=session.store,
                outputs=session.outputs,
                executor=workers,  # type: ignore[arg-type]
                reporter=Silent(),
                logs=lambda target: self.folder,
                **more,
            )
        )
        return {target: report.status for target, report in building.run().items()}


@pytest.fixture
def stack() -> ExitStack:
    with ExitStack() as found:
        yield found  # type: ignore[misc]


def committing(session: Session) -> int:
    """Results that ran and are on their way to the disk."""
    return session.store._group._open if session.store._group else 0


WIDE = "name: w\norder: dataflow\nsteps:\n" + "".join(
    f"  - {{name: s{i}, command: echo {i % 40}}}\n" for i in range(60)
)


def test_checks_in_bulk_say_what_checks_one_by_one_say(tmp_path: Path, stack: ExitStack) -> None:
    """Hits, misses, equal actions that run, equal actions that are done, conditions and errors."""
    text = WIDE + (
        "  - {name: no, command: echo x, if: \"'a' == 'b'\"}\n"
        "  - {name: bad, command: echo x, inputs: [nowhere]}\n"
        "  - {name: never, command: echo y, cache: false}\n"
    )
    space = Space(tmp_path, text.replace("echo 7}", "echo seven}"), stack)
    space.build(space.session(), Workers())
    space = Space(tmp_path, text, stack)
    one, many = space.session(), space.session()
    targets = list(one.graph.order)
    singly = [one.binder.check(target) for target in targets]
    assert many.binder.check_many(targets) == singly
    assert {type(verdict).__name__ for verdict in singly} == {"Hit", "Miss", "Same", "Skip", "Broken"}
    assert many.binder.keys == one.binder.keys
    assert many.binder.values == one.binder.values


def test_a_build_whose_targets_are_all_in_the_store_asks_it_a_few_times(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space(tmp_path, WIDE, stack)
    space.build(space.session(), Workers())
    session = space.session()
    asked: list[int] = []
    real = session.store._index.get_many
    monkeypatch.setattr(
        session.store._index, "get_many", lambda keys: (asked.append(len(list(keys))), real(keys))[1]
    )
    assert set(space.build(session, Workers()).values()) == {State.CACHED}
    assert len(asked) == 1


def test_locks_are_held_for_what_runs_and_not_for_what_waits(tmp_path: Path, stack: ExitStack) -> None:
    """The kernel walks along all locks of a process for each one: 100,000 held at once would take hours."""
    space = Space(tmp_path, WIDE, stack)
    session, workers = space.session(), Workers()
    held: list[int] = []
    locks = session.store._locks
    assert locks is not None

    def count() -> None:
        held.append(len(locks._file.held) - committing(session))

    workers.before = count
    space.build(session, workers)
    assert len(workers.ran) == 40
    assert 0 < max(held) <= workers.width
    assert locks._file.held == {}


def test_what_another_process_runs_is_waited_for_and_taken_over(tmp_path: Path, stack: ExitStack) -> None:
    """Identical work is done once across processes."""
    space = Space(tmp_path, WIDE, stack)
    ours, theirs = space.session(), space.session()
    first, second = Workers(), Workers()
    rounds = iter(range(1000))

    def meanwhile() -> None:
        if next(rounds) == 2:  # in the middle of ours, the other process builds all that is not locked
            space.build(theirs, second, interrupts=lambda: len(second.ran) >= 20)

    first.before = meanwhile
    states = space.build(ours, first)
    assert set(states.values()) == {State.RAN, State.CACHED}
    assert len(second.ran) >= 20
    assert sorted(first.ran + second.ran) == sorted(set(first.ran + second.ran))
    assert len(first.ran + second.ran) == 40


def test_targets_that_wait_for_a_worker_keep_little_in_memory(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "MOST_PENDING", 5)
    (tmp_path / "notes").write_text("before")
    text = WIDE.replace("echo ", "cat notes - ")
    space = Space(tmp_path, text, stack)
    session, workers = space.session(), Workers(width=2)
    most: list[int] = []

    def change_once() -> None:
        most.append(len(session.binder.pending) - committing(session))
        (tmp_path / "notes").write_text("after")

    workers.before = change_once
    states = space.build(session, workers)
    assert set(states.values()) <= {State.RAN, State.CACHED}
    assert max(most) <= 5 + 2
    assert session.binder.pending == {}
    expected = space.session()
    for target in expected.graph.order:
        expected.binder.check(target)
    late = [t for t in session.graph.order[10:40] if session.binder.keys[t] == expected.binder.keys[t]]
    assert len(late) == 30, "a target is keyed by what its inputs were when it was started"


def test_a_lock_taken_elsewhere_is_tried_again(tmp_path: Path, stack: ExitStack) -> None:
    space = Space(tmp_path, "name: w\nsteps:\n  - {name: s, command: echo 1}\n", stack)
    session = space.session()
    binder: Binder = session.binder
    assert isinstance(binder.check("w.s"), plan.Miss)
    with ExitStack() as other:
        theirs = space.session().store
        assert theirs.try_lock(binder.keys["w.s"])
        other.callback(theirs.unlock, binder.keys["w.s"])
        assert binder.claim_many(["w.s"]) == [plan.Elsewhere(again_in_s=0.05)]
    assert isinstance(binder.check("w.s"), plan.Miss)
    assert binder.claim_many(["w.s"]) == [None]


LARGE = "name: w\nsteps:\n  - {name: s, command: echo 12345}\n"


def test_a_large_value_that_is_found_is_read_once(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is hashed as it is copied; only what is not placed is read for that alone."""
    space = Space(tmp_path, LARGE, stack)
    first = Workers()
    first.times = 1000
    space.build(space.session(), first)
    shutil.rmtree(tmp_path / ".llmc" / "out")
    session, read = space.session(), []
    real = session.store.cas._stream
    monkeypatch.setattr(
        session.store.cas, "_stream", lambda digest, take: (read.append(digest), real(digest, take))[1]
    )
    assert space.build(session, Workers()) == {"w.s": State.CACHED}
    assert (tmp_path / ".llmc" / "out" / "w" / "s").read_bytes() == b"echo 12345" * 1000
    assert len(read) == len(set(read)) == 2, "the value and the standard error"


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("data", [b"echo 12345" * 1000, b"ECHO 12345" * 1000])
def test_a_result_with_a_damaged_blob_is_no_hit(
    tmp_path: Path, stack: ExitStack, data: bytes, in_place: bool
) -> None:
    """Also where its value is in place, and where only its standard error is damaged."""
    space = Space(tmp_path, LARGE, stack)
    first, second = Workers(), Workers()
    first.times = second.times = 1000
    session = space.session()
    space.build(session, first)
    blob = session.store.cas.path(digest_of(data))
    blob.chmod(0o600)
    blob.write_bytes(data[:-1] + b"!")
    if not in_place:
        shutil.rmtree(tmp_path / ".llmc" / "out")
    assert space.build(space.session(), second) == {"w.s": State.RAN}
    assert second.ran == first.ran
    assert (tmp_path / ".llmc" / "out" / "w" / "s").read_bytes() == b"echo 12345" * 1000
    assert blob.read_bytes() == data


@pytest.mark.parametrize("model", ["smollm2-135m", "pkg:a/b.gguf", "hf:a/b/c.gguf", "./x.gguf"])
def test_a_prompt_for_a_model_file_is_sent_to_no_server_that_nobody_named(tmp_path: Path, model: str) -> None:
    """A step without `type` asks a server: one that is forgotten would send the prompt away."""

    def server(environ: dict[str, str]) -> str | None:
        digests = FileDigests(tmp_path / "digests")
        lanes = Lanes(models={}, workspace=tmp_path, digests=digests, environ=environ, store=tmp_path)
        return lanes._server(model).base_url

    with pytest.raises(BindError, match="is a file: a step of type `llm` asks a server"):
        server({})
    assert server({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}) == "http://127.0.0.1:1/v1"
