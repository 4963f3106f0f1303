"""What this machine has for llmc, looked at piece by piece.  World.

Owns the checks of `llmc doctor` and what each says.  Nothing is changed or built; a server is asked only
`online`.  llama.cpp is loaded in a process of its own: a build of it for another processor ends that process,
and is a finding then.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from llmc_build.config import Config, cpus
from llmc_build.errors import LlmcError
from llmc_build.frozen import frozen
from llmc_build.model import Json

if TYPE_CHECKING:
    from llmc_build.llm.models import ModelListing

_PATIENCE_S = 60.0  # for llama.cpp to be loaded
_SERVER_S = 10.0  # for a server to answer
_LEAST_FREE = 1 << 30  # bytes of a disk, below which a store is in danger
_ASK_LLAMA = (
    "import json; from llmc_build.llm.native import lib; "
    "print(json.dumps([lib.llama_print_system_info().decode('utf-8', 'replace'), "
    "bool(lib.llama_supports_gpu_offload())]))"
)


class State(Enum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"  # something is not there, and is needed for some steps only
    FAIL = "fail"  # what is configured here can't work


@frozen(kw_only=True)
class Finding:
    """What a check found."""

    name: str
    state: State
    text: str  # one line
    facts: Mapping[str, Json] = field(default_factory=dict)  # for programs

    def as_json(self) -> dict[str, Json]:
        return {"name": self.name, "state": self.state.value, "text": self.text, "facts": dict(self.facts)}


def examine(config: Config, environ: Mapping[str, str], *, online: bool = False) -> Iterator[Finding]:
    """Every finding, as it is made.  A check that itself fails is a finding too."""
    known: dict[str, Finding] = {}
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", _python),
        ("workspace", lambda: _workspace(config)),
        ("store", lambda: _store(config)),
        ("memory", lambda: _memory(config)),
        ("llama.cpp", lambda: _llama(config)),
        ("models", lambda: _models(config, environ, known, online)),
        ("sandbox", _sandbox),
        ("processes", _processes),
    ]
    for name, check in checks:
        try:
            for finding in check():
                known[finding.name] = finding
                yield finding
        except (OSError, LlmcError, ValueError) as error:
            yield Finding(name=name, state=State.FAIL, text=" ".join(str(error).split()))


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    facts: dict[str, Json] = {
        "version": version,
        "executable": sys.executable,
        "platform": platform.platform(),
    }
    yield Finding(
        name="python",
        state=State.OK if sys.version_info >= (3, 11) else State.FAIL,
        text=f"{version} on {platform.system()} {platform.machine()}, {cpus()} CPUs for this process",
        facts={**facts, "cpus": cpus()},
    )


def _workspace(config: Config) -> Iterator[Finding]:
    home = config.workspace / ".llmc"
    writable = os.access(home if home.exists() else config.workspace, os.W_OK | os.X_OK)
    yield Finding(
        name="workspace",
        state=State.OK if writable else State.FAIL,
        text=f"{config.workspace} ({'with' if config.file else 'without'} llmc.yaml)"
        + ("" if writable else ", which can't be written to"),
        facts={"path": str(config.workspace), "config": str(config.file) if config.file else None},
    )


def _store(config: Config) -> Iterator[Finding]:
    from llmc_build.llm.memory import size
    from llmc_build.store import Store

    folder = config.cache_dir
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    facts: dict[str, Json] = {"path": str(folder), "free": free}
    if not folder.is_dir():
        state = State.OK if os.access(there, os.W_OK | os.X_OK) else State.FAIL
        text = f"{folder} is not there yet; {size(free)} are free"
        yield Finding(name="store", state=state, text=text, facts=facts)
        return
    notes: list[str] = []
    store = Store.open(folder, note=notes.append)
    try:
        stats = store.stats()
    finally:
        store.close()
    facts.update(stats)
    text = f"{folder}: {stats['records']} results, {size(stats['bytes'])}; {size(free)} are free"
    if stats["quarantined"]:
        text += f"; {stats['quarantined']} damaged ones were set aside"
    if notes:
        yield Finding(name="store", state=State.FAIL, text=f"{text}; {notes[0]}", facts=facts)
    else:
        state = State.OK if free >= _LEAST_FREE else State.NOTE
        yield Finding(name="store", state=state, text=text, facts=facts)


def _memory(config: Config) -> Iterator[Finding]:
    from llmc_build.llm import memory

    free, limit = memory.free_memory(), config.memory or memory.default_limit()
    source = "as configured" if config.memory else "by what is free"
    text = (
        "nobody says how much is free: models have no limit"
        if limit is None
        else f"models may take {memory.size(limit)} together ({source})"
        + (f"; {memory.size(free)} are free" if free is not None else "")
    )
    short = limit is not None and free is not None and limit > free
    yield Finding(
        name="memory",
        state=State.NOTE if short else State.OK,
        text=text,
        facts={"limit": limit, "free": free},
    )


def _llama(config: Config) -> Iterator[Finding]:
    from llmc_build.llm.models import ModelError, engine_identity

    needed = any(model.path is not None for model in config.models.values())
    try:
        identity = engine_identity()
    except ModelError as error:
        yield Finding(name="llama.cpp", state=State.FAIL if needed else State.NOTE, text=str(error))
        return
    done = subprocess.run(
        [sys.executable, "-c", _ASK_LLAMA], capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        why = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        text = f"{identity} can't be loaded ({why}){f': {last}' if last else ''}"
        yield Finding(name="llama.cpp", state=State.FAIL, text=text, facts={"engine": identity})
        return
    flags, gpu = json.loads(done.stdout)
    on = [
        part.split("=")[0].strip()
        for part in flags.replace(":", "|").split("|")
        if part.strip().endswith("= 1")
    ]
    yield Finding(
        name="llama.cpp",
        state=State.OK,
        text=f"{identity}, {'GPU' if gpu else 'no GPU'}; {', '.join(on)}",
        facts={"engine": identity, "gpu": bool(gpu), "system": flags},
    )


# ---------------------------------------------------------------- models and servers


def _models(
    config: Config, environ: Mapping[str, str], known: Mapping[str, Finding], online: bool
) -> Iterator[Finding]:
    from llmc_build.llm.models import list_models

    for model in list_models(aliases=config.models, workspace=config.workspace):
        if model.base_url:
            yield _server(config, model, environ, online)
        else:
            yield _file(config, model, known)


def _file(config: Config, model: ModelListing, found: Mapping[str, Finding]) -> Finding:
    from llmc_build.llm import memory

    name = f"model {model.name}"
    if model.path is None or model.problem:
        own = model.name in config.models and model.problem is not None
        text = model.problem or f"{model.reference} is fetched when it is asked for"
        return Finding(name=name, state=State.FAIL if own else State.NOTE, text=text)
    settings = config.models.get(model.name)
    limit = config.memory or memory.default_limit()
    need = memory.need_of(
        model.path,
        context=settings.context if settings else None,
        parallel=settings.parallel if settings else None,
        limit=limit,
    )
    about = model.about
    known = [about.architecture, about.quantisation] if about else []
    facts: dict[str, Json] = {
        "path": str(model.path),
        "weights": need.weights,
        "memory": need.whole,
        "parallel": need.parallel,
        "context": need.context,
    }
    if limit is not None and need.whole > limit:
        return Finding(name=name, state=State.FAIL, text=memory.too_large(need, limit), facts=facts)
    kind = " ".join(part for part in known if part)
    text = (
        f"{kind}, {memory.size(need.weights)}; {need.parallel} requests of {need.context} tokens at a time "
    )
    text += f"in {memory.size(need.whole)}"
    layers = settings.gpu_layers if settings else None
    exact = _tested(config, model.path, found, {"context": need.context, "gpu_layers": layers, "width": 0})
    if exact is not None:
        facts["exact_widths"] = list(exact)
        text += f"; batches of {', '.join(map(str, exact))} give the bits of each alone"
    return Finding(name=name, state=State.OK, text=text, facts=facts)


def _tested(
    config: Config, path: Path, found: Mapping[str, Finding], settings: Mapping[str, Json]
) -> list[int] | None:
    """The batch widths that a self-test of a worker found to keep a model's bits; None: not tested yet."""
    from llmc_build.llm.exactness import FOLDER, identity, read_exactness
    from llmc_build.store.state import FileDigests

    llama = found["llama.cpp"].facts if "llama.cpp" in found else {}
    digest = FileDigests(config.workspace / ".llmc" / "state" / "digests").digest(path)
    if digest is None or "system" not in llama:
        return None
    name = identity(
        model=digest.hash, engine=str(llama["engine"]), system=str(llama["system"]), settings=settings
    )
    decoding = read_exactness(config.cache_dir / FOLDER / name).decoding
    return None if decoding is None else sorted(decoding.costs)


