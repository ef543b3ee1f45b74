"""Turns as OpenAI, Anthropic, Mistral, ShareGPT, swift and LLaMA-Factory write them: one meaning, or a refusal."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading
from degenerate import write_lines
from hypothesis import given
from hypothesis import strategies as st

from cot_components.data.bad_rows import RowError
from cot_components.data.read.arrow import as_structs
from cot_components.data.read.calls import TAGGED
from cot_components.data.read.formats import FORMATS, Message
from cot_components.data.read.traces import read_traces
from cot_components.data.read.turns import PARTS, ROLES

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL, OTHER = {"name": "pay", "arguments": {"who": "Ann", "num": 3}}, {"name": "stop", "arguments": {}}
WRITTEN, OTHER_WRITTEN = (f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in (CALL, OTHER))
FUNCTION = CALL | {"arguments": json.dumps(CALL["arguments"])}
OPENAI = {"id": "1", "type": "function", "function": FUNCTION}
THINKING = {"type": "thinking", "thinking": "t"}
STOP = {"type": "tool_use", "name": "stop", "input": {}}


def read(*turns):
    return reading.read({"messages": list(turns)}).messages


def refusal(*turns):
    return reading.refusal({"messages": list(turns)})


def said(**turn):
    """What the assistant's turn becomes."""
    return read(USER, {"role": "assistant"} | turn)[-1]


def text(value, type="text"):
    return {"type": type, "text": value}


@pytest.mark.parametrize(
    "beside",
    [
        *({"tool_calls": calls} for calls in ([OPENAI], [CALL], json.dumps([OPENAI]), [{"function": CALL}])),
        *({"function_call": call} for call in (CALL, FUNCTION, json.dumps(CALL))),
        *({"function_call": CALL, "tool_calls": none} for none in ([], None)),
        {"function_call": {}, "tool_calls": [CALL]},
    ],
)
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_a_turn_of_calls_needs_no_content(beside, content):
    assert said(**beside, **content) == Message("assistant", WRITTEN, calls=TAGGED)


@pytest.mark.parametrize("none", [{"tool_calls": []}, {"tool_calls": "[]"}, {"tool_calls": ""}, {"function_call": {}}])
def test_a_turn_that_names_no_call_is_its_text(none):
    assert said(content="a", **none) == Message("assistant", "a")
    assert "neither role and content nor from and value" in refusal(USER, {"role": "assistant", **none})
    assert refusal(USER, {"role": "assistant", "content": None, **none}) == "'content' of the assistant's turn is null"


def test_parallel_calls_stand_in_their_order_behind_the_text():
    assert said(tool_calls=[OPENAI, OTHER]).content == f"{WRITTEN}\n{OTHER_WRITTEN}"
    assert said(content="Look.", tool_calls=[OTHER, OPENAI]).content == f"Look.\n{OTHER_WRITTEN}\n{WRITTEN}"
    assert said(content="a <tool_call>?", tool_calls=[CALL]).content == f"a <tool_call>?\n{WRITTEN}"


@pytest.mark.parametrize(
    ("parts", "thought", "content"),
    [
        ([text("a")], None, "a"),
        ([text("a "), text("b", "output_text")], None, "a b"),
        ([{"text": "a"}], None, "a"),
        ([THINKING | {"signature": "x"}, text("a")], "t", "a"),
        ([{"type": "thinking", "thinking": [text("t"), text("u")], "closed": True}, text("a")], "tu", "a"),
        ([{"type": "reasoning", "reasoning": "t"}, text("a")], "t", "a"),
        ([{"type": "reasoning", "text": "t", "reasoning": None}, text("a")], "t", "a"),
        ([{"type": "thinking", "thinking": ""}, text("a")], "", "a"),
        ([{"type": "tool_use", "id": "1", "name": "pay", "input": CALL["arguments"]}], None, WRITTEN),
        ([text("a"), STOP], None, f"a\n{OTHER_WRITTEN}"),
        ([THINKING, text("a"), STOP | {"input": None}], "t", f"a\n{OTHER_WRITTEN}"),
    ],
)
def test_content_may_be_a_list_of_parts(parts, thought, content):
    calls = TAGGED if "<tool_call>" in content else ""
    assert said(content=parts) == Message("assistant", content, thought=thought, calls=calls)


