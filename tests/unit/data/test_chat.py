"""Which text of a rendered conversation is prompt, thought and answer; what a template may do; what drops the row."""

from dataclasses import replace

import pytest
from chats import OPENS, PLAIN, REWRITES, REWRITES_AND_OPENS, TAGS, ask, chat, texts
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, make_tokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import Message
from cot_components.data.rows.encode import encode_in_one_go
from cot_components.data.text.chat import ChatFormat, part_ids
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import BUILT_IN, ChatTemplate, load_template
from cot_components.models.think_tokens import with_tag_tokens
from cot_components.roles import Role

TRACE = ask("q", "<think>t</think>a")


def completion(format, *contents):
    """Texts of the supervised parts; their roles must be in the order of a trace."""
    parts = texts(format.turn(ask(*contents)).completion, format.tokenizer)
    order = [("think_open", "thought", "think_close", "answer").index(role) for role, _ in parts]
    assert order == sorted(order)
    return [text for _, text in parts]


def test_roles_of_an_ordinary_turn(byte):
    turn = chat(byte).turn(ask("Add 1 and 2.", "<think>\n1 + 2 = 3\n</think>\n\nIt is 3."))
    prompt = [(role, text) for role, text in texts(turn.prompt, byte)]
    assert prompt == [("prompt", text) for text in ("[<|user|>]", "Add 1 and 2.", "[<|end|>]", "[<|assistant|>]")]
    assert texts(turn.completion, byte) == [
        ("think_open", "<think>"),
        ("thought", "\n1 + 2 = 3\n"),
        ("think_close", "</think>"),
        ("answer", "\n\nIt is 3."),
        ("answer", "[<|end|>]"),
    ]
    beside = [Message("user", "q"), Message("assistant", "a", thought="t")]
    assert chat(byte).turn(beside) == chat(byte).turn(ask("q", "<think>\nt\n</think>\n\na"))


def test_a_prompt_that_ends_in_the_tag_opens_nothing(byte):
    source = "{{ messages[0].content }}{% if messages | length > 1 %}{{ messages[1].content }}<|end|>{% endif %}"
    turn = chat(byte, source).turn(ask("say <think>", "<think>t</think>a"))
    assert texts(turn.prompt, byte) == [("prompt", "say <think>")]
    assert texts(turn.completion, byte)[0] == ("think_open", "<think>")


def test_tags_as_tokens(byte):
    format = chat(byte, tags_as="token")
    turn = format.turn(ask("say <think>", "<think>\nt\n</think>a"))
    assert texts(turn.prompt, format.tokenizer)[1] == ("prompt", "say <think>")
    shown = completion(format, "say <think>", "<think>\nt\n</think>a")
    assert shown == ["[<think>]", "\nt\n", "[</think>]", "a", "[<|end|>]"]
    assert ("prompt", "[</think>]") in texts(format.prompt(EARLIER[:-1]), format.tokenizer), "of an earlier answer"


def test_other_tags(byte):
    text = "<Thought>\nt\n</Thought>\n<Output>\na\n</Output>"
    shown = completion(chat(byte, tags=Tags("<Thought>", "</Thought>")), "q", text)
    assert shown == ["<Thought>", "\nt\n", "</Thought>", "\n<Output>\na\n</Output>", "[<|end|>]"]


def test_what_the_template_writes_after_the_turn_is_cut(byte):
    source = PLAIN.replace("<|end|>{% endfor %}", " <|end|>\n<|pad|>{% endfor %}")
    assert completion(chat(byte, source), "q", "<think>t</think>a")[-2:] == ["a ", "[<|end|>]"]


def test_a_template_without_an_end_of_turn_gets_the_end_token(byte):
    source = PLAIN.replace("<|end|>", "\n").replace("<|{{ m.role }}|>", "{{ m.role }}: ")
    source = source.replace("<|assistant|>", "assistant: ")
    assert completion(chat(byte, source), "q", "<think>t</think>a")[-2:] == ["a\n", "[<|end|>]"]
    with pytest.raises(RowError, match="writes no end of turn"):
        chat(replace(byte, eos_id=None), source).turn(TRACE)


STRIPS = PLAIN.replace("m.content", "(m.content.split('</think>')[-1] if m.role == 'assistant' else m.content)")
BESIDE = PLAIN.replace(
    "{{ m.content }}", "{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}"
)
EARLIER = ask("q", "<think>secret</think>a", "r", "<think>t</think>b")


