"""What commands do with what they are given, beyond the arguments that are code.  Pure.

Owns the lists: commands that run another, that take anything as data, that tell nothing of what they read;
the variables whose value is code; and the ways out that messages name.  The commands that parse an argument
again are `known`'s.
"""

from __future__ import annotations

import re

from llmc_build.shellcode.known import COMMANDS


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands that run another command given among their arguments, with their own options that take a value.
WRAPPERS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        _set("command builtin nohup setsid time gtime exec busybox toybox"),
        _set("-a -f -o --format --output"),
    ),
    **dict.fromkeys(_set("env genv"), _set("-u --unset -C --chdir")),
    **dict.fromkeys(_set("nice gnice"), _set("-n --adjustment")),
    "ionice": _set("-c -n -p --class --classdata"),
    "chrt": _set("-T -P -D"),
    **dict.fromkeys(_set("timeout gtimeout"), _set("-s --signal -k --kill-after")),
    **dict.fromkeys(_set("stdbuf gstdbuf"), _set("-i -o -e --input --output --error")),
    "sudo": _set("-u -g -C -p -h -r -t -U -D -R -T --user --group --prompt --chdir"),
    "doas": _set("-u -C"),
    "pkexec": _set("--user"),
    "xargs": _set("-I -i -n -P -L -s -d -a -E --replace --max-args --max-procs --delimiter --arg-file"),
    "strace": _set("-e -o -s -p -E -u -P --trace --output"),
    "ltrace": _set("-e -o -s -p -u -l"),
    "valgrind": frozenset(),
    "perf": _set("-e -o -g"),
    "chroot": frozenset(),
    "flock": _set("-w -E --timeout --conflict-exit-code"),
    "taskset": frozenset(),
    "numactl": _set("-N -m -C -p -i --cpunodebind --membind --physcpubind"),
    "unshare": _set("-S -G -R -w --setuid --setgid --root --wd"),
    "nsenter": _set("-t --target -S -G"),
    "setpriv": _set("--reuid --regid --groups --pdeathsig"),
    **dict.fromkeys(_set("setarch linux32 linux64 i386 x86_64 uname26"), frozenset()),
    "prlimit": _set("-p --pid"),
    "cpulimit": _set("-l -p -e"),
    "systemd-run": _set("-u --unit -p --property -E --setenv --slice --uid --gid -t -H -M"),
    "firejail": frozenset(),
    **dict.fromkeys(
        _set("fakeroot eatmydata catchsegv chronic ts unbuffer rlwrap caffeinate winpty"), _set("-l -s -i -b")
    ),
    "faketime": frozenset(),
    "xvfb-run": _set("-n -s -w -e -f -p --server-num --server-args"),
    "dbus-run-session": frozenset(),
    "ssh-agent": frozenset(),
    "run-one": frozenset(),
    "daemonize": _set("-p -l -o -e -c -u -E"),
    "mpirun": _set("-n -np -H -host -hostfile --hostfile"),
    "srun": _set("-n -N -c -p -J -t --ntasks --nodes"),
    "ip": frozenset(),
}
# Operands of a wrapper itself, before the command that it runs.
WRAPPER_OPERANDS = {
    **dict.fromkeys(_set("timeout gtimeout chroot flock taskset chrt faketime setarch perf"), 1),
    "ip": 3,
}

# Commands that take any argument as data, also one that begins with "-".
HARMLESS = _set("echo printf [ test : true false return exit")

# Commands whose output says nothing of the text that they read.
COUNTING = _set("wc cksum md5sum sha1sum sha256sum sha512sum b2sum cmp true false test [ nproc")

# Options of curl whose data may be the name of a file.
SENDING = _set("-d --data --data-ascii --data-binary --data-urlencode --json -H --header -F --form")

# Commands that print what is in their environment; and how programs of others name it.
ENVIRONMENT = _set("env printenv envsubst declare typeset export set")
NAMES_ENVIRONMENT = re.compile(r"(?i)env|\$\{?[A-Z_]")

# Commands that write to a file what they read from another: the last operand.
COPYING = _set("cp mv ln install link gcp gmv rsync")