def test_prompts_may_be_parts_and_tool_results_are_turns_of_their_own():
    result = {"type": "tool_result", "tool_use_id": "1"}
    turns = [
        ("system", [text("s")]),
        ("user", [text("q", "input_text")]),
        ("assistant", [STOP]),
        ("user", [result | {"content": "3"}, result | {"content": [text("4")]}, result]),
        ("assistant", "a"),
        ("user", [result | {"content": "3"}, text("and?")]),
        ("assistant", "a"),
    ]
    assert [(m.role, m.content) for m in read(*({"role": role, "content": content} for role, content in turns))] == [
        *(("system", "s"), ("user", "q"), ("assistant", OTHER_WRITTEN), ("tool", "3"), ("tool", "4"), ("tool", "")),
        *(("assistant", "a"), ("tool", "3"), ("user", "and?"), ("assistant", "a")),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([text("a"), THINKING], "the parts of a turn are out of order"),
        ([STOP, text("a")], "the parts of a turn are out of order"),
        ([{"type": "image_url", "image_url": "x"}], "a part of 'content' of the assistant's turn is not one of"),
        ([{"type": "redacted_thinking", "data": "x"}, text("a")], "a part of 'content' of the assistant's turn is not"),
        ([{"type": ["text"], "text": "a"}], "a part of 'content' of the assistant's turn is not one of"),
        (["a"], "a part of 'content' of the assistant's turn is not an object (it is str)"),
        ([text(None)], "'text' in 'content' of the assistant's turn is null"),
        ([{"type": "thinking"}, text("a")], "'thinking' in 'content' of the assistant's turn is null"),
        ([{"type": "tool_use", "input": {}}], "a tool call has no name"),
        ([{"type": "tool_result", "content": "3"}], "a tool's result in a turn that is not the user's"),
        ([], "the response is empty"),
        ([THINKING], "the response is empty"),
    ],
)
def test_parts_that_are_not_certain_are_refused(content, reason):
    assert refusal(USER, {"role": "assistant", "content": content}).startswith(reason)


def test_thoughts_in_two_places_are_one_if_they_are_equal():
    parts = [THINKING, text("a")]
    assert said(content=parts, reasoning="t", reasoning_content="t") == Message("assistant", "a", thought="t")
    assert "two thoughts" in refusal(USER, {"role": "assistant", "content": parts, "reasoning": "u"})
    assert "a thought in a turn" in refusal({"role": "user", "content": [THINKING, text("q")]}, ASSISTANT)


NUMBERS = {"n": 3, "b": None}
RESULTS = [(None, ""), ("3", "3"), (NUMBERS, '{"n": 3, "b": null}'), ([{"n": "\u00e9"}], '[{"n": "\u00e9"}]')]
RESULTS += [([], "[]"), (3.5, "3.5"), (False, "false"), ([text("3"), text("4")], "34")]


@pytest.mark.parametrize(("result", "content"), [({}, ""), *(({"content": value}, said) for value, said in RESULTS)])
@pytest.mark.parametrize("role", ["tool", "function", "ipython", "Tool-Response", "tool result", "function_outputs"])
def test_what_a_tool_said_is_text_or_json_or_nothing(role, result, content):
    found = read(USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": role, "name": "pay", **result}, ASSISTANT)
    assert found[2] == Message("tool", content)


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("<tool_response>\n{}\n</tool_response>", ["{}"]),
        ("<tool_response>1</tool_response>\n<tool_response>\n2\n3</tool_response>\n", ["1", "2\n3"]),
        ("<tool_response></tool_response>", [""]),
        ("It was <tool_response>1</tool_response>", None),
        ("<tool_response>1", None),
        ("<tool_response>1<tool_response>2</tool_response>", None),
    ],
)
def test_the_tags_around_a_result_are_the_templates_to_write(text, results):
    found = read(USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": text}, ASSISTANT)
    assert found[2:-1] == tuple(Message("tool", result) for result in results or [text])


def test_a_turn_of_calls_may_have_the_tags_around_them():
    turn = {"role": "tool_call", "content": f" {WRITTEN}\n{OTHER_WRITTEN}\n"}
    assert read(USER, turn)[-1].content == f"{WRITTEN}\n{OTHER_WRITTEN}"
    quoting = {"name": "f", "arguments": {"text": "<tool_call>"}}
    assert read(USER, {"role": "tool_call", "content": json.dumps(quoting)})[-1].content.count("<tool_call>") == 2
    assert refusal(USER, turn | {"content": f"{WRITTEN} a"}).startswith("text among the calls")


@pytest.mark.parametrize("bad", [{"n": float("nan")}, "\ud800", {"n": "\ud800"}])
def test_what_a_tool_said_must_be_writable(bad):
    reason = refusal(USER, ASSISTANT, {"role": "tool", "content": bad}, ASSISTANT)
    assert reason.startswith("'content' of the tool's turn") and ("JSON" in reason or "lone surrogate" in reason)


NAMES = [("function_call", "observation"), ("tool_call", "tool_response"), ("Tool-Calls", "tool")]


@pytest.mark.parametrize(("call", "result"), [*NAMES, ("function call", "ipython")])
def test_calls_in_turns_of_their_own_belong_to_the_turn_before(call, result):
    turns = [
        *(("human", "q"), ("gpt", "Let me look."), (call, json.dumps(CALL)), (call, json.dumps([OTHER]))),
        *((result, "r"), (result, {"n": 3}), (call, CALL), (call, OTHER), (result, "r"), ("gpt", "a")),
    ]
    row = {"conversations": [{"from": name, "value": value} for name, value in turns]}
    assert reading.read(row).messages == (
        Message("user", "q"),
        Message("assistant", f"Let me look.\n{WRITTEN}\n{OTHER_WRITTEN}", calls=TAGGED),
        Message("tool", "r"),
        Message("tool", '{"n": 3}'),
        Message("assistant", f"{WRITTEN}\n{OTHER_WRITTEN}", calls=TAGGED),
        Message("tool", "r"),
        Message("assistant", "a"),
    )


def test_a_joined_turn_keeps_its_thought_and_one_weight():
    first, call = {"role": "assistant", "content": "", "reasoning": "t"}, {"role": "assistant", "tool_calls": [CALL]}
    assert read(USER, first, call)[-1] == Message("assistant", WRITTEN, thought="t", calls=TAGGED)
    assert read(USER, first | {"weight": 0.5}, call | {"weight": 0.5})[-1].weight == 0.5
    assert "different weights" in refusal(USER, first, call | {"weight": 0})
    assert refusal(USER, first, call | {"reasoning": "u"}) == "the response is empty"
    assert refusal(USER, call, ASSISTANT) == "two assistant turns in a row"
    assert refusal(USER, ASSISTANT, call | {"content": "b"}) == "two assistant turns in a row"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{'name': 'pay'}", "a tool call is not JSON"),
        ("[]", "there are no tool calls"),
        (None, "a tool call is not an object"),
        ({"arguments": {}}, "a tool call has no name (None)"),
        ({"name": " "}, "a tool call has no name (' ')"),
        ("<tool_call>{}", "a tool call has no name (None)"),
        ({"name": "\ud800"}, "a tool call holds a lone surrogate"),
        ({"name": "f", "arguments": [1]}, "the arguments of a tool call are not an object (they are list)"),
        ({"name": "f", "arguments": {}, "args": {}}, "a tool call names its arguments twice (arguments and args)"),
    ],
)
def test_a_turn_of_calls_that_are_none_is_refused(value, reason):
    assert refusal(USER, {"from": "tool_call", "value": value}).startswith(reason)


