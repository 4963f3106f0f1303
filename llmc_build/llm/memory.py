"""How much memory a model takes, and how much there is.

Owns the estimate of what a model worker needs, made from the header of its file before anything is loaded,
and the memory that this process may use.  Who waits for whom is `execute.residence`.

A worker takes the weights, which workers on one file share, since llama.cpp maps it; the memory of its
sequences, of which each token costs keys and values in every layer; and what a call computes with.  Of what
these leave it may use a part for what it has computed of prompts' beginnings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llmc_build.frozen import frozen
from llmc_build.llm.gguf import GgufError, Value, read_values

MOST_PARALLEL = 16  # requests at a time, where nothing else is said and memory suffices
DEFAULT_CONTEXT = 4096  # tokens, where the model was trained for as many
SHARE = 0.8  # of the memory that is free: what model workers may take
_SEQUENCES_SHARE = 0.5  # of what the weights leave: what sequences may take where nobody says how many
MOST_STATES = 1 << 30  # bytes that what was computed of beginnings may take
_STATES_SHARE = 8  # the part of what a model leaves that they may take: other models want to fit beside it
_PROCESS = 96 << 20  # bytes of a worker without a model: Python, numpy, llama.cpp
_CHUNK = 256  # tokens of a call
_F16, _F32 = 2, 4  # bytes of a number
_UNKNOWN_TOKEN = 128 << 10  # bytes of a token, where a file says nothing of its layers
_CGROUPS = (  # limit, what is used of it
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@frozen(kw_only=True)
class Need:
    """What a worker takes, in bytes, about."""

    weights: int
    sequences: int
    computing: int
    states: int  # for what was computed of beginnings: as much as there is left for that
    parallel: int  # requests at a time that this is for
    context: int  # tokens of each

    @property
    def own(self) -> int:
        """What it shares with no other worker."""
        return self.sequences + self.computing + self.states

    @property
    def whole(self) -> int:
        """What it can't do without."""
        return self.weights + self.sequences + self.computing


def need_of(path: Path, *, context: int | None, parallel: int | None, limit: int | None) -> Need:
    """What a worker on a model file takes.  Raises OSError.

    Without `parallel` there are as many sequences as half of what the weights leave of `limit` can hold.
    """
    size = path.stat().st_size
    try:
        values: Mapping[str, Value] = read_values(path)
    except GgufError:
        values = {}  # the worker will say what is wrong with it
    header = _Header(values)
    tokens = context or min(header.number("context_length") or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    each = tokens * header.token_bytes
    computing = _PROCESS + _CHUNK * header.activations
    if parallel is None:
        free = MOST_PARALLEL * each if limit is None else int((limit - size - computing) * _SEQUENCES_SHARE)
        parallel = max(1, min(MOST_PARALLEL, free // max(1, each)))
    states = MOST_STATES
    if limit is not None:
        left = max(0, limit - size - parallel * each - computing)
        states = min(MOST_STATES, left, max(left // _STATES_SHARE, each))
    return Need(
        weights=size,
        sequences=parallel * each,
        computing=computing,
        states=states,
        parallel=parallel,
        context=tokens,
    )


def too_large(need: Need, limit: int) -> str:
    """What to say of a model that needs more than there is."""
    return (
        f"does not fit into memory: it takes about {size(need.whole)} ({size(need.weights)} of weights, "
        f"{size(need.sequences)} for {need.parallel} x {need.context} tokens), and the limit is "
        f"{size(limit)} (`memory` in llmc.yaml): lower its `context` or `parallel`, or use a smaller model"
    )


def size(count: int) -> str:
    """Bytes for people: 98 MiB, 4.25 GiB."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


class _Header:
    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values
        self._architecture = values.get("general.architecture")

    def number(self, name: str) -> int | None:
        """A whole number that the file says of its architecture; None where it doesn't, or it is absurd."""
        found = self._values.get(f"{self._architecture}.{name}")
        return found if isinstance(found, int) and 0 < found < 1 << 31 else None

    @property
    def token_bytes(self) -> int:
        """Bytes of memory that a token of a sequence takes."""
        layers, width = self.number("block_count"), self.number("embedding_length")
        if layers is None or width is None:
            return _UNKNOWN_TOKEN
        heads = self.number("attention.head_count") or 1
        groups = self.number("attention.head_count_kv") or heads
        key = self.number("attention.key_length") or width // heads
        value = self.number("attention.value_length") or width // heads
        return layers * groups * (key + value) * _F16

    @property
    def activations(self) -> int:
        """Bytes that computing a token takes."""
        width = self.number("embedding_length") or 4096
        return _F32 * (16 * width + 3 * (self.number("feed_forward_length") or 4 * width))


def default_limit() -> int | None:
    """Bytes that model workers may take together; None where the system does not say what is free."""
    free = free_memory()
    return None if free is None else int(free * SHARE)


def free_memory() -> int | None:
    """Bytes that can be had without swapping, within what the cgroup grants; None where nobody says."""
    known = [free for free in (_system(), _cgroup()) if free is not None]
    return min(known, default=None)


def _system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:  # macOS does not tell what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):
        return None


def _cgroup() -> int | None:
    for limit, used in _CGROUPS:
        try:
            most, taken = (Path(name).read_text("ascii").strip() for name in (limit, used))
            if most.isdigit() and int(most) < 1 << 60:
                return max(0, int(most) - int(taken) + _reclaimable(Path(used).parent))
        except (OSError, ValueError):
            continue
    return None


def _reclaimable(folder: Path) -> int:
    """Bytes of a cgroup that hold files only, which go when memory is needed."""
    try:
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
    except OSError:
        return 0
    found = dict(line.split()[:2] for line in lines if len(line.split()) == 2)
    return sum(int(found[name]) for name in ("inactive_file", "active_file") if found.get(name, "").isdigit())
