"""GBNF grammars checked before llama.cpp sees them, and what the recogniser makes of texts."""

from __future__ import annotations

import random
import time

import pytest

from llmc_build.constrain import check_grammar, verdict
from llmc_build.constrain.gbnf import MAX_TEXT, read_grammar
from llmc_build.constrain.recognise import TooAmbiguous, recognises

GOOD = [
    'root ::= "yes" | "no"',
    'root ::= answer ("," answer)* # a comment\nanswer ::= [a-z]+ | "\\"" [^"\\n]{0,20} "\\""',
    'root ::=\n  object\nobject ::= "{" ( [a-z] |\n [0-9] )+ "}"\n\n\n',
    'root ::= "(" root ")" | ""',
    'root ::= [\\x41-\\x5A\\u00e9\\U0001F600] . "tab\\t"',
    'root ::= ("a"?)* "b"{2} "c"{0,3} "d"{2,}',
    'root ::= "é" |\r\n "ü"\r\n',
    'root ::= item\nitem ::= "x" item | "x"',
    "root ::= [a-] [-a] [\\]\\[]",
    'root ::= [^"\\\\\\x7F\\x00-\\x1F]+',  # as the grammars do that come with llama.cpp
]
BAD = [
    ("", 1, 1, 'there is no rule "root"', 'an answer begins with the rule "root"'),
    ('rot ::= "a"', 1, 1, 'there is no rule "root"', 'did you mean "rot"?'),
    ("root ::= anwser\nanswer ::= [a]", 1, 10, 'rule "anwser" is not defined', 'did you mean "answer"?'),
    ('root ::= "a" |\n  "b" | root "c"', 1, 1, 'rule "root" begins with itself (left recursion)', "let a rule"),
    ('root ::= a "x"\na ::= n a "y" | "z"\nn ::= m\nm ::= ""', 2, 1, 'rule "a" begins with itself', "let a"),
    ('root ::= "a" root', 1, 1, 'rule "root" never ends', "give it an alternative"),
    ('root ::= "a"{3,2}', 1, 13, "{3,2} repeats at least 3 and at most 2 times", None),
    ('root ::= "a"{2001}', 1, 13, "more than 2000 repetitions", "without a limit"),
    ('root ::= ("a" "b"){1000}{3}', 1, 25, "a repetition that makes 3000 rules", "repeat less"),
    ("root ::= *", 1, 10, "* has nothing before it to repeat", None),
    ("root ::= 'a'", 1, 10, '"\'" is out of place', 'literals stand in "double quotes"'),
    ('root ::= "a"\n  | "b"', 2, 3, "expected the name of a rule, not '|'", "end the line before with |"),
    ('root ::= ("a" | "b"', 1, 10, "this parenthesis is never closed", None),
    ('root ::= "a")', 1, 13, "')' is out of place", None),
    ('root ::= "a', 1, 10, "this literal is never closed", None),
    ("root ::= [a", 1, 10, "this set of characters is never closed", None),
    ("root ::= []", 1, 10, "a set without characters", "any character: ."),
    ("root ::= [z-a]", 1, 11, "a range of characters that ends before it begins", None),
    ('root ::= "\\q"', 1, 11, "no escape is \\q", "escapes:"),
    ('root ::= "\\u12"', 1, 11, "\\u takes 4 hexadecimal digits", None),
    ('root ::= "\\x00"', 1, 11, "U+0000 is no character of a text", None),
    ('root ::= "a\0b"', 1, 12, "U+0000 is no character of a text", None),
    ('root ::= "a"\nroot ::= "b"', 2, 1, 'rule "root" is defined twice', None),
    ("root ::= <think>", 1, 10, "'<' is out of place", "an answer is text"),
    ("root ::= my_rule", 1, 12, "'_' is out of place", "names of rules have letters, digits and -"),
    ('root = "a"', 1, 6, "expected ::= after the name of a rule", None),
    ('root ::= "a"{', 1, 14, "expected a number of repetitions", None),
    ('root ::= "a"{1;2}', 1, 15, "expected } after a number of repetitions", None),
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_good_grammar_has_no_faults(text: str) -> None:
    assert check_grammar(text) == []


@pytest.mark.parametrize(("text", "line", "column", "message", "hint"), BAD)
def test_a_fault_has_its_place_and_a_hint(
    text: str, line: int, column: int, message: str, hint: str | None
) -> None:
    fault = check_grammar(text)[0]
    assert (fault.line, fault.column) == (line, column), fault
    assert fault.message.startswith(message)
    assert (fault.hint or "").startswith(hint or "") if hint else fault.hint is None


def hostile() -> list[str]:
    """Grammars that make llama.cpp hang, overflow its stack or fill the memory."""
    doubling = "".join(f"r{i} ::= r{i + 1} | r{i + 1}\n" for i in range(60))
    chain = "".join(f"r{i} ::= r{i + 1}\n" for i in range(20_000))
    return [
        f'root ::= r0\n{doubling}r60 ::= "a"',
        f'root ::= r0\n{chain}r20000 ::= "a"',
        "root ::= " + "(" * 100_000,
        'root ::= "' + "a" * MAX_TEXT,
        'root ::= "a"{2,1}',
        'root ::= "' + "a" * 1000 + '"{2000}',
        "root ::= " + "|" * 500_000 + "root",
        'root ::= "x"' + "\nroot ::= x" * 1000,
        'root ::= n root "x" | "c"\nn ::= m\nm ::= o\no ::= ""',
        'root ::= "a"{99999999999999999999}',
        'root ::= "a" root "b" | "a" root "c" | "a"',
        'root ::= "x" s\ns ::= ("a" | "b")? s2 "b" | [ab] s "c" | "a"{90}\ns2 ::= "a" s',
    ]


@pytest.mark.parametrize("text", hostile(), ids=range(12))
def test_a_hostile_grammar_is_refused_in_bounded_time(text: str) -> None:
    begun = time.process_time()
    assert check_grammar(text)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        (
            'root ::= "(" root ")" | [a-z]{2,4} ("," root)*',
            ["(ab)", "ab,cd", "(ab,(cd,efgh))"],
            ["a", "(ab", "abcde", ""],
        ),
        ('root ::= ("a"?)* "b"', ["b", "aaab"], ["a", "ba"]),
        ('root ::= "é"+ [^a-z]', ["éé1"], ["é", "éa", "1"]),
        ('root ::= ("ab"{2} | "c"){1,2}', ["abab", "c", "cc", "ababc"], ["ab", "ccc", ""]),
    ],
)
def test_a_text_is_of_a_grammar_or_not(grammar: str, yes: list[str], no: list[str]) -> None:
    read, faults = read_grammar(grammar)
    assert read is not None, faults
    assert [text for text in [*yes, *no] if recognises(read, text)] == yes
    for text in yes:
        assert verdict({"kind": "grammar", "grammar": grammar}, text) is None
    for text in no:
        assert verdict({"kind": "grammar", "grammar": grammar}, text) == "the answer is not of the grammar"


