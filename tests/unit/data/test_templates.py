"""Chat templates: the built-in ones write what torchtune writes, and a template cannot do more than write text."""

import json
import re

import pytest
from chats_for_tests import OPENS, PLAIN, REWRITES, REWRITES_AND_OPENS
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import llama3, make_tokenizer, qwen2_5

from cot_components.data.bad_rows import RowError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text.templates import BUILT_IN, ChatTemplate, Shield, load_template, read_template
from cot_components.data.text.text_tokenizer import TextTokenizer
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


def ids_by_template(name: str, turns: list[tuple[str, str]], tokenizer: TextTokenizer, **options: bool) -> list[int]:
    """Render, split at control tokens, encode the rest: what `ChatFormat` does, in three lines."""
    rendered = load_template(name, tokenizer).render([{"role": r, "content": c} for r, c in turns], **options)
    pieces, control = tokenizer.control_pattern.split(rendered), tokenizer.control
    return [i for piece in pieces for i in ([control[piece]] if piece in control else tokenizer.encode_text(piece))]


def torchtune_messages(turns: list[tuple[str, str]]) -> list:
    from torchtune.data import Message

    return [Message(role="ipython" if role == "tool" else role, content=content) for role, content in turns]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_llama3_writes_what_torchtune_writes(name, tmp_path):
    theirs = llama3(tmp_path)
    turns = CONVERSATIONS[name]
    expected = theirs.tokenize_messages(torchtune_messages(turns))[0][
        :-1
    ]  # torchtune adds end_of_text behind the last turn
    assert ids_by_template("llama3", turns, as_text_tokenizer(theirs)) == expected
    # torchtune has no prompt for a turn to come: an empty assistant message without its end is one
    prompt = [*turns[:-1], ("assistant", "")]
    expected = theirs.tokenize_messages(torchtune_messages(prompt), add_end_tokens=False)[0]
    assert ids_by_template("llama3", turns[:-1], as_text_tokenizer(theirs), add_generation_prompt=True) == expected


# The tokenizer normalises `letters`; a content that starts with a line feed merges with the header's, as on the hub,
# where torchtune keeps them apart.
@pytest.mark.parametrize("name", [name for name in CONVERSATIONS if name not in ("letters", "white space")])
def test_chatml_writes_what_torchtune_writes(name, tmp_path):
    theirs = qwen2_5(tmp_path)
    turns = CONVERSATIONS[name]
    ours = ids_by_template("chatml", turns, as_text_tokenizer(theirs))
    expected = theirs.tokenize_messages(torchtune_messages(turns))[0]
    assert ours == expected + theirs.encode(
        "\n", add_bos=False, add_eos=False
    )  # torchtune stops at the end of the turn
    prompt = [*turns[:-1], ("assistant", "")]
    expected = theirs.tokenize_messages(torchtune_messages(prompt), add_eos=False)[0]
    assert ids_by_template("chatml", turns[:-1], as_text_tokenizer(theirs), add_generation_prompt=True) == expected


def test_templates_come_from_names_files_and_folders(tmp_path):
    tokenizer = make_tokenizer("byte", tmp_path / "byte")
    own = load_template(None, tokenizer)
    assert own.source == tokenizer.chat_template
    assert load_template("chatml", tokenizer).source == BUILT_IN["chatml"]
    assert load_template(str(tmp_path / "byte"), tokenizer).source == own.source
    assert load_template(str(tmp_path / "byte/tokenizer_config.json"), tokenizer).source == own.source
    (tmp_path / "byte/chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert load_template(str(tmp_path / "byte"), tokenizer).source == "{{ messages }}"
    (tmp_path / "mine.jinja").write_text("mine", encoding="utf-8")
    assert load_template(str(tmp_path / "mine.jinja"), tokenizer).source == "mine"


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert read_template(tmp_path) == "y"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates[:1]}))
    assert read_template(tmp_path) is None


@pytest.mark.parametrize("wrong", [5, {"default": "x"}, ["x"], [{"template": "x"}], [{"name": "x"}, {"name": []}]])
def test_a_template_of_another_type_is_named(tmp_path, wrong):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}))
    with pytest.raises(UserError, match=r"tokenizer_config\.json: chat_template must be text, or a list of objects"):
        read_template(tmp_path)


