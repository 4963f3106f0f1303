"""Makes random shell scripts with placeholders in every place that is allowed, and hostile values.

A script that is made here prints the value in many contexts, nested in each other, and never decides by it: so what
it prints for one value is what it prints for another, with the value replaced.  `#` stands for the placeholder while
a script is made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

HOLE = "\x02"
_LITERALS = ["a", "b c", "x.y", "--", "-n", "=", "%", "0", "é"]
_SINGLE = ["a", '"', "$x", "`", "\\", "$(id)", "#", " ", "\n", "*", "${x}", "&&", "<<EOF", "it", "%s"]
_DOUBLE = [
    "a",
    "'",
    '\\"',
    "\\\\",
    "\\$",
    "\\`",
    "$n.",
    "${n}",
    "${n:-d}",
    "#",
    " ",
    "\n",
    "*",
    "<<EOF",
    ";",
    "$ ",
    "\\n",
]
_BODY = [
    "a",
    "'",
    '"',
    "\\\\",
    "\\$",
    "\\`",
    "$n.",
    "${n}",
    "#",
    " ",
    "*",
    ";",
    "\\n",
    "it's",
    '"$n"',
    "((",
    "fi",
    "%s",
]
_QUOTED_BODY = [
    "a",
    "'",
    '"',
    "\\",
    "\\\\",
    "$",
    "$n.",
    "`",
    "$(id)",
    "${n",
    "#",
    "*",
    "\\n",
    "it's",
    "))",
    "\\$",
]


class Grammar:
    """Random scripts for one language, "sh" or "bash"; `path`: whether `{{x | path}}` may be used."""

    def __init__(self, chance: random.Random, language: str, *, path: bool) -> None:
        self.chance = chance
        self.bash = language == "bash"
        self.path = path
        self.names = 0
        self.inside = 0  # $( ) that are open

    def script(self) -> str:
        text = "n=N\n" + self.lines(self.chance.randint(2, 4), self.chance.choice((1, 2, 3, 4)))
        return text if HOLE in text else f"{text}printf '[%s]' {HOLE}\n"

    def pick(self, options: Sequence[str]) -> str:
        return self.chance.choice(options)

    def name(self, stem: str) -> str:
        self.names += 1
        return f"{stem}{self.names}"

    # ------------------------------------------------------------ words

    def word(self, depth: int) -> str:
        return "".join(self.atom(depth) for _ in range(self.chance.choice((1, 1, 1, 2, 3))))

    def atom(self, depth: int) -> str:
        kind = self.chance.random()
        if kind < 0.25:
            return HOLE
        if kind < 0.5:
            return self.quoted('"', _DOUBLE, depth)
        if kind < 0.7:
            return self.quoted("'", _SINGLE, 0)
        if kind < 0.8:
            return self.pick(
                ["a", "\\ ", "\\'", '\\"', "\\$", "\\\\", "''", '""', '"$n"', "b.c", "=", "%d", ":"]
            )
        if self.bash and kind < 0.84:
            return self.pick(["$'a\\tb'", "$'it\\'s'", "$'\\x41'", "{a,b}", "$'\\\\'"])
        if depth > 0:
            return f'"{self.substitution(depth - 1)}"'
        return '"$n"'

    def quoted(self, quote: str, pieces: Sequence[str], depth: int) -> str:
        out = []
        for _ in range(self.chance.randint(0, 4)):
            kind = self.chance.random()
            if kind < 0.45:
                out.append(HOLE)
            elif kind < 0.55 and depth > 0:
                out.append(self.substitution(depth - 1))
            elif kind < 0.58 and quote == '"':
                out.append(self.pick(["$((1 + 2))", "`echo b`", "$(( $(echo 4) * 2 ))"]))
            else:
                out.append(self.pick(pieces))
        text = "".join(out)
        return quote + text + quote

    def substitution(self, depth: int) -> str:
        self.inside += 1
        inner = self.lines(self.chance.randint(1, 2), depth).rstrip("\n")
        self.inside -= 1
        if "<<" in inner or "#" in inner or self.chance.random() < 0.3:
            return f"$(\n{inner}\nprintf .\n)"
        return f"$({' ' if inner.startswith('(') else ''}{inner}; printf .)"

    # ------------------------------------------------------------ commands, each of whole lines

    def lines(self, count: int, depth: int) -> str:
        return "".join(self.command(depth) + "\n" for _ in range(count))

    def command(self, depth: int) -> str:
        simple: list[Callable[[int], str]] = [
            self.printing, self.printing, self.printing, self.assigning, self.document, self.document, self.piped, self.parameters,
            self.shell, self.file, self.comment, self.joined, self.documents, self.environment,
        ]  # fmt: skip
        nesting: list[Callable[[int], str]] = [
            self.group, self.subshell, self.condition, self.loop, self.case, self.function, self.listed, self.until, self.runner,
        ]  # fmt: skip
        if self.bash:
            simple += [
                self.here_string,
                self.array,
                self.process,
                self.declared,
                self.tested,
                self.calculated,
                self.printf_v,
            ]
        if depth <= 0 or self.chance.random() < 0.4:
            return self.chance.choice(simple)(max(depth, 0))
        return self.chance.choice(nesting)(depth - 1)

    def body(self, depth: int) -> str:
        return self.lines(self.chance.randint(1, 2), depth)

    def printing(self, depth: int) -> str:
        words = " ".join(self.word(depth) for _ in range(self.chance.randint(1, 3)))
        return f"printf '[%s]' {words}"

    def assigning(self, depth: int) -> str:
        name = self.name("v")
        value = self.word(depth)
        return f'{name}={value}\nprintf \'<%s>\' "${name}" "${{{name}}}"'

    def environment(self, depth: int) -> str:
        name = self.name("E")
        return f'{name}={self.word(depth)} sh -c \'printf "<%s>" "${name}"\''

    def delimiter(self) -> tuple[str, str, bool]:
        name = self.name("EOF")
        form = self.pick(["{}", "'{}'", '"{}"', "\\{}"])
        return form.format(name), name, form != "{}"

    def document(self, depth: int) -> str:
        written, name, quoted = self.delimiter()
        operator = self.pick(["<<", "<<-", "<< "])
        tab = "\t" if operator == "<<-" else ""
        lines = [
            tab * self.chance.randint(0, 2) + self.line(quoted, depth)
            for _ in range(self.chance.randint(1, 3))
        ]
        return "\n".join([f"cat {operator}{written}", *lines, tab + name])

    def documents(self, depth: int) -> str:
        """Two on one line."""
        first, one, quoted_one = self.delimiter()
        second, two, quoted_two = self.delimiter()
        lines = [self.line(quoted_one, 0), one, self.line(quoted_two, 0), two]
        return "\n".join([f"{{ cat; cat <&3; }} <<{first} 3<<{second}", *lines])

    def line(self, quoted: bool, depth: int) -> str:
        out = []
        for _ in range(self.chance.randint(1, 5)):
            kind = self.chance.random()
            if kind < 0.5:
                out.append(HOLE)
            elif kind < 0.6 and depth > 0 and not quoted:
                out.append(self.substitution(depth - 1))
            else:
                out.append(self.pick(_QUOTED_BODY if quoted else _BODY))
        text = "".join(out)
        return text.rstrip("\\") or "a"

    def piped(self, depth: int) -> str:
        ways = ["cat", "cat | cat", "{ cat; }", "( cat )", "while :; do cat; break; done"]
        return f"{self.printing(depth)} |{self.pick([' ', chr(10)])}{self.pick(ways)}"

    def parameters(self, depth: int) -> str:
        words = " ".join(self.word(depth) for _ in range(self.chance.randint(1, 3)))
        return f'set -- {words}\nprintf \'(%s)\' "$@" "$#" "$1"'

    def shell(self, depth: int) -> str:
        code = self.pick(
            [
                'printf "[%s]" "$1"',
                'for a do printf "<%s>" "$a"; done',
                'y=$1; printf %s. "${y}"',
                'printf %s "$1" | cat',
            ]
        )
        return f"sh -c '{code}' sh {self.word(depth)}"

    def file(self, depth: int) -> str:
        if self.path and self.chance.random() < 0.6:
            return self.pick(
                [
                    "cat < PATH",
                    "cat PATH",
                    "cat \"PATH\" 'PATH'",
                    "while IFS= read -r l; do :; done < PATH; cat PATH",
                ]
            )
        name = self.name("f")
        return f"{self.printing(depth)} > {name}; cat {name} ./{name}"

    def comment(self, depth: int) -> str:
        return f"{self.printing(depth)} # it's {HOLE} \" $( ` <<X"

    def joined(self, depth: int) -> str:
        return f"printf \\\n  '[%s]' \\\n {self.word(depth)} \\\n  {self.word(0)}"

    def group(self, depth: int) -> str:
        return f"{{ {self.body(depth)}}}"

    def subshell(self, depth: int) -> str:
        return f"( {self.body(depth)})"

    def condition(self, depth: int) -> str:
        test = self.pick(
            [
                f"[ {self.word(0)} = zz9 ]",
                f"test {self.word(0)}q = zz9",
                f'[ "{HOLE}" = zz9 ]',
                f"! printf %s {HOLE} >/dev/null",
            ]
        )
        middle = self.pick(["else ", "elif false; then :\nelse ", "elif true\nthen "])
        return f"if {test}; then printf no\n{middle}{self.body(depth)}fi"

    def loop(self, depth: int) -> str:
        name = self.name("i")
        return f"for {name} in {self.word(0)} {self.word(0)}; do printf '<%s>' \"${name}\"\n{self.body(depth)}done"

    def until(self, depth: int) -> str:
        return self.pick(["while :; do\n", "until false; do\n"]) + self.body(depth) + "break\ndone"

    def case(self, depth: int) -> str:
        pattern = self.pick(["zz9", '"zz9"', f"zz{HOLE}9", f"'zz9'{HOLE}"])
        opened = "(" if self.inside else self.pick(["(", ""])
        return f"case zz{self.word(0)} in {opened}{pattern}) printf no;;\n{opened}*) {self.body(depth)};;\nesac".replace(
            "\n;;", "\n:;;"
        )

    def function(self, depth: int) -> str:
        name = self.name("f")
        return f'{name}() {{ printf \'(%s)\' "$1" "$#"\n{self.body(depth)}}}\n{name} {self.word(0)} {self.word(0)}'

    def runner(self, depth: int) -> str:
        name = self.name("r")
        return f"{name}() {{ \"$@\"; }}\n{name} printf '[%s]' {self.word(depth)}"

    def listed(self, depth: int) -> str:
        joint = self.pick(["&&", "&&\n", ";", "|| printf no\n"])
        return f"{self.printing(depth)} {joint} {self.printing(0)}"

    # ------------------------------------------------------------ bash alone

    def here_string(self, depth: int) -> str:
        return f"cat <<< {self.word(depth)}"

    def array(self, depth: int) -> str:
        name = self.name("a")
        words = " ".join(self.word(0) for _ in range(self.chance.randint(1, 3)))
        return f'{name}=({words})\n{name}+=({self.word(depth)})\nprintf \'[%s]\' "${{{name}[@]}}" "${{#{name}[@]}}"'

    def process(self, depth: int) -> str:
        return f"cat <({self.printing(depth)}) <(\n{self.printing(0)}\n)"

    def declared(self, depth: int) -> str:
        name = self.name("d")
        return f"{self.pick(['declare', 'export', 'typeset', 'declare -x'])} {name}={self.word(depth)}\nprintf '<%s>' \"${name}\""

    def tested(self, depth: int) -> str:
        name = self.name("t")
        first = self.pick([f"${name}", self.word(0)])
        same = self.pick([f"{HOLE} == {HOLE}", f'"a{HOLE}" == a{HOLE}', f"'{HOLE}' = {HOLE}", f"-n b{HOLE}"])
        return (
            f"{name}={self.word(depth)}\nif [[ {first} == zz9 || -z zz9 ]]; then printf no; else printf yes; fi\n"
            f"if [[ {same} ]]; then printf same; else printf other; fi"
        )

    def calculated(self, depth: int) -> str:
        name = self.name("c")
        return f"for (({name} = 0; {name} < 2; {name}++)); do {self.printing(depth)}\ndone\n(( 1 + 1 )) && printf ok"

    def printf_v(self, depth: int) -> str:
        name = self.name("p")
        return f"printf -v {name} '<%s>' {self.word(depth)}\nprintf '%s' \"${name}\""


# ---------------------------------------------------------------- values

_PIECES = [
    b"$(touch CANARY)", b"`touch CANARY`", b";touch CANARY;", b"\ntouch CANARY\n", b"'", b'"', b"\\", b"'\"'", b"\\'", b"\\\\", b"\\\"",
    b"${IFS}", b"$x", b"$1", b"${n}", b"$((1/0))", b"EOF1", b"\nEOF1\n", b"\nEOF2\n", b"\n\tEOF3\n", b"*", b"?", b"[a-z]", b"~", b"~root",
    b"{a,b}", b"{1..9}", b"!", b"!!", b"!-1", b"#", b"#!/bin/sh", b"%s", b"%n", b"%d%%", b"\\n", b"\\0", b"\\c", b"-n", b"-e", b"--", b"-",
    b"\r", b"\r\n", b"\t", b"\v", b"\f", b"\x01", b"\x02", b"\x7f", b"\x1b[31m", b"\x08", b"\x80", b"\x81", b"\x82\x83", b"\x88", b"\xff",
    b"\xfe\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8", b"\xef\xbc\x87", b"\xc2\xa0", b" ", b"  ", b"\n", b"\n\n",
    b"|touch CANARY", b"||touch CANARY", b"&&touch CANARY", b"&touch CANARY&", b">CANARY", b"<(touch CANARY)", b">(touch CANARY)",
    b"a[$(touch CANARY)]", b"() { :;}; touch CANARY", b")", b"(", b"))", b";;", b"esac", b"fi", b"done", b"}", b"{", b"=", b"a=b",
    b"$'\\x27'", b"$\"a\"", b"'$(touch CANARY)'", b"\"$(touch CANARY)\"", b"'; touch CANARY; '", b"\"; touch CANARY; \"", b"BENIGN", b"x",
    b"__llmc_v0_", b"${__llmc_v0}", b"LLMC_V0", b":", b"::", b"a:b", b"@", b"$@", b"$*", b"$$", b"\x0e\x0f", b"\\\n", b"$(", b"`", b"${", b"$((", b"'\n'",
]  # fmt: skip


def hostile(chance: random.Random) -> bytes:
    """A value without NUL that would do harm, were it ever read as code."""
    kind = chance.random()
    if kind < 0.03:
        return b""
    if kind < 0.08:
        return bytes(chance.choices(range(1, 256), k=chance.randint(1, 60)))
    pieces = chance.choices(_PIECES, k=chance.choice((1, 1, 2, 3, 5, 8)))
    value = b"".join(pieces)
    if kind < 0.12:
        value *= chance.choice((50, 500, 3000))
    if chance.random() < 0.15:
        value += b"\n" * chance.randint(1, 3)
    return value
