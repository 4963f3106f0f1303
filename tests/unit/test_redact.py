"""The forms in which a secret is found in what a step printed, at any place, and what is left alone."""

from __future__ import annotations

import html
import json
import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmc_build.execute import redact
from llmc_build.execute.redact import Redactor

PLAIN = "hunter2-pa55word"
ODD = "it's a \"$x`\\ <b>&é/€😀+%41"


def bash(script: str) -> Callable[[str], bytes]:
    return lambda value: (
        subprocess.run(
            ["bash", "-c", script], env={"V": value, "LC_ALL": "C.UTF-8"}, stderr=-2, stdout=-1, check=True
        ).stdout
    )


def only(characters: str, write: Callable[[str], str]) -> Callable[[str], bytes]:
    """Writes these characters in a way of their own, the others as they are."""
    return lambda value: "".join(write(c) if c in characters else c for c in value).encode()


def each(write: Callable[[Any], str]) -> Callable[[str], bytes]:
    return lambda value: "".join(map(write, value)).encode()


def each_byte(form: bytes, between: bytes = b"") -> Callable[[str], bytes]:
    return lambda value: between.join(form % byte for byte in value.encode())


def folded(width: int, end: bytes = b"\n") -> Callable[[str], bytes]:
    def fold(value: str) -> bytes:
        data = b"..." + value.encode()
        return end.join(data[i : i + width] for i in range(0, len(data), width))

    return fold


def utf16(character: str) -> str:
    return "".join(f"\\u{unit:04x}" for unit in units(character))


JS_BARE = "-_.!~*'()"  # what encodeURIComponent leaves
FORMS: dict[str, Callable[[str], bytes]] = {
    "as it is": str.encode,
    "traced test": bash('set -x; if [[ abc == "$V" ]]; then :; fi'),
    "traced word": bash('set -x; : "$V"'),
    "traced list": bash("set -x; : \"a'$V'b\""),
    "printf %q": bash('printf %q "$V"'),
    "@Q": bash('printf %s "${V@Q}"'),
    "declare": bash("declare -p V"),
    "backslashes": each(lambda c: "\\" + c),
    "folded 60": folded(60),
    "folded 5": folded(5),
    "folded 1": folded(1),
    "folded with CR": folded(7, b"\r\n"),
    "JSON": lambda value: json.dumps(value).encode(),
    "JSON in JSON": lambda value: json.dumps(json.dumps(value)).encode(),
    "JSON of Go": only("<>&", lambda c: f"\\u{ord(c):04x}"),
    "JSON of PHP": lambda value: json.dumps(value).replace("/", "\\/").replace("&", "\\u0026").encode(),
    "JSON of Java": only("<>&='\"", lambda c: f"\\u{ord(c):04X}"),
    "all of JSON": lambda value: "".join(map(utf16, value)).encode(),
    "HTML": lambda value: html.escape(value).encode(),
    "HTML of PHP": lambda value: html.escape(value).replace("&#x27;", "&#039;").encode(),
    "HTML of Go": lambda value: html.escape(value).replace("&quot;", "&#34;").replace("+", "&#43;").encode(),
    "XML": lambda value: html.escape(value).replace("&#x27;", "&apos;").encode(),
    "HTML, numbers": each(lambda c: f"&#{ord(c)};"),
    "HTML, hex": each(lambda c: f"&#X{ord(c):04X};"),
    "HTML, ASCII only": lambda value: value.encode("ascii", "xmlcharrefreplace"),
    "HTML, accents": only("<>&é", lambda c: {"<": "&lt;", ">": "&gt;", "&": "&amp;", "é": "&eacute;"}[c]),
    "URL of JS": each(lambda c: c if c.isascii() and (c.isalnum() or c in JS_BARE) else percent(c)),
    "URL, lower": each(lambda c: c if c.isascii() and c.isalnum() else percent(c).lower()),
    "URL, form": each(lambda c: "+" if c == " " else c if c.isascii() and c.isalnum() else percent(c)),
    "URL, all": each_byte(b"%%%02x"),
    "C": each_byte(b"\\x%02x"),
    "C, upper": each_byte(b"\\x%02X"),
    "octal": each_byte(b"\\%03o"),
    "Rust": each(lambda c: f"\\u{{{ord(c):x}}}"),
    "Python": lambda value: ascii(value).encode(),
    "Python, long": each(lambda c: f"\\U{ord(c):08x}"),
    "of bytes": lambda value: repr(value.encode()).encode(),
    "SQL": lambda value: value.replace("'", "''").encode(),
    "CSV": lambda value: value.replace('"', '""').encode(),
    "mixed": lambda value: "".join(
        [str, utf16, percent, lambda c: f"&#{ord(c)};", "\\{}".format][i % 5](c) for i, c in enumerate(value)
    ).encode(),
    "hex": each_byte(b"%02x"),
    "hex, upper": each_byte(b"%02X"),
    "hex, spaces": each_byte(b"%02x", b" "),
    "hex, colons": each_byte(b"%02X", b":"),
    "hex, of C": each_byte(b"0x%02x", b", "),
    "hex, xxd -i": each_byte(b"0x%02x", b",\n  "),
    "hex, 0x": each_byte(b"0x%02X", b" "),
    "hex, xxd -p": lambda value: b"\n".join(re.findall(b".{1,60}", value.encode().hex().encode())),
    "hex, in groups": lambda value: b" ".join(re.findall(b".{1,4}", value.encode().hex().encode())),
}


