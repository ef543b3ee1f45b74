"""The row formats that data sets use, and the messages each becomes.

| format              | columns (in brackets: may be absent)          | becomes                                        |
|---------------------|-----------------------------------------------|------------------------------------------------|
| `messages`          | messages (system answer tools)                | the turns as they are                          |
| `instruction`       | instruction, response (thought system answer) | user, assistant                                |
| `prompt_completion` | prompt, completion                            | user, assistant; or two lists of turns, joined |
|                     | (thought system answer tools)                 |                                                |
| `sharegpt`          | conversations (system answer tools)           | the turns as they are                          |
| `alpaca`            | instruction, output                           | user: instruction, and below a blank line      |
|                     | (input history thought system answer)         | the input; assistant; before them the pairs of |
|                     |                                               | `history`                                      |
| `gsm8k`             | question, answer: `cot #### result` (system)  | user, assistant with thought `cot` and         |
|                     |                                               | content `#### result`                          |
| `question_answer`   | question, answer without `####`               | user, assistant                                |
|                     | (thought system)                              |                                                |
| `icot`              | text: `question||cot #### result` (system)    | as above                                       |
| `xlam`              | query, tools, answers (calls)                 | tools as system prompt, user, assistant: calls |
| `react`             | trajectory: `Question: ... Thought: ...`      | user, assistant                                |
| `bfcl`              | question, function, ground_truth              | functions as system prompt, the turns of the   |
|                     |                                               | question, assistant: calls                     |

Detection takes the first format in this order whose columns are all present; rows with `question` and `answer` are
`gsm8k` if the first of them has `####`. Turns and tools may be lists or the JSON text of lists. `answer` beside a
response is a reference for scoring, never trained on. In `gsm8k` and `icot` the blanks around a separator belong to it,
the thought may be empty, and each separator must occur once.

How a turn may be spelled: see `turns`. Tools, calls and results: see `agent_rows`.

Rows of any other shape need a `RowReader`: `dataset.format: {_component_: my_module.my_format}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cot_components.config import nearest
from cot_components.data.bad_rows import RowError, shortened
from cot_components.data.read.agent_rows import agent_messages, from_react, from_xlam
from cot_components.data.read.bfcl import from_bfcl
from cot_components.data.read.messages import Content, Fields, Message, as_text
from cot_components.data.read.turns import read_turns
from cot_components.errors import UserError

__all__ = [
    "FORMATS",
    "Content",
    "Fields",
    "Format",
    "Message",
    "RowReader",
    "check_format",
    "check_order",
    "detect",
    "read_row",
    "translated",
]

RowReader = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A user-defined format: turns a row as stored into a row of any shape in the table above."""

HASHES = "####"


def _with_system(system: str | None, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A system column is used only if the turns have no system prompt; an empty one means none."""
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


def _exchange(fields: Fields, prompt: str, response: str, before: tuple[Message, ...] = ()) -> tuple[Message, ...]:
    answer = Message("assistant", response, thought=fields.optional_text("thought"))
    turns = (*before, Message("user", prompt), answer)
    return _with_system(fields.optional_text("system"), turns)


def _from_messages(fields: Fields) -> Content:
    return _conversation(fields, "messages")


def _from_sharegpt(fields: Fields) -> Content:
    return _conversation(fields, "conversations")


def _conversation(fields: Fields, column: str) -> Content:
    turns = read_turns(fields.need(column), fields.name(column))
    return Content(_with_system(fields.optional_text("system"), turns), fields.reference())


def _from_instruction(fields: Fields) -> Content:
    return Content(_exchange(fields, fields.text("instruction"), fields.text("response")), fields.reference())


def _from_prompt_completion(fields: Fields) -> Content:
    prompt, completion = fields.need("prompt"), fields.need("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = read_turns(prompt, fields.name("prompt")) + read_turns(completion, fields.name("completion"))
        return Content(_with_system(fields.optional_text("system"), turns), fields.reference())
    return Content(_exchange(fields, fields.text("prompt"), fields.text("completion")), fields.reference())


def _from_alpaca(fields: Fields) -> Content:
    extra = fields.optional_text("input") or ""
    prompt = fields.text("instruction") + (f"\n\n{extra}" if extra.strip() else "")
    return Content(_exchange(fields, prompt, fields.text("output"), _history(fields)), fields.reference())


def _history(fields: Fields) -> tuple[Message, ...]:
    """Earlier turns of an Alpaca row: pairs of what the user and the assistant said."""
    pairs = fields.get("history") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise RowError(f"{fields.name('history')} is not a list of pairs")
    roles = ("user", "assistant")
    return tuple(
        Message(role, as_text(text, fields.name("history")))
        for pair in pairs
        for role, text in zip(roles, pair, strict=True)
    )


def _from_question_answer(fields: Fields) -> Content:
    answer = fields.text("answer")
    if HASHES in answer:
        raise RowError(f"{fields.name('answer')} holds '{HASHES}'", "such rows are of dataset.format=gsm8k")
    return Content(_exchange(fields, fields.text("question"), answer), None)


def _hashed(fields: Fields, question: str, solution: str) -> Content:
    if solution.count(HASHES) != 1:
        raise RowError(f"'{HASHES}' does not occur exactly once", f"{solution.count(HASHES)} times")
    thought, result = (part.strip() for part in solution.split(HASHES))
    if not result:
        raise RowError(f"nothing after '{HASHES}'")
    turns = (Message("user", question), Message("assistant", f"{HASHES} {result}", thought=thought))
    return Content(_with_system(fields.optional_text("system"), turns), result)


def _from_gsm8k(fields: Fields) -> Content:
    return _hashed(fields, fields.text("question"), fields.text("answer"))


def _from_icot(fields: Fields) -> Content:
    line = fields.text("text")
    if line.count("||") != 1:
        raise RowError("'||' does not occur exactly once", f"{line.count('||')} times")
    question, solution = line.split("||")
    return _hashed(fields, question.strip(), solution)


class Format(NamedTuple):
    """One row format: required and optional columns, the function that reads it, and detection's extra condition on a
    row that has the columns.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Fields], Content]
    fits: Callable[[Fields], bool] = lambda fields: True


