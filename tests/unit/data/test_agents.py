"""Agent traces of every shape: what becomes of tools, calls and results, and what is refused."""

import json
from typing import Any

import pytest
from chats_for_tests import chat, texts
from hypothesis import given
from hypothesis import strategies as st
from lookalikes import is_real, shared_data
from tokenizers_for_tests import make_tokenizer

from cot_components.data.bad_rows import DropReport, RowError, TraceError
from cot_components.data.read.calls import REACT, TAGGED, Call, as_call, as_calls, read_tagged, write_calls
from cot_components.data.read.formats import FORMATS, Content, Message, detect, read_row
from cot_components.data.read.traces import Trace, read_traces
from cot_components.data.rows.prepare import RowSettings, encode_traces, prepare_rows
from cot_components.data.text.call_segments import call_segments
from cot_components.data.text.segments import Tags, segment_text
from cot_components.roles import SUPERVISED_ROLES, Role

CALL = {"name": "weather", "arguments": {"city": "Rom", "days": 2}}
WRITTEN = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom", "days": 2}}\n</tool_call>'
USER = {"role": "user", "content": "q"}
OPENAI = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rom", "days": 2}'}}
STEP = '\nThought: I need it.\nAction: weather\nAction Input: {\n  "city": "Rom"\n}'
REACT_TEXT = (
    "Thought: I need it.\nAction: weather\nAction Input: Rom\nObservation: 20\nThought: Fine.\nFinal Answer: 20 degrees"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer("byte", tmp_path_factory.mktemp("byte"))


def read(row: dict[str, Any]) -> Content:
    return read_row(row, FORMATS[detect(row, {})], {})


def last(row: dict[str, Any]) -> Message:
    return read(row).messages[-1]


def roles(text: str, style: str) -> list[tuple[str, str]]:
    segments = call_segments(text, style)
    assert "".join(s.text for s in segments) == text and all(s.text for s in segments)
    return [(s.role.label, s.text) for s in segments]


@pytest.mark.parametrize(
    ("turn", "content"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [OPENAI]}, WRITTEN),
        ({"role": "assistant", "content": "", "tool_calls": [CALL]}, WRITTEN),
        ({"role": "assistant", "content": "Look.", "tool_calls": [OPENAI, CALL]}, f"Look.\n{WRITTEN}\n{WRITTEN}"),
        ({"role": "assistant", "content": None, "function_call": CALL}, WRITTEN),
        ({"role": "assistant", "content": "a <tool_call>?", "tool_calls": [CALL]}, f"a <tool_call>?\n{WRITTEN}"),
        ({"from": "function_call", "value": json.dumps(CALL)}, WRITTEN),
        ({"from": "function_call", "value": json.dumps([CALL, CALL])}, f"{WRITTEN}\n{WRITTEN}"),
    ],
)
def test_calls_beside_the_text_become_text(turn, content):
    assert last({"messages": [USER, turn]}) == Message("assistant", content, calls=TAGGED)


def test_xlam_rows_have_tools_calls_and_a_reference():
    tools = json.dumps([{"name": "weather", "description": "\u00e9"}])
    content = read({"query": "q", "tools": tools, "answers": json.dumps([CALL]), "id": 1})
    system, user, assistant = content.messages
    assert system.role == "system" and '{"name": "weather", "description": "\u00e9"}' in system.content
    assert '{"name": ..., "arguments": {...}}' in system.content
    assert (user, assistant) == (Message("user", "q"), Message("assistant", WRITTEN, calls=TAGGED))
    assert json.loads(content.answer or "") == [CALL]


def test_a_column_of_tools_joins_the_system_prompt():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert read({"conversations": turns, "tools": "[]"}).messages == (Message("user", "q"), Message("assistant", "a"))
    row = {"conversations": [{"from": "system", "value": "Be kind."}, *turns], "tools": [{"name": "f"}]}
    system = read(row).messages[0].content
    assert system.startswith('Be kind.\n\nYou can use these tools:\n{"name": "f"}\n\n')


def test_toolbench_conversations_are_steps_of_react():
    finish = STEP.replace("weather", "Finish")
    names = ("system", "user", "assistant", "function", "assistant")
    values = ("Tools ...", "q", STEP, '{"t": 20}', finish)
    row = {"id": "q", "conversations": [{"from": n, "value": v} for n, v in zip(names, values, strict=True)]}
    assert read(row).messages[2:] == (
        Message("assistant", STEP, calls=REACT),
        Message("tool", '{"t": 20}'),
        Message("assistant", finish, calls=REACT),
    )
    assert roles(STEP, REACT) == [
        ("answer", "\n"),
        ("think_open", "Thought:"),
        ("thought", " I need it.\n"),
        ("call", "Action: weather\n"),
        ("call", 'Action Input: {\n  "city": "Rom"\n}'),
    ]


