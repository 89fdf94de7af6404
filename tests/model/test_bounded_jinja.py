"""Templates of models that would never end, or fill the memory."""

from __future__ import annotations

import json
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tokenizer_json
from transformers import AutoTokenizer

from laplm.model import bounded_jinja
from laplm.model.chat import ChatTemplate, ChatTemplateError
from laplm.model.tokenizer import Tokenizer

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well\n, well."}]
LONG = "it takes more than"
MUCH = "it makes (a number of )?more than"
RANGE = "range(99999)"
NESTED = f"{{% for a in {RANGE} %}}{{% for b in {RANGE} %}}"
ENDS = "{% endfor %}{% endfor %}"
DOUBLED = "{{% for i in range(60) %}}{{% set ns.s = {} %}}{{% endfor %}}"
NEVER_ENDING = [
    NESTED + "{% for c in range(99999) %}" + ENDS + "{% endfor %}",
    NESTED + "{% if false %}x{% endif %}" + ENDS,
    NESTED + "{% continue %}" + ENDS,
    f"{{% for a in {RANGE} if a is odd %}}{{% for b in {RANGE} if b > 99998 %}}" + ENDS,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "{% for n in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    f"{{% for a in {RANGE} %}}{{{{ {RANGE} | map('string') | join | length }}}}{{% endfor %}}",
    f"{{% for a in {RANGE} %}}{{% if {RANGE} | select('odd') | list == [] %}}{{% endif %}}"
    "{% endfor %}",
    f"{{% macro f() %}}{NESTED}{{{{ caller() }}}}{ENDS}{{% endmacro %}}"
    "{% call f() %}{% endcall %}",
]
BOMBS = [
    "{{ 'a' * 10**10 }}", "{{ 10**10 * 'a' }}", "{% set x = [0] * 10**10 %}",
    "{% set x = (1, 2) * 10**9 %}", "{{ 10**(10**10) }}", "{{ 7 ** 99999999 }}",
    "{{ (2 ** 99999) * (2 ** 99999) }}", "{{ '%9999999999d' % 1 }}",
    "{{ '%(a%b)9999999999d' % {'a%b': 1} }}", "{{ '%*d' % (9999999999, 1) }}",
    "{{ '%*d' | format(9999999999, 1) }}", "{{ '{:>9999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 9999999999) }}", "{{ '{:{}9999999999}'.format(1, '') }}",
    "{{ '{a:{b}}'.format_map({'a': 1, 'b': 9999999999}) }}", "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.center(10**10) }}", "{{ 'a' | center(10**10) }}", "{{ 'a'.zfill(10**10) }}",
    "{{ '\t'.expandtabs(10**10) }}", "{{ 'a' | indent(10**10, true) }}",
    "{{ 'a\nb' | indent('x' * 10**7) | length }}" * 9, "{{ [1] | tojson(indent=10**10) }}",
    "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}", "{{ ('a' * 10**6) | replace('', 'b' * 99) }}",
    "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}", "{{ ('a' * 10**6).join(range(99999)) }}",
    "{{ range(99999) | join('a' * 10**6) }}", "{{ range(99999) | map('center', 10**6) | list }}",
    "{{ range(99999) | batch(10**10, 'x') | list }}", "{{ range(9) | slice(10**9) | list }}",
    "{{ 1.5 | round(10**9, 'ceil') }}", "{{ (1).to_bytes(10**10, 'big') | length }}",
    "{{ lipsum(10**9) }}", "{{ ('a<' * 10**6) | striptags }}", "{{ ('a' * 10**6).encode('idna') }}",
    "{{ ([range(99999) | list] * 99) | sum(start=[]) }}",
    "{% set ns = namespace(s='ab') %}" + DOUBLED.format("ns.s + ns.s"),
    "{% set ns = namespace(s='ab') %}" + DOUBLED.format("ns.s ~ ns.s"),
    "{% set ns = namespace(s='ab') %}" + DOUBLED.format("'%s%s' % (ns.s, ns.s)"),
    "{% set ns = namespace(s='ab') %}" + DOUBLED.format("'{0}{0}'.format(ns.s)"),
    "{% set ns = namespace(s='ab') %}" + DOUBLED.format("[ns.s, ns.s] | join"),
    "{% set ns = namespace(s='ab') %}" + DOUBLED.format("ns.s.replace('b', ns.s)"),
    "{% set ns = namespace(s=[1]) %}" + DOUBLED.format("[ns.s, ns.s]") + "{{ ns.s }}",
    "{% set ns = namespace(s=[1]) %}" + DOUBLED.format("(ns.s, ns.s)") + "{{ ns.s | tojson }}",
    "{% set ns = namespace(s=[1]) %}" + DOUBLED.format("{1: ns.s, 2: ns.s}") + "{{ ns.s ~ '' }}",
    "{% set ns = namespace(s=[1]) %}" + DOUBLED.format("namespace(a=ns.s, b=ns.s)") + "{{ ns }}",
    "{% set ns = namespace() %}{% set all = [ns] * 9 %}{{ all }}{% set ns.s = 'a' * 10**6 %}"
    + "{{ all }}" * 9,
    "{% set s = 'ab' %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 60,
    "{% set s = 'ab' * 10**6 %}" + "{% set ns.x = s[1:] %}".replace("ns.", "") * 99,
    "{% macro f(n) %}" + "x" * 999 + "{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(90) }}",
    f"{{% for a in {RANGE} %}}" + "x" * 9999 + "{% endfor %}",
]  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat")
    make_tokenizer_json(path)
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (path / "config.json").write_text('{"model_type": "gpt2"}')
    return path


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(directory)


