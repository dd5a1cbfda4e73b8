"""Chat templates of strangers: limits of time and memory, in any thread, that no conversation notices."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from doge_export.errors import OptionError, PackageError
from doge_export.runtime import template_limits
from doge_export.runtime.chat_template import ChatTemplate

HI = [{"role": "user", "content": "Hi"}]
ROUNDS = "{% for a in range(100000) %}{% for b in range(100000) %}"
GROWING = "{{% set ns = namespace(x='a') %}}{{% for i in range(99) %}}{}{{% endfor %}}{{{{ ns.x }}}}"
LAUGHS = "{{% set ns = namespace(x=1) %}}{{% for i in range(40) %}}{{% set ns.x = {} %}}{{% endfor %}}{{{{ ns.x }}}}"


def growing(expression: Any) -> Any:
    return GROWING.format("{% set ns.x = " + expression + " %}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        ROUNDS + "x{% endfor %}{% endfor %}",
        "{% for a in range(100000) if false %}{% endfor %}" * 99,
        "{% for x in range(100000) recursive %}{% if loop.depth < 2 %}{{ loop(range(100000)) }}{% endif %}{% endfor %}",
        "{% for x in range(99) %}{% for y in range(100000) %}{{ loop.length }}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{{ ([range(100000)] * 99) | map('list') | map('length') | sum }}",
    ],
    ids=["nested", "filtered", "recursive", "length", "macros", "map"],
)
def test_a_template_that_takes_too_many_steps_is_refused(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MOST_WORK", 2**16)  # so that it ends sooner
    with pytest.raises(OptionError, match=r"^the chat template asks for too much: it takes too many steps"):
        ChatTemplate(source).render(HI)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10 ** 12 }}",
        "{{ 10 ** 12 * ['x'] }}",
        "{{ 10 ** (10 ** 8) }}",
        "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ ('f' * 1000000) | int(base=16) // 3 }}",
        growing("ns.x ~ ns.x"),
        growing("ns.x + ns.x"),
        growing("'%s%s' % (ns.x, ns.x)"),
        growing("'%s%s' | format(ns.x, ns.x)"),
        growing("'{0}{0}'.format(ns.x)"),
        growing("'{a}{a}'.format_map({'a': ns.x})"),
        growing("[ns.x, ns.x] | join"),
        growing("''.join([ns.x, ns.x])"),
        growing("ns.x.replace('a', 'aa')"),
        growing("ns.x | replace('a', 'aa')"),
        GROWING.format("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        LAUGHS.format("[ns.x, ns.x]"),
        LAUGHS.format("(ns.x, ns.x)"),
        LAUGHS.format("{'a': ns.x, 'b': ns.x}"),
        LAUGHS.format("dict(a=ns.x, b=ns.x)"),
        "{{ '%1000000000000d' % 1 }}",
        "{{ '%*d' % (10 ** 12, 1) }}",
        "{{ '{:>1000000000000}'.format('a') }}",
        "{{ '{:>{}}'.format('a', 10 ** 12) }}",
        "{{ 'a'.center(10 ** 12) }}",
        "{{ ('a' | attr('zfill'))(10 ** 12) }}",
        "{{ 'a' | indent(10 ** 12) }}",
        "{{ [1, 2] | tojson(indent=10 ** 12) }}",
        "{{ 5 | round(-10 ** 9) }}",
        "{{ range(100000) | join('x' * 1000000) }}",
        "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).rfind('a' * 250000 + 'b' + 'a' * 250000) }}",
        "{{ ([[0] * 1000] * 9) | sum(start=[]) }}",
        "{% set y %}{% for i in range(100000) %}" + "x" * 50_000 + "{% endfor %}{% endset %}",
        "{% macro m() %}"
        + "x" * 50_000
        + "{% endmacro %}{% set y %}{% for i in range(100000) %}{{ m() }}{% endfor %}{% endset %}",
        "{% set t = 'a'.center(1000000) %}{% for i in range(100000) %}{% set x = namespace(x=t[i:]) %}{% endfor %}",
        "{% set t = 'a'.center(1000000) %}{% for i in range(100000) %}{% set x = t.split('a') %}{% endfor %}",
        "{{ dict(['ab'] * 20000) }}",
        "{{ strftime_now('%Y' * 600) }}",
        "{% set t = 'a'.center(100000) %}{% for i in range(20) %}{{ t }}{% endfor %}",
    ],
)
def test_a_template_that_needs_too_much_memory_is_refused_before_it_takes_any(source: Any) -> None:
    start = time.perf_counter()
    with pytest.raises(OptionError, match=r"^the chat template asks for too much: it [^.]*$"):
        ChatTemplate(source).render(HI)
    assert time.perf_counter() - start < template_limits.MOST_SECONDS


@pytest.mark.parametrize(
    "expression", ["'a'.translate({97: 'b'})", "5 .to_bytes(10 ** 9)", "'\\t'.expandtabs(10 ** 9)", "lipsum(10 ** 9)"]
)
def test_methods_and_functions_that_make_much_out_of_little_are_not_offered(expression: str) -> None:
    with pytest.raises(OptionError, match=r"is unsafe$|is undefined$"):
        ChatTemplate("{{ " + expression + " }}").render(HI)


def test_namespaces_in_each_other_are_short_to_print() -> None:
    assert ChatTemplate(LAUGHS.format("namespace(a=ns.x, b=ns.x)")).render(HI) == "<Namespace>"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 'a' | center(10 ** 12) }}", "No filter named 'center'"),
        ("{% for a in [1] %}" * 25 + "{% endfor %}" * 25, "too many statically nested blocks"),
        ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "recursion"),
        ("{{ " + "9" * 9999 + " }}", "integer string conversion"),
        ("x" * 10**6, "1,000,000 characters; the most are"),
    ],
)
def test_a_source_that_cannot_be_compiled_is_a_damaged_package(source: Any, reason: Any) -> None:
    with pytest.raises(PackageError, match=rf"^the chat template is not valid Jinja \(.*{reason}"):
        ChatTemplate(source)


@pytest.mark.slow
def test_a_template_that_takes_too_long_ends_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MOST_SECONDS", 0.3)
    slow = "{% set a = range(100000) | list %}" + "{% if -1 in a %}{% endif %}" * 999  # a millisecond each
    errors = []

    def render() -> None:
        with pytest.raises(OptionError, match=r"it takes more than 0\.3 seconds") as error:
            ChatTemplate(slow).render(HI)
        errors.append(error)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_a_limit_grows_with_the_messages() -> None:
    long = [{"role": "user", "content": "word " * 10**6}]
    assert len(ChatTemplate("{{ messages[0].content | trim }}{{ messages[0].content }}").render(long)) == 10**7 - 1


def test_one_template_renders_in_many_threads_each_with_its_own_budget() -> None:
    template, results = ChatTemplate("{% for i in range(3000) %}{{ messages[0].content }}{% endfor %}"), []
    threads = [threading.Thread(target=lambda: results.append(template.render(HI))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["Hi" * 3000] * 8


# A bit of everything that templates do, so that every hook is passed through.
EVERYTHING = """\
{%- macro kind(schema, depth=0) -%}
    {%- if schema.type == 'array' -%}{{ kind(schema['items'], depth + 1) + '[]' }}
    {%- elif schema.type in ['object', 'map'] -%}
        {{ '{' }}{% for name, value in schema.properties | dictsort %}{{ name }}: {{ kind(value, depth + 1) }}
        {{- ', ' if not loop.last }}{% endfor %}{{ '}' }}
    {%- else -%}{{ schema.type | default('any') }}{%- endif -%}
{%- endmacro -%}
{%- macro wrapped(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro -%}
{%- set ns = namespace(seen=[], text='', last=-1) -%}
{%- for message in messages[::-1] if message.role == 'user' and ns.last < 0 -%}
    {%- set ns.last = messages | length - 1 - loop.index0 -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set body = message.content -%}
    {%- if '</think>' in body -%}{%- set body = body.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}
    {%- set ns.seen = ns.seen + [message.role] -%}
    {%- set ns.text = ns.text ~ loop.index ~ ':' ~ (body | trim) ~ '\\n' -%}
    {%- if loop.previtem is defined and loop.previtem.role == message.role -%}{{- '(again)' -}}{%- endif -%}
    {% call wrapped(message.role | upper) %}{{ '%s-%05d' % (body[:20], loop.index) }}{% endcall %}
    {{- '{:>8}|{!r}'.format(loop.length, loop.first) }}{{ loop.cycle('odd', 'even') }}
{% endfor -%}
{{ ns.text }}{{ ns.seen | unique | join(', ') }}{{ ns.last }}{{ (ns.last * 3 // 2) ** 2 % 7 }}
{{ messages | map(attribute='role') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ kind({'type': 'array', 'items': {'type': 'object', 'properties': {'b': {}, 'a': {'type': 'string'}}}}) }}
{{ {'k': [1, (2, 3)]} | tojson(indent=2) }}{{ messages[0] | tojson }}
{{ ('a', 1.5, none, true) }}{{ 'x'.center(5, '*') }}
{%- for group in messages | groupby('role') recursive %}{{ group.grouper }}={{ group.list | length }}{% endfor %}
{%- filter upper %}{{ "filtered\\n" | indent(2, true) }}{% endfilter %}{{ range(5) | sum }}{{ [3, 1] | sort | first }}
"""


def test_a_template_that_uses_everything_renders_as_in_transformers() -> None:
    roles = ["system", "user", "assistant", "user", "user"]
    messages = [{"role": role, "content": f"<think>no</think>\n\nIt's {i} & more\n"} for i, role in enumerate(roles)]
    expected, _ = render_jinja_template([messages], chat_template=EVERYTHING, add_generation_prompt=True)
    assert ChatTemplate(EVERYTHING).render(messages) == expected[0]


@pytest.mark.parametrize("source", ["", "{% if false %}x{% endif %}", "{# nothing #}"])
def test_a_template_that_writes_nothing_is_refused(source: str) -> None:
    with pytest.raises(
        OptionError, match=r"^the chat template writes nothing for these messages; give other messages$"
    ):
        ChatTemplate(source).render(HI)


def test_a_text_much_longer_than_its_messages_is_refused() -> None:
    template = ChatTemplate("{{ 'a ' * n }}".replace("n", "40000"))
    with pytest.raises(OptionError, match=r"it writes more than 65,\d+ characters"):
        template.render([{"role": "user", "content": "Hi"}])
    long = [{"role": "user", "content": "Hi" * 20_000}]
    assert len(template.render(long)) == 80_000
