"""The binding to llama.cpp, set up before its first use.

Owns the import of llama-cpp-python's low-level API, what has to be said to it before anything else, and
the errors that it logs.  Knows nothing of models or requests.

Four things need care.  Without GGML_NO_BACKTRACE a failed assertion in native code runs a debugger to
print a backtrace.  The threads of llama.cpp meet some hundred times for each token, and by default OpenMP
lets them spin for milliseconds while they wait: as soon as another process (a shell step) wants a core, a
thread that spins keeps one from a thread that computes, and 90 tokens/s became 3.  So they sleep soon: after
100 turns a step of 16 sequences took 66 ms on two free cores, after 500 it takes 57, and where another
process has one of the cores both take 120; after 10,000 that is 270.  The log callback must stay referenced
as long as the process lives.  And the numbers of the log levels are those of ggml.h (ERROR is 4), not those
in the comments of the binding.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections import deque
from types import ModuleType
from typing import Any

os.environ.setdefault("GGML_NO_BACKTRACE", "1")
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "500")


def _low_level() -> ModuleType:
    """llama_cpp.llama_cpp, without what its package imports for the high-level API.

    That takes a tenth of a second more, as long as ten tokens of a small model.  The package itself is not
    left half imported: whoever imports it later gets all of it, with this very module in it.
    """
    name = "llama_cpp"
    if name in sys.modules:
        return importlib.import_module(f"{name}.llama_cpp")
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(f"{name}.llama_cpp")
    finally:
        del sys.modules[name]


lib: Any = _low_level()  # untyped on purpose: the binding's annotations do not hold for what it returns

_ERROR, _CONTINUED = 4, 5
_errors: deque[str] = deque(maxlen=32)
_level = 0


def _collect(level: int, text: bytes, _user: object) -> None:
    global _level
    if level != _CONTINUED:
        _level = level
    if _level == _ERROR:
        _errors.append(text.decode("utf-8", "replace"))


_callback = lib.llama_log_callback(_collect)
lib.llama_log_set(_callback, None)
lib.llama_backend_init()


def forget_errors() -> None:
    """What is logged from now on is what `first_error` speaks of."""
    _errors.clear()


def first_error() -> str | None:
    """The first line that llama.cpp logged as an error: the cause, which later lines repeat vaguely."""
    for line in "".join(_errors).splitlines():
        text = line.strip()
        for prefix in ("llama_model_load: ", "error loading model: ", "llama_init_from_model: "):
            text = text.removeprefix(prefix)
        if text:
            return text
    return None
