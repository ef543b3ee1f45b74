"""Which text of a rendered conversation is prompt, thought and answer; what a person writes is nothing else."""

from dataclasses import replace

import pytest
from chats_for_tests import OPENS, PLAIN, REWRITES, REWRITES_AND_OPENS, TAGS, ask, chat, texts
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import KINDS, make_tokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import Message
from cot_components.data.rows.encode import encode_in_one_go
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import BUILT_IN, ChatTemplate, load_template
from cot_components.models.think_tokens import with_tag_tokens
from cot_components.roles import Role


@pytest.fixture(scope="module")
def byte(tmp_path_factory):
    return make_tokenizer("byte", tmp_path_factory.mktemp("byte"))


def test_roles_of_an_ordinary_turn(byte):
    turn = chat(byte).turn(ask("Add 1 and 2.", "<think>\n1 + 2 = 3\n</think>\n\nIt is 3."))
    assert texts(turn.prompt, byte) == [
        ("prompt", "[<|user|>]"),
        ("prompt", "Add 1 and 2."),
        ("prompt", "[<|end|>]"),
        ("prompt", "[<|assistant|>]"),
    ]
    assert texts(turn.completion, byte) == [
        ("think_open", "<think>"),
        ("thought", "\n1 + 2 = 3\n"),
        ("think_close", "</think>"),
        ("answer", "\n\nIt is 3."),
        ("answer", "[<|end|>]"),
    ]


def test_a_thought_beside_the_content(byte):
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
    assert texts(turn.completion, format.tokenizer) == [
        ("think_open", "[<think>]"),
        ("thought", "\nt\n"),
        ("think_close", "[</think>]"),
        ("answer", "a"),
        ("answer", "[<|end|>]"),
    ]


def test_what_the_template_writes_after_the_turn_is_cut(byte):
    source = PLAIN.replace("<|end|>{% endfor %}", " <|end|>\n<|pad|>{% endfor %}").replace("<|end|>\n", "<|end|>\n")
    turn = chat(byte, source).turn(ask("q", "<think>t</think>a"))
    assert texts(turn.completion, byte)[-2:] == [("answer", "a "), ("answer", "[<|end|>]")]


def test_a_template_without_an_end_of_turn_gets_the_end_token(byte):
    source = PLAIN.replace("<|end|>", "\n").replace("<|{{ m.role }}|>", "{{ m.role }}: ")
    source = source.replace("<|assistant|>", "assistant: ")
    turn = chat(byte, source).turn(ask("q", "<think>t</think>a"))
    assert texts(turn.completion, byte)[-2:] == [("answer", "a\n"), ("answer", "[<|end|>]")]
    with pytest.raises(RowError, match="writes no end of turn"):
        chat(replace(byte, eos_id=None), source).turn(ask("q", "<think>t</think>a"))


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
    assert texts(turn.completion, byte)[-4:] == [
        ("thought", "\nt\n" if source == REWRITES else "t"),
        ("think_close", "</think>"),
        ("answer", "\n\nb" if source == REWRITES else "b"),
        ("answer", "[<|end|>]"),
    ]


def test_a_thought_beside_an_earlier_answer_goes_where_the_template_looks(byte):
    messages = [Message("user", "q"), Message("assistant", "a", thought="s"), *ask("r")]
    assert ("prompt", "<think>s</think>a") in texts(chat(byte, BESIDE).prompt(messages), byte)
    assert ("prompt", "<think>\ns\n</think>\n\na") in texts(chat(byte).prompt(messages), byte)


def test_tags_of_an_earlier_answer_are_tokens_where_tags_are(byte):
    format = chat(byte, tags_as="token")
    assert ("prompt", "[</think>]") in texts(format.prompt(EARLIER[:-1]), format.tokenizer)


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
def pick_format(tmp_path_factory):
    """Every tokenizer with every template whose end of turn it has, tags as text and as tokens."""
    made = []
    for kind in KINDS:
        tokenizer = make_tokenizer(kind, tmp_path_factory.mktemp(kind))
        for name, source in TEMPLATES.items():
            if END_OF_TURN.get(name, "<|end|>") in tokenizer.control:
                template = load_template(name, tokenizer) if name in BUILT_IN else ChatTemplate(name, source)
                made += [
                    ChatFormat(tokenizer, template, TAGS),
                    ChatFormat(with_tag_tokens(tokenizer, TAGS), template, TAGS),
                ]
    assert len(made) == 2 * (4 + 1 + 2 + 3)
    return lambda number: made[number % len(made)]


@given(prompt=HOSTILE, thought=HOSTILE, answer=HOSTILE, earlier=HOSTILE, number=st.integers(0, 999))
def test_only_the_template_writes_control_tokens(pick_format, prompt, thought, answer, earlier, number):
    format = pick_format(number)
    innocent = ask("p", "e", "p", "<think>t</think>a")
    hostile = ask(f"p{prompt}", f"e{earlier}", f"p{prompt}", f"<think>t{thought}</think>a{answer}")
    ours, theirs = format.turn(hostile), format.turn(innocent)
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        control = [[part.content for part in parts if isinstance(part.content, int)] for parts in (one, other)]
        assert control[0] == control[1]
    by_role = {
        role: "".join(str(p.content) for p in ours.completion if p.role is role and isinstance(p.content, str))
        for role in (Role.THOUGHT, Role.ANSWER)
    }
    assert by_role[Role.THOUGHT].strip() == f"t{thought}".strip()
    assert by_role[Role.ANSWER].strip() == f"a{answer}".strip()
    assert ours.given == format.prompt(hostile[:-1])
    (row,) = encode_in_one_go([ours], format.tokenizer)
    start = format.prompt_ids(hostile[:-1])
    assert isinstance(row, RowError) or row.tokens[: len(start)].tolist() == start


def test_ids_that_end_a_generation(byte, tmp_path):
    assert chat(byte).stop_ids == (byte.control["<|end|>"],)
    both = (byte.control["<|pad|>"], byte.control["<|end|>"])
    assert chat(byte, PLAIN.replace("<|end|>", "<|pad|>")).stop_ids == both
    assert chat(byte, OPENS).stop_ids == (byte.control["<|end|>"],)
    llama = make_tokenizer("llama3", tmp_path)
    assert ChatFormat(llama, load_template(None, llama), TAGS).stop_ids == (128001, 128008, 128009)


def test_other_tags(byte):
    tags = Tags("<Thought>", "</Thought>")
    turn = chat(byte, tags=tags).turn(ask("q", "<Thought>\nt\n</Thought>\n<Output>\na\n</Output>"))
    assert texts(turn.completion, byte)[:4] == [
        ("think_open", "<Thought>"),
        ("thought", "\nt\n"),
        ("think_close", "</Thought>"),
        ("answer", "\n<Output>\na\n</Output>"),
    ]


def test_fingerprint_follows_tokenizer_template_and_tags(byte):
    formats = [
        chat(byte),
        chat(byte, tags_as="token"),
        chat(byte, REWRITES),
        chat(byte, tags=Tags("<a>", "</a>")),
        chat(replace(byte, content_hash="other")),
    ]
    assert len({format.fingerprint() for format in formats}) == len(formats)
    assert chat(byte).fingerprint() == formats[0].fingerprint()
