"""The action key: canonical encoding, hash, and the difference of two keys.  Pure.

Owns what every action's key is made of (DESIGN, "The action key") and how it is encoded.  A rule adds its
own components (`rules.*.bind`).  The same components that are hashed are stored with the result, and
`difference` compares two stored sets of them, so an explanation can't drift from the key.

Encoding: the tag below, then JSON with sorted keys, no white space, UTF-8.  JSON is unambiguous about
borders and types, so two different component sets never encode alike; lone surrogates (bytes that were not
UTF-8) are kept by `surrogatepass`.  NaN and infinities are refused.  What is stored is the same in ASCII,
which for most actions is the same text, so that it is made once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmc_build.model import Action, ActionKey, Digest, Json

if TYPE_CHECKING:
    from llmc_build.rules import Bound, Rule

TAG = b"llmc-action/1\n"
Files = Mapping[str, tuple[Digest, bool]]  # path -> content, executable
NO_NAMES: Mapping[str, str] = {}

_canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode

# How JSON is stored: canonical, in ASCII.  ValueError for NaN and infinities, TypeError for what is no JSON.
ascii_json = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
).encode


def canonical(value: Json | Mapping[str, Json]) -> bytes:
    """The one encoding of a JSON value."""
    return _canonical(value).encode("utf-8", "surrogatepass")


def action_key(
    rule: Rule, action: Action, bound: Bound, *, files: Files, env: Mapping[str, str | None]
) -> ActionKey:
    """The key of an action in its surroundings.

    `files`: every declared file that exists; `env`: the declared variables with their values, None where
    a variable is not set.  Raises BindError where a value can't be used.
    """
    components: dict[str, Json] = {
        "rule": action.rule,
        "rule_version": action.version,
        "files": {path: [digest.hash, digest.size, mode] for path, (digest, mode) in files.items()},
        "outputs": list(action.outputs),
        "env": dict(env),
        "sandbox": action.sandbox,
        "cache_version": action.cache.version,
    }
    own = rule.bind(action, bound)
    several = len(components) + len(own)
    components.update(own)
    if len(components) != several:
        raise AssertionError(f"rule {action.rule} names components that every action has: {sorted(own)}")
    return key_of(components)


def key_of(components: dict[str, Json]) -> ActionKey:
    """The key of these components."""
    text = _canonical(components)
    encoded = text.encode("utf-8", "surrogatepass")
    if not text.isascii() or "\x7f" in text:
        text = ascii_json(components)
    return ActionKey(hash=hashlib.sha256(TAG + encoded).hexdigest(), components=components, text=text)


def difference(
    old: Mapping[str, Json], new: Mapping[str, Json], names: Mapping[str, str] = NO_NAMES
) -> tuple[str, ...]:
    """What differs between two component sets, one phrase each, such as 'file notes.txt changed'.

    Empty where they are equal.  `names`: slots of values -> what the user calls them; keys know no names.
    """
    found: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found += _entries(name, before, after, names if name == "values" else NO_NAMES)
        else:
            found.append(f"{_PHRASES.get(name, name)} changed")
    return tuple(found)


_PHRASES = {"rule_version": "llmc's rule", "cache_version": "cache version", "model": "the model"}
_ONE_OF = {"files": "file", "env": "variable", "values": "value"}


def _entries(
    name: str, before: Mapping[str, Json], after: Mapping[str, Json], names: Mapping[str, str]
) -> list[str]:
    noun = _ONE_OF.get(name, name)
    found = []
    for key in sorted(before.keys() | after.keys()):
        called = names.get(key, key)
        if key not in before:
            found.append(f"{noun} {called} is new")
        elif key not in after:
            found.append(f"{noun} {called} is gone")
        elif before[key] != after[key]:
            found.append(f"{noun} {called} changed")
    return found
