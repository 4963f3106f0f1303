"""Files made to hang a build, to fill the memory or to lead it out of the workspace: one clear error each.

Each runs as a user would run it, in a process whose memory is limited, and is measured: exit code 2 (or a step that
fails), a place, no traceback, no byte that a terminal would obey, seconds, and megabytes.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

Amount = Callable[[int, int], int]
MEMORY = 3 << 30  # bytes of address space
CPU_S = 60
HEAD = "name: w\nsteps:\n"
STEP = "  - {name: a, command: echo hi}\n"


def step(rest: str) -> str:
    return HEAD + f"  - {{name: a, command: x, {rest}}}\n"


def llmc(folder: Path, *args: str) -> tuple[int, str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))

    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "llmc_build", *args],
        cwd=folder, env=environ, capture_output=True, timeout=500, check=False, preexec_fn=limit, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    text = done.stderr.decode("utf-8", "replace")
    assert "Traceback" not in text, text[-2_000:]
    assert "internal error" not in text, text
    assert done.returncode >= 0, (done.returncode, text[-2_000:])
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", text), text
    return done.returncode, text


NINES = [f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
# name -> text, and what the message must hold
FLOWS: dict[str, tuple[str | bytes, str]] = {
    "aliases": ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(NINES), "w.yaml:6:8: aliases make the file too large"),
    "merge keys": ("a: &a0 {k: v}\n" + "".join(f"b{i}: &a{i + 1} {{<<: [{','.join([f'*a{i}'] * 9)}]}}\n" for i in range(9)),
                   "w.yaml:6:35: aliases make the file too large"),
    "merges of a wide mapping": ("m: &m {" + ",".join(f"k{i}: 1" for i in range(20_000)) + "}\n"
                                 + "".join(f"n{i}: {{<<: *m}}\n" for i in range(500)), "aliases make the file too large"),
    "depth": ("a: " + "[" * 100_000, "w.yaml:1:67: nested more than 64 deep"),
    "depth of mappings": ("{a: " * 100_000, "nested more than 64 deep"),
    "depth of blocks": ("- " * 100_000, "nested more than 64 deep"),
    "a huge number": (step(f"timeout: {'9' * 5_000}"), "w.yaml:3:36: the integer"),
    "an odd date": (step("timeout: 2001-99-99"), "w.yaml:3:36: \"timeout\""),
    "a tag": (HEAD + "  - {name: a, command: !!python/object/apply:os.system [id]}\n", "w.yaml:3:24: tags are not allowed"),
    "a key twice": ("name: a\nname: b\nsteps:\n" + STEP, 'w.yaml:2:1: the key "name" stands twice'),
    "NUL": (step('description: "\0"'), "the character U+0000"),
    "an escaped NUL": (step('description: "\\0"'), "a text can't hold the character U+0000"),
    "half a surrogate": (step("description: ").encode() + b"\xed\xa0\x80\n", "not valid UTF-8"),
    "C1": (step('description: "\x9b31m"'), "the character U+009B"),
    "U+2028": (step('description: "\u2028"'), "the character U+2028"),
    "UTF-16": ((HEAD + STEP).encode("utf-16"), "w.yaml:1:1: the file is encoded as UTF-16 or UTF-32"),
    "UTF-16 without a mark": ((HEAD + STEP).encode("utf-16-le"), "w.yaml:1:1: the file is encoded as UTF-16 or UTF-32"),
    "UTF-32": ((HEAD + STEP).encode("utf-32"), "w.yaml:1:1: the file is encoded as UTF-16 or UTF-32"),
    "tabs": ("name: w\nsteps:\n\t- name: a\n", "w.yaml:3:1: not valid YAML"),
    "terminal escapes in a name": (HEAD + '  - {name: "\\e[31m", command: x}\n', '\\x1b[31m'),
    "terminal escapes in a field": (step('"\\e[2J": 1'), 'unknown field "\\x1b[2J"'),
    "terminal escapes in an output": (step('outputs: ["f\\e[2J*"]'), "f\\x1b[2J*"),
    "empty documents": ("---\n" * 100_000, "holds no workflow"),
    "one workflow 100,000 times": (("---\n" + HEAD + STEP) * 20_000, 'two workflows of this file are named "w"'),
    "one line of 20 MB": ("x" * 20_000_000, "w.yaml:1:1: a document must be a mapping"),
    "braces": ("{" * 20_000_000, "w.yaml:1:2: a key must be text"),
    "a name of 1 MB": (HEAD + f"  - {{name: {'a' * 1_000_000}, command: x}}\n", "must consist of letters"),
    "names of folders": (HEAD + "  - {name: .., command: x}\n", 'w.yaml:3:12: "name" of step 1'),
    "a million placeholders": (HEAD + '  - {name: a, command: "' + "{{ b }} " * 1_000_000 + '"}\n', "more than 100,000 placeholders"),
    "open placeholders": (HEAD + '  - {name: a, command: "' + "{{ " * 1_000_000 + '"}\n', "is not closed by `}}`"),
    "a deep condition": (step(f'if: "{"(" * 100_000}1{")" * 100_000}"'), "w.yaml:3:133: the condition is nested more than 100 deep"),
    "a long condition": (step(f'if: "{"true and " * 200_000}true"'), "the condition is longer than 1,000,000 characters"),
    "a condition of signs": (step(f'if: "{"= " * 100_000}"'), "`=` is not an operator here"),
    "200,000 faults": (step(f"wait_for: [{','.join(['b'] * 50_000)}]"), "49,000 more mistakes are not told"),
    "outputs outside": (step("outputs: [../../x, /etc/x]"), '"outputs" of step "a" must not hold ".."'),
    "outputs of llmc": (step("outputs: [.LLMC/cache/x]"), "lies in .llmc, where llmc keeps its own"),
    "outputs of git": (step("outputs: [.git/hooks/pre-commit]"), "lies in .git, where git keeps its own"),
    "the configuration as an output": (step("outputs: [llmc.yaml]"), "is llmc's configuration"),
    "the workflow as an output": (step("outputs: [./w.yaml]"), "writes w.yaml, which is a workflow file"),
    "the store as an output": (step("outputs: [store/x]"), "writes store/x, which lies in the store"),
    "outputs that differ in case": (step("outputs: [Foo, foo]"), 'names "foo" twice'),
    "outputs that differ in form": (step('outputs: ["\u00e9", "e\u0301"]'), "twice"),
    "a long output": (step(f"outputs: [{'a' * 300}]"), "is too long"),
    "inputs outside": (step('inputs: ["../**"]'), 'must not hold ".."'),
    "a million lines of a loop in a prompt": ("name: w\nsteps:\n- {name: a, type: local_llm, model: m, prompt: '"
                                            + "{% if x %}" * 100_000 + "'}\n", "30,000 words and signs of Jinja2 code"),
}  # fmt: skip


@pytest.mark.timeout(400)
def test_workflow_files(tmp_path: Path, tally: Counter[str]) -> None:
    for number, (what, (text, message)) in enumerate(FLOWS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "w.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / "llmc.yaml").write_text("cache_dir: store\n")
        code, said = llmc(folder, "validate", "w.yaml")
        assert code == 2, (what, said[:2_000])
        assert message in said, (what, said[:2_000])
        assert len(said) < 500_000, what
        tally["files"] += 1


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(300 << 20)


ODD = {
    "a device": zero, "a pipe": os.mkfifo, "a folder": Path.mkdir, "a circle": circle, "a socket": bound,
    "300 MB": sparse, "no file by nature": lambda path: path.symlink_to("/proc/self/mem"),
}  # fmt: skip
PROMPTED = HEAD + "  - {name: a, type: local_llm, model: smollm2-135m, prompt_file: p.txt}\n"


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("name", ["w.yaml", "p.txt", "llmc.yaml"])
def test_what_is_no_file(tmp_path: Path, name: str, what: str, tally: Counter[str]) -> None:
    if (name, what) == ("llmc.yaml", "a folder"):
        pytest.skip("a folder of that name is no configuration, and the next one above counts")
    if name != "w.yaml":
        (tmp_path / "w.yaml").write_text(PROMPTED)
    if name != "p.txt":
        (tmp_path / "p.txt").write_text("Hello")
    ODD[what](tmp_path / name)
    code, said = llmc(tmp_path, "validate", "w.yaml")
    assert code == 2, said
    assert name in said
    assert len(said.strip().splitlines()) == 1, said
    tally["files"] += 1


VICTIM = "the file of somebody else\n"
# name -> script, what it declares as its output
OUTPUTS = {
    "a link out": ("ln -s VICTIM/f f", "f"),
    "a link to a device": ("ln -s /dev/zero f", "f"),
    "a folder that is a link": ("ln -s VICTIM d; echo evil > d/g", "d/g"),
    "a link to itself": ("ln -s f f", "f"),
    "a pipe": ("mkfifo f", "f"),
    "a folder": ("mkdir f", "f"),
    "nothing": ("true", "f"),
}


def test_outputs_through_links(tmp_path: Path, tally: Counter[str]) -> None:
    """What is not a file of the step's own folder is no output, and nothing outside changes."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "f").write_text(VICTIM)
    for number, (what, (script, output)) in enumerate(OUTPUTS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = script.replace("VICTIM", str(victim))
        (folder / "w.yaml").write_text(HEAD + f"  - {{name: a, command: '{text}', outputs: [{output}]}}\n")
        code, said = llmc(folder, "build", "w.yaml")
        assert code == 1, (what, said)
        assert output in said
        assert not os.path.lexists(folder / output), what
        tally["outputs"] += 1
    assert (victim / "f").read_text() == VICTIM


def test_an_output_is_placed_through_no_link(tmp_path: Path) -> None:
    """Also where the link is the workspace's, and where it comes while the build runs."""
    victim = tmp_path / "victim"
    victim.mkdir()
    folder = tmp_path / "work"
    folder.mkdir()
    swap = (
        f"rm -rf {folder}/d; ln -s {victim} {folder}/d"  # the step itself swaps the folder behind llmc's back
    )
    (folder / "d").mkdir()
    (folder / "w.yaml").write_text(
        HEAD + f"  - {{name: a, command: 'mkdir d; echo evil > d/f; {swap}', outputs: [d/f]}}\n"
    )
    code, said = llmc(folder, "build", "w.yaml")
    assert code == 1, said
    assert "a folder on the way is a file or a symbolic link" in said
    assert list(victim.iterdir()) == []


def test_globs_that_could_look_at_the_whole_machine(tmp_path: Path) -> None:
    (tmp_path / "t" / "u").mkdir(parents=True)
    (tmp_path / "t" / "u" / "x.txt").write_text("x")
    for name, where in (("self", "."), ("up", ".."), ("root", "/")):
        (tmp_path / "t" / name).symlink_to(where)
    globs = ["**/**/**/**/**/**/**/**", "t/**/**/*.txt", "**/t/**/u/**", "*/**/*/**/*"]
    for number, pattern in enumerate(globs):
        (tmp_path / "w.yaml").write_text(
            HEAD + f"  - {{name: a{number}, command: 'find . -name x.txt', inputs: ['{pattern}']}}\n"
        )
        code, said = llmc(tmp_path, "build", "w.yaml")
        assert code == 0, said
        value = (tmp_path / ".llmc" / "out" / "w" / f"a{number}").read_text()
        assert "t/u/x.txt" in value, pattern
