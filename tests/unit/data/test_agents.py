"""Agent traces of every shape: what becomes of tools, calls and results, and what is refused."""

import json

import pytest
from chats import chat, texts
from hypothesis import given
from hypothesis import strategies as st
from lookalikes import is_real, shared_data
from reading import read, reader, refusal

from cot_components.data.bad_rows import DropReport, RowError, TraceError
from cot_components.data.read.calls import REACT, TAGGED, Call, as_call, read_tagged, write_calls
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace, read_traces
from cot_components.data.rows.prepare import prepare_rows
from cot_components.data.text.call_segments import call_segments
from cot_components.data.text.segments import Tags, segment_text
from cot_components.roles import SUPERVISED_ROLES, Role

CALL = {"name": "weather", "arguments": {"city": "Rom", "days": 2}}
WRITTEN = f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
STEP = '\nThought: I need it.\nAction: weather\nAction Input: {\n  "city": "Rom"\n}'
REACT_TEXT = (
    "Thought: I need it.\nAction: weather\nAction Input: Rom\nObservation: 20\nThought: Fine.\nFinal Answer: 20 degrees"
)
TOOL = {"name": "stock", "description": "Pieces", "parameters": {"type": "object", "properties": {"name": {}}}}
TOOLS = [TOOL, {"type": "function", "function": {"name": "price", "description": "Coins"}}]


def system_of(**row):
    return read(row).messages[0].content


def calls_of(*turns):
    return read({"messages": turns}).messages[-1].calls


def test_xlam_rows_have_tools_calls_and_a_reference():
    tools = json.dumps([{"name": "weather", "description": "\u00e9"}])
    content = read({"query": "q", "tools": tools, "answers": json.dumps([CALL]), "id": 1})
    system, user, assistant = content.messages
    assert system.role == "system" and '{"name": "weather", "description": "\u00e9"}' in system.content
    assert '{"name": ..., "arguments": {...}}' in system.content
    assert (user, assistant) == (Message("user", "q"), Message("assistant", WRITTEN, calls=TAGGED))
    assert json.loads(content.answer or "") == [CALL]
    for none in ("[]", [], " [ ] "):
        assert "no call is right here" in refusal({"query": "q", "tools": "[]", "answers": none})


def test_a_column_of_tools_joins_the_system_prompt():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert read({"conversations": turns, "tools": "[]"}).messages == (Message("user", "q"), Message("assistant", "a"))
    kind = {"from": "system", "value": "Be kind."}
    system = system_of(conversations=[kind, *turns], tools=[{"name": "f"}])
    assert system.startswith('Be kind.\n\nYou can use these tools:\n{"name": "f"}\n\n')


@pytest.mark.parametrize(
    "listing",
    [
        f"<tools> {json.dumps(TOOLS)} </tools>",
        f"Tools:\n{json.dumps(TOOLS, indent=2)}",
        f"<tools>\n{json.dumps(TOOLS[0])}\n{json.dumps(TOOLS[1])}\n</tools>",
        f"You have {TOOLS}",
    ],
)
@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS), [json.dumps(tool) for tool in TOOLS]])
def test_tools_that_the_system_prompt_lists_are_not_written_again(listing, tools):
    turns = [{"role": "system", "content": listing}, USER, ANSWER]
    assert system_of(messages=turns, tools=tools) == listing
    assert system_of(conversations=turns[1:], system=listing, tools=tools) == listing
    some = refusal({"messages": turns, "tools": [*TOOLS, {"name": "third"}]})
    assert "lists some of the tools" in some and "2 of 3" in some


@pytest.mark.parametrize(
    "prompt", ["Use stock.", '<tool_call>{"name": "stock", "arguments": {"name": "mug"}}</tool_call>', '"stock"']
)
def test_a_prompt_that_names_a_tool_or_shows_a_call_lists_none(prompt):
    system = system_of(messages=[{"role": "system", "content": prompt}, USER, ANSWER], tools=[TOOL])
    assert system.startswith(f"{prompt}\n\nYou can use these tools:\n{json.dumps(TOOL)}\n\n")