@pytest.mark.parametrize(("source", "kept"), [(PLAIN, True), (STRIPS, False), (BESIDE, True), (REWRITES, False)])
def test_the_template_decides_which_earlier_thoughts_stay(byte, source, kept):
    turn = chat(byte, source).turn(EARLIER)
    assert ("secret" in str(texts(turn.prompt, byte))) is kept
    assert turn.given == chat(byte, source).prompt(EARLIER[:-1])
    thought, answer = ("\nt\n", "\n\nb") if source == REWRITES else ("t", "b")
    wanted = [("thought", thought), ("think_close", "</think>"), ("answer", answer), ("answer", "[<|end|>]")]
    assert texts(turn.completion, byte)[-4:] == wanted


def test_a_thought_beside_an_earlier_answer_goes_where_the_template_looks(byte):
    messages = [Message("user", "q"), Message("assistant", "a", thought="s"), *ask("r")]
    assert ("prompt", "<think>s</think>a") in texts(chat(byte, BESIDE).prompt(messages), byte)
    assert ("prompt", "<think>\ns\n</think>\n\na") in texts(chat(byte).prompt(messages), byte)


@pytest.mark.parametrize("inner", ["t", "\nt\n", "\n\n t \n", "\u00e9\n\n- x"])
def test_a_template_may_change_white_space_only(byte, inner):
    shown = completion(chat(byte, REWRITES), "q", f"<think>{inner}</think>\n\n\n a")
    assert shown[1] == "\n" + inner.strip("\n") + "\n" and len(shown) == 5


def test_a_template_may_write_an_empty_thought_where_there_is_none(byte):
    assert completion(chat(byte, REWRITES), "q", "a") == ["<think>", "\n\n", "</think>", "\n\na", "[<|end|>]"]


@pytest.mark.parametrize("source", [OPENS, REWRITES_AND_OPENS])
@pytest.mark.parametrize("text", ["<think>\nt\n</think>\n\na", "<think>t\n</think>\n\na", "t\n</think>\n\na"])
@pytest.mark.parametrize("tags_as", ["text", "token"])
def test_a_template_that_opens_the_thought(byte, source, text, tags_as):
    format = chat(byte, source, tags_as=tags_as)
    turn, opening = format.turn(ask("q", text)), ["[<think>]", "\n"] if tags_as == "token" else ["<think>\n"]
    wanted = [*(("think_open", text) for text in opening), ("thought", "t\n")]
    assert texts(turn.completion, format.tokenizer)[: len(wanted)] == wanted
    assert format.prompt_ids(ask("q")) == part_ids([*turn.prompt, *turn.completion[: len(opening)]], format.tokenizer)
    assert all(part.role is Role.PROMPT for part in turn.prompt)
    if source == OPENS:
        with pytest.raises(RowError):
            format.turn(ask("q", "a"))


