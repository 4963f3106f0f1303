"""Model files into memory, and how much fits beside them.

Owns the settings of a model, its loading, and the defaults that depend on its size: how many requests at a
time, and how many tokens each.  What is computed is `engine`'s.

Weights in the forms Q4_0 and IQ4_NL are "repacked" when they are loaded: on x86-64 that halves the time for
a prompt and for wide batches, and as many widths keep the bits (up to 7) as without.  All other forms are
left as they are in the file: measured, Q4_K is no slower so, and widths up to 7 keep the bits, where repacked
only 3 do.  The choice depends on the file alone, since it changes the bits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llmc_build.frozen import frozen
from llmc_build.llm.native import first_error, forget_errors, lib
from llmc_build.model import Json
from llmc_build.store.files import stamp

DEFAULT_CONTEXT = 4096  # tokens, where the model was trained for as many
DEFAULT_PARALLEL = 16  # requests at a time: 32 are no faster on the processors that were measured
_ALL_LAYERS = -1
_REPACKED = {2, 25}  # `enum llama_ftype` of llama.h: Q4_0, IQ4_NL
_F16 = 2  # bytes of an element of the memory
_BY_TABLE = ("gpt2", "starcoder")  # they look positions up: llama.cpp ends itself behind the last one
_MEMORY_SHARE = 0.5  # of what is free, for the memory of all sequences


class LoadError(Exception):
    """The model can't be loaded.  One line."""


@frozen(kw_only=True)
class Settings:
    """How a model is loaded."""

    path: str
    stamp: tuple[int, ...] | None = None  # of the file that it must be; None: whatever there is
    context: int | None = None  # tokens for each sequence; None: DEFAULT_CONTEXT, or fewer if trained so
    threads: int | None = None  # None: as many as are worth it
    gpu_layers: int | None = None  # None: all, where llama.cpp was built for a GPU
    parallel: int | None = None  # sequences at a time; None: DEFAULT_PARALLEL, or fewer if memory is short
    states: int = 1 << 30  # bytes of memory that states of beginnings may take
    fast: bool = False  # whether the promise of equal bits is given up for speed
    # What is remembered from worker to worker: nothing without a folder and the model's identity.
    store: Path | None = None  # the store's folder
    model: str | None = None  # SHA-256 of the file
    engine: str = ""  # what computes, as it enters the key
    kept: int = 2 << 30  # bytes of the store that states of beginnings may take


def stamp_of(config: Mapping[str, Json]) -> tuple[int, ...] | None:
    """The `stamp` of a lane's config."""
    found = config.get("stamp")
    return tuple(n for n in found if isinstance(n, int)) if isinstance(found, list) else None


_ready: list[tuple[Settings, os.stat_result, object]] = []


def prepare(config: Mapping[str, Json]) -> None:
    """Loads a model that is likely to be asked for next, by this thread; raises LoadError, OSError.

    `config`: its `path`, and `gpu_layers`.
    """
    layers = config.get("gpu_layers")
    settings = Settings(path=str(config["path"]), gpu_layers=layers if isinstance(layers, int) else None)
    before = os.stat(settings.path)
    _ready.append((settings, before, load_model(settings)))


def _prepared(settings: Settings) -> object | None:
    """The model that was loaded before, if it is that of the settings; any other is freed."""
    if not _ready:
        return None
    known, before, model = _ready.pop()
    now = os.stat(settings.path)
    same = (known.path, known.gpu_layers) == (settings.path, settings.gpu_layers)
    if same and stamp(now) == stamp(before):
        return model
    lib.llama_model_free(model)
    return None


def load_model(settings: Settings) -> object:
    """llama.cpp's model; raises LoadError."""
    _check_file(settings.path)
    model = _prepared(settings)
    if model is None:
        model = _load(settings, repack=False)
        if int(lib.llama_model_ftype(model)) & ~1024 in _REPACKED:  # 1024: "guessed"
            lib.llama_model_free(model)
            model = _load(settings, repack=True)
    if not is_as_it_was(settings):
        lib.llama_model_free(model)
        raise LoadError(f"{settings.path} has changed since llmc looked at it: build again")
    return model


def is_as_it_was(settings: Settings) -> bool:
    """Whether the model's file was not written since it was looked at."""
    try:
        return settings.stamp is None or stamp(os.stat(settings.path)) == settings.stamp
    except OSError:
        return False


def context_of(model: object, settings: Settings) -> int:
    """Tokens of each sequence.  Raises LoadError where the model can't have as many as are asked for."""
    trained = int(lib.llama_model_n_ctx_train(model))
    if (settings.context or 0) > trained and _meta(model, "general.architecture") in _BY_TABLE:
        raise LoadError(
            f"{settings.path} knows {trained} positions and no more, and `context` of the model in llmc.yaml "
            f"is {settings.context}: lower it"
        )
    return settings.context or min(trained, DEFAULT_CONTEXT)


def parallel_of(model: object, settings: Settings, context: int) -> int:
    """Sequences at the same time."""
    if settings.parallel is not None:
        return settings.parallel
    free = _free_memory()
    if free is None:
        return DEFAULT_PARALLEL
    return max(1, min(DEFAULT_PARALLEL, int(free * _MEMORY_SHARE) // max(1, context * token_bytes(model))))


def token_bytes(model: object) -> int:
    """Bytes of memory that a token of a sequence takes, about."""
    heads = max(1, int(lib.llama_model_n_head(model)))
    width = int(lib.llama_model_n_embd(model)) // heads * max(1, int(lib.llama_model_n_head_kv(model)))
    return 2 * _F16 * width * int(lib.llama_model_n_layer(model))


def stretches(model: object, context: int) -> bool:
    """Whether the model computes otherwise in a longer context, so that it must be given the whole one."""
    trained = int(lib.llama_model_n_ctx_train(model))
    original = _meta(model, f"{_meta(model, 'general.architecture')}.rope.scaling.original_context_length")
    return context > (int(original) if original.isdigit() else trained)


def has_experts(model: object) -> bool:
    """Whether each token is computed with the weights that it chooses itself ("mixture of experts")."""
    count = _meta(model, f"{_meta(model, 'general.architecture')}.expert_count")
    return count.isdigit() and int(count) > 0


def _meta(model: object, key: str) -> str:
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    count = int(lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer)))
    return buffer.value.decode("utf-8", "replace") if count >= 0 else ""


def _load(settings: Settings, *, repack: bool) -> object:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = _ALL_LAYERS if settings.gpu_layers is None else settings.gpu_layers
    params.use_extra_bufts = repack
    forget_errors()
    model = lib.llama_model_load_from_file(settings.path.encode("utf-8", "surrogateescape"), params)
    if not model:
        raise LoadError(f"{settings.path} can't be loaded: {first_error() or 'llama.cpp does not say why'}")
    return model


def _check_file(path: str) -> None:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise LoadError(f"the model file {path} can't be read: {error.strerror}") from None
    if magic != b"GGUF":
        raise LoadError(f"{path} is not a GGUF file: it does not begin with the letters GGUF")


def _free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):
        return None
