"""Agent traces: how data sets store tools, tool calls and tool results.

| where a call stands                                    | what it becomes                                          |
|--------------------------------------------------------|----------------------------------------------------------|
| `tool_calls`, or OpenAI's older `function_call`, of an | behind the turn's content, one `<tool_call>` each, with  |
| assistant's turn                                       | a line of JSON inside                                    |
| a turn of role `function_call` or `tool_call`          | the same; such a turn behind the assistant's is part of  |
| (ShareGPT, swift), a part `tool_use` (Anthropic)       | it, and so are several in a row                          |
| column `answers` of xLAM / APIGen rows                 | the same; also the reference answer                      |
| `<tool_call> JSON </tool_call>` in the text (ToolRL)   | stays as it is                                           |
| `Thought: / Action: / Action Input:` in the text       | stays as it is; an `Observation:` in it is never         |
| (ReAct, ToolBench)                                     | supervised                                               |

Tools of a column `tools` (OpenAI's older `functions`) are written into the system prompt, unless it lists them already;
one that lists some of them is refused. Results (roles tool, observation, function, ...) are separate turns and never
supervised. In a trace with calls, everything after the assistant's last turn is left out. A turn with calls both in its
text and beside it is refused. `<tool_call>` in the text is a call if the trace is an agent's (it has tools or results,
or a prompt names the tag) or the turn ends in the closing tag. Otherwise it is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cot_components.data.bad_rows import RowError
from cot_components.data.read.arrow import without_nulls
from cot_components.data.read.calls import (
    CALL_CLOSE,
    CALL_OPEN,
    REACT,
    TAGGED,
    as_calls,
    canonical_calls,
    write_calls,
    write_json,
)
from cot_components.data.read.messages import Content, Fields, Message, as_text
from cot_components.data.read.turns import parse_text

TOOLS_HEADER = (
    "You can use these tools:\n{tools}\n\n"
    f'Write a call as {CALL_OPEN}\n{{{{"name": ..., "arguments": {{{{...}}}}}}}}\n{CALL_CLOSE}'
)
_REACT_START = re.compile(r"\s*(Thought:.*?^[ \t]*(Action|Final Answer):|Action:[^\n]*\n\s*Action Input:)", re.S | re.M)


def agent_messages(messages: tuple[Message, ...], tools: Any = None) -> tuple[Message, ...]:
    """The turns of a trace; for an agent's, with tools in the system prompt, call styles set and the tail removed.

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


def tool_lines(tools: Any) -> dict[str, str | None]:
    """Each tool as one line of JSON, with its name if known. Raises RowError."""
    if isinstance(tools, str) and tools.strip():
        tools = parse_text(tools, "'tools'")
    if not tools:
        return {}
    if not isinstance(tools, list | tuple):
        raise RowError("'tools' is not a list", f"it is {type(tools).__name__}")
    return dict(map(_tool_line, without_nulls(tools)))


def _tool_line(tool: Any) -> tuple[str, str | None]:
    if not isinstance(tool, str | Mapping):
        raise RowError("a tool is not an object", f"it is {type(tool).__name__}")
    line, found = (tool, None) if isinstance(tool, str) else (write_json(tool, "a tool"), tool)
    if isinstance(tool, str) and tool.lstrip().startswith("{"):
        found = parse_text(tool, "a tool")
    if found is not None and isinstance(found.get("function"), Mapping):
        found = found["function"]
    name = None if found is None else found.get("name")
    return line, name if isinstance(name, str) else None


_LISTED = re.compile(r"""["']name["']\s*:\s*(["'])(.+?)\1(?!\s*,\s*["'](?:arguments|args)["'])""")
"""A tool listed in a prompt, in JSON or as Python prints it; an entry with arguments is an example call instead."""


def _with_tools(messages: tuple[Message, ...], listed: Mapping[str, str | None]) -> tuple[Message, ...]:
    text = as_text(TOOLS_HEADER.format(tools="\n".join(listed)), "'tools'")
    if not messages or messages[0].role != "system":
        return (Message("system", text), *messages)
    prompt = messages[0].content
    named = {match[2] for match in _LISTED.finditer(prompt)}
    there = [line for line, name in listed.items() if name in named or line in prompt]
    if len(there) == len(listed):
        return messages
    if there:
        detail = f"{len(there)} of {len(listed)}; take them out of the prompt or out of the column"
        raise RowError("the system prompt lists some of the tools of the column", detail)
    return (replace(messages[0], content=f"{prompt}\n\n{text}"), *messages[1:])


def from_xlam(fields: Fields) -> Content:
    """A row of xLAM / APIGen: a query, the tools, and the calls that answer it."""
    given = fields.need("answers")
    given = parse_text(given, fields.name("answers")) if isinstance(given, str) else given
    if isinstance(given, list | tuple) and not given:
        raise RowError(
            "no call is right here, and the row does not say what the assistant should answer instead",
            f"{fields.name('answers')} is empty; write the row as messages, or leave it out",
        )
    calls = as_calls(given)
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
