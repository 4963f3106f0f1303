"""What `shellcode` makes of scripts, without running any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from llmc_build import template
from llmc_build.shellcode.prelude import Load, prelude, with_prelude
from llmc_build.shellcode.rewrite import Script, Variable, rewrite
from llmc_build.template import Ref, TemplateError

CASES = Path(__file__).parent / "shell_cases"
ACCEPTED: list[str] = yaml.safe_load((CASES / "accepted.yaml").read_text())
REFUSED: list[list[str]] = yaml.safe_load((CASES / "refused.yaml").read_text())
SINKS: list[dict[str, str]] = yaml.safe_load((CASES / "sinks.yaml").read_text())["cases"]
ORDINARY: list[str | dict[str, str]] = yaml.safe_load((CASES / "ordinary.yaml").read_text())["cases"]


def slots() -> object:
    known: dict[str, str] = {}
    return lambda ref: known.setdefault(ref.text, f"v{len(known)}")


def rewritten(source: str, shell: str = "sh") -> Script:
    return rewrite(template.parse(source), shell=shell, slot=slots())  # type: ignore[arg-type]


def shape(script: Script) -> str:
    """The text with the hashes of the names left out."""
    return re.sub(r"__llmc_(\w+?)_[0-9a-f]{8}\b", r"\1", script.text)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("echo {{x}}", 'echo "${v0}"'),
        ("echo a{{ x }}b{{ y }}", 'echo a"${v0}"b"${v1}"'),
        ('echo "a {{x}} b"', 'echo "a ${v0} b"'),
        ("echo 'a {{x}} b'", "echo 'a '\"${v0}\"' b'"),
        ("cat <<E\n{{x}} $y\nE\n", "cat <<E\n${v0} $y\nE\n"),
        ("cat <<'E'\n{{x}} $y `z` \\\nE\n", "cat <<E\n${v0} \\$y \\`z\\` \\\\\nE\n"),
        ("cat <<'E'\n$y\nE\necho {{x}}", "cat <<'E'\n$y\nE\necho \"${v0}\""),
        ('echo "$(echo {{x}} "{{x}}")"', 'echo "$(echo "${v0}" "${v0}")"'),
        ("echo {{x}} # it's {{x}}", 'echo "${v0}" # it\'s ${v0}'),
        ("cat {{x | path}} {{x | raw}} {{x | trim}}", 'cat "${v0_path}" "${v0_raw}" "${v0_trim}"'),
        ("echo {{ '{{' }}y}} {{x}}", 'echo {{y}} "${v0}"'),
    ],
)
def test_a_placeholder_becomes_the_expansion_that_its_quoting_needs(source: str, expected: str) -> None:
    assert shape(rewritten(source)) == expected


@pytest.mark.parametrize("source", ACCEPTED)
def test_ordinary_uses_are_accepted(source: str) -> None:
    """A lint that refuses honest scripts would be switched off in the user's mind."""
    assert "{{" not in rewritten(source, "bash").text
    assert "{{" not in rewritten(source, "sh").text


def test_a_value_that_would_run_is_refused_in_every_script_known() -> None:
    """`tests/faults/test_lint.py` sees that it would run."""
    missed = []
    for case in SINKS:
        try:
            rewritten(case["script"], case.get("shell", "sh"))
        except TemplateError as error:
            if all(problem.hint for problem in error.problems):
                continue
        missed.append(case["script"])
    assert missed == []


def test_no_ordinary_use_of_a_value_is_refused() -> None:
    refused = {}
    for case in ORDINARY:
        script, shell = (case, "sh") if isinstance(case, str) else (case["script"], case.get("shell", "sh"))
        try:
            rewritten(script, shell)
        except TemplateError as error:
            refused[script] = str(error)
    assert refused == {}


@pytest.mark.parametrize(("shell", "source", "where", "message"), REFUSED)
def test_what_is_not_safe_is_refused_at_its_place(shell: str, source: str, where: str, message: str) -> None:
    with pytest.raises(TemplateError) as raised:
        rewritten(source, shell)
    found = [(problem.message, source[problem.offset :]) for problem in raised.value.problems]
    assert any(text == message and rest.startswith(where) for text, rest in found), found


