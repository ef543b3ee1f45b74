"""Check that the first rows of a run begin with the ids that inference would produce for the same messages."""

from __future__ import annotations

from collections.abc import Iterable

from cot_components.data.bad_rows import DropReport
from cot_components.data.read.traces import Trace
from cot_components.data.rows.prepare import conversations
from cot_components.data.rows.store import Rows
from cot_components.data.text.chat import ChatFormat
from cot_components.errors import UserError

NUM_ROWS = 16
SHOWN = 24
"""Tokens of each side shown in the message."""


def check_first_rows(traces: Iterable[Trace], rows: Rows, chat: ChatFormat, *, turns: str = "last") -> int:
    """Compare the prompts of the first `NUM_ROWS` rows with the template rendered in one go and encoded in one go.

    traces: the traces of the rows, from the first on; no more are read than needed
    turns:  as in `RowSettings`

    Returns the number of rows compared: a conversation whose text spells a control token is left out, because inference
    would read it as one. Raises UserError, showing the first difference, if a row begins differently.
    """
    waiting = {int(row_id): place for place, row_id in enumerate(rows.ids[:NUM_ROWS])}
    compared = 0
    for trace in traces:
        for row_id, where, messages in conversations(trace, turns, DropReport()):
            place = waiting.pop(row_id, None)
            if place is None:
                continue
            expected = chat.inference_ids(messages[:-1], thinking=chat.asks_to_think(messages[-1]))
            if expected is None:
                continue
            start = int(rows.row_start[place])
            found = rows.tokens[start : int(rows.row_start[place + 1])][: len(expected)].tolist()
            if found != expected:
                raise UserError(f"{where}: {_difference(found, expected, chat)}")
            compared += 1
        if not waiting:
            break
    return compared


def _difference(found: list[int], expected: list[int], chat: ChatFormat) -> str:
    pairs = zip(found, expected, strict=False)
    first = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(found), len(expected)))
    ours, theirs = (ids[first : first + SHOWN] for ids in (found, expected))
    decode = chat.tokenizer.decode
    return (
        f"the prompt's ids are not those of inference: from token {first} on {decode(ours)!r} {ours[:4]} is trained on "
        f"where template and tokenizer give {decode(theirs)!r} {theirs[:4]}"
    )
