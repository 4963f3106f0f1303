"""Tells whether a program in another language runs what it is given.  Pure.

`python3 -c 'os.system(sys.argv[1])' {{ x }}` gives a value to code as data, and that code runs it.  What is
known here are the calls of awk, sed, Python, Perl, Ruby, JavaScript, PHP, Lua and jq's like that run text,
and how to see that such a call runs a text of the author's: a literal without anything put into it.

Each rule is one pass over the program's text; none reads the language.  A program that hides what it does
is not found.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

_LONGEST = 65_536  # characters of a program that are read
_PLAIN_STRING = r"""(?:"[^"\\$#@{]*"|'[^'\\]*')"""
_ENDS = r"""\s*(?:[,);\]}\n]|\Z|\|\||&&|\bor\b|\bif\b|\bunless\b)"""

_PYTHON = re.compile(
    r"""(?:\bos\s*\.\s*(?:system|popen)|(?<![.\w])(?:system|popen|eval|exec|getoutput|getstatusoutput)
        |\bsubprocess\s*\.\s*(?:getoutput|getstatusoutput)
        |\b(?:c?[Pp]ickle|marshal)\s*\.\s*loads?|\brunpy\s*\.\s*\w+|\bimport_module|\b__import__)\s*\(\s*""",
    re.VERBOSE,
)
_PYTHON_SHELL = re.compile(r"\bshell\s*=\s*(?:True|1)\b")
_PYTHON_CALL = re.compile(r"\b(?:run|call|Popen|check_call|check_output)\s*\(\s*")
_SHELL_LIST = re.compile(r"""["'](?:/\w+)*/?(?:ba|da|z|k|a)?sh["']\s*,\s*\[?\s*["']-\w*c["']\s*,\s*""")
_RUNS_ARGUMENT = {  # a command that is an argument of the program
    "python": re.compile(
        r"""\b(?:run|call|Popen|check_call|check_output|exec[lv]\w*|spawn[lv]\w*)\s*\(\s*(?:os\.P_\w+\s*,\s*)?(?:\[\s*\*?\s*)?
            (?:sys\s*\.\s*)?(?:argv|shlex\s*\.\s*split|stdin)\b|\bcreate_subprocess_shell\s*\(\s*(?:sys\.)?argv
          |\btimeit\s*\.\s*\w+\s*\(\s*(?:sys\.)?argv|\byaml\s*\.\s*(?:unsafe_load|load\s*\([^)]*\.(?:Unsafe|Full)?Loader\s*\))""",
        re.VERBOSE,
    ),
    "perl": re.compile(  # s/(.*)/$1/ee
        r"""\bs(?:([^\w\s\\{(\[<])(?:\\.|(?!\1)[^\\])*+\1(?:\\.|(?!\1)[^\\])*+\1|\{[^{}]*+\}\s*+\{[^{}]*+\})(?=\w*e\w*e)"""
    ),
    "node": re.compile(r"\b(?:spawn|execFile)(?:Sync)?\s*\(\s*process\.argv|\brequire\s*\(\s*process\.argv"),
}
_PERL = re.compile(
    r"""(?<![\w$@%&>:{-])(?:system|exec|eval|qx|require|do)\b(?!\s*(?:\{|=>|=[^=~]|;|BLOCK))\s*\(?\s*
        |(?<![\w$@%&>:{-])open\b\s*\(?\s*(?:(?:my|our|local)\s+)?[$*]?\w+\s*,\s*""",
    re.VERBOSE,
)
_PERL_OPENS = re.compile(r"(?<!<)<(?:ARGV)?>(?!>)")  # `<<>>` opens nothing but files
_RUBY = re.compile(
    r"""(?<![\w$@.])(?:(?:Kernel\.)?(?:system|exec|eval|spawn|open|load|require)|IO\.popen|Open3\.\w+|IO\.read|File\.open)
        (?![\w:?!]|\s*(?:=[^=~]|=>))\s*\(?\s*|\.(?:instance_eval|class_eval|module_eval)\s*\(?\s*|%x""",
    re.VERBOSE,
)
_NODE = re.compile(
    r"""(?<![.\w])(?:eval|Function|execSync|exec)\s*\(\s*|child_process(?:['"]\s*\))?\s*\.\s*(?:exec|execSync)\s*\(\s*
        |\.\s*execSync\s*\(\s*|\bvm\s*\.\s*\w+\s*\(\s*|\bshell\s*:\s*true\b""",
    re.VERBOSE,
)
_PHP = re.compile(
    r"""(?<![\w$>])(?:system|exec|shell_exec|passthru|eval|popen|proc_open|assert|create_function|include|require)
        (?:_once)?\b\s*\(?\s*""",
    re.VERBOSE,
)
_LUA = re.compile(r"(?:\bos\.execute|\bio\.popen|(?<![.\w])(?:load|loadstring|dofile))\s*\(?\s*")
_FIXED = re.compile(_PLAIN_STRING + _ENDS)
_BACKQUOTED = re.compile(r"`[^`]*[$@#][^`]*`|\bqx\b[^\n]*[$@]")

_CALLS = {
    "python": _PYTHON,
    "perl": _PERL,
    "ruby": _RUBY,
    "node": _NODE,
    "php": _PHP,
    "lua": _LUA,
}
_WITH_BACKQUOTES = frozenset({"perl", "ruby", "php"})
FAMILY = {
    **dict.fromkeys(("python", "pypy", "ipython"), "python"),
    **dict.fromkeys(("node", "nodejs", "deno", "bun", "tsx", "ts-node"), "node"),
    **dict.fromkeys(("lua", "luajit"), "lua"),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk", "original-awk"), "awk"),
    **dict.fromkeys(("sed", "gsed"), "sed"),
    **{name: name for name in ("perl", "ruby", "php")},
}


def runs_its_data(command: str, program: str) -> bool:
    """Whether a program for a command runs text that is not fixed in it, as far as can be seen."""
    family = FAMILY.get(command)
    return family is not None and len(program) <= _LONGEST and _runs(family, program)


@functools.lru_cache(maxsize=256)
def _runs(family: str, program: str) -> bool:
    if family == "awk":
        return any(text is None for text in _awk_commands(program))
    if family == "sed":
        return _SED_EXECUTES.search(program) is not None
    if family in _WITH_BACKQUOTES and _BACKQUOTED.search(program):
        return True
    if any(not _FIXED.match(program, call.end()) for call in _CALLS[family].finditer(program)):
        return True
    if any(not _FIXED.match(program, call.end()) for call in _SHELL_LIST.finditer(program)):
        return True
    if family in _RUNS_ARGUMENT and _RUNS_ARGUMENT[family].search(program):
        return True
    return family == "python" and _python_shell(program)


def opens_its_arguments(program: str) -> bool:
    """Whether a program of perl opens its arguments, of which "command |" is a pipe."""
    return _PERL_OPENS.search(program) is not None


def _python_shell(program: str) -> bool:
    """A call of subprocess with `shell=True` whose command is not fixed."""
    return bool(_PYTHON_SHELL.search(program)) and any(
        not _FIXED.match(program, call.end()) for call in _PYTHON_CALL.finditer(program)
    )


# ---------------------------------------------------------------- sed

# A run of addresses is entered at its start alone, or a long one would be read again from each character.
# `s/a/b/e` and a lone `e` run the line; `e command` runs what the author wrote.
_SED_EXECUTES = re.compile(
    r"""(?: \A | [;{}\n] | (?<=/) | (?<![ \t!0-9,$]) (?=[ \t!,]*+[0-9$]) ) [ \t!0-9,$]*+
        (?: s(?P<d>[^\w\s\\]) (?:\\.|(?!(?P=d))[^\\\n])*+ (?P=d) (?:\\.|(?!(?P=d))[^\\])*+ (?P=d)
            [gpIiMm0-9]*e
          | e [ \t]*+ (?: \Z | [;}\n] ) )""",
    re.VERBOSE,
)

# ---------------------------------------------------------------- awk

_AWK_TOKEN = re.compile(
    r"""(?P<string> "(?:[^"\\\n]|\\.)*+" ) | (?P<comment> \#[^\n]*+ )
      | (?P<regex> (?<=[(,=!~&|{};\n]) [ \t]*+ /(?:[^/\\\n]|\\.)++/ | \A [ \t]*+ /(?:[^/\\\n]|\\.)++/ )""",
    re.VERBOSE | re.DOTALL,
)
_AWK_SYSTEM = re.compile(r"(?<!\w)system\s*\(\s*")
_AWK_ALONE = re.compile(r"\x01(\d+)\x02\s*(?=[;})\n]|\Z)")
_AWK_LAST = re.compile(r"(?:\A|[;{}()\n&|!])\s*\x01(\d+)\x02\s*\Z")


def pipes_of_awk(program: str) -> tuple[str, ...]:
    """The commands, fixed in an awk program, that it starts."""
    return tuple(text for text in _awk_commands(program[:_LONGEST]) if text is not None)


def _awk_commands(program: str) -> Iterator[str | None]:
    """The commands that an awk program starts; None for one that is not a fixed text."""
    strings: list[str] = []

    def mask(token: re.Match[str]) -> str:
        if not token["string"]:
            return " "
        strings.append(re.sub(r"\\(.)", r"\1", token["string"][1:-1]))
        return f"\x01{len(strings) - 1}\x02"

    masked = _AWK_TOKEN.sub(mask, program.replace("\x01", " "))
    for call in _AWK_SYSTEM.finditer(masked):
        alone = _AWK_ALONE.match(masked, call.end())
        yield strings[int(alone[1])] if alone else None
    for pipe in re.finditer(r"(?<!\|)\|&?(?!\|)\s*(getline)?", masked):
        if pipe[1]:
            last = _AWK_LAST.search(masked[max(0, pipe.start() - 200) : pipe.start()])
            yield strings[int(last[1])] if last else None
        else:
            alone = _AWK_ALONE.match(masked, pipe.end())
            yield strings[int(alone[1])] if alone else None
    if re.search(r"@\w+\s*\(", masked):
        yield None  # a call of a function that a variable names
