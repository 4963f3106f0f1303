"""A small workspace of which every value is known without building it, for tests that break things.

`House` has a workspace, a folder beside it in which steps count how often they ran, and a store that may lie
anywhere. `House.expected` says what a clean build gives: it is computed here, not by llmc. What was reported as
done is read from `--events`, which a build writes as it goes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmc_build import api
from llmc_build.model import BuildReport

ENVIRON = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "PYTHONPATH")}
PACKAGE_PARENT = str(Path(api.__file__).resolve().parent.parent)
HONEST = {0, 1, 2, 5, 8}  # exit codes that a build may have because of a fault: it worked, or says why not

# Faults hit the commands of steps too: none of these goes on after one that failed, nor hides one in a pipe.
FLOW = """\
name: w
order: dataflow
steps:
  - {name: plain, command: 'set -e; echo x >> SIDE/plain; cat src.txt'}
  - {name: large, command: 'set -e; echo x >> SIDE/large; printf "%05000d %s\\n" 7 "{{w.plain}}"'}
  - name: file
    command: 'set -e; echo x >> SIDE/file; echo "{{w.plain}}" > file.out; echo made'
    outputs: [file.out]
  - name: reads
    command: |
      set -e
      echo x >> SIDE/reads; cat file.out more/d.txt; mkdir -p gen
      all="{{w.plain}}"
      for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
        all="$all
      $all"
      done
      echo "$all" > gen/big.out
    inputs: [file.out, more]
    outputs: [gen/big.out]
    needs: [w.file]
  - {name: counts, command: 'set -e; echo x >> SIDE/counts; v="{{w.large}}"; echo ${#v}'}
  - name: steady
    command: 'set -e; echo x >> SIDE/steady; cat more/d.txt > /dev/null; echo steady'
    inputs: [more]
  - {name: after, command: 'set -e; echo x >> SIDE/after; echo "{{w.steady}} then"'}
