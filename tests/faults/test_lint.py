"""The two lists of scripts that the lint is measured by, run for real.

`sinks.yaml`: scripts in which a value runs as code although the rewriting put it in as data.  Each is run with the
lint turned off, and a payload must make the file CANARY; a list that claims more than it shows would measure nothing.
`ordinary.yaml`: uses that are accepted.  Each is run with the payloads, and none may make CANARY.
That the lint refuses all of the first and none of the second is asserted in tests/unit/test_shellcode.py.

    pytest tests/faults/test_lint.py --full
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmc_build import template
from llmc_build.placeholder import TemplateError
from llmc_build.shellcode import analysis, lint
from llmc_build.shellcode.lint import Lint
from llmc_build.shellcode.rewrite import Script, rewrite
from llmc_build.shellcode.tree import Sequence_
from tests.faults.shellbench import Bench, Ended, Shell, shells

CASES = Path(__file__).parent.parent / "unit" / "shell_cases"
SHELLS = list(shells())
_LIMIT_S = 5


class _NoLint(Lint):
    def check(self, tree: Sequence_, *, stdin: bool = False) -> bool:
        return False


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CASES / name).read_text())
    found["cases"] = [{"script": c} if isinstance(c, str) else c for c in found["cases"]]
    return found


def furnish(bench: Bench) -> None:
    """The files that the scripts speak of."""
    bench.clear()
    work = bench.work
    (work / "notes.txt").write_text("a error\nb:c d\n")
    (work / "data.json").write_text('{"k": "v"}')
    (work / "tool.sh").write_text("#!/bin/sh\ncat >/dev/null; printf '%s\\n' \"$@\"\n")
    (work / "tool.py").write_text("import sys\nprint(sys.argv[1:])\n")
    (work / "env.sh").write_text(":\n")
    (work / "build.mk").write_text("all:\n\t@echo built\n")
    (work / "evil").write_text("#!/bin/sh\ntouch CANARY\n")
    (work / "tool.sh").chmod(0o755)
    (work / "evil").chmod(0o755)


def unlinted(source: str, shell: str, monkeypatch: pytest.MonkeyPatch) -> Script | None:
    """The script as it would be without the lint; None where no form of rewriting exists."""
    with monkeypatch.context() as patch:
        patch.setattr(lint, "Lint", _NoLint)
        patch.setattr(analysis, "plain", lambda text, paths: None)
        analysis._remembered.cache_clear()
        try:
            return rewrite(template.parse(source), shell=shell, slot=lambda ref: "v0")  # type: ignore[arg-type]
        except TemplateError:
            return None
        finally:
            analysis._remembered.cache_clear()


def by_language(language: str) -> list[Shell]:
    return [one for one in SHELLS if one.language == language or language == "sh"]


def pasted(bench: Bench, shell: Shell, source: str, value: str) -> Ended:
    file = bench.folder / "value"
    file.write_text(value)
    text = source.replace("{{x | path}}", str(file)).replace("{{x}}", value)
    return bench.run_text(shell, text, limit_s=_LIMIT_S)


def test_a_value_runs_in_every_script_that_is_listed_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    amount: Callable[[int, int], int],
    chance: random.Random,
    tally: Counter[str],
) -> None:
    """With the lint off, a payload makes CANARY: so the lint is measured by what is really a danger."""
    listed = load("sinks.yaml")
    cases = [case for case in listed["cases"] if "unverified" not in case]
    bench = Bench(tmp_path / "bench")
    harmless = []
    for case in chance.sample(cases, min(len(cases), amount(40, len(cases)))):
        if not all(shutil.which(tool) for tool in case.get("needs", ())):
            tally["skipped for want of a program"] += 1
            continue
        script = unlinted(case["script"], case.get("shell", "sh"), monkeypatch)
        values = [text for name in case.get("payloads", ["sh"]) for text in listed["payloads"][name]]
        for value in values:
            furnish(bench)
            for shell in by_language(case.get("shell", "sh"))[:1]:
                if script is None:
                    pasted(bench, shell, case["script"], value)
                else:
                    bench.run(shell, script, value.encode(), "environment", limit_s=_LIMIT_S)
            if bench.canary:
                tally["scripts that ran a value"] += 1
                break
        else:
            harmless.append(case["script"])
    assert not harmless, "\n".join(harmless)


def test_no_ordinary_script_runs_a_value(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """Every use that is accepted is run with every payload there is, in every shell in the full form."""
    payloads = load("sinks.yaml")["payloads"]
    values = sorted({text for texts in payloads.values() for text in texts})
    cases = [case for case in load("ordinary.yaml")["cases"] if "unrun" not in case]
    bench = Bench(tmp_path / "bench")
    every = [(case, value) for case in cases for value in values]
    for case, value in chance.sample(every, min(len(every), amount(100, len(every)))):
        language = case.get("shell", "sh")
        script = rewrite(template.parse(case["script"]), shell=language, slot=lambda ref: "v0")
        shell = chance.choice(by_language(language))
        furnish(bench)
        bench.run(shell, script, value.encode(), chance.choice(("environment", "file")), limit_s=_LIMIT_S)
        assert not bench.canary, (case["script"], value, shell.name)
        tally["runs without harm"] += 1
