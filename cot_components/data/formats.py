"""What a row of a data set may look like, and the messages it means.

| format              | columns (in brackets: may be absent)          | becomes                                        |
|---------------------|-----------------------------------------------|------------------------------------------------|
| `messages`          | messages (answer tools)                       | the turns as they are                          |
| `instruction`       | instruction, response (thought system answer) | user, assistant                                |
| `prompt_completion` | prompt, completion (thought system answer)    | user, assistant; or two lists of turns, joined |
| `sharegpt`          | conversations (system answer tools)           | the turns as they are                          |
| `alpaca`            | instruction, output                           | user: instruction, and below a blank line      |
|                     | (input thought system answer)                 | the input; assistant                           |
| `gsm8k`             | question, answer: `cot #### result` (system)  | user, assistant with thought `cot` and         |
|                     |                                               | content `#### result`                          |
| `icot`              | text: `question||cot #### result` (system)    | as above                                       |
| `xlam`              | query, tools, answers (calls)                 | tools as system prompt, user, assistant: calls |
| `react`             | trajectory: `Question: ... Thought: ...`      | user, assistant                                |

Detection takes the first format in this order whose columns are all there. `answer` beside a response is a reference
for scoring, never trained on. In `gsm8k` and `icot` the blanks around a separator belong to it, the thought may be
empty, and each separator must stand there once.

A turn is `{role, content}` or `{from, value}`. A thought beside the content is read from `reasoning_content`,
`reasoning` or `thinking`: null means that there is none, "" that it is empty. The factor on a turn's loss is read from
`weight`, `loss_scale`, `loss_weight` (numbers from 0) or `train`, `loss` (booleans). Tools, calls and results: see
`agents`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cot_components.config import nearest
from cot_components.data.agents import agent_messages, from_react, from_xlam, turn_content
from cot_components.data.errors import RowError
from cot_components.data.messages import Content, Fields, Message, as_text
from cot_components.errors import UserError

__all__ = ["FORMATS", "Content", "Fields", "Format", "Message", "check_format", "check_order", "detect", "read_row"]

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
SCALE_KEYS = ("weight", "loss_scale", "loss_weight")
SWITCH_KEYS = ("train", "loss")
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "ipython"), "tool"),
}


def _weight(turn: Mapping[str, Any]) -> float:
    given = [key for key in (*SCALE_KEYS, *SWITCH_KEYS) if turn.get(key) is not None]
    if not given:
        return 1.0
    if len(given) > 1:
        raise RowError("a turn names its weight twice", f"{given[0]} and {given[1]}")
    key, value = given[0], turn[given[0]]
    # A number under `loss` may well be a loss somebody logged.
    if key in SWITCH_KEYS and not (isinstance(value, bool) or value in (0, 1)):
        raise RowError(f"'{key}' of a turn is neither true nor false", repr(value))
    if not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise RowError(f"'{key}' of a turn is not a number from 0", repr(value))
    return float(value)


def _thought(turn: Mapping[str, Any], role: str) -> str | None:
    given = [key for key in THOUGHT_KEYS if turn.get(key) is not None]
    if len(given) > 1:
        raise RowError("a turn holds two thoughts", f"{given[0]} and {given[1]}")
    if not given:
        return None
    thought = as_text(turn[given[0]], f"'{given[0]}' of a turn")
    if role == "assistant":
        return thought
    if thought.strip():
        raise RowError("a thought in a turn that is not the assistant's", f"role {role}")
    return None


def _turn(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError("a turn is not an object", f"it is {type(turn).__name__}")
    role_key, text_key = ("role", "content") if "role" in turn else ("from", "value")
    for key in (role_key, text_key):
        if key not in turn:
            raise RowError("a turn has neither role and content nor from and value", f"keys {sorted(map(str, turn))}")
    name = as_text(turn[role_key], f"'{role_key}' of a turn")
    role = ROLES.get(name.lower())
    if role is None:
        raise RowError("a turn has an unknown role", repr(name))
    content, calls = turn_content(turn, name, role, text_key)
    return Message(role, content, _thought(turn, role), _weight(turn), calls)


def _turns(value: Any, name: str) -> tuple[Message, ...]:
    if value is None:
        raise RowError(f"{name} is null")
    if not isinstance(value, list | tuple):
        raise RowError(f"{name} is not a list of turns", f"it is {type(value).__name__}")
    return tuple(map(_turn, value))


def _with_system(system: str | None, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A system column fills in only where the turns have no system prompt of their own; an empty one means none."""
    if not system or not system.strip() or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", system), *messages)


def check_order(messages: tuple[Message, ...]) -> None:
    """Raise RowError unless a prompt comes first and an answer last, none is empty, and no answer follows another."""
    spoken = [message for message in messages if message.role != "system"]
    if not spoken:
        raise RowError("no turns")
    if spoken[0].role != "user":
        raise RowError("no prompt before the first answer", f"first turn: {spoken[0].role}")
    if spoken[-1].role != "assistant":
        raise RowError("the last turn is not the assistant's", f"it is {spoken[-1].role}'s")
    for message, following in zip(spoken, [*spoken[1:], None], strict=True):
        if message.role in ("user", "assistant") and not message.content.strip():
            raise RowError("the prompt is empty" if message.role == "user" else "the response is empty")
        if message.role == "assistant" and following is not None and following.role == "assistant":
            raise RowError("two assistant turns in a row")