def test_openais_older_column_of_functions_is_read_where_there_is_no_other():
    turns = [USER, ANSWER]
    assert json.dumps(TOOL) in system_of(messages=turns, functions=[TOOL])
    system = system_of(messages=turns, functions=[TOOL], tools=[{"name": "other"}])
    assert json.dumps(TOOL) not in system and '{"name": "other"}' in system
    assert json.dumps(TOOL) in system_of(prompt=turns[:1], completion=turns[1:], tools=[TOOL])


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("{", "'tools' is not JSON"),
        ('[{"name": "f", "name": "g"}]', "'tools': an object has a key twice ('name')"),
        ('[{"name": "f", "x": NaN}]', "'tools': NaN is not JSON"),
        ({"name": "f"}, "'tools' is not a list (it is dict)"),
        (["{"], "a tool is not JSON"),
        ([None], "a tool is not an object (it is NoneType)"),
        ([[{"name": "f"}]], "a tool is not an object (it is list)"),
    ],
)
def test_tools_that_are_not_certain_are_refused(tools, reason):
    assert refusal({"messages": [USER, ANSWER], "tools": tools}).startswith(reason)


def test_toolbench_conversations_are_steps_of_react():
    finish = STEP.replace("weather", "Finish")
    turns = {"system": "Tools ...", "user": "q", "assistant": STEP, "function": '{"t": 20}'}
    said = [*turns.items(), ("assistant", finish)]
    row = {"id": "q", "conversations": [{"from": name, "value": value} for name, value in said]}
    step, last = (Message("assistant", text, calls=REACT) for text in (STEP, finish))
    assert read(row).messages[2:] == (step, Message("tool", '{"t": 20}'), last)
    assert [(s.role.label, s.text) for s in call_segments(STEP, REACT)] == [
        ("answer", "\n"),
        ("think_open", "Thought:"),
        ("thought", " I need it.\n"),
        ("call", "Action: weather\n"),
        ("call", 'Action Input: {\n  "city": "Rom"\n}'),
    ]


def test_a_trajectory_in_one_string_never_supervises_an_observation(byte):
    messages = read({"trajectory": f"Question: How warm?\n{REACT_TEXT}"}).messages
    assert messages == (Message("user", "How warm?"), Message("assistant", REACT_TEXT, calls=REACT))
    assert read({"instruction": "q", "response": REACT_TEXT}).messages[1].calls == REACT
    completion = texts(chat(byte).turn(messages).completion, byte)
    assert [(role, text) for role, text in completion if role in ("observation", "answer")] == [
        ("observation", "Observation: 20\n"),
        ("answer", "Final Answer: 20 degrees"),
        ("answer", "[<|end|>]"),
    ]
    flat = prepare_rows(reader([Trace(0, messages, "here")]), chat(byte)).rows.flat([0])
    assert byte.decode(flat.labels[flat.labels >= 0]) == REACT_TEXT.replace("Observation: 20\n", "") + "<|end|>"


def test_only_tags_behind_the_thought_open_a_call(byte):
    text = f"<think> I must write <tool_call> now, or <response>. </think>\n{WRITTEN}\nDone."
    messages = (Message("user", "q"), Message("assistant", text, calls=TAGGED))
    parts = texts(chat(byte).turn(messages).completion, byte)
    assert [p for p in parts if p[0] == "call"] == [("call", WRITTEN)]
    assert "".join(text for _, text in parts) == text + "[<|end|>]"


def test_tags_are_text_unless_the_trace_is_an_agents():
    quoting = ANSWER | {"content": "Write <tool_call> first."}
    assert calls_of(USER, quoting) == ""
    assert calls_of({"role": "system", "content": "Use <tool_call>."}, USER, quoting) == TAGGED
    assert calls_of(USER, ANSWER | {"content": WRITTEN + "\n"}) == TAGGED
    assert calls_of(USER, ANSWER, {"role": "tool", "content": "r"}, quoting) == TAGGED
    assert calls_of(USER, ANSWER | {"content": "Thought: none. Action: none."}) == ""


def test_what_follows_an_agents_last_turn_is_left_out():
    assert len(read({"messages": [USER, CALLING, {"role": "tool", "content": "r"}, USER]}).messages) == 2


