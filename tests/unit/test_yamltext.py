"""YAML text to nodes: places, the subset, the budgets."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmc_build.workflow import reader, yamltext
from llmc_build.workflow.nodes import Enough, Faults, Map, Node, Scalar, Seq
from llmc_build.workflow.yamltext import documents


def read(data: bytes | str) -> tuple[list[Node], list[str]]:
    """The documents of a text, and the faults as they are shown."""
    faults = Faults("f.yaml")
    roots = []
    with contextlib.suppress(Enough):
        roots = list(documents(data, faults))
    return roots, [fault.render() for fault in faults.found]


def only(data: bytes | str) -> Node:
    roots, faults = read(data)
    assert faults == []
    assert len(roots) == 1
    return roots[0]


def plain(node: Node) -> object:
    """A node as ordinary data."""
    if isinstance(node, Map):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    return [plain(item) for item in node.items] if isinstance(node, Seq) else node.value


def field(node: Node, name: str) -> Scalar:
    assert isinstance(node, Map)
    found = node.entries[name].node
    assert isinstance(found, Scalar)
    return found


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both of PyYAML's parsers: a machine without libyaml must read the same."""
    loader = yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader
    monkeypatch.setattr(yamltext, "_LOADER", loader)
    return str(request.param)


# ---------------------------------------------------------------- values

TYPES = [
    ("true", True),
    ("FALSE", False),
    ("yes", "yes"),
    ("on", "on"),
    ("off", "off"),
    ("No", "No"),
    ("null", None),
    ("~", None),
    ("", None),
    ("12", 12),
    ("-3", -3),
    ("+4", 4),
    ("010", 10),
    ("0o17", 15),
    ("0x1F", 31),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("1.5", 1.5),
    ("1e3", 1000.0),
    (".5", 0.5),
    ("-.inf", float("-inf")),
    ("2001-99-99", "2001-99-99"),
    ("2001-01-01", "2001-01-01"),
    ("9223372036854775807", 2**63 - 1),
    ("'12'", "12"),
    ('"true"', "true"),
    ("tRue", "tRue"),
    ("=", "="),
]


@pytest.mark.parametrize(("text", "value"), TYPES)
def test_plain_scalars_have_the_types_of_yaml_1_2(parser: str, text: str, value: object) -> None:
    """YAML 1.1 turns `no` into false and a date into an object; either surprises in a prompt."""
    assert plain(only(f"a: {text}")) == {"a": value}
    assert type(field(only(f"a: {text}"), "a").value) is type(value)


def test_a_scalar_keeps_its_text_as_written(parser: str) -> None:
    assert field(only("a: 1.50"), "a").text == "1.50"


# ---------------------------------------------------------------- places


def test_places_count_characters_from_one_past_byte_order_mark_and_quotes(parser: str) -> None:
    node = only("\ufeffé: \"x\"\nlist:\n  - 'ä'\n  - {ü: plain}\n".encode())
    assert isinstance(node, Map)
    assert field(node, "é")[1:3] == (1, 5)
    items = node.entries["list"].node
    assert isinstance(items, Seq)
    assert [item[-4:-2] if isinstance(item, Scalar) else item[1:] for item in items.items] == [(3, 6), (4, 5)]
    assert field(items.items[1], "ü")[1:3] == (4, 9)


BLOCKS = [
    ("a: |\n  text\n", (2, 2), "text\n"),
    ("a: |-\n    text", (2, 4), "text"),
    ("a: |  # why\n  text\n", (2, 2), "text\n"),
    ("a: |\n\n\n   text\n  \n", (2, 3), "\n\ntext\n"),
    ("a: |2\n\n    two more\n  text\n", (2, 2), "\n  two more\ntext\n"),
    ("a: |1-\n  one more\n", (2, 1), " one more"),
    ("a: |+\n\n", (2, 0), "\n"),
    ("a: |", (2, 0), ""),
    ("a: &x |\n  text\n", (2, 2), "text\n"),
    ("a: &x\n  # why\n  |\n   text\n", (4, 3), "text\n"),
    ("b: ü # ü\na: |\r\n  text\r\n  more\r\n", (3, 2), "text\nmore\n"),
]


@pytest.mark.parametrize(("text", "block", "value"), BLOCKS)
def test_a_block_knows_its_first_line_and_its_indentation(
    parser: str, text: str, block: tuple[int, int], value: str
) -> None:
    """A fault in the seventh line of a script is shown in the line of the file where it stands."""
    scalar = field(only(text), "a")
    assert scalar.text == value
    assert scalar.block == block


@pytest.mark.parametrize("text", ["a: >\n  folded\n", "a: plain\n  text", "a: 'x'"])
def test_text_whose_lines_fold_is_no_block(parser: str, text: str) -> None:
    assert field(only(text), "a").block is None


