"""Flags, environment and llmc.yaml -> Config.  World: it finds and reads llmc.yaml, and asks for the CPUs.

Owns what can be configured and which source wins: flag, environment, llmc.yaml, default.  What a
configured model is made of is checked here; whether it is there is `llm.models`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc_build.errors import ConfigError, Fault
from llmc_build.frozen import frozen
from llmc_build.workflow.compound import INPUTS
from llmc_build.workflow.kinds import ENV_NAME, FILLED, Kind, Site, number, one_of, text_of
from llmc_build.workflow.nodes import Enough, Entry, Map, Node, Scalar, shown
from llmc_build.workflow.yamltext import MAX_BYTES, documents

FILE = "llmc.yaml"
DEFAULT_CACHE_DIR = ".llmc/cache"


@frozen(kw_only=True)
class ModelConfig:
    """One entry of `models:`: a file, or a name at a server."""

    name: str  # what workflows call it
    path: str | None = None  # a model reference: file (relative to the workspace), pkg:..., hf:...
    base_url: str | None = None  # of an OpenAI-compatible server
    api_key_env: str | None = None  # the environment variable that holds its key
    model: str | None = None  # what the server calls it
    prices: tuple[float, float] | None = None  # of a million tokens of prompts, and of answers
    context: int | None = None  # tokens
    threads: int | None = None
    gpu_layers: int | None = None  # -1: all
    parallel: int | None = None  # requests at a time
    batching: str | None = None  # "exact" or "fast": with the latter, answers may hang on what else is asked


@frozen(kw_only=True)
class Config:
    """What holds for one invocation."""

    workspace: Path  # absolute
    file: Path | None  # llmc.yaml, where there is one
    file_hash: str | None = None  # SHA-256 of its content
    workflows: tuple[str, ...]  # relative to the workspace
    cache_dir: Path  # absolute
    own_cache_dir: Path  # the one that llmc.yaml or the default says, whatever the caller says
    jobs: int
    retries: int  # of every step, besides its own
    models: Mapping[str, ModelConfig]
    subprocess: bool | None  # LLMC_SUBPROCESS; None: unset
    kv_cache: int | None  # bytes of the store that computed beginnings of prompts may take
    memory: int | None  # bytes that model workers may take together; None: by what is free
    limits: Mapping[str, int]  # of shell steps, those that were set: output and log in bytes, processes
    max_tokens_total: int | None = None  # of all requests of a build to servers
    max_cost: float | None = None  # of them, in the unit of `prices`


def load_config(start: Path, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The configuration of a command begun in `start`.

    `flags` may hold jobs, retries (int) and cache_dir (path); what is absent or None was not given.
    Raises ConfigError with every fault of llmc.yaml and the environment.
    """
    file = find_file(start)
    workspace = file.parent if file else start.resolve()
    faults: list[Fault] = []
    given = _from_file(file, faults) if file else {}
    surroundings = _from_environ(environ, faults)
    _check_flags(flags, faults)
    if faults:
        raise ConfigError(faults)
    jobs: Any = _first(flags.get("jobs"), surroundings.get("jobs"), given.get("jobs"))
    retries: Any = _first(flags.get("retries"), given.get("retries"))
    return Config(
        workspace=workspace,
        file=file,
        file_hash=given.get("file_hash"),
        workflows=given.get("workflows", ()),
        cache_dir=_cache_dir(workspace, flags, environ, given),
        own_cache_dir=_cache_dir(workspace, {}, {}, given),
        jobs=cpus() if jobs is None else jobs,
        retries=0 if retries is None else retries,
        models=given.get("models", {}),
        subprocess=surroundings.get("subprocess"),
        kv_cache=given.get("kv_cache"),
        memory=surroundings.get("memory", given.get("memory")),
        max_tokens_total=_whole(flags.get("max_tokens_total")),
        max_cost=_amount(flags.get("max_cost")),
        limits=given.get("limits", {}),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _amount(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def find_file(start: Path) -> Path | None:
    """The nearest llmc.yaml in a folder or those above it."""
    try:
        folder = start.resolve(strict=True)
        found = (place / FILE for place in (folder, *folder.parents))
        there = (file for file in found if os.path.lexists(file) and not os.path.isdir(file))
        return next(there, None)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{start}: {(why or 'not a folder').lower()}") from None


def cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _cache_dir(
    workspace: Path, flags: Mapping[str, object], environ: Mapping[str, str], given: Mapping[str, Any]
) -> Path:
    """A relative path is the caller's where the caller gave it, and the workspace's in llmc.yaml."""
    asked = flags.get("cache_dir") or environ.get("LLMC_CACHE_DIR")
    base = Path.cwd() if asked else workspace
    path = Path(str(asked or given.get("cache_dir") or DEFAULT_CACHE_DIR))
    with contextlib.suppress(RuntimeError):  # no home: the path is taken as it stands
        path = path.expanduser()
    path = Path(os.path.abspath(base / path))
    if path == workspace or path in workspace.parents:
        raise ConfigError(
            f"the store can't be {path}, which is or holds the workspace",
            hint="let cache_dir name a folder of its own",
        )
    return path


# ---------------------------------------------------------------- flags and environment

_JOBS_WANTED = "a whole number from 1 to 10000"
_JOBS = number(_JOBS_WANTED, 1, 10_000, whole=True)
_RETRIES_WANTED = "a whole number from 0 to 1000"
_RETRIES = number(_RETRIES_WANTED, 0, 1000, whole=True)


def _check_flags(flags: Mapping[str, object], faults: list[Fault]) -> None:
    cost = flags.get("max_cost")
    if cost is not None and not (isinstance(cost, int | float) and 0 <= cost < math.inf):
        faults.append(Fault(headline=f"--max-cost must be a number of 0 or more, not {shown(str(cost))}"))
    for name, low, high, wanted in (
        ("max_tokens_total", 0, 2**53, "a whole number of 0 or more"),
        ("jobs", 1, 10_000, _JOBS_WANTED),
        ("retries", 0, 1000, _RETRIES_WANTED),
    ):
        value = flags.get(name)
        if value is not None and not (type(value) is int and low <= value <= high):
            name = name.replace("_", "-")
            faults.append(Fault(headline=f"--{name} must be {wanted}, not {shown(str(value))}"))


def _from_environ(environ: Mapping[str, str], faults: list[Fault]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    jobs = environ.get("LLMC_JOBS", "").strip()
    if jobs:
        if re.fullmatch("[0-9]{1,5}", jobs) and 1 <= int(jobs) <= 10_000:
            found["jobs"] = int(jobs)
        else:
            faults.append(Fault(headline=f'LLMC_JOBS must be {_JOBS_WANTED}, not "{shown(jobs)}"'))
    memory = environ.get("LLMC_MEMORY", "").strip()
    if memory:
        size = _bytes(memory)
        if size is None:
            faults.append(Fault(headline=f'LLMC_MEMORY must be {_MEMORY_WANTED}, not "{shown(memory)}"'))
        else:
            found["memory"] = size
    subprocess = environ.get("LLMC_SUBPROCESS", "").strip()
    if subprocess in ("0", "1"):
        found["subprocess"] = subprocess == "1"
    elif subprocess:
        hint = "1 gives every workflow its own model process, 0 serves one request at a time; unset, batching"
        faults.append(Fault(headline=f'LLMC_SUBPROCESS must be 0 or 1, not "{shown(subprocess)}"', hint=hint))
    return found


# ---------------------------------------------------------------- llmc.yaml


def _from_file(file: Path, faults: list[Fault]) -> dict[str, Any]:
    name = _called(file)
    try:
        data = _read(file)
    except OSError as error:
        faults.append(Fault(headline=f"{name}: {(error.strerror or str(error)).lower()}"))
        return {}
    site = Site(name)
    found = read_config(data, site)
    faults += dict.fromkeys(site.found)
    return {**found, "file_hash": hashlib.sha256(data).hexdigest()}


def _read(file: Path) -> bytes:
    """The bytes of a regular file, or as many as are too many; never blocks on a device or a pipe."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _called(file: Path) -> str:
    """A path as the user would write it."""
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def read_config(data: bytes, site: Site) -> dict[str, Any]:
    """The values of llmc.yaml by field; what is wrong goes to `site`.  Pure."""
    found: dict[str, Any] = {}
    try:
        roots = [r for r in documents(data, site) if not (isinstance(r, Scalar) and r.is_null)]
        if len(roots) > 1:
            site.fault("llmc.yaml holds one document, and this is another", roots[1])
        for root in roots[:1]:
            if isinstance(root, Map):
                found = _read_fields(site, root, _FIELDS)
            else:
                site.wrong(FILE, root, "a mapping")
    except Enough:
        pass
    return found


def _read_fields(site: Site, node: Map, table: Mapping[str, Kind]) -> dict[str, Any]:
    found = {}
    for name, entry in node.entries.items():
        if name not in table:
            site.unknown(name, entry, table)
        elif not (isinstance(entry.node, Scalar) and entry.node.is_null):
            found[name] = table[name].read(site, name, entry.node)
    return found


def _models(site: Site, field: str, node: Node) -> dict[str, ModelConfig]:
    if not isinstance(node, Map):
        site.wrong(field, node, "a mapping of names to models")
        return {}
    before, found = site.owner, {}
    for name, entry in node.entries.items():
        site.owner = f'model "{shown(name)}"'
        if not name.strip() or not name.isprintable():
            site.fault(f'a model can\'t be named "{shown(name)}"', entry)
        found[name] = _model(site, name, entry)
    site.owner = before
    return found


def _model(site: Site, name: str, entry: Entry) -> ModelConfig:
    node = entry.node
    if isinstance(node, Scalar) and not node.is_null:
        return ModelConfig(name=name, path=FILLED.read(site, "path", node))
    if not isinstance(node, Map):
        site.fault(f"{site.owner} must be a model reference, or a mapping with path or base_url", node)
        return ModelConfig(name=name)
    found = _read_fields(site, node, _MODEL_FIELDS)
    _check_model(site, node, set(found))
    return ModelConfig(name=name, **found)


def _check_model(site: Site, node: Map, given: set[str]) -> None:
    """A model is a file or stands at a server, and has the fields of that."""
    remote = given & _REMOTE
    if "path" in given and remote:
        other = min(remote, key=lambda name: (node.entries[name].line, node.entries[name].column))
        hint = "a model is a file (path), or stands at a server (base_url, model, api_key_env)"
        site.fault(f'{site.owner} has "path" and "{other}"', node.entries[other], hint)
    elif remote and given & _LOCAL:
        for name in sorted(given & _LOCAL):
            site.fault(f"{site.called(name)} belongs to a model that is a file", node.entries[name])
    elif "path" not in given and not remote & {"base_url", "model"}:
        site.fault(f"{site.owner} says neither where its file is nor which server has it", node, _MODEL_HINT)


_MODEL_HINT = "give it `path`, or `base_url` and `model`"
_URL = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")


def _base_url(site: Site, field: str, node: Node) -> str:
    text = text_of(site, field, node)
    if isinstance(node, Scalar) and _URL.fullmatch(text) is None:
        # the value is not shown: it may hold a password
        hint = "such as https://host/v1; a key is named by `api_key_env`"
        site.fault(
            f"{site.called(field)} must be an http or https URL without credentials or query", node, hint
        )
    return text


def _api_key_env(site: Site, field: str, node: Node) -> str:
    text = text_of(site, field, node)
    if isinstance(node, Scalar) and ENV_NAME.fullmatch(text) is None:
        # the value is not shown: it may be the key itself
        site.fault(f"{site.called(field)} must be the name of an environment variable", node)
    return text


def _gpu_layers(site: Site, field: str, node: Node) -> int:
    every = isinstance(node, Scalar) and node.text == "all"
    return -1 if every else _LAYERS.read(site, field, node)


_MEMORY_WANTED = "a size such as 4GiB or 800 MB"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))? ?([A-Za-z]{0,3})")


def _bytes(text: str) -> int | None:
    """A size in bytes; None where the text says none."""
    match = _SIZE.fullmatch(text)
    if match is None or match[3].upper() not in _UNITS:
        return None
    size = int(float(f"{match[1]}.{match[2] or 0}") * _UNITS[match[3].upper()])
    return size if 0 < size < 1 << 62 else None


def _memory(site: Site, field: str, node: Node) -> int | None:
    size = _bytes(node.text.strip()) if isinstance(node, Scalar) else None
    if size is None:
        site.wrong(field, node, _MEMORY_WANTED)
    return size


def _kv_cache(site: Site, field: str, node: Node) -> int | None:
    none = isinstance(node, Scalar) and node.text.strip() == "0"
    return 0 if none else _memory(site, field, node)


_PRICE = number("a number of 0 or more", 0)
_PRICE_FIELDS = ("prompt", "completion")
_PRICES_WANTED = "{prompt, completion}: what a million tokens cost"


def _prices(site: Site, field: str, node: Node) -> tuple[float, float]:
    if not isinstance(node, Map):
        site.wrong(field, node, _PRICES_WANTED)
        return 0.0, 0.0
    found = _read_fields(site, node, dict.fromkeys(_PRICE_FIELDS, _PRICE))
    if "prompt" not in found:
        site.fault(f'{site.called(field)} has no "prompt"', node, _PRICES_WANTED)
    return found.get("prompt") or 0.0, found.get("completion") or 0.0  # embeddings have no completion


def _limits(site: Site, field: str, node: Node) -> dict[str, int]:
    if isinstance(node, Map):
        return _read_fields(site, node, _LIMIT_FIELDS)
    site.wrong(field, node, f"a mapping of limits: {', '.join(_LIMIT_FIELDS)}")
    return {}


_COUNT = number("a whole number of 1 or more", 1, 2**31 - 1, whole=True)
_LAYERS = number("a whole number of 0 or more, or all", -1, 2**31 - 1, whole=True)

_FIELDS: Mapping[str, Kind] = {
    "workflows": INPUTS,
    "cache_dir": FILLED,
    "jobs": _JOBS,
    "retries": _RETRIES,
    "memory": Kind(read=_memory, schema={}),
    "kv_cache": Kind(read=_kv_cache, schema={}),
    "limits": Kind(read=_limits, schema={}),
    "models": Kind(read=_models, schema={}),
}
_LIMIT_FIELDS: Mapping[str, Kind] = {
    "output": Kind(read=_memory, schema={}),
    "log": Kind(read=_memory, schema={}),
    "processes": number("a whole number from 16 to 4000000", 16, 4_000_000, whole=True),
}
_MODEL_FIELDS: Mapping[str, Kind] = {
    "path": FILLED,
    "base_url": Kind(read=_base_url, schema={}),
    "api_key_env": Kind(read=_api_key_env, schema={}),
    "model": FILLED,
    "prices": Kind(read=_prices, schema={}),
    "context": _COUNT,
    "threads": number("a whole number from 1 to 1024", 1, 1024, whole=True),
    "gpu_layers": Kind(read=_gpu_layers, schema={}),
    "parallel": number("a whole number from 1 to 256", 1, 256, whole=True),
    "batching": one_of("exact", "fast"),
}
_REMOTE = frozenset({"base_url", "api_key_env", "model", "prices"})
_LOCAL = frozenset({"context", "threads", "gpu_layers", "batching"})