"""
STEPS = ("plain", "large", "file", "reads", "counts", "steady", "after")


@dataclass
class Ended:
    """How one `llmc` ended."""

    code: int
    stderr: str
    acknowledged: set[str] = field(default_factory=set)  # reported as done, and not as done without the store
    failed: dict[str, str] = field(default_factory=dict)  # targets reported as failed, and why


class House:
    def __init__(self, root: Path, *, cache: Path | None = None, work: Path | None = None) -> None:
        """`cache`: the store (default: in the workspace). `work`: the workspace (default: in `root`)."""
        self.root = root
        self.work = work or root / "work"
        self.side = root / "side"
        self.spill = root / "tmp"
        self.events = root / "events"
        self.cache = cache or self.work / ".llmc" / "cache"
        for folder in (self.work / "more", self.side, self.spill):
            folder.mkdir(parents=True, exist_ok=True)
        self.wrap: list[str] = []  # before every command
        self.environ = {
            **ENVIRON,
            "PYTHONPATH": PACKAGE_PARENT,
            "TMPDIR": str(self.spill),
            "LLMC_CACHE_DIR": str(self.cache),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        (self.work / "flow.yaml").write_text(FLOW.replace("SIDE", str(self.side)))
        self.source = self.more = ""
        self.edit("s0", "m0")

    def edit(self, source: str, more: str) -> None:
        """Other inputs: one that all but two steps depend on, and one that three do."""
        if source != self.source:
            (self.work / "src.txt").write_text(source + "\n")
        if more != self.more:
            (self.work / "more" / "d.txt").write_text(more + "\n")
        self.source, self.more = source, more

    def expected(self) -> dict[str, bytes]:
        """Every value and every output of a clean build, by path from the workspace."""
        s, m = self.source, self.more
        large = f"{7:05000d} {s}\n"
        values = {
            "plain": f"{s}\n",
            "large": large,
            "file": "made\n",
            "reads": f"{s}\n{m}\n",
            "counts": f"{len(large) - 1}\n",
            "steady": "steady\n",
            "after": "steady then\n",
        }
        found = {f".llmc/out/w/{name}": text for name, text in values.items()}
        found |= {"file.out": f"{s}\n", "gen/big.out": f"{s}\n" * 4096}
        return {name: text.encode() for name, text in found.items()}

    def seen(self) -> dict[str, bytes]:
        """What is there of it."""
        return {
            name: (self.work / name).read_bytes() for name in self.expected() if (self.work / name).is_file()
        }

    def wrong(self) -> dict[str, bytes]:
        """Files that hold something else than a clean build gives."""
        return {name: data[:200] for name, data in self.seen().items() if self.expected()[name] != data}

    def executions(self) -> Counter[str]:
        return Counter({name: _size(self.side / name) // 2 for name in STEPS})

    def command(self, *more: str, jobs: int = 2) -> list[str]:
        return [sys.executable, "-m", "llmc_build", "build", "flow.yaml", f"-j{jobs}", *more]

    def build(
        self,
        *more: str,
        wrap: Sequence[str] = (),
        command: Sequence[str] | None = None,
        timeout_s: float = 120.0,
    ) -> Ended:
        """One build in a process of its own, with `wrap` (strace, say) before the command."""
        self.events.unlink(missing_ok=True)
        argv = [*(wrap or self.wrap), *(command or self.command("--events", str(self.events), *more))]
        done = subprocess.run(
            argv, cwd=self.work, env=self.environ, capture_output=True, timeout=timeout_s, check=False
        )
        return self.ended(done.returncode, done.stderr.decode("utf-8", "replace"))

    def build_here(self) -> BuildReport:
        """One build in this process: it is quicker, and has no faults but those already made."""
        return api.build(
            [self.work / "flow.yaml"],
            workspace=self.work,
            environ=self.environ,
            jobs=2,
            cache_dir=self.cache,
        )

    def ended(self, code: int, stderr: str) -> Ended:
        found, uncached = Ended(code=code, stderr=stderr), False
        for line in self.events.read_bytes().splitlines() if self.events.exists() else ():
            try:
                event = json.loads(line)
            except ValueError:  # the last line may be cut off
                continue
            uncached = uncached or "goes on uncached" in event.get("text", "")
            if event.get("event") == "target" and event["state"] in ("ran", "cached") and not uncached:
                found.acknowledged.add(event["target"].partition(".")[2])
            elif event.get("event") == "target" and event["state"] == "failed":
                found.failed[event["target"].partition(".")[2]] = event.get("error", "")
        # what it read can't be told to be what its result was made of, and the user was told
        found.acknowledged -= set(
            re.findall(r"^warning: w\.(\w+): .* result is not kept", stderr, re.MULTILINE)
        )
        return found

    def heals(self, broken: Ended, before: Counter[str]) -> None:
        """The next build after a fault: it succeeds, everything is right, what was acknowledged runs no more.

        `before`: the executions when the fault was over.
        """
        healed = self.build()
        assert healed.code == 0, f"after {broken.code}: {healed.stderr}"
        assert self.seen() == self.expected()
        again = self.executions() - before
        assert not broken.acknowledged & again.keys(), (
            f"ran again: {again}, acknowledged: {broken.acknowledged}"
        )
        assert all(count == 1 for count in again.values()), f"ran twice in one build: {again}"
        quiet, between = self.build(), self.executions()
        assert quiet.code == 0, quiet.stderr
        assert between == before + again, "a build with nothing to do ran something"

    def litter(self) -> list[str]:
        """What stays of temporary files once it is old and the next build has swept."""
        for path in self.everything():
            if ".llmc-" in path.name or path.parent.name in ("tmp",) or path.parent == self.spill:
                os.utime(path, (time.time() - 7200,) * 2, follow_symlinks=False)
        self.edit(self.source + "'", self.more)  # a build with something to do
        assert self.build().code == 0
        return sorted(
            str(path)
            for path in self.everything()
            if (
                re.search(r"\.llmc-\d|snapshot-\w+\.|/tmp/.", str(path.relative_to(self.root)))
                or path.parent == self.spill
            )
            and path.parent.parent.name != "runs"  # goes with its run
            and not _named_like_somebody_alive(path)
        )

    def everything(self) -> list[Path]:
        found = []
        for top in (self.root, self.cache, self.work):
            for place, folders, names in os.walk(top):
                found += [Path(place, name) for name in folders + names]
        return list(dict.fromkeys(found))

    def forget(self) -> None:
        """As if nothing had ever been built here."""
        shutil.rmtree(self.work / ".llmc", ignore_errors=True)
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(self.work / "gen", ignore_errors=True)
        (self.work / "file.out").unlink(missing_ok=True)


def _named_like_somebody_alive(path: Path) -> bool:
    """A process that has the id of one that was killed: its files are left to it while it lives."""
    found = re.search(r"llmc-(\d+)", path.name)
    return found is not None and Path("/proc", found[1]).exists()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
