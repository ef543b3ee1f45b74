"""Chat templates: the built-in ones write what torchtune writes; any can only write text, in bounded time and room."""

import json
import re

import jinja2
import pytest
from chats import OPENS, PLAIN, REWRITES, REWRITES_AND_OPENS
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import llama3, make_tokenizer, qwen2_5
from torchtune.data import Message
from transformers import AutoTokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text import sandbox
from cot_components.data.text.sandbox import names_in
from cot_components.data.text.templates import BUILT_IN, ChatTemplate, Shield, load_template, read_template
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError
from cot_components.models.tokenizers import as_text_tokenizer

CONVERSATIONS = {
    "one turn": [("user", "Add 1 and 2."), ("assistant", "3")],
    "system": [("system", "Be brief."), ("user", "Hello\nthere"), ("assistant", "Hi.")],
    "turns": [("user", "a"), ("assistant", "b"), ("user", "c\n\nd"), ("assistant", "<think>\ne\n</think>\n\nf")],
    "white space": [("user", "  a \n"), ("assistant", "\n b\t")],
    "letters": [("user", "\u4f60\u597d \U0001f642 \u00e9\u0327"), ("assistant", "\u05e9\r\n\u200d")],
    "empty": [("user", ""), ("assistant", "")],
    "tool": [("user", "f?"), ("assistant", "f()"), ("tool", '{"x": 1}'), ("assistant", "1")],
    "tools": [("user", "f?"), ("assistant", "f()"), ("tool", "1"), ("tool", "2"), ("user", "?"), ("assistant", "3")],
}


def as_turns(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def render(source, *contents):
    return ChatTemplate("test", source).render(as_turns(*(("user", content) for content in contents)))


def ids_by_template(name, turns, theirs, **options):
    """Render, split at control tokens, encode the rest: what `ChatFormat` does, in three lines."""
    tokenizer = as_text_tokenizer(theirs)
    rendered, control = load_template(name, tokenizer).render(as_turns(*turns), **options), tokenizer.control
    pieces = tokenizer.control_pattern.split(rendered)
    return [i for piece in pieces for i in ([control[piece]] if piece in control else tokenizer.encode_text(piece))]


def torchtune_ids(theirs, turns, **options):
    messages = [Message(role="ipython" if role == "tool" else role, content=content) for role, content in turns]
    return theirs.tokenize_messages(messages, **options)[0]


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", BUILT_IN)
def test_built_in_templates_write_what_torchtune_writes(template, name, tmp_path):
    if template == "chatml" and name in ("letters", "white space"):
        return  # normalised; a content's line feed merges with the header's, as on the hub, where torchtune does not
    theirs, turns = {"llama3": llama3, "chatml": qwen2_5}[template](tmp_path), CONVERSATIONS[name]
    whole = torchtune_ids(theirs, turns)
    behind = theirs.encode("\n", add_bos=False, add_eos=False)  # torchtune stops at the end of the turn
    expected = whole[:-1] if template == "llama3" else whole + behind  # and adds end_of_text for Llama 3
    assert ids_by_template(template, turns, theirs) == expected
    # torchtune has no prompt for a turn to come: an empty assistant message without its end is one
    no_end = {"add_end_tokens": False} if template == "llama3" else {"add_eos": False}
    expected = torchtune_ids(theirs, [*turns[:-1], ("assistant", "")], **no_end)
    assert ids_by_template(template, turns[:-1], theirs, add_generation_prompt=True) == expected


def test_templates_come_from_names_files_and_folders(tmp_path, byte):
    def source(name):
        return load_template(name and str(name), byte).source

    folder = write_byte_tokenizer(tmp_path / "byte")
    assert source(None) == source(folder) == source(folder / "tokenizer_config.json") == byte.chat_template
    assert source("chatml") == BUILT_IN["chatml"]
    for path, asked in ((folder / "chat_template.jinja", folder), (tmp_path / "mine.jinja", tmp_path / "mine.jinja")):
        path.write_text("{{ messages }}", encoding="utf-8")
        assert source(asked) == "{{ messages }}"


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    for some, taken in ((templates, "y"), (templates[:1], None)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": some}))
        assert read_template(tmp_path) == taken


@pytest.mark.parametrize("wrong", [5, {"default": "x"}, ["x"], [{"template": "x"}], [{"name": "x"}, {"name": []}]])
def test_a_template_of_another_type_is_named(tmp_path, wrong):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}))
    with pytest.raises(UserError, match=r"tokenizer_config\.json: chat_template must be text"):
        read_template(tmp_path)


