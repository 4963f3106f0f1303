"""What a build may spend at servers, and what it has.

Owns the ledger: how much a request may cost at most, that this much is set aside before it is sent, and that
what is not set aside is not spent.  What a request did cost is for whoever sent it to say.

Theory of operation.  Before a request is sent, the most that it can cost is reserved; when it is over, what
it did cost replaces that.  Spent and reserved together never exceed the limit, so it can't be overshot.  A
request that fits into what is not yet spent, and not into what is not yet reserved, waits for others to
end.  A request that ends without a word on its usage has cost what was reserved.

A prompt has at most as many tokens as bytes, for a token has one byte at least; what a chat template adds to
each message is allowed for.

A worker may die, and the next one must know what is gone.  So each entry is written to a file before it
counts, and a ledger begins with what the file says: what was reserved there and never settled is spent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from llmc_build.frozen import frozen
from llmc_build.model import Json

_OVERHEAD = 64  # tokens that a chat template may add to a message, or a system prompt of its own
_MILLION = 1_000_000


class OverBudget(Exception):
    """A request that the budget has no room for.  One line, which continues a sentence about the build."""


@frozen(kw_only=True)
class Amount:
    """Tokens, and what they cost in the unit of the prices."""

    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(tokens=self.tokens + other.tokens, cost=self.cost + other.cost)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(tokens=self.tokens - other.tokens, cost=max(0.0, self.cost - other.cost))


Prices = tuple[float, float]  # of a million tokens: of prompts, of answers


def prices_of(value: Json) -> Prices | None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(p, int | float) for p in value):
        return float(value[0]), float(value[1])  # type: ignore[arg-type]
    return None


def cost_of(prompt_tokens: int, generated_tokens: int, prices: Prices | None) -> float:
    if prices is None:
        return 0.0
    return (prompt_tokens * prices[0] + generated_tokens * prices[1]) / _MILLION


def at_most(texts: list[str], max_tokens: int, prices: Prices | None) -> Amount:
    """The most that a request can come to."""
    prompt = prompt_bound(texts)
    return Amount(tokens=prompt + max_tokens, cost=cost_of(prompt, max_tokens, prices))


def prompt_bound(texts: list[str]) -> int:
    """The most tokens that these messages can have."""
    return sum(len(text.encode("utf-8", "surrogatepass")) + _OVERHEAD for text in texts) + _OVERHEAD


class Charge:
    """What was set aside for one request; `spent` is what it did cost, None: nobody knows."""

    def __init__(self, amount: Amount) -> None:
        self.amount = amount
        self.spent: Amount | None = None


class Ledger:
    """The budget of a build, in the one process that sends its requests."""

    def __init__(
        self, *, tokens: int | None = None, cost: float | None = None, file: Path | None = None
    ) -> None:
        """`tokens`, `cost`: the limits, or None.  `file`: where entries are kept for a successor."""
        self._tokens, self._cost = tokens, cost
        self._file = file
        self._spent = Amount()
        self._reserved = Amount()
        self._count = 0
        self._line: deque[asyncio.Future[None]] = deque()
        if self.is_limited and file is not None:
            self._spent, self._count = _read(file)

    @classmethod
    def of(cls, value: Json) -> Ledger:
        """The ledger that a lane's config asks for."""
        found = value if isinstance(value, dict) else {}
        tokens, cost, file = found.get("tokens"), found.get("cost"), found.get("ledger")
        return cls(
            tokens=tokens if isinstance(tokens, int) else None,
            cost=float(cost) if isinstance(cost, int | float) else None,
            file=Path(file) if isinstance(file, str) else None,
        )

    @property
    def is_limited(self) -> bool:
        return self._tokens is not None or self._cost is not None

    @property
    def has_price(self) -> bool:
        """Whether the cost is limited, so that prices are needed."""
        return self._cost is not None

    @contextlib.asynccontextmanager
    async def reserved(self, amount: Amount) -> AsyncIterator[Charge]:
        """Sets an amount aside while the caller sends its request; yields the Charge.  Raises OverBudget."""
        charge = Charge(amount)
        if not self.is_limited:
            yield charge
            return
        await self._room(amount)
        self._count += 1
        number = self._count
        self._write({"n": number, "tokens": amount.tokens, "cost": amount.cost})
        self._reserved += amount
        try:
            yield charge
        finally:
            spent = amount if charge.spent is None else charge.spent
            self._reserved -= amount
            self._spent += spent
            self._write({"n": number, "tokens": spent.tokens, "cost": spent.cost, "is": "spent"})
            for turn in self._line:
                if not turn.done():
                    turn.set_result(None)
            self._line.clear()

    async def _room(self, amount: Amount) -> None:
        """Waits until an amount may be reserved.  Raises OverBudget where it never may."""
        while not self._fits(self._spent + self._reserved + amount):
            if not self._fits(self._spent + amount):
                raise OverBudget(self._why(amount))
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line.append(turn)
            await turn

    def _fits(self, total: Amount) -> bool:
        in_tokens = self._tokens is None or total.tokens <= self._tokens
        return in_tokens and (self._cost is None or total.cost <= self._cost * (1 + 1e-9))

    def _why(self, amount: Amount) -> str:
        if self._tokens is not None and self._spent.tokens + amount.tokens > self._tokens:
            left = max(0, self._tokens - self._spent.tokens)
            return (
                f"--max-tokens-total {self._tokens} leaves {left} tokens, and this request may need "
                f"{amount.tokens}"
            )
        assert self._cost is not None
        left_cost = max(0.0, self._cost - self._spent.cost)
        return (
            f"--max-cost {self._cost:g} leaves {left_cost:.6g}, and this request may cost {amount.cost:.6g}"
        )

    def _write(self, entry: Mapping[str, Json]) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(entry).encode() + b"\n")
            finally:
                os.close(fd)


def _read(file: Path) -> tuple[Amount, int]:
    """What a predecessor has spent or left unsettled, and the number of its last entry."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return Amount(), 0
    found: dict[int, Amount] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut off by a crash
            entry = json.loads(line)
            found[int(entry["n"])] = Amount(tokens=int(entry["tokens"]), cost=float(entry["cost"]))
    total = Amount()
    for amount in found.values():
        total += amount
    return total, max(found, default=0)
