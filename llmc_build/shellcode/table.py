"""Which argument of which command is code.  Pure.

Owns the table of commands that parse an argument, a file or their input again.  How their options are
read is `options`'; what reaches such an argument is `lint`'s question.  The table can't be
complete: it serves a lint that finds the common mistakes, on top of the rewriting, which is what keeps
values out of the script.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Operands(enum.Enum):
    """What the arguments that are no options are."""

    DATA = "data"
    SCRIPT = "the first names a file of code, unless an option gave the code"
    CODE = "the first is code, unless an option gave it"
    ALL_CODE = "every one is code"
    AFTER_FIRST = "every one but the first is code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How one command reads its arguments."""

    operands: Operands = Operands.DATA
    code: frozenset[str] = frozenset()  # options whose value is code
    files: frozenset[str] = frozenset()  # options whose value names code
    values: frozenset[str] = frozenset()  # options whose value is data
    pairs: frozenset[str] = frozenset()  # options with two values
    suffix: frozenset[str] = frozenset()  # options that take the rest of their own word and nothing else
    stdin: bool = False  # standard input is code where no option and no operand gives any
    shell: bool = False  # a POSIX shell: -c takes the first operand, and its code can be scanned again


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SHELL = Command(
    operands=Operands.SCRIPT,
    values=_set("-o +o -O +O"),
    files=_set("--rcfile --init-file"),
    stdin=True,
    shell=True,
)
_ALL = Command(operands=Operands.ALL_CODE)
_ALL_AND_INPUT = Command(operands=Operands.ALL_CODE, stdin=True)
_PYTHON = Command(
    operands=Operands.SCRIPT, code=_set("-c"), files=_set("-m"), values=_set("-W -X"), stdin=True
)
PERL = Command(
    operands=Operands.SCRIPT, code=_set("-e -E"), files=_set("-I -M -m"), suffix=_set("-i"), stdin=True
)
_NODE = Command(
    operands=Operands.SCRIPT,
    code=_set("-e -p --eval --print"),
    files=_set("-r --require --import --loader"),
    stdin=True,
)
_AWK = Command(
    operands=Operands.CODE,
    code=_set("-e --source"),
    files=_set("-f --file -i --include -l --load -E --exec"),
    values=_set("-v --assign -F --field-separator"),
)
_SED = Command(
    operands=Operands.CODE,
    code=_set("-e --expression"),
    files=_set("-f --file"),
    values=_set("-l"),
    suffix=_set("-i"),
)
_JQ = Command(
    operands=Operands.CODE,
    files=_set("-f --from-file -L"),
    values=_set("--indent"),
    pairs=_set("--arg --argjson --slurpfile --rawfile --argfile"),
)
_SQL = Command(
    operands=Operands.DATA,
    code=_set("-c --command -e --execute"),
    files=_set("-f --file"),
    values=_set("-d -h -U -u -p -v --set"),
    stdin=True,
)
_EDITOR = Command(operands=Operands.DATA, code=_set("-c --cmd"), files=_set("-S -s -u"), stdin=True)

COMMANDS: dict[str, Command] = {
    **dict.fromkeys(_set("sh dash bash ash ksh mksh zsh yash fish rbash csh tcsh"), _SHELL),
    **dict.fromkeys(
        _set("eval let alias compgen complete bind tmux screen watch make gmake ninja just"), _ALL
    ),
    **dict.fromkeys(_set("parallel crontab at batch expect gdb m4"), _ALL_AND_INPUT),
    **dict.fromkeys(_set("python pypy"), _PYTHON),
    **dict.fromkeys(_set("perl ruby"), PERL),
    **dict.fromkeys(_set("node nodejs deno bun"), _NODE),
    **dict.fromkeys(_set("awk gawk mawk nawk"), _AWK),
    **dict.fromkeys(_set("sed gsed"), _SED),
    **dict.fromkeys(_set("jq yq gojq jaq"), _JQ),
    **dict.fromkeys(_set("psql mysql mariadb duckdb"), _SQL),
    **dict.fromkeys(_set("vi vim nvim ex ed"), _EDITOR),
    **dict.fromkeys(_set(". source"), Command(operands=Operands.SCRIPT)),
    **dict.fromkeys(
        _set("lua tclsh Rscript php osascript pwsh ghci sbcl guile"),
        Command(
            operands=Operands.SCRIPT,
            code=_set("-e -r -c -B -E -R --eval -Command"),
            files=_set("-f -l"),
            stdin=True,
        ),
    ),
    "trap": Command(operands=Operands.CODE),
    "bc": Command(operands=Operands.DATA, files=frozenset(), stdin=True),
    "dc": Command(code=_set("-e --expression"), files=_set("-f --file"), stdin=True),
    "sqlite3": Command(
        operands=Operands.AFTER_FIRST,
        code=_set("-cmd"),
        files=_set("-init"),
        values=_set("-separator -nullvalue -newline"),
        stdin=True,
    ),
    "ssh": Command(
        operands=Operands.AFTER_FIRST,
        code=_set("-o"),
        files=_set("-F"),
        values=_set("-b -c -D -E -e -I -i -J -L -l -m -O -p -Q -R -S -W -w"),
        stdin=True,
    ),
    "su": Command(code=_set("-c --command"), stdin=True),
    "script": Command(code=_set("-c --command")),
    "tar": Command(
        code=_set(
            "-I --use-compress-program --to-command --checkpoint-action -F --info-script --rsh-command"
        ),
        values=_set("-f --file -C --directory --exclude"),
    ),
    "rsync": Command(code=_set("-e --rsh --rsync-path"), values=_set("--exclude --include")),
    "git": Command(
        code=_set("-c --upload-pack --receive-pack --exec -x"),
        values=_set("-m --message --author --date -C --grep -S -G --format"),
    ),
    "gh": Command(values=_set("-t --title -b --body -m --message -R --repo -f -F --field")),
    "curl": Command(
        files=_set("-K --config"),
        values=_set(
            "-d --data --data-raw --data-binary --data-urlencode --json -F --form --form-string -H --header "
            "-A --user-agent -X --request -u --user -o --output -e --referer -b --cookie --url --max-time -m"
        ),
    ),
    "wget": Command(
        code=_set("-e --execute --use-askpass"),
        values=_set("-O --output-document --header --post-data --body-data -U --user-agent"),
    ),
    "grep": Command(values=_set("-e --regexp -m -A -B -C --include --exclude --color")),
    "sort": Command(code=_set("--compress-program"), values=_set("-k -t -o -T -S")),
    "split": Command(code=_set("--filter")),
    "mapfile": Command(operands=Operands.ALL_CODE, code=_set("-C"), values=_set("-d -n -O -s -u -c")),
    "readarray": Command(operands=Operands.ALL_CODE, code=_set("-C"), values=_set("-d -n -O -s -u -c")),
    "printf": Command(operands=Operands.CODE, code=_set("-v")),
    "read": Command(operands=Operands.ALL_CODE, values=_set("-p -d -n -N -t -u -i")),
    "unset": _ALL,
    "getopts": Command(operands=Operands.AFTER_FIRST),
    "wait": Command(code=_set("-p")),
    "man": Command(code=_set("-P -H --pager")),
    "zip": Command(code=_set("-TT --unzip-command")),
}
for _same in ("egrep", "fgrep", "rg"):
    COMMANDS[_same] = COMMANDS["grep"]

