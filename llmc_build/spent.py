"""What of a target is not needed any more once it has ended.  Pure.

Owns how large builds stay small: the script of a step and what it is put together from are let go as the
step ends, while keys and reports grow.  What tells whether a target has changed since (inputs, outputs,
environment, ...) stays; targets that have it in common share one object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import TYPE_CHECKING

from llmc_build.model import Action, TargetId

if TYPE_CHECKING:
    from llmc_build.resolve import Program

MANY = 20_000  # targets, below which it is not worth its time


class Spent:
    """The targets of a program that have ended; to be told of each once."""

    def __init__(self, program: Program) -> None:
        self._targets = program.targets
        self._bare: dict[Hashable, Action] = {}
        self._many = len(program.targets) >= MANY

    def add(self, target: TargetId) -> None:
        if not self._many:
            return
        found = self._targets[target]
        action = found.action
        if action.rule != "shell":  # what a model's step asks for may age by itself
            return
        kept = (
            *(action.inputs, action.words, action.outputs, action.env, action.sandbox, action.cache),
            *(action.timeout_s, action.retries),
        )
        bare = self._bare.get(kept)
        if bare is None:
            bare = dataclasses.replace(action, params={}, values=(), secrets=(), target="")
            self._bare[kept] = bare
        self._targets[target] = dataclasses.replace(found, action=bare)
