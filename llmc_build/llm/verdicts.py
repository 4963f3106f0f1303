"""The verdict on an answer that must look like something, in bounded time.

Owns the bound: a pattern of a hostile schema can keep Python's `re` busy for ever, and a worker that is busy
answers nobody.  `re` looks for signals while it works, so an alarm ends it: one that counts the time that
this process computes, lest a busy machine spoil an answer.  And it owns what is said of an
answer that was cut.  The verdict itself is `constrain`'s.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from llmc_build.constrain import verdict
from llmc_build.model import Json

LIMIT_S = 5.0  # of computing


class _TooLong(Exception):
    pass


def refusal(output: Mapping[str, Json], text: str, *, cut_after: int | None = None) -> str | None:
    """Why an answer is not what was asked for, in one line; None where it is.

    `cut_after`: the answer ends because it has that many tokens, its `max_tokens`.
    """
    try:
        with _limited(LIMIT_S):
            why = verdict(output, text)
    except _TooLong:
        return f"the answer could not be checked within {LIMIT_S:g} s: the schema's patterns are too costly"
    if cut_after is None:
        return why
    if why is None and not (output["kind"] != "grammar" and text[-1:].isdigit()):
        return None
    whole = "text of the grammar" if output["kind"] == "grammar" else "JSON"
    return f"the answer is no complete {whole} after `max_tokens` ({cut_after}) tokens: raise `max_tokens`"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises _TooLong inside after that time; in the main thread only, where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
