"""YAML text -> plain nodes with their places.  Pure.

Owns what text is accepted at all: its encoding, its characters, the subset of YAML, and the budgets
that keep a small hostile file from becoming a large one.  What the nodes mean is `workflow` and
`config`.

Theory of operation.  PyYAML's parser (libyaml where there is one) is asked for events only; nothing
of its constructors runs, so no tag, date or integer can do anything by being read.  The events drive
a stack of open collections, never recursion.  An alias gives the very node that its anchor named, so
memory never grows, but whoever walks the nodes would walk it again: each alias therefore costs the
size of its node, and all of them together a budget for the file.  A scalar keeps its text as
written; `Scalar.value` gives it a type by the rules of YAML 1.2 only when a reader wants one.
Faults are collected; a fault of syntax, or one past which nothing can be trusted, ends the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from llmc_build.workflow.nodes import Entry, Faults, Map, Node, Scalar, Seq, is_huge, shown, typed

MAX_BYTES = 256 * 2**20  # of a file
MAX_EXPANDED = 100_000  # nodes that aliases and merge keys may add to a file ...
MAX_GROWTH = 10  # ... and for each node that is written
MAX_DEPTH = 64  # of nested collections

MERGE = "<<"


def documents(data: bytes | str, faults: Faults, first_line: int | None = None) -> Iterator[Node]:
    """The root node of every document, one at a time; what is wrong goes to `faults`.

    An empty document is a null scalar.  After a fault of syntax no more documents come.
    `first_line`: the text is a piece of a file that begins on that line.  A piece must not draw on what the
    budget allows the file beyond its size, since other pieces would too: one that does is at fault.
    """
    first = first_line or 1
    text = _decoded(data, faults, first)
    if text is None:
        return
    builder = _Builder(text, faults, first)
    loader: Any = _LOADER(text)
    try:
        yield from builder.run(loader.get_event)
        if first_line is not None and builder.expanded > MAX_GROWTH * (builder.count - builder.expanded):
            faults.add("aliases make this part of the file large: it counts with the whole file", first, 1)
    except yaml.MarkedYAMLError as error:
        _add_syntax_fault(error, text, faults, first)
    except (yaml.YAMLError, ValueError) as error:  # the parser in Python lets a ValueError of chr() through
        faults.add(f"not valid YAML: {shown(str(error), 120)}", builder.line, 1)
    except _Ended:
        pass
    finally:
        loader.dispose()


# ---------------------------------------------------------------- text

# What YAML does not allow as a character, and the three line breaks of YAML 1.1 that 1.2, editors and
# everything else here take for ordinary characters.
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_BREAK = re.compile(r"\r\n|\r|\n")
_MAX_REFUSED = 10  # a binary file has thousands


def _decoded(data: bytes | str, faults: Faults, first: int) -> str | None:
    text = _from_text(data, faults, first) if isinstance(data, str) else _from_bytes(data, faults, first)
    if text is None:
        return None
    text = text.removeprefix("\ufeff")
    refused = _REFUSED.finditer(text)
    for found, _ in zip(refused, range(_MAX_REFUSED), strict=False):
        hint = "write it as an escape in double quotes, or remove it"
        character = f"U+{ord(found[0]):04X}"
        faults.add(
            f"the character {character} is not allowed here", *_spot(text, found.start(), first), hint=hint
        )
    return None if faults.found else text


def _from_text(text: str, faults: Faults, first: int) -> str | None:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        faults.add("not valid UTF-8: half of a surrogate pair", *_spot(text, error.start, first))
        return None
    return text if _small_enough(size, faults) else None


def _from_bytes(data: bytes, faults: Faults, first: int) -> str | None:
    if not _small_enough(len(data), faults):
        return None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or (b"\0" in (data[:1], data[1:2]) and len(data) > 1):
        faults.add("the file is encoded as UTF-16 or UTF-32", 1, 1, hint="save it as UTF-8")
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8").removeprefix("\ufeff")
        byte = f"byte 0x{data[error.start]:02X}"
        faults.add(
            f"not valid UTF-8: {byte}", *_spot(before, len(before), first), hint="save the file as UTF-8"
        )
        return None


def _small_enough(size: int, faults: Faults) -> bool:
    if size > MAX_BYTES:
        faults.add(f"the file is too large: {size:,} bytes, and the limit is {MAX_BYTES:,}", 1, 1)
    return size <= MAX_BYTES


def _spot(text: str, offset: int, first: int) -> tuple[int, int]:
    """Line and column of an offset, where the text begins on the line `first`."""
    line, start = first, 0
    for found in _BREAK.finditer(text, 0, offset):
        line, start = line + 1, found.end()
    return line, offset - start + 1


# ---------------------------------------------------------------- events -> nodes

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ANCHOR = re.compile(r"&\S+(?:\s|#[^\r\n]*)*")
_UNFIT = re.compile("[\x00\ud800-\udfff]")  # what an escape can write and nothing here can hold


class _Ended(Exception):
    """A fault past which the file can't be read."""