def test_a_template_that_is_not_there(tmp_path):
    without = make_tokenizer("hf_qwen", tmp_path / "qwen")
    with pytest.raises(UserError, match="has no chat template; set template to one of llama3, chatml or to a path"):
        load_template(None, without)
    for name in ("llama4", str(tmp_path), str(tmp_path / "qwen")):
        with pytest.raises(UserError, match=re.escape(f"template {name!r} is neither")):
            load_template(name, without)


def test_a_broken_template_is_an_error_at_once_with_its_line(tmp_path):
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}", encoding="utf-8")
    with pytest.raises(UserError, match=r"broken\.jinja, line 2"):
        load_template(str(tmp_path / "broken.jinja"), make_tokenizer("byte", tmp_path / "byte"))
    (tmp_path / "weights.bin").write_bytes(b"\xa3\xff")
    with pytest.raises(UserError, match=r"chat template .*weights\.bin is no text"):
        load_template(str(tmp_path / "weights.bin"), make_tokenizer("byte", tmp_path / "byte"))


def test_special_tokens_that_templates_name(tmp_path):
    tokenizer = make_tokenizer("hf_mistral", tmp_path)
    (tmp_path / "t.jinja").write_text("{{ bos_token }}x{{ eos_token }}", encoding="utf-8")
    assert load_template(str(tmp_path / "t.jinja"), tokenizer).render([]) == "<s>x</s>"


def render(source: str, *contents: str) -> str:
    return ChatTemplate("test", source).render([{"role": "user", "content": content} for content in contents])


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system prompt') }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].content }}",
        "{{ messages[0].content + 1 }}",
        "{% include 'x' %}",
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


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_templates_render_as_transformers_renders_them(tmp_path, add_generation_prompt):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(write_byte_tokenizer(tmp_path)))
    turns = [{"role": r, "content": c} for r, c in CONVERSATIONS["turns"]]
    checked = 0
    for source in (PLAIN, OPENS, REWRITES, REWRITES_AND_OPENS, BUILT_IN["chatml"]):
        expected = theirs.apply_chat_template(
            turns, chat_template=source, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert ChatTemplate("t", source).render(turns, add_generation_prompt=add_generation_prompt) == expected
        checked += 1
    assert checked == 5


@given(st.lists(st.text(st.sampled_from("ab<>\ue000\ue0010123"), max_size=12), min_size=1, max_size=4))
def test_what_is_hidden_comes_back(texts):
    hidden = re.compile("(<a>|<b>|a)")
    shield = Shield(texts, hidden)
    covers = [shield.hide(text) for text in texts]
    assert not any(hidden.search(cover) for cover in covers)
    assert [shield.restore(cover) for cover in covers] == texts
    assert shield.restore("|".join(covers)) == "|".join(texts)


def test_today_is_the_date_that_was_set(tmp_path):
    tokenizer = make_tokenizer("byte", tmp_path / "byte")
    (tmp_path / "dated.jinja").write_text("{{ strftime_now('%d %B %Y, %A') }}", encoding="utf-8")
    default, other = (load_template(str(tmp_path / "dated.jinja"), tokenizer, date=day) for day in (None, "2026-01-05"))
    assert default.render([]) == "26 July 2024, Friday"
    assert other.render([]) == "05 January 2026, Monday"
    assert default.fingerprint() != other.fingerprint()
    plain = [load_template("chatml", tokenizer, date=day).fingerprint() for day in (None, "2026-01-05")]
    assert plain[0] == plain[1], "rows without a date in them stay in the cache"


@pytest.mark.parametrize("date", ["today", "2026-13-01", "26 Jul 2024", "2026-1-5", "", 20260105])
def test_what_is_no_date_is_named(tmp_path, date):
    with pytest.raises(UserError, match=r"dataset\.date must be a date such as 2024-07-26"):
        load_template("chatml", make_tokenizer("byte", tmp_path), date=date)


def test_what_transformers_gives_a_template(tmp_path):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(write_byte_tokenizer(tmp_path)))
    sources = [
        "{{ {'b': '<\u00e9>', 'a': [1]} | tojson(indent=2, sort_keys=true) }}",
        "{{ {'a': 1} | tojson(separators=(',', ':'), ensure_ascii=true) }}",
        "{{ dict(a=1) | tojson }}{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}",
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "{{ bos_token is defined }}{{ tools is none }}{{ documents is none }}{{ messages[0].reasoning_content }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index }}{% endfor %}",
    ]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for source in sources:
        expected = theirs.apply_chat_template(turns, chat_template=source, tokenize=False)
        assert ChatTemplate("t", source).render(turns) == expected
