"""Why a target runs, as it is told: in the words of the workflow, and before it runs as well as after."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc_build.inputs import matching, would_match
from tests.conftest import Space

FILES = """
    name: w
    order: dataflow
    steps:
      - name: make
        command: mkdir -p data && echo one > data/a.txt
        outputs: [data/a.txt]
      - name: path
        needs: [make]
        command: cat "$(echo data)/a.txt"
        inputs: [data/a.txt]
      - name: folder
        needs: [make]
        command: ls "$(echo data)"
        inputs: [data]
      - name: glob
        needs: [make]
        command: ls -1 "$(echo data)"
        inputs: ['**/*.txt']
      - name: word
        needs: [make]
        command: cat data/a.txt
      - name: nothing
        needs: [make]
        command: echo nothing
      - name: before
        command: ls
        inputs: ['*.md']
    """


def reasons(space: Space) -> dict[str, str]:
    assert space.report is not None
    return {t.target.partition(".")[2]: t.reason for t in space.report.targets}


def test_a_dry_run_of_what_was_never_built_misses_no_file_that_a_step_would_write(space: Space) -> None:
    """`llmc build -n` of a fresh checkout said that such a step fails."""
    space.write("flow.yaml", FILES)
    assert space.build("flow.yaml", dry_run=True).ok
    assert not (space.root / "data").exists()
    expected = dict.fromkeys(["path", "folder", "glob", "word"], "would run: reads data/a.txt of w.make")
    assert {name: why for name, why in reasons(space).items() if name in expected} == expected
    assert space.build("flow.yaml").ok


def test_a_dry_run_knows_nothing_of_a_file_that_would_be_written_again(space: Space) -> None:
    """What reads it would run, though the old file is there and the store has a result for it."""
    space.write("flow.yaml", FILES)
    space.build("flow.yaml")
    space.edit("flow.yaml", "echo one", "echo two")
    space.build("flow.yaml", dry_run=True)
    assert space.ran == ["w.folder", "w.glob", "w.make", "w.path", "w.word"]
    assert reasons(space)["glob"] == "would run: reads data/a.txt of w.make"
    space.build("flow.yaml")
    assert space.ran == ["w.folder", "w.glob", "w.make", "w.path", "w.word"]


def test_a_value_that_changed_is_called_what_the_workflow_calls_it(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: w
        order: dataflow
        vars: {word: one}
        steps:
          - {name: a, command: echo a, output: a}
          - {name: b, command: 'echo {{ word }} {{ a }}'}
        """,
    )
    space.build("flow.yaml")
    space.edit("flow.yaml", "word: one", "word: two")
    space.build("flow.yaml")
    assert reasons(space)["b"] == "value {{ word }} changed"
    space.edit("flow.yaml", "echo a,", "echo aa,")
    space.build("flow.yaml")
    assert reasons(space)["b"] == "value {{ a }} changed"


def test_a_result_that_is_too_old_is_said_to_be_that(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: a, command: echo a, cache: {ttl: 0.05}}\n")
    space.build("flow.yaml")
    for _ in range(50):
        space.build("flow.yaml")
        if space.ran:
            break
    assert reasons(space)["a"] == "its result is older than its ttl"


def test_without_the_store_the_reason_is_that(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: a, command: echo a}\n")
    space.build("flow.yaml")
    space.build("flow.yaml", no_cache=True)
    assert reasons(space)["a"] == "--no-cache"


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "**",
        "*.txt",
        "a/*",
        "a/**",
        "**/b",
        "**/*.txt",
        "a/**/b",
        "**/.h/*",
        "a/[bc]",
        ".*",
        "**/**/b",
        "*/b/**",
    ],
)
def test_a_pattern_would_match_what_it_matches(tmp_path: Path, pattern: str) -> None:
    """Of a file that is not there yet the same is known as of one that is."""
    paths = [
        "x",
        "x.txt",
        ".x",
        "a/b",
        "a/c",
        "a/d/b",
        "a/d/e/b",
        "a/.h/b",
        "a/b.txt",
        ".h/x",
        "c/b/x",
        "c/b/d/x",
    ]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if not (tmp_path / path).is_dir():
            (tmp_path / path).write_text("")
    files = [path for path in paths if (tmp_path / path).is_file()]
    assert sorted(path for path in files if would_match(pattern, path)) == sorted(
        matching(str(tmp_path), pattern)
    )
