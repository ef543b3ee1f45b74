"""Turns as OpenAI, Anthropic, Mistral, ShareGPT, swift and LLaMA-Factory write them: one meaning, or a refusal."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from degenerate import write_lines

from cot_components.data.bad_rows import RowError
from cot_components.data.read.calls import TAGGED
from cot_components.data.read.formats import FORMATS, Message, detect, read_row
from cot_components.data.read.traces import read_traces

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"name": "pay", "arguments": {"who": "Ann", "num": 3}}
OTHER = {"name": "stop", "arguments": {}}
WRITTEN = '<tool_call>\n{"name": "pay", "arguments": {"who": "Ann", "num": 3}}\n</tool_call>'
OTHER_WRITTEN = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
OPENAI = {"id": "1", "type": "function", "function": CALL | {"arguments": json.dumps(CALL["arguments"])}}


def read(*turns: Any, **row: Any) -> tuple[Message, ...]:
    row |= {"messages": list(turns)}
    return read_row(row, FORMATS[detect(row, {})], {}).messages


def said(**turn: Any) -> Message:
    """What the assistant's turn becomes."""
    return read(USER, {"role": "assistant"} | turn)[-1]


def refusal(*turns: Any) -> str:
    with pytest.raises(RowError) as caught:
        read(*turns)
    return str(caught.value)


def text(value: str, type: str = "text") -> dict[str, Any]:
    return {"type": type, "text": value}


@pytest.mark.parametrize(
    "beside",
    [
        {"tool_calls": [OPENAI]},
        {"tool_calls": [CALL]},
        {"tool_calls": json.dumps([OPENAI])},
        {"tool_calls": [{"type": "function", "function": CALL}]},
        {"function_call": CALL},
        {"function_call": OPENAI["function"]},
        {"function_call": json.dumps(CALL)},
        {"function_call": CALL, "tool_calls": []},
        {"function_call": CALL, "tool_calls": None},
        {"function_call": {}, "tool_calls": [CALL]},
    ],
)
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_a_turn_of_calls_needs_no_content(beside, content):
    assert said(**beside, **content) == Message("assistant", WRITTEN, calls=TAGGED)


@pytest.mark.parametrize("none", [{"tool_calls": []}, {"tool_calls": "[]"}, {"tool_calls": ""}, {"function_call": {}}])
def test_a_turn_that_names_no_call_is_its_text(none):
    assert said(content="a", **none) == Message("assistant", "a")
    reason = "a turn has neither role and content nor from and value"
    assert refusal(USER, {"role": "assistant", **none}).startswith(reason)
    assert refusal(USER, {"role": "assistant", "content": None, **none}) == "'content' of the assistant's turn is null"


def test_parallel_calls_stand_in_their_order():
    assert said(tool_calls=[OPENAI, OTHER]).content == f"{WRITTEN}\n{OTHER_WRITTEN}"
    assert said(content="Look.", tool_calls=[OTHER, OPENAI]).content == f"Look.\n{OTHER_WRITTEN}\n{WRITTEN}"


@pytest.mark.parametrize(
    ("parts", "thought", "content"),
    [
        ([text("a")], None, "a"),
        ([text("a "), text("b", "output_text")], None, "a b"),
        ([{"text": "a"}], None, "a"),
        ([{"type": "thinking", "thinking": "t", "signature": "x"}, text("a")], "t", "a"),
        ([{"type": "thinking", "thinking": [text("t"), text("u")], "closed": True}, text("a")], "tu", "a"),
        ([{"type": "reasoning", "reasoning": "t"}, text("a")], "t", "a"),
        ([{"type": "reasoning", "text": "t", "reasoning": None}, text("a")], "t", "a"),
        ([{"type": "thinking", "thinking": ""}, text("a")], "", "a"),
        ([{"type": "tool_use", "id": "1", "name": "pay", "input": CALL["arguments"]}], None, WRITTEN),
        ([text("a"), {"type": "tool_use", "name": "stop", "input": {}}], None, f"a\n{OTHER_WRITTEN}"),
        (
            [{"type": "thinking", "thinking": "t"}, text("a"), {"type": "tool_use", "name": "stop", "input": None}],
            "t",
            f"a\n{OTHER_WRITTEN}",
        ),
    ],
)
def test_content_may_be_a_list_of_parts(parts, thought, content):
    message = said(content=parts)
    assert (message.thought, message.content) == (thought, content)
    assert message.calls == (TAGGED if "<tool_call>" in content else "")