# Variables that decide which programs run, or that a shell evaluates: a value there is code.
DANGEROUS_VARIABLE = re.compile(
    r"PATH|BASH_ALIASES|BASH_CMDS|IFS|ENV|BASH_ENV|PS[0-4]|PROMPT_COMMAND|SHELL|SHELLOPTS|BASHOPTS|CDPATH|HOME|EDITOR|VISUAL|\w*PAGER|BROWSER"
    r"|LESSOPEN|LESSCLOSE|LESS|LESSKEY|LD_\w+|DYLD_\w+|GCONV_PATH|LOCPATH|PERL5?(?:OPT|LIB|DB)\w*|PERL_\w+|RUBY(?:OPT|LIB|SHELL)"
    r"|PYTHON(?:PATH|HOME|STARTUP|BREAKPOINT|WARNINGS|INSPECT|USERBASE|PLATLIBDIR|PYCACHEPREFIX|EXECUTABLE)"
    r"|NODE_(?:OPTIONS|PATH|EXTRA_CA_CERTS)|BASH_FUNC\w*|BASH_LOADABLES_PATH"
    r"|GIT_(?!(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL|DATE)\Z|MERGE_AUTOEDIT\Z|TERMINAL_PROMPT\Z)\w+"
    r"|RANDOM|SRANDOM|OPTIND|HISTCMD|LINENO|BASHPID|BASH_XTRACEFD|EPOCH\w+|\w*MAKEFLAGS|MAKEFILES|MFLAGS"
    r"|_?JAVA_(?:TOOL_)?OPTIONS|JDK_JAVA_OPTIONS|CLASSPATH|LUA_(?:INIT|PATH|CPATH)\w*|PHPRC|PHP_INI_SCAN_DIR|TCLLIBPATH|GEM_PATH"
    r"|(?:TAR|GZIP|ZIP|UNZIP|RSYNC|GREP)_?(?:OPTIONS|OPT)|PARALLEL|RSYNC_(?:RSH|CONNECT_PROG)|CVS_RSH|SVN_SSH"
    r"|(?:SSH|SUDO)_ASKPASS|SUDO_EDITOR|FCEDIT|VIMINIT|EXINIT|MYVIMRC|ZDOTDIR|FPATH|INPUTRC|AWKPATH|AWKLIBPATH|XDG_CONFIG_HOME|OPENSSL_\w+"
    r"|MAVEN_\w*OPTS|GRADLE_OPTS|SBT_OPTS|RUSTFLAGS|PYTEST_ADDOPTS|RUSTC_WRAPPER|CARGO_HOME|GOFLAGS|R_PROFILE\w*|R_ENVIRON\w*|KUBECONFIG|ANSIBLE_\w+|MANOPT|MANROFFSEQ|npm_config_\w+|PIP_(?:INDEX|EXTRA|CONFIG)\w*"
)

# Variables that ksh and its kin calculate when they are set.
NUMERIC_VARIABLE = frozenset({"SECONDS", "TMOUT", "HISTSIZE", "COLUMNS", "LINES", "PPID"})

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
    "sed": "let awk do it: X={{ x }} awk '... ENVIRON[\"X\"] ...'",
    "printf": "write the format yourself: printf '%s' {{ x }}",
    "eval": "run the command directly, with {{ x }} as one of its arguments",
    "xargs": "let the command read a file: {{ x | path }}",
    "sqlite3": """let SQL read it: sqlite3 db "select readfile('/dev/stdin')" < {{ x | path }}""",
    "psql": "give it as a variable: psql -v x={{ x }}, and :'x' in a script of its own",
    "ssh": "send it as input: ssh host 'command' < {{ x | path }}",
    **dict.fromkeys(
        ("make", "gmake"),
        "make expands what it is given: let a recipe read a file, {{ x | path }} > NAME before",
    ),
    "parallel": "give it behind `:::`, or as input: parallel command ::: {{ x }}",
    "git": "give it to an option that takes text, as git commit -m {{ x }}",
}
DEFAULT_HINT = "pass the value as an argument, or as a file with {{ x | path }}"


def base_name(word: str) -> str:
    """The command that a word names, without folder and version: `/usr/bin/python3.11` is `python`."""
    name = word.rsplit("/", 1)[-1]
    return re.sub(r"(?<=[a-z])[0-9][0-9.]*\Z", "", name) if name not in COMMANDS else name
