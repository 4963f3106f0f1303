"""What a rule is, and the table of rules.

A rule turns a step into an action (`lower`), says what determines the action's result (`bind`), and makes
the message for the worker that runs it (`request`).  All three are pure; what runs in the worker lives in
`execute` and `llm` and is named by the rule's lane.  A new rule is one file and one line in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from llmc_build.frozen import frozen
from llmc_build.model import Action, Digest, Json, Step, ValueUse

if TYPE_CHECKING:
    from llmc_build.template import Ref


class Scope(Protocol):
    """What a step sees: names, resolved to slots.  Made by `resolve`, one for each step."""

    def slot(self, ref: Ref) -> str:
        """The slot ("v0", ...) of the value that a reference means; equal values share a slot.

        An unknown name is recorded as a fault of the step, and some slot is returned all the same, so
        that every fault is found in one pass.
        """
        ...

    def reading(self, name: str, source: str) -> AbstractContextManager[None]:
        """While a field's text is read: a TemplateError raised inside becomes faults at their places.

        `slot` must be called inside it, so that the place of an unknown name is known.
        """
        ...

    def earlier(self) -> list[Json]:
        """What the steps before it in its session said: {"messages", "answer"} of each, in order.

        The messages are as those steps gave them to `said`; "answer", and the "slots" of messages, are slots
        of this scope.
        """
        ...

    def said(self, messages: Sequence[Mapping[str, Json]]) -> None:
        """What the step says in its session, each message with the list of its "slots"."""
        ...

    def values(self) -> tuple[ValueUse, ...]:
        """The values used so far, in order of slots."""
        ...


@frozen(kw_only=True)
class ModelId:
    """What a model reference came to.  Either a file (`hash` set) or a server (`base_url` set)."""

    reference: str  # as the user wrote it; for messages only
    hash: str | None = None  # SHA-256 of the GGUF file
    path: str | None = None  # where it lies on this machine; never in a key
    stamp: tuple[int, ...] | None = None  # of the file, from before its bytes were read; never in a key
    engine: str = ""  # "llama-cpp-python 0.3.36 cpu", "openai-chat/1"
    base_url: str | None = None
    remote_name: str | None = None  # the server's name for the model
    api_key_env: str | None = None  # name of a variable; never in a key
    # of a million tokens of a prompt and of an answer; never in a key
    prices: tuple[float, float] | None = None
    context: int | None = None  # tokens; a setting of the model in llmc.yaml
    threads: int | None = None
    gpu_layers: int | None = None
    parallel: int | None = None
    batching: str | None = None  # "fast" gives the promise of equal bits up


@frozen(kw_only=True)
class Bound:
    """An action's surroundings at the moment it is checked; all it reads is known."""

    values: Mapping[str, Digest] = field(default_factory=dict)  # slot -> digest of what is read of the value
    read: Callable[[str], bytes]  # slot -> what is read of the value
    skipped: Collection[str] = ()  # slots of values of steps that were skipped
    platform: str = ""  # "linux-x86_64"
    model: ModelId | None = None


class BindError(Exception):
    """A value can't be used the way the step uses it (not text, a NUL, ...): the step fails.  One line."""


class Rule(Protocol):
    name: str
    version: int  # raised whenever the same action would give another result
    lane: str  # which kind of worker runs it: "shell", "model", "http"

    def lower(self, step: Step, scope: Scope) -> Action:
        """The action of a step.  Faults in its texts are left with the scope."""
        ...

    def bind(self, action: Action, bound: Bound) -> dict[str, Json]:
        """The rule's own components of the action key.

        What every action has (rule, version, files, outputs, env, sandbox, cache version) is added by
        `keys`.  Raises BindError.
        """
        ...

    def request(self, action: Action, bound: Bound) -> dict[str, Json]:
        """The rule's own part of the message for the worker.  Raises BindError."""
        ...


RULES: Mapping[str, tuple[str, str]] = {  # rule -> (module, class)
    "shell": ("llmc_build.rules.shell", "Shell"),
    "local_llm": ("llmc_build.rules.local_llm", "LocalLlm"),
    "llm": ("llmc_build.rules.llm", "Llm"),
    "embed": ("llmc_build.rules.embed", "Embed"),
}
_made: dict[str, Rule] = {}


def rule(name: str) -> Rule:
    """The rule of that name; its module is imported when first asked for."""
    if name not in _made:
        module, cls = RULES[name]
        _made[name] = cast(Rule, getattr(import_module(module), cls)())
    return _made[name]


def action_of(
    rule: Rule, step: Step, scope: Scope, params: Mapping[str, Json], words: tuple[str, ...] = ()
) -> Action:
    """The action of a step, given the rule's own parameters: what every rule takes over as it is."""
    return Action(
        rule=rule.name,
        version=rule.version,
        params=params,
        values=scope.values(),
        inputs=step.inputs,
        words=words if step.sandbox else (),
        outputs=step.outputs,
        env=step.env,
        sandbox=step.sandbox,
        cache=step.cache,
        secrets=step.secrets,
        target=step.id,
        timeout_s=step.timeout_s,
        retries=step.retries,
    )
