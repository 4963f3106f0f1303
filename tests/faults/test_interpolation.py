"""Generated scripts with hostile values, in every shell of this machine.

The property, for a script T and a value v: T prints for v what it prints for BENIGN, with BENIGN replaced by v, and no
file CANARY appears; and with BENIGN it does what it does with BENIGN pasted into it.  Values come in the environment and
in files.

    pytest tests/faults/test_interpolation.py --count 1000 --seed 7
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from llmc_build import template
from llmc_build.execute.values import ValueRefused, load
from llmc_build.filters import apply_filters
from llmc_build.shellcode.rewrite import Script, rewrite
from tests.faults.shellbench import BENIGN, Bench, Shell, shells
from tests.faults.shellgrammar import HOLE, Grammar, hostile

SHELLS = list(shells())
_LONG = 90_000  # bytes; more goes by file, and is no argument of a program
_LIMIT_S = 20
_ARGUMENT = 100_000  # bytes


def made(chance: random.Random) -> tuple[str, str, str]:
    """A script, its language, and the filter of its placeholders."""
    language = chance.choice(("sh", "sh", "bash"))
    kept = chance.choice(("", "", " | raw"))
    grammar = Grammar(chance, language, path=kept == " | raw")
    text = grammar.script()
    return text.replace(HOLE, f"{{{{x{kept}}}}}").replace("PATH", "{{x | path}}"), language, kept


def rewritten(source: str, language: str) -> Script:
    shell: Literal["sh", "bash"] = "bash" if language == "bash" else "sh"
    return rewrite(template.parse(source), shell=shell, slot=lambda ref: "v0")


def suiting(language: str) -> list[Shell]:
    return [one for one in SHELLS if language == "sh" or one.language == "bash"]


@pytest.mark.timeout(600)
def test_a_generated_script_prints_the_value_and_runs_nothing_of_it(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """The promise "data is never code", measured on scripts that nobody wrote."""
    bench = Bench(tmp_path / "bench")
    (bench.work / "BAIT").touch()
    benign = bench.folder / "benign"
    benign.write_bytes(BENIGN)
    wanted = amount(40, 10_000)
    done = tried = printed = 0
    while done < wanted:
        source, language, kept = made(chance)
        script = rewritten(source, language)  # the grammar makes only what is accepted
        done += 1
        fitting = suiting(language)
        first = chance.randrange(len(fitting))
        for number, shell in enumerate([*fitting[first:], *fitting[:first]]):
            model = bench.run(shell, script, BENIGN, "environment", limit_s=_LIMIT_S)
            if model.code != 0:
                pasted = source.replace(f"{{{{x{kept}}}}}", "BENIGN").replace("{{x | path}}", str(benign))
                naive = bench.run_text(shell, pasted, limit_s=_LIMIT_S)
                assert naive.code != 0, (shell.name, source, model, naive)
                tally["scripts that a shell itself misreads"] += 1  # bash 5.2 prints some $(...) wrongly
                continue
            tried += 1
            assert model.code == 0, (shell.name, source, model)
            printed += BENIGN in model.stdout  # not where every placeholder is in a branch that is not taken
            if number == 0 and "| path" not in source:
                naive = bench.run_text(shell, source.replace(f"{{{{x{kept}}}}}", "BENIGN"))
                assert (naive.stdout, naive.code) == (model.stdout, 0), (shell.name, source, naive, model)
            value = hostile(chance)
            if not shell.takes(value):
                value = value.decode("utf-8", "replace").encode()
            kind = "file" if len(value) > _LONG else chance.choice(("environment", "file"))
            ended = bench.run(shell, script, value, kind)
            assert not bench.canary, (shell.name, source, value, kind)
            if len(value) > _ARGUMENT // 100 and b"too long" in ended.stderr:  # scripts have it many times
                tally["values too long for an argument"] += 1
                continue
            expected = model.stdout.replace(BENIGN, apply_filters(value, ("raw",) if kept else ()))
            assert ended.stdout == expected, (shell.name, source, script.text, value, kind, ended, expected)
            tally[f"runs in {shell.name}"] += 1
        tally["scripts"] += 1
    assert printed > 0.9 * tried


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
def test_large_values_arrive_byte_for_byte(
    shell: Shell, tmp_path: Path, amount: Callable[[int, int], int], tally: Counter[str]
) -> None:
    """100 MB in the full form, 1 MB in the short one: through the file, quotes, a here-document and a pipe."""
    megabytes = amount(1, 100)
    block = bytes(range(1, 128 if not shell.takes(b"\xff") else 256))
    value = (block * (megabytes * 1_000_000 // len(block) + 1))[: megabytes * 1_000_000] + b"\xc3\xa9x\n\n"
    bench = Bench(tmp_path / "bench")
    script = rewritten("cat <<EOF\n{{x | raw}}\nEOF\n", "sh")
    ended = bench.run(shell, script, value, "file", limit_s=600)
    assert (ended.code, ended.stdout == value + b"\n") == (0, True)
    tally["MB"] += megabytes


def test_a_value_with_nul_is_refused_and_offered_as_a_file(tmp_path: Path) -> None:
    """No shell variable can hold one: a text without it would be a wrong result."""
    from base64 import b64encode

    content = {"data": b64encode(b"a\0b").decode()}
    for filters in ([], ["raw"], ["trim"]):
        entry = {
            "variable": "__llmc_v0_x",
            "filters": filters,
            "path": False,
            "name": "x",
            "content": content,
        }
        with pytest.raises(ValueRefused, match=r"NUL byte: use \{\{x \| path\}\}"):
            load([entry], [], lambda: str(tmp_path))
    entry = {"variable": "__llmc_v0_path_x", "filters": [], "path": True, "name": "x", "content": content}
    loaded = load([entry], [], lambda: str(tmp_path))
    (path,) = [place[2] for place in loaded.places]
    assert Path(path).read_bytes() == b"a\0b"
    assert os.stat(path).st_mode & 0o777 == 0o600
