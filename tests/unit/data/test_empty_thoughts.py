"""Answers without a thought: where an empty one stands, who writes it, and the prompt that asks for none."""

import itertools

import pytest
from chats import TAGS, ask
from reading import reader
from thinking import BLOCK, CHANNELS, SHAPES, THINKING
from transformers import AutoTokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace
from cot_components.data.rows.first_rows import check_first_rows
from cot_components.data.rows.flat import is_supervised
from cot_components.data.rows.prepare import RowSettings, prepare_rows
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.templates import ChatTemplate
from cot_components.errors import UserError
from cot_components.models.think_tokens import with_tag_tokens

ANSWERS = {"thought": "<think>\nt\n</think>\n\na", "none": "a", "empty": f"{BLOCK}a"}
NO_THOUGHT = ask("q", "a")


def chat(tokenizer, name, policy="template", *, tags_as="text"):
    tags = CHANNELS if name == "channels" else TAGS
    chosen = with_tag_tokens(tokenizer, tags) if tags_as == "token" else tokenizer
    return ChatFormat(chosen, ChatTemplate(name, THINKING[name]), tags, policy)


def spelled(parts, format):
    return format.tokenizer.joined([part.content for part in parts])


def cases():
    kinds = [("thought", "template"), ("none", "template"), ("empty", "template"), ("none", "none")]
    for name, shapes in SHAPES.items():
        yield from ((name, *kind, shape) for kind, shape in zip(kinds, shapes, strict=True))
        yield name, "empty", "none", shapes[3]
        yield name, "thought", "none", shapes[0]
        yield name, "thought", "refuse", shapes[0]


@pytest.mark.parametrize("tags_as", ["text", "token"])
@pytest.mark.parametrize(("name", "answer", "policy", "shape"), list(cases()))
def test_where_an_empty_thought_stands(byte, name, answer, policy, shape, tags_as):
    format = chat(byte, name, policy, tags_as=tags_as)
    messages = ask("q", ANSWERS[answer])
    if shape is None:
        with pytest.raises(RowError, match=r"opens a thought .* dataset\.template"):
            format.turn(messages)
        return
    turn, (end, written) = format.turn(messages), shape
    assert spelled(turn.prompt, format).rpartition("<|assistant|>")[2] == end
    assert spelled(turn.completion, format) == f"{written}<|end|>"
    assert turn.prompt == format.prompt(messages[:-1], thinking=answer == "thought" or policy == "none")


def test_words_and_flags_that_switch_are_in_the_prompt(byte):
    suffixed, flagged = chat(byte, "suffixed"), chat(byte, "flagged")
    prompts = {spelled(suffixed.turn(ask("q", text)).prompt, suffixed) for text in ("a", ANSWERS["thought"])}
    assert {("/nothink" in prompt) for prompt in prompts} == {True, False}
    off = [Message("system", "/no_think"), *ask("q", "a")]
    assert spelled(flagged.turn(off).prompt, flagged).endswith(BLOCK)
    with pytest.raises(RowError, match="closes a thought before that of the answer"):
        flagged.turn([off[0], *ask("q", ANSWERS["thought"])])


def test_channels_are_tags_of_several_tokens(byte):
    format = chat(byte, "channels")
    parts = format.turn([Message("user", "q"), Message("assistant", "a", thought="t")]).completion
    assert spelled(parts, format) == f"{CHANNELS.open}t{CHANNELS.close}a<|reserved_2|>"
    assert [role for role, _ in itertools.groupby(part.role.label for part in parts)] == [
        *("think_open", "thought", "think_close", "answer")
    ]
    answer = format.turn(NO_THOUGHT).completion
    assert spelled(answer, format) == "<|reserved_0|>final<|reserved_1|>a<|reserved_2|>"
    assert [type(part.content) for part in answer] == [int, str, int, str, int], "what the template writes is control"
    assert {part.role.label for part in answer} == {"answer"}
    assert format.stop_ids == (byte.control["<|end|>"], byte.control["<|reserved_2|>"])


