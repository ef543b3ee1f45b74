"""Tool calls as data: which JSON is read as a call, and the text a call is written as.

A call is an object with `name` and `arguments`; `parameters` and `args` are other names of the latter, which may be an
object or, as OpenAI has it, the JSON text of one. OpenAI's wrapper `{"type": "function", "function": call}` is also
read. Anything ambiguous is refused: broken JSON, NaN, a duplicate key, a call without a name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cot_components.data.bad_rows import RowError
from cot_components.data.read.arrow import without_nulls
from cot_components.data.read.strict_json import decode_value

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
ARGUMENT_KEYS = ("arguments", "parameters", "args")
TAGGED, REACT = "tagged", "react"
"""Ways to write calls in a turn: between tags, and as `Thought: / Action: / Action Input:`."""


class Call(NamedTuple):
    """A function's name and its arguments by name."""

    name: str
    arguments: dict[str, Any]


def decode_json(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `start`, blanks before it skipped, and where it ends. Raises RowError."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        value, end = decode_value(text, start)
    except json.JSONDecodeError as error:
        raise RowError("a tool call is not JSON", f"{error.msg}: {text[error.pos : error.pos + 40]!r}") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists nested thousands deep
        raise RowError("a tool call is not JSON", "too large or too deeply nested") from None
    if isinstance(value, RowError):
        raise RowError("a tool call is not JSON", ": ".join(filter(None, (value.reason, value.detail))))
    return value, end


def parse_json(text: str) -> Any:
    """The JSON value that is the whole text. Raises RowError."""
    value, end = decode_json(text)
    if text[end:].strip():
        raise RowError("a tool call is not JSON", f"text after it: {text[end:].strip()[:40]!r}")
    return value


def as_call(value: Any) -> Call:
    """The call that an object describes. Raises RowError."""
    value = without_nulls(value)
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping):
        raise RowError("a tool call is not an object", f"it is {type(value).__name__}")
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RowError("a tool call has no name", repr(name))
    given = [key for key in ARGUMENT_KEYS if key in value]
    if len(given) > 1:
        raise RowError("a tool call names its arguments twice", " and ".join(given))
    arguments = value[given[0]] if given else None
    if isinstance(arguments, str):
        arguments = parse_json(arguments) if arguments.strip() else None
    if arguments is not None and not isinstance(arguments, Mapping):
        raise RowError("the arguments of a tool call are not an object", f"they are {type(arguments).__name__}")
    return Call(name, dict(arguments or {}))


def as_calls(value: Any) -> list[Call]:
    """The calls of an object, a list of objects, or the JSON text of either. Raises RowError, also for no call."""
    value = parse_json(value) if isinstance(value, str) else value
    calls = [as_call(item) for item in value] if isinstance(value, list | tuple) else [as_call(value)]
    if not calls:
        raise RowError("there are no tool calls")
    return calls


def holds_call(text: str) -> bool:
    """Whether some tag in the text opens a readable call; text can also merely mention the tag."""
    start = text.find(CALL_OPEN)
    while start >= 0:
        try:
            read_tagged(text, start)
        except RowError:
            start = text.find(CALL_OPEN, start + 1)
        else:
            return True
    return False


def write_json(value: Any, what: str, *, sort_keys: bool = False) -> str:
    """One line of JSON. Raises RowError, naming it `what`, for a date, bytes or NaN: not all data comes from JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"{what} cannot be written as JSON", str(error)) from None


def call_json(call: Call) -> str:
    """One line of JSON with the keys `name` and `arguments`, arguments in their own order. Raises RowError."""
    return write_json({"name": call.name, "arguments": call.arguments}, "a tool call")


def canonical_calls(calls: Iterable[Call]) -> str:
    """One line of JSON that is the same for the same calls, whatever the order of calls and arguments."""
    lines = sorted(write_json(call._asdict(), "a tool call", sort_keys=True) for call in calls)
    return f"[{', '.join(lines)}]"


def write_calls(calls: Iterable[Call]) -> str:
    """Each call as JSON on a line of its own between tags, as Hermes and Qwen models write it."""
    return "\n".join(f"{CALL_OPEN}\n{call_json(call)}\n{CALL_CLOSE}" for call in calls)


def read_tagged(text: str, start: int) -> tuple[list[Call], int]:
    """The calls between the tag at `start` and its closing tag, and where the latter ends.

    Objects follow each other or are in a list. A closing tag inside a JSON string does not count. Raises RowError.
    """
    assert text.startswith(CALL_OPEN, start)
    calls: list[Call] = []
    end = start + len(CALL_OPEN)
    while not text[end:].lstrip().startswith(CALL_CLOSE):
        if not text[end:].strip():
            raise RowError(f"{CALL_OPEN} is never closed")
        value, end = decode_json(text, end)
        calls += as_calls(value) if isinstance(value, list) else [as_call(value)]
    if not calls:
        raise RowError("there are no tool calls", f"between {CALL_OPEN} and {CALL_CLOSE}")
    return calls, text.index(CALL_CLOSE, end) + len(CALL_CLOSE)
