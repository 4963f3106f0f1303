"""Kinds of values that are lists or mappings.  Pure.

Owns the forms that several words of the language share: one or a list of it, references to steps,
paths inside the workspace, environment, cache policy.  Kinds that are one scalar are `kinds`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmc_build.errors import did_you_mean
from llmc_build.model import CachePolicy
from llmc_build.workflow.kinds import (
    ANY_TEXT,
    DURATION,
    ENV_NAME,
    ENV_RULE,
    NOT_BOOLS,
    TARGET,
    TEXT,
    VARIABLE,
    VARIABLE_RULE,
    Kind,
    Schema,
    Site,
    cleaned,
    duration_of,
    name_schema,
    text_of,
)
from llmc_build.workflow.nodes import Entry, Map, Node, Scalar, Seq, shown

# ---------------------------------------------------------------- lists


def entries_of(site: Site, field: str, node: Node, wanted: str) -> list[Node]:
    """The entries of a list; one alone may stand without it, and nothing is an empty list."""
    if isinstance(node, Seq):
        return node.items
    if isinstance(node, Map):
        site.wrong(field, node, wanted)
        return []
    return [] if node.is_null else [node]


def _list_schema(item: Schema) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item}, {"type": "null"}]}


def _texts(site: Site, field: str, node: Node) -> tuple[str, ...]:
    wanted = "a text or a list of texts"
    entries = entries_of(site, field, node, wanted)
    found = tuple(text_of(site, field, entry, wanted) for entry in entries)
    for text, entry in zip(found, entries, strict=True):
        if not text and isinstance(entry, Scalar) and not entry.is_null:
            site.fault(f"{site.called(field)} holds an empty text", entry)
    return found


TEXTS = Kind(read=_texts, schema=_list_schema({"type": ANY_TEXT, "minLength": 1}))


class Target(NamedTuple):
    """A reference to a step as written, and what stands beside it."""

    name: str
    line: int
    column: int
    own_timeout: bool = False
    timeout_s: float | None = None


def _needs(site: Site, field: str, node: Node) -> tuple[Target, ...]:
    wanted = "a step or a list of steps"
    return tuple(_target(site, field, entry, wanted) for entry in entries_of(site, field, node, wanted))


def _target(site: Site, field: str, node: Node, wanted: str) -> Target:
    name = text_of(site, field, node, wanted)
    if TARGET.fullmatch(name) is None and isinstance(node, Scalar) and not node.is_null:
        hint = 'write "workflow.step", without braces' if "{{" in name else 'write "workflow.step"'
        site.fault(f'{site.called(field)} names steps, and "{shown(name)}" can\'t be one', node, hint)
    return Target(name, node.line, node.column)


_WAIT_WANTED = '"workflow.step", {step, timeout}, or a list of those'
_WAIT_FIELDS = ("step", "timeout")


def _waits(site: Site, field: str, node: Node) -> tuple[Target, ...]:
    entries: list[Node] = [node] if isinstance(node, Map) else entries_of(site, field, node, _WAIT_WANTED)
    return tuple(_wait(site, field, entry) for entry in entries)


def _wait(site: Site, field: str, node: Node) -> Target:
    if not isinstance(node, Map):
        return _target(site, field, node, _WAIT_WANTED)
    for name, entry in node.entries.items():
        if name not in _WAIT_FIELDS:
            site.fault(
                f'unknown field "{shown(name)}" in {site.called(field)}',
                entry,
                did_you_mean(name[:64], _WAIT_FIELDS),
            )
    if "step" not in node.entries:
        site.fault(f'{site.called(field)} has an entry without "step"', node)
        return Target("", node.line, node.column)
    target = _target(site, f"{field}.step", node.entries["step"].node, '"workflow.step"')
    if "timeout" not in node.entries:
        return target
    timeout_s = duration_of(site, f"{field}.timeout", node.entries["timeout"].node)
    return target._replace(own_timeout=True, timeout_s=timeout_s)


_TARGET_SCHEMA = name_schema(TARGET, "number", "boolean")
_WAIT_SCHEMA: Schema = {
    "anyOf": [
        _TARGET_SCHEMA,
        {
            "type": "object",
            "properties": {"step": _TARGET_SCHEMA, "timeout": DURATION.schema},
            "required": ["step"],
            "additionalProperties": False,
        },
    ]
}
NEEDS = Kind(read=_needs, schema=_list_schema(_TARGET_SCHEMA))
WAITS = Kind(read=_waits, schema=_list_schema(_WAIT_SCHEMA))


# ---------------------------------------------------------------- paths

_PATHS_WANTED = "a path or a list of paths"
_PRIVATE = {".llmc": "llmc keeps its own", ".git": "git keeps its own"}  # folders that no step writes into
_MAX_NAME = 255  # bytes of a file's name, on every file system in use
_MAX_PATH = 3_000  # bytes of a path, which comes behind the workspace's and may have 4,096 with it


def _inputs(site: Site, field: str, node: Node) -> tuple[str, ...]:
    paths = [
        _path(site, field, entry, _PATHS_WANTED) for entry in entries_of(site, field, node, _PATHS_WANTED)
    ]
    return tuple(dict.fromkeys("**" if path == "." else path for path in paths))


def _outputs(site: Site, field: str, node: Node) -> tuple[str, ...]:
    first: dict[str, Node] = {}
    named: dict[str, Node] = {}
    for entry in entries_of(site, field, node, _PATHS_WANTED):
        path = _path(site, field, entry, _PATHS_WANTED)
        problem = _output_problem(path, entry)
        if problem:
            site.fault(f'{site.called(field)} names files to be written: "{shown(path)}" {problem}', entry)
        elif folded(path) in named:
            place = named[folded(path)]
            facts = [("first", str(site.at(place.line, place.column)))]
            headline = f'{site.called(field)} names "{shown(path)}" twice'
            site.add(headline, entry.line, entry.column, facts=facts)
        named.setdefault(folded(path), entry)
        first[path] = entry
    for path, entry in first.items():
        parents = (path[:end] for end, character in enumerate(path) if character == "/")
        for above in filter(first.__contains__, parents):
            what = f'"{shown(above)}" can\'t be a file and the folder of "{shown(path)}"'
            site.fault(f"{site.called(field)}: {what}", entry)
    return tuple(first)


def folded(path: str) -> str:
    """The same for paths that some file systems take for one: they differ in case, or in how é is encoded."""
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path.casefold())


def _path(site: Site, field: str, node: Node, wanted: str = "a path") -> str:
    """A path relative to the workspace, without `.` and empty parts."""
    text = text_of(site, field, node, wanted)
    if not isinstance(node, Scalar) or node.is_null:
        return text
    parts = [part for part in text.split("/") if part not in ("", ".")]
    parts = [part for part, before in zip(parts, ["", *parts], strict=False) if not part == before == "**"]
    problem = _path_problem(text, parts)
    if problem:
        site.fault(f'{site.called(field)} {problem[0]}: "{shown(text)}"', node, problem[1])
    return "/".join(parts) or "."


def _path_problem(text: str, parts: list[str]) -> tuple[str, str | None] | None:
    if not text.strip():
        return "is an empty path", None
    if text.startswith("/") or text.partition("/")[0] == "~":
        return "must be relative to the workspace", None
    if ".." in parts:
        return 'must not hold ".."', "paths are relative to the workspace and stay inside it"
    if "{{" in text:
        return "can't hold a value", "it must be known before anything runs"
    if any(character in text for character in "\n\r\t\0"):
        return "holds a character that paths don't have", "several paths are written as a list"
    if len(text) > _MAX_NAME // 4 and _is_too_long(text, parts):
        return f"is too long (a name has {_MAX_NAME} bytes at most, a path {_MAX_PATH:,})", None
    return None


def _is_too_long(text: str, parts: list[str]) -> bool:
    size = len(text.encode("utf-8", "surrogatepass"))
    return size > _MAX_PATH or any(len(p.encode("utf-8", "surrogatepass")) > _MAX_NAME for p in parts)


def _output_problem(path: str, node: Node) -> str | None:
    if any(character in path for character in "*?["):
        return "is a pattern"
    if path == "." or (isinstance(node, Scalar) and node.text.endswith(("/", "/."))):
        return "is a folder"
    folder = path.partition("/")[0].casefold()
    if folder in _PRIVATE:
        return f"lies in {folder}, where {_PRIVATE[folder]}"
    if path.casefold() == "llmc.yaml":
        return "is llmc's configuration, which is read before anything runs"
    return None


def one_path(site: Site, field: str, node: Node) -> str:
    """A file of the workspace."""
    return _path(site, field, node)


_PATH_SCHEMA: Schema = {
    "type": ANY_TEXT,
    "pattern": r"^(?=[^\n\r\t]*\S)(?!/|~(?:/|$))(?!(?:.*/)?\.\.(?:/|$))(?!.*\{\{)[^\n\r\t]+$",
}
_OUTPUT_SCHEMA: Schema = {
    "allOf": [
        _PATH_SCHEMA,
        {
            "pattern": r"^(?!(?:\./+)*\.[lL][lL][mM][cC](?:/|$))[^*?\[]*[^*?\[/]$",
            "not": {"pattern": r"(?:^|/)\.$"},
        },
    ]
}
INPUTS = Kind(read=_inputs, schema=_list_schema(_PATH_SCHEMA))
OUTPUTS = Kind(read=_outputs, schema=_list_schema(_OUTPUT_SCHEMA))
PATH = Kind(read=one_path, schema=_PATH_SCHEMA)


# ---------------------------------------------------------------- mappings


def _mapping(site: Site, field: str, node: Node, wanted: str) -> dict[str, Entry]:
    """The entries of a mapping; nothing is an empty one."""
    if isinstance(node, Map):
        return node.entries
    if not (isinstance(node, Scalar) and node.is_null):
        site.wrong(field, node, wanted)
    return {}


def _constants(site: Site, field: str, node: Node) -> dict[str, str]:
    found = {}
    for name, entry in _mapping(site, field, node, "a mapping of names to texts").items():
        if VARIABLE.fullmatch(name) is None:
            headline = f'a name in {site.called(field)} must consist of {VARIABLE_RULE}, not "{shown(name)}"'
            site.fault(headline, entry, cleaned(name, VARIABLE))
        found[name] = text_of(site, f"{field}.{shown(name)}", entry.node)
    return found


CONSTANTS = Kind(
    read=_constants,
    schema={
        "type": ["object", "null"],
        "propertyNames": {"pattern": f"^{VARIABLE.pattern}$"},
        "additionalProperties": {"type": ANY_TEXT},
    },
)


def _environment(site: Site, field: str, node: Node) -> dict[str, str | None]:
    """Names and values; None: the value is the caller's."""
    if isinstance(node, Seq):
        return dict.fromkeys(_env_names(site, field, node.items))
    found: dict[str, str | None] = {}
    for name, entry in _mapping(
        site, field, node, "a list of names, or a mapping of names to values"
    ).items():
        _check_env_name(site, field, name, entry)
        value = entry.node
        passed = isinstance(value, Scalar) and value.is_null
        found[name] = None if passed else text_of(site, f"{field}.{shown(name)}", value)
    return found


