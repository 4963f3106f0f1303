"""Which targets patterns name, on numbers. World only by its neighbours.

Owns nothing but the walk: what a pattern means is `graph.ActionGraph.select`'s, and a test holds the two
together.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from llmc_build.snapshot.form import closure


def selected(
    paths: list[str], producers: tuple[array[int], array[int]], patterns: Sequence[str]
) -> set[int] | None:
    """The targets that patterns name, with all they depend on; None where a pattern names nothing."""
    roots: list[int] = []
    for pattern in patterns:
        found = _named(paths, pattern)
        if not found:
            return None
        roots += found
    return closure(*producers, roots)


def _named(paths: list[str], pattern: str) -> list[int]:
    if any(c in pattern for c in "*?["):
        import fnmatch
        import re

        glob = pattern if "." in pattern else f"{pattern}.*"
        match = re.compile(fnmatch.translate(glob)).match
        return [i for i, path in enumerate(paths) if match(path.replace("/", ".", 1))]
    workflow, dot, step = pattern.partition(".")
    if not dot:
        return [i for i, path in enumerate(paths) if path.startswith(f"{workflow}/")]
    path = f"{workflow}/{step}"
    return [paths.index(path)] if path in paths else []
