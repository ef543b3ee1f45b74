"""The parts of every row format: a message, a row's content, and a row accessed by mapped column names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cot_components.data.bad_rows import RowError


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    role:    system, user, assistant or tool
    thought: a thought stored separately from the content; None if there is none, or if it is inside the content
    weight:  factor on the loss of the turn's tokens
    calls:   how tool calls are written in the content, see `call_segments`; "" if there are none to look for
    """

    role: str
    content: str
    thought: str | None = None
    weight: float = 1.0
    calls: str = ""


class Content(NamedTuple):
    """A row's turns, and its reference answer, if any."""

    messages: tuple[Message, ...]
    answer: str | None


def as_text(value: Any, name: str) -> str:
    """`value` if it is text that can be written as UTF-8. A missing value never becomes the word "None"."""
    if value is None:
        raise RowError(f"{name} is null")
    if not isinstance(value, str):
        raise RowError(f"{name} is not text", f"it is {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(f"{name} holds a lone surrogate", f"character {error.start}") from None
    return value


@dataclass(frozen=True)
class Fields:
    """A row accessed by field: `columns` maps a field of the format to the column that holds it."""

    row: Mapping[str, Any]
    columns: Mapping[str, str] = field(default_factory=dict)

    def name(self, key: str) -> str:
        return f"'{self.columns.get(key, key)}'"

    def get(self, key: str) -> Any:
        if key in self.columns and self.columns[key] not in self.row:
            raise RowError(f"{self.name(key)} is missing")
        return self.row.get(self.columns.get(key, key))

    def need(self, key: str) -> Any:
        if self.columns.get(key, key) not in self.row:
            raise RowError(f"{self.name(key)} is missing")
        return self.get(key)

    def text(self, key: str) -> str:
        return as_text(self.need(key), self.name(key))

    def optional_text(self, key: str) -> str | None:
        value = self.get(key)
        return None if value is None else as_text(value, self.name(key))

    def tools(self) -> Any:
        """The column `tools`, or `functions` if the row has no `tools`."""
        tools = self.get("tools")
        return self.row.get("functions") if tools is None and "tools" not in self.columns else tools

    def reference(self) -> str | None:
        """The column `answer`: text or a number. Anything else is a fault only if the user named the column."""
        value = self.get("answer")
        if isinstance(value, str):
            return as_text(value, self.name("answer")).strip() or None
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return str(value)
        if value is not None and "answer" in self.columns:
            raise RowError(f"{self.name('answer')} is neither text nor a number", f"it is {type(value).__name__}")
        return None