# Commands that run another command given among their arguments, with their own options that take a value.
WRAPPERS: dict[str, frozenset[str]] = {
    **dict.fromkeys(_set("command builtin nohup setsid time exec busybox"), _set("-a -f -o")),
    "env": _set("-u --unset -C --chdir"),
    "nice": _set("-n --adjustment"),
    "ionice": _set("-c -n"),
    "timeout": _set("-s --signal -k --kill-after"),
    "stdbuf": _set("-i -o -e"),
    "sudo": _set("-u -g -C -p -h -r -t -U -D -R -T"),
    "doas": _set("-u -C"),
    "xargs": _set("-I -i -n -P -L -s -d -a -E --replace --max-args --max-procs --delimiter --arg-file"),
    "strace": _set("-e -o -s -p"),
    "chroot": frozenset(),
    "flock": _set("-w -E"),
    "taskset": frozenset(),
    "unshare": frozenset(),
}
# Operands of a wrapper itself, before the command that it runs.
WRAPPER_OPERANDS = {"timeout": 1, "chroot": 1, "flock": 1, "taskset": 1}

# Commands that take any argument as data, also one that begins with "-".
HARMLESS = _set("echo printf [ test : true false return exit")

# Commands whose output says nothing of the text that they read.
COUNTING = _set("wc cksum md5sum sha1sum sha256sum cmp true false test [")

# Variables that decide which programs run, or that a shell evaluates: a value there is code.
DANGEROUS_VARIABLE = re.compile(
    r"PATH|IFS|ENV|BASH_ENV|PS[0-4]|PROMPT_COMMAND|SHELL|SHELLOPTS|BASHOPTS|CDPATH|HOME|TMPDIR|EDITOR|VISUAL|PAGER"
    r"|LESSOPEN|LESSCLOSE|LD_\w+|DYLD_\w+|PYTHON\w*|PERL5?\w*|RUBY\w*|NODE_\w+|GIT_\w+|BASH_FUNC\w*|MANPAGER|_"
    r"|RANDOM|SRANDOM|OPTIND|HISTCMD|SECONDS|LINENO|BASHPID|BASH_XTRACEFD|EPOCH\w+|MAKEFLAGS|JAVA_TOOL_OPTIONS"
)

# The ways out, for messages.
HINTS: dict[str, str] = {
    **dict.fromkeys(
        (name for name, command in COMMANDS.items() if command.shell),
        """pass it behind the code: sh -c '... "$1" ...' sh {{ x }}""",
    ),
    "python": "pass it behind the code and read sys.argv[1]: python3 -c '...' {{ x }}",
    "node": "pass it behind the code and read process.argv[1]: node -e '...' -- {{ x }}",
    "perl": "pass it behind the code and shift it: perl -e 'my $x = shift; ...' -- {{ x }}",
    "ruby": "pass it behind the code and read ARGV[0]: ruby -e '...' -- {{ x }}",
    **dict.fromkeys(_set("awk gawk mawk nawk"), "give it as a variable: awk -v x={{ x }} '... x ...'"),
    **dict.fromkeys(_set("jq yq gojq jaq"), "give it as a variable: jq --arg x {{ x }} '... $x ...'"),
    "sed": "use awk -v x={{ x }} '...', which takes the value as data",
    "printf": "write the format yourself: printf '%s' {{ x }}",
    "eval": "run the command directly, with {{ x }} as one of its arguments",
    "xargs": "let the command read a file: {{ x | path }}",
    "sqlite3": """let SQL read it: sqlite3 db "select readfile('/dev/stdin')" < {{ x | path }}""",
    "psql": "give it as a variable: psql -v x={{ x }}, and :'x' in a script of its own",
    "ssh": "send it as input: ssh host 'command' < {{ x | path }}",
}
DEFAULT_HINT = "pass the value as an argument, or as a file with {{ x | path }}"


def base_name(word: str) -> str:
    """The command that a word names, without folder and version: `/usr/bin/python3.11` is `python`."""
    name = word.rsplit("/", 1)[-1]
    return re.sub(r"(?<=[a-z])[0-9][0-9.]*\Z", "", name) if name not in COMMANDS else name
