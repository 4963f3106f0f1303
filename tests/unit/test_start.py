"""How llmc starts: what it imports for what is asked, and what it offers for completion.

A tenth of a second is where a program begins to feel slow, and imports are most of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Space

# Beside what `import click` brings.  What stands here was measured to cost a millisecond or less each; pathlib,
# with what it imports, two.  Some ways to install the package editable have imported it before.
SMALL = {
    "_bz2", "_compression", "_heapq", "_locale", "_lzma", "bz2", "click._textwrap", "click.shell_completion",
    "copy", "dataclasses", "difflib", "fnmatch", "heapq", "ipaddress", "locale", "lzma", "ntpath", "pathlib", "shlex",
    "shutil", "signal", "textwrap", "urllib", "urllib.parse", "zlib",
}  # fmt: skip
CLI = {"llmc_build", "llmc_build.cli"}
COMMAND = CLI | {"llmc_build.cli.common", "llmc_build.cli.complete"}
BUILD = COMMAND | {"llmc_build.cli.cmd_build"}


def imported(code: str, **environ: str) -> set[str]:
    """The modules that are there after `code` and were not after `import click`."""
    wrapped = (
        "import sys, click\nbefore = set(sys.modules)\n"
        f"try:\n    {code}\nexcept SystemExit:\n    pass\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", wrapped], env={**os.environ, **environ}, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    return set(done.stderr.split())


def completing(words: str) -> dict[str, str]:
    """The environment in which click's script for bash calls llmc; the last word is being typed."""
    listed = words.split(" ")
    return {
        "_LLMC_COMPLETE": "bash_complete",
        "COMP_WORDS": "\n".join(listed),
        "COMP_CWORD": str(len(listed) - 1),
    }


MAIN = "from llmc_build.cli import main; main"
PROGRAM = "from llmc_build.__main__ import main; from llmc_build import quick; quick.build({}, {{}})"


@pytest.mark.parametrize(
    ("code", "environ", "allowed"),
    [
        ("import llmc_build.cli", {}, CLI),
        (f"{MAIN}(['--version'])", {}, CLI),
        (f"{MAIN}(['--help'])", {}, CLI),
        (PROGRAM.format(["--version"]), {}, {"llmc_build", "llmc_build.__main__", "llmc_build.quick"}),
        (f"{MAIN}(['build', '--help'])", {}, BUILD),
        (f"{MAIN}()", {"_LLMC_COMPLETE": "bash_source"}, CLI | {"subprocess"}),
        (f"{MAIN}()", {"_LLMC_COMPLETE": "zsh_source"}, CLI),
        (f"{MAIN}()", completing("llmc buil"), BUILD),
        (f"{MAIN}()", completing("llmc build --"), BUILD),
        (f"{MAIN}()", completing("llmc build -t w"), BUILD),
        (f"{MAIN}()", completing("llmc log w"), COMMAND | {"llmc_build.cli.cmd_log"}),
    ],
)
def test_nothing_is_imported_that_is_not_needed(
    code: str, environ: dict[str, str], allowed: set[str]
) -> None:
    found = imported(code, **environ)
    if environ.get("_LLMC_COMPLETE") == "bash_source":  # it asks bash for its version
        found = {name for name in found if name.startswith("llmc_build")}
    assert found <= allowed | SMALL


def test_a_build_with_nothing_to_do_imports_what_it_needs(space: Space) -> None:
    """Python itself is half of its time; the packages below would double the other half."""
    space.write("w.yaml", "name: w\nsteps: [{name: a, command: echo a}]")
    command = [sys.executable, "-X", "importtime", "-m", "llmc_build", "build", "w.yaml"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for _ in range(2):
        done = subprocess.run(
            command, cwd=space.root, env=environ, capture_output=True, text=True, check=True, timeout=60
        )
    assert "up to date" in done.stderr
    lines = [
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")
    ]
    found = set(lines[lines.index("site") + 1 :])
    assert "llmc_build.quick" in found
    assert not found & {
        "typing",
        "dataclasses",
        "inspect",
        "click",
        "yaml",
        "pathlib",
        "hashlib",
        "subprocess",
    }


# ---------------------------------------------------------------- what is offered


def offered(space: Space, words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "llmc_build"], cwd=space.root, env={**os.environ, **completing(words)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def built(space: Space) -> Space:
    """A workspace as a build leaves it: two values, and the log of a step that failed."""
    for place in ("out/page/words", "out/page/count", "out/site/index", "runs/RUN/page/broken/stderr"):
        space.write(f".llmc/{place}", "")
    (space.root / ".llmc" / "runs" / "latest").symlink_to("RUN")
    return space


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("llmc lo", ["plain,log"]),
        ("llmc build --dry", ["plain,--dry-run"]),
        ("llmc build --color al", ["plain,always"]),
        ("llmc build -t s", ["plain,site.index"]),
        ("llmc show page.", ["plain,page.broken", "plain,page.count", "plain,page.words"]),
        ("llmc log page.b", ["plain,page.broken"]),
        ("llmc log other.", []),
        ("llmc build wo", ["file,wo"]),
        ("llmc validate wo", ["file,wo"]),
        ("llmc show -C .. p", []),
    ],
)
def test_commands_options_and_targets_are_completed(built: Space, words: str, expected: list[str]) -> None:
    assert offered(built, words) == expected


def test_targets_are_those_of_the_workspace_of_the_folder(built: Space) -> None:
    built.write("llmc.yaml", "")
    folder = built.root / "deep" / "down"
    folder.mkdir(parents=True)
    assert offered(built, f"llmc show -C {folder} s") == ["plain,site.index"]


def test_of_many_workflows_the_names_are_offered_first(built: Space) -> None:
    for number in range(100):
        built.write(f".llmc/out/many{number}/step", "")
    assert "plain,many7." in offered(built, "llmc show m")
    assert offered(built, "llmc show many7.") == ["plain,many7.step"]


def test_a_planted_name_is_never_given_to_a_shell(built: Space) -> None:
    """Names come from folders that anything may have written; the script of the shell splits and expands."""
    for name in ("$(id)", "a b", "a\nplain,b", "*", "`id`", "..x", "a,b"):
        (Path(built.root) / ".llmc" / "out" / "site" / name).write_text("")
    assert offered(built, "llmc show site.") == ["plain,site.index"]


def test_the_script_for_bash_is_valid_and_completes(built: Space) -> None:
    script = (
        f'eval "$(_LLMC_COMPLETE=bash_source {sys.executable} -m llmc_build)"\n'
        "COMP_WORDS=(llmc show page.c); COMP_CWORD=2\n"
        f"_llmc_completion $'{sys.executable}\\n-m\\nllmc_build'\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=built.root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "page.count\n", done.stderr
