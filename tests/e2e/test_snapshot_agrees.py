"""With a snapshot or without: a build comes to the same, runs the same, and never says "up to date" where it isn't.

Two copies of a workspace are edited, disturbed and built in the same way.  One keeps its state, and finds a snapshot
with its store where it has none; from the other `.llmc/state` is removed before every build, so that it looks at everything.  After every build all that a user can see
is compared, and the number of steps that ran.  Before it, the quick way is asked: it may say "up to date" only where
the thorough build then finds nothing to do.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from llmc_build import api, quick, session
from llmc_build.errors import WorkflowError
from llmc_build.model import BuildReport
from llmc_build.snapshot import carried, cuts
from tests.e2e.test_real_incremental import ENVIRON, seen

EDITS = 10
KINDS = (
    ["value"] * 6
    + ["const", "glob", "word", "folder", "output", "reader", "env", "skip", "fail", "big", "late", "never"]
    + ["ttl", "variable", "variable", "json", "json", "json", "schema", "field", "field", "field"]
    + ["either", "either", "either", "bare", "bare", "bare"]
)
CALM = [
    kind for kind in KINDS if kind not in ("fail", "never", "ttl", "schema")
]  # all of it ends well, and stays


class Program:
    """Several workflows over two files, and the source files that they read."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.serial = 0
        self.files = {f"src/{name}.txt": f"{name}{chance.randrange(3)}\n" for name in "abc"}
        self.environ = {**ENVIRON, "MODE": "0"}
        self.flows: dict[str, dict[str, dict[str, str]]] = {}
        self.gone: dict[str, dict[str, dict[str, str]]] = {}
        self.were_gone: set[str] = set()
        self.comment = 0
        self.cut = 0  # workflows of the first file
        self.kinds = chance.choice([KINDS, CALM])
        for _ in range(chance.randint(3, 6)):
            self.add_flow()

    def add_flow(self) -> None:
        self.serial += 1
        self.flows[f"w{self.serial}"] = {f"s{i}": self.step() for i in range(self.chance.randint(1, 4))}

    def step(self) -> dict[str, str]:
        chance = self.chance
        return {
            "kind": chance.choice(self.kinds),
            "file": chance.choice("abcd"),
            "salt": str(chance.randrange(3)),
            "reads": str(chance.randrange(100)),
        }

    def edit(self) -> None:
        chance = self.chance
        kind = chance.choice(
            [
                "file",
                "file",
                "add",
                "remove",
                "env",
                "comment",
                "flow",
                "gone",
                "back",
                "back",
                "order",
                "cut",
            ]
            + ["step"] * 8
        )
        flow = chance.choice(list(self.flows))
        steps = self.flows[flow]
        if kind == "file":
            self.files[f"src/{chance.choice('abcd')}.txt"] = f"{chance.randrange(4)}\n"
        elif kind == "add":
            self.files[f"{chance.choice(['src/', ''])}extra{chance.randrange(3)}.txt"] = "extra\n"
        elif kind == "remove" and len(self.files) > 1:
            del self.files[chance.choice(list(self.files))]
        elif kind == "env":
            self.environ["MODE"] = str(chance.randrange(3))
        elif kind == "comment":
            self.comment += 1
        elif kind == "flow":
            self.add_flow()
        elif kind == "gone" and len(self.flows) > 1:
            self.gone[flow] = self.flows.pop(flow)
            self.were_gone.add(flow)
        elif kind == "back" and self.gone:
            self.flows.update([self.gone.popitem()])
        elif kind == "order":
            items = list(self.flows.items())
            chance.shuffle(items)
            self.flows = dict(items)
        elif kind == "cut":
            self.cut = chance.randrange(len(self.flows))
        elif kind == "step":
            what = chance.choice(["change", "change", "change", "remark", "new", "drop", "rename"])
            name = chance.choice(list(steps))
            if what == "change":
                steps[name] = self.step()
            elif what == "remark":
                steps[name] = {**steps[name], "remarks": str(chance.randrange(3))}
            elif what == "new":
                self.serial += 1
                steps[f"n{self.serial}"] = self.step()
            elif what == "drop" and len(steps) > 1:
                del steps[name]
            elif what == "rename":
                self.serial += 1
                other = f"r{self.serial}" if "s0" in steps else "s0"
                self.flows[flow] = {(other if k == name else k): v for k, v in steps.items()}

    def texts(self) -> tuple[str, str]:
        every = [(flow, name) for flow, steps in self.flows.items() for name in steps]
        order = sorted(every, key=lambda pair: (int(pair[0][1:]), pair[1]))  # references go one way in it
        place = {pair: i for i, pair in enumerate(order)}
        documents = []
        for number, (flow, steps) in enumerate(self.flows.items()):
            kind = "sequential" if self.in_sequence(flow) else "dataflow"
            lines = [f"# {self.comment}", f"name: {flow}", f"order: {kind}", "steps:"]
            for name, step in steps.items():
                before = order[: place[flow, name]]
                if step["kind"] == "field":  # to reach into a large value would mend the store on the way
                    fit = ["json"] if self.kinds is CALM else set(KINDS) - {"big"}
                    before = [pair for pair in before if self.flows[pair[0]][pair[1]]["kind"] in fit]
                read = before[int(step["reads"]) % len(before)] if before else None
                lines.append(f"  - {{name: {name}, {self.body(step, f'{flow}_{name}', read)}}}")
                lines += ["    # a remark"] * int(step.get("remarks", "0"))
            # `{{ w2.s0 }}` is step s0 of workflow w2, where that is there, and else a field of this constant
            lines += [
                "vars:",
                "  x0: c0",
                "  x1: c1",
                *(f'  w{k}: \'{{"s0": "of {flow}"}}\'' for k in range(1, self.serial + 1)),
            ]
            documents.append("\n".join(lines) + "\n" + "# end\n" * (number % 3))
        cut = max(1, min(self.cut or len(documents), len(documents)))
        first, second = documents[:cut], documents[cut:]
        return "---\n".join(first), "---\n".join(
            second
        ) or "name: lone\nsteps: [{name: one, command: echo 1}]\n"

    def body(self, step: dict[str, str], own: str, read: tuple[str, str] | None) -> str:
        file, salt = step["file"], step["salt"]
        value = f"{{{{{read[0]}.{read[1]}}}}}" if read else "none"
        waits = f"needs: ['{read[0]}.{read[1]}']" if read else "needs: []"
        field = f"{{{{{read[0]}.{read[1]}.a[0]}}}}" if read else salt
        mine = int(own.partition("_")[0][1:])
        either = f"{{{{w{1 + int(step['reads']) % (mine - 1)}.s0}}}}" if mine > 1 else salt
        return {
            "value": f"command: 'echo {salt} {value}'",
            "const": f"command: 'printf \"%s\\\\n\" const # {salt}'",
            "glob": f"command: 'cat src/*.txt; echo {salt}', inputs: ['src/*.txt']",
            "word": f"command: 'cat src/{file}.txt; cat extra1.txt 2>/dev/null || :; echo {salt} {value}'",
            "folder": f"command: 'ls src; echo {salt}', inputs: [src]",
            "output": f"command: 'echo {value} {salt} > {own}.out; echo {salt}', outputs: [{own}.out]",
            "reader": f"command: 'ls; cat *.out 2>/dev/null || :', inputs: ['*.out', '*.txt'], {waits}",
            "env": f"command: 'echo $MODE {salt} {value}', env: [MODE]",
            "skip": f"command: 'echo {salt}', if: \"'1' in {value if read else repr(salt)}\"",
            "fail": f"command: 'echo no {salt} >&2; exit 3'",
            "big": f"command: 'yes {salt} | head -n 3000'",
            "late": f"command: 'echo {salt}', {waits}",
            "never": f"command: 'echo {salt} {value}', cache: false",
            "ttl": f"command: 'echo {salt} {value}', cache: {{ttl: 1h}}",
            "json": f"""command: 'echo ''{{"a": ["{salt}", 1], "b": "{len(own)}"}}'''""",
            "schema": "type: llm, model: m, prompt: x, if: 'false', schema: "
            f"{{properties: {{{'ab'[salt == '0']}: {{}}}}, additionalProperties: false}}",
            "field": f"command: 'echo {field}'",
            "either": f"command: 'echo {either}'",
            "bare": f"command: 'echo {salt} {self.variable(*own.split('_'))}'",
            "variable": f"command: 'echo {salt} {value}', output: x{int(salt) % 2}",
        }[step["kind"]]

    def in_sequence(self, flow: str) -> bool:
        """Some workflows are in sequence, where their steps stand in the order in which others are referred to."""
        return int(flow[1:]) % 3 == 0 and list(self.flows[flow]) == sorted(self.flows[flow])

    def variable(self, flow: str, own: str) -> str:
        """A variable of the workflow itself, where that is allowed; where no step sets it, it is a constant."""
        name = "x" + self.flows[flow][own]["reads"][-1:].translate(str.maketrans("0123456789", "0101010101"))
        setters = [
            step
            for step, said in self.flows[flow].items()
            if said["kind"] == "variable" and int(said["salt"]) % 2 == int(name[1])
        ]
        others = [step for step in setters if step != own]
        if self.in_sequence(flow):
            return f"{{{{{name}}}}}"
        is_fit = len(others) <= 1 and all(step < own for step in others)
        return f"{{{{{name}}}}}" if is_fit else name

    def write(self, root: Path) -> None:
        for old in [*root.glob("src/*.txt"), *root.glob("*.txt")]:
            if str(old.relative_to(root)) not in self.files:
                old.unlink()
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists() or path.read_text() != content:
                path.write_text(content)
        for name, text in zip(("one.yaml", "two.yaml"), self.texts(), strict=True):
            path = root / name
            if not path.exists() or path.read_text() != text:
                path.write_text(text)


