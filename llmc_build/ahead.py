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
from typing import TYPE_CHECKING, Self

from llmc_build.config import Config
from llmc_build.model import Json
from llmc_build.store.state import FileDigests

if TYPE_CHECKING:
    from llmc_build.execute.process import Spare

_LIGHT = 512 << 20  # bytes of a model that is loaded and hashed on the mere suspicion that it is needed


class Ahead:
    """To be closed when the build is over."""

    def __init__(self, config: Config, files: Sequence[Path], *, idle: bool) -> None:
        """`idle`: no step will run."""
        self.digests = FileDigests(config.workspace / ".llmc" / "state" / "digests")
        self.spare: Spare | None = None
        if not idle and config.subprocess is None and _asks_models(config, files):
            self._begin(config)

    def _begin(self, config: Config) -> None:
        from llmc_build.execute.process import Spare
        from llmc_build.execute.worker import RUNNERS
        from llmc_build.llm.cores import usable_cores

        if usable_cores() < 2:
            return
        found = _only_model(config)
        path, gpu_layers = found or (None, None)
        likely: dict[str, Json] = {"path": None if path is None else str(path), "gpu_layers": gpu_layers}
        with contextlib.suppress(OSError):  # then it is started when it is needed
            self.spare = Spare("model", os.environ, RUNNERS["model"], likely)
        if path is not None:
            self.digests.begin(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.spare is not None:
            self.spare.close()


def _only_model(config: Config) -> tuple[Path, int | None] | None:
    """The file of the only model, and its layers on a GPU, where it is here and small."""
    from llmc_build.llm import models

    local = _local(config)
    if len(local) != 1 or str(config.models[local[0]].path).startswith("hf:"):  # it may have to be fetched
        return None
    with contextlib.suppress(models.ModelError, OSError):  # it is told when a step asks for it
        path = models.resolve(local[0], aliases=config.models, workspace=config.workspace).path
        if path.is_file() and path.stat().st_size <= _LIGHT:
            return path, config.models[local[0]].gpu_layers
    return None


def _local(config: Config) -> list[str]:
    return [name for name, model in config.models.items() if model.path is not None]


def _asks_models(config: Config, files: Sequence[Path]) -> bool:
    """Whether the last build had steps that ask models; where there was none, whether it could."""
    from llmc_build.snapshot import keeping

    last = keeping.last(str(config.workspace), [os.path.abspath(file) for file in files])
    return bool(_local(config)) if last is None else bool(last.facts["python"])
