"""Runs rewritten scripts in the shells of this machine with hostile values.

The property, for every script T and value v: T prints for v what it prints for the value BENIGN, with
BENIGN replaced by v; no file CANARY appears, which every hostile value tries to create; and the rewritten
script passes `sh -n`.  By default a sample of the scripts and values runs; `LLMC_FULL=1` runs all of them (a few minutes).
More shells (busybox, mksh, yash) are used where they are installed, or found through LLMC_SHELLS, a list of
commands separated by `:`, such as `/opt/bin/busybox sh:/opt/bin/yash`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc_build import template
from llmc_build.execute.values import write_newlines
from llmc_build.shellcode.prelude import Load, with_prelude
from llmc_build.shellcode.rewrite import Script, rewrite
from llmc_build.template import apply_filters
from tests.faults import shellbench
from tests.faults.shellbench import BENIGN, Shell, shells

CASES = Path(__file__).parent / "shell_cases"
TEMPLATES: list[dict[str, str]] = yaml.safe_load((CASES / "templates.yaml").read_text())
VALUES = [bytes.fromhex(text) for text in json.loads((CASES / "values.json").read_text())]
FULL = bool(os.environ.get("LLMC_FULL"))
SAMPLE = 2  # values for each script, shell and way of loading, when not all run


SHELLS = list(shells())


def rewritten(source: str, language: str) -> Script:
    shell: Literal["sh", "bash"] = "bash" if language == "bash" else "sh"
    return rewrite(template.parse(source), shell=shell, slot=lambda ref: "v0")


class Bench:
    """A folder in which scripts run with a value."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "work" / "CANARY"
        (folder / "work").mkdir()
        self.runs = 0

    def run(self, shell: Shell, script: Script, value: bytes, kind: str) -> bytes:
        loads = []
        environment = {b"PATH": os.environb[b"PATH"], b"LC_ALL": shell.locale.encode(), b"HOME": b"/home of"}
        for number, variable in enumerate(script.variables):
            data = value if variable.path else apply_filters(value, variable.filters)
            file = self.folder / f"value {number}"
            file.write_bytes(data)
            if variable.path:
                loads.append(Load(variable=variable.name, kind="path", source=str(file)))
            elif kind == "file":
                (self.folder / f"{file.name}.newlines").unlink(missing_ok=True)
                newlines = write_newlines(str(file), data)
                loads.append(Load(variable=variable.name, kind="file", source=str(file), newlines=newlines))
            else:
                environment[f"LLMC_V{number}".encode()] = data
                loads.append(Load(variable=variable.name, kind="environment", source=f"LLMC_V{number}"))
        code = self.folder / "script"
        code.write_text(with_prelude(script.text, loads))
        self.runs += 1
        done = subprocess.run(
            [*shell.command, str(code)],
            cwd=self.canary.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        assert not self.canary.exists(), (shell, code.read_text(), value)
        assert done.returncode == 0, (shell, code.read_text(), value, done.stderr)
        return done.stdout

    def parses(self, shell: Shell, text: str) -> bool:
        code = self.folder / "parsed"
        code.write_text(text)
        done = subprocess.run([*shell.command, "-n", str(code)], capture_output=True, timeout=60)
        return done.returncode == 0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def kept(source: str, value: bytes) -> bytes:
    """The value as the placeholders of a script give it; no script mixes filters."""
    filters = template.parse(source).refs[0].filters
    return apply_filters(value, filters)


def combinations(shell: Shell, number: int) -> list[tuple[bytes, str]]:
    """The values and ways of loading to try for one script; other scripts get other values in a sample."""
    values = filter(shell.takes, VALUES)
    everything = list(itertools.product(values, ("environment", "file")))
    if FULL:
        return everything
    start = (number * 31 + SHELLS.index(shell) * 17) % len(everything)
    return [everything[(start + step * 27) % len(everything)] for step in range(SAMPLE)]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
def test_a_value_is_data_whatever_its_bytes(shell: Shell, bench: Bench) -> None:
    """The promise "data is never code", measured."""
    for number, case in enumerate(TEMPLATES):
        if case.get("shell", "sh") == "bash" and shell.language != "bash":
            continue
        source = case["script"]
        script = rewritten(source, case.get("shell", "sh"))
        assert bench.parses(shell, source.replace("{{x | path}}", "x").replace("{{x}}", "x")), case["name"]
        assert bench.parses(shell, script.text), case["name"]
        model = bench.run(shell, script, BENIGN, "environment")
        assert BENIGN in model or case["name"] in ("case on a value", "until and if"), case["name"]
        for value, kind in combinations(shell, number):
            expected = model.replace(BENIGN, kept(source, value))
            assert bench.run(shell, script, value, kind) == expected, (case["name"], value, kind)
    print(f"{shell.name}: {bench.runs} runs")  # noqa: T201


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
@pytest.mark.parametrize("kind", ["environment", "file"])
def test_every_byte_arrives_also_at_the_end_of_a_value(shell: Shell, kind: str, bench: Bench) -> None:
    """The sentinel that keeps trailing newlines must not join with what it follows to a character."""
    script = rewritten("printf '%s' {{x | raw}} > out; cat out", "sh")
    tails = [bytes([byte]) for byte in range(1, 256)] + [b"\xe2\x82", b"\xf0\x9f\x98", b"\n\n", b"x", b"xx\n"]
    for tail in filter(shell.takes, tails if FULL else tails[shell_offset(shell) :: 9]):
        assert bench.run(shell, script, b"a" + tail, kind) == b"a" + tail
        assert bench.run(shell, script, tail, kind) == tail


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
def test_bytes_that_are_no_characters_are_not_cut(shell: Shell, bench: Bench) -> None:
    """bash 5.2 gives other bytes of its memory for `${v%x}` where v has these."""
    value = b"\xc3\\\n&x"
    script = rewritten("printf %s {{x | raw}}", "sh")
    for tail in (b"", b"\n\n"):
        if shell.takes(value):
            assert bench.run(shell, script, value + tail, "file") == value + tail


def shell_offset(shell: Shell) -> int:
    return SHELLS.index(shell) % 9


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
def test_large_values_arrive_from_files(shell: Shell, bench: Bench) -> None:
    value = bytes(range(1, 128 if not shell.takes(b"\xff") else 256)) * 2000 + b"\n\n"
    script = rewritten("cat <<EOF\n{{x | raw}}\nEOF\n", "sh")
    assert bench.run(shell, script, value, "file") == value + b"\n"


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
def test_values_are_not_in_the_environment_of_what_the_script_runs(shell: Shell, bench: Bench) -> None:
    """One environment string of 128 KiB would make every exec fail."""
    script = rewritten("env; printf '[%s]' {{x}}", "sh")
    for kind in ("environment", "file"):
        assert bench.run(shell, script, b"SECRET-VALUE", kind).count(b"SECRET-VALUE") == 1


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
def test_line_numbers_of_the_script_stay(shell: Shell, bench: Bench) -> None:
    script = rewritten("# {{x}}\n\nprintf '%s%s' {{x}} $LINENO\n", "sh")
    if shell.name.startswith("bash"):  # dash may be built without LINENO
        assert bench.run(shell, script, b"line ", "file") == b"line 3"


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
def test_a_value_that_can_not_be_loaded_ends_the_script(shell: Shell, tmp_path: Path) -> None:
    """An empty text in place of a value would be a wrong result."""
    script = rewritten("echo ran {{x}}", "sh")
    for load in (
        Load(variable=script.variables[0].name, kind="file", source=str(tmp_path / "missing")),
        Load(variable=script.variables[0].name, kind="environment", source="LLMC_MISSING"),
    ):
        done = subprocess.run(
            [*shell.command, "-c", with_prelude(script.text, [load])], capture_output=True, timeout=60
        )
        assert (done.returncode != 0, done.stdout) == (True, b"")


# ---------------------------------------------------------------- generated scripts

QUOTINGS = st.sampled_from(
    ["{{x}}", '"{{x}}"', "'{{x}}'", "a{{x}}b", "\"a'{{x}}'\"", "'\"{{x}}$y`'", "p' q'", '"$n"']
)
WORDS = st.recursive(
    QUOTINGS,
    lambda inner: (
        st.builds("\"$(printf '%s.' {0})\"".format, inner) | st.builds("{0}{1}".format, QUOTINGS, inner)
    ),
    max_leaves=3,
)
PRINTS = st.builds("printf '[%s]' {}".format, st.lists(WORDS, min_size=1, max_size=3).map(" ".join))
DOCUMENTS = st.builds(
    "cat <<{0}\n{1}\nEOF\n:".format,
    st.sampled_from(["EOF", "'EOF'", '"EOF"', "\\EOF"]),
    st.sampled_from(["{{x}}", 'a "{{x}}" b', "'{{x}}' \\$x \\\\", "{{x}}{{x}}"]),
)
COMMANDS = st.recursive(
    PRINTS | DOCUMENTS | st.builds("n={}".format, WORDS),
    lambda inner: st.one_of(
        st.builds("{{ {0}\n}}".format, inner),
        st.builds("( {0}\n)".format, inner),
        st.builds("if [ {1} != z ]; then {0}\nelse :; fi".format, inner, WORDS),
        st.builds("for n in {1} {2}; do {0}\ndone".format, inner, WORDS, WORDS),
        st.builds("case {1} in z) :;; *) {0}\n;; esac".format, inner, WORDS),
        st.builds("{0}\n{1}".format, inner, inner),
        st.builds("{0} # it's {{{{x}}}} \"\n{1}".format, PRINTS, inner),
        st.builds("printf '%s' \"$(\n{0}\n)\"".format, inner),
        st.builds("{0} |\ncat".format, PRINTS),
        st.builds("{0} &&\n{1}".format, PRINTS, inner),
    ),
    max_leaves=5,
)


@settings(
    max_examples=2000 if FULL else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=not FULL,
)
@given(COMMANDS, st.sampled_from(VALUES), st.sampled_from(SHELLS))
def test_generated_scripts_print_the_value_and_run_nothing_of_it(
    bench: Bench, source: str, value: bytes, shell: Shell
) -> None:
    """A benign value behaves as it would if it stood in the script; any other as the benign one."""
    if "{{x}}" not in source or ("case" in source and "$(" in source):  # `case` inside $( ) is refused
        return
    script = rewritten(source, "sh")
    model = bench.run(shell, script, BENIGN, "environment")
    naive = subprocess.run(
        [*shell.command, "-c", source.replace("{{x}}", "BENIGN")],
        capture_output=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "LC_ALL": shell.locale},
        cwd=bench.folder / "work",
    )
    assert naive.stdout == model
    if value.rstrip(b"\n") and b"z" not in value and shell.takes(value):
        assert bench.run(shell, script, value, "file") == model.replace(BENIGN, kept("{{x}}", value))


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
@pytest.mark.parametrize("name", ["SECONDS", "TMOUT", "HISTSIZE", "COLUMNS", "LINES", "PPID"])
def test_a_variable_that_some_shells_calculate_runs_no_value(shell: Shell, name: str, tmp_path: Path) -> None:
    """Where the shell would, the script ends before it: see `analysis.GUARD`."""
    bench = shellbench.Bench(tmp_path / "bench")
    canary = tmp_path / "canary"
    value = f"a[$(echo > {canary})]".encode()
    for text in (f"{name}={{{{x}}}}; echo done", f"y={{{{x}}}}; export {name}=$y"):
        ended = bench.run(shell, rewritten(text, "sh"), value, "environment")
        if shell.name == "mksh":
            assert ended.code == 125
    assert not canary.exists()
