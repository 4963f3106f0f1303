"""The words of llmc as frozen types.  Pure: nothing here touches the world.

Owns what a workflow, a step, an action, a result, a state and a report *are*.  How a workflow is
read is `workflow`, how a step becomes an action is `rules`, what happens to it is `plan`.
Times are seconds (`_s`), sizes are bytes, hashes are lower-case hex SHA-256.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal, TypeAlias

from llmc_build.frozen import frozen

# What keeps a shell step to what it declared: a folder of its own (True), nothing, the system (bubblewrap).
Sandbox: TypeAlias = "bool | Literal['strict']"
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
TargetId: TypeAlias = str  # "workflow.step"

LAST_SEED = 2**32 - 2  # of a sampler: the next one is llama.cpp's word for "any"

Env: TypeAlias = (
    "tuple[tuple[str, str | None], ...]"  # name, value; None: taken from the caller's environment
)


@frozen(kw_only=True)
class Location:
    """A place in a file; line and column count from 1, column in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@frozen(kw_only=True)
class Digest:
    """What identifies some content: its SHA-256 and its size."""

    hash: str  # 64 hex digits
    size: int  # bytes

    def __post_init__(self) -> None:
        if len(self.hash) != 64 or self.size < 0:
            raise ValueError(f"not a digest: {self.hash!r}, {self.size}")


# ---------------------------------------------------------------- what a user writes


@frozen(kw_only=True)
class Wait:
    """One entry of `wait_for`."""

    target: str  # as written: "workflow.step"
    timeout_s: float | None  # None: no limit
    location: Location


@frozen(kw_only=True)
class Need:
    """One entry of `needs`."""

    target: str  # as written: "workflow.step", or "step" of the same workflow
    location: Location


@frozen(kw_only=True)
class CachePolicy:
    """The `cache` field.  `enabled` None: as the rule and the sandbox say."""

    enabled: bool | None = None
    ttl_s: float | None = None  # age after which a stored result is a miss
    version: str = ""  # enters the key: raising it runs the step again


@frozen(kw_only=True)
class Sampling:
    """How tokens are chosen; None leaves a stage out of llama.cpp's sampler chain."""

    max_tokens: int = 256
    temperature: float = 0.0  # 0: greedy
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int = 0  # 0 .. LAST_SEED
    stop: tuple[str, ...] = ()


@frozen(kw_only=True)
class Turn:
    """One entry of `messages`: who says it, and the template of what is said."""

    role: str  # "system", "user" or "assistant"
    content: str


@frozen(kw_only=True)
class Step:
    """One step as written, checked field by field; its references are not yet resolved."""

    workflow: str
    name: str
    rule: str  # "shell", "local_llm", "llm", "embed"
    location: Location
    description: str = ""
    command: str | None = None
    shell: str = "sh"  # "sh" or "bash"
    prompt: str | None = None
    prompt_file: str | None = None  # its text replaces `prompt` when the file is read
    messages: tuple[Turn, ...] = ()  # instead of `prompt`
    system: str | None = None
    session: str | None = None  # the conversation of the workflow that the step goes on with
    samples: int | None = None  # how many answers; None: one, which is the value itself
    schema: Json = None  # an object, or the path of a file that it replaces when the file is read
    grammar: str | None = None  # GBNF, or the path of a file that it replaces when the file is read
    format: str | None = None  # "json"
    texts: tuple[str, ...] = ()  # what is embedded
    single: bool = True  # whether `text` was one text and no list
    normalize: bool = True  # vectors of length 1
    model: str | None = None
    chat: bool | None = None  # None: where the model has a chat template
    sampling: Sampling = Sampling()
    output: str | None = None  # variable that receives the value
    inputs: tuple[str, ...] = ()  # globs, relative to the workspace
    outputs: tuple[str, ...] = ()  # paths, relative to the workspace
    env: Env = ()  # sorted by name; enters the key
    secrets: Env = ()  # sorted by name; never enters a key, redacted in logs
    condition: str | None = None  # the text of `if`
    waits: tuple[Wait, ...] = ()
    needs: tuple[Need, ...] = ()
    timeout_s: float | None = None
    retries: int = 0
    cache: CachePolicy = CachePolicy()
    sandbox: Sandbox = True
    sources: tuple[str, ...] = ()  # files whose text became part of the step, relative to the workspace
    places: Mapping[str, Location] = field(default_factory=dict)  # field -> where its value begins
    # For a block scalar (`|`), where a line of the text stands in the file: field -> (line of the
    # text's first line, columns of indentation).  Absent for flow scalars, whose lines may fold.
    blocks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    id: TargetId = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.workflow}.{self.name}")

    def place(self, name: str) -> Location:
        """Where the value of a field stands, or where the step does."""
        return self.places.get(name, self.location)

    def place_in(self, name: str, text: str, offset: int) -> Location:
        """Where the character at `offset` of a text field stands in its file, as near as is known."""
        start = self.place(name)
        block = self.blocks.get(name)
        line = text.count("\n", 0, offset)
        column = offset - (text.rfind("\n", 0, offset) + 1)
        if block is not None:
            return Location(file=start.file, line=block[0] + line, column=block[1] + column + 1)
        return start if line else Location(file=start.file, line=start.line, column=start.column + column)