def units(character: str) -> list[int]:
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


def percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


@pytest.mark.parametrize("secret", [PLAIN, ODD, "p@ss/w+rd?&=''", "C:\\new\\\\x'", "two\nlines\tof"])
@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_found_in_every_form(secret: str, form: str) -> None:
    printed = FORMS[form](secret)
    left = Redactor([secret]).redact(b"-- " + printed + b" --")
    assert b"***" in left, printed
    # At most what quotes the word, and the command that is traced.
    words = rb"declare|abc|x|V|a|b|n|u[0-9a-f]{4}|0x"
    assert not re.sub(rb"\b(?:%s)\b|[^0-9A-Za-z]" % words, b"", left), left


@pytest.mark.parametrize("form", FORMS)
def test_it_is_found_across_every_border(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "pa55'w&rdé"
    redactor = Redactor([secret])
    printed = FORMS[form](secret)
    expected = redactor.redact(b"." * 400 + printed + b"." * 400)
    monkeypatch.setattr(redact, "_CHUNK", 400)
    assert b"***" in expected
    for before in range(400 - len(printed) - 1, 402):
        with open(tmp_path / "file", "w+b", buffering=0) as file:
            file.write(b"." * max(before, 0) + printed + b"." * 400)
            assert redactor.redact_file(file.fileno())
            left = (tmp_path / "file").read_bytes()
        assert left.strip(b".") == expected.strip(b"."), before


def test_ordinary_text_stays_untouched() -> None:
    text = (
        b"hunter2 -pa55word; hunter2 pa55word; hunter2\n\n-pa55word; h-u-n-t-e-r-2; Hunter2-pa55word\n"
        b"12:34:56, 1\n2\n3\n4\n, 1, 2, 3, 4, 1 2 3 4, &#104;&#117;, %68%75, 68 75 6e 74 65 72 32, \\u0068\n"
        b"1\\\\\\\\2\\\\\\\\34 1%202%203%204 1&amp;2 &#1;&#2; 31 32 33 35 123\n4\n"
    )
    assert Redactor([PLAIN, "1234", "p'%\"&"]).redact(text) == text


def test_the_longest_form_is_known() -> None:
    """Else one would be missed across a border."""
    parser: Any = __import__("re._parser")._parser
    chance = random.Random(1)
    for _ in range(300):
        secret = "".join(chance.choices("ab'\"\\& \n%é€😀<ϑ", k=chance.randint(4, 12)))
        redactor = Redactor([secret])
        patterns = [form.pattern for form in (*redactor._written, *redactor._base64, *redactor._hex)]
        widths = [parser.parse(pattern.pattern).getwidth()[1] for pattern in patterns]
        assert max(widths, default=0) <= redactor.longest, secret


@pytest.mark.parametrize(
    "secret", ["\\" * 40, "\\a" * 40, "'" * 40, "'\\\"" * 20, "%25" * 20, "&amp;" * 20, "a" * 60]
)
def test_what_nearly_is_one_takes_no_longer_for_it(secret: str) -> None:
    redactor = Redactor([secret + "!"])
    near = [each(lambda c: "\\\\\\\\" + c)(secret), secret.encode() * 5, FORMS["JSON in JSON"](secret * 2)]
    text = b"".join(one + b"\\x21\n%21&#33;" for one in near) * 20
    began = time.monotonic()
    redactor.redact(text)
    assert time.monotonic() - began < 2
