"""How fast models answer, and how long that will take.

Owns the count of prompts and the clocks; who shows it is `console` and `live`.  A *prompt* is a target that
asks a model, here or behind a server.  The time that is left is that of the prompts to go, at the pace of
those that were answered: targets that the store had, or that never ran, are none of these.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

from llmc_build.model import Json, State, TargetId
from llmc_build.report import TargetEvent, words

_SPAN_S = 10.0  # what counts for the speed that is shown
_TOO_FEW = 3  # answers, below which nobody can tell what is left


class Pace:
    """Told of every target; asked for a text."""

    def __init__(self, prompts: Collection[TargetId], clock: Callable[[], float] = time.monotonic) -> None:
        self._prompts = frozenset(prompts)
        self._clock = clock
        self._ended = 0
        self._answered = 0
        self._begun_s: float | None = None  # when the first prompt began
        self._tokens: dict[TargetId, int] = {}  # of answers that are on their way
        self._recent: deque[tuple[float, int]] = deque()  # when so many more tokens were there

    def target(self, event: TargetEvent) -> None:
        if event.target not in self._prompts:
            return
        if event.state is State.RUNNING:
            self._begun_s = self._clock() if self._begun_s is None else self._begun_s
            return
        self._ended += 1
        if event.state is State.RAN:
            self._answered += 1
            generated = event.stats.get("generated_tokens")
            if isinstance(generated, int):
                self._more(event.target, generated)
        self._tokens.pop(event.target, None)

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None:
        tokens = stats.get("tokens")
        if isinstance(tokens, int):
            self._more(target, tokens)

    def text(self) -> str:
        """`prompts 12/64, 153 tokens/s, 1m05s left`; empty where there are no prompts."""
        if not self._prompts:
            return ""
        parts = [f"prompts {self._ended}/{len(self._prompts)}"]
        rate = self.tokens_per_s
        if rate >= 0.5:
            parts.append(f"{rate:.0f} tokens/s")
        left = self.left_s
        if left is not None:
            parts.append(f"{words.short_time(left)} left")
        return ", ".join(parts)

    @property
    def tokens_per_s(self) -> float:
        """Over the last seconds; 0.0 where there is nothing to divide yet."""
        recent = list(self._recent)
        now = self._clock()
        counted = [(at, more) for at, more in recent if now - at <= _SPAN_S]
        since = min(_SPAN_S, now - self._begun_s) if self._begun_s is not None else 0.0
        return sum(more for _, more in counted) / since if since > 0.5 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the last prompt is answered; None where nobody can tell."""
        to_go = len(self._prompts) - self._ended
        if self._begun_s is None or self._answered < _TOO_FEW or not to_go:
            return None
        return to_go * (self._clock() - self._begun_s) / self._answered

    def _more(self, target: TargetId, tokens: int) -> None:
        more = tokens - self._tokens.get(target, 0)
        self._tokens[target] = tokens
        if more > 0:
            now = self._clock()
            self._recent.append((now, more))
            while self._recent and now - self._recent[0][0] > _SPAN_S:
                self._recent.popleft()


def facts(stats: Mapping[str, Json]) -> str:
    """`44 prompt tokens (30 reused), 12 generated, first after 0.31 s, 45.2 tokens/s`: what a step cost."""
    parts = []
    prompt, reused = stats.get("prompt_tokens"), stats.get("reused_tokens")
    if isinstance(prompt, int):
        again = f" ({reused} reused)" if isinstance(reused, int) and reused else ""
        parts.append(f"{prompt} prompt tokens{again}")
    generated = stats.get("generated_tokens")
    if isinstance(generated, int):
        parts.append(f"{generated} generated")
    first = stats.get("ttft_s")
    if isinstance(first, int | float) and generated:
        parts.append(f"first after {first:.2f} s")
    rate = stats.get("tokens_per_s")
    if isinstance(rate, int | float) and rate:
        parts.append(f"{rate:.1f} tokens/s")
    batch = stats.get("batch")
    if isinstance(batch, int) and batch > 1:
        parts.append(f"in a batch of {batch}")
    return ", ".join(parts)