class Order(enum.Enum):
    """Whether the steps of a workflow run one after the other."""

    SEQUENTIAL = "sequential"
    DATAFLOW = "dataflow"


@frozen(kw_only=True)
class Workflow:
    """One YAML document."""

    name: str
    location: Location
    steps: tuple[Step, ...]
    description: str = ""
    order: Order = Order.SEQUENTIAL
    vars: Mapping[str, str] = field(default_factory=dict)  # constants; scalars as their text


# ---------------------------------------------------------------- what a step becomes


class EdgeKind(enum.Enum):
    DATA = "data"  # reads the other's value
    WAIT = "wait"  # waits for it, perhaps with a timeout
    ORDER = "order"  # merely runs after it


@frozen(kw_only=True)
class Edge:
    """`target` comes after `producer`."""

    producer: TargetId
    target: TargetId
    kind: EdgeKind
    timeout_s: float | None = None  # of a wait edge
    location: Location | None = None  # where the user asked for it


@frozen(kw_only=True)
class ValueUse:
    """A value that an action reads: a step's, or a constant.

    Actions speak of values by slot ("v0", "v1", ... in order of first use), so that no name of a
    step, workflow or variable enters a key.
    """

    slot: str
    name: str  # as written in the template; for messages and LLMC_<NAME>_FILE only
    producer: TargetId | None = None
    constant: str | None = None  # set where producer is None
    path: tuple[str | int, ...] = ()  # into the value, which is JSON then; what it leads to is what is read


@frozen(kw_only=True)
class Action:
    """A step lowered by its rule: all that determines the result, with values still by slot.

    Fields that do not determine the result are left out of equality and of the key.
    """

    rule: str
    version: int  # of the rule
    params: Mapping[str, Json]  # the rule's own: script, templates, sampling, ...
    values: tuple[ValueUse, ...] = field(default=(), compare=False)  # their digests enter the key
    inputs: tuple[str, ...] = ()  # globs declared
    words: tuple[str, ...] = ()  # plain words of the command: declared where they name a file
    outputs: tuple[str, ...] = ()
    env: Env = ()
    sandbox: Sandbox = True
    cache: CachePolicy = CachePolicy()
    secrets: Env = field(default=(), compare=False)
    target: TargetId = field(default="", compare=False)
    timeout_s: float | None = field(default=None, compare=False)
    retries: int = field(default=0, compare=False)

    @property
    def is_cached(self) -> bool:
        """Whether its result may be kept."""
        enabled = self.cache.enabled
        return bool(self.sandbox) if enabled is None else enabled


@frozen(kw_only=True)
class ActionKey:
    """SHA-256 of the canonical encoding of the components, and the components themselves."""

    hash: str
    components: Mapping[str, Json]
    text: str  # the components as they are stored: `keys.ascii_json` of them


@frozen(kw_only=True)
class OutputFile:
    """A file that an action wrote and declared."""

    path: str  # relative to the workspace, "/"-separated
    digest: Digest
    executable: bool = False


