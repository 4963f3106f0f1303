"""Where configuration comes from, and which source wins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.config import Config, ModelConfig, cpus, load_config, read_config
from llmc_build.errors import ConfigError
from llmc_build.workflow.kinds import Site

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that is also the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def load(start: Path, environ: dict[str, str] | None = None, **flags: object) -> Config:
    return load_config(start, environ or {}, flags)


def refused(start: Path, environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(start, environ or {}, flags)
    return caught.value.render()


def test_without_anything_there_are_defaults(space: Path) -> None:
    found = load(space)
    assert found == Config(
        workspace=space,
        file=None,
        workflows=(),
        cache_dir=space / ".llmc" / "cache",
        own_cache_dir=space / ".llmc" / "cache",
        jobs=cpus(),
        retries=0,
        models={},
        subprocess=None,
        kv_cache=None,
        memory=None,
        limits={},
    )
    assert found.jobs >= 1


def test_the_workspace_is_the_nearest_folder_above_that_holds_llmc_yaml(space: Path) -> None:
    inner = space / "a" / "b"
    inner.mkdir(parents=True)
    (space / "llmc.yaml").write_text("jobs: 3\n")
    assert (load(inner).workspace, load(inner).jobs) == (space, 3)
    (space / "a" / "llmc.yaml").write_text("")
    assert load(inner).workspace == space / "a"


def test_a_folder_of_that_name_is_no_configuration(space: Path) -> None:
    (space / "llmc.yaml").mkdir()
    assert load(space).file is None


def test_a_flag_wins_over_the_environment_and_that_over_the_file(space: Path) -> None:
    (space / "llmc.yaml").write_text("jobs: 2\nretries: 2\ncache_dir: from-file\n")
    environ = {"LLMC_JOBS": "3", "LLMC_CACHE_DIR": "from-env"}
    assert (load(space).jobs, load(space).cache_dir) == (2, space / "from-file")
    assert (load(space, environ).jobs, load(space, environ).cache_dir) == (3, space / "from-env")
    found = load(space, environ, jobs=4, retries=0, cache_dir="from-flag")
    assert (found.jobs, found.retries, found.cache_dir) == (4, 0, space / "from-flag")


@pytest.mark.parametrize("folder", [".", "..", "sub/..", "/"])
def test_the_store_is_neither_the_workspace_nor_around_it(space: Path, folder: str) -> None:
    """Its folders are removed with it, and would be the workspace's."""
    assert "which is or holds the workspace" in refused(space, cache_dir=Path(folder))
    (space / "llmc.yaml").write_text(f"cache_dir: {folder}\n")
    assert "let cache_dir name a folder of its own" in refused(space)


def test_relative_cache_folders_are_relative_to_who_wrote_them(space: Path) -> None:
    (space / "llmc.yaml").write_text("cache_dir: ../shared\n")
    inner = space / "inner"
    inner.mkdir()
    os.chdir(inner)
    assert load(inner).cache_dir == space.parent / "shared"
    assert load(inner, {"LLMC_CACHE_DIR": "x"}).cache_dir == inner / "x"
    assert load(inner, cache_dir=Path("y")).cache_dir == inner / "y"
    assert load(inner, {"LLMC_CACHE_DIR": "/abs"}).cache_dir == Path("/abs")


def test_an_empty_variable_is_an_unset_one(space: Path) -> None:
    found = load(space, {"LLMC_CACHE_DIR": "", "LLMC_JOBS": "", "LLMC_SUBPROCESS": ""})
    assert (found.cache_dir, found.jobs, found.subprocess) == (space / ".llmc" / "cache", cpus(), None)


@pytest.mark.parametrize(("value", "meaning"), [("0", False), ("1", True)])
def test_subprocess_mode_is_0_or_1(space: Path, value: str, meaning: bool) -> None:
    assert load(space, {"LLMC_SUBPROCESS": value}).subprocess is meaning


