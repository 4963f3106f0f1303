"""The commands that parse an argument, a file or their input again, and which.  Pure.

Owns the table.  How an argument list is cut up by it is `options`'; what a command takes its data for where
no table says it is `table`'s.  The table can't be complete: it serves a lint that finds the common
mistakes, on top of the rewriting, which is what keeps values out of the script.
"""

from __future__ import annotations

import enum

from llmc_build.frozen import frozen


class Operands(enum.Enum):
    """What the arguments that are no options are."""

    DATA = "data"
    SCRIPT = "the first names a file of code, unless an option gave the code"
    CODE = "the first is code, unless an option gave it"
    ALL_CODE = "every one is code"
    AFTER_FIRST = "every one but the first is code"
    ALL_FILES = "every one names code"


@frozen(kw_only=True)
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
    loose: bool = False  # the options of several programs: what takes a value in one may be a flag in another


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
PYTHON = Command(
    operands=Operands.SCRIPT, code=_set("-c"), files=_set("-m"), values=_set("-W -X"), stdin=True
)
PERL = Command(
    operands=Operands.SCRIPT, code=_set("-e -E"), files=_set("-I -M -m"), suffix=_set("-i"), stdin=True
)
_RUBY = Command(
    operands=Operands.SCRIPT,
    code=_set("-e"),
    files=_set("-I -r"),
    values=_set("-C -E -K -T --encoding --external-encoding"),
    suffix=_set("-i -F -W -x -0"),
    stdin=True,
)
_NODE = Command(
    operands=Operands.SCRIPT,
    code=_set("-e -p --eval --print -pe"),
    loose=True,
    files=_set("-r --require --import --loader"),
    stdin=True,
)
_DENO = Command(code=_set("-e --eval --print"), files=_set("-r --preload --import"), stdin=True)
AWK = Command(
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
_PSQL = Command(
    code=_set("-c --command"),
    files=_set("-f --file"),
    values=_set(
        "-d -h -U -p -v -o -F -P -R -T -L --set --variable --host --port --username --dbname --output --pset"
    ),
    stdin=True,
)
_MYSQL = Command(
    code=_set("-e --execute --init-command"),
    values=_set("-u -h -P -D -S --user --host --port --database --socket --delimiter"),
    suffix=_set("-p -#"),
    stdin=True,
)
_SQL = Command(
    operands=Operands.DATA,
    code=_set("-c --command -e --execute -execute --eval -q --query -s"),
    files=_set("-f --file -init --queries-file"),
    values=_set("-d -h -U -u -p -v --set --host --port --user --dbname --database"),
    stdin=True,
    loose=True,
)
_EDITOR = Command(
    operands=Operands.DATA,
    code=_set("-c --cmd +"),
    files=_set("-S -u"),
    values=_set("-T -i -w -W"),
    stdin=True,
)
_EX = Command(operands=Operands.DATA, code=_set("-c --cmd +"), files=_set("-S -u"), stdin=True)
_LANGUAGE = Command(
    operands=Operands.SCRIPT,
    code=_set(
        "-e -r -c -B -E -R -x -eval --eval --execute --expression -Command -command --run -EncodedCommand "
        "-batch"
    ),
    files=_set("-f -l -File -L -I"),
    stdin=True,
    loose=True,
)
_RUNS_OPTIONS = Command(  # commands that take a command in an option, by any of these names
    code=_set("-c --command --exec --cmd -x --exec-batch -X")
)
_INSTALLER = Command(  # a package runs code of its own when it is installed, and its name may be a URL
    operands=Operands.ALL_FILES,
    files=_set("-r --requirement -e --editable -i --index-url --extra-index-url -f --find-links"),
)
_CURL = Command(
    files=_set("-K --config --engine"),
    values=_set(
        "-d --data --data-raw --data-binary --data-urlencode --json -F --form --form-string -H --header "
        "-A --user-agent -X --request -u --user -o --output -e --referer -b --cookie --url --max-time -m"
    ),
)
_GREP = Command(values=_set("-e --regexp -m -A -B -C --include --exclude --color"))
_MAPFILE = Command(operands=Operands.ALL_CODE, code=_set("-C"), values=_set("-d -n -O -s -u -c"))

COMMANDS: dict[str, Command] = {
    **dict.fromkeys(
        _set(
            "sh dash bash ash ksh ksh93 mksh lksh pdksh posh oksh zsh yash fish rbash rksh csh "
            "tcsh elvish nu xonsh"
        ),
        _SHELL,
    ),
    **dict.fromkeys(
        _set("eval let alias compgen complete compopt bind tmux screen just task rake invoke fab hyperfine"),
        _ALL,
    ),
    **dict.fromkeys(
        _set("batch gdb lldb m4 gnuplot lftp ftp sftp telnet maxima gp bpftrace stap dtrace"), _ALL_AND_INPUT
    ),
    **dict.fromkeys(_set("at"), Command(files=_set("-f"), stdin=True)),
    **dict.fromkeys(_set("python pypy ipython"), PYTHON),
    "perl": PERL,
    "ruby": _RUBY,
    **dict.fromkeys(_set("node nodejs bun tsx ts-node"), _NODE),
    **dict.fromkeys(_set("awk gawk mawk nawk original-awk"), AWK),
    **dict.fromkeys(_set("sed gsed ssed"), _SED),
    **dict.fromkeys(_set("jq yq gojq jaq"), _JQ),
    **dict.fromkeys(
        _set("clickhouse clickhouse-client cqlsh mongosh mongo influx snowsql"),
        _SQL,
    ),
    "psql": _PSQL,
    **dict.fromkeys(_set("mysql mariadb"), _MYSQL),
    "duckdb": Command(
        operands=Operands.AFTER_FIRST, code=_set("-c -s -cmd"), files=_set("-init -f"), stdin=True
    ),
    # Modules of python that run what they are given, as commands: python -m NAME.
    "timeit": Command(operands=Operands.ALL_CODE, code=_set("-s --setup"), values=_set("-n -r -u --number")),
    **dict.fromkeys(
        _set("cProfile profile pdb trace runpy"), Command(operands=Operands.SCRIPT, values=_set("-o -s"))
    ),
    **dict.fromkeys(_set("vi vim nvim view gvim vimdiff"), _EDITOR),
    **dict.fromkeys(_set("ex ed red"), _EX),
    **dict.fromkeys(_set(". source"), Command(operands=Operands.SCRIPT)),
    **dict.fromkeys(
        _set(
            "lua luajit tclsh wish Rscript R php osascript pwsh powershell ghci ghc runghc runhaskell sbcl "
            "clisp ecl guile racket mzscheme julia octave matlab groovy scala kotlin jshell clojure clj bb "
            "elixir iex erl ocaml swift crystal raku jimsh expect qjs sage emacs emacsclient"
        ),
        _LANGUAGE,
    ),
    **dict.fromkeys(
        _set("make gmake bmake"),
        Command(
            operands=Operands.ALL_CODE,
            code=_set("--eval -E"),
            files=_set("-f --file --makefile -C --directory -I --include-dir"),
            values=_set("-j --jobs -l --load-average -o --old-file -W --what-if"),
        ),
    ),
    "git": Command(
        code=_set("--upload-pack --receive-pack --exec-path"),
        values=_set(
            "-m --message --author --date -C -c --grep -S -G --format --pretty --git-dir --work-tree"
        ),
    ),
    "parallel": Command(),
    "find": Command(
        values=_set(
            "-name -iname -path -ipath -wholename -iwholename -regex -iregex -lname -ilname -newer -anewer "
            "-cnewer -newermt -type -xtype -size -mtime -atime -ctime -mmin -amin -cmin -maxdepth -mindepth "
            "-user -group -uid -gid -perm -links -inum -samefile -fstype -regextype -printf"
        )
    ),
    "ninja": Command(files=_set("-f -C"), values=_set("-j -l -k -d -t")),
    "cmake": Command(files=_set("-P -C -S -B --toolchain")),
    "deno": _DENO,
    "trap": Command(operands=Operands.CODE),
    "crontab": Command(operands=Operands.SCRIPT, values=_set("-u"), stdin=True),
    "dc": Command(code=_set("-e --expression"), files=_set("-f --file"), stdin=True),
    "sqlite3": Command(
        operands=Operands.AFTER_FIRST,
        code=_set("-cmd --cmd"),
        files=_set("-init --init"),
        values=_set("-separator -nullvalue -newline"),
        stdin=True,
    ),
    "ssh": Command(
        operands=Operands.AFTER_FIRST,
        code=_set("-o"),
        files=_set("-F -I"),
        values=_set("-b -c -D -E -e -i -J -L -l -m -O -p -Q -R -S -W -w"),
        stdin=True,
    ),
    **dict.fromkeys(
        _set("autossh rsh remsh mosh pssh parallel-ssh clush dsh pdsh"),
        Command(
            operands=Operands.AFTER_FIRST, code=_set("-o --ssh"), values=_set("-l -p -w -h -H -u"), stdin=True
        ),
    ),
    "scp": Command(code=_set("-o -S"), files=_set("-F")),
    "su": Command(
        code=_set("-c --command --session-command"), values=_set("-s --shell -g -G -w"), stdin=True
    ),
    "runuser": Command(code=_set("-c --command"), values=_set("-u -g -G -s --shell -w"), stdin=True),
    **dict.fromkeys(_set("script watch"), Command(operands=Operands.DATA, code=_set("-c --command"))),
    "watch": Command(operands=Operands.ALL_CODE, values=_set("-n --interval -q --equexit")),
    "sg": Command(operands=Operands.AFTER_FIRST, code=_set("-c --command")),
    "newgrp": Command(stdin=True),
    "start-stop-daemon": Command(code=_set("-x --exec -a --startas")),
    "tar": Command(
        code=_set(
            "-I --use-compress-program --to-command --checkpoint-action -F --info-script "
            "--new-volume-script --rsh-command --rmt-command"
        ),
        values=_set("-f --file -C --directory --exclude -T --files-from --transform --xform"),
    ),
    "rsync": Command(code=_set("-e --rsh --rsync-path"), values=_set("--exclude --include -f --filter")),
    "gh": Command(values=_set("-t --title -b --body -m --message -R --repo -f -F --field --body-file")),
    "curl": _CURL,
    "wget": Command(
        code=_set("-e --execute --use-askpass"),
        values=_set("-O --output-document --header --post-data --body-data -U --user-agent -o -T -t -P"),
    ),
    **dict.fromkeys(_set("grep egrep fgrep zgrep"), _GREP),
    "rg": Command(values=_GREP.values, code=_set("--pre --hostname-bin")),
    "ag": Command(values=_GREP.values, code=_set("--pager")),
    "fzf": Command(
        code=_set("--preview --bind --execute"), values=_set("-q --query -f --filter -d --delimiter")
    ),
    "less": Command(code=_set("-k --lesskey-file")),
    "bat": Command(code=_set("--pager")),
    "sort": Command(
        code=_set("--compress-program"),
        values=_set("-k -t -o -T -S --key --field-separator --output --parallel"),
    ),
    "split": Command(code=_set("--filter"), values=_set("-l -n -b -C -a")),
    "mapfile": _MAPFILE,
    "readarray": _MAPFILE,
    "printf": Command(operands=Operands.CODE, code=_set("-v")),
    "read": Command(operands=Operands.ALL_CODE, values=_set("-p -d -n -N -t -u -i")),
    "unset": _ALL,
    "getopts": Command(operands=Operands.AFTER_FIRST),
    "wait": Command(code=_set("-p")),
    "hash": Command(files=_set("-p")),
    "enable": Command(files=_set("-f")),
    "history": Command(files=_set("-r -a -n -w"), values=_set("-d -s")),
    "fc": _ALL,
    "man": Command(code=_set("-P -H --pager --html")),
    "zip": Command(code=_set("-TT --unzip-command")),
    "socat": _ALL,
    **dict.fromkeys(
        _set("nc ncat netcat"),
        Command(code=_set("-e -c --exec --sh-exec"), files=_set("--lua-exec"), values=_set("-p -s -w")),
    ),
    "tcpdump": Command(code=_set("-z"), values=_set("-i -r -w -c -C -G -s")),
    "nmap": Command(files=_set("--script"), values=_set("-p -oN -oX -oG")),
    **dict.fromkeys(
        _set("npx bunx pnpx uvx"),
        Command(operands=Operands.SCRIPT, code=_set("-c --call"), files=_set("-p --package --from --with")),
    ),
    "flock": Command(code=_set("-c --command"), values=_set("-w -E --timeout")),
    "pandoc": Command(
        files=_set(
            "-F --filter -L --lua-filter --pdf-engine --template -H --include-in-header -d --defaults"
        ),
        values=_set("-o --output -f --from -t --to -M --metadata -V --variable"),
    ),
    **dict.fromkeys(
        _set("pdflatex xelatex lualatex latex tex pdftex luatex"),
        Command(operands=Operands.ALL_CODE, stdin=True),
    ),
    **dict.fromkeys(
        _set("gs ghostscript"), Command(operands=Operands.ALL_FILES, code=_set("-c"), stdin=True)
    ),
    **dict.fromkeys(
        _set("gcc cc g++ c++ clang clang++"),
        Command(code=_set("-wrapper -Xclang"), files=_set("-B -specs"), values=_set("-o -x -D -I -L")),
    ),
    **dict.fromkeys(
        _set("sbatch qsub bsub"), Command(operands=Operands.SCRIPT, code=_set("--wrap"), stdin=True)
    ),
    **dict.fromkeys(_set("ansible"), Command(code=_set("-a --args -e --extra-vars"))),
    **dict.fromkeys(
        _set("ansible-playbook"), Command(operands=Operands.ALL_FILES, code=_set("-e --extra-vars"))
    ),
    **dict.fromkeys(_set("fd fdfind"), _RUNS_OPTIONS),
    **dict.fromkeys(_set("vagrant gcloud heroku flyctl"), Command(code=_set("-c --command"))),
    **dict.fromkeys(_set("nix-shell nix"), Command(code=_set("--run --command -E --expr"), files=_set("-p"))),
    **dict.fromkeys(
        _set("dpkg apt-get apt aptitude"), Command(code=_set("-o --option --pre-invoke --post-invoke"))
    ),
    **dict.fromkeys(_set("redis-cli"), Command(code=_set("--eval"), values=_set("-h -p -a -n -u"))),
    **dict.fromkeys(_set("xterm urxvt"), Command(code=_set("-e"))),
    "inotifywait": Command(values=_set("-e --format -m")),
    "mlr": Command(operands=Operands.DATA, code=_set("put filter -e -s")),
}

_CODE = Command(operands=Operands.CODE)
_SCRIPT = Command(operands=Operands.SCRIPT)
# The same of subcommands: the others of these take data.
SUBCOMMANDS: dict[str, dict[str, Command]] = {
    **dict.fromkeys(
        _set("pip pipx gem npm pnpm yarn easy_install cpanm brew cargo bun"),
        dict.fromkeys(_set("install i add exec x dlx reinstall upgrade wheel download"), _INSTALLER),
    ),
    "uv": {
        **dict.fromkeys(_set("add tool"), _INSTALLER),
        "run": Command(operands=Operands.SCRIPT, files=_set("--with -m")),
    },
    "go": {"run": _SCRIPT, "install": _INSTALLER, "get": _INSTALLER, "generate": _SCRIPT},
    "deno": {"eval": _CODE, "run": _SCRIPT, "test": _SCRIPT},
}
