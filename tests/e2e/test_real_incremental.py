"""The property above all, with real files and real shells: after any edits, an incremental build equals a clean one.

Each sequence edits a workspace at random (commands, names, sources, globs, declared outputs, what is in the way) and
builds it after every edit.  The same sources are then built in a fresh folder with a store of its own, and everything
that a user can see is compared: states, values, and every file of the workspace.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from llmc_build import api
from llmc_build.model import BuildReport, State

EDITS = 7
ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
GOOD = {State.RAN: "good", State.CACHED: "good"}


class Sources:
    """What the user has: workflow text and files; outputs are not among them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.files = {f"src/{name}.txt": f"{name}{chance.randrange(3)}\n" for name in "abc"}
        self.steps = {f"s{i}": self._step() for i in range(chance.randint(3, 6))}
        self.serial = 10

    def _step(self) -> dict[str, str]:
        pick = self.chance.choice
        return {
            "kind": pick(
                [
                    "glob",
                    "word",
                    "value",
                    "output",
                    "folder",
                    "const",
                    "fail",
                    "skip",
                    "value",
                    "output",
                    "all",
                ]
            ),
            "file": pick(["a", "b", "c", "d"]),
            "salt": str(self.chance.randrange(3)),
        }

    def edit(self) -> None:
        chance = self.chance
        kind = chance.choice(["file", "file", "add", "remove", "step", "step", "rename", "drop", "new"])
        name = chance.choice(list(self.steps))
        if kind == "file":
            self.files[f"src/{chance.choice('abcd')}.txt"] = f"{chance.randrange(4)}\n"
        elif kind == "add":
            self.files[f"src/extra{chance.randrange(3)}.txt"] = "extra\n"
        elif kind == "remove" and len(self.files) > 1:
            del self.files[chance.choice(list(self.files))]
        elif kind == "step":
            self.steps[name] = self._step()
        elif kind == "rename":
            self.serial += 1
            self.steps = {(f"r{self.serial}" if k == name else k): v for k, v in self.steps.items()}
        elif kind == "drop" and len(self.steps) > 1:
            del self.steps[name]
        elif kind == "new" and len(self.steps) < 8:
            self.serial += 1
            self.steps[f"n{self.serial}"] = self._step()

    def text(self) -> str:
        lines, before = ["name: w", "steps:"], None
        for name, step in self.steps.items():
            file, salt, kind = step["file"], step["salt"], step["kind"]
            value = f"{{{{w.{before}}}}}" if before else "none"
            body = {
                "glob": f"command: 'cat src/*.txt; echo {salt}', inputs: ['src/*.txt']",
                "word": f"command: 'cat src/{file}.txt; echo {salt}'",
                "value": f"command: 'echo {salt} {value}'",
                "output": f"command: 'mkdir -p out/{salt}; echo {value} > out/{salt}/{name}.txt; echo {salt}',"
                f" outputs: [out/{salt}/{name}.txt]",
                "folder": f"command: 'ls src; echo {salt}', inputs: [src]",
                "all": f"command: 'find . -type f | sort; echo {salt}', inputs: ['**/*.txt'], needs: {before or '[]'}",
                "const": f"command: 'printf \"%s\\\\n\" const # {salt}'",
                "fail": "command: 'echo no >&2; exit 3'",
                "skip": f"command: 'echo {salt}', if: \"{salt} == 1\"",
            }[kind]
            lines.append(f"  - {{name: {name}, {body}}}")
            before = name
        return "order: dataflow\n".join(["\n".join(lines[:1]) + "\n", "\n".join(lines[1:])]) + "\n"

    def write(self, root: Path) -> None:
        """Makes the sources of a workspace what they are now; whatever else is there stays."""
        for old in root.glob("src/*.txt"):
            if f"src/{old.name}" not in self.files:
                old.unlink()
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists() or path.read_text() != content:
                path.write_text(content)
        (root / "workflow.yaml").write_text(self.text())


def build(root: Path) -> BuildReport:
    return api.build([root / "workflow.yaml"], workspace=root, jobs=2, environ=ENVIRON)


def seen(root: Path, report: BuildReport) -> dict[str, object]:
    """All that a user can see of a build."""
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".llmc" not in path.relative_to(root).parts
    }
    values = {
        str(p.relative_to(root)): p.read_bytes() for p in (root / ".llmc/out").rglob("*") if p.is_file()
    }
    states = {t.target: GOOD.get(t.status, t.status.value) for t in report.targets}
    return {"states": states, "values": values, "files": files}


def disturb(root: Path, chance: random.Random) -> None:
    """What happens to a workspace behind the back of a build tool."""
    kind = chance.choice(["nothing", "nothing", "spoil", "delete", "state", "clean", "touch"])
    placed = [p for p in [*root.glob("out/*/*"), *root.glob(".llmc/out/*/*")] if p.is_file()]
    if kind == "spoil" and placed:
        path = chance.choice(placed)
        if ".llmc" in path.parts:  # a changed file of the workspace would be the user's own
            path.write_bytes(b"spoilt")
    elif kind == "delete" and placed:
        chance.choice(placed).unlink()
    elif kind == "state":
        shutil.rmtree(root / ".llmc/state", ignore_errors=True)
    elif kind == "clean":
        api.clean(workspace=root)
    elif kind == "touch":
        for path in root.glob("src/*"):
            path.touch()


@pytest.mark.parametrize("seed", range(int(os.environ.get("LLMC_SEEDS", "8"))))
def test_an_incremental_build_shows_what_a_clean_one_shows(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    sources = Sources(chance)
    kept = tmp_path / "kept"
    kept.mkdir()
    for number in range(EDITS):
        sources.write(kept)
        incremental = build(kept)
        clean = tmp_path / f"clean{number}"
        clean.mkdir()
        sources.write(clean)
        assert seen(kept, incremental) == seen(clean, build(clean)), f"edit {number}:\n{sources.text()}"
        again = build(kept)
        assert again.counts["ran"] == 0
        assert again.restored == 0
        disturb(kept, chance)
        sources.edit()
