"""What must hold between the fields of a step that asks a model.  Pure.

Owns the rules that involve more than one of `messages`, `system`, `chat`, `session`, `samples`, `seed` and
`temperature` of one step.  What the steps of a session must have in common is `resolve`'s.
"""

from __future__ import annotations

from llmc_build.model import LAST_SEED, Sampling
from llmc_build.workflow.fields import STEP
from llmc_build.workflow.inference import Piece
from llmc_build.workflow.kinds import Site
from llmc_build.workflow.nodes import Entry
from llmc_build.workflow.parts import Values

_DEFAULTS = Sampling()


class Asking:
    """`values`: the fields of a step with its defaults; `entries`: its own, with their places."""

    def __init__(self, site: Site, values: Values, entries: dict[str, Entry]) -> None:
        self._site, self._values, self._entries = site, values, entries

    def check(self) -> None:
        self._check_system()
        self._check_session()
        self._check_samples()

    def _fault(self, field: str, headline: str, hint: str) -> None:
        """A fault at the step's own field of that name, or at the first of what it has to do with."""
        entry = self._entries.get(field) or next(iter(self._entries.values()))
        self._site.fault(f"{self._site.owner} {headline}", entry, hint)

    def _check_system(self) -> None:
        messages: tuple[Piece, ...] = self._values.plain.get("messages") or ()
        if not any(message.role == "system" for message in messages):
            return
        if "system" in self._entries:
            hint = "write it in one of the two places"
            self._fault("system", 'has "system", and a system message in "messages"', hint)
        self._values.drop(STEP["system"])  # of the defaults

    def _check_session(self) -> None:
        plain = self._values.plain
        if plain.get("session") is None:
            return
        if plain.get("chat") is False:
            hint = "leave out one of the two"
            self._fault("session", 'has "session" and `chat: false`: a raw text is no conversation', hint)
        if plain.get("samples") is not None:
            hint = "a conversation goes on from one answer: take the samples in a step outside of it"
            self._fault("samples", 'has "session" and "samples"', hint)

    def _check_samples(self) -> None:
        samples = self._values.plain.get("samples")
        if samples is None:
            return
        sampling = self._values.sampling
        seed = sampling.get("seed") or 0
        if seed + samples - 1 > LAST_SEED:
            hint = f"the last sample has the seed {seed + samples - 1}, and the largest is {LAST_SEED}"
            self._fault("seed", "has too large a seed for its samples", hint)
        if samples > 1 and not sampling.get("temperature", _DEFAULTS.temperature):
            hint = "give it a `temperature` above 0"
            self._fault(
                "samples", f"has {samples} samples that would all be alike: its temperature is 0", hint
            )
