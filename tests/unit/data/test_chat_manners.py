"""What a template may do to a turn, and what drops the row."""

import pytest
from chats_for_tests import OPENS, PLAIN, REWRITES, REWRITES_AND_OPENS, ask, chat, texts
from tokenizers_for_tests import make_tokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.text.chat import part_ids
from cot_components.roles import Role


@pytest.fixture(scope="module")
def byte(tmp_path_factory):
    return make_tokenizer("byte", tmp_path_factory.mktemp("byte"))


@pytest.mark.parametrize("inner", ["t", "\nt\n", "\n\n t \n", "\u00e9\n\n- x"])
def test_a_template_may_change_white_space_only(byte, inner):
    turn = chat(byte, REWRITES).turn(ask("q", f"<think>{inner}</think>\n\n\n a"))
    roles = [p.role for p in turn.completion]
    assert roles == [Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER, Role.ANSWER]
    assert str(turn.completion[1].content).strip() == inner.strip()
    assert turn.completion[1].content == "\n" + inner.strip("\n") + "\n"


def test_a_template_may_write_an_empty_thought_where_there_is_none(byte):
    turn = chat(byte, REWRITES).turn(ask("q", "a"))
    assert texts(turn.completion, byte)[:4] == [
        ("think_open", "<think>"),
        ("thought", "\n\n"),
        ("think_close", "</think>"),
        ("answer", "\n\na"),
    ]


@pytest.mark.parametrize("source", [OPENS, REWRITES_AND_OPENS])
@pytest.mark.parametrize("text", ["<think>\nt\n</think>\n\na", "<think>t\n</think>\n\na", "t\n</think>\n\na"])
@pytest.mark.parametrize("tags_as", ["text", "token"])
def test_a_template_that_opens_the_thought(byte, source, text, tags_as):
    format = chat(byte, source, tags_as=tags_as)
    turn = format.turn(ask("q", text))
    shown = texts(turn.completion, format.tokenizer)
    opening = [("think_open", "<think>\n")]
    if tags_as == "token":
        opening = [("think_open", "[<think>]"), ("think_open", "\n")]
    assert shown[: len(opening)] == opening
    assert shown[len(opening)] == ("thought", "t\n")
    assert format.prompt_ids(ask("q")) == part_ids([*turn.prompt, *turn.completion[: len(opening)]], format.tokenizer)
    assert all(part.role is Role.PROMPT for part in turn.prompt)


def test_a_template_that_opens_the_thought_of_an_answer_without_one(byte):
    with pytest.raises(RowError):
        chat(byte, OPENS).turn(ask("q", "a"))


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


AS_IT_IS = {
    "takes the thought out": PLAIN.replace("m.content", "m.content.split('</think>')[-1]"),
    "another prompt": PLAIN.replace("{% for", "{{ messages | length }}{% for", 1),
    "no header for the answer": PLAIN.replace("<|assistant|>", "<|assistant|>\n"),
    "takes the thought out and opens one": OPENS.replace("m.content", "m.content.split('</think>')[-1]"),
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


def test_a_template_that_strips_and_opens_says_what_to_set_where_there_is_no_thought(byte):
    with pytest.raises(RowError, match=r"set dataset\.template"):
        chat(byte, AS_IT_IS["takes the thought out and opens one"]).turn(ask("q", "a"))


def test_a_template_that_refuses_the_made_up_conversation_leaves_the_tokenizers_stop_ids(byte):
    needs = "{% if messages | length < 9 %}{{ raise_exception('more') }}{% endif %}" + PLAIN
    assert chat(byte, needs).stop_ids == byte.stop_ids
    system = "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    assert chat(byte, system.replace("<|end|>", "<|pad|>")).stop_ids == (
        byte.control["<|pad|>"],
        byte.control["<|end|>"],
    )