def test_every_refusal_of_a_value_says_how_to_write_it_instead() -> None:
    without = set()
    for shell, source, _, message in REFUSED:
        with pytest.raises(TemplateError) as raised:
            rewritten(source, shell)
        without |= {p.message for p in raised.value.problems if p.message == message and p.hint is None}
    syntax = re.compile(r"this .* is never closed|unexpected .*|expected .*|.* in a script for sh")
    assert [message for message in without if not syntax.fullmatch(message)] == []


def test_all_problems_of_a_script_are_reported_together() -> None:
    source = 'echo ${a:-{{x}}} `{{y}}`\n{{x}} | sh\necho > {{y}} "$(({{x}}))"'
    with pytest.raises(TemplateError) as raised:
        rewritten(source)
    assert [source[problem.offset :][:5] for problem in raised.value.problems] == [
        "{{x}}", "{{y}}", "{{x}}", "sh\nec", "{{y}}", "{{x}}",
    ]  # fmt: skip


def test_renaming_what_a_script_refers_to_does_not_change_its_text() -> None:
    """The text is part of the action key, and renaming runs nothing."""
    assert rewritten("echo {{x}} # {{ w.s }}").text == rewritten("echo {{ other }} # {{longer.name}}").text


def test_scripts_that_differ_in_a_filter_differ_in_their_text() -> None:
    texts = {rewritten(f"echo {{{{x{f}}}}}").text for f in ("", " | raw", " | trim", " | json", " | path")}
    assert len(texts) == 5


def test_names_of_variables_can_not_be_those_of_the_script() -> None:
    first = rewritten("echo {{x}}").variables[0].name
    assert rewritten(f"{first}=a; echo {{{{x}}}}").variables[0].name != first


def test_a_variable_is_listed_once_for_each_way_of_filtering() -> None:
    script = rewritten("echo {{x}} '{{x}}' {{x | raw}} {{x | path}} {{ y | trim | json }}")
    assert [(v.slot, v.filters, v.path) for v in script.variables] == [
        ("v0", (), False),
        ("v0", ("raw",), False),
        ("v0", (), True),
        ("v1", ("trim", "json"), False),
    ]
    assert all(isinstance(v, Variable) and v.name in script.text for v in script.variables)


def test_a_reference_in_a_comment_is_not_read() -> None:
    script = rewritten("# {{x}}\necho {{y}}")
    assert [ref.text for ref in script.reads] == ["y"]
    assert [variable.slot for variable in script.variables] == ["v1"]


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("curl -d {{x}} h", "curl -d"),
        ('curl -sS --data-binary "{{x}}" h', "curl --data-binary"),
        ('curl -F "t={{x}}" h', "curl -F"),
        ('y={{x}}; curl --json "$y" h', "curl --json"),
        ('curl -d "q={{x}}" h', None),
        ('curl -H "A: {{x}}" h', None),
        ("curl --data-raw {{x}} h", None),
    ],
)
def test_data_for_curl_is_checked_for_being_the_name_of_a_file(source: str, command: str | None) -> None:
    assert [check[1] for check in rewritten(source).dash_checks] == ([command] if command else [])


def test_variables_that_begin_one_argument_together_are_all_checked() -> None:
    """The first may be empty."""
    script = rewritten("rm {{x}}{{y}}z{{w}}")
    assert [name for name, _ in script.dash_checks] == [variable.name for variable in script.variables[:2]]