def _env_names(site: Site, field: str, items: list[Node]) -> list[str]:
    names = [text_of(site, field, item, "a list of names, or a mapping of names to values") for item in items]
    for name, item in zip(names, items, strict=True):
        if isinstance(item, Scalar) and not item.is_null:
            _check_env_name(site, field, name, item)
    return names


def _check_env_name(site: Site, field: str, name: str, place: Node | Entry) -> None:
    if ENV_NAME.fullmatch(name):
        return
    head, equals, _ = name.partition("=")
    given = bool(equals) and ENV_NAME.fullmatch(head) is not None
    hint = f"write {field} as a mapping: `{head}: value`" if given else cleaned(name, ENV_NAME)
    seen = f"{head}=..." if equals else name  # the value may be a secret
    site.fault(f'a name in {site.called(field)} must consist of {ENV_RULE}, not "{shown(seen)}"', place, hint)


ENVIRONMENT = Kind(
    read=_environment,
    schema={
        "anyOf": [
            {"type": "array", "items": name_schema(ENV_NAME, "boolean")},
            {
                "type": "object",
                "propertyNames": {"pattern": f"^{ENV_NAME.pattern}$"},
                "additionalProperties": {"type": [*ANY_TEXT, "null"]},
            },
            {"type": "null"},
        ]
    },
)