def test_models_are_files_or_stand_at_servers(space: Path) -> None:
    text = """\
workflows: [flows/a.yaml, ./b.yaml]
models:
  tiny: models/tiny.gguf
  big: {path: "hf:o/r/f.gguf", context: 4096, threads: 4, gpu_layers: all, parallel: 8}
  gpt: {base_url: "https://host/v1", model: gpt-x, api_key_env: KEY}
  other: {model: y}
"""
    (space / "llmc.yaml").write_text(text)
    found = load(space)
    assert found.workflows == ("flows/a.yaml", "b.yaml")
    assert found.models == {
        "tiny": ModelConfig(name="tiny", path="models/tiny.gguf"),
        "big": ModelConfig(
            name="big", path="hf:o/r/f.gguf", context=4096, threads=4, gpu_layers=-1, parallel=8
        ),
        "gpt": ModelConfig(name="gpt", base_url="https://host/v1", model="gpt-x", api_key_env="KEY"),
        "other": ModelConfig(name="other", model="y"),
    }


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("2GB", 2 * 10**9), ("1.5 GiB", 3 << 29), ("4096", 4096)]
)
def test_the_bound_of_computed_beginnings_is_a_size_or_none(space: Path, text: str, size: int) -> None:
    (space / "llmc.yaml").write_text(f"kv_cache: {text}\nmodels: {{m: {{path: x.gguf, batching: fast}}}}\n")
    found = load(space)
    assert found.kv_cache == size
    assert found.models["m"].batching == "fast"


def test_what_is_no_size_and_no_way_of_batching_is_told_with_its_place(space: Path) -> None:
    (space / "llmc.yaml").write_text("kv_cache: much\nmodels: {m: {path: x.gguf, batching: quick}}\n")
    told = refused(space)
    assert 'llmc.yaml:1:11: "kv_cache" must be a size such as 4GiB or 800 MB' in told
    assert 'llmc.yaml:2:38: "batching" of model "m" must be "exact" or "fast"' in told


def test_fields_without_a_value_are_left_out(space: Path) -> None:
    (space / "llmc.yaml").write_text("jobs:\nmodels:\nworkflows:\ncache_dir:\n")
    found = load(space)
    assert (found.jobs, found.models, found.workflows) == (cpus(), {}, ())


CASES = sorted(path.stem for path in GOLDEN.glob("config-*.yaml"))


@pytest.mark.parametrize("name", CASES)
def test_faults_are_said_in_these_words(space: Path, name: str) -> None:
    """golden/ has each llmc.yaml and all that is said of it; LLMC_UPDATE_GOLDEN=1 writes the latter anew."""
    (space / "llmc.yaml").write_bytes((GOLDEN / f"{name}.yaml").read_bytes())
    shown = refused(space) + "\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("LLMC_UPDATE_GOLDEN"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


def test_every_golden_text_has_its_case() -> None:
    assert CASES
    assert sorted(path.stem for path in GOLDEN.glob("config-*.txt")) == CASES


def test_faults_of_the_environment_and_the_file_come_together(space: Path) -> None:
    (space / "llmc.yaml").write_text("jbos: 1\n")
    assert refused(space, {"LLMC_JOBS": "many", "LLMC_SUBPROCESS": "yes"}, retries=-1) == (
        'LLMC_JOBS must be a whole number from 1 to 10000, not "many"\n'
        'LLMC_SUBPROCESS must be 0 or 1, not "yes"\n'
        "    hint: 1 gives every workflow its own model process, 0 serves one request at a time; "
        "unset, batching\n"
        "--retries must be a whole number from 0 to 1000, not -1\n"
        'llmc.yaml:1:1: unknown field "jbos"\n'
        '    hint: did you mean "jobs"?'
    )


@pytest.mark.parametrize("jobs", [0, 10_001, True, "2"])
def test_jobs_out_of_range_are_refused(space: Path, jobs: object) -> None:
    assert "--jobs must be" in refused(space, jobs=jobs)


def test_what_may_be_a_secret_is_not_shown(space: Path) -> None:
    """A key or a password in the wrong place must not reach a log."""
    (space / "llmc.yaml").write_text(
        "models:\n  a: {model: m, api_key_env: sk-hunter2}\n  b: {base_url: 'https://u:hunter2@host/v1'}\n"
    )
    shown = refused(space)
    assert "hunter2" not in shown
    assert "llmc.yaml:2:30" in shown
    assert "llmc.yaml:3:18" in shown


def test_a_start_that_is_no_folder_is_said(space: Path) -> None:
    assert refused(space / "nowhere") == f"{space}/nowhere: no such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_said(space: Path) -> None:
    (space / "llmc.yaml").write_text("")
    (space / "llmc.yaml").chmod(0)
    assert refused(space) == "llmc.yaml: permission denied"


@given(st.binary() | st.text(alphabet="jobsmdel:{}[] \n1-x").map(str.encode))
def test_any_bytes_give_values_or_faults(data: bytes) -> None:
    site = Site("llmc.yaml")
    found = read_config(data, site)
    assert set(found) <= {"workflows", "cache_dir", "jobs", "retries", "models"}
