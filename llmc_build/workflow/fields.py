"""The tables of fields: what a workflow and a step may hold.  Pure.

Owns the names of fields, their kinds, their defaults, which rules accept them and the sentence that
explains each.  `workflow` reads by these tables, `schema` prints them; nothing else lists fields.
"""

from __future__ import annotations

from dataclasses import field

from llmc_build.frozen import frozen
from llmc_build.model import LAST_SEED, Json
from llmc_build.workflow.compound import (
    CACHE,
    CONSTANTS,
    ENVIRONMENT,
    INPUTS,
    NEEDS,
    OUTPUTS,
    PATH,
    TEXTS,
    WAITS,
)
from llmc_build.workflow.inference import EMBEDDED, FORMAT, GRAMMAR, MESSAGES, SCHEMA, SESSION
from llmc_build.workflow.kinds import (
    BOOLEAN,
    CONDITION,
    DURATION,
    FILLED,
    NAMED,
    OPTIONAL_BOOLEAN,
    OPTIONAL_TEXT,
    OPTIONAL_VARIABLE,
    REMARK,
    SANDBOX,
    Kind,
    number,
    one_of,
)

SHELL = frozenset({"shell"})
MODEL = frozenset({"local_llm", "llm"})
EMBED = frozenset({"embed"})
RULES = SHELL | MODEL | EMBED
ORDER = ("shell", "local_llm", "llm", "embed")  # of the rules, in messages


@frozen(kw_only=True)
class Field:
    """One field of the language."""

    name: str
    kind: Kind | None  # None: the reader of the whole has its own way with it
    doc: str  # one sentence for editors
    to: str = ""  # attribute of the model that receives it, where it is called otherwise
    rules: frozenset[str] = RULES  # that accept it
    default: Json = None  # for editors; what applies is the default of the model's attribute
    sampling: bool = False  # an attribute of Sampling, not of Step
    placed: bool = False  # the place of its value is kept: messages of later stages point there
    text: bool = False  # a text in which later stages point at single characters
    attribute: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attribute", self.to or self.name)


def _table(*fields: Field) -> dict[str, Field]:
    return {field.name: field for field in fields}


def _sampling(name: str, kind: Kind, doc: str, default: Json = None) -> Field:
    return Field(name=name, kind=kind, doc=doc, default=default, rules=MODEL, sampling=True)


_COUNT = number("a whole number from 1 to 2147483647", 1, 2**31 - 1, whole=True)
_SEED = number(f"a whole number from 0 to {LAST_SEED}", 0, LAST_SEED, whole=True)
_RETRIES = number("a whole number from 0 to 1000", 0, 1000, whole=True)
_SAMPLES = number("a whole number from 1 to 10000", 1, 10_000, whole=True, optional=True)
_SHARE = number("a number from 0 to 1", 0, 1, optional=True)
_TOP_K = number("a whole number from 0 to 2147483647", 0, 2**31 - 1, whole=True, optional=True)
_POSITIVE = number("a number of 0 or more", 0)