# ---------------------------------------------------------------- anchors


def test_merge_keys_give_what_is_not_written_and_earlier_sources_win(parser: str) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: {<<: *b}\ne: {<<: {q: 1}}\n"
    found = plain(only(text))
    assert isinstance(found, dict)
    assert found["c"] == {"x": 3, "y": 1, "z": 2}
    assert found["d"] == {"y": 2, "z": 2}
    assert found["e"] == {"q": 1}


def test_an_alias_stands_for_its_anchor_even_as_a_key(parser: str) -> None:
    assert plain(only("a: &x word\n*x : *x\nb: [*x]")) == {"a": "word", "word": "word", "b": ["word"]}


def test_anchors_end_with_their_document(parser: str) -> None:
    assert read("a: &x 1\n---\nb: *x\n")[1] == ['f.yaml:3:4: no anchor "x" stands before this alias']


def bomb(width: int, height: int) -> str:
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, height)]
    return "\n".join(lines)


MERGE_BOMB = "a0: &a0 {k: v}\n" + "\n".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: v}}" for i in range(1, 12)
)


@pytest.mark.parametrize("text", [bomb(10, 10), bomb(2, 60), MERGE_BOMB])
def test_a_bomb_of_aliases_is_refused_quickly(parser: str, text: str) -> None:
    """A merge-key bomb of 711 bytes held PyYAML's own constructor for seconds."""
    began = time.monotonic()
    faults = read(text)[1]
    assert time.monotonic() - began < 2
    assert len(faults) == 1
    assert "aliases make the file too large" in faults[0]


def test_every_step_of_a_large_file_may_share_a_mapping() -> None:
    """The budget grows with the file: it stops growth by powers, not ordinary reuse."""
    text = "base: &b {a: 1, b: 2, c: 3, d: 4}\nsteps:\n" + "- {<<: *b, name: x}\n" * 30_000
    assert read(text)[1] == []


def test_an_anchor_inside_itself_is_refused(parser: str) -> None:
    assert read("a: &x [*x]")[1] == ['f.yaml:1:8: the anchor "x" would contain itself']


@pytest.mark.parametrize("unit", ["[", "{a: ", "- "])
def test_what_is_nested_too_deep_is_refused(parser: str, unit: str) -> None:
    assert "nested more than 64 deep" in read(unit * 100_000)[1][0]


def test_depth_by_aliases_counts() -> None:
    text = "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100)])
    assert "nested more than 64 deep, by aliases" in read(text)[1][0]


def test_sixty_four_levels_are_read(parser: str) -> None:
    assert read("[" * 64 + "]" * 64)[1] == []


# ---------------------------------------------------------------- what is refused

REFUSED = [
    (b"a: \xff\n", "f.yaml:1:4: not valid UTF-8: byte 0xFF"),
    ("x: é\nb: ".encode() + b"\xc3(", "f.yaml:2:4: not valid UTF-8: byte 0xC3"),
    ("a: b".encode("utf-16"), "f.yaml:1:1: the file is encoded as UTF-16 or UTF-32"),
    ("a: b".encode("utf-32"), "f.yaml:1:1: the file is encoded as UTF-16 or UTF-32"),
    (b"a: x\x00y", "f.yaml:1:5: the character U+0000 is not allowed here"),
    ("a: |\n  x\u2028y", "f.yaml:2:4: the character U+2028 is not allowed here"),
    ("a: x\x1b[2J", "f.yaml:1:5: the character U+001B is not allowed here"),
    ("a: \ud800", "f.yaml:1:4: not valid UTF-8: half of a surrogate pair"),
    ('a: "\\0"', "f.yaml:1:4: a text can't hold the character U+0000 or half of a surrogate pair"),
    (
        "a: !!python/object/apply:os.system [ls]",
        'tags are not allowed, and this is "!!python/object/apply:os',
    ),
    ("a: !x {b: 1}", 'f.yaml:1:4: tags are not allowed, and this is "!x"'),
    ("a: !!int x", 'f.yaml:1:4: tags are not allowed, and this is "!!int"'),
    ("a: ! x", 'f.yaml:1:4: tags are not allowed, and this is "!"'),
    ("1: x", "f.yaml:1:1: a key must be text, and 1 is not"),
    ("? \n: x", "a key must be text, and an empty key is none"),
    ("true: x", "f.yaml:1:1: a key must be text, and true is not"),
    ("a: {{x}}", "f.yaml:1:5: a key must be text, and this is a collection"),
    ("? [a]\n: x", "f.yaml:1:3: a key must be text, and this is a collection"),
    ("a: &x [1]\n*x : 1", "f.yaml:2:1: a key must be text, and this is a collection"),
    ("a: 9223372036854775808", "f.yaml:1:4: the integer 9223372036854775808 does not fit into 64 bits"),
    (f"a: {'9' * 5000}", "f.yaml:1:4: the integer 9999999999999999999999999999999999999... does not fit"),
    (f"? &k {'9' * 5000}\n: *k", "f.yaml:1:6: the integer"),
    ("<<: x", 'f.yaml:1:1: the merge key "<<" takes a mapping or a list of mappings'),
]


