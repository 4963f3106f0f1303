"""What a build that will ask a model can begin before it knows what it will ask.  World.

Owns the guess whether it will, and what is begun: a worker that loads the model, and the digest of its
file.  Each takes a tenth of a second or more, about as long as llmc takes to import what it needs and to
read the workflows, and there are several processors.  Nothing here changes what is built.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from llmc_build.config import Config, ModelConfig
from llmc_build.execute.process import Spare
from llmc_build.execute.worker import RUNNERS
from llmc_build.llm.cores import usable_cores
from llmc_build.model import Json
from llmc_build.store.state import FileDigests

_LIGHT = 512 << 20  # bytes of a model that is loaded on the mere suspicion that it is needed


class Ahead:
    """To be closed when the build is over."""

    def __init__(self, config: Config, files: Sequence[Path], *, idle: bool) -> None:
        """`idle`: no step will run."""
        self.digests = FileDigests(config.workspace / ".llmc" / "state" / "digests")
        self.spare: Spare | None = None
        local = [model for model in config.models.values() if model.path is not None]
        if (
            idle
            or config.subprocess is not None
            or usable_cores() < 2
            or not _asks_models(config, files, bool(local))
        ):
            return
        model = local[0] if len(local) == 1 else None
        path = _file_of(model, config) if model is not None else None
        if model is not None and path is not None:
            self._start(path if path.stat().st_size <= _LIGHT else None, model.gpu_layers)
            self.digests.begin(path)
        else:
            self._start(None, None)

    def _start(self, path: Path | None, gpu_layers: int | None) -> None:
        with contextlib.suppress(OSError):  # then it is started when it is needed
            likely: dict[str, Json] = {"path": None if path is None else str(path), "gpu_layers": gpu_layers}
            self.spare = Spare("model", os.environ, RUNNERS["model"], likely)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.spare is not None:
            self.spare.close()


def _file_of(model: ModelConfig, config: Config) -> Path | None:
    """The file of the only model, where it is here."""
    from llmc_build.llm import models

    if str(model.path).startswith("hf:"):  # it may have to be fetched first
        return None
    with contextlib.suppress(models.ModelError):  # it is told when a step asks for it
        path = models.resolve(model.name, aliases=config.models, workspace=config.workspace).path
        return path if path.is_file() else None
    return None


def _asks_models(config: Config, files: Sequence[Path], has_models: bool) -> bool:
    """Whether the last build had steps that ask models; where there was none, whether it could."""
    from llmc_build.snapshot import keeping

    last = keeping.last(str(config.workspace), [os.path.abspath(file) for file in files])
    return has_models if last is None else bool(last.facts["python"])
