"""Standard JSON: no NaN, no infinities, no duplicate keys."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from cot_components.data.bad_rows import RowError


def decode_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `start`, blanks before it skipped, and where it ends. For a value that JSON does not allow, or
    with a duplicate key, the RowError that says so is returned in its place, along with its end.

    Raises:
        ValueError: not JSON (`json.JSONDecodeError`), or an integer of thousands of digits.
        RecursionError: lists nested thousands deep.
    """
    while text[start : start + 1] in (" ", "\t", "\r", "\n"):
        start += 1
    faults: list[RowError] = []

    def refuse(name: str) -> None:
        faults.append(RowError(f"{name} is not JSON"))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            faults.append(RowError("an object has a key twice", repr(twice[:80])))
        return found

    value, end = json.JSONDecoder(parse_constant=refuse, object_pairs_hook=unique).raw_decode(text, start)
    return (faults[0] if faults else value), end


def decode_text(text: str) -> Any:
    """The JSON value of the whole text, or the RowError in its place; raises as `decode_value` does."""
    value, end = decode_value(text)
    if text[end:].strip(" \t\r\n"):
        raise json.JSONDecodeError("Extra data", text, end)
    return value