@pytest.mark.parametrize(("data", "shown"), REFUSED)
def test_what_is_refused_is_said_with_its_place(parser: str, data: bytes | str, shown: str) -> None:
    assert shown in "\n".join(read(data)[1])


def test_duplicate_keys_name_both_places(parser: str) -> None:
    faults = read("a: 1\nb: 2\n'a': 3\n")[1]
    assert faults == ['f.yaml:3:1: the key "a" stands twice in one mapping\n    first: f.yaml:1:1']


def test_all_faults_of_a_file_are_found_at_once(parser: str) -> None:
    faults = read("a: !t 1\na: 2\n---\n1: x\n---\nb: [\n")[1]
    assert [fault.split(": ")[0] for fault in faults[:3]] == ["f.yaml:1:4", "f.yaml:2:1", "f.yaml:4:1"]
    assert len(faults) == 4
    assert "not valid YAML" in faults[3]


def test_a_file_over_the_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltext, "MAX_BYTES", 10)
    assert read(b"a: 12345678")[1] == ["f.yaml:1:1: the file is too large: 11 bytes, and the limit is 10"]
    assert read(b"a: 1234567")[1] == []


def test_a_file_of_mistakes_ends_early() -> None:
    assert read("1: x\n" * 5_000)[1][-1].endswith("more than 1,000 mistakes; what follows was not read")


SYNTAX = [
    ("a: b: c", "ends in"),
    ("a:\n\tb: c", "never with tabs"),
    ("a: @x", "is written in quotes"),
    ("a: {{x}} y", "is written in quotes"),
    ("a: `x`", "is written in quotes"),
]


@pytest.mark.parametrize(("text", "hint"), SYNTAX)
def test_common_slips_of_syntax_have_a_hint(parser: str, text: str, hint: str) -> None:
    assert hint in "\n".join(read(text)[1])


# ---------------------------------------------------------------- anything at all

yamlish = st.lists(
    st.sampled_from(
        [*"ab:-?|>[]{},&*!#'\"%@ \n\t", ": ", "\n  ", "- ", "---\n", "&x ", "*x", "<<: ", "| \n"]
    ),
    max_size=60,
).map("".join)


@given(st.one_of(st.binary(), st.text(), yamlish))
def test_any_input_gives_nodes_or_faults(data: bytes | str) -> None:
    roots, faults = read(data)
    for root in roots:
        if not faults:
            plain(root)


# PyYAML writes YAML 1.1, in which 0E0 is a text; in YAML 1.2, and so here, it is a number
texts = st.text().filter(lambda text: not re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+|0o[0-7]+", text))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values, st.booleans())
def test_what_pyyaml_writes_reads_back_equal(value: object, flow: bool) -> None:
    text = yaml.safe_dump(value, allow_unicode=False, default_flow_style=flow, sort_keys=False)
    roots, faults = read(text)
    if not faults:  # texts with U+0000 and the like are refused
        assert plain(roots[0]) == value
    else:
        assert all("character U+0000" in fault or "surrogate" in fault for fault in faults)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: x\n    b: y\n", "begins in the same column"),
        ("- a\n  b: y\n", "begins in the same column"),
        ("a:\n  - b: c\n - d: e\n", "begins in the same column"),
        ("a: b: c\n", "is written in quotes"),
        ("a: 'it's'\n", "written twice"),
        ('a: "b\n', "not closed"),
        ('a: "b" c\n', "around a whole value"),
        ("- a:b\n  c: d\n", "a space follows"),
        ("a: b\nc:d\ne: f\n", "a space follows"),
        ("a:\n  b: |\n  text\nc: d\n", "indented more"),
        ("a: | b\n", "next line"),
        ("a: [b c\nd: e\n", "commas between its entries"),
        ("a: {b: [c}\n", "commas between its entries"),
        ("a: b\n\u00a0c: d: e\n", "only looks like a space"),
    ],
)
def test_the_commonest_mistakes_get_a_hint_that_fits(text: str, hint: str) -> None:
    found = reader.read(text, "w.yaml").faults
    assert any(hint in (fault.hint or "") for fault in found), found