def test_a_trajectory_in_one_string_never_supervises_an_observation(tokenizer):
    row = {"trajectory": f"Question: How warm?\n{REACT_TEXT}"}
    content = read(row)
    assert content.messages == (Message("user", "How warm?"), Message("assistant", REACT_TEXT, calls=REACT))
    assert read({"instruction": "q", "response": REACT_TEXT}).messages[1].calls == REACT
    chats = chat(tokenizer)
    completion = chats.turn(content.messages).completion
    assert [(role, text) for role, text in texts(completion, tokenizer) if role in ("observation", "answer")] == [
        ("observation", "Observation: 20\n"),
        ("answer", "Final Answer: 20 degrees"),
        ("answer", "[<|end|>]"),
    ]
    trace = Trace(0, content.messages, "here")
    (rows,) = encode_traces([trace], chats, RowSettings(), strict=True, report=DropReport())
    flat = rows.flat([0])
    assert tokenizer.decode(flat.labels[flat.labels >= 0]) == REACT_TEXT.replace("Observation: 20\n", "") + "<|end|>"


def test_only_tags_behind_the_thought_open_a_call(tokenizer):
    text = f"<think> I must write <tool_call> now, or <response>. </think>\n{WRITTEN}\nDone."
    messages = (Message("user", "q"), Message("assistant", text, calls=TAGGED))
    parts = texts(chat(tokenizer).turn(messages).completion, tokenizer)
    assert [p for p in parts if p[0] == "call"] == [("call", WRITTEN)]
    assert "".join(text for _, text in parts) == text + "[<|end|>]"


def test_tags_are_text_unless_the_trace_is_an_agents():
    quoting = {"role": "assistant", "content": "Write <tool_call> first."}
    assert last({"messages": [USER, quoting]}).calls == ""
    assert last({"messages": [{"role": "system", "content": "Use <tool_call>."}, USER, quoting]}).calls == TAGGED
    assert last({"messages": [USER, {"role": "assistant", "content": WRITTEN + "\n"}]}).calls == TAGGED
    after_tool = [USER, {"role": "assistant", "content": "a"}, {"role": "tool", "content": "r"}, quoting]
    assert last({"messages": after_tool}).calls == TAGGED
    assert last({"messages": [USER, {"role": "assistant", "content": "Thought: none. Action: none."}]}).calls == ""


def test_what_follows_an_agents_last_turn_is_left_out():
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "content": "r"}
    assert len(read({"messages": [USER, call, result, USER]}).messages) == 2


CALL_JSON = json.dumps(CALL)


@pytest.mark.parametrize(
    ("text", "style", "reason"),
    [
        (WRITTEN.replace("}}", "}"), TAGGED, "a tool call is not JSON (Expecting ',' delimiter: '</tool_call>')"),
        (WRITTEN.replace("2}", "NaN}"), TAGGED, "a tool call is not JSON (NaN is not JSON)"),
        (WRITTEN.replace("days", "city"), TAGGED, "a tool call is not JSON (a key stands twice in an object: 'city')"),
        (WRITTEN.replace("2}", "9" * 5000 + "}"), TAGGED, "a tool call is not JSON (beyond what can be read)"),
        (f"<tool_call>{CALL_JSON}", TAGGED, "<tool_call> is never closed"),
        (f"a</tool_call>{WRITTEN}", TAGGED, "</tool_call> without <tool_call>"),
        ("<tool_call> </tool_call>", TAGGED, "there are no tool calls (between <tool_call> and </tool_call>)"),
        ("<tool_call>5</tool_call>", TAGGED, "a tool call is not an object (it is int)"),
        (STEP.replace('"\n}', '"'), REACT, "a tool call is not JSON (Expecting ',' delimiter: '')"),
        (STEP + " ]", REACT, "a tool call is not JSON (text behind it: ']')"),
        (STEP + "\nThought: x", REACT, "steps in an order that makes no sense ('Action Input' before 'Thought')"),
        (STEP + "\nObservation: 3", REACT, "steps in an order that makes no sense ('Observation' before '')"),
        ("Thought: x", REACT, "steps in an order that makes no sense ('Thought' before '')"),
        ("Hm.\nThought: x\nAction: f", REACT, "text before the first step ('Hm.\\nThought: x\\nAction: f')"),
        ("Thought: x\nAction: \nAction Input: y", REACT, "an action without a name"),
    ],
)
def test_calls_that_are_not_certain_are_refused(text, style, reason):
    with pytest.raises(RowError) as caught:
        call_segments(text, style)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"arguments": {}}, "a tool call has no name (None)"),
        ({"name": " "}, "a tool call has no name (' ')"),
        ({"name": "f", "arguments": [1]}, "the arguments of a tool call are not an object (they are list)"),
        ({"name": "f", "arguments": {}, "args": {}}, "a tool call names its arguments twice (arguments and args)"),
        ([], "there are no tool calls"),
    ],
)
def test_objects_that_are_no_call_are_refused(value, reason):
    with pytest.raises(RowError) as caught:
        as_calls(value)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"role": "user"}, "a tool call in a turn that is not the assistant's (role user)"),
        ({"function_call": CALL}, "a turn holds both 'tool_calls' and 'function_call'"),
        ({"content": WRITTEN}, "tool calls stand both in the text of a turn and beside it"),
        ({"content": f"<tool_call>? {WRITTEN}"}, "tool calls stand both in the text of a turn and beside it"),
        ({"tool_calls": [{"name": "f", "arguments": "{'a': 1}"}]}, "a tool call is not JSON (Expecting property"),
    ],
)
def test_turns_with_uncertain_calls_are_refused(changes, reason):
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL]} | changes
    with pytest.raises(RowError) as caught:
        read({"messages": [USER, turn]})
    assert str(caught.value).startswith(reason)