def _exchange(fields: Fields, prompt: str, response: str) -> tuple[Message, ...]:
    turns = (Message("user", prompt), Message("assistant", response, thought=fields.optional_text("thought")))
    return _with_system(fields.optional_text("system"), turns)


def _from_messages(fields: Fields) -> Content:
    return Content(_turns(fields.need("messages"), fields.name("messages")), fields.reference())


def _from_sharegpt(fields: Fields) -> Content:
    turns = _turns(fields.need("conversations"), fields.name("conversations"))
    return Content(_with_system(fields.optional_text("system"), turns), fields.reference())


def _from_instruction(fields: Fields) -> Content:
    return Content(_exchange(fields, fields.text("instruction"), fields.text("response")), fields.reference())


def _from_prompt_completion(fields: Fields) -> Content:
    prompt, completion = fields.need("prompt"), fields.need("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = _turns(prompt, fields.name("prompt")) + _turns(completion, fields.name("completion"))
        return Content(_with_system(fields.optional_text("system"), turns), fields.reference())
    return Content(_exchange(fields, fields.text("prompt"), fields.text("completion")), fields.reference())


def _from_alpaca(fields: Fields) -> Content:
    extra = fields.optional_text("input") or ""
    prompt = fields.text("instruction") + (f"\n\n{extra}" if extra.strip() else "")
    return Content(_exchange(fields, prompt, fields.text("output")), fields.reference())


def _hashed(fields: Fields, question: str, solution: str) -> Content:
    if solution.count("####") != 1:
        raise RowError("'####' does not stand there exactly once", f"{solution.count('####')} times")
    thought, result = (part.strip() for part in solution.split("####"))
    if not result:
        raise RowError("nothing after '####'")
    turns = (Message("user", question), Message("assistant", f"#### {result}", thought=thought))
    return Content(_with_system(fields.optional_text("system"), turns), result)


def _from_gsm8k(fields: Fields) -> Content:
    return _hashed(fields, fields.text("question"), fields.text("answer"))


def _from_icot(fields: Fields) -> Content:
    line = fields.text("text")
    if line.count("||") != 1:
        raise RowError("'||' does not stand there exactly once", f"{line.count('||')} times")
    question, solution = line.split("||")
    return _hashed(fields, question.strip(), solution)


class Format(NamedTuple):
    """One shape of row: the columns it must and may have, and the function that reads it."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Fields], Content]


FORMATS = {
    "messages": Format(("messages",), ("answer", "tools"), _from_messages),
    "instruction": Format(("instruction", "response"), ("thought", "system", "answer"), _from_instruction),
    "prompt_completion": Format(("prompt", "completion"), ("thought", "system", "answer"), _from_prompt_completion),
    "sharegpt": Format(("conversations",), ("system", "answer", "tools"), _from_sharegpt),
    "alpaca": Format(("instruction", "output"), ("input", "thought", "system", "answer"), _from_alpaca),
    "gsm8k": Format(("question", "answer"), ("system",), _from_gsm8k),
    "icot": Format(("text",), ("system",), _from_icot),
    "xlam": Format(("query", "tools", "answers"), (), from_xlam),
    "react": Format(("trajectory",), (), from_react),
}


def check_format(name: str, columns: Mapping[str, str]) -> None:
    """Raise UserError for an unknown format, for a mapped field that no format, or not the named one, has, and for a
    column whose name is no text.
    """
    if name != "auto" and name not in FORMATS:
        raise UserError(f"unknown format {name!r}{nearest(name, ['auto', *FORMATS])}")
    formats = FORMATS.values() if name == "auto" else [FORMATS[name]]
    known = {key for format in formats for key in (*format.required, *format.optional)}
    for key, column in columns.items():
        if key not in known:
            raise UserError(f"columns: format {name!r} has no field {key!r}{nearest(key, known)}")
        if not isinstance(column, str):
            raise UserError(f"columns.{key} must be the name of a column, got {column!r}")


def detect(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Name of the first format whose columns the row has, or has but for nulls; raises RowError if none fits."""
    for may_be_null in (False, True):
        for name, format in FORMATS.items():
            if not set(columns) <= {*format.required, *format.optional}:
                continue
            wanted = [columns.get(key, key) for key in format.required]
            if all(column in row and (may_be_null or row[column] is not None) for column in wanted):
                return name
    raise RowError("the columns fit no known format", f"columns: {', '.join(map(str, row)) or 'none'}")


def read_row(row: Any, format: Format, columns: Mapping[str, str]) -> Content:
    """Turns and reference answer of one row; raises RowError for anything whose meaning is not certain."""
    fields = Fields(row, columns)
    content = format.read(fields)
    tools = fields.get("tools") if "tools" in (*format.required, *format.optional) else None
    messages = agent_messages(content.messages, tools)
    check_order(messages)
    return Content(messages, content.answer)