def conversations():
    """Mixed sets of several turns, with tools: thoughts in all, some, none; beside or inside; empty ones."""
    answers = [
        *(Message("assistant", text) for text in ANSWERS.values()),
        *(Message("assistant", "a", thought=thought) for thought in ("t", "")),
    ]
    for n, (first, second) in enumerate(itertools.product(answers, repeat=2)):
        between = Message("tool", '{"n": 3}') if n % 2 else Message("user", "r")
        yield Trace(n, (Message("user", "q"), first, between, second), f"data.jsonl:{n + 1}")


@pytest.mark.parametrize("policy", ["template", "none"])
@pytest.mark.parametrize("name", THINKING)
def test_every_turn_has_the_ids_of_inference_under_its_switch(byte, tmp_path, name, policy):
    """Those of `transformers`, told `enable_thinking` and `thinking`; what is behind them is learnt, nothing else."""
    theirs, format = AutoTokenizer.from_pretrained(write_byte_tokenizer(tmp_path)), chat(byte, name, policy)
    traces = list(conversations())
    settings = RowSettings(turns="each")
    rows = prepare_rows(reader(traces), format, settings, strict=False, max_dropped=1.0).rows
    assert len(rows) >= 20 and check_first_rows(traces, rows, format, turns="each") == 16
    for place, row_id in enumerate(rows.ids.tolist()):
        messages = traces[row_id & 0xFF].messages[: 2 + 2 * (row_id >> 40)]
        thinking = policy == "none" or "t" in (messages[-1].thought, *messages[-1].content.split("\n"))
        told = [{"role": m.role, "content": m.content} for m in messages[:-1]]
        for message, m in zip(told, messages, strict=False):
            if m.thought is not None and name == "channels":
                message["thinking"] = m.thought
            elif m.thought is not None:
                message["content"] = f"<think>\n{m.thought}\n</think>\n\n{m.content}"
        options = {"chat_template": THINKING[name], "tokenize": False, "add_generation_prompt": True}
        rendered = theirs.apply_chat_template(told, enable_thinking=thinking, thinking=thinking, **options)
        expected = theirs(rendered, add_special_tokens=False)["input_ids"]
        here = slice(int(rows.row_start[place]), int(rows.row_start[place + 1]))
        assert rows.tokens[here][: len(expected)].tolist() == expected
        supervised = is_supervised(rows.roles[here])
        assert supervised[len(expected) :].all() and not supervised[: len(expected)].any()


@pytest.mark.parametrize("messages", [NO_THOUGHT, ask("q", ANSWERS["empty"]), ask("q", ANSWERS["thought"], "r", "b")])
def test_a_row_without_a_thought_may_be_refused(byte, messages):
    trace = Trace(0, tuple(messages), "data.jsonl:7")
    with pytest.raises(UserError, match=r"^data\.jsonl:7: .*dataset\.empty_thought"):
        prepare_rows(reader([trace]), chat(byte, "switched", "refuse"))


def test_policies_have_rows_and_caches_of_their_own(byte):
    assert len({chat(byte, "switched", policy).fingerprint() for policy in ("template", "none", "refuse")}) == 3
    with pytest.raises(UserError, match=r"dataset\.empty_thought must be one of template, none, refuse, got 'drop'"):
        chat(byte, "switched", "drop")


@pytest.mark.parametrize(
    "needs",
    [
        "{% if not tools %}{{ raise_exception('tools are required') }}{% endif %}",
        "{% for tool in tools %}{{ tool.function.name }}{% endfor %}",
        "{{ tools | length }}",
    ],
)
def test_a_template_that_needs_tools_is_one_sentence(byte, needs):
    with pytest.raises(RowError, match=r"^the chat template requires tools, .* set dataset\.template$"):
        ChatFormat(byte, ChatTemplate("t", needs + THINKING["no thoughts"]), TAGS).turn(NO_THOUGHT)
    refusing = ChatTemplate("t", "{{ tools | length }}{{ raise_exception('never') }}")
    with pytest.raises(RowError, match="refuses the messages"):
        ChatFormat(byte, refusing, TAGS).turn(NO_THOUGHT)