def test_prompts_may_be_parts_and_tool_results_are_turns_of_their_own():
    result = {"type": "tool_result", "tool_use_id": "1"}
    turns = [
        {"role": "system", "content": [text("s")]},
        {"role": "user", "content": [text("q", "input_text")]},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "stop", "input": {}}]},
        {"role": "user", "content": [result | {"content": "3"}, result | {"content": [text("4")]}, result]},
        ASSISTANT,
        {"role": "user", "content": [result | {"content": "3"}, text("and?")]},
        ASSISTANT,
    ]
    assert [(m.role, m.content) for m in read(*turns)] == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", OTHER_WRITTEN),
        ("tool", "3"),
        ("tool", "4"),
        ("tool", ""),
        ("assistant", "a"),
        ("tool", "3"),
        ("user", "and?"),
        ("assistant", "a"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([text("a"), {"type": "thinking", "thinking": "t"}], "the parts of a turn stand in an order that makes"),
        ([{"type": "tool_use", "name": "f"}, text("a")], "the parts of a turn stand in an order that makes no sense"),
        ([{"type": "image_url", "image_url": "x"}], "a part of 'content' of the assistant's turn is not one of"),
        ([{"type": "redacted_thinking", "data": "x"}, text("a")], "a part of 'content' of the assistant's turn is not"),
        ([{"type": ["text"], "text": "a"}], "a part of 'content' of the assistant's turn is not one of"),
        (["a"], "a part of 'content' of the assistant's turn is not an object (it is str)"),
        ([text("a") | {"text": None}], "'text' in 'content' of the assistant's turn is null"),
        ([{"type": "thinking"}, text("a")], "'thinking' in 'content' of the assistant's turn is null"),
        ([{"type": "tool_use", "input": {}}], "a tool call has no name"),
        ([{"type": "tool_result", "content": "3"}], "a tool's result in a turn that is not the user's"),
        ([], "the response is empty"),
        ([{"type": "thinking", "thinking": "t"}], "the response is empty"),
    ],
)
def test_parts_that_are_not_certain_are_refused(content, reason):
    assert refusal(USER, {"role": "assistant", "content": content}).startswith(reason)