def disturb(root: Path, kind: str, pick: random.Random) -> None:
    """What happens behind the back of a build tool; the same in both workspaces."""
    placed = sorted(p for p in [*root.glob("*.out"), *root.glob(".llmc/out/*/*")] if p.is_file())
    blobs = sorted((root / ".llmc/cache/cas").glob("*/*"))
    if kind == "spoil" and placed:
        path = placed[pick.randrange(len(placed))]
        if ".llmc" in path.parts:  # a changed file of the workspace would be the user's own
            path.write_bytes(b"x" * path.stat().st_size)
    elif kind == "delete" and placed:
        placed[pick.randrange(len(placed))].unlink()
    elif kind == "blob" and blobs:
        blobs[pick.randrange(len(blobs))].unlink()
    elif kind == "bits" and blobs:
        blob = blobs[pick.randrange(len(blobs))]
        blob.chmod(0o600)
        blob.write_bytes(b"?" + blob.read_bytes()[1:])
    elif kind == "index":
        shutil.rmtree(root / ".llmc/cache/index", ignore_errors=True)
    elif kind == "touch":
        for path in [*root.glob("src/*"), *root.glob("*.yaml"), *placed]:
            path.touch()
    elif kind == "state":
        for path in (root / ".llmc/state").glob("*"):
            data = bytearray(path.read_bytes())
            if data:
                data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
                path.write_bytes(data)
    elif kind == "emptied":
        shutil.rmtree(root / ".llmc/out", ignore_errors=True)
    elif kind == "fresh":  # a checkout with a restored store
        for path in [*root.glob("*.out"), *root.glob(".llmc/*")]:
            if path.name != "cache":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif kind == "config":
        (root / "llmc.yaml").write_text(f"jobs: {pick.randint(1, 3)}\n")