LIES = {
    "shortens the thought": PLAIN.replace("m.content", "m.content | replace('ten', '10')"),
    "changes the answer": PLAIN.replace("m.content", "m.content | replace('eleven', '11')"),
    "writes tags twice": PLAIN.replace("{{ m.content }}", "<think></think>{{ m.content }}"),
    "opens twice": PLAIN.replace("{{ m.content }}", "<think>{{ m.content }}"),
    "swaps tags": PLAIN.replace("m.content", "m.content | replace('<think>', '</think>')"),
    "cuts the answer": PLAIN.replace("m.content", "m.content | replace('</think>', '</think>x<|end|>')"),
    "adds a thought": REWRITES.replace("m.content.split(", "('<think>w</think>' ~ m.content).split("),
    "everything in capitals": PLAIN.replace("m.content", "m.content | upper"),
    "refuses": "{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("tags_as", ["text", "token"])
def test_a_template_that_changes_more_drops_the_row(byte, name, tags_as):
    with pytest.raises(RowError, match="chat template"):
        chat(byte, LIES[name], tags_as=tags_as).turn(ask("q", "<think>ten</think>eleven"))


STRIPS_AND_OPENS = OPENS.replace("m.content", "m.content.split('</think>')[-1]")
AS_IT_IS = {
    "takes the thought out": PLAIN.replace("m.content", "m.content.split('</think>')[-1]"),
    "another prompt": PLAIN.replace("{% for", "{{ messages | length }}{% for", 1),
    "no header for the answer": PLAIN.replace("<|assistant|>", "<|assistant|>\n"),
    "takes the thought out and opens one": STRIPS_AND_OPENS,
}


@pytest.mark.parametrize("name", AS_IT_IS)
@pytest.mark.parametrize("tags_as", ["text", "token"])
def test_a_turn_that_the_template_does_not_write_behind_the_prompt_stands_there_as_it_is(byte, name, tags_as):
    format = chat(byte, AS_IT_IS[name], tags_as=tags_as)
    turn = format.turn(ask("q", "<think>ten</think>\n\neleven"))
    assert turn.given == format.prompt(ask("q"))
    written = "".join(content.strip("[]") for _, content in texts(turn.written, format.tokenizer))
    assert written == ("" if "opens" in name else "<think>") + "ten</think>\n\neleven<|end|>"
    assert format.stop_ids == (byte.control["<|end|>"],)
    if "opens" in name:
        with pytest.raises(RowError, match=r"set dataset\.template"):
            format.turn(ask("q", "a"))


TEMPLATES = {
    "plain": PLAIN,
    "rewrites": REWRITES,
    "opens": OPENS,
    "rewrites and opens": REWRITES_AND_OPENS,
    "spaced": "{% for m in messages %}[{{ m.role }}] {{ m.content }} </s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    **BUILT_IN,
}
END_OF_TURN = {"llama3": "<|eot_id|>", "chatml": "<|im_end|>", "spaced": "</s>"}
PIECES = ["a", " ", "\n", "7", "\u00e9", "{{ 1 }}", "\ue000", "\ue0000\ue000", "<|end|>", "<|user|>"]
HOSTILE = st.lists(st.sampled_from([*PIECES, *END_OF_TURN.values()]), max_size=8).map("".join)


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """Every tokenizer with every template whose end of turn it has, tags as text and as tokens."""
    made = []
    for tokenizer in (make_tokenizer(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS):
        for name, source in TEMPLATES.items():
            if END_OF_TURN.get(name, "<|end|>") in tokenizer.control:
                template = load_template(name, tokenizer) if name in BUILT_IN else ChatTemplate(name, source)
                made += [ChatFormat(one, template, TAGS) for one in (tokenizer, with_tag_tokens(tokenizer, TAGS))]
    assert len(made) == 2 * (4 + 1 + 2 + 3)
    return made


@given(st.tuples(HOSTILE, HOSTILE, HOSTILE, HOSTILE), st.integers(0, 999))
def test_only_the_template_writes_control_tokens(formats, hostile, number):
    format, (prompt, thought, answer, earlier) = formats[number % len(formats)], hostile
    theirs = format.turn(ask("p", "e", "p", "<think>t</think>a"))
    messages = ask(f"p{prompt}", f"e{earlier}", f"p{prompt}", f"<think>t{thought}</think>a{answer}")
    ours = format.turn(messages)
    for parts in zip(ours[:2], theirs[:2], strict=True):
        control = [[part.content for part in side if isinstance(part.content, int)] for side in parts]
        assert control[0] == control[1]
    for role, text in ((Role.THOUGHT, f"t{thought}"), (Role.ANSWER, f"a{answer}")):
        written = (p.content for p in ours.completion if p.role is role and isinstance(p.content, str))
        assert "".join(written).strip() == text.strip()
    assert ours.given == format.prompt(messages[:-1])
    (row,) = encode_in_one_go([ours], format.tokenizer)
    start = format.prompt_ids(messages[:-1])
    assert isinstance(row, RowError) or row.tokens[: len(start)].tolist() == start


def test_ids_that_end_a_generation(byte, tmp_path):
    end, both = (byte.control["<|end|>"],), (byte.control["<|pad|>"], byte.control["<|end|>"])
    needs = "{% if messages | length < 9 %}{{ raise_exception('more') }}{% endif %}" + PLAIN
    system = "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    padded = [source.replace("<|end|>", "<|pad|>") for source in (PLAIN, system)]
    sources = {PLAIN: end, OPENS: end, needs: byte.stop_ids, padded[0]: both, padded[1]: both}
    assert {source: chat(byte, source).stop_ids for source in sources} == sources
    llama = make_tokenizer("llama3", tmp_path)
    assert ChatFormat(llama, load_template(None, llama), TAGS).stop_ids == (128001, 128008, 128009)


def test_fingerprint_follows_tokenizer_template_and_tags(byte):
    settings = [{}, {"tags_as": "token"}, {"source": REWRITES}, {"tags": Tags("<a>", "</a>")}]
    formats = [*(chat(byte, **one) for one in settings), chat(replace(byte, content_hash="other"))]
    assert len({format.fingerprint() for format in formats}) == len(formats)
    assert chat(byte).fingerprint() == formats[0].fingerprint()
