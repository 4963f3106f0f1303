"""Scripts that are read at once come out as they do in full."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmc_build.shellcode import table
from llmc_build.shellcode.analysis import in_full
from llmc_build.shellcode.plain import plain
from llmc_build.shellcode.tree import HOLE

COMMANDS = [
    "echo",
    "printf",
    "cat",
    "cp",
    "test",
    "[",
    "./run",
    "a/b",
    "grep",
    "sh",
    "python3.11",
    "set",
    "find",
]
WORDS = [
    "hello",
    "a.txt",
    "./b//c.txt",
    "../d",
    ".",
    "/etc/x",
    "-n",
    "--",
    "-",
    "-v",
    "+x",
    "x=1",
    "x[1]=2",
    "[",
    "]",
    "*.txt",
    "{a,b}",
    "{1..3}",
    "~/x",
    "#",
    "#x",
    "a#b",
    "$x",
    "$1",
    "$@",
    "$",
    "${x}",
    "$(ls)",
    "`ls`",
    "\\",
    "\\ ",
    "\\\n",
    "'single'",
    "'a\nb'",
    "'",
    '"double"',
    '"a $x b"',
    '"a \\" b"',
    '"a \\$x"',
    '"a\nb"',
    '"',
    '""',
    "''",
    HOLE,
    f'"{HOLE}"',
    f'"a {HOLE} {HOLE}"',
    f"'{HOLE}'",
    f"'b{HOLE}'",
    f"a{HOLE}",
    f"{HOLE}{HOLE}",
    f'""{HOLE}',
    f'"${HOLE}"',
    f"$x{HOLE}",
    f"\\{HOLE}",
    f"-o{HOLE}",
    f"{{{HOLE}..3}}",
    "sh",
    "-c",
    "jq",
    "if",
    "then",
    "fi",
    "time",
    "!",
    "in",
    "{",
    "}",
    "\u00e4",
    "\r",
    "\x01",
    "2",
    "1.5",
]
JOINTS = [" "] * 12 + [
    "",
    "\t",
    "\n",
    "\n\n",
    ";",
    " ; ",
    ";;",
    "&",
    " & ",
    "&&",
    " && ",
    "|",
    " | ",
    "||",
    "|&",
    "(",
]
JOINTS += [
    ")",
    ">",
    " > ",
    " >> ",
    ">>",
    "2>",
    " 2>&1 ",
    ">&",
    "<",
    " < ",
    "<<",
    "<(",
    "&>",
    ">|",
    "<>",
    " \\\n ",
    " # ",
]

piece = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), st.sampled_from(COMMANDS))
scripts = st.tuples(
    st.sampled_from(["", "", "", " ", "\n", "# a\n"]),
    st.sampled_from(COMMANDS),
    st.lists(st.tuples(st.sampled_from(JOINTS), piece), max_size=8),
    st.sampled_from(["", "", "", "\n", ";", " &", " # end", "|"]),
).map(lambda parts: parts[0] + parts[1] + "".join(a + b for a, b in parts[2]) + parts[3])


@given(text=scripts, paths=st.sets(st.integers(min_value=0, max_value=30)))
@settings(max_examples=2000, deadline=None)
@example(text=f"# {HOLE}\necho {HOLE}", paths=set())
@example(text=f"cat -- {HOLE}", paths=set())
@example(text=f'cp ""{HOLE}{HOLE} x', paths=set())
def test_what_is_read_at_once_is_what_the_full_reading_says(text: str, paths: set[int]) -> None:
    """Nothing that the full reading refuses may pass, and no word, context or check may differ."""
    given_paths = frozenset(at for at in paths if text[at : at + 1] == HOLE)
    quick = plain(text, given_paths)
    if quick is not None:
        for shell in ("sh", "bash"):
            assert quick == in_full(text, shell, given_paths)


@given(
    command=st.sampled_from(
        sorted({*table.COMMANDS, *table.WRAPPERS, *table.HARMLESS, "docker", "trap", "ls"})
    ),
    words=st.lists(st.sampled_from([*WORDS, *table.COMMANDS, "-e", "-exec", "python", "run"]), max_size=4),
)
@settings(max_examples=1000, deadline=None)
def test_a_command_that_parses_what_it_is_given_is_left_to_the_full_reading(
    command: str, words: list[str]
) -> None:
    text = " ".join([command, *words, HOLE])
    quick = plain(text, frozenset())
    if quick is not None:
        assert quick == in_full(text, "sh", frozenset())


@pytest.mark.parametrize(
    "text",
    [
        "echo hello",
        f'echo "hello 1 2 {HOLE}"',
        "cat notes.txt | wc -l",
        f"cp -r a/b {HOLE} > out.txt 2>&1 && touch done",
        'echo "done: $x" >> log.txt\n\n# a comment\nsort < in.txt',
        f"printf '%s\\n' {HOLE} \\\n  'it is {HOLE}' ; ls -l",
        f'[ "{HOLE}" = yes ] || exit 1',
    ],
)
def test_usual_scripts_are_read_at_once(text: str) -> None:
    assert plain(text, frozenset()) is not None
