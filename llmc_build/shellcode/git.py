"""Tells which arguments of git are code.  Pure.

Owns its subcommands and their options; the options of git as a whole are in `known`'s table too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llmc_build.shellcode.tree import Word

_CODE = re.compile(
    r"alias\.|core\.(?:pager|editor|sshcommand|hookspath|fsmonitor|gitproxy|askpass|attributesfile|worktree|alternaterefscommand)"
    r"|(?:credential|filter|diff|difftool|merge|mergetool|guitool|browser|man|pager|gpg|sequence|include|includeif|remote|url"
    r"|submodule|protocol|init\.templatedir|sendemail|uploadpack|receive|trailer|tar|http\.\w*proxy|interactive|instaweb|web)\b",
    re.IGNORECASE,
)
_OPTIONS: dict[str, tuple[str, ...]] = {
    "rebase": ("-x", "--exec"),
    "difftool": ("-x", "--extcmd"),
    "mergetool": ("-t",),
    "grep": ("-O", "--open-files-in-pager"),
    "filter-branch": tuple(
        f"--{kind}-filter" for kind in ("env", "tree", "index", "parent", "msg", "commit", "tag-name")
    ),
    "clone": ("-u", "--upload-pack", "-c", "--config", "--template"),
    "fetch": ("--upload-pack",),
    "pull": ("--upload-pack",),
    "push": ("--receive-pack", "--exec"),
    "ls-remote": ("--upload-pack", "--exec"),
    "archive": ("--exec",),
    "send-email": ("--smtp-server", "--sendmail-cmd", "--to-cmd", "--cc-cmd"),
    "init": ("--template",),
}
_CONFIG_VALUES = frozenset({"-f", "--file", "--blob", "--type", "--default", "--comment", "--value", "--url"})
_CONFIG_VERBS = frozenset({"set", "get", "unset", "list"})
_VALUES = frozenset({"-c", "--config-env", "-C", "--git-dir", "--work-tree", "--namespace"})
_HARMLESS = frozenset(
    {"add", "rm", "mv", "status", "checkout", "switch", "restore", "tag", "branch", "rev-parse", "ls-files"}
)


def executed(arguments: Sequence[Word]) -> Iterator[Word | list[Word]]:
    """The arguments of `git` that are code, and the commands that it runs."""
    rest = list(arguments)
    while rest and rest[0].prefix.startswith("-"):
        option = rest.pop(0)
        if option.literal in ("-c", "--config-env") and rest:
            setting = rest.pop(0)
            if "=" not in setting.prefix or _CODE.match(setting.prefix):
                yield setting
        elif option.literal in _VALUES and rest:
            rest.pop(0)
    name = rest.pop(0).literal if rest else None
    operands = [word for word in rest if not word.prefix.startswith("-")]
    words = [word.literal for word in operands]
    if name == "config":
        operands = _of_config(rest)
        words = [word.literal for word in operands]
    if name == "config" and len(operands) > 1:
        if words[0] is None or _CODE.match(words[0]):
            yield from operands[:2]
    elif name in ("submodule", "bisect") and words[:1] in (["foreach"], ["run"]):
        if name == "bisect" or len(operands) > 2:
            yield operands[1:]
        else:
            yield from operands[1:2]
    else:
        yield from _given_to(rest, _OPTIONS.get(name or "", ()))


def _of_config(arguments: Sequence[Word]) -> list[Word]:
    """The name and the value that `git config` sets."""
    found: list[Word] = []
    before = ""
    for word in arguments:
        if not word.prefix.startswith("-") and before not in _CONFIG_VALUES:
            found.append(word)
        before = word.literal or ""
    return found[1:] if found and found[0].literal in _CONFIG_VERBS else found


def _given_to(words: Sequence[Word], options: Sequence[str]) -> Iterator[Word]:
    """The words that hold the value of one of these options."""
    for at, word in enumerate(words):
        if word.literal in options and at + 1 < len(words):
            yield words[at + 1]
        elif word.prefix.startswith(tuple(option + "=" * option.startswith("--") for option in options)):
            yield word


def runs_options(arguments: Sequence[Word]) -> bool:
    """Whether the subcommand has an option that runs code."""
    at = _subcommand(arguments)
    return at is not None and (arguments[at].literal or "") in _OPTIONS


def runs_arguments(arguments: Sequence[Word]) -> bool:
    """Whether several arguments, whatever they are, could run code."""
    at = _subcommand(arguments)
    return at is None or (arguments[at].literal or "") not in _HARMLESS


def _subcommand(arguments: Sequence[Word]) -> int | None:
    at = 0
    while at < len(arguments) and arguments[at].prefix.startswith("-"):
        at += 2 if arguments[at].literal in _VALUES else 1
    return at if at < len(arguments) else None
