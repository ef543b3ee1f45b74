"""Turns of a conversation as data sets spell them, converted to messages.

A turn is `{role, content}` or `{from, value}`, or has its content under `text`. The content is text, or a list of parts
in this order: `thinking` or `reasoning`, `text`, `tool_use`; a user's may begin with `tool_result`. Texts of parts are
joined as they stand. A tool's result may be any JSON value, or missing. A separate thought is read from
`reasoning_content`, `reasoning` or `thinking`: null means no thought, "" an empty one. The factor on a turn's loss is
read from `weight`, `loss_scale`, `loss_weight` (numbers from 0) or `train`, `loss` (booleans). Tools, calls and
results: see `agent_rows`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cot_components.data.bad_rows import RowError
from cot_components.data.read.arrow import without_nulls
from cot_components.data.read.calls import (
    CALL_OPEN,
    TAGGED,
    Call,
    as_call,
    as_calls,
    holds_call,
    read_tagged,
    write_calls,
    write_json,
)
from cot_components.data.read.messages import Message, as_text
from cot_components.data.read.strict_json import decode_text

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
SCALE_KEYS = ("weight", "loss_scale", "loss_weight")
SWITCH_KEYS = ("train", "loss")
CALL_ROLES = ("function_call", "function_calls", "tool_call", "tool_calls")
"""Roles of turns whose content is the JSON of the assistant's calls."""

RESULT_ROLES = tuple(f"{what}_{kind}" for what in ("function", "tool") for kind in ("response", "result", "output"))
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "ai", *CALL_ROLES), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "ipython", *RESULT_ROLES), "tool"),
    **dict.fromkeys((f"{role}s" for role in RESULT_ROLES), "tool"),
}
PARTS = {
    "tool_result": ("tool_result",),
    "thought": ("thinking", "reasoning", "thought"),
    "text": ("text", "input_text", "output_text"),
    "call": ("tool_use",),
}
"""Kinds of parts, in their order within a turn, and their names under `type`."""

_RESPONSE = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.S)
_RESPONSES = re.compile(r"\s*(?:<tool_response>(?:(?!<tool_response>).)*</tool_response>\s*)+", re.S)
"""Tags around results in Hermes data; removed, because templates write them too and they would occur twice."""

_KINDS = {type: kind for kind, types in PARTS.items() for type in types}


class _Said(NamedTuple):
    """The content of a turn by kind; None if there is nothing of that kind."""

    text: str | None = None
    thought: str | None = None
    calls: Sequence[Call] = ()
    results: Sequence[str] = ()


def read_turns(value: Any, name: str) -> tuple[Message, ...]:
    """The messages of a list of turns, or of its JSON text; errors call it `name`. Raises RowError."""
    if value is None:
        raise RowError(f"{name} is null")
    if isinstance(value, str):
        value = parse_text(value, name)
    if not isinstance(value, list | tuple):
        raise RowError(f"{name} is not a list of turns", f"it is {type(value).__name__}")
    return _joined([message for turn in value for message in _turn(turn)])


def parse_text(text: str, name: str) -> Any:
    """The JSON value of a column that holds it as text. Raises RowError."""
    try:
        value = decode_text(text)
    except (ValueError, RecursionError) as error:
        detail = f"{error.msg}: {text[error.pos : error.pos + 40]!r}" if isinstance(error, json.JSONDecodeError) else ""
        raise RowError(f"{name} is not JSON", detail) from None
    if isinstance(value, RowError):
        raise RowError(f"{name}: {value.reason}", value.detail)
    return value


def _turn(turn: Any) -> list[Message]:
    if not isinstance(turn, Mapping):
        raise RowError("a turn is not an object", f"it is {type(turn).__name__}")
    role_key, text_key = _first(turn, "role", "from"), _first(turn, "content", "value", "text")
    name = as_text(turn[role_key], f"'{role_key}' of a turn") if role_key else ""
    spelled = name.strip().lower().replace("-", "_").replace(" ", "_")
    role, beside = ROLES.get(spelled), calls_beside(turn)
    if role_key is None or (text_key is None and not beside and role != "tool"):
        raise RowError("a turn has neither role and content nor from and value", f"keys {sorted(map(str, turn))}")
    if role is None:
        raise RowError("a turn has an unknown role", repr(name))
    value, where = turn.get(text_key) if text_key else None, f"'{text_key}' of the {role}'s turn"
    said = _Said(calls=_own_calls(value)) if spelled in CALL_ROLES and not beside else _said(value, role, where)
    if role != "assistant" and (beside or said.calls):
        raise RowError("a tool call in a turn that is not the assistant's", f"role {role}")
    thought, weight = _thought(turn, role, said.thought), _weight(turn)
    results = [Message("tool", result, weight=weight) for result in said.results]
    if results and said.text is None:
        return results
    text, style = _with_calls(said, beside, where)
    return [*results, Message(role, text, thought, weight, style)]


def _first(turn: Mapping[str, Any], *keys: str) -> str | None:
    """The first of the keys present in the turn, preferring values that are not null; None if none is."""
    there = [key for key in keys if key in turn]
    return next((key for key in there if turn[key] is not None), there[0] if there else None)


def calls_beside(turn: Mapping[str, Any]) -> list[Call]:
    """The calls stored next to a turn's content. Raises RowError."""
    found = {key: without_nulls(turn[key]) for key in ("tool_calls", "function_call") if turn.get(key)}
    found = {key: parse_text(value, f"'{key}'") if isinstance(value, str) else value for key, value in found.items()}
    given = [key for key, value in found.items() if value]
    if len(given) > 1:
        raise RowError("a turn holds both 'tool_calls' and 'function_call'")
    if not given:
        return []
    value = found[given[0]]
    if given == ["function_call"]:
        return [as_call(value)]
    if not isinstance(value, list | tuple):
        raise RowError("'tool_calls' is not a list", f"it is {type(value).__name__}")
    return [as_call(item) for item in value]