class _Frame:
    """An open collection."""

    __slots__ = ("anchor", "column", "height", "items", "key", "keys", "line", "start")

    def __init__(self, keys: dict[str, Entry] | None, line: int, column: int, anchor: str | None, start: int):
        self.keys = keys  # of a mapping; None for a list
        self.items: list[Node] = []  # of a list
        self.key: tuple[str | None, int, int] | None = (
            None  # read, and its value not yet; None as text: drop it
        )
        self.line, self.column, self.anchor = line, column, anchor
        self.start = start  # nodes of the file before it
        self.height = 1  # collections from here to the deepest, itself included


class _Builder:
    def __init__(self, text: str, faults: Faults, first: int) -> None:
        self.text, self.faults = text, faults
        self.first = first  # the line on which the text begins
        self.line = first  # where the parser is, roughly
        self.count = 0  # nodes so far, those of aliases included
        self.expanded = 0  # nodes that aliases added
        self.plain_keys: set[str] = set()  # keys known to be text
        self.reset()

    def reset(self) -> None:
        """Begin a document: anchors end with theirs."""
        self.anchors: dict[str, tuple[Node, int, int]] = {}  # node, its size, its height
        self.top = _Frame(None, 1, 1, None, 0)
        self.stack = [self.top]

    def run(self, next_event: Callable[[], Any]) -> Iterator[Node]:
        handle: Mapping[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self.scalar,
            yaml.MappingStartEvent: self.open,
            yaml.SequenceStartEvent: self.open,
            yaml.MappingEndEvent: self.close,
            yaml.SequenceEndEvent: self.close,
            yaml.AliasEvent: self.alias,
        }
        while (event := next_event()) is not None:
            kind = type(event)
            if kind in handle:
                handle[kind](event)
            elif kind is yaml.DocumentStartEvent:
                self.reset()
                self.line = event.start_mark.line + self.first
            elif kind is yaml.DocumentEndEvent:
                yield self.top.items[0]

    def scalar(self, event: Any) -> None:
        mark, text, style = event.start_mark, event.value, event.style or ""
        line, column, index = mark.line + self.first, mark.column + 1, mark.index
        if event.tag is not None:
            self._refuse_tag(event.tag, line, column)
        if event.anchor is not None:
            line, column, index = self._after_anchor(line, column, index)
        if style == '"' and _UNFIT.search(text):
            self.faults.add(
                "a text can't hold the character U+0000 or half of a surrogate pair", line, column
            )
        if len(text) > 18 and not style and is_huge(text):
            hint = "write it in quotes if it is a text"
            self.faults.add(f"the integer {shown(text)} does not fit into 64 bits", line, column, hint=hint)
            text = "0"
        frame = self.top
        if frame.keys is not None and frame.key is None:
            if event.anchor is not None:
                self.anchors[event.anchor] = (Scalar(text, line, column, style), 1, 0)
            frame.key = (self._key(text, style, line, column), line, column)
            return
        block = None
        if style == "|":
            block = (line + 1, self._indentation(text, index))
        elif style and style != ">":
            column += 1
        self.count += 1
        node = Scalar(text, line, column, style, block)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, 1, 0)
        self._put(node)

    def open(self, event: Any) -> None:
        line, column = event.start_mark.line + self.first, event.start_mark.column + 1
        if event.tag is not None:
            self._refuse_tag(event.tag, line, column)
        if len(self.stack) > MAX_DEPTH:
            self._end(f"nested more than {MAX_DEPTH} deep", line, column)
        frame = self.top
        if frame.keys is not None and frame.key is None:
            self._refuse_key(line, column, self.text[event.start_mark.index : event.start_mark.index + 1])
        keys: dict[str, Entry] | None = {} if type(event) is yaml.MappingStartEvent else None
        self.top = _Frame(keys, line, column, event.anchor, self.count)
        self.stack.append(self.top)
        self.count += 1

    def close(self, _: Any) -> None:
        frame = self.stack.pop()
        self.top = parent = self.stack[-1]
        node: Node
        if frame.keys is None:
            node = Seq(frame.items, frame.line, frame.column)
        else:
            if MERGE in frame.keys:
                self._merge(frame.keys)
            node = Map(frame.keys, frame.line, frame.column)
        parent.height = max(parent.height, frame.height + 1)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (node, self.count - frame.start, frame.height)
        self._put(node)

    def alias(self, event: Any) -> None:
        line, column, name = event.start_mark.line + self.first, event.start_mark.column + 1, event.anchor
        if any(frame.anchor == name for frame in self.stack):
            self._end(f'the anchor "{shown(name)}" would contain itself', line, column)
        if name not in self.anchors:
            self.faults.add(f'no anchor "{shown(name)}" stands before this alias', line, column)
            frame = self.top
            if frame.keys is not None and frame.key is None:
                frame.key = (None, 0, 0)
            else:
                self._put(Scalar("", line, column))
            return
        node, size, height = self.anchors[name]
        self.count += size
        self.expanded += size
        budget = MAX_EXPANDED + MAX_GROWTH * (self.count - self.expanded)
        if self.expanded > budget:
            self._end(f"aliases make the file too large: they add more than {budget:,} nodes", line, column)
        if len(self.stack) + height > MAX_DEPTH + 1:
            self._end(f"nested more than {MAX_DEPTH} deep, by aliases", line, column)
        self.top.height = max(self.top.height, height + 1)
        self._put(node, line, column)

    # ------------------------------------------------------------ parts of the above

    def _put(self, node: Node, line: int = 0, column: int = 0) -> None:
        """Give a finished node to the collection that is open.  Line and column are an alias's own."""
        frame = self.top
        if frame.keys is None:
            frame.items.append(node)
        elif frame.key is not None:
            (key, line, column), frame.key = frame.key, None
            if key is not None:
                frame.keys[key] = Entry(line, column, node)
        elif isinstance(node, Scalar):  # an alias as a key
            frame.key = (self._key(node.text, node.style, line, column), line, column)
        else:
            if line:  # an alias as a key; of a collection written here it has been said at its start
                self._refuse_key(line, column)
            frame.key = (None, 0, 0)

    def _key(self, text: str, style: str, line: int, column: int) -> str | None:
        """The key, or None for one whose value is to be dropped."""
        keys = self.top.keys or {}
        if text not in self.plain_keys:
            if not style and not isinstance(typed(text) if len(text) < 100 else text, str):
                hint = f'write it in quotes: "{text}"' if text else "write the key before the colon"
                what = f"{text} is not" if text else "an empty key is none"
                self.faults.add(f"a key must be text, and {what}", line, column, hint=hint)
                return None
            self.plain_keys.add(text)
        if text not in keys:
            return text
        first = keys[text]
        facts = [("first", str(self.faults.at(first.line, first.column)))]
        self.faults.add(f'the key "{shown(text)}" stands twice in one mapping', line, column, facts=facts)
        return None

    def _merge(self, keys: dict[str, Entry]) -> None:
        """Resolve `<<`: keys written in the mapping win, then those of earlier sources."""
        line, column, node = keys.pop(MERGE)
        sources = node.items if isinstance(node, Seq) else [node]
        for source in sources:
            if not isinstance(source, Map):
                hint = "write `<<: *anchor`, or a list of such aliases"
                self.faults.add(
                    'the merge key "<<" takes a mapping or a list of mappings', line, column, hint=hint
                )
                return
            for key, entry in source.entries.items():
                keys.setdefault(key, entry)

    def _indentation(self, value: str, index: int) -> int:
        """Columns that stand before the text of the block scalar whose `|` is at `index`."""
        body = value.lstrip("\n")
        if not body:
            return 0
        start = index
        for _ in range(1 + len(value) - len(body)):
            found = _BREAK.search(self.text, start)
            start = found.end() if found else len(self.text)
        end = _BREAK.search(self.text, start)
        row = (end.start() if end else len(self.text)) - start
        return row - len(body.partition("\n")[0])

    def _after_anchor(self, line: int, column: int, index: int) -> tuple[int, int, int]:
        """Where the value begins that stands behind an anchor."""
        found = _ANCHOR.match(self.text, index)
        if found is None:
            return line, column, index
        breaks = list(_BREAK.finditer(self.text, index, found.end()))
        column = found.end() - breaks[-1].end() + 1 if breaks else column + found.end() - index
        return line + len(breaks), column, found.end()

    def _refuse_tag(self, tag: str, line: int, column: int) -> None:
        hint = "remove it; a text that looks like something else is written in quotes"
        name = tag.replace("tag:yaml.org,2002:", "!!", 1)
        self.faults.add(f'tags are not allowed, and this is "{shown(name)}"', line, column, hint=hint)

    def _refuse_key(self, line: int, column: int, first: str = "") -> None:
        hint = 'a value that begins with "{{" is written in quotes: "{{name}}"' if first == "{" else None
        self.faults.add("a key must be text, and this is a collection", line, column, hint=hint)

    def _end(self, headline: str, line: int, column: int) -> None:
        self.faults.add(headline, line, column)
        raise _Ended


