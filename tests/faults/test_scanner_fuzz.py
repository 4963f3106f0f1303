"""The script scanner under fuzz: any text is rewritten or refused, in bounded time, and what it makes can be read.

    pytest tests/faults/test_scanner_fuzz.py --count 2000 --seed 7

Scripts of the lists in tests/unit/shell_cases are cut up and put together again at random; none of them is run.  Of each it
is asked that the only error is TemplateError, that every problem is placed inside the text, that lines stay, and, where
`sh -n` and `bash -n` can read the script with a plain word in place of each placeholder, that they can read what was made of it.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import yaml

from llmc_build import template
from llmc_build.placeholder import PLACEHOLDER, TemplateError
from llmc_build.shellcode import analysis, lint
from llmc_build.shellcode.rewrite import Script, rewrite

CASES = Path(__file__).parent.parent / "unit" / "shell_cases"
_SLOW_S = 2.0  # of CPU, for a fuzzed script of a few hundred characters
_TOKEN = re.compile(r"\{\{[^}]*\}\}|\w+|\s+|.", re.DOTALL)
_ODD = [
    "{{x}}", "'{{x}}'", '"{{x}}"', "{{x | path}}", "{{y}}", "$(", ")", "`", "'", '"', "\\", "\\\n", "\n", "$((", "))", "((", "${", "}", "${x:-",
    "<<EOF\n", "<<-'E'\n", "\nEOF\n", "\nE\n", "<<<", "<(", ">(", "case a in", "(a)", ";;", "esac", "if ", "then ", "fi", "for i in ", "do ",
    "done", "while ", "{ ", "; }", "f() ", "[[ ", " ]]", "#", "|", "&", "&&", "||", ";", ">", "2>&1", "$'", '$"', "$", "\0", "\x7f", "é", "\r",
    "eval ", "sh -c ", "xargs ", "env -S ", "find . -exec ", "declare -a ", "a[", "]=", "=(", "printf -v ", "read ", "set -- ", "\"$@\"", "shift\n",
    "awk '", "sed 's/", "git -c ", "parallel ", "exec ", "function ", "coproc ", "select ", "time ", "! ", "let ", "alias ", "{1..3}", "~", "*",
]  # fmt: skip


def corpus() -> list[str]:
    found: list[str] = []
    for name in ("templates.yaml", "accepted.yaml", "refused.yaml", "sinks.yaml", "ordinary.yaml"):
        loaded = yaml.safe_load((CASES / name).read_text())
        cases = loaded["cases"] if isinstance(loaded, dict) else loaded
        for case in cases:
            found.append(
                case if isinstance(case, str) else case["script"] if isinstance(case, dict) else case[1]
            )
    return found


def mutated(chance: random.Random, scripts: list[str]) -> str:
    """A script with some of its tokens dropped, doubled, swapped, or replaced by odd ones or by those of another."""
    tokens = _TOKEN.findall(chance.choice(scripts))
    for _ in range(chance.choice((0, 1, 2, 4, 8))):
        at = chance.randrange(len(tokens) + 1)
        match chance.randrange(6):
            case 0:
                tokens[at : at + chance.randint(1, 3)] = []
            case 1:
                tokens[at:at] = tokens[at : at + 4]
            case 2:
                tokens.insert(at, chance.choice(_ODD))
            case 3:
                tokens[at:at] = _TOKEN.findall(chance.choice(scripts))
            case 4:
                tokens[at:] = [*chance.choices(_ODD, k=3), *tokens[at:]]
            case _:
                tokens[at : at + 1] = [
                    chr(chance.choice((chance.randrange(1, 128), chance.randrange(0x110000))))
                ]
    return "".join(tokens)


def outcome(source: str, shell: str) -> Script | TemplateError:
    language: Literal["sh", "bash"] = "bash" if shell == "bash" else "sh"
    try:
        return rewrite(
            template.parse(source),
            shell=language,
            slot=lambda ref: f"v_{ref.text.replace('.', '_')}"[:9].replace("-", "_"),
        )
    except TemplateError as error:
        return error


def reads(shell: str, text: str) -> bool:
    """Whether the shell can read a script."""
    done = subprocess.run(
        [shell, "-n", "-s"], input=text.encode("utf-8", "replace"), capture_output=True, timeout=60
    )
    return done.returncode == 0 and not done.stderr


@pytest.mark.timeout(600)
def test_any_script_is_rewritten_or_refused_and_what_is_made_can_be_read(
    amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """Scripts come from users and from other programs."""
    scripts = corpus()
    for _ in range(amount(400, 10_000)):
        source = mutated(chance, scripts)
        shell = chance.choice(("sh", "bash"))
        began = time.process_time()
        found = outcome(source, shell)
        assert time.process_time() - began < _SLOW_S, source
        tally["scripts"] += 1
        if isinstance(found, TemplateError):
            assert found.problems
            assert all(0 <= problem.offset <= len(source) for problem in found.problems), (
                source,
                found.problems,
            )
            tally["refused"] += 1
            continue
        assert found.text.count("\n") == source.count("\n"), source
        assert all(PLACEHOLDER.search(part) is None for part in [found.text] if "'{{'" not in source), source
        plain = PLACEHOLDER.sub(lambda match: match["literal"] or "" if match["quote"] else "BENIGN", source)
        for reader in ("dash", "bash") if shell == "sh" else ("bash",):
            if shutil.which(reader) and found.uses and reads(reader, plain):
                assert reads(reader, found.text), (reader, source, found.text)
                tally[f"read by {reader} before and after"] += 1


# ---------------------------------------------------------------- size and depth


def repeated(unit: str, size: int) -> str:
    return unit * (size // len(unit))


LARGE: dict[str, Callable[[int], str]] = {
    "words": lambda n: "echo {{x}} " + repeated("a ", n),
    "placeholders": lambda n: "echo " + repeated("{{x}} ", n),
    "one word of placeholders": lambda n: "echo " + repeated("{{x}}", n),
    "refused placeholders": lambda n: repeated("echo `{{x}}`\n", n),
    "single quotes": lambda n: repeated("'a' ", n) + "\necho {{x}}",
    "comments": lambda n: repeated("# a\n", n) + "echo {{x}}",
    "joined lines": lambda n: 'echo {{x}} "' + repeated("a\\\n", n) + '"',
    "dollar signs": lambda n: 'echo {{x}} "' + repeated("$$", n) + '\\\n"',
    "a long name": lambda n: 'echo {{x}} "$' + repeated("a", n) + '\\\n"',
    "braces": lambda n: "echo {{x}}" + repeated("{.", n),
    "arithmetic": lambda n: "y={{x}}\necho " + repeated("$((y))", n),
    "variables forwards": lambda n: "v0={{x}}\n" + "".join(f"v{i + 1}=$v{i}\n" for i in range(n // 20)),
    "variables backwards": lambda n: "".join(f"v{i}=$v{i + 1}\n" for i in range(n // 20)) + "v1={{x}}\n",
    "functions": lambda n: "".join(f'f{i}() {{ f{i + 1} "$@"; }}\n' for i in range(n // 30)) + "f0 {{x}}\n",
    "here-documents": lambda n: repeated("cat <<E\n{{x}}\nE\n", n),
    "a quoted here-document": lambda n: "cat <<'E'\n{{x}}\n" + repeated("$`\\ ", n) + "\nE\n",
    "open here-documents": lambda n: "echo {{x}}\n" + repeated("cat <<E\n", n),
    "case": lambda n: "case {{x}} in\n" + repeated("a) b;;\n", n) + "esac",
    "pipes": lambda n: "echo {{x}} " + repeated("| cat ", n),
    "code within": lambda n: "y={{x}}\n" + repeated("sh -c 'echo a'\n", n),
    "an awk program": lambda n: "awk -v c={{x}} '" + repeated('{ print $1 | "s" }', n) + "'",
    "a sed program": lambda n: "echo {{x}} | sed '" + repeated("s/", n) + "'",
    "find": lambda n: "find . " + repeated("-exec a \\; ", n) + "-name {{x}}",
    "one word of variables": lambda n: "a=1;a=2;a=3\necho " + repeated("$a", n) + "; $a {{x}}",
    "commands that run commands": lambda n: repeated("env ", n) + "echo {{x}}",
    "open placeholders": lambda n: "echo " + repeated("{{", n),
    "backquotes": lambda n: "echo {{x}}\n" + repeated("`a`", n),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", LARGE)
def test_the_work_for_a_script_grows_with_its_length(
    kind: str, amount: Callable[[int, int], int], tally: Counter[str]
) -> None:
    """Eight times the text takes eight times the calls, where the square would take 64.

    Work within one call, such as a search, shows in time alone: that is looked at in the full form, at 1 MB, where
    a busy machine can't make sixteen times of eight so easily.
    """
    source = LARGE[kind]
    small, large = (_calls(source(n)) for n in (4_000, 32_000))
    assert large < 10 * small, (kind, small, large)
    size = amount(32_000, 1_000_000)
    tally["characters"] += size
    if size == 1_000_000:
        small_s, large_s = (_fastest(source(n)) for n in (size // 8, size))
        assert large_s < 0.2 or large_s < 16 * max(small_s, 0.01), (kind, small_s, large_s)


def _calls(source: str) -> int:
    """How many calls, of Python's and of C's functions, it takes."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    _forget()
    sys.setprofile(profile)
    try:
        outcome(source, "sh")
    finally:
        sys.setprofile(None)
    return count