def _own_calls(value: Any) -> list[Call]:
    """The calls of a turn that holds only calls: JSON, or between tags."""
    if not isinstance(value, str) or not value.lstrip().startswith(CALL_OPEN):
        return as_calls(value)
    calls, rest = [], value.strip()
    while rest:
        if not rest.startswith(CALL_OPEN):
            raise RowError("text among the calls of a turn that may hold only calls", repr(rest[:40]))
        found, end = read_tagged(rest, 0)
        calls += found
        rest = rest[end:].lstrip()
    return calls


def _said(value: Any, role: str, where: str) -> _Said:
    if role == "tool":
        result = _result(value, where)
        return _Said(results=_RESPONSE.findall(result) if _RESPONSES.fullmatch(result) else [result])
    if value is None or not isinstance(value, list | tuple):
        return _Said(text=None if value is None else as_text(value, where))
    found: dict[str, list[Any]] = {kind: [] for kind in PARTS}
    for part in value:
        kind, content = _part(part, where)
        behind = [later for later in list(PARTS)[list(PARTS).index(kind) + 1 :] if found[later]]
        if behind:
            raise RowError("the parts of a turn are out of order", f"{behind[0]} before {kind}")
        found[kind].append(content)
    if found["tool_result"] and role != "user":
        raise RowError("a tool's result in a turn that is not the user's", f"role {role}")
    text, thought = ("".join(found[kind]) if found[kind] else None for kind in ("text", "thought"))
    nothing = None if found["tool_result"] or found["call"] else ""
    return _Said(text or nothing, thought, found["call"], found["tool_result"])


def _part(part: Any, where: str) -> tuple[str, Any]:
    """The kind of a part, and its text or call."""
    if not isinstance(part, Mapping):
        raise RowError(f"a part of {where} is not an object", f"it is {type(part).__name__}")
    type_ = part.get("type") or ("text" if part.get("text") is not None else None)
    kind = _KINDS.get(type_) if isinstance(type_, str) else None
    if kind is None:
        raise RowError(f"a part of {where} is not one of {', '.join(_KINDS)}", f"its type is {type_!r}")
    if kind == "call":
        return kind, as_call({"name": part.get("name"), "arguments": part.get("input")})
    if kind == "tool_result":
        return kind, _result(part.get("content"), where)
    key = _first(part, str(type_), "text")
    return kind, _inner_text(part[key] if key else None, f"'{type_}' in {where}")


def _inner_text(value: Any, where: str) -> str:
    """Text, or parts of text inside a part, as Mistral writes thoughts."""
    if not isinstance(value, list | tuple):
        return as_text(value, where)
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
    return "".join(as_text(text, where) for text in texts)


def _result(value: Any, where: str) -> str:
    """A tool's result: text as it is, a missing one as "", any other value as a line of JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return as_text(value, where)
    parts = value if isinstance(value, list | tuple) else []
    if parts and all(isinstance(part, Mapping) and part.get("type") in PARTS["text"] for part in parts):
        return _inner_text(value, where)
    return as_text(write_json(without_nulls(value), where), where)


def _with_calls(said: _Said, beside: list[Call], where: str) -> tuple[str, str]:
    """The text followed by the calls, and the style they are written in."""
    calls = list(said.calls) or beside
    if not calls:
        return as_text(said.text, where), ""
    text = said.text or ""
    if holds_call(text) or (said.calls and beside and list(said.calls) != beside):
        raise RowError("tool calls stand both in the text of a turn and beside it")
    written = as_text(write_calls(calls), "a tool call")
    return (f"{text}\n{written}" if text.strip() else written), TAGGED


def _thought(turn: Mapping[str, Any], role: str, inside: str | None) -> str | None:
    given = {key: as_text(turn[key], f"'{key}' of a turn") for key in THOUGHT_KEYS if turn.get(key) is not None}
    given |= {} if inside is None else {"a part": inside}
    if len(set(given.values())) > 1:
        raise RowError("a turn holds two thoughts", " and ".join(given))
    thought = next(iter(given.values()), None)
    if role == "assistant":
        return thought
    if thought and thought.strip():
        raise RowError("a thought in a turn that is not the assistant's", f"role {role}")
    return None


def _weight(turn: Mapping[str, Any]) -> float:
    given = [key for key in (*SCALE_KEYS, *SWITCH_KEYS) if turn.get(key) is not None]
    if not given:
        return 1.0
    if len(given) > 1:
        raise RowError("a turn names its weight twice", f"{given[0]} and {given[1]}")
    key, value = given[0], turn[given[0]]
    # A number under `loss` could be a logged loss.
    if key in SWITCH_KEYS and not (isinstance(value, bool) or value in (0, 1)):
        raise RowError(f"'{key}' of a turn is neither true nor false", repr(value))
    if not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise RowError(f"'{key}' of a turn is not a number from 0", repr(value))
    return float(value)


def _joined(messages: list[Message]) -> tuple[Message, ...]:
    """The messages, with every turn of only calls joined to the assistant's turn before it."""
    joined: list[Message] = []
    for message in messages:
        is_call = message.calls == TAGGED and message.content.startswith(CALL_OPEN) and message.thought is None
        if is_call and joined and joined[-1].role == "assistant":
            if joined[-1].weight != message.weight:
                raise RowError("a turn and the calls after it have different weights")
            before = joined[-1].content
            content = f"{before}\n{message.content}" if before.strip() else message.content
            joined[-1] = replace(joined[-1], content=content, calls=TAGGED)
        else:
            joined.append(message)
    return tuple(joined)