def test_thoughts_in_two_places_are_one_if_they_are_equal():
    parts = [{"type": "thinking", "thinking": "t"}, text("a")]
    assert said(content=parts, reasoning="t", reasoning_content="t") == Message("assistant", "a", thought="t")
    turn = {"role": "assistant", "content": parts, "reasoning": "u"}
    assert refusal(USER, turn) == "a turn holds two thoughts (reasoning and a part)"
    asked = {"role": "user", "content": [{"type": "thinking", "thinking": "t"}, text("q")]}
    assert refusal(asked, ASSISTANT) == "a thought in a turn that is not the assistant's (role user)"


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ({}, ""),
        ({"content": None}, ""),
        ({"content": "3"}, "3"),
        ({"content": {"n": 3, "b": None}}, '{"n": 3, "b": null}'),
        ({"content": [{"n": "\u00e9"}]}, '[{"n": "\u00e9"}]'),
        ({"content": []}, "[]"),
        ({"content": 3.5}, "3.5"),
        ({"content": False}, "false"),
        ({"content": [text("3"), text("4")]}, "34"),
    ],
)
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
        ("It was <tool_response>1</tool_response>", ["It was <tool_response>1</tool_response>"]),
        ("<tool_response>1", ["<tool_response>1"]),
        ("<tool_response>1<tool_response>2</tool_response>", ["<tool_response>1<tool_response>2</tool_response>"]),
    ],
)
def test_the_tags_around_a_result_are_the_templates_to_write(text, results):
    found = read(USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": text}, ASSISTANT)
    assert found[2:-1] == tuple(Message("tool", result) for result in results)


def test_a_turn_of_calls_may_have_the_tags_around_them():
    turn = {"role": "tool_call", "content": f" {WRITTEN}\n{OTHER_WRITTEN}\n"}
    assert read(USER, turn)[-1].content == f"{WRITTEN}\n{OTHER_WRITTEN}"
    quoting = {"name": "f", "arguments": {"text": "<tool_call>"}}
    assert read(USER, {"role": "tool_call", "content": json.dumps(quoting)})[-1].content.count("<tool_call>") == 2
    assert refusal(USER, turn | {"content": f"{WRITTEN} a"}).startswith("text among the calls")
    assert refusal(USER, turn | {"content": "<tool_call>{}"}) == "a tool call has no name (None)"


def test_what_a_tool_said_must_be_writable():
    for content, reason in (
        ({"n": float("nan")}, "cannot be written as JSON"),
        ("\ud800", "holds a lone surrogate"),
        ({"n": "\ud800"}, "holds a lone surrogate"),
    ):
        turns = [USER, ASSISTANT, {"role": "tool", "content": content}, ASSISTANT]
        assert refusal(*turns).startswith(f"'content' of the tool's turn {reason}")


def talk(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": name, "value": value} for name, value in turns]


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("function_call", "observation"),
        ("tool_call", "tool_response"),
        ("Tool-Calls", "tool"),
        ("function call", "ipython"),
    ],
)
def test_calls_in_turns_of_their_own_belong_to_the_turn_before(call, result):
    turns = talk(
        ("human", "q"),
        ("gpt", "Let me look."),
        (call, json.dumps(CALL)),
        (call, json.dumps([OTHER])),
        (result, "r"),
        (result, {"n": 3}),
        (call, CALL),
        (call, OTHER),
        (result, "r"),
        ("gpt", "a"),
    )
    row = {"conversations": turns}
    assert read_row(row, FORMATS[detect(row, {})], {}).messages == (
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
    assert refusal(USER, first, call | {"weight": 0}) == "a turn and the calls behind it have different weights"
    assert refusal(USER, first, call | {"reasoning": "u"}) == "the response is empty"
    assert refusal(USER, call, ASSISTANT) == "two assistant turns in a row"
    assert refusal(USER, ASSISTANT, call | {"content": "b"}) == "two assistant turns in a row"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{'name': 'pay'}", "a tool call is not JSON"),
        ("[]", "there are no tool calls"),
        (None, "a tool call is not an object"),
        ({"arguments": {}}, "a tool call has no name"),
        ({"name": "\ud800"}, "a tool call holds a lone surrogate"),
    ],
)
def test_a_turn_of_calls_that_are_none_is_refused(value, reason):
    assert refusal(USER, {"from": "tool_call", "value": value}).startswith(reason)


def test_role_and_from_content_and_value_may_be_mixed_and_null():
    turns = [{"from": "prompter", "role": None, "content": "q", "value": None}, {"role": "ai", "text": "a"}]
    assert read(*turns) == (Message("user", "q"), Message("assistant", "a"))
    assert refusal({"value": "q"}, ASSISTANT).startswith("a turn has neither role and content nor from and value")


def test_a_typed_table_of_turns_reads_as_json_lines_do(tmp_path):
    part = {"type": "thinking", "thinking": "t"}
    rows = [
        {"messages": [USER | {"content": [text("q")]}, {"role": "assistant", "content": [part, text("a")]}]},
        {"messages": [USER | {"content": [text("q")]}, {"role": "assistant", "tool_calls": [OPENAI]}]},
        {"messages": [USER | {"content": [text("q")]}, {"role": "assistant", "function_call": CALL}]},
    ]
    lines = list(read_traces(write_lines(tmp_path / "x.jsonl", *rows)))
    table = pa.Table.from_pylist(rows)
    assert table.to_pylist() != rows, "the table must have invented nulls"
    pq.write_table(table, tmp_path / "x.parquet")
    assert [t.messages for t in read_traces(tmp_path / "x.parquet")] == [t.messages for t in lines]
    assert len(lines) == 3 and lines[0].messages[1] == Message("assistant", "a", thought="t")