# ---------------------------------------------------------------- faults of syntax

_COLON_HINT = 'a value that holds ": " or ends in ":" is written in quotes, or as a block after "|"'
_LINE_HINT = (
    "compare it with the lines before: what belongs together begins in the same column, and a space follows "
    'every "-" and ":"'
)
_NAME_ALONE = re.compile(r" *(?:- +)?[\w.-]+ *")
_QUOTE_HINT = 'a value that begins with "{", "[", "*", "&", "!", "%", "@" or "`" is written in quotes'


def _add_syntax_fault(error: yaml.MarkedYAMLError, text: str, faults: Faults, first: int) -> None:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column + 1) if mark else (0, 1)
    facts = []
    if error.context and error.context_mark and error.problem:
        began = f"line {error.context_mark.line + first}, column {error.context_mark.column + 1}"
        facts.append(("where", f"{error.context} that begins at {began}"))
    problem = error.problem or error.context or "it can't be read"
    index = mark.index if mark else 0
    what = f"{error.context or ''} {problem}"
    hint = _syntax_hint(what, text[index : index + 1], _row(text, line + 1), column)
    faults.add(f"not valid YAML: {shown(problem, 120)}", line + first, column, facts=facts, hint=hint)


def _row(text: str, line: int) -> str:
    start = 0
    for found, _ in zip(_BREAK.finditer(text), range(line - 1), strict=False):
        start = found.end()
    end = _BREAK.search(text, start)
    return text[start : end.start() if end else len(text)]


