"""`llmc build` where nothing changed: decided before anything else is imported. World.

Owns which command lines are simple enough for that, and the few lines of output. Whether something changed
is decided by `snapshot.survey`; where it did, or where anything is doubtful, the command goes its ordinary
way, which gets the survey that was made here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence

_ALONE = frozenset({"-q", "--quiet", "-k", "--keep-going"})
_JOBS, _TARGET = ("-j", "--jobs"), ("-t", "--target")
_MOST_JOBS = 10_000
_UNITS = frozenset(("", "B", "KB", "MB", "GB", "TB", "KIB", "MIB", "GIB", "TIB"))


def build(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """The exit code, where the command line is a build that has nothing to do; else None."""
    started = time.monotonic()
    asked = _asked(argv)
    if asked is None or not _is_right(environ):
        return None
    try:
        return _build(*asked, environ, started)
    except (OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None


def _asked(argv: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """(files, patterns) of a plain `build`; None for every other command line."""
    if not argv or argv[0] != "build":
        return None
    files: list[str] = []
    patterns: list[str] = []
    rest = iter(argv[1:])
    for word in rest:
        if not word.startswith("-"):
            files.append(word)
            continue
        name, value = word, None
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            value = value if equals else None
        elif len(word) > 2:
            name, value = word[:2], word[2:]
        if word in _ALONE:
            continue
        if name not in (*_JOBS, *_TARGET):
            return None
        value = next(rest, None) if value is None else value
        if value is None or (name in _JOBS and not _are_jobs(value)):
            return None
        if name in _TARGET:
            patterns.append(value)
    return files, patterns


def _is_right(environ: Mapping[str, str]) -> bool:
    """Whether the settings in the environment are surely right; others are judged elsewhere."""
    jobs, memory, subprocess = (
        environ.get(f"LLMC_{name}", "").strip() for name in ("JOBS", "MEMORY", "SUBPROCESS")
    )
    return (not jobs or _are_jobs(jobs)) and (not memory or _is_size(memory)) and subprocess in ("", "0", "1")


def _are_jobs(value: str) -> bool:
    """Whether that is surely a number of jobs."""
    return value.isascii() and value.isdigit() and len(value) <= 5 and 0 < int(value) <= _MOST_JOBS


def _is_size(value: str) -> bool:
    """Whether that is surely a size, such as 4GiB or 800 MB."""
    number = value.rstrip("BGIKMTbgikmt")
    digits = number.removesuffix(" ")
    known = value[len(number) :].upper() in _UNITS and digits.isascii() and digits.isdigit()
    return known and len(digits) <= 6 and int(digits) > 0


def _build(
    files: Sequence[str], patterns: Sequence[str], environ: Mapping[str, str], started: float
) -> int | None:
    from llmc_build.snapshot import keeping

    workspace, config = _workspace(os.path.realpath(os.getcwd()))
    paths = list(dict.fromkeys(map(keeping.absolute, files))) or keeping.default_files(workspace)
    asked = environ.get("LLMC_CACHE_DIR")
    cache_dir = os.path.abspath(os.path.expanduser(asked)) if asked else None  # None: as llmc.yaml says
    survey = keeping.survey(workspace, paths, config=config, cache_dir=cache_dir, environ=environ)
    if survey is None:
        return None
    snapshot, wanted = survey.snapshot, None
    settled = not (
        survey.whole or survey.files or survey.changed or survey.store_changed or survey.list_changed
    )
    if settled and patterns:
        from llmc_build.snapshot.selection import selected

        wanted = selected(snapshot.paths, snapshot.producers, patterns)
        settled = wanted is not None
    if not settled or not survey.is_settled(wanted):
        keeping.hand_over(survey)
        return None
    from llmc_build.snapshot import idle

    if survey.seen.has_news:
        with contextlib.suppress(OSError):  # then it is hashed again
            keeping.write(survey.seen.path, survey.seen.encoded())
    idle.record(f"{workspace}/.llmc", snapshot, wanted, time.monotonic() - started)
    _say(len(snapshot.paths) if wanted is None else len(wanted), started, environ)
    return 0


def _workspace(start: str) -> tuple[str, str | None]:
    """The workspace and its llmc.yaml, as `config` finds them."""
    folder = start
    while True:
        file = f"{folder}/llmc.yaml"
        if os.path.lexists(file) and not os.path.isdir(file):
            return folder, f"{folder.rstrip('/')}/llmc.yaml"
        parent = os.path.dirname(folder)
        if parent == folder:
            return start, None
        folder = parent


def _say(total: int, started: float, environ: Mapping[str, str]) -> None:
    from llmc_build.terminal import GREEN, PLAIN, is_terminal, up_to_date, wants_color

    terminal = is_terminal(sys.stderr.isatty(), environ)
    text = up_to_date(total, time.monotonic() - started)
    if wants_color(environ, "auto", terminal=terminal):
        text = f"{GREEN}{text}{PLAIN}"
    with contextlib.suppress(OSError):  # nobody may be there to read it
        sys.stderr.write(text + "\n")