@pytest.fixture(scope="module")
def theirs(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_jinja, "MAX_SECONDS", 0.1)


@pytest.mark.parametrize("source", NEVER_ENDING)
def test_a_template_that_never_ends_is_ended(
    tokenizer: Tokenizer, short: None, source: str
) -> None:
    with pytest.raises(ChatTemplateError, match=f"{LONG} 0.1 seconds|{MUCH}|recursion") as caught:
        ChatTemplate(source, tokenizer).encode(TURNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", BOMBS)
def test_a_template_that_would_fill_the_memory_is_ended(tokenizer: Tokenizer, source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ChatTemplateError, match=MUCH) as caught:
            ChatTemplate(source, tokenizer).encode(TURNS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 300e6


def test_each_thread_has_limits_of_its_own(tokenizer: Tokenizer, short: None) -> None:
    said: list[str] = []

    def render() -> None:
        try:
            ChatTemplate(NEVER_ENDING[0], tokenizer).render(TURNS)
        except ChatTemplateError as error:
            said.append(str(error))

    threads = [threading.Thread(target=render) for _ in range(3)]
    for thread in threads:
        thread.start()
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", tokenizer)
    assert template.render(TURNS) == "HiWell\n, well."
    for thread in threads:
        thread.join()
    assert len(said) == 3


def test_a_template_as_long_as_no_model_has_one_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ChatTemplateError, match=r"is damaged \(300,000 characters"):
        ChatTemplate("x" * 300_000, tokenizer).render(TURNS)


# Whatever is counted gives what it gives in transformers.
HARMLESS = [
    "{{ [1, 'a', (2, 3), {'b': [4.5, none]}] }}", "{{ messages }}", "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}", "{{ messages | tojson(sort_keys=true) }}",
    "{{ 'a' ~ 1 ~ none ~ [1] ~ missing }}", "{{ 2 ** 10 }} {{ 7 % 3 }} {{ 3 * 4 }} {{ 1 + 2.5 }}",
    "{{ 'ab' * 3 }}{{ 3 * [1] }}{{ (1,) + (2,) }}{{ 'a' + 'b' }}{{ -1 * 'a' }}",
    "{{ '%5d|%-4s|%05.2f%%' % (3, 'x', 2.5) }}{{ '%s' % messages[0] }}{{ '%(a)3s' % {'a': 1} }}",
    "{{ '%*d' % (5, 3) }}{{ '%s and %r' | format('a', 'b') }}{{ '{:>5}{a!r}'.format(1, a='x') }}",
    "{{ '{:{}}'.format(1, 5) }}{{ '{x[content]}'.format(x=messages[0]) }}",
    "{{ 'a-b-c'.split('-') }}{{ '-'.join(['a', 'b']) }}{{ 'a\tb'.expandtabs(4) }}"
    "{{ 'é'.encode() }}",
    "{{ 'abc'.replace('b', 'xx') }}{{ 'abc' | replace('b', 1) }}{{ 'ab'.center(6, '*') }}",
    "{{ 'abc'[1:] }}{{ messages[:1] }}{{ messages[::-1] | length }}{{ 'abc' | list }}",
    "{{ [3, 1, 2] | sort }}{{ [1, 2] | sum }}{{ [[1], [2]] | sum(start=[]) }}{{ [1, 2] | join }}",
    "{{ messages | join(', ', attribute='content') }}{{ messages | map(attribute='role') | list }}",
    "{{ range(5) | batch(2, 0) | list }}{{ lipsum(0) }}",
    "{{ messages | groupby('role') }}{{ {'b': 1, 'a': 2} | dictsort }}"
    "{{ range(5) | slice(2) | list }}",
    "{{ 'x\ny' | indent(2, true) }}{{ 'a b c' | wordwrap(3) }}{{ 2.567 | round(1) }}"
    "{{ 'a b' | title }}",
    "{{ '<b>x</b>' | striptags | upper }}{{ '<' | e }}{{ {'a': 1} | xmlattr }}"
    "{{ 'a b' | urlencode }}",
    "{% set x %}a{{ messages[0].content }}b{% endset %}{{ x }}"
    "{% filter upper %}{{ x }}{% endfilter %}",
    "{% for a, b in {'k': 1, 'l': 2}.items() %}{{ loop.index }}{{ a }}{{ b }}"
    "{% else %}none{% endfor %}",
    "{% for a in range(9) if a is odd %}{% if a == 3 %}{% continue %}{% endif %}{{ a }}"
    "{% if a == 7 %}{% break %}{% endif %}{% endfor %}",
    "{% macro f(x, y=[1]) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}"
    "{% call f('a', y=(2,)) %}!{% endcall %}",
    "{% for n in [[1, [2]], [3]] recursive %}{{ loop(n) if n is iterable else n }}{% endfor %}",
    "{% set ns = namespace(a=[], n=0) %}{% for m in messages %}{% set ns.a = ns.a + [m.role] %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.a }}{{ ns.n }}",
    "{{ messages is iterable }}{{ 'a' in 'abc' }}{{ 1 in [1, 2] }}{{ [1] == [1] }}{{ missing }}",
    "{{ messages[0].get('x', 'y') }}{{ messages[0].keys() | list }}{{ dict(a=1) }}{{ 3.7 | int }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}"
    "{% set j = joiner(', ') %}{{ j() }}{{ j() }}",
    "{% block x %}{{ messages[0].role }}{% endblock %}{% with a = 1 %}{{ a }}{% endwith %}",
    "{% generation %}{{ messages[1].content | trim }}{% endgeneration %}{{ 5 | string }}{{ true }}",
]  # fmt: skip


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_counted_gives_what_transformers_gives(
    tokenizer: Tokenizer, theirs: Any, source: str
) -> None:
    wanted = theirs.apply_chat_template(TURNS, chat_template=source, tokenize=False)
    assert ChatTemplate(source, tokenizer).render(TURNS) == wanted


def test_a_long_conversation_is_within_the_limits(tokenizer: Tokenizer) -> None:
    turns = [{"role": r, "content": "word " * 50} for r in ("user", "assistant")] * 500
    source = (
        "{% set ns = namespace(text='') %}{% for m in messages %}{% if loop.index0 < messages | "
        "length %}{% set rest = messages[loop.index0:] %}{{ m.role + ': ' + m.content ~ '\\n' }}"
        "{% endif %}{% endfor %}"
    )
    text = ChatTemplate(source, tokenizer).render(turns)
    assert text.count("\n") == 1000
    assert ChatTemplate("{{ messages | tojson }}", tokenizer).render(turns) == json.dumps(turns)
