"""Agent traces: the shapes in which data sets keep tools, tool calls and what tools said.

| where a call stands                                    | what it becomes                                          |
|--------------------------------------------------------|----------------------------------------------------------|
| `tool_calls`, or OpenAI's older `function_call`, of an | behind the turn's content, one `<tool_call>` each, with  |
| assistant's turn                                       | a line of JSON inside                                    |
| a turn of role `function_call` (ShareGPT)              | the same                                                 |
| column `answers` of xLAM / APIGen rows                 | the same; also the reference answer                      |
| `<tool_call> JSON </tool_call>` in the text (ToolRL)   | stays as it is                                           |
| `Thought: / Action: / Action Input:` in the text       | stays as it is; an `Observation:` in it is never         |
| (ReAct, ToolBench)                                     | supervised                                               |

Tools of a column `tools` are written into the system prompt. Results (roles tool, observation, function, ...) are turns
of their own and never supervised. What follows the assistant's last turn of a trace with calls is left out.
A turn with calls both in its text and beside it is refused.
`<tool_call>` in the text is a call where the trace is an agent's: it has tools or results, a prompt names the tag, or
the turn ends in the closing one. Elsewhere it is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cot_components.data.arrow import without_nulls
from cot_components.data.calls import (
    CALL_CLOSE,
    CALL_OPEN,
    REACT,
    TAGGED,
    Call,
    as_call,
    as_calls,
    canonical_calls,
    holds_call,
    write_calls,
    write_json,
)
from cot_components.data.errors import RowError
from cot_components.data.messages import Content, Fields, Message, as_text

TOOLS_HEADER = (
    "You can use these tools:\n{tools}\n\n"
    f'Write a call as {CALL_OPEN}\n{{{{"name": ..., "arguments": {{{{...}}}}}}}}\n{CALL_CLOSE}'
)
_REACT_START = re.compile(r"\s*(Thought:.*?^[ \t]*(Action|Final Answer):|Action:[^\n]*\n\s*Action Input:)", re.S | re.M)


def turn_content(turn: Mapping[str, Any], name: str, role: str, text_key: str) -> tuple[str, str]:
    """Content of a turn, calls that stand beside the text written into it, and how calls are written there.

    name: the role as the data spells it. Raises RowError.
    """
    where = f"'{text_key}' of the {role}'s turn"
    calls = _calls_beside(turn)
    if calls and role != "assistant":
        raise RowError("a tool call in a turn that is not the assistant's", f"role {role}")
    if name.lower() == "function_call" and not calls:
        return as_text(write_calls(as_calls(as_text(turn[text_key], where))), where), TAGGED
    if not calls:
        return as_text(turn[text_key], where), ""
    text = "" if turn[text_key] is None else as_text(turn[text_key], where)
    if holds_call(text):
        raise RowError("tool calls stand both in the text of a turn and beside it")
    written = as_text(write_calls(calls), "a tool call")
    return (f"{text}\n{written}" if text.strip() else written), TAGGED


def _calls_beside(turn: Mapping[str, Any]) -> list[Call]:
    given = [key for key in ("tool_calls", "function_call") if turn.get(key)]
    if len(given) > 1:
        raise RowError("a turn holds both 'tool_calls' and 'function_call'")
    if not given:
        return []
    value = turn[given[0]]
    if given == ["function_call"]:
        return [as_call(value)]
    if not isinstance(value, list | tuple):
        raise RowError("'tool_calls' is not a list", f"it is {type(value).__name__}")
    return [as_call(item) for item in value]


def agent_messages(messages: tuple[Message, ...], tools: Any = None) -> tuple[Message, ...]:
    """The turns of any trace, as an agent's where it is one: tools in the system prompt, calls to look for, no tail.

    tools: a list of objects, its JSON text, or None. Raises RowError.
    """
    listed = tool_lines(tools)
    if listed:
        messages = _with_tools(messages, listed)
    spoken = [message for message in messages if message.role != "assistant"]
    tagged = any(m.role == "tool" or CALL_OPEN in m.content for m in spoken) or any(m.calls for m in messages)
    messages = tuple(_with_style(message, tagged=tagged) for message in messages)
    if any(message.calls for message in messages):
        ends = [i for i, message in enumerate(messages, start=1) if message.role == "assistant"]
        return messages[: ends[-1]] if ends else messages
    return messages


def _with_style(message: Message, *, tagged: bool) -> Message:
    if message.role != "assistant" or message.calls:
        return message
    if _REACT_START.match(message.content):
        return replace(message, calls=REACT)
    has_tag = CALL_OPEN in message.content or CALL_CLOSE in message.content
    if has_tag and (tagged or message.content.rstrip().endswith(CALL_CLOSE)):
        return replace(message, calls=TAGGED)
    return message


def tool_lines(tools: Any) -> list[str]:
    """Each tool as one line of JSON. Raises RowError."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise RowError("'tools' is not JSON") from None
    if not tools:
        return []
    if not isinstance(tools, list | tuple):
        raise RowError("'tools' is not a list", f"it is {type(tools).__name__}")
    return [tool if isinstance(tool, str) else write_json(tool, "a tool") for tool in without_nulls(tools)]


def _with_tools(messages: tuple[Message, ...], listed: list[str]) -> tuple[Message, ...]:
    text = as_text(TOOLS_HEADER.format(tools="\n".join(listed)), "'tools'")
    if messages and messages[0].role == "system":
        return (replace(messages[0], content=f"{messages[0].content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def from_xlam(fields: Fields) -> Content:
    """A row of xLAM / APIGen: a query, the tools, and the calls that answer it."""
    calls = as_calls(fields.need("answers"))
    written = as_text(write_calls(calls), fields.name("answers"))
    turns = (Message("user", fields.text("query")), Message("assistant", written, calls=TAGGED))
    return Content(turns, canonical_calls(calls))


def from_react(fields: Fields) -> Content:
    """A whole trajectory in one string: `Question:`, then `Thought:`, `Action:`, `Observation:`, `Final Answer:`."""
    text = fields.text("trajectory")
    start = re.search(r"^[ \t]*(Thought|Action):", text, re.M)
    if start is None:
        raise RowError("the trajectory holds neither 'Thought:' nor 'Action:'")
    question = text[: start.start()].strip().removeprefix("Question:").strip()
    return Content((Message("user", question), Message("assistant", text[start.start() :], calls=REACT)), None)