def test_a_template_that_is_not_there(tmp_path):
    without = make_tokenizer("hf_qwen", tmp_path / "qwen")
    with pytest.raises(UserError, match="has no chat template; set template to one of llama3, chatml or to a path"):
        load_template(None, without)
    for name in ("llama4", str(tmp_path), str(tmp_path / "qwen")):
        with pytest.raises(UserError, match=re.escape(f"template {name!r} is neither")):
            load_template(name, without)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{% for m in messages %}\n{{ m.content }\n{% endfor %}", r"mine\.jinja, line 2"),
        (b"\xa3\xff", r"chat template .*mine\.jinja is not text"),
        (b"{{ " + b"(" * 5000 + b"1" + b")" * 5000 + b" }}", r"mine\.jinja: it cannot be compiled"),
        (b"{% if a %}" * 300 + b"{% endif %}" * 300, r"mine\.jinja: it cannot be compiled"),
    ],
)
def test_a_broken_template_is_an_error_at_once(content, message, tmp_path, byte):
    (tmp_path / "mine.jinja").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_template(str(tmp_path / "mine.jinja"), byte)


def test_special_tokens_that_templates_name(tmp_path):
    tokenizer = make_tokenizer("hf_mistral", tmp_path)
    (tmp_path / "t.jinja").write_text("{{ bos_token }}x{{ eos_token }}", encoding="utf-8")
    assert load_template(str(tmp_path / "t.jinja"), tokenizer).render([]) == "<s>x</s>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system prompt') }}",
        "{% include 'x' %}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].content.index('zzz') }}",
        "{{ 1 // 0 }}",
        "{{ '{0}{x}'.format(1) }}",
        "{{ '{0}'.format() }}",
    ],
)
def test_what_a_template_may_not_do_drops_the_row(source):
    with pytest.raises(RowError, match="the chat template refuses the messages"):
        render(source, "a")


def test_what_templates_of_real_models_rely_on():
    assert render("  {% if true %}\nx\n  {% endif %}\n{{ messages[0].content | trim }}\n", " a ") == "x\na"
    assert render("{{ messages[0] | tojson }}", "<\u00e9&>") == '{"role": "user", "content": "<\u00e9&>"}'
    assert render("{{ [1] | tojson(indent=1) }}") == "[\n 1\n]"
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}.", "a") == "a."
    assert render("{% for m in messages %}{{ m.content }}{% break %}{% endfor %}", "a", "b") == "a"
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"
    assert render("{% if tools is not none or documents %}tools{% endif %}{{ bos_token }}.") == "."


def test_templates_render_as_transformers_renders_them(tmp_path):
    theirs, turns = AutoTokenizer.from_pretrained(write_byte_tokenizer(tmp_path)), as_turns(*CONVERSATIONS["turns"])
    for source in (
        *(PLAIN, OPENS, REWRITES, REWRITES_AND_OPENS, BUILT_IN["chatml"]),
        "{{ {'b': '<\u00e9>', 'a': [1]} | tojson(indent=2, sort_keys=true) }}",
        "{{ {'a': 1} | tojson(separators=(',', ':'), ensure_ascii=true) }}",
        "{{ dict(a=1) | tojson }}{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}",
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "{{ bos_token is defined }}{{ tools is none }}{{ documents is none }}{{ messages[0].reasoning_content }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index }}{% endfor %}",
    ):
        for prompt in (True, False):
            options = {"chat_template": source, "tokenize": False, "add_generation_prompt": prompt}
            expected = theirs.apply_chat_template(turns, **options)
            assert ChatTemplate("t", source).render(turns, add_generation_prompt=prompt) == expected


@given(st.lists(st.text(st.sampled_from("ab<>\ue000\ue0010123"), max_size=12), min_size=1, max_size=4))
def test_what_is_hidden_comes_back(texts):
    hidden = re.compile("(<a>|<b>|a)")
    shield = Shield(texts, hidden)
    covers = [shield.hide(text) for text in texts]
    assert not any(hidden.search(cover) for cover in covers)
    assert [shield.restore(cover) for cover in covers] == texts
    assert shield.restore("|".join(covers)) == "|".join(texts)


