"""llmc: an incremental, cached, parallel build tool for LLM workflows.

    from llmc_build import build, load

Nothing is imported until it is used, so that a worker process and `llmc --version` start fast.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which takes longer to import than a build with nothing to do

__version__ = "0.1.0"
__all__ = ["BuildReport", "LlmcError", "Workflow", "__version__", "build", "load"]

if TYPE_CHECKING:
    from typing import Any

    from llmc_build.api import build, load
    from llmc_build.errors import LlmcError
    from llmc_build.model import BuildReport, Workflow

_HOMES = {
    "build": "llmc_build.api",
    "load": "llmc_build.api",
    "LlmcError": "llmc_build.errors",
    "BuildReport": "llmc_build.model",
    "Workflow": "llmc_build.model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
