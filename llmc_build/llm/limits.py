"""What a model worker's process may take: how much memory, and how much stack."""

from __future__ import annotations

import contextlib
import resource
import sys

_SLACK = 2 << 30  # bytes
_STACK = 112 << 20  # bytes: a main thread's stack can grow to 128 MiB at least, if it may


def bound_memory(limit: int | None) -> None:
    """Sees to it that what goes wrong here ends this process, and not others for want of memory.

    Some grammars have more and more ways to go on, and llama.cpp remembers them all.  `limit`: what models
    may take together; the slack is for what no estimate knows.
    """
    if limit is not None and sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = limit + _SLACK
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def deepen_stack() -> None:
    """llama.cpp takes texts apart by expressions that call themselves for every character.

    Linux looks at the limit whenever the stack of a main thread grows, so that it may be raised later on.
    """
    if sys.platform == "linux":
        soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
        most = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
