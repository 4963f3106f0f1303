"""How a server is waited for, and how much it gets at a time.  Pure.

Owns how often and after what waits a request is tried, how long all requests to a server pause, and how many
of them it gets at a time.  What failed is `openai.Failure`; clocks and tasks are `servers` and `talk`.
"""

from __future__ import annotations

from collections.abc import Callable

from llmc_build.frozen import frozen
from llmc_build.llm.openai import Failure

_LEAST_PAUSE_S = 0.05  # for all requests to a server that asks for one


class GiveUp(Exception):
    """No further try is made; the text continues that of the failure."""


@frozen(kw_only=True)
class Patience:
    """How often and after what waits a request is tried: exponential backoff with full jitter."""

    tries: int = 5
    base_s: float = 0.5  # the first wait is at most this
    cap_s: float = 30.0  # no wait of our own is longer
    asked_most_s: float = 600.0  # one that the server asks for may be longer where the step's timeout is

    def wait_s(
        self,
        failure: Failure,
        *,
        tried: int,
        left_s: float | None,
        uniform: Callable[[float, float], float],
        counted: int | None = None,
    ) -> float:
        """Seconds to wait after `tried` tries, the last of which gave `failure`.  Raises GiveUp.

        `left_s`: what is left of the step's timeout; None: it has none.  `counted`: the tries that count.
        """
        if not failure.retryable:
            raise GiveUp("")
        if left_s is None and not self._waits(failure.asked_s or 0.0, left_s):
            asked = f"; it asks to wait {failure.asked_s:.0f} s"
            raise GiveUp(f"{asked}: a step waits that long where it has a `timeout` that is longer")
        counted = tried if counted is None else counted
        if counted >= self.tries:
            raise GiveUp(f" ({tried} tries)" if tried > 1 else "")
        if failure.asked_s is not None:
            if left_s is not None and failure.asked_s >= left_s:
                asked = f"; it asks to wait {failure.asked_s:.0f} s"
                raise GiveUp(f"{asked}, and {left_s:.0f} s are left of the step's timeout")
            return failure.asked_s
        wait = uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(max(counted, 1) - 1, 60)))
        if left_s is not None and wait >= left_s:
            raise GiveUp(f"; the step's timeout leaves no time for another try ({tried} so far)")
        return wait

    def pause_s(self, failure: Failure, in_vain: int, *, left_s: float | None) -> float:
        """How long a server is sent nothing that asks for a pause; 0 when it is not waited for any more.

        `in_vain`: pauses with no answer between them, this one among them.  From the second on they grow,
        for what the server asks for was too little.  `left_s`: as in `wait_s`, of whom it told.
        """
        asked_s = failure.asked_s or 0.0
        if in_vain >= self.tries or not self._waits(asked_s, left_s):
            return 0.0
        least = _LEAST_PAUSE_S if in_vain < 2 else self.base_s * 2.0 ** min(in_vain - 2, 60)
        return max(asked_s, min(least, self.cap_s))

    def _waits(self, asked_s: float, left_s: float | None) -> bool:
        """Whether anybody waits for a server so long: who has a time to wait, or not for very long."""
        return asked_s <= self.asked_most_s or (left_s is not None and asked_s < left_s)


class Limiter:
    """How many requests a server gets at a time: more while it keeps up, half when it says it can't.

    Until the server first refuses, every answer allows one more, so that an able server is soon used to
    the full; after that a whole round of answers does (additive increase, multiplicative decrease).  One
    refusal of a round halves and the others of the same round don't: they were sent before it was known.
    """

    def __init__(self, *, start: int = 8, most: int = 64) -> None:
        self._limit = float(min(start, most))
        self._most = most
        self._round = 0  # how often it was halved
        self.active = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def room(self) -> bool:
        return self.active < self.limit

    def enter(self) -> int:
        """Counts a request that is sent now; what it returns is given to `leave`."""
        self.active += 1
        return self._round

    def leave(self, ticket: int, *, answered: bool, overloaded: bool) -> None:
        """Counts the end of a request: with an answer, with a refusal for load, or for another reason."""
        full = self.active >= self.limit
        self.active -= 1
        if overloaded and ticket == self._round:
            self._limit = max(1.0, self._limit / 2)
            self._round += 1
        elif answered and full:  # an allowance that isn't used up proves nothing
            grown = self._limit + (1.0 if self._round == 0 else 1.0 / self.limit)
            self._limit = min(float(self._most), grown)
