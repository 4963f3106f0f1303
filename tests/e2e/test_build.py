"""Builds from YAML to results with real shells: the rules of the key, the graph and failure, one by one."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from llmc_build.errors import NoSuchTarget, WorkflowError
from llmc_build.model import State
from tests.conftest import Space

CHAIN = """
    name: w
    steps:
      - name: a
        command: echo one
        output: x
      - name: b
        command: echo "{{x}} two"
        output: y
      - name: c
        command: printf '%s three' {{y}}
"""


def test_values_flow_from_step_to_step(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    report = space.build("flow.yaml")
    assert report.exit_code == 0
    assert space.value("w.c") == "one two three"
    assert (space.root / ".llmc/out/w/a").read_bytes() == b"one\n"


def test_a_second_build_runs_nothing(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    space.build("flow.yaml")
    report = space.build("flow.yaml")
    assert space.ran == []
    assert report.restored == 0


def test_deleting_the_state_runs_nothing_and_brings_the_outputs_back(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    space.write("llmc.yaml", "cache_dir: store\n")
    space.build("flow.yaml")
    shutil.rmtree(space.root / ".llmc")
    space.build("flow.yaml")
    assert space.ran == []
    assert space.value("w.c") == "one two three"


def test_renaming_moving_and_commenting_runs_nothing(space: Space) -> None:
    """Names and places are not in the key: a clean-up of the file costs nothing."""
    space.write("flow.yaml", CHAIN)
    space.build("flow.yaml")
    space.write(
        "other.yaml",
        """
        # moved, renamed, described
        name: renamed
        order: dataflow
        description: the same work
        steps:
          - name: last
            command: printf '%s three' {{middle}}
          - {name: first, command: echo one, output: start, timeout: 90, retries: 2}
          - name: second
            command: echo "{{start}} two"
            output: middle
        """,
    )
    space.build("other.yaml")
    assert space.ran == []
    assert space.value("renamed.last") == "one two three"


def test_an_edit_runs_its_cone_and_no_more(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    space.write("other.yaml", "name: o\nsteps:\n  - {name: s, command: echo apart}\n")
    space.build("flow.yaml", "other.yaml")
    space.edit("flow.yaml", "two", "zwei")
    space.build("flow.yaml", "other.yaml")
    assert space.ran == ["w.b", "w.c"]
    assert space.of("w.b").reason == "script changed"
    assert space.of("w.c").reason == "value {{ y }} changed"


def test_an_equal_output_stops_the_change(space: Space) -> None:
    """Early cutoff: what reads a value runs only where the value differs."""
    space.write("flow.yaml", CHAIN)
    space.build("flow.yaml")
    space.edit("flow.yaml", "echo one", "printf 'one\\n'")
    space.build("flow.yaml")
    assert space.ran == ["w.a"]


def test_equal_actions_in_different_workflows_run_once(space: Space) -> None:
    step = "steps:\n  - {name: s, command: 'echo ran >&2; sleep 0.2; echo same'}\n"
    space.write("flow.yaml", f"name: a\n{step}---\nname: b\n{step}")
    space.build("flow.yaml")
    assert len(space.ran) == 1
    assert len(space.cached) == 1
    assert space.value("a.s") == space.value("b.s") == "same\n"


FILES = """
    name: w
    steps:
      - {name: declared, command: cat data/*.txt, inputs: [data/*.txt]}
      - {name: word, command: wc -l < notes.md}
      - {name: free, command: echo free}
"""


def test_a_declared_files_content_is_in_the_key_and_its_time_is_not(space: Space) -> None:
    space.write("flow.yaml", FILES)
    space.write("data/a.txt", "A\n")
    space.write("notes.md", "one\n")
    space.build("flow.yaml")
    os.utime(space.root / "data/a.txt", (1, 1))
    space.build("flow.yaml")
    assert space.ran == []
    space.write("data/a.txt", "B\n")
    space.build("flow.yaml")
    assert space.ran == ["w.declared"]
    space.write("data/b.txt", "C\n")
    space.build("flow.yaml")
    assert space.ran == ["w.declared"]
    assert space.value("w.declared") == "B\nC\n"
    space.write("notes.md", "one\ntwo\n")
    space.build("flow.yaml")
    assert space.ran == ["w.word"]
    assert space.value("w.word").strip() == "2"


def test_a_same_size_edit_at_the_same_time_is_noticed(space: Space) -> None:
    """A file rewritten within the clock's granularity, with its old time forced on it, is still another file."""
    space.write("flow.yaml", FILES)
    space.write("data/a.txt", "A\n")
    space.write("notes.md", "one\n")
    space.build("flow.yaml")
    before = (space.root / "data/a.txt").stat()
    (space.root / "data/a.txt").write_text("B\n")
    os.utime(space.root / "data/a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    space.build("flow.yaml")
    assert space.ran == ["w.declared"]


def test_a_declared_variables_value_is_in_the_key_and_others_are_not_seen(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: 'echo $MODE-$OTHER', env: [MODE]}\n")
    space.environ |= {"MODE": "fast", "OTHER": "x"}
    space.build("flow.yaml")
    assert space.value("w.s") == "fast-\n"
    space.environ["OTHER"] = "y"
    space.build("flow.yaml")
    assert space.ran == []
    space.environ["MODE"] = "slow"
    space.build("flow.yaml")
    assert space.ran == ["w.s"]


def test_a_secret_is_used_redacted_and_not_in_the_key(space: Space) -> None:
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - {name: s, command: 'echo got ${#TOKEN}; echo $TOKEN >&2', secrets: [TOKEN]}\n",
    )
    space.environ["TOKEN"] = "hunter2-hunter2"
    space.build("flow.yaml")
    assert space.value("w.s") == "got 15\n"
    space.environ["TOKEN"] = "other-secret-15"
    space.build("flow.yaml")
    assert space.ran == []
    for path in space.root.rglob("*"):
        if path.is_file():
            assert b"hunter2-hunter2" not in path.read_bytes(), path


def test_a_secret_that_is_not_set_fails_the_step_with_its_name(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: echo hi, secrets: [TOKEN]}\n")
    space.build("flow.yaml")
    assert space.of("w.s").error == "secret TOKEN is not set in the environment"


def test_what_is_not_declared_is_not_there_and_the_error_says_what_to_do(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: 'cat d*/secret.txt'}\n")
    space.write("data/secret.txt", "x")
    space.build("flow.yaml")
    assert space.of("w.s").status is State.FAILED
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: 'f=data; cat $f/secret.txt'}\n")
    space.build("flow.yaml")
    assert "declare it in `inputs`" in (space.of("w.s").error or "")
    assert "data/secret.txt" in (space.of("w.s").error or "")