def _syntax_hint(problem: str, character: str, row: str, column: int) -> str | None:
    """`column`: of the problem in its row, from 1 on."""
    before = row[: len(row) - len(row.lstrip())]
    if "\t" in before or character == "\t":
        return "YAML is indented with spaces, never with tabs"
    if before.strip(" "):
        return "the line begins with a character that only looks like a space"
    if "simple key" in problem:
        return 'a space follows the ":" of a name, and a block after "|" is indented more than its name'
    if "comment or line break" in problem:
        return 'what follows "|" or ">" begins in the next line'
    if "expected ',' or " in problem:
        return 'what "[" or "{" opens has commas between its entries, and ends in "]" or "}"'
    if "quoted scalar" in problem:
        return "a quote is opened there and not closed; within 'single quotes' a quote is written twice"
    if "mapping values are not allowed" in problem:
        # a name that is its line's first word is no value with a colon: the line above it goes on here
        return _LINE_HINT if _NAME_ALONE.fullmatch(row, 0, max(0, column - 1)) else _COLON_HINT
    if "expected '-' indicator" in problem or ("expected key" in problem and not row[: column - 1].strip()):
        return _LINE_HINT
    if "expected key" in problem and row[: column - 1].rstrip().endswith(("'", '"')):
        return (
            "the quotes end before that: they stand around a whole value, "
            "and within 'single quotes' a quote is written twice"
        )
    if re.search(r"[:-] +[{\[*&!%@`]", row):
        return _QUOTE_HINT
    return None
