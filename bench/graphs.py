"""The graphs: their shapes, what an edit of them reaches, and what each step must say.  Knows no tool.

Every graph has one root step.  Steps come in topological order, workflow by workflow, and are made again each
time they are asked for, so that a graph of a million steps is never in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

ROOT = "root.root"
CHAIN = 10  # steps of one workflow of the standard graph
WIDTH = 100  # steps of one workflow (a layer) of the dense graph
READS = 20  # what each step of the dense graph reads


@dataclass(frozen=True, slots=True)
class Step:
    workflow: str
    name: str
    reads: tuple[str, ...]  # ids of the steps whose values it reads

    @property
    def id(self) -> str:
        return f"{self.workflow}.{self.name}"

    def says(self, edit: Edit) -> str:
        """What it prints of its own, before what it passes on."""
        if self.id == ROOT:
            return "root"
        return f"{edit.word if self.id in edit.steps else 'hello'} {self.workflow} {self.name}"


@dataclass(frozen=True, slots=True)
class Edit:
    """Steps whose commands say another word than at first.  Later edits of a folder cover earlier ones."""

    word: str = "hello"
    steps: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Workflow:
    name: str
    dataflow: bool  # False: its steps are a chain
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Graph:
    shape: str
    targets: int
    workflows: Callable[[], Iterator[Workflow]]
    passes: bool  # a step prints what it read; False: it reads it, and prints only its own
    sinks: Callable[[], Iterator[str]]  # ids of what nothing reads
    one: frozenset[str]  # the load "one edit"
    whole: frozenset[str] = field(default_factory=frozenset)  # "one workflow edited"; empty: has no such load
    files: bool = False  # llmc's steps, too, write files of out/ and read them, and have no values

    def steps(self) -> Iterator[Step]:
        return chain.from_iterable(w.steps for w in self.workflows())

    def reached(self, edited: Collection[str]) -> set[str]:
        """The edited steps and all that reads them, at any distance."""
        cone = set(edited)
        for step in self.steps():
            if not cone.isdisjoint(step.reads):
                cone.add(step.id)
        return cone

    def values(self, edit: Edit, wanted: Collection[str], *, passes: bool = True) -> dict[str, str]:
        """What those steps must have printed, but for the last newline; `passes`: whether the tool does."""
        found: dict[str, str] = {}
        for workflow in self.workflows():
            here = {ROOT: "root"}
            for step in workflow.steps:
                passed = [here[r] for r in step.reads] if self.passes and passes else []
                here[step.id] = " ".join([step.says(edit), *passed])
                if step.id in wanted:
                    found[step.id] = here[step.id]
        return found

    @cached_property
    def samples(self) -> set[str]:
        """A few steps from the beginning, the middle and the end."""
        at = {0, 1, self.targets // 2, self.targets - 2, self.targets - 1}
        return {step.id for i, step in enumerate(self.steps()) if i in at}


def _rooted(rest: Iterator[Workflow]) -> Iterator[Workflow]:
    return chain([Workflow("root", False, (Step("root", "root", ()),))], rest)


def chains(size: int) -> Graph:
    """The standard: workflows of ten steps in a chain that pass values; each chain waits for the root."""
    count = max(1, size // CHAIN)

    def workflow(w: int) -> Workflow:
        name = f"w{w}"
        reads = [ROOT, *(f"{name}.s{s}" for s in range(CHAIN - 1))]
        return Workflow(name, False, tuple(Step(name, f"s{s}", (r,)) for s, r in enumerate(reads)))

    middle = f"w{count // 2}"
    return Graph(
        shape="chains",
        targets=1 + count * CHAIN,
        workflows=lambda: _rooted(workflow(w) for w in range(count)),
        passes=True,
        sinks=lambda: (f"w{w}.s{CHAIN - 1}" for w in range(count)),
        one=frozenset({f"{middle}.s5"}),
        whole=frozenset(f"{middle}.s{s}" for s in range(CHAIN)),
    )


def files(size: int) -> Graph:
    """The standard graph with declared files in the place of values; for the other tools it is the same."""
    return replace(chains(size), shape="files", files=True)


def wide(size: int) -> Graph:
    """One producer and its consumers, which are one workflow."""
    count = max(1, size - 1)
    return Graph(
        shape="wide",
        targets=1 + count,
        workflows=lambda: _rooted(
            iter([Workflow("wide", True, tuple(Step("wide", f"s{s}", (ROOT,)) for s in range(count)))])
        ),
        passes=True,
        sinks=lambda: (f"wide.s{s}" for s in range(count)),
        one=frozenset({f"wide.s{count // 2}"}),
    )


def deep(size: int) -> Graph:
    """One chain.  A step prints only its own, since values passed on would grow with every step."""
    count = max(2, size - 1)

    def steps() -> Iterator[Step]:
        yield Step("deep", "s0", (ROOT,))
        for s in range(1, count):
            yield Step("deep", f"s{s}", (f"deep.s{s - 1}",))

    return Graph(
        shape="deep",
        targets=1 + count,
        workflows=lambda: _rooted(iter([Workflow("deep", False, tuple(steps()))])),
        passes=False,
        sinks=lambda: iter([f"deep.s{count - 1}"]),
        one=frozenset({f"deep.s{count - 2}"}),  # its value is read by one step, whose own stays what it was
    )


def dense(size: int) -> Graph:
    """Layers; each step reads twenty of the layer before.  As in `deep`, it prints only its own."""
    width = max(READS, min(WIDTH, size // 5))
    layers = max(2, size // width)

    def layer(n: int) -> Workflow:
        name = f"l{n}"
        reads = [
            tuple(f"l{n - 1}.s{(s + k * (width // READS)) % width}" for k in range(READS)) if n else (ROOT,)
            for s in range(width)
        ]
        return Workflow(name, True, tuple(Step(name, f"s{s}", r) for s, r in enumerate(reads)))

    last_but_one = f"l{layers - 2}"
    return Graph(
        shape="dense",
        targets=1 + layers * width,
        workflows=lambda: _rooted(layer(n) for n in range(layers)),
        passes=False,
        sinks=lambda: (f"l{layers - 1}.s{s}" for s in range(width)),
        one=frozenset({f"{last_but_one}.s{width // 2}"}),
        whole=frozenset(f"{last_but_one}.s{s}" for s in range(width)),
    )


SHAPES: dict[str, Callable[[int], Graph]] = {
    "chains": chains,
    "files": files,
    "wide": wide,
    "deep": deep,
    "dense": dense,
}