FORMATS = {
    "messages": Format(("messages",), ("system", "answer", "tools"), _from_messages),
    "instruction": Format(("instruction", "response"), ("thought", "system", "answer"), _from_instruction),
    "prompt_completion": Format(
        ("prompt", "completion"), ("thought", "system", "answer", "tools"), _from_prompt_completion
    ),
    "sharegpt": Format(("conversations",), ("system", "answer", "tools"), _from_sharegpt),
    "alpaca": Format(("instruction", "output"), ("input", "history", "thought", "system", "answer"), _from_alpaca),
    "gsm8k": Format(("question", "answer"), ("system",), _from_gsm8k, lambda fields: HASHES in fields.text("answer")),
    "question_answer": Format(("question", "answer"), ("thought", "system"), _from_question_answer),
    "icot": Format(("text",), ("system",), _from_icot),
    "xlam": Format(("query", "tools", "answers"), (), from_xlam),
    "react": Format(("trajectory",), (), from_react),
    "bfcl": Format(("question", "function", "ground_truth"), (), from_bfcl),
}


def translated(reader: RowReader, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """`row` converted by a user-defined format; raises RowError for any exception it raises."""
    try:
        found = reader(row)
    except RowError:
        raise
    except Exception as error:
        raise RowError("dataset.format cannot read the row", shortened(f"{type(error).__name__}: {error}")) from error
    if not isinstance(found, Mapping):
        raise RowError("dataset.format must return a mapping of columns", f"it returned {type(found).__name__}")
    return found


def check_format(name: str | RowReader, columns: Mapping[str, str]) -> None:
    """Raise UserError for an unknown format, a mapped field that the named format (or, with `auto`, every format)
    lacks, or a column name that is not text.
    """
    if callable(name):
        if columns:
            raise UserError("columns have no effect with your own format, which sees whole rows; leave them out")
        return
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
    """Name of the first format whose columns the row has, null values allowed if none fits otherwise; raises RowError
    if none fits."""
    for may_be_null in (False, True):
        for name, format in FORMATS.items():
            if not set(columns) <= {*format.required, *format.optional}:
                continue
            wanted = [columns.get(key, key) for key in format.required]
            there = all(column in row and (may_be_null or row[column] is not None) for column in wanted)
            if there and format.fits(Fields(row, columns)):
                return name
    names = shortened(", ".join(map(str, row))) or "none"
    detail = f"columns: {names}; set dataset.columns to map them"
    raise RowError("the columns fit no known format", detail)


def read_row(row: Any, format: Format, columns: Mapping[str, str]) -> Content:
    """Turns and reference answer of one row; raises RowError for anything whose meaning is not certain."""
    fields = Fields(row, columns)
    content = format.read(fields)
    messages = agent_messages(
        content.messages, fields.tools() if "tools" in (*format.required, *format.optional) else None
    )
    check_order(messages)
    return Content(messages, content.answer)