_CACHE_FIELDS: Mapping[str, Kind] = {"ttl": DURATION, "version": TEXT}


def _cache(site: Site, field: str, node: Node) -> CachePolicy:
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return CachePolicy(enabled=node.value)
    if not isinstance(node, Map):
        text = node.text.lower() if isinstance(node, Scalar) else ""
        hint = f"write {NOT_BOOLS[text]}" if text in NOT_BOOLS else None
        site.wrong(field, node, "true, false or {ttl, version}", hint)
        return CachePolicy()
    found: dict[str, Any] = {}
    for name, entry in node.entries.items():
        if name in _CACHE_FIELDS:
            found[name] = _CACHE_FIELDS[name].read(site, f"{field}.{name}", entry.node)
        else:
            site.fault(
                f'unknown field "{shown(name)}" in {site.called(field)}',
                entry,
                did_you_mean(name[:64], _CACHE_FIELDS),
            )
    return CachePolicy(ttl_s=found.get("ttl"), version=found.get("version", ""))


CACHE = Kind(
    read=_cache,
    schema={
        "anyOf": [
            {"type": "boolean"},
            {
                "type": "object",
                "properties": {name: kind.schema for name, kind in _CACHE_FIELDS.items()},
                "additionalProperties": False,
            },
        ]
    },
)