@frozen(kw_only=True)
class ActionResult:
    """What an action gave.  `value` is the target's value: a shell step's stdout, a model's text."""

    value: Digest
    stderr: Digest
    exit_code: int = 0
    outputs: tuple[OutputFile, ...] = ()
    provenance: Mapping[str, Json] = field(default_factory=dict)  # wall_s, created (unix s), tokens, ...


# ---------------------------------------------------------------- what happens to it


class State(enum.Enum):
    """Where a target stands in a build; `plan` makes every transition."""

    WANTED = "wanted"  # asked for; something it depends on has not ended, or it waits for its turn
    READY = "ready"  # all it depends on ended well; it is being checked or stands in the queue
    RUNNING = "running"  # its action is with the executor
    RAN = "ran"  # its action ran in this build and its result is durable
    CACHED = "cached"  # its result came from the store, or from an equal action of this build
    FAILED = "failed"  # its action, a check or a wait failed; an error is recorded
    POISONED = "poisoned"  # not run: something upstream failed; the root failure is recorded
    SKIPPED = "skipped"  # its `if` was false; its value is empty
    CANCELLED = "cancelled"  # not run or not finished: the build was stopped

    def __init__(self, word: str) -> None:
        # attributes and no properties: they are asked for several times for each target
        self.ended = word not in ("wanted", "ready", "running")
        self.good = word in ("ran", "cached", "skipped")  # ended, and what depends on it may go on


_COUNTED = (State.RAN, State.CACHED, State.FAILED, State.POISONED, State.SKIPPED, State.CANCELLED)


NO_STATS: Mapping[str, Json] = {}  # one for all that have none: reports are kept to the end


@frozen(kw_only=True)
class TargetReport:
    """What a build says of one target."""

    target: TargetId
    status: State
    reason: str  # why it ran, was served, or did not run
    key: str | None = None
    output: Digest | None = None  # of its value
    wall_s: float = 0.0
    error: str | None = None
    caused_by: TargetId | None = None  # of a poisoned target: the failure at the root
    warnings: tuple[str, ...] = ()
    stderr_tail: str = ""  # of a failed target; of its standard output, where it wrote nothing else
    stats: Mapping[str, Json] = field(default_factory=lambda: NO_STATS)  # tokens and the like


@frozen(kw_only=True)
class BuildReport:
    """What `llmc build --json` prints and `run.json` keeps."""

    run_id: str
    exit_code: int
    wall_s: float
    targets: Sequence[TargetReport]  # all, in topological order
    restored: int = 0  # outputs that had to be put back into place
    notes: tuple[str, ...] = ()  # what the user should know of the run as a whole
    looked_at: tuple[TargetReport, ...] | None = (
        None  # those that were not simply still up to date; None: all
    )
    skipped_before: int = 0  # of the others: how many are skipped

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def counts(self) -> dict[str, int]:
        """Targets by how they ended; the keys and their order are those of `--json`."""
        ended = Counter(target.status for target in self.news)
        others = len(self.targets) - len(self.news)
        ended[State.SKIPPED] += self.skipped_before
        ended[State.CACHED] += others - self.skipped_before
        return {"total": len(self.targets), **{state.value: ended[state] for state in _COUNTED}}

    @property
    def usage(self) -> dict[str, Json]:
        """What was asked of servers in this run; nothing where none was asked."""
        asked = [t.stats for t in self.news if "tries" in t.stats]
        if not asked:
            return {}
        total: dict[str, Json] = {
            name: sum(n for stats in asked if isinstance(n := stats.get(key), int))
            for name, key in (("requests", "tries"), ("prompt_tokens",) * 2, ("generated_tokens",) * 2)
        }
        costs = [cost for stats in asked if isinstance(cost := stats.get("cost"), int | float)]
        return {**total, **({"cost": round(sum(costs), 12)} if costs else {})}

    @property
    def news(self) -> Sequence[TargetReport]:
        """The targets that were looked at."""
        return self.targets if self.looked_at is None else self.looked_at