def test_a_slot_that_is_no_word_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not a slot"):
        rewrite(template.parse("echo {{x}}"), shell="sh", slot=lambda ref: "a b")


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cat notes.txt | wc -l", ("notes.txt",)),
        ("cat ./a/b.txt 'c d.txt' \"e\" a//b.txt", ("a/b.txt", "c d.txt", "e")),
        ("sort < in.txt > out.txt 2>> log.txt", ("in.txt",)),
        ("./tools/run.sh x; script y; bin/z", ("tools/run.sh", "x", "y", "bin/z")),
        ('cat /etc/passwd ../up a/../b ~/h *.txt [ab] ? $x a$x "$x" --file=f -x', ()),
        (
            'echo $(cat in.txt) `sort b.txt` "$(wc c.txt)" ${x:-$(cat d.txt)}',
            ("in.txt", "b.txt", "c.txt", "d.txt"),
        ),
        ("a=b.txt c=$(cat d.txt) cat e.txt", ("d.txt", "e.txt")),
        ("for f in a.txt b.txt; do cat $f; done < c.txt", ("a.txt", "b.txt", "c.txt")),
        ("if [ -f a.txt ]; then cat b.txt; else ! cat c.txt; fi", ("a.txt", "]", "b.txt", "c.txt")),
        ("f() { cat a.txt; }; f b.txt", ("a.txt", "b.txt")),
        ("cat {{x}} a.txt b{{x}}", ("a.txt",)),
        ("# cat a.txt\ncat b.txt # c.txt", ("b.txt",)),
        ("cat <<EOF b.txt\na.txt\nEOF\ncat c.txt", ("b.txt", "c.txt")),
        ("case a in a.txt) cat b.txt;; esac", ("a", "b.txt")),
        (
            "x=$(case y in z) cat a.txt;; esac); (( 1 + 2 )); [[ -f b.txt ]]; cat c.txt",
            ("y", "a.txt", "b.txt", "c.txt"),
        ),
        ("diff <(sort a.txt) <(sort b.txt)", ("a.txt", "b.txt")),
        ("python3 train.py data", ("train.py", "data")),
    ],
)
def test_plain_words_that_may_be_files_are_listed(source: str, expected: tuple[str, ...]) -> None:
    assert rewritten(source, "bash").words == expected


def test_a_script_without_placeholders_is_left_alone_however_odd() -> None:
    source = "cat a.txt; shopt -s extglob; ls !(b.txt) $'\\t' c.txt <<<$(( x + `d` )) ) fi \" e/f.txt"
    script = rewritten(source)
    assert (script.text, script.variables, script.dash_checks, script.reads) == (source, (), (), ())
    assert {"a.txt", "c.txt", "e/f.txt"} <= set(script.words)


# ---------------------------------------------------------------- arguments that begin with "-"


@pytest.mark.parametrize(
    ("source", "commands"),
    [
        ("grep {{x}} f", ["grep"]),
        ("grep '{{x}}' f; rm \"{{x}}\"", ["grep", "rm"]),
        ("timeout -k 1 5 env A=b rm {{x}}", ["rm"]),
        ("python3 script.py {{x}}", ["python"]),
        ("f() { cat; }; f {{x}}", ["f"]),
        ("grep -- {{x}} f; grep -e {{x}} f; rm -f -- a {{x}}", []),
        ("echo {{x}}; printf '%s' {{x}}; [ {{x}} = a ]; test {{x}}; : {{x}}", []),
        ("rm {{x}}.bak; ls ''{{x}}*", ["ls", "rm"]),
        ("rm a{{x}} {{x | path}} {{x | path}}{{x}}", []),
        ("git commit -m {{x}}; curl --data-raw {{x}} u; jq --arg n {{x}} . f; awk -v a={{x}} 1", []),
        ("sh -c 'echo \"$1\"' sh {{x}}; sh -- s {{x}}", []),
        ("y={{x}}; for i in {{x}}; do :; done; case {{x}} in {{x}}) :;; esac", []),
        ('y={{x}}; rm "$y"', ["rm"]),
        ('y="{{x}}"; git fetch "$y" .; tar cf a.tar "$y" b; split "$y" f', ["split"]),
        ('z={{x}}; y=$z; for i in "$y"; do scp "${i:-a}" f h:; done', ["scp"]),
        ('f() { local y={{x}}; git log "$y"; }; f; hash "$y" ls', ["hash"]),
        ('f() { ssh "$2" h; }; f -- {{x}}', ["ssh"]),
        ('f() { ssh "$1" h; }; f -- {{x}}', []),
        ("sh -c 'sort \"$1\"' sh {{x}}", ["sort"]),
        ('set -- {{x}} b; git clone "$@"', ["git"]),
        ('y="a{{x}}"; tar cf a.tar "$y"; y={{x}}; grep -e "$y" f; sort -- "$y"', ["tar"]),
        ('y="a{{x}}"; tar cf a.tar "$y"', []),
        ('f() { echo "$1"; }; y={{x}}; f "$y"; echo "$y"', []),
        ('y={{x | path}}; sort "$y"', []),
    ],
)
def test_the_beginning_of_an_argument_is_checked_for_looking_like_an_option(
    source: str, commands: list[str]
) -> None:
    """`grep {{x}}` with the value `-f/etc/passwd` would read that file."""
    assert sorted({command for _, command in rewritten(source).dash_checks}) == sorted(commands)