STEP = _table(
    Field(
        name="name",
        kind=NAMED,
        doc="Name of the step: letters, digits, _ and -, unique in its workflow whatever the case.",
    ),
    Field(
        name="type",
        kind=one_of(*ORDER),
        to="rule",
        doc="What the step is. Left out: command means shell, prompt means llm, text means embed.",
    ),
    Field(name="description", kind=REMARK, default="", doc="For people; changes nothing."),
    Field(
        name="command",
        kind=FILLED,
        rules=SHELL,
        placed=True,
        text=True,
        doc="The script; {{name}} is the value of a variable, {{workflow.step}} that of a step.",
    ),
    Field(
        name="shell",
        kind=one_of("sh", "bash"),
        rules=SHELL,
        default="sh",
        placed=True,
        doc="The shell that runs the script.",
    ),
    Field(
        name="prompt",
        kind=OPTIONAL_TEXT,
        rules=MODEL,
        placed=True,
        text=True,
        doc="What the model is asked; may hold {{name}}, {{workflow.step}} and Jinja2 blocks.",
    ),
    Field(
        name="prompt_file",
        kind=PATH,
        rules=MODEL,
        placed=True,
        doc="A file that holds the prompt, relative to the workspace.",
    ),
    Field(
        name="messages",
        kind=MESSAGES,
        rules=MODEL,
        placed=True,
        doc="Instead of prompt: a list of {role, content}; roles are system, user and assistant.",
    ),
    Field(
        name="system",
        kind=OPTIONAL_TEXT,
        rules=MODEL,
        placed=True,
        text=True,
        doc="The system message that stands before the prompt.",
    ),
    Field(
        name="session",
        kind=SESSION,
        rules=MODEL,
        placed=True,
        doc="Name of a conversation: the steps of the workflow with that name continue it, in their order.",
    ),
    Field(
        name="samples",
        kind=_SAMPLES,
        rules=MODEL,
        placed=True,
        doc="How many answers are wanted, with the seeds seed, seed + 1, ...; the value is a JSON list.",
    ),
    Field(
        name="schema",
        kind=SCHEMA,
        rules=MODEL,
        placed=True,
        doc="A JSON Schema that the answer conforms to, or a file of the workspace that holds it.",
    ),
    Field(
        name="format",
        kind=FORMAT,
        rules=MODEL,
        placed=True,
        doc="json: the answer is a JSON value.",
    ),
    Field(
        name="grammar",
        kind=GRAMMAR,
        rules=MODEL,
        placed=True,
        doc="A grammar (GBNF) that the answer conforms to, or a file of the workspace that holds it.",
    ),
    Field(
        name="text",
        kind=EMBEDDED,
        to="texts",
        rules=EMBED,
        placed=True,
        doc="The text to embed, or a list of texts; may hold what a prompt may hold.",
    ),
    Field(
        name="normalize",
        kind=BOOLEAN,
        rules=EMBED,
        default=True,
        doc="Whether vectors are scaled to length 1.",
    ),
    Field(
        name="model",
        kind=OPTIONAL_TEXT,
        rules=MODEL | EMBED,
        placed=True,
        doc="The model: a GGUF file, pkg:module/file.gguf, hf:owner/repo/file.gguf, "
        "or a name of models: in llmc.yaml.",
    ),
    Field(
        name="chat",
        kind=OPTIONAL_BOOLEAN,
        rules=MODEL,
        doc="True: the model's chat template is applied (the default where it has one). "
        "False: the raw prompt is completed.",
    ),
    _sampling("max_tokens", _COUNT, "The most tokens to generate.", 256),
    _sampling("temperature", _POSITIVE, "0 always takes the likeliest token.", 0),
    _sampling("top_k", _TOP_K, "Sample from the k likeliest tokens; 0 is all."),
    _sampling("top_p", _SHARE, "Sample from the likeliest tokens that together have this probability."),
    _sampling("min_p", _SHARE, "Sample from tokens at least this likely, relative to the likeliest."),
    _sampling(
        "repeat_penalty",
        number("a number of 0 or more", 0, optional=True),
        "Above 1: tokens that occurred become less likely.",
    ),
    _sampling("seed", _SEED, "Seed of the sampler.", 0),
    _sampling("stop", TEXTS, "Texts at which generation ends; they are not part of the value.", []),
    Field(
        name="output",
        kind=OPTIONAL_VARIABLE,
        placed=True,
        doc="The variable of the workflow that receives the step's value.",
    ),
    Field(
        name="inputs",
        kind=INPUTS,
        rules=SHELL,
        default=[],
        placed=True,
        doc="Files that the step reads: paths, folders or patterns, relative to the workspace.",
    ),
    Field(
        name="outputs",
        kind=OUTPUTS,
        rules=SHELL,
        default=[],
        placed=True,
        doc="Files that the step writes, relative to the workspace.",
    ),
    Field(
        name="env",
        kind=ENVIRONMENT,
        rules=SHELL,
        default={},
        placed=True,
        doc="Environment variables: names to pass through, or name: value. A change runs the step again.",
    ),
    Field(
        name="secrets",
        kind=ENVIRONMENT,
        rules=SHELL,
        default={},
        placed=True,
        doc="As env, but never stored, never part of what decides whether the step runs again, "
        "and removed from logs.",
    ),
    Field(
        name="if",
        kind=CONDITION,
        to="condition",
        placed=True,
        text=True,
        doc="A condition such as \"{{mode}} == 'production'\"; where it is false the step is skipped "
        "and its value is empty.",
    ),
    Field(
        name="wait_for",
        kind=WAITS,
        to="waits",
        default=[],
        placed=True,
        doc="Steps to wait for: workflow.step, {step, timeout}, or a list of those.",
    ),
    Field(
        name="wait_timeout",
        kind=DURATION,
        doc="How long to wait for those of wait_for that have no timeout of their own; "
        "seconds, or a text such as 10s or 2m; 0 or none is no limit.",
    ),
    Field(
        name="needs",
        kind=NEEDS,
        default=[],
        placed=True,
        doc="Steps that come before this one: step or workflow.step.",
    ),
    Field(
        name="timeout",
        kind=DURATION,
        to="timeout_s",
        doc="How long the step may run; seconds, or a text such as 10s or 2m; 0 or none is no limit.",
    ),
    Field(name="retries", kind=_RETRIES, default=0, doc="How often a step that failed is tried again."),
    Field(
        name="cache",
        kind=CACHE,
        doc="Whether the result is stored and served again: true, false, or {ttl, version}.",
    ),
    Field(
        name="sandbox",
        kind=SANDBOX,
        rules=SHELL,
        default=True,
        doc="True: the step runs in a fresh folder that holds its inputs only. "
        "False: in the workspace, and is not cached unless cache says so. "
        "strict: it sees nothing but the system and its inputs, and no network (Linux with bubblewrap).",
    ),
)