def _server(config: Config, model: ModelListing, environ: Mapping[str, str], online: bool) -> Finding:
    name, url = f"model {model.name}", str(model.base_url)
    variable = config.models[model.name].api_key_env if model.name in config.models else None
    facts: dict[str, Json] = {"base_url": url, "api_key_env": variable}
    if variable and not environ.get(variable):
        text = f"{url}: its key is to be in {variable}, which is not set"
        return Finding(name=name, state=State.FAIL, text=text, facts=facts)
    if not online:
        return Finding(name=name, state=State.OK, text=f"{url} (not asked: --online)", facts=facts)
    why = _unreachable(url, environ.get(variable) if variable else None)
    if why is not None:
        return Finding(name=name, state=State.FAIL, text=f"{url} {why}", facts=facts)
    return Finding(name=name, state=State.OK, text=f"{url} answers", facts=facts)


def _unreachable(url: str, key: str | None) -> str | None:
    """Why a server can't be used; None where it lists its models."""
    try:
        import httpx
    except ImportError:
        return "can't be asked: httpx is not installed; pip install 'llmc_build[openai]'"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        found = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=_SERVER_S)
    except httpx.HTTPError as error:
        return f"can't be reached: {' '.join(str(error).split()) or type(error).__name__}"
    return None if found.is_success else f"answers with status {found.status_code} when asked for its models"


# ---------------------------------------------------------------- steps


def _sandbox() -> Iterator[Finding]:
    from llmc_build.execute import strict

    try:
        program, text = strict.bubblewrap(), "bubblewrap works: `sandbox: strict` can be had"
    except strict.NoStrictSandbox as why:
        program, text = None, str(why)
    yield Finding(
        name="sandbox", state=State.OK if program else State.NOTE, text=text, facts={"bwrap": program}
    )


def _processes() -> Iterator[Finding]:
    from llmc_build.execute import features

    found = [feature for feature in features.in_use() if feature.name != features.STRICT]
    shells = [shell for shell in ("sh", "bash") if shutil.which(shell)]
    listed = "; ".join(f"{f.name}: {f.used}" + (f" ({f.note})" if f.note else "") for f in found)
    yield Finding(
        name="processes",
        state=State.OK if "sh" in shells else State.FAIL,
        text=f"shells: {', '.join(shells) or 'none'}; {listed}",
        facts={"shells": list(shells), **{feature.name: feature.used for feature in found}},
    )