@pytest.mark.parametrize("command", ["echo x > site/a/x", "touch site/a/x"])
def test_a_step_that_writes_into_a_folder_that_is_not_there_is_told_to_make_it(
    space: Space, command: str
) -> None:
    step = "name: w\nsteps:\n  - {{name: s, command: '{}', outputs: [site/a/x]}}\n"
    space.write("flow.yaml", step.format(command))
    space.build("flow.yaml")
    assert "`mkdir -p site/a` first" in (space.of("w.s").error or "")


def test_declared_outputs_are_placed_restored_and_undeclared_ones_named(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: s, command: 'mkdir -p build; echo page > build/page.html; echo x > stray.txt', outputs: [build/page.html]}
          - {name: t, command: cat build/page.html, inputs: [build/page.html]}
        """,
    )
    space.build("flow.yaml")
    assert space.read("build/page.html") == "page\n"
    assert not (space.root / "stray.txt").exists()
    assert any("stray.txt" in w for w in space.of("w.s").warnings)
    assert space.value("w.t") == "page\n"
    (space.root / "build/page.html").write_text("spoilt")
    report = space.build("flow.yaml")
    assert space.ran == []
    assert report.restored == 1
    assert space.read("build/page.html") == "page\n"


def test_a_file_that_a_later_step_writes_is_no_input_of_an_earlier_one(space: Space) -> None:
    """Else a second build would see what the first one left, and differ from a clean one."""
    space.write("a.md", "a\n")
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: all, command: 'cat *.md', inputs: ['*.md']}
          - {name: page, command: 'echo page > page.md', outputs: [page.md]}
        """,
    )
    space.build("flow.yaml")
    space.build("flow.yaml")
    assert space.ran == []
    assert space.value("w.all") == "a\n"