def _fastest(source: str) -> float:
    """The CPU time of the fastest of three runs, in seconds."""
    times = []
    for _ in range(3):
        _forget()
        began = time.process_time()
        outcome(source, "sh")
        times.append(time.process_time() - began)
    return min(times)


def _forget() -> None:
    analysis._remembered.cache_clear()
    lint._scanned.cache_clear()


def nests(depth: int) -> Iterator[str]:
    for opened, closed in (
        ("$(echo ", ")"), ('"$(echo ', ')"'), ("( ", ")"), ("{ ", "; }"), ("if a; then ", "; fi"), ("while a; do ", "; done"),
        ("for i in a; do ", "; done"), ("case a in (b) ", ";; esac"), ("${a:-", "}"), ("$((1 + ", "))"), ("f() { ", "; }"),
        ("sh -c \"", "\""), ("env ", ""), ("! ", ""), ("\\", ""), ("`", "`"), ("[[ a == ", " ]]"),
    ):  # fmt: skip
        yield (
            "echo {{x}}\necho " * opened.startswith(("$", '"', "`"))
            + opened * depth
            + "echo {{x}}"
            + closed * depth
        )


@pytest.mark.parametrize("depth", [5, 20, 38, 45, 1_000, 20_000])
def test_deep_nesting_is_read_or_refused(depth: int) -> None:
    """Python's own recursion must not be what ends it."""
    for source in nests(depth):
        for shell in ("sh", "bash"):
            found = outcome(source, shell)
            if isinstance(found, TemplateError):
                assert all(problem.message for problem in found.problems)


def test_what_people_nest_is_accepted() -> None:
    for source in list(nests(12))[:9]:
        if "${a" not in source and "$((" not in source:
            assert isinstance(outcome(source, "bash"), Script), source