def test_role_and_from_content_and_value_may_be_mixed_and_null():
    turns = [{"from": "prompter", "role": None, "content": "q", "value": None}, {"role": "ai", "text": "a"}]
    assert read(*turns) == (Message("user", "q"), Message("assistant", "a"))
    assert "neither role and content" in refusal({"value": "q"}, ASSISTANT)


def test_a_typed_table_of_turns_reads_as_json_lines_do(tmp_path):
    answers = ({"content": [THINKING, text("a")]}, {"tool_calls": [OPENAI]}, {"function_call": CALL})
    asked = {"role": "user", "content": [text("q")]}
    rows = [{"messages": [asked, {"role": "assistant", **answer}]} for answer in answers]
    lines = list(read_traces(write_lines(tmp_path / "x.jsonl", *rows)))
    table = pa.Table.from_pylist(rows)
    assert table.to_pylist() != rows, "the table must have invented nulls"
    pq.write_table(table, tmp_path / "x.parquet")
    assert [t.messages for t in read_traces(tmp_path / "x.parquet")] == [t.messages for t in lines]
    assert len(lines) == 3 and lines[0].messages[1] == Message("assistant", "a", thought="t")


BESIDE = ("tool_calls", "function_call", "reasoning", "weight")
KEYS = ("role", "from", "content", "value", "text", *BESIDE, "type", "input", "thinking", "name", "arguments")
TEXTS = (
    *("", "a", "[", "\ud800", "Thought: x", "c #### 1", "q||c #### 1", "<think>", '"name": "f"', json.dumps(CALL)),
    *(WRITTEN, "<tool_call>", "<tool_response>1</tool_response>", *ROLES),
    *(*PARTS["text"], *PARTS["thought"], *PARTS["call"]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*TEXTS, CALL, [CALL]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
ONE_ROLE = {"role": st.sampled_from(sorted(ROLES))}
ANY_TURN = st.fixed_dictionaries(ONE_ROLE, optional=dict.fromkeys(("content", *BESIDE), VALUES)) | VALUES
ANY_TURNS = st.lists(ANY_TURN, max_size=5)
COLUMN = VALUES | ANY_TURNS | ANY_TURNS.map(lambda turns: json.dumps(turns, allow_nan=True))
ROWS = st.sampled_from([FORMATS[name] for name in sorted(FORMATS)]).flatmap(
    lambda format: st.fixed_dictionaries(
        dict.fromkeys(format.required, COLUMN), optional=dict.fromkeys(format.optional, COLUMN)
    )
)


@given(ROWS, st.booleans())
def test_any_row_is_read_whole_or_refused(row, is_typed):
    """Whatever JSON stands where a format wants something else."""
    try:
        messages = reading.read(as_structs(row) if is_typed else row).messages
    except RowError as fault:
        assert fault.reason and "\n" not in fault.reason
        return
    spoken = [message for message in messages if message.role != "system"]
    assert spoken[0].role == "user" and spoken[-1].role == "assistant"
    for message in messages:
        (message.content + (message.thought or "")).encode()
        assert message.role in set(ROLES.values()) and message.weight >= 0
        assert message.content.strip() or message.role in ("system", "tool")
        assert message.thought is None or message.role == "assistant"