DISTURBANCES = (
    ["nothing"] * 6
    + ["emptied"] * 2
    + ["fresh"] * 3
    + ["spoil", "delete", "blob", "bits", "index", "touch", "state", "config"]
)


def build(root: Path, program: Program, targets: tuple[str, ...]) -> BuildReport | str:
    """The report, or what is said where the files are refused."""
    files = [root / "one.yaml", root / "two.yaml"]
    try:
        return api.build(files, workspace=root, jobs=2, environ=program.environ, targets=targets)
    except WorkflowError as error:
        return str(error).replace(f"{root}/", "")


def is_up_to_date(root: Path, program: Program, targets: tuple[str, ...]) -> bool:
    words = ["build", str(root / "one.yaml"), str(root / "two.yaml"), *(f"-t{t}" for t in targets)]
    return quick.build(words, program.environ) == 0


def visible(root: Path, report: BuildReport, program: Program) -> dict[str, object]:
    """All that a user can see, but for values of workflows that are gone, which only a snapshot remembers.

    Nor what was left of them when they came back, and was not asked for since.
    """
    found = seen(root, report)
    values, targets = found["values"], {target.target for target in report.targets}
    flows = {target.partition(".")[0] for target in targets}
    assert isinstance(values, dict)
    kept = {}
    for name, value in values.items():
        _, _, flow, step = Path(name).parts
        if flow in flows and (f"{flow}.{step}" in targets or flow not in program.were_gone):
            kept[name] = value
    return {**found, "values": kept}


@pytest.mark.parametrize("seed", range(int(os.environ.get("LLMC_SEEDS", "8"))))
def test_a_snapshot_changes_nothing_but_the_time(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)
    program = Program(chance)
    kept, thorough = tmp_path / "kept", tmp_path / "thorough"
    monkeypatch.setattr(session, "MANY", chance.choice([0, session.MANY]))  # where doubts become too many
    monkeypatch.setattr(cuts, "FROM", chance.choice([1, 1, cuts.FROM]))  # where documents are large
    for root in (kept, thorough):
        root.mkdir()
        (root / "llmc.yaml").write_text("jobs: 2\n")
    for number in range(EDITS):
        pick = chance.randrange(1 << 30)
        kind = chance.choice(DISTURBANCES)
        targets: tuple[str, ...] = ()
        if chance.random() < 0.3:
            flow = chance.choice(list(program.flows))
            targets = (chance.choice([flow, f"{flow}.{next(iter(program.flows[flow]))}"]),)
        for root in (kept, thorough):
            program.write(root)
            disturb(root, kind, random.Random(pick))
        monkeypatch.chdir(kept)
        said = is_up_to_date(kept, program, targets)
        shutil.rmtree(thorough / ".llmc/state", ignore_errors=True)
        monkeypatch.setattr(carried, "FROM", 1 << 30)
        expected = build(thorough, program, targets)
        monkeypatch.setattr(carried, "FROM", 1)
        found = build(kept, program, targets)
        story = f"edit {number}, {kind}, targets {targets}:\n{'---'.join(program.texts())}"
        if isinstance(expected, str) or isinstance(found, str):
            assert (found, said) == (expected, False), story
            program.edit()
            continue
        idle = not (expected.counts["ran"] or expected.restored or not expected.ok)
        assert idle or not said, f"up to date, it said; {story}"
        assert found.counts == expected.counts, story
        assert visible(kept, found, program) == visible(thorough, expected, program), story
        for _ in range(chance.choice([0, 1, 1, 1, 1, 2])):
            program.edit()
    capfd.readouterr()