def test_an_input_written_by_a_step_that_does_not_come_before_is_an_error(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: w
        order: dataflow
        steps:
          - {name: read, command: cat page.md, inputs: [page.md]}
          - {name: page, command: 'echo page > page.md', outputs: [page.md]}
        """,
    )
    with pytest.raises(WorkflowError, match='reads page.md, which step "w.page" writes'):
        space.build("flow.yaml")


def test_faults_of_fields_names_and_graph_are_shown_together(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: a, comand: echo, wait_for: b.t}
          - {name: b, command: 'echo {{nothing}}', timeout: soon}
          - {name: B, command: echo}
        ---
        name: b
        steps:
          - {name: t, command: echo, needs: [w.B, w.x]}
        """,
    )
    with pytest.raises(WorkflowError) as error:
        space.build("flow.yaml")
    headlines = [fault.headline for fault in error.value.faults]
    assert len(headlines) == 6, error.value.render()
    for part in (
        "comand",
        "soon",
        'two steps of workflow "w"',
        "nothing",
        "w.x",
        "b.t -> w.a -> w.b -> w.B -> b.t",
    ):
        assert any(part in headline for headline in headlines), part


def test_outputs_of_a_step_that_is_gone_go_too_unless_the_user_changed_them(space: Space) -> None:
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - {name: s, command: 'echo a > a.txt; echo b > b.txt', outputs: [a.txt, b.txt]}\n",
    )
    space.build("flow.yaml")
    space.write("b.txt", "mine")
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: t, command: echo t}\n")
    space.build("flow.yaml")
    assert not (space.root / "a.txt").exists()
    assert space.read("b.txt") == "mine"
    assert not (space.root / ".llmc/out/w/s").exists()