def test_today_is_the_date_that_was_set(tmp_path, byte):
    (tmp_path / "dated.jinja").write_text("{{ strftime_now('%d %B %Y, %A') }}", encoding="utf-8")
    dates = (None, "2026-01-05")
    default, other = (load_template(str(tmp_path / "dated.jinja"), byte, date=day) for day in dates)
    assert (default.render([]), other.render([])) == ("26 July 2024, Friday", "05 January 2026, Monday")
    assert default.fingerprint() != other.fingerprint()
    plain = {load_template("chatml", byte, date=day).fingerprint() for day in dates}
    assert len(plain) == 1, "rows without a date in them stay in the cache"


@pytest.mark.parametrize("date", ["today", "2026-13-01", "26 Jul 2024", "2026-1-5", "", 20260105])
def test_what_is_no_date_is_named(byte, date):
    with pytest.raises(UserError, match=r"dataset\.date"):
        load_template("chatml", byte, date=date)


GROWS = "{% set n = namespace(x='xx') %}{% for i in range(64) %}{% set n.x = GROW %}{% endfor %}{{ n.x }}"
GROWTHS = ("n.x ~ n.x", "n.x + n.x", "n.x.replace('x', 'xx')", "n.x | replace('x', 'xx')", "[n.x, n.x] | join")
TOO_MUCH = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(64) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    *("{{ 'x' * 10**9 }}", "{{ [0] * 10**9 }}", "{{ 10**(10**9) }}", "{{ 'x'.ljust(10**9) }}"),
    *("{{ '%999999999d' % 1 }}", "{{ '%999999999d' | format(1) }}", "{{ '{:999999999}'.format(1) }}"),
    *("{{ 'x' | center(1000000000) }}", "{{ [1] | tojson(indent=10**9) }}"),
    "{{ ('\\n' * 100000) | indent(100000) }}",
    *(GROWS.replace("GROW", growth) for growth in (*GROWTHS, "''.join([n.x, n.x])")),
    GROWS.replace("{% set n.x = GROW %}", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
    "{% set x = 'a' * 9000000 %}{% for i in range(99) %}{{ x }}{% endfor %}",
]


@pytest.mark.parametrize("source", TOO_MUCH)
def test_too_much_is_one_sentence(source, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_ROUNDS", 20_000)
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 1e9)
    with pytest.raises(UserError, match=r"chat template test: .*set dataset\.template") as caught:
        render(source, "a")
    assert not isinstance(caught.value, RowError) and "\n" not in str(caught.value)


def test_time_is_bounded_too(monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", -1.0)
    with pytest.raises(UserError, match="its loops take"):
        render("{% for m in messages %}{% endfor %}", "a")


def test_long_conversations_are_no_fault():
    source = "{% for m in messages %}{{ '<' + m.role ~ '>' }}{{ m.content | trim }}{% endfor %}"
    assert len(render(source, *["word " * 20_000] * 40)) == 40 * (len("<user>") + 5 * 20_000 - 1)


def test_loops_and_macros_write_what_jinja_writes():
    source = """{% macro f(n) %}[{{ n ~ '-' ~ caller() if caller else n }}]{% endmacro %}
    {%- for m in messages if m.role != 'tool' recursive %}{{ loop.index ~ '/' ~ loop.length }}{{ loop.previtem }}
    {%- if not loop.last %},{% else %}.{% endif %}{{ f(loop.index0) }}{% call f(1) %}x{% endcall %}
    {%- else %}none{% endfor %}
    {%- for a in 'ab' %}{% for b in 'cd' if b != a %}{{ a ~ b }}{{ loop.nextitem }}{% endfor %}{% endfor %}"""
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    for messages in ([], [{"role": role} for role in ("user", "tool", "assistant")]):
        assert ChatTemplate("t", source).render(messages) == plain.render(messages=messages)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json"])
def test_a_deep_file_beside_the_tokenizer_is_one_sentence(tmp_path, name):
    folder = write_byte_tokenizer(tmp_path)
    (folder / name).write_text('{"chat_template": ' + "[" * 100_000 + "]" * 100_000 + "}", encoding="utf-8")
    for read in (read_hf_tokenizer, read_template)[: 2 if name == "tokenizer_config.json" else 1]:
        with pytest.raises(UserError, match=rf"{name}.*nested too deep"):
            read(folder)


def test_names_in_a_template():
    names = names_in("{{ m.thinking }}{{ m['reasoning'] }}{% if 'a' in m %}{{ strftime_now('%d') }}{% endif %} words")
    assert {"thinking", "reasoning", "a", "strftime_now"} <= names and "words" not in names
