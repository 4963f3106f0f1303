"""The real engine over a pretended world, for random tests: everything but files, processes and shells is real.

A *model* describes workflows by what their steps compute; `oracle` says, without any engine, what a clean build
would give.  `Rig` builds a model with the real resolve, graph, keys, plan, binder, loop and store (its index in
memory); only what a script computes is pretended, by the function that the oracle uses too.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmc_build.binder import Binder
from llmc_build.execute.protocol import Done, Lane, Progress, Status, Task, content_data, pack_content
from llmc_build.graph import ActionGraph
from llmc_build.inputs import Found, InputError
from llmc_build.keys import Files
from llmc_build.lanes import Lanes
from llmc_build.loop import Build, Surroundings
from llmc_build.model import (
    Action,
    ActionResult,
    Digest,
    Location,
    Need,
    Order,
    Step,
    TargetId,
    TargetReport,
    Workflow,
)
from llmc_build.plan import Plan
from llmc_build.report import Silent
from llmc_build.resolve import resolve
from llmc_build.store import Store
from llmc_build.store.cas import Cas
from llmc_build.store.index import MemoryIndex
from llmc_build.why import Options

HERE = Location(file="random.yaml", line=1, column=1)


@dataclass(frozen=True)
class S:
    """A step of the model.  `reads`, `needs` and `condition` name steps by their index in the model."""

    name: str
    salt: int
    kind: str = "normal"  # normal: value of all it reads; constant: of its salt's parity; fails; big
    reads: tuple[int, ...] = ()
    needs: tuple[int, ...] = ()
    file: str | None = None
    env: str | None = None
    condition: int | None = None  # skipped unless that step's value has a 1 in it


@dataclass(frozen=True)
class M:
    """A model: steps in an order in which each comes after all it speaks of, spread over workflows."""

    steps: tuple[S, ...]
    home: tuple[int, ...]  # step -> workflow
    names: tuple[str, ...]  # of the workflows
    files: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    def id(self, i: int) -> TargetId:
        return f"{self.names[self.home[i]]}.{self.steps[i].name}"


def compute(kind: str, salt: int, values: list[bytes], file: str | None, env: str | None) -> bytes | None:
    """What a step's script gives; None where it fails."""
    if kind == "fails":
        return None
    if kind == "constant":
        return b"%d" % (salt % 2)
    parts = [str(salt).encode(), *values, repr(file).encode(), repr(env).encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest().encode()
    return digest * 100 if kind == "big" else digest


@dataclass
class Expected:
    """What a clean build of a model gives."""

    states: dict[TargetId, str] = field(default_factory=dict)  # good, failed, poisoned, skipped
    values: dict[TargetId, bytes] = field(default_factory=dict)
    identity: dict[TargetId, tuple[object, ...]] = field(default_factory=dict)  # of the actions that run


def oracle(model: M) -> Expected:
    """A clean build, by definition: each step from what it reads, in order."""
    out = Expected()
    for i, step in enumerate(model.steps):
        me = model.id(i)
        near = [*step.reads, *step.needs] + ([] if step.condition is None else [step.condition])
        if any(out.states[model.id(j)] in ("failed", "poisoned") for j in near):
            out.states[me] = "poisoned"
            continue
        if step.condition is not None and b"1" not in out.values[model.id(step.condition)]:
            out.states[me], out.values[me] = "skipped", b""
            continue
        values = [out.values[model.id(j)] for j in dict.fromkeys(step.reads)]
        file = model.files.get(step.file) if step.file else None
        env = model.environ.get(step.env) if step.env else None
        value = compute(step.kind, step.salt, values, file, env)
        out.identity[me] = (step.kind, step.salt, tuple(values), step.file, file, step.env, env)
        out.states[me] = "failed" if value is None else "good"
        if value is not None:
            out.values[me] = value
    return out


def workflows(model: M, shuffle: random.Random) -> list[Workflow]:
    """The model as workflows, in any order of documents and steps."""
    found: dict[int, list[Step]] = {}
    for i, step in enumerate(model.steps):
        reads = " ".join(f"{{{{{model.id(j)}}}}}" for j in dict.fromkeys(step.reads))
        variable = f" env={step.env}" if step.env else ""
        condition = f"'1' in {{{{{model.id(step.condition)}}}}}" if step.condition is not None else None
        found.setdefault(model.home[i], []).append(
            Step(
                workflow=model.names[model.home[i]],
                name=step.name,
                rule="shell",
                location=HERE,
                command=f"step kind={step.kind} salt={step.salt}{variable} {reads}",
                inputs=(step.file,) if step.file else (),
                env=((step.env, None),) if step.env else (),
                needs=tuple(Need(target=model.id(j), location=HERE) for j in step.needs),
                condition=condition,
            )
        )
    docs = []
    for home, steps in found.items():
        shuffle.shuffle(steps)
        docs.append(Workflow(name=model.names[home], location=HERE, steps=tuple(steps), order=Order.DATAFLOW))
    shuffle.shuffle(docs)
    return docs


class Killed(BaseException):
    """The process is gone: nothing after this line runs."""


class PretendedFiles:
    """`inputs.Inputs` over a dict."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def find(self, action: Action) -> Found:
        found = {}
        for name in action.inputs:
            if name not in self._files:
                raise InputError(f"input {name} does not exist")
            data = self._files[name].encode()
            found[name] = (Digest(hash=hashlib.sha256(data).hexdigest(), size=len(data)), False)
        return Found(files=found)

    def changed(self, files: Files, stamps: object = None) -> list[str]:
        return []

    def offers(self, target: TargetId, path: str) -> bool:
        return False


class PretendedOutputs:
    """`outputs.Outputs` that only remembers what is in place."""

    store: Store

    def __init__(self) -> None:
        self.values: dict[TargetId, bytes] = {}

    def place(self, target: TargetId, result: ActionResult) -> int | None:
        value = self.store.read(result.value)
        if value is None:
            return None
        same = self.values.get(target) == value
        self.values[target] = value
        return 0 if same else 1

    def settle(self) -> None: ...

    def withdraw(self, target: TargetId) -> None:
        self.values.pop(target, None)

    def withdraw_all_but(self, known: Mapping[TargetId, object]) -> None:
        self.values = {t: v for t, v in self.values.items() if t in known}


class Pretended:
    """An executor with some workers that end their tasks in a random order."""

    def __init__(self, rig: Rig, model: M, chance: random.Random, die_after: int | None) -> None:
        self._rig, self._model, self._chance, self._left = rig, model, chance, die_after
        self._tasks: list[Task] = []
        self.width = chance.randint(1, 4)

    @property
    def busy(self) -> int:
        return len(self._tasks)

    def room(self, lane: Lane) -> int:
        return self.width - len(self._tasks)

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, timeout_s: float | None) -> list[Done | Progress]:
        ended: list[Done | Progress] = []
        for _ in range(self._chance.randint(1, max(1, len(self._tasks)))):
            if not self._tasks:
                break
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise Killed
            ended.append(self._run(self._tasks.pop(self._chance.randrange(len(self._tasks)))))
        return ended

    def _run(self, task: Task) -> Done:
        request = task.request
        found = re.search(r"step kind=(\w+) salt=(\d+)(?: env=(\w+))?", str(request["script"]))
        assert found
        kind, salt, variable = found[1], int(found[2]), found[3]
        values = []
        for entry in request["variables"]:  # type: ignore[union-attr]
            content = entry["content"]  # type: ignore[index,call-overload]
            data = Path(content["file"]).read_bytes() if "file" in content else content_data(content)  # type: ignore[index,operator,arg-type]
            values.append(data)
        names = [pair[0] for pair in request["inputs"]]  # type: ignore[union-attr,index]
        file = self._model.files[str(names[0])] if names else None
        env = request["env"].get(variable) if variable else None  # type: ignore[union-attr]
        identity = (kind, salt, tuple(values), names[0] if names else None, file, variable, env)
        self._rig.executed.append(identity)
        value = compute(kind, salt, values, file, env)  # type: ignore[arg-type]
        if value is None:
            return Done(id=task.id, status=Status.FAILED, error="exit code 1")
        put = self._rig.store.cas.put_bytes
        reply = {"value": pack_content(value, put), "stderr": pack_content(b"", put), "exit_code": 0}
        return Done(id=task.id, status=Status.OK, reply=reply)

    def cancel(self, task_id: int, reason: str) -> None: ...

    def close(self, *, kill: bool = False) -> None: ...


class Rig:
    """A workspace and its store over many builds."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.cas, self.index = Cas(scratch, durable=False), MemoryIndex()
        self.outputs = PretendedOutputs()
        self.executed: list[tuple[object, ...]] = []  # of the last build
        self.reports: Mapping[TargetId, TargetReport] = {}
        self.keys: Mapping[TargetId, str] = {}  # of the last build

    def build(self, model: M, seed: int, *, die_after: int | None = None) -> None:
        """One build; with `die_after`, the process is gone after so many tasks."""
        chance = random.Random(seed)
        program = resolve(workflows(model, chance))
        graph = ActionGraph(tuple(program.targets), program.edges)
        self.executed = []
        # as a new process would: nothing is remembered but what is in the index and the CAS
        self.store = self.outputs.store = Store(self.cas, self.index, note=lambda text: None)
        binder = Binder(
            program=program,
            graph=graph,
            store=self.store,
            inputs=PretendedFiles(model.files),  # type: ignore[arg-type]
            outputs=self.outputs,  # type: ignore[arg-type]
            lanes=Lanes(models={}, workspace=self.scratch, digests=None, environ={}, store=self.scratch),  # type: ignore[arg-type]
            environ={"PATH": "/bin", **model.environ},
            workspace=self.scratch,
            scratch=self.scratch,
            options=Options(),
            last_key=lambda target: None,
        )
        building = Build(
            Surroundings(
                plan=Plan(graph),
                binder=binder,
                store=self.store,
                outputs=self.outputs,  # type: ignore[arg-type]
                executor=Pretended(self, model, chance, die_after),
                reporter=Silent(),
                logs=lambda target: self.scratch,
            )
        )
        self.reports, self.keys = building.reports, binder.keys
        building.run()
        self.outputs.withdraw_all_but(program.targets)