def test_an_ambiguous_grammar_ends_in_an_error_and_not_in_a_hang() -> None:
    """One that is not ambiguous enough to be refused before anything runs."""
    read, faults = read_grammar('root ::= ("a" | "aa" | "a" "b"?)*')
    assert read is not None, faults
    with pytest.raises(TooAmbiguous):
        recognises(read, "a" * 600, budget=1000)


# ---------------------------------------------------------------- llama.cpp's own parser


def accepted_by_llama_cpp(text: str) -> bool:
    lib = pytest.importorskip("llmc_build.llm.native", reason="needs the extra `local`").lib
    made = lib.llama_sampler_init_grammar(None, text.encode(), b"root")
    if made:
        lib.llama_sampler_free(made)
    return bool(made)


@pytest.mark.parametrize("text", GOOD)
def test_llama_cpp_accepts_what_is_accepted_here(text: str) -> None:
    assert accepted_by_llama_cpp(text)


STRICTER = (
    "twice",
    "without characters",
    "never ends",
    "ends before it begins",
    "is no character",
    "ambiguous",
    "repetitions",
)


def test_random_grammars_are_judged_as_llama_cpp_judges_them() -> None:
    """Never laxer; stricter only for the reasons that the module names."""
    pieces = ['"a"', '"b\\n"', "[a-c]", "[^x]", "root", "n", "m", "(", ")", "|", "*", "+", "?", "{2}", "{0,3}", "{2,}", "\n",
              "n ::= ", "m ::= ", " ", ".", '""', "# c\n", "}", "]", "{1"]  # fmt: skip
    chance = random.Random(5)
    agreed = {True: 0, False: 0}
    for _ in range(3000):
        body = " ".join(chance.choices(pieces, k=chance.randint(1, 9)))
        text = f'root ::= {body}\nn ::= "n" | {chance.choice(pieces[:6])}\nm ::= "m" n?\n'
        faults = check_grammar(text)
        theirs = accepted_by_llama_cpp(text)
        if faults and theirs:
            assert any(word in faults[0].message for word in STRICTER), (text, faults)
            continue
        assert theirs == (not faults), (text, faults)
        agreed[theirs] += 1
    assert min(agreed.values()) > 200, agreed