@pytest.mark.parametrize(
    ("text", "style", "reason"),
    [
        (WRITTEN.replace("}}", "}"), TAGGED, "a tool call is not JSON (Expecting ',' delimiter: '</tool_call>')"),
        (WRITTEN.replace("2}", "NaN}"), TAGGED, "a tool call is not JSON (NaN is not JSON)"),
        (WRITTEN.replace("days", "city"), TAGGED, "a tool call is not JSON (an object has a key twice: 'city')"),
        (WRITTEN.replace("2}", "9" * 5000 + "}"), TAGGED, "a tool call is not JSON (too large or too deeply nested)"),
        (f"<tool_call>{json.dumps(CALL)}", TAGGED, "<tool_call> is never closed"),
        (f"a</tool_call>{WRITTEN}", TAGGED, "</tool_call> without <tool_call>"),
        ("<tool_call> </tool_call>", TAGGED, "there are no tool calls (between"),
        ("<tool_call>5</tool_call>", TAGGED, "a tool call is not an object (it is int)"),
        (STEP.replace('"\n}', '"'), REACT, "a tool call is not JSON (Expecting ',' delimiter: '')"),
        (STEP + " ]", REACT, "a tool call is not JSON (text after it: ']')"),
        (STEP + "\nThought: x", REACT, "steps out of order ('Action Input' before 'Thought')"),
        (STEP + "\nObservation: 3", REACT, "steps out of order ('Observation' before '')"),
        ("Thought: x", REACT, "steps out of order ('Thought' before '')"),
        ("Hm.\nThought: x\nAction: f", REACT, "text before the first step ('Hm."),
        ("Thought: x\nAction: \nAction Input: y", REACT, "an action without a name"),
    ],
)
def test_calls_that_are_not_certain_are_refused(text, style, reason):
    with pytest.raises(RowError) as caught:
        call_segments(text, style)
    assert str(caught.value).startswith(reason)


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
    assert refusal({"messages": [USER, CALLING | changes]}).startswith(reason)


def test_malformed_calls_are_an_error_with_their_line_or_counted(tmp_path, byte):
    turns = [ANSWER | {"content": WRITTEN}, CALLING | {"tool_calls": [{"name": "f", "args": "{"}]}]
    turns.append(ANSWER | {"content": WRITTEN.replace("}}", "}")})
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps({"messages": [USER, turn]}) + "\n" for turn in turns))
    with pytest.raises(TraceError, match=r"calls\.jsonl:2: a tool call is not JSON"):
        prepare_rows(lambda report: read_traces(path, report=report), chat(byte))
    rows, report, _ = prepare_rows(
        lambda report: read_traces(path, strict=False, report=report), chat(byte), strict=False, max_dropped=0.7
    )
    assert rows.ids.tolist() == [0]
    assert report.dropped == {"a tool call is not JSON": [f"{path}:2", f"{path}:3"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.text(min_size=1).filter(str.strip) | st.just("</tool_call>")


@given(st.lists(st.builds(Call, names, st.dictionaries(st.text(), json_values)), min_size=1, max_size=4))
def test_written_calls_read_back_whatever_is_in_them(given_calls):
    text, found, end = write_calls(given_calls), [], 0
    while end < len(text):
        read_back, end = read_tagged(text, end)
        end += text[end : end + 1] == "\n"
        found += read_back
    assert found == given_calls
    segments = call_segments(f"a {text} b", TAGGED)
    assert "".join(s.text for s in segments) == f"a {text} b" and all(s.text for s in segments)
    assert [s.role for s in segments if s.text.strip()] == [Role.ANSWER, *[Role.CALL] * len(given_calls), Role.ANSWER]


AGENT_DATA = [
    ("think_toolrl/messages.jsonl", None, 576),
    ("glaive_toolcall/glaive_toolcall_en_demo.json", None, 211),
    ("tau_bench/gpt-4o-airline.json", {"messages": "traj"}, 1164),
]


@pytest.mark.parametrize(("name", "columns", "real_calls"), AGENT_DATA)
def test_shared_agent_data_is_supervised_in_calls_and_never_in_results(name, columns, real_calls, tmp_path, byte):
    chats, num_calls = chat(byte), 0
    for trace in read_traces(shared_data(tmp_path) / name, columns=columns, strict=False, report=DropReport()):
        ends = [end for end, message in enumerate(trace.messages, start=1) if message.role == "assistant"]
        for turn in (chats.turn(trace.messages[:end]) for end in ends):
            assert not {part.role for part in turn.prompt} & set(SUPERVISED_ROLES)
            for call in (str(part.content) for part in turn.completion if part.role is Role.CALL):
                found, stop = read_tagged(call, 0)
                assert stop == len(call)
                num_calls += len(found)
    assert num_calls == real_calls if is_real() else num_calls > 0


def test_calls_of_toolrl_are_those_its_rows_list(tmp_path):
    path = shared_data(tmp_path) / "think_toolrl/messages.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    checked, naming = 0, 0
    for row, trace in zip(rows, read_traces(path), strict=True):
        message = trace.messages[-1]
        behind = [s.text for s in segment_text(message.content, Tags()) if s.role is Role.ANSWER][-1]
        found = call_segments(behind, message.calls) if message.calls else []
        calls = [call for s in found if s.role is Role.CALL for call in read_tagged(s.text, 0)[0]]
        assert calls == [as_call(call) for call in row["tool_calls"] or []]
        naming += any(tag in row["think"] for tag in ("<tool_call>", "<response>"))
        checked += len(calls)
    assert checked > 0 and naming == (17 if is_real() else 2)
