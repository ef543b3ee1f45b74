"""The tools of a trace, written into its system prompt once."""

import json
from typing import Any

import pytest

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import FORMATS, Content, Message, detect, read_row

USER = {"role": "user", "content": "q"}
TOOL = {"name": "stock", "description": "Pieces", "parameters": {"type": "object", "properties": {"name": {}}}}
TOOLS = [TOOL, {"type": "function", "function": {"name": "price", "description": "Coins"}}]


def read(row: dict[str, Any]) -> Content:
    return read_row(row, FORMATS[detect(row, {})], {})


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
    turns = [{"role": "system", "content": listing}, USER, {"role": "assistant", "content": "a"}]
    assert read({"messages": turns, "tools": tools}).messages[0] == Message("system", listing)
    row = {"conversations": turns[1:], "system": listing, "tools": tools}
    assert read(row).messages[0] == Message("system", listing)
    with pytest.raises(RowError, match=r"^the system prompt lists some of the tools of the column \(2 of 3; take"):
        read({"messages": turns, "tools": [*TOOLS, {"name": "third"}]})


def test_a_prompt_that_names_a_tool_or_shows_a_call_lists_none():
    for prompt in ("Use stock.", '<tool_call>{"name": "stock", "arguments": {"name": "mug"}}</tool_call>', '"stock"'):
        turns = [{"role": "system", "content": prompt}, USER, {"role": "assistant", "content": "a"}]
        system = read({"messages": turns, "tools": [TOOL]}).messages[0].content
        assert system.startswith(f"{prompt}\n\nYou can use these tools:\n{json.dumps(TOOL)}\n\n")


def test_openais_older_column_of_functions_is_read_where_there_is_no_other():
    turns = [USER, {"role": "assistant", "content": "a"}]
    assert json.dumps(TOOL) in read({"messages": turns, "functions": [TOOL]}).messages[0].content
    system = read({"messages": turns, "functions": [TOOL], "tools": [{"name": "other"}]}).messages[0].content
    assert json.dumps(TOOL) not in system and '{"name": "other"}' in system
    prompted = {"prompt": turns[:1], "completion": turns[1:], "tools": [TOOL]}
    assert json.dumps(TOOL) in read(prompted).messages[0].content


@pytest.mark.parametrize("answers", ["[]", [], " [ ] "])
def test_an_xlam_row_without_a_right_call_says_what_to_do(answers):
    with pytest.raises(RowError, match=r"^no call is right here.*'answers' is empty; write the row as messages"):
        read({"query": "q", "tools": "[]", "answers": answers})


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("{", "'tools' is not JSON"),
        ('[{"name": "f", "name": "g"}]', "'tools': a key stands twice in an object ('name')"),
        ('[{"name": "f", "x": NaN}]', "'tools': NaN is not JSON"),
        ({"name": "f"}, "'tools' is not a list (it is dict)"),
        (["{"], "a tool is not JSON"),
        ([None], "a tool is not an object (it is NoneType)"),
        ([[{"name": "f"}]], "a tool is not an object (it is list)"),
    ],
)
def test_tools_that_are_not_certain_are_refused(tools, reason):
    with pytest.raises(RowError) as caught:
        read({"messages": [USER, {"role": "assistant", "content": "a"}], "tools": tools})
    assert str(caught.value).startswith(reason)