def test_a_failure_two_workflows_up_is_named_as_the_cause(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: a
        steps: [{name: s, command: 'echo broken >&2; exit 3'}]
        ---
        name: b
        steps: [{name: s, command: 'echo {{a.s}}'}]
        ---
        name: c
        steps: [{name: s, command: 'echo c', wait_for: b.s}, {name: t, command: echo t}]
        ---
        name: d
        steps: [{name: s, command: echo fine}]
        """,
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 1
    assert space.of("a.s").error == "exit code 3"
    assert "broken" in space.of("a.s").stderr_tail
    assert [space.of(t).caused_by for t in ("b.s", "c.s", "c.t")] == ["a.s"] * 3
    assert space.ran == ["d.s"]


def test_a_failure_is_never_stored_and_leaves_no_old_output(space: Space) -> None:
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - {name: s, command: 'test ! -e /nonexistent && echo ok > o.txt', outputs: [o.txt]}\n",
    )
    space.build("flow.yaml")
    space.edit("flow.yaml", "test ! -e", "test -e")
    for _ in range(2):
        space.build("flow.yaml")
        assert space.of("w.s").status is State.FAILED
        assert not (space.root / "o.txt").exists()
        assert not (space.root / ".llmc/out/w/s").exists()


def test_a_wait_runs_out_at_its_time_while_the_producer_goes_on(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: slow
        steps: [{name: s, command: sleep 1.2 && echo done}]
        ---
        name: w
        steps:
          - {name: wait, command: echo got, wait_for: slow.s, wait_timeout: 300ms}
          - {name: after, command: echo after}
        ---
        name: patient
        steps: [{name: s, command: 'echo {{slow.s}}', wait_for: {step: slow.s, timeout: 10s}}]
        """,
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 1
    assert (
        space.of("w.wait").error
        == "waited 0.3 s for slow.s, which has not ended (wait_for at flow.yaml:6:47)"
    )
    assert space.of("w.after").caused_by == "w.wait"
    assert space.ran == ["patient.s", "slow.s"]


def test_twenty_workflows_wait_for_one_step(space: Space) -> None:
    docs = ["name: p\nsteps: [{name: s, command: 'sleep 0.3; echo go'}]\n"]
    docs += [
        f"name: w{i}\nsteps: [{{name: s, command: 'echo {i} {{{{p.s}}}}', wait_for: p.s, wait_timeout: 30}}]\n"
        for i in range(20)
    ]
    space.write("flow.yaml", "---\n".join(docs))
    report = space.build("flow.yaml")
    assert report.counts["ran"] == 21
    assert space.value("w7.s") == "7 go\n"


def test_a_skipped_step_has_an_empty_value_and_what_waits_for_it_goes_on(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: a
        vars: {mode: test}
        steps: [{name: s, command: echo never, if: "{{mode}} == 'production'", output: x}, {name: t, command: 'echo "[{{x}}]"'}]
        ---
        name: b
        steps: [{name: s, command: 'echo "<{{a.s}}>"', wait_for: a.s, wait_timeout: 5}]
        """,
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 0
    assert space.having(State.SKIPPED) == ["a.s"]
    assert space.value("a.t") == "[]\n"
    assert space.value("b.s") == "<>\n"


def test_a_timeout_ends_the_step_and_all_it_started(space: Space) -> None:
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - {name: s, command: 'sleep 1000.011 & setsid sleep 1000.011 & sleep 1000.011', timeout: 300ms}\n",
    )
    started = time.monotonic()
    space.build("flow.yaml")
    assert space.of("w.s").status is State.FAILED
    assert "0.3 s" in (space.of("w.s").error or "")
    assert time.monotonic() - started < 20
    alive = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"1000.011" in _bytes(p)]
    assert alive == []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_step_is_tried_again_as_often_as_it_says(space: Space) -> None:
    counter = space.root / "count"
    space.write(
        "flow.yaml",
        f"name: w\nsteps:\n  - {{name: s, sandbox: false, command: 'echo x >> {counter}; test $(wc -l < {counter}) -ge 3', retries: 2}}\n",
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 0
    assert counter.read_text().count("x") == 3


def test_a_step_without_a_sandbox_runs_in_the_workspace_every_time(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: ls *.yaml, sandbox: false}\n")
    space.build("flow.yaml")
    assert space.value("w.s") == "flow.yaml\n"
    space.build("flow.yaml")
    assert space.ran == ["w.s"]


def test_cache_version_and_ttl_decide_when_a_result_is_too_old(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: date +%s%N, cache: {version: 1}}\n")
    space.build("flow.yaml")
    space.build("flow.yaml")
    assert space.ran == []
    space.edit("flow.yaml", "version: 1", "version: 2")
    space.build("flow.yaml")
    assert space.ran == ["w.s"]
    space.edit("flow.yaml", "version: 2", "version: 2, ttl: 1ms")
    time.sleep(0.01)
    space.build("flow.yaml")
    assert space.ran == ["w.s"]


def test_a_target_brings_all_it_depends_on_by_any_edge(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: a
        steps: [{name: s, command: echo a}, {name: t, command: echo t}]
        ---
        name: b
        steps: [{name: s, command: echo b, needs: a.t}, {name: u, command: echo u}]
        """,
    )
    space.build("flow.yaml", targets=["b.s"])
    assert space.ran == ["a.s", "a.t", "b.s"]
    space.build("flow.yaml", targets=["b*"])
    assert space.ran == ["b.u"]
    with pytest.raises(NoSuchTarget, match='did you mean "b.u"'):
        space.build("flow.yaml", targets=["b.uu"])


def test_offline_a_miss_is_an_error_with_exit_code_5(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    space.build("flow.yaml")
    assert space.build("flow.yaml", offline=True).exit_code == 0
    space.edit("flow.yaml", "three", "drei")
    assert space.build("flow.yaml", offline=True).exit_code == 5


def test_a_dry_run_runs_and_writes_nothing(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    space.build("flow.yaml", dry_run=True)
    assert space.ran == ["w.a", "w.b", "w.c"]
    assert not (space.root / ".llmc/out").exists() or not list((space.root / ".llmc/out").rglob("*"))
    space.build("flow.yaml")
    assert space.ran == ["w.a", "w.b", "w.c"]
    space.edit("flow.yaml", "two", "zwei")
    space.build("flow.yaml", dry_run=True)
    assert space.ran == ["w.b", "w.c"]


def test_force_runs_all_and_no_cache_neither_reads_nor_writes(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    space.build("flow.yaml", no_cache=True)
    space.build("flow.yaml")
    assert len(space.ran) == 3
    space.build("flow.yaml", force=True)
    assert len(space.ran) == 3
    space.build("flow.yaml")
    assert space.ran == []


def test_the_record_of_a_run_is_complete(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    report = space.build("flow.yaml")
    folder = space.root / ".llmc/runs/latest"
    record = json.loads((folder / "run.json").read_text())
    assert record["schema"] == "llmc-build/1"
    assert record["run_id"] == report.run_id
    assert record["contexts"] == {"w": {"x": "one\n", "y": "one two\n"}}
    assert record["channels"]["w.c"] == {"val": "one two three", "err": None}
    assert (folder / "w/b/stdout").read_text() == "one two\n"
    components = json.loads((folder / "w/b/action.json").read_text())
    assert components["rule"] == "shell"


def test_a_hostile_value_stays_a_value(space: Space) -> None:
    space.write("evil.txt", "'; touch CANARY; \" $(touch CANARY) `touch CANARY` \\\n")
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: a, command: cat evil.txt, output: x}
          - name: b
            command: |
              printf '%s|' {{x}} "{{x}}" '{{x}}' "$(printf '%s' {{x}})"
              cat <<'EOF'
              {{x}}
              EOF
              ls
        """,
    )
    space.build("flow.yaml")
    evil = "'; touch CANARY; \" $(touch CANARY) `touch CANARY` \\"
    assert space.value("w.b") == f"{evil}|" * 4 + f"{evil}\n"


def test_a_large_value_is_passed_whole(space: Space) -> None:
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - {name: a, command: 'head -c 3000000 /dev/zero | tr \"\\\\0\" x', output: x}\n  - {name: b, command: 'wc -c < {{x | path}}'}\n  - {name: c, command: \"cat <<EOF | wc -c\\n{{x}}\\nEOF\\n\"}\n",
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 0, [t.error for t in report.targets]
    assert space.value("w.b").strip() == "3000000"
    assert space.value("w.c").strip() == "3000001"


def test_a_damaged_result_is_set_aside_and_made_again(space: Space) -> None:
    space.write(
        "flow.yaml", "name: w\nsteps:\n  - {name: a, command: 'head -c 9000 /dev/zero | tr \"\\\\0\" x'}\n"
    )
    space.build("flow.yaml")
    (blob,) = [p for p in (space.root / ".llmc/cache/cas").rglob("*") if p.is_file()]
    os.chmod(blob, 0o644)
    blob.write_bytes(b"y" * 9000)
    shutil.rmtree(space.root / ".llmc/out")
    space.build("flow.yaml")
    assert space.ran == ["w.a"]
    assert space.value("w.a") == "x" * 9000


def test_a_store_that_cannot_be_had_costs_the_cache_and_not_the_build(space: Space) -> None:
    space.write("flow.yaml", CHAIN)
    space.write("not-a-folder", "x")
    for _ in range(2):
        report = space.build("flow.yaml", cache_dir=space.root / "not-a-folder")
        assert report.exit_code == 0
        assert len(space.ran) == 3
        assert any("uncached" in note for note in report.notes)
    assert space.value("w.c") == "one two three"


def test_a_worker_killed_in_the_middle_fails_its_step_alone(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: a
        steps: [{name: s, command: 'kill -9 $PPID; sleep 5'}]
        ---
        name: b
        steps: [{name: s, command: sleep 0.5 && echo fine}]
        ---
        name: c
        steps: [{name: s, command: echo later, needs: b.s}]
        """,
    )
    space.build("flow.yaml")
    assert space.of("a.s").error == "the worker died: killed by SIGKILL"
    assert space.ran == ["b.s", "c.s"]


def test_an_output_never_goes_through_a_symbolic_link(
    space: Space, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a step writes stays in the workspace, whatever stands in its way there."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (space.root / "link").symlink_to(elsewhere)
    (space.root / "page").symlink_to(elsewhere / "page")
    space.write(
        "flow.yaml",
        """
        name: w
        order: dataflow
        steps:
          - {name: through, command: 'mkdir -p link; echo x > link/x', outputs: [link/x]}
          - {name: at, command: echo page > page, outputs: [page]}
        """,
    )
    for _ in range(2):
        space.build("flow.yaml")
        assert space.of("w.through").error == (
            "link/x can't be put in place: a folder on the way is a file or a symbolic link"
        )
        assert space.of("w.at").status in (State.RAN, State.CACHED)
        assert space.read("page") == "page\n"
        assert list(elsewhere.iterdir()) == []


def test_a_stored_result_with_files_that_the_step_does_not_declare_is_not_served(space: Space) -> None:
    """A store that others can write to must not be able to place files of its choosing."""
    import dataclasses

    from llmc_build.model import OutputFile
    from llmc_build.store import Store

    space.write("flow.yaml", "name: w\nsteps:\n  - {name: a, command: echo a}\n")
    space.build("flow.yaml")
    key = space.of("w.a").key
    assert key is not None
    store = Store.open(space.root / ".llmc/cache", note=print)
    record = store.lookup(key)
    assert record is not None
    evil = OutputFile(path=".git/hooks/pre-commit", digest=store.add(b"#!/bin/sh\n"), executable=True)
    result = dataclasses.replace(record.result, outputs=(evil,))
    store.commit([dataclasses.replace(record, result=result)])
    store.close()
    space.build("flow.yaml")
    assert space.ran == ["w.a"]
    assert not (space.root / ".git").exists()


def test_a_step_renamed_and_broken_leaves_no_output_of_what_it_was(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: old, command: echo x > o.txt, outputs: [o.txt]}\n")
    space.build("flow.yaml")
    space.write(
        "flow.yaml", "name: w\nsteps:\n  - {name: new, command: 'echo x > o.txt; exit 1', outputs: [o.txt]}\n"
    )
    space.build("flow.yaml")
    assert space.of("w.new").status is State.FAILED
    assert not (space.root / "o.txt").exists()


def test_what_lies_behind_a_symbolic_link_is_never_removed(
    space: Space, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "page").write_text("page\n")
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - {name: s, command: 'mkdir site; echo page > site/page', outputs: [site/page]}\n",
    )
    space.build("flow.yaml")
    shutil.rmtree(space.root / "site")
    (space.root / "site").symlink_to(elsewhere)
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: t, command: echo t}\n")
    space.build("flow.yaml")
    assert (elsewhere / "page").read_text() == "page\n"


@pytest.mark.parametrize(
    "damage", [b"5\n", b"[1, 2]\n", b'["a", 3]\n', b'["a", {"../x": "y"}]\n', b"\xff\n", b'["w.s']
)
def test_a_damaged_list_of_outputs_harms_nothing(space: Space, damage: bytes) -> None:
    space.write("flow.yaml", CHAIN)
    space.build("flow.yaml")
    (space.root / ".llmc/placed.journal").write_bytes(damage)
    (space.root / ".llmc/placed.json").write_bytes(damage)
    assert space.build("flow.yaml").exit_code == 0
    assert space.ran == []
