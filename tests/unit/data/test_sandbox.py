"""A template of a downloaded folder takes bounded time and memory, and says so in one sentence."""

import json

import pytest
from tokenizers_for_tests import make_tokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.text import sandbox
from cot_components.data.text.sandbox import names_in
from cot_components.data.text.templates import ChatTemplate, load_template, read_template
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError

GROWS = "{% set n = namespace(x='xx') %}{% for i in range(64) %}{% set n.x = GROW %}{% endfor %}{{ n.x }}"
TOO_MUCH = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(64) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ [0] * 10**9 }}",
    "{{ 10**(10**9) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ ('\\n' * 100000) | indent(100000) }}",
    *(
        GROWS.replace("GROW", grow)
        for grow in (
            "n.x ~ n.x",
            "n.x + n.x",
            "n.x.replace('x', 'xx')",
            "n.x | replace('x', 'xx')",
            "[n.x, n.x] | join",
            "''.join([n.x, n.x])",
        )
    ),
    GROWS.replace("{% set n.x = GROW %}", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
    "{% set x = 'a' * 9000000 %}{% for i in range(99) %}{{ x }}{% endfor %}",
]


@pytest.mark.parametrize("source", TOO_MUCH)
def test_too_much_is_one_sentence(source, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_ROUNDS", 20_000)
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 1e9)
    with pytest.raises(UserError, match=r"chat template mine: .*set dataset\.template") as caught:
        ChatTemplate("mine", source).render([{"role": "user", "content": "a"}])
    assert not isinstance(caught.value, RowError) and "\n" not in str(caught.value)


def test_time_is_bounded_too(monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", -1.0)
    with pytest.raises(UserError, match="its loops take"):
        ChatTemplate("mine", "{% for m in messages %}{% endfor %}").render([{"role": "user", "content": "a"}])


def test_long_conversations_are_no_fault():
    source = "{% for m in messages %}{{ '<' + m.role ~ '>' }}{{ m.content | trim }}{% endfor %}"
    messages = [{"role": "user", "content": "word " * 20_000}] * 40
    assert len(ChatTemplate("long", source).render(messages)) == 40 * (len("<user>") + 5 * 20_000 - 1)


def test_loops_and_macros_write_what_jinja_writes():
    import jinja2

    source = """{% macro f(n) %}[{{ n ~ '-' ~ caller() if caller else n }}]{% endmacro %}
    {%- for m in messages if m.role != 'tool' recursive %}{{ loop.index ~ '/' ~ loop.length }}{{ loop.previtem }}
    {%- if not loop.last %},{% else %}.{% endif %}{{ f(loop.index0) }}{% call f(1) %}x{% endcall %}
    {%- else %}none{% endfor %}
    {%- for a in 'ab' %}{% for b in 'cd' if b != a %}{{ a ~ b }}{{ loop.nextitem }}{% endfor %}{% endfor %}"""
    for messages in ([], [{"role": role} for role in ("user", "tool", "assistant")]):
        expected = (
            jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source).render(messages=messages)
        )
        assert ChatTemplate("t", source).render(messages) == expected


@pytest.mark.parametrize(
    "source", ["{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{% if a %}" * 300 + "{% endif %}" * 300]
)
def test_a_template_that_nests_too_deep_is_named_at_once(tmp_path, source):
    (tmp_path / "deep.jinja").write_text(source, encoding="utf-8")
    with pytest.raises(UserError, match=r"deep\.jinja: it cannot be compiled"):
        load_template(str(tmp_path / "deep.jinja"), make_tokenizer("byte", tmp_path / "byte"))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json"])
def test_a_deep_file_beside_the_tokenizer_is_one_sentence(tmp_path, name):
    folder = tmp_path / "byte"
    make_tokenizer("byte", folder)
    (folder / name).write_text('{"chat_template": ' + "[" * 100_000 + "]" * 100_000 + "}", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}.*nested too deep"):
        read_hf_tokenizer(folder)
    if name == "tokenizer_config.json":
        with pytest.raises(UserError, match="nested too deep"):
            read_template(folder)


def test_a_deep_tokenizer_json_is_one_sentence(tmp_path):
    folder = tmp_path / "byte"
    make_tokenizer("byte", folder)
    rules = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    text = json.dumps({**rules, "normalizer": 0}).replace('"normalizer": 0', '"normalizer": ' + "[" * 9000 + "]" * 9000)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"is no tokenizer\.json"):
        read_hf_tokenizer(folder)


def test_names_in_a_template():
    names = names_in("{{ m.thinking }}{{ m['reasoning'] }}{% if 'a' in m %}{{ strftime_now('%d') }}{% endif %} words")
    assert {"thinking", "reasoning", "a", "strftime_now"} <= names and "words" not in names