def test_a_long_program_is_read_in_time_that_grows_with_its_length() -> None:
    """Each of these took minutes while the search began anew at every digit."""
    for part in ("0", "0 ", "$", "1,", "s/a/b/0"):
        rewritten(f"printf %s {{{{x}}}} | sed '{part * (60_000 // len(part))}'")


# ---------------------------------------------------------------- prelude


def test_the_prelude_is_one_line_and_line_numbers_stay() -> None:
    loads = [
        Load(variable="a", kind="environment", source="E"),
        Load(variable="b", kind="file", source="/o'b/f"),
        Load(variable="d", kind="file", source="/f", newlines="/g"),
        Load(variable="c", kind="path", source="/p q"),
    ]
    assert prelude(loads) == (
        "a=${E?} && unset E; b=$(/bin/cat '/o'\\''b/f') || exit 125; "
        "d=$(/bin/cat '/g' && printf x) && d=$(/bin/cat '/f')${d%x} || exit 125; c='/p q'"
    )
    assert with_prelude("#!/bin/sh\necho", loads) == f"{prelude(loads)}; #!/bin/sh\necho"
    assert with_prelude("echo", []) == "echo"


# ---------------------------------------------------------------- any text at all

PIECES = r"""{{x}} {{x|path}} $ ${ $( $(( (( )) ) } { ` ' " \ # <<EOF\n <<'EOF'\n <<-E \nEOF\n EOF | || & ; ;; < >
    <<< <( [[ ]] if_ then_ fi for_ in_ do_ done case_ esac f() a= a[ ]= =( ! y eval_ sh_-c_ xargs_ env_ printf_
    read_ find_-exec_ set_--_ \0 é 0 * \n _"""
ALPHABET = st.sampled_from(PIECES.split()).map(
    lambda text: text.replace("_", " ").replace("\\n", "\n").replace("\\0", "\0")
)


@given(st.lists(ALPHABET, max_size=25).map("".join), st.sampled_from(["sh", "bash"]))
@example("{{x}}" + "$(" * 500, "sh")
@example("{{x}}" + "{ " * 500, "sh")
@example("{{x}}" + '"$(' * 500, "sh")
@example("echo " + '"$(echo ' * 19 + "{{x}}" + ')"' * 19, "sh")
@example("echo " + '"$(sh -c "' * 7 + "{{x}}" + '")"' * 7, "sh")
@example("(" * 3000, "sh")
@example("`" * 3000 + "sh -c '" * 50, "bash")
def test_any_text_is_rewritten_or_refused_by_a_template_error(text: str, shell: str) -> None:
    """Text comes from users: no other exception, and never a script with another number of lines."""
    try:
        parsed = template.parse(text)
        script = rewrite(parsed, shell=shell, slot=lambda ref: "v0")  # type: ignore[arg-type]
    except TemplateError as error:
        outside = [problem for problem in error.problems if not 0 <= problem.offset <= len(text)]
        if outside or not error.problems:
            pytest.fail(f"misplaced: {outside}")
        return
    assert script.text.count("\n") == text.count("\n")
    assert all(isinstance(part, Ref) or part in script.text or "<<" in text for part in parsed.parts)


@given(st.text(max_size=40))
def test_any_characters_are_rewritten_or_refused_by_a_template_error(text: str) -> None:
    try:
        rewritten(text + " {{x}}")
    except TemplateError:
        return