WORKFLOW = _table(
    Field(
        name="name",
        kind=NAMED,
        doc="Name of the workflow: letters, digits, _ and -, unique whatever the case.",
    ),
    Field(name="description", kind=REMARK, default="", doc="For people; changes nothing."),
    Field(name="steps", kind=None, doc="The steps, in order."),
    Field(
        name="order",
        kind=one_of("sequential", "dataflow"),
        default="sequential",
        doc="sequential: each step runs after the one before it. "
        "dataflow: only references, needs and wait_for order steps.",
    ),
    Field(
        name="defaults",
        kind=None,
        doc="Fields for every step; a step's own win, and what a step's type has no use for does not apply.",
    ),
    Field(name="vars", kind=CONSTANTS, default={}, doc="Constants, used as {{name}}."),
    Field(name="env", kind=ENVIRONMENT, default={}, doc="Environment of every shell step."),
)

NOT_IN_DEFAULTS = frozenset({"name"})
PROMPTS = ("prompt", "prompt_file", "messages")  # what a model is asked: one of them
CONSTRAINTS = ("schema", "format", "grammar")  # what an answer must be
EITHER = (PROMPTS, CONSTRAINTS)  # one at most; a step's own replaces whichever of them the defaults have

SYNONYMS = {  # words of other tools, and ours
    "run": "command",
    "script": "command",
    "cmd": "command",
    "depends_on": "needs",
    "depends": "needs",
    "when": "if",
    "condition": "if",
    "environment": "env",
    "id": "name",
    "retry": "retries",
    "texts": "text",
    "input": "text",
    "json_schema": "schema",
    "response_format": "schema",
    "n": "samples",
    "max_length": "max_tokens",
    "n_predict": "max_tokens",
    "wait": "wait_for",
}


def accepting(field: str) -> str:
    """The step types that accept a field, for messages."""
    return " and ".join(sorted(STEP[field].rules, key=ORDER.index))