def test_malformed_calls_are_an_error_with_their_line_or_counted(tmp_path, tokenizer):
    good = {"messages": [USER, {"role": "assistant", "content": WRITTEN}]}
    beside = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "args": "{"}]}]}
    inside = {"messages": [USER, {"role": "assistant", "content": WRITTEN.replace("}}", "}")}]}
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, beside, inside)))
    with pytest.raises(TraceError, match=r"calls\.jsonl:2: a tool call is not JSON"):
        prepare_rows(lambda report: read_traces(path, report=report), chat(tokenizer))
    rows, report, _ = prepare_rows(
        lambda report: read_traces(path, strict=False, report=report), chat(tokenizer), strict=False, max_dropped=0.7
    )
    assert rows.ids.tolist() == [0]
    assert report.dropped == {"a tool call is not JSON": [f"{path}:2", f"{path}:3"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
calls = st.builds(
    Call, st.text(min_size=1).filter(str.strip) | st.just("</tool_call>"), st.dictionaries(st.text(), json_values)
)


@given(st.lists(calls, min_size=1, max_size=4))
def test_written_calls_read_back_whatever_is_in_them(given_calls):
    text = write_calls(given_calls)
    found, end = [], 0
    while end < len(text):
        read_back, end = read_tagged(text, end)
        end += text[end : end + 1] == "\n"
        found += read_back
    assert found == given_calls
    segments = call_segments(f"a {text} b", TAGGED)
    assert [s.role for s in segments if s.text.strip()] == [Role.ANSWER, *[Role.CALL] * len(given_calls), Role.ANSWER]


AGENT_DATA = {
    "think_toolrl/messages.jsonl": None,
    "glaive_toolcall/glaive_toolcall_en_demo.json": None,
    "tau_bench/gpt-4o-airline.json": {"messages": "traj"},
}
REAL_CALLS = {"think_toolrl": 576, "glaive_toolcall": 211, "tau_bench": 1164}


@pytest.mark.parametrize("name", AGENT_DATA)
def test_shared_agent_data_is_supervised_in_calls_and_never_in_results(name, tmp_path, tokenizer):
    path, report = shared_data(tmp_path) / name, DropReport()
    traces = list(read_traces(path, columns=AGENT_DATA[name], strict=False, report=report))
    chats, num_calls = chat(tokenizer), 0
    for trace in traces:
        for end, message in enumerate(trace.messages, start=1):
            if message.role != "assistant":
                continue
            turn = chats.turn(trace.messages[:end])
            assert not {part.role for part in turn.prompt} & set(SUPERVISED_ROLES)
            for part in turn.completion:
                if part.role is Role.CALL:
                    found, stop = read_tagged(str(part.content), 0)
                    assert stop == len(str(part.content))
                    num_calls += len(found)
    assert len(traces) > 0 and num_calls > 0
    if is_real():
        assert num_calls == REAL_CALLS[name.split("/")[0]]


def test_calls_of_toolrl_are_those_its_rows_list(tmp_path):
    path = shared_data(tmp_path) / "think_toolrl/messages.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    checked, naming = 0, 0
    for row, trace in zip(rows, read_traces(path), strict=True):
        message = trace.messages[-1]
        segments = segment_text(message.content, Tags())
        behind = [s.text for s in segments if s.role is Role.ANSWER][-1]
        found = [] if not message.calls else call_segments(behind, message.calls)
        calls = [call for s in found if s.role is Role.CALL for call in read_tagged(s.text, 0)[0]]
        assert calls == [as_call(call) for call in row["tool_calls"] or []]
        naming += any(tag in row["think"] for tag in ("<tool_call>", "<response>"))
        checked += len(calls)
    assert checked > 0 and naming == (17 if is_real() else 2)
